//! How events end: deletion (NIP-09, section 4), expiration (NIP-40, section 10), vanishing (NIP-62, section 17).

use ratite::nostr::Event;
use ratite::relay::{Clock, Outcome};

use crate::wire::{Socket, TestRelay, eventually, now, pubkey, sign};
use crate::{ask, id, publish};

/// A note.
fn note(author: u8, created_at: u64, content: &str) -> Event {
    sign(author, 1, created_at, &[], content)
}

/// A deletion of these, as (tag, value).
fn deletion(author: u8, created_at: u64, targets: &[(&str, &str)]) -> Event {
    let tags: Vec<[&str; 2]> = targets.iter().map(|(name, value)| [*name, *value]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    sign(author, 5, created_at, &tags, "")
}

/// A request to vanish from everywhere.
fn vanish(author: u8, created_at: u64) -> Event {
    sign(author, 62, created_at, &[&["relay", "ALL_RELAYS"]], "")
}

/// What is stored now; the subscription is closed again.
fn stored(socket: &mut Socket, id: &str, filters: &str) -> Vec<String> {
    let ids = ask(socket, id, filters);
    socket.say(&format!("[\"CLOSE\",\"{id}\"]"));
    ids
}

#[track_caller]
fn is_blocked((ok, words): (bool, String)) {
    assert!(!ok && words.starts_with("blocked:"), "{words}");
}

#[test]
fn n09_01_n09_04_n09_06_n09_07_what_an_author_deletes_is_gone_and_stays_away_the_deletion_stays() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let (older, newer) = (note(1, now() - 100, "older"), note(1, now(), "newer than its deletion"));
    for event in [&older, &newer] {
        assert!(publish(&mut socket, event).0);
    }
    let request = deletion(1, now() - 50, &[("e", &id(&older)), ("e", &id(&newer))]);
    assert!(publish(&mut socket, &request).0);
    assert_eq!(stored(&mut socket, "q", "{}"), [id(&request)]);
    is_blocked(publish(&mut socket, &older));
    is_blocked(publish(&mut socket, &newer));
    // By the bulk door as well.
    let outcomes = relay.relay.ingest(vec![older], false).recv().expect("outcomes");
    assert!(matches!(&outcomes[0], Outcome::Refused(words) if words.starts_with("blocked:")), "{outcomes:?}");
}

#[test]
fn n09_02_n09_03_n09_12_addresses_are_deleted_up_to_the_time_of_the_request() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let (key, at) = (pubkey(1), now() - 1000);
    let post = |at: u64, d: &str| sign(1, 30_023, at, &[&["d", d]], "");
    let profile = sign(1, 0, at, &[], "");
    for event in [&post(at, "a:b:c"), &post(at, ""), &post(at + 20, "later"), &profile] {
        assert!(publish(&mut socket, event).0);
    }
    let addresses =
        [format!("30023:{key}:a:b:c"), format!("30023:{key}:"), format!("30023:{key}:later"), format!("0:{key}:")];
    let request = deletion(1, at + 10, &addresses.each_ref().map(|address| ("a", address.as_str())));
    assert!(publish(&mut socket, &request).0);
    let left = stored(&mut socket, "q", "{\"kinds\":[0,30023]}");
    assert_eq!(left, [id(&post(at + 20, "later"))], "what is newer than the request stays");
    for version in [post(at + 10, "a:b:c"), post(at + 5, ""), sign(1, 0, at + 10, &[], "equality included")] {
        is_blocked(publish(&mut socket, &version));
    }
    for version in [post(at + 11, "a:b:c"), post(at + 11, ""), sign(1, 0, at + 11, &[], "")] {
        assert!(publish(&mut socket, &version).0, "newer ones may come");
    }
    // A deletion by id frees the address for other versions, older ones too.
    let newest = post(at + 11, "");
    assert!(publish(&mut socket, &deletion(1, at + 20, &[("e", &id(&newest))])).0);
    is_blocked(publish(&mut socket, &newest));
    let sibling = sign(1, 30_023, at + 11, &[&["d", ""]], "another version");
    assert!(publish(&mut socket, &sibling).0);
}

