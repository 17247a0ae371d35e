//! `ratite import`: events from JSONL into the database, verified on all cores, while the relay may be running.
//!
//! Three things go on at once: one thread reads and cuts chunks of lines, all cores parse and verify the chunk before it, the
//! relay's writer stores what came before that. A bad line is counted and shown and never stops the run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use crossbeam_channel::{Receiver, Sender};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::value::RawValue;

use super::disk::{free_bytes, room};
use super::failure::{CLEAN, FAILED, Failure, LEFT_OUT, Outcome, complain, things};
use super::globals::Globals;
use super::input::{self, Chunk, Gauges, Line, Lines, MAX_LINE_BYTES, Next, Source};
use super::output::{self, Output};
use super::progress::{Progress, announce};
use super::resume::{self, Reading};
use super::signals::Stop;
use super::text;
use crate::config::Backup;
use crate::relay::{self, Bulk, Relay, Settings};
use crate::server::neighbours;
use crate::store::Store;

/// With less on the disk, an import commits early and often: what does not fit any more is little.
const ROOM: u64 = 1 << 30;

/// Refused lines that are shown when nobody asked for a file of them.
const SHOWN: u64 = 10;

/// Bring events into the database
#[derive(Args, Debug)]
#[command(
    long_about = "Bring events into the database.\n\n\
        Reads JSONL: one event in each line, as `ratite export`, strfry and most other relays write it; also a JSON list of events, \
        messages such as [\"EVENT\",{...}], and the SQLite database of nostr-rs-relay, of which that relay must be stopped. Ids and \
        signatures are checked on all cores. A bad line is counted and never stops the run. The relay may be running: it delivers the \
        new events to its clients at once.\n\n\
        An import of files that was stopped, or killed, goes on where it was when it is run again. Otherwise running an import again \
        does no harm: what is there already is passed over.",
    after_help = "\
Examples:
  ratite import events.jsonl
  ratite import backup-*.jsonl.zst --rejects refused.jsonl
  ratite import nostr.db               the database of nostr-rs-relay
  strfry export | ratite import

Exit codes: 0 everything is in, 2 some lines were refused, 1 the import failed or was stopped, or a file could not be read
to its end (the files after it are read all the same).

--rejects writes one JSON object for each refused line, with the members file, line, reason
and event, the text of the line: `jq -r .event refused.jsonl` brings the lines back."
)]
pub(super) struct ImportArgs {
    /// Files to read: JSONL, also compressed with gzip or Zstandard, or an SQLite database; - or nothing for standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Trust the source: check neither ids nor signatures. Only for dumps of your own relay
    #[arg(long)]
    no_verify: bool,
    /// Read files from their beginning, also where an import of them was stopped
    #[arg(long)]
    from_start: bool,
    /// Write the refused lines and the reasons to this file; it is replaced if it exists
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// What an import did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    /// Lines that were not blank.
    read: u64,
    /// Lines that an import had read before it was stopped, and this one did not read again.
    read_before: u64,
    /// Stored now.
    new: u64,
    /// Stored before.
    already_there: u64,
    /// Passed over because a newer version is stored.
    replaced: u64,
    /// Passed over because the author had them deleted.
    deleted_earlier: u64,
    /// Passed over because their time is up (NIP-40).
    expired: u64,
    /// Passed over because their kind is never stored.
    ephemeral: u64,
    /// Kept hidden by the other relay, because they were deleted there.
    hidden: u64,
    /// Malformed, forged or against a rule.
    refused: u64,
    /// Whether the import was stopped or failed before its end.
    complete: bool,
}

impl Summary {
    fn text(&self, seconds: f64) -> String {
        let mut text = String::new();
        let mut row = |name: &str, count: u64| text.push_str(&format!("{name:<16}{:>14}\n", text::number(count)));
        if self.read_before > 0 {
            row("read before", self.read_before);
        }
        row("read", self.read);
        row("new", self.new);
        row("already there", self.already_there);
        row("replaced", self.replaced);
        row("deleted earlier", self.deleted_earlier);
        // Most dumps have none of these, and then nobody needs to wonder what they are.
        if self.expired > 0 {
            row("expired", self.expired);
        }
        if self.ephemeral > 0 {
            row("ephemeral", self.ephemeral);
        }
        if self.hidden > 0 {
            row("hidden", self.hidden);
        }
        row("refused", self.refused);
        let speed = (self.read as f64 / seconds.max(0.001)) as u64;
        text.push_str(&format!("{seconds:.1} seconds, {} events per second\n", text::number(speed)));
        text
    }
}

