//! Moving in from other relays: the databases that they leave behind, and imports that were stopped and go on.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use ratite::store::Store;
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde_json::Value;

use crate::place::{Ended, Place, gzip, json, note, notes, send_signal, sign, wait_for};

/// The events that the databases were made of, see `sqlite/make.py`.
const EVENTS: &str = include_str!("sqlite/events.jsonl");
const RELAY: &[u8] = include_bytes!("sqlite/relay.db");
const LOG: &[u8] = include_bytes!("sqlite/relay.db-wal");
const STORE: &[u8] = include_bytes!("sqlite/store.db");

/// What nostr-rs-relay itself left behind when it was killed, and what it had taken before, see `sqlite/live.py`.
const LIVE: [(&str, &[u8]); 2] =
    [("nostr.db", include_bytes!("sqlite/live.db.gz")), ("nostr.db-wal", include_bytes!("sqlite/live.db-wal.gz"))];
const TAKEN: &str = include_str!("sqlite/live.jsonl");

/// The numbers of an import that were asked for, in order.
fn counts<const N: usize>(ended: &Ended, names: [&str; N]) -> [u64; N] {
    let all = ended.json();
    names.map(|name| all[name].as_u64().unwrap_or_else(|| panic!("{name}: {all}")))
}

/// The lines with these numbers.
fn lines(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    let all: Vec<&str> = EVENTS.lines().collect();
    numbers.map(|n| all[n].to_owned()).collect()
}

