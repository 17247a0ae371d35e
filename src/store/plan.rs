//! The planner: which index answers a filter at the least cost.
//!
//! Cost decides, not the filter's shape. Each index that could serve is a set of *ranges* (prefixes of keys): authors × kinds,
//! the values of one tag × kinds, kinds, or all of time. A few ranges of each are probed for how densely they are filled where the
//! answer begins. All candidates must walk the same span of time to find `limit` matches, so the cost of one is the
//! number of its ranges (each is a seek) plus its density times that span (each entry is a step and, unless the
//! index covers the whole filter, a look at the record, which costs little where one record lies beside the other).

use std::ops::Bound;

use heed::RoTxn;

use super::cursor::{Cursor, Order, Window};
use super::keys::{self, Index, Seq, Short};
use super::prepare;
use super::{Store, StoreError, damaged_key, read_record};
use crate::nostr::{EventId, Filter, Kind, KindClass, TagValue};

/// How one filter is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Nothing can match.
    Nothing,
    /// Look each id up.
    Ids(Vec<EventId>),
    /// Look up what stands under each of these beginnings of keys in `addresses`.
    Addresses(Vec<Short>),
    /// Merge these ranges of one index.
    Ranges { index: Index, prefixes: Vec<Short> },
}

/// How a question was answered, for the figures: the plan of its filters, when they have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Not at all: nothing can match.
    Nothing,
    /// By ids.
    Ids,
    /// By the addresses of replaceable events.
    Addresses,
    /// Along the index of times.
    Time,
    /// Along the index of kinds.
    Kinds,
    /// Along the index of authors.
    Authors,
    /// Along the index of tags.
    Tags,
    /// Filters of one question took different ways.
    Several,
}

impl Access {
    /// All of them, in the order of their numbers.
    pub const ALL: [Access; 8] = [
        Access::Nothing,
        Access::Ids,
        Access::Addresses,
        Access::Time,
        Access::Kinds,
        Access::Authors,
        Access::Tags,
        Access::Several,
    ];

    /// Its name in the figures.
    pub fn name(self) -> &'static str {
        match self {
            Access::Nothing => "nothing",
            Access::Ids => "ids",
            Access::Addresses => "addresses",
            Access::Time => "time",
            Access::Kinds => "kinds",
            Access::Authors => "authors",
            Access::Tags => "tags",
            Access::Several => "several",
        }
    }

    /// The way of a question whose filters took these ways.
    pub(super) fn of_all(ways: impl Iterator<Item = Access>) -> Access {
        ways.reduce(|a, b| if a == b { a } else { Access::Several }).unwrap_or(Access::Nothing)
    }
}

impl Plan {
    /// The way that the plan takes.
    pub(super) fn access(&self) -> Access {
        match self {
            Plan::Nothing => Access::Nothing,
            Plan::Ids(_) => Access::Ids,
            Plan::Addresses(_) => Access::Addresses,
            Plan::Ranges { index, .. } => access(*index),
        }
    }
}

/// The way along an index.
pub(super) fn access(index: Index) -> Access {
    match index {
        Index::Time => Access::Time,
        Index::Kinds => Access::Kinds,
        Index::Authors => Access::Authors,
        Index::Tags => Access::Tags,
    }
}

/// Microseconds, measured on the machine of MEASURED.md; only their ratios matter.
const SEEK: f64 = 1.3;
const STEP: f64 = 0.05;
const LOOK: f64 = 0.6;
const LOOK_NEAR: f64 = 0.07;

/// Records that lie so close below the one before are reached by stepping there; a step costs an eighth of a look-up.
pub const NEAR: u64 = 6;

/// Numbers that an index's next record may be lower, if the log is to count as ordered by time: other kinds stand between.
const IN_ORDER: u64 = 64;

/// A plan that costs less than this is taken without a look at others, which would cost about as much.
const CHEAP: f64 = 6.0;

/// An index that covers the whole filter walks no entry in vain and looks at no record for nothing; with so few ranges it cannot be beaten
/// by enough to pay for finding out.
const FEW: usize = 12;

/// Ranges of a candidate that are probed, and entries read from each.
const PROBES: usize = 6;
const PROBE_DEPTH: usize = 16;

/// Against more ranges than this it pays to look at some events, so many, to see how many of them match.
const MANY: f64 = 30.0;
const SAMPLE: usize = 64;

