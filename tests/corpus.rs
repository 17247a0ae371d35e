//! The real corpus: thousands of events that clients really sent, and hundreds that must be refused.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use common::model::{Model, Verdict, tag_values};
use common::{TestRelay, corpus, json, settings};
use ratite::nostr::{Event, EventFields, EventId, Filter, Kind, PublicKey};
use ratite::relay::{Clock, Outcome, Relay, Settings};
use ratite::store::{Budget, Order, Progress, Scan, Store};

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
        .run(relay.store(), LATER, budget, &mut |record| {
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
    let copy = Relay::start(store, relay.settings().clone()).expect("start");
    let outcomes = copy.ingest(export(relay), false).recv().expect("outcomes");
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
    comes_back_by_export(&copy, expected);
    copy.shutdown();
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
