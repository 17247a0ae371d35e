//! Managing a running relay: the methods of NIP-86, which the HTTP interface and the command line share.
//!
//! Every effect is on disk and in force when a call returns, in this process at once, in others that use the database within a
//! tenth of a second.

use std::net::IpAddr;
use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::Relay;
use super::policy::moderation::{address_of, bytes_of};
use crate::nostr::{EventFields as _, EventId, Filter, Kind, PublicKey, TagName, TagRef};
use crate::store::{Budget, Change, Entry, List, Order, Progress, Scan};

/// The longest reason, name, description or address, in characters.
const MAX_TEXT: usize = 5000;

/// Items of a list in one answer, when no other number is asked for.
const PAGE: usize = 1000;

/// Reports that are looked through for events in need of moderation.
const REPORTS: u64 = 1000;

/// What one method does.
type Call = fn(&Relay, &[Value]) -> Result<Value, String>;

/// Every method with its parameters, in words.
const METHODS: &[(&str, &str, Call)] = &[
    ("supportedmethods", "", |_, params| {
        arity(params, 0)?;
        Ok(METHODS.iter().map(|(name, ..)| *name).filter(|name| *name != "supportedmethods").collect())
    }),
    ("banpubkey", "PUBKEY [REASON]", |relay, params| {
        let key = pubkey(params)?;
        put(relay, params, List::BannedKeys, key.0.to_vec(), List::AllowedKeys)
    }),
    ("unbanpubkey", "PUBKEY [REASON]", |relay, params| {
        remove(relay, params, List::BannedKeys, pubkey(params)?.0.to_vec())
    }),
    ("listbannedpubkeys", "[LIMIT [AFTER]]", |relay, params| list(relay, params, List::BannedKeys, "pubkey")),
    ("allowpubkey", "PUBKEY [REASON]", |relay, params| {
        let key = pubkey(params)?;
        put(relay, params, List::AllowedKeys, key.0.to_vec(), List::BannedKeys)
    }),
    ("unallowpubkey", "PUBKEY [REASON]", |relay, params| {
        remove(relay, params, List::AllowedKeys, pubkey(params)?.0.to_vec())
    }),
    ("listallowedpubkeys", "[LIMIT [AFTER]]", |relay, params| list(relay, params, List::AllowedKeys, "pubkey")),
    ("purgepubkey", "PUBKEY", |relay, params| {
        arity(params, 1)?;
        let authors = Some(vec![pubkey(params)?]);
        purge(relay, Filter { authors, ..Filter::default() })
    }),
    ("banevent", "ID [REASON]", |relay, params| {
        let id = event_id(params)?;
        put(relay, params, List::BannedEvents, id.0.to_vec(), List::AllowedEvents)?;
        purge(relay, Filter { ids: Some(vec![id]), ..Filter::default() })?;
        Ok(true.into())
    }),
    ("allowevent", "ID [REASON]", |relay, params| {
        let id = event_id(params)?;
        put(relay, params, List::AllowedEvents, id.0.to_vec(), List::BannedEvents)
    }),
    ("listbannedevents", "[LIMIT [AFTER]]", |relay, params| list(relay, params, List::BannedEvents, "id")),
    ("listallowedevents", "[LIMIT [AFTER]]", |relay, params| list(relay, params, List::AllowedEvents, "id")),
    ("listeventsneedingmoderation", "", |relay, params| {
        arity(params, 0)?;
        reported(relay)
    }),
    ("allowkind", "KIND", |relay, params| {
        let kind = kind(params)?;
        put(relay, params, List::AllowedKinds, kind.0.to_be_bytes().to_vec(), List::BannedKinds)
    }),
    ("disallowkind", "KIND", |relay, params| {
        let kind = kind(params)?;
        put(relay, params, List::BannedKinds, kind.0.to_be_bytes().to_vec(), List::AllowedKinds)
    }),
    ("listallowedkinds", "", |relay, params| kinds(relay, params, List::AllowedKinds)),
    ("listdisallowedkinds", "", |relay, params| kinds(relay, params, List::BannedKinds)),
    ("resetkinds", "", |relay, params| {
        arity(params, 0)?;
        let mut changes = Vec::new();
        for list in [List::AllowedKinds, List::BannedKinds] {
            let items = relay.store().list(list, None, usize::MAX).map_err(|error| error.to_string())?;
            changes.extend(items.into_iter().map(|(item, _)| Change::Remove(list, item)));
        }
        change(relay, changes)
    }),
    ("blockip", "IP [REASON]", |relay, params| {
        let item = bytes_of(address(params)?);
        arity(params, 2)?;
        let reason = if params.len() > 1 { text_at(params, 1)?.to_owned() } else { String::new() };
        let entry = Entry { reason, since: relay.settings().clock.now() };
        change(relay, vec![Change::Put(List::BlockedAddresses, item, entry)])
    }),
    ("unblockip", "IP [REASON]", |relay, params| {
        remove(relay, params, List::BlockedAddresses, bytes_of(address(params)?))
    }),
    ("listblockedips", "[LIMIT [AFTER]]", |relay, params| {
        let after = if params.len() > 1 { Some(bytes_of(address(&params[1..])?)) } else { None };
        page(relay, params, List::BlockedAddresses, after, "ip", |item| {
            address_of(item).map_or_else(String::new, |address| address.to_string())
        })
    }),
    ("changerelayname", "NAME", |relay, params| set_text(relay, params, "name")),
    ("changerelaydescription", "TEXT", |relay, params| set_text(relay, params, "description")),
    ("changerelayicon", "URL", |relay, params| match params {
        [Value::String(url)] if !url.is_empty() && !url.starts_with("https://") && !url.starts_with("http://") => {
            Err("the icon must be an address that begins with https:// or http://".into())
        }
        _ => set_text(relay, params, "icon"),
    }),
];

