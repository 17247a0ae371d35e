//! The texts of events that go out again and again: the newest notes, which everybody asks for first, and the popular ones.
//!
//! Turning a record into text is a third of what a long answer costs. Each thread that answers has texts of its own, so that none waits for
//! another; together they take what the configuration allows. A text is found by way of the event's record, whose id and signature never
//! change: so nobody has to tell of an event that went, its text is not asked for any more and gives way to another.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use crate::nostr::EventFields;
use crate::store::Record;

/// Places for texts that a thread has at most. A text lies where its event's id says, so that two events may want the same place.
const PLACES: usize = 4096;

/// What a text takes on average, with what is kept beside it: so many places there are for a thread's share.
const USUAL: usize = 1024;

/// Longer texts are not kept.
const MOST: usize = 2048;

/// A text that is made so often in a row is kept.
const OFTEN: u16 = 3;

/// The id and the signature that stand before a kept text.
const HEAD: usize = 32 + 64;

/// Numbers the threads that answer.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Relaxed);
}

/// All texts that a relay keeps.
pub(super) struct Texts {
    /// One for each thread that answers; should there be more threads, some have the same.
    shelves: Box<[Mutex<Shelf>]>,
    /// Bytes that one of them may take.
    share: usize,
    /// Bytes that all of them take.
    bytes: AtomicUsize,
}

impl Texts {
    /// Keeps texts of so many bytes at most, for so many threads.
    pub fn new(bytes: usize, threads: usize) -> Texts {
        let shelves: Box<[_]> = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Texts { share: bytes / shelves.len(), shelves, bytes: AtomicUsize::new(0) }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The thread's own texts, for a slice of an answer. Waits for nobody: a thread whose shelf is in use does without.
    pub fn at_hand(&self) -> AtHand<'_> {
        let thread = THREAD.with(|thread| *thread);
        AtHand { texts: self, shelf: self.shelves[thread % self.shelves.len()].try_lock().ok() }
    }
}

/// What a thread has of the texts while it answers.
pub(super) struct AtHand<'a> {
    texts: &'a Texts,
    shelf: Option<MutexGuard<'a, Shelf>>,
}

impl AtHand<'_> {
    /// Appends the event's JSON, as [`Record::write_json`] does.
    #[must_use]
    pub fn write_json(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        let Some(shelf) = &mut self.shelf else { return record.write_json(out) };
        let before = shelf.bytes;
        let whole = shelf.write_json(record, out, self.texts.share);
        if shelf.bytes != before {
            self.texts.bytes.fetch_add(shelf.bytes.wrapping_sub(before), Relaxed);
        }
        whole
    }
}

/// Two tables beside each other, empty until the thread answers for the first time. Most questions look at the first alone, which is small
/// enough to stay near the core. Aligned, because threads that write to one line of memory wait for each other.
#[derive(Default)]
#[repr(align(128))]
struct Shelf {
    marks: Vec<Mark>,
    /// Id, signature and text.
    kept: Vec<Option<Box<[u8]>>>,
    /// What the kept ones take.
    bytes: usize,
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

impl Shelf {
    /// Appends the event's JSON; the texts kept here may take `share` bytes.
    fn write_json(&mut self, record: &Record<'_>, out: &mut Vec<u8>, share: usize) -> bool {
        if self.marks.is_empty() {
            let places = (share / USUAL).clamp(1, PLACES);
            self.marks.resize(places, Mark::default());
            self.kept.resize(places, None);
        }
        let id = record.id().0;
        let [a, b, c, d, ..] = id;
        let place = usize::from(u16::from_be_bytes([a, b])) % self.marks.len();
        let part = u16::from_be_bytes([c, d]);
        let (mark, kept) = (&mut self.marks[place], &mut self.kept[place]);
        if mark.keeps == part
            && let Some(kept) = kept
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
        let bytes = self.bytes - kept.as_ref().map_or(0, |kept| kept.len()) + HEAD + text.len();
        if mark.times >= OFTEN && text.len() <= MOST && bytes <= share {
            mark.keeps = part;
            *kept = Some([&id[..], &record.sig().0, text].concat().into());
            self.bytes = bytes;
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

    const SHARE: usize = PLACES * USUAL;

    fn kept(shelf: &Shelf) -> usize {
        shelf.kept.iter().flatten().count()
    }

    #[test]
    fn what_goes_out_is_the_records_own_text_however_often_and_whatever_shares_its_place() {
        let mut shelf = Shelf::default();
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
            assert!(shelf.write_json(&record, &mut out, SHARE));
            assert_eq!(out, [b"before", &expected[..]].concat(), "{turn}");
        }
        assert_eq!(kept(&shelf), 2);
    }

    #[test]
    fn what_comes_by_once_is_not_kept_and_what_is_damaged_is_not_either() {
        let mut shelf = Shelf::default();
        for i in 1..=255 {
            let bytes = record([i; 32], 3, "once");
            assert!(shelf.write_json(&Record::new(&bytes).unwrap(), &mut Vec::new(), SHARE));
        }
        assert_eq!(kept(&shelf), 0);
        let mut damaged = record([5; 32], 3, "damaged");
        let at = damaged.iter().position(|&byte| byte == b'd').unwrap();
        damaged[at] = 0xFF;
        for _ in 0..=OFTEN {
            assert!(!shelf.write_json(&Record::new(&damaged).unwrap(), &mut Vec::new(), SHARE));
        }
        assert_eq!(kept(&shelf), 0);
    }

    #[test]
    fn all_texts_together_take_what_they_may_and_no_more() {
        let bound = 40 * USUAL;
        let texts = Texts::new(bound, 2);
        let content = "x".repeat(MOST - 400);
        let mut largest = 0;
        for i in 0..=255 {
            let bytes = record([i; 32], 3, &content);
            let record = Record::new(&bytes).unwrap();
            for _ in 0..=OFTEN {
                let (mut expected, mut out) = (Vec::new(), Vec::new());
                assert!(record.write_json(&mut expected) && texts.at_hand().write_json(&record, &mut out));
                assert_eq!(out, expected);
            }
            largest = largest.max(texts.bytes());
            let kept = texts.shelves.iter().map(|shelf| {
                let shelf = shelf.lock().unwrap();
                shelf.kept.iter().flatten().map(|kept| kept.len()).sum::<usize>()
            });
            assert_eq!(texts.bytes(), kept.sum::<usize>());
        }
        // Whose shelf is in use does without, and the answer is the same.
        let busy: Vec<_> = texts.shelves.iter().map(|shelf| shelf.lock().unwrap()).collect();
        let (bytes, mut out) = (record([7; 32], 3, &content), Vec::new());
        assert!(texts.at_hand().write_json(&Record::new(&bytes).unwrap(), &mut out) && !out.is_empty());
        drop(busy);
        // One thread asked, and has half of it.
        assert!(largest > bound / 2 - MOST && largest <= bound / 2, "{largest}");
    }
}
