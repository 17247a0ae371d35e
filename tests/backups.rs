//! Scheduled backups: made when their time comes, checked, in order when events pour in, and never two at once.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;
#[path = "common/disk.rs"]
mod disk;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{MAP, NOW, PATIENCE, TestRelay, json, note, settings};
use ratite::nostr::EventFields as _;
use ratite::relay::{Outcome, Relay, Settings};
use ratite::store::Store;

const DAY: u64 = 86_400;

fn with_backups(folder: &Path) -> Settings {
    let mut settings = settings();
    settings.backup.folder = Some(folder.to_owned());
    settings.backup.keep = 2;
    settings
}

fn backups(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "mdb"));
    files.sort();
    files
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The events of a backup in the order in which the relay learned of them, and all is well with it.
fn restored(file: &Path) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(file, folder.path().join("data.mdb")).unwrap();
    let store = Store::open_existing(folder.path(), MAP).unwrap();
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
    let mut events = Vec::new();
    store
        .log(0, &mut |_, record| {
            events.push(json(&record.to_event().unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
    events
}

#[test]
fn backups_are_made_by_themselves_restored_event_by_event_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("some/where");
    let relay = TestRelay::with(with_backups(&place));
    let mut published = Vec::new();
    for day in 0..4u64 {
        let event = note(1, NOW + day, &format!("day {day}"));
        assert_eq!(relay.publish(&event), Outcome::Stored);
        published.push(json(&event));
        if day > 0 {
            relay.clock.set(NOW + day * DAY);
        } else {
            // The first may be faster than the first event.
            wait_for("the first backup", || !backups(&place).is_empty());
            continue;
        }
        let newest = format!("ratite-2023-11-{}T22-13-20Z.mdb", 14 + day);
        wait_for(&newest, || backups(&place).iter().any(|file| file.ends_with(&newest)));
        wait_for("the oldest goes", || backups(&place).len() <= 2);
        assert_eq!(restored(&place.join(newest)), published);
    }
    assert_eq!(backups(&place).len(), 2);
    wait_for("the state is known", || relay.relay.stats().backup.last == Some(NOW + 3 * DAY));
    assert_eq!(relay.relay.stats().backup.failure, None);
}

#[test]
fn two_relays_over_the_same_data_make_one_backup_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("backups");
    let first = TestRelay::with(with_backups(&place));
    let settings = Settings { clock: first.clock.clone(), ..(*first.relay.settings()).clone() };
    let second = Relay::start((*first.relay.store()).clone(), settings).unwrap();
    wait_for("both know of it", || [&first.relay, &second].iter().all(|relay| relay.stats().backup.last == Some(NOW)));
    assert_eq!(backups(&place).len(), 1);
    second.shutdown();
}

#[test]
fn a_backup_that_fails_is_known_and_the_relay_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("file");
    fs::write(&place, "in the way").unwrap();
    let relay = TestRelay::with(with_backups(&place));
    wait_for("the failure is known", || relay.relay.stats().backup.failure.is_some());
    let failure = relay.relay.stats().backup.failure.unwrap();
    assert!(failure.contains("file: "), "{failure}");
    assert_eq!(relay.publish(&note(1, NOW, "on")), Outcome::Stored);
    // It is tried again, and what was left of one that was never finished goes.
    fs::remove_file(&place).unwrap();
    fs::create_dir_all(place.join("ratite-2020-01-01T00-00-00Z.mdb.partial")).unwrap();
    fs::write(place.join("mine.txt"), "").unwrap();
    relay.clock.set(NOW + DAY);
    wait_for("it works again", || {
        relay.relay.stats().backup == ratite::relay::BackupState { last: Some(NOW + DAY), failure: None }
    });
    let left = fs::read_dir(&place).unwrap().count();
    assert_eq!(left, 3, "the backup, the lock, and what is not ours");
}

#[test]
fn a_scheduled_backup_on_a_full_disk_waits_for_room_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = disk::Disk::mount(16, folder.path()) else { return };
    disk.leave(0);
    let place = folder.path().join("backups");
    let relay = TestRelay::with(with_backups(&place));
    let event = note(1, NOW, "first");
    assert_eq!(relay.publish(&event), Outcome::Stored);
    wait_for("the failure is known", || relay.relay.stats().backup.failure.is_some());
    let failure = relay.relay.stats().backup.failure.unwrap();
    assert!(failure.contains(&format!("{} has ", place.display())) && failure.contains(" are needed"), "{failure}");
    assert!(backups(&place).is_empty());

    disk.relieve();
    relay.clock.set(NOW + DAY);
    wait_for("it works again", || relay.relay.stats().backup.failure.is_none() && !backups(&place).is_empty());
    assert_eq!(restored(&backups(&place)[0]), [json(&event)]);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "the backup and the lock");
}

#[test]
fn a_backup_in_a_storm_of_events_holds_what_was_stored_when_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("backups");
    let relay = TestRelay::with(with_backups(&place));
    let published = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2u8)
            .map(|author| {
                let (relay, place) = (&relay, &place);
                scope.spawn(move || {
                    let (mut published, mut extra) = (Vec::new(), 200);
                    // Before, during and after.
                    while extra > 0 {
                        let event = note(1 + author, NOW, &format!("{}", published.len()));
                        assert_eq!(relay.publish(&event), Outcome::Stored);
                        published.push(json(&event));
                        extra -= u32::from(!backups(place).is_empty());
                    }
                    published
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    let made = restored(&backups(&place)[0]);
    let mut log = Vec::new();
    relay
        .relay
        .store()
        .log(0, &mut |_, record| {
            log.push(json(&record.to_event().unwrap()));
            assert_eq!(record.created_at(), NOW);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(log.len(), published.iter().map(Vec::len).sum::<usize>());
    assert!(made.len() < log.len(), "events came after it");
    assert_eq!(made, log[..made.len()], "what was stored first, whole and in order");
}
