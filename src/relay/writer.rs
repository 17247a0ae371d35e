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
use super::trouble::Say;
use super::{Core, limits, live, membership, precedence, retention};
use crate::nostr::{EventFields, EventId, Kind};
use crate::store::{self, Applied, Bookmark, Prepared, Store, StoreError};

/// What one transaction takes at most from the queue.
const MAX_EVENTS: usize = 4000;
const MAX_BYTES: usize = 4 << 20;

/// Expired events removed in one transaction.
const SWEEP: usize = 1000;

/// How long the reserve is left alone after it could not grow.
const RESERVE_RETRY: Duration = Duration::from_secs(1);

/// What a bulk transaction gathers in memory: events with what is to be written for them, see [`Prepared::weight`]. A transaction
/// rewrites the pages it touches however little it changes in them, so few large ones write a fraction of what many small ones do.
/// The write lock is taken when the work begins, which is then a second's.
const BULK_BYTES: usize = 64 << 20;

/// The same for an empty database that nobody else uses, see [`Settings::alone`](super::Settings): it has nothing to rewrite, and what
/// is stored in its first transaction fills its pages to the brim. Events are written while further ones are verified.
const FIRST_BULK_BYTES: usize = 224 << 20;

/// The thread.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<ToWriter>) {
    precedence::take(precedence::WRITER);
    let mut look_after_reserve_at = Instant::now();
    let mut left_over = None;
    while let Some(first) = left_over.take().or_else(|| queue.recv().ok()) {
        let end;
        (left_over, end) = match first {
            batch @ ToWriter::Batch { .. } => (bulk(core, batch, &queue), false),
            other => turn(core, other, &queue),
        };
        if end {
            break;
        }
        if Instant::now() >= look_after_reserve_at && !look_after_reserve(core) {
            look_after_reserve_at = Instant::now() + RESERVE_RETRY;
        }
    }
    core.live.send(live::Message::Stop);
}

/// Works off what queued up to the next batch of the bulk door: what is to be stored in one transaction, removals after it in
/// transactions of their own. So the one succeeds where the other fails, as in a full database. Returns that batch, and whether
/// it is time to end.
fn turn(core: &Core, first: ToWriter, queue: &Receiver<ToWriter>) -> (Option<ToWriter>, bool) {
    let (mut incoming, mut removals, mut sweep, mut probe) = (Vec::new(), Vec::new(), false, false);
    let mut pings = Vec::new();
    let (mut left_over, mut end, mut bytes, mut lists) = (None, false, 0, Vec::new());
    let (mut prunes, mut works) = (Vec::new(), Vec::new());
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            ToWriter::Events(events) => {
                bytes += events.iter().map(|storable| storable.event.weight()).sum::<usize>();
                incoming.extend(events);
            }
            ToWriter::Remove { ids, done } => removals.push((ids, done)),
            ToWriter::Lists { task, done } => lists.push((task, done)),
            ToWriter::Prune { seqs, time, done } => prunes.push((seqs, time, done)),
            ToWriter::Work(work) => works.push(work),
            ToWriter::Sweep => sweep = true,
            ToWriter::Probe => probe = true,
            ToWriter::Ping(done) => pings.push(done),
            ToWriter::Settle => {}
            ToWriter::Batch { .. } => {
                left_over = Some(message);
                break;
            }
            ToWriter::Stop => {
                end = true;
                break;
            }
        }
        next = if incoming.len() < MAX_EVENTS && bytes < MAX_BYTES { queue.try_recv().ok() } else { None };
    }
    if !incoming.is_empty() {
        store_all(core, incoming);
        retention::note_stored(core, bytes);
    }
    for (ids, done) in removals {
        let removed = remove(core, &ids);
        probe |= removed.is_ok();
        note_failure(core, removed.as_ref().err());
        let _ = done.send(removed);
    }
    for (seqs, time, done) in prunes {
        let pruned = retention::prune(core, &seqs, time);
        probe |= pruned.is_ok();
        note_failure(core, pruned.as_ref().err());
        let _ = done.send(pruned);
    }
    for (task, done) in lists {
        let answer = membership::run(core, task);
        note_failure(core, answer.as_ref().err());
        done(answer);
    }
    if sweep {
        let now = core.settings().expiry_time();
        let swept = core.store().remove_some(now, SWEEP, |batch, limit| batch.remove_expired(limit));
        probe |= swept.is_ok();
        note_failure(core, swept.as_ref().err());
    }
    if probe && core.write_failure().is_some() {
        match core.store().has_room() {
            Ok(true) => note_success(core),
            Ok(false) => {}
            Err(error) => note_failure(core, Some(&error)),
        }
    }
    for work in works {
        work(core);
    }
    for ping in pings {
        let _ = ping.send(());
    }
    (left_over, end)
}

