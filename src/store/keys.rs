//! The bytes of index keys: how an event's fields become keys and duplicates, and back.
//!
//! Everything is big-endian and compared as bytes. An index entry, a *posting*, says of an event its second, the
//! first two bytes of its id and its sequence number. The second is split: its high bytes close the key, its low
//! bytes open the duplicate, because LMDB is asked for keys here and never for a place inside a list of duplicates.
//! The id bytes are stored inverted, so that walking backwards yields newest first and, within a second, the lowest
//! id first: the order of NIP-01. Without them one second stuffed with events would have to be read whole for every
//! answer that begins in it.

use std::hash::Hasher;
use std::ops::Deref;

use siphasher::sip::SipHasher13;

use crate::nostr::{EventFields, EventId, Kind, PublicKey, TagName, TagRef, TagValue};

/// The number of an event in the order in which this database learned of it; below 2^40, never used twice.
pub type Seq = u64;

/// One past the largest sequence number that fits its five bytes.
pub const SEQ_END: Seq = 1 << 40;

/// A key or a duplicate: at most 15 bytes, held in place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Short {
    // The bytes come first and unused ones are zero, so that the derived order is the order of bytes for equal lengths.
    bytes: [u8; 15],
    len: u8,
}

impl Short {
    pub const EMPTY: Short = Short { bytes: [0; 15], len: 0 };

    /// Appends `more`; what exceeds 15 bytes is a programming error that debug builds catch.
    pub fn push(&mut self, more: &[u8]) {
        let start = usize::from(self.len);
        let end = (start + more.len()).min(self.bytes.len());
        debug_assert_eq!(end, start + more.len());
        self.bytes[start..end].copy_from_slice(&more[..end - start]);
        self.len = end as u8;
    }

    pub fn of(parts: &[&[u8]]) -> Short {
        let mut short = Short::EMPTY;
        for part in parts {
            short.push(part);
        }
        short
    }

    /// The first byte string of the same length that sorts after every one beginning with this; `None` when all bytes are 0xFF.
    pub fn successor(mut self) -> Option<Short> {
        for i in (0..usize::from(self.len)).rev() {
            if self.bytes[i] != 0xFF {
                self.bytes[i] += 1;
                return Some(self);
            }
            self.bytes[i] = 0;
        }
        None
    }
}

impl Deref for Short {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// `created_at` as indices hold it: 32 bits, the last value standing for everything later.
pub fn index_time(created_at: u64) -> u32 {
    u32::try_from(created_at).unwrap_or(u32::MAX)
}

pub fn seq_bytes(seq: Seq) -> [u8; 5] {
    let b = seq.to_be_bytes();
    [b[3], b[4], b[5], b[6], b[7]]
}

/// Reads the five bytes that [`seq_bytes`] wrote; `None` when there are not five.
pub fn read_seq(bytes: &[u8]) -> Option<Seq> {
    let b: [u8; 5] = bytes.try_into().ok()?;
    Some(u64::from_be_bytes([0, 0, 0, b[0], b[1], b[2], b[3], b[4]]))
}

/// The four tables of postings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum Index {
    Time,
    Kinds,
    Authors,
    Tags,
}

impl Index {
    pub const ALL: [Index; 4] = [Index::Time, Index::Kinds, Index::Authors, Index::Tags];

    /// How many of the second's four bytes close the key: a bucket of 256 seconds, or of 18 hours where a key also
    /// names an author or a tag and so holds few events.
    const fn time_bytes_in_key(self) -> usize {
        match self {
            Index::Time | Index::Kinds => 3,
            Index::Authors | Index::Tags => 2,
        }
    }

    /// The bytes in front of the time.
    pub const fn prefix_len(self) -> usize {
        match self {
            Index::Time => 0,
            Index::Kinds => 2,
            Index::Authors | Index::Tags => 9,
        }
    }
}

