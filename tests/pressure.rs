//! Greedy and slow peers: what they may hold, and that they get everything all the same.

mod common;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use common::{Inbox, NOW, TestRelay, events_of, settings};
use ratite::nostr::{Event, EventId, Filter, Kind, SubscriptionId};
use ratite::relay::{Client, Group, LiveText, Sink};
use ratite::store::Applied;

fn id(text: &str) -> SubscriptionId {
    SubscriptionId::new(text).expect("an id")
}

fn filter(json: &str) -> Filter {
    Filter::parse(json.as_bytes()).expect("a filter")
}

/// A filter of so many short tag values.
fn values(count: usize) -> Filter {
    let list: Vec<String> = (0..count).map(|i| format!("\"{i}\"")).collect();
    filter(&format!("{{\"#x\":[{}]}}", list.join(",")))
}

/// A peer that reads slowly: its sink has little room, and counts when it is given more than it may hold.
#[derive(Default)]
struct Narrow {
    state: Mutex<NarrowState>,
}

#[derive(Default)]
struct NarrowState {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    stalled: bool,
    most: usize,
}

impl Narrow {
    const SOFT: usize = 64 << 10;

    fn push(&self, bytes: Vec<u8>) -> bool {
        let mut state = self.state.lock().expect("lock");
        state.bytes += bytes.len();
        state.most = state.most.max(state.bytes);
        if !bytes.is_empty() {
            state.waiting.push_back(bytes);
        }
        let room = state.bytes <= Narrow::SOFT;
        state.stalled |= !room;
        room
    }

    /// Reads one piece, as a peer on a thin line does.
    fn read(&self, client: &Client) -> Option<Vec<u8>> {
        let mut state = self.state.lock().expect("lock");
        let piece = state.waiting.pop_front();
        state.bytes -= piece.as_ref().map_or(0, Vec::len);
        if state.stalled && state.bytes <= Narrow::SOFT / 2 {
            state.stalled = false;
            drop(state);
            client.resume();
        }
        piece
    }
}

impl Sink for Narrow {
    fn open(&self, buf: &mut Vec<u8>) -> usize {
        buf.len()
    }

    fn close(&self, buf: &mut Vec<u8>, _start: usize) {
        buf.push(b'\n');
    }

    fn send(&self, messages: Vec<u8>) -> bool {
        self.push(messages)
    }

    fn has_room(&self) -> bool {
        self.state.lock().expect("lock").bytes <= Narrow::SOFT
    }

    fn send_live(&self, prefix: &[u8], events: &[&LiveText]) {
        for event in events {
            self.push([prefix, event.text(), b"\n"].concat());
        }
    }
}

/// Writes events as another process does: past the relay, into the same database.
fn write_beside(relay: &TestRelay, events: &[Event]) {
    let store = relay.relay.store();
    let mut batch = store.batch(NOW).expect("batch");
    for event in events {
        assert!(matches!(batch.apply(&store.prepare(event)).expect("apply"), Applied::Stored(_)));
    }
    batch.commit().expect("commit");
}

