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

/// So many entries of `tags` are worth a thread that sorts them while the other tables are written: some milliseconds.
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
        let [time, kinds, authors, mut tags] = std::mem::take(&mut self.puts);
        std::thread::scope(|scope| {
            if tags.len() >= SORTED_ASIDE {
                // Without a thread it is done below.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || tags.sort_unstable());
            }
            for (index, puts) in [(Index::Time, time), (Index::Kinds, kinds), (Index::Authors, authors)] {
                self.write_index(index, tables, txn, puts)?;
            }
            let mut ids: Vec<Short> =
                self.ids.drain().map(|(id, seq)| keys::stem_seq(&keys::id_stem(&id), seq)).collect();
            ids.sort_unstable();
            put_sorted(tables.ids, txn, ids.into_iter().map(|key| (key, Short::EMPTY)))
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
        put_sorted(tables.index(index), txn, puts.iter().map(|entry| (entry.key(index), entry.value(index))))
    }
}

/// Puts entries that come in the order of the table.
#[allow(unsafe_code)]
fn put_sorted(
    table: Table,
    txn: &mut RwTxn<'_>,
    entries: impl Iterator<Item = (Short, Short)>,
) -> Result<(), StoreError> {
    let last = table.last(txn)?.map(|(key, _)| key.to_vec());
    let mut behind_last = last.is_none();
    let mut previous = None;
    let mut cursor = table.iter_mut(txn)?;
    for (key, value) in entries {
        behind_last = behind_last || last.as_ref().is_some_and(|last| key[..] > last[..]);
        let flags = match behind_last {
            false => PutFlags::empty(),
            true if previous == Some(key) => PutFlags::APPEND_DUP,
            true => PutFlags::APPEND,
        };
        // SAFETY: this is LMDB's cursor put with the flags given, not an overwriting of the current entry: any key will do. Key and value lie in
        // this function's own variables, never in the database, and no reference into the database is alive: `cursor`
        // borrows the transaction mutably and nothing was read through it.
        unsafe { cursor.put_current_with_options::<Bytes>(flags, &key, &value)? };
        previous = Some(key);
    }
    Ok(())
}
