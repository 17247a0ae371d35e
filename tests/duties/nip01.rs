//! NIP-01: events, kinds, filters, subscriptions and their answers (sections 1 and 2).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use ratite::nostr::{Event, EventId};
use ratite::relay::Clock;

use crate::wire::{TestRelay, event, now, sign};
use crate::{ask, id, publish};

#[test]
fn n01_14_n01_31_a_stored_id_is_a_duplicate_whatever_its_signature_and_costs_no_check() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let note = event(1, 1, "once");
    assert_eq!(publish(&mut socket, &note), (true, String::new()));
    // The signature is wrong, but nobody looks at it any more.
    let again = Event { sig: event(1, 1, "other").sig, ..note };
    let (ok, words) = publish(&mut socket, &again);
    assert!(ok && words.starts_with("duplicate:"), "{words}");
    // The id is hashed before the signature is looked at.
    let wrong = Event { id: EventId([7; 32]), ..again };
    let (ok, words) = publish(&mut socket, &wrong);
    assert!(!ok && words.starts_with("invalid:") && words.contains("id"), "{words}");
}

#[test]
fn n01_16_upper_case_hex_is_refused() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let note = event(1, 1, "shout");
    let mut text = Vec::new();
    note.write_json(&mut text);
    let text = String::from_utf8(text).expect("JSON");
    let loud = text.replace(&note.sig.to_string(), &note.sig.to_string().to_uppercase());
    socket.say(&format!("[\"EVENT\",{loud}]"));
    let ok = socket.hears("OK", &id(&note));
    assert!(ok[2] == false && ok[3].as_str().is_some_and(|words| words.starts_with("invalid:")), "{ok}");
}

#[test]
fn n01_28_members_beside_the_seven_are_stripped() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let note = event(1, 1, "plain");
    let mut text = Vec::new();
    note.write_json(&mut text);
    let text = String::from_utf8(text).expect("JSON");
    socket.say(&format!("[\"EVENT\",{{\"fried\":\"00\",\"seen\":[1,{{}}],{}]", &text[1..]));
    socket.hears("OK", &id(&note));
    socket.say("[\"REQ\",\"q\",{}]");
    let got = socket.hears("EVENT", "q");
    let members: BTreeSet<&str> = got[2].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]));
}

#[test]
fn n01_37_n01_42_n01_43_regular_kinds_and_those_in_no_range_are_kept_each() {
    let relay = TestRelay::with(|config| config.policy.guard_private = false);
    let mut socket = relay.connect();
    let mut all = BTreeSet::new();
    for kind in [1, 2, 4, 41, 44, 62 - 1, 64, 818, 999, 1000, 9999, 40_000, 65_535] {
        for content in ["a", "b"] {
            let event = sign(1, kind, now(), &[], content);
            assert!(publish(&mut socket, &event).0, "kind {kind}");
            all.insert(id(&event));
        }
    }
    assert_eq!(ask(&mut socket, "q", "{}").into_iter().collect::<BTreeSet<_>>(), all);
}

#[test]
fn n01_38_n01_45_n01_46_n01_47_only_the_newest_version_is_served_and_older_ones_are_refused() {
    let relay = TestRelay::start();
    let (mut socket, mut watcher) = (relay.connect(), relay.connect());
    assert_eq!(ask(&mut watcher, "all", "{\"limit\":0}"), Vec::<String>::new());
    let versions: Vec<Event> = (0..3).map(|i| sign(1, 10_002, now() - 10 + i, &[], "")).collect();
    assert!(publish(&mut socket, &versions[0]).0);
    assert!(publish(&mut socket, &versions[2]).0);
    for old in &versions[..2] {
        let (ok, words) = publish(&mut socket, old);
        assert!(!ok && words.starts_with("duplicate:"), "{words}");
    }
    assert_eq!(ask(&mut socket, "q", "{\"kinds\":[10002]}"), [id(&versions[2])]);
    assert_eq!(ask(&mut socket, "r", &format!("{{\"ids\":[\"{}\"]}}", id(&versions[0]))), Vec::<String>::new());
    // The losing versions were never broadcast: the watcher hears of the two that won, then of the next note.
    let next = event(2, 1, "after");
    assert!(publish(&mut socket, &next).0);
    for won in [&versions[0], &versions[2], &next] {
        assert_eq!(watcher.hears("EVENT", "all")[2]["id"], id(won));
    }
}

