//! Hostile input over real sockets: each message of the vectors gets the reaction that stands beside it there, and after each of
//! them the relay still answers, the sender and everybody else (section 23).

use std::collections::BTreeSet;
use std::time::Instant;

use ratite::nostr::{Event, Tags};
use ratite::relay::Clock;
use serde_json::{Value, json};

use crate::wire::{FIN, TEXT, TestRelay, event, eventually, frame, now, sign, text};
use crate::{ask, id, publish};

/// The vectors' clock.
const NOW: u64 = 1_700_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors.json")).expect("tests/vectors.json is JSON")
}

/// What a relay says, as far as the vectors tell reactions apart: the verb, for OK whether it is true, and the prefix.
type Reaction = (String, Option<bool>, String);

fn reaction(message: &Value) -> Reaction {
    let verb = message[0].as_str().expect("a verb").to_owned();
    let (yes, words) = match verb.as_str() {
        "OK" => (message[2].as_bool(), &message[3]),
        "CLOSED" => (None, &message[2]),
        "NOTICE" => (None, &message[1]),
        _ => (None, &Value::Null),
    };
    let prefix = words.as_str().and_then(|words| words.split_once(": ")).map_or("", |(prefix, _)| prefix);
    (verb, yes, prefix.to_owned())
}

/// Whether a reaction is among those that the words beside a case allow: `OK false "invalid:" or NOTICE`, say.
fn allowed(words: &str, (verb, yes, prefix): &Reaction) -> bool {
    let named = |what: &str| {
        words.match_indices(what).any(|(at, _)| {
            // The prefix stands in quotes behind it, before the next alternative. Without one, any will do.
            let rest = &words[at + what.len()..];
            let end = ["OK ", "NOTICE", "CLOSED", "EOSE", ";"].iter().filter_map(|next| rest.find(next)).min();
            let own = &rest[..end.unwrap_or(rest.len())];
            !own.contains(":\"") || own.contains(&format!("\"{prefix}:\""))
        })
    };
    match (verb.as_str(), yes) {
        ("OK", Some(true)) => words.contains("OK true"),
        ("OK", _) => named("OK false"),
        ("NOTICE", _) => named("NOTICE"),
        ("CLOSED", _) => named("CLOSED"),
        ("EOSE", _) => ["EOSE", "treat as", "count"].iter().any(|word| words.contains(word)),
        ("COUNT", _) => words.contains("count"),
        _ => false,
    }
}

/// Cases whose words ask for what one message cannot show; each has a test of its own.
const APART: [&str; 5] = ["H001", "H002", "H094", "H147", "H149"];

/// The reaction to cases whose words do not say it in one.
const INSTEAD: [(&str, &str); 2] = [("H095", "OK false \"auth-required:\""), ("H104", "OK true")];

/// The cases that [`every_hostile_message_gets_its_reaction_and_harms_nobody`] sends.
pub fn sent() -> BTreeSet<String> {
    let vectors = vectors();
    let cases = vectors["hostile"].as_array().expect("a list").iter();
    let names = cases.filter(|case| case["send"].is_string()).map(|case| case["n"].as_str().expect("an id").to_owned());
    names.filter(|name| !APART.contains(&name.as_str())).collect()
}

#[test]
fn every_hostile_message_gets_its_reaction_and_harms_nobody() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for case in vectors()["hostile"].as_array().expect("a list") {
        let (n, words) = (case["n"].as_str().expect("an id"), case["expect"].as_str().expect("words"));
        let Some(message) = case["send"].as_str().filter(|_| !APART.contains(&n)) else { continue };
        // Each case finds an empty relay: the id of one event that is stored would make a duplicate of another.
        let relay = TestRelay::at(Clock::fixed(NOW), |_| {});
        let (mut socket, mut innocent) = (relay.connect(), relay.connect());
        let began = Instant::now();
        socket.send(&frame(FIN | TEXT, message.as_bytes()));
        let answer = loop {
            let answer = socket.hear();
            // Stored events may come before the end of a question that is served.
            if answer[0] != "EVENT" {
                break answer;
            }
        };
        let words = INSTEAD.iter().find(|(own, _)| *own == n).map_or(words, |(_, words)| words);
        if !allowed(words, &reaction(&answer)) {
            wrong.push(format!("{n}: {message}\n gave {answer}\n wanted {words}"));
        }
        assert!(began.elapsed().as_secs() < 5, "{n}");
        socket.still_works();
        innocent.still_works();
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 130, "{seen} cases were sent");
}

#[test]
fn h001_h002_h147_h149_what_needs_no_answer() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for nothing in ["", "  \n\t "] {
        socket.say(nothing);
        socket.hears_notice("invalid:");
    }
    socket.say("[\"CLOSE\",\"nope\"]");
    ask(&mut socket, "s", "{}");
    socket.say("[\"CLOSE\",\"s\",1]");
    socket.still_works();
    eventually("nothing is open", || relay.relay.stats().subscriptions == 0);
}

