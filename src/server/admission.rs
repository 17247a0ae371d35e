//! Admission: how much one address, and one author, may do, as token buckets.
//!
//! A bucket holds a minute's worth and refills steadily. It is stored as one number, the moment at which it will be full again, so
//! it needs no timer, and one that is full is no different from one that never was: addresses are forgotten when all of
//! theirs are full. Every connection holds its address's entry, so a message costs no look-up.
//!
//! Who goes on in spite of refusals is shut out: new connections are refused for a while that doubles every time, and the
//! connection that went too far is closed. Other connections of that address stay: many people can share one.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crate::config::{KindRate, Network, Rates};
use crate::nostr::{Kind, PublicKey};
use crate::relay::{Group, Swap};

/// What every rate refers to, and what a bucket holds the worth of.
const MINUTE: u64 = 60_000_000_000;

/// So many refusals a minute are forgiven. A client that sends without waiting for answers meets some at once.
const FORGIVEN: u64 = 300;

/// After so much time without a penalty the next one is half as long as it would have been.
const FORGETS: u64 = 10 * MINUTE;

/// What connections and messages are counted against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// New connections.
    Connections,
    /// Messages of any kind.
    Messages,
    /// Bytes of messages.
    Bytes,
    /// EVENT, and AUTH.
    Events,
    /// REQ.
    Reqs,
    /// COUNT.
    Counts,
    /// EVENT, counted for its author.
    Author,
}

/// How many resources an address has a bucket for: all but the last.
const BUCKETS: usize = 6;

impl Resource {
    /// For people, to follow "more".
    fn name(self) -> &'static str {
        match self {
            Resource::Connections => "new connections",
            Resource::Messages => "messages",
            Resource::Bytes => "bytes",
            Resource::Events => "events",
            Resource::Reqs => "questions (REQ)",
            Resource::Counts => "questions (COUNT)",
            Resource::Author => "events of this author",
        }
    }
}

/// A refusal: too much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Of what.
    pub resource: Resource,
    /// Seconds until there is room for it again, at least 1.
    pub wait: u64,
    /// The address has gone on for too long: the connection is to be closed.
    pub enough: bool,
}

impl Excess {
    /// The text of a refusal, with its machine-readable prefix.
    pub fn reason(&self) -> String {
        let place = if self.resource == Resource::Author { "" } else { " from your address" };
        format!(
            "rate-limited: more {}{place} than this relay takes; try again in {} s",
            self.resource.name(),
            self.wait
        )
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many are open from its address.
    TooMany,
    /// Too many came from its address lately; seconds to wait.
    TooFast(u64),
    /// Its address is shut out; seconds to wait.
    ShutOut(u64),
    /// The operator has blocked its address.
    Blocked,
}

impl Refusal {
    /// Seconds after which it may be tried again.
    pub fn wait(self) -> u64 {
        match self {
            // Nobody knows when one of them will be closed.
            Refusal::TooMany => 60,
            Refusal::TooFast(wait) | Refusal::ShutOut(wait) => wait,
            // That is for the operator to say.
            Refusal::Blocked => 86_400,
        }
    }

    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::TooMany => "Too many connections are open from your address.",
            Refusal::TooFast(_) => "Too many connections came from your address lately.",
            Refusal::Blocked => "Your address is blocked here.",
            Refusal::ShutOut(_) => "Your address went on in spite of its limits and has to wait.",
        }
    }
}

/// What was refused since the start.
#[derive(Debug, Default)]
pub struct Refused {
    /// Connections, because too many were open.
    pub too_many: AtomicU64,
    /// Connections, because too many came lately.
    pub too_fast: AtomicU64,
    /// Connections of addresses that were shut out.
    pub shut_out: AtomicU64,
    /// Times that an address was shut out.
    pub penalties: AtomicU64,
    /// Messages, by what there was too much of, in the order of [`Resource`].
    messages: [AtomicU64; BUCKETS + 1],
}

impl Refused {
    /// Messages that were refused because there was too much of this.
    pub fn messages(&self, resource: Resource) -> u64 {
        self.messages[resource as usize].load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What is counted as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(Ipv4Addr),
    /// The first 64 bits: what lies behind them the customer chooses.
    V6(u64),
}

impl Source {
    fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4),
            IpAddr::V6(v6) => Source::V6((u128::from(v6) >> 64) as u64),
        }
    }
}

