//! Backups: written beside everything else, checked, and brought back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::process::Signal;

use crate::place::{
    Ended, Place, Running, filled, gzip, json, note, notes, send_signal, sign, wait_for,
    wait_until_it_listens_to_signals,
};

/// What lies in a folder, by name.
fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_backup_comes_back_event_by_event() {
    let place = filled();
    let before = place.export(&["--as-stored"]);
    let ended = place.run(&["backup", "events.mdb"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.starts_with("backup: 12 events, ") && ended.out.contains("events.mdb"), "{}", ended.out);
    assert_eq!(fs::metadata(place.path("events.mdb")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        names(place.folder.path()),
        BTreeSet::from(["events.jsonl", "events.mdb", "ratite-data"].map(String::from))
    );

    let ended = place.run(&["--data", "other", "restore", "events.mdb", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!((ended.json()["events"].as_u64(), ended.json()["restored"].as_str()), (Some(12), Some("other")));
    assert_eq!(place.export(&["--data", "other", "--as-stored"]), before);
    assert!(!names(&place.path("other")).contains("restore.partial"));
    // It lives on as any other database does.
    place.write("more.jsonl", note(77));
    assert_eq!(place.run(&["--data", "other", "import", "more.jsonl"]).code, 0);
    assert_eq!(place.run(&["--data", "other", "verify", "--deep"]).code, 0);
}

#[test]
fn a_backup_is_named_after_the_time_and_replaces_nothing_unasked() {
    let place = filled();
    fs::create_dir(place.path("backups")).unwrap();
    let ended = place.run(&["backup", "backups", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let file = ended.json()["backup"].as_str().unwrap().to_owned();
    assert!(file.starts_with("backups/ratite-20") && file.ends_with("Z.mdb"), "{file}");
    assert_eq!(names(&place.path("backups")).len(), 1);

    place.write("taken.mdb", "something else");
    place.run(&["backup", "taken.mdb"]).assert_failed("taken.mdb exists already");
    assert_eq!(place.read("taken.mdb"), "something else");
    assert_eq!(place.run(&["backup", "taken.mdb", "--force"]).code, 0);
    place.run(&["backup", "missing/folder/file.mdb"]).assert_failed("cannot be written");
    assert_eq!(place.run(&["backup", "new/folder/"]).code, 0);
    assert_eq!(names(&place.path("new/folder")).len(), 1);
    place.run(&["backup", "taken.mdb/"]).assert_failed("taken.mdb/ cannot be created");
    place.run(&["--data", "none", "backup", "x.mdb"]).assert_failed("there is no database in none");
    assert!(!place.path("x.mdb").exists());
}

#[test]
fn no_output_takes_the_place_of_a_database_or_a_device() {
    let place = filled();
    let before = place.export(&["--as-stored"]);
    fs::create_dir_all(place.path("ratite-data/tls/authority")).unwrap();
    place.write("ratite-data/tls/authority/certificate.pem", "precious");
    for file in ["ratite-data/data.mdb", "ratite-data/lock.mdb", "ratite-data/tls/authority/certificate.pem"] {
        place.run(&["backup", file, "--force"]).assert_failed("belongs to a database");
        place.run(&["export", "-o", file]).assert_failed("belongs to a database");
        place.run(&["import", "events.jsonl", "--rejects", file]).assert_failed("belongs to a database");
    }
    let _socket = UnixListener::bind(place.path("socket")).unwrap();
    place.run(&["backup", "socket", "--force"]).assert_failed("socket is a device or a pipe");
    assert!(!fs::metadata(place.path("socket")).unwrap().is_file());
    assert_eq!(place.export(&["--as-stored"]), before);
}

#[test]
fn a_restore_changes_nothing_before_all_is_well() {
    let place = filled();
    assert_eq!(place.run(&["backup", "good.mdb"]).code, 0);
    let before = fs::read(place.path("ratite-data/data.mdb")).unwrap();
    place.run(&["restore", "good.mdb"]).assert_failed("there is a database in ./ratite-data already");
    place.run(&["restore", "missing.mdb"]).assert_failed("missing.mdb cannot be read");

    let mut bytes = fs::read(place.path("good.mdb")).unwrap();
    place.write("short.mdb", &bytes[..bytes.len() / 2]);
    place.run(&["restore", "short.mdb", "--replace"]).assert_failed("short.mdb is no database that can be used");
    for (name, bytes, what, advice) in [
        ("rubbish", vec![7; 40_000], "it is no LMDB file", "`ratite backup`"),
        ("short", bytes[..19].to_vec(), "it is no LMDB file", "`ratite backup`"),
        ("empty", Vec::new(), "it is empty", "`ratite backup`"),
        ("packed.gz", gzip(&bytes), "it is compressed with gzip", "gunzip"),
        ("packed.zst", zstd::encode_all(&bytes[..], 1).unwrap(), "it is compressed with Zstandard", "zstd -d"),
        ("events", notes(3).into_bytes(), "it is text, events perhaps", "`ratite import`"),
        ("sqlite", b"SQLite format 3\0 and so on".to_vec(), "it is an SQLite database", "`ratite import`"),
    ] {
        place.write(name, bytes);
        let ended = place.run(&["restore", name, "--replace"]);
        ended.assert_failed(&format!("{name} is no database that can be used: {what}\n"));
        assert!(ended.err.contains(advice), "{}", ended.err);
    }
    fs::create_dir_all(place.path("backups/none")).unwrap();
    place.run(&["restore", "backups/none", "--replace"]).assert_failed("backups/none is a folder without a backup");
    assert_eq!(place.run(&["backup", "backups"]).code, 0);
    let ended = place.run(&["restore", "backups", "--replace"]);
    ended.assert_failed("backups is a folder with backups");
    let newest = names(&place.path("backups")).into_iter().find(|name| name.ends_with(".mdb")).unwrap();
    assert!(ended.err.contains(&format!("the newest is backups/{newest}")), "{}", ended.err);
    // One byte of a note's text.
    let at = bytes.windows(6).rposition(|window| window == b"note 3").unwrap();
    bytes[at] = b'N';
    place.write("wrong.mdb", &bytes);
    place.run(&["restore", "wrong.mdb", "--replace"]).assert_failed("wrong.mdb is not in order: 1 fault found");
    assert_eq!(fs::read(place.path("ratite-data/data.mdb")).unwrap(), before);
    let left: Vec<String> = names(&place.path("ratite-data")).into_iter().filter(|name| name != "lock.mdb").collect();
    assert_eq!(left, ["data.mdb"]);
}

#[test]
fn what_a_restore_replaces_is_kept() {
    let place = Place::new();
    place.write("old.jsonl", notes(3));
    assert_eq!(place.run(&["--data", "elsewhere", "import", "old.jsonl"]).code, 0);
    assert_eq!(place.run(&["--data", "elsewhere", "backup", "three.mdb"]).code, 0);
    place.write("new.jsonl", notes(8));
    assert_eq!(place.run(&["import", "new.jsonl"]).code, 0);

    let running = Running::start(&place, &[]);
    let pid = running.child.id().to_string();
    let ended = place.run(&["restore", "three.mdb", "--replace"]);
    ended.assert_failed("a relay uses ./ratite-data: process ");
    assert!(ended.err.contains(&pid), "{}", ended.err);
    assert_eq!(running.stop(Signal::TERM), 0);

    let ended = place.run(&["restore", "three.mdb", "--replace"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(place.export(&[]).len(), 3);
    let kept = names(&place.path("ratite-data")).into_iter().find(|name| name.starts_with("data.mdb.20")).unwrap();
    assert!(ended.out.contains(&kept), "{}", ended.out);
    // Another one does not take its name, however soon it comes.
    assert_eq!(place.run(&["restore", "three.mdb", "--replace"]).code, 0);
    let two = names(&place.path("ratite-data")).into_iter().filter(|name| name.starts_with("data.mdb.20")).count();
    assert_eq!(two, 2);
    place.run(&["backup", "-"]).assert_failed("cannot go to standard output");
    // And so is a way back.
    assert_eq!(place.run(&["--data", "again", "restore", &format!("ratite-data/{kept}")]).code, 0);
    assert_eq!(place.export(&["--data", "again"]).len(), 8);
}

#[test]
fn backups_beside_an_import_and_a_relay_are_whole() {
    let place = Place::new();
    place.write("first.jsonl", notes(200));
    assert_eq!(place.run(&["import", "first.jsonl"]).code, 0);
    let _relay = Running::start(&place, &[]);
    let all = notes(6000);
    place.write("events.jsonl", &all);
    let known: BTreeSet<&str> = all.lines().collect();
    let mut import = place.command(["import", "events.jsonl"]).spawn().unwrap();
    let mut taken = 0;
    loop {
        let over = import.try_wait().unwrap().is_some();
        let name = format!("{taken}.mdb");
        let ended = place.run(&["backup", &name]);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        let data = format!("restored-{taken}");
        assert_eq!(place.run(&["--data", &data, "restore", &name]).code, 0);
        let events = place.export(&["--data", &data]);
        assert!(events.len() >= 200 && events.iter().all(|event| known.contains(event.as_str())));
        taken += 1;
        if over {
            assert_eq!(events.len(), 6000);
            break;
        }
    }
}

#[test]
fn a_backup_that_is_stopped_leaves_nothing() {
    let place = Place::new();
    place.write("events.jsonl", notes(3000));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    let child = place.command(["backup", "stopped.mdb"]).spawn().unwrap();
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, Signal::INT);
    let ended = Ended::of(child.wait_with_output().unwrap());
    // It may have been faster than the signal.
    if ended.code == 0 {
        assert!(place.path("stopped.mdb").exists());
    } else {
        ended.assert_failed("was stopped");
        assert!(!place.path("stopped.mdb").exists());
    }
    assert!(!names(place.folder.path()).contains("stopped.mdb.partial"));
}

#[test]
fn compacting_gives_free_pages_back_and_keeps_every_event() {
    let place = Place::new();
    place.write("events.jsonl", notes(4000));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    assert_eq!(place.run(&["delete", "--filter", "{}", "--since", "1700000100"]).code, 0);
    let before = place.export(&["--as-stored"]);
    assert_eq!(before.len(), 100);

    let ended = place.run(&["compact", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let (old, new) = (ended.json()["bytes_before"].as_u64().unwrap(), ended.json()["bytes_after"].as_u64().unwrap());
    assert!(new < old / 2, "{old} bytes became {new}");
    assert_eq!(fs::metadata(place.path("ratite-data/data.mdb")).unwrap().len(), new);
    assert!(
        names(&place.path("ratite-data"))
            .iter()
            .all(|name| !name.starts_with("data.mdb.") && name != "compact.partial")
    );
    assert_eq!(place.export(&["--as-stored"]), before);
    assert_eq!(place.run(&["import", "events.jsonl", "--json"]).json()["new"], 3900);
    assert_eq!(place.run(&["verify", "--deep"]).code, 0);

    // A relay that runs does it itself.
    assert_eq!(place.run(&["delete", "--filter", "{}", "--since", "1700000100"]).code, 0);
    let large = fs::metadata(place.path("ratite-data/data.mdb")).unwrap().len();
    let running = Running::start(&place, &[]);
    let ended = place.run(&["compact"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.starts_with("100 events in ") && ended.out.contains(", publishers waited "), "{}", ended.out);
    assert!(fs::metadata(place.path("ratite-data/data.mdb")).unwrap().len() < large / 2);
    assert_eq!(place.export(&["--as-stored"]), before);
    assert_eq!(running.stop(Signal::TERM), 0);
    assert_eq!(place.run(&["verify", "--deep"]).code, 0);
}

#[test]
fn verify_finds_what_is_wrong() {
    let place = filled();
    let ended = place.run(&["verify", "--json"]);
    assert_eq!((ended.code, ended.json()["events"].as_u64()), (0, Some(12)));
    assert!(place.run(&["verify", "--deep"]).out.ends_with("checked: everything is in order\n"));

    let mut forged = sign(3, 1_700_000_000, 1, &[], "forged");
    forged.sig.0[5] ^= 1;
    place.write("forged.jsonl", json(&forged));
    assert_eq!(place.run(&["import", "--no-verify", "forged.jsonl"]).code, 0);
    assert_eq!(place.run(&["backup", "forged.mdb"]).code, 0);
    let ended = place.run(&["--data", "deep", "restore", "--deep", "forged.mdb"]);
    ended.assert_failed("forged.mdb is not in order: 1 fault found, the first: event 12 has a signature");
    assert!(!place.path("deep/data.mdb").exists() && !place.path("deep/restore.partial").exists());
    assert_eq!(place.run(&["--data", "shallow", "restore", "forged.mdb"]).code, 0);
    assert_eq!(place.run(&["verify"]).code, 0, "without --deep nobody looks at signatures");
    let ended = place.run(&["verify", "--deep"]);
    ended.assert_failed("the database has 1 fault");
    assert!(ended.out.contains("event 12 has a signature that is not its author's"), "{}", ended.out);
}

#[test]
fn backups_on_a_schedule_go_on_until_they_are_stopped() {
    let place = filled();
    place.run(&["backup", "folder", "--every", "soon"]).assert_failed("not a time");
    place.run(&["backup", "folder", "--keep", "3"]).assert_failed("--every");
    let child = place.command(["backup", "folder", "--every", "1d", "--keep", "3"]).spawn().unwrap();
    wait_for("the backup is there", || {
        place.path("folder").is_dir() && names(&place.path("folder")).iter().any(|name| name.ends_with("Z.mdb"))
    });
    send_signal(&child, Signal::INT);
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    // The next one is due tomorrow.
    let files = names(&place.path("folder"));
    assert_eq!(files.len(), 2, "{files:?}");
    let file = files.iter().find(|name| name.ends_with(".mdb")).unwrap();
    assert_eq!(place.run(&["--data", "other", "restore", &format!("folder/{file}")]).code, 0);
    assert_eq!(place.export(&["--data", "other"]), place.export(&[]));
}
