//! What the core counts: plain atomics that are read when somebody asks. Nothing here costs a live delivery anything: those are counted
//! by the event, not by the receiver.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::outcome::Outcome;
use crate::nostr::Kind;
use crate::store::Access;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds so many.
    pub fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Relaxed);
        }
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often a value fell between which bounds. What it counts in is the matter of whoever observes: nanoseconds, or pieces.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what lies above the last.
    buckets: Box<[Counter]>,
    sum: Counter,
}

/// What a [`Histogram`] has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The bounds, each with how many values were no larger.
    pub buckets: Vec<(u64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Histogram {
    /// An empty one; bounds grow.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        Histogram { bounds, buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(), sum: Counter::default() }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
        }
        self.sum.add(value);
    }

    /// Counts a time, in nanoseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What it has seen. Its numbers agree with each other, whatever is counted meanwhile.
    pub fn read(&self) -> Observed {
        let mut count = 0;
        let mut seen: Vec<u64> = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            count += bucket.get();
            seen.push(count);
        }
        Observed { buckets: self.bounds.iter().copied().zip(seen).collect(), count, sum: self.sum.get() }
    }
}

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Bounds for times: a look-up takes microseconds, a commit is mostly one fsync, a walk through everything takes seconds.
const TIMES: &[u64] = &[
    50 * MICROS,
    100 * MICROS,
    250 * MICROS,
    500 * MICROS,
    MILLIS,
    2_500 * MICROS,
    5 * MILLIS,
    10 * MILLIS,
    25 * MILLIS,
    50 * MILLIS,
    100 * MILLIS,
    250 * MILLIS,
    500 * MILLIS,
    SECOND,
    5 * SECOND,
    30 * SECOND,
];

/// Bounds for the number of events in a transaction.
const BATCH_SIZES: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];

/// Messages by their verbs, in the order of [`Verb::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// An event, in either direction.
    Event,
    /// A question.
    Req,
    /// A count, in either direction.
    Count,
    /// The end of a subscription by its client.
    Close,
    /// Authentication: a challenge or its answer.
    Auth,
    /// What became of an event.
    Ok,
    /// The end of stored events.
    Eose,
    /// The end of a subscription, or the refusal of a question.
    Closed,
    /// A text for people.
    Notice,
    /// What is no message.
    Invalid,
}

impl Verb {
    /// All of them, in the order of their numbers.
    pub const ALL: [Verb; 10] = [
        Verb::Event,
        Verb::Req,
        Verb::Count,
        Verb::Close,
        Verb::Auth,
        Verb::Ok,
        Verb::Eose,
        Verb::Closed,
        Verb::Notice,
        Verb::Invalid,
    ];

    /// As it stands in a message.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Event => "EVENT",
            Verb::Req => "REQ",
            Verb::Count => "COUNT",
            Verb::Close => "CLOSE",
            Verb::Auth => "AUTH",
            Verb::Ok => "OK",
            Verb::Eose => "EOSE",
            Verb::Closed => "CLOSED",
            Verb::Notice => "NOTICE",
            Verb::Invalid => "invalid",
        }
    }
}

/// Messages of one direction.
#[derive(Debug, Default)]
#[repr(align(64))] // Directions are counted by different threads: neither is to take the other's cache line away.
pub struct Messages([Counter; Verb::ALL.len()]);

impl Messages {
    /// Counts so many.
    pub fn add(&self, verb: Verb, more: u64) {
        self.0[verb as usize].add(more);
    }

    /// How many there were.
    pub fn get(&self, verb: Verb) -> u64 {
        self.0[verb as usize].get()
    }
}

/// Kinds that are counted each for itself, in their order. The others are counted together: a label must not grow with what
/// strangers send.
pub const KINDS: [u16; 38] = [
    0, 1, 3, 4, 5, 6, 7, 9, 11, 13, 14, 16, 20, 21, 22, 40, 41, 42, 62, 1059, 1063, 1111, 1311, 1984, 9734, 9735, 9802,
    10_000, 10_002, 10_050, 20_001, 22_242, 24_133, 30_000, 30_023, 30_078, 30_311, 30_315,
];

/// What can become of an event, each with the class of the reason.
pub const VERDICTS: [(&str, &str); 14] = [
    ("stored", ""),
    ("delivered", ""),
    ("unheard", ""),
    ("duplicate", ""),
    ("replaced", ""),
    ("refused", "invalid"),
    ("refused", "blocked"),
    ("refused", "pow"),
    ("refused", "rate-limited"),
    ("refused", "auth-required"),
    ("refused", "restricted"),
    ("refused", "other"),
    ("granted", ""),
    ("failed", "error"),
];

const OTHER_REASON: usize = 11;

fn verdict(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Stored => 0,
        Outcome::Delivered => 1,
        Outcome::Unheard => 2,
        Outcome::Duplicate => 3,
        Outcome::Replaced => 4,
        Outcome::Refused(text) => {
            let class = text.split(':').next().unwrap_or_default();
            let known = VERDICTS.iter().position(|(what, reason)| *what == "refused" && *reason == class);
            known.unwrap_or(OTHER_REASON)
        }
        Outcome::Granted(_) => VERDICTS.len() - 2,
        Outcome::Failed(_) => VERDICTS.len() - 1,
    }
}

