//! Whichever way events come in, one by one, in batches or through the bulk door, the same database is there in the end: the same
//! verdicts, the same log, the same entries in every table, and all tables agree.

mod common;

use std::ops::ControlFlow;

use common::{NOW, TestRelay, json, sign};
use proptest::prelude::*;
use ratite::nostr::Event;
use ratite::relay::{Bulk, Outcome, Relay, Settings};
use ratite::store::{Applied, Record, Store};

/// An event that has to do with others: what it replaces, deletes or makes vanish is drawn from a few authors, seconds and names.
#[derive(Clone, Debug)]
struct Draft {
    author: u8,
    time: u64,
    what: What,
    /// Where it stands in the order of arrival, so that deletions come before what they delete as well.
    place: u8,
}

#[derive(Clone, Debug)]
enum What {
    Note(Vec<u8>),
    Expiring(u64),
    Ephemeral,
    Profile,
    Article(u8),
    Wrap(u8),
    Again(usize),
    Delete(Vec<usize>),
    DeleteArticle(u8),
    Vanish,
}

fn draft() -> impl Strategy<Value = Draft> {
    let what = prop_oneof![
        6 => prop::collection::vec(0u8..6, 0..8).prop_map(What::Note),
        1 => (NOW - 2..NOW + 3).prop_map(What::Expiring),
        1 => Just(What::Ephemeral),
        3 => Just(What::Profile),
        3 => (0u8..3).prop_map(What::Article),
        2 => (1u8..4).prop_map(What::Wrap),
        1 => any::<usize>().prop_map(What::Again),
        3 => prop::collection::vec(any::<usize>(), 1..4).prop_map(What::Delete),
        1 => (0u8..3).prop_map(What::DeleteArticle),
        1 => Just(What::Vanish),
    ];
    (1u8..4, 1_000u64..1_012, what, any::<u8>()).prop_map(|(author, time, what, place)| Draft {
        author,
        time,
        what,
        place,
    })
}

fn events(drafts: &[Draft]) -> Vec<Event> {
    let key = |author: u8| sign(author, 1, 0, &[], "").pubkey.to_string();
    let mut made: Vec<(u8, Event)> = Vec::new();
    for (n, draft) in drafts.iter().enumerate() {
        let other = |i: &usize| made.get(i % made.len().max(1)).map(|(_, event)| event.clone());
        let (mut kind, mut tags, mut content) = (1, Vec::<[String; 2]>::new(), n.to_string());
        let mut tag = |name: &str, value: String| tags.push([name.to_owned(), value]);
        match &draft.what {
            What::Note(topics) => topics.iter().for_each(|topic| tag("t", format!("topic {topic}"))),
            What::Expiring(at) => tag("expiration", at.to_string()),
            What::Ephemeral => kind = 20_001,
            What::Profile => kind = 0,
            What::Article(d) => {
                kind = 30_023;
                tag("d", d.to_string());
                // Long enough for pages of its own.
                content = content.repeat(3000);
            }
            What::Wrap(to) => {
                kind = 1059;
                tag("p", key(*to));
            }
            What::Again(i) => {
                if let Some(event) = other(i) {
                    made.push((draft.place, event));
                    continue;
                }
            }
            What::Delete(targets) => {
                kind = 5;
                targets.iter().filter_map(other).for_each(|event| tag("e", event.id.to_string()));
            }
            What::DeleteArticle(d) => {
                kind = 5;
                tag("a", format!("30023:{}:{d}", key(draft.author)));
            }
            What::Vanish => {
                kind = 62;
                tag("relay", "ALL_RELAYS".to_owned());
            }
        }
        let tags: Vec<[&str; 2]> = tags.iter().map(|tag| [tag[0].as_str(), tag[1].as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        made.push((draft.place, sign(draft.author, kind, draft.time, &tags, &content)));
    }
    made.sort_by_key(|(place, _)| *place);
    made.into_iter().map(|(_, event)| event).collect()
}

/// Numbers and records.
type Log = Vec<(u64, Vec<u8>)>;

/// Tables and how many entries they have.
type Entries = Vec<(&'static str, u64)>;

/// All there is to know of a database: its log, the number of entries of each table, and that its tables agree.
fn contents(store: &Store) -> (Log, Entries) {
    let report = store.verify().expect("verify");
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    let mut log = Vec::new();
    let mut keep = |seq, record: Record<'_>| {
        log.push((seq, record.as_bytes().to_vec()));
        ControlFlow::Continue(())
    };
    assert!(store.log(0, &mut keep).expect("log").1, "the end of the log");
    let tables = store.info().expect("info").tables;
    // What they say of their file depends on how it came about.
    let of_the_file = ["reserve", "holes"];
    (
        log,
        tables
            .iter()
            .filter(|table| !of_the_file.contains(&table.name))
            .map(|table| (table.name, table.entries))
            .collect(),
    )
}

/// Stores events in transactions that end behind each of `cuts`.
fn in_batches(store: &Store, events: &[Event], cuts: &[usize]) -> Vec<Applied> {
    let mut verdicts = Vec::new();
    let mut batch = store.batch(NOW).expect("batch");
    for (n, event) in events.iter().enumerate() {
        verdicts.push(batch.apply(&store.prepare(event)).expect("apply"));
        if cuts.contains(&n) {
            batch.commit().expect("commit");
            batch = store.batch(NOW).expect("batch");
        }
    }
    batch.commit().expect("commit");
    verdicts
}

fn new_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path(), common::MAP).expect("open");
    (folder, store)
}

fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Stored => "stored",
        Outcome::Duplicate => "duplicate",
        Outcome::Replaced => "superseded",
        Outcome::Delivered | Outcome::Unheard => "ephemeral",
        Outcome::Refused(_) => "refused",
        Outcome::Granted(_) => "granted",
        Outcome::Failed(_) => "failed",
    }
}

fn applied(applied: &Applied) -> &'static str {
    match applied {
        Applied::Stored(_) => "stored",
        Applied::Duplicate => "duplicate",
        Applied::Superseded => "superseded",
        Applied::Ephemeral => "ephemeral",
        // Of several reasons the doors may see another one first.
        Applied::Expired | Applied::Deleted | Applied::Vanished => "refused",
    }
}

fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_way_in_leads_to_the_same_database(
        drafts in prop::collection::vec(draft(), 1..80),
        cuts in prop::collection::vec(0usize..80, 0..6),
        chunk in 1usize..30,
    ) {
        let events = events(&drafts);
        let (_one_by_one, store) = new_store();
        let all: Vec<usize> = (0..events.len()).collect();
        let expected = in_batches(&store, &events, &all);
        let one_by_one = contents(&store);

        for cuts in [&[][..], &cuts[..]] {
            let (_folder, store) = new_store();
            prop_assert_eq!(&in_batches(&store, &events, cuts), &expected, "cut behind {:?}", cuts);
            prop_assert_eq!(contents(&store), one_by_one.clone(), "cut behind {:?}", cuts);
        }

        // The bulk door, into an empty database and into one that has something: transactions of two kinds.
        for first in [0, chunk] {
            let relay = TestRelay::with(Settings { alone: true, ..common::settings() });
            let texts: Vec<String> = events.iter().map(json).collect();
            let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            let (first, rest) = texts.split_at(first.min(texts.len()));
            let mut verdicts = Vec::new();
            let mut bulk = relay.relay.bulk(false);
            for (texts, settle) in std::iter::once((first, true)).chain(rest.chunks(chunk).map(|texts| (texts, false))) {
                let settled = bulk.push(texts);
                let mut said = vec![None; texts.len()];
                settled.iter().for_each(|(place, outcome)| said[*place] = Some(verdict(outcome)));
                verdicts.extend(said);
                if settle {
                    bulk.settle().expect("settle").iter().for_each(|outcome| fill(&mut verdicts, verdict(outcome)));
                }
            }
            bulk.settle().expect("settle").iter().for_each(|outcome| fill(&mut verdicts, verdict(outcome)));
            let verdicts: Vec<&str> = verdicts.into_iter().map(|verdict| verdict.expect("a verdict for each")).collect();
            for (n, (verdict, expected)) in verdicts.iter().zip(expected.iter().map(applied)).enumerate() {
                // What is stored is known before its turn comes: a deletion or a newer version may stand between.
                let gone_meanwhile = *verdict == "duplicate" && ["refused", "superseded"].contains(&expected);
                prop_assert!(*verdict == expected || gone_meanwhile, "{n}: {verdict}, not {expected}");
            }
            prop_assert_eq!(contents(&relay.relay.store()), one_by_one.clone());
        }
    }
}

