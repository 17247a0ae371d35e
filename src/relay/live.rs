//! Live delivery: the one thread that gives new events to the subscriptions that want them.
//!
//! Everything stored is delivered in the order of the log, each number once. A subscription enters the index first, and what is
//! delivered to it waits; then the first slice of its scan learns at which number its snapshot ends. Events below that number are
//! the scan's, all from it on are live: none is missed, none comes twice.
//!
//! What queued up is delivered together: each subscription gets all that it wants of a round at once, so its peer is woken once and can
//! be sent all of it with one write.
//!
//! What another process committed may be a whole dump. A subscriber whose sink has no room for it is not pressed: its subscription
//! falls behind, reads the log at the peer's own pace, and is live again when it has caught up.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};

use super::figures::{Figures, Verb};
use super::index::{ENTRY_BYTES, FieldHasher, Index};
use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::subscription::Subscription;
use super::{Core, lock, precedence};
use crate::nostr::Filter;
use crate::store::{Record, Seq};

/// Events delivered together. The first of them wait while the last is matched: a millisecond at worst, where each is wanted by hundreds.
const ROUND: usize = 64;

/// Subscriptions looked up in one hold of the lock.
const LOOK_UP: usize = 256;

/// Records read from the log in one transaction when another process wrote them.
const CATCH_UP: usize = 256;

/// Fields that enter or leave the index before others get the lock.
const STEP: usize = 512;

pub(super) enum Message {
    /// Events of one commit of this process, in the order of their numbers.
    Committed(Vec<LiveEvent>),
    Ephemeral {
        event: LiveEvent,
        reply: Reply,
    },
    /// An ephemeral event of another relay over the same data.
    PassedOn(LiveEvent),
    /// Something was committed, perhaps by another process.
    Look,
    Stop,
}

/// The index, and the way to the thread that delivers.
pub(super) struct Live {
    state: Mutex<State>,
    hasher: FieldHasher,
    queue: Sender<Message>,
    /// Everything below this number is committed, delivered or not.
    committed: AtomicU64,
    figures: Arc<Figures>,
}

/// What the lock guards. Who holds it may take the lock of a subscription, never the other way round.
struct State {
    /// Everything stored below this number was delivered.
    delivered: Seq,
    index: Index,
}

/// Why an event is delivered now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was published here, a moment ago. Publishers feel it when delivery falls behind.
    Here,
    /// It stood in the log, where it may have expired by `now`. Nobody paces whoever wrote it there.
    Log { now: u64 },
}

impl Live {
    pub fn new(next_seq: Seq, queue: Sender<Message>, figures: Arc<Figures>) -> Live {
        let state = State { delivered: next_seq, index: Index::new() };
        Live {
            state: Mutex::new(state),
            hasher: FieldHasher::new(),
            queue,
            committed: AtomicU64::new(next_seq),
            figures,
        }
    }

    /// Notes a commit of this process: every scan that begins from now on sees what stands below `next_seq`.
    pub fn committed(&self, next_seq: Seq) {
        self.committed.fetch_max(next_seq, Ordering::Release);
    }

    pub fn send(&self, message: Message) {
        // Fails only when the thread has ended, and then a reply inside answers by being dropped.
        let _ = self.queue.send(message);
    }

    pub fn look(&self) {
        self.send(Message::Look);
    }

