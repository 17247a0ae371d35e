//! `ratite compact`: the database without its free pages, in the place of the old one.

use std::fs;
use std::ops::ControlFlow;
use std::time::Instant;

use clap::Args;

use super::backup::{checked, ensure_unused, kept_as, prepare, write};
use super::disk::{check_room, room};
use super::failure::{CLEAN, Failure, Outcome, things};
use super::globals::Globals;
use super::output::{print, print_json};
use super::progress::{Progress, announce};
use super::signals::Stop;
use super::{desk, text};
use crate::relay::{Compacted, copy_in};
use crate::server::{Neighbour, neighbours};
use crate::store::copy::{self, Copy};

/// Give free pages of the database back to the disk
#[derive(Args, Debug)]
#[command(
    long_about = "Write the database anew without its free pages, check it, and put it in the place of the old one, beside which it needs \
        room.\n\n\
        A relay that runs does it itself and loses no client: questions are answered all the time, publishers wait for a moment in the end, \
        while what came in meanwhile is carried over. No other command may use the database then; an import or a backup has to end \
        first.\n\n\
        This is seldom worth it: what is free is used again before the file grows. It is after much was deleted that will not come back.",
    after_help = "\
Examples:
  ratite info                          how much is free
  ratite compact                       whether the relay runs or not

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
    if let Some(relay) = neighbours(data).unwrap_or_default().into_iter().rfind(|relay| !relay.hands_over) {
        return online(args, globals, &relay, started);
    }
    ensure_unused(data)?;
    let (store, config) = globals.open_existing()?;
    let data = &config.storage.path;
    let file = data.join("data.mdb");
    let before = fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let commit = store.last_commit()?;
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
    tell(args, report.events, (before, after), started, None)
}

/// What the relay says of it.
#[derive(serde::Deserialize)]
enum Answer {
    #[serde(rename = "compacted")]
    Compacted(Compacted),
    #[serde(rename = "problem")]
    Problem(String),
}

/// Has the relay do it that runs over this data: nobody else can, for it would go on writing to the old file.
fn online(args: &CompactArgs, globals: &Globals, relay: &Neighbour, started: Instant) -> Outcome {
    let (store, config) = globals.open_existing()?;
    let (data, bytes) = (&config.storage.path, store.used_bytes()?);
    check_room(&data.join("data.mdb"), bytes)?;
    announce(&format!(
        "{}, about {}, are written anew by the relay beside its database, checked, and put in its place; publishers wait for a moment in the \
         end; {}",
        things(store.occupancy()?.events, "event"),
        text::size(bytes),
        room(data)
    ));
    // The relay must have it for itself.
    drop(store);
    let stop = Stop::on_signals();
    let mut progress = Progress::of_bytes("written", bytes);
    let answer = desk::ask_patiently(relay, "POST /compact", &mut || {
        let written = copy_in(data).and_then(|file| fs::metadata(file).ok()).map_or(0, |metadata| metadata.len());
        progress.at(written, written);
        if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    if stop.requested() && answer.is_err() {
        return Err(Failure::new("it was stopped", "The relay goes on with the file it had."));
    }
    let answer: Answer = serde_json::from_str(&answer?)
        .map_err(|error| Failure::new(format!("the relay's answer cannot be read: {error}"), ""))?;
    match answer {
        Answer::Problem(problem) => Err(Failure::new(
            format!("the relay in process {} could not compact its database: {problem}", relay.pid),
            "It goes on with the file it had.",
        )),
        Answer::Compacted(Compacted { events, bytes_before, bytes_after, paused_ms }) => {
            tell(args, events, (bytes_before, bytes_after), started, Some(paused_ms))
        }
    }
}

fn tell(
    args: &CompactArgs,
    events: u64,
    (before, after): (u64, u64),
    started: Instant,
    paused_ms: Option<f64>,
) -> Outcome {
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let mut report = serde_json::json!({
            "events": events,
            "bytes_before": before,
            "bytes_after": after,
            "seconds": (seconds * 1000.0).round() / 1000.0,
        });
        if let Some(paused_ms) = paused_ms {
            report["paused_ms"] = paused_ms.into();
        }
        print_json(&report)?;
        return Ok(CLEAN);
    }
    let paused = paused_ms.map_or_else(String::new, |ms| format!(", publishers waited {ms:.0} ms"));
    print(&format!(
        "{} in {}, before in {}, checked and in order, {seconds:.1} seconds{paused}\n",
        things(events, "event"),
        text::size(after),
        text::size(before)
    ))?;
    Ok(CLEAN)
}
