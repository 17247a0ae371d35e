//! A question on its way to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::{Account, Lease, Shortage};
use super::subscription::Subscription;
use crate::nostr::hll::Sketch;
use crate::nostr::{Filter, SubscriptionId};
use crate::store::{Count, Scan, Seq};

/// A question on its way to its answer.
pub(super) struct Question {
    pub kind: Kind,
    /// When it came.
    pub asked: Instant,
    /// How long it was worked on.
    pub worked: Duration,
    /// What it holds beside its scan.
    _memory: Option<Lease>,
    /// What its scan holds between two slices.
    scan_memory: Option<Lease>,
}

/// What is asked.
pub(super) enum Kind {
    /// The stored events of a subscription.
    Stored { subscription: Arc<Subscription>, scan: Scan },
    /// What the log holds for a subscription that fell behind, from a number on.
    Log { subscription: Arc<Subscription>, from: Seq },
    /// How many there are.
    Count { id: SubscriptionId, count: Count },
    /// How many there are and a sketch of who their authors are: the number counted so far, and what is known of them.
    Sketch { id: SubscriptionId, scan: Scan, count: u64, sketch: Box<Sketch> },
}

impl Question {
    fn new(kind: Kind, memory: Option<Lease>) -> Question {
        Question { kind, asked: Instant::now(), worked: Duration::ZERO, _memory: memory, scan_memory: None }
    }

    /// The stored events of a REQ.
    pub fn stored(subscription: Arc<Subscription>, scan: Scan) -> Question {
        Question::new(Kind::Stored { subscription, scan }, None)
    }

    /// The log for a subscription that fell behind.
    pub fn log(subscription: Arc<Subscription>, from: Seq) -> Question {
        Question::new(Kind::Log { subscription, from }, None)
    }

    /// A COUNT; `memory` is what its filters take.
    pub fn count(id: SubscriptionId, count: Count, memory: Lease) -> Question {
        Question::new(Kind::Count { id, count }, Some(memory))
    }

    /// A COUNT that is answered with a sketch.
    pub fn sketch(id: SubscriptionId, scan: Scan, sketch: Box<Sketch>, memory: Lease) -> Question {
        Question::new(Kind::Sketch { id, scan, count: 0, sketch }, Some(memory))
    }

    pub fn is_for(&self, subscription: &Arc<Subscription>) -> bool {
        match &self.kind {
            Kind::Stored { subscription: own, .. } | Kind::Log { subscription: own, .. } => {
                Arc::ptr_eq(own, subscription)
            }
            Kind::Count { .. } | Kind::Sketch { .. } => false,
        }
    }

    pub fn is_open(&self) -> bool {
        match &self.kind {
            Kind::Stored { subscription, .. } | Kind::Log { subscription, .. } => subscription.is_open(),
            Kind::Count { .. } | Kind::Sketch { .. } => true,
        }
    }

    /// Counts what its scan holds until the next slice; returns how many bytes that is.
    pub fn hold(&mut self, account: &Arc<Account>) -> Result<usize, Shortage> {
        let bytes = match &self.kind {
            Kind::Stored { scan, .. } | Kind::Sketch { scan, .. } => scan.memory(),
            Kind::Count { count, .. } => count.memory(),
            Kind::Log { .. } => 0,
        };
        self.scan_memory.get_or_insert_with(|| account.empty()).resize(bytes)?;
        Ok(bytes)
    }
}

/// Whether an answer to these filters takes but a few seeks and gives but a few events, as far as the filters tell.
pub(super) fn is_small(filters: &[Filter]) -> bool {
    /// Ranges of an index, or ids.
    const PLACES: usize = 24;
    const EVENTS: u64 = 100;
    /// Kinds that a question without any is taken to meet.
    const SOME_KINDS: usize = 4;
    let places = |filter: &Filter| {
        let kinds = filter.kinds.as_ref().map_or(SOME_KINDS, Vec::len);
        let values =
            filter.authors.as_ref().map_or(0, Vec::len) + filter.tags.first().map_or(0, |(_, values)| values.len());
        match &filter.ids {
            Some(ids) => ids.len(),
            None if values == 0 => filter.kinds.as_ref().map_or(1, Vec::len),
            None => values.saturating_mul(kinds),
        }
    };
    // What names neither ids nor kinds of an author or a tag can find as much as there is, so it must say that it wants little, or only what came
    // since the last visit. That may be much all the same: then a turn in place ends early.
    let is_narrow = |filter: &Filter| {
        filter.ids.is_some()
            || filter.kinds.is_some() && (filter.authors.is_some() || !filter.tags.is_empty())
            || filter.since.is_some()
    };
    filters.iter().map(places).fold(0, usize::saturating_add) <= PLACES
        && filters.iter().all(|filter| filter.limit.is_some_and(|limit| limit <= EVENTS) || is_narrow(filter))
}
