//! Real events, when `RATITE_CORPUS` names a folder with `real-events.jsonl` and `real-invalid.jsonl`.

use std::path::PathBuf;

use ratite::nostr::Event;
use serde_json::Value;

use super::to_json;

fn read(file: &str) -> Option<String> {
    let Some(folder) = std::env::var_os("RATITE_CORPUS") else {
        eprintln!("skipped: RATITE_CORPUS is not set");
        return None;
    };
    let path = PathBuf::from(folder).join(file);
    Some(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

#[test]
fn real_events_are_accepted_and_survive() {
    let Some(text) = read("real-events.jsonl") else { return };
    for (i, line) in text.lines().enumerate() {
        let at = format!("line {}: {line}", i + 1);
        let original: Value = serde_json::from_str(line).unwrap();
        if original["kind"].as_u64() > Some(65535) {
            // Genuine, and yet no event that may be stored (N01-20): the corpus holds two.
            let refused = Event::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(refused.starts_with("kind must be"), "{refused}: {at}");
            continue;
        }
        let event = Event::parse(line.as_bytes()).unwrap_or_else(|e| panic!("{e}: {at}"));
        assert_eq!(event.check_id(), Ok(()), "{at}");
        assert_eq!(event.check_signature(), Ok(()), "{at}");
        let json = to_json(&event);
        assert_eq!(Event::parse(json.as_bytes()).as_ref(), Ok(&event), "{at}");
        let written: Value = serde_json::from_str(&json).unwrap();
        for field in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
            assert_eq!(written[field], original[field], "{at}");
        }
    }
}

#[test]
fn real_invalid_events_are_refused() {
    let Some(text) = read("real-invalid.jsonl") else { return };
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let checked = Event::parse(case["event"].to_string().as_bytes()).and_then(|event| {
            event.check_id()?;
            event.check_signature()
        });
        let error = checked.expect_err(line).to_string();
        let why = case["why"].as_str().unwrap();
        // A shape that is refused anyway is refused before hash and signature are looked at.
        let expected: &[&str] = match why {
            _ if why.starts_with("id mismatch") => &["id is not the hash", "kind must be"],
            _ if why.starts_with("bad signature") => &["sig is not a signature"],
            "pubkey is not a curve point" => &["pubkey is not a point on the curve"],
            "malformed: tags is not a list of lists of strings" => &["tags must", "a tag must"],
            "malformed: created_at is not an integer" => &["created_at must"],
            "malformed: id is not 64 lowercase hex" => &["id must"],
            "malformed: pubkey is not 64 lowercase hex" => &["pubkey must"],
            "malformed: sig is not 128 lowercase hex" => &["sig must"],
            _ => panic!("unknown sort: {why}"),
        };
        let fits = expected.iter().any(|start| error.starts_with(start));
        assert!(fits, "{error}: {line}");
    }
}