impl Index {
    /// The kind that a prefix names; `time` has none.
    pub fn kind_of(self, prefix: &Short) -> Option<Kind> {
        let kind = prefix.get(self.prefix_len().checked_sub(2)?..)?;
        Some(Kind(u16::from_be_bytes(kind.try_into().ok()?)))
    }
}

/// What one index entry says of an event. Ordered as indices are: by second, then by falling id, then by sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Posting {
    /// The second in the upper 32 bits, the inverted id bytes in the 16 below.
    pub place: u64,
    pub seq: Seq,
}

impl Posting {
    pub fn new(created_at: u64, id: &EventId, seq: Seq) -> Posting {
        let id = !u16::from_be_bytes([id.0[0], id.0[1]]);
        Posting { place: u64::from(index_time(created_at)) << 16 | u64::from(id), seq }
    }

    pub fn time(&self) -> u32 {
        (self.place >> 16) as u32
    }

    /// Reads a posting back from its key and duplicate; `None` when the lengths are wrong.
    pub fn read(index: Index, key: &[u8], value: &[u8]) -> Option<Posting> {
        let split = index.time_bytes_in_key();
        let high = key.get(index.prefix_len()..)?;
        if high.len() != split || value.len() != 6 - split + 5 {
            return None;
        }
        let (low, seq) = value.split_at(6 - split);
        let mut place = [0; 8];
        place[2..2 + split].copy_from_slice(high);
        place[2 + split..].copy_from_slice(low);
        Some(Posting { place: u64::from_be_bytes(place), seq: read_seq(seq)? })
    }
}

/// The key of the bucket that holds second `time` below `prefix`.
pub fn time_key(index: Index, prefix: &Short, time: u32) -> Short {
    let mut key = *prefix;
    key.push(&time.to_be_bytes()[..index.time_bytes_in_key()]);
    key
}

pub fn kind_prefix(kind: Kind) -> Short {
    Short::of(&[&kind.0.to_be_bytes()])
}

/// The seven bytes all of an author's postings begin with.
pub fn author_stem(author: &PublicKey) -> Short {
    Short::of(&[&author.0[..7]])
}

/// A stem (author or tag) narrowed to one kind: what stands before the time in `authors` and `tags`.
pub fn with_kind(stem: &Short, kind: Kind) -> Short {
    let mut prefix = *stem;
    prefix.push(&kind.0.to_be_bytes());
    prefix
}

/// Hashes under the key drawn for this database, so that nobody outside can grind collisions.
#[derive(Clone)]
pub struct KeyHasher(pub [u8; 16]);

impl KeyHasher {
    /// The seven bytes all postings of one tag value begin with.
    pub fn tag_stem(&self, name: TagName, value: TagRef<'_>) -> Short {
        Short::of(&[&self.tag_hash(name, value).to_be_bytes()[..7]])
    }

    fn tag_hash(&self, name: TagName, value: TagRef<'_>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&[b't', name.as_byte()]);
        match value {
            TagRef::Hex(bytes) => {
                hasher.write(&[1]);
                hasher.write(&bytes);
            }
            TagRef::Text(text) => {
                hasher.write(&[0]);
                hasher.write(text.as_bytes());
            }
        }
        hasher.finish()
    }

    /// The same for a value out of a filter.
    pub fn filter_stem(&self, name: TagName, value: &TagValue) -> Short {
        match value {
            TagValue::Hex(bytes) => self.tag_stem(name, TagRef::Hex(*bytes)),
            TagValue::Text(text) => self.tag_stem(name, TagRef::Text(text)),
        }
    }

    /// What stands for an address: kind, author and, for addressable kinds, identifier.
    pub fn address_hash(&self, kind: Kind, author: &PublicKey, identifier: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(b"a");
        hasher.write(&kind.0.to_be_bytes());
        hasher.write(&author.0);
        hasher.write(identifier.as_bytes());
        hasher.finish()
    }
}