#[test]
fn h024_h025_h069_h082_deep_nesting_and_endless_numbers_are_refused_at_once() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let mut note = Vec::new();
    event(1, 1, "x").write_json(&mut note);
    let note = String::from_utf8(note).expect("JSON");
    let deep = format!("[\"EVENT\",{{\"x\":{}{},{}]", "[".repeat(50_000), "]".repeat(50_000), &note[1..]);
    let digits = "9".repeat(100_000);
    let long = format!("[\"EVENT\",{}]", note.replace("\"created_at\":", &format!("\"created_at\":{digits}")));
    for message in ["[".repeat(100_000), deep, long] {
        let began = Instant::now();
        socket.say(&message);
        let answer = socket.hear();
        assert!(matches!(reaction(&answer).0.as_str(), "NOTICE" | "OK"), "{answer}");
        assert_eq!(reaction(&answer).2, "invalid");
        assert!(began.elapsed().as_millis() < 2000, "it takes next to no time: {:?}", began.elapsed());
    }
    socket.still_works();
}

#[test]
fn h086_h087_h088_h089_h090_events_at_the_edges_of_their_limits() {
    let relay = TestRelay::with(|config| {
        config.limits.max_message_length = 2 << 20;
        config.listen.outbox_bytes = 8 << 20;
        config.limits.max_event_tags = 100;
        config.limits.max_content_length = 1000;
    });
    let mut socket = relay.connect();
    let with_tags = |count: usize| {
        let tags: Vec<[&str; 2]> = (0..count).map(|_| ["t", "x"]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        sign(1, 1, now(), &tags, "")
    };
    assert!(publish(&mut socket, &with_tags(100)).0);
    let (ok, words) = publish(&mut socket, &with_tags(101));
    assert!(!ok && words.starts_with("invalid:"), "{words}");
    let wide: Vec<&str> = std::iter::once("x").chain((0..100_000).map(|_| "y")).collect();
    assert!(publish(&mut socket, &sign(1, 1, now(), &[&wide], "")).0);
    let (ok, words) = publish(&mut socket, &sign(1, 1, now(), &[], &"x".repeat(1001)));
    assert!(!ok && words.starts_with("invalid:"), "{words}");
    // Characters count, not bytes.
    assert!(publish(&mut socket, &sign(1, 1, now(), &[], &"🦤".repeat(1000))).0);
    let long = "z".repeat(1 << 20);
    let (one, two) = (format!("{long}1"), format!("{long}2"));
    let events = [sign(1, 1, now(), &[&["r", &one]], ""), sign(1, 1, now(), &[&["r", &two]], "")];
    for event in &events {
        assert!(publish(&mut socket, event).0);
    }
    assert_eq!(ask(&mut socket, "q", &format!("{{\"#r\":[\"{one}\"]}}")), [id(&events[0])], "two values stay two");
}

#[test]
fn h105_one_event_a_thousand_times_in_one_segment_is_stored_once() {
    let relay = TestRelay::start();
    let (mut socket, mut watcher) = (relay.connect(), relay.connect());
    ask(&mut watcher, "all", "{}");
    let note = event(1, 1, "again and again");
    let mut message = b"[\"EVENT\",".to_vec();
    note.write_json(&mut message);
    message.push(b']');
    let flood: Vec<u8> = (0..1000).flat_map(|_| frame(FIN | TEXT, &message)).collect();
    socket.send(&flood);
    let mut words = BTreeSet::new();
    let mut first = 0;
    for _ in 0..1000 {
        let ok = socket.hears("OK", &id(&note));
        assert_eq!(ok[2], true);
        let text = ok[3].as_str().expect("a text");
        first += usize::from(text.is_empty());
        words.insert(text.to_owned());
    }
    assert_eq!(first, 1, "{words:?}");
    assert!(words.iter().all(|text| text.is_empty() || text.starts_with("duplicate:")), "{words:?}");
    watcher.hears("EVENT", "all");
    watcher.still_works();
}

#[test]
fn h106_two_versions_of_one_second_race_and_the_lower_id_wins() {
    let relay = TestRelay::start();
    for round in 0..20u64 {
        let at = now() - 1000 + round;
        let mut two = [sign(1, 10_002, at, &[], "a"), sign(1, 10_002, at, &[], "b")];
        std::thread::scope(|scope| {
            for version in &two {
                let relay = &relay;
                scope.spawn(move || publish(&mut relay.connect(), version));
            }
        });
        two.sort_by_key(|event| event.id);
        assert_eq!(ask(&mut relay.connect(), "q", "{\"kinds\":[10002]}"), [id(&two[0])]);
    }
}

#[test]
fn h139_h140_h141_h142_wide_questions_are_served_or_refused() {
    let relay = TestRelay::with(|config| config.limits.max_message_length = 1 << 20);
    let (mut socket, mut innocent) = (relay.connect(), relay.connect());
    let start = now();
    let notes: Vec<Event> = (0..10).map(|n| sign(1, 1, start - n, &[], "")).collect();
    for note in &notes {
        assert!(publish(&mut socket, note).0);
    }
    let many = |filter: &str, count: usize| vec![filter; count].join(",");
    socket.say(&format!("[\"REQ\",\"s\",{}]", many("{\"kinds\":[1]}", 10_000)));
    let reason = socket.hears("CLOSED", "s");
    assert!(["invalid", "blocked"].contains(&reaction(&reason).2.as_str()), "{reason}");
    assert_eq!(ask(&mut socket, "s", &many("{\"kinds\":[1],\"limit\":10}", 20)).len(), 10, "each event once");
    let authors: Vec<String> = (0u32..10_000).map(|n| format!("\"{n:064x}\"")).collect();
    socket.say(&format!("[\"REQ\",\"s\",{{\"authors\":[{}]}}]", authors.join(",")));
    innocent.still_works();
    assert!(["EOSE", "CLOSED"].contains(&reaction(&socket.hear()).0.as_str()));
    let letters: Vec<String> = (b'a'..=b'z')
        .chain(b'A'..=b'Z')
        .map(|letter| match letter {
            b'e' | b'p' => format!("\"#{}\":[\"{}\"]", char::from(letter), "1".repeat(64)),
            _ => format!("\"#{}\":[\"x\"]", char::from(letter)),
        })
        .collect();
    assert!(ask(&mut socket, "s", &format!("{{{}}}", letters.join(","))).is_empty());
    socket.still_works();
}

#[test]
fn h145_h146_ten_thousand_subscriptions_of_one_name_and_of_many() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for _ in 0..10 {
        let same: Vec<u8> = (0..1000).flat_map(|_| text("[\"REQ\",\"s\",{\"limit\":0}]")).collect();
        socket.send(&same);
        // One that is replaced before its turn is not answered.
        socket.say("[\"REQ\",\"z\",{\"limit\":0}]");
        let mut answered = 0;
        while socket.hear() != json!(["EOSE", "z"]) {
            answered += 1;
        }
        assert!((1..=1000).contains(&answered), "{answered}");
        socket.say("[\"CLOSE\",\"z\"]");
    }
    eventually("one is open", || relay.relay.stats().subscriptions == 1);
    let note = event(1, 1, "once");
    assert!(publish(&mut relay.connect(), &note).0);
    assert_eq!(socket.hears("EVENT", "s")[2]["id"], id(&note));
    let mut refused = 0;
    for n in 0..1000 {
        socket.say(&format!("[\"REQ\",\"n{n}\",{{\"kinds\":[9999]}}]"));
        let (verb, _, prefix) = reaction(&socket.hear());
        assert!(verb == "EOSE" || prefix == "blocked" || prefix == "rate-limited", "{verb} {prefix}");
        refused += usize::from(verb == "CLOSED");
    }
    assert_eq!((relay.relay.stats().subscriptions, refused), (100, 901));
}