    /// Orders that wait for the thread.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub fn subscriptions(&self) -> usize {
        lock(&self.state).index.len()
    }

    /// What a subscription takes here for each of its fields, in bytes.
    pub const FIELD_BYTES: usize = ENTRY_BYTES;

    /// The fields that filters stand under in the index.
    pub fn fields(&self, filters: &[Filter]) -> Vec<u64> {
        self.hasher.of_filters(filters)
    }

    /// Enters a subscription with its fields: from now on what it wants is delivered to it. Returns its number in the index.
    pub fn enter(&self, subscription: &Arc<Subscription>, fields: &[u64]) -> u32 {
        let number = lock(&self.state).index.admit(subscription);
        for step in fields.chunks(STEP) {
            lock(&self.state).index.enter(number, step);
        }
        // What is committed already is the scan's, even where its delivery is behind: after an import that may be more
        // than can wait for the scan's first slice.
        subscription.scan_ends_at(self.committed.load(Ordering::Acquire));
        number
    }

    /// Takes a subscription out again.
    pub fn leave(&self, number: u32) {
        let Some(subscription) = lock(&self.state).index.dismiss(number) else { return };
        let fields = self.hasher.of_filters(&subscription.filters);
        for step in fields.chunks(STEP) {
            lock(&self.state).index.leave(number, step);
        }
        lock(&self.state).index.release(number);
    }

    /// Lets a subscription that reads the log go live again, if it has read all that was delivered to others: everything
    /// below `from`.
    pub fn caught_up(&self, subscription: &Subscription, from: Seq) -> bool {
        // Under the lock: no event can be delivered between the look and the change.
        let state = lock(&self.state);
        let level = from >= state.delivered;
        if level {
            subscription.go_live(from);
        }
        level
    }

    /// Notes that an event is delivered from now on, and tells who may want it, some of them twice. False when it was delivered before.
    fn gather(&self, event: &LiveEvent, may_want: impl FnMut(u32)) -> bool {
        {
            let mut state = lock(&self.state);
            if let Some(seq) = event.seq {
                if seq < state.delivered {
                    return false;
                }
                state.delivered = seq + 1;
            }
            if state.index.len() == 0 {
                return true;
            }
        }
        // Who enters while this is hashed finds the event by its scan.
        if let Some(record) = event.record() {
            let fields = self.hasher.of_event(&record);
            lock(&self.state).index.candidates(&fields, may_want);
        }
        true
    }

    /// Whether everything stored below `to` was delivered.
    fn is_level(&self, to: Seq) -> bool {
        lock(&self.state).delivered >= to
    }

    /// Delivers what stands in the log up to `to` and was not delivered yet: events of other processes.
    fn catch_up(&self, core: &Core, to: Seq) {
        let mut round = Round::default();
        loop {
            let from = {
                let mut state = lock(&self.state);
                if state.delivered >= to {
                    return;
                }
                if state.index.len() == 0 {
                    state.delivered = to;
                    return;
                }
                state.delivered
            };
            let mut events = Vec::new();
            let next = core.store().log(from, &mut |seq, record| {
                if seq >= to {
                    return ControlFlow::Break(());
                }
                events.push(LiveEvent::new(Some(seq), record.as_bytes().into(), None));
                if events.len() < CATCH_UP { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let origin = Origin::Log { now: core.settings().expiry_time() };
            for event in events {
                // One by one: whether a peer has room for the next one shows when it has this one.
                round.add(self, event, origin);
                round.deliver(core, origin);
            }
            match next {
                Ok((next, false)) if next < to => {}
                Ok(_) => {
                    let mut state = lock(&self.state);
                    state.delivered = state.delivered.max(to);
                    return;
                }
                Err(error) => {
                    tracing::error!("reading the log for live delivery failed: {error}");
                    return;
                }
            }
        }
    }
}

/// Events that are delivered together, in the order of the log.
#[derive(Default)]
struct Round {
    events: Vec<Arc<LiveEvent>>,
    /// Who may want what: the number of a subscription above, the place of an event below.
    pairs: Vec<u64>,
    /// Those who wait for what becomes of ephemeral events: the place of each.
    replies: Vec<(usize, Reply)>,
}

impl Round {
    /// Adds an event, with everybody who may want it. What was delivered already is left out.
    fn add(&mut self, live: &Live, event: LiveEvent, origin: Origin) {
        let place = self.events.len() as u64;
        let before = self.pairs.len();
        if !live.gather(&event, |number| self.pairs.push(u64::from(number) << 32 | place)) {
            return;
        }
        if let Origin::Log { now } = origin
            && self.pairs.len() > before
            && event.record().and_then(|record| record.expiration()).is_some_and(|at| at <= now)
        {
            return self.pairs.truncate(before);
        }
        self.events.push(Arc::new(event));
    }

    /// Adds an event that nobody stores. `reply` is told what becomes of it.
    fn add_ephemeral(&mut self, live: &Live, event: LiveEvent, reply: Reply) {
        self.replies.push((self.events.len(), reply));
        self.add(live, event, Origin::Here);
    }

    fn is_full(&self) -> bool {
        self.events.len() >= ROUND
    }

    /// Gives the events to everyone who wants them, and begins afresh.
    fn deliver(&mut self, core: &Core, origin: Origin) {
        let live = &core.live;
        let records: Vec<Option<Record<'_>>> = self.events.iter().map(|event| event.record()).collect();
        let (mut heard, mut sent) = (vec![false; records.len()], 0);
        // One subscription after the other. An event may have several fields that it asked for.
        self.pairs.sort_unstable();
        self.pairs.dedup();
        let mut wanted: Vec<&Arc<LiveEvent>> = Vec::with_capacity(records.len());
        let mut rest = &self.pairs[..];
        while !rest.is_empty() {
            let groups: Vec<&[u64]> = rest.chunk_by(|a, b| a >> 32 == b >> 32).take(LOOK_UP).collect();
            rest = &rest[groups.iter().map(|group| group.len()).sum()..];
            // A number may have passed on to another subscription meanwhile: that one finds these events by its scan.
            let subscriptions: Vec<Option<Arc<Subscription>>> = {
                let state = lock(&live.state);
                groups.iter().map(|group| state.index.get((group[0] >> 32) as u32)).collect()
            };
            for (group, subscription) in groups.into_iter().zip(subscriptions) {
                let Some(subscription) = subscription else { continue };
                for place in group.iter().map(|pair| *pair as u32 as usize) {
                    if records[place].as_ref().is_some_and(|record| subscription.wants(record)) {
                        heard[place] = true;
                        wanted.push(&self.events[place]);
                    }
                }
                sent += match origin {
                    Origin::Here => subscription.deliver(&wanted),
                    Origin::Log { .. } => wanted.iter().map(|event| subscription.deliver_if_room(event)).sum(),
                };
                wanted.clear();
            }
        }
        live.figures.sent.add(Verb::Event, sent);
        for (place, reply) in self.replies.drain(..) {
            let elsewhere = core.pass_on.get().is_some_and(|pass_on| pass_on(self.events[place].record_bytes()));
            reply.send(if heard[place] || elsewhere { Outcome::Delivered } else { Outcome::Unheard });
        }
        self.events.iter().for_each(|event| event.release());
        self.pairs.clear();
        self.events.clear();
    }
}

/// The thread.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<Message>) {
    precedence::take(precedence::LIVE);
    let live = &core.live;
    let mut round = Round::default();
    while let Ok(message) = queue.recv() {
        let mut next = Some(message);
        while let Some(message) = next {
            match message {
                Message::Committed(events) => {
                    if let Some(first) = events.first().and_then(|event| event.seq)
                        && !live.is_level(first)
                    {
                        // Others' events stand between ours.
                        round.deliver(core, Origin::Here);
                        live.catch_up(core, first);
                    }
                    for event in events {
                        round.add(live, event, Origin::Here);
                        if round.is_full() {
                            round.deliver(core, Origin::Here);
                        }
                    }
                }
                Message::Ephemeral { event, reply } => round.add_ephemeral(live, event, reply),
                Message::PassedOn(event) => round.add(live, event, Origin::Here),
                Message::Look => {
                    round.deliver(core, Origin::Here);
                    match core.store().next_seq() {
                        Ok(next) => live.catch_up(core, next),
                        Err(error) => tracing::error!("reading the log for live delivery failed: {error}"),
                    }
                }
                Message::Stop => return round.deliver(core, Origin::Here),
            }
            next = if round.is_full() { None } else { queue.try_recv().ok() };
        }
        round.deliver(core, Origin::Here);
    }
}
