//! The real corpus: thousands of events that clients really sent, and hundreds that must be refused.

mod common;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use common::model::{Model, Verdict, address, tag_values};
use common::{TestRelay, corpus, json, settings};
use ratite::nostr::{Event, EventFields, EventId, Filter, Kind, PublicKey, TagName, TagValue};
use ratite::relay::{Clock, Outcome, Relay, Settings};
use ratite::store::{Budget, Order, Progress, Scan, Store};
use serde_json::Value;
use serde_json::value::RawValue;
use wire::Socket;

/// A moment after every event that is not from the far future.
const LATER: u64 = 1_790_000_000;

fn lines(file: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(corpus()?.join(file)).expect("the corpus is readable");
    Some(text.lines().map(str::to_owned).collect())
}

/// What no relay state decides: rules that an event breaks by itself.
fn breaks_a_rule(event: &Event) -> bool {
    let unreadable =
        |text: &&str| text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) || text.parse::<u64>().is_err();
    let relays = tag_values(event, "relay");
    let bare_expiration = event.tags.iter().any(|tag| tag.name() == "expiration" && tag.len() == 1);
    matches!(event.kind, Kind::AUTH | Kind::HTTP_AUTH)
        || bare_expiration
        || tag_values(event, "expiration").iter().any(unreadable)
        || event.kind == Kind::VANISH && !relays.contains(&"ALL_RELAYS") && !relays.contains(&"wss://relay.test/")
}

#[test]
fn every_real_event_is_judged_as_the_model_judges_it_and_comes_back_byte_identical() {
    let Some(lines) = lines("real-events.jsonl") else { return };
    // Two of them have kinds beyond 65535, which this relay refuses (N01-20).
    let events: Vec<Event> = lines.iter().filter_map(|line| Event::parse(line.as_bytes()).ok()).collect();
    assert_eq!(lines.len() - events.len(), 2);

    let relay = TestRelay::with(Settings { clock: Clock::fixed(LATER), ..settings() });
    let mut model = Model::default();
    for batch in events.chunks(1000) {
        let outcomes = relay.relay.ingest(batch.to_vec(), false).recv().expect("outcomes");
        for (event, outcome) in batch.iter().zip(outcomes) {
            if breaks_a_rule(event) {
                assert!(matches!(&outcome, Outcome::Refused(text) if text.starts_with("invalid:")), "{outcome:?}");
                continue;
            }
            let right = match model.publish(event, LATER) {
                Verdict::Stored => outcome == Outcome::Stored,
                Verdict::Duplicate => outcome == Outcome::Duplicate,
                Verdict::Replaced => outcome == Outcome::Replaced,
                Verdict::Ephemeral => outcome == Outcome::Delivered,
                Verdict::Blocked => matches!(&outcome, Outcome::Refused(text) if text.starts_with("blocked:")),
                Verdict::Expired => matches!(&outcome, Outcome::Refused(text) if text.contains("expired")),
            };
            assert!(right, "{outcome:?} for {}", json(event));
        }
    }
    assert!(model.stored.len() > 11_000, "{} events stored", model.stored.len());
    let expected: BTreeMap<EventId, String> = model.stored.iter().map(|event| (event.id, json(event))).collect();

    comes_back_by_id(&relay, &expected);
    comes_back_by_author_and_kind(&relay, &model);
    comes_back_by_tags(&relay, &model);
    comes_back_by_export(&relay.relay, &expected);
    let report = relay.relay.store().verify().expect("verify");
    assert_eq!(report.faults, Vec::<String>::new());
    comes_back_after_export_and_import(&relay.relay, &expected);
}

fn comes_back_by_id(relay: &TestRelay, expected: &BTreeMap<EventId, String>) {
    let ids: Vec<EventId> = expected.keys().copied().collect();
    for ids in ids.chunks(500) {
        let found = relay.query(vec![Filter { ids: Some(ids.to_vec()), ..Filter::default() }]);
        assert_eq!(found.len(), ids.len());
        for event in found {
            assert_eq!(json(&event), expected[&event.id]);
        }
    }
}

