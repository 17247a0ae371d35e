//! What must never come back: the keys and values of the `tombstones` table.
//!
//! | key | blocks |
//! |---|---|
//! | `e`, id (32), deleter (32) | the event of this id, if its author (or the `p` of a gift wrap) is the deleter |
//! | `a`, kind, author (32), hash of d (8) | versions of this address up to the time in the value |
//! | `v`, pubkey (32) | everything of this author, and gift wraps to it, up to the time in the value |
//!
//! The value is that time (8 bytes; for `e` the deletion's own created_at, which bounds nothing) and the id of the request (32).
//! The deletion requests themselves could serve as the index, but pruning or vanishing takes them away, and what they
//! deleted must stay away. A deletion without an `a` costs 105 bytes for each `e` it names: about 1.5 bytes per event.

use crate::nostr::{EventId, Kind, PublicKey};

use super::keys::KeyHasher;

/// What the keys of those who vanished begin with.
pub const VANISHED: &[u8] = b"v";

pub fn event_key(id: &EventId, deleter: &PublicKey) -> [u8; 65] {
    let mut key = [b'e'; 65];
    key[1..33].copy_from_slice(&id.0);
    key[33..].copy_from_slice(&deleter.0);
    key
}

pub fn address_key(hasher: &KeyHasher, kind: Kind, author: &PublicKey, identifier: &str) -> Vec<u8> {
    let hash = hasher.address_hash(kind, author, identifier).to_be_bytes();
    [b"a".as_slice(), &kind.0.to_be_bytes(), &author.0, &hash].concat()
}

pub fn vanish_key(pubkey: &PublicKey) -> Vec<u8> {
    [VANISHED, &pubkey.0].concat()
}

pub fn value(until: u64, by: &EventId) -> [u8; 40] {
    let mut value = [0; 40];
    value[..8].copy_from_slice(&until.to_be_bytes());
    value[8..].copy_from_slice(&by.0);
    value
}

/// The time of a tombstone; 0 when the value is damaged.
pub fn until(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
