//! Holes in the log: where events are gone from pages that others still need, those are put together again.
//!
//! LMDB joins two pages when one of them is less than a quarter full, no others. Where notes go here and there, the log would be
//! twice as long as what is in it. It is therefore seen in blocks, by the numbers of the events: for each block from which something was
//! removed, the table `holes` says how many bytes that was since the block was written last, and how many it had then. When an eighth
//! is gone, the transaction that removed the last of it writes the block anew, on full pages.
//!
//! Nothing but the place of records in the file changes, within the transaction that has the write lock anyway.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;

use heed::types::Bytes;
use heed::{RoRange, RoTxn, RwTxn};

use super::keys::{self, Seq};
use super::schema::Tables;
use super::{StoreError, damaged_key, parts};

/// Numbers of a block: some seventy pages of notes.
const BLOCK: Seq = 512;

/// A block is written anew when one byte in so many is gone.
const SPARSE: u32 = 8;

/// Blocks that one transaction writes: some milliseconds.
const MOST: usize = 2;

/// What LMDB has on a page for each record beside it: its place, its head and its key.
const NODE: usize = 2 + 8 + 5;

/// A quarter of a page, and a little more.
const QUARTER: usize = 1100;

/// Records behind a block that are looked at for the end of its last page.
const MOST_BEHIND: usize = 64;

/// What a transaction has removed from the log.
#[derive(Default)]
pub struct Holes {
    /// Bytes by block.
    removed: HashMap<u32, u32>,
}

/// What is known of a block.
#[derive(Clone, Copy)]
struct Block {
    /// Bytes that it had when it was written.
    size: u32,
    /// Bytes that are gone since.
    gone: u32,
}

impl Block {
    fn read(bytes: &[u8]) -> Option<Block> {
        let (size, gone) = bytes.split_at_checked(4)?;
        Some(Block { size: u32::from_be_bytes(size.try_into().ok()?), gone: u32::from_be_bytes(gone.try_into().ok()?) })
    }

    fn bytes(self) -> [u8; 8] {
        (u64::from(self.size) << 32 | u64::from(self.gone)).to_be_bytes()
    }

    fn is_sparse(self) -> bool {
        self.gone >= self.size / SPARSE
    }
}

fn first(number: u32) -> Seq {
    Seq::from(number) * BLOCK
}

/// What stands in a block, in order.
fn records<'t>(tables: &Tables, txn: &'t RoTxn<'_>, number: u32) -> Result<RoRange<'t, Bytes, Bytes>, StoreError> {
    let (first, end) = (keys::seq_bytes(first(number)), keys::seq_bytes(first(number) + BLOCK - 1));
    Ok(tables.events.range(txn, &(Bound::Included(&first[..]), Bound::Included(&end[..])))?)
}

fn size(tables: &Tables, txn: &RoTxn<'_>, number: u32) -> Result<u32, StoreError> {
    let mut size = 0usize;
    for entry in records(tables, txn, number)? {
        size = size.saturating_add(NODE + entry?.1.len());
    }
    Ok(u32::try_from(size).unwrap_or(u32::MAX))
}

impl Holes {
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty()
    }

    /// A value of so many bytes was removed from the log.
    pub fn removed(&mut self, seq: Seq, bytes: usize) {
        // Numbers have 40 bits.
        let bytes_gone = self.removed.entry((seq / BLOCK) as u32).or_default();
        *bytes_gone = bytes_gone.saturating_add(u32::try_from(NODE + bytes).unwrap_or(u32::MAX));
    }

    /// Notes what was removed, and writes blocks anew that have become sparse; without `tidy`, the size of
    /// a page, only the former. Blocks that are not
    /// all below `complete` still grow.
    pub fn write(
        &mut self,
        tables: &Tables,
        txn: &mut RwTxn<'_>,
        complete: Seq,
        tidy: Option<usize>,
    ) -> Result<(), StoreError> {
        let mut left = if tidy.is_some() { MOST } else { 0 };
        let mut removed: Vec<(u32, u32)> = self.removed.drain().collect();
        removed.sort_unstable();
        for (number, gone) in removed {
            let key = number.to_be_bytes();
            let mut block = match tables.holes.get(txn, &key)? {
                Some(bytes) => Block::read(bytes).ok_or_else(|| damaged_key("holes"))?,
                None => Block { size: size(tables, txn, number)?.saturating_add(gone), gone: 0 },
            };
            block.gone = block.gone.saturating_add(gone);
            if left > 0
                && let Some(page_size) = tidy
                && block.is_sparse()
                && first(number) + BLOCK <= complete
            {
                // It may have grown since it was looked at.
                let there = size(tables, txn, number)?;
                block.size = there.saturating_add(block.gone);
                if block.is_sparse() {
                    rewrite(tables, txn, number, page_size)?;
                    block = Block { size: there, gone: 0 };
                    left -= 1;
                }
            }
            // Of one that is empty nothing need be known.
            if block.gone >= block.size {
                tables.holes.delete(txn, &key)?;
            } else {
                tables.holes.put(txn, &key, &block.bytes())?;
            }
        }
        Ok(())
    }
}

