//! The single writer: one thread owns the write lock, and everything queued while it commits goes into its next transaction.
//!
//! No timer: a lone event is committed at once, a flood shares one fsync among a thousand. Replies go out after the commit that
//! holds their event is on disk, never before (law 1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::queue::{Batch, Done, Storable, ToWriter};
use super::{Admission, Core, limits, live};
use crate::nostr::EventId;
use crate::store::{Applied, Prepared, StoreError};

/// What one transaction takes at most from the queue.
const MAX_EVENTS: usize = 1000;
const MAX_BYTES: usize = 4 << 20;

/// Expired events removed in one transaction.
const SWEEP: usize = 1000;

/// How long the reserve is left alone after it could not grow.
const RESERVE_RETRY: Duration = Duration::from_secs(1);

/// The thread.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<ToWriter>) {
    let mut messages = Vec::new();
    let mut open = true;
    let mut look_after_reserve_at = Instant::now();
    while open {
        let (mut events, mut bytes) = (0, 0);
        let mut next = queue.recv().ok();
        while let Some(message) = next {
            match &message {
                ToWriter::Event(job) => {
                    events += 1;
                    bytes += job.event.record().as_bytes().len();
                }
                ToWriter::Batch { batch, .. } => events += batch.len(),
                ToWriter::Remove { .. } | ToWriter::Sweep | ToWriter::Probe => {}
                ToWriter::Stop => {
                    open = false;
                    break;
                }
            }
            messages.push(message);
            next = if events < MAX_EVENTS && bytes < MAX_BYTES { queue.try_recv().ok() } else { None };
        }
        work(core, std::mem::take(&mut messages));
        if Instant::now() >= look_after_reserve_at && !look_after_reserve(core) {
            look_after_reserve_at = Instant::now() + RESERVE_RETRY;
        }
    }
    core.live.send(live::Message::Stop);
}

/// Works off what queued: what is to be stored in one transaction, removals after it in transactions of their own. So the one
/// succeeds where the other fails, as in a full database.
fn work(core: &Core, messages: Vec<ToWriter>) {
    let (mut incoming, mut removals, mut sweep, mut probe) = (Vec::new(), Vec::new(), false, false);
    for message in messages {
        match message {
            ToWriter::Event(job) => incoming.push(Incoming::Event(job)),
            ToWriter::Batch { batch, done } => incoming.push(Incoming::Batch(batch, done)),
            ToWriter::Remove { ids, done } => removals.push((ids, done)),
            ToWriter::Sweep => sweep = true,
            ToWriter::Probe => probe = true,
            ToWriter::Stop => {}
        }
    }
    if !incoming.is_empty() {
        store_all(core, incoming);
    }
    for (ids, done) in removals {
        let removed = remove(core, &ids);
        probe |= removed.is_ok();
        note_failure(core, removed.as_ref().err());
        let _ = done.send(removed);
    }
    if sweep {
        let now = core.settings.clock.now();
        let swept = core.store.remove_some(now, SWEEP, |batch, limit| batch.remove_expired(limit));
        probe |= swept.is_ok();
        note_failure(core, swept.as_ref().err());
    }
    if probe && core.write_failure().is_some() {
        match core.store.has_room() {
            Ok(true) => note_success(core),
            Ok(false) => {}
            Err(error) => note_failure(core, Some(&error)),
        }
    }
}

/// Has the database's reserve grow with it. False when it did not grow to its full size.
fn look_after_reserve(core: &Core) -> bool {
    let short = || core.store.reserve_is_short();
    let grown = short().and_then(|is_short| match is_short {
        true => core.store.fill_reserve().and_then(|()| short()).map(|short| !short),
        false => Ok(true),
    });
    grown.unwrap_or_else(|error| {
        tracing::warn!("the database's reserve cannot grow: {error}");
        false
    })
}

/// Writes that fail are told of once, not each; `/health` tells of them as long as they do.
fn note_failure(core: &Core, error: Option<&StoreError>) {
    let Some(error) = error else { return };
    let text = error.to_string();
    let mut failure = super::lock(&core.write_failure);
    if failure.as_ref() != Some(&text) {
        tracing::error!("writing to the database failed, events are refused: {text}");
        *failure = Some(text);
    }
}

