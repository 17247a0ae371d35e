//! The write rules: what becomes of an event that is to be stored.
//!
//! A [`Batch`] is one write transaction. Each event meets what is stored, and what the batch itself stored before it, in this
//! order: the same id, remembered deletions, expiry, the version it would replace. Then it is put with all its index
//! entries, and takes effect if it is a deletion (NIP-09) or a request to vanish (NIP-62). Commit makes all of it
//! visible at once; dropping the batch undoes all of it.
//!
//! Index entries and ids are gathered and written sorted at the end, see [`super::pending`]. Everything else the rules look up
//! (records, addresses, tombstones) is written at once.

use std::collections::HashSet;
use std::ops::{Bound, ControlFlow};

use heed::RwTxn;

use super::holes::Holes;
use super::keys::{self, Index, Posting, SEQ_END, Seq, Short};
use super::pending::Pending;
use super::prepare::{Prepared, address_stem, further_stems};
use super::record::Record;
use super::schema::Tables;
use super::statistics::Tally;
use super::{
    Store, StoreError, damaged_key, find_id, get_record, next_seq, parts, read_record, tombstone, write_next_seq,
};
use crate::nostr::{Event, EventFields, EventId, Kind, KindClass, PublicKey, TagRef};

/// A transaction that touches as many pages as the database has, divided by this, is a large one; in small databases so many.
const LARGE_SHARE: usize = 96;
const LARGE_LEAST: usize = 256;

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

/// Which of the write rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Deletion requests delete (NIP-09). Otherwise they are kept and do nothing.
    pub deletion: bool,
    /// Events that have expired are refused (NIP-40).
    pub expiration: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { deletion: true, expiration: true }
    }
}

/// One write transaction, holding LMDB's write lock until it is committed or dropped.
pub struct Batch<'s> {
    pub(super) store: &'s Store,
    pub(super) txn: RwTxn<'s>,
    first_seq: Seq,
    next_seq: Seq,
    now: u64,
    rules: Rules,
    pending: Pending,
    /// Events from this number on have their entries in `pending`, those below in the tables.
    pending_from: Seq,
    /// The table `ids` has entries: what is not pending may be there.
    ids_written: bool,
    /// There are tombstones, there are such of authors who vanished: where there are none, none is looked up.
    remembers: bool,
    remembers_vanished: bool,
    /// Something was changed beside what was stored.
    removed: bool,
    /// A list of the operator's was changed, see `lists`.
    lists_changed: bool,
    /// A bookmark was set, see `bookmarks`.
    pub(super) bookmarked: bool,
    removed_again: HashSet<Seq>,
    /// A long record was stored, and the version says that there may be such.
    has_parts: bool,
    holes: Holes,
    /// Bytes of the records that were stored, and of those that were removed.
    stored_bytes: usize,
    removed_bytes: usize,
    /// Events that were removed.
    removals: usize,
    /// So many pages make a large transaction.
    large: usize,
    tally: Tally,
}