/// A question without kinds enumerates those below its prefix; beyond this many it walks another index instead.
const MAX_KINDS: usize = 256;

/// More ranges than this are not opened side by side, whatever the estimate says.
const MAX_RANGES: usize = 100_000;

/// Part of the entries of the rarest index that are taken to match the whole filter when it has further conditions.
const OVERLAP: f64 = 0.5;

/// An index that could serve: its stems, the kinds that narrow them, and whether it answers the filter alone.
struct Candidate {
    index: Index,
    stems: Vec<Short>,
    covers: bool,
    /// Ranges there will be, as far as probing tells.
    ranges: f64,
    /// Entries for each second of the window, over all ranges.
    density: f64,
    /// Entries in all ranges together; infinite when no probe reached an end.
    total: f64,
    /// The part of its records that stand in the log in the order of their times, roughly.
    in_order: f64,
    /// The range that is filled most densely, and how densely.
    densest: (Short, f64),
}

impl Candidate {
    /// What a look at one of its records costs. `log` is how many events of each second there are in all: where records stand in the order
    /// of their times, the next one is some steps away.
    fn cost_of_look(&self, log: f64) -> f64 {
        if self.covers {
            0.0
        } else if log > self.density * NEAR as f64 {
            LOOK
        } else {
            LOOK + (LOOK_NEAR - LOOK) * self.in_order
        }
    }
}

/// Chooses the plan for one filter. `force` takes the candidate of that number instead of the cheapest: tests compare the
/// answers of all of them.
pub fn plan(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    order: Order,
    force: Option<usize>,
) -> Result<Plan, StoreError> {
    if filter.is_impossible() {
        return Ok(Plan::Nothing);
    }
    if let Some(ids) = &filter.ids {
        return Ok(Plan::Ids(ids.clone()));
    }
    let addresses = addresses(store, filter);
    if force.is_none()
        && let Some(addresses) = addresses
    {
        return Ok(Plan::Addresses(addresses));
    }
    let mut candidates = candidates(store, filter);
    if let Some(number) = force {
        let count = candidates.len();
        match addresses {
            Some(addresses) if number % (count + 1) == count => return Ok(Plan::Addresses(addresses)),
            Some(_) => candidates.swap(0, number % (count + 1)),
            None => candidates.swap(0, number % count),
        }
    } else if candidates.len() > 1 {
        if candidates[0].covers
            && let Some(prefixes) = few_prefixes(store, txn, filter, &candidates[0])?
        {
            return Ok(Plan::Ranges { index: candidates[0].index, prefixes });
        }
        if !rank_by_sample(store, txn, filter, order, &mut candidates)? {
            for i in 0..candidates.len() {
                let candidate = &mut candidates[i];
                probe(store, txn, filter, order, candidate)?;
                // What was counted to its end and is little needs no comparison.
                if candidate.ranges * SEEK + candidate.total * (STEP + LOOK) < CHEAP {
                    candidates.swap(0, i);
                    candidates.truncate(1);
                    break;
                }
            }
            rank(&mut candidates, filter, None);
        }
    }
    for candidate in &candidates {
        if let Some(prefixes) = prefixes(store, txn, filter, candidate)? {
            return Ok(Plan::Ranges { index: candidate.index, prefixes });
        }
    }
    Ok(Plan::Ranges { index: Index::Time, prefixes: vec![Short::EMPTY] })
}

