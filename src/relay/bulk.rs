//! The bulk door: an operator's own events, by the million, in few and large transactions.
//!
//! Events are parsed, verified and prepared on all cores while the writer works on what came before. Limits that protect the
//! relay from strangers do not apply here: dumps come in whole.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rayon::prelude::*;

use super::queue::{Batch, Ticket, ToWriter};
use super::{Core, Outcome, limits};
use crate::nostr::Event;
use crate::store::{Bookmark, BookmarkKey, Prepared};

/// How often it is looked whether the database has come below its ceiling.
const LOWERED: Duration = Duration::from_millis(10);

/// Batches that may wait for the writer.
const WAITING: usize = 2;

/// Events that one core takes at once: enough to share a look at the database, few enough that no core waits for another at the end.
const SLICE: usize = 16;

/// A way into the relay for many events. What is pushed is committed when there is enough for a large transaction, when something
/// else is to be written, and when [`Bulk::settle`] asks for it. Dropping it settles too.
pub struct Bulk {
    core: Arc<Core>,
    trusted: bool,
    ticket: Sender<()>,
    tickets: Receiver<()>,
    unsettled: VecDeque<Receiver<Vec<Outcome>>>,
    bookmarks: Bookmarks,
}

/// Bookmarks on their way to the writer.
#[derive(Default)]
struct Bookmarks {
    /// Those that wait for events to go with.
    waiting: HashMap<BookmarkKey, Vec<u8>>,
    /// Pushes without an event to store, since when they wait.
    pushes: usize,
    /// The last that went to the writer.
    sent: HashMap<BookmarkKey, Option<Vec<u8>>>,
    /// Something could not even be looked at: nothing behind it may be bookmarked.
    is_broken: bool,
}

/// After so many pushes without an event to store, bookmarks go alone.
const ALONE: usize = 16;

impl Bookmarks {
    /// Those that go with the next batch.
    fn take(&mut self, core: &Core) -> Vec<Bookmark> {
        self.pushes = 0;
        let mut bookmarks = Vec::with_capacity(self.waiting.len());
        for (key, place) in self.waiting.drain() {
            // One that cannot be read is not followed: it stays.
            let sent = self.sent.entry(key).or_insert_with(|| core.store().bookmark(&key).unwrap_or_default());
            bookmarks.push(Bookmark { key, place: place.clone(), after: sent.replace(place) });
        }
        bookmarks
    }
}

impl Bulk {
    pub(super) fn new(core: Arc<Core>, trusted: bool) -> Bulk {
        let (ticket, tickets) = crossbeam_channel::bounded(WAITING);
        Bulk { core, trusted, ticket, tickets, unsettled: VecDeque::new(), bookmarks: Bookmarks::default() }
    }

    /// Takes events as JSON texts; blocks while the writer is behind. Returns the place and outcome of each that goes no further; of
    /// the others [`Bulk::outcomes`] will tell.
    pub fn push(&mut self, texts: &[&[u8]]) -> Vec<(usize, Outcome)> {
        self.push_marked(texts, |_| Vec::new())
    }

