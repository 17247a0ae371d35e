//! Long records, which lie in parts: none needs free pages side by side.
//!
//! LMDB puts what is longer than about half a page on pages of its own, and those must lie side by side. When events come and go, free
//! pages soon lie scattered, so that the file would grow for each long event although a good part of it is free. A long record is
//! therefore cut: a head stands in `events` with the others, the rest in `parts`, in pieces that have a page each. Such pages are free
//! again as soon as the event is gone, whatever becomes of its neighbours. The head takes what is left over; when that is too long
//! for it, the last part does.
//!
//! ```text
//! events   seq          0xC1 | number of parts u16 | the record's first bytes: none, or up to 2,022
//! parts    seq, 0 u16   the next 4,080 bytes
//! parts    seq, 1 u16   the next 4,080 bytes; behind an empty head the last has 2,023 at the least
//! ```
//!
//! No MessagePack begins with `0xC1`. Long records that a program of version 1 stored as a whole are read as they are.

use std::ops::Bound;

use heed::{PutFlags, RoTxn, RwTxn};

use super::StoreError;
use super::keys::{self, Seq};
use super::record::Record;
use super::schema::Tables;

/// What begins the head of a record in parts.
const MARK: u8 = 0xC1;

/// The mark and the number of parts.
const HEAD: usize = 3;

/// The longest record that stays whole, and what a head may have of another: on pages of 4,096 bytes, of which two entries fill one, an entry
/// has 2,038 for its own head of 8, its key and its value. Larger pages, as some hosts have them, hold more.
pub const WHOLE: usize = 2038 - 8 - 5;
const MOST_BEGIN: usize = WHOLE - HEAD;

/// Bytes of a part: a page without its head of 16.
pub const PART: usize = 4096 - 16;

fn key(seq: Seq, number: u16) -> [u8; 7] {
    let mut key = [0; 7];
    key[..5].copy_from_slice(&keys::seq_bytes(seq));
    key[5..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Puts the record of an event behind all others; whether it was cut.
pub fn write(tables: &Tables, txn: &mut RwTxn<'_>, seq: Seq, record: &[u8]) -> Result<bool, StoreError> {
    let at = keys::seq_bytes(seq);
    if record.len() <= WHOLE {
        tables.events.put_with_flags(txn, PutFlags::APPEND, &at, record)?;
        return Ok(false);
    }
    let too_long = || StoreError::Damaged(format!("event {seq} is longer than what can be stored"));
    let left_over = record.len() % PART;
    let (begin, rest) = record.split_at(if left_over <= MOST_BEGIN { left_over } else { 0 });
    let count = u16::try_from(rest.len().div_ceil(PART)).map_err(|_| too_long())?;
    let mut head = Vec::with_capacity(HEAD + begin.len());
    head.push(MARK);
    head.extend_from_slice(&count.to_be_bytes());
    head.extend_from_slice(begin);
    tables.events.put_with_flags(txn, PutFlags::APPEND, &at, &head)?;
    for (number, part) in (0..count).zip(rest.chunks(PART)) {
        tables.parts.put_with_flags(txn, PutFlags::APPEND, &key(seq, number), part)?;
    }
    Ok(true)
}

/// How many parts belong to what lies in `events`.
pub fn count(head: &[u8]) -> u64 {
    match *head {
        [MARK, high, low, ..] => u64::from(u16::from_be_bytes([high, low])),
        _ => 0,
    }
}

/// Puts a record together; `None` when this is no head, or when its parts are not all there.
pub fn read<'a>(tables: &Tables, txn: &RoTxn<'_>, seq: Seq, head: &[u8]) -> Result<Option<Record<'a>>, StoreError> {
    let (Some(begin), count @ 1..) = (head.get(HEAD..), count(head)) else { return Ok(None) };
    // What a damaged head says must not cost memory.
    let mut record = Vec::with_capacity(begin.len() + PART * count.min(64) as usize);
    record.extend_from_slice(begin);
    let mut expected = 0;
    let (first, last) = (key(seq, 0), key(seq, u16::MAX));
    for entry in tables.parts.range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))? {
        let (at, part) = entry?;
        let in_order = at.get(5..) == Some(&(expected as u16).to_be_bytes()[..]);
        expected += 1;
        let least = if begin.is_empty() && expected == count { MOST_BEGIN + 1 } else { PART };
        if !in_order || expected > count || !(least..=PART).contains(&part.len()) {
            return Ok(None);
        }
        record.extend_from_slice(part);
    }
    Ok(if expected == count { Record::of_parts(record.into()) } else { None })
}

