//! Compaction beside a relay that serves: nobody is sent away, nothing that was acknowledged is lost, and whoever comes finds the new file.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;
#[path = "common/disk.rs"]
mod disk;
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ratite::nostr::{Event, Filter, Kind};
use ratite::relay::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wire::process::{RelayProcess, ratite};
use wire::{Socket, event, eventually};

fn run(data: &Path, arguments: &[&str]) -> Output {
    ratite(data, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What `ratite compact` says of itself.
#[track_caller]
fn compact(data: &Path) -> Value {
    serde_json::from_str(&succeeds(run(data, &["compact", "--json"]))).unwrap()
}

/// The ids of all events, as another process finds them.
fn exported(data: &Path) -> BTreeSet<String> {
    let lines = succeeds(run(data, &["export", "--as-stored"]));
    lines.lines().map(|line| Event::parse(line.as_bytes()).unwrap().id.to_string()).collect()
}

/// A database of which most is free: events came and went.
fn hollow(data: &Path) -> BTreeSet<String> {
    let content = "x".repeat(3_000);
    let lines = (0..3_000).map(|n| common::json(&event(9, 1 + n % 2, &format!("{n}{content}"))) + "\n");
    let file = data.join("events.jsonl");
    fs::write(&file, lines.collect::<String>()).unwrap();
    succeeds(run(data, &["import", "--no-verify", file.to_str().unwrap()]));
    succeeds(run(data, &["delete", "--filter", "{\"kinds\":[2]}"]));
    exported(data)
}

fn size(data: &Path) -> u64 {
    fs::metadata(data.join("data.mdb")).unwrap().len()
}

fn assert_nothing_is_left(data: &Path) {
    let names = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with("compact") || name.starts_with("data.mdb.")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Publishes one event after the other until it is `over`, each acknowledged; replaces and deletes among them. Returns the ids that are there in
/// the end.
fn publish(mut socket: Socket, author: u8, over: &AtomicBool, count: &AtomicUsize) -> BTreeSet<String> {
    let mut there = BTreeSet::new();
    let (mut list, mut last): (Option<String>, Option<String>) = (None, None);
    for n in 0u64.. {
        if over.load(Relaxed) {
            break;
        }
        let at = wire::now() - 10_000 + n;
        let event = match n % 5 {
            3 => wire::sign(author, 10_002, at, &[], &n.to_string()),
            4 => wire::sign(author, 5, at, &[&["e", &last.take().unwrap()]], ""),
            _ => wire::sign(author, 1, at, &[&["t", "storm"]], &n.to_string()),
        };
        socket.publish(&event);
        let ok = socket.hears("OK", &event.id.to_string());
        assert!(ok[2] == true, "{ok}");
        let id = event.id.to_string();
        match n % 5 {
            3 => drop(list.replace(id.clone()).map(|old| there.remove(&old))),
            4 => {
                let deleted = event.tags.iter().next().unwrap().value().unwrap().to_owned();
                assert!(there.remove(&deleted));
            }
            _ => last = Some(id.clone()),
        }
        there.insert(id);
        count.fetch_add(1, Relaxed);
    }
    there
}

#[test]
fn nobody_is_dropped_and_nothing_is_lost_while_the_relay_compacts_its_database() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut expected = hollow(data);
    let large = size(data);
    let mut relay = RelayProcess::start(data);
    let (over, published, asked) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    // What is stored in the end, known only then.
    let all: Mutex<Option<BTreeSet<String>>> = Mutex::new(None);
    thread::scope(|scope| {
        let (relay, over, published, asked, all) = (&relay, &over, &published, &asked, &all);
        let publishers: Vec<_> =
            (1..4u8).map(|author| scope.spawn(move || publish(relay.connect(), author, over, published))).collect();
        // Who listens gets every note of the storm exactly once, over one connection.
        let watcher = scope.spawn(move || {
            let mut socket = relay.connect();
            socket.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket.say("[\"REQ\",\"live\",{\"#t\":[\"storm\"]}]");
            let (mut seen, began) = (BTreeSet::new(), Instant::now());
            loop {
                match socket.hear_soon() {
                    Some(Ok(message)) if message[0] == "EVENT" => {
                        assert!(seen.insert(message[2]["id"].as_str().unwrap().to_owned()), "{message} comes twice");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(code)) => panic!("sent away with {code:?}"),
                    None => {
                        let all = all.lock().unwrap();
                        if all.as_ref().is_some_and(|all| all.is_subset(&seen)) {
                            return;
                        }
                        assert!(began.elapsed() < 3 * wire::PATIENCE, "events were not heard");
                    }
                }
            }
        });
        let reader = scope.spawn(move || {
            let mut socket = relay.connect();
            while !over.load(Relaxed) {
                socket.say(
                    "[\"REQ\",\"old\",{\"kinds\":[1],\"authors\":[\"AUTHOR\"],\"limit\":200}]"
                        .replace("AUTHOR", &wire::pubkey(9))
                        .as_str(),
                );
                let mut events = 0;
                loop {
                    match socket.hear()[0].as_str() {
                        Some("EVENT") => events += 1,
                        Some("EOSE") => break,
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(events, 200);
                asked.fetch_add(1, Relaxed);
                socket.say("[\"CLOSE\",\"old\"]");
            }
        });
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let (before, questions) = (published.load(Relaxed), asked.load(Relaxed));
            eventually("all are at work", || published.load(Relaxed) > before + 30 && asked.load(Relaxed) > questions);
            let said = compact(data);
            assert!(said["events"].as_u64().unwrap() >= 1_500 && said["paused_ms"].is_number(), "{said}");
            sizes.push((said["bytes_before"].as_u64().unwrap(), said["bytes_after"].as_u64().unwrap()));
            assert_nothing_is_left(data);
        }
        assert!(sizes[0].1 < large / 3 * 2, "{large} before, then {sizes:?}");
        let before = published.load(Relaxed);
        eventually("it goes on", || published.load(Relaxed) > before + 30);
        over.store(true, Relaxed);
        let mut there = BTreeSet::new();
        for publisher in publishers {
            there.extend(publisher.join().unwrap());
        }
        reader.join().unwrap();
        let mut asker = relay.connect();
        asker.say("[\"REQ\",\"all\",{\"#t\":[\"storm\"],\"limit\":5000}]");
        let mut stored = BTreeSet::new();
        loop {
            let message = asker.hear();
            match message[0].as_str() {
                Some("EVENT") => drop(stored.insert(message[2]["id"].as_str().unwrap().to_owned())),
                _ => break,
            }
        }
        assert!(stored.len() > 50 && stored.is_subset(&there));
        *all.lock().unwrap() = Some(stored);
        watcher.join().unwrap();
        expected.extend(there);
    });
    // The old files are gone, not only their names.
    eventually("nobody has an old file open", || {
        let links = fs::read_dir(format!("/proc/{}/fd", relay.id())).unwrap();
        let open = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
        open.filter(|file| file.to_string_lossy().ends_with(".mdb (deleted)")).count() == 0
    });
    assert_eq!(exported(data), expected, "another process finds the new file");
    succeeds(run(data, &["verify", "--deep"]));
    // What came after the change of files is on disk under the right name.
    relay.kill();
    let relay = RelayProcess::start(data);
    assert_eq!(exported(data), expected);
    relay.connect().still_works();
}

#[test]
fn while_another_process_uses_the_database_everything_stays_as_it_is_and_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let expected = hollow(data);
    let relay = RelayProcess::start(data);
    let before = size(data);
    let backups = data.join("backups");
    let mut other = ratite(data, &["backup", backups.to_str().unwrap(), "--every", "1d"]);
    let mut other = other.stdout(Stdio::null()).spawn().unwrap();
    eventually("it has the database open", || {
        backups.is_dir()
            && fs::read_dir(&backups)
                .unwrap()
                .any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "mdb"))
    });
    let refused = run(data, &["compact"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains(&format!("process {} uses the database as well", other.id())), "{said}");
    assert_eq!((size(data), exported(data)), (before, expected.clone()));
    assert_nothing_is_left(data);
    let mut socket = relay.connect();
    let more = event(1, 1, "it goes on");
    socket.publish(&more);
    assert_eq!(socket.hears("OK", &more.id.to_string())[2], true);

    other.kill().unwrap();
    other.wait().unwrap();
    assert!(compact(data)["bytes_after"].as_u64().unwrap() < before);
    let mut all = expected;
    all.insert(more.id.to_string());
    assert_eq!(exported(data), all);
}

#[test]
fn a_relay_that_is_killed_while_it_compacts_has_everything_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut expected = hollow(data);
    let mut finished = 0;
    for round in 0..8u64 {
        let mut relay = RelayProcess::start(data);
        let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut socket = relay.connect();
        for n in 0..5 {
            let event = event(1, 1, &format!("round {round}, event {n}"));
            socket.publish(&event);
            assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
            expected.insert(event.id.to_string());
        }
        thread::scope(|scope| {
            let compacting = scope.spawn(|| run(data, &["compact"]));
            // At another moment each time, from nothing done to all done.
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(25 * round) && !compacting.is_finished() {
                let event = event(1, 1, &format!("round {round}, meanwhile {}", count.fetch_add(1, Relaxed)));
                socket.publish(&event);
                assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
                expected.insert(event.id.to_string());
            }
            over.store(true, Relaxed);
            relay.kill();
            finished += usize::from(compacting.join().unwrap().status.success());
        });
        assert_eq!(exported(data), expected, "round {round}");
        succeeds(run(data, &["verify"]));
    }
    // What the killed ones left behind goes with the next.
    let relay = RelayProcess::start(data);
    compact(data);
    assert_nothing_is_left(data);
    assert_eq!(exported(data), expected);
    println!("{finished} of 8 were through before they were killed");
    relay.connect().still_works();
}

