//! A compacted copy takes the place of the database while that is in use: what was written since it was made is carried over, then the two
//! change places between two transactions.
//!
//! An event's number and its record never change, and its index entries follow from the record. So the two files differ in which events they
//! have, which their tables `ids` tell, small as they are; and in the small tables, which are compared entry by entry.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use heed::{RoTxn, RwTxn};

use super::copy::{self, Copy};
use super::keys::{self, Seq};
use super::open::{self, Door};
use super::schema::{self, Table};
use super::{Store, StoreError, damaged_key, next_seq, read_record};

/// Events carried over in one transaction.
const STEP: usize = 10_000;

/// A copy that is to take the place of the database it was made of.
pub struct Renewal {
    copy: Copy,
    fresh: Store,
}

impl Renewal {
    /// Opens a copy that lies in a folder within that of its database, and sets pages aside for a full disk: none are free in it.
    pub fn begin(copy: Copy, map_size: u64) -> Result<Renewal, StoreError> {
        let fresh = copy.open(map_size)?;
        fresh.fill_reserve()?;
        Ok(Renewal { copy, fresh })
    }

    /// Brings the copy up to what `store` holds now. Nobody waits for it; what is written meanwhile is left for the next time. Returns how
    /// many events came or went.
    pub fn catch_up(&self, store: &Store) -> Result<usize, StoreError> {
        self.carry_over(store, &*store.read()?)
    }

    /// The last step: keeps all writers of `store` waiting, brings the copy up to date, and gives it the names of the old file. `adopt` gets the
    /// new database before any writer goes on; in this process each of them then finds out that the old one has [`StoreError::Moved`].
    ///
    /// Nobody else may have the old file open, or what they write to it would be lost: where another process has, nothing happens and
    /// [`StoreError::InUse`] names it.
    pub fn take_over(self, store: &Store, adopt: impl FnOnce(Store)) -> Result<(), (StoreError, Option<Renewal>)> {
        let locked = store.write_txn().and_then(|txn| {
            // Cheap, and spares the work below.
            store.ensure_alone()?;
            self.carry_over(store, &txn)?;
            self.compare(store, &txn)?;
            Ok(txn)
        });
        let txn = match locked {
            Ok(txn) => txn,
            Err(error) => return Err((error, Some(self))),
        };
        let door = Door::close(store.path());
        if let Err(error) = store.ensure_alone() {
            return Err((error, Some(self)));
        }
        let Renewal { copy, fresh } = self;
        if let Err(source) = change_places(&copy, store.path()) {
            return Err((StoreError::Copy { path: copy.file(), source }, None));
        }
        adopt(fresh.moved_to(store.path()));
        store.inner.moved.store(true, Relaxed);
        drop((door, txn));
        copy.put_by_others();
        Ok(())
    }

    /// Events that are gone go, those that are new come, the small tables become what they are in `store`.
    fn carry_over(&self, store: &Store, txn: &RoTxn<'_>) -> Result<usize, StoreError> {
        let fresh = &self.fresh;
        let gone = self.gone(store, txn)?;
        for seqs in gone.chunks(STEP) {
            let mut batch = fresh.batch(0)?;
            for &seq in seqs {
                batch.remove(seq)?;
            }
            batch.commit()?;
        }
        let mut carried = gone.len();
        let mut from = fresh.next_seq()?;
        loop {
            let mut batch = fresh.batch(0)?;
            let (start, mut count) = (keys::seq_bytes(from), 0);
            for entry in store.tables().events.range(txn, &(Bound::Included(&start[..]), Bound::Unbounded))?.take(STEP)
            {
                let (key, bytes) = entry?;
                let seq = keys::read_seq(key).ok_or_else(|| damaged_key("events"))?;
                let record = read_record(store, txn, seq, bytes)?
                    .ok_or_else(|| StoreError::Damaged(format!("event {seq} is not a record")))?;
                batch.carry(seq, &record)?;
                (from, count) = (seq + 1, count + 1);
            }
            if count == 0 {
                break;
            }
            batch.commit()?;
            carried += count;
        }
        let (ours, theirs) = (fresh.tables(), store.tables());
        let mut written = fresh.write_txn()?;
        let mut changed = false;
        for (there, here) in [
            (theirs.expirations, ours.expirations),
            (theirs.tombstones, ours.tombstones),
            (theirs.lists, ours.lists),
            (theirs.known, ours.known),
            // The numbers and the statistics that came with the events too.
            (theirs.meta, ours.meta),
        ] {
            changed |= mirror(there, txn, here, &mut written)?;
        }
        if changed {
            fresh.commit(written)?;
        }
        Ok(carried)
    }