#[test]
fn a_dump_written_beside_the_relay_reaches_slow_readers_whole() {
    let mut settings = settings();
    settings.waiting_bytes = Narrow::SOFT;
    let relay = TestRelay::with(settings);
    let content = "x".repeat(1000);
    let dump: Vec<Event> = (0..6000u64)
        .map(|n| {
            // The database takes our word for ids and signatures here.
            let mut event = common::note(1, NOW - n % 977, "");
            event.id.0[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            event.content = content.clone().into();
            event
        })
        .collect();
    let published: Vec<Event> = (0..40).map(|n| common::note(2, NOW, &format!("{n}"))).collect();
    let ephemeral = common::sign(3, 20_001, NOW, &[], "passing by");
    // Some are stored when the slow one comes, so its scan is still running when the dump begins.
    write_beside(&relay, &dump[..1000]);

    let narrow = Arc::new(Narrow::default());
    let client = relay.relay.connect(narrow.clone(), None);
    client.subscribe(id("new"), vec![filter("{\"limit\":0}")]);
    // What is new begins with its EOSE.
    while !narrow.read(&client).is_some_and(|piece| piece.starts_with(b"[\"EOSE\"")) {
        std::thread::yield_now();
    }
    client.subscribe(id("all"), vec![filter("{\"limit\":5000}")]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (n, part) in dump[1000..].chunks(500).enumerate() {
                write_beside(&relay, part);
                published.iter().skip(n * 4).take(4).for_each(|event| assert!(relay.publish(event).ok()));
            }
            assert!(relay.publish(&ephemeral).ok());
        });
        let mut seen: HashMap<(String, EventId), usize> = HashMap::new();
        let expected = 6000 + 5000 + 2 * published.len() + 2;
        let mut messages = 0;
        let began = std::time::Instant::now();
        while seen.len() < expected {
            assert!(began.elapsed() < common::PATIENCE, "{} of {expected} came", seen.len());
            let Some(piece) = narrow.read(&client) else {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            };
            for line in String::from_utf8(piece).expect("text").lines() {
                messages += usize::from(!line.starts_with("[\"AUTH\""));
                assert!(!line.starts_with("[\"CLOSED\""), "{line}");
                if let [event] = &events_of(&[line.to_owned()])[..] {
                    *seen.entry((line[10..13].to_owned(), event.id)).or_default() += 1;
                }
            }
        }
        assert!(seen.values().all(|&times| times == 1), "each event once");
        // The other EOSE, and nothing else came.
        assert_eq!(messages, expected + 1);
    });
    let most = narrow.state.lock().expect("lock").most;
    // A slice and a few live events may come on top of what the sink called enough.
    assert!(most < Narrow::SOFT * 4, "{most} bytes waited at once");
    // Both are live again.
    let last = common::note(4, NOW, "last");
    relay.publish(&last);
    let (mut times, began) = (0, std::time::Instant::now());
    while times < 2 {
        assert!(began.elapsed() < common::PATIENCE);
        let piece = narrow.read(&client).unwrap_or_default();
        times += String::from_utf8(piece).expect("text").matches("\"last\"").count();
    }
}

#[test]
fn n40_03_what_another_process_wrote_may_have_expired_before_it_is_delivered() {
    let relay = TestRelay::new();
    let (client, inbox) = relay.connect();
    client.subscribe(id("all"), vec![filter("{\"limit\":0}")]);
    inbox.until(|message| message.starts_with("[\"EOSE\""));
    let until = (NOW + 10).to_string();
    let expiring = common::sign(1, 1, NOW, &[&["expiration", &until]], "soon gone");
    let lasting = common::note(1, NOW, "here to stay");
    relay.clock.set(NOW + 20);
    write_beside(&relay, &[expiring, lasting]);
    let messages = inbox.until(|message| message.contains("here to stay"));
    assert!(messages.iter().all(|message| !message.contains("soon gone")), "{messages:?}");
}

#[test]
fn filters_of_one_connection_are_bounded() {
    let mut settings = settings();
    settings.limits.max_filter_bytes = 1 << 20;
    let relay = TestRelay::with(settings);
    let (client, inbox) = relay.connect();
    let mut open = 0;
    let refusal = loop {
        client.subscribe(id(&format!("s{open}")), vec![values(2000)]);
        let answer = inbox.until(|message| message.starts_with("[\"EOSE\"") || message.starts_with("[\"CLOSED\""));
        let answer = answer.last().expect("an answer").clone();
        if answer.starts_with("[\"CLOSED\"") {
            break answer;
        }
        open += 1;
        assert!(open < 20, "2000 values take more than 50 kB");
    };
    assert!(open > 2, "only {open} fitted into 1 MiB");
    assert!(refusal.contains("\"blocked: ") && refusal.contains("1048576"), "{refusal}");
    assert_eq!(client.subscriptions(), open);
    // What one takes away makes room for another, and a small one fits in at once.
    client.subscribe(id("small"), vec![filter("{\"kinds\":[1]}")]);
    inbox.until(|message| message == "[\"EOSE\",\"small\"]");
    client.unsubscribe(&id("s0"));
    client.subscribe(id("again"), vec![values(2000)]);
    inbox.until(|message| message == "[\"EOSE\",\"again\"]");
}

#[test]
fn filters_of_all_connections_are_bounded_but_everybody_has_a_share() {
    let mut settings = settings();
    settings.limits.max_filter_bytes_total = 1 << 20;
    let relay = TestRelay::with(settings);
    let mut greedy = Vec::new();
    let refusal = loop {
        let (client, inbox) = relay.connect();
        client.subscribe(id("big"), vec![values(2000)]);
        let answer = inbox.until(|message| message.starts_with("[\"EOSE\"") || message.starts_with("[\"CLOSED\""));
        greedy.push(client);
        if answer[0].starts_with("[\"CLOSED\"") {
            break answer[0].clone();
        }
        assert!(greedy.len() < 20);
    };
    assert!(refusal.contains("\"rate-limited: "), "{refusal}");
    // A client that lives on little is served as ever.
    let (modest, inbox) = relay.connect();
    for n in 0..10 {
        modest.subscribe(id(&format!("{n}")), vec![filter("{\"kinds\":[1],\"authors\":[]}")]);
    }
    inbox.until(|message| message == "[\"EOSE\",\"9\"]");
    // Those who go leave room.
    drop(greedy);
    let (client, inbox) = relay.connect();
    client.subscribe(id("big"), vec![values(2000)]);
    inbox.until(|message| message == "[\"EOSE\",\"big\"]");
}

