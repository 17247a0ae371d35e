//! The single writer: one thread owns the write lock, and everything queued while it commits goes into its next transaction.
//!
//! No timer: a lone event is committed at once, a flood shares one fsync among a thousand. Replies go out after the commit that
//! holds their event is on disk, never before (law 1).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender};

use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::verify::{self, Verified};
use super::{Admission, Core, limits, live};
use crate::nostr::EventId;
use crate::store::{Applied, StoreError};

/// What one transaction takes at most from the queue.
const MAX_EVENTS: usize = 1000;
const MAX_BYTES: usize = 4 << 20;

/// Expired events removed in one transaction.
const SWEEP: usize = 1000;

pub(super) struct Job {
    pub verified: Verified,
    pub admission: Admission,
    pub reply: Reply,
}

pub(super) enum Message {
    Event(Box<Job>),
    /// A batch of the bulk door, committed whole.
    Batch {
        batch: verify::Batch,
        done: verify::Done,
    },
    /// The operator's delete.
    Remove {
        ids: Vec<EventId>,
        done: Sender<Result<u64, StoreError>>,
    },
    /// Remove what has expired.
    Sweep,
    Stop,
}

/// The thread.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<Message>) {
    let mut messages = Vec::new();
    let mut open = true;
    while open {
        let (mut events, mut bytes) = (0, 0);
        let mut next = queue.recv().ok();
        while let Some(message) = next {
            match &message {
                Message::Event(job) => {
                    events += 1;
                    bytes += job.verified.record.len();
                }
                Message::Batch { batch, .. } => events += batch.len(),
                Message::Remove { .. } | Message::Sweep => {}
                Message::Stop => {
                    open = false;
                    break;
                }
            }
            messages.push(message);
            next = if events < MAX_EVENTS && bytes < MAX_BYTES { queue.try_recv().ok() } else { None };
        }
        if !messages.is_empty() {
            transaction(core, std::mem::take(&mut messages));
        }
    }
    core.live.send(live::Message::Stop);
}

/// An answer that waits for the commit.
enum Answer {
    Event(Reply, Outcome),
    Batch(verify::Done, Vec<Outcome>),
    Removed(Sender<Result<u64, StoreError>>, u64),
}

fn transaction(core: &Arc<Core>, messages: Vec<Message>) {
    let mut answers = Vec::with_capacity(messages.len());
    let mut stored = Vec::new();
    let written = write(core, messages, &mut answers, &mut stored);
    core.disk_full.store(matches!(written, Err(StoreError::Full)), Relaxed);
    let failure = written.err().map(|error| {
        tracing::error!("a write transaction failed, its events were refused: {error}");
        format!("error: {error}")
    });
    if let (None, Some(last)) = (&failure, stored.iter().filter_map(|event| event.seq).next_back()) {
        core.live.committed(last + 1);
    }
    for answer in answers {
        match answer {
            Answer::Event(reply, outcome) => {
                reply.send(failure.clone().map_or(outcome, Outcome::Failed));
            }
            Answer::Batch(done, mut outcomes) => {
                if let Some(text) = &failure {
                    // What never reached the database keeps its outcome.
                    for outcome in &mut outcomes {
                        if matches!(outcome, Outcome::Stored | Outcome::Replaced) {
                            *outcome = Outcome::Failed(text.clone());
                        }
                    }
                }
                let _ = done.send(outcomes);
            }
            Answer::Removed(done, count) => {
                let _ = done.send(match &failure {
                    None => Ok(count),
                    Some(text) => Err(StoreError::Damaged(text.clone())),
                });
            }
        }
    }
    if failure.is_none() && !stored.is_empty() {
        core.live.send(live::Message::Committed(stored));
    }
}

/// Applies everything in one transaction and commits it. When it fails every message has its answer in `answers` all the same.
fn write(
    core: &Arc<Core>,
    messages: Vec<Message>,
    answers: &mut Vec<Answer>,
    stored: &mut Vec<LiveEvent>,
) -> Result<(), StoreError> {
    let mut fault = None;
    let mut batch = match core.store.batch(core.settings.clock.now()) {
        Ok(batch) => Some(batch),
        Err(error) => {
            fault = Some(error);
            None
        }
    };
    let mut apply = |verified: Verified, admission: Option<Admission>, fault: &mut Option<StoreError>| -> Outcome {
        let Some(batch) = &mut batch else { return Outcome::Stored };
        if fault.is_some() {
            return Outcome::Stored;
        }
        match batch.apply(&verified.event, &verified.record) {
            Ok(Applied::Stored(seq)) => {
                stored.push(LiveEvent::new(Some(seq), verified.record, admission));
                Outcome::Stored
            }
            Ok(applied) => outcome(applied),
            Err(error) => {
                *fault = Some(error);
                Outcome::Stored
            }
        }
    };
    let mut removals = Vec::new();
    let mut sweep = false;
    for message in messages {
        match message {
            Message::Event(job) => {
                let outcome = apply(job.verified, Some(job.admission), &mut fault);
                answers.push(Answer::Event(job.reply, outcome));
            }
            Message::Batch { batch, done } => {
                let outcomes = batch
                    .into_iter()
                    .map(|item| item.map_or_else(|outcome| outcome, |verified| apply(verified, None, &mut fault)))
                    .collect();
                answers.push(Answer::Batch(done, outcomes));
            }
            Message::Remove { ids, done } => removals.push((ids, done)),
            Message::Sweep => sweep = true,
            Message::Stop => {}
        }
    }
    // Removals come after the events that queued with them; their order among themselves does not matter.
    for (ids, done) in removals {
        let mut count = 0;
        for id in &ids {
            match batch.as_mut().map(|batch| batch.remove_id(id)) {
                Some(Ok(removed)) => count += u64::from(removed),
                Some(Err(error)) => fault = Some(error),
                None => {}
            }
        }
        answers.push(Answer::Removed(done, count));
    }
    if let (true, Some(batch), None) = (sweep, &mut batch, &fault)
        && let Err(error) = batch.remove_expired(SWEEP)
    {
        fault = Some(error);
    }
    match (fault, batch) {
        (Some(error), _) => Err(error),
        (None, Some(batch)) => {
            let gone = batch.removed_again();
            if !gone.is_empty() {
                stored.retain(|event| event.seq.is_none_or(|seq| !gone.contains(&seq)));
            }
            batch.commit()
        }
        (None, None) => Ok(()),
    }
}

fn outcome(applied: Applied) -> Outcome {
    match applied {
        Applied::Stored(_) => Outcome::Stored,
        Applied::Duplicate => Outcome::Duplicate,
        Applied::Superseded => Outcome::Replaced,
        Applied::Deleted => Outcome::Refused("blocked: this event was deleted".into()),
        Applied::Vanished => {
            Outcome::Refused("blocked: the author of this event, or its recipient, has vanished".into())
        }
        Applied::Expired => Outcome::Refused(limits::EXPIRED.into()),
        Applied::Ephemeral => Outcome::Delivered,
    }
}