    /// The numbers of events that are in the copy and gone from `store`.
    fn gone(&self, store: &Store, txn: &RoTxn<'_>) -> Result<Vec<Seq>, StoreError> {
        let read = self.fresh.read()?;
        let (here, there) = (self.fresh.tables().ids.iter(&read)?, store.tables().ids.iter(txn)?);
        let mut gone = Vec::new();
        compare(here, there, &mut |only| {
            if let Only::Left(key) = only {
                gone.push(key.get(7..).and_then(keys::read_seq).ok_or_else(|| damaged_key("ids"))?);
            }
            Ok(())
        })?;
        gone.sort_unstable();
        Ok(gone)
    }

    /// An error where any table has not as many entries as in `store`.
    fn compare(&self, store: &Store, txn: &RoTxn<'_>) -> Result<(), StoreError> {
        let read = self.fresh.read()?;
        for ((name, there), (_, here)) in store.tables().list().into_iter().zip(self.fresh.tables().list()) {
            let (there, here) = (there.len(txn)?, here.len(&read)?);
            if !schema::OF_THE_FILE.contains(&name) && there != here {
                return Err(StoreError::Damaged(format!(
                    "its copy has {here} entries in table {name} where it has {there}"
                )));
            }
        }
        if next_seq(store.tables(), txn)? != next_seq(self.fresh.tables(), &read)? {
            return Err(StoreError::Damaged("its copy would give numbers out again".into()));
        }
        Ok(())
    }
}

impl Store {
    /// An error when another process has the database open.
    pub fn ensure_alone(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Open { path: self.path().into(), source };
        let Some(file) = &self.inner.lock_file else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        match copy::holder(file).map_err(failed)? {
            Some(pid) => Err(StoreError::InUse(pid)),
            None => Ok(()),
        }
    }

    /// The address space that is reserved for it.
    pub fn map_bytes(&self) -> u64 {
        self.env().info().map_size as u64
    }

    /// The same, in another folder. Only for a store that nobody shares yet.
    fn moved_to(mut self, path: &Path) -> Store {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.path = path.into();
        }
        self
    }
}

/// Gives the copy's two files the names of the old ones, which nobody may have open but this process; on disk when it returns.
fn change_places(copy: &Copy, folder: &Path) -> io::Result<()> {
    let (lock, kept) = (folder.join(open::LOCK_FILE), copy.folder().join("lock.old"));
    fs::hard_link(&lock, &kept)?;
    // Each is locked through a file of its own: whoever opens the new one has to find the new lock file.
    fs::rename(copy.folder().join(open::LOCK_FILE), &lock)?;
    if let Err(error) = fs::rename(copy.file(), folder.join(open::FILE)) {
        fs::rename(&kept, &lock)?;
        return Err(error);
    }
    // Before anything is acknowledged that only the new file holds: a power cut could take its name back.
    if let Err(error) = fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::error!("the folder {} cannot be written to disk: {error}", folder.display());
    }
    Ok(())
}

/// An entry that is only in one of two tables: its key, and its value where it is in the right one.
enum Only<'e> {
    Left(&'e [u8]),
    Right(&'e [u8], &'e [u8]),
}

type Entry<'t> = Result<(&'t [u8], &'t [u8]), heed::Error>;

