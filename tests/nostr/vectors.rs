//! The machine-readable vectors: ids, escapes, signatures, filters, sequences, hostile messages.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use ratite::nostr::json::write_string;
use ratite::nostr::{Event, EventError, EventId, Filter, Kind, PublicKey, Signature, Tags, UnsignedEvent};
use serde_json::Value;

use super::{assert_reaction, key, to_json};

static VECTORS: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("../vectors.json")).unwrap());

fn list(value: &'static Value) -> &'static [Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn parse(value: &Value) -> Event {
    Event::parse(value.to_string().as_bytes()).unwrap()
}

fn tags(value: &Value) -> Tags {
    value.as_array().unwrap().iter().map(|tag| tag.as_array().unwrap().iter().map(text)).collect()
}

#[test]
fn ids() {
    for case in list(&VECTORS["ids"]) {
        let n = text(&case["n"]);
        if n == "V21" {
            // Its only tag is [], which this relay refuses (N01-25).
            let refused = Event::parse(text(&case["event_json"]).as_bytes());
            assert_eq!(refused, Err(EventError::EmptyTag));
            continue;
        }
        let content = match n {
            "V29" => "a".repeat(65536),
            _ => text(&case["content"]).to_owned(),
        };
        let event = Event {
            id: EventId::from_hex(text(&case["id"])).unwrap(),
            pubkey: PublicKey::from_hex(text(&case["pubkey"])).unwrap(),
            created_at: case["created_at"].as_u64().unwrap(),
            kind: Kind(case["kind"].as_u64().unwrap().try_into().unwrap()),
            tags: tags(&case["tags"]),
            content: content.into(),
            sig: Signature([0; 64]),
        };
        assert_eq!(event.compute_id(), event.id, "{n}");
        for mistake in case["wrong_ids"].as_array().into_iter().flatten() {
            assert_ne!(event.id.to_string(), text(&mistake["id"]), "{n} {mistake}");
        }
        // The serialisation that is hashed, put together from the public writer.
        if let Some(serialized) = case["serialized"].as_str() {
            let mut content = Vec::new();
            write_string(&mut content, &event.content);
            assert!(serialized.as_bytes().ends_with(&[&content[..], b"]"].concat()), "{n}");
        }
        let wires = case["equivalent_wire"].as_array().into_iter().flatten();
        for wire in case.get("event_json").into_iter().chain(wires).map(text) {
            let signed = Event::parse(wire.as_bytes()).unwrap_or_else(|e| panic!("{n} {e}: {wire}"));
            assert_eq!(signed.check_id().and_then(|()| signed.check_signature()), Ok(()), "{n}");
            assert_eq!(Event { sig: event.sig, ..signed.clone() }, event, "{n}");
            assert_eq!(Event::parse(to_json(&signed).as_bytes()).unwrap(), signed, "{n}");
        }
    }
}

#[test]
fn escape_table() {
    for case in list(&VECTORS["escape_table"]) {
        let point = text(&case["codepoint"]).strip_prefix("U+").unwrap();
        let c = char::from_u32(u32::from_str_radix(point, 16).unwrap()).unwrap();
        let mut out = Vec::new();
        write_string(&mut out, &c.to_string());
        let canonical = text(&case["canonical"]);
        // The table names characters that stay as they are by a word in brackets or the character itself.
        let expected = const_hex::decode(text(&case["utf8_hex_in_serialisation"])).unwrap();
        assert_eq!(out, [b"\"", &expected[..], b"\""].concat(), "U+{point} {canonical}");
        let unsigned =
            UnsignedEvent { created_at: super::NOW, kind: Kind(1), tags: Tags::new(), content: c.to_string().into() };
        let id = text(&case["id_of_kind1_alice_fixed_now_content_is_this_char"]);
        assert_eq!(unsigned.sign(&key(1)).id.to_string(), id, "U+{point}");
    }
}

#[test]
fn bip340() {
    for case in list(&VECTORS["bip340"]) {
        let event = Event {
            id: EventId::from_hex(text(&case["msg"])).unwrap(),
            pubkey: PublicKey::from_hex(text(&case["pubkey"])).unwrap(),
            sig: Signature::from_hex(text(&case["sig"])).unwrap(),
            ..super::note(&[], "")
        };
        let valid = case["valid"].as_bool().unwrap();
        assert_eq!(event.check_signature().is_ok(), valid, "{case}");
    }
}

#[test]
fn signing_is_reproducible() {
    // Every event of the vectors was signed with zero auxiliary randomness by one of the keys.
    for case in list(&VECTORS["tie_events"]["events"]) {
        let event = parse(case);
        let unsigned = UnsignedEvent {
            created_at: event.created_at,
            kind: event.kind,
            tags: event.tags.clone(),
            content: event.content.clone(),
        };
        assert_eq!(unsigned.sign(&key(1)), event);
    }
}

#[test]
fn examples_printed_in_the_nips() {
    for case in list(&VECTORS["nip_example_events"]["valid"]) {
        let event = Event::parse(text(&case["event_json"]).as_bytes()).unwrap();
        assert_eq!(event.check_id().and_then(|()| event.check_signature()), Ok(()), "{case}");
    }
    let mut seen = 0;
    for case in list(&VECTORS["nip_example_events"]["id_mismatch_but_sig_valid_over_claimed_id"]) {
        match Event::parse(text(&case["event_json"]).as_bytes()) {
            Ok(event) => {
                assert_eq!(event.check_id(), Err(EventError::WrongId), "{case}");
                assert_eq!(event.check_signature(), Ok(()), "{case}");
                assert_eq!(event.compute_id().to_string(), text(&case["recomputed_id"]), "{case}");
                seen += 1;
            }
            Err(error) => panic!("{error}: {case}"),
        }
    }
    assert_eq!(seen, 13);
}

#[test]
fn filters_match_as_the_truth_table_says() {
    let events: Vec<(&String, Event)> =
        VECTORS["filter_events"].as_object().unwrap().iter().map(|(name, event)| (name, parse(event))).collect();
    assert_eq!(events.len(), 9);
    for case in list(&VECTORS["filters"]) {
        let filter = Filter::parse(case["filter"].to_string().as_bytes()).unwrap();
        let expected: BTreeSet<&str> = list(&case["matches"]).iter().map(text).collect();
        let matched: BTreeSet<&str> =
            events.iter().filter(|(_, event)| filter.matches(event)).map(|(name, _)| name.as_str()).collect();
        assert_eq!(matched, expected, "{case}");
        if filter.is_impossible() {
            assert!(expected.is_empty(), "{case}");
        }
    }
}

#[test]
fn n01_60_newest_first_then_lowest_id() {
    let sorted = |mut events: Vec<Event>| {
        events.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
        events.iter().map(|event| event.id.to_string()).collect::<Vec<_>>()
    };
    let ties = list(&VECTORS["tie_events"]["events"]).iter().map(parse).collect();
    let expected: Vec<_> = list(&VECTORS["tie_events"]["expected_order_ids"]).iter().map(text).collect();
    assert_eq!(sorted(ties), expected);

    let table = VECTORS["filter_events"].as_object().unwrap();
    let stored = table.iter().filter(|(name, _)| *name != "A8").map(|(_, event)| parse(event));
    let expected: Vec<_> =
        list(&VECTORS["filter_order"]["order"]).iter().map(|name| text(&table[text(name)]["id"])).collect();
    assert_eq!(sorted(stored.collect()), expected);
}

#[test]
fn every_event_of_the_sequences_is_genuine() {
    for sequence in list(&VECTORS["sequences"]) {
        for step in list(&sequence["steps"]) {
            let event = parse(&step["event"]);
            let checked = event.check_id().and_then(|()| event.check_signature());
            assert_eq!(checked, Ok(()), "{}", sequence["n"]);
            let round: Value = serde_json::from_str(&to_json(&event)).unwrap();
            assert_eq!(round, step["event"], "{}", sequence["n"]);
        }
    }
}

/// What this layer answers to each hostile message that is written out in the vectors. "accepted" leaves
/// the case to the layers above: limits, policy, AUTH, storage.
const HOSTILE: &[(&str, &str)] = &[
    ("H001", "NOTICE invalid: "),
    ("H002", "NOTICE invalid: "),
    ("H003", "NOTICE invalid: "),
    ("H004", "NOTICE invalid: a message must be an array"),
    ("H005", "NOTICE invalid: a message must be an array"),
    ("H006", "NOTICE invalid: a message must be an array"),
    ("H007", "NOTICE invalid: EVENT needs an event"),
    ("H008", "NOTICE invalid: malformed JSON at byte 2: unterminated string"),
    ("H009", "NOTICE invalid: malformed JSON"),
    ("H010", "NOTICE unsupported: unknown verb \"FOO\""),
    ("H011", "NOTICE unsupported: unknown verb \"req\""),
    ("H012", "NOTICE invalid: a message must be an array"),
    ("H013", "NOTICE unsupported: unknown verb \"EOSE\""),
    ("H014", "accepted REQ s"),
    ("H015", "NOTICE invalid: malformed JSON"),
    ("H016", "NOTICE invalid: malformed JSON"),
    ("H017", "accepted EVENT"),
    ("H018", "NOTICE invalid: malformed JSON at byte 0"),
    ("H019", "accepted EVENT"),
    ("H020", "NOTICE invalid: malformed JSON at byte 14: expected a value"),
    ("H021", "NOTICE invalid: malformed JSON"),
    ("H022", "NOTICE invalid: malformed JSON"),
    ("H023", "NOTICE invalid: malformed JSON at byte 20: leading zero"),
    ("H026", "NOTICE invalid: malformed JSON"),
    ("H027", "NOTICE invalid: malformed JSON"),
    ("H028", "OK 089ADEF7305CC8964B7EF8A4E5761B13DA90B15DEE6BE7F9DD58E038CC7F5BBC invalid: id must"),
    ("H029", "OK 77b92a1d4c068191f7e10394d53004fc217451705d7d218fd83455ec7acb2a33 invalid: pubkey must"),
    ("H030", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: sig must"),
    ("H031", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bb invalid: id must"),
    ("H032", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: id must"),
    ("H033", "OK 0x089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5b invalid: id must"),
    ("H034", "OK zzzz"),
    ("H035", "OK \"],[\"NOTICE\",\"pwned invalid: id must"),
    ("H036", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: id is not"),
    ("H037", "OK cb8feca582979d91fe90455867b34dbf4d65e4b86e86b3c68c368ca9f9eef6f2 invalid: id is not"),
    ("H038", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: sig is not"),
    ("H039", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: sig must"),
    ("H040", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: sig is not"),
    ("H041", "OK 9eb4531f1b97f9e1f72cf67c0452c2826fdfa61f646098b101c514ccb2edbfbf invalid: pubkey is not"),
    ("H042", "OK  invalid: id is missing"),
    ("H043", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: pubkey is missing"),
    ("H044", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: created_at is missing"),
    ("H045", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: kind is missing"),
    ("H046", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: tags is missing"),
    ("H047", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: content is missing"),
    ("H048", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: sig is missing"),
    ("H049", "OK cece8c050ecfd7644ae977079e38bed7e6c098726d16f692cbb17287e367173d invalid: content must"),
    ("H050", "OK 0710e76c88173c33daa42b313ab240f080f2d86e269f813a7935d2872aecf0d3 invalid: content must"),
    ("H051", "OK  invalid: an event must be an object"),
    ("H052", "OK  invalid: an event must be an object"),
    ("H053", "OK  invalid: an event must be an object"),
    ("H054", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H055", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H056", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H057", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H058", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H059", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H060", "OK * invalid: kind must be an integer between 0 and 65535"),
    ("H061", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H062", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H063", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H064", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H065", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H066", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H067", "OK * invalid: created_at must be an integer between 0 and 9007199254740991"),
    ("H068", "NOTICE invalid: malformed JSON"),
    ("H070", "OK * invalid: tags must be a list of lists of strings"),
    ("H071", "OK * invalid: tags must be a list of lists of strings"),
    ("H072", "OK * invalid: tags must be a list of lists of strings"),
    ("H073", "OK * invalid: tags must be a list of lists of strings"),
    ("H074", "OK * invalid: tags must be a list of lists of strings"),
    ("H075", "OK * invalid: tags must be a list of lists of strings"),
    ("H076", "OK * invalid: tags must be a list of lists of strings"),
    ("H077", "OK * invalid: tags must be a list of lists of strings"),
    ("H078", "OK * invalid: a tag must have at least one element"),
    ("H079", "OK * invalid: malformed JSON"),
    ("H080", "OK * invalid: malformed JSON"),
    ("H081", "accepted EVENT"),
    ("H082", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: content occurs twice"),
    ("H083", "OK 089adef7305cc8964b7ef8a4e5761b13da90b15dee6be7f9dd58e038cc7f5bbc invalid: tags occurs twice"),
    ("H084", "accepted EVENT"),
    ("H085", "accepted EVENT"),
    ("H091", "accepted EVENT"), // Kind 22242 by EVENT is the core's to refuse.
    ("H092", "accepted EVENT"), // As are times in the future,
    ("H093", "accepted EVENT"), // protected events
    ("H094", "accepted EVENT"),
    ("H095", "accepted EVENT"),
    ("H096", "accepted EVENT"), // and reposts of them,
    ("H097", "accepted EVENT"),
    ("H098", "accepted EVENT"),
    ("H099", "accepted EVENT"),
    ("H100", "accepted EVENT"),
    ("H101", "accepted EVENT"),
    ("H103", "accepted EVENT"), // and a vanish request that names no relay.
    ("H104", "accepted EVENT"),
    ("H107", "NOTICE invalid: REQ needs a subscription id"),
    ("H108", "CLOSED s invalid: REQ needs at least one filter"),
    ("H109", "CLOSED  invalid: a subscription id must have 1 to 64 characters"),
    ("H110", "accepted REQ aaaa"),
    ("H111", "CLOSED aaaa"),
    ("H112", "accepted REQ 😀😀"),
    ("H113", "NOTICE invalid: REQ needs a subscription id"),
    ("H114", "NOTICE invalid: REQ needs a subscription id"),
    ("H115", "accepted REQ a\"\\\n]"),
    ("H116", "CLOSED s invalid: a filter must be an object"),
    ("H117", "CLOSED s invalid: a filter must be an object"),
    ("H118", "CLOSED s invalid: ids must be a list of strings of 64 lower-case hexadecimal digits"),
    ("H119", "CLOSED s unsupported: filter contains the unknown element \"foo\""),
    ("H120", "CLOSED s unsupported: filter contains the unknown element \"#ee\""),
    ("H121", "CLOSED s unsupported: filter contains the unknown element \"#1\""),
    ("H122", "CLOSED s unsupported: filter contains the unknown element \"#\""),
    ("H123", "CLOSED s invalid: ids must"),
    ("H124", "CLOSED s invalid: ids must"),
    ("H125", "CLOSED s invalid: #p must"),
    ("H126", "CLOSED s invalid: authors must"),
    ("H127", "CLOSED s invalid: kinds must"),
    ("H128", "CLOSED s invalid: authors must"),
    ("H129", "CLOSED s invalid: kinds must"),
    ("H130", "CLOSED s invalid: kinds must"),
    ("H131", "accepted REQ s"),
    ("H132", "accepted REQ s"),
    ("H133", "CLOSED s invalid: since must be an integer"),
    ("H134", "CLOSED s invalid: limit must be an integer not below 0"),
    ("H135", "CLOSED s invalid: limit must be an integer not below 0"),
    ("H136", "accepted REQ s"),
    ("H137", "accepted REQ s"),
    ("H138", "accepted REQ s"),
    ("H143", "CLOSED s invalid: kinds occurs twice"),
    ("H144", "CLOSED s invalid: kinds occurs twice"),
    ("H147", "accepted CLOSE nope"),
    ("H148", "NOTICE invalid: CLOSE needs a subscription id"),
    ("H149", "accepted CLOSE s"),
    ("H151", "CLOSED c invalid: COUNT needs at least one filter"),
    ("H152", "accepted COUNT c"),
    ("H153", "accepted COUNT c"),
    ("H154", "accepted REQ s"), // Whether search is on is not known here.
    ("H155", "accepted COUNT c"),
    ("H156", "OK  invalid: an event must be an object"),
    ("H157", "OK  invalid: id is missing"),
];

#[test]
fn hostile_messages() {
    let mut open: BTreeSet<&str> = HOSTILE.iter().map(|(n, _)| *n).collect();
    for case in list(&VECTORS["hostile"]) {
        let (n, Some(message)) = (text(&case["n"]), case["send"].as_str()) else { continue };
        let expected = HOSTILE.iter().find(|(hostile, _)| *hostile == n);
        let (_, expected) = expected.unwrap_or_else(|| panic!("no expectation for {case}"));
        // Where the table has *, the id is the one that was sent.
        let sent = message.split_once(r#""id":""#).map_or("", |(_, rest)| rest.get(..64).unwrap_or(""));
        assert_reaction(message, &expected.replace('*', sent));
        open.remove(n);
    }
    assert!(open.is_empty(), "not in the vectors: {open:?}");
}
