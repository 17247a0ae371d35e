//! Kinds and tags without rules of their own (sections 8, 14, 16, 18), the words that answers begin with, and what monitors find
//! (NIP-66): that what the relay says of itself is so.

use serde_json::{Value, json};

use crate::wire::{Socket, TestRelay, event, now, pubkey, sign};
use crate::{ask, document, id, publish};

#[test]
fn pfx_01_every_refusal_begins_with_a_word_that_is_known() {
    const KNOWN: [&str; 10] = [
        "duplicate",
        "pow",
        "blocked",
        "rate-limited",
        "invalid",
        "restricted",
        "mute",
        "error",
        "auth-required",
        "unsupported",
    ];
    let known = |words: &Value| {
        let words = words.as_str().expect("a text");
        let (prefix, text) = words.split_once(": ").expect(words);
        assert!(KNOWN.contains(&prefix) && !text.is_empty(), "{words}");
    };
    let relay = TestRelay::with(|config| {
        config.limits.max_subscriptions = 1;
        config.policy.min_pow_difficulty = 1;
    });
    let mut socket = relay.connect();
    for message in [
        "[]",
        "hello",
        "[\"HELLO\"]",
        "[\"REQ\"]",
        "[\"REQ\",\"\",{}]",
        "[\"REQ\",\"a\"]",
        "[\"REQ\",\"a\",{\"ids\":[1]}]",
        "[\"REQ\",\"a\",{\"search\":\"x\"}]",
        "[\"REQ\",\"a\",{\"kinds\":[4]}]",
        "[\"COUNT\",\"a\",{\"colors\":[]}]",
        "[\"CLOSE\"]",
        "[\"AUTH\",{}]",
        "[\"EVENT\",{}]",
        "[\"NEG-OPEN\",\"a\",{},\"61\"]",
    ] {
        socket.say(message);
        let answer = socket.hear();
        match answer[0].as_str() {
            Some("NOTICE") => known(&answer[1]),
            Some("CLOSED") => known(&answer[2]),
            Some("OK") => known(&answer[3]),
            _ => panic!("{message}: {answer}"),
        }
    }
    let worked = |kind: u16, tags: &[&[&str]]| {
        let all = (0..).map(|n| sign(1, kind, now(), tags, &n.to_string()));
        all.into_iter().find(|event| event.id.0[0] < 0x80).expect("every second one")
    };
    let lazy =
        (0..).map(|n| event(1, 1, &n.to_string())).find(|event| event.id.0[0] >= 0x80).expect("every second one");
    let stored = worked(1, &[]);
    assert!(publish(&mut socket, &stored).0);
    let deletion = worked(5, &[&["e", &id(&stored)]]);
    assert!(publish(&mut socket, &deletion).0);
    for event in
        [lazy, stored, deletion, worked(20_001, &[]), worked(14, &[]), worked(1, &[&["-"]]), worked(22_242, &[])]
    {
        known(&publish(&mut socket, &event).1.into());
    }
}

#[test]
fn n26_01_delegation_means_nothing() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let delegated = sign(1, 1, now(), &[&["delegation", &pubkey(2), "kind=1", &"ab".repeat(64)]], "for somebody else");
    assert!(publish(&mut socket, &delegated).0);
    assert!(ask(&mut socket, "d", &format!("{{\"authors\":[\"{}\"]}}", pubkey(2))).is_empty());
    let deletion = sign(2, 5, now(), &[&["e", &id(&delegated)]], "");
    assert!(publish(&mut socket, &deletion).0);
    assert_eq!(ask(&mut relay.connect(), "a", &format!("{{\"authors\":[\"{}\"]}}", pubkey(1))), [id(&delegated)]);
}

