//! Walks over stored events for a command, in slices that never pin the database while the output waits.

use std::ops::ControlFlow;

use super::failure::Failure;
use super::time;
use crate::nostr::Filter;
use crate::store::{Budget, Order, Progress, Scan, Store};

/// A slice ends when it has this much text: nothing is written while the database is being read.
const SLICE_BYTES: usize = 1 << 20;

/// Takes lines of JSON and the number of events so far; false ends the walk.
pub(super) type Take<'t> = dyn FnMut(&[u8], u64) -> Result<bool, Failure> + 't;

/// Gives `take` the matching events as lines of JSON, some at a time, with the number of events so far, until it says
/// stop. Returns the number of events.
pub(super) fn walk(store: &Store, filters: Vec<Filter>, order: Order, take: &mut Take<'_>) -> Result<u64, Failure> {
    let mut scan = Scan::new(filters, order);
    let mut lines = Vec::with_capacity(SLICE_BYTES + (SLICE_BYTES >> 2));
    let mut count = 0;
    let mut damaged = 0u64;
    loop {
        lines.clear();
        let progress = scan.run(store, time::now(), Budget::COMMAND, &mut |record| {
            let start = lines.len();
            if record.write_json(&mut lines) {
                lines.push(b'\n');
                count += 1;
            } else {
                lines.truncate(start);
                damaged += 1;
            }
            if lines.len() < SLICE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !take(&lines, count)? || progress == Progress::Done {
            break;
        }
    }
    if damaged > 0 {
        return Err(Failure::new(
            format!("{damaged} of the stored events are damaged and were left out"),
            "`ratite info --verify` tells more; import the output into a new folder.",
        ));
    }
    Ok(count)
}

/// The number of matching events.
pub(super) fn count(store: &Store, filters: Vec<Filter>) -> Result<u64, Failure> {
    let mut scan = Scan::new(filters, Order::NewestFirst);
    let mut count = 0;
    loop {
        let progress = scan.run(store, time::now(), Budget::COMMAND, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        if progress == Progress::Done {
            return Ok(count);
        }
    }
}