/// The addresses of all that the filter can match, if it asks for replaceable kinds of authors and wants nearly all there is: profiles, lists.
/// `addresses` holds one short entry for each of them and is a small part of what `authors` is.
///
/// Of addressable kinds it must name values of `d`, few of them: one author may have many, and many authors the same.
fn addresses(store: &Store, filter: &Filter) -> Option<Vec<Short>> {
    /// More than this is merged in slices instead.
    const MOST: usize = 1000;
    let (Some(authors), Some(kinds)) = (&filter.authors, &filter.kinds) else { return None };
    let identifiers: &[TagValue] = match &filter.tags[..] {
        [] => &[],
        [(name, values)] if name.as_byte() == b'd' && store.addresses_hold_every_d() => values,
        _ => return None,
    };
    let count = authors.len().checked_mul(kinds.len())?.checked_mul(identifiers.len().max(1))?;
    let most = if identifiers.is_empty() { MOST } else { FEW };
    let wanted = filter.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let looked_up = |kind: &Kind| match kind.class() {
        KindClass::Replaceable => true,
        KindClass::Addressable => !identifiers.is_empty(),
        KindClass::Regular | KindClass::Ephemeral => false,
    };
    if count > most || count > wanted.saturating_mul(2) || !kinds.iter().all(looked_up) {
        return None;
    }
    let stem = |kind: Kind, author, identifier: &str| {
        let mut stem = Short::EMPTY;
        stem.push(&prepare::address_stem(store.hasher(), kind, author, || identifier)?.to_be_bytes()[1..]);
        Some(stem)
    };
    let identifiers: Vec<String> = match identifiers {
        [] => vec![String::new()],
        values => values
            .iter()
            .map(|value| match value {
                TagValue::Text(text) => text.to_string(),
                TagValue::Hex(bytes) => const_hex::encode(bytes),
            })
            .collect(),
    };
    let mut stems = Vec::with_capacity(count);
    for author in authors {
        for kind in kinds {
            stems.extend(identifiers.iter().filter_map(|identifier| stem(*kind, author, identifier)));
        }
    }
    // In the order of the table; two that share their hash are looked up once.
    stems.sort_unstable();
    stems.dedup();
    Some(stems)
}

/// All ranges of a candidate, if they are few.
fn few_prefixes(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    candidate: &Candidate,
) -> Result<Option<Vec<Short>>, StoreError> {
    let each = filter.kinds.as_ref().map_or(1, Vec::len);
    if candidate.stems.len() * each > FEW || filter.kinds.is_none() && candidate.stems.len() > 1 {
        return Ok(None);
    }
    Ok(prefixes(store, txn, filter, candidate)?.filter(|prefixes| prefixes.len() <= 2 * FEW))
}

/// Every index that has something to say about the filter; a walk through time always has.
fn candidates(store: &Store, filter: &Filter) -> Vec<Candidate> {
    let conditions = usize::from(filter.authors.is_some()) + filter.tags.len();
    let new = |index, stems, covers| Candidate {
        index,
        stems,
        covers,
        ranges: 1.0,
        density: 0.0,
        total: f64::INFINITY,
        in_order: 0.0,
        densest: (Short::EMPTY, 0.0),
    };
    let mut candidates = Vec::new();
    for (name, values) in &filter.tags {
        let stems = values.iter().map(|value| store.hasher().filter_stem(*name, value)).collect();
        candidates.push(new(Index::Tags, stems, conditions == 1));
    }
    if let Some(authors) = &filter.authors {
        candidates.push(new(Index::Authors, authors.iter().map(keys::author_stem).collect(), conditions == 1));
    }
    if filter.kinds.is_some() {
        candidates.push(new(Index::Kinds, vec![Short::EMPTY], conditions == 0));
    }
    // The kinds index covers whatever time does and more: time is left out when it cannot win.
    if filter.kinds.is_none() || conditions > 0 {
        candidates.push(new(Index::Time, vec![Short::EMPTY], conditions == 0 && filter.kinds.is_none()));
    }
    candidates
}

/// Estimates ranges and density of a candidate from a few of its ranges.
fn probe(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    order: Order,
    candidate: &mut Candidate,
) -> Result<(), StoreError> {
    let window = Window::of(filter);
    let count = candidate.stems.len();
    let sample = count.clamp(1, PROBES);
    let (mut ranges, mut density, mut total, mut ended, mut in_order) = (0usize, 0.0, 0.0, true, 0.0);
    for i in 0..sample.min(count) {
        let stem = candidate.stems[i * count / sample];
        let Some(prefixes) = prefixes_of(store, txn, filter, candidate.index, &stem)? else {
            // Too many kinds below one stem: this candidate is out.
            candidate.ranges = f64::INFINITY;
            return Ok(());
        };
        ranges += prefixes.len();
        let some = prefixes.len().clamp(1, PROBES);
        let scale = prefixes.len() as f64 / some as f64;
        for j in 0..some.min(prefixes.len()) {
            let prefix = prefixes[j * prefixes.len() / some];
            let mut cursor = Cursor::new(candidate.index, prefix, window, order);
            let found = cursor.read(store, txn, PROBE_DEPTH)?;
            total += found.len() as f64 * scale;
            let seconds = match &found[..] {
                [first, .., last] if found.len() == PROBE_DEPTH => {
                    ended = false;
                    f64::from(first.time().abs_diff(last.time())) + 1.0
                }
                _ => span(window).max(1.0),
            };
            let here = found.len() as f64 / seconds;
            density += here * scale;
            if here > candidate.densest.1 {
                candidate.densest = (prefix, here);
            }
            let steps =
                found.windows(2).filter(|two| two[0].seq.checked_sub(two[1].seq).is_some_and(|by| by <= IN_ORDER));
            in_order += (steps.count() + 1).min(found.len()) as f64 / seconds * scale;
        }
    }
    let scale = count as f64 / sample as f64;
    candidate.ranges = ranges as f64 * scale;
    candidate.density = density * scale;
    candidate.in_order = in_order / density.max(f64::MIN_POSITIVE);
    candidate.total = if ended { total * scale } else { f64::INFINITY };
    Ok(())
}

