//! What was acknowledged is on disk, whatever happens to the process: kill -9, SIGTERM, other processes at work.
//!
//! Several clients publish pipelined. What the relay holds afterwards must be exactly what a naive model holds after
//! some prefix of each client's events, and that prefix must include everything that was acknowledged.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;
mod wire;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ratite::nostr::{Event, EventFields as _, EventId, Filter, Kind, Tags, UnsignedEvent};
use ratite::store::{Budget, Order, Prepared, Progress, Scan, Store};
use rayon::prelude::*;
use secp256k1::Keypair;
use serde_json::Value;

use common::model::{Model, Verdict};
use wire::process::{RelayProcess, ratite};
use wire::{FIN, Socket, TEXT, ask_for, frame};

const CLIENTS: u8 = 6;

/// Events that a client sends before it waits for answers.
const WINDOW: usize = 64;

/// splitmix64: good enough to shake things, and the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// What one client is going to publish: notes, replaceable and addressable events, deletions of all kinds, now and then a
/// request to vanish. Every client has an author of its own.
fn life(author: u8, length: usize) -> Vec<Event> {
    const BEGINNING: u64 = 1_700_000_000;
    let key = Keypair::from_secret_bytes([author; 32]).unwrap();
    let mut random = Random(u64::from(author));
    let mut ids: Vec<String> = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    for i in 0..length {
        let mut tags = Tags::default();
        // No two are the same.
        let mut content = i.to_string();
        let mut created_at = BEGINNING + i as u64;
        let kind = match random.below(1000) {
            0..500 => {
                tags.push(["t", ["bird", "ratite", "rhea"][random.below(3)]]);
                if i % 3 == 0 && i > 0 {
                    tags.push(["e", &ids[random.below(i)], "", "reply"]);
                }
                if i % 20 == 0 {
                    tags.push(["expiration", "9999999999"]);
                }
                // Now and then more than a page of LMDB holds.
                let length = if i % 50 == 0 { 20_000 } else { random.below(800) };
                content += &"x".repeat(length);
                1
            }
            500..650 => {
                // Some are older than what they would replace.
                created_at -= random.below(20).min(i) as u64;
                [0, 3, 10_002][random.below(3)]
            }
            650..800 => {
                tags.push(["d", ["one", "two", ""][random.below(3)]]);
                created_at -= random.below(20).min(i) as u64;
                30_023
            }
            800..950 => {
                for _ in 0..=random.below(3) {
                    if i > 0 {
                        tags.push(["e", &ids[random.below(i)]]);
                    }
                }
                5
            }
            950..997 => {
                let address = ["30023:?:one", "30023:?:", "10002:?:"][random.below(3)];
                tags.push(["a", &address.replace('?', &key_hex(&key))]);
                5
            }
            _ => {
                tags.push(["relay", "ALL_RELAYS"]);
                62
            }
        };
        let event = UnsignedEvent { created_at, kind: Kind(kind), tags, content: content.into() }.sign(&key);
        ids.push(event.id.to_string());
        events.push(event);
    }
    events
}

fn key_hex(key: &Keypair) -> String {
    let unsigned = UnsignedEvent { created_at: 0, kind: Kind(1), tags: Tags::default(), content: "".into() };
    unsigned.sign(key).pubkey.to_string()
}

/// A client that publishes its events in order.
struct Publisher {
    events: Vec<Event>,
    /// So many events were answered, all from the first on.
    answered: usize,
    /// So many were sent, at least once.
    sent: usize,
    /// What came too late for a relay that was shutting down.
    turned_away: BTreeSet<EventId>,
    /// What the relay holds of them, according to the answers.
    model: Model,
    random: Random,
}

impl Publisher {
    fn new(author: u8, length: usize) -> Publisher {
        let events = life(author, length);
        Publisher {
            events,
            answered: 0,
            sent: 0,
            turned_away: BTreeSet::new(),
            model: Model::default(),
            random: Random(!u64::from(author)),
        }
    }