/// Outcomes come in the order of the events that have none yet.
fn fill(verdicts: &mut [Option<&'static str>], verdict: &'static str) {
    *verdicts.iter_mut().find(|verdict| verdict.is_none()).expect("no more outcomes than events") = Some(verdict);
}

#[test]
fn what_is_pushed_is_stored_when_the_bulk_is_dropped() {
    let relay = TestRelay::new();
    let event = common::note(1, 1_000, "pushed");
    let mut bulk = relay.relay.bulk(true);
    assert!(bulk.push(&[json(&event).as_bytes(), b"no event"]).iter().map(|(place, _)| *place).eq([1]));
    drop(bulk);
    // Whoever writes next waits until then.
    assert_eq!(relay.publish(&common::note(1, 1_001, "published")), Outcome::Stored);
    assert_eq!(relay.relay.store().contains([event.id].into_iter()).expect("contains"), [true]);
}

#[test]
fn an_open_bulk_lets_publishers_pass() {
    let relay = TestRelay::new();
    let mut bulk = relay.relay.bulk(true);
    let pushed = common::note(1, 1_000, "pushed");
    assert!(bulk.push(&[json(&pushed).as_bytes()]).is_empty());
    // Its transaction is open and waits for more; what is published ends it.
    assert_eq!(relay.publish(&common::note(2, 1_000, "published")), Outcome::Stored);
    assert_eq!(bulk.outcomes(), Ok(vec![Outcome::Stored]));
}

/// Contact lists touch pages all over the index of tags: a transaction that replaces many of them would leave as many free pages.
#[test]
fn what_replaces_much_is_committed_in_parts_and_each_event_gets_its_outcome() {
    let relay = TestRelay::new();
    let lists = |time: u64| -> Vec<Vec<u8>> {
        let keys: Vec<String> = (0..80u64).map(|n| format!("{n:064x}")).collect();
        let tags: Vec<[&str; 2]> = keys.iter().map(|key| ["p", key.as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        (1..31).map(|author| json(&sign(author, 3, time, &tags, "")).into_bytes()).collect()
    };
    let store = relay.relay.store();
    let commits_of = |texts: &[Vec<u8>]| {
        let before = store.last_commit().unwrap();
        let mut bulk = relay.relay.bulk(false);
        assert!(bulk.push(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>()).is_empty());
        let outcomes = bulk.settle().expect("outcomes");
        assert_eq!(outcomes.len(), texts.len());
        (outcomes, store.last_commit().unwrap() - before)
    };
    let (outcomes, at_once) = commits_of(&lists(1_000));
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
    let mut mixed = lists(2_000);
    mixed.insert(10, lists(1_500).remove(0));
    let (outcomes, in_parts) = commits_of(&mixed);
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome, if n == 10 { Outcome::Replaced } else { Outcome::Stored }, "event {n}");
    }
    assert!(in_parts >= at_once + 3, "{at_once} commits, then {in_parts}");
    assert_eq!(store.verify().expect("verify").faults, Vec::<String>::new());
}

/// A place is noted with the events before it, and not when one of them did not get in.
#[test]
fn bookmarks_are_committed_with_the_events_before_them() {
    const KEY: [u8; 16] = [1; 16];
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Room for some thousand bytes of events, not for millions.
    let store = Store::open(folder.path(), 4 << 20).expect("open");
    let relay = Relay::start(store.clone(), common::settings()).expect("start");
    let place = || store.bookmark(&KEY).expect("bookmark").map(|place| String::from_utf8(place).expect("text"));
    let mut bulk = relay.bulk(false);
    let push = |bulk: &mut Bulk, texts: &[String], place: &str| {
        let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        bulk.push_marked(&texts, |settled| vec![(KEY, format!("{place}, {} refused", settled.len()).into_bytes())])
    };
    let small = |time: u64| vec![json(&common::note(1, time, "small"))];
    push(&mut bulk, &[small(1), vec!["no event".to_owned()]].concat(), "one");
    assert_eq!(place(), None, "nothing is committed yet");
    assert_eq!(bulk.settle().expect("settle"), [Outcome::Stored]);
    assert_eq!(place().as_deref(), Some("one, 1 refused"));
    // Where nothing is to be stored it comes after a while, or with what is.
    for n in 0..40 {
        push(&mut bulk, &small(1), &n.to_string());
    }
    bulk.settle().expect("settle");
    assert_eq!(place().as_deref(), Some("31, 1 refused"));
    push(&mut bulk, &small(2), "two");
    bulk.settle().expect("settle");
    assert_eq!(place().as_deref(), Some("two, 0 refused"));

    let large: Vec<String> = (0..100u64).map(|n| json(&common::note(1, 10 + n, &"large ".repeat(10_000)))).collect();
    push(&mut bulk, &large, "three");
    assert!(bulk.settle().expect("settle").iter().all(|outcome| matches!(outcome, Outcome::Failed(_))));
    push(&mut bulk, &small(3), "four");
    assert_eq!(bulk.settle().expect("settle"), [Outcome::Stored]);
    assert_eq!(place().as_deref(), Some("two, 0 refused"), "what came before the fourth is not all in");
    drop(bulk);
    relay.shutdown();
}
