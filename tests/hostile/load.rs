//! Load and faults (section 23.8), and whose address it is that they come from.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use ratite::config::Network;
use ratite::nostr::Event;

use crate::relay::{Case, INNOCENT, Scene, Table, canonical, case, sign};
use crate::wire::process::RelayProcess;
use crate::wire::{HANDSHAKE, PATIENCE, Socket, event, text};

/// The time that the relay lives at.
const NOW: u64 = 1_700_000_000;

/// Connections that one address may have; events and questions in a minute.
const CONNECTIONS: usize = 100;
const EVENTS: usize = 20;
const QUESTIONS: usize = 30;

/// A small relay that counts this machine like any other, but for the innocent client.
pub const TABLE: Table = Table {
    name: "load",
    clock: Some(NOW),
    change: |config| {
        config.rates.exempt = Network::new([127, 0, 0, INNOCENT].into(), 32).into_iter().collect();
        config.listen.trusted_proxies = Vec::new();
        config.listen.outbox_bytes = 4 << 20;
        config.rates.connections = CONNECTIONS as u32;
        config.rates.new_connections = 0;
        config.rates.events = EVENTS as u32;
        config.rates.reqs = QUESTIONS as u32;
        config.rates.events_per_author = 0;
        config.rates.events_per_author_by_kind = Vec::new();
        config.limits.max_scan_keys = 1000;
        config.limits.max_content_length = 60_010;
        config.storage.map_size = 24 << 20;
    },
    cases,
};

/// The last byte of an address that nobody has come from yet.
fn new_address() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(10);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn cases() -> Vec<Case> {
    vec![
        case("H239", headers_from_anybody),
        case("H241", many_connections),
        case("H242", one_who_never_reads),
        case("H244", event_flood),
        case("H245", question_flood),
        case("H246", expensive_questions),
        case("H247", forgeries),
        case("H248", full_database),
        case("H249", |_| kill()),
        case("H250", clock_set_back),
    ]
}

/// The status of the answer to this request from this address; 0 when there is none.
fn status(scene: &Scene, last: u8, request: &str) -> (u16, std::net::TcpStream) {
    let mut stream = scene.stream_from(last);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request.as_bytes());
    let mut head = [0; 12];
    let status = match stream.read_exact(&mut head) {
        Ok(()) => std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
        Err(_) => 0,
    };
    (status, stream)
}

fn words(message: &serde_json::Value, at: usize) -> &str {
    message[at].as_str().unwrap()
}

/// Opens as many connections as one address may have.
fn crowd(scene: &Scene, last: u8) -> Vec<std::net::TcpStream> {
    let open = |_| {
        let (status, stream) = status(scene, last, HANDSHAKE);
        assert_eq!(status, 101);
        stream
    };
    (0..CONNECTIONS).map(open).collect()
}

/// One more than its address may have is not let in for what it says of itself.
fn headers_from_anybody(scene: &Scene) {
    let address = new_address();
    let _crowd = crowd(scene, address);
    for line in [
        "X-Forwarded-For: 203.0.113.1",
        "Forwarded: for=203.0.113.1",
        "CF-Connecting-IP: 203.0.113.1",
        "X-Real-IP: 1.1.1.1",
    ] {
        let request = HANDSHAKE.replace("Host: relay\r\n", &format!("Host: relay\r\n{line}\r\n"));
        assert_eq!(status(scene, address, &request).0, 429, "{line}");
    }
}

fn many_connections(scene: &Scene) {
    let address = new_address();
    let _crowd = crowd(scene, address);
    for n in 0..500 {
        let (status, _) = status(scene, address, HANDSHAKE);
        assert!([0, 429].contains(&status), "connection {n}: {status}");
    }
    assert_eq!(status(scene, new_address(), HANDSHAKE).0, 101, "others are served");
}

