//! The log: what it looks like to people, to the journal and to machines, and what must not stand in it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wire::process::{RelayProcess, ratite};
use wire::tls::Authority;
use wire::{HANDSHAKE, PATIENCE, Socket, eventually, http, now, sign};

/// Runs a relay over a configuration, has it end, and returns its log.
fn log_of(config: &str, change: impl FnOnce(&mut Command, &File), work: impl FnOnce(&RelayProcess, &Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ratite.toml"), config).unwrap();
    let file = folder.path().join("log");
    let log = File::create(&file).unwrap();
    let mut relay = RelayProcess::with(folder.path(), |command| {
        command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
        change(command, &log);
        command.stderr(log);
    });
    work(&relay, folder.path());
    relay.signal("TERM");
    assert!(relay.wait().success());
    fs::read_to_string(file).unwrap()
}

/// The name that systemd gives to a stream that leads to its journal.
fn stream(file: &File) -> String {
    let it = file.metadata().unwrap();
    format!("{}:{}", it.st_dev(), it.st_ino())
}

const ENDS: &str = "shutting down, accepted events are finished first";

#[test]
fn people_read_the_time_the_journal_a_priority_and_machines_json() {
    let text = log_of("", |_, _| {}, |_, _| {});
    let line = text.lines().find(|line| line.ends_with(ENDS)).unwrap();
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
    assert_eq!(rest, format!(" INFO SIGTERM: {ENDS}"));
    assert!(!text.contains('\x1b'), "a file is not coloured");

    // Only the stream that systemd names leads to the journal: what a child of a service writes to a file does not.
    let journal = log_of(
        "",
        |command, file| {
            command.env("JOURNAL_STREAM", stream(file));
        },
        |_, _| {},
    );
    assert!(journal.lines().any(|line| line == format!("<6>SIGTERM: {ENDS}")), "{journal}");
    assert!(journal.lines().all(|line| line.starts_with('<')), "{journal}");
    let elsewhere = log_of(
        "",
        |command, _| {
            command.env("JOURNAL_STREAM", "8:1");
        },
        |_, _| {},
    );
    assert!(elsewhere.lines().any(|line| line.ends_with(&format!("Z  INFO SIGTERM: {ENDS}"))), "{elsewhere}");

    let json = |log: String| {
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let line = lines.iter().find(|line| line["message"] == format!("SIGTERM: {ENDS}")).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"info".into(), &"ratite::server".into()));
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok());
        lines
    };
    let lines = json(log_of(
        "[log]\nformat = \"json\"\n",
        // What is wrong with the configuration is a line like the others.
        |command, _| {
            command.env("RATITE_LIMITS_MAX_LIMITS", "1");
        },
        |_, _| {},
    ));
    assert_eq!(lines[0]["level"], "warn", "{lines:?}");
    assert!(lines[0]["message"].as_str().unwrap().contains("RATITE_LIMITS_MAX_LIMITS"), "{lines:?}");
    json(log_of(
        "[log]\nformat = \"journal\"\n",
        |command, _| {
            command.args(["--log-format", "json"]);
        },
        |_, _| {},
    ));
}

