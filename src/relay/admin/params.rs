//! Parameters of the management API, read and checked (N86-05).

use std::net::IpAddr;

use serde_json::Value;

use crate::nostr::{EventId, Kind, PublicKey};

/// The longest reason, name, description or address, in characters.
const MAX_TEXT: usize = 5000;

/// Refuses more parameters than a method takes.
pub(super) fn arity(params: &[Value], most: usize) -> Result<(), String> {
    if params.len() <= most { Ok(()) } else { Err("too many parameters".into()) }
}

pub(super) fn text_at(params: &[Value], at: usize) -> Result<&str, String> {
    match params.get(at) {
        Some(Value::String(text)) if text.chars().count() <= MAX_TEXT => Ok(text),
        Some(Value::String(_)) => Err("a text is too long".into()),
        Some(_) => Err(format!("parameter {} must be a text", at + 1)),
        None => Err("a parameter is missing".into()),
    }
}

pub(super) fn pubkey(params: &[Value]) -> Result<PublicKey, String> {
    PublicKey::from_hex(text_at(params, 0)?).ok_or_else(|| "a public key is 64 lower-case hexadecimal digits".into())
}

pub(super) fn event_id(params: &[Value]) -> Result<EventId, String> {
    EventId::from_hex(text_at(params, 0)?).ok_or_else(|| "an event id is 64 lower-case hexadecimal digits".into())
}

pub(super) fn kind(params: &[Value]) -> Result<Kind, String> {
    let number = params.first().and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
    number.map(Kind).ok_or_else(|| "a kind is a number from 0 to 65535".into())
}

pub(super) fn address(params: &[Value]) -> Result<IpAddr, String> {
    text_at(params, 0)?.parse().map_err(|_| "an address is IPv4 or IPv6, without a port".into())
}

/// The reason behind an item: the second parameter, which may be missing.
pub(super) fn reason(params: &[Value]) -> Result<String, String> {
    arity(params, 2)?;
    if params.len() > 1 { text_at(params, 1).map(str::to_owned) } else { Ok(String::new()) }
}

/// A number that may be missing or null.
pub(super) fn number_at(params: &[Value], at: usize) -> Result<Option<u64>, String> {
    match params.get(at) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(format!("parameter {} must be a whole number", at + 1)),
        },
    }
}

/// A text that may be missing or null.
pub(super) fn text_or_none(params: &[Value], at: usize) -> Result<&str, String> {
    if matches!(params.get(at), None | Some(Value::Null)) { Ok("") } else { text_at(params, at) }
}
