//! Limits per address and per author, and whose address it is behind a proxy, as clients meet them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use ratite::config::{AddressSource, Config};
use serde_json::Value;

use wire::{HANDSHAKE, Socket, TestRelay, event, eventually};

/// A relay that counts this machine like any other.
fn strict(change: impl FnOnce(&mut Config)) -> TestRelay {
    TestRelay::with(|config| {
        config.rates.exempt = Vec::new();
        config.listen.trusted_proxies = Vec::new();
        change(config);
    })
}

/// A relay behind a proxy on this machine.
fn behind_a_proxy(source: AddressSource, change: impl FnOnce(&mut Config)) -> TestRelay {
    TestRelay::with(|config| {
        config.rates.exempt = Vec::new();
        config.listen.client_address_from = source;
        change(config);
    })
}

/// A handshake with these lines in its head.
fn handshake(lines: &str) -> String {
    HANDSHAKE.replace("Host: relay\r\n", &format!("Host: relay\r\n{lines}"))
}

/// A connection that was let in, or the head of what it got instead.
fn knock(address: SocketAddr, request: &[u8]) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    let head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 101 ") { Ok(stream) } else { Err(head.to_ascii_lowercase()) }
}

#[track_caller]
fn assert_too_many(answer: Result<TcpStream, String>) {
    let head = answer.unwrap_err();
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    let wait = head.split("\r\nretry-after: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert!(wait.parse::<u64>().unwrap() >= 1, "{head}");
}

fn reason(message: &Value, at: usize) -> &str {
    message[at].as_str().unwrap()
}

#[test]
fn h244_an_event_flood_is_refused_and_then_ended() {
    let relay = strict(|config| config.rates.events = 3);
    let mut socket = relay.connect();
    for i in 0..3 {
        let event = event(1, 1, &format!("{i}"));
        socket.publish(&event);
        assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
    }
    let more = event(1, 1, "more");
    socket.publish(&more);
    let refused = socket.hears("OK", &more.id.to_string());
    assert_eq!(refused[2], false);
    assert!(reason(&refused, 3).starts_with("rate-limited: more events from your address"), "{refused}");
    socket.still_works();
    assert_eq!(relay.health()["limited_events"], 1);

    // Whoever goes on and on is told to leave and may not come back at once; others stay.
    let mut neighbour = relay.connect();
    for _ in 0..400 {
        socket.publish(&more);
    }
    socket.closes_with(1008);
    neighbour.still_works();
    assert_too_many(knock(relay.address, HANDSHAKE.as_bytes()));
    let health = relay.health();
    assert_eq!((&health["penalties"], &health["closed_over_limits"]), (&1.into(), &1.into()), "{health}");
    assert!(health["refused_shut_out"].as_u64().unwrap() >= 1, "{health}");
}

#[test]
fn h245_a_flood_of_questions_is_refused() {
    let relay = strict(|config| {
        config.rates.reqs = 2;
        config.rates.counts = 1;
    });
    let mut socket = relay.connect();
    for id in ["a", "b"] {
        socket.say(&format!("[\"REQ\",\"{id}\",{{\"limit\":0}}]"));
        socket.hears("EOSE", id);
    }
    socket.say("[\"REQ\",\"a\",{\"kinds\":[1],\"limit\":0}]");
    let refused = socket.hears("CLOSED", "a");
    assert!(reason(&refused, 2).starts_with("rate-limited: "), "{refused}");
    socket.say("[\"COUNT\",\"c\",{\"kinds\":[1]}]");
    socket.hears("COUNT", "c");
    socket.say("[\"COUNT\",\"c\",{\"kinds\":[1]}]");
    assert!(reason(&socket.hears("CLOSED", "c"), 2).starts_with("rate-limited: "));
    // CLOSED meant what it said, and what was not refused is still open.
    let health = relay.health();
    assert_eq!(
        (&health["subscriptions"], &health["limited_reqs"], &health["limited_counts"]),
        (&1.into(), &1.into(), &1.into())
    );
    let event = event(1, 1, "live");
    socket.publish(&event);
    let heard = [socket.hear(), socket.hear()];
    assert!(heard.iter().any(|message| message[0] == "EVENT" && message[1] == "b"), "{heard:?}");
    assert!(heard.iter().any(|message| message[0] == "OK" && message[2] == true), "{heard:?}");
}

#[test]
fn all_messages_count_but_a_close_is_always_done() {
    let relay = strict(|config| config.rates.messages = 3);
    let mut socket = relay.connect();
    for id in ["a", "b"] {
        socket.say(&format!("[\"REQ\",\"{id}\",{{\"limit\":0}}]"));
        socket.hears("EOSE", id);
    }
    socket.say("no message at all");
    socket.hears_notice("");
    socket.say("[\"CLOSE\",\"a\"]");
    socket.say("[\"REQ\",\"c\",{}]");
    assert!(reason(&socket.hears("CLOSED", "c"), 2).starts_with("rate-limited: more messages"));
    assert_eq!(relay.health()["subscriptions"], 1);
}

#[test]
fn an_auth_counts_as_the_event_that_it_is() {
    let relay = strict(|config| config.rates.events = 2);
    let mut socket = relay.connect();
    let said: Vec<String> = (0..3)
        .map(|n| {
            let event = event(1, 22242, &format!("{n}"));
            let mut message = b"[\"AUTH\",".to_vec();
            event.write_json(&mut message);
            message.push(b']');
            socket.say(&String::from_utf8(message).unwrap());
            reason(&socket.hears("OK", &event.id.to_string()), 3).to_owned()
        })
        .collect();
    assert!(!said[1].starts_with("rate-limited:"), "{said:?}");
    assert!(said[2].starts_with("rate-limited: more events from your address"), "{said:?}");
}

#[test]
fn bytes_count() {
    let relay = strict(|config| config.rates.message_bytes = 140_000);
    let mut socket = relay.connect();
    let long = |id: &str| format!("[\"REQ\",\"{id}\",{{\"#t\":[\"{}\"],\"limit\":0}}]", "x".repeat(100_000));
    socket.say(&long("a"));
    socket.hears("EOSE", "a");
    socket.say(&long("b"));
    assert!(reason(&socket.hears("CLOSED", "b"), 2).starts_with("rate-limited: more bytes"));
    socket.still_works();
}

#[test]
fn an_authors_events_count_wherever_they_come_from() {
    let relay = behind_a_proxy(AddressSource::XForwardedFor, |config| {
        config.rates.events_per_author = 2;
        config.rates.events_per_author_by_kind = vec!["7=3".parse().unwrap()];
    });
    let from = |address: &str| {
        Socket::shake_hands(relay.address, handshake(&format!("X-Forwarded-For: {address}\r\n")).as_bytes())
    };
    let mut sockets = [from("203.0.113.1"), from("203.0.113.2")];
    // Somebody else's forgeries in this author's name change nothing.
    let mut forger = from("203.0.113.3");
    for i in 0..10 {
        let mut forged = event(1, 1, &format!("{i}"));
        forged.sig.0[0] ^= 1;
        forger.publish(&forged);
        let answer = forger.hears("OK", &forged.id.to_string());
        assert!(reason(&answer, 3).starts_with("invalid: "), "{answer}");
    }
    for (socket, times) in sockets.iter_mut().zip([3, 1]) {
        let event = event(1, 1, &format!("{times} times"));
        for _ in 0..times {
            // Only the first time is it new, and only then does it count.
            socket.publish(&event);
            assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
        }
    }
    let more = event(1, 1, "more");
    sockets[0].publish(&more);
    let refused = sockets[0].hears("OK", &more.id.to_string());
    assert!(reason(&refused, 3).starts_with("rate-limited: more events of this author"), "{refused}");
    for i in 0..4 {
        let event = event(1, 7, &format!("{i}"));
        sockets[1].publish(&event);
        assert_eq!(sockets[1].hears("OK", &event.id.to_string())[2], i < 3);
    }
    let event = event(2, 1, "another author");
    sockets[0].publish(&event);
    assert_eq!(sockets[0].hears("OK", &event.id.to_string())[2], true);
    assert_eq!(relay.health()["limited_authors"], 2);
}

#[test]
fn h241_too_many_connections_get_429() {
    let relay = strict(|config| config.rates.connections = 2);
    let first = relay.connect();
    let mut second = relay.connect();
    assert_too_many(knock(relay.address, HANDSHAKE.as_bytes()));
    // Not only WebSockets; but monitors are answered.
    let page = wire::http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 429 "), "{page}");
    assert_eq!(relay.health()["refused_too_many"].as_u64().unwrap(), 3, "this question is counted too");
    second.still_works();
    drop(first);
    eventually("there is room again", || knock(relay.address, HANDSHAKE.as_bytes()).is_ok());
}

#[test]
fn a_refused_visitor_that_says_nothing_is_soon_gone() {
    let relay = strict(|config| {
        config.rates.connections = 1;
        config.listen.header_timeout = 300;
    });
    let _first = relay.connect();
    let mut silent = TcpStream::connect(relay.address).unwrap();
    silent.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0; 100]).unwrap(), 0, "nothing but the end, and long before the five minutes");
}

