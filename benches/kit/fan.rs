//! The ceiling of live delivery: the same frames to the same sockets, made beforehand, with nothing of a relay in between.
//!
//! A process of its own, on the runtime that the relay runs on. It takes the same subscriptions and the same events from the same
//! driver, answers OK at once, and sends the frames that it prepared from the file of events: the n-th event published is the n-th line.
//! What it leaves out is all that a relay does to an event and all that is not sending: parsing, signatures, the database, the match,
//! a task for each connection, bounds, locks. Frames that wait for the same socket go out in one call of 64 KiB, as the relay's do;
//! since OK is said before anything is sent, as many of them may wait as the driver publishes meanwhile.
//!
//! Asked to commit, it keeps the one thing more that no relay may leave out that says OK only when an event is on disk: events go into a bare table,
//! all that came during a commit with the next one, and OK and frames go out after it.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::task::Poll;

use bytes::Bytes;
use heed::PutFlags;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Result;
use super::ceilings::{bare_table, frame, shake_hands};
use super::pool::Lines;
use super::socket::{message_at, unmasked};

/// An event, ready to be sent.
struct Prepared {
    author: Box<[u8]>,
    /// The frame of `["EVENT","live",{…}]`.
    frame: Bytes,
    ok: Vec<u8>,
}

struct Hall {
    events: Vec<Prepared>,
    /// How many of them were published.
    published: AtomicUsize,
    seated: AtomicUsize,
    /// One for each thread of the runtime.
    shards: Vec<UnboundedSender<ToShard>>,
    /// To the thread that commits, if there is one.
    commits: Option<Sender<(usize, UnboundedSender<usize>)>>,
}

impl Hall {
    /// OK, and a frame to everybody.
    fn deliver(&self, number: usize, oks: &UnboundedSender<usize>) {
        // Fails only when whoever published has left.
        let _ = oks.send(number);
        for shard in &self.shards {
            let _ = shard.send(ToShard::Event(number));
        }
    }
}

enum ToShard {
    Subscriber(TcpStream, Option<Vec<Box<[u8]>>>),
    Event(usize),
}

/// Serves until the process ends; commits to a table in `folder` if there is one.
pub async fn serve(listener: TcpListener, lines: &Lines, threads: usize, folder: Option<&Path>) -> Result<()> {
    let events = lines.iter().map(prepare).collect::<Option<Vec<_>>>().ok_or("an event without id or author")?;
    let (shards, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| unbounded_channel()).unzip();
    let (commits, committed) = channel();
    let commits = folder.is_some().then_some(commits);
    let hall = Arc::new(Hall { events, published: AtomicUsize::new(0), seated: AtomicUsize::new(0), shards, commits });
    if let Some(folder) = folder {
        let (hall, folder, mut next) = (hall.clone(), folder.to_owned(), 0u64);
        std::thread::spawn(move || -> Result<()> {
            let (env, table) = bare_table(&folder)?;
            while let Ok(first) = committed.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(committed.try_iter()).collect();
                let mut txn = env.write_txn()?;
                for (number, _) in &batch {
                    table.put_with_flags(
                        &mut txn,
                        PutFlags::APPEND,
                        &next.to_be_bytes(),
                        &hall.events[*number].frame,
                    )?;
                    next += 1;
                }
                txn.commit()?;
                batch.iter().for_each(|(number, oks)| hall.deliver(*number, oks));
            }
            Ok(())
        });
    }
    for receiver in receivers {
        tokio::spawn(shard(hall.clone(), receiver));
    }
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(greet(stream, hall.clone()));
    }
}

fn prepare(event: &[u8]) -> Option<Prepared> {
    let field = |name: &[u8]| {
        let at = memmem::find(event, name)? + name.len();
        event.get(at..at + 64)
    };
    let (mut out, mut ok) = (Vec::new(), Vec::new());
    frame(&mut out, &[b"[\"EVENT\",\"live\",", event, b"]"]);
    frame(&mut ok, &[b"[\"OK\",\"", field(b"\"id\":\"")?, b"\",true,\"\"]"]);
    Some(Prepared { author: field(b"\"pubkey\":\"")?.into(), frame: out.into(), ok })
}

