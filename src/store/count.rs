//! COUNT: how many events match, from the index alone wherever the index can be trusted.
//!
//! The postings of `time` and `kinds` say all that a question of times and kinds asks, so they are counted as they are. Those of `authors` and
//! `tags` stand under seven bytes of a key or of a hash, which two authors or two values might share; there each record is looked at, once:
//! when a whole range turned out to have a single owner, the store remembers it, and the next count looks only at what came since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::cursor::{Cursor, Order, Window};
use super::keys::{Index, Seq, Short};
use super::plan::{self, Access, Plan, plan};
use super::record::Record;
use super::scan::{Budget, Progress, Scan, Visible, any_expired};
use super::{Store, StoreError, get_record, next_seq};
use crate::nostr::{Audience, EventFields, Filter, Kind, PublicKey, TagName, TagValue};

/// How many events match any of some filters, each once; limits are ignored (N45-04). Runs in slices like a [`Scan`].
#[derive(Debug)]
pub struct Count {
    filters: Arc<[Filter]>,
    found: u64,
    walked: u64,
    force: Option<usize>,
    visible: Visible,
    /// Events of public kinds may be hidden, too.
    look_at_all: bool,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Unknown,
    /// Every match is fetched: unions, ids, several values of a tag. An event may stand in several places there and counts once.
    Scan(Scan),
    /// Every posting is another event.
    Ranges(Ranges),
}

#[derive(Debug)]
struct Ranges {
    index: Index,
    /// Not yet counted, the next one last.
    left: Vec<Range>,
    /// Whether postings alone decide, but for owners.
    decisive: bool,
    /// The first number that was not given out when the count began.
    before: Seq,
}

#[derive(Debug)]
struct Range {
    prefix: Short,
    cursor: Cursor,
    /// Below this number every posting is a match.
    known: Seq,
    /// The owner of all postings known or met so far, while there is only one.
    owner: Option<Owner>,
    /// Whether there was one yet.
    begun: bool,
}

/// Postings that are read at a time.
const CHUNK: usize = 512;

impl Count {
    /// A count of everything stored when it runs.
    pub fn new(filters: impl Into<Arc<[Filter]>>) -> Count {
        let mut filters: Arc<[Filter]> = filters.into();
        if filters.iter().any(|filter| filter.limit.is_some()) {
            filters = filters.iter().map(|filter| Filter { limit: None, ..filter.clone() }).collect();
        }
        Count {
            filters,
            found: 0,
            walked: 0,
            force: None,
            visible: Visible(None),
            look_at_all: false,
            way: Way::Unknown,
        }
    }

