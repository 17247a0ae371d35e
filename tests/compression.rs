//! permessage-deflate (RFC 7692) over raw sockets: what is agreed, what is sent compressed, and what a hostile client can do
//! with it. A client here keeps exactly the window that was agreed and nothing more.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::{Compress, Compression, FlushCompress};
use ratite::nostr::Event;
use wire::{BINARY, CONTINUATION, FIN, PING, PONG, RSV1, Socket, TEXT, TestRelay, event, frame, text};

const REQ: &str = "[\"REQ\",\"s\",{\"limit\":0}]";

/// What browsers offer, what Go programs offer, what Python programs offer, and the least that is agreed to.
const OFFERS: [&str; 5] = [
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=10; server_no_context_takeover",
];

fn connect(relay: &TestRelay) -> Socket {
    let socket = Socket::open_offering(relay.address, OFFERS[0]);
    assert_eq!(socket.inflater.as_ref().unwrap().agreed, "permessage-deflate; client_no_context_takeover");
    socket
}

/// A compressed message as a client sends it: without the end that the flush leaves.
fn deflate(message: &[u8], window_bits: u8) -> Vec<u8> {
    let mut compressor = Compress::new_with_window_bits(Compression::default(), false, window_bits);
    let mut out = Vec::with_capacity(message.len() * 2 + 64);
    compressor.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    assert_eq!(compressor.total_in(), message.len() as u64);
    assert_eq!(out.split_off(out.len() - 4), [0, 0, 0xff, 0xff]);
    out
}

fn compressed(message: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | TEXT, &deflate(message, 15))
}

/// Events that share words, as events do.
fn events(count: usize) -> Vec<Event> {
    (0..count)
        .map(|i| event(1 + (i % 5) as u8, 1, &format!("good morning nostr, this is note {i} of many {}", i * i)))
        .collect()
}

/// Hears events of this subscription to its EOSE; returns their ids and how many of them came compressed.
fn answer(socket: &mut Socket, id: &str) -> (Vec<String>, usize) {
    let (mut ids, mut packed) = (Vec::new(), 0);
    loop {
        let frame = socket.next().unwrap();
        let message: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
        assert_eq!(message[1], id);
        if message[0] == "EOSE" {
            assert!(!frame.compressed, "too small to be worth it");
            return (ids, packed);
        }
        ids.push(message[2]["id"].as_str().unwrap().to_owned());
        packed += usize::from(frame.compressed);
    }
}

#[test]
fn stored_events_come_compressed_and_are_the_same() {
    let relay = TestRelay::start();
    relay.relay.ingest(events(700), true).recv().unwrap();
    let question = "[\"REQ\",\"all\",{\"limit\":700}]";
    let mut plain = relay.connect();
    plain.say(question);
    let (expected, packed) = answer(&mut plain, "all");
    assert_eq!((expected.len(), packed), (700, 0));
    for offer in OFFERS {
        let mut socket = Socket::open_offering(relay.address, offer);
        for _ in 0..3 {
            socket.say(question);
            let (ids, packed) = answer(&mut socket, "all");
            assert!(ids == expected, "{offer}");
            // Alone, stored events cost more than that saves: a client that keeps no window gets them as they are.
            match (offer.contains("server_no_context_takeover"), offer.contains("bits=9")) {
                (true, _) => assert_eq!(packed, 0, "{offer}"),
                // Some do not shrink with so small a window.
                (_, true) => assert!(packed > 0, "{offer}"),
                // A last slice that is short leaves as it is.
                _ => assert!(packed > 600, "{offer}: {packed}"),
            }
        }
    }
}

