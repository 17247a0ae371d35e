//! The protocol as PROTOCOL's sections 1 and 2 and the test vectors describe it, without a socket or a store.
#![allow(clippy::unwrap_used)] // A helper that cannot unwrap has failed its test.

mod corpus;
mod properties;
mod rules;
mod vectors;

use ratite::nostr::{ClientMessage, Event, Kind, Rejected, Tags, UnsignedEvent};
use secp256k1::Keypair;

/// The key of alice (1), bob (2), carol (3) in the vectors.
fn key(n: u8) -> Keypair {
    let mut secret = [0; 32];
    secret[31] = n;
    Keypair::from_secret_bytes(secret).unwrap()
}

const NOW: u64 = 1_700_000_000;

/// A text note by alice.
fn note(tags: &[&[&str]], content: &str) -> Event {
    let tags: Tags = tags.iter().copied().collect();
    UnsignedEvent { created_at: NOW, kind: Kind(1), tags, content: content.into() }.sign(&key(1))
}

fn to_json(event: &Event) -> String {
    let mut out = Vec::new();
    event.write_json(&mut out);
    String::from_utf8(out).unwrap()
}

/// What the relay does with a message as far as this layer knows: the answer, or "accepted" and the verb.
/// Ids and signatures are checked as the core will do.
fn reaction(text: impl AsRef<[u8]>) -> String {
    let rejected = match ClientMessage::parse(text.as_ref()) {
        Ok(ClientMessage::Event(event) | ClientMessage::Auth(event)) => {
            match event.check_id().and_then(|()| event.check_signature()) {
                Ok(()) => return "accepted EVENT".into(),
                Err(error) => Rejected::Ok { id: event.id.to_string(), reason: format!("invalid: {error}") },
            }
        }
        Ok(ClientMessage::Req { id, .. }) => return format!("accepted REQ {id}"),
        Ok(ClientMessage::Count { id, .. }) => return format!("accepted COUNT {id}"),
        Ok(ClientMessage::Close(id)) => return format!("accepted CLOSE {id}"),
        Err(rejected) => rejected,
    };
    let mut out = Vec::new();
    rejected.write(&mut out);
    // Whatever was refused, the answer is one well-formed JSON array with a prefixed reason.
    let answer: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
    let reason = answer.last().unwrap().as_str().unwrap();
    let (prefix, words) = reason.split_once(": ").unwrap();
    assert!(["invalid", "unsupported"].contains(&prefix), "{reason}");
    assert!(!words.is_empty() && reason.len() < 400, "{reason}");
    match rejected {
        Rejected::Notice(reason) => format!("NOTICE {reason}"),
        Rejected::Ok { id, reason } => format!("OK {id} {reason}"),
        Rejected::Closed { id, reason } => format!("CLOSED {id} {reason}"),
    }
}

/// Like [`reaction`], for an answer that must start with `expected`.
#[track_caller]
fn assert_reaction(text: impl AsRef<[u8]>, expected: &str) {
    let text = text.as_ref();
    let got = reaction(text);
    let shown: String = String::from_utf8_lossy(text).chars().take(300).collect();
    assert!(got.starts_with(expected), "{shown}\n gave {got}\n expected {expected}");
}
