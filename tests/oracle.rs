//! Random events and questions, judged by a relay that anybody can check by reading it (`common/model.rs`).

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use common::model::{Model, Verdict, matches};
use common::{NOW, TestRelay, events_of, settings, sign};
use proptest::prelude::*;
use ratite::nostr::{Audience, Event, EventFields, Filter, SubscriptionId};
use ratite::relay::{Outcome, Settings};
use ratite::store::{Budget, Count, Order, Progress, Record, Scan};

/// A small world, so that things meet: few authors, kinds, seconds and values.
#[derive(Clone, Debug)]
struct Draft {
    author: u8,
    kind: u16,
    time: u64,
    tags: Vec<(usize, usize)>,
    content: u8,
}

const KINDS: [u16; 9] = [0, 1, 3, 7, 1059, 10_002, 20_001, 30_023, 40_000];

/// Values that tags choose from: ids and keys, words, nothing at all, and look-alikes.
fn values() -> Vec<String> {
    let key = |n: u8| sign(n, 1, 0, &[], "").pubkey.to_string();
    let long = "x".repeat(600);
    let mut values = vec![key(1), key(2), key(3), "nostr".into(), "Nostr".into(), "".into(), "a\u{0}b".into(), long];
    values.push(key(1).to_uppercase());
    values
}

const NAMES: [&str; 8] = ["e", "p", "t", "d", "E", "tt", "é", "_"];