    /// As [`Bulk::push`]; `mark` is given what is returned, and says which places are reached with these events, see [`Bookmark`]. Each is
    /// noted in the transaction that stores the last of them, or soon after when none of them is to be stored, and never before
    /// everything that was pushed earlier is stored too.
    pub fn push_marked(
        &mut self,
        texts: &[&[u8]],
        mark: impl FnOnce(&[(usize, Outcome)]) -> Vec<(BookmarkKey, Vec<u8>)>,
    ) -> Vec<(usize, Outcome)> {
        let core = &self.core;
        // Old events make room for these.
        while core.ceiling.is_being_lowered() && !core.closed.load(Relaxed) {
            std::thread::sleep(LOWERED);
        }
        let parse = |text: &&[u8]| Event::parse(text).map_err(|error| Outcome::Refused(format!("invalid: {error}")));
        let slices: Vec<Batch> = texts
            .par_chunks(SLICE)
            .map(|texts| prepare(core, texts.iter().map(parse).collect(), self.trusted))
            .collect();
        let mut settled = Vec::new();
        let mut batch = Vec::with_capacity(texts.len());
        for (place, item) in slices.into_iter().flatten().enumerate() {
            match item {
                Ok(event) => batch.push(Ok(event)),
                Err(outcome) => settled.push((place, outcome)),
            }
        }
        self.bookmarks.is_broken |= settled.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        if !self.bookmarks.is_broken {
            self.bookmarks.waiting.extend(mark(&settled));
        }
        self.bookmarks.pushes += 1;
        let alone = self.bookmarks.pushes >= ALONE && !self.bookmarks.waiting.is_empty();
        if !batch.is_empty() || alone {
            let bookmarks = self.bookmarks.take(core);
            let (done, outcomes) = crossbeam_channel::bounded(1);
            // Both ends of the channel are here: sending waits for room, it does not fail.
            let _ = self.ticket.send(());
            let ticket = Some(Ticket(self.tickets.clone()));
            let _ = self.core.writer.send(ToWriter::Batch { batch, bookmarks, done, ticket });
            self.unsettled.push_back(outcomes);
        }
        settled
    }

    /// Outcomes of pushed events, in order, as far as their transactions are committed. The error says that the writer has ended.
    pub fn outcomes(&mut self) -> Result<Vec<Outcome>, Closed> {
        let mut all = Vec::new();
        while let Some(first) = self.unsettled.front() {
            match first.try_recv() {
                Ok(outcomes) => all.extend(outcomes),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
            self.unsettled.pop_front();
        }
        Ok(all)
    }

    /// Has everything committed that was pushed, and returns the outcomes that are left.
    pub fn settle(&mut self) -> Result<Vec<Outcome>, Closed> {
        let _ = self.core.writer.send(ToWriter::Settle);
        let mut all = Vec::new();
        for outcomes in self.unsettled.drain(..) {
            all.extend(outcomes.recv().map_err(|_| Closed)?);
        }
        Ok(all)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        let _ = self.core.writer.send(ToWriter::Settle);
    }
}

/// The writer has ended: nothing more can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database writer has stopped")]
pub struct Closed;

/// Checks and prepares events on all cores.
pub(super) fn prepare_all(core: &Core, events: Vec<Event>, trusted: bool) -> Batch {
    let slices = events.into_par_iter().map(Ok).chunks(SLICE);
    let slices: Vec<Batch> = slices.map(|slice| prepare(core, slice, trusted)).collect();
    slices.into_iter().flatten().collect()
}

/// Checks and prepares events; `Err` holds the outcome of what goes no further.
fn prepare(core: &Core, events: Vec<Result<Event, Outcome>>, trusted: bool) -> Batch {
    // What is stored needs no signature work; where there is none to save, the writer finds it.
    let ids = events.iter().flatten().map(|event| event.id);
    // Once for the slice, not for each of its events: other threads take these too.
    let (store, settings) = (core.store(), core.settings());
    let known = if trusted { Vec::new() } else { store.contains(ids).unwrap_or_default() };
    let mut known = known.into_iter();
    let lists = core.moderation.lists();
    let mut check = |event: Event| -> Result<Prepared, Outcome> {
        let known = known.next().unwrap_or(false);
        limits::check_rules(&event, &settings, None).and_then(|()| lists.check(&event)).map_err(Outcome::Refused)?;
        if known {
            return Err(Outcome::Duplicate);
        }
        if let Some(reason) = core.ceiling.refusal() {
            return Err(Outcome::Failed(reason));
        }
        if !trusted {
            event
                .check_id()
                .and_then(|()| event.check_signature())
                .map_err(|error| Outcome::Refused(format!("invalid: {error}")))?;
        }
        Ok(store.prepare(&event))
    };
    events.into_iter().map(|event| event.and_then(&mut check)).collect()
}
