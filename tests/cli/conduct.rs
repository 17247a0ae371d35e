//! How the commands that look after the data behave: on a terminal they say what they will do and how far they are, in a pipe they say
//! nothing; a signal ends them and leaves nothing half done, and so does a kill.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::Signal;

use crate::place::{
    Ended, Place, Terminal, filled, json, note, notes, send_signal, sign, wait_for, wait_until_it_listens_to_signals,
};

/// What lies in a folder and those in it, except for what LMDB has beside a database.
fn names(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(names(&path));
        }
        if path.file_name().unwrap() != "lock.mdb" {
            found.insert(path.display().to_string());
        }
    }
    found
}

/// A database with so many notes, old ones.
fn with_notes(count: u64) -> Place {
    let place = Place::new();
    let lines: String =
        (0..count).map(|n| json(&sign(1, 1_600_000_000 + n, 1, &[&["t", "x"]], "old")) + "\n").collect();
    place.write("events.jsonl", lines);
    assert_eq!(place.run(&["import", "--no-verify", "events.jsonl"]).code, 0);
    place
}

/// Commands in the order in which one test can run them, what they say first, and what they count.
const COMMANDS: [(&[&str], &str, &str); 9] = [
    (&["import", "events.jsonl"], "are read into ./ratite-data", " events, "),
    (
        &["verify"],
        "every table is compared with every other; nothing is written, no room is needed",
        " events checked, ",
    ),
    (&["verify", "--deep"], "and every signature is checked", " events checked, "),
    (&["backup", "events.mdb"], "12 events, about ", " written, "),
    (&["export", "-o", "out.jsonl"], "", " events, "),
    (&["delete", "--filter", "{\"kinds\":[0]}"], "1 event will be removed, in small steps", " events removed, "),
    (&["prune", "--rule", "1: 3 per author"], "11 events are looked through", " events removed, "),
    (&["compact"], "are written anew beside the database", " written, "),
    (&["restore", "events.mdb", "--replace"], "the database that is there is kept beside it", " read, "),
];

#[test]
fn on_a_terminal_they_say_what_they_will_do_and_how_far_they_are() {
    let place = filled();
    for (arguments, first, counted) in COMMANDS {
        let (code, shown) = place.show(arguments).end();
        assert_eq!(code, 0, "{arguments:?}: {shown}");
        assert!(shown.contains(first), "{arguments:?} does not say {first}: {shown}");
        assert!(first.is_empty() || shown.find(first) < shown.find("/s  "), "{arguments:?} says it too late: {shown}");
        for part in [counted, "%  ", "/s  ", " left"] {
            assert!(shown.contains(part), "{arguments:?} does not show {part}: {shown}");
        }
        if ["backup", "compact", "restore"].contains(&arguments[0]) {
            assert!(shown.contains("are free there"), "{arguments:?}: {shown}");
        }
        // The line is taken away in the end.
        let last = shown.trim_end().rsplit('\n').next().unwrap();
        assert!(!last.ends_with(" left"), "{arguments:?}: {shown}");
    }
    assert_eq!(place.export(&[]).len(), 12);
}

#[test]
fn in_a_pipe_they_say_nothing_but_their_answer() {
    let place = filled();
    for (arguments, ..) in &COMMANDS {
        let with_json = [&arguments[..], &["--json"]].concat();
        let has_json = arguments[0] != "export";
        let ended = place.run(if has_json { &with_json } else { arguments });
        let said = if has_json { "" } else { "12 events written to out.jsonl\n" };
        assert_eq!((ended.code, ended.err.as_str()), (0, said), "{arguments:?}");
        if has_json {
            assert!(ended.json().is_object(), "{arguments:?}: {}", ended.out);
        } else {
            assert_eq!(ended.out, "");
        }
    }
}

/// Sends a signal when the program can hear it, and waits.
fn stopped(child: Child, signal: Signal) -> Ended {
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, signal);
    Ended::of(child.wait_with_output().unwrap())
}

/// Has a command stopped until it was not faster than the signal.
fn stops(place: &Place, arguments: &[&str], signal: Signal, what: &str, undo: impl Fn()) {
    for _ in 0..100 {
        let ended = stopped(place.command(arguments).spawn().unwrap(), signal);
        if ended.code != 0 {
            ended.assert_failed(what);
            assert!(ended.err.contains("un it again"), "{}", ended.err);
            return;
        }
        undo();
    }
    panic!("{arguments:?} is never stopped in the middle");
}

