//! Questions that run in slices: merged over filters and ranges, in the order of NIP-01, resumable at any event.
//!
//! A [`Scan`] keeps its place as plain numbers. Each call of [`Scan::run`] opens a read transaction, walks on until its budget
//! is spent, and lets go of it; so no question, however large or however slow its reader, pins the database or its thread.
//! Between slices events may go (they are passed over) or come (they carry higher sequence numbers than the scan wants).

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::{Bound, ControlFlow, Deref};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heed::RoTxn;
use heed::types::Bytes;

use super::cursor::{Cursor, Order, Stream, Window};
use super::keys::{Index, Seq, Short, read_seq, seq_bytes};
use super::plan::{Access, NEAR, Plan, plan};
use super::record::Record;
use super::{Store, StoreError, damaged_key, find_id, get_record, next_seq, read_record};
use crate::nostr::{EventFields, EventId, Filter};

/// What one slice may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Index entries to walk.
    pub keys: u64,
    /// Time to spend.
    pub time: Duration,
}

impl Budget {
    /// A slice for a command that owns its thread: long enough to be fast, short enough not to pin the database.
    pub const COMMAND: Budget = Budget { keys: 1_000_000, time: Duration::from_millis(100) };
}

/// Whether there is more to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The budget is spent or the caller broke off; call again to go on.
    More,
    /// Every match has been seen.
    Done,
}

/// A question: the union of its filters, each with its own limit, every event once (N01-64).
#[derive(Debug)]
pub struct Scan {
    parts: Vec<Part>,
    order: Order,
    /// Events with this number and above do not belong to the answer; not known before the first slice of a snapshot.
    before: Option<Seq>,
    walked: u64,
    force: Option<usize>,
    visible: Visible,
}

/// Whether a record exists as far as the asker is concerned.
pub(super) type MaySee = dyn Fn(&Record<'_>) -> bool + Send + Sync;

/// Which records exist as far as the asker is concerned: all, or those that pass.
pub(super) struct Visible(pub Option<Arc<MaySee>>);

impl std::fmt::Debug for Visible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Some(..)" } else { "None" })
    }
}

impl Scan {
    /// A scan of everything stored when it runs, what comes between its slices included.
    pub fn new(filters: impl Into<Arc<[Filter]>>, order: Order) -> Scan {
        let filters = filters.into();
        let parts = (0..filters.len()).map(|at| Part::new(OneOf { filters: filters.clone(), at })).collect();
        Scan { parts, order, before: Some(Seq::MAX), walked: 0, force: None, visible: Visible(None) }
    }

    /// A scan of what is stored when its first slice begins.
    pub fn snapshot(filters: impl Into<Arc<[Filter]>>, order: Order) -> Scan {
        Scan { before: None, ..Scan::new(filters, order) }
    }

    /// Passes over records for which `may_see` is false, as if they were not stored: they do not count towards a limit.
    pub fn visible(mut self, may_see: impl Fn(&Record<'_>) -> bool + Send + Sync + 'static) -> Scan {
        self.visible = Visible(Some(Arc::new(may_see)));
        self
    }

    /// Has each filter answered by one of the indices that could, whatever it costs. For tests: the answer must not depend on it.
    #[doc(hidden)]
    pub fn forced(mut self, candidate: usize) -> Scan {
        self.force = Some(candidate);
        self
    }

    /// The sequence number at which a snapshot ends; `None` before its first slice.
    pub fn before(&self) -> Option<Seq> {
        self.before
    }

    /// Whether no limit cut the answer off: everything that matches has been seen. Known when the scan is done.
    pub fn is_complete(&self) -> bool {
        self.parts.iter().all(|part| part.remaining > 0)
    }

    /// The way that its filters took.
    pub fn access(&self) -> Access {
        Access::of_all(self.parts.iter().map(|part| part.access))
    }

    /// Index entries walked so far.
    pub fn walked(&self) -> u64 {
        self.walked
    }

    /// Bytes that it holds between two calls of [`Scan::run`], beside the filters.
    pub fn memory(&self) -> usize {
        self.parts.iter().map(Part::memory).sum()
    }

    /// Walks on until the budget is spent, the answer is complete, or `each` breaks off. `each` gets every match once, in order; the
    /// event at which it breaks counts as delivered. Events that expire by `now` are left out (N40-03). At least one step is made in every
    /// call, so that a scan always comes to its end.
    pub fn run(
        &mut self,
        store: &Store,
        now: u64,
        budget: Budget,
        each: &mut dyn FnMut(&Record<'_>) -> ControlFlow<()>,
    ) -> Result<Progress, StoreError> {
        let txn = store.read()?;
        let before = match self.before {
            Some(before) => before,
            None => next_seq(store.tables(), &txn)?,
        };
        self.before = Some(before);
        let slice = Slice {
            store,
            txn: &txn,
            order: self.order,
            before,
            now,
            expiry_due: any_expired(store, &txn, now)?,
            deadline: Instant::now() + budget.time,
            keys: budget.keys,
            force: self.force,
            visible: self.visible.0.as_deref(),
            near: RefCell::new(None),
            fetched: Cell::new(0),
            confirmed: RefCell::new(Vec::new()),
            confirmed_count: Cell::new(0),
            run: Cell::new(Vec::new()),
        };
        let mut walked = 0;
        let result = slice.merge(&mut self.parts, &mut walked, each);
        self.walked += walked;
        result
    }
}

/// Whether something stored has expired and was not swept yet. Almost always false, and then no record is searched for its tag. At the
/// time 0 nothing has.
pub(super) fn any_expired(store: &Store, txn: &RoTxn<'_>, now: u64) -> Result<bool, StoreError> {
    Ok(now > 0
        && store.tables().expirations.first(txn)?.is_some_and(|(key, _)| {
            let at = key.get(..5).and_then(super::keys::read_seq);
            at.is_none_or(|at| at <= now)
        }))
}

/// One match, with everything that orders it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hit {
    created_at: u64,
    id: EventId,
    seq: Seq,
    /// Where this slice may still have the record: see [`Slice::confirmed`].
    slot: usize,
}

impl Hit {
    fn cmp(&self, other: &Hit, order: Order) -> Ordering {
        let newest = other.created_at.cmp(&self.created_at).then(self.id.cmp(&other.id));
        match order {
            Order::NewestFirst => newest,
            Order::OldestFirst => newest.reverse(),
        }
    }
}

/// One of the filters of a question, which all that work on it share.
#[derive(Debug)]
struct OneOf {
    filters: Arc<[Filter]>,
    at: usize,
}

impl Deref for OneOf {
    type Target = Filter;