/// Seconds in the window, with an end that is not absurdly far when none was given.
fn span(window: Window) -> f64 {
    // Nobody has events after the early 2030s; a window without an end would make every density look like nothing.
    const FAR: u32 = 2_000_000_000;
    f64::from(window.until.min(FAR.max(window.since)) - window.since.min(window.until.min(FAR))) + 1.0
}

/// Sorts the candidates when the first one alone answers the filter, but by many ranges. Of them the few that can be probed say little of
/// all, while how many of the newest events match is soon found out where records lie side by side. False where that is not so.
fn rank_by_sample(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    order: Order,
    candidates: &mut [Candidate],
) -> Result<bool, StoreError> {
    let Some((covering, others)) = candidates.split_first_mut() else { return Ok(false) };
    let kinds = filter.kinds.as_ref().map_or(0, Vec::len);
    covering.ranges = (covering.stems.len() * kinds) as f64;
    if !covering.covers || covering.ranges < MANY {
        return Ok(false);
    }
    for other in &mut *others {
        probe(store, txn, filter, order, other)?;
    }
    let Some(matching) = matching(store, txn, filter, order, others)? else { return Ok(false) };
    covering.density = matching;
    rank(candidates, filter, Some(matching));
    Ok(true)
}

/// How many events of each second match, found out by looking at some; `None` where records do not lie side by side.
fn matching(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    order: Order,
    candidates: &[Candidate],
) -> Result<Option<f64>, StoreError> {
    let walked =
        candidates.iter().find(|c| !c.covers && c.in_order > 0.5 && matches!(c.index, Index::Kinds | Index::Time));
    let Some(walked) = walked else { return Ok(None) };
    let mut cursor = Cursor::new(walked.index, walked.densest.0, Window::of(filter), order);
    let mut seqs: Vec<Seq> = cursor.read(store, txn, SAMPLE)?.iter().map(|posting| posting.seq).collect();
    seqs.sort_unstable();
    // Without those that came late or early.
    let Some(&middle) = seqs.get(SAMPLE / 2) else { return Ok(None) };
    seqs.retain(|seq| seq.abs_diff(middle) <= NEAR * SAMPLE as u64);
    let [first, .., last] = seqs[..] else { return Ok(None) };
    let (first, last) = (keys::seq_bytes(first), keys::seq_bytes(last));
    // Cautiously: who wrote just now may fall silent, and then the walk is long.
    let mut found = -2.0;
    for entry in store.tables().events.range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))? {
        let (key, value) = entry?;
        let seq = keys::read_seq(key).ok_or_else(|| damaged_key("events"))?;
        if seqs.binary_search(&seq).is_ok()
            && read_record(store, txn, seq, value)?.is_some_and(|record| filter.matches(&record))
        {
            found += 1.0;
        }
    }
    Ok(Some(walked.density * f64::max(found, 0.0) / seqs.len() as f64))
}

