//! Retention by tier as clients make it: who authenticated before he published is told from who did not, over a real socket.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use ratite::nostr::{Event, PublicKey};
use wire::{Socket, TestRelay, now, sign};

const DAY: u64 = 86_400;

fn key(author: u8) -> PublicKey {
    PublicKey::from_hex(&wire::pubkey(author)).unwrap()
}

/// Notes of so many days.
fn notes(author: u8, days: &[u64]) -> Vec<Event> {
    days.iter().map(|days| sign(author, 1, now() - days * DAY - 100, &[], &format!("{days} days old"))).collect()
}

fn publish(socket: &mut Socket, events: &[Event]) {
    for event in events {
        socket.publish(event);
        let ok = socket.hears("OK", &event.id.to_string());
        assert_eq!(ok[2], true, "{ok}");
    }
}

#[test]
fn who_authenticates_and_publishes_is_kept_longer_than_who_does_only_one_of_both() {
    let [owner, listed, known, later, silent, stranger, guest] = [1, 2, 3, 4, 5, 6, 7u8];
    let relay = TestRelay::with(|config| {
        config.info.pubkey = Some(key(owner));
        config.retention.people = vec![key(listed)];
        let rules = ["owner: forever", "listed: 30d", "authenticated: 10d", "others: 1d"];
        config.retention.rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        config.retention.apply = false;
    });
    let days = [0, 5, 20, 60];
    let mut kept = BTreeSet::new();
    let mut keep = |events: &[Event]| kept.extend(events.iter().map(|event| event.id));

    // Tiers that need no AUTH.
    let mut socket = relay.connect();
    for (author, stay) in [(owner, 4), (listed, 3), (stranger, 1)] {
        let notes = notes(author, &days);
        publish(&mut socket, &notes);
        keep(&notes[..stay]);
    }
    // He authenticates, then publishes his own, and what a guest of his has written.
    let mut socket = relay.connect();
    assert!(socket.authenticate(known).0);
    let (own, of_guest) = (notes(known, &days), notes(guest, &days));
    publish(&mut socket, &own);
    publish(&mut socket, &of_guest);
    keep(&own[..2]);
    keep(&of_guest[..1]);
    // He published before; what he publishes later counts for all of it.
    let mut socket = relay.connect();
    let before = notes(later, &days);
    publish(&mut socket, &before);
    assert!(socket.authenticate(later).0);
    let after = notes(later, &[6]);
    publish(&mut socket, &after);
    keep(&before[..2]);
    keep(&after);
    // He published, but never while he was authenticated.
    let mut socket = relay.connect();
    let unknown = notes(silent, &days);
    publish(&mut socket, &unknown);
    assert!(socket.authenticate(silent).0);
    keep(&unknown[..1]);
    // An event that was refused makes nobody known.
    let forged = Event { content: "forged".into(), ..sign(silent, 1, now(), &[], "") };
    socket.publish(&forged);
    assert_eq!(socket.hears("OK", &forged.id.to_string())[2], false);

    let plan = relay.relay.plan_retention(&mut |_, _| ControlFlow::Continue(())).unwrap();
    let by_rule: Vec<u64> = plan.rules.iter().map(|(_, amount)| amount.events).collect();
    assert_eq!(by_rule, [0, 1, 2 + 2, 3 + 3 + 3], "{plan:?}");
    let done = relay.relay.prune(true, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(done.total().events, 14);
    let mut left = BTreeSet::new();
    let store = relay.relay.store();
    store
        .log(0, &mut |_, record| {
            left.insert(ratite::nostr::EventFields::id(&record));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(left, kept);
    // And as a client sees it.
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
    let mut heard = BTreeSet::new();
    loop {
        let message = socket.hear();
        if message[0] != "EVENT" {
            break;
        }
        heard.insert(message[2]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(heard, kept.iter().map(ToString::to_string).collect());
}
