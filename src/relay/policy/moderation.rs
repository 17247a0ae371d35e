//! Moderation: the operator's lists as every event and every answer meets them.
//!
//! The lists lie in the database; here stands a copy of them that is replaced as a whole when they change, by whichever process.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::membership::Gate;
use crate::nostr::{Event, EventFields, EventId, Kind, PublicKey, TagName, TagRef};
use crate::relay::lock;
use crate::store::{Entry, List, Store, StoreError};

/// Called with the lists whenever they have changed.
type Watcher = Box<dyn Fn(&Lists) + Send + Sync>;

/// The lists in force.
#[derive(Default)]
pub struct Moderation {
    lists: RwLock<Arc<Lists>>,
    watchers: Mutex<Vec<Watcher>>,
    /// Some key is banned: what is shown has to be looked at.
    hides: AtomicBool,
    /// Only members may read.
    for_members: AtomicBool,
}

/// A copy of the operator's lists.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    version: u64,
    gate: Arc<Gate>,
    banned_keys: HashSet<PublicKey>,
    allowed_keys: HashSet<PublicKey>,
    banned_events: HashSet<EventId>,
    banned_kinds: HashSet<Kind>,
    allowed_kinds: HashSet<Kind>,
    blocked_addresses: HashSet<IpAddr>,
    assignees: HashMap<PublicKey, Vec<String>>,
    texts: Vec<(String, String)>,
}

impl Moderation {
    /// The lists of a database.
    pub fn load(store: &Store, gate: Gate) -> Result<Moderation, StoreError> {
        let moderation = Moderation::default();
        moderation.set_gate(gate);
        moderation.refresh(store)?;
        Ok(moderation)
    }

    /// What membership means here.
    pub fn gate(&self) -> Arc<Gate> {
        self.lists().gate.clone()
    }

    /// Whether only members may read. Asked for each event that is shown.
    pub fn is_for_members(&self) -> bool {
        self.for_members.load(Relaxed)
    }

    /// Has membership mean this from now on.
    pub fn set_gate(&self, gate: Gate) {
        let mut current = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        self.for_members.store(gate.restricts_reads, Relaxed);
        *current = Arc::new(Lists { gate: Arc::new(gate), ..Lists::clone(&current) });
    }

    /// Reads the lists again if they have changed; whether they had.
    pub fn refresh(&self, store: &Store) -> Result<bool, StoreError> {
        // Read before the lists: a change in between is noticed the next time.
        let version = store.lists_version()?;
        if version == self.lists().version {
            return Ok(false);
        }
        let lists = Lists::load(store, version)?;
        let mut current = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        let lists = Arc::new(Lists { gate: current.gate.clone(), ..lists });
        self.hides.store(!lists.banned_keys.is_empty(), Relaxed);
        *current = lists.clone();
        drop(current);
        for watcher in &*lock(&self.watchers) {
            watcher(&lists);
        }
        Ok(true)
    }

    /// Has `watcher` called now and whenever the lists have changed. It must not block.
    pub fn watch(&self, watcher: impl Fn(&Lists) + Send + Sync + 'static) {
        let mut watchers = lock(&self.watchers);
        watcher(&self.lists());
        watchers.push(Box::new(watcher));
    }

    /// The lists of this moment.
    pub fn lists(&self) -> Arc<Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there may be events that are to be shown to nobody.
    pub fn hides_some(&self) -> bool {
        self.hides.load(Relaxed)
    }

    /// Whether the event is to be shown to nobody.
    pub fn hides(&self, event: &impl EventFields) -> bool {
        self.is_banned(&event.pubkey())
    }

    /// Whether this key is banned.
    pub fn is_banned(&self, key: &PublicKey) -> bool {
        self.hides.load(Relaxed) && self.lists().banned_keys.contains(key)
    }
}

