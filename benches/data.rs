//! `cargo bench --bench data`: what looking after the data costs: backups, checks, restores and removals, what publishers notice of a
//! removal, and what a million replaced and removed events leave of the file.

mod kit;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use kit::options::{Program, Source};
use kit::pool::Lines;
use kit::process::Server;
use kit::report::{Latencies, Table, median, number};
use kit::socket::Target;
use kit::workload::{END, Spec, Workload};
use kit::{Result, drive, process};
use ratite::config::RetentionRule;
use ratite::nostr::Event;
use ratite::relay::{Clock, Outcome, Relay, Settings};
use ratite::store::Store;

/// Backup, verify, restore, compact and prune; publishing beside prune; a million events that come and go
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    source: Source,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "copies,prune,delay,million")]
    only: Vec<String>,
    /// How often each step runs; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Events that are published while others are removed, over how many connections, each with one event in flight
    #[arg(long, value_name = "EVENTS:CONNECTIONS", default_value = "4000:8", value_parser = pair)]
    published: (usize, usize),
    /// How many events are replaced or removed in the last part
    #[arg(long, default_value_t = 1_000_000)]
    million: u64,
    #[command(flatten)]
    program: Program,
}

fn pair(text: &str) -> std::result::Result<(usize, usize), String> {
    let parsed = text.split_once(':').and_then(|(events, sockets)| Some((events.parse().ok()?, sockets.parse().ok()?)));
    parsed.ok_or_else(|| "write EVENTS:CONNECTIONS".to_owned())
}

fn main() -> Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let args = Args::parse();
    let wants = |what: &str| args.only.iter().any(|only| only == what);
    let folder = process::scratch("data")?;
    if wants("copies") || wants("prune") || wants("delay") {
        let file = args.source.file()?;
        let lines = Arc::new(Lines::read(&file)?);
        let full = folder.join("full");
        args.program.run(&full, ["import", "--no-verify", &file.to_string_lossy()])?;
        if wants("copies") {
            copies(&args, &folder, &full)?;
        }
        if wants("prune") {
            prune(&args, &folder, &full)?;
        }
        if wants("delay") {
            delay(&args, &folder, &lines)?;
        }
    }
    if wants("million") {
        million(&args, &folder)?;
    }
    Ok(fs::remove_dir_all(folder)?)
}

/// What of `ratite info --json` is used.
#[derive(serde::Deserialize)]
struct Info {
    events: u64,
    file_bytes: u64,
}

fn info(args: &Args, data: &Path) -> Result<Info> {
    Ok(serde_json::from_str(&args.program.run(data, ["info", "--json"])?.output)?)
}

/// Runs of one step.
#[derive(Default)]
struct Step {
    seconds: Vec<f64>,
    cpu: Vec<f64>,
    peak: Vec<f64>,
}

impl Step {
    fn add(&mut self, run: &process::Run) {
        self.seconds.push(run.seconds);
        self.cpu.push(run.cpu_seconds);
        self.peak.push(run.peak_mib);
    }
}

/// Copies `from` as `to` and waits for the disk; seconds.
fn bare_copy(from: &Path, to: &Path) -> Result<f64> {
    let began = Instant::now();
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count])?;
    }
    to.sync_all()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Reads a file, from memory if it is there; seconds.
fn bare_read(from: &Path) -> Result<f64> {
    let began = Instant::now();
    let (mut from, mut buffer) = (File::open(from)?, vec![0; 1 << 20]);
    while from.read(&mut buffer)? > 0 {}
    Ok(began.elapsed().as_secs_f64())
}

/// What of `ratite compact --json` is used, of a relay that runs.
#[derive(serde::Deserialize)]
struct Compacted {
    paused_ms: f64,
}

/// Has a relay compact a copy of a database; seconds, and how long publishers had to wait.
fn compact_beside(args: &Args, folder: &Path, data: &Path) -> Result<(f64, f64)> {
    let place = folder.join("data");
    copy_of(data, &place)?;
    let server = Server::start(&args.program.relay(), folder)?;
    let run = args.program.run(&place, ["compact", "--json"])?;
    drop(server);
    fs::remove_dir_all(place)?;
    Ok((run.seconds, serde_json::from_str::<Compacted>(&run.output)?.paused_ms))
}