/// The methods and the words for their parameters.
pub fn methods() -> impl Iterator<Item = (&'static str, &'static str)> {
    METHODS.iter().map(|(name, params, _)| (*name, *params))
}

/// Calls a method. The error is a sentence for whoever called it; then nothing was changed. Blocks.
pub fn call(relay: &Relay, method: &str, params: &[Value]) -> Result<Value, String> {
    let (_, words, call) =
        METHODS.iter().find(|(name, ..)| *name == method).ok_or_else(|| format!("there is no method {method:.64}"))?;
    call(relay, params).map_err(|error| match words.is_empty() {
        true => error,
        false => format!("{error}; {method} takes {words}"),
    })
}

fn arity(params: &[Value], most: usize) -> Result<(), String> {
    if params.len() <= most { Ok(()) } else { Err("too many parameters".into()) }
}

fn text_at(params: &[Value], at: usize) -> Result<&str, String> {
    match params.get(at) {
        Some(Value::String(text)) if text.chars().count() <= MAX_TEXT => Ok(text),
        Some(Value::String(_)) => Err("a text is too long".into()),
        Some(_) => Err(format!("parameter {} must be a text", at + 1)),
        None => Err("a parameter is missing".into()),
    }
}

fn pubkey(params: &[Value]) -> Result<PublicKey, String> {
    PublicKey::from_hex(text_at(params, 0)?).ok_or_else(|| "a public key is 64 lower-case hexadecimal digits".into())
}

fn event_id(params: &[Value]) -> Result<EventId, String> {
    EventId::from_hex(text_at(params, 0)?).ok_or_else(|| "an event id is 64 lower-case hexadecimal digits".into())
}

fn kind(params: &[Value]) -> Result<Kind, String> {
    let number = params.first().and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
    number.map(Kind).ok_or_else(|| "a kind is a number from 0 to 65535".into())
}

fn change(relay: &Relay, changes: Vec<Change>) -> Result<Value, String> {
    relay.change_lists(changes).map_err(|error| error.to_string())?;
    Ok(true.into())
}

/// Puts an item on one list and takes it off the contrary one; what else is asked for stands behind the item: the reason.
fn put(relay: &Relay, params: &[Value], list: List, item: Vec<u8>, contrary: List) -> Result<Value, String> {
    arity(params, 2)?;
    let reason = if params.len() > 1 { text_at(params, 1)?.to_owned() } else { String::new() };
    let entry = Entry { reason, since: relay.settings().clock.now() };
    change(relay, vec![Change::Put(list, item.clone(), entry), Change::Remove(contrary, item)])
}

fn remove(relay: &Relay, params: &[Value], list: List, item: Vec<u8>) -> Result<Value, String> {
    arity(params, 2)?;
    change(relay, vec![Change::Remove(list, item)])
}

