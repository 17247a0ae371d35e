//! A second opinion on events and filters: `serde_json` says what is JSON, and the rules stand here once more, word for word.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// A JSON object with its members in order, duplicates included.
struct Members<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Members<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<T>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

/// Why there is no verdict: a number that no f64 holds, which is JSON all the same.
pub struct CannotTell;

/// The members of a JSON object in order; `None` when it is none.
fn members(json: &[u8]) -> Result<Option<Vec<(String, Value)>>, CannotTell> {
    match serde_json::from_slice(json) {
        Ok(Members(members)) => Ok(Some(members)),
        Err(error) if error.to_string().contains("out of range") => Err(CannotTell),
        Err(_) => Ok(None),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn is_hex(value: &Value, digits: usize) -> bool {
    let lower = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    value.as_str().is_some_and(|text| text.len() == digits && text.bytes().all(lower))
}

fn is_list(value: &Value, item: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(item))
}

fn is_kind(value: &Value) -> bool {
    value.as_u64().is_some_and(|kind| kind < 1 << 16)
}

/// The seven members of an event, if this is an acceptable one.
pub fn event(json: &[u8]) -> Result<Option<Value>, CannotTell> {
    let Some(members) = members(json)? else { return Ok(None) };
    let mut event = serde_json::Map::new();
    for (name, value) in members {
        if depth(&value) > 31 {
            return Ok(None);
        }
        let fits = match name.as_str() {
            "id" | "pubkey" => is_hex(&value, 64),
            "sig" => is_hex(&value, 128),
            "created_at" => value.as_u64().is_some_and(|time| time < 1 << 53),
            "kind" => is_kind(&value),
            "content" => value.is_string(),
            "tags" => is_list(&value, |tag| tag != &Value::Array(Vec::new()) && is_list(tag, Value::is_string)),
            _ => continue,
        };
        if !fits || event.insert(name, value).is_some() {
            return Ok(None);
        }
    }
    Ok((event.len() == 7).then_some(Value::Object(event)))
}

/// The members of a filter, if this is an acceptable one: times and limit as NIP-01 means them, whatever their size.
pub fn filter(json: &[u8]) -> Result<Option<Value>, CannotTell> {
    let Some(members) = members(json)? else { return Ok(None) };
    // Only the text tells a large integer from a fraction.
    let Ok(Members(texts)) = serde_json::from_slice::<Members<&RawValue>>(json) else { return Ok(None) };
    let mut filter = serde_json::Map::new();
    for ((name, value), (_, text)) in members.into_iter().zip(texts) {
        let integer = || match text.get().strip_prefix('-') {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(None),
            None if value.is_number() && text.get().bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(Some(text.get().parse::<u64>().map_or(i64::MAX as u64, |number| number.min(i64::MAX as u64))))
            }
            None => None,
        };
        let value = match name.as_str() {
            "ids" | "authors" | "#e" | "#p" if is_list(&value, |id| is_hex(id, 64)) => value,
            "kinds" if is_list(&value, is_kind) => value,
            "since" | "until" => match integer() {
                Some(time) => time.unwrap_or(0).into(),
                None => return Ok(None),
            },
            "limit" => match integer() {
                Some(Some(limit)) => limit.into(),
                _ => return Ok(None),
            },
            "search" if value.is_string() => value,
            "ids" | "authors" | "#e" | "#p" | "kinds" | "search" => return Ok(None),
            tag => {
                let letter = tag.strip_prefix('#').filter(|name| name.len() == 1);
                let letter = letter.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphabetic()));
                if !letter || !is_list(&value, Value::is_string) {
                    return Ok(None);
                }
                value
            }
        };
        if filter.insert(name, value).is_some() {
            return Ok(None);
        }
    }
    Ok(Some(Value::Object(filter)))
}

/// Whether an event matches a filter that [`filter`] has passed, by NIP-01's words taken literally.
pub fn matches(filter: &Value, event: &Value) -> bool {
    let is_among = |list: &Value, value: &Value| list.as_array().is_some_and(|list| list.contains(value));
    filter.as_object().is_some_and(|filter| {
        filter.iter().all(|(name, wanted)| match name.as_str() {
            "ids" => is_among(wanted, &event["id"]),
            "authors" => is_among(wanted, &event["pubkey"]),
            "kinds" => is_among(wanted, &event["kind"]),
            "since" => wanted.as_u64() <= event["created_at"].as_u64(),
            "until" => wanted.as_u64() >= event["created_at"].as_u64(),
            "limit" | "search" => true,
            tag => event["tags"].as_array().is_some_and(|tags| {
                tags.iter()
                    .any(|given| given[0] == tag[1..] && given.get(1).is_some_and(|value| is_among(wanted, value)))
            }),
        })
    })
}
