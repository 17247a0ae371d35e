//! What must hold for every input from a socket that the protocol itself never sees: frames, headers, the PROXY protocol.

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use fastwebsockets::CloseCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::deflate::{self, Fault, inflate};
use super::frame::{Decoder, Incoming, Violation};
use super::proxy::{Proxies, read_header};
use crate::config::{AddressSource, Config};

/// A message that owns its bytes.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// What a decoder makes of bytes that come in pieces of these sizes, over and over; the last one is the rest.
fn decode(bytes: &[u8], limit: usize, inflates: bool, sizes: &[usize]) -> (Vec<Message>, Option<Violation>) {
    let mut decoder = Decoder::new(limit, inflates);
    let mut messages = Vec::new();
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(sizes.next().map_or(rest.len(), |size| (*size).min(rest.len())));
        rest = behind;
        let (mut piece, mut at) = (piece.to_vec(), 0);
        loop {
            match decoder.next(&mut piece, &mut at) {
                Ok(None) => break,
                Ok(Some(message)) => messages.push(match message {
                    Incoming::Text(text) => Message::Text(text.to_owned()),
                    Incoming::Binary(bytes) => Message::Binary(bytes.to_vec()),
                    Incoming::Ping(bytes) => Message::Ping(bytes.to_vec()),
                    Incoming::Pong => Message::Pong,
                    Incoming::Close(code) => Message::Close(code.map(u16::from)),
                }),
                Err(violation) => return (messages, Some(violation)),
            }
        }
        assert_eq!(at, piece.len(), "nothing is left lying");
        // A frame and the message it belongs to, each grown by doubling; and a control frame on top.
        assert!(decoder.held() <= 4 * limit + 512, "{} bytes are held", decoder.held());
    }
    (messages, None)
}

/// Frames mean the same in whatever pieces they come, and no message is larger than the limit. The first byte says whether compression
/// was agreed, how large the limit is, and what else is tried, the second how large the pieces are.
pub fn frame(data: &[u8]) {
    let &[first, second, ref bytes @ ..] = data else { return };
    let (inflates, limit) = (first & 1 != 0, [16, 125, 300, 70_000][usize::from(first >> 1 & 3)]);
    let whole = decode(bytes, limit, inflates, &[]);
    let sizes = [1 + usize::from(second & 15), 1 + usize::from(second >> 4) * 20];
    assert_eq!(decode(bytes, limit, inflates, &sizes), whole);
    assert_eq!(decode(bytes, limit, inflates, &[1]), whole);
    let (messages, violation) = whole;
    for message in messages {
        match message {
            Message::Text(text) => assert!(text.len() <= limit),
            Message::Binary(bytes) => assert!(bytes.len() <= limit),
            Message::Ping(bytes) => assert!(bytes.len() <= 125),
            Message::Close(Some(code)) => assert!((1000..5000).contains(&code) && ![1004, 1005, 1006].contains(&code)),
            Message::Pong | Message::Close(None) => {}
        }
    }
    if let Some(violation) = violation {
        let right = [CloseCode::Protocol, CloseCode::Invalid, CloseCode::Policy, CloseCode::Size];
        assert!(right.contains(&violation.code) && violation.reason.len() <= 123);
    }
    if first & 8 != 0 {
        match inflate(bytes, limit) {
            Ok(out) => assert!(out.len() <= limit),
            Err(Fault::TooLarge | Fault::Invalid) => {}
        }
    }
    // What we compress ourselves, we can read. It takes long, so not always.
    if first & 0xf0 == 0xf0
        && let Some(packed) = deflate::alone(bytes)
    {
        assert_eq!(inflate(&packed, bytes.len()).ok().as_deref(), Some(bytes));
    }
}

/// Reads a header of the PROXY protocol from bytes that are all there; also what is left of them.
fn proxy_protocol(bytes: &[u8]) -> (Option<Option<IpAddr>>, &[u8]) {
    let mut rest = bytes;
    let result = {
        let mut future = pin!(read_header(&mut rest));
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.ok(),
            Poll::Pending => panic!("reading from memory waits for nothing"),
        }
    };
    (result, rest)
}

/// Nobody in front of a trusted proxy chooses his own address; offers of compression are agreed to within what was offered.
pub fn header(data: &[u8]) {
    let (client, rest) = proxy_protocol(data);
    if client.is_some() {
        // No byte of what follows is taken, and none is looked at.
        let other = [&data[..data.len() - rest.len()], b"\r\nPROXY "].concat();
        assert_eq!(proxy_protocol(&other), (client, &b"\r\nPROXY "[..]));
    }
    let Ok(line) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, line.clone());
    if let Some((_, answer)) = deflate::negotiate(&headers) {
        let answer = answer.to_str().expect("an answer is plain text");
        assert!(answer.starts_with("permessage-deflate"), "{answer}");
        let bits = |name: &str| answer.split(&format!("{name}=")).nth(1).map(|rest| rest.split(';').next());
        for name in ["server_max_window_bits", "client_max_window_bits"] {
            let text = line.to_str().unwrap_or_default().to_ascii_lowercase();
            assert!(bits(name).is_none() || text.contains(name), "{answer} was not offered in {text}");
        }
    }
    // What a proxy wrote behind it stands, whatever came before.
    for (source, name, own) in [
        (AddressSource::XForwardedFor, "x-forwarded-for", "203.0.113.9"),
        (AddressSource::Forwarded, "forwarded", "for=203.0.113.9"),
    ] {
        let mut config = Config::default();
        config.listen.client_address_from = source;
        let proxies = Proxies::new(&config);
        let name = HeaderName::from_static(name);
        let own = HeaderValue::from_static(own);
        let mut headers = HeaderMap::new();
        headers.append(&name, line.clone());
        let _ = proxies.client(&headers);
        headers.append(&name, own.clone());
        let expected: Option<IpAddr> = "203.0.113.9".parse().ok();
        assert_eq!(proxies.client(&headers), expected, "in a line of its own");
        let joined = HeaderValue::from_bytes(&[line.as_bytes(), b", ", own.as_bytes()].concat());
        // A line that is not plain text is none of a proxy's: they would not join it.
        if line.to_str().is_ok() {
            let joined = joined.expect("two values and a comma are a value");
            headers.insert(&name, joined);
            assert_eq!(proxies.client(&headers), expected, "behind a comma");
        }
    }
}