#[test]
fn counts_that_wait_are_bounded_too() {
    let mut settings = settings();
    settings.limits.max_filter_bytes = 1 << 20;
    let relay = TestRelay::with(settings);
    // A sink without room: its owner's questions wait.
    let narrow = Arc::new(Narrow::default());
    let client = relay.relay.connect(narrow.clone(), None);
    narrow.push(vec![b'x'; 2 * Narrow::SOFT]);
    let big = common::note(1, NOW, &"y".repeat(1000));
    relay.publish(&big);
    client.subscribe(id("one"), vec![filter("{}")]);
    while narrow.state.lock().expect("lock").most == 2 * Narrow::SOFT {
        std::thread::yield_now();
    }
    for n in 0..50 {
        client.count(id(&format!("c{n}")), vec![values(2000)]);
    }
    let mut refused = 0;
    let mut counted = 0;
    let began = std::time::Instant::now();
    while refused + counted < 50 {
        assert!(began.elapsed() < common::PATIENCE);
        let Some(piece) = narrow.read(&client) else { continue };
        let text = String::from_utf8(piece).expect("text");
        refused += text.matches("\"blocked: ").count();
        counted += text.matches("[\"COUNT\",").count();
    }
    assert!(refused >= 30 && counted >= 5, "{refused} refused, {counted} counted");
}

#[test]
fn connections_of_one_address_wait_for_each_other_and_all_are_served() {
    let relay = TestRelay::new();
    let content = "x".repeat(1000);
    let stored: Vec<Event> = (0..500).map(|n| common::note(1, NOW - n, &content)).collect();
    write_beside(&relay, &stored);
    let group = Arc::new(Group::default());
    let peers: Vec<(Client, Arc<Inbox>)> = (0..60).map(|_| relay.connect()).collect();
    for (client, _) in &peers {
        client.join(group.clone());
        for n in 0..3 {
            client.subscribe(id(&n.to_string()), vec![filter("{\"limit\":5000}")]);
        }
        client.count(id("count"), vec![filter("{\"kinds\":[1,2]}"), filter("{\"#t\":[\"x\"]}")]);
    }
    // Some go while they wait, and somebody else asks in between.
    let mut peers = peers;
    peers.drain(10..40);
    assert_eq!(relay.query(vec![filter("{\"limit\":5000}")]).len(), 500);
    for (_, inbox) in &peers {
        let (mut events, mut ends) = (0, 0);
        while ends < 4 {
            let messages = inbox.until(|message| message.starts_with("[\"EOSE\"") || message.starts_with("[\"COUNT\""));
            events += events_of(&messages).len();
            ends += 1;
        }
        assert_eq!(events, 1500);
    }
}

#[test]
fn many_under_one_field_come_and_go() {
    let relay = TestRelay::new();
    let mut peers: Vec<(Client, Arc<Inbox>)> = (0..200).map(|_| relay.connect()).collect();
    let listen = |(client, inbox): &(Client, Arc<Inbox>)| {
        client
            .subscribe(id("k"), vec![filter("{\"kinds\":[1,7],\"limit\":0}"), filter("{\"#t\":[\"x\"],\"limit\":0}")]);
        inbox.until(|message| message.starts_with("[\"EOSE\""));
    };
    peers.iter().for_each(listen);
    for round in 0u64..60 {
        let kind = if round % 2 == 0 { 1 } else { 7 };
        let event = common::sign(1, kind, NOW - round, &[&["t", "x"]], "");
        assert_eq!(event.kind, Kind(kind));
        relay.publish(&event);
        for (_, inbox) in &peers {
            assert_eq!(inbox.take_count(1).len(), 1, "round {round}, {} peers", peers.len());
        }
        // Down to a few and up again, in another order than they came.
        if round < 30 {
            (0..6).for_each(|n| drop(peers.swap_remove((n * 7 + round as usize) % peers.len())));
        } else {
            let newcomer = relay.connect();
            listen(&newcomer);
            peers.push(newcomer);
        }
    }
    assert_eq!(relay.relay.stats().subscriptions, peers.len());
    drop(peers);
    assert_eq!(relay.relay.stats().subscriptions, 0);
}
