//! With a certificate in files.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use ratite::config::Config;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio_tungstenite::tungstenite::Message;

use crate::wire::process::RelayProcess;
use crate::wire::tls::{Authority, client_config, open, shake_hands, try_shake_hands, write_at_once, write_into};
use crate::wire::{HANDSHAKE, PATIENCE, TestRelay, event, eventually, health, http, now};

const NAME: &str = "relay.test";

/// A relay with TLS.
struct Scene {
    relay: TestRelay,
    authority: Authority,
    folder: tempfile::TempDir,
    client: Arc<ClientConfig>,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Scene {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let (certificate, key) = authority.issue_into(folder.path(), &[NAME]);
        let relay = TestRelay::with(|config| {
            config.tls.certificate = Some(certificate);
            config.tls.key = Some(key);
            config.tls.names = vec![NAME.to_owned()];
            config.tls.listen = vec![([127, 0, 0, 1], 0).into()];
            config.tls.http_listen = vec![([127, 0, 0, 1], 0).into()];
            change(config);
        });
        let client = client_config(&authority.certificate, &["http/1.1"]);
        Scene { relay, authority, folder, client }
    }

    fn tls(&self) -> SocketAddr {
        self.relay.server().listening().tls[0].tcp().unwrap()
    }

    fn http(&self) -> SocketAddr {
        self.relay.server().listening().http[0].tcp().unwrap()
    }