#[test]
fn n09_05_n09_08_n09_11_n59_05_h104_strangers_delete_nothing_and_block_nothing() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let (own, foreign, coming) = (note(2, now(), "own"), note(1, now(), "foreign"), note(1, now(), "not here yet"));
    let post = sign(1, 30_023, now() - 10, &[&["d", "x"]], "");
    let wrap = sign(9, 1059, now(), &[&["p", &pubkey(1)]], "");
    for event in [&own, &foreign, &post, &wrap] {
        assert!(publish(&mut socket, event).0);
    }
    let address = format!("30023:{}:x", pubkey(1));
    let request = deletion(
        2,
        now(),
        &[("e", &id(&foreign)), ("e", &id(&own)), ("e", &id(&coming)), ("e", &id(&wrap)), ("a", &address)],
    );
    assert!(publish(&mut socket, &request).0, "it is stored, and its own targets are deleted");
    assert!(socket.authenticate(1).0);
    assert!(publish(&mut socket, &coming).0);
    let left = stored(&mut socket, "q", "{}");
    for (event, stays) in [(&own, false), (&foreign, true), (&coming, true), (&post, true), (&wrap, true)] {
        assert_eq!(left.contains(&id(event)), stays, "{}", event.content);
    }
    // The recipient of a wrap may delete it (N59-05).
    assert!(publish(&mut socket, &deletion(1, now(), &[("e", &id(&wrap))])).0);
    assert!(stored(&mut socket, "w", "{\"kinds\":[1059]}").is_empty());
    is_blocked(publish(&mut socket, &wrap));
}

#[test]
fn n09_09_n09_10_n62_09_deletions_and_requests_to_vanish_cannot_be_deleted() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let target = note(1, now() - 10, "deleted for good");
    assert!(publish(&mut socket, &target).0);
    let first = deletion(1, now() - 5, &[("e", &id(&target))]);
    let gone = vanish(2, now() - 5);
    for event in [&first, &gone] {
        assert!(publish(&mut socket, event).0);
    }
    for second in [deletion(1, now(), &[("e", &id(&first))]), deletion(2, now(), &[("e", &id(&gone))])] {
        assert!(publish(&mut socket, &second).0);
    }
    let stored = stored(&mut socket, "q", "{\"kinds\":[5,62]}");
    assert!(stored.contains(&id(&first)) && stored.contains(&id(&gone)), "{stored:?}");
    is_blocked(publish(&mut socket, &target));
    is_blocked(publish(&mut socket, &note(2, now() - 5, "before the request")));
}

#[test]
fn n09_13_n09_14_h100_h101_h102_targets_that_are_none_do_no_harm() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let target = note(1, now() - 10, "still here");
    assert!(publish(&mut socket, &target).0);
    let upper = id(&target).to_uppercase();
    for (n, targets) in [
        vec![],
        vec![("e", ""), ("e", "abc"), ("e", upper.as_str()), ("x", &id(&target))],
        vec![("a", ""), ("a", "1:2"), ("a", "::"), ("a", "30023:abc:x"), ("a", "99999:x:y"), ("a", "-1:x:y")],
    ]
    .into_iter()
    .enumerate()
    {
        assert!(publish(&mut socket, &deletion(1, now() - n as u64, &targets)).0);
    }
    let many: Vec<String> = (0u32..1500).map(|n| format!("{n:064x}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|id| ("e", id.as_str())).collect();
    assert!(publish(&mut socket, &deletion(1, now(), &many)).0);
    assert_eq!(stored(&mut socket, "q", "{\"kinds\":[1]}"), [id(&target)]);
    // A k tag that says something else protects nothing.
    assert!(publish(&mut socket, &deletion(1, now(), &[("k", "7"), ("e", &id(&target))])).0);
    assert!(stored(&mut socket, "q", "{\"kinds\":[1]}").is_empty());
}

#[test]
fn n09_16_n40_04_a_deletion_that_expires_still_holds() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    let target = note(1, clock.now(), "");
    assert!(publish(&mut socket, &target).0);
    let soon = (clock.now() + 5).to_string();
    let request = sign(1, 5, clock.now(), &[&["e", &id(&target)], &["expiration", &soon]], "");
    assert!(publish(&mut socket, &request).0);
    clock.set(clock.now() + 5);
    assert!(stored(&mut socket, "q", "{}").is_empty());
    eventually("the deletion is removed", || relay.relay.store().info().expect("info").events == 0);
    is_blocked(publish(&mut socket, &target));
}