    fn deref(&self) -> &Filter {
        &self.filters[self.at]
    }
}

/// One filter of a scan and how far it has come.
#[derive(Debug)]
struct Part {
    filter: OneOf,
    /// Matches still wanted.
    remaining: u64,
    walk: Option<Walk>,
    /// The way that was planned.
    access: Access,
    /// Matches found and not delivered, last one first: a run of equal seconds, or all the ids asked for.
    hits: Vec<Hit>,
}

impl Part {
    fn new(filter: OneOf) -> Part {
        let remaining = filter.limit.unwrap_or(u64::MAX);
        Part { filter, remaining, walk: None, access: Access::Nothing, hits: Vec::new() }
    }

    fn memory(&self) -> usize {
        let hits = size_of::<Part>() + self.hits.capacity() * size_of::<Hit>();
        let Some(Walk::Merge(merge)) = &self.walk else { return hits };
        let streams = merge.streams.iter().map(Stream::memory).sum::<usize>();
        hits + streams + merge.streams.capacity() * size_of::<Stream>() + merge.heap.capacity() * size_of::<Head>()
    }
}

/// Where a filter's matches come from.
#[derive(Debug)]
enum Walk {
    Ended,
    Merge(Merge),
}

/// Ranges of one index under a heap.
#[derive(Debug)]
struct Merge {
    streams: Vec<Stream>,
    /// The head of every stream that has one, best first.
    heap: BinaryHeap<Head>,
}

/// Postings read ahead over all streams of a filter: 16 bytes each.
const READ_AHEAD: usize = 16_384;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    /// The place, complemented when the order is reversed, so that the largest is next.
    rank: u64,
    seq: Seq,
    stream: usize,
}

impl Merge {
    fn new(index: Index, prefixes: &[Short], window: Window, order: Order, wanted: u64) -> Merge {
        let share = READ_AHEAD / prefixes.len().max(1);
        let max_chunk = share.clamp(8, 512);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let chunk = match prefixes.len() {
            0 | 1 => wanted.clamp(2, 64),
            // Of most of many ranges none is wanted, of some several.
            many => (wanted.saturating_mul(4) / many).clamp(2, 8),
        };
        let streams = prefixes
            .iter()
            .map(|prefix| Stream::new(Cursor::new(index, *prefix, window, order), chunk, max_chunk))
            .collect();
        Merge { streams, heap: BinaryHeap::new() }
    }
}

