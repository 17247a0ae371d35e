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
use kit::contender::{Contender, How, Running, own_cpu};
use kit::drive::{self, Asked, Audience, Delivered, Pace, Published};
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
    /// Subscribers to 20 authors in the live part
    #[arg(long, default_value_t = 1000)]
    followers: usize,
    /// Events that the live part publishes as fast as they go, and at a steady pace
    #[arg(long, value_name = "FAST:STEADY", default_value = "1000:600", value_parser = step)]
    heard: (usize, usize),
    /// Events that wait for their OK on each publishing connection
    #[arg(long, default_value_t = 50)]
    in_flight: usize,
    /// Threads of this tool
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, hide = true)]
    bench: bool,
    /// Internal: be the server of a ceiling: `bytes`, `checked`, `fan` or `durable`, with `:PORT`
    #[arg(long, hide = true)]
    serve: Option<String>,
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

fn main() -> Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let args = Args::parse();
    let runtime = match args.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    if let Some(what) = &args.serve {
        return serve(what, &args);
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

struct Bench {
    args: Args,
    contenders: Vec<Contender>,
    file: PathBuf,
    lines: Arc<Lines>,
    pool: Arc<Pool>,
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
            let mut puts = ceilings::puts(&folder, records.iter().map(Vec::as_slice), batch, None)?;
            std::fs::remove_dir_all(folder)?;
            table.row(vec![
                format!("one bare table, commits of {batch} (events; ms of a commit)"),
                number(puts.per_second),
                number(puts.cpu_micros),
                number(puts.commits.at(0.5)),
                number(puts.commits.at(0.99)),
            ]);
        }
        let running = self.child("bytes", &process::scratch("bytes")?, &self.file)?;
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

    /// This program once more, serving from memory what is in `file`.
    fn child(&self, what: &str, dir: &Path, file: &Path) -> Result<Running> {
        let this = std::env::current_exe()?;
        let command = format!("{} --bench --serve {what}:{{port}} --file {}", this.display(), file.display());
        let server = Server::start(&command, dir)?;
        Ok(Running { target: Target::local(server.port), pid: Some(server.pid), server: Some(server) })
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.args.seconds)
    }

    /// Publishing into an empty store.
    fn publish(&self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        type Cell = Vec<(Published, f64, (f64, f64), f64)>;
        let steps = &self.args.publish;
        let this = std::env::current_exe()?;
        let ceiling = (!self.args.unsigned).then(|| Contender {
            name: "signatures and one table".into(),
            how: How::Command(format!("{} --bench --serve checked:{{port}}", this.display())),
            import: None,
            deflate: false,
            running: None,
        });
        let contenders: Vec<&Contender> = self.contenders.iter().chain(&ceiling).collect();
        let mut cells: Vec<Vec<Cell>> = contenders.iter().map(|_| steps.iter().map(|_| Vec::new()).collect()).collect();
        let total: usize = steps.iter().map(|(_, events)| events).sum();
        if total * self.args.rounds > self.lines.len() {
            return Err(format!(
                "publishing takes {} events, there are {}",
                total * self.args.rounds,
                self.lines.len()
            )
            .into());
        }
        let mut signatures = Vec::new();
        for round in 0..self.args.rounds {
            if !self.args.unsigned {
                signatures.push(ceilings::verification(&self.lines, 20_000)?);
            }
            for (contender, cells) in contenders.iter().zip(&mut cells) {
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
                        self.args.in_flight,
                    ))?;
                    let (own, seconds) = (own_cpu() - own, published.seconds);
                    // Work that a relay puts off belongs to its events all the same.
                    std::thread::sleep(ceilings::REST);
                    cell.push((published, running.cpu() - cpu, running.resident(), own / seconds));
                }
            }
        }
        println!("## Publishing, {} in flight on each connection\n", self.args.in_flight);
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
            "rate, signatures = 1",
            "CPU, signatures = 1",
        ]);
        for (i, (connections, _)) in steps.iter().enumerate() {
            let mut base = None;
            for (contender, cells) in contenders.iter().zip(&mut cells) {
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
                    number(rate / median(signatures.iter().map(|alone| alone.per_second))),
                    number(cpu / median(signatures.iter().map(|alone| alone.micros))),
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
                    runtime.block_on(drive::publish(&running.target, &self.lines, all, 32, 50))?;
                }
            }
            let loaded = started.elapsed().as_secs_f64();
            let started = Instant::now();
            let running = contender.start(&dir)?;
            let start_up = started.elapsed().as_secs_f64() * 1000.0;
            let bytes = if running.server.is_some() { process::folder_bytes(&dir) as f64 / 1e6 } else { f64::NAN };
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
        println!("## Live: {} subscribers to 20 authors each, {EVERYTHING} to everything\n", self.args.followers);
        let (fast, slow) = self.args.heard;
        let mut cells: Vec<Vec<Live>> = (0..self.contenders.len() + LIVE_CEILINGS.len()).map(|_| Vec::new()).collect();
        let (mut commits, folder) = (Vec::new(), process::scratch("live")?);
        for round in 0..self.args.rounds {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            let lines = self.fresh(now, fast + slow, &folder.join(FRESH))?;
            let halls = [
                self.child("fan", &folder, &folder.join(FRESH))?,
                self.child("durable", &folder, &folder.join(FRESH))?,
            ];
            let contenders = self.contenders.iter().map(|contender| (&*contender.name, contender.running.as_ref()));
            for ((name, running), cell) in
                contenders.chain(LIVE_CEILINGS.into_iter().zip(halls.iter().map(Some))).zip(&mut cells)
            {
                let Some(running) = running else { continue };
                eprintln!("live, round {}: {name}", round + 1);
                match runtime.block_on(self.live_round(running, &lines, now)) {
                    Ok(live) => cell.push(live),
                    Err(error) => eprintln!("{name}: {error}; a low `ulimit -n` is the usual reason"),
                }
            }
            let records = records(&lines, slow);
            let puts = process::scratch("live-commits")?;
            commits.push(ceilings::puts(&puts, records.iter().map(Vec::as_slice), 1, Some(RATE))?.commits);
            std::fs::remove_dir_all(puts)?;
        }
        let mut table = Table::new(&[
            "relay",
            "delivered",
            "expected",
            "deliveries/s",
            "CPU µs/delivery",
            "driver",
            "bytes/delivery",
            "p50 ms at 200/s",
            "p99 ms at 200/s",
            "CPU µs/delivery at 200/s",
            "driver at 200/s",
            "KiB/idle connection",
            "resident MiB",
            "anonymous MiB",
            "rate, ratite = 1",
            "CPU, ratite = 1",
            "rate, frames = 1",
            "CPU, frames = 1",
            "rate, committed = 1",
        ]);
        let figures = |cell: &Vec<Live>| cell.iter().map(|live| (live.rate(), live.fast.cpu())).collect();
        let ceilings: Vec<Vec<(f64, f64)>> = cells[self.contenders.len()..].iter().map(figures).collect();
        let mut base = None;
        let names = self.contenders.iter().map(|contender| &*contender.name).chain(LIVE_CEILINGS);
        for (name, cell) in names.zip(&mut cells) {
            let rate = median(cell.iter().map(Live::rate));
            let cpu = median(cell.iter().map(|live| live.fast.cpu()));
            let (base_rate, base_cpu) = *base.get_or_insert((rate, cpu));
            // Of each round, because rounds differ more than what is compared in one.
            let of = |i: usize, ratio: fn(&Live, &(f64, f64)) -> f64| {
                median(cell.iter().zip(&ceilings[i]).map(|(live, ceiling)| ratio(live, ceiling)))
            };
            let of_rates = [0, 1].map(|i| of(i, |live, ceiling| live.rate() / ceiling.0));
            let of_cpu = of(0, |live, ceiling| live.fast.cpu() / ceiling.1);
            let p50 = median(cell.iter_mut().map(|live| live.slow.heard.latencies.at(0.5)));
            let p99 = median(cell.iter_mut().map(|live| live.slow.heard.latencies.at(0.99)));
            let both = |of: fn(&Delivered) -> u64| {
                median(cell.iter().map(|live| (of(&live.fast.heard) + of(&live.slow.heard)) as f64))
            };
            table.row(vec![
                name.to_owned(),
                number(both(|heard| heard.deliveries)),
                number(both(|heard| heard.expected)),
                number(rate),
                number(cpu),
                percent(median(cell.iter().map(|live| live.fast.driver()))),
                number(median(cell.iter().map(|live| live.fast.heard.bytes as f64 / live.fast.deliveries()))),
                number(p50),
                number(p99),
                number(median(cell.iter().map(|live| live.slow.cpu()))),
                percent(median(cell.iter().map(|live| live.slow.driver()))),
                number(median(cell.iter().map(|live| live.idle))),
                number(median(cell.iter().map(|live| live.resident.0))),
                number(median(cell.iter().map(|live| live.resident.1))),
                number(rate / base_rate),
                number(cpu / base_cpu),
                number(of_rates[0]),
                number(of_cpu),
                number(of_rates[1]),
            ]);
        }
        table.print();
        println!(
            "Commits of one of these events, {RATE} a second, one bare table: p50 {} ms, p99 {} ms\n",
            number(median(commits.iter_mut().map(|commits| commits.at(0.5)))),
            number(median(commits.iter_mut().map(|commits| commits.at(0.99))))
        );
        Ok(())
    }

    /// Notes that the accounts of the workload write now, none of them known to any relay. They are written to `file` as well.
    fn fresh(&self, now: u64, count: usize, file: &Path) -> Result<Lines> {
        let authors = (self.args.events / 40).clamp(100, 200_000) as usize;
        // Nearly half of all events are notes.
        let events = 3 * count as u64 + 1000;
        let spec = Spec { seed: self.args.seed, stream: now, end: now, days: 0, events, authors, ..Spec::default() };
        let mut text = Vec::new();
        for event in Workload::new(spec).flatten().filter(|event| event.kind == 1).take(count) {
            event.write_json(&mut text);
            text.push(b'\n');
        }
        std::fs::write(file, &text)?;
        Ok(Lines::new(text))
    }

    /// An audience comes, hears events as fast as they go, then at a steady pace.
    async fn live_round(&self, running: &Running, lines: &Lines, now: u64) -> Result<Live> {
        let before = running.memory("RssAnon");
        let audience = Audience::connect(&running.target, &self.pool, self.args.followers, EVERYTHING, now).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = (running.memory("RssAnon") - before) * 1024.0 / (self.args.followers + EVERYTHING) as f64;
        let part = async |events: Range<usize>, pace| {
            let (relay, tool) = (running.cpu(), own_cpu());
            let heard = audience.hear(&running.target, lines, events, pace).await?;
            Result::Ok(Part { heard, relay: running.cpu() - relay, tool: own_cpu() - tool })
        };
        let (fast, slow) = self.args.heard;
        let flood = Pace::InFlight(self.args.in_flight);
        let (fast, slow) = (part(0..fast, flood).await?, part(fast..fast + slow, Pace::Steady(RATE)).await?);
        Ok(Live { fast, slow, idle, resident: running.resident() })
    }
}