#[test]
fn the_database_of_another_relay_is_read_with_its_log_and_without_what_it_hid() {
    let place = Place::new();
    // What it is called does not count.
    place.write("old.jsonl", RELAY);
    place.write("old.jsonl-wal", LOG);
    let ended = place.run(&["import", "old.jsonl", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(counts(&ended, ["read", "new", "hidden", "refused"]), [25, 25, 2, 0]);
    assert_eq!(place.export(&[]), lines((0..27).filter(|n| ![3, 8].contains(n))));
    // Nothing was written there.
    assert_eq!(fs::read(place.path("old.jsonl")).unwrap(), RELAY);
    assert_eq!(fs::read(place.path("old.jsonl-wal")).unwrap(), LOG);
    let names = fs::read_dir(place.folder.path()).unwrap().count();
    assert_eq!(names, 3, "the two files, and our database");
    let ended = place.run(&["import", "old.jsonl"]);
    assert!(ended.out.contains("hidden                       2\n"), "{}", ended.out);

    let place = Place::new();
    place.write("store", STORE);
    let ended = place.run(&["import", "store", "--json"]);
    assert_eq!((ended.code, counts(&ended, ["new", "refused"])), (0, [30, 0]), "{}", ended.err);
    assert_eq!(place.export(&[]), lines(0..30));
}

#[test]
fn what_nostr_rs_relay_leaves_behind_comes_in() {
    let place = Place::new();
    for (name, packed) in LIVE {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        place.write(name, bytes);
    }
    let ended = place.run(&["import", "nostr.db", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    // It hides what its author deletes, and removes what is replaced.
    assert_eq!(counts(&ended, ["read", "new", "hidden", "refused"]), [46, 46, 2, 0]);
    // The same is there as if everything had been published here, where nothing that was deleted is taken again.
    let other = Place::new();
    other.write("taken.jsonl", TAKEN);
    let ended = other.run(&["import", "taken.jsonl", "--json"]);
    assert_eq!((ended.code, counts(&ended, ["read", "deleted_earlier"])), (0, [53, 1]));
    assert_eq!(place.export(&[]), other.export(&[]));
    assert_eq!(place.run(&["verify", "--deep"]).code, 0);
}

#[test]
fn a_row_that_holds_no_event_is_refused_by_its_number() {
    let place = Place::new();
    let mut file = RELAY.to_vec();
    let at = file.windows(7).position(|window| window == b"event 5").unwrap();
    file[at] = b'E';
    place.write("relay.db", file);
    let ended = place.run(&["import", "relay.db", "--json"]);
    assert_eq!((ended.code, counts(&ended, ["new", "hidden", "refused"])), (2, [18, 1, 1]));
    assert_eq!(ended.err, "relay.db:6: invalid: id is not the hash of the event\n");
}

#[test]
fn a_database_that_cannot_be_imported_says_why_and_what_to_do() {
    let place = Place::new();
    let fails = |what: &str, advice: &str| {
        let ended = place.run(&["import", "relay.db"]);
        ended.assert_failed(what);
        assert!(ended.err.contains(advice), "{}", ended.err);
    };
    let mut other = RELAY.to_vec();
    let name = other.windows(15).position(|window| window == b"tableeventevent").unwrap();
    other[name + 5] = b'E';
    other[name + 6] = b'b';
    place.write("relay.db", &other);
    fails(
        "relay.db cannot be imported: it is an SQLite database without a table \"event\"",
        "export its events as JSONL",
    );
    place.write("relay.db", &RELAY[..RELAY.len() / 2]);
    fails("the SQLite database relay.db is damaged: it is cut off", "sqlite3");
    place.write("relay.db", RELAY);
    place.write("relay.db-journal", "half of a write");
    fails("its program was stopped in the middle of a write", "Open it once with that program");
    fs::remove_file(place.path("relay.db-journal")).unwrap();

    // Whoever has it open holds a lock, in this process here.
    let file = File::options().read(true).write(true).open(place.path("relay.db")).unwrap();
    rustix::fs::fcntl_lock(&file, FlockOperation::LockShared).unwrap();
    fails(&format!("process {} has it open", std::process::id()), "Stop it, then run this again");
    drop(file);
    assert_eq!(place.run(&["import", "relay.db"]).code, 0);

    for (input, arguments) in [(RELAY, &["import"][..]), (b"", &["import", "packed.gz"])] {
        place.write("packed.gz", gzip(RELAY));
        let ended = place.feed(arguments, input);
        ended.assert_failed("it is an SQLite database");
        assert!(ended.err.contains("name the file"), "{}", ended.err);
    }
}

#[test]
fn dumps_of_other_relays_come_in_however_they_are_packed() {
    let fried: String =
        EVENTS.lines().map(|line| format!("{},\"fried\":\"00ff\"}}\n", line.strip_suffix('}').unwrap())).collect();
    let list = format!("[{}]", EVENTS.lines().collect::<Vec<_>>().join(",\n"));
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&list).unwrap()).unwrap();
    for (name, text) in [("lines", EVENTS), ("fried", &fried), ("list", &list), ("pretty", &pretty)] {
        let packed = [text.as_bytes().to_vec(), gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 1).unwrap()];
        for (how, bytes) in packed.iter().enumerate() {
            let place = Place::new();
            place.write("dump", bytes);
            let ended = place.run(&["import", "dump", "--json"]);
            assert_eq!((ended.code, counts(&ended, ["new"])), (0, [30]), "{name} {how}: {}", ended.err);
            assert_eq!(place.export(&[]), lines(0..30), "{name} {how}");
        }
    }
}

/// An event that was never signed, with a text of so many bytes that no packing makes much smaller.
fn unsigned(n: usize, length: usize) -> String {
    let (key, sig) = ("1".repeat(64), "0".repeat(128));
    let mut state = n as u64 + 1;
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text += &format!("{state:016x}");
    }
    format!(
        "{{\"id\":\"{n:064x}\",\"pubkey\":\"{key}\",\"created_at\":{n},\"kind\":1,\"tags\":[],\"content\":\"{text}\",\"sig\":\"{sig}\"}}\n"
    )
}

/// How far a process has read this file; `None` when it does not have it open.
fn read_up_to(child: &Child, file: &Path) -> Option<u64> {
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let open = fs::read_dir(process.join("fd")).ok()?.flatten();
    let fd = open.into_iter().find(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == file))?;
    let info = fs::read_to_string(process.join("fdinfo").join(fd.file_name())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("pos:"))?.trim().parse().ok()
}

