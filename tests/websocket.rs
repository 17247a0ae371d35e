//! The relay as a WebSocket client sees it, byte by byte: PROTOCOL.md sections 1 and 23.6, backpressure, shutdown.
//! Tests are named after the hostile input they send.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use wire::{BINARY, CLOSE, CONTINUATION, FIN, PATIENCE, PING, PONG, TEXT, TestRelay, event, eventually, frame, text};

const REQ: &str = "[\"REQ\",\"s\",{\"limit\":0}]";

/// Sends these bytes to a fresh relay and expects the close code.
#[track_caller]
fn assert_closes(bytes: &[u8], code: u16) {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.send(bytes);
    socket.closes_with(code);
    relay.connect().still_works();
}

#[test]
fn h182_one_byte_fragments() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let last = REQ.len() - 1;
    for (i, byte) in REQ.bytes().enumerate() {
        let opcode = if i == 0 { TEXT } else { CONTINUATION };
        socket.send(&frame(opcode | if i == last { FIN } else { 0 }, &[byte]));
    }
    socket.hears("EOSE", "s");
}

#[test]
fn h183_endless_empty_fragments() {
    let mut bytes = frame(TEXT, b"");
    for _ in 0..100_000 {
        bytes.extend_from_slice(&frame(CONTINUATION, b""));
    }
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    // The relay may close before all of it is sent.
    let _ = socket.stream.write_all(&bytes);
    socket.closes_with(1008);
}

#[test]
fn h184_ping_between_fragments() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.send(&frame(TEXT, &REQ.as_bytes()[..7]));
    socket.send(&frame(FIN | PING, b"now"));
    let pong = socket.next().unwrap();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b"now"[..]));
    socket.send(&frame(FIN | CONTINUATION, &REQ.as_bytes()[7..]));
    socket.hears("EOSE", "s");
}

#[test]
fn h185_continuation_without_a_start() {
    assert_closes(&frame(FIN | CONTINUATION, b"x"), 1002);
}

#[test]
fn h186_text_inside_a_fragmented_message() {
    assert_closes(&[frame(TEXT, b"x"), text("y")].concat(), 1002);
}

#[test]
fn h187_unmasked_client_frame() {
    assert_closes(b"\x81\x02[]", 1002);
}

#[test]
fn h188_reserved_bits() {
    for bit in [0x40, 0x20, 0x10] {
        assert_closes(&frame(FIN | TEXT | bit, REQ.as_bytes()), 1002);
    }
}

#[test]
fn h189_reserved_opcodes() {
    for opcode in (3..=7).chain(11..=15) {
        assert_closes(&frame(FIN | opcode, b""), 1002);
    }
}

#[test]
fn h190_ping_of_126_bytes() {
    assert_closes(&frame(FIN | PING, &[0; 126]), 1002);
}

#[test]
fn h191_fragmented_ping() {
    assert_closes(&frame(PING, b""), 1002);
}

#[test]
fn h192_ping_of_125_bytes() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let payload: Vec<u8> = (0..125).collect();
    socket.send(&frame(FIN | PING, &payload));
    let pong = socket.next().unwrap();
    assert_eq!((pong.opcode, pong.payload), (PONG, payload));
}

#[test]
fn h193_unsolicited_pong() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.send(&frame(FIN | PONG, b"x"));
    socket.still_works();
}

#[test]
fn h194_ping_flood() {
    let relay = TestRelay::with(|config| config.listen.outbox_bytes = 1 << 16);
    let mut socket = relay.connect();
    let mut reader = socket.stream.try_clone().unwrap();
    let answers = std::thread::spawn(move || {
        let mut bytes = 0;
        let mut chunk = vec![0; 1 << 16];
        while bytes < 100_000 * 127 {
            bytes += reader.read(&mut chunk).unwrap();
        }
        bytes
    });
    let ping = frame(FIN | PING, &[7; 125]);
    for _ in 0..1000 {
        socket.send(&ping.repeat(100));
    }
    assert_eq!(answers.join().unwrap(), 100_000 * 127, "each one is answered, in bounded memory");
    socket.still_works();
}

