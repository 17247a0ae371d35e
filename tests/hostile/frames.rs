//! WebSocket frames (section 23.6), byte by byte, where compression was agreed and where it was not.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};

use crate::relay::{Case, Scene, Table, case};
use crate::wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, Socket, TEXT, frame, text};

/// With an outbox so small that a peer who does not read is soon noticed.
pub const TABLE: Table =
    Table { name: "frames", clock: None, change: |config| config.listen.outbox_bytes = 1 << 18, cases };

const REQ: &str = "[\"REQ\",\"s\",{\"limit\":0}]";

/// The most bytes that a message may have.
const LIMIT: usize = 131_072;

fn offering(scene: &Scene) -> Socket {
    let socket = Socket::open_offering(scene.address, "permessage-deflate; client_max_window_bits");
    assert!(socket.inflater.is_some());
    socket
}

/// Sends these bytes on a connection of their own and expects the close code.
#[track_caller]
fn closes(scene: &Scene, bytes: &[u8], code: u16) {
    closed(scene.connect(), bytes, code);
}

/// The same where compression was agreed.
#[track_caller]
fn closes_packed(scene: &Scene, bytes: &[u8], code: u16) {
    closed(offering(scene), bytes, code);
}

#[track_caller]
fn closed(mut socket: Socket, bytes: &[u8], code: u16) {
    // The relay may close before all of it is sent.
    let _ = socket.stream.write_all(bytes);
    socket.closes_with(code);
}

fn deflate(message: &[u8]) -> Vec<u8> {
    let mut compressor = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(message.len() / 4 + 1024);
    compressor.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    assert_eq!(compressor.total_in(), message.len() as u64);
    assert_eq!(out.split_off(out.len() - 4), [0, 0, 0xff, 0xff]);
    out
}

fn packed(message: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | TEXT, &deflate(message))
}

fn padded(size: usize) -> String {
    REQ.to_owned() + &" ".repeat(size - REQ.len())
}

