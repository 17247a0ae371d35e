//! `ratite export`, `scan`, `delete` and `info`: what is stored, from outside.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ratite::nostr::Event;
use ratite::store::Store;
use rustix::process::Signal;
use serde_json::Value;

use crate::place::{
    Ended, Place, filled, json, note, notes, send_signal, sign, wait_for, wait_until_it_listens_to_signals,
};

#[test]
fn an_export_is_what_was_imported_oldest_first() {
    let place = filled();
    let mut expected: Vec<String> = place.read("events.jsonl").lines().map(str::to_owned).collect();
    expected.sort_by_key(|line| Event::parse(line.as_bytes()).unwrap().created_at);
    assert_eq!(place.export(&[]), expected);
    expected.reverse();
    assert_eq!(place.export(&["--reverse"]), expected);
}

#[test]
fn an_export_is_narrowed_by_filter_and_time() {
    let place = filled();
    assert_eq!(place.export(&["--since", "1700000008"]).len(), 3);
    assert_eq!(place.export(&["--until", "2020-09-13T12:26:40Z"]).len(), 1);
    assert_eq!(place.export(&["--since", "1700000003", "--until", "1700000005"]), [note(3), note(4), note(5)]);
    assert_eq!(place.export(&["--filter", "{\"kinds\":[1],\"limit\":2}"]), [note(0), note(1)]);
    assert_eq!(place.export(&["--filter", "{\"kinds\":[1],\"limit\":2}", "--reverse"]), [note(9), note(8)]);
    assert_eq!(place.export(&["--filter", "[{\"kinds\":[0]},{\"#t\":[\"nostr\"]}]"]).len(), 2);
    assert_eq!(
        place.export(&["--since", "1h"]),
        [json(&sign(2, 4_000_000_000, 30_023, &[&["d", "x"], &["t", "nostr"]], "later \"quoted\"\n\u{1f426}"))]
    );
    assert_eq!(place.export(&["--filter", "{\"ids\":[]}"]).len(), 0);
}

