//! Bookmarks: where the reading of something long is, kept in the same transaction as what was read, so that the two never disagree.
//!
//! An import that was stopped goes on from there. Whoever sets a bookmark says which one it follows; when another one is there, what lies
//! between the two did not get in, and the old one stays.

use super::{Batch, Store, StoreError};

/// What is being read.
pub type BookmarkKey = [u8; 16];

/// A place in something that is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// What is being read.
    pub key: BookmarkKey,
    /// The place, as its reader notes it.
    pub place: Vec<u8>,
    /// The place that was noted before; `None` for the first.
    pub after: Option<Vec<u8>>,
}

/// In `meta`, before the key.
const PREFIX: &[u8] = b"bookmark:";

/// As many are kept; those of more sources than this are begun again.
const MOST: usize = 4096;

fn name(key: &BookmarkKey) -> Vec<u8> {
    [PREFIX, key].concat()
}

impl Store {
    /// The place that is noted for this.
    pub fn bookmark(&self, key: &BookmarkKey) -> Result<Option<Vec<u8>>, StoreError> {
        let txn = self.read()?;
        Ok(self.tables().meta.get(&txn, &name(key))?.map(<[u8]>::to_vec))
    }

    /// Removes the bookmarks of all of these.
    pub fn forget_bookmarks(&self, keys: &[BookmarkKey]) -> Result<(), StoreError> {
        let there = |key: &BookmarkKey| self.bookmark(key).map(|place| place.is_some());
        if !keys.iter().map(there).collect::<Result<Vec<bool>, _>>()?.contains(&true) {
            return Ok(());
        }
        let mut txn = self.write_txn()?;
        for key in keys {
            self.tables().meta.delete(&mut txn, &name(key))?;
        }
        self.commit(txn)
    }
}

impl Batch<'_> {
    /// Sets a bookmark when this transaction is committed, if it follows the one that is there. False when it does not, or when there are
    /// too many.
    pub fn set_bookmark(&mut self, bookmark: &Bookmark) -> Result<bool, StoreError> {
        let (name, meta) = (name(&bookmark.key), self.store.tables().meta);
        let there = meta.get(&self.txn, &name)?.map(<[u8]>::to_vec);
        if there != bookmark.after || there.is_none() && meta.prefix_iter(&self.txn, PREFIX)?.count() >= MOST {
            return Ok(false);
        }
        meta.put(&mut self.txn, &name, &bookmark.place)?;
        self.bookmarked = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: BookmarkKey = [7; 16];

    fn bookmark(place: &str, after: Option<&str>) -> Bookmark {
        Bookmark { key: KEY, place: place.into(), after: after.map(Into::into) }
    }

    #[test]
    fn a_bookmark_is_set_behind_the_one_it_follows_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let set = |bookmark: &Bookmark| {
            let mut batch = store.batch(0).unwrap();
            let set = batch.set_bookmark(bookmark).unwrap();
            batch.commit().unwrap();
            set
        };
        let there = || store.bookmark(&KEY).unwrap().map(|place| String::from_utf8(place).unwrap());
        assert_eq!(there(), None);
        assert!(!set(&bookmark("b", Some("a"))), "what lies before it never came in");
        assert!(set(&bookmark("a", None)));
        assert!(set(&bookmark("b", Some("a"))));
        assert!(!set(&bookmark("d", Some("c"))) && !set(&bookmark("a", None)));
        assert_eq!(there(), Some("b".to_owned()));
        // What is not committed never was.
        assert!(store.batch(0).unwrap().set_bookmark(&bookmark("c", Some("b"))).unwrap());
        assert_eq!(there(), Some("b".to_owned()));
        store.forget_bookmarks(&[[1; 16], KEY]).unwrap();
        assert_eq!(there(), None);
        assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    }

    #[test]
    fn there_is_a_bound_to_bookmarks() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let mut batch = store.batch(0).unwrap();
        let mut set = |n: usize, after: Option<&str>| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&n.to_be_bytes());
            batch.set_bookmark(&Bookmark { key, ..bookmark("a", after) }).unwrap()
        };
        assert!((0..MOST).all(|n| set(n, None)));
        assert!(!set(MOST, None));
        assert!(set(0, Some("a")), "those that are there go on");
    }
}