/// Stores batches of the bulk door together, this one and those that follow, until they come to enough or something else is to be
/// done, which is returned.
fn bulk(core: &Core, first: ToWriter, queue: &Receiver<ToWriter>) -> Option<ToWriter> {
    let store = core.store();
    let empty = core.settings().alone && store.is_empty().unwrap_or(false);
    let enough = if empty { FIRST_BULK_BYTES } else { BULK_BYTES };
    let mut load = Load { store: &store, waiting: Vec::new(), transaction: None, applied: Vec::new() };
    let mut bytes = 0;
    let mut next = Some(first);
    let left_over = loop {
        match next {
            Some(ToWriter::Batch { batch, bookmarks, done, ticket }) => {
                bytes += batch.iter().flatten().map(Prepared::weight).sum::<usize>();
                load.waiting.push((batch, bookmarks, done));
                if empty {
                    load.apply(core);
                }
                if ticket.is_none() || bytes >= enough || load.transaction.as_ref().is_some_and(Result::is_err) {
                    break None;
                }
            }
            Some(ToWriter::Settle) | None => break None,
            Some(other) => break Some(other),
        }
        next = queue.recv().ok();
    };
    load.finish(core);
    retention::note_stored(core, bytes);
    // The pages that so large a transaction replaced are room for the next one, not for the one after it: a growing database would
    // carry them along twice.
    if !empty && bytes >= MAX_BYTES {
        let _ = store.age_free_pages();
    }
    left_over
}

/// Batches of the bulk door on their way into a transaction, or into a few when they replace much of what is stored.
struct Load<'s> {
    store: &'s Store,
    waiting: Vec<(Batch, Vec<Bookmark>, Done)>,
    transaction: Option<Result<store::Batch<'s>, StoreError>>,
    /// `Err` is settled, `Ok` is true if the transaction is committed.
    applied: Vec<(Done, Vec<Result<Outcome, Outcome>>)>,
}

impl Load<'_> {
    /// Applies what waits. After a fault there is no transaction any more, and no outcome counts.
    fn apply(&mut self, core: &Core) {
        for (batch, bookmarks, done) in std::mem::take(&mut self.waiting) {
            self.applied.push((done, Vec::with_capacity(batch.len())));
            for item in batch {
                let said = item.map(|event| self.apply_one(core, &event));
                if let Some((_, outcomes)) = self.applied.last_mut() {
                    outcomes.push(said);
                }
                if matches!(&self.transaction, Some(Ok(open)) if open.is_large()) {
                    self.commit(core);
                }
            }
            bookmarks.iter().for_each(|bookmark| self.set(core, bookmark));
        }
    }

    /// Notes how far somebody has read, with the last of what he read.
    fn set(&mut self, core: &Core, bookmark: &Bookmark) {
        let transaction = self.transaction.get_or_insert_with(|| core.batch(self.store));
        if let Ok(open) = transaction
            && let Err(error) = open.set_bookmark(bookmark)
        {
            *transaction = Err(error);
        }
    }

    fn apply_one(&mut self, core: &Core, event: &Prepared) -> Outcome {
        let transaction = self.transaction.get_or_insert_with(|| core.batch(self.store));
        let applied = match transaction {
            Ok(open) => open.apply(event),
            Err(_) => return Outcome::Stored,
        };
        match applied {
            Ok(applied) => outcome(applied),
            Err(error) => {
                *transaction = Err(error);
                Outcome::Stored
            }
        }
    }

    /// Commits what was applied, and settles its outcomes. After a fault nothing more is applied.
    fn commit(&mut self, core: &Core) {
        let Some(transaction) = self.transaction.take() else { return };
        let committed = transaction.and_then(|open| {
            let next_seq = open.next_seq();
            open.commit().map(|()| next_seq)
        });
        match &committed {
            Ok(next_seq) => {
                note_success(core);
                core.live.committed(*next_seq);
            }
            Err(error) => note_failure(core, Some(error)),
        }
        for said in self.applied.iter_mut().flat_map(|(_, outcomes)| outcomes) {
            if let Ok(outcome) = said {
                *said = Err(match &committed {
                    Ok(_) => std::mem::replace(outcome, Outcome::Stored),
                    Err(error) => failed(error),
                });
            }
        }
        self.transaction = committed.err().map(Err);
    }

    /// Commits what is left, and tells everybody.
    fn finish(mut self, core: &Core) {
        self.apply(core);
        self.commit(core);
        for (done, outcomes) in self.applied {
            let _ = done.send(outcomes.into_iter().map(|said| said.unwrap_or_else(|said| said)).collect());
        }
        // Nobody keeps a million events in memory for those who may be subscribed to some of them: they are read from the log.
        core.live.look();
    }
}

