//! A full database and a full disk: events are refused with a reason, questions are answered, `/health` says what is
//! wrong, and service resumes by itself when there is room.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;
#[path = "common/disk.rs"]
mod disk;
mod wire;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::process::Command;

use ratite::nostr::{Event, EventId, Filter, Kind, Tags, UnsignedEvent};
use ratite::relay::{Clock, Outcome};
use ratite::store::Store;
use secp256k1::Keypair;

use disk::Disk;
use wire::process::{RelayProcess, ratite};
use wire::{Socket, TestRelay, eventually, health};

const SMALL_MAP: u64 = 4 << 20;

/// Publishes until the relay is so full that it refuses one event after the other; returns what it took.
fn fill(socket: &mut Socket, mut event: impl FnMut(usize) -> Event) -> Vec<Event> {
    let (mut taken, mut refused, mut window) = (Vec::new(), 0, 32);
    for i in (0..).step_by(32) {
        let events: Vec<Event> = (i..i + window).map(&mut event).collect();
        events.iter().for_each(|event| socket.publish(event));
        for event in events {
            let ok = socket.hears("OK", &event.id.to_string());
            if ok[2] == true {
                taken.push(event);
                continue;
            }
            assert!(ok[3].as_str().unwrap().starts_with("error: the database is full"), "{ok}");
            refused += 1;
            // One at a time from now on: the last room is for small transactions.
            window = 1;
        }
        if refused > 100 {
            return taken;
        }
    }
    unreachable!("the numbers do not end");
}

/// An event by one of 50 authors with some tags, that differs from all others in what the indices are about.
fn event(number: usize, tags: usize, expires: Option<u64>) -> Event {
    let key = Keypair::from_secret_bytes([1 + (number % 50) as u8; 32]).unwrap();
    let mut all = Tags::default();
    for tag in 0..tags {
        all.push(["t", &format!("{number} {tag}")]);
    }
    if let Some(at) = expires {
        all.push(["expiration", &at.to_string()]);
    }
    let created_at = 1_600_000_000 + (number as u64 * 7_919) % 100_000_000;
    let content = "x".repeat(number * 31 % 2000);
    UnsignedEvent { created_at, kind: Kind(1 + (number % 7) as u16 * 1000), tags: all, content: content.into() }
        .sign(&key)
}

fn ids(events: &[Event]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.id).collect()
}

#[track_caller]
fn assert_full(address: SocketAddr) {
    let (status, body) = health(address);
    assert_eq!((status, &body["status"]), (503, &"failing".into()), "{body}");
    let problem = body["problems"][0].as_str().unwrap();
    assert!(problem.contains("events are refused") && problem.contains("is full"), "{body}");
}

/// All that goes on in a full relay.
#[track_caller]
fn assert_reads_go_on(address: SocketAddr, taken: &[Event]) {
    let mut socket = Socket::open(address);
    assert_eq!(wire::ask_for(&mut socket, &taken.iter().map(|event| event.id).collect::<Vec<_>>()), ids(taken));

    socket.publish(&taken[0]);
    assert_eq!(socket.hears("OK", &taken[0].id.to_string())[2], true, "what is there is there");
    let ephemeral = wire::event(1, 20_000, "not stored");
    socket.say("[\"REQ\",\"live\",{\"kinds\":[20000],\"limit\":0}]");
    socket.hears("EOSE", "live");
    socket.publish(&ephemeral);
    let mut heard = [socket.hear()[0].clone(), socket.hear()[0].clone()].map(|verb| verb.as_str().unwrap().to_owned());
    heard.sort();
    assert_eq!(heard, ["EVENT", "OK"], "ephemeral events need no room");
}

#[track_caller]
fn assert_takes_events(address: SocketAddr, event: &Event) {
    let mut socket = Socket::open(address);
    socket.publish(event);
    let ok = socket.hears("OK", &event.id.to_string());
    assert_eq!(ok[2], true, "{ok}");
    assert_eq!(health(address).0, 200);
}

/// What the database holds is what the relay took, and all tables agree.
#[track_caller]
fn assert_holds(store: &Store, taken: &[Event]) {
    let report = store.verify().unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert_eq!(report.events, taken.len() as u64);
    assert!(store.contains(taken.iter().map(|event| event.id)).unwrap().into_iter().all(|there| there));
}

/// Pages that removals can count on.
fn reserve(store: &Store) -> u64 {
    store.info().unwrap().tables.iter().find(|table| table.name == "reserve").unwrap().entries
}

