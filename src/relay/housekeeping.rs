//! What is looked after all the time, by a thread of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::queue::{Task, ToWriter};
use super::{Core, trouble};
use crate::store::Store;

/// Looks around ten times a second: other processes' commits are to be delivered soon, expired events to be removed
/// soon, a failure to write noticed when it is over, readers of dead processes cleared now and then. `seen` is the last commit that
/// what the core knows of the database rests on.
pub(super) fn run(core: &Arc<Core>, stop: Receiver<()>, mut seen: usize) {
    const LOOK: Duration = Duration::from_millis(100);
    let (mut swept_at, mut counted) = (0, false);
    let (mut measured, mut held) = (None, None);
    for tick in 0u64.. {
        match stop.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        let commit = core.store().last_commit().unwrap_or_else(|error| {
            // Who looks for expired events below says the same aloud, and not ten times a second.
            tracing::debug!("looking for new commits failed: {error}");
            seen
        });
        if commit != seen {
            seen = commit;
            core.live.look();
            match core.moderation.refresh(&core.store()) {
                Ok(true) => core.unpublished.store(true, Relaxed),
                Ok(false) => {}
                Err(error) => tracing::warn!("reading the operator's lists failed: {error}"),
            }
        }
        let time = core.settings().clock.now();
        core.pulse.tick(time, core.figures.events.taken());
        if core.trouble.tick(time) == trouble::Say::WorksAgain {
            tracing::info!("writing to the database works again");
        }
        // Every second when something was written, and now and then because others use the disk as well.
        if tick % 10 == 0 && (measured != Some(commit) || tick % 100 == 0) {
            measured = Some(commit);
            match core.store().occupancy() {
                Ok(occupancy) => core.pulse.occupied(occupancy),
                Err(error) => tracing::warn!("measuring the database failed: {error}"),
            }
        }
        // A look at each kind that is stored, of which there may be thousands.
        if tick % 100 == 0 && held != Some(commit) {
            held = Some(commit);
            match core.store().info() {
                Ok(info) => core.pulse.holds(info.into()),
                Err(error) => tracing::warn!("reading what is stored failed: {error}"),
            }
        }
        let now = core.settings().expiry_time();
        if now != swept_at {
            swept_at = now;
            match core.store().has_expired(now) {
                Ok(true) => drop(core.writer.send(ToWriter::Sweep)),
                Ok(false) => {}
                Err(error) => tracing::warn!("looking for expired events failed: {error}"),
            }
        }
        // A database of an older program has no statistics yet, or such as do not count any more.
        if !counted || tick % 600 == 599 {
            counted = core.write(Store::count_statistics).unwrap_or_else(|error| {
                tracing::debug!("counting what is stored failed: {error}");
                true
            });
        }
        if tick % 10 == 4 && core.members().is_some() && core.unpublished.swap(false, Relaxed) {
            let _ = core.writer.send(ToWriter::Lists { task: Task::Publish, done: Box::new(|_| ()) });
        }
        if tick % 10 == 9 && core.write_failure().is_some() {
            let _ = core.writer.send(ToWriter::Probe);
        }
        if tick % 600 == 599
            && let Err(error) = core.store().clear_stale_readers()
        {
            tracing::warn!("clearing stale readers failed: {error}");
        }
    }
}