#[test]
fn new_connections_have_a_rate() {
    let relay = strict(|config| config.rates.new_connections = 3);
    for _ in 0..3 {
        relay.connect();
    }
    assert_too_many(knock(relay.address, HANDSHAKE.as_bytes()));
    assert!(relay.health()["refused_too_fast"].as_u64().unwrap() >= 1);
}

#[test]
fn h239_a_header_from_anybody_is_ignored() {
    let relay = strict(|config| config.rates.connections = 1);
    let _first = relay.connect();
    for lines in
        ["X-Forwarded-For: 203.0.113.1\r\n", "Forwarded: for=203.0.113.1\r\n", "CF-Connecting-IP: 203.0.113.1\r\n"]
    {
        assert_too_many(knock(relay.address, handshake(lines).as_bytes()));
    }
    let relay = strict(|config| {
        config.rates.connections = 1;
        config.listen.client_address_from = AddressSource::ProxyProtocol;
    });
    let _first = relay.connect();
    let head =
        knock(relay.address, format!("PROXY TCP4 203.0.113.1 10.0.0.1 1 2\r\n{HANDSHAKE}").as_bytes()).unwrap_err();
    assert!(!head.starts_with("http/1.1 101"), "{head}");
}

#[test]
fn behind_a_proxy_each_client_counts_for_itself() {
    for (source, name, value) in [
        (AddressSource::XForwardedFor, "X-Forwarded-For", "ADDRESS"),
        (AddressSource::XForwardedFor, "X-Forwarded-For", "198.51.100.7, ADDRESS, 127.0.0.1"),
        (AddressSource::XForwardedFor, "X-Forwarded-For", "unknown, [2001:db8::9]:5\r\nx-forwarded-for: ADDRESS:77"),
        (AddressSource::Forwarded, "Forwarded", "for=\"198.51.100.7, for=ADDRESS;proto=https"),
        (AddressSource::XRealIp, "X-Real-IP", "ADDRESS"),
        (AddressSource::CfConnectingIp, "CF-Connecting-IP", "ADDRESS"),
    ] {
        let relay = behind_a_proxy(source, |config| config.rates.connections = 1);
        let from = |address: &str| {
            // Only the configured header is read, the others are the client's own.
            let others = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nCF-Connecting-IP: 192.0.2.1\r\n";
            let others: String =
                others.split_inclusive("\r\n").filter(|line| !line.starts_with(&format!("{name}:"))).collect();
            let lines = format!("{others}{name}: {}\r\n", value.replace("ADDRESS", address));
            knock(relay.address, handshake(&lines).as_bytes())
        };
        let _first = from("203.0.113.1").unwrap();
        let _second = from("203.0.113.2").unwrap();
        assert_too_many(from("203.0.113.1"));
        assert_too_many(from("203.0.113.2"));
        // A proxy that does not tell is counted itself.
        let _proxy = knock(relay.address, HANDSHAKE.as_bytes()).unwrap();
        assert_too_many(knock(relay.address, HANDSHAKE.as_bytes()));
        assert_too_many(knock(relay.address, handshake(&format!("{name}: garbage\r\n")).as_bytes()));
    }
}