#[test]
fn n22_01_n32_01_n66_02_n65_02_tags_of_one_letter_are_found_as_written_upper_and_lower_case_apart() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for letter in ["e", "a", "i", "k", "p", "l", "r", "n", "t", "g"] {
        let value = if matches!(letter, "e" | "p") { "ab".repeat(32) } else { "Some:Value/".to_owned() };
        let upper = letter.to_uppercase();
        let (low, high) =
            (sign(1, 1111, now(), &[&[letter, &value]], letter), sign(1, 1111, now(), &[&[&upper, &value]], &upper));
        assert!(publish(&mut socket, &low).0 && publish(&mut socket, &high).0);
        for (name, event) in [(letter, &low), (upper.as_str(), &high)] {
            let found = ask(&mut relay.connect(), "t", &format!("{{\"#{name}\":[\"{value}\"]}}"));
            assert_eq!(found, [id(event)], "{name}");
        }
        if value.ends_with('/') {
            // Another spelling of the same address is another value.
            for other in ["Some:Value", "some:value/"] {
                assert!(ask(&mut relay.connect(), "t", &format!("{{\"#{letter}\":[\"{other}\"]}}")).is_empty());
            }
        }
    }
}

#[test]
fn n46_01_signers_and_clients_hear_each_other() {
    let relay = TestRelay::start();
    let (mut client, mut signer) = (relay.connect(), relay.connect());
    let listen =
        |socket: &mut Socket, key: u8| ask(socket, "s", &format!("{{\"kinds\":[24133],\"#p\":[\"{}\"]}}", pubkey(key)));
    assert!(listen(&mut client, 1).is_empty() && listen(&mut signer, 2).is_empty());
    for round in 0..20 {
        let request = sign(1, 24_133, now(), &[&["p", &pubkey(2)]], &format!("please {round}"));
        assert!(publish(&mut client, &request).0);
        assert_eq!(signer.hears("EVENT", "s")[2]["id"], id(&request));
        let answer = sign(2, 24_133, now(), &[&["p", &pubkey(1)]], &format!("yes {round}"));
        assert!(publish(&mut signer, &answer).0);
        assert_eq!(client.hears("EVENT", "s")[2]["id"], id(&answer));
    }
    assert!(ask(&mut relay.connect(), "q", "{\"kinds\":[24133]}").is_empty(), "and nothing is kept");
}

#[test]
fn n47_01_n51_01_n57_01_what_is_large_or_encrypted_is_kept_as_it_is() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let long = "x".repeat(64 * 1024);
    for (n, kind) in [13_194, 10_000, 30_000, 10_063, 30_078, 9734, 9735, 1985].into_iter().enumerate() {
        let content = if n == 0 { long.clone() } else { format!("Aes+Gcm/{n}==?iv=\u{e9}\"\\\n") };
        let event = sign(1, kind, now(), &[&["d", "list"]], &content);
        assert!(publish(&mut socket, &event).0, "kind {kind}");
        let mut reader = relay.connect();
        reader.say(&format!("[\"REQ\",\"q\",{{\"ids\":[\"{}\"]}}]", id(&event)));
        assert_eq!(reader.hears("EVENT", "q")[2]["content"], content.as_str());
    }
    // To a wallet: passed on, however long.
    let mut wallet = relay.connect();
    ask(&mut wallet, "w", "{\"kinds\":[23194]}");
    let request = sign(1, 23_194, now(), &[&["p", &pubkey(2)]], &long);
    assert!(publish(&mut socket, &request).0);
    assert_eq!(wallet.hears("EVENT", "w")[2]["id"], id(&request));
}

#[test]
fn n50_06_search_is_refused_and_never_ignored() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    assert!(publish(&mut socket, &event(1, 1, "needle")).0);
    for verb in ["REQ", "COUNT"] {
        socket.say(&format!("[\"{verb}\",\"s\",{{\"search\":\"needle\"}}]"));
        let reason = socket.hears("CLOSED", "s");
        assert!(reason[2].as_str().is_some_and(|reason| reason.starts_with("unsupported:")), "{reason}");
    }
    assert!(!document(&relay)["supported_nips"].as_array().expect("a list").contains(&json!(50)));
}