fn cases() -> Vec<Case> {
    vec![
        case("H182", |scene| {
            let mut socket = scene.connect();
            let last = REQ.len() - 1;
            for (i, byte) in REQ.bytes().enumerate() {
                let opcode = if i == 0 { TEXT } else { CONTINUATION };
                socket.send(&frame(opcode | if i == last { FIN } else { 0 }, &[byte]));
            }
            socket.hears("EOSE", "s");
        }),
        case("H183", |scene| {
            let endless = frame(CONTINUATION, b"").repeat(100_000);
            closes(scene, &[frame(TEXT, b""), endless].concat(), 1008);
        }),
        case("H184", |scene| {
            let mut socket = scene.connect();
            socket.send(&frame(TEXT, &REQ.as_bytes()[..7]));
            socket.send(&frame(FIN | PING, b"now"));
            let pong = socket.next().unwrap();
            assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b"now"[..]));
            socket.send(&frame(FIN | CONTINUATION, &REQ.as_bytes()[7..]));
            socket.hears("EOSE", "s");
        }),
        case("H185", |scene| closes(scene, &frame(FIN | CONTINUATION, b"x"), 1002)),
        case("H186", |scene| closes(scene, &[frame(TEXT, b"x"), text("y")].concat(), 1002)),
        case("H187", |scene| closes(scene, b"\x81\x02[]", 1002)),
        case("H188", |scene| {
            for bit in [0x40, 0x20, 0x10] {
                closes(scene, &frame(FIN | TEXT | bit, REQ.as_bytes()), 1002);
            }
            let good = deflate(REQ.as_bytes());
            for bit in [0x20, 0x10] {
                closes_packed(scene, &frame(FIN | TEXT | RSV1 | bit, &good), 1002);
            }
            for opcode in [PING, PONG, CLOSE, CONTINUATION] {
                closes_packed(scene, &frame(FIN | RSV1 | opcode, b"\x03\xe8"), 1002);
            }
            for first in [frame(TEXT | RSV1, &good[..4]), frame(TEXT, b"[\"RE")] {
                closes_packed(scene, &[first, frame(FIN | CONTINUATION | RSV1, &good[4..])].concat(), 1002);
            }
        }),
        case("H189", |scene| {
            for opcode in (3..=7).chain(11..=15) {
                closes(scene, &frame(FIN | opcode, b""), 1002);
            }
        }),
        case("H190", |scene| closes(scene, &frame(FIN | PING, &[0; 126]), 1002)),
        case("H191", |scene| closes(scene, &frame(PING, b""), 1002)),
        case("H192", |scene| {
            let mut socket = scene.connect();
            let payload: Vec<u8> = (0..125).collect();
            socket.send(&frame(FIN | PING, &payload));
            let pong = socket.next().unwrap();
            assert_eq!((pong.opcode, pong.payload), (PONG, payload));
        }),
        case("H193", |scene| {
            let mut socket = scene.connect();
            socket.send(&frame(FIN | PONG, b"x"));
            socket.still_works();
        }),
        case("H194", pings),
        case("H194 unread", pings_by_one_who_never_reads),
        case("H195", |scene| invalid(scene, b"\xff")),
        case("H196", |scene| invalid(scene, b"[\"\xc0\x80\"]")),
        case("H197", |scene| invalid(scene, b"[\"\xed\xa0\x80\"]")),
        case("H198", |scene| {
            let (start, end) = (&b"[\"REQ\",\"\xf0\x9f"[..], &b"\x98\x80\",{\"limit\":0}]"[..]);
            let mut socket = scene.connect();
            socket.send(&[frame(TEXT, start), frame(FIN | CONTINUATION, end)].concat());
            socket.hears("EOSE", "\u{1f600}");
            let mut socket = offering(scene);
            let whole = deflate(&[start, end].concat());
            socket.send(&[frame(TEXT | RSV1, &whole[..10]), frame(FIN | CONTINUATION, &whole[10..])].concat());
            socket.hears("EOSE", "\u{1f600}");
        }),
        case("H199", |scene| invalid(scene, b"\xf0\x9f")),
        case("H200", |scene| {
            for (mut socket, bytes) in [
                (scene.connect(), frame(FIN | BINARY, REQ.as_bytes())),
                (offering(scene), frame(FIN | RSV1 | BINARY, &deflate(REQ.as_bytes()))),
            ] {
                socket.send(&bytes);
                socket.hears_notice("invalid: ");
                socket.still_works();
                scene.has_subscriptions(1);
            }
        }),
        case("H201", |scene| {
            let announced = [&[0x81, 0xff][..], &(1u64 << 62).to_be_bytes()].concat();
            closes(scene, &announced, 1009);
        }),
        case("H202", |scene| closes(scene, &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 1002)),
        case("H203", |scene| {
            let mut socket = scene.connect();
            let header = [0x81, 0xfe, 0, REQ.len() as u8, 0, 0, 0, 0];
            socket.send(&[&header[..], REQ.as_bytes()].concat());
            socket.hears("EOSE", "s");
        }),
        case("H204", |scene| {
            let mut socket = scene.connect();
            socket.say(&padded(LIMIT));
            socket.hears("EOSE", "s");
            closed(socket, &text(&padded(LIMIT + 1)), 1009);
            closes(scene, &[frame(TEXT, &[b' '; LIMIT]), frame(FIN | CONTINUATION, b" ")].concat(), 1009);
            // What it becomes counts, and so does what comes.
            let mut socket = offering(scene);
            socket.send(&packed(padded(LIMIT).as_bytes()));
            socket.hears("EOSE", "s");
            closed(socket, &packed(padded(LIMIT + 1).as_bytes()), 1009);
            closes_packed(scene, &[frame(RSV1 | TEXT, &[0; LIMIT]), frame(FIN | CONTINUATION, b"x")].concat(), 1009);
        }),
        case("H205", |scene| closes(scene, &frame(FIN | CLOSE, b"x"), 1002)),
        case("H206", |scene| {
            for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535] {
                closes(scene, &frame(FIN | CLOSE, &code.to_be_bytes()), 1002);
            }
        }),
        case("H207", |scene| closes(scene, &frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007)),
        case("H208", |scene| {
            let mut socket = scene.connect();
            socket.send(&[frame(FIN | CLOSE, &1000u16.to_be_bytes()), text(REQ)].concat());
            let echo = socket.next().unwrap();
            assert_eq!((echo.opcode, echo.payload), (CLOSE, 1000u16.to_be_bytes().to_vec()));
            assert_eq!(socket.next(), None);
        }),
        case("H209", |scene| {
            // As much as the limit lets in: 100 KiB that would be 100 MiB.
            let bomb = deflate(&vec![0; 100 << 20]);
            assert!((90_000..LIMIT).contains(&bomb.len()), "{}", bomb.len());
            closes_packed(scene, &frame(FIN | RSV1 | TEXT, &bomb), 1009);
            let (start, end) = bomb.split_at(1000);
            closes_packed(scene, &[frame(RSV1 | TEXT, start), frame(FIN | CONTINUATION, end)].concat(), 1009);
        }),
        case("H210", |scene| {
            let good = deflate(REQ.as_bytes());
            let half = &good[..good.len() / 2];
            for bad in [&b"\x9a\x31\x07\xff"[..], b"\x06", b"\xff\xff\xff", b"\x00\x05\x00\xff\xff", half] {
                closes_packed(scene, &frame(FIN | RSV1 | TEXT, bad), 1007);
            }
            closes(scene, &packed(REQ.as_bytes()), 1002);
        }),
    ]
}

/// Not UTF-8, plain and behind compression.
fn invalid(scene: &Scene, bytes: &[u8]) {
    closes(scene, &frame(FIN | TEXT, bytes), 1007);
    closes_packed(scene, &packed(bytes), 1007);
}

/// Each one is answered.
fn pings(scene: &Scene) {
    let mut socket = scene.connect();
    let mut reader = socket.stream.try_clone().unwrap();
    let answers = std::thread::spawn(move || {
        let (mut bytes, mut chunk) = (0, vec![0; 1 << 16]);
        while bytes < 100_000 * 127 {
            bytes += reader.read(&mut chunk).unwrap();
        }
        bytes
    });
    let some = frame(FIN | PING, &[7; 125]).repeat(100);
    for _ in 0..1000 {
        socket.send(&some);
    }
    assert_eq!(answers.join().unwrap(), 100_000 * 127);
    socket.still_works();
}

/// The relay stops reading when its answers are not read.
fn pings_by_one_who_never_reads(scene: &Scene) {
    let mut socket = scene.connect();
    socket.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let some = frame(FIN | PING, &[7; 125]).repeat(1000);
    let mut sent = 0;
    while sent < 1 << 30 {
        match socket.stream.write(&some) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    assert!(sent < 1 << 30, "it reads on and on");
}
