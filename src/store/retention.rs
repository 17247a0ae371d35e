//! What need not be kept any longer: finds the events that the operator's rules let go, and those that go first when the database is
//! too large.
//!
//! A [`Survey`] walks the index of authors once, and so sees each author's events of each kind from the oldest to the newest: age, number
//! and kind are judged without reading an event, and only what is to go is read. A [`Surplus`] walks the index of times from the
//! oldest event on. Both run in slices like [`super::Scan`], and only find: removing is the caller's.
//!
//! The index knows the first seven bytes of a key. What goes is judged by what stands in its record; where two authors share those
//! bytes, they are told apart when one of them has more than is kept. If their tiers differ, events of the one may be kept as long
//! as the other's: never does something go that is to stay.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Instant;

use heed::RoTxn;

use super::keys::{self, Index, Posting, Seq, Short};
use super::record::Record;
use super::{Budget, Progress, Store, StoreError, damaged_key, get_record, read_meta, write_meta};
use crate::config::{KindRange, Retention, RetentionRule, Tier};
use crate::nostr::{EventFields, Kind, PublicKey};

/// What the operator wants to be kept, and whose events are whose.
#[derive(Debug, Default)]
pub struct Terms {
    rules: Vec<RetentionRule>,
    protected: Vec<KindRange>,
    owners: HashSet<PublicKey>,
    listed: HashSet<PublicKey>,
}

impl Terms {
    /// The terms of a configuration, with the keys of the owner and of those who are listed.
    pub fn new(config: &Retention, owners: HashSet<PublicKey>, listed: HashSet<PublicKey>) -> Terms {
        Terms { rules: config.rules.clone(), protected: config.protected_kinds.clone(), owners, listed }
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[RetentionRule] {
        &self.rules
    }

    fn is_protected(&self, kind: Kind) -> bool {
        self.protected.iter().any(|kinds| kinds.contains(kind))
    }

    /// The rule, by its place, that limits such events; `None` when they are kept for ever.
    fn rule_for(&self, tier: Tier, kind: Kind) -> Option<usize> {
        if self.is_protected(kind) {
            return None;
        }
        let place = self.rules.iter().position(|rule| rule.covers(tier, kind))?;
        let rule = &self.rules[place];
        (rule.age.is_some() || rule.count.is_some()).then_some(place)
    }

    fn is_too_old(&self, rule: usize, time: u32, now: u64) -> bool {
        self.rules[rule].age.is_some_and(|age| u64::from(time) < now.saturating_sub(age))
    }

    fn tier(&self, store: &Store, txn: &RoTxn<'_>, author: &PublicKey) -> Result<Tier, StoreError> {
        Ok(if self.owners.contains(author) {
            Tier::Owner
        } else if self.listed.contains(author) {
            Tier::Listed
        } else if store.tables().known.get(txn, &author.0)?.is_some() {
            Tier::Authenticated
        } else {
            Tier::Others
        })
    }
}

/// An event that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its number.
    pub seq: Seq,
    /// The place of the rule that lets it go; `None` when the database is too large.
    pub rule: Option<usize>,
    /// Bytes of its record. Its index entries take some more.
    pub bytes: u64,
}

/// Finds what the rules let go.
pub struct Survey {
    terms: Arc<Terms>,
    now: u64,
    /// The key to go on from; `None` at the end.
    next: Option<Short>,
    author: Option<Author>,
}

/// The newest events of one author and rule: their places and numbers, the oldest on top.
type Newest = BinaryHeap<Reverse<(u64, Seq)>>;

/// The author whose events are walked over.
struct Author {
    stem: Short,
    key: PublicKey,
    tier: Tier,
    newest: HashMap<(usize, PublicKey), Newest>,
    sharing: Sharing,
}

/// Whether somebody else's key begins with the same bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Nobody has looked.
    Unknown,
    No,
    Yes,
}

const STEM: usize = 7;
const STEM_KIND: usize = 9;

impl Survey {
    /// Begins a survey as of `now` (unix seconds).
    pub fn new(terms: Arc<Terms>, now: u64) -> Survey {
        Survey { terms, now, next: Some(first_key()), author: None }
    }

    /// How much of the index was walked, in thousandths, judged by where keys begin.
    pub fn thousandths(&self) -> u64 {
        match &self.next {
            None => 1000,
            Some(key) => {
                let begins = u16::from_be_bytes([*key.first().unwrap_or(&0), *key.get(1).unwrap_or(&0)]);
                (u64::from(begins) * 1000) >> 16
            }
        }
    }