/// Sorts the candidates, cheapest first. `matching` is how many events of each second match, if that is known.
fn rank(candidates: &mut [Candidate], filter: &Filter, matching: Option<f64>) {
    let rarest = candidates.iter().map(|c| c.density).fold(f64::INFINITY, f64::min);
    let covered = candidates.iter().any(|c| c.covers && c.density <= rarest);
    let matching = matching.unwrap_or(rarest * if covered { 1.0 } else { OVERLAP }).max(1e-12);
    let wanted = filter.limit.map_or(f64::INFINITY, |limit| limit as f64);
    let walked = (wanted / matching).min(span(Window::of(filter)));
    let log = candidates.iter().find(|c| c.index == Index::Time).map_or(0.0, |time| time.density);
    let cost = |c: &Candidate| {
        let entries = (c.density * walked).min(c.total).min(if c.covers { wanted } else { f64::INFINITY });
        c.ranges * SEEK + entries * (STEP + c.cost_of_look(log))
    };
    candidates.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
}

/// All ranges of a candidate; `None` when there are too many.
fn prefixes(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    candidate: &Candidate,
) -> Result<Option<Vec<Short>>, StoreError> {
    if candidate.ranges > MAX_RANGES as f64 {
        return Ok(None);
    }
    let mut all = Vec::new();
    for stem in &candidate.stems {
        match prefixes_of(store, txn, filter, candidate.index, stem)? {
            Some(some) => all.extend(some),
            None => return Ok(None),
        }
        if all.len() > MAX_RANGES {
            return Ok(None);
        }
    }
    // Two authors may share seven bytes; their range must be walked once.
    all.sort_unstable();
    all.dedup();
    Ok(Some(all))
}

/// The ranges below one stem: one for each kind asked for, or for each kind there is.
fn prefixes_of(
    store: &Store,
    txn: &RoTxn<'_>,
    filter: &Filter,
    index: Index,
    stem: &Short,
) -> Result<Option<Vec<Short>>, StoreError> {
    match (index, &filter.kinds) {
        (Index::Time, _) => Ok(Some(vec![Short::EMPTY])),
        (Index::Kinds, kinds) => Ok(Some(kinds.iter().flatten().map(|kind| keys::kind_prefix(*kind)).collect())),
        (_, Some(kinds)) => Ok(Some(kinds.iter().map(|kind| keys::with_kind(stem, *kind)).collect())),
        (_, None) => kinds_below(store, txn, index, stem),
    }
}

