//! The relay as a process: greeting, signals, and commands beside it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::place::{Place, Running, WebSocket, filled, note, send_signal};

#[test]
fn a_relay_greets_serves_and_stops_with_0() {
    let place = Place::new();
    for (signal, arguments) in [(Signal::TERM, &[][..]), (Signal::INT, &["relay"])] {
        let running = Running::start(&place, arguments);
        let first = running.greeting.lines().next().unwrap();
        assert!(first.starts_with("ratite ") && first.contains(" is listening on ws://127.0.0.1:"), "{first}");
        for part in ["./ratite-data", "import FILE.jsonl", &format!("add ws://{} to", running.address)] {
            assert!(running.greeting.contains(part), "{part} is not in {}", running.greeting);
        }
        assert!(place.path("ratite-data/data.mdb").exists());
        let answer = answer(&running, "GET /health HTTP/1.1");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(running.stop(signal), 0);
    }
}

#[test]
fn signals_that_come_together_are_one_wish() {
    let place = Place::new();
    let running = Running::start(&place, &[]);
    // What a terminal and a supervisor send at the same time.
    send_signal(&running.child, Signal::INT);
    send_signal(&running.child, Signal::INT);
    assert_eq!(running.stop(Signal::TERM), 0);
}

#[test]
fn a_hangup_ends_a_relay_with_a_terminal_and_no_other() {
    let place = Place::new();
    let healthy = |running: &Running| answer(running, "GET /health HTTP/1.1").starts_with("HTTP/1.1 200 ");
    let mut running = Running::start(&place, &[]);
    if File::open("/dev/tty").is_ok() {
        assert_eq!(running.stop(Signal::HUP), 0);
    } else {
        send_signal(&running.child, Signal::HUP);
        assert!(healthy(&running) && running.child.try_wait().unwrap().is_none());
        assert_eq!(running.stop(Signal::TERM), 0);
    }
    // As `nohup` starts it.
    let shell =
        place.program("sh", ["-c", "trap '' HUP; exec \"$0\" --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_ratite")]);
    let mut running = Running::of(shell);
    send_signal(&running.child, Signal::HUP);
    assert!(healthy(&running) && running.child.try_wait().unwrap().is_none());
    assert_eq!(running.stop(Signal::TERM), 0);
}

#[test]
fn the_readme_names_the_nips_that_the_relay_advertises() {
    let place = Place::new();
    // What has to be switched on.
    let key = "ab".repeat(32);
    let switches = format!(
        "[policy]\nmin_pow_difficulty = 1\neose_hints = true\nadmins = [\"{key}\"]\n\
         [info]\nnames = [\"a={key}\"]\n[membership]\nenabled = true\n"
    );
    place.write("ratite.toml", switches);
    let running = Running::start(&place, &[]);
    let answer = answer(&running, "GET / HTTP/1.1\r\nAccept: application/nostr+json");
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let advertised: BTreeSet<u64> =
        document["supported_nips"].as_array().unwrap().iter().map(|nip| nip.as_u64().unwrap()).collect();
    let readme = include_str!("../../README.md");
    let section = readme.split("## What it does").nth(1).unwrap().split("\nNot there yet").next().unwrap();
    let nips =
        |text: &str| -> BTreeSet<u64> { text.split("NIP-").skip(1).map(|rest| rest[..2].parse().unwrap()).collect() };
    let list = nips(section.split("\n- ").nth(1).unwrap());
    assert!(list.is_subset(&advertised), "the README promises {list:?}, the relay {advertised:?}");
    let all = nips(section);
    assert!(advertised.is_subset(&all), "the relay has {advertised:?}, the README knows {all:?}");
    assert_eq!(running.stop(Signal::TERM), 0);
}

/// What the relay answers to a request with this head.
fn answer(running: &Running, head: &str) -> String {
    let mut stream = TcpStream::connect(running.address).unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_address_that_is_taken_is_an_error_with_advice() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = place.run(&["--listen", &address]);
    ended.assert_failed(&address);
    assert!(ended.err.contains("--listen"), "{}", ended.err);
    assert_eq!(ended.out, "", "no greeting without a relay");
}

#[test]
fn everything_works_while_the_relay_runs_and_imports_are_delivered_live() {
    let place = filled();
    let running = Running::start(&place, &[]);
    let mut socket = WebSocket::connect(running.address);
    socket.send("[\"REQ\",\"live\",{\"kinds\":[1],\"limit\":1}]");
    assert_eq!(socket.receive(), format!("[\"EVENT\",\"live\",{}]", note(9)));
    assert_eq!(socket.receive(), "[\"EOSE\",\"live\"]");

    let ended = place.feed(&["import", "--json"], [note(20), note(21)].join("\n").as_bytes());
    assert_eq!((ended.code, &ended.json()["new"]), (0, &2.into()), "{}", ended.err);
    let live = [socket.receive(), socket.receive()];
    assert_eq!(live, [20, 21].map(|n| format!("[\"EVENT\",\"live\",{}]", note(n))));

    assert_eq!(place.export(&[]).len(), 14);
    assert_eq!(place.run(&["delete", "--filter", "{\"kinds\":[1]}"]).out, "12 events removed\n");
    assert_eq!(place.run(&["verify", "--json"]).json()["events"], 2);
    socket.send("[\"REQ\",\"again\",{\"kinds\":[1]}]");
    assert_eq!(socket.receive(), "[\"EOSE\",\"again\"]", "the relay sees what was removed");
    assert_eq!(running.stop(Signal::TERM), 0);
}
