//! `cargo bench --bench fairness`: what a light client waits for while heavy ones page through everything, and what the limits per
//! address and author cost.

mod kit;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use kit::pool::{Lines, Pool};
use kit::process::{self, Server};
use kit::random::Rng;
use kit::report::{Latencies, Table, median, number};
use kit::socket::{Says, Socket, Target};
use kit::workload::Spec;
use memchr::memmem;
use ratite::config::Rates;
use ratite::nostr::{Kind, PublicKey};
use ratite::server::admission::{Guest, Limiter, Resource};

/// Light clients beside heavy ones, and the price of limits
#[derive(Parser)]
struct Args {
    /// Another ratite than the one built here
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ratite"))]
    ratite: PathBuf,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "clients,limits")]
    only: Vec<String>,
    /// Events in the store
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Heavy clients
    #[arg(long, default_value_t = 8)]
    heavy: usize,
    /// Questions that each heavy client has open at a time
    #[arg(long, value_delimiter = ',', default_value = "1,12,100")]
    open: Vec<usize>,
    /// Look-ups of the light client in a second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Seconds for each part of a round
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> kit::Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let args = Args::parse();
    let wants = |what: &str| args.only.iter().any(|only| only == what);
    if wants("clients") {
        clients(&args)?;
    }
    if wants("limits") {
        limits();
    }
    Ok(())
}

/// Single look-ups by id at a steady pace, alone and beside heavy clients, in turn.
fn clients(args: &Args) -> kit::Result<()> {
    let spec = Spec { events: args.events, sign: false, ..Spec::default() };
    let file = kit::workload::file(&process::scratch_root(), spec)?;
    let lines = Lines::read(&file)?;
    let pool = Pool::new(&lines);
    let dir = process::scratch("fairness")?;
    let ratite = args.ratite.display();
    let mut import = Command::new("sh");
    let into = dir.join("data");
    import.args(["-c", &format!("{ratite} --data {} import --no-verify {}", into.display(), file.display())]);
    process::run(import, &[2])?;
    let server = Server::start(&format!("{ratite} --listen 127.0.0.1:{{port}} --data {{dir}}/data"), &dir)?;
    let target = Target::local(server.port);

    let mut rows: Vec<(String, Vec<Part>)> = vec![("alone".into(), Vec::new())];
    for open in &args.open {
        rows.push((format!("beside {} clients with {open} open each", args.heavy), Vec::new()));
    }
    for round in 0..args.rounds {
        eprintln!("round {}", round + 1);
        rows[0].1.push(part(args, &target, &pool, 0, round)?);
        for (i, open) in args.open.iter().enumerate() {
            rows[i + 1].1.push(part(args, &target, &pool, *open, round)?);
        }
    }
    println!("## One light client: single events by id, {} a second\n", args.rate);
    let mut table =
        Table::new(&["the light client", "look-ups", "p50 ms", "p90 ms", "p99 ms", "worst ms", "others' events/s"]);
    for (name, mut parts) in rows {
        table.row(vec![
            name,
            number(parts.iter().map(|part| part.latencies.len()).sum::<usize>() as f64),
            number(median(parts.iter_mut().map(|part| part.latencies.at(0.5)))),
            number(median(parts.iter_mut().map(|part| part.latencies.at(0.9)))),
            number(median(parts.iter_mut().map(|part| part.latencies.at(0.99)))),
            number(median(parts.iter_mut().map(|part| part.latencies.at(1.0)))),
            number(median(parts.iter().map(|part| part.heavy))),
        ]);
    }
    table.print();
    Ok(())
}

struct Part {
    latencies: Latencies,
    /// Events that the heavy clients got in a second, all together.
    heavy: f64,
}