/// The moment at which a bucket is full again, in nanoseconds since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(u64);

impl Bucket {
    /// Takes `amount` out of a bucket that gains `rate` a minute (0: without end) and holds as much. When there is not enough, tells
    /// how many nanoseconds are missing.
    fn take(&mut self, now: u64, amount: u64, rate: u64) -> Result<(), u64> {
        if rate == 0 {
            return Ok(());
        }
        let full = self.0.max(now).saturating_add(cost(amount, rate));
        match full.checked_sub(now + MINUTE) {
            None | Some(0) => {
                self.0 = full;
                Ok(())
            }
            Some(missing) => Err(missing),
        }
    }

    /// Puts back what was taken.
    fn put_back(&mut self, amount: u64, rate: u64) {
        if rate > 0 {
            self.0 = self.0.saturating_sub(cost(amount, rate));
        }
    }
}

/// How long it takes to gain `amount` at `rate` a minute.
fn cost(amount: u64, rate: u64) -> u64 {
    amount.saturating_mul(MINUTE) / rate
}

/// Whole seconds, at least one.
fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(1_000_000_000).max(1)
}

/// What is known of an address.
#[derive(Debug, Default)]
struct State {
    buckets: [Bucket; BUCKETS],
    refusals: Bucket,
    /// Until when it may not connect.
    shut_until: u64,
    /// How often it was shut out, less what was forgiven.
    penalties: u32,
    /// Connections open.
    open: u32,
    /// What they are to the core, as long as there are any.
    group: Weak<Group>,
}

impl State {
    /// Nothing tells this address from one that never came.
    fn is_blank(&self, now: u64) -> bool {
        self.open == 0 && self.is_forgiven(now) && self.buckets.iter().all(|bucket| bucket.0 <= now)
    }

    fn is_forgiven(&self, now: u64) -> bool {
        self.refusals.0 <= now && self.forgiven_penalties(now) == 0 && self.shut_until <= now
    }

    fn forgiven_penalties(&self, now: u64) -> u32 {
        let good = now.saturating_sub(self.shut_until) / FORGETS;
        self.penalties.saturating_sub(u32::try_from(good).unwrap_or(u32::MAX))
    }
}

type Entry = Mutex<State>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain numbers, each right by itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who came lately.
struct Table {
    entries: HashMap<Source, Arc<Entry>>,
    /// At this size those who may be are forgotten.
    sweep_at: usize,
}

/// An author's bucket, by the beginning of the key (the hash map's own key keeps anybody from aiming at another's place) and
/// the rule for the kind.
type Author = (u64, u8);

/// What addresses and authors may do.
struct Terms {
    rates: [u64; BUCKETS],
    most_open: u32,
    exempt: Vec<Network>,
    per_author: u64,
    by_kind: Vec<KindRate>,
    penalty: u64,
    max_penalty: u64,
    remembered: usize,
}

impl Terms {
    fn new(rates: &Rates) -> Terms {
        Terms {
            rates: [
                rates.new_connections.into(),
                rates.messages.into(),
                rates.message_bytes,
                rates.events.into(),
                rates.reqs.into(),
                rates.counts.into(),
            ],
            most_open: if rates.connections == 0 { u32::MAX } else { rates.connections },
            exempt: rates.exempt.clone(),
            per_author: rates.events_per_author.into(),
            by_kind: rates.events_per_author_by_kind.clone(),
            penalty: Duration::from_secs(rates.penalty).as_nanos() as u64,
            max_penalty: Duration::from_secs(rates.max_penalty).as_nanos() as u64,
            remembered: rates.remembered,
        }
    }

    /// The rule for a kind: its number and rate.
    fn rule(&self, kind: Kind) -> (u8, u64) {
        let own = self.by_kind.iter().position(|rule| rule.kinds.contains(&kind.0));
        match own {
            // There are at most a hundred rules.
            Some(i) => (i as u8 + 1, self.by_kind[i].per_minute.into()),
            None => (0, self.per_author),
        }
    }
}

/// The limits of all addresses and authors, and what they have used up.
pub struct Limiter {
    terms: Swap<Terms>,
    began: Instant,
    table: Mutex<Table>,
    authors: Mutex<HashMap<Author, Bucket>>,
    /// Addresses that the operator has blocked.
    blocked: RwLock<HashSet<IpAddr>>,
    refused: Refused,
}

