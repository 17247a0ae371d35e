//! The live index: which open subscriptions may want an event.
//!
//! Each filter is entered under its most selective field: its ids, its authors, the values of one tag, its kinds, or else
//! the list of those that may want anything. An event looks up its own fields. So the cost of an event follows the
//! subscriptions that may want it, not those that are open; whether they do want it, the full filter decides.
//!
//! Fields are entered as 64-bit hashes under a key of this process: an entry takes 24 bytes instead of the 90 of the
//! field itself, nobody outside can grind collisions, and a collision costs one look at a filter.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::subscription::Subscription;
use crate::nostr::{EventFields, Filter, TagRef};

/// The index. A subscription has a number here as long as it is in it.
pub(super) struct Index {
    hash_key: [u8; 16],
    entries: HashMap<u64, Entry, BuildHasherDefault<AsIs>>,
    /// Those with a filter that names no field at all.
    any: Vec<u32>,
    subscriptions: Vec<Option<Arc<Subscription>>>,
    vacant: Vec<u32>,
}

/// The subscriptions under one field: most often a single one.
#[allow(clippy::box_collection, reason = "the box makes an entry 16 bytes instead of 24, and there are millions")]
enum Entry {
    One(u32),
    Many(Box<Vec<u32>>),
}

impl Entry {
    fn list(&self) -> &[u32] {
        match self {
            Entry::One(number) => std::slice::from_ref(number),
            Entry::Many(numbers) => numbers,
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

/// A field by which subscriptions are found.
#[derive(Hash)]
enum Field<'a> {
    Id(&'a [u8; 32]),
    Author(&'a [u8; 32]),
    Tag(u8, TagRef<'a>),
    Kind(u16),
}

impl Index {
    pub fn new() -> Index {
        let mut hash_key = [0; 16];
        // Without random bytes the index works as well; only whoever knows that could make it slow.
        let _ = getrandom::fill(&mut hash_key);
        Index { hash_key, entries: HashMap::default(), any: Vec::new(), subscriptions: Vec::new(), vacant: Vec::new() }
    }

    /// How many subscriptions are in it.
    pub fn len(&self) -> usize {
        self.subscriptions.len() - self.vacant.len()
    }

    /// Enters a subscription and returns its number, by which it is taken out again.
    pub fn enter(&mut self, subscription: &Arc<Subscription>) -> u32 {
        let number = match self.vacant.pop() {
            Some(number) => {
                self.subscriptions[number as usize] = Some(subscription.clone());
                number
            }
            None => {
                self.subscriptions.push(Some(subscription.clone()));
                (self.subscriptions.len() - 1) as u32
            }
        };
        let (fields, any) = self.fields(&subscription.filters);
        for field in fields {
            match self.entries.entry(field) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(Entry::One(number));
                }
                std::collections::hash_map::Entry::Occupied(mut entry) => match entry.get_mut() {
                    Entry::One(other) => *entry.get_mut() = Entry::Many(Box::new(vec![*other, number])),
                    Entry::Many(numbers) => numbers.push(number),
                },
            }
        }
        if any {
            self.any.push(number);
        }
        number
    }

    /// Takes a subscription out.
    pub fn leave(&mut self, number: u32) {
        let Some(subscription) = self.subscriptions.get_mut(number as usize).and_then(Option::take) else { return };
        self.vacant.push(number);
        let (fields, any) = self.fields(&subscription.filters);
        for field in fields {
            let std::collections::hash_map::Entry::Occupied(mut entry) = self.entries.entry(field) else { continue };
            match entry.get_mut() {
                Entry::One(own) if *own == number => {
                    entry.remove();
                }
                Entry::One(_) => {}
                Entry::Many(numbers) => {
                    remove(numbers, number);
                    if let [last] = numbers[..] {
                        *entry.get_mut() = Entry::One(last);
                    }
                }
            }
        }
        if any {
            remove(&mut self.any, number);
        }
        // Memory follows what is open, not what was once open.
        if self.entries.capacity() > 4 * self.entries.len() + 1024 {
            self.entries.shrink_to_fit();
        }
    }

    /// Everyone who may want the event, each once.
    pub fn candidates(&self, event: &impl EventFields) -> Vec<Arc<Subscription>> {
        let mut numbers = self.any.clone();
        let mut look_up = |field: Field<'_>| {
            if let Some(entry) = self.entries.get(&self.hash(&field)) {
                numbers.extend_from_slice(entry.list());
            }
        };
        look_up(Field::Id(&event.id().0));
        look_up(Field::Author(&event.pubkey().0));
        look_up(Field::Kind(event.kind().0));
        let _ = event.visit_indexed_tags(&mut |name, value| {
            look_up(Field::Tag(name.as_byte(), value));
            ControlFlow::Continue(())
        });
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().filter_map(|&number| self.subscriptions.get(number as usize)?.clone()).collect()
    }

    fn hash(&self, field: &Field<'_>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        field.hash(&mut hasher);
        hasher.finish()
    }

    /// The fields under which filters stand, each once, and whether one of them stands under none.
    fn fields(&self, filters: &[Filter]) -> (Vec<u64>, bool) {
        let mut fields = Vec::new();
        let mut any = false;
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
                (None, None, None, None) => any = true,
            }
        }
        fields.sort_unstable();
        fields.dedup();
        (fields, any)
    }
}

fn remove(numbers: &mut Vec<u32>, number: u32) {
    if let Some(at) = numbers.iter().position(|&other| other == number) {
        numbers.swap_remove(at);
    }
}