#[test]
fn a_signal_ends_them_and_leaves_nothing_half_done() {
    let place = with_notes(8000);
    for signal in [Signal::INT, Signal::TERM] {
        let (before, there) = (place.export(&["--as-stored"]), names(place.folder.path()));
        stops(&place, &["verify", "--json"], signal, "the check was stopped", || ());
        stops(&place, &["backup", "stopped.mdb", "--json"], signal, "was stopped", || {
            fs::remove_file(place.path("stopped.mdb")).unwrap();
        });
        stops(&place, &["export", "-o", "stopped.jsonl"], signal, "the export was stopped", || {
            fs::remove_file(place.path("stopped.jsonl")).unwrap();
        });
        stops(&place, &["compact", "--json"], signal, "was stopped", || ());
        assert_eq!(names(place.folder.path()), there);
        assert_eq!(place.export(&["--as-stored"]), before);

        assert_eq!(place.run(&["backup", "all.mdb"]).code, 0);
        let restored = place.path("other");
        stops(&place, &["--data", "other", "restore", "all.mdb"], signal, "was stopped", || {
            fs::remove_dir_all(&restored).unwrap();
        });
        assert!(!restored.exists(), "the folder goes too");
        let back = || assert_eq!(place.run(&["restore", "all.mdb", "--replace"]).code, 0);
        stops(&place, &["prune", "--rule", "1: 1d", "--json"], signal, "was stopped", back);
        assert_eq!(place.run(&["verify"]).code, 0);
        back();
        stops(&place, &["delete", "--filter", "{}", "--json"], signal, "the removal was stopped", back);
        assert_eq!(place.run(&["verify"]).code, 0);
        let left = place.export(&["--as-stored"]);
        assert!(left.iter().all(|event| before.contains(event)));
        // Run again, they do the rest.
        let ended = place.run(&["delete", "--filter", "{}", "--json"]);
        assert_eq!((ended.code, ended.json()["removed"].as_u64()), (0, Some(left.len() as u64)));
        back();
        for file in names(&place.path("ratite-data")).iter().filter(|name| name.contains("data.mdb.")) {
            fs::remove_file(file).unwrap();
        }
        fs::remove_file(place.path("all.mdb")).unwrap();
        assert_eq!((place.export(&["--as-stored"]), names(place.folder.path())), (before, there));
    }
}

#[test]
fn a_signal_ends_a_restore_in_the_middle_of_its_copy() {
    let place = filled();
    assert_eq!(place.run(&["backup", "all.mdb"]).code, 0);
    let (before, there) = (fs::read(place.path("ratite-data/data.mdb")).unwrap(), names(&place.path("ratite-data")));
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let child = place.command(["restore", "pipe", "--replace"]).spawn().unwrap();
    let mut pipe = File::options().write(true).open(pipe).unwrap();
    pipe.write_all(&before[..5000]).unwrap();
    wait_for("the copy has begun", || place.path("ratite-data/restore.partial/data.mdb").exists());
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, Signal::TERM);
    // More comes, until nobody reads it.
    while pipe.write_all(&[0; 1000]).is_ok() {}
    Ended::of(child.wait_with_output().unwrap()).assert_failed("the restore was stopped");
    assert_eq!(fs::read(place.path("ratite-data/data.mdb")).unwrap(), before);
    assert_eq!(names(&place.path("ratite-data")), there);
}

/// Stops a program in the middle of writing a database, as a debugger would.
fn halted(place: &Place, arguments: &[&str], partial: &str) -> Option<Child> {
    let mut child = place.command(arguments).spawn().unwrap();
    let begun = place.path(partial).join("data.mdb");
    while !begun.exists() {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
    }
    send_signal(&child, Signal::STOP);
    // It may have come to its end at that very moment.
    if begun.exists() {
        return Some(child);
    }
    send_signal(&child, Signal::CONT);
    child.wait().unwrap();
    None
}

