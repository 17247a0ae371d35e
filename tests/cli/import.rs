//! `ratite import`: what comes in, what is refused, and what is said about it.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::place::{Ended, Place, gzip, json, note, notes, send_signal, sign, wait_for};

#[test]
fn an_import_is_summed_up_and_repeating_it_changes_nothing() {
    let place = Place::new();
    place.write("events.jsonl", notes(30));
    let ended = place.run(&["import", "events.jsonl"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> =
        ended.out.lines().map(|line| line.split("  ").map(str::trim).filter(|s| !s.is_empty()).collect()).collect();
    for row in [
        ["read", "30"],
        ["new", "30"],
        ["already there", "0"],
        ["replaced", "0"],
        ["deleted earlier", "0"],
        ["refused", "0"],
    ] {
        assert!(rows.contains(&row.to_vec()), "{row:?} is not in {}", ended.out);
    }
    assert!(ended.out.lines().last().unwrap().ends_with("events per second"), "{}", ended.out);
    let again = place.run(&["import", "events.jsonl", "--json"]);
    assert_eq!(again.code, 0);
    let counts = again.json();
    assert_eq!((&counts["read"], &counts["new"], &counts["already_there"]), (&30.into(), &0.into(), &30.into()));
    assert_eq!(counts["complete"], true);
    assert_eq!(place.export(&[]).len(), 30);
}

#[test]
fn every_fate_of_an_event_is_counted() {
    let place = Place::new();
    let victim = sign(1, 1_700_000_000, 1, &[], "regretted");
    let deletion = sign(1, 1_700_000_001, 5, &[&["e", &victim.id.to_string()]], "");
    let lines = [
        note(1),
        note(1),
        json(&deletion),
        json(&victim),
        json(&sign(1, 1_700_000_009, 0, &[], "new profile")),
        json(&sign(1, 1_700_000_002, 0, &[], "old profile")),
        json(&sign(1, 1_700_000_003, 20_001, &[], "ephemeral")),
        json(&sign(1, 1_700_000_004, 1, &[&["expiration", "1700000005"]], "expired")),
        "nonsense".to_owned(),
    ];
    place.write("events.jsonl", lines.join("\n"));
    let ended = place.run(&["import", "events.jsonl", "--json"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    let expected = serde_json::json!({
        "read": 9, "new": 3, "already_there": 1, "replaced": 1, "deleted_earlier": 1, "expired": 1, "ephemeral": 1,
        "hidden": 0, "refused": 1, "read_before": 0, "complete": true
    });
    assert_eq!(ended.json(), expected);
    assert!(ended.err.starts_with("events.jsonl:9: invalid: "), "{}", ended.err);
}

#[test]
fn bad_lines_never_stop_the_run_and_are_written_with_their_reasons() {
    let place = Place::new();
    let mut forged = note(3);
    forged = forged.replace("note 3", "note 4");
    let signature = {
        let event = sign(1, 1_700_000_050, 1, &[], "x");
        let other = sign(2, 1_700_000_050, 1, &[], "x");
        json(&event).replace(&event.sig.to_string(), &other.sig.to_string())
    };
    let mut file = Vec::new();
    for line in [&note(0), "", &forged, "   ", "{\"id\":1}", &note(1), "[]", &signature, "not json"] {
        file.extend_from_slice(line.as_bytes());
        file.extend_from_slice(b"\r\n");
    }
    file.extend_from_slice(b"\xff\xfe\n");
    // The last line ends without a line end, and carries a member that strfry's fried dumps have.
    let fried = note(2);
    file.extend_from_slice(format!("{},\"fried\":\"00ff\"}}", &fried[..fried.len() - 1]).as_bytes());
    place.write("events.jsonl", &file);

    let ended = place.run(&["import", "events.jsonl", "--rejects", "rejects.jsonl", "--json"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    let counts = ended.json();
    assert_eq!((&counts["read"], &counts["new"], &counts["refused"]), (&9.into(), &3.into(), &6.into()));
    assert_eq!(ended.err, "the refused lines are in rejects.jsonl\n");
    let rejects: Vec<Value> =
        place.read("rejects.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<u64> = rejects.iter().map(|reject| reject["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 5, 7, 8, 9, 10], "in order, blank lines counted");
    assert_eq!(rejects[0]["file"], "events.jsonl");
    assert_eq!(rejects[0]["event"], forged.as_str(), "the line as it was");
    assert_eq!(rejects[0]["reason"], "invalid: id is not the hash of the event");
    assert_eq!(rejects[3]["reason"], "invalid: sig is not a signature of id by pubkey");
    assert!(rejects.iter().all(|reject| reject["reason"].as_str().unwrap().starts_with("invalid: ")));
    assert_eq!(place.export(&[]), [note(0), note(1), fried], "unknown members are stripped");
}

#[test]
fn without_a_file_for_them_the_first_refused_lines_are_shown() {
    let place = Place::new();
    place.write("events.jsonl", "{\"bad\n".repeat(25));
    let ended = place.run(&["import", "events.jsonl"]);
    assert_eq!(ended.code, 2);
    let shown: Vec<&str> = ended.err.lines().collect();
    assert_eq!(shown.len(), 11, "{}", ended.err);
    assert!(shown[0].starts_with("events.jsonl:1: invalid: "), "{}", ended.err);
    assert_eq!(shown[10], "and 15 more lines; --rejects FILE writes all of them with their reasons");
}

#[test]
fn standard_input_and_compressed_files_just_work() {
    let text = notes(20);
    let compressed = [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 1).unwrap()];
    for (i, bytes) in [text.as_bytes(), &compressed[0], &compressed[1]].into_iter().enumerate() {
        for arguments in [&["import", "--json"][..], &["import", "-", "--json"]] {
            let place = Place::new();
            let ended = place.feed(arguments, bytes);
            assert_eq!((ended.code, &ended.json()["new"]), (0, &20.into()), "{i} {arguments:?}: {}", ended.err);
        }
        let place = Place::new();
        // The content decides, not the name.
        place.write("events.jsonl", bytes);
        let ended = place.run(&["import", "--json", "events.jsonl"]);
        assert_eq!((ended.code, &ended.json()["new"]), (0, &20.into()), "{i}: {}", ended.err);
    }
    let place = Place::new();
    let ended = place.run(&["import", "--json"]);
    assert_eq!((ended.code, &ended.json()["read"]), (0, &0.into()), "nothing is a clean import of nothing");
}

#[test]
fn several_sources_are_read_in_order() {
    let place = Place::new();
    place.write("a.jsonl", note(0));
    place.write("b.jsonl.zst", zstd::encode_all((note(1) + "\nbad").as_bytes(), 1).unwrap());
    let ended = place.feed(&["import", "a.jsonl", "-", "b.jsonl.zst", "--json"], note(2).as_bytes());
    assert_eq!(ended.code, 2);
    assert_eq!((&ended.json()["read"], &ended.json()["new"]), (&4.into(), &3.into()));
    assert!(ended.err.starts_with("b.jsonl.zst:2: "), "{}", ended.err);
}

#[test]
fn wrong_sources_fail_before_anything_is_read() {
    let place = Place::new();
    place.write("good.jsonl", note(0));
    place.run(&["import", "good.jsonl", "missing.jsonl"]).assert_failed("there is no file missing.jsonl");
    place.run(&["import", "good.jsonl", "."]).assert_failed(". is a folder");
    place.run(&["import", "-", "-"]).assert_failed("standard input (-) is named twice");
    place.run(&["import", "good.jsonl", "--rejects", "./good.jsonl"]).assert_failed("is to be read and to be written");
    place
        .run(&["import", "good.jsonl", "--rejects", "no/such/folder"])
        .assert_failed("no/such/folder cannot be written");
    assert_eq!(place.read("good.jsonl"), note(0));
    assert!(!place.path("ratite-data").exists(), "nothing was begun");
}

#[test]
fn a_file_that_is_cut_off_keeps_what_came_before() {
    let place = Place::new();
    let whole = gzip(notes(500).as_bytes());
    place.write("events.jsonl.gz", &whole[..whole.len() / 2]);
    let ended = place.run(&["import", "events.jsonl.gz", "--json"]);
    ended.assert_failed("events.jsonl.gz ends too early");
    let counts = ended.json();
    assert_eq!((&counts["complete"], &counts["refused"]), (&false.into(), &0.into()));
    let stored = place.export(&[]).len();
    assert!(stored > 0 && counts["new"] == stored, "{counts}");
    place.write("events.jsonl.gz", whole);
    assert_eq!(place.run(&["import", "events.jsonl.gz", "--json"]).json()["new"], 500 - stored);
}

#[test]
fn the_files_behind_a_faulty_one_are_read_and_every_fault_is_told() {
    let place = Place::new();
    let cut = gzip(notes(500).as_bytes());
    place.write("1.gz", &cut[..cut.len() / 2]);
    place.write("2.csv", "id,pubkey\n1,2\n");
    place.write("3.gz", [gzip(note(1000).as_bytes()), b"rubbish".to_vec()].concat());
    place.write("4.gz", [gzip(note(1001).as_bytes()), vec![0; 1000]].concat());
    place.write("5.jsonl", note(1002));
    let ended = place.run(&["import", "--json", "1.gz", "2.csv", "3.gz", "4.gz", "5.jsonl"]);
    ended.assert_failed("error: 1.gz ends too early: it is cut off");
    for part in [
        "error: 2.csv does not look like JSONL: it is text that begins with \"id,pubkey\"",
        "error: 3.gz is not clean: what follows its packed part is not packed",
    ] {
        assert!(ended.err.contains(part), "{part} is not in {}", ended.err);
    }
    assert!(!ended.err.contains("4.gz"), "zeros are padding: {}", ended.err);
    let counts = ended.json();
    assert_eq!((&counts["complete"], &counts["refused"]), (&false.into(), &0.into()));
    let stored = place.export(&["--since", "1700001000"]);
    assert_eq!(stored, [note(1000), note(1001), note(1002)]);
}

#[test]
fn lists_and_messages_and_pretty_printed_events_are_read() {
    let place = Place::new();
    let lists = [
        format!("[{},\n{}]", note(0), note(1)),
        format!("[\r\n  {}\r\n  ,\r\n  {}\r\n]\r\n", note(2), note(3)),
        format!("\u{feff}{:#}\n{:#}", value(&note(4)), value(&note(5))),
        format!("[\"EVENT\",{}]\n [\"EVENT\", \"sub\", {}]\n{}\n", note(6), note(7), note(8)),
    ];
    for (i, text) in lists.iter().enumerate() {
        let ended = place.feed(&["import", "--json"], text.as_bytes());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{i}");
    }
    assert_eq!(place.export(&[]), (0..9).map(note).collect::<Vec<_>>());

    let ended = place.feed(&["import"], format!("[{},\n{{\"id\":5}},\n{}]", note(9), note(10)).as_bytes());
    assert_eq!(ended.code, 2);
    assert!(ended.err.starts_with("standard input:2: invalid: "), "{}", ended.err);
    let ended = place.feed(&["import"], format!("[\"EOSE\",\"sub\"]\n{}", note(11)).as_bytes());
    assert_eq!(ended.err, "standard input:1: invalid: neither an event nor a message with one\n");
    let ended = place.feed(&["import", "--json"], format!("[{},\n{},", note(12), note(13)).as_bytes());
    ended.assert_failed("standard input ends too early");
    assert_eq!(ended.json()["new"], 2);
    assert_eq!(place.export(&[]).len(), 14);
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_no_jsonl_is_called_what_it_is_once() {
    let place = Place::new();
    let utf_16: Vec<u8> = format!("\u{feff}{}", notes(3)).encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, what) in [
        (utf_16, "UTF-16 text"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0".repeat(1000), "binary data"),
        (gzip(&[0; 10_000]), "binary data"),
        (b"<!DOCTYPE html>\n<p>404</p>\n".to_vec(), "HTML or XML"),
        (b"Dear diary,\n\n".repeat(1000), "text that begins with \"Dear diary,\""),
    ] {
        let ended = place.feed(&["import", "--json"], &bytes);
        ended.assert_failed(&format!("standard input does not look like JSONL: it is {what}\n"));
        assert_eq!(ended.json()["read"], 0);
        assert_eq!(ended.err.lines().count(), 2, "{}", ended.err);
    }
    assert_eq!(
        place.run(&["import", "ratite-data/data.mdb"]).err.lines().next(),
        Some("error: ratite-data/data.mdb does not look like JSONL: it is an LMDB database")
    );
}

#[test]
fn an_import_of_nothing_at_all_is_not_passed_over_in_silence() {
    let place = Place::new();
    place.write("empty", "");
    place.write("list", "[]");
    for arguments in [&["import", "--json"][..], &["import", "empty", "--json"], &["import", "list", "--json"]] {
        let ended = place.run(arguments);
        assert_eq!((ended.code, &ended.json()["read"]), (0, &0.into()));
        assert!(ended.err.starts_with("warning: there was nothing to read"), "{}", ended.err);
    }
}

#[test]
fn a_line_too_long_to_be_an_event_is_refused_alone() {
    let place = Place::new();
    let mut file = (note(0) + "\n").into_bytes();
    file.resize(file.len() + (40 << 20), b'x');
    file.extend_from_slice(format!("\n{}", note(1)).as_bytes());
    let ended = place.feed(&["import", "--json"], &file);
    assert_eq!(ended.code, 2);
    assert_eq!((&ended.json()["new"], &ended.json()["refused"]), (&2.into(), &1.into()));
    assert_eq!(ended.err, "standard input:2: invalid: the line is longer than 16.0 MiB\n");
}

#[test]
fn a_trusted_import_checks_no_signatures() {
    let place = Place::new();
    let event = sign(1, 1_700_000_000, 1, &[], "x");
    place.write("events.jsonl", json(&event).replace(&event.sig.to_string(), &"0".repeat(128)));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 2);
    let ended = place.run(&["import", "--no-verify", "events.jsonl", "--json"]);
    assert_eq!((ended.code, &ended.json()["new"]), (0, &1.into()));
}

#[test]
fn an_import_that_is_stopped_keeps_whole_batches_and_continues_later() {
    let place = Place::new();
    let mut child = place.command(["import", "--json"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(notes(40).as_bytes()).unwrap();
    stdin.flush().unwrap();
    // The pipe stays open, as that of a slow source does; what has come is stored all the same.
    wait_for("the first lines are stored", || {
        let ended = place.run(&["scan", "--count", "{}"]);
        ended.code == 0 && ended.out == "40\n"
    });
    // Together they are one wish to stop, and no impatience.
    send_signal(&child, Signal::INT);
    send_signal(&child, Signal::TERM);
    let ended = Ended::of(child.wait_with_output().unwrap());
    ended.assert_failed("the import was stopped");
    assert!(ended.err.contains("Run it again to continue"), "{}", ended.err);
    let counts = ended.json();
    assert_eq!((&counts["new"], &counts["complete"]), (&40.into(), &false.into()));
    drop(stdin);

    let again = place.feed(&["import", "--json"], notes(60).as_bytes());
    assert_eq!((again.code, &again.json()["new"], &again.json()["already_there"]), (0, &20.into(), &40.into()));
    assert_eq!(place.run(&["verify"]).code, 0);
}

#[test]
fn the_real_corpus_survives_import_and_export() {
    let Some(corpus) = std::env::var_os("RATITE_CORPUS") else { return };
    let corpus = Path::new(&corpus);
    let place = Place::new();
    let ended = place.run(&["import", "--json", corpus.join("real-events.jsonl").to_str().unwrap()]);
    assert!(ended.code == 0 || ended.code == 2, "{}", ended.err);
    let exported = place.export(&[]);
    assert_eq!(exported.len() as u64, place.run(&["verify", "--json"]).json()["events"]);
    let other = Place::new();
    assert_eq!(other.feed(&["import", "--json"], exported.join("\n").as_bytes()).code, 0);
    assert_eq!(other.export(&[]), exported, "byte for byte");
}

#[test]
fn a_terminal_shows_how_far_an_import_is() {
    let place = Place::new();
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut terminal = place.show(&["import", pipe.to_str().unwrap()]);
    let mut dump = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let mut shown = String::new();
    let some = notes(500);
    // The same events again and again, until nobody reads them any more.
    let feeder = std::thread::spawn(move || while dump.write_all(some.as_bytes()).is_ok() {});
    while !(shown.contains("/s") && shown.contains('\r')) {
        let drawn = terminal.drawn();
        assert!(!drawn.is_empty(), "the import ended without a line: {shown}");
        shown.push_str(&drawn);
    }
    terminal.child.kill().unwrap();
    terminal.child.wait().unwrap();
    drop(terminal);
    feeder.join().unwrap();
}