impl<'s> Batch<'s> {
    pub(super) fn begin(store: &'s Store, now: u64) -> Result<Batch<'s>, StoreError> {
        let txn = store.write_txn()?;
        let next_seq = next_seq(store.tables(), &txn)?;
        let ids_written = !store.tables().ids.is_empty(&txn)?;
        let tombstones = &store.tables().tombstones;
        let remembers = !tombstones.is_empty(&txn)?;
        let remembers_vanished = tombstones.prefix_iter(&txn, tombstone::VANISHED)?.next().is_some();
        let tally = Tally::begin(store, &txn, next_seq)?;
        Ok(Batch {
            store,
            txn,
            first_seq: next_seq,
            next_seq,
            now,
            rules: Rules::default(),
            pending: Pending::default(),
            pending_from: next_seq,
            ids_written,
            remembers,
            remembers_vanished,
            removed: false,
            lists_changed: false,
            bookmarked: false,
            removed_again: HashSet::new(),
            has_parts: false,
            holes: Holes::default(),
            stored_bytes: 0,
            removed_bytes: 0,
            removals: 0,
            large: (store.env().info().last_page_number / LARGE_SHARE).max(LARGE_LEAST),
            tally,
        })
    }

    /// This batch with these rules in place of all.
    pub fn under(self, rules: Rules) -> Self {
        Batch { rules, ..self }
    }

    /// Whether this transaction removes so much that it should be committed before it goes on.
    ///
    /// What is removed, and what comes in its place, stands all over the tables, so LMDB writes a page anew for nearly each entry; the old ones
    /// are free only after the next commit. What a database needs beside its content is therefore twice what its transactions touch. Where
    /// the content grows, it takes in what they leave behind; where as much goes as comes, the file would be so much larger for ever.
    pub fn is_large(&self) -> bool {
        // A removed event has a page in the log, one in `ids` and perhaps one in `addresses`.
        self.removals > 0
            && self.pending.pages() + 3 * self.removals >= self.large
            && self.removed_bytes >= self.stored_bytes / 2
    }

    /// The number the next stored event will get.
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Applies one event whose id and signature are right. A request to vanish takes effect: whether it is addressed to this relay is
    /// the caller's question.
    pub fn apply(&mut self, event: &Prepared) -> Result<Applied, StoreError> {
        let record = event.record();
        let (id, kind) = (record.id(), record.kind());
        let class = kind.class();
        if class == KindClass::Ephemeral {
            return Ok(Applied::Ephemeral);
        }
        if self.pending.find(&id).is_some() || self.find_written(&id)?.is_some() {
            return Ok(Applied::Duplicate);
        }
        if let Some(blocked) = self.blocked(event)? {
            return Ok(blocked);
        }
        if self.rules.expiration && event.expiration().is_some_and(|at| at <= self.now) {
            return Ok(Applied::Expired);
        }
        if let Some(stem) = event.address() {
            let current = self.current_version(stem, kind, &record.pubkey(), &d(&record))?;
            if let Some((seq, created_at, current_id)) = current {
                let wins = (record.created_at(), std::cmp::Reverse(id)) > (created_at, std::cmp::Reverse(current_id));
                if !wins {
                    return Ok(Applied::Superseded);
                }
                self.remove(seq)?;
            }
        }
        let seq = self.put(event)?;
        if matches!(kind, Kind::DELETION | Kind::VANISH) {
            // A record that was encoded a moment ago can be decoded.
            if let Some(event) = record.to_event() {
                match kind {
                    Kind::DELETION if !self.rules.deletion => {}
                    Kind::DELETION => self.delete_targets(&event)?,
                    _ => self.vanish(&event, seq)?,
                }
            }
        }
        Ok(Applied::Stored(seq))
    }

    /// Removes the event `seq` with all its index entries. False when it is gone already.
    pub fn remove(&mut self, seq: Seq) -> Result<bool, StoreError> {
        let tables = *self.store.tables();
        let Some(bytes) = tables.events.get(&self.txn, &keys::seq_bytes(seq))? else { return Ok(false) };
        // Deleting invalidates what was read in this transaction, so the record is copied first.
        let (whole, length) = (Record::new(bytes).is_some(), bytes.len());
        let bytes = read_record(self.store, &self.txn, seq, bytes)?.map(Record::into_bytes);
        tables.events.delete(&mut self.txn, &keys::seq_bytes(seq))?;
        if !whole {
            parts::remove(&tables, &mut self.txn, seq)?;
        }
        self.removed = true;
        self.removals += 1;
        self.holes.removed(seq, length);
        self.removed_bytes += bytes.as_ref().map_or(length, |bytes| bytes.len());
        // Which entries a damaged record had, nobody can tell any more. They lead nowhere and are passed over.
        let record = bytes.as_deref().and_then(Record::new);
        self.tally.removed(record.as_ref(), seq);
        let Some(record) = record else { return Ok(true) };
        let hasher = self.store.hasher();
        if let Some(stem) = address_stem(hasher, record.kind(), &record.pubkey(), || record.identifier()) {
            for stem in further_stems(self.store, &record, Some(stem)).into_iter().chain([stem]) {
                tables.addresses.delete(&mut self.txn, &keys::address_key(stem, seq))?;
            }
        }
        if let Some(at) = record.expiration() {
            tables.expirations.delete(&mut self.txn, &keys::expiration_key(at, seq))?;
        }
        if seq >= self.pending_from {
            self.pending.undo(&record.id(), seq);
        } else {
            tables.ids.delete(&mut self.txn, &keys::stem_seq(&keys::id_stem(&record.id()), seq))?;
            self.pending.delete(&record, &keys::tag_stems(hasher, &record), seq);
        }
        if seq >= self.first_seq {
            self.removed_again.insert(seq);
        }
        Ok(true)
    }

    /// Remembers that this author has published here while authenticated, unless it is known already.
    pub fn know(&mut self, author: &PublicKey) -> Result<(), StoreError> {
        let known = self.store.tables().known;
        if known.get(&self.txn, &author.0)?.is_none() {
            known.put(&mut self.txn, &author.0, &self.now.to_be_bytes())?;
            self.removed = true;
        }
        Ok(())
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
            let parts = key.split_at_checked(5).and_then(|(at, seq)| Some((keys::read_seq(at)?, keys::read_seq(seq)?)));
            due.push(parts.ok_or_else(|| damaged_key("expirations"))?);
        }
        let more = due.len() > limit;
        due.truncate(limit);
        self.removed |= !due.is_empty();
        for &(at, seq) in &due {
            self.remove(seq)?;
            // With its event it is gone already, unless the event was damaged.
            self.store.tables().expirations.delete(&mut self.txn, &keys::expiration_key(at, seq))?;
        }
        Ok((due.len(), more))
    }

