//! `cargo bench --bench load`: relays under the load of real clients, side by side, against the ceilings of the machine.
//!
//! Ratite runs always; every `--peer` runs beside it, in turn, under the same load. See `benches/README.md`.

mod kit;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use kit::drive::{self, Asked, Audience, Delivered, Published};
use kit::pool::{Lines, Pool};
use kit::process::Server;
use kit::report::{Table, median, number};
use kit::shapes::{SHAPES, Shape};
use kit::socket::Target;
use kit::workload::{Spec, Workload};
use kit::{Result, ceilings, process};

/// Load on ratite and its peers, side by side
#[derive(Parser, Clone)]
struct Args {
    /// A relay to compare with: a command in which {port} and {dir} are filled in, or a ws:// address where one is running
    #[arg(long, value_name = "NAME=CMD-OR-URL", value_parser = pair)]
    peer: Vec<(String, String)>,
    /// How a peer started by a command takes in a file of events before it starts, with {file} and {dir}; without one
    /// everything is published to it
    #[arg(long, value_name = "NAME=CMD", value_parser = pair)]
    import: Vec<(String, String)>,
    /// Peers given by address hold the workload already
    #[arg(long)]
    loaded: bool,
    /// Measure ratite a second time, with clients that ask for compression
    #[arg(long)]
    deflate: bool,
    /// Leave ratite out and measure the peers alone
    #[arg(long)]
    alone: bool,
    /// Another ratite than the one built here, such as target/dist/ratite
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ratite"))]
    ratite: PathBuf,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "ceilings,publish,query,live")]
    only: Vec<String>,
    /// Shapes of questions to ask, all when not given; the beginning of a name is enough
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<String>,
    /// Events in the store that is asked
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Random bytes for signatures: for stores of millions, with queries only
    #[arg(long)]
    unsigned: bool,
    /// Ask for events of this file instead of generating them
    #[arg(long)]
    file: Option<PathBuf>,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds for each shape, relay and round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Connections that ask
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    askers: Vec<usize>,
    /// Connections that publish, and how many events they publish together in each round
    #[arg(long, value_delimiter = ',', default_value = "1:2000,8:8000,64:16000", value_parser = step)]
    publish: Vec<(usize, usize)>,
    /// Threads of this tool
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, hide = true)]
    bench: bool,
    /// Internal: serve answers from memory, for the ceiling of bytes
    #[arg(long, hide = true)]
    serve_bytes: Option<u16>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, rest) = text.split_once('=').ok_or("write NAME=…")?;
    Ok((name.to_owned(), rest.to_owned()))
}

fn step(text: &str) -> std::result::Result<(usize, usize), String> {
    let (connections, events) = text.split_once(':').ok_or("write CONNECTIONS:EVENTS")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is not a number"));
    Ok((number(connections)?, number(events)?))
}

/// Bytes of a file that are held in memory to draw questions from: a file of many gigabytes would take the memory that the relay's database
/// is to be found in.
const MOST_READ: u64 = 512 << 20;

/// Events that wait for their OK on each publishing connection.
const IN_FLIGHT: usize = 50;

fn main() -> Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let args = Args::parse();
    let runtime = match args.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    if let Some(port) = args.serve_bytes {
        return serve_bytes(port, &args);
    }
    let mut bench = Bench::new(args)?;
    let wants = |what: &str| bench.args.only.iter().any(|only| only == what);
    let (ceilings, publish, query, live) = (wants("ceilings"), wants("publish"), wants("query"), wants("live"));
    if ceilings {
        bench.ceilings(&runtime)?;
    }
    if publish {
        bench.publish(&runtime)?;
    }
    if query || live {
        bench.load(&runtime)?;
    }
    if query {
        bench.query(&runtime)?;
        bench.paging(&runtime)?;
    }
    if live {
        bench.live(&runtime)?;
    }
    Ok(())
}

/// A relay under test.
struct Contender {
    name: String,
    how: How,
    import: Option<String>,
    /// Its clients ask for compression.
    deflate: bool,
    /// Running with the workload in its store.
    running: Option<Running>,
}

#[derive(Clone)]
enum How {
    Command(String),
    Url(Target),
}

struct Running {
    target: Target,
    pid: Option<u32>,
    /// Keeps the process alive.
    _server: Option<Server>,
}

