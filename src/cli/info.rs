//! `ratite info`: what is in the database.

use std::path::Path;

use clap::Args;

use super::failure::{CLEAN, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use super::{text, time};
use crate::store::StoreInfo;

/// Show what is in the database
#[derive(Args, Debug)]
#[command(
    long_about = "Show what is in the database: events, bytes in each table, free pages, schema version, oldest and newest event.\n\n\
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
    out
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
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
