//! Duties of a relay that show only from outside, each test named after the lines of the protocol digest that it shows.

mod auth;
mod count;
mod end;
mod ledger;
mod manage;
mod members;
mod nip01;
mod ordinary;
mod private;
mod publish;
mod switches;
#[path = "../wire/mod.rs"]
mod wire;

use ratite::nostr::Event;
use serde_json::Value;
use wire::{Socket, TestRelay, http};

/// Publishes and returns what OK says: accepted or not, and the words.
fn publish(socket: &mut Socket, event: &Event) -> (bool, String) {
    socket.publish(event);
    let ok = socket.hears("OK", &event.id.to_string());
    (ok[2].as_bool().expect("a boolean"), ok[3].as_str().expect("a text").to_owned())
}

/// Asks and returns the ids of the stored events, in the order they came.
fn ask(socket: &mut Socket, id: &str, filters: &str) -> Vec<String> {
    socket.say(&format!("[\"REQ\",\"{id}\",{filters}]"));
    let mut ids = Vec::new();
    loop {
        let message = socket.hear();
        assert_eq!(message[1], id, "{message}");
        match message[0].as_str() {
            Some("EVENT") => ids.push(message[2]["id"].as_str().expect("an id").to_owned()),
            Some("EOSE") => return ids,
            _ => panic!("{message}"),
        }
    }
}

/// The information document (NIP-11).
fn document(relay: &TestRelay) -> Value {
    let answer = http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

fn id(event: &Event) -> String {
    event.id.to_string()
}