/// Has an import of `file` stopped when it has read this share of it, in percent; it may be over before.
fn stop_at(place: &Place, share: u64, file: &str, arguments: &[&str]) -> Ended {
    let path = place.path(file).canonicalize().unwrap();
    let enough = fs::metadata(&path).unwrap().len() * share / 100;
    let mut child = place.command(arguments).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if read_up_to(&child, &path).is_some_and(|read| read >= enough) {
            send_signal(&child, Signal::INT);
            break;
        }
    }
    Ended::of(child.wait_with_output().unwrap())
}

#[test]
fn an_import_that_was_stopped_goes_on_where_it_was() {
    const EVENTS: u64 = 1600;
    let text: String = (0..EVENTS as usize).map(|n| unsigned(n, 10_000)).collect();
    let list = format!("[{}]", text.trim_end().replace('\n', ",\n"));
    for bytes in [text.clone().into_bytes(), gzip(list.as_bytes())] {
        let place = Place::new();
        place.write("events", bytes);
        let arguments = ["import", "--no-verify", "--json", "events"];
        let (mut new, mut stopped) = (0, 0);
        for attempt in 0..100 {
            let ended = stop_at(&place, if new == 0 { 30 } else { 80 }, "events", &arguments);
            // What came in before was not read again, and all that was read came in.
            let [read, read_before, stored, again] = counts(&ended, ["read", "read_before", "new", "already_there"]);
            assert_eq!((read_before, read, again), (new, stored, 0), "{}", ended.err);
            let told =
                format!("line {}, where an import was stopped; --from-start reads all of it", text_number(new + 1));
            assert!(new == 0 || new == EVENTS || ended.err.contains(&told), "{}", ended.err);
            new += stored;
            assert_eq!(place.run(&["scan", "--count", "{}"]).out, format!("{new}\n"));
            if ended.code != 0 {
                assert!(ended.err.contains("Run it again to go on from there"), "{}", ended.err);
                stopped += u32::from(stored > 0);
            } else if stopped > 0 {
                break;
            } else {
                // On a busy machine the import may be over before it is told to stop.
                assert!(attempt < 99, "it was never stopped in the middle");
                fs::remove_dir_all(place.path("ratite-data")).unwrap();
                new = 0;
            }
        }
        assert!(stopped > 0);
        assert_eq!(new, EVENTS);
        // At its end it is forgotten where it was.
        let ended = place.run(&arguments);
        assert_eq!((ended.err.as_str(), counts(&ended, ["read", "already_there"])), ("", [EVENTS, EVENTS]));
    }
}

/// Has an import killed after its first commit and before its next; the number of events that are in then.
fn killed_in_the_middle(store: &Store, mut command: Command) -> u64 {
    let before = store.next_seq().unwrap();
    let mut child = command.spawn().unwrap();
    while store.next_seq().unwrap() == before {
        assert!(child.try_wait().unwrap().is_none(), "the import ended without a commit");
        std::thread::sleep(Duration::from_millis(1));
    }
    // While this process is the one that may write, the import cannot go on.
    let lock = store.batch(0).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lock);
    store.occupancy().unwrap().events
}

