//! Counters that are kept in the transaction that changes what they count: the events of each kind, and the bytes of their records.
//!
//! They lie in `meta`: a head, and for each kind an entry of its own, so that a transaction writes those of the kinds it touched. Whoever
//! changes events without keeping them, as an older program does, leaves a head behind that does not fit any more; then they are
//! counted anew, in small steps, while everything else goes on. Events below [`Head::counted`] are in the counters, the others are not yet.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use heed::{RoTxn, RwTxn};

use super::keys::{self, Seq};
use super::record::Record;
use super::{Store, StoreError, damaged_key, next_seq, read_meta, write_meta};
use crate::nostr::{EventFields, Kind};

const HEAD: &str = "statistics";

/// What the names of the entries of kinds begin with; two bytes follow.
const KIND: &[u8] = b"statistics of kind ";

/// All events are in the counters.
const ALL: Seq = Seq::MAX;

/// A step of counting ends after so many events, or after this time: the write lock is held that long.
const STEP: usize = 50_000;
const STEP_TIME: Duration = Duration::from_millis(5);

/// What is stored of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct KindInfo {
    /// The kind.
    pub kind: u16,
    /// Events of it.
    pub events: u64,
    /// Bytes of their records, without index entries.
    pub bytes: u64,
}

/// What the counters say.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Every kind that is stored, those with the most events first.
    pub kinds: Vec<KindInfo>,
    /// False while events are still being counted, in a database of an older program: so far `kinds` holds a part of them.
    pub complete: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Head {
    /// The next sequence number when this was written. Another one means that somebody stored events without counting.
    next_seq: Seq,
    /// Events in the counters.
    events: u64,
    /// Events below this number are in the counters; [`ALL`] when every event is.
    counted: Seq,
}

#[derive(Clone, Copy, Default)]
struct Change {
    events: i64,
    bytes: i64,
}

/// The counters of a transaction under way.
pub struct Tally {
    head: Head,
    changes: BTreeMap<u16, Change>,
    /// What stands in `meta` counts no more.
    anew: bool,
}

fn key(kind: u16) -> Vec<u8> {
    [KIND, &kind.to_be_bytes()].concat()
}

/// The head, unless somebody has changed events since without counting.
fn valid_head(store: &Store, txn: &RoTxn<'_>, next_seq: Seq) -> Result<Option<Head>, StoreError> {
    let Some(head) = read_meta::<Head>(store.tables(), txn, HEAD)? else { return Ok(None) };
    let fits = head.next_seq == next_seq && (head.counted != ALL || head.events == store.tables().events.len(txn)?);
    Ok(fits.then_some(head))
}

fn read_kind(bytes: &[u8]) -> Result<(u64, u64), StoreError> {
    rmp_serde::from_slice(bytes).map_err(|_| damaged_key("meta"))
}

/// The counters of all kinds.
fn kinds(store: &Store, txn: &RoTxn<'_>) -> Result<BTreeMap<u16, (u64, u64)>, StoreError> {
    let mut kinds = BTreeMap::new();
    for entry in store.tables().meta.prefix_iter(txn, KIND)? {
        let (key, value) = entry?;
        let kind = key[KIND.len()..].try_into().map(u16::from_be_bytes).map_err(|_| damaged_key("meta"))?;
        kinds.insert(kind, read_kind(value)?);
    }
    Ok(kinds)
}

impl Tally {
    pub fn begin(store: &Store, txn: &RoTxn<'_>, next_seq: Seq) -> Result<Tally, StoreError> {
        let (head, anew) = match valid_head(store, txn, next_seq)? {
            Some(head) => (head, false),
            None => {
                let counted = if store.tables().events.is_empty(txn)? { ALL } else { 0 };
                (Head { next_seq, events: 0, counted }, true)
            }
        };
        Ok(Tally { head, changes: BTreeMap::new(), anew })
    }

    /// An event was stored.
    pub fn stored(&mut self, record: &Record<'_>, seq: Seq) {
        if seq < self.head.counted {
            self.add(record);
        }
    }

    fn add(&mut self, record: &Record<'_>) {
        self.head.events += 1;
        let change = self.changes.entry(record.kind().0).or_default();
        change.events += 1;
        change.bytes += record.as_bytes().len() as i64;
    }

    /// An event was removed; of a damaged one nobody knows what it counted as.
    pub fn removed(&mut self, record: Option<&Record<'_>>, seq: Seq) {
        if seq >= self.head.counted {
            return;
        }
        let Some(record) = record else {
            self.head = Head { events: 0, counted: 0, ..self.head };
            self.changes.clear();
            self.anew = true;
            return;
        };
        self.head.events = self.head.events.saturating_sub(1);
        let change = self.changes.entry(record.kind().0).or_default();
        change.events -= 1;
        change.bytes -= record.as_bytes().len() as i64;
    }