fn failed(error: &StoreError) -> Outcome {
    Outcome::Failed(format!("error: {error}"))
}

/// Has the database's reserve grow with it. False when it did not grow to its full size.
fn look_after_reserve(core: &Core) -> bool {
    let short = || core.store().reserve_is_short();
    let grown = short().and_then(|is_short| match is_short {
        true => core.store().fill_reserve().and_then(|()| short()).map(|short| !short),
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
    if core.trouble.failed(&text) == Say::Fails {
        tracing::error!("writing to the database failed, events are refused: {text}");
    }
}

fn note_success(core: &Core) {
    core.trouble.succeeded(core.settings().clock.now());
}

/// Stores what was published, in one transaction unless it replaces much.
fn store_all(core: &Core, incoming: Vec<Storable>) {
    let mut incoming = incoming.into_iter();
    while incoming.len() > 0 {
        store_some(core, &mut incoming);
    }
}

fn store_some(core: &Core, incoming: &mut std::vec::IntoIter<Storable>) {
    let mut answers = Vec::with_capacity(incoming.len());
    let mut stored = Vec::new();
    let written = store(core, incoming, &mut answers, &mut stored);
    // Noted before anybody is answered: who is told of a failure finds it in the figures too.
    match &written {
        Ok(()) => note_success(core),
        Err(error) => note_failure(core, Some(error)),
    }
    if let (Ok(()), Some(last)) = (&written, stored.iter().filter_map(|event| event.seq).next_back()) {
        core.live.committed(last + 1);
    }
    for (reply, outcome) in answers {
        reply.send(written.as_ref().map_or_else(failed, |()| outcome));
    }
    if written.is_ok() && !stored.is_empty() {
        core.live.send(live::Message::Committed(stored));
    }
}

/// Applies events in one transaction until it is large, and commits it. When that fails they have an answer in `answers` all the same.
fn store(
    core: &Core,
    incoming: &mut std::vec::IntoIter<Storable>,
    answers: &mut Vec<(Reply, Outcome)>,
    stored: &mut Vec<LiveEvent>,
) -> Result<(), StoreError> {
    let (began, count) = (Instant::now(), incoming.len());
    // After a fault there is no batch any more, and nothing of what is said here will be answered.
    let store = core.store();
    let mut batch = core.batch(&store);
    let lists = core.moderation.lists();
    for storable in incoming {
        let Storable { event, authenticated, admission, reply } = storable;
        // What was banned while the event was on its way. Bans are made on this thread, so nothing slips in behind one.
        if let Err(reason) = lists.check(&event.record()) {
            answers.push((reply, Outcome::Refused(reason)));
            continue;
        }
        let mut said = Outcome::Stored;
        if let Ok(open) = &mut batch {
            match open.apply(&event) {
                Ok(Applied::Stored(seq)) => {
                    if authenticated
                        && event.record().kind() != Kind::VANISH
                        && let Err(error) = open.know(&event.record().pubkey())
                    {
                        batch = Err(error);
                    }
                    stored.push(LiveEvent::new(Some(seq), event.into_record(), Some(admission)));
                }
                Ok(applied) => said = outcome(applied),
                Err(error) => batch = Err(error),
            }
        }
        answers.push((reply, said));
        if batch.as_ref().is_ok_and(store::Batch::is_large) {
            break;
        }
    }
    let batch = batch?;
    let gone = batch.removed_again();
    if !gone.is_empty() {
        stored.retain(|event| event.seq.is_none_or(|seq| !gone.contains(&seq)));
    }
    batch.commit()?;
    core.figures.commits.observe_time(began.elapsed());
    core.figures.batches.observe(count as u64);
    Ok(())
}

/// The operator's delete; returns how many were there.
fn remove(core: &Core, ids: &[EventId]) -> Result<u64, StoreError> {
    let now = core.settings().clock.now();
    let (mut left, mut step, mut removed) = (ids, ids.len(), 0);
    while !left.is_empty() {
        let (count, done) = core.store().remove_some(now, step.min(left.len()), |batch, few| {
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
