//! Random and mutated input, with `serde_json` as the judge of what is JSON and what it says.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed};
use ratite::nostr::{ClientMessage, Event, Filter, Kind, PublicKey, UnsignedEvent};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{key, reaction, to_json};

fn config(cases: u32) -> Config {
    // Seeded, so that a failure is the same failure everywhere and no file has to remember it.
    Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Config::default() }
}

/// A JSON object with its members in order, duplicates included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What the seven members are, if the judge finds an acceptable event; an error when it cannot judge.
fn judge(json: &[u8]) -> Result<Option<Value>, ()> {
    let Members(members) = match serde_json::from_slice(json) {
        Ok(members) => members,
        // Numbers that no f64 holds are JSON all the same.
        Err(error) if error.to_string().contains("out of range") => return Err(()),
        Err(_) => return Ok(None),
    };
    let mut event = serde_json::Map::new();
    for (name, value) in members {
        if depth(&value) > 31 {
            return Ok(None);
        }
        let hex = |len| {
            value
                .as_str()
                .is_some_and(|text| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        };
        let fits = match name.as_str() {
            "id" | "pubkey" => hex(64),
            "sig" => hex(128),
            "created_at" => value.as_u64().is_some_and(|time| time < 1 << 53),
            "kind" => value.as_u64().is_some_and(|kind| kind < 1 << 16),
            "content" => value.is_string(),
            "tags" => value.as_array().is_some_and(|tags| {
                tags.iter()
                    .all(|tag| tag.as_array().is_some_and(|tag| !tag.is_empty() && tag.iter().all(Value::is_string)))
            }),
            _ => continue,
        };
        if !fits || event.insert(name, value).is_some() {
            return Ok(None);
        }
    }
    Ok((event.len() == 7).then_some(Value::Object(event)))
}

#[track_caller]
fn assert_agreement(json: &[u8]) {
    let shown = String::from_utf8_lossy(json);
    let Ok(judged) = judge(json) else { return };
    match (Event::parse(json), judged) {
        (Ok(event), Some(judged)) => {
            let written = to_json(&event);
            assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), judged, "{shown}");
            assert_eq!(Event::parse(written.as_bytes()).unwrap(), event, "{shown}");
        }
        (Err(_), None) => {}
        (Ok(_), None) => panic!("accepted, the judge refuses: {shown}"),
        (Err(error), Some(_)) => panic!("{error}, the judge accepts: {shown}"),
    }
}

/// Text in which everything that matters to JSON is frequent.
fn text() -> impl Strategy<Value = String> {
    let c = prop_oneof![
        3 => prop::char::range('a', 'f'),
        2 => select("\"\\/\u{0}\u{1}\n\r\t\u{8}\u{c}\u{1f}\u{20}\u{7f}\u{80}é\u{2028}\u{feff}\u{ffff}😀\u{10ffff}".chars().collect::<Vec<_>>()),
        1 => any::<char>(),
    ];
    prop::collection::vec(c, 0..20).prop_map(|chars| chars.into_iter().collect())
}

fn hex64() -> impl Strategy<Value = String> {
    any::<[u8; 32]>().prop_map(const_hex::encode)
}

/// Writes a JSON string in one of the many ways in which it may be spelled.
fn spell(text: &str, style: u8) -> String {
    let mut out = String::from("\"");
    for (i, c) in text.chars().enumerate() {
        let escape = (i as u8).wrapping_mul(37).wrapping_add(style).is_multiple_of(5);
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '/' if escape => out.push_str("\\/"),
            '\n' if !escape => out.push_str("\\n"),
            '\t' if !escape => out.push_str("\\t"),
            '\u{8}' if !escape => out.push_str("\\b"),
            _ if c < ' ' || escape => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    match style % 2 {
                        0 => out.push_str(&format!("\\u{unit:04x}")),
                        _ => out.push_str(&format!("\\u{unit:04X}")),
                    }
                }
            }
            _ => out.push(c),
        }
    }
    out + "\""
}

/// A JSON value, most often of a sort that some member of an event wants.
fn value() -> impl Strategy<Value = String> {
    let string = || (text(), any::<u8>()).prop_map(|(text, style)| spell(&text, style));
    let tags = prop::collection::vec(prop::collection::vec(string(), 0..4), 0..4);
    prop_oneof![
        hex64().prop_map(|hex| format!("\"{hex}\"")),
        string(),
        tags.prop_map(|tags| {
            let tags: Vec<_> = tags.iter().map(|tag| format!("[{}]", tag.join(" ,"))).collect();
            format!("[{}]", tags.join(", "))
        }),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("JSON has no such number", |n| n.is_finite()).prop_map(|n| format!("{n:?}")),
        select(&["null", "true", "{}", "[]", "[[]]", "{\"a\":[1,{\"b\":null}]}", "0", "65535", "65536"][..])
            .prop_map(str::to_owned),
    ]
}