    /// Writes what has changed.
    pub fn write(&mut self, store: &Store, txn: &mut RwTxn<'_>, next_seq: Seq) -> Result<(), StoreError> {
        let meta = store.tables().meta;
        if self.anew {
            let (first, last) = (key(0), key(u16::MAX));
            meta.delete_range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))?;
            self.anew = false;
        }
        for (kind, change) in std::mem::take(&mut self.changes) {
            let key = key(kind);
            let (events, bytes) = meta.get(txn, &key)?.map(read_kind).transpose()?.unwrap_or_default();
            let events = events.saturating_add_signed(change.events);
            if events == 0 {
                meta.delete(txn, &key)?;
                continue;
            }
            let value = rmp_serde::to_vec(&(events, bytes.saturating_add_signed(change.bytes)))
                .map_err(|error| StoreError::Damaged(format!("a counter: {error}")))?;
            meta.put(txn, &key, &value)?;
        }
        self.head.next_seq = next_seq;
        write_meta(store.tables(), txn, HEAD, &self.head)
    }
}

impl Store {
    /// Events and bytes by kind. Costs a look at each kind there is, and at no event.
    pub fn statistics(&self) -> Result<Statistics, StoreError> {
        let txn = self.read()?;
        let head = valid_head(self, &txn, next_seq(self.tables(), &txn)?)?;
        let complete = match head {
            Some(head) => head.counted == ALL,
            None => self.tables().events.is_empty(&txn)?,
        };
        if head.is_none() {
            return Ok(Statistics { kinds: Vec::new(), complete });
        }
        let mut kinds: Vec<KindInfo> =
            kinds(self, &txn)?.into_iter().map(|(kind, (events, bytes))| KindInfo { kind, events, bytes }).collect();
        kinds.sort_unstable_by_key(|info| (std::cmp::Reverse(info.events), info.kind));
        Ok(Statistics { kinds, complete })
    }

    /// Counts some more events, where the statistics are not complete; whether they are now. Holds the write lock for some milliseconds
    /// at most, and not at all when there is nothing to count.
    pub fn count_statistics(&self) -> Result<bool, StoreError> {
        let txn = self.read()?;
        let next = next_seq(self.tables(), &txn)?;
        let head = valid_head(self, &txn, next)?;
        if head.map_or(self.tables().events.is_empty(&txn)?, |head| head.counted == ALL) {
            return Ok(true);
        }
        drop(txn);
        let mut txn = self.write_txn()?;
        let next = next_seq(self.tables(), &txn)?;
        let mut tally = Tally::begin(self, &txn, next)?;
        let began = Instant::now();
        let start = keys::seq_bytes(tally.head.counted.min(next));
        let mut reached = ALL;
        let entries = self.tables().events.range(&txn, &(Bound::Included(&start[..]), Bound::Unbounded))?;
        for (place, entry) in entries.enumerate() {
            let (key, value) = entry?;
            let seq = keys::read_seq(key).ok_or_else(|| damaged_key("events"))?;
            if place == STEP || place % 256 == 255 && began.elapsed() >= STEP_TIME {
                reached = seq;
                break;
            }
            match super::read_record(self, &txn, seq, value)? {
                Some(record) => tally.add(&record),
                // It counts as an event, of no kind.
                None => tally.head.events += 1,
            }
        }
        tally.head.counted = reached;
        tally.write(self, &mut txn, next)?;
        self.commit(txn)?;
        Ok(reached == ALL)
    }