/// What one call of [`Scan::run`] works with.
struct Slice<'s> {
    store: &'s Store,
    txn: &'s RoTxn<'s>,
    order: Order,
    before: Seq,
    now: u64,
    expiry_due: bool,
    deadline: Instant,
    keys: u64,
    force: Option<usize>,
    visible: Option<&'s MaySee>,
    /// A walk along the records, and where it stands, once matches turned out to lie side by side.
    near: RefCell<Option<(Seq, heed::RoRevRange<'s, Bytes, Bytes>)>>,
    /// The record that was fetched last.
    fetched: Cell<Seq>,
    /// The records confirmed last, in turn: they are about to go out. A slot whose record was overwritten, or that an earlier slice gave out,
    /// has another number in it.
    confirmed: RefCell<Vec<(Seq, Option<Record<'s>>)>>,
    confirmed_count: Cell<usize>,
    /// Room for a run, so that not every event costs an allocation.
    run: Cell<Vec<Seq>>,
}

/// Confirmed records that are kept at hand: as many as a question by ids usually has.
const CONFIRMED: usize = 256;

/// A record that takes more memory than this is read again when it goes out.
const MOST_KEPT: usize = 32 << 10;

impl<'s> Slice<'s> {
    /// The record of a match; `None` when it went since it was found in an earlier slice.
    fn record(&self, hit: &Hit) -> Result<Option<Record<'s>>, StoreError> {
        let kept = match self.confirmed.borrow_mut().get_mut(hit.slot) {
            Some((seq, record)) if *seq == hit.seq => record.take(),
            _ => None,
        };
        if kept.is_some() { Ok(kept) } else { self.fetch(hit.seq) }
    }

    fn hit(&self, seq: Seq, record: Record<'s>) -> Hit {
        let count = self.confirmed_count.get();
        self.confirmed_count.set(count + 1);
        let slot = count % CONFIRMED;
        let hit = Hit { created_at: record.created_at(), id: record.id(), seq, slot };
        let record = record.memory().le(&MOST_KEPT).then_some(record);
        let mut confirmed = self.confirmed.borrow_mut();
        match confirmed.get_mut(slot) {
            Some(old) => *old = (seq, record),
            None => confirmed.push((seq, record)),
        }
        hit
    }

    /// Fetches a record. The newest events were the last to be learned of, so an answer newest first often finds them side by side.
    fn fetch(&self, seq: Seq) -> Result<Option<Record<'s>>, StoreError> {
        let before = self.fetched.replace(seq);
        if seq >= before || before - seq > NEAR {
            return get_record(self.store, self.txn, seq);
        }
        let mut near = self.near.borrow_mut();
        if near.as_ref().is_none_or(|(at, _)| *at <= seq || *at - seq > NEAR) {
            let end = seq_bytes(seq);
            let range = (Bound::Unbounded, Bound::Included(&end[..]));
            let walk = self.store.tables().events.rev_range(self.txn, &range)?;
            *near = Some((seq + 1, walk));
        }
        let Some((at, walk)) = near.as_mut() else { return Ok(None) };
        while *at > seq {
            let Some(entry) = walk.next() else { break };
            let (key, value) = entry?;
            *at = read_seq(key).ok_or_else(|| damaged_key("events"))?;
            if *at == seq {
                return read_record(self.store, self.txn, seq, value);
            }
        }
        Ok(None)
    }

    fn merge(
        &self,
        parts: &mut [Part],
        walked: &mut u64,
        each: &mut dyn FnMut(&Record<'_>) -> ControlFlow<()>,
    ) -> Result<Progress, StoreError> {
        for delivered in 1u64.. {
            // Every part shows its next match; the best of them goes out, once.
            let mut best: Option<Hit> = None;
            for part in parts.iter_mut() {
                if !self.fill(part, walked)? {
                    return Ok(Progress::More);
                }
                if let Some(hit) = part.hits.last()
                    && best.is_none_or(|best| hit.cmp(&best, self.order) == Ordering::Less)
                {
                    best = Some(*hit);
                }
            }
            let Some(best) = best else { return Ok(Progress::Done) };
            for part in parts.iter_mut() {
                if part.hits.last().is_some_and(|hit| hit.seq == best.seq) {
                    part.hits.pop();
                    part.remaining -= 1;
                }
            }
            if let Some(record) = self.record(&best)?
                && !self.is_expired(&record)
                && each(&record).is_break()
            {
                return Ok(Progress::More);
            }
            // The clock costs as much as a step, so it is read now and then.
            if delivered % 32 == 0 && self.spent(*walked) {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Sees to it that a part has a match to show, if it has any left. False when the budget ran out before one was found.
    fn fill(&self, part: &mut Part, walked: &mut u64) -> Result<bool, StoreError> {
        if part.walk.is_none() {
            part.walk = Some(self.begin(part, walked)?);
        }
        if part.remaining == 0 {
            part.hits.clear();
            part.walk = Some(Walk::Ended);
            return Ok(true);
        }
        while part.hits.is_empty() {
            let Some(Walk::Merge(merge)) = &mut part.walk else { return Ok(true) };
            let mut run = self.run.take();
            self.next_run(merge, &mut run, walked)?;
            if run.is_empty() {
                part.walk = Some(Walk::Ended);
                return Ok(true);
            }
            self.confirm(&run, &part.filter, &mut part.hits)?;
            self.run.set(run);
            if part.hits.is_empty() && self.spent(*walked) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn spent(&self, walked: u64) -> bool {
        walked >= self.keys || Instant::now() >= self.deadline
    }

    fn begin(&self, part: &mut Part, walked: &mut u64) -> Result<Walk, StoreError> {
        if part.remaining == 0 {
            return Ok(Walk::Ended);
        }
        let plan = plan(self.store, self.txn, &part.filter, self.order, self.force)?;
        part.access = plan.access();
        match plan {
            Plan::Nothing => Ok(Walk::Ended),
            Plan::Ids(ids) => {
                for id in ids {
                    *walked += 1;
                    if let Some((seq, record)) = find_id(self.store, self.txn, &id)?
                        && self.belongs(seq, &record, &part.filter)
                    {
                        part.hits.push(self.hit(seq, record));
                    }
                }
                part.hits.sort_unstable_by(|a, b| b.cmp(a, self.order));
                Ok(Walk::Ended)
            }
            Plan::Addresses(stems) => {
                for stem in stems {
                    *walked += 1;
                    for entry in self.store.tables().addresses.prefix_iter(self.txn, &stem)? {
                        let (key, _) = entry?;
                        let seq = key.get(stem.len()..).and_then(read_seq).ok_or_else(|| damaged_key("addresses"))?;
                        if let Some(record) = get_record(self.store, self.txn, seq)?
                            && self.belongs(seq, &record, &part.filter)
                        {
                            part.hits.push(self.hit(seq, record));
                        }
                    }
                }
                part.hits.sort_unstable_by(|a, b| b.cmp(a, self.order));
                Ok(Walk::Ended)
            }
            Plan::Ranges { index, prefixes } => {
                let window = Window::of(&part.filter);
                let mut merge = Merge::new(index, &prefixes, window, self.order, part.remaining);
                Stream::open(&mut merge.streams, self.store, self.txn, walked)?;
                for stream in 0..merge.streams.len() {
                    self.advance(&mut merge, stream, walked)?;
                }
                Ok(Walk::Merge(merge))
            }
        }
    }

    /// Puts the next posting of a stream under the heap.
    fn advance(&self, merge: &mut Merge, stream: usize, walked: &mut u64) -> Result<(), StoreError> {
        if let Some(posting) = merge.streams[stream].next(self.store, self.txn, walked)? {
            let rank = match self.order {
                Order::NewestFirst => posting.place,
                Order::OldestFirst => !posting.place,
            };
            merge.heap.push(Head { rank, seq: posting.seq, stream });
        }
        Ok(())
    }

    /// Takes all postings of the best place off the heap: one second and one beginning of ids, which only the records can order.
    fn next_run(&self, merge: &mut Merge, run: &mut Vec<Seq>, walked: &mut u64) -> Result<(), StoreError> {
        run.clear();
        let mut place = None;
        while let Some(head) = merge.heap.peek() {
            let posting = match self.order {
                Order::NewestFirst => head.rank,
                Order::OldestFirst => !head.rank,
            };
            // Times beyond 32 bits all stand in the last second, where only the records know the order.
            let same = place.is_none_or(|place| {
                place == posting || place >> 16 == u64::from(u32::MAX) && posting >> 16 == place >> 16
            });
            if !same {
                break;
            }
            place = Some(posting);
            let (seq, stream) = (head.seq, head.stream);
            merge.heap.pop();
            run.push(seq);
            self.advance(merge, stream, walked)?;
        }
        // One event can stand in several ranges: two values of one tag, say.
        if run.len() > 1 {
            run.sort_unstable();
            run.dedup();
        }
        Ok(())
    }

    /// Keeps those of a run that really match, in order, the first one last.
    fn confirm(&self, run: &[Seq], filter: &Filter, hits: &mut Vec<Hit>) -> Result<(), StoreError> {
        for &seq in run {
            if seq >= self.before {
                continue;
            }
            if let Some(record) = self.fetch(seq)?
                && self.belongs(seq, &record, filter)
            {
                hits.push(self.hit(seq, record));
            }
        }
        if hits.len() > 1 {
            hits.sort_unstable_by(|a, b| b.cmp(a, self.order));
        }
        Ok(())
    }

    fn belongs(&self, seq: Seq, record: &Record<'_>, filter: &Filter) -> bool {
        seq < self.before
            && !self.is_expired(record)
            && filter.matches(record)
            && self.visible.is_none_or(|may_see| may_see(record))
    }

    fn is_expired(&self, record: &Record<'_>) -> bool {
        self.expiry_due && record.expiration().is_some_and(|at| at <= self.now)
    }
}
