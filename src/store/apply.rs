//! The write rules: what becomes of an event that is to be stored.
//!
//! A [`Batch`] is one write transaction. Each event meets what is stored, and what the batch itself stored before it, in this
//! order: the same id, remembered deletions, expiry, the version it would replace. Then it is put with all its index
//! entries, and takes effect if it is a deletion (NIP-09) or a request to vanish (NIP-62). Commit makes all of it
//! visible at once; dropping the batch undoes all of it.
//!
//! Postings are collected and written sorted, table by table: neighbours share pages, which halves the work. Everything the
//! rules look up (ids, addresses, tombstones, records) is written at once.

use std::collections::HashSet;
use std::ops::{Bound, ControlFlow};

use heed::{PutFlags, RwTxn};

use super::keys::{self, Index, Posting, SEQ_END, Seq, Short};
use super::record::Record;
use super::{Store, StoreError, damaged_key, find_id, get_record, next_seq, tombstone, write_next_seq};
use crate::nostr::{Event, EventFields, EventId, Kind, KindClass, PublicKey, TagRef};

/// What a batch did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Stored under this number.
    Stored(Seq),
    /// It was there already.
    Duplicate,
    /// A newer version of the replaceable or addressable event is stored (N01-46).
    Superseded,
    /// Its author, or the recipient of a gift wrap, had it deleted (N09-07).
    Deleted,
    /// Its author, or the recipient of a gift wrap, has vanished (N62-06).
    Vanished,
    /// Its expiration lies in the past (N40-02).
    Expired,
    /// Ephemeral kinds never touch the disk (N01-41).
    Ephemeral,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Put,
    Delete,
}

/// One write transaction, holding LMDB's write lock until it is committed or dropped.
pub struct Batch<'s> {
    store: &'s Store,
    txn: RwTxn<'s>,
    first_seq: Seq,
    next_seq: Seq,
    now: u64,
    postings: Vec<(Index, Short, Short, Change)>,
    /// Something was removed.
    removed: bool,
    removed_again: HashSet<Seq>,
}