impl Running {
    fn cpu(&self) -> f64 {
        self.pid.and_then(process::cpu_seconds).unwrap_or(f64::NAN)
    }

    fn disk_reads(&self) -> f64 {
        self.pid.and_then(process::disk_reads).unwrap_or(f64::NAN)
    }

    fn memory(&self, name: &str) -> f64 {
        self.pid.and_then(|pid| process::memory(pid, name)).unwrap_or(f64::NAN)
    }

    /// All that is resident, and the part of it that is not pages of files, which the system takes back when it wants.
    fn resident(&self) -> (f64, f64) {
        (self.memory("VmRSS"), self.memory("RssAnon"))
    }
}

impl Contender {
    /// Starts the relay over the store in `dir`, or finds the one that is running.
    fn start(&self, dir: &Path) -> Result<Running> {
        let mut running = match &self.how {
            How::Command(command) => {
                let server = Server::start(command, dir)?;
                Running { target: Target::local(server.port), pid: Some(server.pid), _server: Some(server) }
            }
            How::Url(target) => {
                let here = matches!(target.host.as_str(), "127.0.0.1" | "localhost" | "[::1]");
                let pid = if here { process::listener(target.port) } else { None };
                Running { target: target.clone(), pid, _server: None }
            }
        };
        running.target.deflate = self.deflate;
        Ok(running)
    }

    fn folder(&self) -> String {
        self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
    }
}

struct Bench {
    args: Args,
    contenders: Vec<Contender>,
    file: PathBuf,
    lines: Arc<Lines>,
    pool: Arc<Pool>,
}

/// CPU of this tool; when it comes near a whole core per thread, the tool is what is measured.
fn own_cpu() -> f64 {
    process::cpu_seconds(std::process::id()).unwrap_or(0.0)
}

impl Bench {
    fn new(args: Args) -> Result<Bench> {
        let mut contenders = Vec::new();
        if !args.alone {
            let ratite = args.ratite.display();
            for (name, deflate) in [("ratite", false), ("ratite, compressed", true)] {
                if deflate && !args.deflate {
                    continue;
                }
                contenders.push(Contender {
                    name: name.into(),
                    how: How::Command(format!("{ratite} --listen 127.0.0.1:{{port}} --data {{dir}}/data")),
                    import: Some(format!("{ratite} --data {{dir}}/data import --no-verify {{file}}")),
                    deflate,
                    running: None,
                });
            }
        }
        for (name, what) in &args.peer {
            let how = if what.starts_with("ws://") || what.starts_with("wss://") {
                How::Url(Target::parse(what)?)
            } else {
                How::Command(what.clone())
            };
            let import = args.import.iter().find(|(of, _)| of == name).map(|(_, command)| command.clone());
            contenders.push(Contender { name: name.clone(), how, import, deflate: false, running: None });
        }
        let file = match &args.file {
            Some(file) => file.clone(),
            None => {
                let spec = Spec { events: args.events, seed: args.seed, sign: !args.unsigned, ..Spec::default() };
                kit::workload::file(&process::scratch_root(), spec)?
            }
        };
        // Whoever is to be sent everything needs everything; questions are drawn from a part as well.
        let sends = args.only.iter().any(|what| what != "query") || contenders.iter().any(|c| c.import.is_none());
        let sends = sends && !args.loaded;
        let lines = Arc::new(if sends { Lines::read(&file)? } else { Lines::sample(&file, MOST_READ)? });
        let pool = Arc::new(Pool::new(&lines));
        println!(
            "{} events, {} MB of JSONL, mean {} bytes; {} cores; medians of {} rounds\n",
            lines.len(),
            lines.bytes() / 1_000_000,
            lines.bytes() / lines.len().max(1),
            std::thread::available_parallelism().map_or(1, usize::from),
            args.rounds
        );
        Ok(Bench { args, contenders, file, lines, pool })
    }

