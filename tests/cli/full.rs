//! A full disk under each command that looks after the data: it says so and ends with 1, what was there is untouched, nothing is left
//! half done, and it works when there is room.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::disk::Disk;
use crate::place::{Ended, Place, json, send_signal, sign};

/// A disk of 64 MB in a place where `data` on that disk holds a database of some 24 MB; `None` where no disk can be mounted.
fn on_small_disk() -> Option<(Place, Disk)> {
    let place = Place::new();
    fs::create_dir(place.path("disk")).unwrap();
    let disk = Disk::mount(64, &place.path("disk"))?;
    let content = "x".repeat(60_000);
    let notes = (0..400).map(|n| json(&sign(1, 1_700_000_000 + n, 1, &[], &format!("{n}{content}"))) + "\n");
    place.write("events.jsonl", notes.collect::<String>());
    let ended = place.run(&["--data", "disk/data", "import", "events.jsonl", "--json"]);
    assert_eq!((ended.code, ended.json()["new"].as_u64()), (0, Some(400)));
    Some((place, disk))
}

const DATA: [&str; 2] = ["--data", "disk/data"];

fn run(place: &Place, arguments: &[&str]) -> Ended {
    place.run(&[&DATA, arguments].concat())
}

/// What lies in a folder and its folders, by name and size, the ballast and LMDB's readers left out.
fn listing(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(listing(&entry.path()));
        } else if !["ballast", "lock.mdb"].contains(&entry.file_name().to_str().unwrap()) {
            found.push((entry.path().display().to_string(), entry.metadata().unwrap().len()));
        }
        // An empty folder is something left behind, too.
        found.push((entry.path().display().to_string(), 0));
    }
    found.retain(|(name, _)| !name.ends_with("ballast") && !name.ends_with("lock.mdb"));
    found.sort();
    found
}

fn events(place: &Place) -> Vec<String> {
    place.export(&[&DATA[..], &["--as-stored"]].concat())
}

/// The disk fills up when the copy has begun: the command is stopped there, and goes on when the disk is full. `None` when it was
/// through before it could be stopped.
fn filled_meanwhile(place: &Place, disk: &Disk, arguments: &[&str], partial: &str) -> Option<Ended> {
    let child = place.command([&DATA, arguments].concat()).spawn().unwrap();
    let began = place.path(partial).join("data.mdb");
    let has_ended = || {
        let status = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    while !began.exists() && !has_ended() {}
    send_signal(&child, Signal::STOP);
    disk.leave(0);
    send_signal(&child, Signal::CONT);
    let ended = Ended::of(child.wait_with_output().unwrap());
    (ended.code != 0).then_some(ended)
}

/// The same until it was stopped in time, which it is nearly always.
fn full_in_the_middle(place: &Place, disk: &Disk, arguments: &[&str], partial: &str, clear: impl Fn()) -> Ended {
    for _ in 0..100 {
        if let Some(ended) = filled_meanwhile(place, disk, arguments, partial) {
            return ended;
        }
        disk.relieve();
        clear();
    }
    panic!("{arguments:?} is never stopped in time");
}

#[test]
fn a_backup_finds_the_disk_full_before_it_begins_and_in_the_middle() {
    let Some((place, disk)) = on_small_disk() else { return };
    let (before, there) = (events(&place), listing(&disk.0));
    disk.leave(4 << 20);
    run(&place, &["backup", "disk/x.mdb"]).assert_failed("disk has 4");
    assert_eq!(listing(&disk.0), there);
    disk.relieve();

    let arguments = ["backup", "disk/x.mdb"];
    let clear = || fs::remove_file(place.path("disk/x.mdb")).unwrap();
    let ended = full_in_the_middle(&place, &disk, &arguments, "disk/x.mdb.partial", clear);
    ended.assert_failed("cannot be written: the disk is full");
    assert_eq!(listing(&disk.0), there);
    assert_eq!(events(&place), before, "the disk is still full");
    assert_eq!(run(&place, &["verify"]).code, 0);
    disk.relieve();

    assert_eq!(run(&place, &arguments).code, 0);
    assert_eq!(place.run(&["--data", "other", "restore", "disk/x.mdb"]).code, 0);
    assert_eq!(place.export(&["--data", "other", "--as-stored"]), before);
}

#[test]
fn a_backup_whose_check_finds_no_room_is_not_kept() {
    let Some((place, disk)) = on_small_disk() else { return };
    let there = listing(&disk.0);
    let info = run(&place, &["info", "--json"]).json();
    let needed = info["file_bytes"].as_u64().unwrap() - info["free_bytes"].as_u64().unwrap();
    // As much as the copy needs, and too little for the file that LMDB has beside it when it is opened.
    disk.leave(needed + 8192);
    let ended = run(&place, &["backup", "disk/x.mdb"]);
    ended.assert_failed("disk/x.mdb.partial cannot be written: the disk is full");
    assert_eq!(listing(&disk.0), there);
    disk.relieve();
    assert_eq!(run(&place, &["backup", "disk/x.mdb"]).code, 0);
}

#[test]
fn a_restore_on_a_full_disk_leaves_what_is_there() {
    let Some((place, disk)) = on_small_disk() else { return };
    let before = events(&place);
    assert_eq!(run(&place, &["backup", "good.mdb"]).code, 0);
    let there = listing(&disk.0);
    disk.leave(4 << 20);
    run(&place, &["restore", "good.mdb", "--replace"]).assert_failed("free, about");
    assert_eq!(listing(&disk.0), there);

    // A pipe does not say how much is to come, so the disk is full in the middle.
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    let bytes = fs::read(place.path("good.mdb")).unwrap();
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        // The reader leaves before all is written.
        move || fs::File::options().write(true).open(pipe).and_then(|mut pipe| pipe.write_all(&bytes))
    });
    let ended = run(&place, &["restore", "pipe", "--replace"]);
    ended.assert_failed("disk/data/restore.partial/data.mdb cannot be written: the disk is full");
    assert!(writer.join().unwrap().is_err());
    assert_eq!(listing(&disk.0), there);
    assert_eq!(events(&place), before);
    // A new database leaves as little.
    place.run(&["--data", "disk/new", "restore", "good.mdb"]).assert_failed("free, about");
    assert!(!place.path("disk/new/data.mdb").exists() && !place.path("disk/new/restore.partial").exists());
    disk.relieve();

    assert_eq!(run(&place, &["restore", "good.mdb", "--replace"]).code, 0);
    assert_eq!(events(&place), before);
}

