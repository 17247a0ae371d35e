//! What of an event can be worked out before the transaction that stores it, on any thread: its record, the hashes its index
//! entries need, what the write rules ask. The writer is one thread; whatever it need not do itself makes the rest faster.

use std::cell::Cell;
use std::ops::ControlFlow;

use super::Store;
use super::keys::{self, KeyHasher};
use super::record::{Record, encode};
use crate::nostr::{Event, EventFields, Kind, KindClass, PublicKey, TagRef};

/// An event ready to be stored. Whether its id and signature are right is its maker's business.
#[derive(Debug)]
pub struct Prepared {
    record: Box<[u8]>,
    /// See [`keys::tag_stems`].
    stems: Box<[u64]>,
    /// The stem under which it stands in `addresses`, if it can be replaced.
    address: Option<u64>,
    /// See [`further_stems`].
    further: Box<[u64]>,
    expiration: Option<u64>,
}

thread_local! {
    /// Where a record is built before it is copied with its exact size; taken while in use.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer that grew beyond this is given back to the allocator.
const BUFFER_KEPT: usize = 256 << 10;

impl Prepared {
    /// The event's record.
    pub fn record(&self) -> Record<'_> {
        Record::of_encoded(&self.record)
    }

    /// The record's bytes, for those who need nothing else any more.
    pub fn into_record(self) -> Box<[u8]> {
        self.record
    }

    /// About how many bytes of memory it takes to store this event: here, and in the pages of its transaction.
    pub fn weight(&self) -> usize {
        self.record.len() + 32 * self.stems.len() + 160
    }

    pub(super) fn stems(&self) -> &[u64] {
        &self.stems
    }

    pub(super) fn address(&self) -> Option<u64> {
        self.address
    }

    pub(super) fn further_stems(&self) -> &[u64] {
        &self.further
    }

    /// When the event expires (NIP-40).
    pub fn expiration(&self) -> Option<u64> {
        self.expiration
    }
}

impl Store {
    /// Prepares an event for [`super::Batch::apply`] of this store.
    pub fn prepare(&self, event: &Event) -> Prepared {
        let mut buffer = BUFFER.take();
        buffer.clear();
        encode(event, &mut buffer);
        let record = Box::from(&buffer[..]);
        if buffer.capacity() <= BUFFER_KEPT {
            BUFFER.set(buffer);
        }
        // One that is malformed is refused where expiration counts. Elsewhere what can be read of it must agree with the record.
        let expiration = event.expiration().unwrap_or_else(|_| Record::of_encoded(&record).expiration());
        let address = address_stem(self.hasher(), event.kind, &event.pubkey, || event.identifier());
        Prepared {
            record,
            stems: keys::tag_stems(self.hasher(), event).into_boxed_slice(),
            address,
            further: further_stems(self, event, address).into_boxed_slice(),
            expiration,
        }
    }

    /// The same of a record.
    pub(super) fn prepare_record(&self, record: &Record<'_>) -> Prepared {
        let address = address_stem(self.hasher(), record.kind(), &record.pubkey(), || record.identifier());
        Prepared {
            record: record.as_bytes().into(),
            stems: keys::tag_stems(self.hasher(), record).into_boxed_slice(),
            address,
            further: further_stems(self, record, address).into_boxed_slice(),
            expiration: record.expiration(),
        }
    }
}

/// The stem under which an event stands in `addresses`; `None` for kinds that are never replaced. Replaceable kinds ignore `d` (N01-40).
pub fn address_stem<S: AsRef<str>>(
    hasher: &KeyHasher,
    kind: Kind,
    author: &PublicKey,
    identifier: impl FnOnce() -> S,
) -> Option<u64> {
    let hash = match kind.class() {
        KindClass::Replaceable => hasher.address_hash(kind, author, ""),
        KindClass::Addressable => hasher.address_hash(kind, author, identifier().as_ref()),
        KindClass::Regular | KindClass::Ephemeral => return None,
    };
    Some(hash >> 8)
}

/// The stems of an addressable event's `d` values beside its identifier, the first of them. No version is looked up there, but questions
/// are: a filter may mean any of them. None in a database that was made before they were kept.
pub fn further_stems(store: &Store, event: &impl EventFields, address: Option<u64>) -> Vec<u64> {
    let (kind, author) = (event.kind(), event.pubkey());
    let mut stems = Vec::new();
    if kind.class() != KindClass::Addressable || !store.addresses_hold_every_d() {
        return stems;
    }
    let _ = event.visit_indexed_tags(|name, value| {
        if name.as_byte() == b'd' {
            let hash = match value {
                TagRef::Text(text) => store.hasher().address_hash(kind, &author, text),
                TagRef::Hex(bytes) => store.hasher().address_hash(kind, &author, &const_hex::encode(bytes)),
            };
            stems.push(hash >> 8);
        }
        ControlFlow::Continue(())
    });
    stems.sort_unstable();
    stems.dedup();
    stems.retain(|stem| Some(*stem) != address);
    stems
}
