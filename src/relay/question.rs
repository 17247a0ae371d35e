//! A question on its way to its answer.

use std::sync::Arc;

use super::memory::{Account, Lease, Shortage};
use super::subscription::Subscription;
use crate::nostr::SubscriptionId;
use crate::nostr::hll::Sketch;
use crate::store::{Scan, Seq};

/// A question on its way to its answer.
pub(super) struct Question {
    pub kind: Kind,
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
    /// How many there are; the number counted so far, and who their authors are, where that is told.
    Count { id: SubscriptionId, scan: Scan, count: u64, sketch: Option<Box<Sketch>> },
}

impl Question {
    /// The stored events of a REQ.
    pub fn stored(subscription: Arc<Subscription>, scan: Scan) -> Question {
        Question { kind: Kind::Stored { subscription, scan }, _memory: None, scan_memory: None }
    }

    /// The log for a subscription that fell behind.
    pub fn log(subscription: Arc<Subscription>, from: Seq) -> Question {
        Question { kind: Kind::Log { subscription, from }, _memory: None, scan_memory: None }
    }

    /// A COUNT; `memory` is what its filters take.
    pub fn count(id: SubscriptionId, scan: Scan, sketch: Option<Box<Sketch>>, memory: Lease) -> Question {
        Question { kind: Kind::Count { id, scan, count: 0, sketch }, _memory: Some(memory), scan_memory: None }
    }

    pub fn is_for(&self, subscription: &Arc<Subscription>) -> bool {
        match &self.kind {
            Kind::Stored { subscription: own, .. } | Kind::Log { subscription: own, .. } => {
                Arc::ptr_eq(own, subscription)
            }
            Kind::Count { .. } => false,
        }
    }

    pub fn is_open(&self) -> bool {
        match &self.kind {
            Kind::Stored { subscription, .. } | Kind::Log { subscription, .. } => subscription.is_open(),
            Kind::Count { .. } => true,
        }
    }

    /// Counts what its scan holds until the next slice; returns how many bytes that is.
    pub fn hold(&mut self, account: &Arc<Account>) -> Result<usize, Shortage> {
        let bytes = match &self.kind {
            Kind::Stored { scan, .. } | Kind::Count { scan, .. } => scan.memory(),
            Kind::Log { .. } => 0,
        };
        self.scan_memory.get_or_insert_with(|| account.empty()).resize(bytes)?;
        Ok(bytes)
    }
}
