//! `ratite compact`: the database without its free pages, in the place of the old one.

use std::fs;
use std::time::Instant;

use clap::Args;

use super::backup::{checked, ensure_unused, kept_as, prepare, write};
use super::disk::{check_room, room};
use super::failure::{CLEAN, Failure, Outcome, things};
use super::globals::Globals;
use super::output::{print, print_json};
use super::progress::announce;
use super::signals::Stop;
use super::text;
use crate::server::neighbours;
use crate::store::copy::{self, Copy};
use crate::store::{Occupancy, Store};

/// Give free pages of the database back to the disk
#[derive(Args, Debug)]
#[command(
    long_about = "Write the database anew without its free pages, check it, and put it in the place of the old one. Nobody may use it \
        meanwhile, so stop the relay first; the new file needs room beside the old one.\n\n\
        This is seldom worth it: what is free is used again before the file grows. It is after much was deleted that will not come back.",
    after_help = "\
Examples:
  ratite info                          how much is free
  ratite compact

Exit codes: 0 it is done, 1 it failed or was stopped, and nothing was changed."
)]
pub(super) struct CompactArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CompactArgs, globals: &Globals) -> Outcome {
    let started = Instant::now();
    let config = globals.load()?;
    let data = &config.storage.path;
    if let Some(relay) = neighbours(data).unwrap_or_default().first() {
        return Err(in_use(relay.pid, &globals.open_existing()?.0)?);
    }
    ensure_unused(data)?;
    let (store, config) = globals.open_existing()?;
    let data = &config.storage.path;
    let file = data.join("data.mdb");
    let before = fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let commit = store.last_commit();
    let bytes = store.used_bytes()?;
    copy::sweep(data);
    let folder = data.join(copy::COMPACTED);
    check_room(&folder, bytes)?;
    announce(&format!(
        "{}, about {}, are written anew beside the database, {}, checked, and put in its place; {}",
        things(store.occupancy()?.events, "event"),
        text::size(bytes),
        text::size(before),
        room(&folder)
    ));
    let stop = Stop::on_signals();
    let copy = write(store, Copy::begin(&folder)?, bytes, &stop)?;
    let report = checked(&copy, config.storage.map_size, false, &stop, "the new file")?;
    prepare(&copy, config.storage.map_size)?;
    let after = fs::metadata(copy.file()).map_or(0, |metadata| metadata.len());
    // Who came in the meantime has the old file open.
    ensure_unused(data)?;
    let kept = kept_as(data);
    copy::replace(data, copy, &kept)?;
    let failed = |error: &std::io::Error| {
        Failure::io(format!("{} cannot be moved", kept.display()), error, "It is the old database, whole and in order.")
    };
    if copy::last_commit(&kept) != Some(commit as u64) {
        fs::rename(&kept, &file).map_err(|error| failed(&error))?;
        return Err(Failure::new("somebody wrote to the database meanwhile", "Nothing was changed; run it again."));
    }
    fs::remove_file(&kept).map_err(|error| failed(&error))?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&serde_json::json!({
            "events": report.events,
            "bytes_before": before,
            "bytes_after": after,
            "seconds": (seconds * 1000.0).round() / 1000.0,
        }))?;
    } else {
        print(&format!(
            "{} in {}, before in {}, checked and in order, {seconds:.1} seconds\n",
            things(report.events, "event"),
            text::size(after),
            text::size(before)
        ))?;
    }
    Ok(CLEAN)
}

/// Why nothing is done while a relay runs, and what it would be good for. Whoever has the old file open would go on writing to it.
fn in_use(pid: u32, store: &Store) -> Result<Failure, Failure> {
    let Occupancy { file_bytes, free_bytes, .. } = store.occupancy()?;
    Ok(Failure::new(
        format!("a relay uses {}: process {pid}", store.path().display()),
        format!(
            "Stop it, run this again, and start it: meanwhile {} are copied and read once more. It can wait: of the file, {} are free, \
             and they are used again before it grows.",
            text::size(file_bytes - free_bytes.min(file_bytes)),
            text::size(free_bytes)
        ),
    ))
}
