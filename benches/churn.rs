//! `cargo bench --bench churn`: what becomes of the database's file when events are replaced and deleted, round after round, and as much
//! text goes as comes.

mod kit;

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use kit::options::{Given, Program};
use kit::pool::Lines;
use kit::process::Server;
use kit::random::Rng;
use kit::report::{Table, number};
use kit::socket::Target;
use kit::workload::{Event, Spec, Workload};
use kit::{Result, drive, process};
use rayon::prelude::*;

/// Rounds of replacing and deleting: how the file grows while what is stored stays as much
#[derive(Parser)]
struct Args {
    /// The events to begin with
    #[command(flatten)]
    given: Given,
    /// Rounds of replacing and deleting
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Profiles, lists and articles that are replaced in each round
    #[arg(long, default_value_t = 3000)]
    replaced: usize,
    /// Notes and reactions that are deleted in each round
    #[arg(long, default_value_t = 2000)]
    deleted: usize,
    /// Publish the rounds to a relay over 64 connections, instead of importing them
    #[arg(long)]
    publish: bool,
    /// Leave the database where it is, for a look into it
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    program: Program,
}

fn main() -> Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let args = Args::parse();
    let spec = args.given.spec(args.publish);
    let folder = process::scratch("churn")?;
    let data = folder.join("data");
    let mut stored = Stored::new(spec, &folder.join("begin.jsonl"))?;
    import(&args, &data, &folder.join("begin.jsonl"))?;
    let mut table = Table::new(&["round", "events", "stored JSONL MB", "file MB", "in use MB", "growth %", "seconds"]);
    let (mut begin, mut first, mut last) = (0.0, None, None);
    for round in 0..=args.rounds {
        let mut seconds = 0.0;
        if round > 0 {
            let file = folder.join("round.jsonl");
            stored.round(round, &args, &file)?;
            seconds = if args.publish { publish(&args, &folder, &file)? } else { import(&args, &data, &file)? };
        }
        let info: Info = serde_json::from_str(&args.program.run(&data, ["info", "--json"])?.output)?;
        let size = info.file_bytes as f64;
        if round == 0 {
            begin = size;
        }
        table.row(vec![
            round.to_string(),
            info.events.to_string(),
            number(stored.bytes as f64 / 1e6),
            number(size / 1e6),
            number((info.file_bytes - info.free_bytes) as f64 / 1e6),
            number((size / begin - 1.0) * 100.0),
            number(seconds),
        ]);
        first.get_or_insert_with(|| info.tables.clone());
        last = Some(info.tables);
    }
    table.print();
    let mut table =
        Table::new(&["table", "entries before", "after", "MB before", "after", "bytes/entry before", "after"]);
    for (before, after) in first.iter().flatten().zip(last.iter().flatten()) {
        let each = |table: &TableInfo| number(table.bytes as f64 / table.entries.max(1) as f64);
        table.row(vec![
            before.name.clone(),
            before.entries.to_string(),
            after.entries.to_string(),
            number(before.bytes as f64 / 1e6),
            number(after.bytes as f64 / 1e6),
            each(before),
            each(after),
        ]);
    }
    table.print();
    if args.keep {
        println!("\nThe database is left in {}", data.display());
        return Ok(());
    }
    Ok(fs::remove_dir_all(folder)?)
}

#[derive(serde::Deserialize)]
struct Info {
    events: u64,
    file_bytes: u64,
    free_bytes: u64,
    tables: Vec<TableInfo>,
}

#[derive(serde::Deserialize, Clone)]
struct TableInfo {
    name: String,
    entries: u64,
    bytes: u64,
}

fn import(args: &Args, data: &Path, file: &Path) -> Result<f64> {
    Ok(args.program.run(data, ["import", "--no-verify", &file.to_string_lossy()])?.seconds)
}

