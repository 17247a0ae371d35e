//! `ratite scan`: what a client would get for these filters.

use clap::Args;

use super::failure::{Failure, Outcome};
use super::filters::{self, TimeRange};
use super::globals::Globals;
use super::output::{Output, print, print_json};
use super::signals::Stop;
use super::time;
use super::walk::{count, end, walk};
use crate::store::Order;

/// Ask the database as a client would
#[derive(Args, Debug)]
#[command(
    long_about = "Ask the database as a client would: prints the events that match any of the filters, newest first, each event once and each \
        filter up to its own limit. The limits of the configuration do not apply.\n\n\
        The relay may be running.",
    after_help = format!("\
Examples:
  ratite scan '{{\"kinds\":[1],\"limit\":10}}'
  ratite scan '{{\"#t\":[\"nostr\"]}}' --since 7d
  ratite scan --count '{{\"kinds\":[3]}}' '{{\"kinds\":[10002]}}'

Exit codes: 0 that is all, 2 damaged events had to be left out, 1 it failed or was stopped.

{}", time::TIMES_HELP)
)]
pub(super) struct ScanArgs {
    /// Filters as in NIP-01: JSON objects, or lists of them
    #[arg(value_name = "FILTER", required = true)]
    filters: Vec<String>,
    #[command(flatten)]
    range: TimeRange,
    /// Print only how many there are
    #[arg(long)]
    count: bool,
    /// Print the count as JSON; events always are
    #[arg(long, requires = "count")]
    json: bool,
}

pub(super) fn run(args: &ScanArgs, globals: &Globals) -> Outcome {
    let mut filters = filters::parse(&args.filters)?;
    args.range.apply(&mut filters);
    let (store, config) = globals.open_existing()?;
    let stop = Stop::on_signals();
    if args.count {
        let count = count(&store, &config.policy, filters, &stop)?;
        if args.json {
            print_json(&serde_json::json!({ "count": count }))?;
        } else {
            print(&format!("{count}\n"))?;
        }
    } else {
        let mut output = Output::stdout();
        let mut take = |lines: &[u8], _| output.write(lines).map(|()| !stop.requested());
        let walked = walk(&store, &config.policy, filters, Order::NewestFirst, &mut take)?;
        output.finish()?;
        if stop.requested() {
            return Err(Failure::new("the scan was stopped", "Run it again."));
        }
        return Ok(walked.end());
    }
    Ok(end(store.damaged().len() as u64))
}
