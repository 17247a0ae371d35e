//! `ratite verify`: whether the database is in order.

use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;

use super::failure::{CLEAN, FAILED, Failure, Outcome, RESCUE, complain, things};
use super::globals::Globals;
use super::output::{print, print_json};
use super::progress::{Progress, announce};
use super::signals::Stop;
use super::text;
use crate::store::{Stage, Store, Verified, VerifyReport};

/// Check that the database is in order
#[derive(Args, Debug)]
#[command(
    long_about = "Compare every table of the database with every other: each event with its id and with its entries in every index, each \
        entry with its event, replaced versions and deleted events with those that are there. With --deep, signatures too.\n\n\
        The relay may be running. Nothing is written, so no room is needed; but what others free while this runs is used again only \
        after it.",
    after_help = "\
Examples:
  ratite verify
  ratite verify --deep --json

Exit codes: 0 everything is in order, 1 something is wrong, or it was stopped."
)]
pub(super) struct VerifyArgs {
    /// Check signatures as well, on all cores
    #[arg(long)]
    deep: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs, globals: &Globals) -> Outcome {
    let (store, _) = globals.open_existing()?;
    let signatures = if args.deep { ", and every signature is checked" } else { "" };
    announce(&format!(
        "{} in {} are read and every table is compared with every other{signatures}; nothing is written, no room is needed",
        text::size(store.used_bytes()?),
        store.path().display()
    ));
    let report = check(&store, args.deep, &Stop::on_signals())?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&tell(&report))?;
    }
    Ok(end(&report))
}

/// Checks a database and shows how far it is.
pub(super) fn check(store: &Store, signatures: bool, stop: &Stop) -> Result<VerifyReport, Failure> {
    let mut shown: Option<(Stage, Progress)> = None;
    let report = store.verify_with(signatures, &mut |Verified { stage, done, total }| {
        if shown.as_ref().is_none_or(|(at, _)| *at != stage) {
            // The line of the last stage goes before there is another.
            shown = None;
        }
        let (_, progress) = shown.get_or_insert_with(|| (stage, Progress::new(name(stage), Some(total.max(1)))));
        progress.at(done.min(total), done);
        if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    drop(shown);
    report.ok_or_else(|| Failure::new("the check was stopped", "Nothing was changed; run it again."))
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Pages => "pages checked",
        Stage::Events => "events checked",
        Stage::Entries => "index entries checked",
    }
}

/// What a check found, for people.
fn tell(report: &VerifyReport) -> String {
    let mut out = if report.pages_are_sound {
        let entries = text::number(report.entries);
        let end = if report.faults.is_empty() { ": everything is in order" } else { ":" };
        format!("{} and {entries} index entries checked{end}\n", things(report.events, "event"))
    } else {
        "pages of the file are damaged, so no more could be checked:\n".to_owned()
    };
    report.faults.iter().for_each(|fault| out.push_str(&format!("  {fault}\n")));
    out
}

/// Tells that something is wrong, if it is, and what to do; returns how the command ends.
fn end(report: &VerifyReport) -> ExitCode {
    if report.faults.is_empty() {
        return CLEAN;
    }
    complain(&format!("error: the database has {}", things(report.faults.len() as u64, "fault")));
    complain(&format!("       {RESCUE}"));
    ExitCode::from(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told() {
        let mut report = VerifyReport { pages_are_sound: true, events: 12_000, entries: 50_000, faults: Vec::new() };
        assert_eq!(tell(&report), "12,000 events and 50,000 index entries checked: everything is in order\n");
        report.faults.push("an entry without its event".to_owned());
        assert!(tell(&report).ends_with("checked:\n  an entry without its event\n"));
        report.pages_are_sound = false;
        assert!(tell(&report).starts_with("pages of the file are damaged"));
    }
}
