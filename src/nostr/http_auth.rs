//! HTTP authorisation: a signed event in a request's `Authorization` header (NIP-98).

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

use super::event::Event;
use super::kind::Kind;

/// How far created_at may be from now, in seconds, both ways and inclusive (N98-03).
pub const WINDOW: u64 = 60;

/// The longest header that is decoded, in bytes. An event with the three tags it needs has a third of that.
const MAX_HEADER: usize = 8192;

/// Standard base64, with its padding or without: the NIP's own example has none (N98-01).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Checks the value of an `Authorization` header for a request with this method and body; `is_url` says whether a text is the
/// request's own address. The event is the one who asks, and what was signed. The error says what is wrong, for a 401.
///
/// The body's hash must be there (NIP-86 asks for it), so what was signed is this very request.
pub fn check(
    header: &str,
    method: &str,
    is_url: impl Fn(&str) -> bool,
    body: &[u8],
    now: u64,
) -> Result<Event, &'static str> {
    let event = decode(header).ok_or("the header is not \"Nostr\" and an event in base64")?;
    let says = |name: &str, fits: &dyn Fn(&str) -> bool| {
        event.tags.iter().find(|tag| tag.name() == name).and_then(|tag| tag.value()).is_some_and(fits)
    };
    if event.kind != Kind::HTTP_AUTH {
        return Err("the event is not of kind 27235");
    }
    if event.created_at.abs_diff(now) > WINDOW {
        return Err("created_at is more than 60 seconds away from this relay's clock");
    }
    if !says("u", &is_url) {
        return Err("the u tag is not this relay's address");
    }
    if !says("method", &|value| value == method) {
        return Err("the method tag is not the request's method");
    }
    if !says("payload", &|value| value == const_hex::encode(Sha256::digest(body))) {
        return Err("the payload tag is not the SHA-256 of the body");
    }
    if event.check_id().and_then(|()| event.check_signature()).is_err() {
        return Err("the event's id or signature is wrong");
    }
    Ok(event)
}

fn decode(header: &str) -> Option<Event> {
    let (scheme, token) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("nostr") || token.len() > MAX_HEADER {
        return None;
    }
    Event::parse(&BASE64.decode(token.trim()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n98_01_to_n98_07_the_vectors_of_http_authorisation() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors.json")).unwrap();
        let auth = &vectors["nip98"];
        let text = |name: &str| auth[name].as_str().unwrap();
        let (url, now) = (text("url"), auth["now"].as_u64().unwrap());
        let mut good = 0;
        for case in auth["cases"].as_array().unwrap() {
            let header = case["authorization"].as_str().unwrap_or_default();
            let verdict = check(header, text("method"), |value| value == url, text("body").as_bytes(), now);
            // Who is an administrator is not known here.
            let expected = case["status"] != 401;
            assert_eq!(verdict.is_ok(), expected, "{}: {verdict:?}", case["name"]);
            good += usize::from(verdict.is_ok_and(|event| event.pubkey.to_string() == text("admin_pubkey")));
        }
        assert_eq!(good, 1, "one by the administrator");
    }

    #[test]
    fn n98_01_padding_may_be_left_out_and_the_scheme_is_in_any_case() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors.json")).unwrap();
        let auth = &vectors["nip98"];
        let header = auth["cases"][0]["authorization"].as_str().unwrap();
        let (body, now) = (auth["body"].as_str().unwrap().as_bytes(), auth["now"].as_u64().unwrap());
        for header in [header.trim_end_matches('=').to_owned(), header.replacen("Nostr", "nOSTR", 1)] {
            assert!(check(&header, "POST", |_| true, body, now).is_ok(), "{header}");
        }
        for header in ["", "Nostr", "Nostr ", "Nostr %%%", "Nostr e30=", &format!("Nostr {}", "A".repeat(9000))] {
            assert!(check(header, "POST", |_| true, body, now).is_err(), "{header}");
        }
        assert!(check(header, "POST", |_| true, b"another body", now).is_err());
        for (at, ok) in [(now + 60, true), (now + 61, false), (now - 60, true), (now - 61, false)] {
            assert_eq!(check(header, "POST", |_| true, body, at).is_ok(), ok, "{at}");
        }
    }
}
