//! Retention: every rule and tier against a model that anybody can check by reading it, and a database that stays below its ceiling.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::{NOW, TestRelay, settings};
use proptest::prelude::*;
use ratite::config::{KindRange, RetentionRule, Tier};
use ratite::nostr::{Event, EventFields as _, EventId, Kind, PublicKey, Signature, Tags};
use ratite::relay::{CEILING, Outcome, Relay, Retention, Settings};
use ratite::store::{Amount, Store};

const DAY: u64 = 86_400;

/// One of two authors for each tier. Their keys begin with the same seven bytes if `alike`.
fn author(tier: Tier, which: u8, alike: bool) -> PublicKey {
    let mut key = [7; 32];
    let own = 1 + tier as u8 * 2 + which % 2;
    key[if alike { 20 } else { 0 }] = own;
    PublicKey(key)
}

/// Nobody signed it: it comes through the door of those who are trusted.
fn event(number: u32, pubkey: PublicKey, kind: u16, created_at: u64, content: &str) -> Event {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.wrapping_mul(0x9E37_79B1).to_be_bytes());
    Event {
        id: EventId(id),
        pubkey,
        created_at,
        kind: Kind(kind),
        tags: Tags::new(),
        content: content.into(),
        sig: Signature([0; 64]),
    }
}

fn everybody(alike: bool) -> BTreeMap<Tier, Vec<PublicKey>> {
    Tier::ALL.into_iter().map(|tier| (tier, (0..2).map(|which| author(tier, which, alike)).collect())).collect()
}

/// Settings with these rules; nothing happens by itself.
fn with_rules(rules: &[RetentionRule], protected: &[KindRange], alike: bool) -> Settings {
    let people = everybody(alike);
    let mut settings = settings();
    settings.unattended = false;
    settings.retention = Retention {
        owners: people[&Tier::Owner].clone(),
        listed: people[&Tier::Listed].clone(),
        ..Retention::default()
    };
    settings.retention.config.rules = rules.to_vec();
    settings.retention.config.protected_kinds = protected.to_vec();
    settings
}

fn fill(relay: &Relay, events: &[Event]) {
    for outcome in relay.ingest(events.to_vec(), true).recv().unwrap() {
        assert_eq!(outcome, Outcome::Stored);
    }
}

fn know(store: &Store, authors: &[PublicKey]) {
    let mut batch = store.batch(NOW).unwrap();
    authors.iter().for_each(|author| batch.know(author).unwrap());
    batch.commit().unwrap();
}

fn stored(store: &Store) -> BTreeSet<EventId> {
    let mut ids = BTreeSet::new();
    store
        .log(0, &mut |_, record| {
            ids.insert(record.id());
            ControlFlow::Continue(())
        })
        .unwrap();
    ids
}

/// What is kept, said as the configuration says it.
fn model(events: &[Event], rules: &[RetentionRule], protected: &[KindRange], alike: bool) -> BTreeSet<EventId> {
    let people = everybody(alike);
    let tier = |event: &Event| {
        people.iter().find(|(_, keys)| keys.contains(&event.pubkey)).map_or(Tier::Others, |(tier, _)| *tier)
    };
    let mut kept = BTreeSet::new();
    let mut counted: BTreeMap<(usize, PublicKey), Vec<&Event>> = BTreeMap::new();
    for event in events {
        let protected = protected.iter().any(|kinds| kinds.contains(event.kind));
        let rule = rules.iter().position(|rule| rule.covers(tier(event), event.kind)).filter(|_| !protected);
        let Some(place) = rule else {
            kept.insert(event.id);
            continue;
        };
        if rules[place].age.is_none_or(|age| event.created_at + age >= NOW) {
            counted.entry((place, event.pubkey)).or_default().push(event);
        }
    }
    for ((place, _), mut events) in counted {
        events.sort_by_key(|event| (Reverse(event.created_at), event.id));
        kept.extend(
            events.iter().take(rules[place].count.map_or(usize::MAX, |count| count as usize)).map(|event| event.id),
        );
    }
    kept
}

/// None of them can be replaced.
const KINDS: [u16; 6] = [1, 7, 1000, 1111, 4550, 9735];

fn a_rule() -> impl Strategy<Value = RetentionRule> {
    let tiers = proptest::collection::vec(proptest::sample::select(&Tier::ALL[..]), 0..3);
    let kinds = proptest::collection::vec((0..6usize, 0..6usize), 0..3);
    let limits = (proptest::option::of(1..40u64), proptest::option::of(1..6u32));
    (tiers, kinds, limits).prop_map(|(tiers, kinds, (days, count))| RetentionRule {
        tiers,
        kinds: kinds.into_iter().map(|(a, b)| KindRange(KINDS[a.min(b)]..=KINDS[a.max(b)])).collect(),
        age: days.map(|days| days * DAY),
        count,
    })
}