#[test]
fn an_import_of_whatever_is_packed_however_goes_on_when_it_was_killed() {
    // More than a transaction of an import takes.
    const EVENTS: u64 = 1900;
    let lines: Vec<String> = (1..=EVENTS as usize).map(|n| unsigned(n, 50_000).trim_end().to_owned()).collect();
    let fried = lines.iter().map(|line| format!("{},\"fried\":\"00ff\"}}\n", line.strip_suffix('}').unwrap()));
    let sources = [
        ("lines", lines.join("\n").into_bytes()),
        ("strfry", zstd::encode_all(fried.collect::<String>().as_bytes(), 1).unwrap()),
        ("list", gzip(format!("[{}]", lines.join(",\n")).as_bytes())),
    ];
    let arguments = ["import", "--no-verify", "--json", "events"];
    for (what, bytes) in sources {
        let place = Place::new();
        // The first transaction of an empty database would take all of it.
        assert_eq!(place.feed(&["import", "--no-verify"], unsigned(EVENTS as usize + 1, 10).as_bytes()).code, 0);
        place.write("events", &bytes);
        let store = Store::open(&place.path("ratite-data"), 1 << 36).unwrap();
        let there = killed_in_the_middle(&store, place.command(arguments)) - 1;
        assert!(there > 0 && there < EVENTS, "{what}: {there} are there");
        let is_changed = what == "lines";
        if is_changed {
            place.write("events", [bytes.as_slice(), b"\n"].concat());
        }
        let ended = place.run(&arguments);
        // What was changed is another file, which is read from its beginning; otherwise nothing is read twice.
        let [before, again] = if is_changed { [0, there] } else { [there, 0] };
        let expected = [EVENTS - before, before, EVENTS - there, again];
        assert_eq!(counts(&ended, ["read", "read_before", "new", "already_there"]), expected, "{what}: {}", ended.err);
        assert_eq!(ended.err.contains(" goes on at "), !is_changed, "{what}: {}", ended.err);
        let found = place.export(&["--as-stored"]);
        assert!(found[1..] == lines, "{what}: not each of them once, in their order");
    }
}

/// As people are shown it.
fn text_number(n: u64) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) }
}

/// A place in which an import of `first` and `second` was stopped while it waited for the pipe between them.
fn stopped_between(first: &str, second: &str) -> Place {
    let place = Place::new();
    place.write("first", first);
    place.write("second", second);
    let mut child = place
        .command(["import", "first", "-", "second", "--json"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Something of it is stored when everything before it is.
    stdin.write_all((note(900) + "\n").as_bytes()).unwrap();
    wait_for("the pipe's event is stored", || place.run(&["scan", "--count", "{\"since\":1700000900}"]).out == "1\n");
    send_signal(&child, Signal::INT);
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{out}");
    place
}

#[test]
fn of_several_files_those_that_were_read_are_passed_over_until_all_are() {
    let place = stopped_between(&notes(40), &(note(500) + "\n"));
    let ended = place.run(&["import", "first", "second", "--json"]);
    assert_eq!(ended.code, 0);
    assert!(ended.err.starts_with("first was read to its end by an import that was stopped later;"), "{}", ended.err);
    assert_eq!(counts(&ended, ["read", "read_before", "new"]), [1, 40, 1]);
    let ended = place.run(&["import", "first", "second", "--json"]);
    assert_eq!((ended.err.as_str(), counts(&ended, ["read", "read_before"])), ("", [41, 0]));

    let place = stopped_between(&notes(40), &(note(500) + "\n"));
    let ended = place.run(&["import", "--from-start", "first", "second", "--json"]);
    assert_eq!((ended.err.as_str(), counts(&ended, ["read", "already_there"])), ("", [41, 40]));

    // A file that was changed is another one.
    let place = stopped_between(&notes(40), &(note(500) + "\n"));
    place.write("first", notes(41));
    let ended = place.run(&["import", "first", "--json"]);
    assert_eq!((ended.err.as_str(), counts(&ended, ["read", "new"])), ("", [41, 1]));
}

#[test]
fn what_was_refused_before_an_import_was_stopped_is_not_forgotten() {
    let lines = format!("{}nonsense\n{}", notes(3), json(&sign(1, 1_700_000_009, 1, &[], "good")));
    let place = stopped_between(&lines, &note(500));
    let ended = place.run(&["import", "first", "second", "--json"]);
    assert_eq!(ended.code, 2, "something of it is not in");
    assert!(ended.err.contains(", 1 line of it refused;"), "{}", ended.err);

    let place = stopped_between(&lines, &note(500));
    let ended = place.run(&["import", "first", "second", "--rejects", "refused", "--json"]);
    assert_eq!((ended.code, counts(&ended, ["read", "refused"])), (2, [6, 1]));
    assert!(ended.err.starts_with("first is read from its beginning: --rejects"), "{}", ended.err);
    assert!(place.read("refused").contains("\"event\":\"nonsense\""));
}