/// Takes what stands in a block out of the table and puts it back, each record at the end of the page before. Two things stand in the way:
///
/// - Where there is no more room, LMDB begins a new page, and takes the last entry of the full one along. So that this is no record, blank
///   entries stand behind the last records. One is deleted when its page is so full that LMDB will not fill it up from its neighbour.
/// - A page that LMDB will not free, because it is the first below its parent, is filled up from what comes behind the block as soon as it is
///   empty. Records that are put before others would have pages divided in the middle. So a larger blank entry, the barrier, holds
///   that page until there are records on it again.
fn rewrite(tables: &Tables, txn: &mut RwTxn<'_>, number: u32, page_size: usize) -> Result<(), StoreError> {
    let events = tables.events;
    let Some(kept) = whole_pages(tables, txn, number, page_size)? else { return Ok(()) };
    let Some((last, _)) = kept.last() else { return Ok(()) };
    let barrier = behind(last, 1);
    events.put(txn, &barrier, &[0; QUARTER])?;
    for (key, _) in &kept {
        events.delete(txn, key)?;
    }
    let mut blanks: VecDeque<(Vec<u8>, usize)> = VecDeque::new();
    let (mut put, mut beside_barrier) = (0, 0);
    for (key, value) in kept {
        events.put(txn, &key, &value)?;
        put += NODE + value.len();
        while blanks.front().is_some_and(|(_, behind)| behind + QUARTER <= put)
            && let Some((blank, _)) = blanks.pop_front()
        {
            events.delete(txn, &blank)?;
        }
        if beside_barrier < QUARTER {
            if beside_barrier > 0 || stand_side_by_side(tables, txn, &key, &barrier)? {
                beside_barrier += NODE + value.len();
            }
            if beside_barrier >= QUARTER {
                events.delete(txn, &barrier)?;
            }
        }
        let blank = behind(&key, 0);
        events.put(txn, &blank, &[])?;
        blanks.push_back((blank, put));
    }
    for (blank, _) in blanks {
        events.delete(txn, &blank)?;
    }
    events.delete(txn, &barrier)?;
    Ok(())
}

/// A key behind that of a record, before that of the next.
fn behind(key: &[u8], place: u8) -> Vec<u8> {
    [key, &[place]].concat()
}

/// Whether an entry ends in memory where another begins. LMDB puts what comes onto a page right before what came there last.
fn stand_side_by_side(tables: &Tables, txn: &RoTxn<'_>, a: &[u8], b: &[u8]) -> Result<bool, StoreError> {
    const HEAD: usize = 8;
    let value = |key: &[u8]| -> Result<Option<(usize, usize)>, StoreError> {
        Ok(tables.events.get(txn, key)?.map(|value| (value.as_ptr() as usize, value.len())))
    };
    let (Some((first, length)), Some((second, _))) = (value(a)?, value(b)?) else { return Ok(false) };
    // Each has an even length.
    let end = first + length + (HEAD + a.len() + length) % 2;
    Ok(end + HEAD + b.len() == second)
}

/// A record and its key.
type Kept = (Vec<u8>, Vec<u8>);

