//! Messages (sections 23.1 to 23.4): each of the vectors gets the reaction that stands beside it there, is not stored and heard by
//! nobody unless it was taken, and what must be so afterwards is so.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use ratite::nostr::Event;
use serde_json::{Value, json};

use crate::relay::{Case, Scene, Table, canonical, case, sign};
use crate::wire::{FIN, Socket, TEXT, ask, frame, publish, refusals_to_the_end, text};

/// The vectors' clock.
const NOW: u64 = 1_700_000_000;

/// What the vectors spell out.
pub const AS_LISTED: Table = Table { name: "messages", clock: Some(NOW), change: |_| {}, cases: as_listed };

/// What is larger than a relay takes as it is configured.
pub const LARGE: Table = Table {
    name: "large messages",
    clock: Some(NOW),
    change: |config| {
        config.limits.max_message_length = 2 << 20;
        config.listen.outbox_bytes = 8 << 20;
        config.limits.max_event_tags = 10_000;
        config.limits.max_content_length = 1000;
    },
    cases: large,
};

/// One after the other, or together.
pub const MANY: Table = Table { name: "many messages", clock: Some(NOW), change: |_| {}, cases: many };

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

/// The reaction to cases whose words do not say it in one.
const INSTEAD: [(&str, &str); 4] = [
    ("H001", "NOTICE \"invalid:\""),
    ("H002", "NOTICE \"invalid:\""),
    ("H095", "OK false \"auth-required:\""),
    ("H104", "OK true"),
];

/// What the vectors send, but for H147 and H149, which are not answered.
fn as_listed() -> Vec<Case> {
    let vectors = vectors();
    let listed = vectors["hostile"].as_array().expect("a list").iter().filter_map(|case| {
        let words = |name: &str| case[name].as_str().map(str::to_owned);
        Some((words("n")?, words("send")?, words("expect")?))
    });
    let sent = listed.filter(|(n, ..)| !["H147", "H149"].contains(&n.as_str())).map(|(n, message, words)| {
        let words = INSTEAD.iter().find(|(own, _)| *own == n).map_or(words, |(_, words)| (*words).to_owned());
        Case { n: n.clone(), does: Box::new(move |scene| as_it_is_listed(scene, &n, &message, &words)) }
    });
    let unanswered = [
        case("H147", |scene| {
            let mut socket = scene.connect();
            socket.say("[\"CLOSE\",\"nope\"]");
            socket.still_works();
        }),
        case("H149", |scene| {
            let mut socket = scene.connect();
            ask(&mut socket, "s", "{}");
            socket.say("[\"CLOSE\",\"s\",1]");
            socket.still_works();
            scene.has_subscriptions(1);
        }),
    ];
    sent.chain(unanswered).collect()
}

/// The event that many of the vectors are about.
fn base() -> Event {
    sign(1, 1, NOW, &[], "base")
}

fn as_it_is_listed(scene: &Scene, n: &str, message: &str, words: &str) {
    let mut socket = scene.connect();
    let before = prepare(scene, n, &mut socket);
    let event = message.find('{').and_then(|at| {
        // Whitespace may surround the message, and elements follow the event.
        (at..=message.len())
            .rev()
            .filter_map(|end| message.get(at..end))
            .find_map(|json| Event::parse(json.as_bytes()).ok())
    });
    socket.send(&frame(FIN | TEXT, message.as_bytes()));
    let mut found = Vec::new();
    let answer = loop {
        let answer = socket.hear();
        // Stored events may come before the end of a question that is served.
        if answer[0] != "EVENT" {
            break answer;
        }
        found.push(answer[2]["id"].clone());
    };
    assert!(allowed(words, &reaction(&answer)), "{message}\n gave {answer}\n wanted {words}");
    socket.still_works();
    // What was refused is not stored and was heard by nobody; what was taken comes back as it was signed.
    let taken = reaction(&answer).1 == Some(true);
    assert_eq!(scene.stored(), before + u64::from(taken), "{answer}");
    assert_eq!(scene.innocent().len() as u64, before + u64::from(taken) - hidden(n), "{answer}");
    if taken {
        let event = event.expect("an event was taken");
        comes_back(&mut socket, &event);
    }
    let open = u64::from(answer[0] == "EOSE");
    scene.has_subscriptions(1 + open);
    afterwards(scene, n, &mut socket, &answer, &found);
}

fn comes_back(socket: &mut Socket, event: &Event) {
    socket.say(&format!("[\"REQ\",\"back\",{{\"ids\":[\"{}\"]}}]", event.id));
    let frame = socket.next().expect("an answer");
    assert_eq!(String::from_utf8_lossy(&frame.payload), format!("[\"EVENT\",\"back\",{}]", canonical(event)));
    socket.hears("EOSE", "back");
    socket.say("[\"CLOSE\",\"back\"]");
    socket.still_works();
}