#[test]
fn live_events_come_compressed_and_are_the_same() {
    let relay = TestRelay::start();
    let mut plain = relay.connect();
    let mut sockets: Vec<Socket> = OFFERS.iter().map(|offer| Socket::open_offering(relay.address, offer)).collect();
    for socket in sockets.iter_mut().chain([&mut plain]) {
        socket.say("[\"REQ\",\"live \\\"\\u00e9\",{\"limit\":0}]");
        socket.hears("EOSE", "live \"é");
    }
    let mut writer = relay.connect();
    // Some are longer than the smallest windows, and who keeps no more gets them as they are.
    for content in ["short", &"nostr ".repeat(70), &"long ".repeat(400)] {
        let event = event(1, 20_001, content);
        writer.publish(&event);
        writer.hears("OK", &event.id.to_string());
        let expected = plain.next().unwrap();
        let mut json = Vec::new();
        event.write_json(&mut json);
        assert!(!expected.compressed);
        for (socket, offer) in sockets.iter_mut().zip(OFFERS) {
            let frame = socket.next().unwrap();
            let text = |frame: &wire::Frame| String::from_utf8(frame.payload.clone()).unwrap();
            assert_eq!(text(&frame), text(&expected), "{offer}");
            let window = socket.inflater.as_ref().unwrap().window_bits;
            let fits = json.len() < 1 << window;
            assert_eq!(frame.compressed, fits, "{offer}");
        }
    }
}

#[test]
fn answers_and_live_events_share_a_connection() {
    let relay = TestRelay::start();
    let stored = events(1500);
    relay.relay.ingest(stored.clone(), true).recv().unwrap();
    let stored: BTreeSet<String> = stored.iter().map(|event| event.id.to_string()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (relay, stored, done) = (&relay, &stored, &done);
        // Live events all the while.
        scope.spawn(move || {
            let mut writer = Socket::open_offering(relay.address, OFFERS[0]);
            let mut i = 0;
            while !done.load(Ordering::Relaxed) {
                let event = event(9, 20_001, &format!("good morning nostr, this is live {i}"));
                i += 1;
                writer.publish(&event);
                writer.hears("OK", &event.id.to_string());
            }
        });
        let readers: Vec<_> = OFFERS
            .iter()
            .map(|offer| {
                scope.spawn(move || {
                    let mut socket = Socket::open_offering(relay.address, offer);
                    socket.say("[\"REQ\",\"live\",{\"kinds\":[20001],\"limit\":0}]");
                    socket.hears("EOSE", "live");
                    let (mut live, mut packed) = (0, 0);
                    for round in 0..6 {
                        // Two answers that take turns, and live events between their slices.
                        socket.say("[\"REQ\",\"a\",{\"kinds\":[1],\"limit\":1500}]");
                        socket.say("[\"REQ\",\"b\",{\"kinds\":[1],\"limit\":1500}]");
                        let mut seen = [BTreeSet::new(), BTreeSet::new()];
                        let mut open = 2;
                        // To the end of both, and to some live events behind them.
                        let until = live + 20;
                        while open > 0 || live < until {
                            let frame = socket.next().unwrap();
                            let message: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
                            match (message[0].as_str().unwrap(), message[1].as_str().unwrap()) {
                                ("EOSE", _) => open -= 1,
                                (_, "live") => {
                                    live += 1;
                                    packed += usize::from(frame.compressed);
                                }
                                (_, id) => {
                                    let event = message[2]["id"].as_str().unwrap().to_owned();
                                    assert!(seen[usize::from(id == "b")].insert(event), "twice");
                                }
                            }
                        }
                        assert!(seen[0] == *stored && seen[1] == *stored, "{offer}, round {round}");
                    }
                    assert!(packed > 0, "{offer}: live events come compressed, answers or not");
                })
            })
            .collect();
        // A reader that fails must end the writer as well.
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.unwrap());
    });
}

#[test]
fn what_clients_compress_is_understood() {
    let relay = TestRelay::start();
    let note = event(1, 1, &"é😀 ".repeat(500));
    let mut message = b"[\"EVENT\",".to_vec();
    note.write_json(&mut message);
    message.push(b']');
    for window_bits in 9..=15 {
        let mut socket = connect(&relay);
        socket.send(&frame(FIN | RSV1 | TEXT, &deflate(&message, window_bits)));
        assert_eq!(socket.hears("OK", &note.id.to_string())[2], true);
        // Each message stands for itself, and one need not be compressed.
        for _ in 0..3 {
            socket.send(&compressed(REQ.as_bytes()));
            socket.hears("EOSE", "s");
            socket.say(REQ);
            socket.hears("EOSE", "s");
        }
    }
    let mut socket = connect(&relay);
    // Several in one segment, with bytes of a frame behind them.
    let count = "[\"COUNT\",\"n\",{\"kinds\":[7]}]";
    let next = compressed(count.as_bytes());
    socket.send(&[&next[..], &text(count), &next, &next[..5]].concat());
    (0..3).for_each(|_| drop(socket.hears("COUNT", "n")));
    socket.send(&next[5..]);
    socket.hears("COUNT", "n");
}