/// Of one tier, or of all.
fn some_events(alike: bool, one_tier: bool) -> impl Strategy<Value = Vec<Event>> {
    let one = (0..4usize, 0..2u8, 1..6usize, 0..50u64);
    proptest::collection::vec(one, 1..150).prop_map(move |list| {
        let made = list.into_iter().enumerate().map(move |(number, (tier, which, kind, days))| {
            // Apart by seconds: within one, the index does not know all of the order.
            let created_at = NOW - days * DAY - number as u64;
            let tier = if one_tier { Tier::Others } else { Tier::ALL[tier] };
            event(number as u32, author(tier, which, alike), KINDS[kind], created_at, "")
        });
        made.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_is_what_the_model_lets_go(
        ((alike, one_tier), events) in any::<(bool, bool)>().prop_flat_map(|(alike, one)| (Just((alike, one)), some_events(alike, one))),
        rules in proptest::collection::vec(a_rule(), 1..4),
        protect in any::<bool>(),
    ) {
        let protected = if protect { vec![KindRange(1000..=1111)] } else { Vec::new() };
        let relay = TestRelay::with(with_rules(&rules, &protected, alike));
        fill(&relay.relay, &events);
        know(&relay.relay.store(), &everybody(alike)[&Tier::Authenticated]);
        let expected = model(&events, &rules, &protected, alike);

        let plan = relay.relay.plan_retention(&mut |_, _| ControlFlow::Continue(())).unwrap();
        prop_assert!(plan.complete);
        // Where keys begin alike, what is found before that is noticed may be found again.
        if !alike {
            prop_assert_eq!(plan.total().events as usize, events.len() - expected.len());
        }
        prop_assert_eq!(stored(&relay.relay.store()).len(), events.len(), "a plan removes nothing");
        let done = relay.relay.prune(alike, &mut |_, _| ControlFlow::Continue(())).unwrap();
        prop_assert!(done.complete);
        let left = stored(&relay.relay.store());
        let again = relay.relay.prune(false, &mut |_, _| ControlFlow::Continue(())).unwrap();
        if alike && !one_tier {
            // As long as the one may stay whose key is met first, nobody looks whether there is another, so a later run may find
            // more. None goes that may stay.
            prop_assert!(left.is_superset(&expected));
            prop_assert!(stored(&relay.relay.store()).is_superset(&expected));
        } else {
            prop_assert_eq!(left, expected);
            prop_assert_eq!(again.total().events, 0);
        }
    }
}

#[test]
fn a_plan_says_what_goes_by_which_rule_and_the_report_keeps_it() {
    let rules: Vec<RetentionRule> =
        ["7: 10d", "others: 2 per author"].iter().map(|text| text.parse().unwrap()).collect();
    let relay = TestRelay::with(with_rules(&rules, &[], false));
    let other = author(Tier::Others, 0, false);
    let events: Vec<Event> = (0..20)
        .map(|n| event(n, other, if n < 10 { 7 } else { 1 }, NOW - u64::from(n % 10) * 2 * DAY - 1, "text"))
        .collect();
    fill(&relay.relay, &events);
    let plan = relay.relay.plan_retention(&mut |_, _| ControlFlow::Continue(())).unwrap();
    let events_of =
        |plan: &[(String, Amount)]| plan.iter().map(|(rule, amount)| (rule.clone(), amount.events)).collect::<Vec<_>>();
    // Those that are 0, 2, 4, 6 and 8 days old stay, and of the others' notes two.
    assert_eq!(events_of(&plan.rules), [("7: 10d".to_owned(), 5), ("others: 2 per author".to_owned(), 8)]);
    assert!(plan.total().bytes > 13 * 150, "{plan:?}");
    let report = relay.relay.store().retention_report().unwrap().unwrap();
    assert_eq!((report.at, report.rules[0].due.events, report.rules[0].removed.events), (NOW, 5, 0));

    relay.relay.prune(false, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let report = relay.relay.store().retention_report().unwrap().unwrap();
    assert_eq!((report.rules[0].due.events, report.rules[0].removed.events), (0, 5));
    assert_eq!((report.rules[1].due.events, report.rules[1].removed.events), (0, 8));
    assert_eq!(
        relay.relay.store().verify().unwrap().faults.iter().filter(|fault| !fault.contains("its id")).count(),
        0
    );
}

#[test]
fn a_run_that_is_stopped_keeps_what_it_has_done_and_can_be_repeated() {
    let rules: Vec<RetentionRule> = vec!["all: 1d".parse().unwrap()];
    let relay = TestRelay::with(with_rules(&rules, &[], false));
    let events: Vec<Event> = (0..3000)
        .map(|n| event(n, author(Tier::Others, n as u8, false), 1, NOW - 2 * DAY - u64::from(n), ""))
        .collect();
    fill(&relay.relay, &events);
    let mut told = 0;
    let part = relay
        .relay
        .prune(false, &mut |_, removed| {
            told = removed.events;
            if told > 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert!(!part.complete && part.total().events == told && told > 100 && told < 3000, "{part:?}");
    assert_eq!(stored(&relay.relay.store()).len() as u64, 3000 - told);
    let rest = relay.relay.prune(false, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((rest.complete, rest.total().events), (true, 3000 - told));
}

#[test]
fn a_run_that_is_stopped_while_it_makes_room_is_not_complete() {
    let mut settings = with_rules(&[], &[], false);
    settings.retention.config.max_size = 1 << 20;
    let relay = TestRelay::with(settings);
    let content = "x".repeat(1000);
    let events = (0..2000).map(|n| event(n, author(Tier::Others, n as u8, false), 1, NOW - u64::from(n), &content));
    // Nobody measures the database unless it is told to: more than its ceiling comes in.
    fill(&relay.relay, &events.collect::<Vec<_>>());
    let before = stored(&relay.relay.store()).len();
    let part = relay.relay.prune(false, &mut |_, _| ControlFlow::Break(())).unwrap();
    assert!(!part.complete, "{part:?}");
    let rest = relay.relay.prune(false, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert!(rest.complete && rest.total().events > 0, "{rest:?}");
    let removed = part.total().events + rest.total().events;
    assert_eq!(stored(&relay.relay.store()).len() as u64, before as u64 - removed);
}

#[test]
fn authors_without_events_are_forgotten() {
    let relay = TestRelay::with(settings());
    let store = relay.relay.store();
    let (here, gone) = (author(Tier::Others, 0, false), author(Tier::Others, 1, false));
    fill(&relay.relay, &[event(1, here, 1, NOW, "")]);
    know(&store, &[here, gone]);
    let last = store.forget_authors(None, 1).unwrap();
    assert_eq!(store.forget_authors(last, 10).unwrap(), Some(here.max(gone)));
    assert_eq!(store.forget_authors(Some(here.max(gone)), 10).unwrap(), None);
    assert!(store.knows(&here).unwrap() && !store.knows(&gone).unwrap());
}

const CEILING_BYTES: u64 = 32 << 20;

/// Settings of a relay that keeps itself below a ceiling.
fn with_ceiling() -> Settings {
    let mut settings = with_rules(&[], &[KindRange(0..=0)], false);
    settings.unattended = true;
    settings.retention.config.max_size = CEILING_BYTES;
    settings
}

/// Takes events in as an import does; those that find no room wait.
fn pour(relay: &Relay, events: impl Iterator<Item = Event>) -> u64 {
    let mut stored = 0;
    let events: Vec<Event> = events.collect();
    for chunk in events.chunks(500) {
        let mut left = chunk.to_vec();
        while !left.is_empty() {
            let outcomes = relay.ingest(left.clone(), true).recv().unwrap();
            let failed = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Failed(_)));
            let mut failed = failed.collect::<Vec<bool>>().into_iter();
            stored += outcomes.iter().filter(|outcome| **outcome == Outcome::Stored).count() as u64;
            left.retain(|_| failed.next().unwrap());
            if !left.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
    stored
}

#[test]
fn the_ceiling_holds_whoever_pours_in_and_the_file_stops_growing() {
    let relay = TestRelay::with(with_ceiling());
    let store = relay.relay.store();
    let content = "x".repeat(600);
    let (owner, listed, other) =
        (author(Tier::Owner, 0, false), author(Tier::Listed, 0, false), author(Tier::Others, 0, false));
    let known = author(Tier::Authenticated, 0, false);
    know(&store, &[known]);
    // What is to be spared comes first, so it is the oldest.
    let spared: Vec<Event> = (0..2000)
        .map(|n| {
            let (author, kind) = [(owner, 1), (listed, 1), (other, 0), (known, 1)][n as usize % 4];
            let author = if kind == 0 { PublicKey([n as u8 / 4 + 50; 32]) } else { author };
            event(n, author, kind, NOW - 100 * DAY + u64::from(n), &content)
        })
        .filter(|event| event.kind.0 != 0 || event.created_at % 3 == 0)
        .collect();
    let mut replaced = 0;
    for event in &spared {
        replaced += u64::from(relay.relay.ingest(vec![event.clone()], true).recv().unwrap() != [Outcome::Stored]);
    }
    assert_eq!(replaced, 0);
    let before = stored(&store);
    let more = |numbers: std::ops::Range<u32>| {
        pour(&relay.relay, numbers.map(|n| event(n, other, 1, NOW - 90 * DAY + u64::from(n), &content)))
    };
    assert_eq!(more(10_000..60_000), 50_000);
    assert_eq!(more(60_000..110_000), 50_000);
    // The last removal may still be under way.
    let removed = || {
        let report = store.retention_report().unwrap().unwrap_or_default();
        report.rules.iter().find(|rule| rule.rule == CEILING).map_or(0, |rule| rule.removed.events)
    };
    let began = std::time::Instant::now();
    while removed() + stored(&store).len() as u64 != 100_000 + before.len() as u64 {
        assert!(began.elapsed() < common::PATIENCE, "{} removed, {} are left", removed(), stored(&store).len());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let info = store.info().unwrap();
    assert!(info.file_bytes <= CEILING_BYTES + CEILING_BYTES / 4, "the file has {} bytes", info.file_bytes);
    assert!(store.used_bytes().unwrap() <= CEILING_BYTES + CEILING_BYTES / 50);
    let kept = stored(&store);
    assert!(kept.len() > 15_000, "no more goes than has to: {} are left", kept.len());
    assert!(
        before.is_subset(&kept),
        "owner, listed, authenticated and protected kinds are spared while others have events"
    );
    // The newest of the others are there, the oldest are not.
    let newest = event(109_999, other, 1, NOW - 90 * DAY + 109_999, &content).id;
    let oldest = event(10_000, other, 1, NOW - 90 * DAY + 10_000, &content).id;
    assert!(kept.contains(&newest) && !kept.contains(&oldest));
}

#[test]
fn when_nothing_may_go_events_are_refused_and_the_relay_says_why() {
    let mut settings = with_ceiling();
    settings.retention.config.max_size = 16 << 20;
    settings.retention.config.protected_kinds = vec![KindRange(0..=u16::MAX)];
    let relay = TestRelay::with(settings);
    let content = "x".repeat(900);
    let mut number = 0;
    let refusal = loop {
        let events: Vec<Event> = (number..number + 500)
            .map(|n| event(n, author(Tier::Others, 0, false), 1, NOW - u64::from(n), &content))
            .collect();
        number += 500;
        let outcomes = relay.relay.ingest(events, true).recv().unwrap();
        if let Some(Outcome::Failed(reason)) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Failed(_))) {
            break reason.clone();
        }
        assert!(number < 100_000, "the ceiling is not kept");
    };
    assert_eq!(refusal, "error: the database is full: it has reached retention.max_size");
    assert!(relay.relay.store().used_bytes().unwrap() < 18 << 20);
    let note = common::note(9, NOW, "not taken");
    assert_eq!(relay.publish(&note), Outcome::Failed(refusal));
    // What makes room is taken.
    let deletion = common::sign(9, 5, NOW, &[&["e", &note.id.to_string()]], "");
    assert_eq!(relay.publish(&deletion), Outcome::Stored);
    assert_eq!(
        relay.publish(&common::sign(9, 20_000, NOW, &[], "")),
        Outcome::Unheard,
        "ephemeral events need no room"
    );
}

#[test]
fn a_relay_applies_its_rules_by_itself_when_their_time_comes() {
    let rules: Vec<RetentionRule> = vec!["1: 10d".parse().unwrap()];
    let mut settings = with_rules(&rules, &[], false);
    settings.unattended = true;
    let relay = TestRelay::with(settings);
    let events: Vec<Event> =
        (0..40).map(|n| event(n, author(Tier::Others, 0, false), 1, NOW - u64::from(n) * DAY, "")).collect();
    fill(&relay.relay, &events);
    let wait_for = |left: usize| {
        let began = std::time::Instant::now();
        while stored(&relay.relay.store()).len() != left {
            assert!(began.elapsed() < common::PATIENCE, "{} are left", stored(&relay.relay.store()).len());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    relay.clock.set(NOW + 2 * DAY);
    wait_for(9);
    relay.clock.set(NOW + 100 * DAY);
    wait_for(0);
}

#[test]
fn publishers_get_their_turn_between_the_transactions_of_a_removal() {
    const OLD: u32 = 12_000;
    let rules: Vec<RetentionRule> = vec!["1: 10d".parse().unwrap()];
    let relay = TestRelay::with(with_rules(&rules, &[], false));
    let old = |n: u32| event(n, author(Tier::Others, n as u8, false), 1, NOW - 20 * DAY - u64::from(n), "old");
    fill(&relay.relay, &(0..OLD).map(old).collect::<Vec<_>>());
    let over = AtomicBool::new(false);
    let figures = relay.relay.figures();
    let commits_before = figures.commits.read().count;
    let (published, between) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..2u8)
            .map(|who| {
                let (relay, over) = (&relay, &over);
                scope.spawn(move || {
                    let mut published = 0;
                    while !over.load(Relaxed) {
                        let event = common::note(1 + who, NOW, &format!("{published}"));
                        assert_eq!(relay.publish(&event), Outcome::Stored, "nobody is refused for it");
                        published += 1;
                    }
                    published
                })
            })
            .collect();
        let began = std::time::Instant::now();
        while figures.commits.read().count == commits_before {
            assert!(began.elapsed() < common::PATIENCE, "nobody publishes");
            std::thread::yield_now();
        }
        let (mut last, mut between) = (figures.commits.read().count, 0);
        let plan = relay.relay.prune(true, &mut |_, _| {
            let now = figures.commits.read().count;
            between += u64::from(now > last);
            last = now;
            ControlFlow::Continue(())
        });
        over.store(true, Relaxed);
        assert_eq!(plan.unwrap().total().events, u64::from(OLD));
        (publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum::<u64>(), between)
    });
    // What the relay itself counts: all of it in transactions of their own, and how long each kept the writer.
    let (times, sizes) = (figures.prunes.read(), figures.pruned.read());
    assert_eq!((sizes.sum, sizes.count), (u64::from(OLD), times.count));
    assert!(times.sum > 0 && times.count > 10, "{times:?}");
    assert!(sizes.buckets.iter().any(|(bound, count)| *bound >= 20 && *count > 0), "it begins with few: {sizes:?}");
    assert!(published > 0 && between > 0, "{published} published, between {between} of {} transactions", times.count);
    let info = relay.relay.store().info().unwrap();
    assert_eq!(info.events, published);
    println!(
        "{published} events published while {OLD} were removed in {} transactions, {:.1} ms each, {} of them in up to 50 ms",
        times.count,
        times.sum as f64 / times.count as f64 / 1e6,
        times.buckets.iter().find(|(bound, _)| *bound == 50_000_000).unwrap().1
    );
}

#[test]
fn what_is_replaced_and_removed_again_and_again_leaves_the_file_as_large_as_it_was() {
    const ROUND: u32 = 4_000;
    // In turn a new version of one of 500 lists and a note, one a second: as many notes go as come.
    let rules: Vec<RetentionRule> = vec![format!("1: {ROUND}s").parse().unwrap()];
    let relay = TestRelay::with(with_rules(&rules, &[], false));
    let store = relay.relay.store();
    let (mut replaced, mut removed, mut sizes) = (0, 0, Vec::new());
    for round in 0..8 {
        for batch in 0..ROUND / 500 {
            let first = round * ROUND + batch * 500;
            let events: Vec<Event> = (first..first + 500)
                .map(|n| {
                    let mut key = [9; 32];
                    key[..4].copy_from_slice(&(n / 2 % 500).to_be_bytes());
                    let kind = if n % 2 == 0 { 10_002 } else { 1 };
                    event(n, PublicKey(key), kind, NOW + u64::from(n), &"x".repeat(n as usize * 31 % 900))
                })
                .collect();
            relay.clock.set(NOW + u64::from(first) + 500);
            let before = store.info().unwrap().events;
            fill(&relay.relay, &events);
            replaced += before + 500 - store.info().unwrap().events;
        }
        removed += relay.relay.prune(false, &mut |_, _| ControlFlow::Continue(())).unwrap().total().events;
        sizes.push(store.info().unwrap().file_bytes);
    }
    // 500 lists and what notes the last 4,000 seconds brought are left.
    assert_eq!(store.info().unwrap().events, u64::from(8 * ROUND) - replaced - removed);
    assert!(replaced + removed > 29_000, "{replaced} replaced, {removed} removed");
    let (second, last) = (sizes[1], sizes[7]);
    assert!(last <= second + second / 10, "the file grows from round to round: {sizes:?}");
    let faults = store.verify().unwrap().faults;
    assert!(faults.iter().all(|fault| fault.contains("its id")), "{faults:?}");
}