#[test]
fn the_proxy_protocol_tells_before_the_request() {
    let relay = behind_a_proxy(AddressSource::ProxyProtocol, |config| config.rates.connections = 1);
    let ask = |prefix: &[u8]| {
        knock(relay.address, &[prefix, handshake("X-Forwarded-For: 192.0.2.1\r\n").as_bytes()].concat())
    };
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x02\x0a\0\0\x01\xdc\x04\x01\xbb";
    let _one = ask(b"PROXY TCP4 203.0.113.1 10.0.0.1 56324 443\r\n").unwrap();
    let _two = ask(v2).unwrap();
    let _three = ask(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n").unwrap();
    assert_too_many(ask(b"PROXY TCP4 203.0.113.1 10.0.0.1 56325 443\r\n"));
    assert_too_many(ask(b"PROXY TCP4 203.0.113.2 10.0.0.1 56325 443\r\n"));
    assert_too_many(ask(b"PROXY TCP6 2001:db8::ffff 2001:db8::2 1 2\r\n"));
    // The proxy's own connections, such as health checks.
    let _own = ask(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap();
    assert_too_many(ask(b"PROXY UNKNOWN\r\n"));
    // Without it nothing is answered: somebody else's header could follow.
    assert_eq!(ask(b"").unwrap_err(), "");
    assert_eq!(ask(b"PROXY TCP4 203.0.113.9 10.0.0.1 1\r\n").unwrap_err(), "");
}

#[test]
fn a_busy_household_meets_no_limit() {
    let relay = strict(|_| {});
    let mut sockets: Vec<Socket> = (0..20).map(|_| relay.connect()).collect();
    for (i, socket) in sockets.iter_mut().enumerate() {
        for j in 0..50 {
            let authors: Vec<String> = (0..200).map(|k| format!("\"{:064x}\"", k + 1)).collect();
            socket.say(&format!("[\"REQ\",\"{j}\",{{\"authors\":[{}],\"limit\":5}}]", authors.join(",")));
            socket.hears("EOSE", &j.to_string());
            if j % 2 == 0 {
                socket.say(&format!("[\"CLOSE\",\"{j}\"]"));
            }
        }
        let event = event(i as u8 + 1, 1, "hello");
        socket.publish(&event);
        assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
    }
    let health = relay.health();
    for (name, value) in health.as_object().unwrap() {
        if name.starts_with("limited_") || name.starts_with("refused_") {
            assert_eq!(value, 0, "{name}");
        }
    }
    assert_eq!(health["addresses"], 1);
}
