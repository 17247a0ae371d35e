//! The index entries of a batch, gathered in memory and written sorted, table by table.
//!
//! Neighbours share pages: sorted, an entry costs a fraction of what it costs in the order of arrival. What stands behind the
//! last entry of a table is appended, which fills pages to the brim. Ids wait here too, so the batch must ask here first.

use std::collections::{HashMap, HashSet};

use heed::types::Bytes;
use heed::{PutFlags, RwTxn};

use super::StoreError;
use super::keys::{self, Entry, Index, Seq, Short};
use super::record::Record;
use super::schema::{Table, Tables};
use crate::nostr::{EventFields, EventId};

/// So many entries are worth a thread that sorts them while other tables are written: some milliseconds.
const SORTED_ASIDE: usize = 50_000;

/// What a batch has stored and removed, but not yet written into `ids` and the indices.
#[derive(Default)]
pub struct Pending {
    puts: [Vec<Entry>; 4],
    deletes: [Vec<Entry>; 4],
    ids: HashMap<EventId, Seq>,
    /// Removed again before they were written; their entries stand in `puts` nevertheless.
    undone: HashSet<Seq>,
}

impl Pending {
    /// An event was stored.
    pub fn put(&mut self, record: &Record<'_>, stems: &[u64], seq: Seq) {
        let puts = &mut self.puts;
        keys::each_entry(record, stems, seq, &mut |index, entry| puts[index as usize].push(entry));
        self.ids.insert(record.id(), seq);
    }

    /// The number of an event that waits here.
    pub fn find(&self, id: &EventId) -> Option<Seq> {
        self.ids.get(id).copied()
    }

    /// An event that waits here was removed: it was never there.
    pub fn undo(&mut self, id: &EventId, seq: Seq) {
        self.ids.remove(id);
        self.undone.insert(seq);
    }

    /// An event was removed whose entries are in the tables.
    pub fn delete(&mut self, record: &Record<'_>, stems: &[u64], seq: Seq) {
        let deletes = &mut self.deletes;
        keys::each_entry(record, stems, seq, &mut |index, entry| deletes[index as usize].push(entry));
    }

    /// About how many pages its entries stand on: those of authors and tags, and the ids, stand anywhere, the others side by side. A new
    /// version of a list has most of its entries where the old one had them.
    pub fn pages(&self) -> usize {
        let scattered = [Index::Authors, Index::Tags].map(|index| index as usize);
        let entries = scattered.map(|index| self.puts[index].len().max(self.deletes[index].len()));
        self.ids.len() + entries.iter().sum::<usize>()
    }

    /// Writes everything into its tables.
    pub fn write(&mut self, tables: &Tables, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        if let (Some(&first), Some(&last)) = (self.undone.iter().min(), self.undone.iter().max()) {
            // Millions of entries are asked about, so the answers stand in a list.
            let mut undone = vec![false; (last - first + 1) as usize];
            self.undone.drain().for_each(|seq| undone[(seq - first) as usize] = true);
            for puts in &mut self.puts {
                puts.retain(|entry| {
                    entry.seq.checked_sub(first).is_none_or(|place| undone.get(place as usize) != Some(&true))
                });
            }
        }
        let [time, mut kinds, mut authors, mut tags] = std::mem::take(&mut self.puts);
        let mut ids: Vec<Short> = self.ids.drain().map(|(id, seq)| keys::stem_seq(&keys::id_stem(&id), seq)).collect();
        // Without a thread it is done below.
        std::thread::scope(|scope| {
            if ids.len() >= SORTED_ASIDE {
                let _ = std::thread::Builder::new().spawn_scoped(scope, || {
                    kinds.sort_unstable();
                    authors.sort_unstable();
                    ids.sort_unstable();
                });
            }
            self.write_index(Index::Time, tables, txn, time)
        })?;
        std::thread::scope(|scope| {
            if tags.len() >= SORTED_ASIDE {
                let _ = std::thread::Builder::new().spawn_scoped(scope, || tags.sort_unstable());
            }
            self.write_index(Index::Kinds, tables, txn, kinds)?;
            self.write_index(Index::Authors, tables, txn, authors)?;
            ids.sort_unstable();
            put_sorted(tables.ids, txn, true, ids.into_iter().map(|key| (key, Short::EMPTY)))
        })?;
        self.write_index(Index::Tags, tables, txn, tags)
    }

    fn write_index(
        &mut self,
        index: Index,
        tables: &Tables,
        txn: &mut RwTxn<'_>,
        mut puts: Vec<Entry>,
    ) -> Result<(), StoreError> {
        let mut deletes = std::mem::take(&mut self.deletes[index as usize]);
        deletes.sort_unstable();
        for entry in deletes {
            tables.index(index).delete_one_duplicate(txn, &entry.key(index), &entry.value(index))?;
        }
        // What is sorted already costs one look.
        puts.sort_unstable();
        let scattered = matches!(index, Index::Authors | Index::Tags);
        let entries = puts.iter().map(|entry| (entry.key(index), entry.value(index)));
        put_sorted(tables.index(index), txn, scattered, entries)
    }
}