impl Lists {
    fn load(store: &Store, version: u64) -> Result<Lists, StoreError> {
        fn set<T: Eq + std::hash::Hash, const N: usize>(
            store: &Store,
            list: List,
            item: impl Fn([u8; N]) -> T,
        ) -> Result<HashSet<T>, StoreError> {
            let items = store.list(list, None, usize::MAX)?;
            Ok(items.iter().filter_map(|(bytes, _)| bytes.as_slice().try_into().ok().map(&item)).collect())
        }
        let kind = |bytes| Kind(u16::from_be_bytes(bytes));
        let mut blocked_addresses = HashSet::new();
        for (item, _) in store.list(List::BlockedAddresses, None, usize::MAX)? {
            blocked_addresses.extend(address_of(&item));
        }
        let assignees = store.list(List::Assignees, None, usize::MAX)?;
        let assignees = assignees
            .iter()
            .filter_map(|(key, entry)| Some((PublicKey(key.as_slice().try_into().ok()?), names(entry))));
        let texts = store.list(List::Texts, None, usize::MAX)?;
        let texts =
            texts.into_iter().filter_map(|(name, Entry { reason, .. })| Some((String::from_utf8(name).ok()?, reason)));
        Ok(Lists {
            version,
            gate: Arc::default(),
            banned_keys: set(store, List::BannedKeys, PublicKey)?,
            allowed_keys: set(store, List::AllowedKeys, PublicKey)?,
            banned_events: set(store, List::BannedEvents, EventId)?,
            banned_kinds: set(store, List::BannedKinds, kind)?,
            allowed_kinds: set(store, List::AllowedKinds, kind)?,
            blocked_addresses,
            assignees: assignees.collect(),
            texts: texts.collect(),
        })
    }

    /// A number that changes with the lists.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What membership means here.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether this key belongs to a relay that has members.
    pub fn is_member(&self, key: &PublicKey) -> bool {
        self.gate.enabled && (self.allowed_keys.contains(key) || self.gate.is_insider(key))
    }

    /// Whether writers must be on a list, or kinds (N11-13).
    pub fn restrict_writes(&self) -> bool {
        self.restrict_authors() || !self.allowed_kinds.is_empty()
    }

    /// Whether not everybody may publish.
    fn restrict_authors(&self) -> bool {
        if self.gate.enabled { self.gate.restricts_writes } else { !self.allowed_keys.is_empty() }
    }

    /// The keys that alone may publish, when there are any.
    pub fn allowed_keys(&self) -> &HashSet<PublicKey> {
        &self.allowed_keys
    }

    /// The addresses that may not connect.
    pub fn blocked_addresses(&self) -> &HashSet<IpAddr> {
        &self.blocked_addresses
    }

    /// The methods of the management API that were assigned to this key.
    pub fn assigned(&self, key: &PublicKey) -> &[String] {
        self.assignees.get(key).map_or(&[], Vec::as_slice)
    }

    /// The text that takes the place of a configured one (`name`, `description`, `icon`).
    pub fn text(&self, field: &str) -> Option<&str> {
        self.texts.iter().find(|(name, _)| name == field).map(|(_, text)| text.as_str())
    }

    /// What no event may break, whichever door it comes through. A request to vanish is obeyed whoever makes it (N62-07).
    pub fn check(&self, event: &impl EventFields) -> Result<(), String> {
        if !self.banned_keys.is_empty() && event.kind() != Kind::VANISH && self.banned_keys.contains(&event.pubkey()) {
            return Err("blocked: this author is banned here".into());
        }
        if !self.banned_events.is_empty() && self.banned_events.contains(&event.id()) {
            return Err("blocked: this event is banned here".into());
        }
        Ok(())
    }

    /// What a stranger's event may not break as well.
    pub fn check_stranger(&self, event: &Event) -> Result<(), String> {
        if event.kind == Kind::VANISH {
            return Ok(());
        }
        let allowed_kind = self.allowed_kinds.is_empty() || self.allowed_kinds.contains(&event.kind);
        if !allowed_kind || self.banned_kinds.contains(&event.kind) {
            return Err(format!("blocked: kind {} is not taken here", event.kind));
        }
        let may_publish = |key: &PublicKey| self.allowed_keys.contains(key) || self.is_member(key);
        if !self.restrict_authors() || may_publish(&event.pubkey) {
            return Ok(());
        }
        // A gift wrap is signed by nobody; it is for somebody (N17-09).
        let for_somebody = event.kind == Kind::GIFT_WRAP || event.kind == Kind::EPHEMERAL_GIFT_WRAP;
        let mut recipients = event.tags.iter().filter_map(|tag| tag.indexed());
        let is_allowed = |(name, value): (TagName, TagRef<'_>)| match value {
            TagRef::Hex(key) => name == TagName::P && may_publish(&PublicKey(key)),
            TagRef::Text(_) => false,
        };
        match for_somebody && recipients.any(is_allowed) {
            true => Ok(()),
            false if self.gate.enabled => Err("restricted: only members may publish here".into()),
            false => Err("blocked: this author is not one of those who may publish here".into()),
        }
    }
}

/// The names that a list keeps of an item: the roles of a member, the methods of an assignee.
pub fn names(entry: &Entry) -> Vec<String> {
    serde_json::from_str(&entry.detail).unwrap_or_default()
}

/// An address as it stands in the list.
pub fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address that stands in the list as these bytes.
pub fn address_of(item: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(item).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(item).map(IpAddr::from)).ok()
}