impl Draft {
    fn event(&self) -> Event {
        let values = values();
        let tags: Vec<[&str; 2]> =
            self.tags.iter().map(|(n, v)| [NAMES[n % NAMES.len()], values[v % values.len()].as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        sign(self.author, self.kind, self.time, &tags, &format!("{}", self.content))
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let time = prop_oneof![8 => 1_000u64..1_012, 2 => 0u64..3, 1 => Just(u64::from(u32::MAX)), 1 => (1u64 << 33)..(1 << 33) + 3];
    let tags = prop::collection::vec((0..NAMES.len(), 0usize..9), 0..5);
    (1u8..4, prop::sample::select(&KINDS[..]), time, tags, 0u8..3)
        .prop_map(|(author, kind, time, tags, content)| Draft { author, kind, time, tags, content })
}

fn some<T: Clone + std::fmt::Debug + 'static>(from: Vec<T>, likely: f64) -> impl Strategy<Value = Option<Vec<T>>> {
    prop::option::weighted(likely, prop::collection::vec(prop::sample::select(from), 0..4))
}

/// A filter as JSON, made of the same world; ids are chosen by position among the events.
fn filter_json(ids: Vec<String>) -> impl Strategy<Value = String> {
    let authors: Vec<String> = (1u8..5).map(|n| sign(n, 1, 0, &[], "").pubkey.to_string()).collect();
    let keys: Vec<String> = values()[..3].to_vec();
    let time = || prop::option::weighted(0.3, prop_oneof![5 => 999u64..1_013, 1 => 0u64..2, 1 => Just(1u64 << 33)]);
    (
        some(ids, 0.1),
        some(authors, 0.4),
        some(KINDS.to_vec(), 0.5),
        (some(keys.clone(), 0.15), some(keys, 0.15), some(values(), 0.2), some(values(), 0.1)),
        time(),
        time(),
        prop::option::weighted(0.4, 0u64..8),
    )
        .prop_map(|(ids, authors, kinds, (e, p, t, d), since, until, limit)| {
            let mut filter = serde_json::Map::new();
            let mut set = |name: &str, value: Option<serde_json::Value>| {
                value.map(|value| filter.insert(name.into(), value));
            };
            set("ids", ids.map(Into::into));
            set("authors", authors.map(Into::into));
            set("kinds", kinds.map(Into::into));
            set("#e", e.map(Into::into));
            set("#p", p.map(Into::into));
            set("#t", t.map(Into::into));
            set("#d", d.map(Into::into));
            set("since", since.map(Into::into));
            set("until", until.map(Into::into));
            set("limit", limit.map(Into::into));
            serde_json::Value::Object(filter).to_string()
        })
}

fn world() -> impl Strategy<Value = (Vec<Event>, Vec<Vec<String>>)> {
    prop::collection::vec(draft(), 1..60).prop_flat_map(|drafts| {
        let events: Vec<Event> = drafts.iter().map(Draft::event).collect();
        let ids = events.iter().map(|event| event.id.to_string()).collect();
        let questions = prop::collection::vec(prop::collection::vec(filter_json(ids), 1..4), 12);
        (Just(events), questions)
    })
}

fn parse(filters: &[String]) -> Vec<Filter> {
    filters.iter().map(|json| Filter::parse(json.as_bytes()).expect("a filter")).collect()
}

/// How many cases to try; `PROPTEST_CASES` asks for more.
fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{} k{} t{}", event.id, event.kind, event.created_at)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(60), max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Law 8: the same question gives the same answer, whichever index and whichever thread served it; stored and live, order included.
    #[test]
    fn every_query_and_every_live_match_agrees_with_the_model((events, questions) in world(), callers in 1usize..3) {
        // A single caller answers nothing itself: all goes to the readers.
        let relay = TestRelay::with(Settings { callers, ..settings() });
        let mut model = Model::default();
        let (first, second) = events.split_at(events.len() / 2);
        // The first half comes in bulk, the second one by one while every question is open.
        let outcomes = relay.relay.ingest(first.to_vec(), false).recv().expect("outcomes");
        for (event, outcome) in first.iter().zip(outcomes) {
            prop_assert_eq!(verdict(&outcome), model.publish(event, NOW), "{:?}", event);
        }
        let (client, inbox) = relay.connect();
        for (n, filters) in questions.iter().enumerate() {
            let filters = parse(filters);
            client.subscribe(SubscriptionId::new(&n.to_string()).expect("id"), filters.clone());
            let eose = format!("[\"EOSE\",\"{n}\"]");
            let stored = events_of(&inbox.until(|message| message == eose));
            prop_assert_eq!(texts(&stored), texts(&model.query(&filters, NOW)), "stored events of {:?}", questions[n]);
        }
        for event in second {
            let outcome = relay.publish(event);
            let expected = model.publish(event, NOW);
            let open = questions.iter().map(|filters| parse(filters));
            let wanted: Vec<usize> = open
                .enumerate()
                .filter(|(_, filters)| filters.iter().any(|filter| !filter.is_impossible() && matches(filter, event)))
                .map(|(n, _)| n)
                .collect();
            let goes_out = matches!(expected, Verdict::Stored | Verdict::Ephemeral);
            match expected {
                Verdict::Ephemeral if wanted.is_empty() => prop_assert_eq!(outcome, Outcome::Unheard),
                _ => prop_assert_eq!(verdict(&outcome), expected, "{:?}", event),
            }
            let wanted = if goes_out { wanted } else { Vec::new() };
            let mut got = inbox.take_count(wanted.len());
            let mut due: Vec<String> = wanted.iter().map(|n| format!("[\"EVENT\",\"{n}\",{}]", common::json(event))).collect();
            got.sort();
            due.sort();
            prop_assert_eq!(got, due, "live delivery of {:?}", event);
        }
        prop_assert!(inbox.take().is_empty(), "nothing but what was wanted");
        for filters in &questions {
            let filters = parse(filters);
            prop_assert_eq!(texts(&relay.query(filters.clone())), texts(&model.query(&filters, NOW)));
            let unlimited: Vec<Filter> = filters.into_iter().map(|f| Filter { limit: None, ..f }).collect();
            prop_assert_eq!(relay.relay.count(unlimited.clone()).expect("count"), model.query(&unlimited, NOW).len() as u64);
        }
        for filters in &questions {
            every_plan_gives_the_same_answer(&relay, &model, &parse(filters))?;
        }
        let report = relay.relay.store().verify().expect("verify");
        prop_assert_eq!(report.faults, Vec::<String>::new());
    }
}

/// Whichever index serves it, in both directions, whole or paused after every single step.
fn every_plan_gives_the_same_answer(relay: &TestRelay, model: &Model, filters: &[Filter]) -> Result<(), TestCaseError> {
    let filters: Vec<Filter> = filters.iter().map(|f| Filter { limit: f.limit.or(Some(500)), ..f.clone() }).collect();
    let newest = model.query(&filters, NOW);
    let unlimited: Vec<Filter> = filters.iter().map(|f| Filter { limit: None, ..f.clone() }).collect();
    let mut oldest = model.query(&unlimited, NOW);
    oldest.reverse();
    let whole = Budget { keys: u64::MAX, time: Duration::from_secs(60) };
    let step = Budget { keys: 0, time: Duration::ZERO };
    for (filters, order, expected) in
        [(&filters, Order::NewestFirst, &newest), (&unlimited, Order::OldestFirst, &oldest)]
    {
        for candidate in 0..6 {
            for (budget, breaks) in [(whole, false), (step, false), (whole, true)] {
                let mut scan = Scan::new(filters.clone(), order).forced(candidate);
                let mut answer = Vec::new();
                let mut each = |record: &Record<'_>| {
                    answer.push(record.to_event().expect("records are whole"));
                    if breaks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                while scan.run(&relay.relay.store(), NOW, budget, &mut each).expect("scan") == Progress::More {}
                prop_assert_eq!(texts(&answer), texts(expected), "candidate {} of {:?}", candidate, filters);
            }
        }
    }
    // Counts, each three times: what the first learns of who owns a range, the others use. Seen by everybody, and by those to whom
    // private kinds show nothing but what author 1 wrote.
    let one = sign(1, 1, 0, &[], "").pubkey;
    let expected = model.query(&unlimited, NOW);
    let public = expected.iter().filter(|e| e.kind.audience() == Audience::Public || e.pubkey == one).count() as u64;
    for candidate in 0..6 {
        for budget in [step, whole, step] {
            let all = Count::new(unlimited.clone()).forced(candidate);
            let some = Count::new(unlimited.clone()).forced(candidate);
            let some = some
                .visible(move |record| record.kind().audience() == Audience::Public || record.pubkey() == one, false);
            for (mut count, expected) in [(all, expected.len() as u64), (some, public)] {
                while count.run(&relay.relay.store(), NOW, budget).expect("count") == Progress::More {}
                prop_assert_eq!(count.found(), expected, "candidate {} of {:?}", candidate, &unlimited);
            }
        }
    }
    Ok(())
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Stored => Verdict::Stored,
        Outcome::Delivered | Outcome::Unheard => Verdict::Ephemeral,
        Outcome::Duplicate => Verdict::Duplicate,
        Outcome::Replaced => Verdict::Replaced,
        Outcome::Refused(text) if text.starts_with("blocked:") => Verdict::Blocked,
        Outcome::Refused(text) if text.contains("expired") => Verdict::Expired,
        other => panic!("{other:?}"),
    }
}