/// Published events by kind and verdict.
#[derive(Debug)]
pub struct Events(Box<[[Counter; VERDICTS.len()]]>);

impl Default for Events {
    fn default() -> Events {
        Events((0..=KINDS.len()).map(|_| Default::default()).collect())
    }
}

impl Events {
    /// Counts an event and what became of it.
    pub fn add(&self, kind: Kind, outcome: &Outcome) {
        let row = KINDS.binary_search(&kind.0).unwrap_or(KINDS.len());
        if let Some(counter) = self.0.get(row).and_then(|row| row.get(verdict(outcome))) {
            counter.add(1);
        }
    }

    /// Everything that has happened at all: the kind (`None` for those without a name of their own), verdict and reason, how many.
    pub fn read(&self) -> impl Iterator<Item = (Option<u16>, (&'static str, &'static str), u64)> {
        self.0.iter().enumerate().flat_map(|(row, counters)| {
            let seen = counters.iter().zip(VERDICTS).map(|(counter, verdict)| (verdict, counter.get()));
            seen.filter(|(_, count)| *count > 0).map(move |(verdict, count)| (KINDS.get(row).copied(), verdict, count))
        })
    }

    /// How many were stored or delivered.
    pub fn taken(&self) -> u64 {
        self.0.iter().map(|row| row[0].get() + row[1].get()).sum()
    }
}

/// Everything that the core counts.
#[derive(Debug)]
pub struct Figures {
    /// Messages from clients.
    pub received: Messages,
    /// Messages to clients, counted when they are put into the outbox.
    pub sent: Messages,
    /// Published events.
    pub events: Events,
    /// Work on questions, in nanoseconds, by the way they were answered, in the order of [`Access::ALL`].
    pub queries: [Histogram; Access::ALL.len()],
    /// How long questions waited for their first turn, in nanoseconds.
    pub query_wait: Histogram,
    /// Transactions that store events, in nanoseconds, from the write lock to the disk.
    pub commits: Histogram,
    /// Events in each of them.
    pub batches: Histogram,
    /// Transactions that remove what retention lets go, in nanoseconds, from the wait for the write lock to the disk: what a publisher
    /// waits for them.
    pub prunes: Histogram,
    /// Events in each of them.
    pub pruned: Histogram,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            received: Messages::default(),
            sent: Messages::default(),
            events: Events::default(),
            queries: std::array::from_fn(|_| Histogram::new(TIMES)),
            query_wait: Histogram::new(TIMES),
            commits: Histogram::new(TIMES),
            batches: Histogram::new(BATCH_SIZES),
            prunes: Histogram::new(TIMES),
            pruned: Histogram::new(BATCH_SIZES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_buckets_add_up() {
        let histogram = Histogram::new(&[1, 10, 100]);
        for value in [0, 1, 2, 10, 11, 100, 101, 5_000] {
            histogram.observe(value);
        }
        let seen = histogram.read();
        assert_eq!(seen.buckets, [(1, 2), (10, 4), (100, 6)]);
        assert_eq!((seen.count, seen.sum), (8, 5_225));
    }

    #[test]
    fn tables_are_in_the_order_of_their_numbers() {
        assert!(KINDS.is_sorted_by(|a, b| a < b), "they are searched");
        assert!(Verb::ALL.iter().enumerate().all(|(i, verb)| *verb as usize == i));
        assert!(Access::ALL.iter().enumerate().all(|(i, access)| *access as usize == i));
        assert_eq!(VERDICTS[OTHER_REASON], ("refused", "other"));
    }

    #[test]
    fn every_outcome_has_its_verdict_and_a_kind_nobody_knows_makes_no_label() {
        let events = Events::default();
        let refused = |text: &str| Outcome::Refused(text.to_owned());
        for (kind, outcome) in [
            (1, Outcome::Stored),
            (1, Outcome::Stored),
            (39_999, Outcome::Duplicate),
            (2, refused("pow: difficulty 1 is less than 20")),
            (2, refused("whatever without a prefix")),
            (7, refused("invalid: no")),
            (7, Outcome::Failed("error: full".into())),
            (20_001, Outcome::Delivered),
        ] {
            events.add(Kind(kind), &outcome);
        }
        let seen: Vec<_> = events.read().collect();
        assert_eq!(
            seen,
            [
                (Some(1), ("stored", ""), 2),
                (Some(7), ("refused", "invalid"), 1),
                (Some(7), ("failed", "error"), 1),
                (Some(20_001), ("delivered", ""), 1),
                (None, ("duplicate", ""), 1),
                (None, ("refused", "pow"), 1),
                (None, ("refused", "other"), 1),
            ]
        );
        assert_eq!(events.taken(), 3);
    }
}