/// Of the events that [`prepare`] stores, how many nobody hears who is not authenticated.
fn hidden(n: &str) -> u64 {
    u64::from(n == "H153")
}

/// What must be there for a case to mean anything; how many events that is.
fn prepare(scene: &Scene, n: &str, socket: &mut Socket) -> u64 {
    let store = |events: &[Event]| {
        let mut writer = scene.connect();
        for event in events {
            assert_eq!(publish(&mut writer, event), (true, String::new()));
        }
        events.len() as u64
    };
    let liked = base().id.to_string();
    match n {
        "H094" => {
            assert!(scene.authenticate(socket, 2).0);
            0
        }
        "H100" | "H101" | "H109" | "H118" | "H130" | "H131" | "H132" | "H136" | "H137" | "H138" | "H154" => {
            store(&[base()])
        }
        "H153" => store(&[sign(4, 1059, NOW, &[&["p", &sign(1, 1, NOW, &[], "").pubkey.to_string()]], "sealed")]),
        "H155" => store(&[sign(1, 7, NOW, &[&["e", &liked]], "+"), sign(2, 7, NOW, &[&["e", &liked]], "+")]),
        _ => 0,
    }
}

fn afterwards(scene: &Scene, n: &str, socket: &mut Socket, answer: &Value, found: &[Value]) {
    let base = base();
    match n {
        "H081" => {
            assert!(ask(socket, "t", "{\"#t\":[\"a\"]}").is_empty());
            assert_eq!(ask(socket, "t", "{\"#t\":[\"a\\u0000b\"]}").len(), 1);
        }
        "H093" | "H095" => assert!(socket.challenge.is_some()),
        "H099" => {
            // Its address is that of an empty identifier: a newer version takes its place.
            let newer = sign(1, 30_023, NOW + 1, &[&["d", ""]], "newer");
            assert!(publish(socket, &newer).0);
            assert_eq!(ask(socket, "d", "{\"kinds\":[30023]}"), [newer.id.to_string()]);
        }
        "H100" | "H101" => comes_back(socket, &base),
        "H104" => assert_eq!(publish(socket, &base), (true, String::new())),
        "H110" | "H112" | "H115" => assert!(answer[1].as_str().is_some_and(|id| !id.is_empty())),
        "H130" | "H138" => assert!(found.is_empty()),
        "H131" | "H132" | "H136" => assert_eq!(found, [base.id.to_string()]),
        "H137" => {
            assert!(found.is_empty());
            let note = sign(2, 1, NOW, &[], "live");
            scene.connect().publish(&note);
            while socket.hears("EVENT", "s")[2]["id"] != note.id.to_string() {}
        }
        "H153" => assert_eq!(answer[2]["count"], 0),
        "H155" => assert!(answer[2]["count"] == 2 && answer[2].get("hll").is_none(), "{answer}"),
        _ => {}
    }
}

/// Sends a message that must be refused as invalid, in next to no CPU time.
fn is_refused_at_once(scene: &Scene, message: &str, prefixes: &[&str]) {
    let mut socket = scene.connect();
    socket.still_works();
    let before = scene.cpu();
    socket.say(message);
    let answer = socket.hear();
    let (verb, ok, prefix) = reaction(&answer);
    assert!(verb != "OK" || ok == Some(false), "{answer}");
    assert!(prefixes.contains(&prefix.as_str()), "{answer}");
    let took = scene.cpu() - before;
    assert!(took < Duration::from_millis(500), "{took:?}, although this build is slow");
    socket.still_works();
    assert_eq!(scene.stored(), 0);
}

fn words_of_refusal(socket: &mut Socket, event: &Event) -> String {
    let (ok, words) = publish(socket, event);
    assert!(!ok, "{words}");
    words
}

