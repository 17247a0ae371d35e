//! Walks over stored events for a command, in slices that never pin the database while the output waits.

use std::ops::ControlFlow;
use std::process::ExitCode;

use super::failure::{CLEAN, Failure, LEFT_OUT, complain, things};
use super::progress::Progress as Shown;
use super::signals::Stop;
use super::time;
use crate::config::Policy;
use crate::nostr::Filter;
use crate::store::{Budget, Order, Progress, Record, Scan, Seq, Store};

/// A slice ends when it has this much text: nothing is written while the database is being read.
const SLICE_BYTES: usize = 1 << 20;

/// Places in a slice of the log.
const SLICE_EVENTS: Seq = 256;

/// Takes lines of JSON and the number of events so far; false ends the walk.
pub(super) type Take<'t> = dyn FnMut(&[u8], u64) -> Result<bool, Failure> + 't;

/// Lines of JSON on their way out.
struct Lines {
    text: Vec<u8>,
    count: u64,
    damaged: u64,
}

impl Lines {
    fn new() -> Lines {
        Lines { text: Vec::with_capacity(SLICE_BYTES + (SLICE_BYTES >> 2)), count: 0, damaged: 0 }
    }

    fn add(&mut self, record: &Record<'_>) -> ControlFlow<()> {
        let start = self.text.len();
        if record.write_json(&mut self.text) {
            self.text.push(b'\n');
            self.count += 1;
        } else {
            self.text.truncate(start);
            self.damaged += 1;
            tracing::error!("event {} is damaged and was left out", crate::nostr::EventFields::id(record));
        }
        if self.text.len() < SLICE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn walked(&self, store: &Store) -> Walked {
        Walked { count: self.count, damaged: self.damaged + store.damaged().len() as u64 }
    }
}

/// What a walk met.
pub(super) struct Walked {
    /// Events given out.
    pub(super) count: u64,
    /// Events that are stored but cannot be read.
    damaged: u64,
}

impl Walked {
    /// Tells of damaged events, and how the command ends.
    pub(super) fn end(&self) -> ExitCode {
        end(self.damaged)
    }
}

/// Tells that so many events are damaged, if any are, and how the command ends.
pub(super) fn end(damaged: u64) -> ExitCode {
    if damaged == 0 {
        return CLEAN;
    }
    complain(&format!("error: {} in the database could not be read and had to be left out", things(damaged, "event")));
    complain("       `ratite verify` tells more. To repair it, export and import into a new folder.");
    ExitCode::from(LEFT_OUT)
}

/// Gives `take` the matching events as lines of JSON, some at a time, with the number of events so far, until it says
/// stop.
pub(super) fn walk(
    store: &Store,
    policy: &Policy,
    filters: Vec<Filter>,
    order: Order,
    take: &mut Take<'_>,
) -> Result<Walked, Failure> {
    let mut scan = Scan::new(filters, order);
    let mut lines = Lines::new();
    loop {
        lines.text.clear();
        let now = policy.expiry_time(time::now());
        let progress = scan.run(store, now, Budget::COMMAND, &mut |record| lines.add(record))?;
        if !take(&lines.text, lines.count)? || progress == Progress::Done {
            break;
        }
    }
    Ok(lines.walked(store))
}

/// As [`walk`], in the order in which the database learned of the events, without asking an index or the time: what has expired and was
/// not removed yet comes too, and what the indices do not lead to any more. Limits of filters count from the first event.
pub(super) fn walk_log(store: &Store, mut filters: Vec<Filter>, take: &mut Take<'_>) -> Result<Walked, Failure> {
    let end = store.next_seq()?;
    let mut lines = Lines::new();
    let mut next: Seq = 0;
    while next < end {
        lines.text.clear();
        let slice = next..end.min(next + SLICE_EVENTS);
        next = slice.end;
        store.records(slice, &mut |seq, record| {
            let mut wanted = false;
            for filter in filters.iter_mut().filter(|filter| filter.limit != Some(0)) {
                if filter.matches(&record) {
                    wanted = true;
                    filter.limit = filter.limit.map(|limit| limit - 1);
                }
            }
            if wanted && lines.add(&record).is_break() {
                next = seq + 1;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if !take(&lines.text, lines.count)? {
            break;
        }
    }
    Ok(lines.walked(store))
}

/// The number of matching events.
pub(super) fn count(store: &Store, policy: &Policy, filters: Vec<Filter>, stop: &Stop) -> Result<u64, Failure> {
    let mut shown = Shown::new("events found", None);
    let mut scan = Scan::new(filters, Order::NewestFirst);
    let mut count = 0;
    loop {
        let progress = scan.run(store, policy.expiry_time(time::now()), Budget::COMMAND, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        if progress == Progress::Done {
            return Ok(count);
        }
        if stop.requested() {
            return Err(Failure::new("the search was stopped", "Run it again."));
        }
        shown.at(0, count);
    }
}
