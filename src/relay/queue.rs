//! What waits in the queues of the core: on its way to verification, and from there to the writer.

use crossbeam_channel::{Receiver, Sender};

use super::Admission;
use super::membership::{self, Task};
use super::outcome::{Outcome, Reply};
use crate::nostr::{Event, EventId};
use crate::store::{Prepared, StoreError};

/// A published event.
pub(super) struct Published {
    pub event: Event,
    pub admission: Admission,
    pub reply: Reply,
}

/// What the verifying thread is told.
pub(super) enum ToVerify {
    Event(Box<Published>),
    Stop,
}

/// A published event that may be stored: its id and signature are right.
pub(super) struct Storable {
    pub event: Prepared,
    pub admission: Admission,
    pub reply: Reply,
}

/// Events of the bulk door in their order; `Err` holds the outcome of what goes no further.
pub(super) type Batch = Vec<Result<Prepared, Outcome>>;

/// Gets one outcome for each event of a batch, after the commit.
pub(super) type Done = Sender<Vec<Outcome>>;

/// A place in the writer's queue; free again when this is dropped.
pub(super) struct Ticket(pub Receiver<()>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

/// What the writer is told.
pub(super) enum ToWriter {
    Events(Vec<Storable>),
    /// A batch of the bulk door. With a ticket more of them follow, and the writer may wait for those before it commits.
    Batch {
        batch: Batch,
        done: Done,
        ticket: Option<Ticket>,
    },
    /// No more batches for now: commit.
    Settle,
    /// The operator's delete.
    Remove {
        ids: Vec<EventId>,
        done: Sender<Result<u64, StoreError>>,
    },
    /// Changes to the operator's lists.
    Lists {
        task: Task,
        done: membership::Done,
    },
    /// Remove what has expired.
    Sweep,
    /// The last write failed: see whether there is room again.
    Probe,
    /// Somebody wants to know whether the writer still works: tell when everything before this is done.
    Ping(tokio::sync::oneshot::Sender<()>),
    Stop,
}