fn address(params: &[Value]) -> Result<IpAddr, String> {
    text_at(params, 0)?.parse().map_err(|_| "an address is IPv4 or IPv6, without a port".into())
}

/// A page of a list of keys or events. Parameters: how many items, and the item behind which they begin.
fn list(relay: &Relay, params: &[Value], list: List, name: &str) -> Result<Value, String> {
    let after = match params.get(1) {
        None => None,
        Some(_) => {
            Some(const_hex::decode(text_at(params, 1)?).map_err(|_| "the item to go on behind is not hexadecimal")?)
        }
    };
    page(relay, params, list, after, name, |item| const_hex::encode(item))
}

fn page(
    relay: &Relay,
    params: &[Value],
    list: List,
    after: Option<Vec<u8>>,
    name: &str,
    text: impl Fn(&[u8]) -> String,
) -> Result<Value, String> {
    arity(params, 2)?;
    let limit = match params.first() {
        None => PAGE,
        Some(limit) => {
            limit.as_u64().filter(|limit| (1..=PAGE as u64).contains(limit)).ok_or("the limit is 1 to 1000")? as usize
        }
    };
    let items = relay.store().list(list, after.as_deref(), limit).map_err(|error| error.to_string())?;
    let items = items.into_iter().map(|(item, entry)| {
        let item = text(&item);
        if entry.reason.is_empty() { json!({ (name): item }) } else { json!({ (name): item, "reason": entry.reason }) }
    });
    Ok(items.collect())
}

fn kinds(relay: &Relay, params: &[Value], list: List) -> Result<Value, String> {
    arity(params, 0)?;
    let items = relay.store().list(list, None, usize::MAX).map_err(|error| error.to_string())?;
    Ok(items.into_iter().filter_map(|(item, _)| Some(u16::from_be_bytes(item.try_into().ok()?))).collect())
}

/// Removes all that matches, and says how much that was.
fn purge(relay: &Relay, filter: Filter) -> Result<Value, String> {
    let removed = relay.remove(vec![filter], &mut |_| ControlFlow::Continue(())).map_err(|error| error.to_string())?;
    Ok(removed.into())
}

/// Sets a text of the information document; an empty one gives the word back to the configuration.
fn set_text(relay: &Relay, params: &[Value], field: &str) -> Result<Value, String> {
    arity(params, 1)?;
    let text = text_at(params, 0)?;
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err("the text contains a control character".into());
    }
    let item = field.as_bytes().to_vec();
    let entry = Entry { reason: text.to_owned(), since: relay.settings().clock.now() };
    change(
        relay,
        vec![if text.is_empty() { Change::Remove(List::Texts, item) } else { Change::Put(List::Texts, item, entry) }],
    )
}

/// Stored events that reports (kind 1984, NIP-56) name and nobody has decided on. A report moderates nothing by itself.
fn reported(relay: &Relay) -> Result<Value, String> {
    let filter = Filter { kinds: Some(vec![Kind::REPORT]), limit: Some(REPORTS), ..Filter::default() };
    let mut scan = Scan::new(vec![filter], Order::NewestFirst);
    let mut named: Vec<EventId> = Vec::new();
    let now = relay.settings().expiry_time();
    loop {
        let state = scan.run(relay.store(), now, Budget::COMMAND, &mut |report| {
            let _ = report.visit_indexed_tags(|name, value| {
                if let (TagName::E, TagRef::Hex(id)) = (name, value)
                    && !named.contains(&EventId(id))
                {
                    named.push(EventId(id));
                }
                ControlFlow::Continue(())
            });
            ControlFlow::Continue(())
        });
        if state.map_err(|error| error.to_string())? == Progress::Done {
            break;
        }
    }
    let stored = relay.store().contains(named.iter().copied()).map_err(|error| error.to_string())?;
    let allowed = relay.store().list(List::AllowedEvents, None, usize::MAX).map_err(|error| error.to_string())?;
    let open = named
        .into_iter()
        .zip(stored)
        .filter(|(id, stored)| *stored && !allowed.iter().any(|(item, _)| item[..] == id.0));
    Ok(open.map(|(id, _)| json!({ "id": id.to_string(), "reason": "reported" })).collect())
}