#[test]
fn fragments_of_a_compressed_message_with_control_frames_between() {
    let relay = TestRelay::start();
    let mut socket = connect(&relay);
    let packed = deflate(REQ.as_bytes(), 15);
    let last = packed.len() - 1;
    for (i, byte) in packed.iter().enumerate() {
        let first = if i == 0 { TEXT | RSV1 } else { CONTINUATION };
        socket.send(&frame(first | if i == last { FIN } else { 0 }, &[*byte]));
        if i % 5 == 0 {
            socket.send(&frame(FIN | PING, &[i as u8]));
            let pong = socket.next().unwrap();
            assert_eq!((pong.opcode, pong.payload), (PONG, vec![i as u8]));
        }
    }
    socket.hears("EOSE", "s");
    // Empty fragments, first, between and last.
    socket.send(&frame(TEXT | RSV1, b""));
    socket.send(&frame(CONTINUATION, &packed[..3]));
    socket.send(&frame(CONTINUATION, b""));
    socket.send(&frame(CONTINUATION, &packed[3..]));
    socket.send(&frame(FIN | CONTINUATION, b""));
    socket.hears("EOSE", "s");
    // A message in fragments that is not compressed.
    socket.send(&frame(TEXT, &REQ.as_bytes()[..9]));
    socket.send(&frame(FIN | CONTINUATION, &REQ.as_bytes()[9..]));
    socket.hears("EOSE", "s");
}

#[test]
fn last_blocks_and_empty_messages() {
    let relay = TestRelay::start();
    let mut socket = connect(&relay);
    // A block that is marked as the last one, and the byte that RFC 7692 section 7.2.3.4 puts behind it.
    let mut compressor = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(200);
    compressor.compress_vec(REQ.as_bytes(), &mut out, FlushCompress::Finish).unwrap();
    out.push(0);
    socket.send(&frame(FIN | RSV1 | TEXT, &out));
    socket.hears("EOSE", "s");
    // Nothing, compressed or not, is no message of the protocol.
    for nothing in [frame(FIN | RSV1 | TEXT, &[0]), frame(FIN | RSV1 | TEXT, b""), compressed(b""), text("")] {
        socket.send(&nothing);
        socket.hears_notice("");
    }
    socket.send(&frame(FIN | RSV1 | BINARY, &deflate(b"binary", 15)));
    socket.hears_notice("invalid: ");
    socket.still_works();
}

#[test]
fn h188_compressed_without_agreement() {
    let off = TestRelay::with(|config| config.listen.compression = false);
    let on = TestRelay::start();
    for (relay, offer) in [(&off, OFFERS[0]), (&on, "permessage-deflate; server_max_window_bits=8"), (&on, "x-unknown")]
    {
        let mut socket = Socket::open_offering(relay.address, offer);
        assert!(socket.inflater.is_none());
        socket.still_works();
        socket.send(&compressed(REQ.as_bytes()));
        socket.closes_with(1002);
    }
}

#[test]
fn h210_what_refers_to_an_earlier_message_is_corrupt() {
    // Nothing is kept of that.
    let mut compressor = Compress::new(Compression::best(), false);
    let mut pack = |message: &str| {
        let mut out = Vec::with_capacity(1000);
        compressor.compress_vec(message.as_bytes(), &mut out, FlushCompress::Sync).unwrap();
        out.truncate(out.len() - 4);
        frame(FIN | RSV1 | TEXT, &out)
    };
    let (first, second) = (pack(REQ), pack(REQ));
    let relay = TestRelay::start();
    let mut socket = connect(&relay);
    socket.send(&first);
    socket.hears("EOSE", "s");
    socket.send(&second);
    socket.closes_with(1007);
}

#[test]
fn a_message_behind_the_handshake_may_be_compressed() {
    let relay = TestRelay::start();
    let header = format!("\r\nSec-WebSocket-Extensions: {}\r\n\r\n", OFFERS[0]);
    let request = wire::HANDSHAKE.replace("\r\n\r\n", &header);
    let mut socket = Socket::shake_hands(relay.address, &[request.as_bytes(), &compressed(REQ.as_bytes())].concat());
    socket.hears("EOSE", "s");
}