#[test]
fn an_export_to_a_file_can_be_imported_again() {
    let place = filled();
    let expected = place.export(&[]);
    for name in ["backup.jsonl", "backup.jsonl.gz", "backup.jsonl.zst"] {
        let ended = place.run(&["export", "-o", name]);
        assert_eq!((ended.code, ended.out.as_str()), (0, ""));
        assert_eq!(ended.err, format!("12 events written to {name}\n"));
        let other = Place::new();
        let from = place.path(name);
        assert_eq!(other.run(&["import", from.to_str().unwrap()]).code, 0);
        assert_eq!(other.export(&[]), expected, "{name}");
    }
    let plain = place.read("backup.jsonl").len() as u64;
    assert!(fs::metadata(place.path("backup.jsonl.gz")).unwrap().len() < plain);
    assert!(fs::metadata(place.path("backup.jsonl.zst")).unwrap().len() < plain);
    assert!(!place.folder.path().join("backup.jsonl.unfinished").exists());
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new();
    place.write("events.jsonl", notes(2_000));
    assert_eq!(place.run(&["import", "events.jsonl", "--no-verify"]).code, 0);
    for arguments in [&["export"][..], &["scan", "{}"], &["config"], &["info"], &["--help"]] {
        let mut child = place.command(arguments).spawn().unwrap();
        // Not even one byte is read.
        drop(child.stdout.take());
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn a_bad_filter_shows_what_is_wrong_and_an_example() {
    let place = filled();
    for arguments in [
        &["export", "--filter", "{\"kinds\":\"1\"}"][..],
        &["scan", "{\"kinds\":\"1\"}"],
        &["delete", "--filter", "{\"kinds\":\"1\"}"],
    ] {
        let ended = place.run(arguments);
        ended.assert_failed("this is not a filter: kinds must be");
        assert!(
            ended.err.contains("{\"kinds\":\"1\"}") && ended.err.contains("A filter looks like this"),
            "{}",
            ended.err
        );
    }
    place.run(&["scan", "{kinds:[1]}"]).assert_failed("The shell has eaten the double quotes");
    place.run(&["scan", "{\"search\":\"emu\"}"]).assert_failed("\"search\" are not supported yet");
}

#[test]
fn a_scan_prints_newest_first_and_counts() {
    let place = filled();
    let ended = place.run(&["scan", "{\"kinds\":[1],\"limit\":3}"]);
    assert_eq!(ended.code, 0);
    assert_eq!(ended.out, [note(9), note(8), note(7)].join("\n") + "\n");
    let ended = place.run(&["scan", "{\"kinds\":[1],\"limit\":1}", "{\"kinds\":[1],\"limit\":2}", "{\"kinds\":[0]}"]);
    assert_eq!(ended.out.lines().count(), 3, "the union, each event once");
    assert_eq!(place.run(&["scan", "--count", "{\"kinds\":[1]}"]).out, "10\n");
    assert_eq!(place.run(&["scan", "--count", "--json", "{}"]).json(), serde_json::json!({"count": 12}));
    assert_eq!(place.run(&["scan", "--count", "{}", "--until", "1700000004"]).out, "6\n");
}

#[test]
fn a_delete_removes_what_a_dry_run_counts() {
    let place = filled();
    place.run(&["delete"]).assert_failed("nothing says which events to remove");
    let select = ["--filter", "{\"kinds\":[1]}", "--until", "1700000004"];
    let ended = place.run(&[&["delete", "--dry-run"][..], &select].concat());
    assert_eq!((ended.code, ended.out.as_str()), (0, "5 events would be removed\n"));
    assert_eq!(place.export(&[]).len(), 12);
    let ended = place.run(&[&["delete", "--json"][..], &select].concat());
    assert_eq!((ended.code, ended.json()), (0, serde_json::json!({"removed": 5, "complete": true})));
    assert_eq!(place.export(&[]).len(), 7);
    assert_eq!(place.run(&[&["delete"][..], &select].concat()).out, "0 events removed\n");
    assert_eq!(place.run(&["delete", "--dry-run", "--json", "--since", "1750000000"]).json()["would_remove"], 1);
    assert_eq!(place.run(&["verify"]).code, 0);
    // Removing is not forbidding: the same file brings them back.
    assert_eq!(place.run(&["import", "events.jsonl", "--json"]).json()["new"], 5);
}

#[test]
fn a_delete_that_is_stopped_says_how_far_it_came() {
    let place = Place::new();
    place.write("events.jsonl", notes(1_200));
    assert_eq!(place.run(&["import", "events.jsonl", "--no-verify"]).code, 0);
    // While somebody else writes, it waits for its turn.
    let store = Store::open_existing(&place.path("ratite-data"), 1 << 30).unwrap();
    let turn = store.batch(0).unwrap();
    let child = place.command(["delete", "--filter", "{}", "--json"]).spawn().unwrap();
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, Signal::INT);
    send_signal(&child, Signal::TERM);
    drop(turn);
    let ended = Ended::of(child.wait_with_output().unwrap());
    ended.assert_failed("the removal was stopped");
    assert!(ended.err.contains("Run it again to continue"), "{}", ended.err);
    let counts = ended.json();
    let removed = counts["removed"].as_u64().unwrap();
    assert_eq!(counts["complete"], false);
    assert_eq!(place.export(&[]).len() as u64, 1_200 - removed);
    let again = place.run(&["delete", "--filter", "{}", "--json"]).json();
    assert_eq!((&again["removed"], &again["complete"]), (&(1_200 - removed).into(), &true.into()));
}

#[test]
fn who_asks_again_a_second_later_is_not_kept_waiting() {
    let place = filled();
    let store = Store::open_existing(&place.path("ratite-data"), 1 << 30).unwrap();
    let turn = store.batch(0).unwrap();
    let mut child = place.command(["delete", "--filter", "{}"]).spawn().unwrap();
    wait_until_it_listens_to_signals(&child);
    let began = Instant::now();
    wait_for("it ends although its turn never comes", || {
        let ended = child.try_wait().unwrap().is_some();
        if !ended {
            send_signal(&child, Signal::INT);
        }
        ended
    });
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    drop(turn);
    assert_eq!(place.export(&[]).len(), 12);
}

#[test]
fn times_that_nobody_can_have_meant_are_shown_as_they_are() {
    let place = Place::new();
    let lines =
        [json(&sign(1, 0, 1, &[], "")), json(&sign(1, 5_000_000_000, 1, &[], "")), json(&sign(1, 1 << 40, 1, &[], ""))];
    place.write("events.jsonl", lines.join("\n"));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    let out = place.run(&["info"]).out;
    for line in
        ["oldest          1970-01-01T00:00:00Z", "newest          1099511627776 (unix seconds, after the year 9999)"]
    {
        assert!(out.lines().any(|found| found == line), "{line} is not in {out}");
    }
    assert_eq!(place.run(&["info", "--json"]).json()["newest"], 1u64 << 40);
    assert_eq!(place.export(&["--since", "4294967295"]), lines[1..], "and asked for as they are");
}

#[test]
fn an_export_as_stored_has_what_is_expired_and_keeps_the_order_of_arrival() {
    let place = filled();
    let expected: Vec<String> = place.read("events.jsonl").lines().map(str::to_owned).collect();
    assert_eq!(place.export(&["--as-stored"]), expected);
    assert_eq!(place.export(&["--as-stored", "--filter", "{\"kinds\":[1],\"limit\":3}"]), expected[..3]);
    place.run(&["export", "--as-stored", "--reverse"]).assert_failed("--reverse");
    // One that lives long enough to be stored, and no longer than it must. No relay runs that would remove it.
    let mortal = [1, 3, 10, 60].into_iter().find_map(|life| {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + life;
        let event = sign(3, 1_700_000_050, 1, &[&["expiration", &end.to_string()]], "gone soon");
        (place.feed(&["import", "--json"], json(&event).as_bytes()).json()["new"] == 1).then_some(event)
    });
    let mortal = mortal.expect("an event can be stored within a minute");
    wait_for("it has expired", || place.export(&[]).len() == 12);
    assert_eq!(place.export(&["--as-stored"]).last(), Some(&json(&mortal)));
}

#[test]
fn an_age_with_a_sign_is_answered_with_a_hint() {
    let place = filled();
    place.run(&["export", "--since", "-7d"]).assert_failed("ages are written without a sign: 7d");
    place.run(&["scan", "{}", "--until=-90m"]).assert_failed("ages are written without a sign: 90m");
}

#[test]
fn info_tells_people_and_scripts() {
    let place = filled();
    let ended = place.run(&["info"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    for line in ["events          12", "oldest          2020-09-13T12:26:40Z", "newest          2096-10-02T07:06:40Z"] {
        assert!(ended.out.lines().any(|found| found == line), "{line} is not in {}", ended.out);
    }
    let info = place.run(&["info", "--json"]).json();
    assert_eq!(
        (&info["events"], &info["oldest"], &info["newest"]),
        (&12.into(), &1_600_000_000u64.into(), &4_000_000_000u64.into())
    );
    assert_eq!(info["path"], "./ratite-data");
    assert!(info["schema_version"].is_u64() && info["file_bytes"].as_u64() > Some(0) && info["free_bytes"].is_u64());
    assert!(info["tables"].as_array().unwrap().iter().any(|table| table["name"] == "events" && table["entries"] == 12));
    let empty = Place::new();
    assert_eq!(empty.feed(&["import"], b"").code, 0);
    let info = empty.run(&["info", "--json"]).json();
    assert_eq!((&info["events"], &info["oldest"]), (&0.into(), &Value::Null));
}