pub(super) fn run(args: &ImportArgs, globals: &Globals) -> Outcome {
    let config = globals.load()?;
    let sources = input::sources(&args.files)?;
    let rejects = Rejects::open(args.rejects.as_deref(), &sources)?;
    let store = Store::open(&config.storage.path, config.storage.map_size)?;
    let readings = match args.from_start {
        true => resume::begin_anew(&store, sources)?,
        false => resume::look_up(&store, sources, args.rejects.is_some())?,
    };
    let data = &config.storage.path;
    let left = |reading: &Reading| {
        input::total_bytes(std::slice::from_ref(&reading.source)).map(|size| size.saturating_sub(reading.from.consumed))
    };
    if let Some(bytes) = readings.iter().map(left).sum::<Option<u64>>() {
        announce(&format!(
            "{} are read into {}, which takes up to as much room, and more when they are packed; {}",
            text::size(bytes),
            data.display(),
            room(data)
        ));
        if free_bytes(data).is_some_and(|free| free < bytes) {
            complain(&format!(
                "warning: {} has less room than that: where it is full the import ends, and goes on when it is run again",
                data.display()
            ));
        }
    }
    let roomy = free_bytes(data).is_none_or(|free| free >= ROOM);
    let alone = roomy && neighbours(data).is_ok_and(|relays| relays.is_empty());
    // What is too old may be imported, and goes when a relay runs; but an import keeps below the ceiling too.
    let mut settings = Settings { alone, ..Settings::from_config(&config) };
    settings.retention.config.rules.clear();
    settings.backup = Backup::default();
    let relay = Relay::start(store.clone(), settings)?;

    let stop = Stop::on_signals();
    let started = Instant::now();
    let mut import = Import {
        bulk: relay.bulk(args.no_verify),
        summary: Summary { read_before: readings.iter().map(|reading| reading.read).sum(), ..Summary::default() },
        refused_before: readings.iter().map(|reading| reading.refused).sum(),
        readings,
        rejects,
        faults: Vec::new(),
    };
    let result = import.read_all(&stop);
    // What was handed over is on its way to the disk in any case: it belongs to the summary.
    let result = import.settle().and(result);
    let Import { mut summary, rejects, faults, bulk, readings, refused_before } = import;
    drop(bulk);
    relay.shutdown();
    // What came to its end is not gone on with.
    let result = match result {
        Ok(true) => resume::forget(&store, &readings).map(|()| true),
        other => other,
    };
    summary.complete = matches!(result, Ok(true)) && faults.is_empty();
    let rejects = rejects.finish();
    if args.json {
        output::print_json(&summary)?;
    } else {
        output::print(&summary.text(started.elapsed().as_secs_f64()))?;
    }
    if summary.complete && summary.read + summary.read_before + summary.hidden == 0 {
        complain("warning: there was nothing to read; what was to write it may have failed");
    }
    // Each of these is worth knowing.
    let faults: Vec<Failure> = rejects.err().into_iter().chain(faults).collect();
    let faulty = !faults.is_empty();
    for fault in faults {
        fault.report();
    }
    match result {
        Err(failure) => Err(failure),
        Ok(false) => {
            let next = match readings.iter().all(|reading| reading.key.is_some()) {
                true => "Run it again to go on from there.",
                false => "Run it again to continue; what is in is passed over.",
            };
            Err(Failure::new("the import was stopped", next))
        }
        Ok(true) if faulty => Ok(ExitCode::from(FAILED)),
        Ok(true) if summary.refused + refused_before > 0 => Ok(ExitCode::from(LEFT_OUT)),
        Ok(true) => Ok(CLEAN),
    }
}

struct Import {
    bulk: Bulk,
    /// The sources, by their numbers in [`Line::source`].
    readings: Vec<Reading>,
    /// Lines that earlier imports refused, which this one goes on with.
    refused_before: u64,
    summary: Summary,
    rejects: Rejects,
    /// Why sources could not be read to their end.
    faults: Vec<Failure>,
}