#[test]
fn n09_17_a_deleted_event_does_not_reach_a_subscription_that_begins_later() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let mut all = Vec::new();
    for n in 0..200 {
        let event = note(1, now() - n, &n.to_string());
        assert!(publish(&mut socket, &event).0);
        all.push(id(&event));
    }
    let targets: Vec<(&str, &str)> = all.iter().map(|id| ("e", id.as_str())).collect();
    let request = deletion(1, now(), &targets);
    assert!(publish(&mut socket, &request).0);
    // The answer to a question asked after OK holds none of them.
    assert_eq!(stored(&mut socket, "q", "{\"limit\":500}"), [id(&request)]);
}

#[test]
fn n09_18_what_others_said_of_a_deleted_event_stays() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let target = note(1, now() - 10, "");
    let reaction = sign(2, 7, now(), &[&["e", &id(&target)], &["p", &pubkey(1)]], "+");
    for event in [&target, &reaction, &deletion(1, now(), &[("e", &id(&target))])] {
        assert!(publish(&mut socket, event).0);
    }
    assert_eq!(stored(&mut socket, "q", "{\"kinds\":[1,7]}"), [id(&reaction)]);
}

#[test]
fn n40_01_n40_02_n40_03_n40_05_n40_06_expired_on_arrival_or_not_readable_is_refused() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    let at = |tags: &[&str]| {
        let tags: Vec<[&str; 2]> = tags.iter().map(|value| ["expiration", *value]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        sign(1, 1, clock.now(), &tags, &format!("{tags:?}"))
    };
    let (past, present, future) =
        ((clock.now() - 1).to_string(), clock.now().to_string(), (clock.now() + 1).to_string());
    for bad in [
        at(&[&past]),
        at(&[&present]),
        at(&[&future, &past]),
        at(&[""]),
        at(&["-1"]),
        at(&["tomorrow"]),
        at(&["1e12"]),
        at(&["99999999999999999999"]),
        at(&[&future, "soon"]),
        sign(1, 1, clock.now(), &[&["expiration"]], ""),
    ] {
        let (ok, words) = publish(&mut socket, &bad);
        assert!(!ok && words.starts_with("invalid:"), "{:?}: {words}", bad.tags);
    }
    assert!(publish(&mut socket, &at(&[&future])).0);
    assert_eq!(stored(&mut socket, "q", "{}").len(), 1);
    clock.set(clock.now() + 1);
    assert!(stored(&mut socket, "q", "{}").is_empty(), "from that second on, swept or not");
}

#[test]
fn n40_07_an_expired_ephemeral_event_is_refused_like_any_other() {
    let relay = TestRelay::start();
    let (mut socket, mut ear) = (relay.connect(), relay.connect());
    ask(&mut ear, "live", "{\"kinds\":[20001]}");
    let past = (now() - 10).to_string();
    let (ok, words) = publish(&mut socket, &sign(1, 20_001, now(), &[&["expiration", &past]], ""));
    assert!(!ok && words.starts_with("invalid:"), "{words}");
    let later = (now() + 1000).to_string();
    assert!(publish(&mut socket, &sign(1, 20_001, now(), &[&["expiration", &later]], "")).0);
    ear.hears("EVENT", "live");
}

#[test]
fn n40_08_an_expired_version_leaves_nothing_behind() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    let soon = (clock.now() + 5).to_string();
    let older = sign(1, 0, clock.now() - 10, &[], "older");
    for event in [&older, &sign(1, 0, clock.now(), &[&["expiration", &soon]], "newest")] {
        assert!(publish(&mut socket, event).0);
    }
    clock.set(clock.now() + 5);
    assert!(stored(&mut socket, "q", "{\"kinds\":[0]}").is_empty());
}