#[test]
fn n01_41_n01_76_n01_83_an_ephemeral_event_reaches_those_who_listen_and_is_not_stored() {
    let relay = TestRelay::start();
    let (mut socket, mut listener) = (relay.connect(), relay.connect());
    let unheard = event(1, 20_001, "hello?");
    let (ok, words) = publish(&mut socket, &unheard);
    assert!(!ok && words.starts_with("mute:"), "{words}");
    ask(&mut listener, "live", "{\"kinds\":[20001]}");
    let heard = event(1, 20_001, "hello");
    assert_eq!(publish(&mut socket, &heard), (true, String::new()));
    assert_eq!(listener.hears("EVENT", "live")[2]["id"], id(&heard));
    assert_eq!(ask(&mut socket, "q", "{\"kinds\":[20001]}"), Vec::<String>::new());
    assert_eq!(relay.relay.store().info().expect("info").next_seq, 0, "it never touched the disk");
}

/// Two writers race with versions of one address while a reader looks: exactly one version is there at any time, and the
/// winner is the newest, or among equals the lowest id.
#[test]
fn n01_44_n01_48_replacement_is_atomic_whoever_wins_the_race() {
    let relay = TestRelay::start();
    let base = now() - 1000;
    let versions: Vec<Event> =
        (0..200).map(|i| sign(1, 30_023, base + i / 4, &[&["d", "post"]], &i.to_string())).collect();
    let best = versions.iter().max_by_key(|e| (e.created_at, std::cmp::Reverse(e.id))).expect("some");
    assert!(publish(&mut relay.connect(), &versions[0]).0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut socket = relay.connect();
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                assert_eq!(ask(&mut socket, "q", "{\"kinds\":[30023]}").len(), 1, "neither none nor two");
                socket.say("[\"CLOSE\",\"q\"]");
                // What came live meanwhile belongs to the subscription that is closed now.
                socket = relay.connect();
                looks += 1;
            }
        });
        let writers: Vec<_> = (0..2)
            .map(|half| {
                let (relay, versions) = (&relay, &versions);
                scope.spawn(move || {
                    let mut socket = relay.connect();
                    for version in versions.iter().skip(half).step_by(2) {
                        publish(&mut socket, version);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("the reader");
    });
    assert_eq!(ask(&mut relay.connect(), "q", "{\"kinds\":[30023]}"), [id(best)]);
}

#[test]
fn n01_58_limit_zero_answers_eose_and_stays_open() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    publish(&mut socket, &event(1, 1, "before"));
    assert_eq!(ask(&mut socket, "q", "{\"limit\":0}"), Vec::<String>::new());
    let live = event(1, 1, "after");
    socket.publish(&live);
    // OK and EVENT come from different threads, in either order.
    let verbs: BTreeSet<String> = (0..2).map(|_| socket.hear()[0].as_str().expect("a verb").to_owned()).collect();
    assert_eq!(verbs, BTreeSet::from(["EVENT".to_owned(), "OK".to_owned()]));
}

#[test]
fn n01_59_the_newest_come_first_up_to_the_limit_and_the_relays_own_bounds() {
    let relay = TestRelay::with(|config| {
        config.limits.default_limit = 3;
        config.limits.max_limit = 5;
    });
    let mut socket = relay.connect();
    let mut notes: Vec<Event> = (0..8).map(|i| sign(1, 1, now() - 100 + i, &[], "")).collect();
    for note in &notes {
        assert!(publish(&mut socket, note).0);
    }
    notes.reverse();
    let newest = |n: usize| notes[..n].iter().map(id).collect::<Vec<_>>();
    assert_eq!(ask(&mut socket, "a", "{\"limit\":2}"), newest(2));
    assert_eq!(ask(&mut socket, "b", "{}"), newest(3), "the default");
    assert_eq!(ask(&mut socket, "c", "{\"limit\":1000000}"), newest(5), "the cap");
    let every: Vec<String> = notes.iter().map(|note| format!("\"{}\"", note.id)).collect();
    let by_id = ask(&mut socket, "d", &format!("{{\"ids\":[{}]}}", every[..4].join(",")));
    assert_eq!(by_id, newest(4), "who names ids gets them, beyond the default");
}

#[test]
fn n01_63_n01_64_an_event_that_matches_twice_is_sent_once_and_each_filter_has_its_limit() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let notes: Vec<Event> = (0..6).map(|i| sign(1 + (i % 2) as u8, 1, now() - 100 + i, &[], "")).collect();
    for note in &notes {
        assert!(publish(&mut socket, note).0);
    }
    let author = notes[0].pubkey;
    let filters = format!("{{\"kinds\":[1],\"limit\":2}},{{\"authors\":[\"{author}\"],\"limit\":2}}");
    // The newest two of all, and the newest two of the first author: notes 5, 4 and 4, 2, in one order.
    assert_eq!(ask(&mut socket, "q", &filters), [id(&notes[5]), id(&notes[4]), id(&notes[2])]);
    let live = sign(1, 1, now(), &[], "matches both");
    let mut other = relay.connect();
    assert!(publish(&mut other, &live).0);
    assert_eq!(socket.hears("EVENT", "q")[2]["id"], id(&live));
    socket.still_works();
}

