//! The relay as a process: greeting, signals, and commands beside it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::place::{Place, Running, WebSocket, filled, note};

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
        let mut stream = TcpStream::connect(running.address).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(running.stop(signal), 0);
    }
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
    assert_eq!(place.run(&["info", "--json", "--verify"]).json()["events"], 2);
    socket.send("[\"REQ\",\"again\",{\"kinds\":[1]}]");
    assert_eq!(socket.receive(), "[\"EOSE\",\"again\"]", "the relay sees what was removed");
    assert_eq!(running.stop(Signal::TERM), 0);
}