/// Backup, check, restore and compaction of a whole database, beside a bare copy of its file.
fn copies(args: &Args, folder: &Path, data: &Path) -> Result<()> {
    let Info { events, file_bytes } = info(args, data)?;
    let backup = folder.join("backup.mdb");
    let restored = folder.join("restored");
    let names =
        ["backup, with its check", "verify", "verify --deep", "restore, with its check", "compact, with its check"];
    let mut steps: [Step; 5] = Default::default();
    let (mut bare, mut read) = (Vec::new(), Vec::new());
    let (mut beside, mut paused) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let _ = fs::remove_dir_all(&restored);
        bare.push(bare_copy(&data.join("data.mdb"), &folder.join("bare"))?);
        let file = backup.to_string_lossy();
        steps[0].add(&args.program.run(data, ["backup", "--force", &file])?);
        steps[1].add(&args.program.run(data, ["verify"])?);
        if !args.source.unsigned {
            steps[2].add(&args.program.run(data, ["verify", "--deep"])?);
        }
        steps[3].add(&args.program.run(&restored, ["restore", &file])?);
        steps[4].add(&args.program.run(&restored, ["compact"])?);
        let (seconds, paused_ms) = compact_beside(args, folder, data)?;
        beside.push(seconds);
        paused.push(paused_ms);
        read.push(bare_read(&data.join("data.mdb"))?);
    }
    println!("## A database of {} events, {} MB\n", number(events as f64), number(file_bytes as f64 / 1e6));
    let mut table =
        Table::new(&["step", "seconds", "MB/s", "events/s", "CPU seconds", "peak MiB", "time of a bare copy"]);
    let megabytes = file_bytes as f64 / 1e6;
    let copy = median(bare.iter().copied());
    let row = |seconds: f64, cpu: String, peak: String, name: &str| {
        let rates = [seconds, megabytes / seconds, events as f64 / seconds].map(number);
        let [seconds_text, bytes, events] = rates;
        vec![name.into(), seconds_text, bytes, events, cpu, peak, number(seconds / copy)]
    };
    for (name, step) in names.into_iter().zip(steps).filter(|(_, step)| !step.seconds.is_empty()) {
        let [seconds, cpu, peak] = [step.seconds, step.cpu, step.peak].map(median);
        table.row(row(seconds, number(cpu), number(peak), name));
    }
    let plain = |name: &str, seconds: f64| row(seconds, String::new(), String::new(), name);
    table.row(plain("compact, a relay runs", median(beside)));
    table.row(plain("a bare copy of the file, on disk", copy));
    table.row(plain("reading the file from memory", median(read)));
    table.print();
    println!("In the end of a compaction beside a relay publishers waited {} ms.\n", number(median(paused)));
    for file in ["bare", "backup.mdb"] {
        fs::remove_file(folder.join(file))?;
    }
    Ok(fs::remove_dir_all(restored)?)
}

/// A rule that lets go what is older than the middle of the workload's 90 days, except what is protected.
fn older_half() -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let days = 45 + now.saturating_sub(END) / 86_400;
    Ok(format!("all: {days}d"))
}

/// What of `ratite prune --json` is used.
#[derive(serde::Deserialize)]
struct Pruned {
    removed: Amount,
}

#[derive(serde::Deserialize)]
struct Amount {
    events: u64,
}

/// Copies a database; the copy has its own folder.
fn copy_of(data: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to)?;
    fs::copy(data.join("data.mdb"), to.join("data.mdb"))?;
    Ok(())
}

/// Removal of about half of all events by `ratite prune`, with nobody beside it.
fn prune(args: &Args, folder: &Path, data: &Path) -> Result<()> {
    let rule = older_half()?;
    let copy = folder.join("pruned");
    let stored = info(args, data)?.events;
    let (mut looks, mut runs, mut removed) = (Step::default(), Step::default(), 0);
    for _ in 0..args.rounds {
        copy_of(data, &copy)?;
        looks.add(&args.program.run(&copy, ["prune", "--rule", &rule, "--dry-run"])?);
        let run = args.program.run(&copy, ["prune", "--rule", &rule, "--json"])?;
        removed = serde_json::from_str::<Pruned>(&run.output)?.removed.events;
        runs.add(&run);
    }
    println!("## `ratite prune` of {} of {} events\n", number(removed as f64), number(stored as f64));
    let mut table = Table::new(&["step", "seconds", "events/s", "CPU µs/event", "peak MiB"]);
    for (name, step, events) in
        [("prune --dry-run, events looked at", looks, stored), ("prune, events removed", runs, removed)]
    {
        let [seconds, cpu, peak] = [step.seconds, step.cpu, step.peak].map(median);
        let events = events as f64;
        table.row(vec![
            name.into(),
            number(seconds),
            number(events / seconds),
            number(cpu / events * 1e6),
            number(peak),
        ]);
    }
    table.print();
    Ok(fs::remove_dir_all(copy)?)
}

/// What removes events while others are published.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    /// The relay itself, by its configuration.
    Relay,
    /// `ratite prune`, another process.
    Command,
}

/// What one run of publishing beside a removal came to.
struct Load {
    rate: f64,
    refused: u64,
    latencies: Latencies,
    prunes: Prunes,
}

/// Transactions of retention while events were published, as the relay counts them.
#[derive(Clone, Default)]
struct Prunes {
    transactions: f64,
    seconds: f64,
    events: f64,
    /// Transactions that took no longer than 50 ms.
    short: f64,
}