/// An event object as somebody might send it: seven good members, sometimes one bad, missing or twice,
/// sometimes others in between, in any order and spelling.
fn wire_event() -> impl Strategy<Value = String> {
    let good = (
        (hex64(), hex64(), 0u64..1 << 53, any::<u16>()),
        prop::collection::vec(prop::collection::vec(text(), 1..5), 0..5),
        (text(), hex64()),
        any::<u8>(),
    );
    let odd = prop_oneof![
        3 => Just(None),
        1 => (select(&["id", "pubkey", "created_at", "kind", "tags", "content", "sig", "x", "Kind", ""][..]), value())
            .prop_map(Some),
    ];
    let drop = prop_oneof![5 => Just(None), 1 => (0..7usize).prop_map(Some)];
    (good, odd, drop, Just((0..8usize).collect::<Vec<_>>()).prop_shuffle()).prop_map(
        |(((id, pubkey, created_at, kind), tags, (content, half), style), odd, drop, order)| {
            let tags: Vec<String> = tags
                .iter()
                .map(|tag| format!("[{}]", tag.iter().map(|v| spell(v, style)).collect::<Vec<_>>().join(",")))
                .collect();
            let mut members = vec![
                ("id", format!("\"{id}\"")),
                ("pubkey", format!("\"{pubkey}\"")),
                ("created_at", created_at.to_string()),
                ("kind", kind.to_string()),
                ("tags", format!("[{}]", tags.join(","))),
                ("content", spell(&content, style)),
                ("sig", format!("\"{half}{half}\"")),
            ];
            if let Some(drop) = drop {
                members.remove(drop);
            }
            members.extend(odd);
            let space = ["", " ", "\n", "\t\r"][usize::from(style % 4)];
            let members: Vec<String> = order
                .iter()
                .filter_map(|&i| members.get(i))
                .map(|(name, value)| format!("{space}{}{space}:{space}{value}{space}", spell(name, style / 3)))
                .collect();
            format!("{space}{{{}}}{space}", members.join(","))
        },
    )
}

/// A few edits with bytes that matter to JSON.
fn edits() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    let byte = prop_oneof![
        4 => select(b"\"\\{}[],:0123456789-+.eEutrfn \n\t/abcdefABDF\x00\x1f\x7f".to_vec()),
        1 => any::<u8>(),
    ];
    prop::collection::vec((any::<Index>(), 0..4u8, byte), 1..4)
}