#[test]
fn a_full_map_refuses_answers_says_so_and_a_removal_makes_room() {
    // From events in few pages to such as need a page for each tag.
    for tags in [1, 30] {
        let relay = TestRelay::with(|config| config.storage.map_size = SMALL_MAP);
        let taken = fill(&mut relay.connect(), |number| event(number, tags, None));
        assert!(taken.len() > 300, "{}", taken.len());
        assert_full(relay.address);
        assert_reads_go_on(relay.address, &taken);
        assert_holds(&relay.relay.store(), &taken);
        assert!(reserve(&relay.relay.store()) > 50);

        let kind = |kind| Filter { kinds: Some(vec![Kind(kind)]), ..Filter::default() };
        let (gone, kept): (Vec<Event>, Vec<Event>) = taken.into_iter().partition(|event| event.kind.0 < 4000);
        let mut told = 0;
        let removed = relay
            .relay
            .remove(vec![kind(1), kind(1001), kind(2001), kind(3001)], &mut |n| {
                told = n;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((removed, told), (gone.len() as u64, gone.len() as u64));
        assert_eq!(health(relay.address).0, 200, "the removal itself sees that there is room");
        let more = event(1_000_000, 1, None);
        assert_takes_events(relay.address, &more);
        assert_holds(&relay.relay.store(), &[kept, vec![more]].concat());
    }
}

#[test]
fn a_full_map_is_emptied_while_clients_go_on_asking_and_publishing() {
    let relay = TestRelay::with(|config| config.storage.map_size = SMALL_MAP);
    let taken = fill(&mut relay.connect(), |number| event(number, 5, None));
    let over = std::sync::atomic::AtomicBool::new(false);
    let is_over = || over.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut socket = relay.connect();
                while !is_over() {
                    socket.say("[\"REQ\",\"all\",{\"limit\":5000}]");
                    while socket.hear()[0] != "EOSE" {}
                }
            });
        }
        scope.spawn(|| {
            let mut socket = relay.connect();
            for number in 1_000_000.. {
                let event = event(number, 5, None);
                socket.publish(&event);
                socket.hears("OK", &event.id.to_string());
                if is_over() {
                    break;
                }
            }
        });
        let everything_old = Filter { ids: Some(ids(&taken).into_iter().collect()), ..Filter::default() };
        let removed = relay.relay.remove(vec![everything_old], &mut |_| ControlFlow::Continue(()));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(removed.unwrap(), taken.len() as u64);
    });
    assert_eq!(relay.relay.store().verify().unwrap().faults, [""; 0]);
}

#[test]
fn a_batch_that_does_not_fit_claims_nothing_of_itself() {
    let relay = TestRelay::with(|config| config.storage.map_size = SMALL_MAP);
    let there = event(0, 1, None);
    let forged = Event { content: "forged".into(), ..event(1, 1, None) };
    assert_eq!(relay.relay.ingest(vec![there.clone()], false).recv().unwrap(), [Outcome::Stored]);
    // The second copy is a duplicate of the first only if the first is stored.
    let mut batch = vec![there, forged, event(2, 1, None), event(2, 1, None)];
    batch.extend((3..10_000).map(|number| event(number, 1, None)));
    let outcomes = relay.relay.ingest(batch, false).recv().unwrap();
    assert_eq!(outcomes[0], Outcome::Duplicate);
    assert!(matches!(outcomes[1], Outcome::Refused(_)), "{:?}", outcomes[1]);
    assert!(outcomes[2..].iter().all(|outcome| matches!(outcome, Outcome::Failed(_))), "{:?}", &outcomes[2..4]);
    assert_eq!(relay.relay.store().info().unwrap().events, 1);
}

#[test]
fn what_expires_makes_room_by_itself() {
    let clock = Clock::fixed(wire::now());
    let relay = TestRelay::at(clock.clone(), |config| config.storage.map_size = SMALL_MAP);
    let expires = clock.now() + 100;
    fill(&mut relay.connect(), |number| event(number, 5, (number % 3 > 0).then_some(expires)));
    assert_full(relay.address);
    clock.set(expires);
    eventually("the relay is healthy again", || health(relay.address).0 == 200);
    assert_takes_events(relay.address, &event(1_000_000, 5, None));
}

#[test]
fn a_relay_notices_that_another_process_made_room() {
    let folder = tempfile::tempdir().unwrap();
    let small_map = |command: &mut Command| {
        command.env("RATITE_STORAGE_MAP_SIZE", (16 << 20).to_string());
    };
    let relay = RelayProcess::with(folder.path(), small_map);
    let large = |number: usize| wire::event(1, 1, &format!("{number}{}", "x".repeat(60_000)));
    let taken = fill(&mut relay.connect(), large);
    assert_full(relay.address);

    // So full a relay starts, too.
    drop(relay);
    let relay = RelayProcess::with(folder.path(), small_map);
    assert_reads_go_on(relay.address, &taken);
    let refused = large(1_000_000);
    let mut socket = relay.connect();
    socket.publish(&refused);
    assert_eq!(socket.hears("OK", &refused.id.to_string())[2], false);
    assert_full(relay.address);

    let mut delete = ratite(folder.path(), &["delete", "--filter", "{\"kinds\":[1]}"]);
    small_map(&mut delete);
    let ended = delete.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    eventually("the relay is healthy again, though nobody publishes", || health(relay.address).0 == 200);
    assert_takes_events(relay.address, &refused);
}

#[test]
fn a_full_disk_refuses_answers_says_so_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(12, folder.path()) else { return };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    {
        let relay = TestRelay::with(|config| config.storage.path = disk.0.join("data"));
        let mut taken = fill(&mut relay.connect(), |number| event(number, 5, None));
        assert!(taken.len() > 300, "{}", taken.len());
        assert_full(relay.address);
        assert_reads_go_on(relay.address, &taken);
        assert_holds(&relay.relay.store(), &taken);

        // Room on the disk.
        std::fs::remove_file(&ballast).unwrap();
        eventually("the relay is healthy again, though nobody publishes", || health(relay.address).0 == 200);
        taken.extend(fill(&mut relay.connect(), |number| event(1_000_000 + number, 5, None)));
        assert_full(relay.address);

        // Room in the database.
        let removed = relay.relay.remove(vec![Filter::default()], &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(removed, taken.len() as u64);
        assert_takes_events(relay.address, &taken[0]);
        assert_holds(&relay.relay.store(), &taken[..1]);
        assert!(reserve(&relay.relay.store()) > 50, "it is there for the next time");
    }
}