#[test]
fn compacting_on_a_full_disk_leaves_the_old_database() {
    let Some((place, disk)) = on_small_disk() else { return };
    assert_eq!(run(&place, &["delete", "--filter", "{}", "--since", "1700000200"]).code, 0);
    let (before, there) = (events(&place), listing(&disk.0));
    assert_eq!(before.len(), 200);
    disk.leave(4 << 20);
    run(&place, &["compact"]).assert_failed("free, about");
    assert_eq!(listing(&disk.0), there);
    disk.relieve();

    let compacted = std::cell::Cell::new(0);
    let clear = || {
        // It was faster: the database is compact already, and can be made so again.
        compacted.set(compacted.get() + 1);
    };
    let ended = full_in_the_middle(&place, &disk, &["compact"], "disk/data/compact.partial", clear);
    ended.assert_failed("cannot be written: the disk is full");
    if compacted.get() == 0 {
        assert_eq!(listing(&disk.0), there);
    }
    assert_eq!(events(&place), before);
    disk.relieve();
    assert_eq!(run(&place, &["compact"]).code, 0);
    assert_eq!((events(&place), run(&place, &["verify"]).code), (before, 0));
}

#[test]
fn a_full_disk_can_be_verified_and_pruned() {
    let Some((place, disk)) = on_small_disk() else { return };
    let before = events(&place);
    disk.leave(0);
    let ended = run(&place, &["verify", "--deep", "--json"]);
    assert_eq!((ended.code, ended.json()["events"].as_u64()), (0, Some(400)), "{}", ended.err);
    // 100 go: the database needs nothing more for that than it has set aside.
    let ended = run(&place, &["prune", "--rule", "1: 300 per author", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(ended.json()["removed"]["events"], 100);
    assert_eq!(events(&place), before[100..]);
    assert_eq!(run(&place, &["verify"]).code, 0);
    // What it freed is there for what comes, though the disk is as full as before.
    place.write("more.jsonl", json(&sign(2, 1_700_000_000, 1, &[], &"y".repeat(60_000))));
    assert_eq!(run(&place, &["import", "more.jsonl", "--json"]).json()["new"], 1);
    assert_eq!(run(&place, &["verify"]).code, 0);

    // So it is after it was compacted, when nothing of it is free.
    disk.relieve();
    assert_eq!((run(&place, &["compact"]).code, run(&place, &["info"]).code), (0, 0));
    disk.leave(0);
    let ended = run(&place, &["prune", "--rule", "1: 200 per author", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!((events(&place).len(), run(&place, &["verify"]).code), (201, 0));

    // A database that nobody has opened yet needs a little for its readers, and says so.
    fs::remove_file(place.path("disk/data/lock.mdb")).unwrap();
    disk.leave(0);
    run(&place, &["verify"]).assert_failed("cannot be opened: the disk is full");
    disk.relieve();
    assert_eq!(run(&place, &["verify"]).code, 0);
}

#[test]
fn an_import_that_fills_the_disk_says_so_and_goes_on_when_there_is_room() {
    let Some((place, disk)) = on_small_disk() else { return };
    let before = events(&place);
    let content = "y".repeat(60_000);
    let more = (0..300).map(|n| json(&sign(2, 1_800_000_000 + n, 1, &[], &format!("{n}{content}"))) + "\n");
    place.write("more.jsonl", more.collect::<String>());
    disk.leave(6 << 20);
    let ended = run(&place, &["import", "more.jsonl"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("\nerror: events could not be stored: the database is full"), "{}", ended.err);
    // What was there is there, and of the new ones none in part.
    let there = events(&place);
    assert!(there.len() < 700 && before.iter().all(|event| there.contains(event)), "{} are there", there.len());
    assert_eq!(run(&place, &["verify", "--deep"]).code, 0);
    disk.relieve();
    assert_eq!(run(&place, &["import", "more.jsonl"]).code, 0);
    assert_eq!((events(&place).len(), run(&place, &["verify"]).code), (700, 0));
}
