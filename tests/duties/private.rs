//! Private messages go to those they concern, on every path (section 7: NIP-04, NIP-17, NIP-59).

use std::collections::BTreeSet;

use ratite::nostr::Event;

use crate::wire::{Socket, TestRelay, eventually, now, pubkey, sign};
use crate::{ask, id, publish};

/// An event of this kind from one author to others.
fn letter(author: u8, kind: u16, to: &[u8], content: &str) -> Event {
    let keys: Vec<String> = to.iter().map(|key| pubkey(*key)).collect();
    let tags: Vec<[&str; 2]> = keys.iter().map(|key| ["p", key.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    sign(author, kind, now(), &tags, content)
}

fn count(socket: &mut Socket, filters: &str) -> u64 {
    socket.say(&format!("[\"COUNT\",\"c\",{filters}]"));
    socket.hears("COUNT", "c")[2]["count"].as_u64().expect("a number")
}

fn closed(socket: &mut Socket, message: &str) -> String {
    socket.say(message);
    let answer = socket.hear();
    assert_eq!(answer[0], "CLOSED", "{answer}");
    answer[2].as_str().expect("a reason").to_owned()
}

/// Alice (1) writes to bob (2); carol (3) is a stranger; 9 is the throw-away key of a wrap.
fn with_letters() -> (TestRelay, [Event; 3]) {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let letters =
        [letter(1, 4, &[2], "not even base64"), letter(9, 1059, &[2], "wrap"), letter(1, 1, &[2], "hello in public")];
    for letter in &letters {
        assert_eq!(publish(&mut socket, letter), (true, String::new()), "anybody may send, N17-08");
    }
    (relay, letters)
}

#[test]
fn n04_01_n04_02_n17_01_n17_02_n17_03_stored_messages_are_read_by_those_they_concern() {
    let (relay, [direct, wrap, note]) = with_letters();
    let by_id = format!("{{\"ids\":[\"{}\",\"{}\",\"{}\"]}}", direct.id, wrap.id, note.id);
    let to_bob = format!("{{\"#p\":[\"{}\"]}}", pubkey(2));
    let from_all = format!("{{\"authors\":[\"{}\",\"{}\"]}}", pubkey(1), pubkey(9));
    let kinds = "{\"kinds\":[1,4,1059]}".to_owned();
    let newer = format!("{{\"since\":{}}}", now() - 100);
    for (reader, wanted) in [
        (None, vec![&note]),
        (Some(3), vec![&note]),
        (Some(9), vec![&note]),
        (Some(1), vec![&direct, &note]),
        (Some(2), vec![&direct, &wrap, &note]),
    ] {
        let mut socket = relay.connect();
        if let Some(reader) = reader {
            assert!(socket.authenticate(reader).0);
        }
        let mut wanted: Vec<String> = wanted.into_iter().map(id).collect();
        wanted.sort();
        for filter in ["{}", &by_id, &to_bob, &from_all, &kinds, &newer, &format!("{to_bob},{kinds},{{}}")] {
            let mut got = ask(&mut socket, "q", filter);
            got.sort();
            assert_eq!(got, wanted, "{reader:?} asks {filter}");
            assert_eq!(count(&mut socket, filter), wanted.len() as u64, "{reader:?} counts {filter}");
        }
    }
}

#[test]
fn n17_04_h152_a_question_for_private_kinds_only_needs_auth() {
    let (relay, _) = with_letters();
    let mut socket = relay.connect();
    for filters in ["{\"kinds\":[4]}", "{\"kinds\":[4,13,14,15,444,1059,21059]}", "{\"kinds\":[4]},{\"kinds\":[1059]}"]
    {
        for verb in ["REQ", "COUNT"] {
            let reason = closed(&mut socket, &format!("[\"{verb}\",\"s\",{filters}]"));
            assert!(reason.starts_with("auth-required:"), "{verb} {filters}: {reason}");
        }
    }
    assert!(socket.challenge.is_some());
    assert_eq!(relay.relay.stats().subscriptions, 0);
}

#[test]
fn n17_05_h153_other_questions_are_answered_as_if_there_were_no_private_events() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let note = sign(1, 1, now() - 50, &[], "older than all the letters");
    assert!(publish(&mut socket, &note).0);
    for n in 0..30 {
        assert!(publish(&mut socket, &letter(9, 1059, &[2], &n.to_string())).0);
    }
    // A limit is filled with what may be seen: a gap would tell of what may not.
    assert_eq!(ask(&mut socket, "q", "{\"limit\":1}"), [id(&note)]);
    assert_eq!(ask(&mut socket, "q", "{\"kinds\":[1,1059],\"limit\":1}"), [id(&note)]);
    assert_eq!(count(&mut socket, "{}"), 1);
    assert_eq!(ask(&mut socket, "q", &format!("{{\"#p\":[\"{}\"]}}", pubkey(2))), Vec::<String>::new());
}

#[test]
fn n17_06_somebody_elses_messages_are_none() {
    let (relay, [_, wrap, _]) = with_letters();
    let mut socket = relay.connect();
    assert!(socket.authenticate(3).0);
    assert!(ask(&mut socket, "q", &format!("{{\"kinds\":[1059],\"#p\":[\"{}\"]}}", pubkey(2))).is_empty());
    assert!(ask(&mut socket, "q", &format!("{{\"ids\":[\"{}\"]}}", wrap.id)).is_empty());
    assert_eq!(count(&mut socket, "{\"kinds\":[1059]}"), 0);
}

#[test]
fn n17_03_n17_07_n59_01_n59_02_live_messages_reach_those_they_concern_from_auth_on() {
    let relay = TestRelay::start();
    let mut sender = relay.connect();
    let (mut bob, mut carol) = (relay.connect(), relay.connect());
    ask(&mut bob, "all", "{}");
    ask(&mut carol, "all", "{}");
    let mut witness = relay.connect();
    ask(&mut witness, "all", "{}");
    assert!(witness.authenticate(2).0);
    assert!(carol.authenticate(3).0);
    let early = letter(9, 1059, &[2], "before bob is known");
    assert!(publish(&mut sender, &early).0);
    assert_eq!(witness.hears("EVENT", "all")[2]["id"], id(&early));
    drop(witness);
    eventually("the witness is gone", || relay.relay.stats().clients == 3);
    // The ephemeral sort is heard by nobody yet.
    let (ok, words) = publish(&mut sender, &letter(9, 21059, &[2], "nobody"));
    assert!(!ok && words.starts_with("mute:"), "{words}");
    assert!(bob.authenticate(2).0);
    let wrap = letter(9, 1059, &[3, 2], "for both");
    let passing = letter(9, 21059, &[2], "for bob, not kept");
    let direct = letter(1, 4, &[2], "for bob");
    let note = letter(1, 1, &[], "for all");
    for event in [&wrap, &passing, &direct, &note] {
        assert_eq!(publish(&mut sender, event), (true, String::new()));
    }
    // An ephemeral event may overtake a stored one, which waits for the disk.
    let heard = |socket: &mut Socket, count: usize| -> BTreeSet<String> {
        (0..count).map(|_| socket.hears("EVENT", "all")[2]["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(heard(&mut bob, 4), BTreeSet::from([&wrap, &passing, &direct, &note].map(id)));
    assert_eq!(heard(&mut carol, 2), BTreeSet::from([&wrap, &note].map(id)));
    bob.still_works();
    carol.still_works();
    let stored = ask(&mut bob, "q", "{\"kinds\":[1059,21059]}");
    assert!(stored.len() == 2 && stored.contains(&id(&early)) && stored.contains(&id(&wrap)), "{stored:?}");
}

#[test]
fn n17_03_whether_a_message_is_stored_is_told_to_those_it_concerns() {
    let (relay, [direct, wrap, note]) = with_letters();
    for (reader, knows) in
        [(None, [false, false]), (Some(3), [false, false]), (Some(1), [true, false]), (Some(2), [true, true])]
    {
        let mut socket = relay.connect();
        if let Some(reader) = reader {
            assert!(socket.authenticate(reader).0);
        }
        for (event, knows) in [(&direct, knows[0]), (&wrap, knows[1]), (&note, true)] {
            let (ok, words) = publish(&mut socket, event);
            assert!(ok && words.starts_with("duplicate:") == knows, "{reader:?}, kind {}: {words}", event.kind);
        }
        // Nor does a signature that nobody made find it out.
        let forged = Event { sig: note.sig, ..wrap.clone() };
        let (ok, words) = publish(&mut socket, &forged);
        assert!(!ok && words.starts_with("invalid:"), "{words}");
    }
}

#[test]
fn n17_08_n17_09_n17_12_wraps_are_taken_from_anybody_and_may_be_three_days_old() {
    let relay = TestRelay::with(|config| config.limits.created_at_lower_limit = 3600);
    let mut socket = relay.connect();
    let aged = |kind: u16, age: u64| sign(9, kind, now() - age, &[&["p", &pubkey(2)]], "");
    assert!(publish(&mut socket, &aged(1059, 2 * 86_400 + 3600)).0);
    assert!(!publish(&mut socket, &aged(1059, 3 * 86_400 + 3600)).0);
    assert!(!publish(&mut socket, &aged(1, 2 * 86_400)).0);
}

#[test]
fn n17_10_inner_layers_are_not_taken_by_themselves() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for kind in [13, 14, 15, 444] {
        let (ok, words) = publish(&mut socket, &letter(1, kind, &[2], ""));
        assert!(!ok && words.starts_with("blocked:"), "kind {kind}: {words}");
    }
    let lenient = TestRelay::with(|config| config.policy.accept_unwrapped = true);
    let (mut alice, mut carol) = (lenient.connect(), lenient.connect());
    assert!(alice.authenticate(1).0 && carol.authenticate(3).0);
    let mut all: Vec<String> = [13, 14, 15, 444]
        .map(|kind| {
            let layer = letter(1, kind, &[2], "");
            assert!(publish(&mut alice, &layer).0, "kind {kind}");
            id(&layer)
        })
        .into();
    let mut own = ask(&mut alice, "q", "{}");
    all.sort();
    own.sort();
    assert_eq!(own, all);
    assert!(ask(&mut carol, "q", "{}").is_empty());
}

#[test]
fn n17_11_lists_of_relays_are_for_everybody() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for kind in [10_002, 10_050] {
        let list = sign(1, kind, now(), &[&["relay", "wss://inbox.test"]], "");
        assert!(publish(&mut socket, &list).0);
        let found = ask(&mut socket, "q", &format!("{{\"kinds\":[{kind}],\"authors\":[\"{}\"]}}", pubkey(1)));
        assert_eq!(found, [id(&list)]);
    }
}

#[test]
fn n59_06_wraps_may_expire() {
    let clock = ratite::relay::Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut bob = relay.connect();
    assert!(bob.authenticate(2).0);
    let soon = (clock.now() + 5).to_string();
    let wrap = sign(9, 1059, clock.now(), &[&["p", &pubkey(2)], &["expiration", &soon]], "");
    assert!(publish(&mut bob, &wrap).0);
    assert_eq!(ask(&mut bob, "q", "{\"kinds\":[1059]}"), [id(&wrap)]);
    clock.set(clock.now() + 5);
    assert!(ask(&mut bob, "q", "{\"kinds\":[1059]}").is_empty());
}

#[test]
fn the_guard_can_be_switched_off() {
    let relay = TestRelay::with(|config| config.policy.guard_private = false);
    let (mut socket, mut watcher) = (relay.connect(), relay.connect());
    ask(&mut watcher, "live", "{\"kinds\":[1059]}");
    let wrap = letter(9, 1059, &[2], "");
    assert!(publish(&mut socket, &wrap).0);
    assert_eq!(watcher.hears("EVENT", "live")[2]["id"], id(&wrap));
    assert_eq!(ask(&mut socket, "q", "{\"kinds\":[1059]}"), [id(&wrap)]);
}