    /// Walks on until the budget is spent, and calls `each` with what is to go. One short read transaction. An event may come
    /// twice where two authors' keys begin alike.
    pub fn run(&mut self, store: &Store, budget: Budget, each: &mut dyn FnMut(Doomed)) -> Result<Progress, StoreError> {
        let Some(start) = self.next else { return Ok(Progress::Done) };
        let txn = store.read()?;
        let slice = Slice::begin(budget);
        let (mut bucket, mut rule) = (Short::EMPTY, None);
        let range = (Bound::Included(&start[..]), Bound::Unbounded);
        for (walked, entry) in (0..).zip(store.tables().authors.range(&txn, &range)?) {
            let (key, value) = entry?;
            let posting = Posting::read(Index::Authors, key, value).ok_or_else(|| damaged_key("authors"))?;
            if key != &bucket[..] {
                // Only here can the walk be taken up again.
                if slice.is_over(walked) {
                    self.next = Some(Short::of(&[key]));
                    return Ok(Progress::More);
                }
                let same_kind = bucket.get(..STEM_KIND) == key.get(..STEM_KIND);
                bucket = Short::of(&[key]);
                if !same_kind || self.author.is_none() {
                    rule = self.meet(store, &txn, key, posting.seq)?;
                }
            }
            let kind = kind_of(key);
            let shared = self.author.as_ref().is_some_and(|author| author.sharing == Sharing::Yes);
            if shared {
                self.judge_shared(store, &txn, posting, kind, each)?;
            } else if let Some(rule) = rule {
                self.judge(store, &txn, posting, kind, rule, each)?;
            }
        }
        self.next = None;
        Ok(Progress::Done)
    }

    /// Another author, or another kind: the rule for it. `None` also while the author is not known, because the record is gone.
    fn meet(&mut self, store: &Store, txn: &RoTxn<'_>, key: &[u8], seq: Seq) -> Result<Option<usize>, StoreError> {
        let stem = Short::of(&[&key[..STEM]]);
        if self.author.as_ref().is_none_or(|author| author.stem[..] != stem[..]) {
            self.author = None;
            let Some(record) = get_record(store, txn, seq)? else { return Ok(None) };
            let key = record.pubkey();
            let tier = self.terms.tier(store, txn, &key)?;
            self.author = Some(Author { stem, key, tier, newest: HashMap::new(), sharing: Sharing::Unknown });
        }
        Ok(self.author.as_ref().and_then(|author| self.terms.rule_for(author.tier, kind_of(key))))
    }

    /// Judges an event that is its author's, as far as the index tells.
    fn judge(
        &mut self,
        store: &Store,
        txn: &RoTxn<'_>,
        posting: Posting,
        kind: Kind,
        rule: usize,
        each: &mut dyn FnMut(Doomed),
    ) -> Result<(), StoreError> {
        let Some(author) = &mut self.author else { return Ok(()) };
        if self.terms.is_too_old(rule, posting.time(), self.now) {
            let Some(record) = get_record(store, txn, posting.seq)? else { return Ok(()) };
            if record.pubkey() == author.key {
                each(doomed(posting.seq, rule, &record));
                return Ok(());
            }
            // Somebody else's. What counts is his tier.
            let tier = self.terms.tier(store, txn, &record.pubkey())?;
            if let Some(rule) = self.terms.rule_for(tier, kind)
                && self.terms.is_too_old(rule, posting.time(), self.now)
            {
                each(doomed(posting.seq, rule, &record));
            }
            return Ok(());
        }
        let Some(count) = self.terms.rules[rule].count else { return Ok(()) };
        let newest = author.newest.entry((rule, author.key)).or_default();
        newest.push(Reverse((posting.place, posting.seq)));
        if newest.len() <= count as usize {
            return Ok(());
        }
        if author.sharing == Sharing::Unknown && author.look(store, txn)? == Sharing::Yes {
            // What was gathered so far is gathered again, each for its own author.
            let gathered = std::mem::take(&mut author.newest);
            for Reverse((place, seq)) in gathered.into_values().flatten() {
                if let Some(kind) = get_record(store, txn, seq)?.map(|record| record.kind()) {
                    self.judge_shared(store, txn, Posting { place, seq }, kind, each)?;
                }
            }
            return Ok(());
        }
        if let Some(Reverse((_, seq))) = author.newest.get_mut(&(rule, author.key)).and_then(BinaryHeap::pop)
            && let Some(record) = get_record(store, txn, seq)?
        {
            each(doomed(seq, rule, &record));
        }
        Ok(())
    }

