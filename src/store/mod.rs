//! Events in LMDB: tables, keys, records, write rules, plans and scans.
//!
//! [`Store`] opens the database. [`Batch`] is the only way to write: one transaction that applies the rules of the protocol
//! (replacement, deletion, expiry, vanishing) to each event, all or nothing. [`Scan`] is the only way to ask: a question that runs
//! in slices, each a short read transaction of its own. Several processes may use one database at once; LMDB's lock decides who writes.

mod apply;
mod bookmarks;
pub mod copy;
mod count;
mod cursor;
mod file;
mod freelist;
mod holes;
mod keys;
mod lists;
mod maintain;
mod open;
mod parts;
mod pending;
mod plan;
mod prepare;
mod record;
mod renewal;
mod reserve;
mod retention;
mod scan;
mod schema;
mod sound;
mod statistics;
mod tombstone;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heed::{Env, MdbError, RoTxn, RwTxn, WithoutTls};

pub use apply::{Applied, Batch, Rules};
pub use bookmarks::{Bookmark, BookmarkKey};
pub use count::Count;
pub use cursor::Order;
pub use keys::Seq;
pub use lists::{Change, Entry, List};
pub use maintain::{Occupancy, Stage, StoreInfo, TableInfo, Verified, VerifyReport};
pub use plan::Access;
pub use prepare::Prepared;
pub use record::{Record, encode};
pub use renewal::Renewal;
pub use retention::{Amount, Doomed, RetentionReport, RuleReport, Surplus, Survey, Terms};
pub use scan::{Budget, Progress, Scan};
pub use statistics::{KindInfo, Statistics};

use keys::KeyHasher;
use open::Claim;
use schema::Tables;

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the reserved address space is full; reads go on.
    #[error("the database is full: free some disk space, or raise storage.map_size")]
    Full,
    /// There is no database where one was expected.
    #[error(
        "there is no database in {0}: start the relay or import something first, or name another folder with --data"
    )]
    Missing(PathBuf),
    /// Where the folder should be, there is a file.
    #[error("{0} is a file, not a folder: name the folder that holds the database with --data")]
    NotAFolder(PathBuf),
    /// The folder cannot be created or opened.
    #[error("the database in {path} cannot be opened: {source}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A copy of the database cannot be written.
    #[error("{path} cannot be written: {source}")]
    Copy {
        /// Its file or its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database was written by another version of ratite.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known}: use the program that wrote it, or export there and import here"
    )]
    Version {
        /// What the database says.
        found: u32,
        /// What this program can read.
        known: u32,
    },
    /// The file is not a database, or not a whole one: nothing of it can be read.
    #[error("the database in {path} cannot be used: {fault}")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the file.
        fault: String,
    },
    /// Something in the file is not as it was written; the rest may still be read.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Another process has the database open where nobody else may.
    #[error("process {0} uses the database as well")]
    InUse(u32),
    /// A compacted copy has taken the place of this file: nothing may be written to it any more. It works with the new one.
    #[error("the database has moved to a new file")]
    Moved,
    /// Any other fault of LMDB.
    #[error("the database reports: {0}")]
    Lmdb(heed::Error),
}

const EIO: i32 = 5;

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<heed::Error> for StoreError {
    fn from(error: heed::Error) -> StoreError {
        match &error {
            heed::Error::Mdb(MdbError::MapFull) => StoreError::Full,
            heed::Error::Io(error) if is_disk_full(error) => StoreError::Full,
            heed::Error::Mdb(MdbError::Corrupted | MdbError::PageNotFound) => StoreError::Damaged(error.to_string()),
            _ => StoreError::Lmdb(error),
        }
    }
}

/// One database, open in this process. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env<WithoutTls>,
    tables: Tables,
    hasher: KeyHasher,
    owners: count::Owners,
    /// See [`EVERY_D`].
    every_d: bool,
    path: PathBuf,
    /// Numbers of the events whose records could not be read, as far as anybody asked for them.
    damaged: Mutex<BTreeSet<Seq>>,
    /// Another file has taken the place of this one, see [`renewal`].
    moved: AtomicBool,
    /// LMDB's lock file, to see who else has it. Closing it gives up this process's own claims, so it stands below `env`, which is closed
    /// before it. `None` where it cannot be opened.
    lock_file: Option<File>,
}

/// Damaged records that are remembered, and those that are named in the log.
const DAMAGED_KEPT: usize = 100_000;
const DAMAGED_NAMED: usize = 100;