    /// Publishes until the relay hangs up; returns its close code, if it sent one. `on_answer` is called at each answer.
    fn publish(&mut self, mut socket: Socket, on_answer: impl Fn()) -> Option<u16> {
        self.turned_away.clear();
        let mut next = self.answered;
        let mut alive = true;
        loop {
            // Writes in bursts, so that answers and events cross.
            if alive && next - self.answered < WINDOW / 2 {
                let burst = (1 + self.random.below(WINDOW / 2)).min(self.events.len() - next);
                let mut bytes = Vec::new();
                for event in &self.events[next..next + burst] {
                    let mut message = b"[\"EVENT\",".to_vec();
                    event.write_json(&mut message);
                    message.push(b']');
                    bytes.extend(frame(FIN | TEXT, &message));
                }
                next += burst;
                self.sent = self.sent.max(next);
                // The relay may be gone; its last words may still be here to be read.
                alive = socket.stream.write_all(&bytes).is_ok();
            }
            match socket.hear_or_end() {
                Ok(message) => self.hears(&message),
                Err(code) => return code,
            }
            on_answer();
        }
    }

    /// Takes an answer and compares it with the model's. One client's events are answered in order.
    fn hears(&mut self, message: &Value) {
        if message[3] == "error: the relay is shutting down" {
            assert_eq!((&message[0], &message[2]), (&"OK".into(), &false.into()));
            self.turned_away.insert(EventId::from_hex(message[1].as_str().unwrap()).unwrap());
            return;
        }
        let event = &self.events[self.answered];
        assert_eq!((&message[0], &message[1]), (&"OK".into(), &event.id.to_string().into()), "out of turn: {message}");
        let verdict = self.model.publish(event, wire::now());
        let (ok, prefix) = match verdict {
            Verdict::Stored => (true, ""),
            Verdict::Replaced => (false, "duplicate: a newer"),
            Verdict::Blocked => (false, "blocked: "),
            other => panic!("{other:?}: {message}"),
        };
        let as_expected = message[2] == ok && message[3].as_str().unwrap().starts_with(prefix);
        assert!(as_expected, "{verdict:?} was expected: {message}");
        self.answered += 1;
    }

    /// Compares what the relay holds with the model: it must be what the answers say, or that and some of the events
    /// that were sent without an answer, from the first of them on. Returns those; the client goes on behind them.
    fn settle(&mut self, found: &BTreeSet<EventId>) -> Vec<Event> {
        let now = wire::now();
        let mut model = self.model.clone();
        for committed in self.answered..=self.sent {
            if model.stored.len() == found.len() && model.stored.iter().all(|event| found.contains(&event.id)) {
                let unanswered = self.events[self.answered..committed].to_vec();
                (self.model, self.answered, self.sent) = (model, committed, committed);
                return unanswered;
            }
            if committed < self.sent {
                model.publish(&self.events[committed], now);
            }
        }
        let lost: Vec<_> = self.model.stored.iter().filter(|event| !found.contains(&event.id)).collect();
        panic!(
            "after {} answered and {} sent events the relay holds {}; of those acknowledged these are not there: {lost:?}",
            self.answered,
            self.sent,
            found.len()
        );
    }

    fn holds(&self, id: &EventId) -> bool {
        self.model.stored.iter().any(|event| event.id == *id)
    }

    fn author(&self) -> ratite::nostr::PublicKey {
        self.events[0].pubkey
    }
}

/// The ids of all events of an author, read from the database itself.
fn stored_ids(store: &Store, author: ratite::nostr::PublicKey) -> BTreeSet<EventId> {
    let filter = Filter { authors: Some(vec![author]), ..Filter::default() };
    let mut scan = Scan::new(vec![filter], Order::NewestFirst);
    let mut ids = BTreeSet::new();
    while scan
        .run(store, wire::now(), Budget::COMMAND, &mut |record| {
            assert!(ids.insert(record.id()), "{} comes twice", record.id());
            ControlFlow::Continue(())
        })
        .unwrap()
        == Progress::More
    {}
    ids
}

fn assert_sound(store: &Store) {
    let report = store.verify().unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
}

fn publishers(length: usize) -> Vec<Publisher> {
    (1..=CLIENTS).into_par_iter().map(|author| Publisher::new(author, length)).collect()
}

