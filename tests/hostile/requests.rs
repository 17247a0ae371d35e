//! HTTP (section 23.7), and those who make others wait: for a header, a frame, an answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ratite::nostr::Event;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::relay::{Case, Scene, Table, canonical, case, number, sign};
use crate::wire::{FIN, HANDSHAKE, PATIENCE as LONGEST, PING, Socket, TEXT, frame, now};

/// The number of the administrator.
const ADMIN: u8 = 77;

/// A relay that is managed.
pub const TABLE: Table = Table {
    name: "requests",
    clock: None,
    change: |config| {
        config.policy.admins = vec![sign(ADMIN, 1, 0, &[], "").pubkey];
        config.info.name = "test \"relay\"".into();
    },
    cases,
};

/// A relay with little patience.
pub const PATIENCE: Table = Table {
    name: "patience",
    clock: None,
    change: |config| {
        config.listen.header_timeout = 1;
        config.listen.ping_interval = 1;
        config.listen.ping_timeout = 1;
    },
    cases: patience,
};

/// Sends a request, which the relay may answer before it has read all of it; status, head in lower case, and body. The status is 0
/// when there is no answer.
fn answer(scene: &Scene, request: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(scene.address).unwrap();
    stream.set_read_timeout(Some(LONGEST)).unwrap();
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    // A WebSocket stays open: the head is enough then.
    while !(bytes.starts_with(b"HTTP/1.1 101") && bytes.ends_with(b"\r\n\r\n")) {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(error) => {
                assert!(error.kind() == ErrorKind::ConnectionReset, "{error}");
                break;
            }
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return (0, text, String::new()) };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase() + "\r\n", body.to_owned())
}

fn status(scene: &Scene, request: impl AsRef<[u8]>) -> u16 {
    answer(scene, request.as_ref()).0
}

#[track_caller]
fn has_cors(head: &str) {
    for name in ["origin", "headers", "methods"] {
        assert!(head.contains(&format!("\r\naccess-control-allow-{name}: ")), "{name}: {head}");
    }
}

#[track_caller]
fn is_document(answer: (u16, String, String)) {
    let (status, head, body) = answer;
    assert!(status == 200 && head.contains("\r\ncontent-type: application/nostr+json\r\n"), "{head}");
    has_cors(&head);
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["name"], "test \"relay\"");
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A GET with these header lines.
fn get(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\n{headers}\r\n")
}