impl Store {
    /// Opens the database in folder `path`, creating both when they are missing. `map_size` is the address space to reserve in
    /// bytes; where the host grants less, the largest half, quarter … of it that it does grant is taken.
    pub fn open(path: &Path, map_size: u64) -> Result<Store, StoreError> {
        open::look(path)?;
        std::fs::create_dir_all(path).map_err(|source| StoreError::Open { path: path.into(), source })?;
        Store::with_tables(path, map_size, Claim::Shared, |env| match schema::open(env)? {
            Some(tables) => Ok(tables),
            None => schema::create(env),
        })
    }

    /// Opens a database that exists already, or says that there is none.
    pub fn open_existing(path: &Path, map_size: u64) -> Result<Store, StoreError> {
        Store::open_as(path, map_size, Claim::Shared)
    }

    /// The same in a folder that this process has locked.
    fn open_claimed(path: &Path, map_size: u64) -> Result<Store, StoreError> {
        Store::open_as(path, map_size, Claim::Held)
    }

    fn open_as(path: &Path, map_size: u64, claim: Claim) -> Result<Store, StoreError> {
        if !open::look(path)? {
            return Err(StoreError::Missing(path.into()));
        }
        Store::with_tables(path, map_size, claim, |env| match schema::open(env)? {
            Some(tables) => Ok(tables),
            // Tables that came later are created.
            None if schema::is_ours(env)? => schema::create(env),
            None => Err(StoreError::Missing(path.into())),
        })
    }

    fn with_tables(
        path: &Path,
        map_size: u64,
        claim: Claim,
        tables: impl FnOnce(&Env<WithoutTls>) -> Result<Tables, StoreError>,
    ) -> Result<Store, StoreError> {
        let opened = open::open(path, map_size, claim).and_then(|env| {
            let tables = tables(&env)?;
            Store::begin(env, tables, path)
        });
        opened.map_err(|error| match error {
            // What cannot even be opened cannot be read in part.
            StoreError::Damaged(fault) => StoreError::Unusable { path: path.into(), fault },
            other => other,
        })
    }

    fn begin(env: Env<WithoutTls>, tables: Tables, path: &Path) -> Result<Store, StoreError> {
        let rtxn = env.read_txn()?;
        let known = read_meta::<Meta>(&tables, &rtxn, META)?;
        let mut every_d = read_meta::<bool>(&tables, &rtxn, EVERY_D)?.unwrap_or(false);
        drop(rtxn);
        let hasher = match known {
            Some(meta) => meta.check()?,
            None => {
                // Another process may have been faster: look again under the write lock.
                let mut wtxn = env.write_txn()?;
                match read_meta::<Meta>(&tables, &wtxn, META)? {
                    Some(meta) => {
                        every_d = read_meta::<bool>(&tables, &wtxn, EVERY_D)?.unwrap_or(false);
                        meta.check()?
                    }
                    None => {
                        let mut key = [0; 16];
                        getrandom::fill(&mut key)
                            .map_err(|e| StoreError::Damaged(format!("the system gives no random bytes: {e}")))?;
                        let meta = Meta { schema: schema::VERSION, hash_key: key };
                        write_meta(&tables, &mut wtxn, META, &meta)?;
                        write_next_seq(&tables, &mut wtxn, 0)?;
                        every_d = true;
                        write_meta(&tables, &mut wtxn, EVERY_D, &every_d)?;
                        wtxn.commit()?;
                        KeyHasher(key)
                    }
                }
            }
        };
        // Slots of processes that died would pin pages for ever.
        env.clear_stale_readers()?;
        let (owners, damaged) = Default::default();
        let lock_file = File::options().read(true).write(true).open(path.join(open::LOCK_FILE)).ok();
        let (path, moved) = (path.into(), AtomicBool::new(false));
        Ok(Store { inner: Arc::new(Inner { env, tables, hasher, owners, every_d, path, damaged, moved, lock_file }) })
    }