impl Import {
    /// Reads everything. False when the user wanted to stop.
    fn read_all(&mut self, stop: &Stop) -> Result<bool, Failure> {
        let unread: Vec<usize> = (0..self.readings.len()).filter(|n| !self.readings[*n].from.is_end).collect();
        let sources: Vec<Source> = unread.iter().map(|n| self.readings[*n].source.clone()).collect();
        let positions = unread.iter().map(|n| self.readings[*n].from);
        // Where somebody types, a line that redraws itself would be in the way.
        let shown = !input::from_terminal(&sources);
        let mut progress = shown.then(|| Progress::new("events", input::total_bytes(&sources)));
        let ReadAhead { chunks, gauges, spent } = read_ahead(Lines::read(sources.into_iter().zip(positions).collect()));
        while !stop.requested() {
            // The other side ends only after its last word.
            match chunks.recv().unwrap_or(Ok(Next::End)) {
                Ok(Next::Chunk(mut chunk)) => {
                    // Its numbers are those of the sources that are read.
                    chunk.lines.iter_mut().for_each(|line| line.source = unread[line.source]);
                    chunk.positions.iter_mut().for_each(|(source, _)| *source = unread[*source]);
                    self.push(&chunk)?;
                    let _ = spent.try_send(chunk.text);
                }
                Ok(Next::Waiting) => self.settle()?,
                Ok(Next::End) => {
                    self.summary.hidden = gauges.hidden.load(Ordering::Relaxed);
                    return Ok(true);
                }
                // The sources behind a faulty one are as good as they were.
                Err(fault) => self.faults.push(fault),
            }
            self.summary.hidden = gauges.hidden.load(Ordering::Relaxed);
            if let Some(progress) = &mut progress {
                progress.at(gauges.consumed.load(Ordering::Relaxed), self.summary.read);
            }
        }
        Ok(false)
    }

    /// Hands a chunk to the relay, and notes what it says at once.
    fn push(&mut self, chunk: &Chunk) -> Result<(), Failure> {
        self.summary.read += chunk.lines.len() as u64;
        let text_of = |line: &Line| {
            if line.too_long {
                return Err(format!("invalid: the line is longer than {}", text::size(MAX_LINE_BYTES as u64)));
            }
            event_text(&chunk.text[line.range.clone()])
        };
        let found: Vec<Result<&[u8], String>> = chunk.lines.par_iter().with_min_len(256).map(text_of).collect();
        let (mut texts, mut places, mut refused) = (Vec::with_capacity(found.len()), Vec::new(), Vec::new());
        for (place, text) in found.into_iter().enumerate() {
            match text {
                Ok(text) => {
                    texts.push(text);
                    places.push(place);
                }
                Err(reason) => refused.push((place, reason)),
            }
        }
        let readings = &mut self.readings;
        chunk.lines.iter().for_each(|line| readings[line.source].read += 1);
        refused.iter().for_each(|(place, _)| readings[chunk.lines[*place].source].refused += 1);
        let mark = |settled: &[(usize, relay::Outcome)]| {
            for (text, _) in settled.iter().filter(|(_, outcome)| is_refusal(outcome)) {
                readings[chunk.lines[places[*text]].source].refused += 1;
            }
            chunk.positions.iter().filter_map(|(source, position)| readings[*source].note(*position)).collect()
        };
        for (text, outcome) in self.bulk.push_marked(&texts, mark) {
            match outcome {
                relay::Outcome::Refused(reason) if !has_expired(&reason) => refused.push((places[text], reason)),
                other => self.count(other)?,
            }
        }
        refused.sort_unstable_by_key(|(place, _)| *place);
        for (place, reason) in refused {
            self.summary.refused += 1;
            let line = &chunk.lines[place];
            self.rejects.add(
                &self.readings[line.source].name,
                line.number,
                &reason,
                &chunk.text[line.range.clone()],
            )?;
        }
        let outcomes = self.bulk.outcomes();
        self.count_all(outcomes)
    }

    /// Waits until everything handed over is on disk, and counts it.
    fn settle(&mut self) -> Result<(), Failure> {
        let outcomes = self.bulk.settle();
        self.count_all(outcomes)
    }

    fn count_all(&mut self, outcomes: Result<Vec<relay::Outcome>, relay::Closed>) -> Result<(), Failure> {
        let outcomes = outcomes
            .map_err(|error| Failure::new(error.to_string(), "Nothing is half written; run the import again."))?;
        // All are counted, also those behind a failure.
        let mut counted = Ok(());
        for outcome in outcomes {
            counted = counted.and(self.count(outcome));
        }
        counted
    }

    fn count(&mut self, outcome: relay::Outcome) -> Result<(), Failure> {
        let summary = &mut self.summary;
        match outcome {
            relay::Outcome::Stored => summary.new += 1,
            relay::Outcome::Duplicate => summary.already_there += 1,
            relay::Outcome::Replaced => summary.replaced += 1,
            relay::Outcome::Delivered | relay::Outcome::Unheard | relay::Outcome::Granted(_) => summary.ephemeral += 1,
            relay::Outcome::Refused(reason) if has_expired(&reason) => summary.expired += 1,
            // No policy stands between an operator and his database: what is refused behind the checks was deleted.
            relay::Outcome::Refused(_) => summary.deleted_earlier += 1,
            relay::Outcome::Failed(reason) => {
                return Err(Failure::new(
                    format!("events could not be stored: {}", reason.strip_prefix("error: ").unwrap_or(&reason)),
                    "Put that right, then run the import again; what is in is passed over.",
                ));
            }
        }
        Ok(())
    }
}

