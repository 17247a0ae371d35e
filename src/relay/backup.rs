//! Scheduled backups: copies of the whole database in a folder, each checked after it was written; when there are enough of them the
//! oldest goes.
//!
//! The name of a file says when it was made, so the schedule survives restarts and hand-overs without being kept anywhere. A lock in the
//! folder sees to it that of several relays over the same data one at a time makes a backup, and that the others find it made.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::fs::{FlockOperation, flock, statvfs};

use super::{Core, lock};
use crate::config;
use crate::store::copy::{self, Copy};
use crate::store::{Store, StoreError};

/// How often the thread looks whether it is time.
const LOOK: Duration = Duration::from_secs(1);

/// A backup that failed is tried again after so many seconds, or when the next one is due if that is sooner.
const AGAIN: u64 = 600;

/// How long to wait at most between two looks at how far a copy is.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is locked makes a backup.
const LOCK: &str = "backup.lock";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database, or the copy of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder or a file in it.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is too little room for it.
    #[error("{path} has {free} bytes free, about {needed} are needed")]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes that may be written there.
        free: u64,
        /// Bytes that the backup takes.
        needed: u64,
    },
    /// What was written is not what it should be; it is not kept.
    #[error("the copy is not in order: {0}; `ratite verify` checks the database itself")]
    NotInOrder(String),
    /// It was to stop.
    #[error("it was stopped")]
    Stopped,
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its file.
    pub file: PathBuf,
    /// Events in it.
    pub events: u64,
    /// Its size.
    pub bytes: u64,
}

/// How scheduled backups stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BackupState {
    /// When the newest was made, in unix seconds.
    pub last: Option<u64>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<String>,
}

/// The name of a backup made at `time` (unix seconds): `ratite-2026-01-31T03-00-00Z.mdb`.
pub fn name(time: u64) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.min(u64::from(u32::MAX))));
    format!("ratite-{}.mdb", time.to_string().replace(':', "-"))
}

/// When the backup of this name was made; `None` for any other file.
fn time_of(name: &str) -> Option<u64> {
    let time = name.strip_prefix("ratite-")?.strip_suffix(".mdb")?;
    let (date, clock) = time.split_once('T')?;
    let time = humantime::parse_rfc3339(&format!("{date}T{}", clock.replace('-', ":"))).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// What lies in a folder of backups.
#[derive(Default)]
struct Found {
    /// Backups with their times, the oldest first.
    made: Vec<(u64, PathBuf)>,
    /// What is left of such as were never finished.
    partial: Vec<PathBuf>,
}

/// The backups in a folder, the oldest first, and what is left of such as were never finished.
fn look(folder: &Path) -> io::Result<Found> {
    let Found { mut made, mut partial } = Found::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(time) = time_of(&name) {
            made.push((time, entry.path()));
        } else if name.strip_suffix(PARTIAL).is_some_and(|name| time_of(name).is_some()) {
            partial.push(entry.path());
        }
    }
    made.sort();
    Ok(Found { made, partial })
}

const PARTIAL: &str = ".partial";

/// The newest backup in a folder.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    look(folder).ok()?.made.pop().map(|(_, file)| file)
}