    /// Judges an event by its record alone.
    fn judge_shared(
        &mut self,
        store: &Store,
        txn: &RoTxn<'_>,
        posting: Posting,
        kind: Kind,
        each: &mut dyn FnMut(Doomed),
    ) -> Result<(), StoreError> {
        let Some(author) = &mut self.author else { return Ok(()) };
        let Some(record) = get_record(store, txn, posting.seq)? else { return Ok(()) };
        let tier = self.terms.tier(store, txn, &record.pubkey())?;
        let Some(rule) = self.terms.rule_for(tier, kind) else { return Ok(()) };
        if self.terms.is_too_old(rule, posting.time(), self.now) {
            each(doomed(posting.seq, rule, &record));
        } else if let Some(count) = self.terms.rules[rule].count {
            let newest = author.newest.entry((rule, record.pubkey())).or_default();
            newest.push(Reverse((posting.place, posting.seq)));
            if newest.len() > count as usize
                && let Some(Reverse((_, seq))) = newest.pop()
                && let Some(record) = get_record(store, txn, seq)?
            {
                each(doomed(seq, rule, &record));
            }
        }
        Ok(())
    }
}

impl Author {
    /// Finds out whether all events under these bytes are of one author: all are read, but only of those who have more than is kept.
    fn look(&mut self, store: &Store, txn: &RoTxn<'_>) -> Result<Sharing, StoreError> {
        self.sharing = Sharing::No;
        for entry in store.tables().authors.prefix_iter(txn, &self.stem)? {
            let (key, value) = entry?;
            let posting = Posting::read(Index::Authors, key, value).ok_or_else(|| damaged_key("authors"))?;
            if get_record(store, txn, posting.seq)?.is_some_and(|record| record.pubkey() != self.key) {
                self.sharing = Sharing::Yes;
                break;
            }
        }
        Ok(self.sharing)
    }
}

/// Before every key; LMDB knows no empty one.
fn first_key() -> Short {
    Short::of(&[&[0]])
}

/// The kind in a key of `authors`, which has its full length.
fn kind_of(key: &[u8]) -> Kind {
    Kind(u16::from_be_bytes([key[STEM], key[STEM + 1]]))
}

fn doomed(seq: Seq, rule: usize, record: &Record<'_>) -> Doomed {
    Doomed { seq, rule: Some(rule), bytes: record.as_bytes().len() as u64 }
}

/// How long a slice goes on.
struct Slice {
    began: Instant,
    budget: Budget,
}

impl Slice {
    fn begin(budget: Budget) -> Slice {
        Slice { began: Instant::now(), budget }
    }

    /// Looks at the clock each time: it is asked between buckets only.
    fn is_over(&self, walked: u64) -> bool {
        walked >= self.budget.keys || walked > 0 && self.began.elapsed() >= self.budget.time
    }
}

/// Finds what goes first when the database is too large: the oldest events of others, then of those who authenticated, then of
/// those who are listed. Protected kinds, and what is the owner's, are left alone.
pub struct Surplus {
    terms: Arc<Terms>,
    /// Whose events are looked for, the first of them now.
    tiers: &'static [Tier],
    /// The key to go on from.
    next: Short,
}

impl Surplus {
    /// Begins with the oldest.
    pub fn new(terms: Arc<Terms>) -> Surplus {
        Surplus { terms, tiers: &[Tier::Others, Tier::Authenticated, Tier::Listed], next: first_key() }
    }