    /// Writes everything to disk and releases the write lock. On return it will survive a power cut.
    pub fn commit(mut self) -> Result<(), StoreError> {
        if self.next_seq == self.first_seq && !self.removed && !self.lists_changed && !self.bookmarked {
            return Ok(());
        }
        self.write_pending()?;
        if !self.holes.is_empty() {
            // It takes some pages before it gives others back.
            let tidy = self.store.is_roomy().then(|| self.store.page_size());
            self.holes.write(self.store.tables(), &mut self.txn, self.first_seq, tidy)?;
        }
        write_next_seq(self.store.tables(), &mut self.txn, self.next_seq)?;
        self.tally.write(self.store, &mut self.txn, self.next_seq)?;
        self.store.commit(self.txn)
    }

    /// The stored version of a replaceable or addressable event, whichever is newest; `identifier` is the value of its `d` tag.
    pub fn current(&self, kind: Kind, author: &PublicKey, identifier: &str) -> Result<Option<Event>, StoreError> {
        let Some(stem) = address_stem(self.store.hasher(), kind, author, || identifier) else { return Ok(None) };
        let Some((seq, ..)) = self.current_version(stem, kind, author, identifier)? else { return Ok(None) };
        Ok(get_record(self.store, &self.txn, seq)?.and_then(|record| record.to_event()))
    }

    pub(super) fn tables(&self) -> &Tables {
        self.store.tables()
    }

