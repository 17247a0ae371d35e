//! `ratite info`: what is in the database, and whether it is in order.

use std::path::Path;

use clap::Args;

use super::failure::{CLEAN, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use super::{text, time, verify};
use crate::store::{StoreInfo, VerifyReport};

/// Show what is in the database
#[derive(Args, Debug)]
#[command(
    long_about = "Show what is in the database: events, bytes in each table, free pages, schema version, oldest and newest event.\n\n\
        The relay may be running.",
    after_help = "\
Examples:
  ratite info
  ratite info --json | jq .events
  ratite info --verify

With --verify the exit code is 1 when something is wrong."
)]
pub(super) struct InfoArgs {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Also compare every table with every other; takes time with a large database
    #[arg(long)]
    verify: bool,
}

pub(super) fn run(args: &InfoArgs, globals: &Globals) -> Outcome {
    let (store, _) = globals.open_existing()?;
    let report = if args.verify { Some(store.verify()?) } else { None };
    // What can be asked of a file with damaged pages is uncertain, so nothing is.
    let sound = report.as_ref().is_none_or(|report| report.pages_are_sound);
    let info = if sound { Some(store.info()?) } else { None };
    if args.json {
        let path = store.path().display().to_string();
        print_json(&Json { path, info: info.as_ref(), verify: report.as_ref() })?;
    } else {
        print(&show(store.path(), info.as_ref(), report.as_ref()))?;
    }
    Ok(report.map_or(CLEAN, |report| verify::end(&report)))
}

#[derive(serde::Serialize)]
struct Json<'a> {
    path: String,
    #[serde(flatten)]
    info: Option<&'a StoreInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<&'a VerifyReport>,
}

fn show(path: &Path, info: Option<&StoreInfo>, report: Option<&VerifyReport>) -> String {
    let mut out = format!("{:<16}{}\n", "data", path.display());
    if let Some(info) = info {
        show_info(info, &mut out);
    }
    if let Some(report) = report {
        out.push('\n');
        out.push_str(&verify::tell(report));
    }
    out
}

fn show_info(info: &StoreInfo, out: &mut String) {
    let mut row = |name: &str, value: String| out.push_str(&format!("{name:<16}{value}\n"));
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TableInfo;

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
        };
        let mut report = VerifyReport { pages_are_sound: true, events: 12_000, entries: 50_000, faults: Vec::new() };
        let text = show(Path::new("./data"), Some(&info), Some(&report));
        for line in [
            "data            ./data",
            "schema version  1",
            "events          12,000",
            "oldest          1970-01-01T00:00:00Z",
            "newest          2023-11-14T22:13:20Z",
            "file            12.0 MiB, of which 1.0 MiB are free for new events",
            "per event       961 bytes",
            "events                  12,000       8.0 MiB",
            "12,000 events and 50,000 index entries checked: everything is in order",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        report.faults.push("an entry without its event".to_owned());
        assert!(show(Path::new("."), Some(&info), Some(&report)).ends_with("checked:\n  an entry without its event\n"));
        report.pages_are_sound = false;
        let text = show(Path::new("."), None, Some(&report));
        assert!(text.starts_with("data            .\n\npages of the file are damaged"), "{text}");
    }
}