#[test]
fn the_level_is_configured_and_asked_for() {
    let log = log_of("[log]\nlevel = \"warn\"\n", |_, _| {}, |_, _| {});
    assert_eq!(log, "");
    let here = |relay: &RelayProcess, _: &Path| relay.connect().still_works();
    for log in [
        log_of("[log]\nlevel = \"debug\"\n", |_, _| {}, here),
        log_of(
            "",
            |command, _| {
                command.arg("--verbose");
            },
            here,
        ),
        log_of(
            "[log]\nlevel = \"error\"\n",
            |command, _| {
                command.env("RUST_LOG", "ratite=debug");
            },
            here,
        ),
    ] {
        assert!(log.contains("DEBUG connection begins caller=Some(127.0.0.1)"), "{log}");
    }
    let folder = tempfile::tempdir().unwrap();
    let output = ratite(folder.path(), &["--log-format", "json", "info"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--log-format belongs to the relay"));
    let output = ratite(folder.path(), &["relay", "--log-format", "xml"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are auto, text, journal, json"));
}

#[test]
fn one_place_does_not_fill_the_log() {
    const UNKNOWN: usize = 250;
    let log = log_of(
        "",
        |_, _| {},
        |relay, folder| {
            let unknown: String = (0..UNKNOWN).map(|i| format!("unknown_{i} = 1\n")).collect();
            fs::write(folder.join("ratite.toml"), unknown).unwrap();
            relay.signal("HUP");
            let log = || fs::read_to_string(folder.join("log")).unwrap();
            eventually("the configuration is refused", || log().contains("stays in force"));
        },
    );
    let said = log.matches("ERROR configuration: ").count();
    assert!((100..=120).contains(&said), "{said} lines: {log}");
    let sum = log.lines().find(|line| line.contains("left out")).unwrap();
    let count: usize = sum.split("left out ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(count + said >= UNKNOWN, "{sum}");
    assert!(sum.contains("more lines like this one: configuration: "), "{sum}");
}

/// What strangers write, wherever they can, and where they say they come from.
const MARK: &str = "EVILMARK";
const PROXIED: &str = "203.0.113.77";

/// Sends bytes that are no request, and reads what comes until the end.
fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The relay may hang up before it has read all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Does what strangers do, all of it with their mark.
fn misbehave(relay: &RelayProcess, _: &Path) {
    let address = relay.address;
    let forwarded = format!("X-Forwarded-For: {PROXIED}\r\n");
    for request in [
        format!("GET /{MARK} HTTP/1.1\r\nHost: {MARK}\r\nUser-Agent: {MARK}\r\n{forwarded}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {MARK}.example\r\nCookie: {MARK}\r\n\r\n"),
        format!("{MARK} / HTTP/1.1\r\nHost: {MARK}\r\n{forwarded}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nHost: {MARK}\r\n\r\n"),
        format!("GET /.well-known/nostr.json?name={MARK} HTTP/1.1\r\nHost: a\r\n{forwarded}\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {MARK}\r\n{forwarded}\r\n"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/nostr+json+rpc\r\nAuthorization: Nostr {MARK}\r\n\
             Content-Length: {}\r\n\r\n{MARK}",
            MARK.len()
        ),
        HANDSHAKE.replace("Sec-WebSocket-Key: ", &format!("Origin: {MARK}\r\n{forwarded}Sec-WebSocket-Key: {MARK}")),
        HANDSHAKE
            .replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Protocol: {MARK}\r\nX-Forwarded-For: {MARK}\r\n\r\n")),
        format!("{MARK}\0\r\n\r\n"),
        format!("PROXY TCP4 {PROXIED} {MARK} 1 2\r\n"),
    ] {
        throw(address, request.as_bytes());
    }
    throw(relay.tls.unwrap(), format!("\x16\x03\x01\0\x05{MARK}").as_bytes());
    throw(relay.tls.unwrap(), format!("GET /{MARK} HTTP/1.1\r\n\r\n").as_bytes());

    let greeting = HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{forwarded}\r\n"));
    let open = || Socket::shake_hands(address, greeting.as_bytes());
    let mut socket = open();
    let marked: &[&str] = &["t", MARK];
    let good = sign(1, 1, now(), &[marked], MARK);
    for event in [
        good.clone(),
        sign(1, 5, now(), &[marked], MARK),
        sign(1, 1059, now(), &[marked], MARK),
        sign(2, 1, now() + 1_000_000, &[marked], MARK),
        sign(2, 1, now(), &[marked, &["-", MARK]], MARK),
        sign(2, 62, now(), &[&["relay", MARK]], MARK),
        sign(2, 20_001, now(), &[marked], MARK),
        sign(2, 13, now(), &[marked], MARK),
    ] {
        socket.publish(&event);
        assert_eq!(socket.hear()[0], "OK");
    }
    let mut forged = Vec::new();
    good.write_json(&mut forged);
    let forged = String::from_utf8(forged).unwrap();
    let challenge = socket.challenge();
    socket.claim(&sign(
        1,
        22_242,
        now(),
        &[&["relay", &format!("wss://{MARK}.example")], &["challenge", &challenge]],
        MARK,
    ));
    for message in [
        format!("[\"EVENT\",{}]", forged.replacen(MARK, &format!("{MARK}2"), 1)),
        format!("[\"EVENT\",{{\"{MARK}\":\"{MARK}\"}}]"),
        format!("[\"EVENT\",{}]", forged.replacen("\"kind\":1", &format!("\"kind\":\"{MARK}\""), 1)),
        format!("[\"REQ\",\"{MARK}\",{{\"{MARK}\":[\"{MARK}\"]}}]"),
        format!("[\"REQ\",\"{}\",{{}}]", MARK.repeat(100)),
        format!("[\"REQ\",\"{MARK}\",{{\"search\":\"{MARK}\",\"limit\":0}}]"),
        format!("[\"COUNT\",\"{MARK}\",{{\"#t\":[\"{MARK}\"]}}]"),
        format!("[\"{MARK}\",\"{MARK}\"]"),
        format!("[\"NEG-OPEN\",\"{MARK}\",{{}},\"{MARK}\"]"),
        format!("{MARK}\u{1b}[31m\n<0>{MARK}"),
    ] {
        socket.say(&message);
        let answer = socket.hear();
        assert!(matches!(answer[0].as_str().unwrap(), "OK" | "CLOSED" | "NOTICE" | "EOSE" | "COUNT"), "{answer}");
    }
    // What ends a connection.
    for bytes in [
        wire::frame(wire::FIN | wire::TEXT, b"\xff\xfeEVILMARK"),
        wire::frame(wire::FIN | wire::BINARY, MARK.as_bytes()),
        wire::frame(wire::FIN | 3, MARK.as_bytes()),
        wire::frame(wire::FIN | wire::CLOSE, b"\x03\xe9EVILMARK"),
        wire::frame(wire::FIN | wire::RSV1 | wire::TEXT, MARK.as_bytes()),
        wire::text(&MARK.repeat(10_000)),
    ] {
        let mut socket = open();
        socket.send(&bytes);
        let _ = socket.stream.shutdown(std::net::Shutdown::Write);
        while socket.hear_or_end().is_ok() {}
    }
    // Who subscribes and never reads.
    let mut slow = open();
    slow.say(&format!("[\"REQ\",\"{MARK}\",{{\"kinds\":[20002],\"limit\":0}}]"));
    slow.hears("EOSE", MARK);
    let mut turn = 0_u8;
    eventually("who reads too slowly is sent away", || {
        turn = turn.wrapping_add(1);
        let event = sign(1 + turn % 200, 20_002, now(), &[], &MARK.repeat(3_500));
        socket.publish(&event);
        let answer = socket.hears("OK", &event.id.to_string());
        // Nobody hears it when the only subscriber has just been sent away, which is counted a moment later.
        assert!(answer[2] == true || answer[3].as_str().unwrap().starts_with("mute:"), "{answer}");
        too_slow(address)
    });
}

/// Whether somebody was sent away for reading too slowly.
fn too_slow(address: SocketAddr) -> bool {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n\r\n";
    let page = http(address, request.as_bytes());
    !page.contains("ratite_connections_closed_total{reason=\"too_slow\"} 0")
}

/// Few bytes may wait, the token opens the figures, and clients of this machine have limits.
const HOSTILE: &str = "[listen]\nmetrics_token = \"s3cret\"\noutbox_bytes = 65536\n[limits]\nmax_message_length = 32768\n\
                       [rates]\nexempt = \"none\"\nevents = 100000\nnew_connections = 100000\n";

#[test]
fn neither_addresses_nor_what_strangers_send_stand_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = Authority::new().issue_into(folder.path(), &["relay.test"]);
    let tls = |command: &mut Command| {
        command.env("RATITE_TLS_CERTIFICATE", &certificate).env("RATITE_TLS_KEY", &key);
        command.env("RATITE_TLS_LISTEN", "127.0.0.1:0").env("RATITE_TLS_HTTP_LISTEN", "none");
    };
    let default = log_of(HOSTILE, |command, _| tls(command), misbehave);
    // What they did is told.
    assert!(default.contains("INFO disconnected: reads too slowly"), "{default}");
    assert!(
        default.contains("WARN one of listen.trusted_proxies does not tell the address of its client"),
        "{default}"
    );
    assert!(default.contains("WARN a client authenticates for an address that this relay does not know"), "{default}");
    for trace in [MARK, PROXIED, "127.0.0.1", "203.0.113"] {
        assert!(!default.contains(trace), "{trace} in {default}");
    }
    assert!(!default.to_lowercase().contains(&MARK.to_lowercase()), "{default}");
    // Who asks gets to know: so the words above would be found if they were there.
    let debug = log_of(
        HOSTILE,
        |command, _| {
            tls(command);
            command.arg("--verbose");
        },
        misbehave,
    );
    for trace in [&MARK.to_lowercase(), PROXIED, "caller=Some(127.0.0.1)"] {
        assert!(debug.to_lowercase().contains(&trace.to_lowercase()), "no {trace} in {debug}");
    }
}
