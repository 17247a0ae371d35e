//! The relay as a WebSocket client sees it: PROTOCOL.md section 1, backpressure, shutdown. Frames byte by byte stand in `tests/hostile`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::io::Write;
use std::time::{Duration, Instant};

use wire::{CLOSE, FIN, PATIENCE, PING, PONG, TEXT, TestRelay, event, eventually, frame, text};

#[test]
fn ws09_one_who_answers_pings_stays() {
    let relay = TestRelay::with(|config| {
        config.listen.ping_interval = 1;
        config.listen.ping_timeout = 1;
    });
    let mut socket = relay.connect();
    for _ in 0..3 {
        let ping = socket.next().unwrap();
        assert_eq!(ping.opcode, PING);
        socket.send(&frame(FIN | PONG, &ping.payload));
    }
    socket.still_works();
}

#[test]
fn malformed_messages_are_answered_and_forgiven() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for message in ["", "  ", "hello", "{}", "[]", "\"EVENT\"", "[\"EVENT\"]", "[\"", "[1,\"s\",{}]", "[\"FOO\",\"x\"]"]
    {
        socket.say(message);
        let answer = socket.hear();
        assert_eq!(answer[0], "NOTICE", "{message}: {answer}");
    }
    socket.say(&"[".repeat(100_000));
    assert_eq!(socket.hear()[0], "NOTICE");
    socket.still_works();
}

#[test]
fn ws17_a_stream_of_rubbish_closes_1008() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for _ in 0..1000 {
        if socket.stream.write_all(&text("rubbish")).is_err() {
            break;
        }
    }
    socket.closes_with(1008);
    assert_eq!(relay.health()["closed_for_violations"], 1);
}

#[test]
fn good_messages_between_bad_ones_keep_the_connection() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for _ in 0..5 {
        for _ in 0..90 {
            socket.say("rubbish");
            socket.hears_notice("");
        }
        socket.still_works();
    }
}

#[test]
fn an_event_is_stored_delivered_asked_for_and_counted() {
    let relay = TestRelay::start();
    let mut reader = relay.connect();
    reader.say("[\"REQ\",\"live\",{\"kinds\":[1]}]");
    reader.hears("EOSE", "live");
    let mut writer = relay.connect();
    let note = event(1, 1, "hello");
    writer.publish(&note);
    let ok = writer.hears("OK", &note.id.to_string());
    assert_eq!((&ok[2], &ok[3]), (&true.into(), &"".into()));
    let delivered = reader.hears("EVENT", "live");
    assert_eq!(delivered[2]["id"], note.id.to_string());
    reader.say("[\"REQ\",\"again\",{\"ids\":[\"ID\"]}]".replace("ID", &note.id.to_string()).as_str());
    let stored = reader.hears("EVENT", "again");
    assert_eq!(stored[2], delivered[2], "live and stored are the same text");
    reader.hears("EOSE", "again");
    reader.say("[\"COUNT\",\"n\",{\"kinds\":[1]}]");
    assert_eq!(reader.hears("COUNT", "n")[2]["count"], 1);
    reader.say("[\"CLOSE\",\"live\"]");
    reader.say("[\"CLOSE\",\"again\"]");
    reader.still_works();
    writer.publish(&event(2, 1, "nobody hears this"));
    writer.hear();
    reader.still_works();
}

#[test]
fn many_events_on_one_socket_are_each_answered_once() {
    let relay = TestRelay::with(|config| config.storage.queue_bytes = 1 << 16);
    let mut socket = relay.connect();
    let events: Vec<_> = (0..500).map(|i| event(1, 1, &format!("{i} {}", "x".repeat(1000)))).collect();
    let mut writer = socket.stream.try_clone().unwrap();
    let bytes: Vec<u8> = events
        .iter()
        .flat_map(|event| {
            let mut message = b"[\"EVENT\",".to_vec();
            event.write_json(&mut message);
            message.push(b']');
            frame(FIN | TEXT, &message)
        })
        .collect();
    // Far more than the queue holds: the relay stops reading now and then, and goes on.
    let sending = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    let mut answered: Vec<String> = events
        .iter()
        .map(|_| {
            let ok = socket.hear();
            assert_eq!((&ok[0], &ok[2]), (&"OK".into(), &true.into()), "{ok}");
            ok[1].as_str().unwrap().to_owned()
        })
        .collect();
    sending.join().unwrap();
    let mut published: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
    answered.sort();
    published.sort();
    assert!(answered == published);
}