fn cases() -> Vec<Case> {
    vec![
        case("H212", |scene| {
            is_document(answer(scene, get("Host: h\r\nAccept: application/nostr+json\r\n").as_bytes()))
        }),
        case("H213", |scene| {
            let list = "Host: h\r\nAccept: text/html, Application/Nostr+JSON;q=0.9, */*;q=0.1\r\n";
            is_document(answer(scene, get(list).as_bytes()));
        }),
        case("H214", |scene| {
            let request =
                "OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\nAccess-Control-Request-Method: GET\r\n\r\n";
            let (status, head, _) = answer(scene, request.as_bytes());
            assert!([200, 204].contains(&status), "{head}");
            has_cors(&head);
        }),
        case("H215", |scene| assert_eq!(status(scene, HANDSHAKE.replace("GET / ", "GET /chat ")), 404)),
        case("H216", |scene| assert_eq!(status(scene, HANDSHAKE.replace(KEY, "")), 400)),
        case("H217", |scene| {
            for key in ["c2hvcnQ=", "", "dGhlIHNhbXBsZSBub25jZQ", "%%%%%%%%%%%%%%%%%%%%%%=="] {
                assert_eq!(status(scene, HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", key)), 400, "{key}");
            }
        }),
        case("H218", |scene| {
            let (status, head, _) = answer(scene, HANDSHAKE.replace("Version: 13", "Version: 8").as_bytes());
            assert!(status == 426 && head.contains("\r\nsec-websocket-version: 13\r\n"), "{head}");
        }),
        case("H219", |scene| {
            let request = HANDSHAKE
                .replace("Upgrade: websocket", "uPGRADE: h2c, WebSocket")
                .replace("Connection: Upgrade", "connection: keep-alive, upGRADE");
            assert_eq!(status(scene, request), 101);
        }),
        case("H220", |scene| assert_eq!(status(scene, HANDSHAKE.replace("GET", "POST")), 405)),
        case("H221", |scene| assert_eq!(status(scene, HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0")), 400)),
        case("H222", |scene| {
            let request = HANDSHAKE.replace(KEY, &format!("{KEY}Sec-WebSocket-Protocol: nostr, chat\r\n"));
            let (status, head, _) = answer(scene, request.as_bytes());
            assert!(status == 101 && !head.contains("sec-websocket-protocol"), "{head}");
        }),
        case("H223", |scene| {
            assert_eq!(status(scene, get(&format!("Host: h\r\nX: {}\r\n", "x".repeat(65_536)))), 431);
        }),
        case("H224", |scene| assert_eq!(status(scene, get(&format!("Host: h\r\n{}", "X: y\r\n".repeat(1000)))), 431)),
        case("H225", |scene| {
            assert_eq!(status(scene, format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(102_400))), 414);
        }),
        case("H228", |scene| assert_eq!(status(scene, get("")), 400)),
        case("H229", |scene| assert_eq!(status(scene, get("Host: a\r\nHost: b\r\n")), 400)),
        case("H230", |scene| {
            for lengths in [
                "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
                "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
                "Content-Length: 2\r\nContent-Length: 3\r\n",
                "Content-Length: -1\r\n",
                "Transfer-Encoding: x\r\n",
            ] {
                assert_eq!(status(scene, get(&format!("Host: h\r\n{lengths}"))), 400, "{lengths}");
            }
        }),
        case("H231", |scene| {
            let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/nostr+json+rpc\r\n";
            // Announced, and never sent: the answer does not wait for it.
            assert_eq!(status(scene, format!("{head}Content-Length: 1000000000\r\n\r\n{{")), 413);
            assert_eq!(status(scene, format!("{head}Content-Length: 70000\r\n\r\n{}", "x".repeat(70_000))), 413);
            // Of a length that nobody knows: not taken at all, as H230 wants it.
            let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000)).repeat(100);
            assert_eq!(status(scene, format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}")), 400);
        }),
        case("H232", |scene| {
            let (status, head, _) = call(scene, "", "{\"method\":\"supportedmethods\",\"params\":[]}");
            assert!(status == 401 && head.contains("\r\nwww-authenticate: nostr"), "{head}");
        }),
        case("H233", |scene| {
            assert!(managed(scene, json!({"method": "nosuchmethod", "params": []}))["error"].is_string())
        }),
        case("H234", |scene| {
            for params in [json!([]), json!([1]), json!(["abc"]), json!({}), json!([["a"]]), json!(null)] {
                let answer = managed(scene, json!({"method": "banpubkey", "params": params}));
                assert!(answer["error"].is_string() && answer.get("result").is_none(), "{params}: {answer}");
            }
            assert_eq!(managed(scene, json!({"method": "listbannedpubkeys", "params": []}))["result"], json!([]));
        }),
        case("H235", |scene| {
            let body = "{\"method\":\"supportedmethods\",\"params\":[]}";
            let token = header(&token(scene, body));
            assert_eq!(call(scene, &token, body).0, 200);
            assert_eq!(call(scene, &token, body).0, 401);
        }),
        case("H236", |scene| {
            let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20);
            assert!([0, 400].contains(&status(scene, hello)));
        }),
        case("H237", |scene| assert!([0, 400, 505].contains(&status(scene, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))),
        case("H238", |scene| {
            assert_eq!(status(scene, get("Host: h\r\nX: a\0b\r\n")), 400);
            assert_eq!(status(scene, "GET / HTTP/1.1\nHost: h\n\n"), 400);
        }),
        case("H240", |scene| {
            let early = [
                crate::wire::text("[\"REQ\",\"a\",{\"limit\":0}]"),
                crate::wire::text("[\"REQ\",\"b\",{\"limit\":0}]"),
            ]
            .concat();
            let (early, late) = early.split_at(early.len() - 5);
            let mut socket = Socket::open_with(scene.address, early);
            socket.hears("EOSE", "a");
            socket.send(late);
            socket.hears("EOSE", "b");
        }),
    ]
}

/// A token for a call with this body.
fn token(scene: &Scene, body: &str) -> Event {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SALT: AtomicU64 = AtomicU64::new(0);
    let salt = SALT.fetch_add(1, Ordering::Relaxed).to_string();
    let (url, payload) = (format!("http://{}/", scene.address), const_hex::encode(Sha256::digest(body)));
    sign(ADMIN, 27_235, now(), &[&["u", &url], &["method", "POST"], &["payload", &payload]], &salt)
}

fn header(token: &Event) -> String {
    format!("Authorization: Nostr {}\r\n", STANDARD.encode(canonical(token)))
}

fn call(scene: &Scene, headers: &str, body: &str) -> (u16, String, String) {
    let (address, length) = (scene.address, body.len());
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/nostr+json+rpc\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    answer(scene, request.as_bytes())
}

/// A call by the administrator, which is answered with 200.
fn managed(scene: &Scene, body: Value) -> Value {
    let body = body.to_string();
    let (status, head, answer) = call(scene, &header(&token(scene, &body)), &body);
    assert_eq!(status, 200, "{head}{answer}");
    serde_json::from_str(&answer).unwrap()
}

fn patience() -> Vec<Case> {
    vec![
        case("H211", |scene| {
            let silent = number(scene, "closed_silent");
            let mut socket = scene.connect();
            let began = Instant::now();
            socket.send(&[0x81, 0xfe]);
            assert_eq!(socket.next().map(|frame| frame.opcode), Some(PING));
            assert_eq!(socket.next(), None, "dropped without more words");
            assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
            assert_eq!(number(scene, "closed_silent"), silent + 1);
        }),
        case("H226", |scene| {
            let began = Instant::now();
            let mut stream = TcpStream::connect(scene.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            // Never an empty line, so never complete.
            for byte in HANDSHAKE.bytes().filter(u8::is_ascii_alphanumeric).cycle() {
                assert!(began.elapsed() < LONGEST, "still waiting for the rest");
                let written = stream.write_all(&[byte]);
                match stream.read(&mut [0; 100]) {
                    Ok(0) => break,
                    Ok(_) => panic!("an answer to half a request"),
                    Err(error)
                        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && written.is_ok() => {}
                    Err(_) => break,
                }
            }
            assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        }),
        case("H227", |scene| {
            let began = Instant::now();
            let mut stream = TcpStream::connect(scene.address).unwrap();
            stream.set_read_timeout(Some(LONGEST)).unwrap();
            assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0, "nothing but the end");
            assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        }),
        case("H243", |scene| {
            let silent = number(scene, "closed_silent");
            // Its kernel takes what comes, but nobody is there to answer a ping. Halfway through a message, too.
            let mut gone = scene.connect();
            gone.say("[\"REQ\",\"all\",{\"limit\":0}]");
            gone.hears("EOSE", "all");
            gone.send(&frame(TEXT, b"[\"REQ"));
            gone.send(&frame(FIN | PING, b"x"));
            let began = Instant::now();
            while number(scene, "closed_silent") == silent {
                assert!(began.elapsed() < LONGEST, "it is still written to");
                scene.innocent();
            }
        }),
    ]
}
