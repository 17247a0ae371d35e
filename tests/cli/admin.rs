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
        ended.out.contains("\nbanpubkey PUBKEY [REASON]\n")
            && ended.out.contains("\nlistallowedkinds [LIMIT [AFTER]]\n"),
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

#[test]
fn members_and_codes_are_kept_from_the_command_line() {
    let place = filled();
    place.run(&["admin", "createinvite"]).assert_failed("membership.enabled is off");
    place.write("ratite.toml", "[membership]\nenabled = true\n");
    let code = place.run(&["admin", "createinvite"]).out;
    assert_eq!(code.trim_end().len(), 16, "{code}");
    let many = place.run(&["admin", "createinvite", "20", "0", "meet-up"]).out;
    let list = place.run(&["admin", "listinvites"]).out;
    let line = |code: &str| list.lines().find(|line| line.starts_with(code.trim_end())).unwrap().to_owned();
    assert_eq!(line(&many), format!("{} uses 20 meet-up", many.trim_end()));
    assert!(line(&code).contains(" until ") && line(&code).ends_with(" uses 1"), "{list}");
    assert_eq!(place.run(&["admin", "revokeinvite", many.trim_end()]).out, "done\n");
    assert_eq!(place.run(&["admin", "listinvites", "--json"]).json().as_array().map(Vec::len), Some(1));

    let key = author(&place);
    assert_eq!(place.run(&["admin", "createrole", "host", "Host", "", "120"]).out, "done\n");
    place.run(&["admin", "assignrole", &key, "host"]).assert_failed("no member");
    assert_eq!(place.run(&["admin", "allowpubkey", &key, "a friend"]).out, "done\n");
    assert_eq!(place.run(&["admin", "assignrole", &key, "host"]).out, "done\n");
    assert_eq!(place.run(&["admin", "listallowedpubkeys"]).out, format!("{key} roles host a friend\n"));
    assert_eq!(place.run(&["admin", "listroles"]).out, "host color 120 label Host\n");
    assert_eq!(place.run(&["admin", "assignmethod", &key, "banevent"]).out, "the method is assigned\n");
    let refused = place.run(&["admin", "assignmethod", &key, "assignmethod"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, "this method is for the relay's administrators only\n"));
    assert_eq!(place.run(&["admin", "listmethodassignees"]).out, format!("{key} methods banevent\n"));
}

#[test]
fn the_relays_own_key_is_made_once_shown_and_kept_from_others() {
    let place = Place::new();
    let shown = place.run(&["key"]);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    let lines: Vec<&str> = shown.out.lines().collect();
    let key = ratite::nostr::PublicKey::from_hex(lines[1]).unwrap();
    assert_eq!(lines[0], ratite::nostr::nip19::encode_npub(&key));
    assert_eq!(lines[2], "the secret is in ./ratite-data/relay.key");
    assert!(!shown.out.contains("nsec"));
    assert_eq!(place.run(&["key", "--json"]).json()["pubkey"], key.to_string());
    let file = place.path("ratite-data/relay.key");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    // It is nobody's to write over, and a broken one is not replaced.
    place.run(&["export", "-o", "ratite-data/relay.key"]).assert_failed("relay.key");
    std::fs::write(&file, "nonsense").unwrap();
    place.run(&["key"]).assert_failed("holds no secret key");
    place.write("ratite.toml", "[membership]\nenabled = true\n");
    place.run(&["admin", "listinvites"]).assert_failed("holds no secret key");
}