fn comes_back_by_author_and_kind(relay: &TestRelay, model: &Model) {
    let mut groups: BTreeMap<(PublicKey, Kind), BTreeSet<EventId>> = BTreeMap::new();
    for event in &model.stored {
        groups.entry((event.pubkey, event.kind)).or_default().insert(event.id);
    }
    for ((author, kind), ids) in groups {
        let filter =
            Filter { authors: Some(vec![author]), kinds: Some(vec![kind]), limit: Some(5000), ..Filter::default() };
        let found: BTreeSet<EventId> = relay.query(vec![filter]).iter().map(|event| event.id).collect();
        assert_eq!(found, ids, "{author} kind {kind}");
    }
}

/// Every value of every indexed tag of every hundredth event.
fn comes_back_by_tags(relay: &TestRelay, model: &Model) {
    for event in model.stored.iter().step_by(100) {
        let _ = event.visit_indexed_tags(|name, value| {
            let letter = char::from(name.as_byte());
            let value = value.to_value();
            if matches!((letter, &value), ('e' | 'p', ratite::nostr::TagValue::Text(_))) {
                return ControlFlow::Continue(());
            }
            let filter = Filter { tags: vec![(name, vec![value])], limit: Some(5000), ..Filter::default() };
            let found = relay.query(vec![filter.clone()]);
            let expected = model.query(&[filter], LATER);
            assert_eq!(found, expected, "#{letter} of {}", event.id);
            ControlFlow::Continue(())
        });
    }
}

fn export(relay: &Relay) -> Vec<Event> {
    let mut scan = Scan::new(vec![Filter::default()], Order::OldestFirst);
    let mut events = Vec::new();
    // Small slices: the answer must not depend on where it is cut.
    let budget = Budget { keys: 100, time: std::time::Duration::from_millis(1) };
    while scan
        .run(&relay.store(), LATER, budget, &mut |record| {
            events.push(record.to_event().expect("records are whole"));
            ControlFlow::Continue(())
        })
        .expect("scan")
        == Progress::More
    {}
    events
}

fn comes_back_by_export(relay: &Relay, expected: &BTreeMap<EventId, String>) {
    let events = export(relay);
    assert!(events.is_sorted_by_key(|event| event.created_at));
    assert_eq!(events.len(), expected.len());
    for event in events {
        assert_eq!(json(&event), expected[&event.id]);
    }
}

/// Law 7: import followed by export returns the same events.
fn comes_back_after_export_and_import(relay: &Relay, expected: &BTreeMap<EventId, String>) {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(copy.path(), common::MAP).expect("open");
    let copy = Relay::start(store, (*relay.settings()).clone()).expect("start");
    let outcomes = copy.ingest(export(relay), false).recv().expect("outcomes");
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
    comes_back_by_export(&copy, expected);
    copy.shutdown();
}

/// A relay at that moment that takes events of any size and shows everything to everybody.
fn open_relay() -> wire::TestRelay {
    wire::TestRelay::at(Clock::fixed(LATER), |config| {
        config.storage.map_size = common::MAP;
        config.info.url = "wss://relay.test/".into();
        config.policy.guard_private = false;
        config.policy.accept_unwrapped = true;
        config.limits.created_at_upper_limit = 0;
        config.limits.max_message_length = 4 << 20;
        config.listen.outbox_bytes = 64 << 20;
        config.limits.max_content_length = 4 << 20;
        config.limits.max_event_tags = 100_000;
        config.limits.max_limit = 100_000;
    })
}

/// What OK must say: whether it is true, and how the words begin.
fn expected_answer(model: &mut Model, event: &Event) -> (bool, &'static str) {
    if breaks_a_rule(event) {
        return (false, "invalid:");
    }
    // Nobody has said who it is that publishes here (NIP-70).
    if event.tags.iter().any(|tag| tag.name() == "-") {
        return (false, "auth-required:");
    }
    match model.publish(event, LATER) {
        Verdict::Stored => (true, ""),
        Verdict::Duplicate => (true, "duplicate:"),
        Verdict::Replaced => (false, "duplicate:"),
        Verdict::Ephemeral => (false, "mute:"),
        Verdict::Blocked => (false, "blocked:"),
        Verdict::Expired => (false, "invalid:"),
    }
}