/// Subscribers of the live part, the steady pace, events a second, and the file that they are in.
const EVERYTHING: usize = 50;
const RATE: u64 = 200;
const FRESH: &str = "fresh.jsonl";

/// What live delivery is held against, see [`kit::fan`].
const LIVE_CEILINGS: [&str; 2] = ["prepared frames", "prepared frames, committed"];

/// What a round of the live part came to.
struct Live {
    fast: Part,
    slow: Part,
    /// KiB of each connection while nothing happens.
    idle: f64,
    resident: (f64, f64),
}

/// One half of it, with the CPU seconds of both sides.
struct Part {
    heard: Delivered,
    relay: f64,
    tool: f64,
}

impl Part {
    fn deliveries(&self) -> f64 {
        self.heard.deliveries.max(1) as f64
    }

    /// The relay's CPU microseconds for each delivery.
    fn cpu(&self) -> f64 {
        self.relay / self.deliveries() * 1e6
    }

    /// How much of one core the tool used.
    fn driver(&self) -> f64 {
        self.tool / self.heard.seconds
    }
}

impl Live {
    fn rate(&self) -> f64 {
        self.fast.heard.deliveries as f64 / self.fast.heard.seconds
    }
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

/// The other side of a ceiling.
fn serve(what: &str, args: &Args) -> Result<()> {
    let (what, port) = what.split_once(':').ok_or("write WHAT:PORT")?;
    let lines = match &args.file {
        Some(file) => Lines::read(file)?,
        None if what == "checked" => Lines::default(),
        None => return Err("--file is missing".into()),
    };
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    // As the relay's.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).event_interval(8).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
        match what {
            "checked" => return kit::checked::serve(listener, process::scratch("publish-checked")?).await,
            "fan" => return kit::fan::serve(listener, &lines, threads, None).await,
            "durable" => {
                let folder = process::scratch("live-durable")?;
                return kit::fan::serve(listener, &lines, threads, Some(&folder)).await;
            }
            _ => {}
        }
        let mut notes: Vec<&[u8]> =
            lines.iter().filter(|line| memchr::memmem::find(line, b"\"kind\":1,").is_some()).collect();
        let notes = notes.split_off(notes.len().saturating_sub(500));
        ceilings::serve_bytes(listener, ceilings::answer_of(notes.into_iter()).into()).await
    })
}