#[test]
fn h150_nothing_more_comes_after_a_close_during_the_scan() {
    let relay = TestRelay::with(|config| config.limits.max_limit = 100_000);
    let mut secret = 0u32;
    let events: Vec<Event> = (0..20_000)
        .map(|n| {
            // Unsigned fillers by the trusted door: only their number matters.
            let mut event = event(1, 1, "");
            secret += 1;
            event.id.0[..4].copy_from_slice(&secret.to_be_bytes());
            event.created_at -= n % 1000;
            event.tags = Tags::new();
            event
        })
        .collect();
    relay.relay.ingest(events, true).recv().expect("outcomes");
    let mut socket = relay.connect();
    socket.send(&[text("[\"REQ\",\"s\",{\"limit\":100000}]"), text("[\"CLOSE\",\"s\"]")].concat());
    socket.say("[\"REQ\",\"z\",{\"limit\":0}]");
    loop {
        let message = socket.hear();
        if message[1] == "z" {
            break;
        }
        assert_eq!((&message[0], &message[1]), (&"EVENT".into(), &"s".into()), "no EOSE for what was closed");
    }
    socket.still_works();
}

#[test]
fn h159_a_challenge_is_sent_once_so_there_is_no_older_one_to_replay() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let first = socket.challenge();
    for _ in 0..5 {
        // Each of these needs AUTH; a second challenge would fail the socket's own check.
        socket.say("[\"REQ\",\"s\",{\"kinds\":[1059]}]");
        socket.hears("CLOSED", "s");
    }
    assert_eq!(socket.challenge(), first);
}