#[test]
fn n01_65_subscription_ids_belong_to_their_connection() {
    let relay = TestRelay::start();
    let (mut one, mut two) = (relay.connect(), relay.connect());
    ask(&mut one, "same", "{\"kinds\":[1]}");
    ask(&mut two, "same", "{\"kinds\":[7]}");
    one.say("[\"CLOSE\",\"same\"]");
    one.still_works();
    let reaction = event(1, 7, "+");
    assert!(publish(&mut one, &reaction).0);
    assert_eq!(two.hears("EVENT", "same")[2]["id"], id(&reaction));
}

#[test]
fn n01_66_n01_70_a_second_req_replaces_the_first_and_raises_no_counter() {
    let relay = TestRelay::with(|config| config.limits.max_subscriptions = 2);
    let (mut socket, mut writer) = (relay.connect(), relay.connect());
    for _ in 0..10 {
        ask(&mut socket, "s", "{\"kinds\":[1]}");
    }
    ask(&mut socket, "s", "{\"kinds\":[7]}");
    ask(&mut socket, "t", "{\"kinds\":[40]}");
    // Wanted by the replaced filters only: nothing may come for it.
    assert!(publish(&mut writer, &event(1, 1, "note")).0);
    let reaction = event(1, 7, "+");
    assert!(publish(&mut writer, &reaction).0);
    assert_eq!(socket.hears("EVENT", "s")[2]["id"], id(&reaction));
    socket.say("[\"REQ\",\"u\",{}]");
    assert!(socket.hears("CLOSED", "u")[2].as_str().is_some_and(|reason| reason.starts_with("blocked:")));
}

#[test]
fn n01_69_close_ends_a_subscription_without_an_answer_known_or_not() {
    let relay = TestRelay::start();
    let (mut socket, mut writer) = (relay.connect(), relay.connect());
    ask(&mut socket, "s", "{}");
    socket.say("[\"CLOSE\",\"s\"]");
    socket.say("[\"CLOSE\",\"never opened\"]");
    socket.still_works();
    assert!(publish(&mut writer, &event(1, 1, "nobody listens")).0);
    socket.still_works();
}

#[test]
fn n01_71_a_refused_req_is_answered_with_closed() {
    let relay = TestRelay::with(|config| config.limits.max_filters = 2);
    let mut socket = relay.connect();
    for (filters, reason) in [
        ("{},{},{}", "invalid:"),
        ("{\"search\":\"x\"}", "unsupported:"),
        ("{\"kinds\":[1],\"foo\":1}", "unsupported:"),
        ("{\"ids\":[\"abcd\"]}", "invalid:"),
    ] {
        socket.say(&format!("[\"REQ\",\"s\",{filters}]"));
        let closed = socket.hears("CLOSED", "s");
        assert!(closed[2].as_str().is_some_and(|text| text.starts_with(reason)), "{closed}");
    }
    assert_eq!(relay.relay.stats().subscriptions, 0);
}

#[test]
fn n01_72_a_question_for_ids_ends_with_eose_and_stays_open() {
    let relay = TestRelay::start();
    let (mut socket, mut writer) = (relay.connect(), relay.connect());
    let (known, coming) = (event(1, 1, "known"), event(1, 1, "coming"));
    assert!(publish(&mut writer, &known).0);
    let filters = format!("{{\"ids\":[\"{}\",\"{}\"]}}", known.id, coming.id);
    assert_eq!(ask(&mut socket, "q", &filters), [id(&known)]);
    assert!(publish(&mut writer, &coming).0);
    assert_eq!(socket.hears("EVENT", "q")[2]["id"], id(&coming));
}

#[test]
fn n01_75_n01_77_n01_84_each_event_gets_one_ok_and_goes_once_to_all_who_want_it_the_publisher_too() {
    let relay = TestRelay::start();
    let (mut publisher, mut other) = (relay.connect(), relay.connect());
    ask(&mut publisher, "own", "{\"kinds\":[1]}");
    ask(&mut other, "theirs", "{\"kinds\":[1]}");
    let note = event(1, 1, "hello");
    for _ in 0..3 {
        publisher.publish(&note);
    }
    let (mut oks, mut events) = (Vec::new(), 0);
    while oks.len() < 3 || events < 1 {
        let message = publisher.hear();
        match message[0].as_str() {
            Some("OK") => {
                assert_eq!((message[1].as_str(), message[2].as_bool()), (Some(id(&note).as_str()), Some(true)));
                oks.push(message[3].as_str().expect("a text").to_owned());
            }
            Some("EVENT") => events += 1,
            _ => panic!("{message}"),
        }
    }
    oks.sort();
    assert!(oks[0].is_empty() && oks[1].starts_with("duplicate:") && oks[2].starts_with("duplicate:"), "{oks:?}");
    assert_eq!(other.hears("EVENT", "theirs")[2]["id"], id(&note));
    publisher.still_works();
    other.still_works();
}