/// As a client would: the lines as they are, many on their way at once, except where the answer to one depends on another.
#[test]
fn every_real_event_over_a_socket_is_answered_rightly_and_comes_back_by_all_that_is_indexed() {
    let Some(lines) = lines("real-events.jsonl") else { return };
    assert_eq!(lines.len(), 12_245);
    let relay = open_relay();
    let mut socket = Socket::open(relay.address);
    let mut model = Model::default();
    let mut waiting: BTreeMap<EventId, (bool, &str)> = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    let mut strange = 0;
    for line in &lines {
        let message = format!("[\"EVENT\",{line}]");
        let Ok(event) = Event::parse(line.as_bytes()) else {
            // Kinds beyond 65535 (N01-20).
            settle(&mut socket, &mut waiting);
            socket.say(&message);
            let answer = socket.hear();
            assert!(answer[0] == "OK" && answer[2] == false, "{answer}");
            assert!(answer[3].as_str().is_some_and(|words| words.starts_with("invalid: kind")), "{answer}");
            strange += 1;
            continue;
        };
        let own = address(&event);
        let decides = matches!(event.kind, Kind::DELETION | Kind::VANISH);
        let depends = waiting.contains_key(&event.id) || own.as_ref().is_some_and(|own| addresses.contains(own));
        if decides || depends || waiting.len() == 300 {
            settle(&mut socket, &mut waiting);
            addresses.clear();
        }
        addresses.extend(own);
        waiting.insert(event.id, expected_answer(&mut model, &event));
        socket.say(&message);
        if decides {
            settle(&mut socket, &mut waiting);
        }
    }
    settle(&mut socket, &mut waiting);
    assert_eq!(strange, 2);
    assert!(model.stored.len() > 11_000, "{} events stored", model.stored.len());

    let texts: BTreeMap<EventId, String> = model.stored.iter().map(|event| (event.id, json(event))).collect();
    let ids: Vec<EventId> = texts.keys().copied().collect();
    for some in ids.chunks(500) {
        let list: Vec<String> = some.iter().map(|id| format!("\"{id}\"")).collect();
        socket.say(&format!("[\"REQ\",\"ids\",{{\"ids\":[{}]}}]", list.join(",")));
        let mut found = BTreeSet::new();
        loop {
            let frame = socket.next().expect("an answer");
            let text = String::from_utf8(frame.payload).expect("text");
            let Some(event) = text.strip_prefix("[\"EVENT\",\"ids\",").and_then(|text| text.strip_suffix(']')) else {
                assert_eq!(text, "[\"EOSE\",\"ids\"]");
                break;
            };
            let id = Event::parse(event.as_bytes()).expect("an event").id;
            assert!(found.insert(id) && texts[&id] == event, "byte-identical: {event}");
        }
        assert_eq!(found.len(), some.len());
    }

    let mut holders: BTreeMap<(TagName, TagValue), BTreeSet<EventId>> = BTreeMap::new();
    for event in &model.stored {
        for tag in askable_tags(event) {
            holders.entry(tag).or_default().insert(event.id);
        }
    }
    let mut questions: BTreeMap<String, BTreeSet<EventId>> = BTreeMap::new();
    for event in &model.stored {
        for filter in [format!("\"authors\":[\"{}\"]", event.pubkey), format!("\"kinds\":[{}]", event.kind)] {
            questions.entry(format!("{{{filter},\"limit\":100000}}")).or_default().insert(event.id);
        }
    }
    // Values that stand in the same events are asked for together: a question for each name in a long list would bring the list each time.
    let mut together: BTreeMap<(TagName, &BTreeSet<EventId>), Vec<&TagValue>> = BTreeMap::new();
    for ((name, value), ids) in &holders {
        together.entry((*name, ids)).or_default().push(value);
    }
    for ((name, ids), values) in together {
        for some in values.chunks(50) {
            let tags = vec![(name, some.iter().map(|value| (*value).clone()).collect())];
            let mut filter = Vec::new();
            Filter { tags, limit: Some(100_000), ..Filter::default() }.write_json(&mut filter);
            questions.insert(String::from_utf8(filter).expect("JSON"), ids.clone());
        }
    }
    println!("{} stored events, {} tags, {} questions", ids.len(), holders.len(), questions.len());
    assert!(questions.len() > 5_000, "{} questions", questions.len());
    for some in questions.iter().collect::<Vec<_>>().chunks(50) {
        for (n, (filter, _)) in some.iter().enumerate() {
            socket.say(&format!("[\"REQ\",\"{n}\",{filter}]"));
        }
        let mut found = vec![BTreeSet::new(); some.len()];
        let mut open = some.len();
        while open > 0 {
            let frame = socket.next().expect("an answer");
            let text = std::str::from_utf8(&frame.payload).expect("text");
            // `["EVENT","<n>",{"id":"<id>"`, read in place: there are many.
            let mut words = text.split('"').skip(1).step_by(2);
            let (verb, n) = (words.next(), words.next().and_then(|n| n.parse::<usize>().ok()).expect("a number"));
            match verb {
                Some("EVENT") => {
                    let id = words.nth(1).and_then(EventId::from_hex).expect("an id");
                    assert!(found[n].insert(id), "{id} comes twice");
                }
                Some("EOSE") => open -= 1,
                _ => panic!("{text}"),
            }
        }
        for ((filter, expected), found) in some.iter().zip(found) {
            assert_eq!(found, **expected, "{filter}");
        }
    }
}