#[test]
fn h246_a_question_that_would_cost_too_much_ends_with_a_reason_and_delays_nobody() {
    let relay = TestRelay::with(|config| config.limits.max_scan_keys = 1000);
    let (mut socket, mut innocent) = (relay.connect(), relay.connect());
    // Signing costs more than all the rest; unsigned copies will do for the operator's door.
    let first = sign(1, 1, 1_600_000_000, &[], "");
    let copy = |n: u32| {
        let mut copy = first.clone();
        copy.id.0[..4].copy_from_slice(&n.to_be_bytes());
        copy.created_at += u64::from(n);
        copy
    };
    let fillers = (0..50_000).map(copy).collect();
    relay.relay.ingest(fillers, true).recv().expect("outcomes");
    // Nothing matches, and no index leads there.
    let hopeless = format!("{{\"kinds\":[1],\"authors\":[\"{}\"],\"#t\":[\"x\"],\"since\":1}}", crate::wire::pubkey(1));
    let full = "{\"limit\":5000}".to_owned();
    for filters in [hopeless, full] {
        socket.say(&format!("[\"REQ\",\"s\",{filters}]"));
        innocent.still_works();
        let answer = loop {
            let answer = socket.hear();
            if answer[0] != "EVENT" {
                break answer;
            }
        };
        let (verb, _, prefix) = reaction(&answer);
        assert!(verb == "EOSE" || verb == "CLOSED" && prefix == "error", "{answer}");
    }
    socket.say("[\"COUNT\",\"c\",{\"since\":1,\"#t\":[\"x\"]},{\"until\":1700000000}]");
    let answer = socket.hear();
    assert!(["COUNT", "CLOSED"].contains(&reaction(&answer).0.as_str()), "{answer}");
    socket.still_works();
}

#[test]
fn h247_what_is_cheap_to_refuse_is_refused_before_its_signature_is_looked_at() {
    let relay = TestRelay::with(|config| config.limits.max_content_length = 10);
    let (mut socket, mut innocent) = (relay.connect(), relay.connect());
    let wrong = event(2, 1, "").sig;
    for (forged, about) in [
        (Event { sig: wrong, ..event(1, 1, "longer than ten characters") }, "content"),
        (Event { sig: wrong, ..sign(1, 1, now() + 5000, &[], "") }, "created_at"),
        (Event { sig: wrong, content: "other".into(), ..event(1, 1, "") }, "id is not"),
        (Event { sig: wrong, ..sign(1, 1, now(), &[&["expiration", "1000"]], "") }, "expired"),
        (Event { sig: wrong, ..event(1, 1, "") }, "sig"),
    ] {
        let (ok, words) = publish(&mut socket, &forged);
        assert!(!ok && words.starts_with("invalid:") && words.contains(about), "{about}: {words}");
    }
    let flood: Vec<u8> = (0u32..2000)
        .flat_map(|n| {
            let forged = Event { sig: wrong, ..sign(1, 1, now(), &[], &n.to_string()) };
            let mut message = b"[\"EVENT\",".to_vec();
            forged.write_json(&mut message);
            message.push(b']');
            frame(FIN | TEXT, &message)
        })
        .collect();
    std::thread::scope(|scope| {
        let mut writer = socket.stream.try_clone().expect("a second handle");
        scope.spawn(move || std::io::Write::write_all(&mut writer, &flood).expect("sent"));
        for _ in 0..10 {
            innocent.still_works();
        }
        for _ in 0..2000 {
            let (verb, ok, prefix) = reaction(&socket.hear());
            assert_eq!((verb.as_str(), ok, prefix.as_str()), ("OK", Some(false), "invalid"));
        }
    });
    socket.still_works();
}

#[test]
fn h250_a_clock_that_is_set_back_hides_nothing_for_ever_and_breaks_nothing() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    let at = clock.now();
    let expiring = sign(1, 1, at, &[&["expiration", &(at + 10).to_string()]], "");
    assert!(publish(&mut socket, &expiring).0);
    clock.set(at - 3600);
    assert_eq!(ask(&mut socket, "q", "{}"), [id(&expiring)], "it expires later now");
    let (ok, words) = publish(&mut socket, &sign(1, 1, at, &[], ""));
    assert!(!ok && words.starts_with("invalid:"), "an hour ahead: {words}");
    assert!(publish(&mut relay.connect(), &sign(1, 1, at - 3600, &[], "")).0);
    clock.set(at + 10);
    assert_eq!(ask(&mut relay.connect(), "r", "{}").len(), 1, "what has not expired");
}
