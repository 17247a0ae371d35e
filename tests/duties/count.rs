//! NIP-45: COUNT and its sketches (section 13).

use serde_json::{Value, json};

use crate::wire::{Socket, TestRelay, event, now, pubkey, sign};
use crate::{ask, publish};

fn count(socket: &mut Socket, filters: &str) -> Value {
    socket.say(&format!("[\"COUNT\",\"c\",{filters}]"));
    socket.hears("COUNT", "c")[2].clone()
}

#[test]
fn n45_01_n45_03_n45_04_the_exact_number_of_the_union_whatever_the_limit() {
    let relay = TestRelay::with(|config| {
        config.limits.default_limit = 2;
        config.limits.max_limit = 3;
    });
    let mut socket = relay.connect();
    let start = now();
    for n in 0..7 {
        assert!(publish(&mut socket, &sign(1 + n % 2, 1, start - u64::from(n), &[&["t", "x"], &["t", "y"]], "")).0);
    }
    let author = pubkey(1);
    for (filters, expected) in [
        ("{}".to_owned(), 7),
        ("{\"limit\":1}".to_owned(), 7),
        ("{\"limit\":0}".to_owned(), 7),
        ("{\"#t\":[\"x\",\"y\"]}".to_owned(), 7),
        (format!("{{\"authors\":[\"{author}\"]}}"), 4),
        (format!("{{\"authors\":[\"{author}\"]}},{{\"kinds\":[1]}},{{\"kinds\":[7]}}"), 7),
        ("{\"kinds\":[7]}".to_owned(), 0),
        ("{\"kinds\":[]}".to_owned(), 0),
        ("{\"since\":5,\"until\":4}".to_owned(), 0),
    ] {
        assert_eq!(count(&mut socket, &filters), json!({"count": expected}), "{filters}");
    }
    socket.still_works();
}

#[test]
fn n45_02_h151_a_refused_count_is_answered_with_closed() {
    let relay = TestRelay::with(|config| config.limits.max_filters = 2);
    let mut socket = relay.connect();
    for (filters, reason) in [
        ("", "invalid:"),
        (",{},{},{}", "invalid:"),
        (",{\"search\":\"x\"}", "unsupported:"),
        (",{\"kinds\":[4]}", "auth-required:"),
        (",{\"limit\":-1}", "invalid:"),
    ] {
        socket.say(&format!("[\"COUNT\",\"c\"{filters}]"));
        let closed = socket.hears("CLOSED", "c");
        assert!(closed[2].as_str().is_some_and(|text| text.starts_with(reason)), "{filters}: {closed}");
    }
}

#[test]
fn n45_05_a_count_opens_nothing_and_disturbs_no_subscription_of_its_name() {
    let relay = TestRelay::with(|config| config.limits.max_subscriptions = 1);
    let (mut socket, mut writer) = (relay.connect(), relay.connect());
    ask(&mut socket, "c", "{\"kinds\":[1]}");
    for _ in 0..5 {
        assert_eq!(count(&mut socket, "{\"kinds\":[7]}"), json!({"count": 0}));
    }
    assert_eq!(relay.relay.stats().subscriptions, 1);
    assert!(publish(&mut writer, &event(1, 7, "+")).0);
    let note = event(1, 1, "hello");
    assert!(publish(&mut writer, &note).0);
    assert_eq!(socket.hears("EVENT", "c")[2]["id"], note.id.to_string());
}

#[test]
fn n45_06_n45_07_what_is_not_served_is_not_counted() {
    let clock = ratite::relay::Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    let soon = (clock.now() + 10).to_string();
    let note = event(1, 1, "to be deleted");
    for event in [
        sign(1, 0, clock.now() - 1, &[], "old"),
        sign(1, 0, clock.now(), &[], "new"),
        note.clone(),
        sign(1, 7, clock.now(), &[&["expiration", &soon]], ""),
        sign(9, 1059, clock.now(), &[&["p", &pubkey(2)]], ""),
    ] {
        assert!(publish(&mut socket, &event).0);
    }
    publish(&mut socket, &event(1, 20_001, "ephemeral"));
    assert_eq!(count(&mut socket, "{}"), json!({"count": 3}), "the profile, the note, the reaction");
    assert!(publish(&mut socket, &sign(1, 5, clock.now(), &[&["e", &note.id.to_string()]], "")).0);
    assert_eq!(count(&mut socket, "{\"kinds\":[1]}"), json!({"count": 0}));
    clock.set(clock.now() + 10);
    assert_eq!(count(&mut socket, "{\"kinds\":[7]}"), json!({"count": 0}));
    assert!(socket.authenticate(2).0);
    assert_eq!(count(&mut socket, "{\"kinds\":[1059]}"), json!({"count": 1}));
}

#[test]
fn hll_01_hll_06_hll_09_h155_canonical_questions_bring_a_sketch_of_the_whole_answer() {
    let relay = TestRelay::with(|config| config.limits.max_limit = 2);
    let mut socket = relay.connect();
    let target = event(1, 1, "liked");
    let id = target.id.to_string();
    let mut registers = [0u8; 256];
    let offset = 8 + usize::from(target.id.0[16] >> 4);
    for author in 1..=20 {
        for content in ["+", "*"] {
            assert!(publish(&mut socket, &sign(author, 7, now(), &[&["e", &id]], content)).0);
        }
        let key = event(author, 1, "").pubkey.0;
        let bits: String = key[offset + 1..].iter().map(|byte| format!("{byte:08b}")).collect();
        let zeros = bits.find('1').unwrap_or(bits.len()) as u8;
        let register = &mut registers[usize::from(key[offset])];
        *register = (*register).max(zeros + 1);
    }
    let question = format!("{{\"#e\":[\"{id}\"],\"kinds\":[7]}}");
    let expected = json!({"count": 40, "hll": const_hex::encode(registers)});
    assert_eq!(count(&mut socket, &question), expected, "more than a REQ would return");
    let limited = format!("{{\"#e\":[\"{id}\"],\"kinds\":[7],\"limit\":1}}");
    assert_eq!(count(&mut socket, &limited), json!({"count": 40}));
    let nobody = format!("{{\"#e\":[\"{id}\"],\"kinds\":[6]}}");
    assert_eq!(count(&mut socket, &nobody), json!({"count": 0, "hll": "0".repeat(512)}));
}