    /// What signatures, the disk and sockets allow.
    fn ceilings(&self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let mut table = Table::new(&["ceiling", "per second", "CPU µs each", "p50 ms", "p99 ms"]);
        if !self.args.unsigned {
            let verification = ceilings::verification(&self.lines, 50_000)?;
            table.row(vec![
                "signatures alone, all cores".into(),
                number(verification.per_second),
                number(verification.micros),
            ]);
        }
        for (batch, count) in [(1, 500), (50, 10_000), (1000, 50_000)] {
            let folder = process::scratch("puts")?;
            let records = records(&self.lines, count);
            let mut puts = ceilings::puts(&folder, records.iter().map(Vec::as_slice), batch)?;
            std::fs::remove_dir_all(folder)?;
            table.row(vec![
                format!("one bare table, commits of {batch} (events; ms of a commit)"),
                number(puts.per_second),
                number(puts.cpu_micros),
                number(puts.commits.at(0.5)),
                number(puts.commits.at(0.99)),
            ]);
        }
        let running = self.byte_server()?;
        let shape = SHAPES.iter().find(|shape| shape.name == "global_k1_l500").ok_or("no such shape")?;
        for connections in &self.args.askers {
            let cpu = running.cpu();
            let mut asked =
                runtime.block_on(drive::ask(&running.target, &self.pool, shape, *connections, self.duration(), 7))?;
            let cpu = running.cpu() - cpu;
            table.row(vec![
                format!("500 notes from memory, {connections} connections (answers)"),
                number(asked.questions as f64 / asked.seconds),
                number(cpu / asked.questions.max(1) as f64 * 1e6),
                number(asked.latencies.at(0.5)),
                number(asked.latencies.at(0.99)),
            ]);
        }
        println!("## Ceilings\n");
        table.print();
        Ok(())
    }

