//! Opening the file: what can be wrong with it is found out before LMDB maps it, because what is missing from a mapped file
//! ends the process.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use heed::{Env, EnvOpenOptions, MdbError, WithoutTls};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::process::{Resource, getrlimit};

use super::sound::{self, Depth};
use super::{StoreError, freelist, is_disk_full, schema};

/// The name that LMDB gives its file.
pub const FILE: &str = "data.mdb";

/// The name of the file where LMDB keeps its readers.
pub const LOCK_FILE: &str = "lock.mdb";

/// Readers at the same time, over all processes that have the database open.
const MAX_READERS: u32 = 512;

/// The smallest address space worth starting with when the host grants less than was asked for.
const LEAST_GRANT: u64 = 64 << 20;

/// More than LMDB's lock file takes: 64 bytes for each reader, and a head.
const LOCK_FILE_BYTES: u64 = 64 * MAX_READERS as u64 + 4096;

/// Less than this is worth a warning: a database may grow so large in a year.
const SMALL_GRANT: u64 = 8 << 30;

/// Whether there is a database in folder `path`, or an error when there cannot be one.
pub fn look(path: &Path) -> Result<bool, StoreError> {
    let metadata = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(source),
    };
    let failed = |source| StoreError::Open { path: path.into(), source };
    match metadata(path).map_err(failed)? {
        None => Ok(false),
        Some(folder) if !folder.is_dir() => Err(StoreError::NotAFolder(path.into())),
        Some(_) => match metadata(&path.join(FILE)).map_err(failed)? {
            None => Ok(false),
            Some(file) if file.is_file() => Ok(file.len() > 0),
            Some(_) => Err(unusable(path, format!("{FILE} is not a file"))),
        },
    }
}

fn unusable(path: &Path, fault: String) -> StoreError {
    StoreError::Unusable { path: path.into(), fault }
}

/// Who may come to the database in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Everybody.
    Shared,
    /// Nobody but this process, which has locked the folder.
    Held,
}

/// The door to a folder: whoever opens the database in it holds it for that moment, whoever puts another file in its place holds it
/// alone, so that nobody opens the lock file of the one and the data of the other. On a file system that knows no such locks there is none.
pub struct Door(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] Option<File>);

impl Door {
    /// Waits until nobody puts another file there.
    fn pass(path: &Path) -> Door {
        Door::lock(path, FlockOperation::LockShared)
    }

    /// Waits until nobody is in it, and keeps everybody out.
    pub fn close(path: &Path) -> Door {
        Door::lock(path, FlockOperation::LockExclusive)
    }

    fn lock(path: &Path, how: FlockOperation) -> Door {
        Door(File::open(path).ok().filter(|folder| flock(folder, how).is_ok()))
    }
}

/// Opens the environment in folder `path`, which must exist.
pub fn open(path: &Path, map_size: u64, claim: Claim) -> Result<Env<WithoutTls>, StoreError> {
    let door = (claim == Claim::Shared).then(|| Door::pass(path));
    allocate_lock_file(path)?;
    let env = reserve(path, map_size)?;
    drop(door);
    let file = env.try_clone_inner_file()?;
    let page_size = env.unnamed_database_stat().page_size as usize;
    let mut found = Found(None);
    for _ in 0..sound::TRIES {
        // While this transaction is open, nothing that it could see is overwritten.
        let txn = env.read_txn()?;
        if let Some(needed) = freelist::cut_off(&file, page_size, txn.id() as u64) {
            let there = env.real_disk_size()?;
            return Err(unusable(path, format!("{FILE} is cut off, it has {there} bytes and should have {needed}")));
        }
        if sound::check(&file, page_size, txn.id() as u64, Depth::Tables, &mut found) {
            break;
        }
    }
    match found.0 {
        Some(fault) => Err(unusable(path, format!("{fault} ({FILE})"))),
        None => Ok(env),
    }
}

/// The last fault that was found.
struct Found(Option<String>);

impl sound::Watch for Found {
    fn fault(&mut self, text: String) {
        self.0 = Some(text);
    }

    fn met(&mut self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// LMDB maps its lock file without having blocks for it; on a full disk, touching that would end the process. So it gets its blocks
/// before it is used. One that is there already is left alone: closing it would give up the locks of whoever in this process has it open.
fn allocate_lock_file(path: &Path) -> Result<(), StoreError> {
    let lock = path.join(LOCK_FILE);
    if fs::metadata(&lock).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let failed = |source| StoreError::Open { path: path.into(), source };
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(lock).map_err(failed)?;
    // Its length stays 0, which tells LMDB that it is new.
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, LOCK_FILE_BYTES) {
        Err(error) if is_disk_full(&error.into()) => Err(failed(error.into())),
        // Not every file system can do this.
        _ => Ok(()),
    }
}

/// Maps the file with as much address space as the host grants.
#[allow(unsafe_code)]
fn reserve(path: &Path, map_size: u64) -> Result<Env<WithoutTls>, StoreError> {
    // Where addresses are rationed (`ulimit -v`), threads and buffers need their share too.
    let ration = getrlimit(Resource::As).current.map_or(u64::MAX, |bytes| bytes / 2);
    let mut size = map_size.min(ration);
    loop {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(usize::try_from(size).unwrap_or(usize::MAX / 2) & !0xFFFF);
        options.max_readers(MAX_READERS).max_dbs(schema::MAX_TABLES);
        // SAFETY: the map is undefined behaviour only if something but LMDB changes the file while it is open. The
        // folder belongs to this program, every access in every process of it goes through LMDB with its lock file (no
        // NO_LOCK, no network file system advised), and the map is never resized while the environment lives.
        let opened = unsafe { options.open(path) };
        match opened {
            Ok(env) => {
                if size < map_size.min(SMALL_GRANT) {
                    tracing::warn!(
                        "the system grants few addresses: the database can grow to {} MiB and no further; raise `ulimit -v`",
                        size >> 20
                    );
                }
                return Ok(env);
            }
            // Less address space than asked for: a 32-bit host, a container, strict overcommit.
            Err(heed::Error::Io(e)) if e.kind() == io::ErrorKind::OutOfMemory && size > LEAST_GRANT => size /= 2,
            Err(heed::Error::Mdb(MdbError::Other(12))) if size > LEAST_GRANT => size /= 2,
            Err(heed::Error::Io(source)) => return Err(StoreError::Open { path: path.into(), source }),
            Err(heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch)) => {
                return Err(unusable(path, format!("{FILE} is not an LMDB file that this program can read")));
            }
            Err(other) => return Err(other.into()),
        }
    }
}
