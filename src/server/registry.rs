//! The books of a server: who is connected, and what has happened since the start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::outbox::{Outbox, Phase};

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections turned away because the server was full.
    pub turned_away: AtomicU64,
    /// Connections closed because their peer read too slowly.
    pub too_slow: AtomicU64,
    /// Connections dropped because their peer fell silent.
    pub silent: AtomicU64,
    /// Connections closed for a breach of the WebSocket protocol or too many useless messages.
    pub violations: AtomicU64,
    /// Connections closed because their address went on in spite of its limits.
    pub over_limits: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Sessions {
    phase: Phase,
    next: u64,
    open: HashMap<u64, Open>,
}

/// One of them: what waits for it, and where it is.
struct Open {
    outbox: Arc<Outbox>,
    address: Option<IpAddr>,
}

/// Bytes that wait to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Over all WebSockets.
    pub sum: usize,
    /// On the one with the most of them.
    pub largest: usize,
}

/// The open WebSockets.
#[derive(Default)]
pub(super) struct Registry {
    sessions: Mutex<Sessions>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Plain data, consistent between any two statements.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a session until the ticket is dropped. A server on its way down tells it so at once.
    pub(super) fn enter(self: &Arc<Self>, outbox: Arc<Outbox>, address: Option<IpAddr>) -> Ticket {
        let mut sessions = self.lock();
        outbox.announce(sessions.phase);
        let number = sessions.next;
        sessions.next += 1;
        sessions.open.insert(number, Open { outbox, address });
        Ticket { registry: Arc::clone(self), number }
    }

    /// Tells every session, and every later one, how far the server is on its way down.
    pub(super) fn announce(&self, phase: Phase) {
        let outboxes: Vec<Arc<Outbox>> = {
            let mut sessions = self.lock();
            sessions.phase = sessions.phase.max(phase);
            sessions.open.values().map(|open| open.outbox.clone()).collect()
        };
        for outbox in outboxes {
            outbox.announce(phase);
        }
    }

    /// Ends every session whose address is one of these.
    pub(super) fn close(&self, is_meant: impl Fn(IpAddr) -> bool) {
        let sessions = self.lock();
        let meant = sessions.open.values().filter(|open| open.address.is_some_and(&is_meant));
        let outboxes: Vec<Arc<Outbox>> = meant.map(|open| open.outbox.clone()).collect();
        drop(sessions);
        for outbox in outboxes {
            outbox.announce(Phase::Closing);
        }
    }

    /// The numbers of the open WebSockets, those that came first in front.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.lock().open.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// The outbox of a WebSocket, if it is still open.
    pub(super) fn outbox(&self, number: u64) -> Option<Arc<Outbox>> {
        self.lock().open.get(&number).map(|open| open.outbox.clone())
    }

    /// What waits to be sent.
    pub(super) fn waiting(&self) -> Waiting {
        let sessions = self.lock();
        let bytes = sessions.open.values().map(|open| open.outbox.waiting());
        bytes.fold(Waiting::default(), |waiting, bytes| Waiting {
            sum: waiting.sum + bytes,
            largest: waiting.largest.max(bytes),
        })
    }

    /// How many WebSockets are open.
    pub(super) fn len(&self) -> usize {
        self.lock().open.len()
    }
}

/// Keeps a session listed.
pub(super) struct Ticket {
    registry: Arc<Registry>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registry.lock().open.remove(&self.number);
    }
}
