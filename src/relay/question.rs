//! A question on its way to its answer.

use std::sync::Arc;

use super::subscription::Subscription;
use crate::nostr::SubscriptionId;
use crate::nostr::hll::Sketch;
use crate::store::Scan;

/// A question on its way to its answer.
pub(super) struct Question {
    pub scan: Scan,
    pub kind: Kind,
}

/// What is asked.
pub(super) enum Kind {
    /// The stored events of a subscription.
    Stored(Arc<Subscription>),
    /// How many there are; the number counted so far, and who their authors are, where that is told.
    Count { id: SubscriptionId, count: u64, sketch: Option<Box<Sketch>> },
}

impl Question {
    /// The stored events of a REQ.
    pub fn stored(subscription: Arc<Subscription>, scan: Scan) -> Question {
        Question { scan, kind: Kind::Stored(subscription) }
    }

    /// A COUNT.
    pub fn count(id: SubscriptionId, scan: Scan, sketch: Option<Box<Sketch>>) -> Question {
        Question { scan, kind: Kind::Count { id, count: 0, sketch } }
    }

    pub fn is_for(&self, subscription: &Arc<Subscription>) -> bool {
        matches!(&self.kind, Kind::Stored(own) if Arc::ptr_eq(own, subscription))
    }

    pub fn is_open(&self) -> bool {
        match &self.kind {
            Kind::Stored(subscription) => subscription.is_open(),
            Kind::Count { .. } => true,
        }
    }
}