/// Removes all parts of an event, whatever its head says.
pub fn remove(tables: &Tables, txn: &mut RwTxn<'_>, seq: Seq) -> Result<(), StoreError> {
    let (first, last) = (key(seq, 0), key(seq, u16::MAX));
    tables.parts.delete_range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use proptest::prelude::*;

    use super::*;
    use crate::nostr::{Event, EventId, Filter, Kind, PublicKey, Signature, Tags};
    use crate::store::copy::Copy;
    use crate::store::{Budget, META, Meta, Order, Progress, Renewal, Scan, Store, read_meta, write_meta};

    const MAP: u64 = 1 << 30;

    /// An event whose record is so long, with the id that belongs to it.
    fn event(number: u64, kind: u16, length: usize) -> Event {
        let mut tags = Tags::new();
        tags.push(["d", "x"]);
        let mut event = Event {
            id: EventId([0; 32]),
            pubkey: PublicKey([7; 32]),
            created_at: 1_000 + number,
            kind: Kind(kind),
            tags,
            content: "".into(),
            sig: Signature([9; 64]),
        };
        let mut fixed = Vec::new();
        // What a text costs beside its letters depends on how many there are.
        for letters in (0..=length.saturating_sub(150)).rev() {
            event.content = (0..letters).map(|at| char::from(b'a' + ((at as u64 + number) % 26) as u8)).collect();
            event.id = event.compute_id();
            fixed.clear();
            crate::store::encode(&event, &mut fixed);
            if fixed.len() <= length {
                break;
            }
        }
        event
    }

    fn open(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path(), MAP).unwrap()
    }

    fn put(store: &Store, events: &[Event]) {
        let mut batch = store.batch(0).unwrap();
        events.iter().for_each(|event| assert!(batch.apply(&store.prepare(event)).is_ok()));
        batch.commit().unwrap();
    }

    /// All that is stored, by every way of reading: the log, a scan along the records and one by ids.
    fn stored(store: &Store) -> Vec<Event> {
        let mut of_log = Vec::new();
        let (_, ended) = store
            .log(0, &mut |_, record| {
                of_log.push(record.to_event().unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(ended);
        let scanned = |filter: Filter| {
            let (mut events, mut scan) = (Vec::new(), Scan::new(vec![filter], Order::OldestFirst));
            while scan
                .run(store, 0, Budget::COMMAND, &mut |record| {
                    let mut json = Vec::new();
                    assert!(record.write_json(&mut json));
                    events.push(Event::parse(&json).unwrap());
                    ControlFlow::Continue(())
                })
                .unwrap()
                == Progress::More
            {}
            events
        };
        let mut ids = of_log.iter().map(|event| event.id).collect::<Vec<_>>();
        // As a filter has them.
        ids.sort_unstable();
        let mut by_age = of_log.clone();
        by_age.sort_by_key(|event| (event.created_at, std::cmp::Reverse(event.id)));
        assert_same(&scanned(Filter::default()), &by_age);
        if !ids.is_empty() {
            assert_same(&scanned(Filter { ids: Some(ids), ..Filter::default() }), &by_age);
        }
        of_log
    }

    /// Of long events only what is needed to tell them apart is printed.
    #[track_caller]
    fn assert_same(found: &[Event], expected: &[Event]) {
        let brief = |events: &[Event]| -> Vec<_> {
            events.iter().map(|event| (event.created_at, event.kind, event.content.len(), event.id)).collect()
        };
        assert_eq!(brief(found), brief(expected));
        assert!(found == expected);
    }

    /// Pages of their own that values of the log have, and parts. None of them has more than one.
    fn overflow_and_parts(store: &Store) -> (usize, usize) {
        let txn = store.read().unwrap();
        let (events, parts) = (store.tables().events.stat(&txn).unwrap(), store.tables().parts.stat(&txn).unwrap());
        assert!(parts.overflow_pages <= parts.entries);
        (events.overflow_pages, parts.entries)
    }

    #[track_caller]
    fn assert_sound(store: &Store) {
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
    }

    #[test]
    fn no_event_however_long_needs_pages_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let lengths = [300, WHOLE - 1, WHOLE, WHOLE + 1, PART * 2, 100_000, 1 << 20];
        let events: Vec<Event> = (0..).zip(lengths).map(|(number, length)| event(number, 1, length)).collect();
        put(&store, &events);
        assert_same(&stored(&store), &events);
        assert_eq!(overflow_and_parts(&store), (0, 1 + 2 + 25 + 257));
        assert_sound(&store);
        let mut batch = store.batch(0).unwrap();
        (0..7).for_each(|seq| assert!(batch.remove(seq).unwrap()));
        batch.commit().unwrap();
        assert_eq!(overflow_and_parts(&store), (0, 0));
        assert_sound(&store);
    }

    /// Stores events as a program of version 1 did.
    fn put_as_before(store: &Store, events: &[Event]) {
        put(store, events);
        let mut txn = store.write_txn().unwrap();
        let tables = store.tables();
        for event in events {
            let (seq, record) = crate::store::find_id(store, &txn, &event.id).unwrap().unwrap();
            let record = record.as_bytes().to_vec();
            tables.events.put(&mut txn, &keys::seq_bytes(seq), &record).unwrap();
            remove(tables, &mut txn, seq).unwrap();
        }
        let meta = read_meta::<Meta>(tables, &txn, META).unwrap().unwrap();
        write_meta(tables, &mut txn, META, &Meta { schema: 1, ..meta }).unwrap();
        txn.commit().unwrap();
        assert_eq!(overflow_and_parts(store).1, 0);
    }

    #[test]
    fn a_database_of_the_first_version_is_used_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let mut events: Vec<Event> =
            (0..6).map(|number| event(number, [1, 30_023][number as usize % 2], 1_000 << number)).collect();
        // The articles have one address each.
        for (number, event) in events.iter_mut().enumerate() {
            event.tags = [["d", &number.to_string()]].iter().copied().collect();
            event.id = event.compute_id();
        }
        put_as_before(&store, &events);
        let version = |store: &Store| store.info().unwrap().schema_version;
        drop(store);
        let store = Store::open_existing(folder.path(), MAP).unwrap();
        assert_same(&stored(&store), &events);
        assert_eq!(version(&store), 1);
        assert!(overflow_and_parts(&store).0 > 0);
        assert_sound(&store);
        // A short event changes nothing of that, a long one does.
        let mut short = event(10, 1, 500);
        put(&store, std::slice::from_ref(&short));
        assert_eq!(version(&store), 1);
        let mut newer = Event { created_at: 5_000, ..events[5].clone() };
        newer.id = newer.compute_id();
        put(&store, std::slice::from_ref(&newer));
        assert_eq!(version(&store), 2);
        events[5] = short.clone();
        events.push(newer.clone());
        assert_same(&stored(&store), &events);
        assert_sound(&store);
        assert!(store.statistics().unwrap().complete);

        // Copies, and what is carried over to one that is to take the place.
        let copy = Copy::begin(&folder.path().join("copy")).unwrap();
        store.copy_into(&copy).unwrap();
        let renewal = Renewal::begin(copy, MAP).unwrap();
        let mut batch = store.batch(0).unwrap();
        assert!(batch.remove_id(&events[4].id).unwrap() && batch.remove_id(&newer.id).unwrap());
        short.content = "y".repeat(9_000).into();
        short.id = short.compute_id();
        batch.apply(&store.prepare(&short)).unwrap();
        batch.commit().unwrap();
        let mut fresh = None;
        assert!(renewal.take_over(&store, |adopted| fresh = Some(adopted)).is_ok());
        let fresh = fresh.unwrap();
        let rest = [&events[..4], &[events[5].clone(), short]].concat();
        let by_age = |mut events: Vec<Event>| {
            events.sort_by_key(|event| event.id);
            events
        };
        let mut found = Vec::new();
        fresh
            .log(0, &mut |_, record| {
                found.push(record.to_event().unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_same(&by_age(found), &by_age(rest));
        assert_sound(&fresh);
    }

    #[test]
    fn a_version_from_the_future_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let mut txn = store.write_txn().unwrap();
        let meta = read_meta::<Meta>(store.tables(), &txn, META).unwrap().unwrap();
        write_meta(store.tables(), &mut txn, META, &Meta { schema: 3, ..meta }).unwrap();
        txn.commit().unwrap();
        drop(store);
        let error = Store::open(folder.path(), MAP).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("schema version 3"), "{error}");
    }

    #[test]
    fn parts_that_are_missing_or_too_many_or_too_short_are_told_and_cost_one_event() {
        let events: Vec<Event> = (0..3).map(|number| event(number, 1, 9_000)).collect();
        type Damage<'d> = &'d dyn Fn(&Store, &mut RwTxn<'_>);
        let damages: [Damage<'_>; 7] = [
            &|store, txn| assert!(store.tables().parts.delete(txn, &key(1, 0)).unwrap()),
            &|store, txn| assert!(store.tables().parts.delete(txn, &key(1, 1)).unwrap()),
            &|store, txn| store.tables().parts.put(txn, &key(1, 2), &[0; PART]).unwrap(),
            &|store, txn| store.tables().parts.put(txn, &key(1, 1), &[0; PART - 1]).unwrap(),
            &|store, txn| store.tables().events.put(txn, &keys::seq_bytes(1), &[MARK, 0xFF, 0xFF, 0x97]).unwrap(),
            &|store, txn| store.tables().events.put(txn, &keys::seq_bytes(1), &[MARK, 0]).unwrap(),
            &|store, txn| store.tables().events.put(txn, &keys::seq_bytes(1), &[0x97; 600]).unwrap(),
        ];
        for damage in damages {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder);
            put(&store, &events);
            let mut txn = store.write_txn().unwrap();
            damage(&store, &mut txn);
            txn.commit().unwrap();
            assert_same(&stored(&store), &[events[0].clone(), events[2].clone()]);
            assert_eq!(store.damaged(), [1]);
            let faults = store.verify().unwrap().faults;
            assert!(faults.contains(&"event 1 is not a record".to_owned()), "{faults:?}");
            // It can be stored anew, and what is left of it removed.
            put(&store, &events[1..2]);
            let mut batch = store.batch(0).unwrap();
            assert!(batch.remove(1).unwrap());
            batch.commit().unwrap();
            assert_eq!(stored(&store).len(), 3);
            let faults = store.verify().unwrap().faults;
            assert!(!faults.iter().any(|fault| fault.contains("parts")), "{faults:?}");
        }
        // Parts of nobody.
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        put(&store, &events);
        let mut txn = store.write_txn().unwrap();
        store.tables().parts.put(&mut txn, &key(77, 0), &[0; PART]).unwrap();
        txn.commit().unwrap();
        assert_eq!(store.verify().unwrap().faults, ["parts has 7 entries, the events call for 6"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn events_of_every_length_come_and_go(
            lengths in proptest::collection::vec(
                prop_oneof![2_000..2_100usize, 4_000..4_200usize, 6_000..6_200usize, 150..400usize, 60_000..70_000usize], 1..25),
            removed in any::<u32>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder);
            let events: Vec<Event> =
                (0..).zip(&lengths).map(|(number, &length)| event(number, 1, length)).collect();
            events.chunks(5).for_each(|events| put(&store, events));
            assert_same(&stored(&store), &events);
            let mut batch = store.batch(0).unwrap();
            let goes = |place: usize| removed >> place & 1 == 1;
            for (place, event) in events.iter().enumerate() {
                prop_assert!(batch.remove_id(&event.id).unwrap());
                if !goes(place) {
                    batch.apply(&store.prepare(event)).unwrap();
                }
            }
            batch.commit().unwrap();
            let rest: Vec<Event> =
                events.iter().enumerate().filter(|(place, _)| !goes(*place)).map(|(_, event)| event.clone()).collect();
            assert_same(&stored(&store), &rest);
            prop_assert_eq!(overflow_and_parts(&store).0, 0);
            prop_assert_eq!(store.verify().unwrap().faults, [""; 0]);
        }
    }
}
