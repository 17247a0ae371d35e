//! Copies of the whole database: written while it is in use, and put in its place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use heed::CompactionOption;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::file::Reader;
use super::{Store, StoreError, is_disk_full, open};

/// How the names of files begin that a database was kept under when another took its place; the time comes after it.
pub const KEPT: &str = "data.mdb.";

/// A database on its way to its place: a folder of its own, removed again unless it is put there.
pub struct Copy {
    folder: PathBuf,
    /// Locked as long as this process is at it, however it ends.
    _claim: File,
    kept: bool,
}

impl Store {
    /// Bytes that a copy takes, about: the file without its free pages.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let page = u64::from(self.env().unnamed_database_stat().page_size);
        let pages = (self.env().info().last_page_number as u64).saturating_add(1);
        Ok(pages.saturating_sub(self.free_pages()?).saturating_mul(page))
    }

    /// Writes everything that is committed now into `copy`, without free pages, on disk when it returns. One read transaction, as
    /// long as it takes: what is freed meanwhile is not used again before its end.
    pub fn copy_into(&self, copy: &Copy) -> Result<(), StoreError> {
        let mut file = copy.create()?;
        self.env().copy_to_file(&mut file, CompactionOption::Enabled).map_err(|error| match error.into() {
            // It is the disk of the copy that is full.
            StoreError::Full => copy.failed(io::ErrorKind::StorageFull.into()),
            other => other,
        })?;
        file.sync_all().map_err(|source| copy.failed(source))
    }
}

impl Copy {
    /// Prepares `folder`, which must be missing or left behind by an earlier copy. Another process that is writing there is
    /// [`io::ErrorKind::WouldBlock`].
    pub fn begin(folder: &Path) -> Result<Copy, StoreError> {
        let failed = |source| StoreError::Copy { path: folder.into(), source };
        let made = remove_abandoned(folder).and_then(|()| fs::create_dir(folder));
        made.map_err(|error| match error.kind() {
            // It was faster.
            io::ErrorKind::AlreadyExists => failed(io::ErrorKind::WouldBlock.into()),
            _ => failed(error),
        })?;
        let claim = claim(folder).map_err(failed)?;
        Ok(Copy { folder: folder.into(), _claim: claim, kept: false })
    }

    /// The file that holds the database.
    pub fn file(&self) -> PathBuf {
        self.folder.join(open::FILE)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes what is left of the folder when its file has been given another name.
    pub(super) fn put_by_others(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!("{} cannot be removed: {error}", self.folder.display());
        }
    }

    /// Creates that file, readable to its owner only: it holds private messages too.
    pub fn create(&self) -> Result<File, StoreError> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.file()).map_err(|source| self.failed(source))
    }

    /// Opens it, to see whether it is whole.
    pub fn open(&self, map_size: u64) -> Result<Store, StoreError> {
        Store::open_claimed(&self.folder, map_size).map_err(|error| match error {
            StoreError::Full => self.failed(io::ErrorKind::StorageFull.into()),
            // For the few bytes that it takes to open it.
            StoreError::Open { source, .. } if is_disk_full(&source) => self.failed(source),
            other => other,
        })
    }

    /// Gives the file its name in the end, replacing what has it. Nobody may have the copy open.
    pub fn put(mut self, file: &Path) -> io::Result<()> {
        fs::rename(self.file(), file)?;
        self.kept = true;
        // Without this a power cut could take the name back.
        if let Some(folder) = file.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()?;
        }
        fs::remove_dir_all(&self.folder)
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::Copy { path: self.folder.clone(), source }
    }
}

/// The lock on a folder in which a database is written.
fn claim(folder: &Path) -> io::Result<File> {
    let claim = File::open(folder)?;
    match flock(&claim, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
        // Some network file systems know no locks; there it is up to the user.
        _ => Ok(claim),
    }
}

/// Removes what is left of a copy in `folder` that was never finished; [`io::ErrorKind::WouldBlock`] when somebody is writing it.
pub fn remove_abandoned(folder: &Path) -> io::Result<()> {
    let removed = claim(folder).and_then(|_claim| fs::remove_dir_all(folder));
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Where in a data folder a database is written that is to take the place of the one there: by a restore, or compacted.
pub const RESTORED: &str = "restore.partial";
/// See [`RESTORED`].
pub const COMPACTED: &str = "compact.partial";

/// Removes what was left in a data folder by those who were killed before they could put a database there. Best effort: whoever writes
/// there next tries again, and says so when it fails.
pub fn sweep(folder: &Path) {
    for name in [RESTORED, COMPACTED] {
        let _ = remove_abandoned(&folder.join(name));
    }
}

/// The process, if there is one, that has the database in `folder` open. Not to be asked by one that has it open itself: asking would
/// give up its own claim.
pub fn user(folder: &Path) -> Result<Option<u32>, StoreError> {
    let failed = |source| StoreError::Open { path: folder.into(), source };
    // LMDB's readers and writers all hold a lock on its lock file.
    let file = match File::options().read(true).write(true).open(folder.join(open::LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    holder(&file).map_err(failed)
}

/// Another process that has a claim on this lock file of LMDB's.
pub(super) fn holder(lock_file: &File) -> io::Result<Option<u32>> {
    let lock = fcntl_getlk(lock_file, &Flock::from(FlockType::WriteLock))?;
    Ok(lock.map(|lock| lock.pid.map_or(0, |pid| pid.as_raw_nonzero().get() as u32)))
}

/// The number of the last commit in a database file that nobody has open; `None` when it cannot be read. See [`Store::last_commit`].
pub fn last_commit(file: &Path) -> Option<u64> {
    let file = File::open(file).ok()?;
    // Every page size that LMDB may have chosen here puts the second meta page elsewhere.
    let metas = (9..=16).filter_map(|bits| Reader { file: &file, page_size: 1 << bits }.newest_meta(u64::MAX));
    metas.map(|meta| meta.txn).max()
}

/// Puts a copy in the place of the database in `folder`, which nobody may use; the old one, if there is one, is kept as `kept`. At no
/// moment is there none, so that nobody who is killed here, and starts a relay, has it begin a new one.
pub fn replace(folder: &Path, copy: Copy, kept: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Open { path: folder.into(), source };
    let place = folder.join(open::FILE);
    let _door = open::Door::close(folder);
    // Whoever came before the door was closed is here now.
    if let Some(pid) = user(folder)? {
        return Err(StoreError::InUse(pid));
    }
    forget_other_names(folder, &place).map_err(failed)?;
    // Where a file cannot have two names, it has none for a moment.
    let named = fs::hard_link(&place, kept).or_else(|_| fs::rename(&place, kept));
    match named {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // It tells of readers of the old database.
    let _ = fs::remove_file(folder.join(open::LOCK_FILE));
    copy.put(&place).map_err(failed)
}

/// Takes away names under which the database is kept already: of one who was killed between giving it one and putting a copy in its
/// place.
fn forget_other_names(folder: &Path, place: &Path) -> io::Result<()> {
    let inode = match fs::metadata(place) {
        Ok(metadata) if metadata.nlink() > 1 => metadata.ino(),
        _ => return Ok(()),
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_kept = entry.file_name().to_string_lossy().starts_with(KEPT);
        if is_kept && entry.metadata()?.ino() == inode {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
