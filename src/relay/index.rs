//! The live index: which open subscriptions may want an event.
//!
//! Each filter is entered under its most selective field: its ids, its authors, the values of one tag, its kinds, or else
//! the list of those that may want anything. An event looks up its own fields. So the cost of an event follows the
//! subscriptions that may want it, not those that are open; whether they do want it, the full filter decides.
//!
//! Fields are entered as 64-bit hashes under a key of this process: an entry takes 24 bytes instead of the 90 of the
//! field itself, nobody outside can grind collisions, and a collision costs one look at a filter. Hashing needs no lock,
//! and entering and leaving go field by field, each at a constant cost, so that whoever holds the lock can let go of it
//! in between.

use std::collections::{HashMap, HashSet, hash_map};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::subscription::Subscription;
use crate::nostr::{EventFields, Filter, TagRef};

/// What an entry takes, in bytes, its share of the tables' empty places included.
pub(super) const ENTRY_BYTES: usize = 48;

/// Tables that the entries are spread over: none is ever so large that its growing would be felt.
const SHARDS: usize = 64;

/// Longer lists of subscriptions become sets.
const LONG: usize = 32;

/// The index. A subscription has a number here as long as it is in it.
pub(super) struct Index {
    entries: [HashMap<u64, Entry, BuildHasherDefault<AsIs>>; SHARDS],
    subscriptions: Vec<Option<Arc<Subscription>>>,
    vacant: Vec<u32>,
    open: usize,
}

/// The subscriptions under one field: most often a single one.
#[allow(clippy::box_collection, reason = "the box makes an entry 16 bytes instead of 24, and there are millions")]
enum Entry {
    One(u32),
    Few(Box<Vec<u32>>),
    Many(Box<HashSet<u32, BuildHasherDefault<Spread>>>),
}

impl Entry {
    fn add(&mut self, number: u32) {
        match self {
            Entry::One(other) => *self = Entry::Few(Box::new(vec![*other, number])),
            Entry::Few(numbers) if numbers.len() < LONG => numbers.push(number),
            Entry::Few(numbers) => {
                let numbers = numbers.iter().copied().chain([number]).collect();
                *self = Entry::Many(Box::new(numbers));
            }
            Entry::Many(numbers) => {
                numbers.insert(number);
            }
        }
    }

    /// Takes a number out; true when none is left.
    fn remove(&mut self, number: u32) -> bool {
        match self {
            Entry::One(own) => return *own == number,
            Entry::Few(numbers) => {
                if let Some(at) = numbers.iter().position(|&other| other == number) {
                    numbers.swap_remove(at);
                }
                if let [last] = numbers[..] {
                    *self = Entry::One(last);
                }
            }
            Entry::Many(numbers) => {
                numbers.remove(&number);
                // Half, so that one who comes and goes does not turn the list into a set and back each time.
                if numbers.len() < LONG / 2 {
                    *self = Entry::Few(Box::new(numbers.iter().copied().collect()));
                } else if numbers.capacity() > 4 * numbers.len() {
                    numbers.shrink_to_fit();
                }
            }
        }
        false
    }

    fn for_each(&self, each: impl FnMut(u32)) {
        match self {
            Entry::One(number) => [*number].into_iter().for_each(each),
            Entry::Few(numbers) => numbers.iter().copied().for_each(each),
            Entry::Many(numbers) => numbers.iter().copied().for_each(each),
        }
    }
}

