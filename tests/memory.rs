//! What connections cost: those on which nothing happens, and those that never read. Coarse, so that it holds on every machine
//! and build; what it is to show is that nobody makes ten thousand idle clients twice as dear without noticing.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::io::{Read, Write};
use std::ops::Range;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wire::process::RelayProcess;
use wire::tls::{Authority, client_config, open};
use wire::{FIN, PATIENCE, RSV1, Socket, TEXT, event, eventually, frame, health};

/// Bytes that an idle connection with one subscription of 20 authors may take, compression agreed or not. It takes 4.6 KiB at
/// first and 5.7 KiB after all that these connections do.
const MOST: u64 = 8 * 1024;

/// Connections that are counted; fewer when the system allows fewer files.
const CONNECTIONS: u64 = 2200;

/// The same over TLS. It takes 13 KiB.
const MOST_TLS: u64 = 24 * 1024;

/// Connections before the first look: threads, buffers for all and the allocator's pages are there then.
const WARM: u64 = 100;

/// How many connections this process can open.
fn connections() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = CONNECTIONS + 200;
    let most = limit.maximum.unwrap_or(wanted).min(wanted);
    let current = limit.current.unwrap_or(wanted);
    if current < most {
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }).unwrap();
    }
    current.max(most).saturating_sub(200).min(CONNECTIONS)
}

/// Anonymous memory of a process, in bytes.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Does what clients do, and leaves one subscription: publishes nothing, asks, and gets answers.
fn live_a_little<S: Read + Write>(socket: &mut Socket<S>, number: u64) {
    let compressed = socket.inflater.is_some();
    let authors: Vec<String> = (0..20).map(|i| format!("\"{:064x}\"", (number << 32) + i)).collect();
    socket.say("[\"REQ\",\"all\",{\"limit\":30}]");
    while socket.hear()[0] != "EOSE" {}
    // Longer than one read, in two pieces and in fragments: whatever buffer that takes is given back.
    let long =
        format!("[\"REQ\",\"feed\",{{\"kinds\":[1],\"authors\":[{}]}}]{}", authors.join(","), " ".repeat(30_000));
    let frames = [frame(TEXT, &long.as_bytes()[..20_000]), frame(FIN, &long.as_bytes()[20_000..])].concat();
    socket.send(&frames[..5000]);
    socket.send(&frames[5000..]);
    socket.hears("EOSE", "feed");
    if compressed {
        // A stored block: compression that needs no compressor.
        socket.send(&frame(FIN | RSV1 | TEXT, b"\x00\x0f\x00\xf0\xff[\"CLOSE\",\"all\"]\x00"));
    } else {
        socket.say("[\"CLOSE\",\"all\"]");
    }
    socket.still_works();
    // Nor does the client keep more than its socket: there are many of them.
    socket.inflater = None;
}

/// Connections that have done what clients do and now wait.
fn idle_connections<S: Read + Write>(numbers: Range<u64>, connect: &impl Fn() -> Socket<S>) -> Vec<Socket<S>> {
    numbers
        .map(|number| {
            let mut socket = connect();
            live_a_little(&mut socket, number);
            socket
        })
        .collect()
}

/// Each idle connection takes at most so many bytes.
fn assert_small<S: Read + Write>(relay: &RelayProcess, what: &str, limit: u64, connect: impl Fn() -> Socket<S>) {
    let most = connections();
    assert!(most >= 2 * WARM, "the system allows too few open files for this test: raise `ulimit -Hn`");
    let mut writer = relay.connect();
    for i in 0..50 {
        let note = event(1, 1, &format!("{i} {}", "note ".repeat(100)));
        writer.publish(&note);
        writer.hears("OK", &note.id.to_string());
    }
    let warm = idle_connections(0..WARM, &connect);
    let before = anonymous(relay.id());
    let idle = idle_connections(WARM..most, &connect);
    eventually("one subscription is left of each", || health(relay.address).1["subscriptions"] == most);
    let each = anonymous(relay.id()).saturating_sub(before) / (most - WARM);
    println!("{each} bytes for each of {} idle connections, {what}", most - WARM);
    assert!(each > 0 && each <= limit, "{each} bytes for each idle connection, {what}");
    drop((warm, idle));
}

