//! A line before a door that lets only some through at a time.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::lock;

/// A line. Whoever is let through has to be reported back with [`Line::next`], or the door closes for good.
pub(super) struct Line<T> {
    /// Who may be beyond the door at the same time.
    most: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    beyond: usize,
    waiting: VecDeque<T>,
}

impl<T> Line<T> {
    pub fn new(most: usize) -> Line<T> {
        Line { most: most.max(1), state: Mutex::new(State { beyond: 0, waiting: VecDeque::new() }) }
    }

    /// Comes to the door: who is returned goes through now, nobody when all places are taken.
    pub fn come(&self, one: T) -> Option<T> {
        let mut state = lock(&self.state);
        if state.beyond < self.most {
            state.beyond += 1;
            return Some(one);
        }
        state.waiting.push_back(one);
        None
    }

    /// Whether somebody waits.
    pub fn is_held_up(&self) -> bool {
        !lock(&self.state).waiting.is_empty()
    }

    /// One of those that were let through is back: who is returned goes through in its place.
    pub fn next(&self) -> Option<T> {
        let mut state = lock(&self.state);
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.beyond -= 1;
            // An empty line keeps no room.
            state.waiting = VecDeque::new();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_through_and_the_others_in_their_order() {
        let line = Line::new(2);
        assert_eq!((line.come(1), line.come(2), line.come(3), line.come(4)), (Some(1), Some(2), None, None));
        assert!(line.is_held_up());
        assert_eq!(line.next(), Some(3));
        assert_eq!(line.come(5), None);
        assert_eq!((line.next(), line.next()), (Some(4), Some(5)));
        // Two of the three are still beyond.
        assert!(!line.is_held_up());
        assert_eq!((line.next(), line.come(6)), (None, Some(6)));
        assert_eq!((line.next(), line.next()), (None, None));
        assert_eq!((line.come(7), line.come(8), line.come(9)), (Some(7), Some(8), None));
    }
}
