//! What a publisher must show beside a signature: proof of work (NIP-13, section 6), being the author (NIP-70, section 20).

use ratite::nostr::{Event, pow};
use ratite::relay::Outcome;
use serde_json::Value;

use crate::wire::{TestRelay, event, http, now, sign};
use crate::{ask, id, publish};

/// A note whose id shows at least this much work, and says so.
fn mined(author: u8, bits: u32, claims: &str) -> Event {
    (0u64..)
        .map(|nonce| sign(author, 1, now(), &[&["nonce", &nonce.to_string(), claims]], "work"))
        .find(|event| pow::leading_zero_bits(&event.id) >= bits)
        .expect("there is always one")
}

#[test]
fn n13_02_n13_03_too_little_work_is_refused_and_the_minimum_is_told() {
    let relay = TestRelay::with(|config| config.policy.min_pow_difficulty = 8);
    let mut socket = relay.connect();
    let idle = (0u64..)
        .map(|n| event(1, 1, &n.to_string()))
        .find(|event| pow::leading_zero_bits(&event.id) < 8)
        .expect("most are");
    let (ok, words) = publish(&mut socket, &idle);
    assert!(!ok && words.starts_with("pow:") && words.contains('8'), "{words}");
    // By luck it shows enough, but its author aimed lower.
    let (ok, words) = publish(&mut socket, &mined(1, 8, "4"));
    assert!(!ok && words.starts_with("pow:"), "{words}");
    assert_eq!(publish(&mut socket, &mined(1, 8, "8")), (true, String::new()));
    assert_eq!(publish(&mut socket, &mined(2, 8, "not a number")), (true, String::new()));
    let answer = http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let document: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(document["limitation"]["min_pow_difficulty"], 8);
    assert_eq!(document["limitation"]["restricted_writes"], true);
    assert!(document["supported_nips"].as_array().is_some_and(|list| list.contains(&13.into())));
}

#[test]
fn n13_04_work_is_looked_at_before_the_signature() {
    let relay = TestRelay::with(|config| config.policy.min_pow_difficulty = 255);
    let mut socket = relay.connect();
    let forged = Event { sig: event(2, 1, "").sig, ..event(1, 1, "") };
    let (ok, words) = publish(&mut socket, &forged);
    assert!(!ok && words.starts_with("pow:"), "{words}");
}

#[test]
fn n70_01_n70_02_n70_05_h093_h094_h095_protected_events_come_from_their_author_only() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let shapes: [&[&str]; 3] = [&["-"], &["-", ""], &["-", "more", "elements"]];
    let protected: Vec<Event> = shapes.iter().map(|tag| sign(1, 1, now(), &[&["t", "x"], tag], "mine")).collect();
    for expected in ["auth-required:", "restricted:"] {
        for event in &protected {
            let (ok, words) = publish(&mut socket, event);
            assert!(!ok && words.starts_with(expected), "{words}");
        }
        assert!(socket.authenticate(if expected == "auth-required:" { 2 } else { 1 }).0);
    }
    for event in &protected {
        assert_eq!(publish(&mut socket, event), (true, String::new()));
    }
    // Tags that only look like it.
    let mut other = relay.connect();
    for tag in [["--", ""], ["x", "-"], ["", "-"]] {
        assert!(publish(&mut other, &sign(1, 1, now(), &[&tag], "")).0, "{tag:?}");
    }
}

#[test]
fn n70_03_protection_holds_for_every_kind_and_against_those_who_are_nobody() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    assert!(socket.authenticate(2).0);
    for kind in [0, 1, 5, 7, 62, 1059, 10_002, 20_001, 30_023] {
        let event = sign(1, kind, now(), &[&["-"], &["relay", "ALL_RELAYS"]], "");
        let (ok, words) = publish(&mut socket, &event);
        assert!(!ok && words.starts_with("restricted:"), "kind {kind}: {words}");
    }
    // What comes over no connection has nobody who could be its author.
    let (tx, rx) = std::sync::mpsc::channel();
    let protected = sign(1, 1, now(), &[&["-"]], "");
    relay.relay.publish(protected.clone(), Default::default(), move |outcome| tx.send(outcome).expect("sent"));
    assert!(matches!(rx.recv().expect("an outcome"), Outcome::Refused(words) if words.starts_with("blocked:")));
    // The operator's own dumps come in whole: import and export return what was there.
    let outcomes = relay.relay.ingest(vec![protected], false).recv().expect("outcomes");
    assert_eq!(outcomes, [Outcome::Stored]);
}

#[test]
fn n70_04_h096_h097_h098_reposts_of_protected_events_are_refused() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    assert!(socket.authenticate(1).0);
    let inner = |tags: &str| format!("{{\"id\":\"00\",\"kind\":1,\"tags\":{tags},\"content\":\"[\\\"-\\\"]\"}}");
    for (kind, content, ok) in [
        (6, inner("[[\"-\"]]"), false),
        (16, inner("[[\"e\",\"x\"],[\"-\"]]"), false),
        (6, inner("[ [ \"\\u002d\" ] ]"), false),
        (6, inner("[[\"e\",\"-\"]]"), true),
        (6, String::new(), true),
        (16, "look: [\"-\"]".into(), true),
        (1, inner("[[\"-\"]]"), true),
    ] {
        let repost = sign(1, kind, now(), &[], &content);
        let (taken, words) = publish(&mut socket, &repost);
        assert_eq!(taken, ok, "{kind} {content}: {words}");
        assert!(ok || words.starts_with("blocked:"), "{words}");
    }
}

#[test]
fn n70_06_reading_protected_events_needs_nothing() {
    let relay = TestRelay::start();
    let (mut author, mut reader) = (relay.connect(), relay.connect());
    ask(&mut reader, "live", "{}");
    assert!(author.authenticate(1).0);
    let protected = sign(1, 1, now(), &[&["-"]], "");
    assert!(publish(&mut author, &protected).0);
    assert_eq!(reader.hears("EVENT", "live")[2]["id"], id(&protected));
    assert_eq!(ask(&mut relay.connect(), "q", "{}"), [id(&protected)]);
}