fn large() -> Vec<Case> {
    let note = || canonical(&base());
    vec![
        case("H024", |scene| is_refused_at_once(scene, &"[".repeat(100_000), &["invalid"])),
        case("H025", move |scene| {
            let deep = format!("[\"EVENT\",{{\"x\":{}{},{}]", "[".repeat(50_000), "]".repeat(50_000), &note()[1..]);
            is_refused_at_once(scene, &deep, &["invalid"]);
        }),
        case("H069", move |scene| {
            let digits = format!("\"created_at\":{}", "9".repeat(100_000));
            let long = format!("[\"EVENT\",{}]", note().replace("\"created_at\":1700000000", &digits));
            assert!(long.len() > 100_000);
            is_refused_at_once(scene, &long, &["invalid"]);
        }),
        case("H086", |scene| {
            let mut socket = scene.connect();
            let with_tags = |count: usize| {
                let tags: Vec<&[&str]> = (0..count).map(|_| &["x", "y"][..]).collect();
                sign(1, 1, NOW, &tags, "")
            };
            assert!(publish(&mut socket, &with_tags(10_000)).0);
            assert!(words_of_refusal(&mut socket, &with_tags(10_001)).starts_with("invalid:"));
        }),
        case("H087", |scene| {
            let wide: Vec<&str> = std::iter::once("x").chain((0..100_000).map(|_| "")).collect();
            let event = sign(1, 1, NOW, &[&wide], "");
            let mut socket = scene.connect();
            assert!(publish(&mut socket, &event).0);
            comes_back(&mut socket, &event);
        }),
        case("H088", |scene| {
            let mut socket = scene.connect();
            assert!(words_of_refusal(&mut socket, &sign(1, 1, NOW, &[], &"x".repeat(1001))).starts_with("invalid:"));
        }),
        case("H089", |scene| {
            // Characters count, not bytes.
            let event = sign(1, 1, NOW, &[], &"🦤".repeat(1000));
            let mut socket = scene.connect();
            assert!(publish(&mut socket, &event).0);
            comes_back(&mut socket, &event);
            assert!(words_of_refusal(&mut socket, &sign(1, 1, NOW, &[], &"🦤".repeat(1001))).starts_with("invalid:"));
        }),
        case("H090", |scene| {
            let long = "z".repeat(1 << 20);
            let (one, two) = (format!("{long}1"), format!("{long}2"));
            let mut socket = scene.connect();
            let events = [sign(1, 1, NOW, &[&["r", &one]], ""), sign(1, 1, NOW, &[&["r", &two]], "")];
            for event in &events {
                assert!(publish(&mut socket, event).0);
            }
            let found = ask(&mut socket, "q", &format!("{{\"#r\":[\"{one}\"]}}"));
            assert_eq!(found, [events[0].id.to_string()], "two values stay two");
            events.iter().for_each(|event| comes_back(&mut socket, event));
        }),
        case("H102", |scene| {
            let ids: Vec<String> = (0u32..10_000).map(|n| format!("{n:064x}")).collect();
            let tags: Vec<[&str; 2]> = ids.iter().map(|id| ["e", id.as_str()]).collect();
            let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
            let mut socket = scene.connect();
            socket.publish(&sign(1, 5, NOW, &tags, ""));
            scene.innocent();
            assert_eq!(reaction(&socket.hear()).0, "OK");
        }),
        case("H139", |scene| {
            let message = format!("[\"REQ\",\"s\",{}]", vec!["{\"kinds\":[1]}"; 10_000].join(","));
            is_refused_at_once(scene, &message, &["invalid", "blocked"]);
        }),
        case("H140", |scene| {
            let mut socket = scene.connect();
            for n in 0..10 {
                assert!(publish(&mut socket, &sign(1, 1, NOW - n, &[], "")).0);
            }
            // As many as are allowed; more are refused as a whole.
            let same = |count: usize| vec!["{\"kinds\":[1],\"limit\":10}"; count].join(",");
            assert_eq!(ask(&mut socket, "s", &same(20)).len(), 10, "each event once");
            socket.say(&format!("[\"REQ\",\"s\",{}]", same(200)));
            assert!(["invalid", "blocked"].contains(&reaction(&socket.hears("CLOSED", "s")).2.as_str()));
        }),
        case("H141", |scene| {
            let authors: Vec<String> = (0u32..10_000).map(|n| format!("\"{n:064x}\"")).collect();
            let mut socket = scene.connect();
            socket.say(&format!("[\"REQ\",\"s\",{{\"authors\":[{}]}}]", authors.join(",")));
            scene.innocent();
            assert!(["EOSE", "CLOSED"].contains(&reaction(&socket.hear()).0.as_str()));
        }),
        case("H142", |scene| {
            let letters: Vec<String> = (b'a'..=b'z')
                .chain(b'A'..=b'Z')
                .map(|letter| match letter {
                    b'e' | b'p' => format!("\"#{}\":[\"{}\"]", char::from(letter), "1".repeat(64)),
                    _ => format!("\"#{}\":[\"x\"]", char::from(letter)),
                })
                .collect();
            let mut socket = scene.connect();
            assert!(ask(&mut socket, "s", &format!("{{{}}}", letters.join(","))).is_empty());
            socket.still_works();
        }),
    ]
}