#[test]
fn h194_ping_flood_by_one_who_never_reads() {
    let relay = TestRelay::with(|config| config.listen.outbox_bytes = 1 << 16);
    let mut socket = relay.connect();
    socket.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let pings = frame(FIN | PING, &[7; 125]).repeat(1000);
    let mut sent = 0;
    while sent < 1 << 30 {
        match socket.stream.write(&pings) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    assert!(sent < 1 << 30, "the relay stops reading when its answers are not read");
    relay.connect().still_works();
}

#[test]
fn h195_to_h199_invalid_utf8() {
    for bytes in [&b"\xff"[..], b"[\"\xc0\x80\"]", b"[\"\xed\xa0\x80\"]", b"\xf0\x9f"] {
        assert_closes(&frame(FIN | TEXT, bytes), 1007);
    }
}

#[test]
fn h198_character_across_fragments() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.send(&frame(TEXT, b"[\"REQ\",\"\xf0\x9f"));
    socket.send(&frame(FIN | CONTINUATION, b"\x98\x80\",{\"limit\":0}]"));
    socket.hears("EOSE", "😀");
}

#[test]
fn h200_binary_frame() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.send(&frame(FIN | BINARY, REQ.as_bytes()));
    socket.hears_notice("invalid: ");
    assert_eq!(relay.relay.stats().subscriptions, 0, "not processed");
    socket.still_works();
}

#[test]
fn h201_declared_length_of_2_62() {
    let mut bytes = vec![0x81, 0xff];
    bytes.extend_from_slice(&(1u64 << 62).to_be_bytes());
    assert_closes(&bytes, 1009);
}

#[test]
fn h202_length_with_top_bit() {
    assert_closes(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 1002);
}

#[test]
fn h203_non_minimal_length() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let mut bytes = vec![0x81, 0xfe, 0, REQ.len() as u8, 0, 0, 0, 0];
    bytes.extend_from_slice(REQ.as_bytes());
    socket.send(&bytes);
    socket.hears("EOSE", "s");
}

#[test]
fn h204_message_at_and_above_the_limit() {
    let limit = 131_072;
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let padded = |size: usize| REQ.to_owned() + &" ".repeat(size - REQ.len());
    socket.say(&padded(limit));
    socket.hears("EOSE", "s");
    socket.send(&frame(TEXT, &vec![b' '; limit]));
    socket.send(&frame(FIN | CONTINUATION, b" "));
    socket.closes_with(1009);
    let mut socket = relay.connect();
    socket.say(&padded(limit + 1));
    socket.closes_with(1009);
}

#[test]
fn h205_to_h207_bad_close_frames() {
    assert_closes(&frame(FIN | CLOSE, b"x"), 1002);
    for code in [999u16, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_closes(&frame(FIN | CLOSE, &code.to_be_bytes()), 1002);
    }
    assert_closes(&frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007);
}

#[test]
fn h208_close_then_more_data() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.send(&[frame(FIN | CLOSE, &1000u16.to_be_bytes()), text(REQ)].concat());
    let echo = socket.next().unwrap();
    assert_eq!((echo.opcode, echo.payload), (CLOSE, 1000u16.to_be_bytes().to_vec()));
    assert_eq!(socket.next(), None);
}

#[test]
fn h210_compressed_frame_without_negotiation() {
    assert_closes(&frame(FIN | TEXT | 0x40, b"\x9a\x31\x07\xff"), 1002);
}

#[test]
fn h211_frame_header_then_silence() {
    let relay = TestRelay::with(|config| {
        config.listen.ping_interval = 1;
        config.listen.ping_timeout = 1;
    });
    let mut socket = relay.connect();
    socket.send(&[0x81, 0xfe]);
    let began = Instant::now();
    assert_eq!(socket.next().map(|frame| frame.opcode), Some(PING));
    assert_eq!(socket.next(), None, "dropped without more words");
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert_eq!(relay.health()["closed_silent"], 1);
}

#[test]
fn h243_a_peer_that_is_gone_is_dropped_although_it_is_written_to() {
    let relay = TestRelay::with(|config| {
        config.listen.ping_interval = 1;
        config.listen.ping_timeout = 1;
    });
    // Its kernel takes what comes, but nobody is there to answer a ping.
    let mut gone = relay.connect();
    gone.say("[\"REQ\",\"all\",{\"limit\":0}]");
    gone.hears("EOSE", "all");
    let began = Instant::now();
    let mut i = 0;
    while relay.health()["closed_silent"] == 0 {
        assert!(began.elapsed() < PATIENCE, "it is still written to");
        // A new one each time: none of these is ever silent for long.
        let mut writer = relay.connect();
        let event = event(1, 20_001, &i.to_string());
        i += 1;
        writer.publish(&event);
        writer.hears("OK", &event.id.to_string());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
}

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