/// Removes what is left in a folder of backups that were never finished and that nobody is making.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for left in look(folder)?.partial {
        match copy::remove_abandoned(&left) {
            // An operator is making one by hand.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Makes a backup of `store` in the folder of `config` if one is due at `now` (unix seconds) and nobody else is at it, checks it, and
/// removes the oldest if there are too many. `None` when none is due. `stop` is asked again and again. Blocks; between parts of the
/// check the processor is left to others.
pub fn make_if_due(
    store: &Store,
    config: &config::Backup,
    now: u64,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Made>, BackupError> {
    let Some(folder) = &config.folder else { return Ok(None) };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Io { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    // Locked until it is closed, however this process ends.
    let guard = folder.join(LOCK);
    let file = File::options().write(true).create(true).truncate(false).open(&guard).map_err(failed(&guard))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(failed(&guard)(error.into())),
    }
    let Found { made, .. } = look(folder).map_err(failed(folder))?;
    // A clock that was set back is no reason to make none for years.
    let is_due = |last: u64| last > now || now - last >= config.interval;
    if made.last().is_some_and(|(last, _)| !is_due(*last)) {
        return Ok(None);
    }
    sweep(folder).map_err(failed(folder))?;
    let needed = store.used_bytes()?;
    let disk = statvfs(folder).map_err(|error| failed(folder)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Err(BackupError::NoRoom { path: folder.clone(), free, needed });
    }
    let name = name(now);
    let copy = write(store, Copy::begin(&folder.join(format!("{name}{PARTIAL}")))?, stop)?;
    let bytes = fs::metadata(copy.file()).map_err(failed(&copy.file()))?.len();
    let events = check(&copy, bytes, stop)?;
    let target = folder.join(name);
    copy.put(&target).map_err(failed(&target))?;
    let Found { made, .. } = look(folder).map_err(failed(folder))?;
    let surplus = made.len().saturating_sub(config.keep as usize);
    for (_, oldest) in &made[..surplus] {
        fs::remove_file(oldest).map_err(failed(oldest))?;
    }
    Ok(Some(Made { file: target, events, bytes }))
}

/// Has the copy written, which LMDB does in one go, on a thread of its own: nobody has to wait for it who wants to stop.
pub(super) fn write(store: &Store, copy: Copy, stop: &dyn Fn() -> bool) -> Result<Copy, BackupError> {
    let copy = Arc::new(copy);
    let writer = std::thread::Builder::new().name("copy".to_owned()).spawn({
        let (store, copy) = (store.clone(), copy.clone());
        move || store.copy_into(&copy)
    });
    let writer = writer.map_err(|source| BackupError::Io { path: copy.file(), source })?;
    while !writer.is_finished() {
        if stop() {
            // The thread removes what it wrote when it ends, and whoever makes the next one if it does not get to that.
            return Err(BackupError::Stopped);
        }
        std::thread::sleep(PAUSE);
    }
    match writer.join() {
        Ok(written) => written?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    // The thread has ended, so there is no other.
    Arc::into_inner(copy).ok_or(BackupError::Stopped)
}

/// Walks every table of the copy against every other; returns how many events it has.
pub(super) fn check(copy: &Copy, bytes: u64, stop: &dyn Fn() -> bool) -> Result<u64, BackupError> {
    const ROOM: u64 = 64 << 20;
    let store = copy.open(bytes.saturating_add(ROOM))?;
    let mut worked_since = Instant::now();
    let report = store.verify_with(false, &mut |_| {
        std::thread::sleep(worked_since.elapsed().min(PAUSE));
        worked_since = Instant::now();
        if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let report = report.ok_or(BackupError::Stopped)?;
    match report.faults.into_iter().next() {
        None => Ok(report.events),
        Some(first) => Err(BackupError::NotInOrder(first)),
    }
}

/// The thread.
pub(super) fn keep(core: &Arc<Core>, stop: Receiver<()>) {
    let (mut next, mut schedule) = (0, None);
    loop {
        match stop.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        // It may have changed since the last time, and then everything is looked at anew.
        let settings = core.settings();
        let (config, now) = (&settings.backup, settings.clock.now());
        if schedule.as_ref() != Some(config) {
            (next, schedule) = (0, Some(config.clone()));
            *lock(&core.backup) = BackupState::default();
        }
        if now < next || config.folder.is_none() {
            continue;
        }
        let began = SystemTime::now();
        match make_if_due(&core.store(), config, now, &|| core.closed.load(Relaxed)) {
            Ok(made) => {
                let mut state = lock(&core.backup);
                if let Some(Made { file, events, bytes }) = made {
                    let seconds = began.elapsed().map_or(0, |time| time.as_secs());
                    tracing::info!(events, bytes, seconds, "backup: {} is written and in order", file.display());
                    state.last = Some(now);
                } else if let Some(folder) = &config.folder
                    && let Ok(Found { made, .. }) = look(folder)
                {
                    // Perhaps another relay over this data has made it.
                    state.last = made.last().map(|(time, _)| *time);
                }
                state.failure = None;
                // Where another relay is at it, it is looked again whether it came to an end.
                let last = state.last.filter(|last| *last <= now && now - last < config.interval);
                next = last.map_or(now, |last| last + config.interval);
            }
            Err(BackupError::Stopped) => return,
            Err(error) => {
                tracing::error!("the backup failed: {error}");
                lock(&core.backup).failure = Some(error.to_string());
                next = now + AGAIN.min(config.interval);
            }
        }
    }
}