impl<'s> Batch<'s> {
    pub(super) fn begin(store: &'s Store, now: u64) -> Result<Batch<'s>, StoreError> {
        let txn = store.env().write_txn()?;
        let next_seq = next_seq(store.tables(), &txn)?;
        Ok(Batch {
            store,
            txn,
            first_seq: next_seq,
            next_seq,
            now,
            postings: Vec::new(),
            removed: false,
            removed_again: HashSet::new(),
        })
    }

    /// The number the next stored event will get.
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Applies one event whose id and signature are right; `record` is its encoding. A request to vanish takes effect: whether it is
    /// addressed to this relay is the caller's question.
    pub fn apply(&mut self, event: &Event, record: &[u8]) -> Result<Applied, StoreError> {
        let class = event.kind.class();
        if class == KindClass::Ephemeral {
            return Ok(Applied::Ephemeral);
        }
        if self.find(&event.id)?.is_some() {
            return Ok(Applied::Duplicate);
        }
        if let Some(blocked) = self.blocked(event)? {
            return Ok(blocked);
        }
        if matches!(event.expiration(), Ok(Some(at)) if at <= self.now) {
            return Ok(Applied::Expired);
        }
        if matches!(class, KindClass::Replaceable | KindClass::Addressable) {
            let current = self.current_version(event.kind, &event.pubkey, address_identifier(event))?;
            if let Some((seq, created_at, id)) = current {
                let wins = (event.created_at, std::cmp::Reverse(event.id)) > (created_at, std::cmp::Reverse(id));
                if !wins {
                    return Ok(Applied::Superseded);
                }
                self.remove(seq)?;
            }
        }
        let seq = self.put(event, record)?;
        match event.kind {
            Kind::DELETION => self.delete_targets(event)?,
            Kind::VANISH => self.vanish(event, seq)?,
            _ => {}
        }
        Ok(Applied::Stored(seq))
    }

    /// Removes the event `seq` with all its index entries. False when it is gone already.
    pub fn remove(&mut self, seq: Seq) -> Result<bool, StoreError> {
        let tables = *self.store.tables();
        let Some(bytes) = tables.events.get(&self.txn, &keys::seq_bytes(seq))? else { return Ok(false) };
        // Deleting invalidates what was read in this transaction, so the record is copied first.
        let bytes = bytes.to_vec();
        let record = super::as_record(seq, &bytes)?;
        tables.events.delete(&mut self.txn, &keys::seq_bytes(seq))?;
        tables.ids.delete(&mut self.txn, &keys::stem_seq(&keys::id_stem(&record.id()), seq))?;
        if let Some(stem) = self.address_stem(&record) {
            tables.addresses.delete(&mut self.txn, &keys::stem_seq(&stem, seq))?;
        }
        if let Some(at) = record.expiration() {
            tables.expirations.delete(&mut self.txn, &keys::expiration_key(at, seq))?;
        }
        self.post(&record, seq, Change::Delete);
        self.removed = true;
        if seq >= self.first_seq {
            self.removed_again.insert(seq);
        }
        Ok(true)
    }

    /// Removes the event with this id, if it is there.
    pub fn remove_id(&mut self, id: &EventId) -> Result<bool, StoreError> {
        match self.find(id)?.map(|(seq, _)| seq) {
            Some(seq) => self.remove(seq),
            None => Ok(false),
        }
    }

    /// The numbers of events that this batch stored and removed again: nobody is to hear of them.
    pub fn removed_again(&self) -> &HashSet<Seq> {
        &self.removed_again
    }

    /// Removes up to `limit` events that have expired; returns how many, and whether more are due.
    pub fn remove_expired(&mut self, limit: usize) -> Result<(usize, bool), StoreError> {
        let end = keys::expiration_key(self.now, SEQ_END - 1);
        let mut due = Vec::new();
        for entry in self.store.tables().expirations.iter(&self.txn)? {
            let (key, _) = entry?;
            if key > &end[..] || due.len() > limit {
                break;
            }
            due.push(key.get(5..).and_then(keys::read_seq).ok_or_else(|| damaged_key("expirations"))?);
        }
        let more = due.len() > limit;
        due.truncate(limit);
        for &seq in &due {
            self.remove(seq)?;
        }
        Ok((due.len(), more))
    }

    /// Writes everything to disk and releases the write lock. On return it will survive a power cut.
    pub fn commit(mut self) -> Result<(), StoreError> {
        if self.next_seq == self.first_seq && !self.removed {
            return Ok(());
        }
        self.flush_postings()?;
        write_next_seq(self.store.tables(), &mut self.txn, self.next_seq)?;
        self.store.commit(self.txn)
    }

    fn find(&self, id: &EventId) -> Result<Option<(Seq, Record<'_>)>, StoreError> {
        find_id(self.store.tables(), &self.txn, id)
    }

    fn put(&mut self, event: &Event, record: &[u8]) -> Result<Seq, StoreError> {
        let seq = self.next_seq;
        if seq >= SEQ_END {
            return Err(StoreError::Damaged(
                "all sequence numbers are used: export and import into a new database".into(),
            ));
        }
        let tables = *self.store.tables();
        tables.events.put_with_flags(&mut self.txn, PutFlags::APPEND, &keys::seq_bytes(seq), record)?;
        tables.ids.put(&mut self.txn, &keys::stem_seq(&keys::id_stem(&event.id), seq), &[])?;
        if let Some(stem) = self.address_stem(event) {
            let time = keys::index_time(event.created_at).to_be_bytes();
            tables.addresses.put(&mut self.txn, &keys::stem_seq(&stem, seq), &time)?;
        }
        if let Ok(Some(at)) = event.expiration() {
            tables.expirations.put(&mut self.txn, &keys::expiration_key(at, seq), &[])?;
        }
        self.post(event, seq, Change::Put);
        self.next_seq += 1;
        Ok(seq)
    }

    fn post(&mut self, event: &impl EventFields, seq: Seq, change: Change) {
        let postings = &mut self.postings;
        keys::each_posting(self.store.hasher(), event, seq, &mut |index, key, value| {
            postings.push((index, key, value, change));
        });
    }

    fn flush_postings(&mut self) -> Result<(), StoreError> {
        let mut postings = std::mem::take(&mut self.postings);
        postings.sort_unstable();
        let tables = self.store.tables();
        let mut rest = postings.as_slice();
        while let [(index, key, value, change), after @ ..] = rest {
            rest = after;
            // Stored and removed in the same batch: neither ever happened.
            if let [(i, k, v, Change::Delete), after @ ..] = rest
                && *change == Change::Put
                && (i, k, v) == (index, key, value)
            {
                rest = after;
                continue;
            }
            match change {
                Change::Put => tables.index(*index).put(&mut self.txn, key, value)?,
                Change::Delete => {
                    tables.index(*index).delete_one_duplicate(&mut self.txn, key, value)?;
                }
            }
        }
        postings.clear();
        self.postings = postings;
        Ok(())
    }

    /// The stem under which an event stands in `addresses`; `None` for kinds that are never replaced.
    fn address_stem(&self, event: &impl Addressed) -> Option<Short> {
        let (kind, pubkey) = (event.kind(), event.pubkey());
        let identifier = match kind.class() {
            KindClass::Replaceable => String::new(),
            KindClass::Addressable => event.d(),
            KindClass::Regular | KindClass::Ephemeral => return None,
        };
        Some(self.store.hasher().address_stem(kind, &pubkey, &identifier))
    }

    /// The stored version of an address, with what decides which version wins.
    fn current_version(
        &self,
        kind: Kind,
        author: &PublicKey,
        identifier: &str,
    ) -> Result<Option<(Seq, u64, EventId)>, StoreError> {
        let tables = self.store.tables();
        let stem = self.store.hasher().address_stem(kind, author, identifier);
        for entry in tables.addresses.prefix_iter(&self.txn, &stem)? {
            let (key, _) = entry?;
            let seq = key.get(7..).and_then(keys::read_seq).ok_or_else(|| damaged_key("addresses"))?;
            let Some(record) = get_record(tables, &self.txn, seq)? else { continue };
            let same = record.kind() == kind
                && record.pubkey() == *author
                && (kind.class() == KindClass::Replaceable || record.identifier() == identifier);
            if same {
                return Ok(Some((seq, record.created_at(), record.id())));
            }
        }
        Ok(None)
    }

    /// Whether something remembered keeps this event out.
    fn blocked(&self, event: &Event) -> Result<Option<Applied>, StoreError> {
        let tombstones = &self.store.tables().tombstones;
        // Requests to vanish are never undone, nor barred by themselves (N62-08, N09-10).
        if event.kind == Kind::VANISH || tombstones.is_empty(&self.txn)? {
            return Ok(None);
        }
        let until = |key: &[u8]| -> Result<Option<u64>, StoreError> {
            Ok(tombstones.get(&self.txn, key)?.map(tombstone::until))
        };
        let mut parties = vec![event.pubkey];
        if event.kind == Kind::GIFT_WRAP {
            parties.extend(recipients(event));
        }
        for party in &parties {
            if until(&tombstone::vanish_key(party))?.is_some_and(|until| event.created_at <= until) {
                return Ok(Some(Applied::Vanished));
            }
            // A deletion of a deletion has no effect (N09-09), also when it came first.
            if event.kind != Kind::DELETION && until(&tombstone::event_key(&event.id, party))?.is_some() {
                return Ok(Some(Applied::Deleted));
            }
        }
        if matches!(event.kind.class(), KindClass::Replaceable | KindClass::Addressable) {
            let hasher = self.store.hasher();
            let key = tombstone::address_key(hasher, event.kind, &event.pubkey, address_identifier(event));
            if until(&key)?.is_some_and(|until| event.created_at <= until) {
                return Ok(Some(Applied::Deleted));
            }
        }
        Ok(None)
    }

    /// NIP-09: removes what the deletion names and its author may delete, and remembers it (N09-01 to N09-15).
    fn delete_targets(&mut self, request: &Event) -> Result<(), StoreError> {
        for tag in request.tags.iter() {
            match (tag.name(), tag.value()) {
                ("e", Some(value)) => {
                    if let TagRef::Hex(id) = TagRef::new(value) {
                        self.delete_id(&EventId(id), request)?;
                    }
                }
                ("a", Some(value)) => {
                    if let Some((kind, identifier)) = own_address(value, &request.pubkey) {
                        self.delete_address(kind, identifier, request)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn delete_id(&mut self, id: &EventId, request: &Event) -> Result<(), StoreError> {
        let deleter = &request.pubkey;
        let target = match self.find(id)? {
            Some((_, record)) if matches!(record.kind(), Kind::DELETION | Kind::VANISH) => return Ok(()),
            Some((seq, record)) => {
                let own = record.pubkey() == *deleter
                    || record.kind() == Kind::GIFT_WRAP && recipients(&record).contains(deleter);
                if !own {
                    return Ok(());
                }
                Some(seq)
            }
            None => None,
        };
        if let Some(seq) = target {
            self.remove(seq)?;
        }
        let value = tombstone::value(request.created_at, &request.id);
        let tombstones = self.store.tables().tombstones;
        Ok(tombstones.put(&mut self.txn, &tombstone::event_key(id, deleter), &value)?)
    }

    fn delete_address(&mut self, kind: Kind, identifier: &str, request: &Event) -> Result<(), StoreError> {
        if let Some((seq, created_at, _)) = self.current_version(kind, &request.pubkey, identifier)?
            && created_at <= request.created_at
        {
            self.remove(seq)?;
        }
        let key = tombstone::address_key(self.store.hasher(), kind, &request.pubkey, identifier);
        self.remember(&key, request.created_at, &request.id)
    }

    /// NIP-62: removes all of the author's events up to the request's time, deletions included, and gift wraps to the author.
    fn vanish(&mut self, request: &Event, own: Seq) -> Result<(), StoreError> {
        let author = &request.pubkey;
        let until = request.created_at.min(self.now);
        // What this batch stored before must be found in the indices too.
        self.flush_postings()?;
        let p = crate::nostr::TagName::new("p");
        let wraps =
            p.map(|p| keys::with_kind(&self.store.hasher().tag_stem(p, TagRef::Hex(author.0)), Kind::GIFT_WRAP));
        let mut doomed = self.seqs_below(Index::Authors, &keys::author_stem(author), until)?;
        if let Some(prefix) = wraps {
            doomed.extend(self.seqs_below(Index::Tags, &prefix, until)?);
        }
        for seq in doomed {
            let Some(record) = get_record(self.store.tables(), &self.txn, seq)? else { continue };
            let wrapped = record.kind() == Kind::GIFT_WRAP && recipients(&record).contains(author);
            let concerned = record.created_at() <= until && (record.pubkey() == *author || wrapped);
            if concerned && seq != own && record.kind() != Kind::VANISH {
                self.remove(seq)?;
            }
        }
        self.remember(&tombstone::vanish_key(author), until, &request.id)
    }

    /// Raises a tombstone's time; never lowers it.
    fn remember(&mut self, key: &[u8], until: u64, by: &EventId) -> Result<(), StoreError> {
        let tombstones = self.store.tables().tombstones;
        if tombstones.get(&self.txn, key)?.is_some_and(|old| tombstone::until(old) >= until) {
            return Ok(());
        }
        Ok(tombstones.put(&mut self.txn, key, &tombstone::value(until, by))?)
    }

    /// The numbers of all postings whose key begins with `stem` and whose time is not after `until`.
    fn seqs_below(&self, index: Index, stem: &Short, until: u64) -> Result<Vec<Seq>, StoreError> {
        let until = keys::index_time(until);
        let end = stem.successor();
        let range =
            (Bound::Included(&stem[..]), end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..])));
        let mut seqs = Vec::new();
        for entry in self.store.tables().index(index).range(&self.txn, &range)? {
            let (key, value) = entry?;
            let posting = Posting::read(index, key, value).ok_or_else(|| damaged_key("authors or tags"))?;
            if posting.time() <= until {
                seqs.push(posting.seq);
            }
        }
        Ok(seqs)
    }
}

/// Events that may have an address, whichever form they are in.
trait Addressed: EventFields {
    fn d(&self) -> String;
}

impl Addressed for Event {
    fn d(&self) -> String {
        self.identifier().to_owned()
    }
}

impl Addressed for Record<'_> {
    fn d(&self) -> String {
        self.identifier()
    }
}

/// The identifier that counts for the address: replaceable kinds ignore `d` (N01-40).
fn address_identifier(event: &Event) -> &str {
    if event.kind.class() == KindClass::Addressable { event.identifier() } else { "" }
}

/// The keys in the `p` tags of a gift wrap.
fn recipients(event: &impl EventFields) -> Vec<PublicKey> {
    let mut keys = Vec::new();
    let _ = event.visit_indexed_tags(&mut |name, value| {
        if let (b'p', TagRef::Hex(key)) = (name.as_byte(), value) {
            keys.push(PublicKey(key));
        }
        ControlFlow::Continue(())
    });
    keys
}

/// Reads `<kind>:<pubkey>:<d>` if it names something that can be replaced and that `author` owns (N09-02, N09-03).
fn own_address<'a>(value: &'a str, author: &PublicKey) -> Option<(Kind, &'a str)> {
    let (kind, rest) = value.split_once(':')?;
    let (pubkey, identifier) = rest.split_once(':')?;
    let kind = Kind(kind.parse().ok()?);
    let owned = PublicKey::from_hex(pubkey)? == *author;
    match kind.class() {
        KindClass::Replaceable if identifier.is_empty() && owned => Some((kind, "")),
        KindClass::Addressable if owned => Some((kind, identifier)),
        _ => None,
    }
}