    /// Passes over records for which `may_see` is false, as [`Scan::visible`]. Unless `look_at_all` is set it is asked about kinds with a
    /// restricted audience only.
    pub fn visible(
        mut self,
        may_see: impl Fn(&Record<'_>) -> bool + Send + Sync + 'static,
        look_at_all: bool,
    ) -> Count {
        self.visible = Visible(Some(Arc::new(may_see)));
        self.look_at_all = look_at_all;
        self
    }

    /// As [`Scan::forced`]. For tests.
    #[doc(hidden)]
    pub fn forced(mut self, candidate: usize) -> Count {
        self.force = Some(candidate);
        self
    }

    /// How many were found so far: the answer once [`Count::run`] says that it is done.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Index entries walked so far.
    pub fn walked(&self) -> u64 {
        self.walked
    }

    /// The way that the count takes.
    pub fn access(&self) -> Access {
        match &self.way {
            Way::Unknown => Access::Nothing,
            Way::Scan(scan) => scan.access(),
            Way::Ranges(ranges) => plan::access(ranges.index),
        }
    }

    /// Bytes it holds between two slices, its filters aside.
    pub fn memory(&self) -> usize {
        match &self.way {
            Way::Unknown => 0,
            Way::Scan(scan) => scan.memory(),
            Way::Ranges(ranges) => ranges.left.capacity() * size_of::<Range>(),
        }
    }

    /// Counts on until the budget is spent or everything is counted. Events that expire by `now` do not count (N40-03).
    pub fn run(&mut self, store: &Store, now: u64, budget: Budget) -> Result<Progress, StoreError> {
        if matches!(self.way, Way::Unknown) {
            self.way = self.choose(store)?;
        }
        match &mut self.way {
            Way::Ranges(ranges) => {
                let txn = store.read()?;
                let deadline = Instant::now() + budget.time;
                let expiry_due = any_expired(store, &txn, now)?;
                let mut walked = 0;
                let filter = &self.filters[0];
                while let Some(range) = ranges.left.last_mut() {
                    let wanted = usize::try_from(budget.keys).unwrap_or(CHUNK).clamp(1, CHUNK);
                    let chunk = range.cursor.read(store, &txn, wanted)?;
                    walked += chunk.len() as u64 + 1;
                    for posting in &chunk {
                        if ranges.decisive && !expiry_due && posting.seq < range.known {
                            self.found += 1;
                            continue;
                        }
                        let record = get_record(store, &txn, posting.seq)?;
                        let matching = record.filter(|record| filter.matches(record));
                        range.meet(ranges.index, filter, matching.as_ref().map(EventFields::pubkey));
                        self.found += u64::from(matching.is_some_and(|record| {
                            (!expiry_due || record.expiration().is_none_or(|at| at > now))
                                && self.visible.0.as_ref().is_none_or(|may_see| may_see(&record))
                        }));
                    }
                    if chunk.len() < wanted
                        && let Some(range) = ranges.left.pop()
                        && ranges.decisive
                        && is_whole(filter)
                        && let Some(owner) = range.owner
                    {
                        store.owners().remember(ranges.index, range.prefix, owner, ranges.before);
                    }
                    if walked >= budget.keys || Instant::now() >= deadline {
                        break;
                    }
                }
                self.walked += walked;
                Ok(if ranges.left.is_empty() { Progress::Done } else { Progress::More })
            }
            Way::Scan(scan) => {
                let found = &mut self.found;
                let progress = scan.run(store, now, budget, &mut |_| {
                    *found += 1;
                    std::ops::ControlFlow::Continue(())
                });
                self.walked = scan.walked();
                progress
            }
            Way::Unknown => Ok(Progress::More),
        }
    }

    fn choose(&self, store: &Store) -> Result<Way, StoreError> {
        let scan = || {
            let mut scan = Scan::new(self.filters.clone(), Order::NewestFirst);
            if let Some(candidate) = self.force {
                scan = scan.forced(candidate);
            }
            if let Some(may_see) = self.visible.0.clone() {
                scan = scan.visible(move |record| may_see(record));
            }
            Way::Scan(scan)
        };
        let [filter] = &*self.filters else { return Ok(scan()) };
        let txn = store.read()?;
        let Plan::Ranges { index, prefixes } = plan(store, &txn, filter, Order::NewestFirst, self.force)? else {
            return Ok(scan());
        };
        if index == Index::Tags && filter.tags.iter().any(|(_, values)| values.len() != 1) {
            return Ok(scan());
        }
        let window = Window::of(filter);
        let left = prefixes.into_iter().map(|prefix| {
            let known = store.owners().known(index, &prefix, filter);
            let (known, owner) = match index {
                // What not everybody may see is looked at each time.
                _ if self.look_at_all => (0, None),
                _ if self.visible.0.is_some() && !index.kind_of(&prefix).is_some_and(is_public) => (0, None),
                Index::Time | Index::Kinds => (Seq::MAX, None),
                Index::Authors | Index::Tags => known.map_or((0, None), |(owner, before)| (before, Some(owner))),
            };
            let cursor = Cursor::new(index, prefix, window, Order::NewestFirst);
            Range { prefix, cursor, known, begun: owner.is_some(), owner }
        });
        let ranges = Ranges {
            index,
            left: left.collect(),
            decisive: decides(index, filter),
            before: next_seq(store.tables(), &txn)?,
        };
        Ok(Way::Ranges(ranges))
    }
}

impl Range {
    /// Notes whose posting was met: that of `author`'s event, or of one that does not match.
    fn meet(&mut self, index: Index, filter: &Filter, author: Option<PublicKey>) {
        let owner = match (index, author) {
            (Index::Authors, Some(author)) => Some(Owner::Author(author)),
            (Index::Tags, Some(_)) => {
                filter.tags.first().and_then(|(name, values)| Owner::of_tag(*name, values.first()?))
            }
            _ => None,
        };
        if !self.begun {
            self.begun = true;
            self.owner = owner;
        } else if self.owner != owner {
            self.owner = None;
        }
    }
}

fn is_public(kind: Kind) -> bool {
    kind.audience() == Audience::Public
}

/// Whether the postings of an index say all that the filter asks, owners aside.
fn decides(index: Index, filter: &Filter) -> bool {
    // The last second of an index stands for everything later.
    let times =
        filter.since.is_none_or(|t| t < u64::from(u32::MAX)) && filter.until.is_none_or(|t| t < u64::from(u32::MAX));
    let (authors, tags) = (filter.authors.is_some(), filter.tags.len());
    times
        && match index {
            Index::Time => !authors && tags == 0 && filter.kinds.is_none(),
            Index::Kinds => !authors && tags == 0,
            Index::Authors => authors && tags == 0,
            Index::Tags => !authors && tags == 1,
        }
}

/// Whether the filter asks for whole ranges, so that what is met there is all there is.
fn is_whole(filter: &Filter) -> bool {
    filter.since.is_none() && filter.until.is_none()
}

/// Whose events stand in a range of `authors` or `tags`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Author(PublicKey),
    Tag(TagName, TagValue),
}