/// Entries are keyed by hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        debug_assert!(false, "keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Spreads the numbers of subscriptions, which we gave out ourselves, over 64 bits.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        debug_assert!(false, "keys are u32");
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// A field by which subscriptions are found.
#[derive(Hash)]
enum Field<'a> {
    Id(&'a [u8; 32]),
    Author(&'a [u8; 32]),
    Tag(u8, TagRef<'a>),
    Kind(u16),
    /// No field at all: whatever comes.
    Any,
}

/// Turns fields into what they are entered under.
pub(super) struct FieldHasher {
    key: [u8; 16],
}

impl FieldHasher {
    pub fn new() -> FieldHasher {
        let mut key = [0; 16];
        // Without random bytes the index works as well; only whoever knows that could make it slow.
        let _ = getrandom::fill(&mut key);
        FieldHasher { key }
    }

    fn hash(&self, field: &Field<'_>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        field.hash(&mut hasher);
        hasher.finish()
    }

    /// The fields under which filters stand, each once.
    pub fn of_filters(&self, filters: &[Filter]) -> Vec<u64> {
        let mut fields = Vec::new();
        for filter in filters.iter().filter(|filter| !filter.is_impossible()) {
            // Among authors and tags the shorter list is the smaller entry; both are far rarer in events than kinds.
            let tag = filter.tags.iter().min_by_key(|(_, values)| values.len());
            let authors = filter.authors.as_ref().filter(|a| tag.is_none_or(|(_, values)| a.len() <= values.len()));
            match (&filter.ids, authors, tag, &filter.kinds) {
                (Some(ids), ..) => fields.extend(ids.iter().map(|id| self.hash(&Field::Id(&id.0)))),
                (None, Some(authors), ..) => {
                    fields.extend(authors.iter().map(|author| self.hash(&Field::Author(&author.0))));
                }
                (None, None, Some((name, values)), _) => {
                    let values = values.iter().map(|value| Field::Tag(name.as_byte(), value.as_tag_ref()));
                    fields.extend(values.map(|field| self.hash(&field)));
                }
                (None, None, None, Some(kinds)) => {
                    fields.extend(kinds.iter().map(|kind| self.hash(&Field::Kind(kind.0))));
                }
                (None, None, None, None) => fields.push(self.hash(&Field::Any)),
            }
        }
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    /// The fields under which an event is looked for.
    pub fn of_event(&self, event: &impl EventFields) -> Vec<u64> {
        let mut fields = vec![
            self.hash(&Field::Any),
            self.hash(&Field::Id(&event.id().0)),
            self.hash(&Field::Author(&event.pubkey().0)),
            self.hash(&Field::Kind(event.kind().0)),
        ];
        let _ = event.visit_indexed_tags(|name, value| {
            fields.push(self.hash(&Field::Tag(name.as_byte(), value)));
            ControlFlow::Continue(())
        });
        fields
    }
}

impl Index {
    pub fn new() -> Index {
        Index {
            entries: std::array::from_fn(|_| HashMap::default()),
            subscriptions: Vec::new(),
            vacant: Vec::new(),
            open: 0,
        }
    }

    /// How many subscriptions are in it.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Gives a subscription its number; it is found under the fields that are entered from now on.
    pub fn admit(&mut self, subscription: &Arc<Subscription>) -> u32 {
        self.open += 1;
        match self.vacant.pop() {
            Some(number) => {
                self.subscriptions[number as usize] = Some(subscription.clone());
                number
            }
            None => {
                self.subscriptions.push(Some(subscription.clone()));
                (self.subscriptions.len() - 1) as u32
            }
        }
    }

    /// Enters a subscription under some of its fields.
    pub fn enter(&mut self, number: u32, fields: &[u64]) {
        for &field in fields {
            match self.shard(field).entry(field) {
                hash_map::Entry::Vacant(entry) => {
                    entry.insert(Entry::One(number));
                }
                hash_map::Entry::Occupied(mut entry) => entry.get_mut().add(number),
            }
        }
    }

    /// Ends a subscription: nobody finds it any more. `None` when it was ended before.
    pub fn dismiss(&mut self, number: u32) -> Option<Arc<Subscription>> {
        let subscription = self.subscriptions.get_mut(number as usize)?.take();
        self.open -= usize::from(subscription.is_some());
        subscription
    }

    /// Takes an ended subscription out from under some of its fields.
    pub fn leave(&mut self, number: u32, fields: &[u64]) {
        for &field in fields {
            let shard = self.shard(field);
            if let hash_map::Entry::Occupied(mut entry) = shard.entry(field)
                && entry.get_mut().remove(number)
            {
                entry.remove();
                // Memory follows what is open, not what was once open.
                if shard.capacity() > 4 * shard.len() + 256 {
                    shard.shrink_to_fit();
                }
            }
        }
    }

    /// Gives the number of a subscription free that has left all its fields.
    pub fn release(&mut self, number: u32) {
        self.vacant.push(number);
    }

    /// The numbers of all who stand under one of the fields of an event; who stands under several comes as many times.
    pub fn candidates(&self, fields: &[u64], mut each: impl FnMut(u32)) {
        for field in fields {
            if let Some(entry) = self.entries[shard_of(*field)].get(field) {
                entry.for_each(&mut each);
            }
        }
    }

    /// The subscription that has this number now.
    pub fn get(&self, number: u32) -> Option<Arc<Subscription>> {
        self.subscriptions.get(number as usize)?.clone()
    }

    fn shard(&mut self, field: u64) -> &mut HashMap<u64, Entry, BuildHasherDefault<AsIs>> {
        &mut self.entries[shard_of(field)]
    }
}

/// The tables use the lowest and the highest bits themselves.
fn shard_of(field: u64) -> usize {
    (field >> 32) as usize % SHARDS
}
