//! `ratite delete`: removes stored events for the operator.

use std::ops::ControlFlow;

use clap::Args;

use super::failure::{Failure, Outcome, things};
use super::filters::{self, TimeRange};
use super::globals::Globals;
use super::output::{print, print_json};
use super::progress::{self, Progress, announce};
use super::signals::Stop;
use super::time;
use super::walk::{count, end};
use crate::config::Backup;
use crate::nostr::Filter;
use crate::relay::{Relay, Settings};

/// Remove stored events
#[derive(Args, Debug)]
#[command(
    long_about = "Remove every stored event that matches; with a limit in the filter, the newest that many.\n\n\
        The relay may be running. Try --dry-run first: it only counts. Removed events are not remembered: they come back when \
        somebody publishes or imports them again. The file does not shrink, but what becomes free is used again. Stopped \
        half-way, it can simply be run again.",
    after_help = format!("\
Examples:
  ratite delete --filter '{{\"kinds\":[7]}}' --until 90d --dry-run
  ratite delete --filter '{{\"authors\":[\"<64 hexadecimal digits>\"]}}'

Exit codes: 0 all of them are gone, 2 damaged events were passed over, 1 it failed or was stopped.

{}", time::TIMES_HELP)
)]
pub(super) struct DeleteArgs {
    /// Which events: a filter as in NIP-01, or a JSON list of filters
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    #[command(flatten)]
    range: TimeRange,
    /// Only say how many events would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DeleteArgs, globals: &Globals) -> Outcome {
    let mut filters = match &args.filter {
        Some(text) => filters::parse(std::slice::from_ref(text))?,
        None if args.range.is_empty() => {
            return Err(Failure::new(
                "nothing says which events to remove",
                "Select them with --filter, --since or --until; add --dry-run to only count them.",
            ));
        }
        None => vec![Filter::default()],
    };
    args.range.apply(&mut filters);
    let (store, config) = globals.open_existing()?;
    let stop = Stop::on_signals();
    if args.dry_run {
        let count = count(&store, &config.policy, filters, &stop)?;
        if args.json {
            print_json(&serde_json::json!({ "would_remove": count }))?;
        } else {
            print(&format!("{} would be removed\n", things(count, "event")))?;
        }
        return Ok(end(store.damaged().len() as u64));
    }
    // To find them takes little of the time that removing them takes.
    let total = match progress::is_shown() {
        true => Some(count(&store, &config.policy, filters.clone(), &stop)?),
        false => None,
    };
    if let Some(total) = total {
        announce(&format!("{} will be removed, in small steps; the file does not grow", things(total, "event")));
    }
    let relay = Relay::start(
        store.clone(),
        Settings { unattended: false, backup: Backup::default(), ..Settings::from_config(&config) },
    )?;
    let mut progress = Progress::new("events removed", total.map(|total| total.max(1)));
    let mut complete = true;
    let removed = relay.remove(filters, &mut |removed| {
        progress.at(removed, removed);
        complete = !stop.requested();
        if complete { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    drop(progress);
    relay.shutdown();
    let removed = removed?;
    if args.json {
        print_json(&serde_json::json!({ "removed": removed, "complete": complete }))?;
    } else {
        print(&format!("{} removed\n", things(removed, "event")))?;
    }
    if !complete {
        return Err(Failure::new("the removal was stopped", "Run it again to continue."));
    }
    Ok(end(store.damaged().len() as u64))
}
