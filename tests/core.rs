//! The core through its public doors, without a socket: sequences of the protocol, order, live hand-over.

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use common::{NOW, TestRelay, events_of, vectors};
use ratite::nostr::{Event, EventFields, EventId, Filter, SubscriptionId};
use ratite::store::{Budget, Order, Scan};

fn event(value: &serde_json::Value) -> Event {
    Event::parse(value.to_string().as_bytes()).expect("vectors hold valid events")
}

fn filter(json: &str) -> Filter {
    Filter::parse(json.as_bytes()).expect("a filter")
}

fn by_ids(ids: &[EventId]) -> Filter {
    let mut filter = Filter { ids: Some(ids.to_vec()), limit: Some(5000), ..Filter::default() };
    filter.normalize();
    filter
}

#[test]
fn sequences_of_publishing_end_in_the_right_state() {
    for sequence in vectors()["sequences"].as_array().expect("a list") {
        let name = format!("{} {}", sequence["n"], sequence["name"]);
        let relay = TestRelay::new();
        for (i, step) in sequence["steps"].as_array().expect("a list").iter().enumerate() {
            let outcome = relay.publish(&event(&step["event"]));
            if let Some(ok) = step["ok"].as_bool() {
                assert_eq!(outcome.ok(), ok, "{name}, step {i}: {outcome:?}");
            }
            let prefix = step["prefix"].as_str().unwrap_or_default();
            if step["ok"].is_boolean() && !prefix.is_empty() {
                assert!(outcome.message().starts_with(&format!("{prefix}:")), "{name}, step {i}: {outcome:?}");
            }
        }
        let ids = |key: &str| -> Vec<EventId> {
            let list = sequence[key].as_array().expect("a list").iter();
            list.map(|id| EventId::from_hex(id.as_str().expect("hex")).expect("an id")).collect()
        };
        for id in ids("final_present") {
            assert_eq!(relay.query(vec![by_ids(&[id])]).len(), 1, "{name}: {id} must be there");
        }
        for id in ids("final_absent") {
            assert_eq!(relay.query(vec![by_ids(&[id])]).len(), 0, "{name}: {id} must be gone");
        }
        let report = relay.relay.store().verify().expect("verify");
        assert_eq!(report.faults, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn n01_60_order_is_newest_first_and_ties_by_lowest_id() {
    let vectors = vectors();
    let relay = TestRelay::new();
    for e in vectors["tie_events"]["events"].as_array().expect("a list") {
        assert!(relay.publish(&event(e)).ok());
    }
    let all = relay.query(vec![filter("{}")]);
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted_by_key(|e| e.id));
    for limit in 1..5 {
        let cut = relay.query(vec![filter(&format!("{{\"limit\":{limit}}}"))]);
        assert_eq!(cut, all[..limit], "the cut follows the order");
    }
}

#[test]
fn n01_67_n01_68_an_event_is_delivered_once_stored_or_live() {
    let relay = TestRelay::new();
    let events: Vec<Event> = (0..400).map(|i| common::note(1, NOW - 1000 + i, &format!("note {i}"))).collect();
    let (publisher, subscribers) = events.split_at(200);
    for e in publisher {
        relay.publish(e);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| subscribers.iter().for_each(|e| assert!(relay.publish(e).ok())));
        for n in 0..20 {
            let relay = &relay;
            let last = &events[399];
            let total = events.len();
            scope.spawn(move || {
                let (client, inbox) = relay.connect();
                client.subscribe(
                    SubscriptionId::new(&format!("s{n}")).expect("id"),
                    vec![filter("{\"kinds\":[1],\"limit\":5000}")],
                );
                let seen = inbox.until(|m| m.contains(&last.id.to_string()));
                let mut rest = seen.clone();
                if !seen.iter().any(|m| m.starts_with("[\"EOSE\"")) {
                    rest.extend(inbox.until(|m| m.starts_with("[\"EOSE\"")));
                }
                let mut ids: Vec<EventId> = events_of(&rest).iter().map(|e| e.id).collect();
                assert_eq!(ids.len(), total, "each event once");
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), total, "each event once");
            });
        }
    });
}

/// Twenty thousand events in one second: an answer that begins there reads what it returns, not the second.
#[test]
fn a_second_stuffed_with_events_costs_an_answer_nothing() {
    let relay = TestRelay::new();
    let mut stuffed = Vec::new();
    for n in 0u32..20_000 {
        let mut event = common::note(1, NOW, "");
        // Spread evenly over all ids, as hashes are; the bulk door trusts its source here.
        event.id.0[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
        event.tags.push(["t", "stuffed"]);
        stuffed.push(event);
    }
    relay.relay.ingest(stuffed.clone(), true).recv().expect("outcomes");
    stuffed.sort_by_key(|event| event.id);
    let author = stuffed[0].pubkey;
    for question in [
        "{\"limit\":1}".to_owned(),
        "{\"limit\":1,\"kinds\":[1]}".to_owned(),
        format!("{{\"limit\":1,\"kinds\":[1],\"authors\":[\"{author}\"]}}"),
        "{\"limit\":1,\"kinds\":[1],\"#t\":[\"stuffed\"]}".to_owned(),
        format!("{{\"limit\":1,\"authors\":[\"{author}\"],\"until\":{NOW},\"since\":{NOW}}}"),
    ] {
        let mut scan = Scan::new(vec![filter(&question)], Order::NewestFirst);
        let mut first = None;
        let all = Budget { keys: u64::MAX, time: Duration::from_secs(3600) };
        scan.run(&relay.relay.store(), NOW, all, &mut |record| {
            first = Some(record.id());
            ControlFlow::Continue(())
        })
        .expect("scan");
        assert_eq!(first, Some(stuffed[0].id), "{question}");
        assert!(scan.walked() < 100, "{question} walked {} entries", scan.walked());
    }
}