/// The tags of an event that a filter can ask for: what is no id and no key cannot be asked for in `#e` and `#p`.
fn askable_tags(event: &Event) -> Vec<(TagName, TagValue)> {
    let mut tags = Vec::new();
    let _ = event.visit_indexed_tags(|name, value| {
        let value = value.to_value();
        if !matches!((char::from(name.as_byte()), &value), ('e' | 'p', TagValue::Text(_))) {
            tags.push((name, value));
        }
        ControlFlow::Continue(())
    });
    tags
}

/// Hears the answers to all that were sent.
fn settle(socket: &mut Socket, waiting: &mut BTreeMap<EventId, (bool, &str)>) {
    while !waiting.is_empty() {
        let answer = socket.hear();
        assert_eq!(answer[0], "OK", "{answer}");
        let id = EventId::from_hex(answer[1].as_str().expect("a text")).expect("an id");
        let (ok, prefix) = waiting.remove(&id).expect("each is answered once");
        let words = answer[3].as_str().expect("a text");
        let right = if prefix.is_empty() { words.is_empty() } else { words.starts_with(prefix) };
        assert!(answer[2] == ok && right, "{answer}, but {ok} and {prefix:?} were expected");
    }
}

#[test]
fn every_invalid_event_over_a_socket_is_refused() {
    let Some(lines) = lines("real-invalid.jsonl") else { return };
    assert_eq!(lines.len(), 288);
    #[derive(serde::Deserialize)]
    struct Case<'a> {
        why: String,
        #[serde(borrow)]
        event: &'a RawValue,
    }
    let relay = open_relay();
    // A stream of what is malformed ends a connection.
    for some in lines.chunks(50) {
        let mut socket = Socket::open(relay.address);
        for line in some {
            let case: Case<'_> = serde_json::from_str(line).expect("a case");
            socket.say(&format!("[\"EVENT\",{}]", case.event.get()));
            let answer: Value = socket.hear();
            let words = match answer[0].as_str() {
                Some("OK") if answer[2] == false => &answer[3],
                Some("NOTICE") => &answer[1],
                _ => panic!("{}: {answer}", case.why),
            };
            assert!(words.as_str().is_some_and(|words| words.starts_with("invalid:")), "{}: {answer}", case.why);
        }
        socket.still_works();
    }
    assert_eq!(relay.relay.store().info().expect("info").events, 0);
}

#[test]
fn every_invalid_event_is_refused_for_what_it_is() {
    let Some(lines) = lines("real-invalid.jsonl") else { return };
    assert_eq!(lines.len(), 288);
    let relay = TestRelay::new();
    for (n, line) in lines.iter().enumerate() {
        let case: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
        let why = case["why"].as_str().expect("a reason");
        match Event::parse(case["event"].to_string().as_bytes()) {
            // One has a kind beyond 65535 besides its wrong id.
            Err(error) => assert!(
                why.starts_with("malformed") || error.to_string().starts_with("kind"),
                "line {n}: {why}, but {error}"
            ),
            Ok(event) => {
                let outcome = relay.publish(&event);
                let Outcome::Refused(text) = &outcome else { panic!("line {n}: {why}, but {outcome:?}") };
                assert!(text.starts_with("invalid:"), "line {n}: {text}");
                let by_bulk = relay.relay.ingest(vec![event], false).recv().expect("outcomes");
                assert!(matches!(&by_bulk[0], Outcome::Refused(text) if text.starts_with("invalid:")), "line {n}");
            }
        }
    }
    assert_eq!(relay.relay.store().info().expect("info").events, 0);
}