    pub(super) fn txn(&self) -> &RwTxn<'s> {
        &self.txn
    }

    pub(super) fn txn_mut(&mut self) -> &mut RwTxn<'s> {
        &mut self.txn
    }

    /// Notes that a list was changed; whether one was before.
    pub(super) fn note_list_change(&mut self) -> bool {
        std::mem::replace(&mut self.lists_changed, true)
    }

    fn find(&self, id: &EventId) -> Result<Option<(Seq, Record<'_>)>, StoreError> {
        match self.pending.find(id) {
            Some(seq) => Ok(get_record(self.store, &self.txn, seq)?.map(|record| (seq, record))),
            None => self.find_written(id),
        }
    }

    fn find_written(&self, id: &EventId) -> Result<Option<(Seq, Record<'_>)>, StoreError> {
        if self.ids_written { find_id(self.store, &self.txn, id) } else { Ok(None) }
    }

    fn put(&mut self, event: &Prepared) -> Result<Seq, StoreError> {
        let seq = self.next_seq;
        if seq >= SEQ_END {
            return Err(StoreError::Damaged(
                "all sequence numbers are used: export and import into a new database".into(),
            ));
        }
        let tables = *self.store.tables();
        let record = event.record();
        if parts::write(&tables, &mut self.txn, seq, record.as_bytes())? && !self.has_parts {
            super::raise_version(&tables, &mut self.txn)?;
            self.has_parts = true;
        }
        if let Some(stem) = event.address() {
            let time = keys::index_time(record.created_at()).to_be_bytes();
            for &stem in event.further_stems().iter().chain([&stem]) {
                tables.addresses.put(&mut self.txn, &keys::address_key(stem, seq), &time)?;
            }
        }
        if let Some(at) = event.expiration() {
            tables.expirations.put(&mut self.txn, &keys::expiration_key(at, seq), &[])?;
        }
        self.tally.stored(&record, seq);
        self.pending.put(&record, event.stems(), seq);
        self.stored_bytes += record.as_bytes().len();
        self.next_seq += 1;
        Ok(seq)
    }

    /// Puts the record of an event under the number that it has in another file of the same database, without asking the rules again.
    pub(super) fn carry(&mut self, seq: Seq, record: &Record<'_>) -> Result<(), StoreError> {
        let event = self.store.prepare_record(record);
        // Numbers between belong to events that are gone again.
        self.next_seq = seq;
        self.put(&event).map(|_| ())
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        self.pending.write(self.store.tables(), &mut self.txn)?;
        self.pending_from = self.next_seq;
        self.ids_written = true;
        Ok(())
    }

    /// The stored version of an address, with what decides which version wins.
    fn current_version(
        &self,
        stem: u64,
        kind: Kind,
        author: &PublicKey,
        identifier: &str,
    ) -> Result<Option<(Seq, u64, EventId)>, StoreError> {
        let tables = self.store.tables();
        for entry in tables.addresses.prefix_iter(&self.txn, &keys::address_key(stem, 0)[..7])? {
            let (key, _) = entry?;
            let seq = key.get(7..).and_then(keys::read_seq).ok_or_else(|| damaged_key("addresses"))?;
            let Some(record) = get_record(self.store, &self.txn, seq)? else { continue };
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
    fn blocked(&self, event: &Prepared) -> Result<Option<Applied>, StoreError> {
        let tombstones = &self.store.tables().tombstones;
        let event = event.record();
        let (id, kind, created_at) = (event.id(), event.kind(), event.created_at());
        // Requests to vanish are never undone, nor barred by themselves (N62-08, N09-10).
        if kind == Kind::VANISH || !self.remembers {
            return Ok(None);
        }
        let until = |key: &[u8]| -> Result<Option<u64>, StoreError> {
            Ok(tombstones.get(&self.txn, key)?.map(tombstone::until))
        };
        let recipients = if kind == Kind::GIFT_WRAP { recipients(&event) } else { Vec::new() };
        for party in std::iter::once(&event.pubkey()).chain(&recipients) {
            if self.remembers_vanished && until(&tombstone::vanish_key(party))?.is_some_and(|until| created_at <= until)
            {
                return Ok(Some(Applied::Vanished));
            }
            // A deletion of a deletion has no effect (N09-09), also when it came first.
            if kind != Kind::DELETION && until(&tombstone::event_key(&id, party))?.is_some() {
                return Ok(Some(Applied::Deleted));
            }
        }
        if matches!(kind.class(), KindClass::Replaceable | KindClass::Addressable) {
            let hasher = self.store.hasher();
            let key = tombstone::address_key(hasher, kind, &event.pubkey(), &d(&event));
            if until(&key)?.is_some_and(|until| created_at <= until) {
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
        self.remembers = true;
        Ok(tombstones.put(&mut self.txn, &tombstone::event_key(id, deleter), &value)?)
    }

    fn delete_address(&mut self, kind: Kind, identifier: &str, request: &Event) -> Result<(), StoreError> {
        // Only addresses that can be replaced come here.
        if let Some(stem) = address_stem(self.store.hasher(), kind, &request.pubkey, || identifier)
            && let Some((seq, created_at, _)) = self.current_version(stem, kind, &request.pubkey, identifier)?
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
        self.write_pending()?;
        let p = crate::nostr::TagName::new("p");
        let wraps =
            p.map(|p| keys::with_kind(&self.store.hasher().tag_stem(p, TagRef::Hex(author.0)), Kind::GIFT_WRAP));
        let mut doomed = self.seqs_below(Index::Authors, &keys::author_stem(author), until)?;
        if let Some(prefix) = wraps {
            doomed.extend(self.seqs_below(Index::Tags, &prefix, until)?);
        }
        for seq in doomed {
            let Some(record) = get_record(self.store, &self.txn, seq)? else { continue };
            let wrapped = record.kind() == Kind::GIFT_WRAP && recipients(&record).contains(author);
            let concerned = record.created_at() <= until && (record.pubkey() == *author || wrapped);
            if concerned && seq != own && record.kind() != Kind::VANISH {
                self.remove(seq)?;
            }
        }
        self.store.tables().known.delete(&mut self.txn, &author.0)?;
        self.remember(&tombstone::vanish_key(author), until, &request.id)
    }

    /// Raises a tombstone's time; never lowers it.
    fn remember(&mut self, key: &[u8], until: u64, by: &EventId) -> Result<(), StoreError> {
        let tombstones = self.store.tables().tombstones;
        if tombstones.get(&self.txn, key)?.is_some_and(|old| tombstone::until(old) >= until) {
            return Ok(());
        }
        self.remembers = true;
        self.remembers_vanished |= key.starts_with(tombstone::VANISHED);
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

/// The identifier that counts for the address: replaceable kinds ignore `d` (N01-40).
fn d(record: &Record<'_>) -> String {
    if record.kind().class() == KindClass::Addressable { record.identifier() } else { String::new() }
}

/// The keys in the `p` tags of a gift wrap.
fn recipients(event: &impl EventFields) -> Vec<PublicKey> {
    let mut keys = Vec::new();
    let _ = event.visit_indexed_tags(|name, value| {
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