/// Walks two tables without duplicates side by side; `each` gets the entries that are only in one.
fn compare<'l, 'r>(
    left: impl Iterator<Item = Entry<'l>>,
    right: impl Iterator<Item = Entry<'r>>,
    each: &mut dyn FnMut(Only<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (mut left, mut right) = (left, right);
    let (mut a, mut b) = (left.next().transpose()?, right.next().transpose()?);
    loop {
        let order = match (a, b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if a == b => Ordering::Equal,
            // The same key with another value: it goes on the one side and comes on the other.
            (Some((a, _)), Some((b, _))) => a.cmp(b).then(Ordering::Less),
        };
        if let (Some((key, _)), Ordering::Less) = (a, order) {
            each(Only::Left(key))?;
        }
        if let (Some((key, value)), Ordering::Greater) = (b, order) {
            each(Only::Right(key, value))?;
        }
        if order != Ordering::Greater {
            a = left.next().transpose()?;
        }
        if order != Ordering::Less {
            b = right.next().transpose()?;
        }
    }
}

/// Makes table `here` what table `there` is; whether anything had to change.
fn mirror(there: Table, txn: &RoTxn<'_>, here: Table, written: &mut RwTxn<'_>) -> Result<bool, StoreError> {
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    compare(here.iter(written)?, there.iter(txn)?, &mut |only| {
        match only {
            Only::Left(key) => deletes.push(key.to_vec()),
            Only::Right(key, value) => puts.push((key.to_vec(), value.to_vec())),
        }
        Ok(())
    })?;
    // Those first whose keys come again with other values.
    for key in &deletes {
        here.delete(written, key)?;
    }
    for (key, value) in &puts {
        here.put(written, key, value)?;
    }
    Ok(!puts.is_empty() || !deletes.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nostr::{Event, EventId, Kind, PublicKey, Signature, Tags};
    use crate::store::{Change, Entry as Listed, List};

    const MAP: u64 = 1 << 30;

    /// What is done to a database: by a number, which says to what.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        /// A note, a list or an article, with a tag, perhaps with an expiration.
        Store(u8, u16),
        Remove(u16),
        /// The author's own deletion.
        Delete(u8, u16),
        Vanish(u8),
        Expire(u16),
        List(u8),
        Know(u8),
    }

    fn id(number: u32) -> [u8; 32] {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.wrapping_mul(0x9E37_79B1).to_be_bytes());
        id
    }

    fn event(number: u32, kind: u16, author: u8, tags: &[&[&str]]) -> Event {
        let mut all = Tags::new();
        tags.iter().for_each(|tag| all.push(*tag));
        Event {
            id: EventId(id(number)),
            pubkey: PublicKey([author; 32]),
            created_at: 1_000 + u64::from(number),
            kind: Kind(kind),
            tags: all,
            content: "x".repeat(number as usize * 7 % 300).into(),
            sig: Signature([0; 64]),
        }
    }

    /// Does it, in a transaction of its own; `number` counts up.
    fn act(store: &Store, number: u32, act: Act) {
        let hex = |of: u16| const_hex::encode(id(u32::from(of) % number.max(1)));
        let mut batch = store.batch(500).unwrap();
        let mut put = |event: Event| {
            batch.apply(&store.prepare(&event)).unwrap();
        };
        match act {
            Act::Store(author, which) => {
                let kind = [1, 0, 30_023, 7][which as usize % 4];
                let (topic, expiration) = ((which % 50).to_string(), (1_000 + u64::from(which)).to_string());
                let more: &[&str] = if which % 3 == 0 { &["expiration", &expiration] } else { &["p", &topic] };
                put(event(number, kind, author % 5, &[&["d", &topic], &["t", &topic], more]));
            }
            Act::Delete(author, which) => put(event(number, 5, author % 5, &[&["e", &hex(which)]])),
            Act::Vanish(author) => put(event(number, 62, author % 5, &[&["relay", "ALL_RELAYS"]])),
            Act::Remove(which) => {
                batch.remove(Seq::from(which) % Seq::from(number.max(1))).unwrap();
            }
            Act::Expire(until) => {
                drop(batch);
                let mut late = store.batch(1_000 + u64::from(until)).unwrap();
                late.remove_expired(3).unwrap();
                return late.commit().unwrap();
            }
            Act::List(item) if item % 3 == 0 => {
                batch.change_list(&Change::Remove(List::BannedKeys, vec![item / 3])).unwrap()
            }
            Act::List(item) => {
                let entry = Listed { reason: number.to_string(), since: 1, detail: String::new() };
                batch.change_list(&Change::Put(List::BannedKeys, vec![item / 3], entry)).unwrap()
            }
            Act::Know(author) => batch.know(&PublicKey([author; 32])).unwrap(),
        }
        batch.commit().unwrap();
    }

    fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
        let one = prop_oneof![
            8 => any::<(u8, u16)>().prop_map(|(author, which)| Act::Store(author, which)),
            3 => any::<u16>().prop_map(Act::Remove),
            2 => any::<(u8, u16)>().prop_map(|(author, which)| Act::Delete(author, which)),
            1 => (0..200u8).prop_map(Act::Vanish),
            1 => any::<u16>().prop_map(Act::Expire),
            1 => any::<u8>().prop_map(Act::List),
            1 => any::<u8>().prop_map(Act::Know),
        ];
        proptest::collection::vec(one, 0..most)
    }

    type Content = Vec<(&'static str, Vec<(Vec<u8>, Vec<u8>)>)>;

    /// Every entry of every table.
    fn content(store: &Store) -> Content {
        let txn = store.read().unwrap();
        let tables = store.tables().list().into_iter().filter(|(name, _)| !schema::OF_THE_FILE.contains(name));
        let entries = |table: Table| {
            table.iter(&txn).unwrap().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
        };
        tables.map(|(name, table)| (name, entries(table).collect())).collect()
    }

    fn copy(store: &Store, name: &str) -> Renewal {
        let copy = Copy::begin(&store.path().join(name)).unwrap();
        store.copy_into(&copy).unwrap();
        Renewal::begin(copy, MAP).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happened_since_the_copy_was_made_is_carried_over(
            before in acts(150), meanwhile in acts(60), at_last in acts(30),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path(), MAP).unwrap();
            let mut numbers = 0..;
            let mut all = |acts: Vec<Act>| acts.into_iter().for_each(|a| act(&store, numbers.next().unwrap(), a));
            all(before);
            let renewal = copy(&store, "compact");
            all(meanwhile);
            renewal.catch_up(&store).unwrap();
            prop_assert_eq!(content(&renewal.fresh), content(&store));
            prop_assert_eq!(renewal.catch_up(&store).unwrap(), 0, "nothing is left to be done");
            all(at_last);
            let expected = content(&store);

            let mut adopted = None;
            prop_assert!(renewal.take_over(&store, |fresh| adopted = Some(fresh)).is_ok());
            let fresh = adopted.unwrap();
            prop_assert_eq!(content(&fresh), expected);
            prop_assert!(matches!(store.batch(0), Err(StoreError::Moved)), "nobody writes to the old file");
            // It is the one that others find from now on.
            let number = numbers.next().unwrap();
            act(&fresh, number, Act::Store(1, 1));
            let expected = content(&fresh);
            drop((store, fresh));
            let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            prop_assert_eq!(names.len(), 2, "{:?}", names);
            prop_assert_eq!(content(&Store::open_existing(folder.path(), MAP).unwrap()), expected);
        }
    }

    #[test]
    fn a_copy_that_lacks_something_does_not_take_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), MAP).unwrap();
        (0..20).for_each(|number| act(&store, number, Act::Store(1, 4)));
        let renewal = copy(&store, "compact");
        let mut txn = renewal.fresh.write_txn().unwrap();
        let tags = renewal.fresh.tables().tags;
        let (key, value) = tags.first(&txn).unwrap().map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap();
        tags.delete_one_duplicate(&mut txn, &key, &value).unwrap();
        txn.commit().unwrap();
        let Err((error, Some(left))) = renewal.take_over(&store, |_| panic!("it is not adopted")) else {
            panic!("it took over")
        };
        assert!(error.to_string().contains("entries in table tags"), "{error}");
        drop(left);
        act(&store, 20, Act::Store(1, 4));
        assert_eq!(store.verify().unwrap().faults.iter().filter(|fault| !fault.contains("its id")).count(), 0);
        assert!(!folder.path().join("compact").exists());
    }
}