impl Limiter {
    /// Limits that begin to count at `now`.
    pub fn new(rates: &Rates, now: Instant) -> Arc<Limiter> {
        Arc::new(Limiter {
            terms: Swap::new(Terms::new(rates)),
            began: now,
            table: Mutex::new(Table { entries: HashMap::new(), sweep_at: rates.remembered }),
            authors: Mutex::default(),
            blocked: RwLock::default(),
            refused: Refused::default(),
        })
    }

    /// Puts other limits in force, for those who are connected as well. What they have used up stays used up.
    pub fn change(&self, rates: &Rates) {
        self.terms.store(Terms::new(rates));
        lock(&self.table).sweep_at = rates.remembered;
    }

    /// What was refused since the start.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Addresses remembered.
    pub fn addresses(&self) -> usize {
        lock(&self.table).entries.len()
    }

    /// Authors remembered.
    pub fn authors(&self) -> usize {
        lock(&self.authors).len()
    }

    /// Lets nobody in any more from these addresses, and from all others as before.
    pub fn block(&self, addresses: &HashSet<IpAddr>) {
        *self.blocked.write().unwrap_or_else(PoisonError::into_inner) = addresses.clone();
    }

    /// Whether the operator has blocked this address.
    pub fn blocks(&self, address: IpAddr) -> bool {
        self.blocked.read().unwrap_or_else(PoisonError::into_inner).contains(&address.to_canonical())
    }

    /// Lets a connection in, or does not. Without an address (the other end of a Unix socket that names none) it has no limits, like
    /// one that is exempt.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>, now: Instant) -> Result<Guest, Refusal> {
        if address.is_some_and(|address| self.blocks(address)) {
            return Err(Refusal::Blocked);
        }
        let terms = self.terms.load();
        let limited = address.filter(|address| !terms.exempt.iter().any(|network| network.contains(*address)));
        let Some(source) = limited else {
            return Ok(Guest { limiter: Arc::clone(self), address, entry: None, group: None });
        };
        let now = self.moment(now);
        let mut table = lock(&self.table);
        if table.entries.len() >= table.sweep_at {
            sweep(&mut table, terms.remembered, now);
        }
        let entry = Arc::clone(table.entries.entry(Source::of(source)).or_default());
        // Under the table's lock: an entry that is not counted as open yet must not be forgotten.
        let mut state = lock(&entry);
        let entered = self.count_in(&terms, &mut state, now);
        drop(table);
        entered?;
        let group = state.group.upgrade().unwrap_or_default();
        state.group = Arc::downgrade(&group);
        drop(state);
        Ok(Guest { limiter: Arc::clone(self), address, entry: Some(entry), group: Some(group) })
    }

    fn count_in(&self, terms: &Terms, state: &mut State, now: u64) -> Result<(), Refusal> {
        let (refusal, counter) = if state.shut_until > now {
            (Refusal::ShutOut(seconds(state.shut_until - now)), &self.refused.shut_out)
        } else if state.open >= terms.most_open {
            (Refusal::TooMany, &self.refused.too_many)
        } else if let Err(missing) =
            state.buckets[Resource::Connections as usize].take(now, 1, terms.rates[Resource::Connections as usize])
        {
            (Refusal::TooFast(seconds(missing)), &self.refused.too_fast)
        } else {
            state.open += 1;
            return Ok(());
        };
        count(counter);
        self.note_refusal(terms, state, now);
        Err(refusal)
    }

    /// Counts a refusal; too many of them shut the address out. True when it is shut out.
    fn note_refusal(&self, terms: &Terms, state: &mut State, now: u64) -> bool {
        if terms.penalty == 0 {
            return false;
        }
        if state.refusals.take(now, 1, FORGIVEN).is_err() {
            count(&self.refused.penalties);
            state.penalties = state.forgiven_penalties(now) + 1;
            let doubled = terms.penalty.saturating_mul(1 << (state.penalties - 1).min(40));
            state.shut_until = now + doubled.min(terms.max_penalty.max(terms.penalty));
            state.refusals = Bucket::default();
        }
        state.shut_until > now
    }

    fn moment(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_nanos() as u64
    }
}

