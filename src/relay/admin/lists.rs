//! The methods of moderation: banned and allowed keys, events, kinds and addresses, and what the relay says of itself.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::Method;
use super::params::{address, arity, event_id, kind, pubkey, reason, text_at};
use crate::nostr::{Event, EventId, Filter, Kind};
use crate::relay::Relay;
use crate::relay::policy::moderation::{address_of, bytes_of, names};
use crate::store::{Budget, Change, Entry, List, Order, Progress, Scan};

/// Items of a list in one answer, when no other number is asked for.
const PAGE: usize = 1000;

/// Reports that are looked through for events in need of moderation.
const REPORTS: u64 = 1000;

/// How much of a report is given as the reason, in characters.
const REPORTED: usize = 200;

/// The methods.
pub(super) const METHODS: &[Method] = &[
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
    ("unallowevent", "ID [REASON]", |relay, params| {
        remove(relay, params, List::AllowedEvents, event_id(params)?.0.to_vec())
    }),
    ("unbanevent", "ID [REASON]", |relay, params| {
        remove(relay, params, List::BannedEvents, event_id(params)?.0.to_vec())
    }),
    ("listbannedevents", "[LIMIT [AFTER]]", |relay, params| list(relay, params, List::BannedEvents, "id")),
    ("listallowedevents", "[LIMIT [AFTER]]", |relay, params| list(relay, params, List::AllowedEvents, "id")),
    ("listeventsneedingmoderation", "[LIMIT [AFTER]]", reported),
    ("allowkind", "KIND", |relay, params| {
        let kind = kind(params)?;
        put(relay, params, List::AllowedKinds, kind.0.to_be_bytes().to_vec(), List::BannedKinds)
    }),
    ("disallowkind", "KIND", |relay, params| {
        let kind = kind(params)?;
        put(relay, params, List::BannedKinds, kind.0.to_be_bytes().to_vec(), List::AllowedKinds)
    }),
    ("listallowedkinds", "[LIMIT [AFTER]]", |relay, params| kinds(relay, params, List::AllowedKinds)),
    ("listdisallowedkinds", "[LIMIT [AFTER]]", |relay, params| kinds(relay, params, List::BannedKinds)),
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
        let entry = Entry { reason: reason(params)?, since: relay.settings().clock.now(), ..Entry::default() };
        change(relay, vec![Change::Put(List::BlockedAddresses, item, entry)])
    }),
    ("unblockip", "IP [REASON]", |relay, params| {
        remove(relay, params, List::BlockedAddresses, bytes_of(address(params)?))
    }),
    ("listblockedips", "[LIMIT [AFTER]]", |relay, params| {
        let after = if params.len() > 1 { Some(bytes_of(address(&params[1..])?)) } else { None };
        page(relay, params, List::BlockedAddresses, after, |item, entry| {
            let address = address_of(&item).map_or_else(String::new, |address| address.to_string());
            with_reason("ip", address, &entry)
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

/// Makes changes to the lists.
pub(super) fn change(relay: &Relay, changes: Vec<Change>) -> Result<Value, String> {
    relay.change_lists(changes).map_err(|error| error.to_string())?;
    Ok(true.into())
}

/// Puts an item on one list and takes it off the contrary one; what else is asked for stands behind the item: the reason.
fn put(relay: &Relay, params: &[Value], list: List, item: Vec<u8>, contrary: List) -> Result<Value, String> {
    let entry = Entry { reason: reason(params)?, since: relay.settings().clock.now(), ..Entry::default() };
    change(relay, vec![Change::Put(list, item.clone(), entry), Change::Remove(contrary, item)])
}

fn remove(relay: &Relay, params: &[Value], list: List, item: Vec<u8>) -> Result<Value, String> {
    reason(params)?;
    change(relay, vec![Change::Remove(list, item)])
}

/// A page of a list of keys or events. Parameters: how many items, and the item behind which they begin.
pub(super) fn list(relay: &Relay, params: &[Value], list: List, name: &str) -> Result<Value, String> {
    let after = match params.get(1) {
        None => None,
        Some(_) => {
            Some(const_hex::decode(text_at(params, 1)?).map_err(|_| "the item to go on behind is not hexadecimal")?)
        }
    };
    page(relay, params, list, after, |item, entry| {
        let mut shown = with_reason(name, const_hex::encode(item), &entry);
        let roles = names(&entry);
        if list == List::AllowedKeys && !roles.is_empty() {
            shown["roles"] = roles.into();
        }
        shown
    })
}

/// An item of a list with its reason, if there is one.
pub(super) fn with_reason(name: &str, item: String, entry: &Entry) -> Value {
    match entry.reason.is_empty() {
        true => json!({ (name): item }),
        false => json!({ (name): item, "reason": entry.reason }),
    }
}

/// How many items a page of a list is to have: the first parameter.
fn limit(params: &[Value]) -> Result<usize, String> {
    arity(params, 2)?;
    let number = params.first().map_or(Some(PAGE as u64), Value::as_u64);
    let limit = number.filter(|limit| (1..=PAGE as u64).contains(limit));
    limit.map(|limit| limit as usize).ok_or_else(|| "the limit is 1 to 1000".into())
}

/// A page of a list, behind the item `after`, each item as `show` makes it.
pub(super) fn page(
    relay: &Relay,
    params: &[Value],
    list: List,
    after: Option<Vec<u8>>,
    show: impl Fn(Vec<u8>, Entry) -> Value,
) -> Result<Value, String> {
    let items = relay.store().list(list, after.as_deref(), limit(params)?).map_err(|error| error.to_string())?;
    Ok(items.into_iter().map(|(item, entry)| show(item, entry)).collect())
}

fn kinds(relay: &Relay, params: &[Value], list: List) -> Result<Value, String> {
    let after = if params.len() > 1 { Some(kind(&params[1..])?.0.to_be_bytes().to_vec()) } else { None };
    page(relay, params, list, after, |item, _| {
        item.try_into().map_or(Value::Null, |bytes| u16::from_be_bytes(bytes).into())
    })
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
    let entry = Entry { reason: text.to_owned(), since: relay.settings().clock.now(), ..Entry::default() };
    change(
        relay,
        vec![if text.is_empty() { Change::Remove(List::Texts, item) } else { Change::Put(List::Texts, item, entry) }],
    )
}

/// A page of the stored events that reports (kind 1984, NIP-56) name and nobody has decided on, the latest report first. A report
/// moderates nothing by itself.
fn reported(relay: &Relay, params: &[Value]) -> Result<Value, String> {
    let limit = limit(params)?;
    let after = if params.len() > 1 { Some(event_id(&params[1..])?) } else { None };
    let filter = Filter { kinds: Some(vec![Kind::REPORT]), limit: Some(REPORTS), ..Filter::default() };
    let mut scan = Scan::new(vec![filter], Order::NewestFirst);
    let mut named: Vec<(EventId, String)> = Vec::new();
    let now = relay.settings().expiry_time();
    loop {
        let state = scan.run(&relay.store(), now, Budget::COMMAND, &mut |report| {
            for (id, reason) in report.to_event().iter().flat_map(accusations) {
                if !named.iter().any(|(known, _)| *known == id) {
                    named.push((id, reason));
                }
            }
            ControlFlow::Continue(())
        });
        if state.map_err(|error| error.to_string())? == Progress::Done {
            break;
        }
    }
    let stored = relay.store().contains(named.iter().map(|(id, _)| *id)).map_err(|error| error.to_string())?;
    let allowed = relay.store().list(List::AllowedEvents, None, usize::MAX).map_err(|error| error.to_string())?;
    let mut open: Vec<(EventId, String)> = named
        .into_iter()
        .zip(stored)
        .filter(|((id, _), stored)| *stored && !allowed.iter().any(|(item, _)| item[..] == id.0))
        .map(|(named, _)| named)
        .collect();
    if let Some(at) = after.and_then(|after| open.iter().position(|(id, _)| *id == after)) {
        open.drain(..=at);
    }
    open.truncate(limit);
    Ok(open.into_iter().map(|(id, reason)| json!({ "id": id.to_string(), "reason": reason })).collect())
}

/// The events that a report names, each with what it is accused of.
fn accusations(report: &Event) -> impl Iterator<Item = (EventId, String)> {
    report.tags.iter().filter(|tag| tag.name() == "e").filter_map(|tag| {
        let id = EventId::from_hex(tag.value()?)?;
        let words = [tag.get(2).unwrap_or_default(), report.content.trim()];
        let words: Vec<&str> = words.into_iter().filter(|words| !words.is_empty()).collect();
        let reason: String = words.join(": ").chars().filter(|c| !c.is_control()).take(REPORTED).collect();
        Some((id, if reason.is_empty() { "reported".to_owned() } else { reason }))
    })
}