    /// This program once more, serving the newest 500 notes from memory.
    fn byte_server(&self) -> Result<Running> {
        let dir = process::scratch("bytes")?;
        let this = std::env::current_exe()?;
        let command = format!("{} --bench --serve-bytes {{port}} --file {}", this.display(), self.file.display());
        let server = Server::start(&command, &dir)?;
        Ok(Running { target: Target::local(server.port), pid: Some(server.pid), _server: Some(server) })
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.args.seconds)
    }

    /// Publishing into an empty store.
    fn publish(&self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        type Cell = Vec<(Published, f64, (f64, f64), f64)>;
        let steps = &self.args.publish;
        let mut cells: Vec<Vec<Cell>> =
            self.contenders.iter().map(|_| steps.iter().map(|_| Vec::new()).collect()).collect();
        let total: usize = steps.iter().map(|(_, events)| events).sum();
        if total * self.args.rounds > self.lines.len() {
            return Err(format!(
                "publishing takes {} events, there are {}",
                total * self.args.rounds,
                self.lines.len()
            )
            .into());
        }
        for round in 0..self.args.rounds {
            for (contender, cells) in self.contenders.iter().zip(&mut cells) {
                eprintln!("publish, round {}: {}", round + 1, contender.name);
                let dir = process::scratch(&format!("publish-{}", contender.folder()))?;
                let running = contender.start(&dir)?;
                let mut next = round * total;
                for ((connections, events), cell) in steps.iter().zip(cells) {
                    // Every relay gets the same events in the same round.
                    let range: Range<usize> = next..next + events;
                    next += events;
                    let (cpu, own) = (running.cpu(), own_cpu());
                    let published = runtime.block_on(drive::publish(
                        &running.target,
                        &self.lines,
                        range,
                        *connections,
                        IN_FLIGHT,
                    ))?;
                    let (own, seconds) = (own_cpu() - own, published.seconds);
                    // Work that a relay puts off belongs to its events all the same.
                    std::thread::sleep(ceilings::REST);
                    cell.push((published, running.cpu() - cpu, running.resident(), own / seconds));
                }
            }
        }
        println!("## Publishing, {IN_FLIGHT} in flight on each connection\n");
        let mut table = Table::new(&[
            "relay",
            "connections",
            "events/s",
            "OK p50 ms",
            "OK p99 ms",
            "CPU µs/event",
            "refused",
            "resident MiB",
            "anonymous MiB",
            "driver",
            "rate, ratite = 1",
            "CPU, ratite = 1",
        ]);
        for (i, (connections, _)) in steps.iter().enumerate() {
            let mut base = None;
            for (contender, cells) in self.contenders.iter().zip(&mut cells) {
                let cell = &mut cells[i];
                let rate = median(cell.iter().map(|c| c.0.events as f64 / c.0.seconds));
                let cpu = median(cell.iter().map(|c| c.1 / c.0.events.max(1) as f64 * 1e6));
                let (base_rate, base_cpu) = *base.get_or_insert((rate, cpu));
                let p50 = median(cell.iter_mut().map(|c| c.0.latencies.at(0.5)));
                let p99 = median(cell.iter_mut().map(|c| c.0.latencies.at(0.99)));
                table.row(vec![
                    contender.name.clone(),
                    connections.to_string(),
                    number(rate),
                    number(p50),
                    number(p99),
                    number(cpu),
                    number(median(cell.iter().map(|c| c.0.refused as f64))),
                    number(median(cell.iter().map(|c| c.2.0))),
                    number(median(cell.iter().map(|c| c.2.1))),
                    percent(median(cell.iter().map(|c| c.3))),
                    number(rate / base_rate),
                    number(cpu / base_cpu),
                ]);
            }
        }
        table.print();
        Ok(())
    }

    /// Every relay gets the workload and stays up.
    fn load(&mut self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let mut table =
            Table::new(&["relay", "loaded in s", "store MB", "start-up ms", "resident MiB", "anonymous MiB"]);
        for contender in &mut self.contenders {
            eprintln!("load: {}", contender.name);
            let dir = process::scratch(&format!("store-{}", contender.folder()))?;
            let started = Instant::now();
            match (&contender.how, &contender.import) {
                (How::Url(_), _) if self.args.loaded => {}
                (How::Command(_), Some(import)) => {
                    let command = process::fill(import, &dir, 0).replace("{file}", &self.file.display().to_string());
                    let mut shell = Command::new("sh");
                    shell.args(["-c", &command]);
                    process::run(shell, &[2])?;
                }
                _ => {
                    let running = contender.start(&dir)?;
                    let all = 0..self.lines.len();
                    runtime.block_on(drive::publish(&running.target, &self.lines, all, 32, IN_FLIGHT))?;
                }
            }
            let loaded = started.elapsed().as_secs_f64();
            let started = Instant::now();
            let running = contender.start(&dir)?;
            let start_up = started.elapsed().as_secs_f64() * 1000.0;
            let bytes = if running._server.is_some() { process::folder_bytes(&dir) as f64 / 1e6 } else { f64::NAN };
            table.row(vec![
                contender.name.clone(),
                number(loaded),
                number(bytes),
                number(start_up),
                number(running.memory("VmRSS")),
                number(running.memory("RssAnon")),
            ]);
            contender.running = Some(running);
        }
        println!("## Stores\n");
        table.print();
        Ok(())
    }

    fn query(&self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let named = |shape: &&Shape| {
            let wanted = &self.args.shapes;
            wanted.is_empty() || wanted.iter().any(|part| shape.name.starts_with(part.as_str()))
        };
        for connections in &self.args.askers {
            println!("## Questions, {connections} connections\n");
            let mut table = Table::new(&[
                "shape",
                "relay",
                "events",
                "answers/s",
                "MB/s",
                "bytes/event",
                "p50 ms",
                "p99 ms",
                "CPU µs",
                "disk reads",
                "refused",
                "differs",
                "driver",
                "rate, ratite = 1",
                "CPU, ratite = 1",
            ]);
            for shape in SHAPES.iter().filter(named) {
                eprintln!("{connections} connections: {}", shape.name);
                let mut cells: Vec<Vec<(Asked, f64, f64, f64)>> = self.contenders.iter().map(|_| Vec::new()).collect();
                for round in 0..self.args.rounds {
                    for (contender, cell) in self.contenders.iter().zip(&mut cells) {
                        let Some(running) = &contender.running else { continue };
                        let (cpu, own, reads) = (running.cpu(), own_cpu(), running.disk_reads());
                        let seed = round as u64;
                        let asked = runtime.block_on(drive::ask(
                            &running.target,
                            &self.pool,
                            shape,
                            *connections,
                            self.duration(),
                            seed,
                        ));
                        match asked {
                            Ok(asked) => {
                                let (cpu, own) = (running.cpu() - cpu, own_cpu() - own);
                                cell.push((asked, cpu, own, running.disk_reads() - reads));
                            }
                            Err(error) => eprintln!("{}: {}: {error}", contender.name, shape.name),
                        }
                    }
                }
                let mut base = None;
                let first = std::mem::take(&mut cells[0]);
                let reference: Vec<Vec<Vec<u64>>> = first.iter().map(|c| c.0.first.clone()).collect();
                cells[0] = first;
                for (contender, cell) in self.contenders.iter().zip(&mut cells) {
                    let per = |value: fn(&Asked) -> u64| {
                        median(cell.iter().map(|c| value(&c.0) as f64 / c.0.questions.max(1) as f64))
                    };
                    let events = per(|asked| asked.events);
                    let refused = median(cell.iter().map(|c| c.0.refused as f64));
                    let rate = median(cell.iter().map(|c| c.0.questions as f64 / c.0.seconds));
                    let cpu = median(cell.iter().map(|c| c.1 / c.0.questions.max(1) as f64 * 1e6));
                    let reads = median(cell.iter().map(|c| c.3 / c.0.questions.max(1) as f64));
                    let (base_rate, base_cpu) = *base.get_or_insert((rate, cpu));
                    let differs: usize =
                        cell.iter().zip(&reference).map(|(c, first)| differing(&c.0.first, first)).sum();
                    let bytes = median(cell.iter().map(|c| c.0.bytes as f64 / c.0.seconds / 1e6));
                    let per_event = median(cell.iter().map(|c| c.0.bytes as f64 / c.0.events as f64));
                    let p50 = median(cell.iter_mut().map(|c| c.0.latencies.at(0.5)));
                    let p99 = median(cell.iter_mut().map(|c| c.0.latencies.at(0.99)));
                    table.row(vec![
                        shape.name.into(),
                        contender.name.clone(),
                        number(events),
                        number(rate),
                        number(bytes),
                        number(per_event),
                        number(p50),
                        number(p99),
                        number(cpu),
                        number(reads),
                        number(refused),
                        differs.to_string(),
                        percent(median(cell.iter().map(|c| c.2 / c.0.seconds))),
                        number(rate / base_rate),
                        number(cpu / base_cpu),
                    ]);
                }
            }
            table.print();
        }
        Ok(())
    }

    /// Through everything the busiest author wrote: the last page must cost what the first costs.
    fn paging(&self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        if !self.args.shapes.is_empty() && !self.args.shapes.iter().any(|part| "paging".starts_with(part.as_str())) {
            return Ok(());
        }
        println!("## Deep paging: one author's notes, 500 to a page\n");
        let mut table =
            Table::new(&["relay", "events", "pages", "first ten, ms each", "last ten, ms each", "last / first"]);
        for contender in &self.contenders {
            let Some(running) = &contender.running else { continue };
            let (mut first, mut last, mut pages, mut events) = (Vec::new(), Vec::new(), 0, 0);
            for _ in 0..self.args.rounds {
                let (times, total) = runtime.block_on(drive::page(&running.target, &self.pool.busiest.0, 100_000))?;
                (pages, events) = (times.len(), total);
                let ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
                // The very last page is not full.
                let full = &ms[..ms.len().saturating_sub(1)];
                first.extend(&full[..full.len().min(10)]);
                last.extend(&full[full.len().saturating_sub(10)..]);
            }
            let (first, last) = (median(first), median(last));
            table.row(vec![
                contender.name.clone(),
                number(events as f64),
                pages.to_string(),
                number(first),
                number(last),
                number(last / first),
            ]);
        }
        table.print();
        Ok(())
    }

    /// A thousand who follow twenty authors each, fifty who want everything.
    fn live(&self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        const FOLLOWERS: usize = 1000;
        const EVERYTHING: usize = 50;
        const FAST: usize = 1000;
        const SLOW: usize = 600;
        println!("## Live: {FOLLOWERS} subscribers to 20 authors each, {EVERYTHING} to everything\n");
        let mut table = Table::new(&[
            "relay",
            "delivered",
            "expected",
            "deliveries/s",
            "CPU µs/delivery",
            "bytes/delivery",
            "p50 ms at 200/s",
            "p99 ms at 200/s",
            "KiB/idle connection",
            "resident MiB",
            "anonymous MiB",
            "driver",
            "rate, ratite = 1",
            "CPU, ratite = 1",
        ]);
        let mut cells: Vec<Vec<Live>> = self.contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..self.args.rounds {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            // The same accounts write something new, now.
            let spec = Spec { seed: self.args.seed, stream: now, end: now, days: 0, events: 5000, ..Spec::default() };
            let authors = (self.args.events / 40).clamp(100, 200_000) as usize;
            let fresh = Workload::new(Spec { authors, ..spec }).flatten().filter(|event| event.kind == 1);
            let mut text = Vec::new();
            for event in fresh.take(FAST + SLOW) {
                event.write_json(&mut text);
                text.push(b'\n');
            }
            let lines = Lines::new(text);
            for (contender, cell) in self.contenders.iter().zip(&mut cells) {
                let Some(running) = &contender.running else { continue };
                eprintln!("live, round {}: {}", round + 1, contender.name);
                let before = running.memory("RssAnon");
                let result = runtime.block_on(async {
                    let all = FOLLOWERS + EVERYTHING;
                    let audience = Audience::connect(&running.target, &self.pool, FOLLOWERS, EVERYTHING, now).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let idle = (running.memory("RssAnon") - before) * 1024.0 / all as f64;
                    let (cpu, own) = (running.cpu(), own_cpu());
                    let fast = audience.hear(&running.target, &lines, 0..FAST, None).await?;
                    let (cpu, own) = (running.cpu() - cpu, own_cpu() - own);
                    let slow = audience.hear(&running.target, &lines, FAST..FAST + SLOW, Some(200)).await?;
                    Result::Ok(Live { fast, slow, idle, cpu, own, resident: running.resident() })
                });
                match result {
                    Ok(live) => cell.push(live),
                    Err(error) => eprintln!("{}: {error}; a low `ulimit -n` is the usual reason", contender.name),
                }
            }
        }
        let mut base = None;
        for (contender, cell) in self.contenders.iter().zip(&mut cells) {
            let rate = median(cell.iter().map(|l| l.fast.deliveries as f64 / l.fast.seconds));
            let cpu = median(cell.iter().map(|l| l.cpu / l.fast.deliveries.max(1) as f64 * 1e6));
            let (base_rate, base_cpu) = *base.get_or_insert((rate, cpu));
            let p50 = median(cell.iter_mut().map(|l| l.slow.latencies.at(0.5)));
            let p99 = median(cell.iter_mut().map(|l| l.slow.latencies.at(0.99)));
            table.row(vec![
                contender.name.clone(),
                number(median(cell.iter().map(|l| (l.fast.deliveries + l.slow.deliveries) as f64))),
                number(median(cell.iter().map(|l| (l.fast.expected + l.slow.expected) as f64))),
                number(rate),
                number(cpu),
                number(median(cell.iter().map(|l| l.fast.bytes as f64 / l.fast.deliveries.max(1) as f64))),
                number(p50),
                number(p99),
                number(median(cell.iter().map(|l| l.idle))),
                number(median(cell.iter().map(|l| l.resident.0))),
                number(median(cell.iter().map(|l| l.resident.1))),
                percent(median(cell.iter().map(|l| l.own / l.fast.seconds))),
                number(rate / base_rate),
                number(cpu / base_cpu),
            ]);
        }
        table.print();
        Ok(())
    }
}