/// Forgets those who may be forgotten without anybody's noticing; when they are too few, those who did no harm; when these are
/// too few as well, everybody who is not connected.
fn sweep(table: &mut Table, remembered: usize, now: u64) {
    let mut open = 0;
    table.entries.retain(|_, entry| {
        let state = lock(entry);
        open += usize::from(state.open > 0);
        !state.is_blank(now)
    });
    let most = open + remembered - remembered / 8;
    if table.entries.len() > most {
        table.entries.retain(|_, entry| {
            let state = lock(entry);
            state.open > 0 || !state.is_forgiven(now)
        });
    }
    if table.entries.len() > most {
        table.entries.retain(|_, entry| lock(entry).open > 0);
    }
    table.sweep_at = (table.entries.len() + remembered / 8).max(remembered);
}

/// A connection that was let in. Dropping it gives the place back.
pub struct Guest {
    limiter: Arc<Limiter>,
    address: Option<IpAddr>,
    /// `None` when it has no limits.
    entry: Option<Arc<Entry>>,
    group: Option<Arc<Group>>,
}

impl Guest {
    /// Where it is, for the log; `None` when nobody knows.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Whether the operator has blocked its address.
    pub fn is_blocked(&self) -> bool {
        self.address.is_some_and(|address| self.limiter.blocks(address))
    }

    /// The connections of its address, as the core sees them; `None` when it has no limits.
    pub fn group(&self) -> Option<Arc<Group>> {
        self.group.clone()
    }

    /// Whether it has limits.
    pub fn is_limited(&self) -> bool {
        self.entry.is_some()
    }

    /// Counts a message of `bytes`, and what it is: an event, a question, or, when `None`, nothing more than a message.
    pub fn charge(&self, what: Option<Resource>, bytes: usize, now: Instant) -> Result<(), Excess> {
        let Some(entry) = &self.entry else { return Ok(()) };
        let now = self.limiter.moment(now);
        let mut state = lock(entry);
        let terms = self.limiter.terms.load();
        let rates = &terms.rates;
        let taken = [(Resource::Messages, 1), (Resource::Bytes, bytes as u64)].into_iter();
        for (resource, amount) in taken.chain(what.map(|what| (what, 1))) {
            // An author's events are not an address's: there is no bucket for them here.
            let Some(bucket) = state.buckets.get_mut(resource as usize) else { continue };
            if let Err(missing) = bucket.take(now, amount, rates[resource as usize]) {
                return Err(self.refuse(&terms, &mut state, resource, missing, now));
            }
        }
        Ok(())
    }

    /// Counts an event for its author. What comes back is to be dropped, or [`AuthorCharge::take_back`] to be called when the event turns
    /// out not to be that author's or not to be taken: otherwise anybody could use up another's rate with forged events.
    pub fn charge_author(&self, author: &PublicKey, kind: Kind, now: Instant) -> Result<AuthorCharge, Excess> {
        let limiter = &self.limiter;
        let terms = limiter.terms.load();
        let (rule, rate) = terms.rule(kind);
        let (Some(entry), true) = (&self.entry, rate > 0) else { return Ok(AuthorCharge(None)) };
        let now = limiter.moment(now);
        let key = (first_bytes(author), rule);
        let mut authors = lock(&limiter.authors);
        if authors.len() >= terms.remembered && !authors.contains_key(&key) {
            authors.retain(|_, bucket| bucket.0 > now);
            if authors.len() >= terms.remembered - terms.remembered / 8 {
                authors.clear();
            }
        }
        let taken = authors.entry(key).or_default().take(now, 1, rate);
        drop(authors);
        match taken {
            Ok(()) => Ok(AuthorCharge(Some((Arc::clone(limiter), key, rate)))),
            Err(missing) => Err(self.refuse(&terms, &mut lock(entry), Resource::Author, missing, now)),
        }
    }

    fn refuse(&self, terms: &Terms, state: &mut State, resource: Resource, missing: u64, now: u64) -> Excess {
        count(&self.limiter.refused.messages[resource as usize]);
        Excess { resource, wait: seconds(missing), enough: self.limiter.note_refusal(terms, state, now) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            lock(entry).open -= 1;
        }
    }
}

/// An event that was counted for its author.
#[must_use]
pub struct AuthorCharge(Option<(Arc<Limiter>, Author, u64)>);

impl AuthorCharge {
    /// The event did not count after all.
    pub fn take_back(self) {
        let Some((limiter, key, rate)) = self.0 else { return };
        if let Some(bucket) = lock(&limiter.authors).get_mut(&key) {
            bucket.put_back(1, rate);
        }
    }
}

fn first_bytes(author: &PublicKey) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&author.as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