/// Shakes hands and learns from the first message who this is.
async fn greet(mut stream: TcpStream, hall: Arc<Hall>) -> Result<()> {
    shake_hands(&mut stream).await?;
    let mut bytes = Vec::new();
    loop {
        if let Some((start, end)) = message_at(&bytes) {
            let message = unmasked(&bytes[start..end]);
            if !message.starts_with(b"[\"REQ\"") {
                return hear(stream, bytes, &hall).await;
            }
            let number = hall.seated.fetch_add(1, Relaxed);
            let _ = hall.shards[number % hall.shards.len()].send(ToShard::Subscriber(stream, authors(&message)));
            return Ok(());
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// The authors that a REQ names; `None` when it names none.
fn authors(request: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let start = memmem::find(request, b"\"authors\":[")? + 11;
    let list = &request[start..start + memchr::memchr(b']', &request[start..])?];
    Some(list.split(|byte| *byte == b',').filter_map(|quoted| quoted.get(1..65)).map(Box::from).collect())
}

/// A publisher.
async fn hear(stream: TcpStream, mut bytes: Vec<u8>, hall: &Arc<Hall>) -> Result<()> {
    let (mut stream, answers) = stream.into_split();
    let (oks, to_say) = unbounded_channel();
    tokio::spawn(say_ok(answers, to_say, hall.clone()));
    loop {
        let mut at = 0;
        while let Some((_, end)) = message_at(&bytes[at..]) {
            at += end;
            let number = hall.published.fetch_add(1, Relaxed);
            hall.events.get(number).ok_or("more events than were prepared")?;
            match &hall.commits {
                Some(commits) => commits.send((number, oks.clone()))?,
                None => hall.deliver(number, &oks),
            }
        }
        bytes.drain(..at);
        bytes.reserve(16 << 10);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

async fn say_ok(mut stream: OwnedWriteHalf, mut oks: UnboundedReceiver<usize>, hall: Arc<Hall>) -> Result<()> {
    let (mut batch, mut text) = (Vec::new(), Vec::new());
    while oks.recv_many(&mut batch, usize::MAX).await > 0 {
        batch.drain(..).for_each(|number| text.extend_from_slice(&hall.events[number].ok));
        stream.write_all(&text).await?;
        text.clear();
    }
    Ok(())
}

/// A subscriber's socket and what waits for it.
struct Seat {
    stream: TcpStream,
    waiting: VecDeque<Bytes>,
    /// Bytes of the first frame that are sent already.
    offset: usize,
}

/// Sends to a part of the subscribers.
async fn shard(hall: Arc<Hall>, mut orders: UnboundedReceiver<ToShard>) {
    let mut seats: Vec<Seat> = Vec::new();
    let mut everything: Vec<usize> = Vec::new();
    let mut followers: HashMap<Box<[u8]>, Vec<usize>> = HashMap::new();
    let mut eose = Vec::new();
    frame(&mut eose, &[b"[\"EOSE\",\"live\"]"]);
    let (eose, mut batch) = (Bytes::from(eose), Vec::new());
    // Those that have something to be sent, and those of them whose socket was full.
    let (mut due, mut full): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    loop {
        if full.is_empty() {
            if orders.recv_many(&mut batch, usize::MAX).await == 0 {
                return;
            }
        } else {
            poll_fn(|cx| {
                let orders = orders.poll_recv_many(cx, &mut batch, usize::MAX).is_ready();
                full.retain(|&seat| {
                    let ready = seats[seat].stream.poll_write_ready(cx).is_ready();
                    if ready {
                        due.push(seat);
                    }
                    !ready
                });
                if orders || !due.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        for order in batch.drain(..) {
            match order {
                ToShard::Subscriber(stream, authors) => {
                    let seat = seats.len();
                    seats.push(Seat { stream, waiting: VecDeque::from([eose.clone()]), offset: 0 });
                    due.push(seat);
                    match authors {
                        Some(authors) => {
                            authors.into_iter().for_each(|author| followers.entry(author).or_default().push(seat));
                        }
                        None => everything.push(seat),
                    }
                }
                ToShard::Event(number) => {
                    let event = &hall.events[number];
                    for &seat in everything.iter().chain(followers.get(&event.author).into_iter().flatten()) {
                        let waiting = &mut seats[seat].waiting;
                        // Whoever had something waiting is due or full.
                        if waiting.is_empty() {
                            due.push(seat);
                        }
                        waiting.push_back(event.frame.clone());
                    }
                }
            }
        }
        for seat in due.drain(..) {
            if !seats[seat].send() {
                full.push(seat);
            }
        }
    }
}

impl Seat {
    /// Sends what waits; false when the socket is full.
    fn send(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); 128];
            let (mut count, mut bytes, mut skip) = (0, 0, self.offset);
            for (slice, frame) in slices.iter_mut().zip(&self.waiting) {
                *slice = IoSlice::new(&frame[skip..]);
                (count, bytes, skip) = (count + 1, bytes + slice.len(), 0);
                if bytes >= 64 << 10 {
                    break;
                }
            }
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(written) => self.offset += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // The driver has gone.
                Err(_) => self.waiting.clear(),
            }
            while self.waiting.front().is_some_and(|frame| self.offset >= frame.len()) {
                self.offset -= self.waiting.pop_front().map_or(0, |frame| frame.len());
            }
        }
        true
    }
}