fn one_who_never_reads(scene: &Scene) {
    let mut deaf = scene.connect_from(new_address());
    deaf.say("[\"REQ\",\"all\",{\"limit\":0}]");
    deaf.hears("EOSE", "all");
    let mut good = scene.connect_from(INNOCENT);
    good.say("[\"REQ\",\"all\",{\"limit\":0}]");
    good.hears("EOSE", "all");
    let mut writer = scene.connect_from(INNOCENT);
    let slow = scene.health()["closed_too_slow"].as_u64().unwrap();
    let content = "x".repeat(60_000);
    let began = Instant::now();
    // Ephemeral events cost no disk. The kernel's buffers take some megabytes before the outbox fills.
    for i in 0.. {
        assert!(began.elapsed() < PATIENCE, "the deaf one is still connected");
        let event = sign(1, 20_001, NOW, &[], &format!("{i} {content}"));
        writer.publish(&event);
        assert_eq!(writer.hears("OK", &event.id.to_string())[2], true);
        good.hears("EVENT", "all");
        if i % 10 == 0 && scene.health()["closed_too_slow"] == slow + 1 {
            break;
        }
    }
    good.still_works();
    deaf.closes_with(1008);
}

fn event_flood(scene: &Scene) {
    let address = new_address();
    let mut socket = scene.connect_from(address);
    let mut neighbour = scene.connect_from(new_address());
    let events: Vec<Event> = (0..500).map(|n| sign(1, 1, NOW, &[], &n.to_string())).collect();
    for (n, event) in events.iter().enumerate().take(EVENTS + 5) {
        socket.publish(event);
        let ok = socket.hears("OK", &event.id.to_string());
        assert_eq!(ok[2], n < EVENTS, "{ok}");
        assert!(n < EVENTS || words(&ok, 3).starts_with("rate-limited:"), "{ok}");
    }
    socket.still_works();
    for event in &events {
        if !socket.try_publish(event) {
            break;
        }
    }
    socket.closes_with(1008);
    neighbour.still_works();
    assert_eq!(status(scene, address, HANDSHAKE).0, 429, "shut out for a while");
}

fn question_flood(scene: &Scene) {
    let mut socket = scene.connect_from(new_address());
    for n in 0..QUESTIONS + 5 {
        socket.say(&format!("[\"REQ\",\"s{n}\",{{\"limit\":0}}]"));
        let answer = socket.hear();
        let verb = if n < QUESTIONS { "EOSE" } else { "CLOSED" };
        assert_eq!((words(&answer, 0), words(&answer, 1)), (verb, format!("s{n}").as_str()));
        assert!(n < QUESTIONS || words(&answer, 2).starts_with("rate-limited:"), "{answer}");
    }
    scene.has_subscriptions(1 + QUESTIONS as u64);
}

fn expensive_questions(scene: &Scene) {
    scene.tell("fill 10000");
    let author = sign(7, 1, 0, &[], "").pubkey;
    let mut socket = scene.connect_from(new_address());
    // Nothing matches, and no index leads there; and one that gets all it may.
    let hopeless = format!("{{\"kinds\":[1],\"authors\":[\"{author}\"],\"#t\":[\"x\"],\"since\":1}}");
    for filter in [hopeless.as_str(), "{\"limit\":5000}"] {
        socket.say(&format!("[\"REQ\",\"s\",{filter}]"));
        scene.innocent();
        let answer = loop {
            let answer = socket.hear();
            if answer[0] != "EVENT" {
                break answer;
            }
        };
        assert!(answer[0] == "EOSE" || answer[0] == "CLOSED" && words(&answer, 2).starts_with("error:"), "{answer}");
    }
    socket.say("[\"COUNT\",\"c\",{\"since\":1,\"#t\":[\"x\"]},{\"until\":1700000000}]");
    scene.innocent();
    // What was delivered meanwhile belongs to the subscription that may have stayed open.
    let answer = std::iter::repeat_with(|| socket.hear()).find(|answer| answer[1] == "c").unwrap();
    assert!(["COUNT", "CLOSED"].contains(&words(&answer, 0)), "{answer}");
}