#[test]
fn what_a_killed_backup_leaves_goes_with_the_next_and_two_do_not_disturb_each_other() {
    let place = with_notes(3000);
    fs::create_dir(place.path("backups")).unwrap();
    let mut first = None;
    while first.is_none() {
        let _ = fs::remove_file(place.path("backups/a.mdb"));
        first = halted(&place, &["backup", "backups/a.mdb"], "backups/a.mdb.partial");
    }
    let first = first.unwrap();
    place.run(&["backup", "backups/a.mdb"]).assert_failed("another command is writing in backups/a.mdb.partial");
    send_signal(&first, Signal::CONT);
    let ended = Ended::of(first.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(place.run(&["--data", "other", "restore", "backups/a.mdb"]).code, 0);

    fs::remove_file(place.path("backups/a.mdb")).unwrap();
    let mut killed = None;
    while killed.is_none() {
        let _ = fs::remove_file(place.path("backups/a.mdb"));
        killed = halted(&place, &["backup", "backups/a.mdb"], "backups/a.mdb.partial");
    }
    killed.unwrap().kill().unwrap();
    assert!(place.path("backups/a.mdb.partial").exists());
    wait_for("its lock is gone", || place.run(&["backup", "backups/a.mdb"]).code == 0);
    assert!(!place.path("backups/a.mdb.partial").exists());

    // Those that were named after the time go too, unless somebody is at it.
    fs::create_dir_all(place.path("backups/ratite-2026-01-31T03-00-00Z.mdb.partial")).unwrap();
    place.write("backups/ratite-2026-01-31T03-00-00Z.mdb.partial/data.mdb", "half");
    assert_eq!(place.run(&["backup", "backups"]).code, 0);
    let left = names(&place.path("backups"));
    assert!(left.len() == 2 && left.iter().all(|name| name.ends_with(".mdb")), "{left:?}");
}

#[test]
fn at_no_moment_can_a_killed_compaction_or_restore_lose_the_database() {
    let place = with_notes(2000);
    assert_eq!(place.run(&["backup", "all.mdb"]).code, 0);
    let before = place.export(&["--as-stored"]);
    for arguments in [&["compact"][..], &["restore", "all.mdb", "--replace"]] {
        for part in 0..20 {
            let mut child = place.command(arguments).spawn().unwrap();
            let began = std::time::Instant::now();
            // Not to be right, only to be at different places: a first run says how long it takes.
            while child.try_wait().unwrap().is_none() && began.elapsed().as_millis() < part * 15 {
                std::thread::yield_now();
            }
            let _ = child.kill();
            child.wait().unwrap();
            assert!(place.path("ratite-data/data.mdb").exists(), "{arguments:?} killed at {part}");
            assert_eq!(place.export(&["--as-stored"]).len(), before.len(), "{arguments:?} killed at {part}");
        }
    }
    assert_eq!((place.run(&["compact"]).code, place.run(&["verify"]).code), (0, 0));
    assert_eq!(place.export(&["--as-stored"]), before);
    let left = names(&place.path("ratite-data"));
    assert!(left.iter().all(|name| !name.contains(".partial")), "{left:?}");
}

#[test]
fn too_little_room_for_what_is_read_is_said_before() {
    let place = filled();
    // A file with a hole as large as no disk is.
    let huge = 1 << 43;
    File::create(place.path("huge.jsonl")).unwrap().set_len(huge).unwrap();
    let child = place.command(["import", "huge.jsonl"]).spawn().unwrap();
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, Signal::INT);
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert!(ended.err.starts_with("warning: ./ratite-data has less room than that"), "{}", ended.err);

    // The commands that can know refuse.
    assert_eq!(place.run(&["backup", "huge.mdb"]).code, 0);
    File::options().write(true).open(place.path("huge.mdb")).unwrap().set_len(huge).unwrap();
    let ended = place.run(&["--data", "other", "restore", "huge.mdb"]);
    ended.assert_failed("free, about ");
    assert!(ended.err.contains("Free some space, or choose another place."), "{}", ended.err);
    assert!(!place.path("other").exists());
}

#[test]
fn a_scan_that_is_stopped_ends_with_a_whole_line() {
    let place = with_notes(3000);
    let mut child = place.command(["scan", "{}"]).spawn().unwrap();
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, Signal::INT);
    // It waits for its reader; only now there is one.
    let mut out = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut out).unwrap();
    let code = child.wait().unwrap().code();
    assert!(out.ends_with("}\n") && out.lines().all(|line| line.starts_with('{')), "{out}");
    assert!(code == Some(1) && out.lines().count() < 3000, "{code:?}");
}

#[test]
fn nothing_is_drawn_where_it_was_not_asked_for() {
    // What is typed is read from the terminal itself, so nothing is redrawn there.
    let place = Place::new();
    let mut terminal: Terminal = place.show(&["import"]);
    let mut shown = terminal.drawn();
    while !shown.contains("press Ctrl-D") {
        shown.push_str(&terminal.drawn());
    }
    terminal.type_in(&(note(1) + "\n\u{4}"));
    let (code, rest) = terminal.end();
    assert_eq!(code, 0, "{shown}{rest}");
    assert!(!rest.contains("/s  "), "{rest}");
    assert_eq!(place.export(&[]), notes(2).lines().skip(1).collect::<Vec<_>>());
}