/// Has everybody publish until the relay hangs up; `at_target` is called once, when so many answers have come. Returns how many
/// came, and the close codes.
fn publish_all(
    publishers: &mut [Publisher],
    address: SocketAddr,
    target: usize,
    at_target: impl Fn() + Sync,
) -> (usize, Vec<Option<u16>>) {
    let answers = AtomicUsize::new(0);
    let on_answer = || {
        if answers.fetch_add(1, Ordering::Relaxed) + 1 == target {
            at_target();
        }
    };
    let sockets: Vec<Socket> = publishers.iter().map(|_| Socket::open(address)).collect();
    let codes = std::thread::scope(|scope| {
        let publishers = publishers.iter_mut().zip(sockets);
        let threads: Vec<_> =
            publishers.map(|(publisher, socket)| scope.spawn(|| publisher.publish(socket, on_answer))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let answers = answers.into_inner();
    assert!(answers >= target, "the clients ran out of events");
    (answers, codes)
}

/// Compares what the database holds with what everybody was told. Returns what is there, or was, without an answer.
fn settle_all(publishers: &mut [Publisher], store: &Store) -> Vec<Vec<Event>> {
    // A writer that dies after its commit, but before it has told the readers of other processes, leaves that to the next writer.
    drop(store.batch(wire::now()).unwrap());
    assert_sound(store);
    publishers.iter_mut().map(|publisher| publisher.settle(&stored_ids(store, publisher.author()))).collect()
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    const MOST_ANSWERS: usize = 600;
    let rounds: usize = std::env::var("RATITE_KILLS").map_or(50, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(9);
    let mut publishers = publishers(rounds * MOST_ANSWERS / usize::from(CLIENTS) + 500);
    let mut witness: Option<Store> = None;
    let (mut answered, mut unanswered) = (0, 0);
    for round in 0..rounds {
        // Every other time this process has the database open while the relay dies, and it is the next writer's business
        // to free the lock that the dead one held. The other times the next relay finds a database that nobody has open.
        if round % 2 == 0 {
            witness = None;
        }
        let relay = RelayProcess::start(folder.path());
        let (address, relay) = (relay.address, Mutex::new(relay));
        let target = 1 + random.below(MOST_ANSWERS);
        answered += publish_all(&mut publishers, address, target, || relay.lock().unwrap().kill()).0;

        let store = witness.take().unwrap_or_else(|| Store::open_existing(folder.path(), common::MAP).unwrap());
        let before: Vec<usize> = publishers.iter().map(|publisher| publisher.answered).collect();
        let unheard = settle_all(&mut publishers, &store);
        witness = Some(store);

        // What is there is found by everybody who asks, and a client that repeats what it got no answer for hears that it is there.
        let mut relay = RelayProcess::start(folder.path());
        let mut socket = relay.connect();
        for ((publisher, before), unheard) in publishers.iter().zip(before).zip(unheard) {
            let recent = before.saturating_sub(target)..publisher.answered;
            let recent: Vec<EventId> = publisher.events[recent].iter().map(|event| event.id).collect();
            let expected = recent.iter().copied().filter(|id| publisher.holds(id)).collect();
            assert_eq!(ask_for(&mut socket, &recent), expected);
            unanswered += unheard.len();
            for event in unheard.iter().filter(|event| publisher.holds(&event.id)) {
                socket.publish(event);
                let ok = socket.hears("OK", &event.id.to_string());
                assert_eq!((&ok[2], &ok[3]), (&true.into(), &"duplicate: already have this event".into()));
            }
        }
        relay.kill();
    }
    println!("{rounds} times: {answered} events answered, {unanswered} more were stored when the answer was cut off");
}

#[test]
fn sigterm_while_publishing_answers_what_was_accepted_and_exits_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(15);
    let mut publishers = publishers(4000);
    let rounds = 5;
    for _ in 0..rounds {
        let mut relay = RelayProcess::start(folder.path());
        let signalled = Mutex::new(None);
        let (_, codes) = publish_all(&mut publishers, relay.address, 1 + random.below(2000), || {
            relay.signal("TERM");
            *signalled.lock().unwrap() = Some(Instant::now());
        });
        let status = relay.wait();
        let took = signalled.into_inner().unwrap().unwrap().elapsed();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(took < Duration::from_secs(5), "it took {took:?}");
        assert_eq!(codes, [Some(1001); CLIENTS as usize]);

        let store = Store::open_existing(folder.path(), common::MAP).unwrap();
        for unheard in settle_all(&mut publishers, &store) {
            assert_eq!(unheard, [], "stored, but its publisher was not told");
        }
        for publisher in &publishers {
            assert!(publisher.turned_away.iter().all(|id| !publisher.holds(id)), "refused, but stored");
        }
    }
}

#[test]
fn a_relay_that_starts_clears_away_what_killed_commands_left_and_nothing_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let [abandoned, in_use] = ["restore.partial", "compact.partial"].map(|name| folder.path().join(name));
    for place in [&abandoned, &in_use] {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("data.mdb"), "half").unwrap();
    }
    // Whoever writes there holds this lock.
    let claim = std::fs::File::open(&in_use).unwrap();
    rustix::fs::flock(&claim, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut relay = RelayProcess::start(folder.path());
    assert!(!abandoned.exists() && in_use.join("data.mdb").exists());
    relay.kill();
    drop(claim);
    RelayProcess::start(folder.path());
    assert!(!in_use.exists());
}

/// A relay process, and a client that hears of every event it learns of from now on.
fn listening(folder: &Path) -> (RelayProcess, Socket) {
    let relay = RelayProcess::start(folder);
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"live\",{\"limit\":0}]");
    socket.hears("EOSE", "live");
    (relay, socket)
}

/// Hears so many live events; their ids, in the order in which they come.
fn live_ids(socket: &mut Socket, count: usize) -> Vec<EventId> {
    let mut id = || EventId::from_hex(socket.hears("EVENT", "live")[2]["id"].as_str().unwrap()).unwrap();
    (0..count).map(|_| id()).collect()
}

fn notes(author: u8, count: usize) -> Vec<Event> {
    let notes = (0..count).into_par_iter();
    notes.map(|i| wire::event(author, 1, &format!("note {i} {}", "x".repeat(i % 700)))).collect()
}

fn ids(events: &[Event]) -> Vec<EventId> {
    events.iter().map(|event| event.id).collect()
}

fn sorted(mut ids: Vec<EventId>) -> Vec<EventId> {
    ids.sort();
    ids
}

fn publish(mut socket: Socket, events: &[Event]) {
    for some in events.chunks(WINDOW) {
        some.iter().for_each(|event| socket.publish(event));
        for event in some {
            assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
        }
    }
}

#[test]
fn what_an_import_brings_while_the_relay_serves_is_delivered_live_between_published_events_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, mut ear) = listening(folder.path());
    let (imported, published) = (notes(1, 3000), notes(2, 1500));
    let mut import =
        ratite(folder.path(), &["import", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    let heard = std::thread::scope(|scope| {
        scope.spawn(|| publish(relay.connect(), &published));
        scope.spawn(|| {
            // In pieces, so that the two writers take turns.
            for some in imported.chunks(100) {
                let lines: Vec<String> = some.iter().map(|event| common::json(event) + "\n").collect();
                input.write_all(lines.concat().as_bytes()).unwrap();
            }
            drop(input);
        });
        live_ids(&mut ear, imported.len() + published.len())
    });
    let ended = import.wait_with_output().unwrap();
    let summary: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(ended.status.success(), "{summary}");
    assert_eq!(summary["new"], 3000);

    let of =
        |author: &[Event]| heard.iter().copied().filter(|id| author.iter().any(|e| e.id == *id)).collect::<Vec<_>>();
    assert_eq!(of(&imported), ids(&imported), "all of them, in the order of the import");
    assert_eq!(of(&published), ids(&published), "all of them, in the order of the publisher");
    ear.still_works();
    let all = [ids(&imported), ids(&published)].concat();
    assert_eq!(ask_for(&mut relay.connect(), &all), all.iter().copied().collect());
}

#[test]
fn an_import_that_is_killed_leaves_nothing_half_written_and_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), common::MAP).unwrap();
    // Repeated from the start, versions that were replaced could come again when the one that replaced them was deleted.
    let repeatable = |event: &Event| matches!(event.kind.0, 1 | 5 | 62);
    let events: Vec<Event> =
        (1..=CLIENTS).into_par_iter().flat_map(|author| life(author, 1000)).filter(repeatable).collect();
    let mut model = Model::default();
    for event in &events {
        model.publish(event, wire::now());
    }

    let mut random = Random(3);
    let kills = 10;
    for round in 0..=kills {
        let mut import =
            ratite(folder.path(), &["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut input = import.stdin.take().unwrap();
        let before = store.next_seq().unwrap();
        let deadly = round * events.len() / kills;
        for (i, some) in events.chunks(50).enumerate() {
            let lines: String = some.iter().map(|event| common::json(event) + "\n").collect();
            input.write_all(lines.as_bytes()).unwrap();
            if round < kills && i * 50 >= deadly {
                // Something new is on its way to the disk, perhaps there already.
                std::thread::sleep(Duration::from_micros(random.below(20_000) as u64));
                import.kill().unwrap();
                break;
            }
        }
        drop(input);
        let status = import.wait().unwrap();
        assert_eq!(status.success(), round == kills, "{status}");
        drop(store.batch(wire::now()).unwrap());
        assert_sound(&store);
        println!("killed after {deadly} events: {} new ones stored", store.next_seq().unwrap() - before);
    }
    let found: BTreeSet<EventId> =
        (1..=CLIENTS).flat_map(|author| stored_ids(&store, life(author, 1)[0].pubkey)).collect();
    assert_eq!(found, model.stored.iter().map(|event| event.id).collect());
}

#[test]
fn a_publisher_that_hangs_up_early_does_not_take_its_events_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, mut ear) = listening(folder.path());
    let notes = notes(1, 500);
    for some in notes.chunks(50) {
        let mut socket = relay.connect();
        some.iter().for_each(|event| socket.publish(event));
        socket.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    assert_eq!(sorted(live_ids(&mut ear, notes.len())), sorted(ids(&notes)));
}