struct Live {
    fast: Delivered,
    slow: Delivered,
    idle: f64,
    cpu: f64,
    own: f64,
    resident: (f64, f64),
}

/// How many of the same questions were answered with another number of events.
fn differing(a: &[Vec<u64>], b: &[Vec<u64>]) -> usize {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).filter(|(a, b)| a != b).count()).sum()
}

fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

/// The records ratite would store for the first `count` events.
fn records(lines: &Lines, count: usize) -> Vec<Vec<u8>> {
    let events = lines.iter().take(count).filter_map(|line| ratite::nostr::Event::parse(line).ok());
    events
        .map(|event| {
            let mut record = Vec::new();
            ratite::store::encode(&event, &mut record);
            record
        })
        .collect()
}

/// The other side of the ceiling of bytes.
fn serve_bytes(port: u16, args: &Args) -> Result<()> {
    let lines = Lines::read(args.file.as_deref().ok_or("--file is missing")?)?;
    let mut notes: Vec<&[u8]> =
        lines.iter().filter(|line| memchr::memmem::find(line, b"\"kind\":1,").is_some()).collect();
    let notes = notes.split_off(notes.len().saturating_sub(500));
    let answer: Arc<[u8]> = ceilings::answer_of(notes.into_iter()).into();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        ceilings::serve_bytes(listener, answer).await
    })
}
