//! HTTP in front of the relay, over streams in memory.

use std::sync::Arc;

use hyper::header::HeaderName;
use tokio::io::AsyncReadExt;

use super::super::admission::Limiter;
use super::super::health::{Health, Reason};
use super::super::monitor::Live;
use super::super::proxy::Proxies;
use super::super::visitor::Doorman;
use super::*;
use crate::relay::Swap;

fn site() -> Site {
    Site::new(&Config::default(), Arc::new(Well(true)), Token::default()).unwrap()
}

/// A relay that is well, or is not.
struct Well(bool);

impl Monitor for Well {
    fn health(&self) -> Health {
        let problems = if self.0 { Vec::new() } else { vec![(Reason::WritesFail, "disk full".to_owned())] };
        Health { problems, numbers: [("connections".to_owned(), 3.into())].into_iter().collect() }
    }

    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }

    fn figures(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn live(&self) -> Live {
        Live { events: 7, clients: 3, minutes: vec![1, 2], ..Live::default() }
    }
}

/// Somebody without limits.
fn visitor(room: bool) -> Mutex<Visitor> {
    let config = Config::default();
    let limiter = Limiter::new(&config.rates, std::time::Instant::now());
    let doorman = Arc::new(Doorman { proxies: Swap::new(Proxies::new(&config)), limiter });
    Mutex::new(Visitor::new(&doorman, None).with_room(room))
}

/// What a peer gets that sends these bytes and then reads to the end, and what is handed on as a WebSocket.
fn exchange(room: bool, request: &[u8]) -> (String, Option<Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        near.write_all(request).await.unwrap();
        let site = site();
        let served = serve(far, &site, None, &visitor(room), None, Instant::now() + Duration::from_secs(10)).await;
        let early = served.map(|Upgraded { stream, early, .. }| {
            drop(stream);
            early.to_vec()
        });
        let mut response = Vec::new();
        let _ = near.read_to_end(&mut response).await;
        (String::from_utf8(response).unwrap(), early)
    })
}