#[test]
fn the_last_commit_is_one_that_readers_see() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), common::MAP).unwrap();
    let notes: Vec<Prepared> = notes(1, 300).iter().map(|note| store.prepare(note)).collect();
    let (commits, events) = (store.last_commit().unwrap(), store.next_seq().unwrap());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for note in &notes {
                let mut batch = store.batch(wire::now()).unwrap();
                batch.apply(note).unwrap();
                batch.commit().unwrap();
            }
        });
        while !writer.is_finished() {
            let committed = store.last_commit().unwrap() - commits;
            assert!(store.next_seq().unwrap() - events >= committed as u64, "{committed} commits");
        }
    });
    assert_eq!(store.last_commit().unwrap() - commits, notes.len());
}

#[test]
fn two_relays_over_one_database_deliver_each_others_events_live() {
    let folder = tempfile::tempdir().unwrap();
    let (one, mut ear_of_one) = listening(folder.path());
    let (other, mut ear_of_other) = listening(folder.path());
    let (ones, others) = (notes(1, 1000), notes(2, 1000));
    let all = sorted([ids(&ones), ids(&others)].concat());
    std::thread::scope(|scope| {
        scope.spawn(|| publish(one.connect(), &ones));
        scope.spawn(|| publish(other.connect(), &others));
        for ear in [&mut ear_of_one, &mut ear_of_other] {
            scope.spawn(|| {
                assert_eq!(sorted(live_ids(ear, all.len())), all);
                ear.still_works();
            });
        }
    });
    assert_eq!(ask_for(&mut one.connect(), &all).len(), all.len());
}