    /// Sends a request over TLS, and returns the answer, to its proper end.
    fn https(&self, request: &str) -> String {
        let mut stream = shake_hands(&self.client, self.tls(), NAME);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // An end without close_notify would be an error here.
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn clients_talk_over_tls_as_without() {
    let scene = Scene::new();
    let mut tls = open(&scene.client, scene.tls(), NAME);
    let mut plain = scene.relay.connect();
    plain.say("[\"REQ\",\"all\",{}]");
    plain.hears("EOSE", "all");
    let note = event(1, 1, "over TLS");
    tls.publish(&note);
    tls.hears("OK", &note.id.to_string());
    assert_eq!(plain.hears("EVENT", "all")[2]["id"], note.id.to_string());
    tls.say("[\"REQ\",\"mine\",{\"kinds\":[1]}]");
    assert_eq!(tls.hears("EVENT", "mine")[2]["content"], "over TLS");
    tls.hears("EOSE", "mine");
    assert_eq!(tls.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(tls.stream.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_client_that_we_did_not_write_talks_over_tls() {
    let scene = tokio::task::spawn_blocking(Scene::new).await.unwrap();
    let socket = tokio::net::TcpStream::connect(scene.tls()).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::clone(&scene.client)).connect(name, socket).await.unwrap();
    let (mut client, answer) = tokio_tungstenite::client_async(format!("wss://{NAME}/"), stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    let note = event(1, 1, "from elsewhere");
    let mut message = b"[\"EVENT\",".to_vec();
    note.write_json(&mut message);
    message.push(b']');
    client.send(Message::text(String::from_utf8(message).unwrap())).await.unwrap();
    client.send(Message::text("[\"REQ\",\"all\",{\"kinds\":[1]}]")).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        match client.next().await.unwrap().unwrap() {
            Message::Text(text) if text.starts_with("[\"AUTH\"") => {}
            Message::Text(text) => heard.push(text.to_string()),
            _ => {}
        }
    }
    assert!(heard.contains(&format!("[\"OK\",\"{}\",true,\"\"]", note.id)), "{heard:?}");
    assert!(
        heard.contains(&"[\"EOSE\",\"all\"]".to_owned()) && heard.iter().any(|text| text.contains("from elsewhere")),
        "{heard:?}"
    );
    client.close(None).await.unwrap();
    while client.next().await.is_some_and(|message| message.is_ok()) {}
    tokio::task::spawn_blocking(|| drop(scene)).await.unwrap();
}

#[test]
fn long_messages_come_whole_in_both_directions() {
    let scene = Scene::new();
    let mut tls = open(&scene.client, scene.tls(), NAME);
    let notes: Vec<_> = (0..40).map(|i| event(1, 1, &format!("{i} {}", "x".repeat(60_000)))).collect();
    for note in &notes {
        tls.publish(note);
        tls.hears("OK", &note.id.to_string());
    }
    tls.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
    let mut heard = std::collections::BTreeSet::new();
    for _ in &notes {
        let message = tls.hears("EVENT", "all");
        assert!(message[2]["content"].as_str().unwrap().ends_with(&"x".repeat(60_000)));
        heard.insert(message[2]["id"].as_str().unwrap().to_owned());
    }
    tls.hears("EOSE", "all");
    assert_eq!(heard, notes.iter().map(|note| note.id.to_string()).collect());
}

#[test]
fn the_names_of_tls_are_the_relays_own() {
    let scene = Scene::new();
    let mut tls = open(&scene.client, scene.tls(), NAME);
    // A port of 0 is what is configured; what clients use follows from it.
    let (ok, reason) = tls.authenticate_for(1, "wss://relay.test:0");
    assert!(ok, "{reason}");
    let mut tls = open(&scene.client, scene.tls(), NAME);
    assert!(!tls.authenticate_for(1, "wss://evil.test:0").0);
}

#[test]
fn pages_come_over_tls_and_end_with_close_notify() {
    let scene = Scene::new();
    let answer = scene.https("GET / HTTP/1.1\r\nHost: relay.test\r\nAccept: application/nostr+json\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("supported_nips"), "{answer}");
    assert!(scene.https("GET /health HTTP/1.1\r\nHost: relay.test\r\n\r\n").contains("\"handshakes\":"), "figures");
}

#[test]
fn shutdown_says_goodbye_and_close_notify() {
    let mut scene = Scene::new();
    let mut tls = open(&scene.client, scene.tls(), NAME);
    let down = scene.relay.begin_shutdown();
    assert_eq!(tls.hear_or_end(), Err(Some(1001)));
    // The end of the stream is a proper one: without close_notify this would be an error.
    assert_eq!(tls.stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    scene.relay.wait(down);
}

#[test]
fn sessions_are_resumed() {
    let scene = Scene::new();
    let mut first = open(&scene.client, scene.tls(), NAME);
    assert_eq!(first.stream.conn.handshake_kind(), Some(HandshakeKind::Full));
    // Tickets have come when something has.
    first.still_works();
    let second = open(&scene.client, scene.tls(), NAME);
    assert_eq!(second.stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    let health = scene.relay.health();
    assert_eq!((&health["handshakes"], &health["handshakes_resumed"]), (&2.into(), &1.into()));
}

#[test]
fn any_name_is_served_the_certificate() {
    let scene = Scene::new();
    let error = try_shake_hands(&scene.client, scene.tls(), "other.test").unwrap_err().to_string();
    // It is the client that refuses, and it can say why.
    assert!(error.contains("not valid for name \"other.test\"") && error.contains("relay.test"), "{error}");
    let error = try_shake_hands(&scene.client, scene.tls(), "127.0.0.1").unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn plain_http_is_led_to_https() {
    let scene = Scene::new();
    let place = format!("https://relay.test:{}", 0);
    for (request, location) in [
        ("GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n", format!("{place}/")),
        ("GET /a?b=c HTTP/1.1\r\nHost: relay.test:80\r\n\r\n", format!("{place}/a?b=c")),
        ("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", format!("{place}/")),
        ("POST / HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 0\r\n\r\n", format!("{place}/")),
        ("OPTIONS * HTTP/1.1\r\nHost: relay.test\r\n\r\n", format!("{place}/")),
        (&*HANDSHAKE.replace("Host: relay", "Host: relay.test"), format!("{place}/")),
    ] {
        // On port 80, and on that of TLS, where somebody began with http://.
        for address in [scene.http(), scene.tls()] {
            let answer = http(address, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
            assert!(answer.contains(&format!("location: {location}\r\n")), "{location}: {answer}");
            assert!(answer.contains("access-control-allow-origin: *\r\n"), "{answer}");
            assert!(answer.contains("wss://relay.test"), "{answer}");
        }
    }
    let answer = http(scene.http(), b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"certificate_days\""), "{answer}");
    let answer = http(scene.http(), b"GET /.well-known/acme-challenge/abc HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = http(scene.http(), b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn garbage_and_silence_on_the_tls_port_harm_nobody() {
    let scene = Scene::with(|config| config.listen.header_timeout = 1);
    let mut good = open(&scene.client, scene.tls(), NAME);
    let hello: &[u8] = &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    let attacks: [&[u8]; 9] = [
        b"",
        b"\x00\x00\x00\x00",
        b"GARBAGE\n\n",
        &[0xff; 40_000],
        hello,
        &[22, 3, 1, 0xff, 0xff, 1],
        &[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        &[22; 40_000],
        &[21, 3, 3, 0, 2, 2, 0],
    ];
    for attack in attacks {
        let mut stream = TcpStream::connect(scene.tls()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(attack);
        // The relay hangs up, at once or when its patience ends; a reset is as good.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    good.still_works();
    eventually("handshakes that failed are counted", || scene.relay.health()["handshakes_failed"].as_u64() > Some(2));
}

#[test]
fn handshakes_that_never_go_on_keep_nobody_out() {
    let scene = Scene::with(|config| config.listen.header_timeout = 60);
    // As many as there are turns to reckon, many times over: none of them holds one while it waits for its peer.
    let stuck: Vec<TcpStream> = (0..100)
        .map(|i| {
            let mut stream = TcpStream::connect(scene.tls()).unwrap();
            let begun: &[u8] = if i % 2 == 0 { &[22, 3, 1, 0, 200, 1] } else { b"" };
            stream.write_all(begun).unwrap();
            stream
        })
        .collect();
    // And some that had their reckoning done, and never answer.
    let half: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut socket = TcpStream::connect(scene.tls()).unwrap();
            let name = tokio_rustls::rustls::pki_types::ServerName::try_from(NAME).unwrap();
            let mut connection = tokio_rustls::rustls::ClientConnection::new(Arc::clone(&scene.client), name).unwrap();
            connection.write_tls(&mut socket).unwrap();
            // The relay's part has come.
            assert!(socket.peek(&mut [0]).unwrap() > 0);
            socket
        })
        .collect();
    open(&scene.client, scene.tls(), NAME).still_works();
    drop((stuck, half));
}

#[test]
fn a_new_certificate_is_served_at_once_and_a_bad_one_changes_nothing() {
    let scene = Scene::new();
    let serial = |scene: &Scene| {
        let stream = shake_hands(&scene.client, scene.tls(), NAME);
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = serial(&scene);
    let mut before = open(&scene.client, scene.tls(), NAME);
    let state = || scene.relay.server().certificate().unwrap();
    assert!(state().last_error.is_none() && state().expires.is_some());

    // Half-written, of another key, gone: what is there goes on.
    let path = scene.folder.path().join("certificate.pem");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    eventually("the bad file was seen", || state().last_error.is_some());
    let error = state().last_error.unwrap().message;
    assert!(error.contains("certificate.pem: this is not PEM"), "{error}");
    assert_eq!(serial(&scene), first);
    let foreign = Authority::new().issue(&[NAME]).0;
    std::fs::write(&path, foreign).unwrap();
    eventually("so was the next", || state().last_error.is_some_and(|error| error.message.contains("does not belong")));
    assert_eq!(serial(&scene), first);

    scene.authority.issue_into(scene.folder.path(), &[NAME, "new.test"]);
    eventually("the new one is served", || serial(&scene) != first);
    assert_eq!((state().last_error, state().names), (None, vec![NAME.to_owned(), "new.test".to_owned()]));
    before.still_works();
    open(&scene.client, scene.tls(), "new.test").still_works();
}

#[test]
fn monitors_and_the_log_are_told_before_a_certificate_ends() {
    const DAY: u64 = 86_400;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    // Of its 90 days, three and a half are left.
    let ending = authority.issue_between(&[NAME], now() - 86 * DAY, now() + 7 * DAY / 2);
    let (certificate, key) = write_into(folder.path(), &ending);
    let log = folder.path().join("log");
    let relay = RelayProcess::with(folder.path(), |command| {
        command.env("RATITE_TLS_CERTIFICATE", &certificate).env("RATITE_TLS_KEY", key);
        command.env("RATITE_TLS_LISTEN", "127.0.0.1:0").env("RATITE_TLS_HTTP_LISTEN", "none");
        command.env("RATITE_LISTEN_METRICS_TOKEN", "s3cret");
        command.stderr(std::fs::File::create(&log).unwrap());
    });
    let figure = |name: &str| -> f64 {
        let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n\r\n";
        let page = http(relay.address, request.as_bytes());
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{name}: {page}"));
        line.parse().unwrap()
    };
    let degraded = || figure("ratite_degraded{reason=\"certificate\"}");
    assert_eq!((figure("ratite_certificate_days"), degraded()), (3.0, 1.0));
    let expires = figure("ratite_certificate_expiry_time_seconds") as u64;
    assert!((now() + 3 * DAY..=now() + 7 * DAY / 2).contains(&expires), "{expires}");
    let told = "the certificate ends in 8";
    eventually("the log says so", || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.lines().any(|line| line.contains(told) && line.contains("ERROR") && line.contains("is not renewed yet"))
    });
    let (_, health) = health(relay.address);
    assert_eq!((&health["status"], &health["certificate_days"]), (&"degraded".into(), &3.into()));
    assert!(health["problems"][0].as_str().unwrap().starts_with(told), "{health}");

    // Nor does it get better by a file that cannot be used.
    assert_eq!(figure("ratite_certificate_failed_attempts"), 0.0);
    write_at_once(&certificate, "no certificate");
    eventually("the failure is counted", || figure("ratite_certificate_failed_attempts") == 1.0);
    assert_eq!((figure("ratite_certificate_days"), degraded()), (3.0, 1.0));
    let trusting = client_config(&authority.certificate, &["http/1.1"]);
    open(&trusting, relay.tls.unwrap(), NAME).still_works();
    assert_eq!(figure("ratite_tls_handshakes_total{result=\"full\"}"), 1.0);

    write_into(folder.path(), &authority.issue_between(&[NAME], now() - DAY, now() + 89 * DAY + DAY / 2));
    eventually("the new one is taken", || figure("ratite_certificate_days") == 89.0);
    assert_eq!((figure("ratite_certificate_failed_attempts"), degraded()), (0.0, 0.0));
}

#[test]
fn a_relay_with_a_certificate_that_cannot_be_used_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let output = crate::wire::process::ratite(folder.path(), &["relay", "--listen", "127.0.0.1:0"])
        .envs([
            ("RATITE_TLS_CERTIFICATE", "missing.pem"),
            ("RATITE_TLS_KEY", "missing.pem"),
            ("RATITE_TLS_LISTEN", "127.0.0.1:0"),
            ("RATITE_TLS_HTTP_LISTEN", "none"),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot begin with TLS: missing.pem: no such file"), "{error}");
    assert!(!Path::new("missing.pem").exists());
}
