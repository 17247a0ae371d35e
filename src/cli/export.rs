//! `ratite export`: stored events as JSONL, oldest first, for backups and for other relays.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Failure, Outcome, complain, things};
use super::filters::{self, TimeRange};
use super::globals::Globals;
use super::output::Output;
use super::progress::Progress;
use super::signals::Stop;
use super::time;
use super::walk::{walk, walk_log};
use crate::nostr::Filter;
use crate::store::Order;

/// Write stored events as JSONL
#[derive(Args, Debug)]
#[command(
    long_about = "Write stored events as JSONL, one event in each line, oldest first.\n\n\
        The relay may be running. A file that is named with -o appears under its name only when it is complete. Events that have \
        expired (NIP-40) are left out, as for every client; they are in the database for a moment only, until they are \
        removed. Events that are damaged are left out, named and counted.",
    after_help = format!("\
Examples:
  ratite export -o backup.jsonl.zst
  ratite export --since 7d | ratite --data /srv/other import
  ratite export --filter '{{\"kinds\":[0,3,10002]}}' -o profiles.jsonl.gz
  ratite export --reverse | head -n 100

Exit codes: 0 everything is written, 2 damaged events were left out, 1 the export failed or was stopped.

{}", time::TIMES_HELP)
)]
pub(super) struct ExportArgs {
    /// Only events that match: a filter as in NIP-01, or a JSON list of filters
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    #[command(flatten)]
    range: TimeRange,
    /// Newest first
    #[arg(long)]
    reverse: bool,
    /// Everything as it is stored, in the order of arrival: also what has expired, and what a damaged index no longer leads to
    #[arg(long, conflicts_with = "reverse")]
    as_stored: bool,
    /// Write to this file, compressed when it ends in .gz or .zst, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &ExportArgs, globals: &Globals) -> Outcome {
    let mut filters = match &args.filter {
        Some(text) => filters::parse(std::slice::from_ref(text))?,
        None => vec![Filter::default()],
    };
    args.range.apply(&mut filters);
    let (store, config) = globals.open_existing()?;
    let mut output = match &args.output {
        Some(path) => Output::file(path)?,
        None => Output::stdout(),
    };
    let order = if args.reverse { Order::NewestFirst } else { Order::OldestFirst };
    // How many match is not known, how many there are is.
    let everything = args.filter.is_none() && args.range.is_empty();
    let total = if everything { Some(store.occupancy()?.events.max(1)) } else { None };
    // With events going to the terminal a line of progress would only get between them.
    let mut progress = args.output.is_some().then(|| Progress::new("events", total));
    let stop = Stop::on_signals();
    let mut complete = true;
    let mut take = |lines: &[u8], count| {
        output.write(lines)?;
        if let Some(progress) = &mut progress {
            progress.at(count, count);
        }
        complete = !stop.requested();
        Ok(complete)
    };
    let walked = match args.as_stored {
        true => walk_log(&store, filters, &mut take),
        false => walk(&store, &config.policy, filters, order, &mut take),
    }?;
    drop(progress);
    if !complete {
        let next =
            if args.output.is_some() { "Run it again; the unfinished file was removed." } else { "Run it again." };
        return Err(Failure::new("the export was stopped", next));
    }
    output.finish()?;
    if let Some(path) = args.output.as_ref().filter(|path| path.as_os_str() != "-") {
        complain(&format!("{} written to {}", things(walked.count, "event"), path.display()));
    }
    Ok(walked.end())
}