/// What is cheap to refuse is refused before its signature is looked at; and a flood of the rest delays nobody.
fn forgeries(scene: &Scene) {
    let mut socket = scene.connect_from(INNOCENT);
    let wrong = sign(2, 1, NOW, &[], "").sig;
    for (forged, about) in [
        (sign(1, 1, NOW, &[], &"x".repeat(60_011)), "content"),
        (sign(1, 1, NOW + 5000, &[], ""), "created_at"),
        (Event { content: "other".into(), ..sign(1, 1, NOW, &[], "") }, "id is not"),
        (sign(1, 1, NOW, &[&["expiration", "1000"]], ""), "expired"),
        (sign(1, 1, NOW, &[], ""), "sig"),
    ] {
        let forged = Event { sig: wrong, ..forged };
        socket.publish(&forged);
        let ok = socket.hears("OK", &forged.id.to_string());
        assert!(ok[2] == false && words(&ok, 3).starts_with("invalid:") && words(&ok, 3).contains(about), "{ok}");
    }
    let flood: Vec<u8> = (0u32..2000)
        .flat_map(|n| {
            let forged = Event { sig: wrong, ..sign(1, 1, NOW, &[], &n.to_string()) };
            text(&format!("[\"EVENT\",{}]", canonical(&forged)))
        })
        .collect();
    std::thread::scope(|scope| {
        let mut writer = socket.stream.try_clone().unwrap();
        scope.spawn(move || writer.write_all(&flood).unwrap());
        for _ in 0..5 {
            scene.innocent();
        }
        for _ in 0..2000 {
            let ok = socket.hear();
            assert!(ok[0] == "OK" && ok[2] == false && words(&ok, 3).starts_with("invalid:"), "{ok}");
        }
    });
    socket.still_works();
}

fn full_database(scene: &Scene) {
    let mut socket = scene.connect_from(INNOCENT);
    let mut taken = Vec::new();
    let content = "x".repeat(60_000);
    for n in 0.. {
        assert!(n < 2000, "it is never full");
        let event = sign(1, 1, NOW, &[], &format!("{n} {content}"));
        socket.publish(&event);
        let ok = socket.hears("OK", &event.id.to_string());
        if ok[2] == true {
            taken.push(event);
        } else {
            assert!(words(&ok, 3).starts_with("error:"), "{ok}");
            break;
        }
    }
    // Reads go on.
    let found = crate::wire::ask_for(
        &mut scene.connect_from(new_address()),
        &taken.iter().map(|event| event.id).collect::<Vec<_>>(),
    );
    assert_eq!(found.len(), taken.len());
    assert_eq!(scene.tell("faults"), 0);
    assert_eq!(scene.tell("wipe"), taken.len() as u64);
    let began = Instant::now();
    while scene.health()["status"] != "ok" {
        assert!(began.elapsed() < PATIENCE, "there is room again");
    }
}

/// In a process that nobody asks for more than this: the binary itself.
fn kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = RelayProcess::start(folder.path());
    let events: Vec<Event> = (0..20).map(|n| event(1, 1, &n.to_string())).collect();
    let mut socket = relay.connect();
    for event in &events {
        socket.publish(event);
        assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
    }
    relay.kill();
    let relay = RelayProcess::start(folder.path());
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    assert_eq!(crate::wire::ask_for(&mut relay.connect(), &ids).len(), 20);
}

fn clock_set_back(scene: &Scene) {
    let mut socket = scene.connect_from(INNOCENT);
    let publish = |socket: &mut Socket, event: &Event| {
        socket.publish(event);
        let ok = socket.hears("OK", &event.id.to_string());
        (ok[2] == true, words(&ok, 3).to_owned())
    };
    let ask = |socket: &mut Socket| {
        socket.say(
            "[\"REQ\",\"q\",{\"authors\":[\"AUTHOR\"]}]"
                .replace("AUTHOR", &sign(1, 1, 0, &[], "").pubkey.to_string())
                .as_str(),
        );
        let mut found = 0;
        while socket.hear()[0] == "EVENT" {
            found += 1;
        }
        socket.say("[\"CLOSE\",\"q\"]");
        found
    };
    assert!(publish(&mut socket, &sign(1, 1, NOW, &[&["expiration", &(NOW + 10).to_string()]], "")).0);
    scene.tell(&format!("clock {}", NOW - 3600));
    assert_eq!(ask(&mut socket), 1, "it expires later now");
    let (ok, words) = publish(&mut socket, &sign(1, 1, NOW, &[], ""));
    assert!(!ok && words.starts_with("invalid:"), "an hour ahead: {words}");
    assert!(publish(&mut scene.connect_from(INNOCENT), &sign(1, 1, NOW - 3600, &[], "")).0);
    scene.tell(&format!("clock {}", NOW + 10));
    assert_eq!(ask(&mut socket), 1, "what has not expired");
    scene.tell(&format!("clock {NOW}"));
}
