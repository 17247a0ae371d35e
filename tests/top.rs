//! `ratite stats` and `ratite top` over a relay that runs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use serde_json::Value;
use wire::process::{RelayProcess, ratite};
use wire::{event, eventually};

#[test]
fn what_a_relay_did_is_told_without_any_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let output = ratite(folder.path(), &["stats"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no relay runs over"), "{output:?}");

    let relay = RelayProcess::start(folder.path());
    let mut socket = relay.connect();
    for n in 0..3 {
        let event = event(1, 1, &n.to_string());
        socket.publish(&event);
        socket.hears("OK", &event.id.to_string());
    }
    socket.say("[\"REQ\",\"s\",{\"kinds\":[1],\"limit\":1}]");
    socket.hears("EVENT", "s");
    socket.hears("EOSE", "s");
    let stats = || -> Value {
        let output = ratite(folder.path(), &["stats", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    eventually("the database was measured and the question counted", || {
        let stats = stats();
        stats["stored_events"] == 3 && stats["queries"]["kinds"]["count"] == 1
    });
    let stats = stats();
    assert_eq!((&stats["pid"], &stats["status"]), (&relay.id().into(), &"ok".into()), "{stats}");
    assert_eq!((&stats["events_taken"], &stats["websockets"]), (&3.into(), &1.into()));
    assert_eq!((&stats["received"]["EVENT"], &stats["sent"]["OK"]), (&3.into(), &3.into()));
    let kind = &stats["stored"]["kinds"][0];
    assert_eq!((&kind["kind"], &kind["events"]), (&1.into(), &3.into()), "{stats}");

    let text = |command: &str| {
        let output = ratite(folder.path(), &[command]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = text("stats");
    for part in ["status          ok\n", "EVENT 3", "stored 3", "kinds 1 (mean ", "kind 1: 3 events"] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    // No terminal: one look, and no control characters.
    let shown = text("top");
    assert!(shown.contains("clients     1 (1 connections of 10000)   subscriptions 1"), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
}