#[test]
fn without_room_for_the_copy_the_relay_goes_on_with_the_file_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = disk::Disk::mount(64, folder.path()) else { return };
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let expected = hollow(&data);
    fs::remove_file(data.join("events.jsonl")).unwrap();
    let relay = RelayProcess::start(&data);
    disk.leave(1 << 20);
    let refused = run(&data, &["compact"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(" free, about "), "{}", text(&refused.stderr));
    assert_nothing_is_left(&data);
    assert_eq!(exported(&data), expected);

    // It fills up in the middle: the relay is stopped there, and goes on when the disk is full.
    disk.relieve();
    let pid = Pid::from_raw(relay.id() as i32).unwrap();
    let (mut failures, mut tries) = (0, 0);
    while failures == 0 && tries < 20 {
        tries += 1;
        let mut compacting = ratite(&data, &["compact"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let begun = || {
            let mut entries = fs::read_dir(&data).unwrap().flatten();
            entries.any(|entry| entry.file_name().to_string_lossy().starts_with("compact-"))
        };
        while !begun() && compacting.try_wait().unwrap().is_none() {
            thread::yield_now();
        }
        kill_process(pid, Signal::STOP).unwrap();
        disk.leave(0);
        kill_process(pid, Signal::CONT).unwrap();
        let ended = compacting.wait_with_output().unwrap();
        if !ended.status.success() {
            failures += 1;
            let said = text(&ended.stderr);
            assert!(said.contains("could not compact its database"), "{said}");
            assert!(said.contains("space") || said.contains("full") || said.contains(" are needed"), "{said}");
            assert_nothing_is_left(&data);
            assert_eq!(exported(&data), expected);
            relay.connect().still_works();
        }
        disk.relieve();
    }
    println!("{failures} of {tries} met the full disk");
    compact(&data);
    assert_eq!(exported(&data), expected);
}

#[test]
fn removals_of_every_sort_go_on_while_the_file_changes() {
    let mut settings = common::settings();
    settings.unattended = false;
    settings.retention.config.rules = vec!["7: 10d".parse().unwrap()];
    let mut relay = common::TestRelay::with(settings);
    let old = |n: u64| common::sign(1, 7, common::NOW - 20 * 86_400 - n, &[], "");
    let kind = |kind| Filter { kinds: Some(vec![Kind(kind)]), ..Filter::default() };
    let (mut kept, mut all) = (BTreeSet::new(), 0);
    for round in 0..4u64 {
        let gone: Vec<Event> = (0..400).map(|n| old(round * 1_000 + n)).collect();
        let deleted: Vec<Event> =
            (0..100).map(|n| common::sign(2, 1_111, common::NOW - round * 100 - n, &[], "")).collect();
        let outcomes = relay.relay.ingest([gone, deleted].concat(), false).recv().unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
        let (core, over) = (relay.relay.clone(), AtomicBool::new(false));
        assert!(matches!(core.compact(&|| true), Err(ratite::relay::CompactError::Copy(_))), "it is told to stop");
        eventually("nothing of it is left", || fs::read_dir(relay.folder.path()).unwrap().count() == 2);
        thread::scope(|scope| {
            let work = [
                scope.spawn(|| {
                    let plan = core.prune(round % 2 == 0, &mut |_, _| ControlFlow::Continue(())).unwrap();
                    assert_eq!(plan.total().events, 400);
                }),
                scope.spawn(|| {
                    assert_eq!(core.remove(vec![kind(1_111)], &mut |_| ControlFlow::Continue(())).unwrap(), 100);
                }),
            ];
            let (relay, over) = (&relay, &over);
            let publisher = scope.spawn(move || {
                let mut published = Vec::new();
                while !over.load(Relaxed) {
                    let note = common::note(3, common::NOW - round, &format!("{}", published.len()));
                    assert_eq!(relay.publish(&note), Outcome::Stored);
                    published.push(common::json(&note));
                }
                published
            });
            // Again and again, until all of that is done.
            while !work.iter().all(thread::ScopedJoinHandle::is_finished) {
                core.compact(&|| false).unwrap();
            }
            core.compact(&|| false).unwrap();
            work.into_iter().for_each(|work| work.join().unwrap());
            over.store(true, Relaxed);
            let published = publisher.join().unwrap();
            all += published.len();
            kept.extend(published);
        });
    }
    let stored = |relay: &common::TestRelay| {
        let mut events = BTreeSet::new();
        let store = relay.relay.store();
        store
            .log(0, &mut |_, record| {
                events.insert(common::json(&record.to_event().unwrap()));
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        events
    };
    assert_eq!((stored(&relay), kept.len()), (kept.clone(), all));
    relay.restart();
    assert_eq!(stored(&relay), kept);
}
