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
use wire::{TestRelay, ask, http, publish};

/// The information document (NIP-11).
fn document(relay: &TestRelay) -> Value {
    let answer = http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

fn id(event: &Event) -> String {
    event.id.to_string()
}