impl Owner {
    /// Long values are not worth their memory.
    fn of_tag(name: TagName, value: &TagValue) -> Option<Owner> {
        match value {
            TagValue::Text(text) if text.len() > LONGEST_OWNER => None,
            value => Some(Owner::Tag(name, value.clone())),
        }
    }
}

const LONGEST_OWNER: usize = 64;

/// Ranges that are remembered; at the bound all are forgotten and learned anew.
const MAX_OWNERS: usize = 8192;

/// Ranges that were found to have a single owner. Numbers are never given out twice and events never change, so what was true below a number
/// stays true, whoever writes meanwhile.
#[derive(Default)]
pub struct Owners(Mutex<HashMap<(Index, Short), (Owner, Seq)>>);

impl Owners {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Index, Short), (Owner, Seq)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner of all postings of the range below a number, if the filter asks for them.
    fn known(&self, index: Index, prefix: &Short, filter: &Filter) -> Option<(Owner, Seq)> {
        let wanted = |owner: &Owner| match owner {
            Owner::Author(author) => {
                filter.authors.as_ref().is_some_and(|authors| authors.binary_search(author).is_ok())
            }
            Owner::Tag(name, value) => filter.tags.iter().any(|(n, values)| n == name && values.contains(value)),
        };
        self.lock().get(&(index, *prefix)).filter(|(owner, _)| wanted(owner)).cloned()
    }

    fn remember(&self, index: Index, prefix: Short, owner: Owner, before: Seq) {
        let mut owners = self.lock();
        if owners.len() >= MAX_OWNERS && !owners.contains_key(&(index, prefix)) {
            owners.clear();
        }
        owners.insert((index, prefix), (owner, before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that shares its first seven bytes with all others made here.
    fn key(n: u8) -> PublicKey {
        let mut key = PublicKey([7; 32]);
        key.0[31] = n;
        key
    }

    fn put(store: &Store, author: PublicKey, n: u8) {
        let mut event = crate::nostr::Event {
            id: crate::nostr::EventId([n; 32]),
            pubkey: author,
            created_at: u64::from(n),
            kind: Kind(1),
            tags: Default::default(),
            content: String::new().into(),
            sig: crate::nostr::Signature([0; 64]),
        };
        event.tags.push(["t", "x"]);
        let mut batch = store.batch(0).expect("batch");
        batch.apply(&store.prepare(&event)).expect("apply");
        batch.commit().expect("commit");
    }

    fn count(store: &Store, filter: &Filter) -> (u64, Seq) {
        let mut count = Count::new(vec![filter.clone()]);
        let budget = Budget { keys: 1, time: std::time::Duration::ZERO };
        let mut known = 0;
        while count.run(store, 0, budget).expect("count") == Progress::More {
            if let Way::Ranges(Ranges { left, .. }) = &count.way {
                known = left.iter().map(|range| range.known).max().unwrap_or(known);
            }
        }
        (count.found(), known)
    }

    #[test]
    fn an_owner_is_remembered_until_another_one_shares_the_range() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path(), 1 << 30).expect("open");
        let of = |authors: &[u8]| Filter {
            authors: Some(authors.iter().map(|&n| key(n)).collect()),
            kinds: Some(vec![Kind(1)]),
            ..Filter::default()
        };
        let topic = Filter {
            tags: vec![(TagName::from_byte(b't').expect("a letter"), vec![TagValue::new("x")])],
            kinds: Some(vec![Kind(1)]),
            ..Filter::default()
        };
        for n in 0..4 {
            put(&store, key(1), n);
        }
        assert_eq!(count(&store, &of(&[1])), (4, 0), "nothing is known yet");
        assert_eq!(count(&store, &of(&[1])), (4, 4), "all are known");
        assert_eq!(count(&store, &of(&[2])), (0, 0), "what is known of one author says nothing to another");
        assert_eq!(count(&store, &topic), (4, 0));
        assert_eq!(count(&store, &topic), (4, 4));
        // Another author with the same seven bytes: beyond what is known each record is looked at.
        put(&store, key(2), 10);
        put(&store, key(1), 11);
        for _ in 0..3 {
            assert_eq!(count(&store, &of(&[1])).0, 5);
            assert_eq!(count(&store, &of(&[2])).0, 1);
            assert_eq!(count(&store, &of(&[1, 2])).0, 6);
            assert_eq!(count(&store, &topic).0, 6);
        }
    }
}