/// Heavy clients on a thread of their own, so that reading their answers is not in the light one's way.
fn part(args: &Args, target: &Target, pool: &Pool, open: usize, round: usize) -> kit::Result<Part> {
    let end = AtomicBool::new(false);
    let events = Arc::new(AtomicU64::new(0));
    let duration = Duration::from_secs_f64(args.seconds);
    std::thread::scope(|scope| {
        let heavy = (open > 0).then(|| {
            let events = events.clone();
            let end = &end;
            scope.spawn(move || -> kit::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let pages = (0..args.heavy).map(|_| page(target, open, &events, end));
                    for ended in futures(pages).await {
                        ended?;
                    }
                    Ok(())
                })
            })
        });
        // The heavy ones are in full swing before anything is measured.
        std::thread::sleep(Duration::from_millis(500));
        let before = events.load(Relaxed);
        let began = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let latencies = runtime.block_on(look_up(target, pool, args.rate, duration, round as u64));
        let heavy_rate = (events.load(Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        end.store(true, Relaxed);
        if let Some(heavy) = heavy {
            heavy.join().map_err(|_| "a heavy client failed")??;
        }
        Ok(Part { latencies: latencies?, heavy: heavy_rate })
    })
}

/// Runs all at once on this task.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in &mut running {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *output = Some(ready);
            }
        }
        if running.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// Pages through the whole store, newest first, over and over, in many subscriptions at once.
async fn page(target: &Target, open: usize, events: &AtomicU64, end: &AtomicBool) -> kit::Result<()> {
    const NOW: u64 = u64::MAX >> 11;
    let mut socket = Socket::connect(target).await?;
    let mut until = vec![NOW; open];
    let ask = |socket: &mut Socket, i: usize, until: u64| {
        socket.push(&[format!("[\"REQ\",\"{i}\",{{\"until\":{until},\"limit\":5000}}]").as_bytes()]);
    };
    (0..open).for_each(|i| ask(&mut socket, i, NOW));
    socket.flush().await?;
    while !end.load(Relaxed) {
        let mut done = Vec::new();
        let mut count = 0;
        let mut each = |says, payload: &[u8]| match says {
            Says::Event => {
                count += 1;
                if let (Some(i), Some(at)) = (number_at(payload, 10), memmem::find(payload, b"\"created_at\":"))
                    && let (Some(until), Some(at)) = (until.get_mut(i as usize), number_at(payload, at + 13))
                {
                    *until = at;
                }
            }
            Says::Eose => done.extend(number_at(payload, 9)),
            Says::Closed | Says::Notice => panic!("{}", String::from_utf8_lossy(payload)),
            _ => {}
        };
        // Not for ever: the relay has nothing to say while others are measured.
        match tokio::time::timeout(Duration::from_millis(100), socket.read(&mut each)).await {
            Ok(read) => read?,
            Err(_) => continue,
        }
        events.fetch_add(count, Relaxed);
        for i in done {
            let until = &mut until[i as usize];
            // The oldest event of the workload is not much older than ninety days.
            *until = if *until < kit::workload::END - 89 * 86_400 { NOW } else { *until - 1 };
            ask(&mut socket, i as usize, *until);
        }
        socket.flush().await?;
    }
    Ok(())
}

