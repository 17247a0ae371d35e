//! `cargo bench --bench micro [-- NAME]`: the single steps, each alone: protocol, records, scans over a store of 200,000 events, live match.

mod kit;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kit::pool::{Lines, Pool};
use kit::process;
use kit::random::Rng;
use kit::shapes::SHAPES;
use kit::workload::Spec;
use ratite::config::Config;
use ratite::nostr::{Event, Filter, SubscriptionId};
use ratite::relay::{LiveText, Relay, Settings, Sink};
use ratite::store::{self, Budget, Order, Progress, Record, Scan, Store};

/// Events in the store that is scanned.
const STORED: u64 = 200_000;

/// Events that the steps without a store take turns with.
const SAMPLE: usize = 2000;

fn main() {
    if !kit::wanted() {
        return;
    }
    divan::main();
    let only = std::env::args().skip(1).any(|arg| !arg.starts_with('-') && !"live_match".contains(&arg));
    if !only && let Err(error) = live_match() {
        eprintln!("live match: {error}");
    }
}

/// The workload, with bytes for signatures: nothing here checks them but `verify`, which signs its own.
static LINES: LazyLock<Lines> = LazyLock::new(|| {
    let spec = Spec { events: STORED, sign: false, ..Spec::default() };
    let file = kit::workload::file(&process::scratch_root(), spec);
    file.and_then(|file| Lines::read(&file)).unwrap_or_else(|error| panic!("the workload cannot be made: {error}"))
});

static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(&LINES));

/// Some events of every part of the workload.
static EVENTS: LazyLock<Vec<Event>> = LazyLock::new(|| sample().filter_map(|json| Event::parse(json).ok()).collect());

static RECORDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| EVENTS.iter().map(record).collect());

fn sample() -> impl Iterator<Item = &'static [u8]> {
    LINES.iter().step_by(LINES.len() / SAMPLE)
}

fn record(event: &Event) -> Vec<u8> {
    let mut record = Vec::new();
    store::encode(event, &mut record);
    record
}

/// Runs `step` over all items, over and over, and reports the time of one.
fn each<T: Sync>(bencher: Bencher<'_, '_>, items: &[T], size: impl Fn(&T) -> usize, step: impl Fn(&T) + Sync) {
    let bytes: usize = items.iter().map(size).sum();
    bencher
        .counter(ItemsCount::new(items.len()))
        .counter(BytesCount::new(bytes))
        .bench(|| items.iter().for_each(&step));
}

#[divan::bench(max_time = 1)]
fn parse(bencher: Bencher<'_, '_>) {
    let lines: Vec<&[u8]> = sample().collect();
    each(bencher, &lines, |line| line.len(), |line| drop(black_box(Event::parse(line))));
}

#[divan::bench(max_time = 1)]
fn id(bencher: Bencher<'_, '_>) {
    each(bencher, &EVENTS, |event| event.content.len(), |event| drop(black_box(event.check_id())));
}

/// The whole check of a signature; the ceiling of everything that takes events from strangers.
#[divan::bench(max_time = 1)]
fn verify(bencher: Bencher<'_, '_>) {
    let spec = Spec { events: 200, ..Spec::default() };
    let signed: Vec<Event> =
        kit::workload::Workload::new(spec).flatten().filter_map(|e| Event::parse(&e.json()).ok()).collect();
    each(bencher, &signed, |_| 0, |event| drop(black_box(event.check_signature())));
}

#[divan::bench(max_time = 1)]
fn encode(bencher: Bencher<'_, '_>) {
    each(bencher, &EVENTS, |event| record(event).len(), |event| drop(black_box(record(event))));
}

#[divan::bench(max_time = 1)]
fn decode(bencher: Bencher<'_, '_>) {
    each(bencher, &RECORDS, Vec::len, |bytes| drop(black_box(Record::new(bytes).and_then(|record| record.to_event()))));
}

#[divan::bench(max_time = 1)]
fn record_to_json(bencher: Bencher<'_, '_>) {
    let out = std::cell::RefCell::new(Vec::with_capacity(1 << 20));
    let bytes: usize = RECORDS.iter().map(Vec::len).sum();
    bencher.counter(ItemsCount::new(RECORDS.len())).counter(BytesCount::new(bytes)).bench_local(|| {
        for bytes in RECORDS.iter() {
            let mut out = out.borrow_mut();
            out.clear();
            black_box(Record::new(bytes).is_some_and(|record| record.write_json(&mut out)));
        }
    });
}

/// One filter of every shape against every event.
#[divan::bench(max_time = 1)]
fn filter_match(bencher: Bencher<'_, '_>) {
    let mut rng = Rng::new(1, 1);
    let filters: Vec<Filter> =
        SHAPES.iter().filter_map(|shape| Filter::parse(shape.filter(&POOL, &mut rng).as_bytes()).ok()).collect();
    let records: Vec<Record<'_>> = RECORDS.iter().filter_map(|bytes| Record::new(bytes)).collect();
    bencher.counter(ItemsCount::new(filters.len() * records.len())).bench(|| {
        let matching = |filter: &Filter| records.iter().filter(|record| filter.matches(*record)).count();
        filters.iter().map(matching).sum::<usize>()
    });
}

