//! The load itself: publishers with events in flight, clients that ask and ask again, subscribers that wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::Result;
use super::pool::{Lines, Pool};
use super::random::Rng;
use super::report::Latencies;
use super::shapes::Shape;
use super::socket::{Says, Socket, Target};

/// A relay that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Enough of an id to tell events apart.
type Id = [u8; 16];

/// The id in the JSON of an event. In content a quote is escaped, so the first match is the member.
fn id_of(json: &[u8]) -> Option<Id> {
    let at = memmem::find(json, b"\"id\":\"")? + 6;
    json.get(at..at + 16)?.try_into().ok()
}

/// `["OK","<id>",true,…`: the id and the verdict.
fn verdict(payload: &[u8]) -> Option<(Id, bool)> {
    let mut quotes = memchr::memchr_iter(b'"', payload).skip(2);
    let (start, end) = (quotes.next()? + 1, quotes.next()?);
    let rest = payload.get(end + 1..)?;
    let good = rest.iter().find(|byte| byte.is_ascii_alphabetic()) == Some(&b't');
    Some((payload.get(start..start + 16)?.try_into().ok()?, good))
}

async fn read(socket: &mut Socket, each: &mut impl FnMut(Says, &[u8])) -> Result<()> {
    match timeout(PATIENCE, socket.read(each)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer for {} seconds", PATIENCE.as_secs()).into()),
    }
}

/// What publishing came to.
#[derive(Default)]
pub struct Published {
    pub seconds: f64,
    pub events: u64,
    /// OK false.
    pub refused: u64,
    /// From sending an event to its OK.
    pub latencies: Latencies,
}