#[test]
fn a_relay_goes_on_when_another_process_dies_with_the_database_open() {
    let folder = tempfile::tempdir().unwrap();
    let (survivor, mut ear) = listening(folder.path());
    let mut random = Random(2);
    let mut publishers = publishers(3000);
    let mut heard = BTreeSet::new();
    for note in notes(99, 20) {
        let victim = RelayProcess::start(folder.path());
        let (address, victim) = (victim.address, Mutex::new(victim));
        publish_all(&mut publishers, address, 1 + random.below(300), || victim.lock().unwrap().kill());
        publish(survivor.connect(), std::slice::from_ref(&note));
        // Everything that the dead one had stored stands before the note in the log.
        while let id = live_ids(&mut ear, 1)[0]
            && id != note.id
        {
            assert!(heard.insert(id), "{id} came twice");
        }
        for publisher in &mut publishers {
            let mut socket = survivor.connect();
            let sent: Vec<EventId> = publisher.events[..publisher.sent].iter().map(|event| event.id).collect();
            let found = ask_for(&mut socket, &sent);
            assert!(found.is_subset(&heard), "stored and not delivered");
            publisher.settle(&found);
        }
    }
    drop((survivor, ear));
    let store = Store::open_existing(folder.path(), common::MAP).unwrap();
    assert_sound(&store);
}