#[test]
fn n01_78_what_is_refused_is_never_answered_true_nor_kept() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let good = event(1, 1, "good");
    for bad in [
        Event { content: "changed".into(), ..good.clone() },
        Event { sig: event(2, 1, "good").sig, ..good.clone() },
        event(1, 22_242, "a token"),
        event(1, 27_235, "a token"),
        sign(1, 62, now(), &[], "no relay tag"),
        sign(1, 1, now(), &[&["expiration", "soon"]], ""),
        sign(1, 1, now(), &[&["expiration", "1000"]], ""),
    ] {
        let (ok, words) = publish(&mut socket, &bad);
        assert!(!ok && words.starts_with("invalid:"), "{words}");
    }
    assert_eq!(ask(&mut socket, "q", "{}"), Vec::<String>::new());
}

#[test]
fn n01_85_created_at_has_an_upper_limit_and_a_lower_one_by_configuration() {
    let clock = Clock::fixed(1_700_000_000);
    let relay = TestRelay::at(clock.clone(), |config| config.limits.created_at_lower_limit = 1000);
    let mut socket = relay.connect();
    for (at, accepted) in [(900, true), (901, false), (-1000, true), (-1001, false)] {
        let note = sign(1, 1, 1_700_000_000u64.saturating_add_signed(at), &[], "");
        let (ok, words) = publish(&mut socket, &note);
        assert_eq!(ok, accepted, "{at}: {words}");
        assert!(ok || words.starts_with("invalid:"), "{words}");
    }
}

#[test]
fn n02_01_follow_lists_of_thousands_replace_each_other() {
    let relay = TestRelay::with(|config| config.limits.max_message_length = 512 << 10);
    let mut socket = relay.connect();
    let keys: Vec<String> = (0u32..5000).map(|n| format!("{n:064x}")).collect();
    let tags: Vec<[&str; 2]> = keys.iter().map(|key| ["p", key.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    let (older, newer) = (sign(1, 3, now() - 10, &tags[..4999], ""), sign(1, 3, now(), &tags, ""));
    assert!(publish(&mut socket, &older).0);
    assert!(publish(&mut socket, &newer).0);
    assert_eq!(ask(&mut socket, "q", "{\"kinds\":[3]}"), [id(&newer)]);
    let follows_last = format!("{{\"#p\":[\"{}\"]}}", keys[4999]);
    assert_eq!(ask(&mut socket, "r", &follows_last), [id(&newer)]);
}

#[test]
fn n67_01_n67_02_n67_03_n67_05_eose_tells_that_nothing_was_left_out_where_that_is_switched_on() {
    for hints in [true, false] {
        let relay = TestRelay::with(|config| {
            config.policy.eose_hints = hints;
            config.limits.max_limit = 4;
        });
        let mut socket = relay.connect();
        // One look at the clock: a second that passes in between would make two of them the same event.
        let start = now();
        for n in 0..3 {
            assert!(publish(&mut socket, &sign(1, 1, start - n, &[], "")).0);
            assert!(publish(&mut socket, &sign(9, 1059, start - n, &[], "")).0);
        }
        for (filters, complete) in [
            ("{}", true),
            ("{\"kinds\":[1],\"limit\":4}", true),
            ("{\"kinds\":[1],\"limit\":100}", true),
            // There are exactly three; that there is no fourth was not looked at.
            ("{\"kinds\":[1],\"limit\":3}", false),
            ("{\"limit\":2}", false),
            ("{\"limit\":0}", false),
            ("{},{\"limit\":1}", false),
            ("{\"kinds\":[7]}", true),
            ("{\"kinds\":[]}", true),
        ] {
            socket.say(&format!("[\"REQ\",\"s\",{filters}]"));
            let eose = loop {
                let message = socket.hear();
                if message[0] == "EOSE" {
                    break message;
                }
            };
            let expected = match hints && complete {
                true => serde_json::json!(["EOSE", "s", ["finish"]]),
                false => serde_json::json!(["EOSE", "s"]),
            };
            assert_eq!(eose, expected, "{filters}, hints {hints}");
        }
    }
}