#[test]
fn a_long_answer_reaches_a_slow_reader_whole() {
    let relay = TestRelay::with(|config| config.listen.outbox_bytes = 1 << 18);
    let events = (0..1500).map(|i| event(1, 1, &format!("{i} {}", "x".repeat(5000)))).collect();
    relay.relay.ingest(events, true).recv().unwrap();
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"all\",{\"limit\":5000}]");
    // Far more than outbox and kernel hold together, so the scan has to wait for this reader, several times.
    for i in 0..1500 {
        if i % 300 == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        socket.hears("EVENT", "all");
    }
    socket.hears("EOSE", "all");
}

#[test]
fn h242_one_who_never_reads_is_closed_and_others_are_not_delayed() {
    let relay = TestRelay::with(|config| config.listen.outbox_bytes = 1 << 18);
    let mut deaf = relay.connect();
    deaf.say("[\"REQ\",\"all\",{\"limit\":0}]");
    deaf.hears("EOSE", "all");
    let mut good = relay.connect();
    good.say("[\"REQ\",\"all\",{\"limit\":0}]");
    good.hears("EOSE", "all");
    let mut writer = relay.connect();
    // An answer shows that the third client is counted too, which may come after the handshake.
    writer.still_works();
    // Ephemeral events cost no disk. The kernel's buffers take some megabytes before the outbox fills.
    let content = "x".repeat(60_000);
    let began = Instant::now();
    let mut i = 0;
    while relay.relay.stats().clients > 2 {
        assert!(began.elapsed() < PATIENCE, "the deaf one is still connected");
        let event = event(1, 20_001, &format!("{i} {content}"));
        i += 1;
        writer.publish(&event);
        writer.hears("OK", &event.id.to_string());
        // Before the next event goes out: whatever waits for the deaf one, it is not this peer.
        good.hears("EVENT", "all");
    }
    eventually("it is counted", || relay.health()["closed_too_slow"] == 1);
    good.still_works();
    // What was under way when the bound was reached comes to its end, then the reason.
    deaf.closes_with(1008);
}

#[test]
fn ws16_shutdown_answers_what_was_accepted_and_closes_1001() {
    let mut relay = TestRelay::start();
    let mut idle = relay.connect();
    idle.still_works();
    let mut writer = relay.connect();
    let events: Vec<_> = (0..50).map(|i| event(1, 1, &format!("{i}"))).collect();
    for event in &events {
        writer.publish(event);
    }
    // One answer shows that the relay has begun to read; the rest is under way when the shutdown begins.
    writer.hear();
    let began = Instant::now();
    let down = relay.begin_shutdown();
    idle.closes_with(1001);
    let mut acknowledged = 1;
    loop {
        let frame = writer.next().unwrap();
        if frame.opcode == CLOSE {
            assert_eq!(frame.payload[..2], 1001u16.to_be_bytes());
            break;
        }
        let ok: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
        acknowledged += u64::from(ok[2] == true);
    }
    drop((idle, writer));
    relay.wait(down);
    assert!(began.elapsed() < Duration::from_secs(5));
    let stored = relay.relay.store().info().unwrap().events;
    assert_eq!(stored, acknowledged, "all that is stored was acknowledged, and the other way round");
    assert!(std::net::TcpStream::connect(relay.address).is_err(), "nobody listens any more");
}

#[test]
fn shutdown_does_not_wait_for_those_who_do_not_read() {
    let mut relay = TestRelay::start();
    let events = (0..1500).map(|i| event(1, 1, &format!("{i} {}", "x".repeat(5000)))).collect();
    relay.relay.ingest(events, true).recv().unwrap();
    let mut deaf = relay.connect();
    deaf.say("[\"REQ\",\"all\",{\"limit\":5000}]");
    let silent = std::net::TcpStream::connect(relay.address).unwrap();
    let mut halfway = relay.connect();
    halfway.send(&frame(TEXT, b"[\"REQ"));
    halfway.send(&frame(FIN | PING, b"x"));
    assert_eq!(halfway.next().unwrap().opcode, PONG);
    let began = Instant::now();
    let down = relay.begin_shutdown();
    relay.wait(down);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop((deaf, silent));
}
