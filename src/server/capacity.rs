//! How many connections may stay, and whether new ones are let in at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// So many connections above the limit are answered (503 to a WebSocket, `/health` as ever); further ones are dropped.
pub(super) const OVERFLOW: usize = 64;

/// How far the server is on its way down, for those who listen and those who have not said yet what they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Everybody is welcome.
    Open,
    /// Nobody new is let in; whoever is connected stays.
    HandingOver,
    /// Everybody leaves.
    Closing,
}

/// Who may stay: so many full members, and a few who only get an answer.
#[derive(Clone)]
pub(super) struct Capacity(Arc<Rooms>);

struct Rooms {
    full: AtomicUsize,
    /// How many there may be.
    most: AtomicUsize,
    overflow: AtomicUsize,
}

impl Capacity {
    /// Capacity for so many connections.
    pub(super) fn new(max_connections: usize) -> Capacity {
        let (full, overflow) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Capacity(Arc::new(Rooms { full, most: AtomicUsize::new(max_connections), overflow }))
    }

    /// Lets so many in from now on. Those who are in stay.
    pub(super) fn set_most(&self, max_connections: usize) {
        self.0.most.store(max_connections, Relaxed);
    }

    /// How many are in, and how many may be.
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.0.full.load(Relaxed), self.0.most.load(Relaxed))
    }

    /// A place for one connection and whether it is a full one.
    pub(super) fn enter(&self) -> Option<(Seat, bool)> {
        match self.seat(true, self.0.most.load(Relaxed)) {
            Some(seat) => Some((seat, true)),
            None => self.answer(),
        }
    }

    /// A place for one that only gets an answer.
    pub(super) fn answer(&self) -> Option<(Seat, bool)> {
        self.seat(false, OVERFLOW).map(|seat| (seat, false))
    }

    fn seat(&self, full: bool, most: usize) -> Option<Seat> {
        let counter = self.0.counter(full);
        counter.fetch_update(Relaxed, Relaxed, |taken| (taken < most).then_some(taken + 1)).ok()?;
        Some(Seat { rooms: Arc::clone(&self.0), full })
    }
}

/// A place; free again when this is dropped.
pub(super) struct Seat {
    rooms: Arc<Rooms>,
    full: bool,
}

impl Rooms {
    fn counter(&self, full: bool) -> &AtomicUsize {
        if full { &self.full } else { &self.overflow }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.rooms.counter(self.full).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_may_stay_from_now_on_and_nobody_is_sent_away() {
        let capacity = Capacity::new(2);
        let first = capacity.enter().unwrap();
        let second = capacity.enter().unwrap();
        assert!(first.1 && second.1);
        assert!(!capacity.enter().unwrap().1, "an answer only");
        capacity.set_most(1);
        assert_eq!(capacity.taken(), (2, 1));
        drop(first);
        assert!(!capacity.enter().unwrap().1, "one is still in");
        drop(second);
        assert!(capacity.enter().unwrap().1);
        let mut seats: Vec<_> = std::iter::from_fn(|| capacity.answer()).collect();
        assert_eq!(seats.len(), OVERFLOW);
        seats.pop();
        assert!(capacity.answer().is_some(), "a place that was given back");
    }
}
