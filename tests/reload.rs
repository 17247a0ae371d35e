//! A configuration that changes while clients are connected: what is in force then, what is not, and that nobody notices otherwise.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use wire::process::{RelayProcess, ratite};
use wire::{ask_for, event, eventually, http, now, sign};

/// A relay with a configuration file and a log.
struct Place {
    folder: tempfile::TempDir,
    relay: RelayProcess,
}

impl Place {
    fn new(config: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ratite.toml"), config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let relay = RelayProcess::with(folder.path(), |command| {
            command.env("RUST_LOG", "ratite=info").stderr(Stdio::from(log));
        });
        Place { folder, relay }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ratite.toml")
    }

    fn write(&self, config: &str) {
        fs::write(self.file(), config).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn reload(&self, arguments: &[&str]) -> Output {
        run(self.folder.path(), &[&["reload"], arguments].concat())
    }

    fn document(&self) -> Value {
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n";
        serde_json::from_str(http(self.relay.address, request).split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn max_limit(&self) -> u64 {
        self.document()["limitation"]["max_limit"].as_u64().unwrap()
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    ratite(folder, arguments).output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_new_configuration_is_in_force_for_those_who_are_connected_and_nobody_is_dropped() {
    let place = Place::new("[limits]\nmax_limit = 3\n[listen]\nmetrics_token = \"old-secret\"\n");
    let mut clients: Vec<_> = (0..20).map(|_| place.relay.connect()).collect();
    for n in 0..5 {
        let event = event(1, 1, &n.to_string());
        clients[0].publish(&event);
        clients[0].hears("OK", &event.id.to_string());
    }
    for client in &mut clients {
        client.say("[\"REQ\",\"live\",{\"kinds\":[7],\"limit\":0}]");
        client.hears("EOSE", "live");
    }
    let mut count = |limit: usize| {
        clients[0].say("[\"REQ\",\"s\",{\"kinds\":[1]}]");
        for _ in 0..limit {
            clients[0].hears("EVENT", "s");
        }
        clients[0].hears("EOSE", "s");
        clients[0].say("[\"CLOSE\",\"s\"]");
    };
    count(3);

    place.write(
        "[limits]\nmax_limit = 2\nmax_content_length = 4\n[listen]\nmetrics_token = \"new-secret\"\n[info]\nname = \"another name\"\n\
         [storage]\nmap_size = \"1 GiB\"\n",
    );
    let output = place.reload(&[]);
    let (said, _) = texts(&output);
    assert!(output.status.success(), "{output:?}");
    for line in [
        "limits.max_limit: 3 -> 2\n",
        "limits.max_content_length: 65536 -> 4\n",
        "info.name: \"ratite relay\" -> \"another name\"\n",
        "listen.metrics_token: changed\n",
        "storage.map_size: \"1 TiB\" -> \"1 GiB\" (needs a restart)\n",
    ] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    count(2);
    let long = event(1, 1, "too long now");
    clients[0].publish(&long);
    let ok = clients[0].hears("OK", &long.id.to_string());
    assert_eq!(ok[2], false, "{ok}");
    assert_eq!(place.document()["name"], "another name");
    assert_eq!(place.max_limit(), 2);
    let token = |token: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
        http(place.relay.address, request.as_bytes()).split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!((token("old-secret").as_str(), token("new-secret").as_str()), ("401", "200"));

    // All are still there, and hear what happens.
    let like = event(2, 7, "+");
    clients[1].publish(&like);
    for client in &mut clients {
        while client.hear()[0] != "EVENT" {}
    }
    let log = place.log();
    assert!(log.contains("configuration: limits.max_limit: 3 -> 2"), "{log}");
    assert!(log.contains("configuration: storage.map_size: \"1 TiB\" -> \"1 GiB\" (needs a restart)"), "{log}");
    assert!(log.contains("5 changes in force, 1 need a restart"), "{log}");
    assert!(!log.contains("secret"), "{log}");
    // What needs a restart is told again until then, what is in force is not.
    let output = place.reload(&["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["changes"], serde_json::json!([]));
    assert_eq!(told["needs_restart"][0], "storage.map_size: \"1 TiB\" -> \"1 GiB\" (needs a restart)");
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_of() {
    let place = Place::new("[limits]\nmax_limit = 30\ndefault_limit = 20\n");
    let mut client = place.relay.connect();
    // One line is right, others are not: nothing of it counts.
    place.write("[limits]\nmax_limit = 10\ndefault_limit = 20\n[rates]\nevents = -1\n[info]\nnam = \"x\"\n");
    let output = place.reload(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(place.max_limit(), 30);
    eventually("the relay finds out by itself", || place.log().contains("the old one stays in force"));
    let log = place.log();
    assert!(log.contains("ratite.toml:5: rates.events must be"), "{log}");
    assert!(log.contains("ratite.toml:7: [info] has no setting \"nam\"; did you mean \"name\"?"), "{log}");
    let health: Value = {
        let answer = http(place.relay.address, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "it serves: {answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    assert_eq!((&health["status"], &health["reasons"][0]), (&"degraded".into(), &"configuration".into()), "{health}");
    // Each right by itself, but not together.
    place.write("[limits]\nmax_limit = 10\ndefault_limit = 20\n");
    eventually("the next fault is found", || place.log().contains("limits.default_limit is 20 but"));
    assert_eq!(place.max_limit(), 30);
    place.write("[limits]\nmax_limit = 10\ndefault_limit = 10\n");
    eventually("the right one is taken", || place.max_limit() == 10);
    eventually("and health knows it", || {
        http(place.relay.address, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").contains("\"status\":\"ok\"")
    });
    client.still_works();
}

#[test]
fn the_file_is_noticed_however_it_is_written() {
    let place = Place::new("[limits]\nmax_limit = 1000\n");
    let mut client = place.relay.connect();
    // In place.
    place.write("[limits]\nmax_limit = 1001\n");
    eventually("a file written anew", || place.max_limit() == 1001);
    // Another file in its place, as editors do; its time lies in the past.
    let beside = place.folder.path().join("ratite.toml~");
    fs::write(&beside, "[limits]\nmax_limit = 1002\n").unwrap();
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    fs::File::options().write(true).open(&beside).unwrap().set_modified(past).unwrap();
    fs::rename(&beside, place.file()).unwrap();
    eventually("a file that was replaced", || place.max_limit() == 1002);
    // Gone for a while: nothing changes until it is back. Asked to, the relay does not fall back to defaults either.
    fs::remove_file(place.file()).unwrap();
    let output = place.reload(&[]);
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("the file is gone"), "{told}");
    assert_eq!(place.max_limit(), 1002);
    fs::write(&beside, "[limits]\nmax_limit = 1003\n").unwrap();
    fs::rename(&beside, place.file()).unwrap();
    eventually("a file that came back", || place.max_limit() == 1003);
    client.still_works();
}

#[test]
fn a_service_reads_its_configuration_again_on_sighup() {
    if fs::File::open("/dev/tty").is_ok() {
        // With a terminal it means that the terminal is gone; tests/cli/relay.rs shows that.
        return;
    }
    let place = Place::new("[limits]\nmax_limit = 2000\n");
    let mut client = place.relay.connect();
    place.write("[limits]\nmax_limit = 2001\n");
    place.relay.signal("HUP");
    eventually("the configuration was read", || place.max_limit() == 2001);
    eventually("the log says why", || place.log().contains("the configuration was read again"));
    client.still_works();
}

#[test]
fn flags_count_more_than_the_new_file_and_environment_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ratite.toml");
    fs::write(&file, "[limits]\nmax_limit = 50\n").unwrap();
    let relay = RelayProcess::with(folder.path(), |command| {
        command.env("RATITE_LIMITS_MAX_SUBSCRIPTIONS", "7");
    });
    fs::write(&file, "[limits]\nmax_limit = 51\nmax_subscriptions = 9\n[listen]\naddresses = [\"127.0.0.1:1\"]\n")
        .unwrap();
    let output = run(folder.path(), &["reload", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    // default_limit follows max_limit down, where nobody has set it.
    let changes = ["limits.max_limit: 50 -> 51", "limits.default_limit: 50 -> 51"];
    assert_eq!(told["changes"], serde_json::json!(changes), "{told}");
    assert_eq!(told["needs_restart"], serde_json::json!([]));
    assert!(http(relay.address, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn limits_of_addresses_change_under_those_who_are_connected() {
    let place = Place::new("[rates]\nexempt = \"none\"\n[listen]\ntrusted_proxies = \"none\"\nmax_connections = 5\n");
    let mut client = place.relay.connect();
    client.still_works();
    place.write("[rates]\nexempt = \"none\"\nevents = 1\n[listen]\ntrusted_proxies = \"none\"\nmax_connections = 1\n");
    assert!(place.reload(&[]).status.success());
    let (first, second) = (event(1, 1, "a"), event(1, 1, "b"));
    client.publish(&first);
    assert_eq!(client.hears("OK", &first.id.to_string())[2], true);
    client.publish(&second);
    let ok = client.hears("OK", &second.id.to_string());
    assert!(ok[3].as_str().unwrap().starts_with("rate-limited:"), "{ok}");
    let answer = http(place.relay.address, wire::HANDSHAKE.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "no room for a second: {answer}");
    client.still_works();
}

#[test]
fn without_a_relay_there_is_nothing_to_reload() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("no relay runs over"), "{output:?}");
}

/// What OK says of an event: taken or not, and the words.
fn publish(client: &mut wire::Socket, event: &ratite::nostr::Event) -> (bool, String) {
    client.publish(event);
    let ok = client.hears("OK", &event.id.to_string());
    (ok[2].as_bool().unwrap(), ok[3].as_str().unwrap().to_owned())
}

#[test]
fn rules_of_retention_apply_from_a_reload_on_and_end_with_one() {
    const DAY: u64 = 86_400;
    let place = Place::new("");
    let mut client = place.relay.connect();
    let old = |text: &str| sign(1, 1, now() - 20 * DAY, &[], text);
    let (first, young) = (old("first"), event(1, 1, "young"));
    for event in [&first, &young] {
        assert!(publish(&mut client, event).0);
    }
    place.write("[retention]\nrules = [\"1: 10d\"]\n");
    let said = texts(&place.reload(&[])).0;
    assert!(said.contains("retention.rules: [] -> [\"1: 10d\"]\n"), "{said}");
    eventually("the old one goes", || ask_for(&mut client, &[first.id, young.id]).len() == 1);

    // Other rules are looked at at once, not in an hour.
    let second = old("second");
    assert!(publish(&mut client, &second).0);
    place.write("[retention]\nrules = [\"1: 15d\"]\n");
    assert!(place.reload(&[]).status.success());
    eventually("the next one goes", || ask_for(&mut client, &[second.id, young.id]).len() == 1);

    place.write("");
    assert!(place.reload(&[]).status.success());
    let third = old("third");
    assert!(publish(&mut client, &third).0);
    let shown = run(place.folder.path(), &["prune", "--dry-run", "--rule", "1: 10d", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["would_remove"]["events"], 1, "nothing removes it any more");
    assert_eq!(ask_for(&mut client, &[third.id, young.id]).len(), 2);
}

#[test]
fn who_publishes_while_authenticated_is_spared_what_others_are_not() {
    const DAY: u64 = 86_400;
    let url = "[info]\nurl = \"wss://relay.test/\"\n";
    let place = Place::new(url);
    let [other, known] = [2, 3].map(|author| sign(author, 1, now() - 20 * DAY, &[], "old"));
    let mut client = place.relay.connect();
    assert!(publish(&mut client, &other).0);
    assert!(client.authenticate_for(3, "wss://relay.test/").0);
    assert!(publish(&mut client, &known).0);
    let both = [other.id, known.id];
    place.write(&format!("{url}[retention]\nrules = [\"authenticated: 30d\", \"others: 10d\"]\n"));
    assert!(place.reload(&[]).status.success());
    eventually("the other's goes", || ask_for(&mut client, &both).len() < 2);
    assert_eq!(ask_for(&mut client, &both), [known.id].into());
    place.write(&format!("{url}[retention]\nrules = [\"authenticated: 15d\"]\n"));
    assert!(place.reload(&[]).status.success());
    eventually("at its own time", || ask_for(&mut client, &both).is_empty());
}

#[test]
fn backups_begin_and_move_with_a_reload() {
    let place = Place::new("");
    let mut client = place.relay.connect();
    assert!(publish(&mut client, &event(1, 1, "kept")).0);
    let made = |name: &str| {
        let entries = fs::read_dir(place.folder.path().join(name)).into_iter().flatten();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".mdb")).count()
    };
    for name in ["one", "two"] {
        place.write(&format!("[backup]\nfolder = {:?}\n", place.folder.path().join(name)));
        let said = texts(&place.reload(&[])).0;
        assert!(said.contains("backup.folder: ") && !said.contains("restart"), "{said}");
        eventually("a backup", || made(name) == 1);
    }
    assert_eq!(made("one"), 1, "its next one would have been due tomorrow");
    client.still_works();
}

#[test]
fn a_relay_gets_members_with_a_reload_and_loses_them_with_another() {
    let url = "[info]\nurl = \"wss://relay.test/\"\n";
    let place = Place::new(url);
    let mut client = place.relay.connect();
    let stored = event(1, 1, "from a stranger");
    assert!(publish(&mut client, &stored).0);
    client.say("[\"REQ\",\"live\",{\"kinds\":[1],\"limit\":0}]");
    client.hears("EOSE", "live");
    assert_eq!(place.document()["self"], Value::Null);

    place.write(&format!("{url}[membership]\nenabled = true\nrestrict_reads = true\n"));
    let said = texts(&place.reload(&[])).0;
    assert!(said.contains("membership.enabled: false -> true\n"), "{said}");
    let (taken, why) = publish(&mut client, &event(1, 1, "again"));
    assert!(!taken && (why.starts_with("auth-required: ") || why.starts_with("restricted: ")), "{why}");
    client.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
    let closed = client.hears("CLOSED", "all");
    assert!(closed[2].as_str().unwrap().starts_with("auth-required: "), "{closed}");
    let document = place.document();
    let nips = document["supported_nips"].as_array().unwrap();
    assert!(nips.contains(&43.into()) && document["self"].as_str().is_some_and(|key| key.len() == 64), "{document}");

    let added = run(place.folder.path(), &["admin", "allowpubkey", &wire::pubkey(2)]);
    assert!(added.status.success(), "{added:?}");
    let mut member = place.relay.connect();
    assert!(member.authenticate_for(2, "wss://relay.test/").0);
    // What the command wrote is noticed a moment later.
    eventually("a member may publish", || publish(&mut member, &event(2, 1, "from a member")).0);
    member.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
    member.hears("EVENT", "all");
    member.hears("EVENT", "all");
    member.hears("EOSE", "all");

    place.write(url);
    assert!(place.reload(&[]).status.success());
    // With its key the list of allowed keys is what it was: only those on it may publish. Everybody may read.
    let mut other = place.relay.connect();
    other.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
    other.hears("EVENT", "all");
    other.hears("EVENT", "all");
    other.hears("EOSE", "all");
    assert!(!place.document()["supported_nips"].as_array().unwrap().contains(&43.into()));
}
