//! Live delivery: the one thread that gives new events to the subscriptions that want them.
//!
//! Everything stored is delivered in the order of the log, each number once. A subscription enters the index first, and what is
//! delivered to it waits; then the first slice of its scan learns at which number its snapshot ends. Events below that number are
//! the scan's, all from it on are live: none is missed, none comes twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};

use super::index::Index;
use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::subscription::Subscription;
use super::{Core, lock};
use crate::store::Seq;

/// Records read from the log in one transaction when another process wrote them.
const CATCH_UP: usize = 256;

pub(super) enum Message {
    /// Events of one commit of this process, in the order of their numbers.
    Committed(Vec<LiveEvent>),
    Ephemeral {
        event: LiveEvent,
        reply: Reply,
    },
    /// Something was committed, perhaps by another process.
    Look,
    Stop,
}

/// The index, and the way to the thread that delivers.
pub(super) struct Live {
    state: Mutex<State>,
    queue: Sender<Message>,
    /// Everything below this number is committed, delivered or not.
    committed: AtomicU64,
}

/// What the lock guards.
struct State {
    /// Everything stored below this number was delivered.
    delivered: Seq,
    index: Index,
}

impl Live {
    pub fn new(next_seq: Seq, queue: Sender<Message>) -> Live {
        let state = State { delivered: next_seq, index: Index::new() };
        Live { state: Mutex::new(state), queue, committed: AtomicU64::new(next_seq) }
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

    pub fn subscriptions(&self) -> usize {
        lock(&self.state).index.len()
    }

    /// Enters a subscription: from now on what it wants is delivered to it. Returns its number in the index.
    pub fn enter(&self, subscription: &Arc<Subscription>) -> u32 {
        let number = lock(&self.state).index.enter(subscription);
        // What is committed already is the scan's, even where its delivery is behind: after an import that may be more
        // than can wait for the scan's first slice.
        subscription.scan_ends_at(self.committed.load(Ordering::Acquire));
        number
    }

    /// Takes a subscription out again.
    pub fn leave(&self, number: u32) {
        lock(&self.state).index.leave(number);
    }

    /// Gives an event to everyone who wants it; returns how many did.
    fn deliver(&self, event: &Arc<LiveEvent>) -> usize {
        let delivered = self.deliver_to_candidates(event);
        event.release();
        delivered
    }

    fn deliver_to_candidates(&self, event: &Arc<LiveEvent>) -> usize {
        let Some(record) = event.record() else { return 0 };
        let mut wanted = {
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
            state.index.candidates(&record)
        };
        wanted.retain(|subscription| {
            subscription.filters.iter().any(|filter| filter.matches(&record)) && subscription.viewer.may_see(&record)
        });
        for subscription in &wanted {
            subscription.deliver(event);
        }
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
            let next = core.store.log(from, CATCH_UP, &mut |seq, record| {
                if seq < to {
                    events.push(Arc::new(LiveEvent::new(Some(seq), record.as_bytes().into(), None)));
                }
            });
            for event in &events {
                self.deliver(event);
            }
            match next {
                Ok(Some(next)) if next < to => {}
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
                    live.deliver(&Arc::new(event));
                }
            }
            Message::Ephemeral { event, reply } => {
                let heard = live.deliver(&Arc::new(event)) > 0;
                reply.send(if heard { Outcome::Delivered } else { Outcome::Unheard });
            }
            Message::Look => match core.store.next_seq() {
                Ok(next) => live.catch_up(core, next),
                Err(error) => tracing::error!("reading the log for live delivery failed: {error}"),
            },
            Message::Stop => return,
        }
    }
}
