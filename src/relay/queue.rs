//! What waits in the queues of the core: on its way to verification, and from there to the writer.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::outcome::{Outcome, Reply};
use super::{Admission, Core};
use crate::nostr::{Event, EventId, PublicKey};
use crate::store::{Bookmark, Change, Prepared, Seq, StoreError};

/// A published event.
pub(super) struct Published {
    pub event: Event,
    /// It came from its author, who had authenticated.
    pub authenticated: bool,
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
    /// See [`Published::authenticated`].
    pub authenticated: bool,
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

/// What the writer is to do with the lists.
pub(super) enum Task {
    /// These changes.
    Change(Vec<Change>),
    /// Make the holder of an invite code a member.
    Join { key: PublicKey, code: String },
    /// Make somebody a member no more, at his own wish.
    Leave { key: PublicKey },
    /// Make an invite code: for an administrator without bounds, for a member within his.
    Invite { issuer: Option<PublicKey>, uses: Option<u32>, lifetime: Option<u64>, note: String },
    /// Give a member a role, or take it away.
    Assign { key: PublicKey, role: String, given: bool },
    /// Nothing but to publish what is not published yet.
    Publish,
}

/// What became of a task.
pub(super) enum Answer {
    /// It is done.
    Done(Outcome),
    /// The invite code.
    Code(String),
}

/// Gets the answer to a task, after the commit.
pub(super) type Told = Box<dyn FnOnce(Result<Answer, StoreError>) + Send>;

/// What is done on the writer's thread.
pub(super) type Work = Box<dyn FnOnce(&Core) + Send>;

/// What the writer is told.
pub(super) enum ToWriter {
    Events(Vec<Storable>),
    /// A batch of the bulk door. With a ticket more of them follow, and the writer may wait for those before it commits.
    Batch {
        batch: Batch,
        /// To be set in the transaction that holds the last of the batch.
        bookmarks: Vec<Bookmark>,
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
    /// Remove some of these, from the front, in one short transaction.
    Prune {
        seqs: Vec<Seq>,
        /// How long the removal may take before its commit begins.
        time: Duration,
        done: Sender<Result<Pruned, StoreError>>,
    },
    /// Changes to the operator's lists.
    Lists {
        task: Task,
        done: Told,
    },
    /// Whatever has to be done between two transactions.
    Work(Work),
    /// Remove what has expired.
    Sweep,
    /// The last write failed: see whether there is room again.
    Probe,
    /// Somebody wants to know whether the writer still works: tell when everything before this is done.
    Ping(tokio::sync::oneshot::Sender<()>),
    Stop,
}

/// What the writer did with a part of what it was given.
pub(super) struct Pruned {
    /// How many from the front it dealt with.
    pub done: usize,
    /// How long that kept it.
    pub took: Duration,
}