/// The key of `addresses`; `stem` has seven bytes.
pub fn address_key(stem: u64, seq: Seq) -> Short {
    stem_seq(&stem.to_be_bytes()[1..], seq)
}

/// A stem of seven bytes followed by a sequence number: the keys of `ids` and `addresses`.
pub fn stem_seq(stem: &[u8], seq: Seq) -> Short {
    Short::of(&[stem, &seq_bytes(seq)])
}

/// The seven bytes under which an id stands in `ids`.
pub fn id_stem(id: &EventId) -> Short {
    Short::of(&[&id.0[..7]])
}

/// The key of `expirations`; times beyond 40 bits stand at the end, where nothing is ever due.
pub fn expiration_key(expiration: u64, seq: Seq) -> Short {
    Short::of(&[&seq_bytes(expiration.min(SEQ_END - 1)), &seq_bytes(seq)])
}

/// One index entry, key and duplicate together, in numbers that sort as their bytes do. Sorting and merging entries
/// by the million is what importing is; in this form a comparison costs a nanosecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The seven bytes of an author's or a tag's stem; 0 in `time` and `kinds`.
    stem: u64,
    /// The kind, but 0 in `time`; then the second and the inverted id bytes, as in [`Posting::place`].
    rest: u64,
    /// Whose entry it is.
    pub seq: Seq,
}

impl Entry {
    fn new(stem: u64, kind: u16, posting: Posting) -> Entry {
        Entry { stem, rest: u64::from(kind) << 48 | posting.place, seq: posting.seq }
    }

    /// The key under which this entry stands in `index`.
    pub fn key(&self, index: Index) -> Short {
        let rest = &self.rest.to_be_bytes()[..2 + index.time_bytes_in_key()];
        match index {
            Index::Time => Short::of(&[&rest[2..]]),
            Index::Kinds => Short::of(&[rest]),
            Index::Authors | Index::Tags => Short::of(&[&self.stem.to_be_bytes()[1..], rest]),
        }
    }

    /// Its duplicate there.
    pub fn value(&self, index: Index) -> Short {
        let rest = &self.rest.to_be_bytes()[2 + index.time_bytes_in_key()..];
        Short::of(&[rest, &seq_bytes(self.seq)])
    }
}

/// What indices need of an event and what takes hashing to find out: the stems of its tags, in order, each once.
pub fn tag_stems(hasher: &KeyHasher, event: &impl EventFields) -> Vec<u64> {
    let mut stems = Vec::new();
    let _ = event.visit_indexed_tags(|name, value| {
        if is_indexed(name, &value) {
            stems.push(hasher.tag_hash(name, value) >> 8);
        }
        std::ops::ControlFlow::Continue(())
    });
    // An event may carry the same tag many times, a contact list thousands of different ones.
    stems.sort_unstable();
    stems.dedup();
    stems
}

/// Calls `each` with every place an event has in the four indices, each once. `stems` are those of its tags.
pub fn each_entry(event: &impl EventFields, stems: &[u64], seq: Seq, each: &mut impl FnMut(Index, Entry)) {
    let (kind, author) = (event.kind().0, event.pubkey());
    let posting = Posting::new(event.created_at(), &event.id(), seq);
    each(Index::Time, Entry::new(0, 0, posting));
    each(Index::Kinds, Entry::new(0, kind, posting));
    each(Index::Authors, Entry::new(u64::from_be_bytes(first_eight(&author.0)) >> 8, kind, posting));
    for &stem in stems {
        each(Index::Tags, Entry::new(stem, kind, posting));
    }
}

fn first_eight(bytes: &[u8; 32]) -> [u8; 8] {
    std::array::from_fn(|i| bytes[i])
}

/// Values of `e` and `p` that are not 64 hex digits can never be asked for (N01-30, N01-51), so they take no room.
fn is_indexed(name: TagName, value: &TagRef<'_>) -> bool {
    !matches!((name.as_byte(), value), (b'e' | b'p', TagRef::Text(_)))
}