/// Publishes `events` over `connections`, each with `in_flight` events that wait for their OK.
pub async fn publish(
    target: &Target,
    lines: &Arc<Lines>,
    events: std::ops::Range<usize>,
    connections: usize,
    in_flight: usize,
) -> Result<Published> {
    let mut sockets = Vec::new();
    for _ in 0..connections {
        sockets.push(Socket::connect(target).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (i, socket) in sockets.into_iter().enumerate() {
        let mine = events.clone().skip(i).step_by(connections);
        tasks.spawn(publisher(socket, lines.clone(), mine, in_flight));
    }
    let mut all = Published::default();
    while let Some(one) = tasks.join_next().await {
        let one = one??;
        all.events += one.events;
        all.refused += one.refused;
        all.latencies.merge(one.latencies);
    }
    all.seconds = started.elapsed().as_secs_f64();
    Ok(all)
}

async fn publisher(
    mut socket: Socket,
    lines: Arc<Lines>,
    mut events: impl Iterator<Item = usize>,
    in_flight: usize,
) -> Result<Published> {
    let mut result = Published::default();
    let mut waiting: HashMap<Id, Instant> = HashMap::with_capacity(in_flight * 2);
    let mut notice = None;
    loop {
        while waiting.len() < in_flight {
            let Some(i) = events.next() else { break };
            let event = lines.get(i);
            let id = id_of(event).ok_or("an event without an id")?;
            socket.push(&[b"[\"EVENT\",", event, b"]"]);
            waiting.insert(id, Instant::now());
        }
        if waiting.is_empty() {
            return Ok(result);
        }
        socket.flush().await?;
        let answered = read(&mut socket, &mut |says, payload| match says {
            Says::Ok => {
                let Some((id, good)) = verdict(payload) else { return };
                if let Some(sent) = waiting.remove(&id) {
                    result.events += 1;
                    result.refused += u64::from(!good);
                    result.latencies.add(sent.elapsed());
                }
            }
            Says::Notice => notice = Some(String::from_utf8_lossy(payload).into_owned()),
            _ => {}
        })
        .await;
        answered.map_err(|error| match &notice {
            Some(notice) => format!("{error}; the relay said {notice}").into(),
            None => error,
        })?;
    }
}

/// What asking came to.
#[derive(Default)]
pub struct Asked {
    pub seconds: f64,
    pub questions: u64,
    pub events: u64,
    pub bytes: u64,
    /// Answers that were CLOSED or NOTICE instead of EOSE or COUNT.
    pub refused: u64,
    /// From sending a question to the end of its answer.
    pub latencies: Latencies,
    /// For each connection, how many events its first questions brought; the same questions bring other relays the same.
    pub first: Vec<Vec<u64>>,
}

/// Answers of each connection that are compared between relays.
const COMPARED: usize = 200;

/// Asks questions of one shape for some time, one after the other on each connection.
pub async fn ask(
    target: &Target,
    pool: &Arc<Pool>,
    shape: &'static Shape,
    connections: usize,
    duration: Duration,
    seed: u64,
) -> Result<Asked> {
    let mut sockets = Vec::new();
    for _ in 0..connections {
        sockets.push(Socket::connect(target).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (i, socket) in sockets.into_iter().enumerate() {
        let rng = Rng::new(seed, i as u64);
        let pool = pool.clone();
        tasks.spawn(async move { asker(socket, &pool, shape, rng, started + duration).await.map(|asked| (i, asked)) });
    }
    let mut all = Asked { first: vec![Vec::new(); connections], ..Asked::default() };
    while let Some(one) = tasks.join_next().await {
        let (i, one) = one??;
        all.questions += one.questions;
        all.events += one.events;
        all.bytes += one.bytes;
        all.refused += one.refused;
        all.latencies.merge(one.latencies);
        all.first[i] = one.first.into_iter().flatten().collect();
    }
    all.seconds = started.elapsed().as_secs_f64();
    Ok(all)
}

async fn asker(mut socket: Socket, pool: &Pool, shape: &Shape, mut rng: Rng, end: Instant) -> Result<Asked> {
    let mut result = Asked::default();
    let mut first = Vec::new();
    let verb = if shape.count { "COUNT" } else { "REQ" };
    let mut turn = b'0';
    while Instant::now() < end {
        let filter = shape.filter(pool, &mut rng);
        // Each question has another id than the one before: some relays close a subscription long after its EOSE.
        turn = if turn == b'9' { b'0' } else { turn + 1 };
        let name = char::from(turn);
        let head = format!("[\"{verb}\",\"{name}\",");
        socket.push(&[head.as_bytes(), filter.as_bytes(), b"]"]);
        let asked = Instant::now();
        socket.flush().await?;
        let (mut events, mut done, mut refused) = (0, false, false);
        while !done {
            read(&mut socket, &mut |says, payload| match says {
                Says::Event => events += 1,
                Says::Eose => done = true,
                Says::Count => {
                    done = true;
                    events = number_in(payload);
                }
                Says::Closed if subscription(payload) != Some(turn) => {}
                Says::Closed | Says::Notice => (done, refused) = (true, true),
                Says::Ok | Says::Other => {}
            })
            .await?;
        }
        result.latencies.add(asked.elapsed());
        result.questions += 1;
        result.refused += u64::from(refused);
        result.events += if shape.count { 0 } else { events };
        if first.len() < COMPARED {
            first.push(events);
        }
        if !shape.count {
            // Goes out with the next question.
            let close = format!("[\"CLOSE\",\"{name}\"]");
            socket.push(&[close.as_bytes()]);
        }
    }
    result.bytes = socket.received;
    result.first.push(first);
    Ok(result)
}

/// The first letter of the second string: `["CLOSED","7",…`.
fn subscription(payload: &[u8]) -> Option<u8> {
    let start = memchr::memchr_iter(b'"', payload).nth(2)?;
    payload.get(start + 1).copied()
}

/// The first number after a colon: `["COUNT","q",{"count":7}]`.
fn number_in(payload: &[u8]) -> u64 {
    let digits = payload.iter().skip_while(|byte| **byte != b':').skip_while(|byte| !byte.is_ascii_digit());
    digits.take_while(|byte| byte.is_ascii_digit()).fold(0, |n, byte| n * 10 + u64::from(byte - b'0'))
}

/// Pages through everything somebody wrote, newest first. Returns the time of each page and how many events there were.
pub async fn page(target: &Target, author: &str, most: usize) -> Result<(Vec<Duration>, usize)> {
    const PAGE: usize = 500;
    let mut socket = Socket::connect(target).await?;
    let (mut until, mut times, mut total) = (u64::MAX >> 11, Vec::new(), 0);
    while total < most {
        let filter = format!(r#"{{"authors":["{author}"],"kinds":[1],"until":{until},"limit":{PAGE}}}"#);
        socket.push(&[b"[\"REQ\",\"q\",", filter.as_bytes(), b"]"]);
        let asked = Instant::now();
        socket.flush().await?;
        let (mut events, mut done) = (0, false);
        while !done {
            read(&mut socket, &mut |says, payload| match says {
                Says::Event => {
                    events += 1;
                    if let Some(at) = memmem::find(payload, b"\"created_at\":") {
                        until = number_in(&payload[at..]);
                    }
                }
                Says::Eose | Says::Closed | Says::Notice => done = true,
                _ => {}
            })
            .await?;
        }
        times.push(asked.elapsed());
        total += events;
        if events < PAGE || until == 0 {
            break;
        }
        until -= 1;
        socket.push(&[b"[\"CLOSE\",\"q\"]"]);
    }
    Ok((times, total))
}

/// How fast events are published.
#[derive(Clone, Copy)]
pub enum Pace {
    /// This many a second.
    Steady(u64),
    /// As fast as they are taken, this many of them without an OK yet.
    InFlight(usize),
}

/// Subscribers that wait for live events.
pub struct Audience {
    tasks: Vec<JoinHandle<Result<()>>>,
    shared: Arc<Shared>,
    authors: Vec<Vec<String>>,
    everything: usize,
}

#[derive(Default)]
struct Shared {
    ready: AtomicU64,
    delivered: AtomicU64,
    /// Bytes that came for it, frames included.
    received: AtomicU64,
    sent: Mutex<HashMap<Id, Instant>>,
    latencies: Mutex<Latencies>,
}

/// Locks what no panic leaves broken.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What live delivery came to.
pub struct Delivered {
    pub seconds: f64,
    pub deliveries: u64,
    pub expected: u64,
    pub bytes: u64,
    pub latencies: Latencies,
}

impl Audience {
    /// Connects `followers`, each with a subscription to 20 authors, and `everything` that want all there is; returns when all have
    /// had their EOSE.
    pub async fn connect(
        target: &Target,
        pool: &Pool,
        followers: usize,
        everything: usize,
        now: u64,
    ) -> Result<Audience> {
        let shared = Arc::new(Shared::default());
        let mut audience = Audience { tasks: Vec::new(), shared, authors: Vec::new(), everything };
        let mut rng = Rng::new(20, 1050);
        for i in 0..followers + everything {
            let mut socket = Socket::connect(target).await?;
            let filter = if i < followers {
                let authors: Vec<String> =
                    Pool::some(&mut rng, &pool.authors, 20).iter().map(|a| a.to_string()).collect();
                let filter = format!(r#"{{"authors":["{}"],"since":{now}}}"#, authors.join("\",\""));
                audience.authors.push(authors);
                filter
            } else {
                format!(r#"{{"since":{now}}}"#)
            };
            socket.push(&[b"[\"REQ\",\"live\",", filter.as_bytes(), b"]"]);
            socket.flush().await?;
            let shared = audience.shared.clone();
            audience.tasks.push(tokio::spawn(listen(socket, shared)));
        }
        let all = (followers + everything) as u64;
        let begun = Instant::now();
        while audience.shared.ready.load(Relaxed) < all {
            if begun.elapsed() > PATIENCE {
                return Err(format!(
                    "{} of {all} subscriptions got no EOSE",
                    all - audience.shared.ready.load(Relaxed)
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(audience)
    }

    /// Publishes `events` at this pace, and waits until everybody has what is theirs.
    pub async fn hear(
        &self,
        target: &Target,
        lines: &Lines,
        events: std::ops::Range<usize>,
        pace: Pace,
    ) -> Result<Delivered> {
        let shared = &self.shared;
        shared.delivered.store(0, Relaxed);
        shared.received.store(0, Relaxed);
        lock(&shared.sent).clear();
        *lock(&shared.latencies) = Latencies::default();
        let mut followers: HashMap<&str, u64> = HashMap::new();
        for author in self.authors.iter().flatten() {
            *followers.entry(author).or_default() += 1;
        }
        let mut expected = 0;
        let mut socket = Socket::connect(target).await?;
        let started = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        for i in events {
            let event = lines.get(i);
            let author = memmem::find(event, b"\"pubkey\":\"").and_then(|at| event.get(at + 10..at + 74));
            let author =
                author.and_then(|author| std::str::from_utf8(author).ok()).ok_or("an event without an author")?;
            expected += self.everything as u64 + followers.get(author).copied().unwrap_or(0);
            let id = id_of(event).ok_or("an event without an id")?;
            socket.push(&[b"[\"EVENT\",", event, b"]"]);
            if let Pace::Steady(rate) = pace {
                let due = started + Duration::from_micros(sent as u64 * 1_000_000 / rate);
                tokio::time::sleep_until(due.into()).await;
            }
            lock(&shared.sent).insert(id, Instant::now());
            socket.flush().await?;
            sent += 1;
            while matches!(pace, Pace::InFlight(most) if sent - answered >= most) {
                read(&mut socket, &mut |says, _| answered += usize::from(says == Says::Ok)).await?;
            }
        }
        // Everybody has everything, or nothing came for a while.
        let (mut last, mut since) = (0, Instant::now());
        let mut ended = Instant::now();
        loop {
            let delivered = shared.delivered.load(Relaxed);
            if delivered != last {
                (last, since) = (delivered, Instant::now());
                ended = since;
            }
            if delivered >= expected || since.elapsed() > Duration::from_secs(10) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let latencies = lock(&shared.latencies).clone();
        let bytes = shared.received.load(Relaxed);
        Ok(Delivered { seconds: (ended - started).as_secs_f64(), deliveries: last, expected, bytes, latencies })
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(mut socket: Socket, shared: Arc<Shared>) -> Result<()> {
    let mut quiet = false;
    loop {
        let before = socket.received;
        socket
            .read(&mut |says, payload| match says {
                Says::Event => {
                    shared.delivered.fetch_add(1, Relaxed);
                    if let Some(sent) = id_of(payload).and_then(|id| lock(&shared.sent).get(&id).copied()) {
                        lock(&shared.latencies).add(sent.elapsed());
                    }
                }
                Says::Eose | Says::Closed => {
                    shared.ready.fetch_add(1, Relaxed);
                    quiet = true;
                }
                _ => {}
            })
            .await?;
        shared.received.fetch_add(socket.received - before, Relaxed);
        if quiet {
            socket.shrink();
        }
    }
}