/// Puts entries that come in the order of the table. In a table that is filled for the first time and in which later entries will be
/// `scattered`, each page keeps some room for them: in pages filled to the brim each of the first later entries would split one, and
/// the table would soon be twice as large.
#[allow(unsafe_code)]
fn put_sorted(
    table: Table,
    txn: &mut RwTxn<'_>,
    scattered: bool,
    entries: impl Iterator<Item = (Short, Short)>,
) -> Result<(), StoreError> {
    let last = table.last(txn)?.map(|(key, _)| key.to_vec());
    let mut room = (scattered && last.is_none()).then(Room::default);
    let mut behind_last = last.is_none();
    let mut previous: Option<Short> = None;
    let mut cursor = table.iter_mut(txn)?;
    for (key, value) in entries {
        behind_last = behind_last || last.as_ref().is_some_and(|last| key[..] > last[..]);
        let flags = match behind_last {
            false => PutFlags::empty(),
            true if previous == Some(key) => PutFlags::APPEND_DUP,
            true => PutFlags::APPEND,
        };
        if let (Some(room), Some(previous)) = (&mut room, previous)
            && let Some(blank) = room.before(key, previous, value.len())
        {
            // SAFETY: as below.
            unsafe { cursor.put_current_with_options::<Bytes>(PutFlags::APPEND, blank, &BLANK)? };
        }
        // SAFETY: this is LMDB's cursor put with the flags given, not an overwriting of the current entry: any key will do. Key and value lie in
        // this function's own variables, never in the database, and no reference into the database is alive: `cursor`
        // borrows the transaction mutably and nothing was read through it.
        unsafe { cursor.put_current_with_options::<Bytes>(flags, &key, &value)? };
        previous = Some(key);
    }
    drop(cursor);
    for blank in room.unwrap_or_default().blanks {
        table.delete(txn, &blank)?;
    }
    Ok(())
}

/// An eighth of a page.
const BLANK: [u8; 500] = [0; 500];

/// What LMDB keeps on a page beside keys and values: its head, and something for each entry.
const PAGE: usize = 4096 - 16;
const NODE: usize = 10;

/// Keeps room in pages that are being filled by blank entries among the others, one to a page, which are deleted at the end.
#[derive(Default)]
struct Room {
    blanks: Vec<Vec<u8>>,
    /// Bytes since the last one.
    filled: usize,
}

impl Room {
    /// The key of a blank entry, if it is time for one, between the entry `previous` and the next one.
    fn before(&mut self, key: Short, previous: Short, value: usize) -> Option<&[u8]> {
        if key == previous {
            self.filled += value;
            return None;
        }
        self.filled += NODE + key.len() + value;
        if self.filled + NODE + key.len() + BLANK.len() < PAGE {
            return None;
        }
        self.filled = 0;
        // The shortest key behind the previous one.
        self.blanks.push([&previous[..], &[0]].concat());
        self.blanks.last().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// Ids that stand anywhere, as hashes do.
    fn ids(count: u64, salt: u64) -> Vec<(Short, Short)> {
        let mix =
            |n: u64| (n + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let mut keys: Vec<_> =
            (0..count).map(|n| (keys::stem_seq(&mix(n).to_be_bytes()[..7], n), Short::EMPTY)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_table_filled_for_the_first_time_has_room_for_what_comes_between() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path(), 1 << 30).expect("open");
        let table = store.tables().ids;
        let pages = |scattered: bool| {
            let mut txn = store.env().write_txn().expect("transaction");
            let mut pages = Vec::new();
            for entries in [ids(20_000, 0), ids(1_000, 1 << 40)] {
                put_sorted(table, &mut txn, scattered, entries.iter().copied()).expect("put");
                pages.push(table.stat(&txn).expect("stat").leaf_pages);
            }
            let mut all = [ids(20_000, 0), ids(1_000, 1 << 40)].concat();
            all.sort_unstable();
            let stored = table.iter(&txn).expect("iter").map(|entry| entry.expect("entry").0.to_vec());
            assert!(stored.eq(all.iter().map(|(key, _)| key.to_vec())), "no blank entry is left");
            pages
        };
        let (full, roomy) = (pages(false), pages(true));
        assert!(roomy[0] > full[0] && roomy[0] < full[0] * 6 / 5, "{roomy:?} {full:?}");
        assert!(full[1] > full[0] * 3 / 2, "nearly every full page is split: {full:?}");
        assert!(roomy[1] < roomy[0] * 21 / 20, "hardly any is split where there is room: {roomy:?}");
    }
}
