//! Live delivery: the one thread that gives new events to the subscriptions that want them.
//!
//! Everything stored is delivered in the order of the log, each number once. A subscription enters the index first, and what is
//! delivered to it waits; then the first slice of its scan learns at which number its snapshot ends. Events below that number are
//! the scan's, all from it on are live: none is missed, none comes twice.
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
use super::{Core, lock};
use crate::nostr::Filter;
use crate::store::Seq;

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

    /// Gives an event to everyone who wants it; returns how many did.
    fn deliver(&self, event: &Arc<LiveEvent>, origin: Origin) -> usize {
        let delivered = self.deliver_to_candidates(event, origin);
        event.release();
        delivered
    }

    fn deliver_to_candidates(&self, event: &Arc<LiveEvent>, origin: Origin) -> usize {
        let Some(record) = event.record() else { return 0 };
        {
            let mut state = lock(&self.state);
            if let Some(seq) = event.seq {
                if seq < state.delivered {
                    return 0;
                }
                state.delivered = seq + 1;
            }
            if state.index.len() == 0 {
                return 0;
            }
        }
        // Who enters while this is hashed finds the event by its scan.
        let fields = self.hasher.of_event(&record);
        let mut wanted = lock(&self.state).index.candidates(&fields);
        wanted.retain(|subscription| subscription.wants(&record));
        if let Origin::Log { now } = origin
            && !wanted.is_empty()
            && record.expiration().is_some_and(|at| at <= now)
        {
            return 0;
        }
        let mut sent = 0;
        for subscription in &wanted {
            sent += u64::from(match origin {
                Origin::Here => subscription.deliver(event),
                Origin::Log { .. } => subscription.deliver_if_room(event),
            });
        }
        self.figures.sent.add(Verb::Event, sent);
        wanted.len()
    }

    /// Delivers what stands in the log up to `to` and was not delivered yet: events of other processes.
    fn catch_up(&self, core: &Core, to: Seq) {
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
            let next = core.store.log(from, &mut |seq, record| {
                if seq >= to {
                    return ControlFlow::Break(());
                }
                events.push(Arc::new(LiveEvent::new(Some(seq), record.as_bytes().into(), None)));
                if events.len() < CATCH_UP { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let origin = Origin::Log { now: core.settings().expiry_time() };
            for event in &events {
                self.deliver(event, origin);
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

/// The thread.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<Message>) {
    let live = &core.live;
    while let Ok(message) = queue.recv() {
        match message {
            Message::Committed(events) => {
                if let Some(first) = events.first().and_then(|event| event.seq) {
                    live.catch_up(core, first);
                }
                for event in events {
                    live.deliver(&Arc::new(event), Origin::Here);
                }
            }
            Message::Ephemeral { event, reply } => {
                let event = Arc::new(event);
                let heard = live.deliver(&event, Origin::Here) > 0;
                let elsewhere = core.pass_on.get().is_some_and(|pass_on| pass_on(event.record_bytes()));
                let heard = heard || elsewhere;
                reply.send(if heard { Outcome::Delivered } else { Outcome::Unheard });
            }
            Message::PassedOn(event) => {
                live.deliver(&Arc::new(event), Origin::Here);
            }
            Message::Look => match core.store.next_seq() {
                Ok(next) => live.catch_up(core, next),
                Err(error) => tracing::error!("reading the log for live delivery failed: {error}"),
            },
            Message::Stop => return,
        }
    }
}