fn is_refusal(outcome: &relay::Outcome) -> bool {
    matches!(outcome, relay::Outcome::Refused(reason) if !has_expired(reason))
}

fn has_expired(reason: &str) -> bool {
    reason.ends_with("has expired")
}

/// Chunks that are read on a thread of their own, one ahead of those who work on them.
struct ReadAhead {
    chunks: Receiver<Result<Next, Failure>>,
    gauges: Gauges,
    /// Where the texts of chunks go that are done with.
    spent: Sender<Vec<u8>>,
}

fn read_ahead(mut lines: Lines) -> ReadAhead {
    let gauges = lines.gauges();
    let (sender, chunks) = crossbeam_channel::bounded(1);
    let (spent, texts) = crossbeam_channel::bounded(2);
    // Nobody waits for this thread either, see `Lines::read`.
    std::thread::spawn(move || {
        loop {
            texts.try_iter().for_each(|text| lines.reuse(text));
            let next = lines.next();
            let last = matches!(next, Ok(Next::End));
            if sender.send(next).is_err() || last {
                return;
            }
        }
    });
    ReadAhead { chunks, gauges, spent }
}

/// The event in a line: the line itself, or what a message carries, `["EVENT",{…}]` of a client or `["EVENT","sub",{…}]` of a relay.
fn event_text(line: &[u8]) -> Result<&[u8], String> {
    if line.trim_ascii_start().first() != Some(&b'[') {
        return Ok(line);
    }
    let parts: Vec<&RawValue> =
        serde_json::from_slice(line).map_err(|error| format!("invalid: malformed JSON: {error}"))?;
    match parts.as_slice() {
        [name, event] | [name, _, event] if name.get() == "\"EVENT\"" => Ok(event.get().as_bytes()),
        _ => Err("invalid: neither an event nor a message with one".to_owned()),
    }
}

/// Where refused lines go: into a file, or the first few of them to the terminal.
struct Rejects {
    file: Option<(Output, PathBuf)>,
    count: u64,
}

#[derive(Serialize)]
struct Reject<'a> {
    file: &'a str,
    line: u64,
    reason: &'a str,
    event: &'a str,
}

impl Rejects {
    fn open(path: Option<&Path>, sources: &[Source]) -> Result<Rejects, Failure> {
        let Some(path) = path else { return Ok(Rejects { file: None, count: 0 }) };
        let same = |source: &Source| match source {
            Source::Stdin => false,
            Source::File(source) => same_file(source, path),
        };
        if sources.iter().any(same) {
            return Err(Failure::new(
                format!("{} is to be read and to be written", path.display()),
                "Give --rejects a name of its own; nothing was read.",
            ));
        }
        Ok(Rejects { file: Some((Output::file(path)?, path.to_owned())), count: 0 })
    }

    fn add(&mut self, file: &str, line: u64, reason: &str, event: &[u8]) -> Result<(), Failure> {
        self.count += 1;
        let Some((output, _)) = &mut self.file else {
            if self.count <= SHOWN {
                complain(&format!("{file}:{line}: {reason}"));
            }
            return Ok(());
        };
        let event = String::from_utf8_lossy(event);
        let reject = Reject { file, line, reason, event: event.trim_end() };
        let mut text = serde_json::to_vec(&reject)
            .map_err(|error| Failure::new(format!("a refused line cannot be written: {error}"), ""))?;
        text.push(b'\n');
        output.write(&text)
    }

    fn finish(self) -> Result<(), Failure> {
        match self.file {
            Some((output, path)) => {
                output.finish()?;
                if self.count > 0 {
                    complain(&format!("the refused lines are in {}", path.display()));
                }
            }
            None if self.count > SHOWN => {
                let more = things(self.count - SHOWN, "more line");
                complain(&format!("and {more}; --rejects FILE writes all of them with their reasons"));
            }
            None => {}
        }
        Ok(())
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_leaves_out_what_most_imports_do_not_have() {
        let mut summary = Summary { read: 12_000, new: 11_990, refused: 10, ..Summary::default() };
        let text = summary.text(2.0);
        assert!(text.contains("read                    12,000\n"), "{text}");
        assert!(text.contains("deleted earlier              0\n"), "{text}");
        assert!(!text.contains("ephemeral") && !text.contains("expired"), "{text}");
        assert!(text.ends_with("2.0 seconds, 6,000 events per second\n"), "{text}");
        summary.ephemeral = 1;
        assert!(summary.text(2.0).contains("ephemeral                    1\n"));
    }
}