/// The number that begins there.
fn number_at(payload: &[u8], at: usize) -> Option<u64> {
    let digits = payload.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Asks for one event after the other, each at its time; one that must wait for the answer before it is late, and that counts.
async fn look_up(target: &Target, pool: &Pool, rate: u32, duration: Duration, seed: u64) -> kit::Result<Latencies> {
    let mut socket = Socket::connect(target).await?;
    let mut rng = Rng::new(seed, 1);
    let mut latencies = Latencies::default();
    let began = Instant::now();
    let mut answered = began;
    for turn in 0.. {
        let due = began + Duration::from_secs(1) / rate * turn;
        if due > began + duration {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let id = &pool.ids[rng.index(pool.ids.len())];
        socket.push(&[b"[\"CLOSE\",\"q\"]"]);
        socket.push(&[format!("[\"REQ\",\"q\",{{\"ids\":[\"{id}\"]}}]").as_bytes()]);
        // Held up by the answer before, it counts from when it was due; held up by this tool's timer, it does not.
        let asked = if answered > due { due } else { Instant::now() };
        socket.flush().await?;
        let mut done = false;
        while !done {
            socket.read(&mut |says, _| done |= says == Says::Eose).await?;
        }
        answered = Instant::now();
        latencies.add(answered - asked);
    }
    Ok(latencies)
}

/// Nanoseconds of CPU for each step, and bytes for each address and author that is remembered.
fn limits() {
    const ADDRESSES: u32 = 50_000;
    const TURNS: u32 = 5_000_000;
    // Generous, so that nothing is refused; as many buckets are filled and emptied as by default.
    let rates = Rates {
        exempt: Vec::new(),
        messages: 100_000_000,
        message_bytes: 64 << 30,
        reqs: 100_000_000,
        events_per_author: 100_000_000,
        new_connections: 1_000_000,
        remembered: 2 * ADDRESSES as usize,
        ..Rates::default()
    };
    let now = Instant::now();
    let limiter = Limiter::new(&rates, now);
    let enter = |i: u32| -> Option<Guest> {
        limiter
            .enter(Some(IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + i.wrapping_mul(2_654_435_761) % (1 << 24)))), now)
            .ok()
    };
    let mut table = Table::new(&["limits", "ns of CPU", "bytes"]);
    let (before, cpu) = (resident(), cpu());
    for i in 0..ADDRESSES {
        black_box(enter(i));
    }
    let entered = (self::cpu() - cpu) / f64::from(ADDRESSES) * 1e9;
    let bytes = (resident() - before) * 1024.0 * 1024.0 / limiter.addresses().max(1) as f64;
    table.row(vec!["a connection of a new address, and what is kept of it".into(), number(entered), number(bytes)]);
    let cpu = self::cpu();
    for _ in 0..20 {
        for i in 0..ADDRESSES {
            black_box(enter(i));
        }
    }
    let again = (self::cpu() - cpu) / f64::from(20 * ADDRESSES) * 1e9;
    table.row(vec!["a connection of a known address".into(), number(again), "".into()]);

    let Some(guest) = enter(0) else { return };
    let cpu = self::cpu();
    for _ in 0..TURNS {
        let _ = black_box(guest.charge(Some(Resource::Reqs), 200, Instant::now()));
    }
    let message = (self::cpu() - cpu) / f64::from(TURNS) * 1e9;
    table.row(vec!["a message (REQ), with reading the clock".into(), number(message), "".into()]);

    let mut key = [0; 32];
    let mut author = |i: u32| {
        key[..4].copy_from_slice(&i.wrapping_mul(2_654_435_761).to_be_bytes());
        let charged = guest.charge_author(&PublicKey(key), Kind(1), Instant::now());
        drop(black_box(charged));
    };
    let (before, cpu) = (resident(), self::cpu());
    (0..ADDRESSES).for_each(&mut author);
    let new = (self::cpu() - cpu) / f64::from(ADDRESSES) * 1e9;
    let bytes = (resident() - before) * 1024.0 * 1024.0 / limiter.authors().max(1) as f64;
    table.row(vec!["an event of a new author, and what is kept of it".into(), number(new), number(bytes)]);
    let cpu = self::cpu();
    for _ in 0..20 {
        (0..ADDRESSES).for_each(&mut author);
    }
    let known = (self::cpu() - cpu) / f64::from(20 * ADDRESSES) * 1e9;
    table.row(vec!["an event of a known author".into(), number(known), "".into()]);
    println!("## Limits: {ADDRESSES} addresses and as many authors\n");
    table.print();
}

/// Seconds of this thread.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e9)
}

fn resident() -> f64 {
    process::memory(std::process::id(), "RssAnon").unwrap_or(f64::NAN)
}