fn edit(text: &str, edits: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (index, what, byte) in edits {
        let at = index.index(bytes.len() + 1);
        match what {
            0 => bytes.insert(at, *byte),
            1 if at < bytes.len() => bytes[at] = *byte,
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

fn signed() -> impl Strategy<Value = Event> {
    let tags = prop::collection::vec(prop::collection::vec(text(), 1..5), 0..5);
    (0u64..1 << 53, any::<u16>(), tags, text(), 1..4u8).prop_map(|(created_at, kind, tags, content, author)| {
        UnsignedEvent { created_at, kind: Kind(kind), tags: tags.into_iter().collect(), content: content.into() }
            .sign(&key(author))
    })
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn events_parse_as_the_judge_says(json in wire_event()) {
        assert_agreement(json.as_bytes());
    }

    #[test]
    fn mutated_events_parse_as_the_judge_says(json in wire_event(), edits in edits()) {
        assert_agreement(&edit(&json, &edits));
    }

    #[test]
    fn nothing_panics_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Event::parse(&bytes);
        let _ = Filter::parse(&bytes);
        reaction(&bytes);
        let mut message = b"[\"REQ\",\"s\",".to_vec();
        message.extend(&bytes);
        reaction(&message);
    }

    #[test]
    fn nothing_panics_on_mutated_messages(
        verb in select(&["EVENT", "REQ", "COUNT", "CLOSE", "AUTH"][..]),
        id in text(),
        json in wire_event(),
        edits in edits(),
    ) {
        for rest in [json, format!("{},{{\"kinds\":[1],\"#t\":[\"x\"],\"since\":-1}}", spell(&id, 0))] {
            let message = edit(&format!("[\"{verb}\",{rest}]"), &edits);
            // Also checks that every answer is well-formed. A message is accepted only if it is JSON.
            if ClientMessage::parse(&message).is_ok() {
                let judged = serde_json::from_slice::<Value>(&message);
                let range = judged.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
                prop_assert!(judged.is_ok() || range, "{}", String::from_utf8_lossy(&message));
            }
            reaction(&message);
        }
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn signed_events_are_genuine_and_survive(event in signed()) {
        prop_assert_eq!(event.check_id(), Ok(()));
        prop_assert_eq!(event.check_signature(), Ok(()));
        let json = to_json(&event);
        let parsed = Event::parse(json.as_bytes());
        prop_assert_eq!(parsed.as_ref(), Ok(&event));
        // serde_json escapes as NIP-01 does, so it is a second opinion on the serialisation.
        let value: Value = serde_json::from_str(&json).unwrap();
        let [pubkey, created_at, kind, tags, content] =
            ["pubkey", "created_at", "kind", "tags", "content"].map(|name| value[name].clone());
        let serialized = Value::from(vec![0.into(), pubkey, created_at, kind, tags, content]).to_string();
        let hash = <sha2::Sha256 as sha2::Digest>::digest(serialized);
        prop_assert_eq!(event.id.to_string(), const_hex::encode(hash));
    }
}

/// A filter over few enough values that it often matches a [`small_event`], as JSON.
fn small_filter() -> impl Strategy<Value = Value> {
    let list =
        |values: &'static [&'static str]| prop::option::weighted(0.3, prop::collection::vec(select(values), 0..3));
    let authors: Vec<String> = (1..4).map(|n| author(n).to_string()).collect();
    (
        prop::option::weighted(0.3, prop::collection::vec(select(authors), 0..3)),
        prop::option::weighted(0.3, prop::collection::vec(0..4u16, 0..3)),
        list(&["x", "y", "X", ""]),
        list(&["x", "y", "X", ""]),
        prop::option::weighted(0.3, 0..5u64),
        prop::option::weighted(0.3, 0..5u64),
    )
        .prop_map(|(authors, kinds, t, u, since, until)| {
            let mut filter = serde_json::Map::new();
            let mut set = |name: &str, value: Option<Value>| {
                value.map(|value| filter.insert(name.into(), value));
            };
            set("authors", authors.map(Value::from));
            set("kinds", kinds.map(Value::from));
            set("#t", t.map(Value::from));
            set("#T", u.map(Value::from));
            set("since", since.map(Value::from));
            set("until", until.map(Value::from));
            Value::Object(filter)
        })
}

fn author(n: u8) -> PublicKey {
    PublicKey(key(n).x_only_public_key().0.to_byte_array())
}

fn small_event() -> impl Strategy<Value = Event> {
    let tag = (select(&["t", "T", "tt"][..]), prop::collection::vec(select(&["x", "y", "X", ""][..]), 0..3));
    (0..5u64, 0..4u16, prop::collection::vec(tag, 0..4), 1..4u8).prop_map(|(created_at, kind, tags, n)| {
        let tags = tags.into_iter().map(|(name, rest)| std::iter::once(name).chain(rest)).collect();
        let unsigned = UnsignedEvent { created_at, kind: Kind(kind), tags, content: "".into() };
        unsigned.sign(&key(n))
    })
}

/// NIP-01's words, taken literally.
fn naive_match(filter: &Value, event: &Value) -> bool {
    filter.as_object().unwrap().iter().all(|(name, wanted)| match name.as_str() {
        "authors" => wanted.as_array().unwrap().contains(&event["pubkey"]),
        "kinds" => wanted.as_array().unwrap().contains(&event["kind"]),
        "since" => wanted.as_u64() <= event["created_at"].as_u64(),
        "until" => wanted.as_u64() >= event["created_at"].as_u64(),
        tag => event["tags"].as_array().unwrap().iter().any(|given| {
            given[0] == tag[1..] && given.get(1).is_some_and(|value| wanted.as_array().unwrap().contains(value))
        }),
    })
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn filters_match_as_the_words_say(filters in prop::collection::vec(small_filter(), 5), event in small_event()) {
        let value: Value = serde_json::from_str(&to_json(&event)).unwrap();
        for json in filters {
            let filter = Filter::parse(json.to_string().as_bytes()).unwrap();
            prop_assert_eq!(filter.matches(&event), naive_match(&json, &value), "{}", json);
            prop_assert!(!(filter.is_impossible() && filter.matches(&event)));
            let mut out = Vec::new();
            filter.write_json(&mut out);
            prop_assert_eq!(Filter::parse(&out), Ok(filter));
        }
    }
}