impl Prunes {
    fn of(port: u16) -> Result<Prunes> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(METRICS)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
        };
        Ok(Prunes {
            transactions: value("ratite_prune_seconds_count"),
            seconds: value("ratite_prune_seconds_sum"),
            events: value("ratite_prune_events_sum"),
            short: value("ratite_prune_seconds_bucket{le=\"0.05\"}"),
        })
    }

    fn since(&self, before: &Prunes) -> Prunes {
        Prunes {
            transactions: self.transactions - before.transactions,
            seconds: self.seconds - before.seconds,
            events: self.events - before.events,
            short: self.short - before.short,
        }
    }
}

/// Asks for the figures of a relay whose configuration begins with [`LISTEN`].
const METRICS: &[u8] =
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer bench\r\nConnection: close\r\n\r\n";
const LISTEN: &str = "[listen]\nmetrics_token = \"bench\"\n";

/// The time to an OK with and without a removal beside it.
fn delay(args: &Args, folder: &Path, lines: &Arc<Lines>) -> Result<()> {
    // What is published later is not stored yet.
    let (wanted, connections) = args.published;
    let stored = lines.len().saturating_sub(wanted);
    let begin = folder.join("begin.jsonl");
    let mut out = std::io::BufWriter::new(File::create(&begin)?);
    for line in lines.iter().take(stored) {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let data = folder.join("begin");
    args.program.run(&data, ["import", "--no-verify", &begin.to_string_lossy()])?;
    let parts = [
        ("nothing", Beside::Nothing),
        ("the relay's own retention", Beside::Relay),
        ("`ratite prune`", Beside::Command),
    ];
    let mut runs: [Vec<Load>; 3] = Default::default();
    for _ in 0..args.rounds {
        for ((_, beside), runs) in parts.iter().zip(&mut runs) {
            copy_of(&data, &folder.join("data"))?;
            runs.push(load(args, folder, lines, stored, connections, *beside)?);
        }
    }
    println!("## {wanted} events over {connections} connections, each waits for its OK before the next\n");
    let mut table = Table::new(&[
        "beside it",
        "events/s",
        "refused",
        "OK p50 ms",
        "p99 ms",
        "worst ms",
        "removed meanwhile",
        "transactions",
        "mean ms",
        "up to 50 ms %",
    ]);
    for ((name, _), mut runs) in parts.into_iter().zip(runs) {
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|part| median(runs.iter_mut().map(|run| run.latencies.at(part))));
        let of = |value: &dyn Fn(&Prunes) -> f64| median(runs.iter().map(|run| value(&run.prunes)));
        table.row(vec![
            name.into(),
            number(median(runs.iter().map(|run| run.rate))),
            runs.iter().map(|run| run.refused).sum::<u64>().to_string(),
            number(p50),
            number(p99),
            number(worst),
            number(of(&|prunes| prunes.events)),
            number(of(&|prunes| prunes.transactions)),
            number(of(&|prunes| prunes.seconds / prunes.transactions * 1e3)),
            number(of(&|prunes| prunes.short / prunes.transactions * 100.0)),
        ]);
    }
    table.print();
    Ok(())
}

