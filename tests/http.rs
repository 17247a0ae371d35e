//! The relay as HTTP clients see it: the information document, the landing page, `/health`, and who is turned away.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use ratite::config::{Sources, load};
use serde_json::{Value, json};

use wire::{HANDSHAKE, TestRelay, eventually, http};

/// Status, head in lower case, body.
fn get(relay: &TestRelay, request: &str) -> (u16, String, String) {
    let answer = http(relay.address, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[track_caller]
fn assert_cors(head: &str) {
    for name in ["origin", "headers", "methods"] {
        assert!(head.contains(&format!("\r\naccess-control-allow-{name}: ")), "{name}: {head}");
    }
}

#[test]
fn h212_information_document() {
    let relay = TestRelay::with(|config| {
        config.info.name = "test \"relay\"".into();
        config.limits.max_message_length = 70_000;
    });
    let (status, head, body) = get(&relay, "GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    assert_eq!(status, 200);
    assert!(head.contains("\r\ncontent-type: application/nostr+json"));
    assert!(head.contains("\r\nvary: accept"));
    assert_cors(&head);
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["name"], "test \"relay\"");
    assert_eq!(document["supported_nips"], json!([1, 9, 11, 17, 40, 42, 45, 59, 62, 70]));
    assert_eq!(document["limitation"]["max_message_length"], 70_000);
}

#[test]
fn h214_cors_preflight() {
    let relay = TestRelay::start();
    let (status, head, body) =
        get(&relay, "OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\nAccess-Control-Request-Method: GET\r\n\r\n");
    assert_eq!((status, body.as_str()), (204, ""));
    assert_cors(&head);
}

#[test]
fn n11_18_landing_page_for_everyone_else() {
    let relay = TestRelay::with(|config| {
        config.info.name = "<b>bold</b> relay".into();
        config.info.description = "First.\n\nSecond.".into();
    });
    let (status, head, body) =
        get(&relay, "GET / HTTP/1.1\r\nHost: relay.example.org\r\nAccept: text/html,*/*;q=0.8\r\n\r\n");
    assert_eq!(status, 200);
    assert!(head.contains("\r\ncontent-type: text/html; charset=utf-8"));
    assert!(head.contains("\r\ncontent-security-policy: default-src 'none';"));
    assert!(body.contains("&lt;b&gt;bold&lt;/b&gt; relay"));
    assert!(body.contains("ws://relay.example.org"));

    let (status, head_only, nothing) = get(&relay, "HEAD / HTTP/1.1\r\nHost: relay.example.org\r\n\r\n");
    assert_eq!((status, nothing.as_str()), (200, ""));
    let length = format!("\r\ncontent-length: {}", body.len());
    assert!(head_only.contains(&length) && head.contains(&length), "{head_only}");
}

#[test]
fn own_pictures_are_served_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("icon");
    std::fs::write(&path, b"GIF89a and so on").unwrap();
    let environment =
        [("ICON_FILE", path.to_str().unwrap()), ("BANNER_FILE", "/nowhere"), ("URL", "wss://r.example:8443/x")]
            .map(|(name, value)| (format!("RATITE_INFO_{name}").into(), value.into()));
    let sources = Sources { file: Some("/dev/null".into()), environment: environment.into(), ..Sources::default() };
    let loaded = load(sources).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(
        loaded.warnings[0].to_string().contains("info.banner_file: /nowhere cannot be read"),
        "{}",
        loaded.warnings[0]
    );
    let relay = TestRelay::with(|config| config.info = loaded.config.info);
    let (status, head, body) = get(&relay, "GET /icon HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((status, body.as_str()), (200, "GIF89a and so on"));
    assert!(
        head.contains("\r\ncontent-type: image/gif") && head.contains("\r\nx-content-type-options: nosniff"),
        "{head}"
    );
    assert_cors(&head);
    assert_eq!(get(&relay, "GET /banner HTTP/1.1\r\nHost: h\r\n\r\n").0, 404);
    let (_, _, document) = get(&relay, "GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    assert!(
        document.contains("\"icon\":\"https://r.example:8443/icon\"") && !document.contains("banner"),
        "{document}"
    );
    let (_, _, page) = get(&relay, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(page.contains("<img src=\"/icon\"") && page.contains("rel=\"icon\" href=\"/icon\""), "{page}");
    assert!(!page.contains("/banner"), "{page}");
    assert_eq!(get(&TestRelay::start(), "GET /icon HTTP/1.1\r\nHost: h\r\n\r\n").0, 404);
}

#[test]
fn the_page_shows_what_was_changed_while_the_relay_ran() {
    let relay = TestRelay::start();
    let page = || get(&relay, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").2;
    assert!(page().contains(">ratite relay</h1>"));
    for (method, text) in [("changerelayname", "new <name>"), ("changerelaydescription", "new words")] {
        ratite::relay::admin::call(&relay.relay, method, &[json!(text)]).unwrap();
    }
    let page = page();
    assert!(page.contains(">new &lt;name&gt;</h1>") && page.contains(">new words</p>"), "{page}");
}

#[test]
fn n05_01_names_are_served_to_pages_of_every_origin_without_redirect() {
    let key = ratite::nostr::PublicKey([0xab; 32]);
    let relay = TestRelay::with(|config| {
        config.info.names = vec![("alice".into(), key)];
        config.info.url = "wss://relay.test".into();
    });
    for query in ["", "?name=alice", "?name=ALICE&x=y"] {
        let (status, head, body) = get(
            &relay,
            &format!("GET /.well-known/nostr.json{query} HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\n\r\n"),
        );
        assert_eq!(status, 200);
        assert!(head.contains("\r\naccess-control-allow-origin: *"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let hex = key.to_string();
        assert_eq!(answer, json!({"names": {"alice": hex}, "relays": {(hex.clone()): ["wss://relay.test"]}}));
    }
    let (_, _, body) = get(&relay, "GET /.well-known/nostr.json?name=bob HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(body, "{\"names\":{}}");
    let upgrade = HANDSHAKE.replace("GET / ", "GET /.well-known/nostr.json ");
    assert_eq!(get(&relay, &upgrade).0, 404, "not where the relay is");
    let nobody = TestRelay::start();
    assert_eq!(get(&nobody, "GET /.well-known/nostr.json HTTP/1.1\r\nHost: h\r\n\r\n").0, 404);
}

#[test]
fn unknown_paths_are_404() {
    let relay = TestRelay::start();
    for path in ["/favicon.ico", "/index.html", "//", "/health/"] {
        let (status, head, _) = get(&relay, &format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(status, 404, "{path}");
        assert!(head.contains("\r\ncontent-type: text/plain"));
    }
}

#[test]
fn health_counts() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"s\",{\"limit\":0}]");
    socket.hears("EOSE", "s");
    let health = relay.health();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["connections"], 1);
    assert_eq!(health["subscriptions"], 1);
    drop(socket);
    eventually("the connection is gone from the books", || {
        let health = relay.health();
        health["connections"] == 0 && health["subscriptions"] == 0
    });
}

#[test]
fn a_full_relay_turns_websockets_away_with_503_and_recovers() {
    let relay = TestRelay::with(|config| config.listen.max_connections = 2);
    let mut first = relay.connect();
    let _second = relay.connect();
    let (status, head, _) = get(&relay, HANDSHAKE);
    assert_eq!(status, 503);
    assert!(head.contains("\r\nretry-after: "));
    first.still_works();
    assert!(relay.health()["turned_away"].as_u64().unwrap() >= 1, "health is answered even now");
    drop(first);
    eventually("there is room again", || http_status(&relay) == 101);
}

/// Tries to upgrade and hangs up.
fn http_status(relay: &TestRelay) -> u16 {
    status_of(relay, HANDSHAKE.as_bytes())
}

/// The status of the answer to these bytes; 0 when there is none.
fn status_of(relay: &TestRelay, request: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(relay.address).unwrap();
    stream.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    // The relay may answer before it has read everything.
    let _ = stream.write_all(request);
    let mut head = [0; 12];
    match stream.read_exact(&mut head) {
        Ok(()) => std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
            0
        }
    }
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let relay = TestRelay::start();
    let mut config = ratite::config::Config::default();
    config.listen.addresses = vec![relay.address.into()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async { ratite::server::Server::start(relay.relay.clone(), &config).err() });
    let error = error.unwrap().to_string();
    assert!(error.contains(&relay.address.to_string()) && error.contains("--listen"), "{error}");
}