#[test]
fn an_idle_connection_costs_little_with_compression_or_tls_and_without() {
    // One after the other: all of them want all the files they can get.
    let folder = tempfile::tempdir().unwrap();
    let relay = RelayProcess::start(folder.path());
    assert_small(&relay, "plain", MOST, || relay.connect());
    drop(relay);
    let folder = tempfile::tempdir().unwrap();
    let relay = RelayProcess::start(folder.path());
    let offer = "permessage-deflate; client_max_window_bits";
    assert_small(&relay, "compressed", MOST, || {
        let socket = Socket::open_offering(relay.address, offer);
        assert!(socket.inflater.is_some());
        socket
    });
    drop(relay);
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue_into(folder.path(), &["relay.test"]);
    let relay = RelayProcess::with(folder.path(), |command| {
        command.env("RATITE_TLS_CERTIFICATE", certificate).env("RATITE_TLS_KEY", key);
        command.env("RATITE_TLS_LISTEN", "127.0.0.1:0").env("RATITE_TLS_HTTP_LISTEN", "none");
    });
    let client = client_config(&authority.certificate, &["http/1.1"]);
    assert_small(&relay, "over TLS", MOST_TLS, || open(&client, relay.tls.unwrap(), "relay.test"));
}

/// Has these ask for all that comes, and publishes large events until they, who never read, have been sent away; by how many bytes the relay's own
/// memory grew meanwhile.
fn grown_in_a_storm<S: Read + Write>(relay: &RelayProcess, deaf: &mut [Socket<S>]) -> u64 {
    for socket in &mut *deaf {
        socket.say("[\"REQ\",\"all\",{\"limit\":0}]");
        socket.hears("EOSE", "all");
    }
    let mut writer = relay.connect();
    writer.still_works();
    let before = anonymous(relay.id());
    let mut most = 0;
    // Ephemeral events cost no disk. The kernel takes some megabytes for each reader before anything piles up in the relay.
    let began = std::time::Instant::now();
    for i in 0.. {
        assert!(began.elapsed() < 5 * PATIENCE, "some are still connected");
        let storm = event(1, 20_001, &format!("{i} {}", "x".repeat(60_000)));
        writer.publish(&storm);
        writer.hears("OK", &storm.id.to_string());
        most = most.max(anonymous(relay.id()));
        if i % 10 == 0 && health(relay.address).1["closed_too_slow"] == deaf.len() {
            break;
        }
    }
    writer.still_works();
    most.saturating_sub(before)
}

#[test]
fn those_who_never_read_over_tls_cost_at_most_their_bound_and_what_is_encrypted() {
    const DEAF: u64 = 20;
    const BOUND: u64 = 256 << 10;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue_into(folder.path(), &["relay.test"]);
    let relay = RelayProcess::with(folder.path(), |command| {
        command.env("RATITE_LISTEN_OUTBOX_BYTES", BOUND.to_string());
        command.env("RATITE_TLS_CERTIFICATE", certificate).env("RATITE_TLS_KEY", key);
        command.env("RATITE_TLS_LISTEN", "127.0.0.1:0").env("RATITE_TLS_HTTP_LISTEN", "none");
    });
    let client = client_config(&authority.certificate, &[]);
    let mut deaf: Vec<_> = (0..DEAF).map(|_| open(&client, relay.tls.unwrap(), "relay.test")).collect();
    let grown = grown_in_a_storm(&relay, &mut deaf);
    println!("{grown} bytes for {DEAF} connections over TLS that never read");
    // Beside the bound each may have 64 KiB that are encrypted already.
    assert!(grown <= DEAF * (BOUND + (72 << 10)) + (16 << 20), "{grown} bytes");
}

#[test]
fn h242_those_who_never_read_cost_at_most_their_bound_and_the_log_names_them() {
    const DEAF: u64 = 20;
    const BOUND: u64 = 256 << 10;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let relay = RelayProcess::with(folder.path(), |command| {
        command
            .env("RATITE_LISTEN_OUTBOX_BYTES", BOUND.to_string())
            .env("RUST_LOG", "info,ratite::server::session=debug");
        command.stderr(std::fs::File::create(&log).unwrap());
    });
    let connect = |i| match i % 2 {
        0 => relay.connect(),
        _ => Socket::open_offering(relay.address, "permessage-deflate"),
    };
    let mut deaf: Vec<Socket> = (0..DEAF).map(connect).collect();
    let grown = grown_in_a_storm(&relay, &mut deaf);
    println!("{grown} bytes for {DEAF} connections that never read");
    // What the relay needs for itself under load comes on top.
    assert!(grown <= DEAF * BOUND + (16 << 20), "{grown} bytes");
    let log = std::fs::read_to_string(&log).unwrap();
    let (named, told): (Vec<_>, Vec<_>) =
        log.lines().filter(|line| line.contains("reads too slowly")).partition(|line| line.contains("DEBUG"));
    assert_eq!((named.len() as u64, told.len() as u64), (DEAF, DEAF), "{log}");
    // Who it was is for those who ask.
    assert!(named.iter().all(|line| line.contains("127.0.0.1")) && !told.iter().any(|line| line.contains("127.0.0.1")));
}