fn load(
    args: &Args,
    folder: &Path,
    lines: &Arc<Lines>,
    stored: usize,
    connections: usize,
    beside: Beside,
) -> Result<Load> {
    let rule = older_half()?;
    let config = folder.join("relay.toml");
    let rules = if beside == Beside::Relay { format!("[retention]\nrules = [\"{rule}\"]\n") } else { String::new() };
    fs::write(&config, format!("{LISTEN}{rules}"))?;
    let server = Server::start(&format!("{} --config {{dir}}/relay.toml", args.program.relay()), folder)?;
    let data = folder.join("data");
    let events = |data: &Path| info(args, data).map(|info| info.events as f64);
    let mut command = None;
    let all = events(&data)?;
    if beside == Beside::Command {
        let words = ["prune", "--rule", &rule];
        let child = args.program.command(&data, words).stdout(Stdio::null()).stdin(Stdio::null()).spawn()?;
        command = Some(Ending(child));
    }
    // The removal has begun when something is gone.
    while beside != Beside::Nothing && events(&data)? == all {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (before, there) = (Prunes::of(server.port)?, events(&data)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let published =
        runtime.block_on(drive::publish(&Target::local(server.port), lines, stored..lines.len(), connections, 1))?;
    let mut prunes = Prunes::of(server.port)?.since(&before);
    if beside == Beside::Command {
        // It counts for itself; replacements hide a little of what it removed.
        prunes.events = (there + published.events as f64 - events(&data)?).max(0.0);
    }
    let going_on = match (&mut command, beside) {
        (Some(Ending(child)), _) => child.try_wait()?.is_none(),
        (None, Beside::Relay) => {
            let last = Prunes::of(server.port)?;
            std::thread::sleep(Duration::from_millis(500));
            Prunes::of(server.port)?.transactions > last.transactions
        }
        (None, _) => true,
    };
    if !going_on {
        eprintln!("the removal ended before the last event was published: take more --events, or fewer --published");
    }
    Ok(Load {
        rate: published.events as f64 / published.seconds,
        refused: published.refused,
        latencies: published.latencies,
        prunes,
    })
}

/// A child that ends when nobody needs it any more.
struct Ending(std::process::Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Profiles, lists and articles that are replaced again and again, and notes of which the older go: as much comes as goes. Through the
/// door of those who are trusted, so nothing needs a signature.
fn million(args: &Args, folder: &Path) -> Result<()> {
    const ROUNDS: u64 = 10;
    const BATCH: usize = 1_000;
    /// Bytes of the tags of what is replaced.
    const MOST_TAGS: usize = 1_000;
    /// Batches between two removals.
    const PRUNED_AFTER: usize = 10;
    let spec = Spec { events: 100_000, sign: false, ..Spec::default() };
    let (mut workload, mut versions, mut notes) = (Workload::new(spec), Vec::new(), Vec::new());
    for event in workload.by_ref().flatten() {
        match event.kind {
            1 | 6 | 7 => notes.push(event),
            // Lists of hundreds of keys are the matter of `churn`.
            0 | 3 | 10_000..20_000 | 30_000..40_000 if event.tags.len() < MOST_TAGS => versions.push(event),
            _ => {}
        }
    }
    // One event a second, in turn a new version of something and a note.
    let window = notes.len() as u64 * 2;
    let rule: RetentionRule = format!("1 6 7: {window}s").parse().map_err(|error| format!("the rule: {error}"))?;
    let data = folder.join("million");
    let store = Store::open(&data, 1 << 40)?;
    let clock = Clock::fixed(END);
    let mut settings = Settings::from_config(&Default::default());
    settings.clock = clock.clone();
    settings.unattended = false;
    settings.retention.config.rules = vec![rule];
    let relay = Relay::start(store.clone(), settings)?;
    let mut number_of = 0u64;
    let mut table = Table::new(&[
        "round",
        "replaced so far",
        "removed so far",
        "events",
        "file MB",
        "in use MB",
        "growth %",
        "replace and store s",
        "remove s",
    ]);
    let (mut begin, mut replaced, mut removed) = (0.0, 0, 0);
    // The first round brings in what the others replace and remove.
    let steps = args.million / ROUNDS;
    for round in 0..=ROUNDS {
        let (mut storing, mut removing) = (Duration::ZERO, Duration::ZERO);
        let count = if round == 0 { window } else { steps };
        let (first, mut batch, mut batches) = (number_of, Vec::with_capacity(BATCH), 0);
        while number_of < first + count {
            let at = END + number_of;
            let which = (number_of / 2) as usize;
            let like = if number_of.is_multiple_of(2) {
                &versions[which % versions.len()]
            } else {
                &notes[which % notes.len()]
            };
            batch.push(Event::parse(&workload.again(like, at).json()).map_err(|error| format!("an event: {error}"))?);
            number_of += 1;
            if batch.len() < BATCH && number_of < first + count {
                continue;
            }
            clock.set(at + 1);
            let before = store.occupancy()?.events;
            let began = Instant::now();
            let outcomes = relay.ingest(std::mem::take(&mut batch), true).recv()?;
            storing += began.elapsed();
            let stored = outcomes.iter().filter(|outcome| **outcome == Outcome::Stored).count() as u64;
            if stored != outcomes.len() as u64 {
                return Err(format!("{} events were not stored", outcomes.len() as u64 - stored).into());
            }
            if round > 0 {
                replaced += before + stored - store.occupancy()?.events;
            }
            batches += 1;
            if batches % PRUNED_AFTER == 0 {
                let began = Instant::now();
                removed += relay.prune(false, &mut |_, _| ControlFlow::Continue(()))?.total().events;
                removing += began.elapsed();
            }
        }
        let info = store.info()?;
        let size = info.file_bytes as f64;
        if round == 0 {
            begin = size;
        }
        table.row(vec![
            round.to_string(),
            number(replaced as f64),
            number(removed as f64),
            number(info.events as f64),
            number(size / 1e6),
            number((info.file_bytes - info.free_bytes) as f64 / 1e6),
            number((size / begin - 1.0) * 100.0),
            number(storing.as_secs_f64()),
            number(removing.as_secs_f64()),
        ]);
        eprintln!("round {round} of {ROUNDS}");
    }
    relay.shutdown();
    println!("## {} events that are replaced or removed\n", number(args.million as f64));
    table.print();
    Ok(())
}