    /// Walks on until the budget is spent or `each` breaks off. What was told in the bucket at hand, and is not removed by the next call,
    /// comes again. One short read transaction.
    pub fn run(
        &mut self,
        store: &Store,
        budget: Budget,
        each: &mut dyn FnMut(Doomed) -> ControlFlow<()>,
    ) -> Result<Progress, StoreError> {
        let txn = store.read()?;
        let slice = Slice::begin(budget);
        let mut walked = 0;
        while let [tier, rest @ ..] = self.tiers {
            let start = self.next;
            let mut bucket = Short::EMPTY;
            let range = (Bound::Included(&start[..]), Bound::Unbounded);
            for entry in store.tables().time.range(&txn, &range)? {
                let (key, value) = entry?;
                if key != &bucket[..] {
                    bucket = Short::of(&[key]);
                    self.next = bucket;
                    if slice.is_over(walked) {
                        return Ok(Progress::More);
                    }
                }
                walked += 1;
                let posting = Posting::read(Index::Time, key, value).ok_or_else(|| damaged_key("time"))?;
                let Some(record) = get_record(store, &txn, posting.seq)? else { continue };
                if self.terms.is_protected(record.kind()) || self.terms.tier(store, &txn, &record.pubkey())? != *tier {
                    continue;
                }
                let bytes = record.as_bytes().len() as u64;
                if each(Doomed { seq: posting.seq, rule: None, bytes }).is_break() {
                    return Ok(Progress::More);
                }
            }
            self.tiers = rest;
            self.next = first_key();
        }
        Ok(Progress::Done)
    }
}

const REPORT: &str = "retention";

/// Events, and about how many bytes they take with their index entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Amount {
    /// Events.
    pub events: u64,
    /// Bytes, about.
    pub bytes: u64,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

/// What a rule would free, and what it has freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RuleReport {
    /// The rule as it stands in the configuration; `max_size` for the ceiling.
    pub rule: String,
    /// What was found the last time and is still there.
    pub due: Amount,
    /// What went so far because of this rule.
    pub removed: Amount,
}

/// What retention found and did, kept in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RetentionReport {
    /// When it last looked at everything, in unix seconds; 0 when it never did.
    pub at: u64,
    /// Each rule, in the order of the configuration, and the ceiling behind them.
    pub rules: Vec<RuleReport>,
}

impl Store {
    /// What retention found the last time, whichever process looked.
    pub fn retention_report(&self) -> Result<Option<RetentionReport>, StoreError> {
        let txn = self.read()?;
        read_meta(self.tables(), &txn, REPORT)
    }

    /// Keeps what retention found.
    pub fn keep_retention_report(&self, report: &RetentionReport) -> Result<(), StoreError> {
        let mut txn = self.write_txn()?;
        write_meta(self.tables(), &mut txn, REPORT, report)?;
        self.commit(txn)
    }

    /// Bytes of the database that a byte of a record stands for: index entries and everything else shared out. Costs a look at each kind.
    pub fn bytes_per_record_byte(&self) -> Result<f64, StoreError> {
        let records: u64 = self.statistics()?.kinds.iter().map(|kind| kind.bytes).sum();
        // A small database is mostly empty pages.
        Ok(if records < 1 << 20 { 1.5 } else { (self.used_bytes()? as f64 / records as f64).clamp(1.0, 20.0) })
    }

    /// Whether this author has published an event here while authenticated.
    pub fn knows(&self, author: &PublicKey) -> Result<bool, StoreError> {
        let txn = self.read()?;
        Ok(self.tables().known.get(&txn, &author.0)?.is_some())
    }

    /// Forgets authors who authenticated and have no events here any more, among the first `limit` behind `after`. Returns the last that was
    /// looked at; `None` at the end.
    pub fn forget_authors(&self, after: Option<PublicKey>, limit: usize) -> Result<Option<PublicKey>, StoreError> {
        let known = self.tables().known;
        let txn = self.read()?;
        let start = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key.0[..]));
        let (mut last, mut gone) = (None, Vec::new());
        for entry in known.range(&txn, &(start, Bound::<&[u8]>::Unbounded))?.take(limit) {
            let key = PublicKey(entry?.0.try_into().map_err(|_| damaged_key("known"))?);
            last = Some(key);
            if !self.has_events(&txn, &key)? {
                gone.push(key);
            }
        }
        drop(txn);
        if !gone.is_empty() {
            let mut txn = self.write_txn()?;
            for key in gone {
                // He may have come back in the meantime.
                if !self.has_events(&txn, &key)? {
                    known.delete(&mut txn, &key.0)?;
                }
            }
            self.commit(txn)?;
        }
        Ok(last)
    }

    fn has_events(&self, txn: &RoTxn<'_>, author: &PublicKey) -> Result<bool, StoreError> {
        Ok(self.tables().authors.prefix_iter(txn, &keys::author_stem(author))?.next().transpose()?.is_some())
    }
}