    /// Compares the counters with what was found; calls `fault` for what differs. Counters that are not complete, or left behind by an
    /// older program, say nothing that could be wrong.
    pub(super) fn verify_statistics(
        &self,
        txn: &RoTxn<'_>,
        found: &BTreeMap<Kind, (u64, u64)>,
        fault: &mut dyn FnMut(String),
    ) -> Result<(), StoreError> {
        let head = valid_head(self, txn, next_seq(self.tables(), txn)?)?;
        if head.is_none_or(|head| head.counted != ALL) {
            return Ok(());
        }
        let mut counted = kinds(self, txn)?;
        for (kind, found) in found {
            let counted = counted.remove(&kind.0).unwrap_or_default();
            if counted != *found {
                let ((events, bytes), (there, size)) = (counted, found);
                fault(format!(
                    "the statistics have {events} events of kind {kind} with {bytes} bytes, there are {there} with {size}"
                ));
            }
        }
        for kind in counted.keys() {
            fault(format!("the statistics have events of kind {kind}, there are none"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{Event, EventId, PublicKey, Signature, Tags};

    /// Not signed: the store does not ask.
    fn event(number: u32) -> Event {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.wrapping_mul(0x9E37_79B1).to_be_bytes());
        Event {
            id: EventId(id),
            pubkey: PublicKey([number as u8 % 7; 32]),
            created_at: 1_700_000_000 + u64::from(number),
            kind: Kind(1 + number as u16 % 5 * 3),
            tags: Tags::new(),
            content: "x".repeat(number as usize % 50).into(),
            sig: Signature([0; 64]),
        }
    }

    fn put(store: &Store, numbers: std::ops::Range<u32>) {
        let mut batch = store.batch(1_700_000_000).unwrap();
        for number in numbers {
            batch.apply(&store.prepare(&event(number))).unwrap();
        }
        batch.commit().unwrap();
    }

    fn remove(store: &Store, seqs: impl Iterator<Item = Seq>) {
        let mut batch = store.batch(0).unwrap();
        seqs.for_each(|seq| {
            batch.remove(seq).unwrap();
        });
        batch.commit().unwrap();
    }

    /// Counted by walking all events.
    fn walked(store: &Store) -> Vec<KindInfo> {
        let mut kinds: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        store
            .log(0, &mut |_, record| {
                let kind = kinds.entry(record.kind().0).or_default();
                *kind = (kind.0 + 1, kind.1 + record.as_bytes().len() as u64);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        let mut kinds: Vec<KindInfo> =
            kinds.into_iter().map(|(kind, (events, bytes))| KindInfo { kind, events, bytes }).collect();
        kinds.sort_unstable_by_key(|info| (std::cmp::Reverse(info.events), info.kind));
        kinds
    }

    /// What a check of the database says of the counters.
    fn faults(store: &Store) -> Vec<String> {
        let found = walked(store).into_iter().map(|info| (Kind(info.kind), (info.events, info.bytes))).collect();
        let mut faults = Vec::new();
        store.verify_statistics(&store.read().unwrap(), &found, &mut |fault| faults.push(fault)).unwrap();
        faults
    }

    #[track_caller]
    fn assert_complete(store: &Store) {
        assert_eq!(store.statistics().unwrap(), Statistics { kinds: walked(store), complete: true });
        assert_eq!(faults(store), [""; 0]);
    }

    #[test]
    fn counters_follow_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        assert_complete(&store);
        put(&store, 0..1000);
        assert_complete(&store);
        remove(&store, (0..1000).step_by(3));
        assert_complete(&store);
        drop(store.batch(0).map(|mut batch| batch.remove(1)));
        assert_complete(&store);
        // All of one kind: it is not there any more.
        remove(&store, (0..1000).filter(|n| n % 5 == 2));
        assert_complete(&store);
        assert!(store.statistics().unwrap().kinds.iter().all(|info| info.kind != 7));
        remove(&store, 0..1000);
        assert_eq!(store.statistics().unwrap(), Statistics { kinds: Vec::new(), complete: true });
    }

    #[test]
    fn a_database_without_counters_is_counted_in_steps_while_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        put(&store, 0..120_000);
        // As an older program left it.
        let mut txn = store.env().write_txn().unwrap();
        store.tables().meta.delete(&mut txn, HEAD.as_bytes()).unwrap();
        txn.commit().unwrap();
        assert!(!store.statistics().unwrap().complete);
        let (mut steps, mut number) = (0u64, 120_000);
        while !store.count_statistics().unwrap() {
            steps += 1;
            put(&store, number..number + 10);
            let middle = Seq::from(number) / 2;
            remove(&store, [steps, middle, Seq::from(number)].into_iter());
            number += 10;
        }
        assert!(steps >= 2, "{steps} steps");
        assert_complete(&store);
        put(&store, number..number + 10);
        assert_complete(&store);
    }

    #[test]
    fn what_somebody_else_stored_or_removed_without_counting_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let old = |txn: &RwTxn<'_>| store.tables().meta.get(txn, HEAD.as_bytes()).unwrap().unwrap().to_vec();
        for change in [
            |store: &Store| put(store, 100..200),
            |store: &Store| remove(store, store.next_seq().unwrap() - 50..store.next_seq().unwrap()),
        ] {
            put(&store, 0..100);
            let head = old(&store.env().write_txn().unwrap());
            change(&store);
            let mut txn = store.env().write_txn().unwrap();
            store.tables().meta.put(&mut txn, HEAD.as_bytes(), &head).unwrap();
            txn.commit().unwrap();
            assert!(!store.statistics().unwrap().complete);
            assert_eq!(faults(&store), [""; 0], "that is no fault");
            put(&store, 1000..1001);
            while !store.count_statistics().unwrap() {}
            assert_complete(&store);
            remove(&store, 0..2000);
        }
    }

    #[test]
    fn wrong_counters_are_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        put(&store, 0..100);
        let mut txn = store.env().write_txn().unwrap();
        store.tables().meta.put(&mut txn, &key(7), &rmp_serde::to_vec(&(19u64, 5u64)).unwrap()).unwrap();
        store.tables().meta.put(&mut txn, &key(9), &rmp_serde::to_vec(&(1u64, 5u64)).unwrap()).unwrap();
        txn.commit().unwrap();
        let faults = faults(&store);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("the statistics have 19 events of kind 7 with 5 bytes, there are 20 with "));
        assert_eq!(faults[1], "the statistics have events of kind 9, there are none");
    }
}
