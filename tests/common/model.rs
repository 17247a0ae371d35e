//! A relay that anybody can check by reading it: a list of events and the rules of the protocol, no index, no speed.
#![allow(dead_code)] // each test binary uses its own part

use ratite::nostr::{Event, EventId, Filter, Kind, KindClass, PublicKey, TagValue};

/// What the judge keeps.
#[derive(Default, Clone)]
pub struct Model {
    pub stored: Vec<Event>,
    deleted_ids: Vec<(EventId, PublicKey)>,
    deleted_addresses: Vec<(Kind, PublicKey, String, u64)>,
    vanished: Vec<(PublicKey, u64)>,
}

/// What the judge says of a published event.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    Stored,
    Duplicate,
    Replaced,
    Blocked,
    Expired,
    Ephemeral,
}

pub fn tag_values<'e>(event: &'e Event, name: &str) -> Vec<&'e str> {
    event.tags.iter().filter(|tag| tag.name() == name).filter_map(|tag| tag.get(1)).collect()
}

pub fn expiration(event: &Event) -> Option<u64> {
    tag_values(event, "expiration").iter().map(|value| value.parse::<u64>().expect("numbers only here")).min()
}

fn identifier(event: &Event) -> String {
    let first = event.tags.iter().find(|tag| tag.name() == "d");
    first.and_then(|tag| tag.get(1)).unwrap_or_default().to_owned()
}

/// Kind, author and identifier of what can be replaced.
pub fn address(event: &Event) -> Option<(Kind, PublicKey, String)> {
    match event.kind.class() {
        KindClass::Replaceable => Some((event.kind, event.pubkey, String::new())),
        KindClass::Addressable => Some((event.kind, event.pubkey, identifier(event))),
        _ => None,
    }
}

impl Model {
    pub fn publish(&mut self, event: &Event, now: u64) -> Verdict {
        if expiration(event).is_some_and(|at| at <= now) {
            return Verdict::Expired;
        }
        if event.kind.class() == KindClass::Ephemeral {
            return Verdict::Ephemeral;
        }
        if self.stored.iter().any(|other| other.id == event.id) {
            return Verdict::Duplicate;
        }
        if self.is_blocked(event) {
            return Verdict::Blocked;
        }
        let own = address(event);
        let rival = |other: &Event| own.is_some() && other.kind == event.kind && address(other) == own;
        if let Some(at) = self.stored.iter().position(rival) {
            let other = &self.stored[at];
            let newer =
                event.created_at > other.created_at || event.created_at == other.created_at && event.id < other.id;
            if !newer {
                return Verdict::Replaced;
            }
            self.stored.remove(at);
        }
        self.stored.push(event.clone());
        match event.kind {
            Kind::DELETION => self.delete(event),
            Kind::VANISH => self.vanish(event, now),
            _ => {}
        }
        Verdict::Stored
    }

    fn is_blocked(&self, event: &Event) -> bool {
        if event.kind == Kind::VANISH {
            return false;
        }
        let mut parties = vec![event.pubkey.to_string()];
        if event.kind == Kind::GIFT_WRAP {
            parties.extend(tag_values(event, "p").iter().map(|p| p.to_string()));
        }
        let by_party = |key: &PublicKey| parties.contains(&key.to_string());
        self.vanished.iter().any(|(key, until)| by_party(key) && event.created_at <= *until)
            || event.kind != Kind::DELETION && self.deleted_ids.iter().any(|(id, key)| *id == event.id && by_party(key))
            || address(event).is_some_and(|(kind, author, d)| {
                self.deleted_addresses
                    .iter()
                    .any(|(k, a, i, until)| *k == kind && *a == author && *i == d && event.created_at <= *until)
            })
    }

    fn delete(&mut self, request: &Event) {
        for value in tag_values(request, "e") {
            let Some(id) = EventId::from_hex(value) else { continue };
            if let Some(at) = self.stored.iter().position(|event| event.id == id) {
                let target = &self.stored[at];
                let wrapped = target.kind == Kind::GIFT_WRAP
                    && tag_values(target, "p").contains(&request.pubkey.to_string().as_str());
                let protected = matches!(target.kind, Kind::DELETION | Kind::VANISH);
                if protected || target.pubkey != request.pubkey && !wrapped {
                    continue;
                }
                self.stored.remove(at);
            }
            self.deleted_ids.push((id, request.pubkey));
        }
        for value in tag_values(request, "a") {
            let parts: Vec<&str> = value.splitn(3, ':').collect();
            let [kind, author, d] = parts[..] else { continue };
            let Ok(kind) = kind.parse::<u16>().map(Kind) else { continue };
            let legal = match kind.class() {
                KindClass::Replaceable => d.is_empty(),
                KindClass::Addressable => true,
                _ => false,
            };
            if !legal || author != request.pubkey.to_string() {
                continue;
            }
            let target = (kind, request.pubkey, d.to_owned());
            self.stored
                .retain(|event| address(event).as_ref() != Some(&target) || event.created_at > request.created_at);
            self.deleted_addresses.push((target.0, target.1, target.2, request.created_at));
        }
    }

    fn vanish(&mut self, request: &Event, now: u64) {
        let until = request.created_at.min(now);
        let key = request.pubkey.to_string();
        self.stored.retain(|event| {
            let concerned = event.pubkey == request.pubkey
                || event.kind == Kind::GIFT_WRAP && tag_values(event, "p").contains(&key.as_str());
            event.kind == Kind::VANISH || !concerned || event.created_at > until
        });
        self.vanished.push((request.pubkey, until));
    }

    /// The operator's delete.
    pub fn remove(&mut self, filter: &Filter, now: u64) {
        self.stored.retain(|event| !matches(filter, event) || is_expired(event, now));
    }

    /// What a REQ answers: each filter's newest, merged, in order.
    pub fn query(&self, filters: &[Filter], now: u64) -> Vec<Event> {
        let mut answer: Vec<Event> = Vec::new();
        for filter in filters {
            let mut matching: Vec<&Event> =
                self.stored.iter().filter(|event| matches(filter, event) && !is_expired(event, now)).collect();
            matching.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
            matching.truncate(filter.limit.unwrap_or(500) as usize);
            answer.extend(matching.into_iter().cloned());
        }
        answer.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
        answer.dedup_by_key(|event| event.id);
        answer
    }
}

fn is_expired(event: &Event, now: u64) -> bool {
    expiration(event).is_some_and(|at| at <= now)
}

/// Whether a filter wants an event, said as NIP-01 says it.
pub fn matches(filter: &Filter, event: &Event) -> bool {
    let value_text = |value: &TagValue| match value {
        TagValue::Hex(bytes) => const_hex::encode(bytes),
        TagValue::Text(text) => text.to_string(),
    };
    filter.ids.as_ref().is_none_or(|ids| ids.contains(&event.id))
        && filter.authors.as_ref().is_none_or(|authors| authors.contains(&event.pubkey))
        && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
        && filter.since.is_none_or(|since| event.created_at >= since)
        && filter.until.is_none_or(|until| event.created_at <= until)
        && filter.tags.iter().all(|(name, values)| {
            let name = char::from(name.as_byte()).to_string();
            let of_event = tag_values(event, &name);
            values.iter().any(|value| of_event.contains(&value_text(value).as_str()))
        })
}
