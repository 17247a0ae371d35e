//! `ratite admin`: what is banned and allowed, while the relay runs and while it does not.

use serde_json::json;

use crate::place::{Place, filled};

/// The key that wrote the events of a filled place.
fn author(place: &Place) -> String {
    let events = place.export(&[]);
    let event: serde_json::Value = serde_json::from_str(&events[0]).unwrap();
    event["pubkey"].as_str().unwrap().to_owned()
}

#[test]
fn without_a_method_all_are_listed() {
    let place = Place::new();
    let ended = place.run(&["admin"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(
        ended.out.contains("\nbanpubkey PUBKEY [REASON]\n") && ended.out.contains("\nlistallowedkinds\n"),
        "{}",
        ended.out
    );
}

#[test]
fn keys_are_banned_listed_and_forgiven_in_either_spelling() {
    let place = filled();
    let key = author(&place);
    let npub = ratite::nostr::nip19::encode_npub(&ratite::nostr::PublicKey::from_hex(&key).unwrap());
    assert_eq!(place.run(&["admin", "banpubkey", &npub, "sells watches"]).out, "done\n");
    assert_eq!(place.run(&["admin", "listbannedpubkeys"]).out, format!("{key} sells watches\n"));
    let list = place.run(&["admin", "listbannedpubkeys", "10", "--json"]).json();
    assert_eq!(list, json!([{"pubkey": key, "reason": "sells watches"}]));
    // What is banned does not come in by import either.
    let events = place.export(&[]).join("\n");
    let own = events.lines().filter(|line| line.contains(&format!("\"pubkey\":\"{key}\""))).count();
    let removed = place.run(&["admin", "purgepubkey", &key]);
    assert_eq!(removed.out, format!("{own}\n"));
    let again = place.feed(&["import", "--json"], events.as_bytes());
    assert_eq!((again.code, &again.json()["new"]), (2, &0.into()), "{}", again.err);
    assert_eq!(place.run(&["admin", "unbanpubkey", &key]).out, "done\n");
    assert_eq!(place.feed(&["import", "--json"], events.as_bytes()).json()["new"], own);
}

#[test]
fn mistakes_end_with_1_and_say_what_is_right() {
    let place = filled();
    place
        .run(&["admin", "banpubkey", "nobody"])
        .assert_failed("64 lower-case hexadecimal digits; banpubkey takes PUBKEY");
    place.run(&["admin", "allowkind", "many"]).assert_failed("a kind is a number");
    place.run(&["admin", "fly"]).assert_failed("there is no method fly");
    assert_eq!(place.run(&["admin", "allowkind", "7"]).out, "done\n");
    assert_eq!(place.run(&["admin", "listallowedkinds"]).out, "7\n");
}
