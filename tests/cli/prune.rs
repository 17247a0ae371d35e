//! What the rules of retention let go.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::place::{Ended, Place, Running, json, send_signal, sign, wait_for, wait_until_it_listens_to_signals};

const DAY: u64 = 86_400;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Twenty notes of one author, each a day older than the one before, and his profile, which is older than all.
fn aged() -> Place {
    let place = Place::new();
    let mut lines: Vec<String> =
        (0..20).map(|days| json(&sign(1, now() - days * DAY - 10, 1, &[], &format!("{days}")))).collect();
    lines.push(json(&sign(1, now() - 400 * DAY, 0, &[], "{}")));
    place.write("events.jsonl", lines.join("\n"));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    place
}

#[test]
fn a_dry_run_says_what_would_go_and_why_and_removes_nothing() {
    let place = aged();
    let rules = ["--rule", "1: 10d", "--rule", "others: 3 per author"];
    let ended = place.run(&[&["prune", "--dry-run"], &rules[..]].concat());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let found = |line: &str| {
        ended.out.lines().any(|found| found.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(line))
    };
    assert!(
        found("1: 10d 10 ") && found("others: 3 per author 0 0 bytes") && found("10 events, about "),
        "{}",
        ended.out
    );
    assert!(ended.out.ends_with("would be removed\n"), "{}", ended.out);
    let ended = place.run(&[&["prune", "--dry-run", "--json"], &rules[..]].concat());
    let json = ended.json();
    assert_eq!(
        (json["would_remove"]["events"].as_u64(), json["rules"][0]["rule"].as_str()),
        (Some(10), Some("1: 10d"))
    );
    assert_eq!(place.export(&[]).len(), 21);

    let ended = place.run(&[&["prune", "--json"], &rules[..]].concat());
    assert_eq!(
        (ended.code, ended.json()["removed"]["events"].as_u64(), ended.json()["complete"].as_bool()),
        (0, Some(10), Some(true))
    );
    assert_eq!(place.export(&[]).len(), 11, "the profile is protected");
    assert_eq!(place.run(&["verify"]).code, 0);
}

#[test]
fn the_configuration_has_the_rules_and_info_shows_what_they_did() {
    let place = aged();
    place.run(&["prune"]).assert_failed("nothing says which events to remove");
    place.run(&["prune", "--rule", "7"]).assert_failed("no colon");
    place.write("ratite.toml", "[retention]\nrules = [\"1: 10d\"]\napply = false\n");

    // A relay that may not apply them counts what would go.
    let running = Running::start(&place, &[]);
    wait_for("the relay has looked", || place.run(&["info", "--json"]).json()["retention"]["at"].as_u64().is_some());
    let info = place.run(&["info", "--json"]).json();
    assert_eq!(info["retention"]["rules"][0]["rule"], "1: 10d");
    assert_eq!(info["retention"]["rules"][0]["due"]["events"], 10);
    assert_eq!(place.export(&[]).len(), 21);

    // Beside it somebody else does.
    let ended = place.run(&["prune"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.contains("will be removed\n10 events removed; "), "{}", ended.out);
    assert_eq!(place.export(&[]).len(), 11);
    let info = place.run(&["info"]).out;
    let row = info.lines().find(|line| line.starts_with("1: 10d")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>()[2..4], ["0", "0"], "{row}");
    assert_eq!(running.stop(Signal::TERM), 0);

    // And a relay that may does it by itself.
    place.write("ratite.toml", "[retention]\nrules = [\"1: 5d\"]\n");
    let _relay = Running::start(&place, &[]);
    wait_for("the relay has applied its rules", || place.export(&[]).len() == 6);
}

#[test]
fn pruning_stops_cleanly() {
    let place = Place::new();
    let lines: String = (0..6000).map(|n| json(&sign(1, 1_600_000_000 + n, 1, &[], "old")) + "\n").collect();
    place.write("events.jsonl", lines);
    assert_eq!(place.run(&["import", "--no-verify", "events.jsonl"]).code, 0);
    let child = place.command(["prune", "--rule", "1: 1d", "--json"]).spawn().unwrap();
    wait_until_it_listens_to_signals(&child);
    send_signal(&child, Signal::INT);
    let ended = Ended::of(child.wait_with_output().unwrap());
    // It may have been faster than the signal.
    if ended.code != 0 {
        ended.assert_failed("was stopped");
    }
    assert_eq!(place.run(&["verify"]).code, 0);
    let ended = place.run(&["prune", "--rule", "1: 1d", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(place.export(&[]).len(), 0);
    assert!(fs::metadata(place.path("ratite-data/data.mdb")).unwrap().len() > 0);
}