/// What stands in a block, and behind it as far as the last page of the block goes: if others stood on the page where records are put, LMDB
/// would divide it in the middle each time. `None` when that cannot be told, or when a record was stored as a whole that had better be in
/// parts.
fn whole_pages(
    tables: &Tables,
    txn: &RoTxn<'_>,
    number: u32,
    page_size: usize,
) -> Result<Option<Vec<Kept>>, StoreError> {
    let (start, end) = (keys::seq_bytes(first(number)), keys::seq_bytes(first(number) + BLOCK));
    let (mut kept, mut place) = (Vec::new(), 0);
    for entry in tables.events.range(txn, &(Bound::Included(&start[..]), Bound::Unbounded))? {
        let (key, value) = entry?;
        let before = std::mem::replace(&mut place, key.as_ptr() as usize);
        // Two entries so far from each other in memory are not on one page.
        if key >= &end[..] && (kept.is_empty() || before.abs_diff(place) >= page_size) {
            return Ok(Some(kept));
        }
        if value.len() > parts::WHOLE || kept.len() > BLOCK as usize + MOST_BEHIND {
            return Ok(None);
        }
        kept.push((key.to_vec(), value.to_vec()));
    }
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{Event, EventId, Kind, PublicKey, Signature, Tags};
    use crate::store::Store;

    fn note(number: u32) -> Event {
        let mut event = Event {
            id: EventId([0; 32]),
            pubkey: PublicKey([number as u8 % 50; 32]),
            created_at: 1_700_000_000 + u64::from(number),
            kind: Kind(1),
            tags: Tags::new(),
            content: "x".repeat(100 + number as usize * 37 % 700).into(),
            sig: Signature([0; 64]),
        };
        event.id = event.compute_id();
        event
    }

    fn filled(count: u32) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let mut batch = store.batch(0).unwrap();
        for number in 0..count {
            batch.apply(&store.prepare(&note(number))).unwrap();
        }
        batch.commit().unwrap();
        (folder, store)
    }

    /// Numbers below `count` in another order.
    fn mixed(count: u32) -> impl Iterator<Item = Seq> {
        // 7,919 is a prime that divides none of the counts here.
        (0..u64::from(count)).map(move |n| n * 7_919 % u64::from(count))
    }

    fn remove(store: &Store, seqs: impl Iterator<Item = Seq>) {
        let seqs: Vec<Seq> = seqs.collect();
        for some in seqs.chunks(100) {
            let mut batch = store.batch(0).unwrap();
            some.iter().for_each(|&seq| assert!(batch.remove(seq).unwrap()));
            batch.commit().unwrap();
        }
    }

    fn pages(store: &Store) -> usize {
        store.tables().events.stat(&store.read().unwrap()).unwrap().leaf_pages
    }

    #[test]
    fn a_log_from_which_events_go_here_and_there_stays_as_small_as_what_is_in_it() {
        let count = 10_000;
        let (_folder, store) = filled(count);
        let full = pages(&store);
        remove(&store, mixed(count).take(count as usize / 2));
        let kept = pages(&store);
        // Each page would have half of what it had, and all would be there.
        assert!(kept < full * 60 / 100, "{kept} of {full} pages for half of the events");
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        let rest: Vec<Seq> = mixed(count).skip(count as usize / 2).collect();
        let mut found = Vec::new();
        store
            .log(0, &mut |seq, record| {
                assert_eq!(record.to_event().unwrap(), note(seq as u32));
                found.push(seq);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert!(
            found.is_sorted() && found.len() == rest.len() && rest.iter().all(|seq| found.binary_search(seq).is_ok())
        );
        remove(&store, rest.into_iter());
        assert_eq!(pages(&store), 0);
        // What is remembered of blocks is bounded by the blocks that are there, and the last.
        assert!(store.tables().holes.len(&store.read().unwrap()).unwrap() <= 1);
    }

    #[test]
    fn a_block_that_still_grows_is_left_alone() {
        let (_folder, store) = filled(700);
        let all = pages(&store);
        remove(&store, 512..600);
        let txn = store.read().unwrap();
        assert_eq!(store.tables().holes.len(&txn).unwrap(), 1);
        drop(txn);
        assert!(pages(&store) > all * 8 / 10);
        let mut batch = store.batch(0).unwrap();
        for number in 700..1_100 {
            batch.apply(&store.prepare(&note(number))).unwrap();
        }
        batch.commit().unwrap();
        remove(&store, 600..601);
        // Complete now, and seen to have been larger than was known.
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        let txn = store.read().unwrap();
        let known = store.tables().holes.get(&txn, &1u32.to_be_bytes()).unwrap().and_then(Block::read).unwrap();
        assert_eq!(known.gone, 0, "it was written anew");
        assert_eq!(known.size, size(store.tables(), &txn, 1).unwrap());
    }
}