#[test]
fn n69_01_offers_expire() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let offer =
        |until: u64| sign(1, 38_383, now(), &[&["d", &until.to_string()], &["expiration", &until.to_string()]], "");
    assert!(publish(&mut socket, &offer(now() + 3600)).0);
    assert!(!publish(&mut socket, &offer(now() - 1)).0);
}

/// What a monitor can measure is what the information document says, at each limit and one above it.
#[test]
fn n66_01_what_monitors_find_is_what_the_relay_says_of_itself() {
    let relay = TestRelay::with(|config| {
        config.limits.max_message_length = 8192;
        config.limits.max_subscriptions = 3;
        config.limits.max_limit = 5;
        config.limits.default_limit = 4;
        config.limits.max_event_tags = 6;
        config.limits.max_content_length = 70;
        config.limits.created_at_upper_limit = 500;
        config.limits.created_at_lower_limit = 5_000;
    });
    let document = document(&relay);
    let limit = |name: &str| document["limitation"][name].as_u64().expect(name);
    assert!(document["limitation"]["auth_required"] == false && document["limitation"]["restricted_writes"] == false);
    let mut socket = relay.connect();
    // A write probe gets a proper OK.
    for n in 0..limit("max_limit") + 1 {
        assert_eq!(publish(&mut socket, &event(1, 1, &n.to_string())), (true, String::new()));
    }
    let tags = |n: u64| {
        let tags: Vec<&[&str]> = (0..n).map(|_| &["t", "x"][..]).collect();
        sign(1, 1, now(), &tags, "tags")
    };
    let content = |n: u64| event(1, 1, &"é".repeat(n as usize));
    for (name, make) in [("max_event_tags", &tags as &dyn Fn(u64) -> _), ("max_content_length", &content)] {
        assert!(publish(&mut socket, &make(limit(name))).0, "{name}");
        assert!(!publish(&mut socket, &make(limit(name) + 1)).0, "one above {name}");
    }
    let (upper, lower) = (limit("created_at_upper_limit"), limit("created_at_lower_limit"));
    for (at, good) in
        [(now() + upper, true), (now() + upper + 60, false), (now() - lower + 60, true), (now() - lower - 60, false)]
    {
        assert_eq!(publish(&mut socket, &sign(1, 1, at, &[], "time")).0, good, "{at}");
    }
    let count = |filter: &str| ask(&mut relay.connect(), "q", filter).len() as u64;
    assert_eq!(count("{}"), limit("default_limit"));
    assert_eq!(count("{\"limit\":1000000}"), limit("max_limit"));
    let mut asker = relay.connect();
    for n in 0..=limit("max_subscriptions") {
        asker.say(&format!("[\"REQ\",\"{n}\",{{\"limit\":0}}]"));
        asker.hears(if n < limit("max_subscriptions") { "EOSE" } else { "CLOSED" }, &n.to_string());
    }
    let name = "s".repeat(limit("max_subid_length") as usize);
    let mut asker = relay.connect();
    asker.say(&format!("[\"REQ\",\"{name}\",{{\"limit\":0}}]"));
    asker.hears("EOSE", &name);
    asker.say(&format!("[\"REQ\",\"{name}s\",{{\"limit\":0}}]"));
    assert_ne!(asker.hear()[0], "EOSE");
    let (begin, end) = ("[\"REQ\",\"q\",{\"limit\":0}", "]");
    let padding = " ".repeat(limit("max_message_length") as usize - begin.len() - end.len());
    let mut asker = relay.connect();
    asker.say(&format!("{begin}{padding}{end}"));
    asker.hears("EOSE", "q");
    asker.say(&format!("{begin}{padding} {end}"));
    asker.closes_with(1009);
    // And it publishes nothing about itself that only a monitor should say.
    assert_eq!(count("{\"kinds\":[30166,10166]}"), 0);
}