fn publish(args: &Args, folder: &Path, file: &Path) -> Result<f64> {
    let server = Server::start(&args.program.relay(), folder)?;
    let lines = Arc::new(Lines::read(file)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let published = runtime.block_on(drive::publish(&Target::local(server.port), &lines, 0..lines.len(), 64, 50))?;
    if published.refused > 0 {
        return Err(format!("{} events were refused", published.refused).into());
    }
    Ok(published.seconds)
}

/// What of the workload is stored, as far as it can be replaced or deleted.
struct Stored {
    workload: Workload,
    rng: Rng,
    /// The current versions of what can be replaced.
    versions: Vec<Event>,
    notes: Vec<Event>,
    /// Bytes of JSONL that all stored events come to, about.
    bytes: usize,
    now: u64,
}

impl Stored {
    fn new(spec: Spec, file: &Path) -> Result<Stored> {
        let now = spec.end;
        let rng = Rng::new(spec.seed, 1 << 50);
        let mut workload = Workload::new(spec);
        let mut out = std::io::BufWriter::new(fs::File::create(file)?);
        let (mut versions, mut notes, mut bytes) = (HashMap::new(), Vec::new(), 0);
        for event in workload.by_ref().flatten() {
            let line = line(&event);
            out.write_all(&line)?;
            bytes += line.len();
            match event.kind {
                1 | 7 => notes.push(event),
                0 | 3 | 10_000..20_000 | 30_000..40_000 => {
                    let d = if event.kind >= 30_000 { event.tags.clone() } else { String::new() };
                    let d = d.split_once("[\"d\",").map_or("", |(_, rest)| rest.split(']').next().unwrap_or(rest));
                    let address = (event.kind, event.pubkey, d.to_owned());
                    let replaced = versions.insert(address, event);
                    bytes -= replaced.map_or(0, |event| crate::line(&event).len());
                }
                _ => {}
            }
        }
        out.flush()?;
        let mut versions: Vec<Event> = versions.into_values().collect();
        versions.sort_unstable_by_key(|event| event.id);
        Ok(Stored { workload, rng, versions, notes, bytes, now })
    }

    /// Writes what comes in one round: new versions of some events, deletions of notes, and new notes, until as much has come as has gone.
    fn round(&mut self, round: usize, args: &Args, file: &Path) -> Result<()> {
        enum Step {
            Replace(usize),
            Delete(Event),
            Add(Event),
        }
        let mut steps: Vec<Step> =
            (0..args.replaced).map(|_| Step::Replace(self.rng.index(self.versions.len()))).collect();
        let mut room = 0;
        for _ in 0..args.deleted.min(self.notes.len()) {
            let note = self.notes.swap_remove(self.rng.index(self.notes.len()));
            room += line(&note).len() as i64 - line(&self.workload.deletion(&note, self.now)).len() as i64;
            steps.push(Step::Delete(note));
        }
        while room > 0 && !self.notes.is_empty() {
            // A note that is still there, said again a moment later.
            let note = self.notes[self.rng.index(self.notes.len())].clone();
            room -= line(&note).len() as i64;
            steps.push(Step::Add(note));
        }
        self.bytes = (self.bytes as i64 - room) as usize;
        for i in (1..steps.len()).rev() {
            steps.swap(i, self.rng.index(i + 1));
        }
        let (begin, workload) = (self.now, &self.workload);
        self.now += steps.len() as u64;
        let events: Vec<Event> = steps
            .par_iter()
            .enumerate()
            .map(|(i, step)| {
                let at = begin + 1 + i as u64;
                match step {
                    Step::Replace(place) => workload.again(&self.versions[*place], at),
                    Step::Delete(note) => workload.deletion(note, at),
                    Step::Add(note) => workload.again(note, at),
                }
            })
            .collect();
        eprintln!("round {round}: {} events", events.len());
        let mut out = std::io::BufWriter::new(fs::File::create(file)?);
        for (step, event) in steps.into_iter().zip(events) {
            out.write_all(&line(&event))?;
            match step {
                Step::Replace(place) => self.versions[place] = event,
                Step::Add(_) => self.notes.push(event),
                Step::Delete(_) => {}
            }
        }
        Ok(out.flush()?)
    }
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = event.json();
    line.push(b'\n');
    line
}