#[test]
fn n62_01_n62_02_n62_07_h103_requests_are_obeyed_by_the_relays_they_name() {
    // Whatever else is asked of publishers.
    let relay = TestRelay::with(|config| {
        config.info.url = "wss://relay.test".into();
        config.info.other_urls = vec!["ws://relay.onion".into()];
        config.policy.min_pow_difficulty = 250;
        config.limits.created_at_lower_limit = 60;
    });
    let mut socket = relay.connect();
    for (author, tags, ok) in [
        (1, vec![], false),
        (1, vec!["wss://other.test"], false),
        (1, vec!["all_relays"], false),
        (1, vec![""], false),
        (1, vec!["ALL_RELAYS"], true),
        (2, vec!["wss://other.test", "WSS://Relay.Test:443/"], true),
        (3, vec!["ws://relay.onion/"], true),
    ] {
        let tags: Vec<[&str; 2]> = tags.into_iter().map(|url| ["relay", url]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        let request = sign(author, 62, now() - 1000, &tags, "");
        let (taken, words) = publish(&mut socket, &request);
        assert_eq!(taken, ok, "{:?}: {words}", request.tags);
        assert!(ok || words.starts_with("invalid:"), "{words}");
    }
    // Where no address is configured, the one where it was reached.
    let local = TestRelay::start();
    let mut socket = local.connect();
    let own = format!("ws://{}", local.address);
    assert!(publish(&mut socket, &sign(1, 62, now(), &[&["relay", &own]], "")).0);
    assert!(!publish(&mut socket, &sign(2, 62, now(), &[&["relay", "wss://relay.test"]], "")).0);
}

#[test]
fn n62_03_n62_04_n62_05_n62_06_n62_08_n62_12_who_vanishes_is_gone_and_stays_away() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let at = now() - 100;
    let to_one = ["p", &pubkey(1)];
    let earlier_deletion = deletion(1, at - 20, &[("e", &"ab".repeat(32))]);
    let gone = [
        note(1, at - 10, "a note"),
        sign(1, 0, at - 10, &[], "profile"),
        sign(1, 30_023, at - 10, &[&["d", "x"]], "post"),
        note(1, at, "of the same second"),
        earlier_deletion,
        sign(9, 1059, at - 10, &[&to_one], "a wrap"),
        sign(9, 1059, at, &[&["p", &pubkey(2)], &to_one], "a wrap for two"),
    ];
    let stays = [
        note(1, at + 1, "newer"),
        note(2, at - 10, "somebody else's"),
        sign(2, 1, at - 10, &[&to_one], "mentions the vanished"),
        sign(9, 1059, at + 1, &[&to_one], "a newer wrap"),
    ];
    for event in gone.iter().chain(&stays) {
        assert!(publish(&mut socket, event).0);
    }
    let request = vanish(1, at);
    assert!(publish(&mut socket, &request).0);
    assert!(socket.authenticate(1).0 && socket.authenticate(2).0);
    let mut left = stored(&mut socket, "q", "{}");
    let mut expected: Vec<String> = stays.iter().chain([&request]).map(id).collect();
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    // By no door.
    for event in &gone {
        is_blocked(publish(&mut socket, event));
    }
    let outcomes = relay.relay.ingest(gone.to_vec(), true).recv().expect("outcomes");
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused(words) if words.starts_with("blocked:"))),
        "{outcomes:?}"
    );
    is_blocked(publish(&mut socket, &note(1, at, "backdated")));
    is_blocked(publish(&mut socket, &sign(8, 1059, at, &[&to_one], "a late wrap, dated back")));
    assert!(publish(&mut socket, &note(1, at + 2, "a new life")).0);
    // A later request reaches further, an earlier one takes nothing back.
    assert!(publish(&mut socket, &vanish(1, at + 2)).0);
    assert!(publish(&mut socket, &vanish(1, at - 50)).0);
    is_blocked(publish(&mut socket, &note(1, at + 1, "between")));
}

#[test]
fn n62_10_a_request_from_the_future_reaches_to_now() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    assert!(publish(&mut socket, &vanish(1, clock.now() + 800)).0);
    is_blocked(publish(&mut socket, &note(1, clock.now(), "before")));
    assert!(publish(&mut socket, &note(1, clock.now() + 1, "after")).0);
    assert!(!publish(&mut socket, &vanish(1, clock.now() + 1000)).0, "too far ahead, like any event");
}

#[test]
fn n62_11_no_answer_that_begins_after_the_request_holds_what_vanished() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for n in 0..100 {
        assert!(publish(&mut socket, &note(1, now() - 100 - n, "")).0);
    }
    let request = vanish(1, now());
    assert!(publish(&mut socket, &request).0);
    assert_eq!(stored(&mut socket, "q", &format!("{{\"authors\":[\"{}\"]}}", pubkey(1))), [id(&request)]);
    assert_eq!(relay.relay.store().verify().expect("verify").faults, Vec::<String>::new());
}
