//! The operator's lists: who and what is banned or allowed, and texts that replace configured ones.
//!
//! They lie in the table `lists`: one byte that names the list, then the item; the value is MessagePack. A version in `meta` is raised
//! by every change, so that a relay notices what another process has changed.

use serde::{Deserialize, Serialize};

use super::apply::Batch;
use super::{Store, StoreError, read_meta, write_meta};

/// One of the lists. The number is its place in the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum List {
    /// Public keys (32 bytes) whose events are refused and not shown.
    BannedKeys = 1,
    /// Public keys that alone may publish, when there are any.
    AllowedKeys = 2,
    /// Ids (32 bytes) of events that must not come back.
    BannedEvents = 3,
    /// Ids of events that need no moderation.
    AllowedEvents = 4,
    /// Kinds (2 bytes) that are refused.
    BannedKinds = 5,
    /// Kinds that alone are taken, when there are any.
    AllowedKinds = 6,
    /// Texts of the information document by the name of their field; the text is the reason.
    Texts = 7,
    /// IP addresses (4 or 16 bytes) that may not connect.
    BlockedAddresses = 8,
    /// Invite codes that may still be used, by their text.
    Invites = 9,
    /// Roles that members can have, by their ids.
    Roles = 10,
    /// Public keys that may call some methods of the management API.
    Assignees = 11,
}

/// What is known of an item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Why it stands there, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, in unix seconds.
    pub since: u64,
    /// What else this list keeps of an item, written by whoever keeps the list; mostly empty.
    #[serde(default)]
    pub detail: String,
}

/// A change to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Puts an item on a list, or replaces what is known of it.
    Put(List, Vec<u8>, Entry),
    /// Takes an item off a list; one that is not there is no fault.
    Remove(List, Vec<u8>),
}

const VERSION: &str = "lists_version";

impl Store {
    /// The items of a list behind `after`, in the order of their bytes, at most `limit`.
    pub fn list(&self, list: List, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Entry)>, StoreError> {
        let txn = self.read()?;
        let start = key(list, after.unwrap_or_default());
        let end = [list as u8 + 1];
        let from = match after {
            Some(_) => std::ops::Bound::Excluded(&start[..]),
            None => std::ops::Bound::Included(&start[..]),
        };
        let range = (from, std::ops::Bound::Excluded(&end[..]));
        let mut items = Vec::new();
        for entry in self.tables().lists.range(&txn, &range)?.take(limit) {
            let (key, value) = entry?;
            items.push((key[1..].to_vec(), read(value)?));
        }
        Ok(items)
    }

    /// What is known of an item; `None` when it does not stand on the list.
    pub fn list_entry(&self, list: List, item: &[u8]) -> Result<Option<Entry>, StoreError> {
        let txn = self.read()?;
        self.tables().lists.get(&txn, &key(list, item))?.map(read).transpose()
    }

    /// A number that every change to a list raises.
    pub fn lists_version(&self) -> Result<u64, StoreError> {
        let txn = self.read()?;
        Ok(read_meta(self.tables(), &txn, VERSION)?.unwrap_or(0))
    }
}

impl Batch<'_> {
    /// What is known of an item, this batch's own changes included; `None` when it does not stand on the list.
    pub fn list_entry(&self, list: List, item: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.tables().lists.get(self.txn(), &key(list, item))?.map(read).transpose()
    }

    /// All items of a list, in the order of their bytes.
    pub fn list(&self, list: List) -> Result<Vec<(Vec<u8>, Entry)>, StoreError> {
        let mut items = Vec::new();
        for entry in self.tables().lists.prefix_iter(self.txn(), &[list as u8])? {
            let (key, value) = entry?;
            items.push((key[1..].to_vec(), read(value)?));
        }
        Ok(items)
    }

    /// Makes a change to a list. On disk it is after the commit, together with all else.
    pub fn change_list(&mut self, change: &Change) -> Result<(), StoreError> {
        let tables = *self.tables();
        if !self.note_list_change() {
            let version: u64 = read_meta(&tables, self.txn(), VERSION)?.unwrap_or(0);
            write_meta(&tables, self.txn_mut(), VERSION, &(version + 1))?;
        }
        match change {
            Change::Put(list, item, entry) => {
                let value =
                    rmp_serde::to_vec(entry).map_err(|e| StoreError::Damaged(format!("a list's entry: {e}")))?;
                tables.lists.put(self.txn_mut(), &key(*list, item), &value)?;
            }
            Change::Remove(list, item) => {
                tables.lists.delete(self.txn_mut(), &key(*list, item))?;
            }
        }
        Ok(())
    }
}

fn read(value: &[u8]) -> Result<Entry, StoreError> {
    rmp_serde::from_slice(value)
        .map_err(|e| StoreError::Damaged(format!("an entry of table lists cannot be read: {e}")))
}

fn key(list: List, item: &[u8]) -> Vec<u8> {
    [&[list as u8], item].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_what_they_are_given_and_are_read_page_by_page() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let entry = |reason: &str| Entry { reason: reason.into(), since: 7, detail: String::new() };
        let change = |changes: &[Change]| {
            let mut batch = store.batch(0).unwrap();
            changes.iter().for_each(|change| batch.change_list(change).unwrap());
            batch.commit().unwrap();
        };
        assert_eq!(store.lists_version().unwrap(), 0);
        let changes: Vec<Change> =
            (0u8..10).map(|n| Change::Put(List::BannedKeys, vec![n; 32], entry(&n.to_string()))).collect();
        change(&changes);
        change(&[Change::Put(List::AllowedKeys, vec![255; 32], entry("other"))]);
        change(&[
            Change::Remove(List::BannedKeys, vec![3; 32]),
            Change::Remove(List::BannedKeys, vec![99; 32]),
            Change::Put(List::BannedKeys, vec![4; 32], entry("again")),
        ]);
        assert_eq!(store.lists_version().unwrap(), 3);
        let mut seen = Vec::new();
        loop {
            let after = seen.last().map(|(item, _): &(Vec<u8>, Entry)| item.clone());
            let page = store.list(List::BannedKeys, after.as_deref(), 4).unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= 4);
            seen.extend(page);
        }
        let expected: Vec<u8> = (0..10).filter(|n| *n != 3).collect();
        assert_eq!(seen.iter().map(|(item, _)| item[0]).collect::<Vec<_>>(), expected);
        assert_eq!(seen[3].1, entry("again"));
        assert_eq!(store.list(List::AllowedKeys, None, 9).unwrap(), [(vec![255; 32], entry("other"))]);
    }
    #[test]
    fn an_entry_of_an_older_version_is_read_and_a_batch_sees_its_own_changes() {
        let older = rmp_serde::to_vec(&("why", 7u64)).unwrap();
        assert_eq!(read(&older).unwrap(), Entry { reason: "why".into(), since: 7, detail: String::new() });
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let item = || b"code".to_vec();
        let entry = Entry { detail: "{}".into(), ..Entry::default() };
        let mut batch = store.batch(0).unwrap();
        batch.change_list(&Change::Put(List::Invites, item(), entry.clone())).unwrap();
        assert_eq!(batch.list_entry(List::Invites, &item()).unwrap(), Some(entry.clone()));
        assert_eq!(batch.list(List::Invites).unwrap(), [(item(), entry.clone())]);
        assert_eq!(batch.list(List::Roles).unwrap(), []);
        drop(batch);
        assert_eq!((store.list_entry(List::Invites, &item()).unwrap(), store.lists_version().unwrap()), (None, 0));
    }
}
