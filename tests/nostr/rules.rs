//! One test for each rule of PROTOCOL sections 1, 2 and 10 that this layer carries out, named after its id.

use std::time::{Duration, Instant};

use ratite::nostr::message::{self, MAX_FILTERS};
use ratite::nostr::{
    ClientMessage, Event, EventError, EventId, Filter, Kind, SubscriptionId, TagName, TagValue, UnsignedEvent,
};
use serde_json::{Value, json};

use super::{NOW, assert_reaction, key, note, reaction, to_json};

const ID: &str = "0000000000000000000000000000000000000000000000000000000000000001";

/// The event object of a note in which the value of one member is replaced by `raw`.
fn with(field: &str, raw: &str) -> String {
    let event: serde_json::Map<String, Value> = serde_json::from_str(&to_json(&note(&[], "x"))).unwrap();
    let members: Vec<String> = event
        .iter()
        .map(|(name, value)| match name == field {
            true => format!("\"{name}\":{raw}"),
            false => format!("\"{name}\":{value}"),
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

/// The event object of a note with one more member, given as raw text.
fn with_member(raw: &str) -> String {
    let json = to_json(&note(&[], "x"));
    format!("{},{raw}}}", &json[..json.len() - 1])
}

fn parse(json: impl AsRef<[u8]>) -> Result<Event, EventError> {
    Event::parse(json.as_ref())
}

#[track_caller]
fn assert_refused(json: impl AsRef<[u8]>, words: &str) {
    let error = parse(json).unwrap_err().to_string();
    assert!(error.contains(words), "{error}, expected {words}");
}

#[track_caller]
fn assert_all_refused(field: &str, raw: &[&str], words: &str) {
    for raw in raw {
        assert_refused(with(field, raw), words);
    }
}

fn filter(json: &str) -> Filter {
    Filter::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e}: {json}"))
}

#[track_caller]
fn assert_filter_refused(json: &str, reason: &str) {
    let error = Filter::parse(json.as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with(reason), "{json}: {error}");
    let got = reaction(format!("[\"REQ\",\"s\",{json}]"));
    assert!(got.starts_with(&format!("CLOSED s {reason}")), "{json}: {got}");
}

// 1. Transport

#[test]
fn ws_04_text_that_is_not_utf8_is_refused() {
    for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        let message = [b"[\"CLOSE\",\"", bytes, b"\"]"].concat();
        assert_reaction(&message, "NOTICE invalid: malformed JSON at byte 10: not UTF-8");
        let event = with("content", "\"CUT\"").into_bytes();
        let at = event.windows(3).position(|w| w == b"CUT").unwrap();
        assert_refused([&event[..at], bytes, &event[at + 3..]].concat(), "not UTF-8");
    }
}

// 2.1 Message frame

#[test]
fn n01_01_a_message_is_an_array_that_starts_with_a_verb() {
    for text in ["{}", "1", "\"REQ\"", "null", "[]", "[1]", "[[\"REQ\"]]", "[null,\"REQ\"]"] {
        assert_reaction(text, "NOTICE invalid: a message must be an array that starts with a verb");
    }
}

#[test]
fn n01_03_verbs_of_clients() {
    let event = to_json(&note(&[], ""));
    assert_reaction(format!("[\"EVENT\",{event}]"), "accepted EVENT");
    assert_reaction(format!("[\"AUTH\",{event}]"), "accepted EVENT");
    assert!(matches!(ClientMessage::parse(format!("[\"AUTH\",{event}]").as_bytes()), Ok(ClientMessage::Auth(_))));
    assert_reaction(r#"["REQ","s",{}]"#, "accepted REQ s");
    assert_reaction(r#"["COUNT","s",{}]"#, "accepted COUNT s");
    assert_reaction(r#"["CLOSE","s"]"#, "accepted CLOSE s");
    // Known to the protocol, not to this relay yet.
    for verb in ["NEG-OPEN", "NEG-MSG", "NEG-CLOSE"] {
        assert_reaction(format!("[\"{verb}\",\"s\",{{}},\"61\"]"), "NOTICE unsupported: ");
    }
    // The relay's own.
    for verb in ["OK", "EOSE", "CLOSED", "NOTICE", "NEG-ERR"] {
        assert_reaction(format!("[\"{verb}\",\"s\"]"), "NOTICE unsupported: ");
    }
}

#[test]
fn n01_03_messages_of_the_relay_are_well_formed() {
    let (id, event) = ("a\"\\\n]é", note(&[&["t", "\u{0}"]], "\u{1}"));
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = b"before".to_vec();
        write(&mut out);
        serde_json::from_slice::<Value>(&out[6..]).unwrap()
    };
    let object: Value = serde_json::from_str(&to_json(&event)).unwrap();
    assert_eq!(written(&|out| message::write_event(out, id, &event)), json!(["EVENT", id, object]));
    assert_eq!(
        written(&|out| {
            message::write_event_prefix(out, id);
            out.extend_from_slice(b"1]");
        }),
        json!(["EVENT", id, 1])
    );
    assert_eq!(
        written(&|out| message::write_ok(out, &event.id, true, "")),
        json!(["OK", event.id.to_string(), true, ""])
    );
    assert_eq!(
        written(&|out| message::write_ok(out, &event.id, false, "error: \"x\"")),
        json!(["OK", event.id.to_string(), false, "error: \"x\""])
    );
    assert_eq!(written(&|out| message::write_eose(out, id, false)), json!(["EOSE", id]));
    assert_eq!(written(&|out| message::write_eose(out, id, true)), json!(["EOSE", id, ["finish"]]));
    assert_eq!(written(&|out| message::write_closed(out, id, "x")), json!(["CLOSED", id, "x"]));
    assert_eq!(written(&|out| message::write_notice(out, "x\ty")), json!(["NOTICE", "x\ty"]));
    assert_eq!(
        written(&|out| message::write_count(out, id, u64::MAX, None)),
        json!(["COUNT", id, {"count": u64::MAX}])
    );
}

// 2.2 Id and signature. N01-04 to N01-07 are the vectors `ids` and `escape_table`.

#[test]
fn n01_05_escapes_apply_to_tags_too() {
    let event = note(&[&["x", "\n\"\\\r\t\u{8}\u{c}"]], "");
    assert!(to_json(&event).contains(r#""tags":[["x","\n\"\\\r\t\b\f"]]"#));
}

#[test]
fn n01_08_the_decoded_text_is_hashed_not_the_wire_text() {
    let event = note(&[&["t", "A/😀"]], "A/😀\u{1f}");
    let json = to_json(&event);
    let spelled = json
        .replace("A/😀", r"\u0041\/\ud83d\ude00")
        .replace("\\u001f", "\\u001F")
        .replace("\"kind\"", r#""\u006Bind""#);
    assert_ne!(spelled, json);
    let parsed = parse(&spelled).unwrap();
    assert_eq!(parsed, event);
    assert_eq!(parsed.check_id(), Ok(()));
    assert_eq!(to_json(&parsed), json);
}

#[test]
fn n01_09_numbers_are_plain_decimal() {
    let unsigned =
        |created_at, kind| UnsignedEvent { created_at, kind: Kind(kind), tags: Default::default(), content: "".into() };
    let json = to_json(&unsigned(0, 0).sign(&key(1)));
    assert!(json.contains(r#""created_at":0,"kind":0,"#), "{json}");
    let json = to_json(&unsigned(9_007_199_254_740_991, 65535).sign(&key(1)));
    assert!(json.contains(r#""created_at":9007199254740991,"kind":65535,"#), "{json}");
}

#[test]
fn n01_10_no_normalisation_no_trimming_no_replacement() {
    for content in ["e\u{301}", "é", " x ", "\u{feff}x", "\u{fffd}", "\u{fffe}\u{10ffff}"] {
        assert_eq!(&*parse(to_json(&note(&[], content))).unwrap().content, content);
    }
    let pair = parse(with("content", r#""\uD83D\uDE00""#)).unwrap();
    assert_eq!(&*pair.content, "😀");
    for lone in [r"\ud800", r"\udc00", r"\ud83d\u0041", r"\ude00\ud83d", r"\ud83dx", r"\ud83d\n", r"\ud83d\ud83d\ude00"]
    {
        let string = format!("\"{lone}\"");
        assert_refused(with("content", &string), "lone surrogate");
        assert_refused(with("tags", &format!("[[{string}]]")), "lone surrogate");
        assert_refused(with_member(&format!("\"x\":{string}")), "lone surrogate");
        assert_refused(with_member(&format!("{string}:1")), "lone surrogate");
        // The grammar of JSON allows them, so the publisher gets an OK, not a NOTICE.
        let event = with("content", &string);
        let id = &parse(with("content", "\"\"")).unwrap().id;
        assert_reaction(format!("[\"EVENT\",{event}]"), &format!("OK {id} invalid: "));
    }
}

#[test]
fn n01_11_nul_is_an_ordinary_character() {
    let event = note(&[&["t", "a\0b"], &["d", "\0"]], "x\0y");
    assert_eq!(parse(to_json(&event)).unwrap(), event);
    assert_eq!(event.identifier(), "\0");
    assert!(filter(r##"{"#t":["a\u0000b"]}"##).matches(&event));
    assert!(!filter(r##"{"#t":["a"]}"##).matches(&event));
}

#[test]
fn n01_12_an_id_that_is_not_the_hash_is_found() {
    let genuine = note(&[], "x");
    assert_eq!(genuine.check_id(), Ok(()));
    let changed = Event { content: "y".into(), ..genuine.clone() };
    assert_eq!(changed.check_id(), Err(EventError::WrongId));
    // The signature of the claimed id is still good, so it must not be what decides.
    assert_eq!(changed.check_signature(), Ok(()));
}

#[test]
fn n01_13_and_14_a_signature_that_does_not_fit_is_found() {
    let genuine = note(&[], "x");
    assert_eq!(genuine.check_signature(), Ok(()));
    for i in [0, 31, 32, 63] {
        let mut forged = genuine.clone();
        forged.sig.0[i] ^= 1;
        assert_eq!(forged.check_signature(), Err(EventError::WrongSignature));
    }
    let mut nowhere = genuine.clone();
    nowhere.pubkey.0 = [0xff; 32];
    assert_eq!(nowhere.check_signature(), Err(EventError::WrongPubkey));
}

// 2.3 Event fields

#[test]
fn n01_15_and_16_hex_has_one_spelling() {
    for (field, len) in [("id", 64), ("pubkey", 64), ("sig", 128)] {
        let words = format!("{field} must be {len} lower-case hexadecimal digits");
        let good = "ab".repeat(len / 2);
        assert!(parse(with(field, &format!("\"{good}\""))).is_ok());
        for bad in [
            good.to_uppercase(),
            format!("A{}", &good[1..]),
            good[1..].to_owned(),
            format!("{good}0"),
            format!("0x{good}"),
            format!("0x{}", &good[2..]),
            format!("{} ", &good[1..]),
            "g".repeat(len),
            String::new(),
        ] {
            assert_refused(with(field, &format!("\"{bad}\"")), &words);
        }
        assert_all_refused(field, &["null", "1", "[]", "{}", "true"], &words);
        // Digits may be spelled as escapes: names and values are compared decoded.
        assert!(parse(with(field, &format!("\"\\u0061{}\"", &good[1..]))).is_ok());
    }
}

#[test]
fn n01_17_created_at_is_an_integer() {
    assert_all_refused(
        "created_at",
        &["null", "\"1700000000\"", "true", "[1]", "{}", "1.5"],
        "created_at must be an integer between 0 and 9007199254740991",
    );
}

#[test]
fn n01_18_created_at_spelling() {
    for (raw, value) in [("0", 0), ("1", 1), ("9007199254740991", 9_007_199_254_740_991)] {
        assert_eq!(parse(with("created_at", raw)).unwrap().created_at, value);
    }
    assert_all_refused(
        "created_at",
        &[
            "-1",
            "-0",
            "1.0",
            "1e9",
            "1E9",
            "0.0",
            "0e0",
            "9007199254740992",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999999",
        ],
        "created_at must be an integer between 0 and 9007199254740991",
    );
    for raw in ["01", "00", "+1", ".5", "0x1"] {
        let event = with("created_at", raw);
        assert!(parse(&event).is_err(), "{raw}");
        assert_reaction(format!("[\"EVENT\",{event}]"), "NOTICE invalid: malformed JSON");
    }
}

#[test]
fn n01_19_kind_is_an_integer_up_to_65535() {
    assert_eq!(parse(with("kind", "0")).unwrap().kind, Kind(0));
    assert_eq!(parse(with("kind", "65535")).unwrap().kind, Kind(65535));
    assert_all_refused(
        "kind",
        &["null", "\"1\"", "true", "[1]", "-1", "-0", "1.0", "1e0", "1.5"],
        "kind must be an integer between 0 and 65535",
    );
}

#[test]
fn n01_20_kinds_never_wrap() {
    assert_all_refused(
        "kind",
        &["65536", "65537", "4294967297", "18446744073709551617", "36893488147419103233"],
        "kind must be an integer between 0 and 65535",
    );
}

#[test]
fn n01_21_and_22_tags_hold_only_strings() {
    assert_all_refused(
        "tags",
        &[
            "null",
            "{}",
            "\"t\"",
            "1",
            "[\"t\"]",
            "[null]",
            "[{}]",
            "[1]",
            "[[1]]",
            "[[null]]",
            "[[true]]",
            "[[[]]]",
            "[[{}]]",
            "[[\"t\",[\"x\"]]]",
            "[[\"t\",null]]",
            "[[\"t\",\"x\",5]]",
            "[[\"t\",\"x\",\"y\",{\"a\":1}]]",
            "[[\"t\"],[\"x\",1.5]]",
        ],
        "tags must be a list of lists of strings",
    );
    let event = parse(with("tags", " [ [ \"t\" , \"x\" ] , [ \"\" ] ] ")).unwrap();
    assert_eq!(event.tags, [vec!["t", "x"], vec![""]].into_iter().collect());
}

#[test]
fn n01_23_content_is_a_string() {
    assert_all_refused("content", &["null", "5", "[]", "{}", "false"], "content must be a string");
    assert_eq!(&*parse(with("content", "\"\"")).unwrap().content, "");
}

#[test]
fn n01_24_and_25_a_tag_has_an_element() {
    assert_all_refused("tags", &["[[]]", "[[\"t\"],[]]", "[[ ]]"], "a tag must have at least one element");
    assert!(parse(with("tags", "[]")).unwrap().tags.is_empty());
}

#[test]
fn n01_26_all_seven_members_are_there() {
    for field in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
        let renamed = to_json(&note(&[], "x")).replace(&format!("\"{field}\":"), "\"other\":");
        assert_refused(&renamed, &format!("{field} is missing"));
        assert_all_refused(field, &["null"], &format!("{field} must be "));
    }
    assert_refused("{}", "id is missing");
}

#[test]
fn n01_27_and_28_other_members_are_ignored_and_lost() {
    let event = note(&[], "x");
    for raw in [
        r#""seen":1"#,
        r#""":null"#,
        r#""Kind":-1.5e+3"#,
        r#""ID":"x""#,
        r#""__proto__":{"id":"x","tags":[[[]],{},{"a":[]}]}"#,
        r#""a":true,"a":false,"a":[1,2]"#,
        " \"x\" : [ { } , [ ] , \"\\ud83d\\ude00\\b\" , 0 , -0 , 0.5e-9 , null ] ",
    ] {
        let parsed = parse(with_member(raw)).unwrap_or_else(|e| panic!("{e}: {raw}"));
        assert_eq!(parsed, event, "{raw}");
        assert_eq!(to_json(&parsed), to_json(&event), "{raw}");
    }
    let order = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"];
    let at: Vec<_> = order.map(|name| to_json(&event).find(&format!("\"{name}\":")).unwrap()).into();
    assert!(at.is_sorted());
}

#[test]
fn n01_29_duplicate_members_are_refused() {
    let event: Value = serde_json::from_str(&to_json(&note(&[], "x"))).unwrap();
    for field in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
        let words = format!("{field} occurs twice");
        assert_refused(with_member(&format!("\"{field}\":{}", event[field])), &words);
        let escaped = format!("\"\\u{:04x}{}\"", field.as_bytes()[0], &field[1..]);
        assert_refused(with_member(&format!("{escaped}:{}", event[field])), &words);
    }
    for key in ["ids", "authors", "kinds", "#t", "#e"] {
        assert_filter_refused(&format!("{{\"{key}\":[],\"{key}\":[]}}"), &format!("invalid: {key} occurs twice"));
    }
    for key in ["since", "until", "limit"] {
        assert_filter_refused(&format!("{{\"{key}\":1,\"{key}\":1}}"), &format!("invalid: {key} occurs twice"));
    }
    assert_filter_refused(r#"{"search":"","search":""}"#, "invalid: search occurs twice");
    assert_filter_refused(r##"{"#t":["x"],"\u0023t":["y"]}"##, "invalid: #t occurs twice");
    assert!(Filter::parse(br##"{"#t":["x"],"#T":["y"]}"##).is_ok());
}

#[test]
fn n01_30_references_that_are_not_hex_are_accepted_and_never_match() {
    let upper = ID.replace('0', "A");
    let event = note(&[&["e"], &["e", "zz"], &["p", &upper], &["p", ""]], "");
    assert_eq!(parse(to_json(&event)).unwrap(), event);
    assert!(!filter(&format!("{{\"#e\":[\"{ID}\"]}}")).matches(&event));
    assert!(!filter(&format!("{{\"#p\":[\"{}\"]}}", upper.to_lowercase())).matches(&event));
}

// 2.4 Tags and index

#[test]
fn n01_32_single_letters_are_indexed_by_case() {
    let event = note(&[&["t", "x"], &["é", "x"], &["tt", "x"], &["1", "x"]], "");
    assert!(filter(r##"{"#t":["x"]}"##).matches(&event));
    assert!(!filter(r##"{"#T":["x"]}"##).matches(&event));
}

#[test]
fn n01_33_only_element_one_matches_and_every_tag_counts() {
    let event = note(&[&["t", "x", "y"], &["t", "z"]], "");
    assert!(filter(r##"{"#t":["x"]}"##).matches(&event));
    assert!(filter(r##"{"#t":["z"]}"##).matches(&event));
    assert!(!filter(r##"{"#t":["y"]}"##).matches(&event));
}

#[test]
fn n01_34_values_compare_by_code_point() {
    let event = note(&[&["t", "Nostr"], &["r", "wss://relay.test/"], &["x", "é"]], "");
    for miss in [r##"{"#t":["nostr"]}"##, r##"{"#r":["wss://relay.test"]}"##, r##"{"#x":["e\u0301"]}"##] {
        assert!(!filter(miss).matches(&event), "{miss}");
    }
    assert!(filter(r##"{"#t":["Nostr"],"#r":["wss://relay.test/"],"#x":["\u00e9"]}"##).matches(&event));
    // 64 hexadecimal digits are compared as bytes, but only in lower case.
    let hex = note(&[&["x", ID]], "");
    assert!(filter(&format!("{{\"#x\":[\"{ID}\"]}}")).matches(&hex));
    let upper = "AB".repeat(32);
    assert!(filter(&format!("{{\"#x\":[\"{upper}\"]}}")).matches(&note(&[&["x", &upper]], "")));
    assert!(!filter(&format!("{{\"#x\":[\"{}\"]}}", upper.to_lowercase())).matches(&note(&[&["x", &upper]], "")));
}

#[test]
fn n01_35_a_tag_without_value_never_matches() {
    assert!(!filter(r##"{"#t":[""]}"##).matches(&note(&[&["t"]], "")));
    assert!(filter(r##"{"#t":[""]}"##).matches(&note(&[&["t", ""]], "")));
}

#[test]
fn n01_36_long_values_match_exactly() {
    let long = "x".repeat(1 << 20);
    let event = note(&[&["t", &long]], "");
    assert_eq!(parse(to_json(&event)).unwrap(), event);
    assert!(filter(&format!("{{\"#t\":[\"{long}\"]}}")).matches(&event));
    assert!(!filter(&format!("{{\"#t\":[\"{long}x\"]}}")).matches(&event));
    assert!(!filter(&format!("{{\"#t\":[\"{}\"]}}", &long[1..])).matches(&event));
}

// 2.5 Kinds: N01-37, 38, 41, 42 and 43 are tested beside `Kind::class`.

#[test]
fn n01_39_a_missing_d_is_the_empty_identifier() {
    for tags in [&[][..], &[&["d"][..]], &[&["d", ""]], &[&["D", "x"]], &[&["e", "d"]]] {
        assert_eq!(note(tags, "").identifier(), "", "{tags:?}");
    }
    assert_eq!(note(&[&["t", "x"], &["d", "é", "z"]], "").identifier(), "é");
}

#[test]
fn n01_40_the_first_d_counts() {
    assert_eq!(note(&[&["d", "a"], &["d", "b"]], "").identifier(), "a");
    assert_eq!(note(&[&["d"], &["d", "b"]], "").identifier(), "");
}

#[test]
fn n01_44_ids_order_by_bytes() {
    let (low, high) = (EventId::from_hex(ID).unwrap(), EventId([0x80; 32]));
    assert!(low < high && low.to_string() < high.to_string());
}

// 2.6 Filters. N01-50 and N01-56 are the vectors `filters`, too.

#[test]
fn n01_49_keys_of_a_filter() {
    let json = format!(
        r##"{{"ids":["{ID}"],"authors":["{ID}"],"kinds":[1],"#e":["{ID}"],"#t":["x"],"since":1,"until":2,"limit":3,"search":"s"}}"##
    );
    let parsed = filter(&json);
    let mut out = Vec::new();
    parsed.write_json(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), json);
    assert_eq!(filter("{}"), Filter::default());
    assert!(filter(" {\n} ").matches(&note(&[], "")));
    for letter in ('a'..='z').chain('A'..='Z') {
        assert_eq!(filter(&format!("{{\"#{letter}\":[]}}")).tags.len(), 1);
    }
}

#[test]
fn n01_50_all_keys_any_value() {
    let event = note(&[&["t", "x"], &["p", ID]], "");
    let author = event.pubkey;
    assert!(
        filter(&format!(r##"{{"authors":["{author}","{ID}"],"#p":["{ID}"],"#t":["x","y"],"kinds":[0,1]}}"##))
            .matches(&event)
    );
    assert!(!filter(&format!(r##"{{"authors":["{author}"],"#p":["{author}"]}}"##)).matches(&event));
    assert!(!filter(r#"{"kinds":[0,2]}"#).matches(&event));
    // Lists are kept sorted and without repetition, whatever the client wrote.
    let same = filter(r##"{"kinds":[3,1,3],"#b":["y","x","y"],"#a":["z"]}"##);
    assert_eq!(same.kinds, Some(vec![Kind(1), Kind(3)]));
    let b = (TagName::new("b").unwrap(), vec![TagValue::new("x"), TagValue::new("y")]);
    assert_eq!(same.tags, [(TagName::A, vec![TagValue::new("z")]), b]);
}

#[test]
fn n01_51_ids_and_keys_are_whole_lower_case_hex() {
    let upper = ID.replace('0', "A");
    for key in ["ids", "authors", "#e", "#p"] {
        for value in ["\"abcd\"", "\"\"", "\"npub1x\"", &format!("\"{upper}\""), "1", "null", "[]"] {
            assert_filter_refused(
                &format!("{{\"{key}\":[\"{ID}\",{value}]}}"),
                &format!("invalid: {key} must be a list of strings of 64 lower-case hexadecimal digits"),
            );
        }
    }
    for key in ["#a", "#q", "#E", "#P", "#A"] {
        assert!(Filter::parse(format!("{{\"{key}\":[\"abcd\",\"{upper}\"]}}").as_bytes()).is_ok());
    }
}

#[test]
fn n01_52_an_empty_list_matches_nothing() {
    for json in [r#"{"ids":[]}"#, r#"{"authors":[]}"#, r#"{"kinds":[]}"#, r##"{"#t":[]}"##, r##"{"#t":["x"],"#e":[]}"##]
    {
        let filter = filter(json);
        assert!(filter.is_impossible(), "{json}");
        assert!(!filter.matches(&note(&[&["t", "x"]], "")), "{json}");
    }
    assert!(!filter(r#"{"limit":0}"#).is_impossible());
    assert!(!filter("{}").is_impossible());
}

#[test]
fn n01_53_null_and_wrong_types() {
    for (key, values) in [
        ("ids", &["null", "\"x\"", "{}", "1"][..]),
        ("authors", &["null", "true"]),
        ("kinds", &["null", "1", "\"1\"", "[\"1\"]", "[1.5]", "[-1]", "[65536]", "[1e2]", "[null]"]),
        ("#t", &["null", "\"x\"", "[1]", "[null]", "[[\"x\"]]"]),
        ("since", &["null", "\"1\"", "[1]"]),
        ("until", &["null", "true"]),
        ("limit", &["null", "\"1\""]),
        ("search", &["null", "1", "[\"x\"]"]),
    ] {
        for value in values {
            assert_filter_refused(&format!("{{\"{key}\":{value}}}"), &format!("invalid: {key} must be "));
        }
    }
    for json in ["[]", "null", "\"x\"", "1"] {
        assert_filter_refused(json, "invalid: a filter must be an object");
    }
}

#[test]
fn n01_54_unknown_keys_are_unsupported() {
    for key in ["foo", "", "#", "#ee", "#1", "#é", "IDs", "tags", "#-"] {
        assert_filter_refused(
            &format!("{{\"{key}\":[\"x\"]}}"),
            &format!("unsupported: filter contains the unknown element \"{key}\""),
        );
    }
    let long = reaction(format!("[\"REQ\",\"s\",{{\"{}\":1}}]", "é".repeat(1000)));
    assert!(long.ends_with(&format!(" \"{}\"", "é".repeat(64))), "{long}");
}

#[test]
fn n01_55_times_clamp() {
    for (raw, value) in [
        ("-1", 0),
        ("-0", 0),
        ("-99999999999999999999999", 0),
        ("0", 0),
        ("9223372036854775807", i64::MAX as u64),
        ("9223372036854775808", i64::MAX as u64),
        ("18446744073709551615", i64::MAX as u64),
        ("99999999999999999999999", i64::MAX as u64),
    ] {
        assert_eq!(filter(&format!("{{\"since\":{raw}}}")).since, Some(value), "{raw}");
        assert_eq!(filter(&format!("{{\"until\":{raw}}}")).until, Some(value), "{raw}");
    }
    for raw in ["1.5", "1.0", "1e3", "-1.5"] {
        assert_filter_refused(&format!("{{\"since\":{raw}}}"), "invalid: since must be an integer");
        assert_filter_refused(&format!("{{\"until\":{raw}}}"), "invalid: until must be an integer");
    }
}

#[test]
fn n01_56_both_ends_are_inclusive() {
    let event = note(&[], "");
    let at = |since: u64, until: u64| filter(&format!("{{\"since\":{since},\"until\":{until}}}"));
    assert!(at(NOW, NOW).matches(&event));
    assert!(!at(NOW + 1, NOW + 1).matches(&event));
    assert!(!at(NOW - 1, NOW - 1).matches(&event));
    assert!(at(NOW + 1, NOW).is_impossible() && !at(NOW, NOW).is_impossible());
}

#[test]
fn n01_57_limit_is_a_count() {
    assert_eq!(filter(r#"{"limit":0}"#).limit, Some(0));
    assert_eq!(filter(r#"{"limit":1000000000000000000000}"#).limit, Some(i64::MAX as u64));
    for raw in ["-1", "-0", "1.5", "1e3", "\"10\"", "null"] {
        assert_filter_refused(&format!("{{\"limit\":{raw}}}"), "invalid: limit must be an integer not below 0");
    }
    assert!(filter(r#"{"limit":0}"#).matches(&note(&[], "")), "live events go on");
}

// 2.7 Subscriptions

#[test]
fn n01_61_subscription_ids() {
    for id in ["s", "\"\\\n]\u{0}", &"x".repeat(64), &"😀".repeat(64)] {
        assert_eq!(SubscriptionId::new(id).unwrap().as_str(), id);
        let message = json!(["REQ", id, {}]).to_string();
        let Ok(ClientMessage::Req { id: parsed, .. }) = ClientMessage::parse(message.as_bytes()) else {
            panic!("{message}")
        };
        assert_eq!(parsed.to_string(), id);
    }
    assert_eq!(SubscriptionId::new(""), None);
    assert_eq!(SubscriptionId::new(&"é".repeat(65)), None);
}

#[test]
fn n01_62_bad_subscription_ids() {
    for id in ["", &"é".repeat(65), &"\"".repeat(100)] {
        for verb in ["REQ", "COUNT"] {
            assert_reaction(
                json!([verb, id, {}]).to_string(),
                &format!("CLOSED {id} invalid: a subscription id must have 1 to 64 characters"),
            );
        }
    }
    for id in ["1", "null", "[]", "{}", "true"] {
        for verb in ["REQ", "COUNT", "CLOSE"] {
            assert_reaction(
                format!("[\"{verb}\",{id},{{}}]"),
                &format!("NOTICE invalid: {verb} needs a subscription id, which is a string"),
            );
        }
    }
}

#[test]
fn n01_73_one_bad_filter_refuses_the_request() {
    assert_reaction(r#"["REQ","s",{},{"kinds":[1]},{"ids":"x"},{}]"#, "CLOSED s invalid: ids must");
    assert_reaction(r#"["COUNT","s",{},{"foo":1}]"#, "CLOSED s unsupported: ");
    let Ok(ClientMessage::Req { filters, .. }) = ClientMessage::parse(br#"["REQ","s",{"kinds":[1]},{}]"#) else {
        panic!("two good filters were refused")
    };
    assert_eq!(filters.len(), 2);
}

#[test]
fn n01_74_filters_are_bounded() {
    let request = |n: usize| format!("[\"REQ\",\"s\"{}]", ",{}".repeat(n));
    assert_reaction(request(MAX_FILTERS), "accepted REQ s");
    assert_reaction(request(MAX_FILTERS + 1), "CLOSED s invalid: more than 1000 filters");
    assert_reaction(request(43_000), "CLOSED s invalid: more than 1000 filters");
}

// 2.8 EVENT, OK, NOTICE

#[test]
fn n01_79_an_unusable_event_is_answered_by_its_id() {
    let event = |id: &str| format!("[\"EVENT\",{{\"kind\":\"x\",\"id\":{id}}}]");
    assert_reaction(event("\"abc\""), "OK abc invalid: kind must");
    assert_reaction(event("\"\\u0061\\\"\\n\""), "OK a\"\n invalid: kind must");
    let long = "é".repeat(1000);
    assert_reaction(event(&format!("\"{long}\"")), &format!("OK {} invalid: ", "é".repeat(64)));
    for id in ["1", "null", "[]", "{\"id\":\"x\"}"] {
        assert_reaction(event(id), "OK  invalid: kind must");
    }
    for event in ["null", "\"{}\"", "[]", "1"] {
        assert_reaction(format!("[\"EVENT\",{event}]"), "OK  invalid: an event must be an object");
    }
    assert_reaction(r#"["EVENT"]"#, "NOTICE invalid: EVENT needs an event");
    assert_reaction(r#"["AUTH"]"#, "NOTICE invalid: AUTH needs an event");
}

#[test]
fn n01_80_malformed_json_is_a_notice_and_so_is_an_unknown_verb() {
    for text in [
        "",
        " ",
        "hello",
        "[",
        "[\"",
        "[\"REQ\"",
        "[\"REQ\",",
        "[\"REQ\",]",
        "[\"REQ\" \"s\"]",
        "[\"REQ\",\"s\",{}",
        "[\"REQ\",\"s\",{},]",
        "[\"REQ\",\"s\",{\"kinds\":[1,]}]",
        "[\"REQ\",\"s\",{\"kinds\":[1]]",
        "[\"REQ\",\"s\",{,}]",
        "[\"REQ\",\"s\",{\"limit\":}]",
        "[\"REQ\",\"s\",{\"limit\" 1}]",
        "[\"REQ\",\"s\",{limit:1}]",
        "[\"REQ\",\"s\",{\"limit\":1,}]",
        "['REQ','s',{}]",
        "[\"REQ\",\"s\",{}]]",
        "[\"REQ\",\"s\",{}] x",
        "[\"REQ\",\"s\",{}]\u{0}",
        "\u{feff}[\"REQ\",\"s\",{}]",
        "[\"REQ\",\"s\",{}/**/]",
        "[\"CLOSE\",\"a\tb\"]",
        "[\"CLOSE\",\"\\x41\"]",
        "[\"CLOSE\",\"\\u12g4\"]",
        "[\"CLOSE\",\"\\u123\"]",
        "[\"CLOSE\",\"s\",tru]",
        "[\"CLOSE\",\"s\",-]",
        "[\"CLOSE\",\"s\",1.]",
        "[\"CLOSE\",\"s\",1e]",
        "[\"CLOSE\",\"s\",1e+]",
        "[\"CLOSE\",\"s\",.5]",
        "[\"CLOSE\",\"s\",01]",
        "[\"CLOSE\",\"s\",-01]",
        "[\"CLOSE\",\"s\",True]",
        "[\"CLOSE\",\"s\"\u{a0}]",
        "[\"CLOSE\",\"s\"\u{c}]",
        "[\"FOO\",]",
        "[\"REQ\",1,]",
        "[\"REQ\",\"\",{]",
    ] {
        assert_reaction(text, "NOTICE invalid: malformed JSON at byte ");
    }
    for verb in ["", "event", "EVENT ", "HELLO", "\u{0}"] {
        let message = json!([verb, "s"]).to_string();
        assert_reaction(message, &format!("NOTICE unsupported: unknown verb \"{verb}\""));
    }
    let long = reaction(format!("[\"{}\"]", "é".repeat(1000)));
    assert_eq!(long, format!("NOTICE unsupported: unknown verb \"{}\"", "é".repeat(32)));
}

#[test]
fn n01_81_elements_after_the_defined_ones_are_ignored() {
    let event = to_json(&note(&[], ""));
    for verb in ["EVENT", "AUTH"] {
        assert_reaction(format!("[\"{verb}\",{event},1,{{\"x\":[]}}]"), "accepted EVENT");
        assert_reaction(format!("[\"{verb}\",{event},1,]"), "NOTICE invalid: malformed JSON");
    }
    assert_reaction(r#"["CLOSE","s",1,null]"#, "accepted CLOSE s");
    assert_reaction(r#"["CLOSE","s",{"a":}]"#, "NOTICE invalid: malformed JSON");
}

#[test]
fn n01_82_parsing_is_bounded() {
    let start = Instant::now();
    // An array inside the message inside the message and so on: 32 levels are the most.
    let nested = |n: usize| format!("[\"CLOSE\",\"s\",{}{}]", "[".repeat(n), "]".repeat(n));
    assert_reaction(nested(31), "accepted CLOSE s");
    assert_reaction(nested(32), "NOTICE invalid: malformed JSON at byte 44: nested deeper than 32 levels");
    assert!(parse(with_member(&format!("\"x\":{}{}", "[".repeat(31), "]".repeat(31)))).is_ok());
    assert_refused(with_member(&format!("\"x\":{}{}", "[".repeat(32), "]".repeat(32))), "nested deeper");
    // H024, H025, H069, H087, and their like.
    assert_reaction("[".repeat(100_000), "NOTICE invalid: ");
    assert_reaction("{\"a\":".repeat(100_000), "NOTICE invalid: ");
    let deep = with_member(&format!("\"x\":{}{}", "[".repeat(50_000), "]".repeat(50_000)));
    assert_reaction(format!("[\"EVENT\",{deep}]"), "NOTICE invalid: ");
    let digits = "9".repeat(100_000);
    let id = note(&[], "x").id;
    assert_reaction(
        format!("[\"EVENT\",{}]", with("created_at", &digits)),
        &format!("OK {id} invalid: created_at must"),
    );
    assert_reaction(format!("[\"EVENT\",{}]", with("kind", &digits)), "OK ");
    assert_reaction(format!("[\"REQ\",\"s\",{{\"limit\":{digits}}}]"), "accepted REQ s");
    assert_reaction(format!("[\"CLOSE\",\"s\",-{digits}.{digits}e-{digits}]"), "accepted CLOSE s");
    let empty = vec![""; 100_000];
    let wide = note(&[&empty], "");
    assert_eq!(parse(to_json(&wide)).unwrap(), wide);
    let authors = (0..10_000u32).map(|n| format!("\"{n:064x}\"")).rev().collect::<Vec<_>>().join(",");
    let many = filter(&format!("{{\"authors\":[{authors}]}}"));
    assert_eq!(many.authors.map(|authors| (authors.len(), authors.is_sorted())), Some((10_000, true)));
    // Far above what it takes even unoptimised, far below what anything quadratic would take.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

// 10. Expiration

#[test]
fn n40_01_expiration_is_unix_seconds() {
    assert_eq!(note(&[], "").expiration(), Ok(None));
    assert_eq!(note(&[&["expiration", "1700000001"]], "").expiration(), Ok(Some(1_700_000_001)));
    assert_eq!(note(&[&["Expiration", "x"], &["t", "expiration"]], "").expiration(), Ok(None));
}

#[test]
fn n40_05_a_malformed_expiration_is_refused() {
    for value in ["", "-1", "+1", "1.5", "1e9", " 1", "x", "١", "9223372036854775809", "99999999999999999999999"] {
        let event = note(&[&["expiration", "1"], &["expiration", value]], "");
        assert_eq!(event.expiration(), Err(EventError::Expiration), "{value}");
    }
    assert_eq!(note(&[&["expiration"]], "").expiration(), Err(EventError::Expiration));
    let words = EventError::Expiration.to_string();
    assert_eq!(words, "expiration must be unix seconds, digits only");
    assert_eq!(note(&[&["expiration", "9223372036854775808"]], "").expiration(), Ok(Some(1 << 63)));
    assert_eq!(note(&[&["expiration", "0"]], "").expiration(), Ok(Some(0)));
}

#[test]
fn n40_06_the_earliest_of_several_counts() {
    let event = note(&[&["expiration", "30"], &["expiration", "10", "5"], &["expiration", "20"]], "");
    assert_eq!(event.expiration(), Ok(Some(10)));
}