#[track_caller]
fn assert_status(status: u16, request: &str) -> String {
    let (response, early) = exchange(true, request.as_bytes());
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?} got {response:?}");
    assert_eq!(early.is_some(), status == 101);
    if status != 101 {
        let head = response.to_ascii_lowercase();
        assert!(head.lines().any(|line| line.starts_with("connection: ") && line.ends_with("close")), "{head}");
    }
    response
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn ws01_upgrade() {
    let response = assert_status(101, UPGRADE);
    assert!(response.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the example of RFC 6455: {response}");
}

#[test]
fn h215_unknown_path() {
    assert_status(404, &UPGRADE.replace("GET /", "GET /other"));
    assert_status(404, &UPGRADE.replace("GET /", "GET /health"));
    assert_status(101, &UPGRADE.replace("GET /", "GET /?query=is&fine"));
}

#[test]
fn h216_h217_keys() {
    assert_status(400, &UPGRADE.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""));
    assert_status(400, &UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="));
    assert_status(400, &UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ!!="));
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_status(400, &UPGRADE.replace(key, &key.repeat(2)));
}

#[test]
fn h218_versions() {
    let response = assert_status(426, &UPGRADE.replace("Version: 13", "Version: 8")).to_ascii_lowercase();
    assert!(response.contains("\r\nsec-websocket-version: 13\r\n"));
    assert!(response.contains("\r\nupgrade: websocket\r\n"));
    assert_status(400, &UPGRADE.replace("Sec-WebSocket-Version: 13\r\n", ""));
}

#[test]
fn h219_token_lists_and_case() {
    let request = UPGRADE.replace("Upgrade: websocket", "uPGRADE: h2c, WebSocket");
    assert_status(101, &request.replace("Connection: Upgrade", "CONNECTION: keep-alive, upGRADE"));
}

#[test]
fn h220_post() {
    assert_status(405, &UPGRADE.replace("GET", "POST"));
    assert_status(405, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
}

#[test]
fn h221_http_1_0() {
    let (response, early) = exchange(true, UPGRADE.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    assert!(response.starts_with("HTTP/1.0 400 "), "{response}");
    assert_eq!(early, None);
}

#[test]
fn h222_subprotocols_are_ignored() {
    let request = UPGRADE.replace("Host: h", "Host: h\r\nSec-WebSocket-Protocol: chat");
    assert!(!assert_status(101, &request).to_ascii_lowercase().contains("sec-websocket-protocol"));
}

#[test]
fn ws11_compression_is_agreed_to_where_it_is_switched_on() {
    let offer = |offer| UPGRADE.replace("Host: h", &format!("Host: h\r\nSec-WebSocket-Extensions: {offer}"));
    let answer = assert_status(101, &offer("permessage-deflate; client_max_window_bits")).to_ascii_lowercase();
    assert!(answer.contains("\r\nsec-websocket-extensions: permessage-deflate; client_no_context_takeover\r\n"));
    for none in [offer("permessage-bzip2"), UPGRADE.to_owned()] {
        assert!(!assert_status(101, &none).to_ascii_lowercase().contains("sec-websocket-extensions"));
    }
    let mut config = Config::default();
    config.listen.compression = false;
    let site = Site::new(&config, Arc::new(Well(true)), Token::default()).unwrap();
    let mut request = Request::get("/").body(()).unwrap();
    for line in offer("permessage-deflate").trim_end().lines().skip(1) {
        let (name, value) = line.split_once(": ").unwrap();
        request.headers_mut().insert(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let answer = site.respond(&mut request, &mut visitor(true).into_inner().unwrap());
    assert_eq!(answer.headers().get(header::SEC_WEBSOCKET_EXTENSIONS), None, "switched off: {answer:?}");
    assert_eq!(answer.extensions().get::<Agreement>(), None);
}

#[test]
fn h223_h224_h225_sizes() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n";
    assert_status(431, &format!("{get}X: {}\r\n\r\n", "x".repeat(65_536)));
    assert_status(431, &format!("{get}{}\r\n", "X: y\r\n".repeat(1000)));
    assert_status(414, &format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(102_400)));
}

#[test]
fn h226_h227_slow_and_silent_requests_meet_one_deadline() {
    for dribble in [true, false] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let taken = runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(1 << 20);
            let site = site();
            let (began, visitor) = (Instant::now(), visitor(true));
            let slow = async {
                for byte in UPGRADE.bytes() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if dribble && near.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                served = serve(far, &site, None, &visitor, None, began + Duration::from_secs(10)) => assert!(served.is_none()),
                () = slow => {}
            }
            began.elapsed()
        });
        assert_eq!(taken.as_secs(), 10);
    }
}

#[test]
fn h228_h229_hosts() {
    assert_status(400, "GET / HTTP/1.1\r\n\r\n");
    assert_status(400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
    assert_status(400, &UPGRADE.replace("Host: h\r\n", ""));
}

#[test]
fn h230_bodies_of_unclear_length() {
    assert_status(400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_status(400, &UPGRADE.replace("Host: h", "Host: h\r\nTransfer-Encoding: chunked"));
    assert_status(400, &UPGRADE.replace("Host: h", "Host: h\r\nContent-Length: 5"));
}

#[test]
fn h236_h237_other_protocols() {
    let (response, early) = exchange(true, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 400 "), "{response}");
    assert_eq!(early, None);
    let (response, early) = exchange(true, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 400 "), "{response}");
    assert_eq!(early, None);
}

#[test]
fn h238_nul_and_bare_line_feeds() {
    assert_status(400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n");
    assert_status(400, "GET / HTTP/1.1\nHost: h\n\n");
    assert_status(400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n");
    assert_status(400, &UPGRADE.replace("Host: h\r\n", "Host: h\n"));
    assert_status(101, &format!("\r\n\r\n{UPGRADE}"));
}

#[test]
fn h240_bytes_behind_the_request_are_kept_as_they_are() {
    let frames = b"\x81\x80\n\nab\n";
    let (response, early) = exchange(true, &[UPGRADE.as_bytes(), frames].concat());
    assert!(response.starts_with("HTTP/1.1 101 "));
    assert_eq!(early.as_deref(), Some(&frames[..]));
}

#[test]
fn a_full_relay_refuses_websockets_and_answers_the_rest() {
    let (response, early) = exchange(false, UPGRADE.as_bytes());
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert_eq!(early, None);
    let (response, _) = exchange(false, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[test]
fn n11_03_accept_lists() {
    let get = |accept: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n");
        assert_status(200, &request).to_ascii_lowercase().contains("\r\ncontent-type: application/nostr+json\r\n")
    };
    assert!(get("application/nostr+json"));
    assert!(get("text/html, Application/Nostr+JSON;q=0.9;charset=utf-8"));
    assert!(get("*/*\r\nAccept: application/nostr+json"));
    assert!(!get("*/*"));
    assert!(!get("application/nostr+jsonx, text/html"));
}

#[test]
fn health_names_what_is_wrong() {
    let status = |well: bool, path: &str| health_page(&Well(well), path).status();
    for path in ["/health", "/health/ready", "/health/live"] {
        assert_eq!(status(true, path), StatusCode::OK, "{path}");
    }
    assert_eq!(status(false, "/health"), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(false, "/health/ready"), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(false, "/health/live"), StatusCode::OK, "restarting it would not help");
}
