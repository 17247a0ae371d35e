//! `ratite delete`: removes stored events for the operator.

use clap::Args;

use super::failure::{CLEAN, Failure, Outcome, things};
use super::filters::{self, TimeRange};
use super::globals::Globals;
use super::output::{print, print_json};
use super::progress::Progress;
use super::time;
use super::walk::count;
use crate::nostr::Filter;
use crate::relay::{Relay, Settings};

/// Remove stored events
#[derive(Args, Debug)]
#[command(
    long_about = "Remove every stored event that matches; with a limit in the filter, the newest that many.\n\n\
        The relay may be running. Try --dry-run first: it only counts. Removed events are not remembered: they come back when \
        somebody publishes or imports them again. The file does not shrink, but what becomes free is used again.",
    after_help = format!("\
Examples:
  ratite delete --filter '{{\"kinds\":[7]}}' --until 90d --dry-run
  ratite delete --filter '{{\"authors\":[\"<64 hexadecimal digits>\"]}}'

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
    let store = globals.open_existing()?;
    if args.dry_run {
        let count = count(&store, filters)?;
        if args.json {
            print_json(&serde_json::json!({ "would_remove": count }))?;
        } else {
            print(&format!("{} would be removed\n", things(count, "event")))?;
        }
        return Ok(CLEAN);
    }
    let relay = Relay::start(store, Settings::from_config(&globals.load()?))?;
    let mut progress = Progress::new("events removed", None);
    let removed = relay.remove(filters, &mut |removed| progress.at(0, removed));
    drop(progress);
    relay.shutdown();
    let removed = removed?;
    if args.json {
        print_json(&serde_json::json!({ "removed": removed }))?;
    } else {
        print(&format!("{} removed\n", things(removed, "event")))?;
    }
    Ok(CLEAN)
}