/// One step of a relay's life.
#[derive(Clone, Debug)]
enum Step {
    Publish(Draft),
    /// One of the events published before, again.
    Again(usize),
    /// A deletion by some author of some earlier event, by id or by address.
    Delete {
        author: u8,
        target: usize,
        by_address: bool,
        time: u64,
    },
    Expiring {
        author: u8,
        time: u64,
        lives: u64,
    },
    Vanish {
        author: u8,
        time: u64,
    },
    Operator(usize),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => draft().prop_map(Step::Publish),
        4 => any::<usize>().prop_map(Step::Again),
        4 => (1u8..4, any::<usize>(), any::<bool>(), 998u64..1_014)
            .prop_map(|(author, target, by_address, time)| Step::Delete { author, target, by_address, time }),
        3 => (1u8..4, 1_000u64..1_012, 1u64..6).prop_map(|(author, time, lives)| Step::Expiring { author, time, lives }),
        1 => (1u8..4, 998u64..1_014).prop_map(|(author, time)| Step::Vanish { author, time }),
        1 => any::<usize>().prop_map(Step::Operator),
        2 => (1u64..4).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Publishing, replacing, deleting, expiring, vanishing, restarting: the final state is the model's.
    #[test]
    fn a_random_life_ends_in_the_state_of_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut relay = TestRelay::new();
        let mut model = Model::default();
        let mut now = NOW;
        let mut known: Vec<Event> = vec![sign(1, 1, 1_000, &[], "the first")];
        for step in &steps {
            let pick = |n: usize| known[n % known.len()].clone();
            let event = match step {
                Step::Publish(draft) => draft.event(),
                Step::Again(n) => pick(*n),
                Step::Delete { author, target, by_address, time } => {
                    let target = pick(*target);
                    let id = target.id.to_string();
                    let d = target.identifier();
                    let d = if target.kind.0 >= 30_000 { d } else { "" };
                    let address = format!("{}:{}:{d}", target.kind, target.pubkey);
                    let tag = if *by_address { ["a", &address] } else { ["e", &id] };
                    sign(*author, 5, *time, &[&tag], "")
                }
                Step::Expiring { author, time, lives } => {
                    sign(*author, 1, *time, &[&["expiration", &(now + lives).to_string()]], "soon gone")
                }
                Step::Vanish { author, time } => sign(*author, 62, *time, &[&["relay", "ALL_RELAYS"]], ""),
                Step::Operator(n) => {
                    let filter = format!("{{\"kinds\":[{}],\"authors\":[\"{}\"]}}", pick(*n).kind, pick(*n).pubkey);
                    let filter = Filter::parse(filter.as_bytes()).expect("a filter");
                    relay.relay.remove(vec![filter.clone()], &mut |_| ControlFlow::Continue(())).expect("remove");
                    model.remove(&filter, now);
                    continue;
                }
                Step::Wait(seconds) => {
                    now += seconds;
                    relay.clock.set(now);
                    continue;
                }
                Step::Restart => {
                    relay.restart();
                    continue;
                }
            };
            let outcome = relay.publish(&event);
            prop_assert_eq!(verdict(&outcome), model.publish(&event, now), "{:?} after {:?}", event, steps);
            known.push(event);
        }
        let everything = vec![Filter { limit: Some(5_000), ..Filter::default() }];
        prop_assert_eq!(texts(&relay.query(everything.clone())), texts(&model.query(&everything, now)), "{:?}", steps);
        relay.restart();
        prop_assert_eq!(texts(&relay.query(everything.clone())), texts(&model.query(&everything, now)), "{:?}", steps);
        let report = relay.relay.store().verify().expect("verify");
        prop_assert_eq!(report.faults, Vec::<String>::new(), "{:?}", steps);
    }
}