fn note_success(core: &Core) {
    if super::lock(&core.write_failure).take().is_some() {
        tracing::info!("writing to the database works again");
    }
}

/// What is to be stored.
enum Incoming {
    Event(Box<Storable>),
    Batch(Batch, Done),
}

/// An answer that waits for the commit.
enum Answer {
    Event(Reply, Outcome),
    Batch(Done, Vec<Fate>),
}

/// What becomes of an event of a batch.
enum Fate {
    /// Decided before the transaction.
    Settled(Outcome),
    /// True if the transaction is committed.
    Pending(Outcome),
}

fn store_all(core: &Core, incoming: Vec<Incoming>) {
    let mut answers = Vec::with_capacity(incoming.len());
    let mut stored = Vec::new();
    let written = store(core, incoming, &mut answers, &mut stored);
    // Noted before anybody is answered: who is told of a failure finds it in the figures too.
    match &written {
        Ok(()) => note_success(core),
        Err(error) => note_failure(core, Some(error)),
    }
    let failure = written.err().map(|error| Outcome::Failed(format!("error: {error}")));
    if let (None, Some(last)) = (&failure, stored.iter().filter_map(|event| event.seq).next_back()) {
        core.live.committed(last + 1);
    }
    let settle = |outcome| failure.clone().unwrap_or(outcome);
    for answer in answers {
        match answer {
            Answer::Event(reply, outcome) => reply.send(settle(outcome)),
            Answer::Batch(done, fates) => {
                let outcomes = fates.into_iter().map(|fate| match fate {
                    Fate::Settled(outcome) => outcome,
                    Fate::Pending(outcome) => settle(outcome),
                });
                let _ = done.send(outcomes.collect());
            }
        }
    }
    if failure.is_none() && !stored.is_empty() {
        core.live.send(live::Message::Committed(stored));
    }
}

/// Applies everything in one transaction and commits it. When it fails every message has its answer in `answers` all the same.
fn store(
    core: &Core,
    incoming: Vec<Incoming>,
    answers: &mut Vec<Answer>,
    stored: &mut Vec<LiveEvent>,
) -> Result<(), StoreError> {
    // After a fault there is no batch any more, and nothing of what is said here will be answered.
    let mut batch = core.store.batch(core.settings.clock.now());
    let mut apply = |event: Prepared, admission: Option<Admission>| -> Outcome {
        let Ok(open) = &mut batch else { return Outcome::Stored };
        match open.apply(&event) {
            Ok(Applied::Stored(seq)) => stored.push(LiveEvent::new(Some(seq), event.into_record(), admission)),
            Ok(applied) => return outcome(applied),
            Err(error) => batch = Err(error),
        }
        Outcome::Stored
    };
    for message in incoming {
        answers.push(match message {
            Incoming::Event(job) => Answer::Event(job.reply, apply(job.event, Some(job.admission))),
            Incoming::Batch(batch, done) => {
                let fates = batch.into_iter().map(|item| match item {
                    Ok(event) => Fate::Pending(apply(event, None)),
                    Err(outcome) => Fate::Settled(outcome),
                });
                Answer::Batch(done, fates.collect())
            }
        });
    }
    let batch = batch?;
    let gone = batch.removed_again();
    if !gone.is_empty() {
        stored.retain(|event| event.seq.is_none_or(|seq| !gone.contains(&seq)));
    }
    batch.commit()
}

/// The operator's delete; returns how many were there.
fn remove(core: &Core, ids: &[EventId]) -> Result<u64, StoreError> {
    let now = core.settings.clock.now();
    let (mut left, mut step, mut removed) = (ids, ids.len(), 0);
    while !left.is_empty() {
        let (count, done) = core.store.remove_some(now, step.min(left.len()), |batch, few| {
            left[..few].iter().try_fold(0, |count, id| Ok(count + u64::from(batch.remove_id(id)?)))
        })?;
        removed += count;
        left = &left[done..];
        step = done * 2;
    }
    Ok(removed)
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
