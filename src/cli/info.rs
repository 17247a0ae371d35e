//! `ratite info`: what is in the database.

use std::path::Path;

use clap::Args;

use super::failure::{CLEAN, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use super::{text, time};
use crate::store::{KindInfo, RetentionReport, StoreInfo};

/// So many kinds are shown, those with the most events; `--json` has all.
const KINDS: usize = 15;

/// Show what is in the database
#[derive(Args, Debug)]
#[command(
    long_about = "Show what is in the database: events, also by kind, bytes in each table, free pages, schema version, oldest and newest event. \
        Nothing has to be searched for that, however much is stored: counters are kept.\n\n\
        The relay may be running.",
    after_help = "\
Examples:
  ratite info
  ratite info --json | jq .events

`ratite verify` tells whether it is in order."
)]
pub(super) struct InfoArgs {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InfoArgs, globals: &Globals) -> Outcome {
    let (store, _) = globals.open_existing()?;
    let info = store.info()?;
    if args.json {
        print_json(&Json { path: store.path().display().to_string(), info: &info })?;
    } else {
        print(&show(store.path(), &info))?;
    }
    Ok(CLEAN)
}

#[derive(serde::Serialize)]
struct Json<'a> {
    path: String,
    #[serde(flatten)]
    info: &'a StoreInfo,
}

fn show(path: &Path, info: &StoreInfo) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| out.push_str(&format!("{name:<16}{value}\n"));
    row("data", path.display().to_string());
    row("schema version", info.schema_version.to_string());
    row("events", text::number(info.events));
    if let (Some(oldest), Some(newest)) = (info.oldest, info.newest) {
        row("oldest", time::show(oldest));
        row("newest", time::show(newest));
    }
    row(
        "file",
        format!("{}, of which {} are free for new events", text::size(info.file_bytes), text::size(info.free_bytes)),
    );
    if let Some(bytes) = info.file_bytes.saturating_sub(info.free_bytes).checked_div(info.events) {
        row("per event", text::size(bytes));
    }
    out.push('\n');
    let mut table =
        |name: &str, entries: &str, size: &str| out.push_str(&format!("{name:<16}{entries:>14}{size:>14}\n"));
    table("table", "entries", "size");
    for known in &info.tables {
        table(known.name, &text::number(known.entries), &text::size(known.bytes));
    }
    if !info.statistics.kinds.is_empty() {
        table("", "", "");
        table("kind", "events", "size");
    }
    let (shown, more) = info.statistics.kinds.split_at(info.statistics.kinds.len().min(KINDS));
    for kind in shown {
        table(&kind.kind.to_string(), &text::number(kind.events), &text::size(kind.bytes));
    }
    if !more.is_empty() {
        let sum = |of: fn(&KindInfo) -> u64| more.iter().map(of).sum::<u64>();
        let events = text::number(sum(|kind| kind.events));
        table(&format!("{} more", more.len()), &events, &text::size(sum(|kind| kind.bytes)));
    }
    if !info.statistics.complete {
        out.push_str("The events by kind are still being counted; a running relay does that.\n");
    }
    if let Some(report) = &info.retention {
        out.push_str(&retention(report));
    }
    out.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What the rules of retention let go, and what they have removed.
fn retention(report: &RetentionReport) -> String {
    let mut out = String::from("\n");
    let width = report.rules.iter().map(|rule| rule.rule.chars().count()).max().unwrap_or(0).max(14) + 2;
    let mut row = |rule: &str, numbers: [&str; 4]| {
        out.push_str(&format!("{rule:<width$}"));
        numbers.iter().for_each(|number| out.push_str(&format!("{number:>14}")));
        out.push('\n');
    };
    row("retention", ["to go", "size", "gone so far", "size"]);
    for rule in &report.rules {
        let (due, removed) = (&rule.due, &rule.removed);
        row(
            &rule.rule,
            [
                &text::number(due.events),
                &text::size(due.bytes),
                &text::number(removed.events),
                &text::size(removed.bytes),
            ],
        );
    }
    if report.at > 0 {
        out.push_str(&format!("as of {}\n", time::show(report.at)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Amount, RuleReport, Statistics, TableInfo};

    #[test]
    fn everything_is_shown() {
        let info = StoreInfo {
            events: 12_000,
            next_seq: 12_001,
            schema_version: 1,
            file_bytes: 12 << 20,
            free_bytes: 1 << 20,
            oldest: Some(0),
            newest: Some(1_700_000_000),
            tables: vec![TableInfo { name: "events", entries: 12_000, bytes: 8 << 20 }],
            statistics: Statistics {
                kinds: (1..=17).map(|kind| KindInfo { kind, events: 5000, bytes: 3 << 20 }).collect(),
                complete: false,
            },
            retention: Some(RetentionReport {
                at: 1_700_000_000,
                rules: vec![RuleReport {
                    rule: "7: 90d".into(),
                    due: Amount { events: 1000, bytes: 1 << 20 },
                    removed: Amount::default(),
                }],
            }),
        };
        let text = show(Path::new("./data"), &info);
        for line in [
            "data            ./data",
            "schema version  1",
            "events          12,000",
            "oldest          1970-01-01T00:00:00Z",
            "newest          2023-11-14T22:13:20Z",
            "file            12.0 MiB, of which 1.0 MiB are free for new events",
            "per event       961 bytes",
            "events                  12,000       8.0 MiB",
            "15                       5,000       3.0 MiB",
            "2 more                  10,000       6.0 MiB",
            "7: 90d                   1,000       1.0 MiB             0       0 bytes",
            "as of 2023-11-14T22:13:20Z",
            "The events by kind are still being counted; a running relay does that.",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
