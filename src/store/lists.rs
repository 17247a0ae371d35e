//! The operator's lists: who and what is banned or allowed, and texts that replace configured ones.
//!
//! They lie in the table `lists`: one byte that names the list, then the item; the value is MessagePack. A version in `meta` is raised
//! by every change, so that a relay notices what another process has changed.

use serde::{Deserialize, Serialize};

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
}

/// What is known of an item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Why it stands there, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, in unix seconds.
    pub since: u64,
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
            let entry = rmp_serde::from_slice(value)
                .map_err(|e| StoreError::Damaged(format!("an entry of table lists cannot be read: {e}")))?;
            items.push((key[1..].to_vec(), entry));
        }
        Ok(items)
    }

    /// A number that every change to a list raises.
    pub fn lists_version(&self) -> Result<u64, StoreError> {
        let txn = self.read()?;
        Ok(read_meta(self.tables(), &txn, VERSION)?.unwrap_or(0))
    }

    /// Makes all of the changes or none, in a transaction of its own. On return they are on disk.
    pub fn change_lists(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut txn = self.env().write_txn()?;
        let lists = self.tables().lists;
        for change in changes {
            match change {
                Change::Put(list, item, entry) => {
                    let value =
                        rmp_serde::to_vec(entry).map_err(|e| StoreError::Damaged(format!("a list's entry: {e}")))?;
                    lists.put(&mut txn, &key(*list, item), &value)?;
                }
                Change::Remove(list, item) => {
                    lists.delete(&mut txn, &key(*list, item))?;
                }
            }
        }
        let version: u64 = read_meta(self.tables(), &txn, VERSION)?.unwrap_or(0);
        write_meta(self.tables(), &mut txn, VERSION, &(version + 1))?;
        self.commit(txn)
    }
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
        let entry = |reason: &str| Entry { reason: reason.into(), since: 7 };
        assert_eq!(store.lists_version().unwrap(), 0);
        let changes: Vec<Change> =
            (0u8..10).map(|n| Change::Put(List::BannedKeys, vec![n; 32], entry(&n.to_string()))).collect();
        store.change_lists(&changes).unwrap();
        store.change_lists(&[Change::Put(List::AllowedKeys, vec![255; 32], entry("other"))]).unwrap();
        store
            .change_lists(&[
                Change::Remove(List::BannedKeys, vec![3; 32]),
                Change::Remove(List::BannedKeys, vec![99; 32]),
                Change::Put(List::BannedKeys, vec![4; 32], entry("again")),
            ])
            .unwrap();
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
}
