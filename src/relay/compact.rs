//! Compaction while the relay serves: a copy without free pages is written and checked beside it, and takes the place of the database between
//! two transactions of the writer. Questions are answered all the time; publishers wait as long as the last changes are carried over.
//!
//! Other processes may use the database until then, and write to it. For the last step it must be this one's alone, for what they write
//! to the old file afterwards would be lost: it waits a while for them to end, and otherwise leaves everything as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::TryLockError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;

use super::backup::{self, BackupError};
use super::queue::ToWriter;
use super::{Core, Relay};
use crate::store::copy::{Copy, remove_abandoned};
use crate::store::{Renewal, Store, StoreError};

/// So few events may come or go during a round for the next to be the last: carrying them over takes some milliseconds.
const FEW: usize = 200;

/// Rounds beside publishers, who may be faster.
const ROUNDS: usize = 8;

/// How long to wait for other processes to end their work.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// Copies lie in folders of such names within the data folder.
const PREFIX: &str = "compact-";
const SUFFIX: &str = ".partial";

/// Why the database is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The copy cannot be made, or is not in order.
    #[error(transparent)]
    Copy(#[from] BackupError),
    /// The database, or the copy of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else asked first.
    #[error("it is being compacted already")]
    Busy,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Compacted {
    /// Events in the new file.
    pub events: u64,
    /// Size of the old file.
    pub bytes_before: u64,
    /// Size of the new file.
    pub bytes_after: u64,
    /// How long publishers waited in the end.
    pub paused_ms: f64,
}

impl Relay {
    /// Writes the database anew without its free pages, and goes on with that: questions are answered all the time, publishers wait while the
    /// last changes are carried over. `stop` is asked again and again until then. No other process may have the database open in the
    /// end. Blocks.
    pub fn compact(&self, stop: &dyn Fn() -> bool) -> Result<Compacted, CompactError> {
        let core = &self.core;
        let _only = match core.compacting.try_lock() {
            Ok(guard) => guard,
            // What a panic left behind is removed below.
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(CompactError::Busy),
        };
        let stop = || stop() || core.closed.load(Relaxed);
        let began = Instant::now();
        let store = core.store();
        // Before anything is done in vain.
        alone(&store, &stop)?;
        remove_leftovers(store.path());
        let needed = store.used_bytes()?;
        if let Ok(disk) = statvfs(store.path()) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if free < needed {
                return Err(BackupError::NoRoom { path: store.path().into(), free, needed }.into());
            }
        }
        let bytes_before = store.occupancy()?.file_bytes;
        let copy = backup::write(&store, Copy::begin(&store.path().join(name()))?, &stop)?;
        let size = fs::metadata(copy.file()).map_or(needed, |metadata| metadata.len());
        backup::check(&copy, size, &stop)?;
        let mut renewal = Renewal::begin(copy, store.map_bytes())?;
        for _ in 0..ROUNDS {
            if renewal.catch_up(&store)? <= FEW {
                break;
            }
            if stop() {
                return Err(BackupError::Stopped.into());
            }
        }
        // The old file goes when nobody uses it any more.
        drop(store);
        let given_up = Instant::now() + PATIENCE;
        let paused = loop {
            match self.take_over(renewal)? {
                Ok(paused) => break paused,
                Err((error, left)) => match left {
                    Some(left) if !stop() && Instant::now() < given_up => {
                        std::thread::sleep(PAUSE);
                        left.catch_up(&core.store())?;
                        renewal = left;
                    }
                    _ => return Err(error.into()),
                },
            }
        };
        let now = core.store().occupancy()?;
        let compacted = Compacted {
            events: now.events,
            bytes_before,
            bytes_after: now.file_bytes,
            paused_ms: (paused.as_secs_f64() * 1e5).round() / 100.0,
        };
        let Compacted { events, bytes_after, paused_ms, .. } = compacted;
        let seconds = began.elapsed().as_secs();
        tracing::info!(events, bytes_before, bytes_after, paused_ms, seconds, "the database is compacted");
        Ok(compacted)
    }

    /// Has the writer do the last step; how long it took. When somebody else has the database open, it may be tried again.
    fn take_over(&self, renewal: Renewal) -> Result<Result<Duration, (StoreError, Option<Renewal>)>, CompactError> {
        let (done, taken) = crossbeam_channel::bounded(1);
        let work = move |core: &Core| {
            let began = Instant::now();
            let taken = renewal.take_over(&core.store(), |fresh| core.store.store(fresh));
            let _ = done.send(match taken {
                Ok(()) => Ok(began.elapsed()),
                Err((error @ StoreError::InUse(_), left)) => Err((error, left)),
                Err((error, _)) => Err((error, None)),
            });
        };
        let _ = self.core.writer.send(ToWriter::Work(Box::new(work)));
        taken.recv().map_err(|_| BackupError::Stopped.into())
    }
}

/// Waits a while until nobody else has the database open.
fn alone(store: &Store, stop: &dyn Fn() -> bool) -> Result<(), CompactError> {
    let given_up = Instant::now() + PATIENCE;
    loop {
        match store.ensure_alone() {
            Err(StoreError::InUse(_)) if !stop() && Instant::now() < given_up => std::thread::sleep(PAUSE),
            alone => return Ok(alone?),
        }
    }
}

/// The name of a folder that this process has not used yet: LMDB takes each path for one database.
fn name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{PREFIX}{}-{}{SUFFIX}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// Where a copy is being written in this data folder, by whichever process.
pub fn copy_in(data: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(data).ok()?.flatten();
    let mut copies = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
    });
    copies.next().map(|entry| entry.path().join("data.mdb"))
}

/// Removes what is left of such as were never finished.
fn remove_leftovers(data: &Path) {
    while let Some(folder) = copy_in(data).as_deref().and_then(Path::parent) {
        if let Err(error) = remove_abandoned(folder) {
            tracing::warn!("{} cannot be removed: {error}", folder.display());
            return;
        }
    }
}