/// The kinds that occur below a stem, found with one seek each.
fn kinds_below(store: &Store, txn: &RoTxn<'_>, index: Index, stem: &Short) -> Result<Option<Vec<Short>>, StoreError> {
    let table = store.tables().index(index);
    let mut found = Vec::new();
    let mut from = Some(keys::with_kind(stem, Kind(0)));
    while let Some(start) = from {
        let Some((key, _)) = table.get_greater_than_or_equal_to(txn, &start)? else { break };
        if !key.starts_with(stem) {
            break;
        }
        let kind = key.get(7..9).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
        let kind = kind.ok_or_else(|| damaged_key("authors or tags"))?;
        if found.len() == MAX_KINDS {
            return Ok(None);
        }
        found.push(keys::with_kind(stem, Kind(kind)));
        from = kind.checked_add(1).map(|next| keys::with_kind(stem, Kind(next)));
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{Event, EventFields, PublicKey, Signature, TagName};
    use crate::store::scan::{Budget, Progress, Scan};
    use crate::store::{EVERY_D, write_meta};

    fn article(n: u8, d: &[&str]) -> Event {
        let mut event = Event {
            id: EventId([n; 32]),
            pubkey: PublicKey([7; 32]),
            created_at: u64::from(n),
            kind: Kind(30_023),
            tags: Default::default(),
            content: String::new().into(),
            sig: Signature([0; 64]),
        };
        d.iter().for_each(|d| event.tags.push(["d", d]));
        event
    }

    fn apply(store: &Store, event: &Event) {
        let mut batch = store.batch(0).expect("batch");
        batch.apply(&store.prepare(event)).expect("apply");
        batch.commit().expect("commit");
    }

    /// The ids found by every plan, and whether the planner would look the address up.
    fn ask(store: &Store, d: &str) -> (Vec<u8>, bool) {
        let filter = Filter {
            authors: Some(vec![PublicKey([7; 32])]),
            kinds: Some(vec![Kind(30_023)]),
            tags: vec![(TagName::from_byte(b'd').expect("a letter"), vec![TagValue::new(d)])],
            ..Filter::default()
        };
        let answer = |force: Option<usize>| {
            let mut scan = Scan::new(vec![filter.clone()], Order::NewestFirst);
            if let Some(candidate) = force {
                scan = scan.forced(candidate);
            }
            let mut ids = Vec::new();
            let mut each = |record: &crate::store::Record<'_>| {
                ids.push(record.id().0[0]);
                std::ops::ControlFlow::Continue(())
            };
            while scan.run(store, 0, Budget::COMMAND, &mut each).expect("scan") == Progress::More {}
            ids
        };
        let chosen = answer(None);
        (0..5).for_each(|candidate| assert_eq!(answer(Some(candidate)), chosen, "candidate {candidate} for {d}"));
        let txn = store.read().expect("transaction");
        let plan = plan(store, &txn, &filter, Order::NewestFirst, None).expect("plan");
        (chosen, matches!(plan, Plan::Addresses(_)))
    }

    #[test]
    fn an_address_is_looked_up_and_any_value_of_d_is_one() {
        let folder = tempfile::tempdir().expect("folder");
        let key = "ab".repeat(32);
        let entries = |store: &Store| store.tables().addresses.len(&store.read().expect("transaction")).expect("len");
        let store = Store::open(folder.path(), 1 << 30).expect("open");
        apply(&store, &article(1, &["a", "b", "a"]));
        apply(&store, &article(2, &["b", &key]));
        apply(&store, &article(3, &[]));
        assert_eq!(entries(&store), 5);
        assert_eq!(ask(&store, "a"), (vec![1], true));
        assert_eq!(ask(&store, "b"), (vec![2, 1], true));
        assert_eq!(ask(&store, &key), (vec![2], true));
        assert_eq!(ask(&store, ""), (vec![], true));
        // What replaces has other values beside the first.
        apply(&store, &article(4, &["a", "c"]));
        assert_eq!(entries(&store), 5);
        assert_eq!(ask(&store, "b"), (vec![2], true));
        assert_eq!(ask(&store, "c"), (vec![4], true));
        drop(store);
        // A database of before: further values are not there, and nobody looks for them.
        let store = Store::open(folder.path(), 1 << 30).expect("open");
        let mut txn = store.env().write_txn().expect("transaction");
        write_meta(store.tables(), &mut txn, EVERY_D, &false).expect("write");
        txn.commit().expect("commit");
        drop(store);
        let store = Store::open(folder.path(), 1 << 30).expect("open");
        apply(&store, &article(5, &["e", "f"]));
        assert_eq!(entries(&store), 6);
        assert_eq!(ask(&store, "f"), (vec![5], false));
        assert_eq!(ask(&store, "e"), (vec![5], false));
    }

    #[test]
    fn a_feed_of_many_authors_walks_the_kind_while_they_write_much_and_their_ranges_when_they_write_little() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path(), 1 << 30).expect("open");
        let author = |n: u64| PublicKey(std::array::from_fn(|i| if i < 8 { n.to_be_bytes()[i] } else { 0 }));
        let write = |first: u64, count: u64, authors: u64| {
            let mut batch = store.batch(0).expect("batch");
            for n in first..first + count {
                let mut event = article(1, &[]);
                event.id =
                    EventId(std::array::from_fn(|i| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (i % 8 * 8)) as u8));
                (event.kind, event.created_at, event.pubkey) = (Kind(1), n, author(n % authors));
                batch.apply(&store.prepare(&event)).expect("apply");
            }
            batch.commit().expect("commit");
        };
        let index = |authors: std::ops::Range<u64>, limit| {
            let filter = Filter {
                authors: Some(authors.map(author).collect()),
                kinds: Some(vec![Kind(1)]),
                limit: Some(limit),
                ..Filter::default()
            };
            let txn = store.read().expect("transaction");
            match plan(&store, &txn, &filter, Order::NewestFirst, None).expect("plan") {
                Plan::Ranges { index, .. } => index,
                other => panic!("{other:?}"),
            }
        };
        write(1_000, 4_000, 400);
        assert_eq!(index(0..200, 50), Index::Kinds);
        // Now one author writes everything.
        write(10_000, 20_000, 1);
        assert_eq!(index(1..200, 50), Index::Authors);
        // However little is wanted.
        assert_eq!(index(1..400, 1), Index::Authors);
    }
}
