//! The texts of events that go out again and again: the newest notes, which everybody asks for first, and the popular ones.
//!
//! Turning a record into text is a third of what a long answer costs. Each thread that answers keeps its own texts, so that none waits for
//! another. A text is found by way of the event's record, whose id and signature never change: so nobody has to tell of an event that went,
//! its text is not asked for any more and gives way to another.

use std::cell::RefCell;

use crate::nostr::EventFields;
use crate::store::Record;

/// Places for texts. One lies where its event's id says, so that two events may want the same place.
const PLACES: usize = 4096;

/// Longer texts are not kept: a thread's texts take 8 MiB at most, and 3 MiB as events usually are.
const MOST: usize = 2048;

/// A text that is made so often in a row is kept.
const OFTEN: u16 = 3;

/// The id and the signature that stand before a kept text.
const HEAD: usize = 32 + 64;

thread_local! {
    static TEXTS: RefCell<Texts> = const { RefCell::new(Texts::new()) };
}

/// Two tables beside each other, empty until the thread answers for the first time. Most questions look at the first alone, which is small
/// enough to stay near the core.
struct Texts {
    marks: Vec<Mark>,
    /// Id, signature and text.
    kept: Vec<Option<Box<[u8]>>>,
}

/// Parts of the ids of two events that want one place.
#[derive(Clone, Copy, Default)]
struct Mark {
    /// The one that came by last, and how often, with no other between. To keep a text costs as much as to make one, so it has to be
    /// asked for again and again.
    came_by: u16,
    times: u16,
    /// The one that is kept, if one is.
    keeps: u16,
}

/// Appends the event's JSON, as [`Record::write_json`] does.
#[must_use]
pub(super) fn write_json(record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    TEXTS.with_borrow_mut(|texts| texts.write_json(record, out))
}

impl Texts {
    const fn new() -> Texts {
        Texts { marks: Vec::new(), kept: Vec::new() }
    }

    fn write_json(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        if self.marks.is_empty() {
            self.marks.resize(PLACES, Mark::default());
            self.kept.resize(PLACES, None);
        }
        let id = record.id().0;
        let [a, b, c, d, ..] = id;
        let (place, part) = (usize::from(u16::from_be_bytes([a, b])) % PLACES, u16::from_be_bytes([c, d]));
        let mark = &mut self.marks[place];
        if mark.keeps == part
            && let Some(kept) = &self.kept[place]
            && kept[..32] == id
            && kept[32..HEAD] == record.sig().0
        {
            out.extend_from_slice(&kept[HEAD..]);
            return true;
        }
        let start = out.len();
        if !record.write_json(out) {
            return false;
        }
        if mark.came_by != part {
            (mark.came_by, mark.times) = (part, 0);
        }
        mark.times = mark.times.saturating_add(1);
        let text = &out[start..];
        if mark.times >= OFTEN && text.len() <= MOST {
            mark.keeps = part;
            self.kept[place] = Some([&id[..], &record.sig().0, text].concat().into());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{Event, EventId, Kind, PublicKey, Signature, Tags};
    use crate::store::encode;

    fn record(id: [u8; 32], sig: u8, content: &str) -> Vec<u8> {
        let event = Event {
            id: EventId(id),
            pubkey: PublicKey([2; 32]),
            created_at: 1_700_000_000,
            kind: Kind(1),
            tags: Tags::default(),
            content: content.into(),
            sig: Signature([sig; 64]),
        };
        let mut out = Vec::new();
        encode(&event, &mut out);
        out
    }

    fn kept(texts: &Texts) -> usize {
        texts.kept.iter().flatten().count()
    }

    #[test]
    fn what_goes_out_is_the_records_own_text_however_often_and_whatever_shares_its_place() {
        let mut texts = Texts::new();
        let mut other = [1; 32];
        other[31] = 7;
        let long = "x".repeat(MOST);
        // The first three share a place; the second has the id of the first, and another signature.
        let records = [
            record([1; 32], 3, "one"),
            record([1; 32], 4, "one"),
            record(other, 3, "two"),
            record([9; 32], 3, "three"),
            record([8; 32], 3, &long),
        ];
        for turn in [0, 0, 0, 1, 1, 2, 0, 2, 2, 1, 0, 0, 3, 4, 3, 4, 4, 3, 2, 1, 0] {
            let record = Record::new(&records[turn]).unwrap();
            let (mut expected, mut out) = (Vec::new(), b"before".to_vec());
            assert!(record.write_json(&mut expected));
            assert!(texts.write_json(&record, &mut out));
            assert_eq!(out, [b"before", &expected[..]].concat(), "{turn}");
        }
        assert_eq!(kept(&texts), 2);
    }

    #[test]
    fn what_comes_by_once_is_not_kept_and_what_is_damaged_is_not_either() {
        let mut texts = Texts::new();
        for i in 1..=255 {
            let bytes = record([i; 32], 3, "once");
            assert!(texts.write_json(&Record::new(&bytes).unwrap(), &mut Vec::new()));
        }
        assert_eq!(kept(&texts), 0);
        let mut damaged = record([5; 32], 3, "damaged");
        let at = damaged.iter().position(|&byte| byte == b'd').unwrap();
        damaged[at] = 0xFF;
        for _ in 0..=OFTEN {
            assert!(!texts.write_json(&Record::new(&damaged).unwrap(), &mut Vec::new()));
        }
        assert_eq!(kept(&texts), 0);
    }
}