fn many() -> Vec<Case> {
    vec![
        case("H105", one_event_a_thousand_times),
        case("H106", two_versions_race),
        case("H145", |scene| {
            let mut socket = scene.connect();
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
            socket.still_works();
            scene.has_subscriptions(2);
            let note = sign(1, 1, NOW, &[], "once");
            assert!(publish(&mut scene.connect(), &note).0);
            assert_eq!(socket.hears("EVENT", "s")[2]["id"], note.id.to_string());
            socket.still_works();
        }),
        case("H146", |scene| {
            let mut socket = scene.connect();
            let mut refused = 0;
            for start in (0..10_000).step_by(1000) {
                let some: Vec<u8> = (start..start + 1000)
                    .flat_map(|n| text(&format!("[\"REQ\",\"n{n}\",{{\"kinds\":[9999]}}]")))
                    .collect();
                socket.send(&some);
                for _ in 0..1000 {
                    let (verb, _, prefix) = reaction(&socket.hear());
                    assert!(verb == "EOSE" || prefix == "blocked" || prefix == "rate-limited", "{verb} {prefix}");
                    refused += usize::from(verb == "CLOSED");
                }
            }
            assert_eq!(refused, 9900);
            scene.has_subscriptions(101);
        }),
        case("H150", |scene| {
            scene.tell("fill 5000");
            let mut socket = scene.connect();
            socket.send(&[text("[\"REQ\",\"s\",{\"limit\":5000}]"), text("[\"CLOSE\",\"s\"]")].concat());
            socket.say("[\"REQ\",\"z\",{\"limit\":0}]");
            loop {
                let message = socket.hear();
                if message[1] == "z" {
                    break;
                }
                assert_eq!((&message[0], &message[1]), (&"EVENT".into(), &"s".into()), "no EOSE for what was closed");
            }
            socket.still_works();
        }),
        case("H158", |scene| {
            let (mut socket, mut other) = (scene.connect(), scene.connect());
            socket.challenge();
            let foreign = scene.token(1, &other.challenge());
            assert!(socket.claim(&foreign).1.starts_with("invalid:"));
            assert!(!socket.claim(&foreign).0);
            assert!(other.claim(&foreign).0);
        }),
        case("H159", |scene| {
            // A challenge is sent once, so there is no older one to replay: each of these needs AUTH, and a second challenge would fail the
            // socket's own check.
            let mut socket = scene.connect();
            let first = socket.challenge();
            for _ in 0..5 {
                socket.say("[\"REQ\",\"s\",{\"kinds\":[1059]}]");
                socket.hears("CLOSED", "s");
            }
            assert_eq!(socket.challenge(), first);
        }),
        case("H160", |scene| {
            let mut socket = scene.connect();
            let token = scene.token(1, &socket.challenge());
            assert_eq!(socket.claim(&token), (true, String::new()));
            assert_eq!(socket.claim(&token), (true, String::new()));
            assert_eq!(publish(&mut socket, &sign(1, 1, NOW, &[&["-"]], "mine")), (true, String::new()));
        }),
        case("H161", |scene| {
            let mut socket = scene.connect();
            for n in 1..=3 {
                assert_eq!(scene.authenticate(&mut socket, n), (true, String::new()));
            }
            for n in 1..=3 {
                assert_eq!(publish(&mut socket, &sign(n, 1, NOW, &[&["-"]], "mine")), (true, String::new()));
            }
        }),
        case("H162", bad_signatures),
    ]
}

fn one_event_a_thousand_times(scene: &Scene) {
    let mut socket = scene.connect();
    let note = base();
    let message = format!("[\"EVENT\",{}]", canonical(&note));
    socket.send(&text(&message).repeat(1000));
    let mut words = BTreeSet::new();
    let mut first = 0;
    for _ in 0..1000 {
        let ok = socket.hears("OK", &note.id.to_string());
        assert_eq!(ok[2], true);
        let text = ok[3].as_str().expect("a text");
        first += usize::from(text.is_empty());
        words.insert(text.to_owned());
    }
    assert_eq!(first, 1, "{words:?}");
    assert!(words.iter().all(|text| text.is_empty() || text.starts_with("duplicate:")), "{words:?}");
    assert_eq!(scene.stored(), 1);
    assert_eq!(scene.innocent().len(), 1, "it was delivered once");
}

fn two_versions_race(scene: &Scene) {
    for round in 0..20u64 {
        let at = NOW - 1000 + round;
        let mut two = [sign(1, 0, at, &[], "a"), sign(1, 0, at, &[], "b")];
        std::thread::scope(|scope| {
            for version in &two {
                let mut socket = scene.connect();
                scope.spawn(move || publish(&mut socket, version));
            }
        });
        two.sort_by_key(|event| event.id);
        assert_eq!(ask(&mut scene.connect(), "q", "{\"kinds\":[0]}"), [two[0].id.to_string()]);
    }
}

fn bad_signatures(scene: &Scene) {
    let mut socket = scene.connect();
    let challenge = socket.challenge();
    let bad = Event { sig: base().sig, ..scene.token(1, &challenge) };
    let message = text(&format!("[\"AUTH\",{}]", canonical(&bad)));
    // The relay may hang up before it has read all of it.
    let _ = socket.stream.write_all(&message.repeat(1000));
    refusals_to_the_end(&mut socket);
}