    /// The folder the database lies in.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Begins a write transaction; waits while another one is open, in this process or in another.
    pub fn batch(&self, now: u64) -> Result<Batch<'_>, StoreError> {
        Batch::begin(self, now)
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        let txn = self.read()?;
        Ok(self.tables().events.is_empty(&txn)?)
    }

    /// The sequence number the next event will get: everything below it has been learned and committed.
    pub fn next_seq(&self) -> Result<Seq, StoreError> {
        let txn = self.read()?;
        next_seq(self.tables(), &txn)
    }

    /// The number of the last commit that a reader sees, whichever process made it: it changes with every one.
    ///
    /// It is that of a read transaction. What the head of the file says is ahead of what readers are given for as long as a commit's last
    /// page takes to the disk, so whoever went by that, and read then, would miss it.
    pub fn last_commit(&self) -> Result<usize, StoreError> {
        Ok(self.read()?.id())
    }

    /// Numbers of the events whose records are damaged, as far as somebody came across them since the database was opened. Every
    /// reader passes over them.
    pub fn damaged(&self) -> Vec<Seq> {
        self.lock_damaged().iter().copied().collect()
    }

    fn lock_damaged(&self) -> MutexGuard<'_, BTreeSet<Seq>> {
        // Whoever panicked while holding it left a set that is whole.
        self.inner.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_damaged(&self, seq: Seq) {
        let mut damaged = self.lock_damaged();
        if damaged.len() < DAMAGED_KEPT && damaged.insert(seq) && damaged.len() <= DAMAGED_NAMED {
            tracing::error!("event {seq} of the database is damaged and was left out");
        }
    }

    /// Calls `each` with the records of `seqs`, in that order, in one short read transaction, until it breaks off; numbers whose event is
    /// gone or damaged are passed over. Each is looked up for itself, so damaged pages cost what stood on them, and no more.
    pub fn records(
        &self,
        seqs: impl Iterator<Item = Seq>,
        each: &mut dyn FnMut(Seq, Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut txn = self.read()?;
        for seq in seqs {
            match get_record(self, &txn, seq) {
                Ok(Some(record)) => {
                    if each(seq, record).is_break() {
                        break;
                    }
                }
                Ok(None) => {}
                Err(StoreError::Damaged(_)) => {
                    self.note_damaged(seq);
                    // LMDB lets nothing more be read in a transaction that met damage.
                    txn = self.read()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Walks the log from the number `from` on, until `each` breaks off. Returns the number to go on from, and whether that is the end.
    /// Expired events are among them, a damaged record is passed over. One short read transaction.
    pub fn log(
        &self,
        from: Seq,
        each: &mut dyn FnMut(Seq, Record<'_>) -> ControlFlow<()>,
    ) -> Result<(Seq, bool), StoreError> {
        let txn = self.read()?;
        let start = keys::seq_bytes(from);
        let range = (Bound::Included(&start[..]), Bound::Unbounded);
        let mut next = from;
        for entry in self.tables().events.range(&txn, &range)? {
            let (key, value) = entry?;
            let seq = keys::read_seq(key).ok_or_else(|| damaged_key("events"))?;
            next = seq + 1;
            if let Some(record) = read_record(self, &txn, seq, value)?
                && each(seq, record).is_break()
            {
                return Ok((next, false));
            }
        }
        // Numbers whose events are gone again count as read.
        Ok((next.max(next_seq(self.tables(), &txn)?), true))
    }

    /// For each id, whether its event is stored. One short read transaction.
    pub fn contains(&self, ids: impl Iterator<Item = crate::nostr::EventId>) -> Result<Vec<bool>, StoreError> {
        let txn = self.read()?;
        ids.map(|id| Ok(find_id(self, &txn, &id)?.is_some())).collect()
    }

    /// Whether something stored has expired by `now` and waits for its removal. One seek.
    pub fn has_expired(&self, now: u64) -> Result<bool, StoreError> {
        let txn = self.read()?;
        scan::any_expired(self, &txn, now)
    }

    /// Frees the reader slots of processes that died; they would keep freed pages from being used again.
    pub fn clear_stale_readers(&self) -> Result<usize, StoreError> {
        Ok(self.env().clear_stale_readers()?)
    }

    fn env(&self) -> &Env<WithoutTls> {
        &self.inner.env
    }

    fn tables(&self) -> &Tables {
        &self.inner.tables
    }

    fn owners(&self) -> &count::Owners {
        &self.inner.owners
    }

    fn addresses_hold_every_d(&self) -> bool {
        self.inner.every_d
    }

    fn hasher(&self) -> &KeyHasher {
        &self.inner.hasher
    }

    /// Waits for the write lock. The database may have moved meanwhile.
    fn write_txn(&self) -> Result<RwTxn<'_>, StoreError> {
        let txn = self.env().write_txn()?;
        if self.inner.moved.load(Relaxed) { Err(StoreError::Moved) } else { Ok(txn) }
    }

    fn commit(&self, txn: RwTxn<'_>) -> Result<(), StoreError> {
        txn.commit().map_err(|error| match error {
            // What LMDB says when only a part of its pages could be written: that is how most disks become full.
            heed::Error::Io(e) if e.raw_os_error() == Some(EIO) && self.disk_is_full() => StoreError::Full,
            other => other.into(),
        })
    }

    /// Whether the disk under the database takes no more, tried out.
    fn disk_is_full(&self) -> bool {
        let trial = self.inner.path.join("trial");
        let written = std::fs::write(&trial, [0; 1 << 16]);
        let _ = std::fs::remove_file(trial);
        written.is_err_and(|error| is_disk_full(&error))
    }

    fn read(&self) -> Result<RoTxn<'_, WithoutTls>, StoreError> {
        Ok(self.inner.env.read_txn()?)
    }
}

const META: &str = "database";
const NEXT_SEQ: &str = "next_seq";
/// Whether `addresses` holds addressable events under each of their `d` values. A database without this note was made when they stood
/// under the first alone; it stays so, and only costs more when it is asked for addresses.
const EVERY_D: &str = "addresses_hold_every_d";

/// What must be known before anything else can be read.
#[derive(serde::Serialize, serde::Deserialize)]
struct Meta {
    schema: u32,
    hash_key: [u8; 16],
}

impl Meta {
    fn check(self) -> Result<KeyHasher, StoreError> {
        if !(schema::OLDEST..=schema::VERSION).contains(&self.schema) {
            return Err(StoreError::Version { found: self.schema, known: schema::VERSION });
        }
        Ok(KeyHasher(self.hash_key))
    }
}

fn schema_version(tables: &Tables, txn: &RoTxn<'_>) -> Result<u32, StoreError> {
    Ok(read_meta::<Meta>(tables, txn, META)?.map_or(schema::VERSION, |meta| meta.schema))
}

/// Notes that there are records in parts, which programs of version 1 do not know.
fn raise_version(tables: &Tables, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
    match read_meta::<Meta>(tables, txn, META)? {
        Some(meta) if meta.schema < schema::VERSION => {
            write_meta(tables, txn, META, &Meta { schema: schema::VERSION, ..meta })
        }
        _ => Ok(()),
    }
}

fn read_meta<T: serde::de::DeserializeOwned>(
    tables: &Tables,
    txn: &RoTxn<'_>,
    name: &str,
) -> Result<Option<T>, StoreError> {
    match tables.meta.get(txn, name.as_bytes())? {
        None => Ok(None),
        Some(bytes) => rmp_serde::from_slice(bytes)
            .map(Some)
            .map_err(|e| StoreError::Damaged(format!("meta entry {name} cannot be read: {e}"))),
    }
}

fn write_meta<T: serde::Serialize>(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    name: &str,
    value: &T,
) -> Result<(), StoreError> {
    let bytes = rmp_serde::to_vec(value).map_err(|e| StoreError::Damaged(format!("meta entry {name}: {e}")))?;
    Ok(tables.meta.put(txn, name.as_bytes(), &bytes)?)
}

fn write_next_seq(tables: &Tables, txn: &mut RwTxn<'_>, next: Seq) -> Result<(), StoreError> {
    write_meta(tables, txn, NEXT_SEQ, &next)
}

fn next_seq(tables: &Tables, txn: &RoTxn<'_>) -> Result<Seq, StoreError> {
    Ok(read_meta(tables, txn, NEXT_SEQ)?.unwrap_or(0))
}

fn damaged_key(table: &str) -> StoreError {
    StoreError::Damaged(format!("an entry of table {table} cannot be read"))
}

/// The record of an event; `None` when it is gone, or damaged. One damaged record must not keep anybody from all the others, so it
/// is noted and counts as gone: what it held can even be stored anew.
fn get_record<'t>(store: &Store, txn: &'t RoTxn<'_>, seq: Seq) -> Result<Option<Record<'t>>, StoreError> {
    match store.tables().events.get(txn, &keys::seq_bytes(seq))? {
        Some(bytes) => read_record(store, txn, seq, bytes),
        None => Ok(None),
    }
}

/// The one place where what lies in `events` becomes a record; one that is damaged is noted.
fn read_record<'t>(
    store: &Store,
    txn: &RoTxn<'_>,
    seq: Seq,
    bytes: &'t [u8],
) -> Result<Option<Record<'t>>, StoreError> {
    let record = match Record::new(bytes) {
        None => parts::read(store.tables(), txn, seq, bytes)?,
        whole => whole,
    };
    if record.is_none() {
        store.note_damaged(seq);
    }
    Ok(record)
}

/// The stored event with this id. Keys hold a part of it only, so the record has the last word.
fn find_id<'t>(
    store: &Store,
    txn: &'t RoTxn<'_>,
    id: &crate::nostr::EventId,
) -> Result<Option<(Seq, Record<'t>)>, StoreError> {
    use crate::nostr::EventFields;
    for entry in store.tables().ids.prefix_iter(txn, &keys::id_stem(id))? {
        let (key, _) = entry?;
        let seq = key.get(7..).and_then(keys::read_seq).ok_or_else(|| damaged_key("ids"))?;
        match get_record(store, txn, seq)? {
            Some(record) if record.id() == *id => return Ok(Some((seq, record))),
            _ => {}
        }
    }
    Ok(None)
}