/// A store of the whole workload, made anew for each run.
static STORE: LazyLock<Store> = LazyLock::new(|| {
    let made = process::scratch("micro").and_then(|folder| {
        let store = Store::open(&folder, 1 << 40)?;
        let events = LINES.iter().filter_map(|json| Event::parse(json).ok());
        let mut batch = store.batch(0)?;
        for (i, event) in events.enumerate() {
            batch.apply(&store.prepare(&event))?;
            if i % 10_000 == 9999 {
                batch.commit()?;
                batch = store.batch(0)?;
            }
        }
        batch.commit()?;
        Ok(store)
    });
    made.unwrap_or_else(|error| panic!("the store cannot be made: {error}"))
});

/// Plan, walk, confirm and write JSON: what a reader thread does for one question of each shape, fresh parameters each time.
#[divan::bench(args = SHAPES.iter().map(|shape| shape.name), sample_size = 1, sample_count = 1000, max_time = 2)]
fn scan(bencher: Bencher<'_, '_>, name: &str) {
    let Some(shape) = SHAPES.iter().find(|shape| shape.name == name) else { return };
    let mut rng = Rng::new(2, 2);
    let (store, pool) = (&*STORE, &*POOL);
    let out = std::cell::RefCell::new(Vec::with_capacity(1 << 20));
    bencher
        .with_inputs(|| {
            let filter = Filter::parse(shape.filter(pool, &mut rng).as_bytes());
            filter.unwrap_or_else(|error| panic!("{name}: {error}"))
        })
        .bench_local_values(|filter| {
            let mut out = out.borrow_mut();
            out.clear();
            let mut scan = Scan::new(vec![filter], Order::NewestFirst);
            let budget = Budget { keys: u64::MAX, time: Duration::from_secs(60) };
            let mut count = 0u64;
            let progress = scan.run(store, 0, budget, &mut |record| {
                count += 1;
                if !shape.count {
                    black_box(record.write_json(&mut out));
                }
                ControlFlow::Continue(())
            });
            assert!(matches!(progress, Ok(Progress::Done)), "{name} did not come to its end");
            count
        });
}

/// Counts what it is sent.
#[derive(Default)]
struct Ear {
    live: AtomicU64,
    ready: AtomicU64,
}

impl Sink for Ear {
    fn open(&self, buf: &mut Vec<u8>) -> usize {
        buf.len()
    }

    fn close(&self, _buf: &mut Vec<u8>, _start: usize) {}

    fn send(&self, _messages: Vec<u8>) -> bool {
        self.ready.fetch_add(1, Relaxed);
        true
    }

    fn has_room(&self) -> bool {
        true
    }

    fn send_live(&self, _prefix: &[u8], events: &[&LiveText]) {
        self.live.fetch_add(events.len() as u64, Relaxed);
    }
}

/// What the thread of live delivery spends on an event while so many subscriptions of every kind are open. Its CPU time is read from
/// the system, because the event's way there, signature and disk, costs far more than the match.
fn live_match() -> kit::Result<()> {
    const EVENTS: usize = 5000;
    println!("live_match: CPU of the thread of live delivery for one event");
    for subscriptions in [0, 1, 1000, 10_000, 100_000] {
        let store = Store::open(&process::scratch("live")?, 1 << 40)?;
        let relay = Relay::start(store, Settings::from_config(&Config::default()))?;
        let ear = Arc::new(Ear::default());
        let mut rng = Rng::new(3, 3);
        let mut clients = Vec::new();
        for i in 0..subscriptions {
            let filter = match i % 10 {
                0..6 => format!(r#"{{"authors":["{}"]}}"#, Pool::some(&mut rng, &POOL.authors, 20).join("\",\"")),
                6 => format!(r##"{{"#p":["{}"]}}"##, POOL.mentioned[rng.index(POOL.mentioned.len())]),
                7 => format!(r##"{{"#e":["{}"],"kinds":[1,7]}}"##, POOL.referred[rng.index(POOL.referred.len())]),
                8 => format!(r##"{{"#t":["{}"]}}"##, POOL.topics[rng.index(POOL.topics.len())]),
                _ => format!(r#"{{"ids":["{}"]}}"#, rng.hex32()),
            };
            let filter = Filter::parse(filter.as_bytes())?;
            let client = relay.connect(ear.clone(), None);
            client.subscribe(SubscriptionId::new("live").ok_or("not an id")?, vec![filter]);
            clients.push(client);
        }
        while ear.ready.load(Relaxed) < subscriptions {
            std::thread::sleep(Duration::from_millis(5));
        }
        let events: Vec<Event> = LINES.iter().take(EVENTS).filter_map(|json| Event::parse(json).ok()).collect();
        let count = events.len() as u64;
        let before = process::thread_cpu_ns("live");
        relay.ingest(events, true).recv()?;
        // The thread of live delivery ends when it has delivered everything, but its time can only be read before.
        let mut spent = 0;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = process::thread_cpu_ns("live") - before;
            if now == spent {
                break;
            }
            spent = now;
        }
        let delivered = ear.live.load(Relaxed);
        println!(
            "  {subscriptions:>6} subscriptions: {:>6} ns, {:.1} deliveries, {} ns each",
            spent / count,
            delivered as f64 / count as f64,
            spent / delivered.max(1)
        );
        drop(clients);
        relay.shutdown();
    }
    Ok(())
}
