//! Writes that fail: whether they do, and how often the log is told. At the edge of a full disk one write fails and the next, smaller
//! one succeeds: `/health` says what is so at the moment, the log only what lasts.

use std::sync::Mutex;

use super::lock;

/// Writes have to succeed for so many seconds before the log says that all is well again.
const CALM: u64 = 10;

#[derive(Debug, Default)]
struct State {
    /// Why the last write failed.
    failure: Option<String>,
    /// What the log was told last, as long as it was not told that all is well.
    told: Option<String>,
    /// When writes began to succeed again, in Unix seconds.
    well_since: Option<u64>,
}

/// What is to be said in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// Nothing.
    Nothing,
    /// That writes fail.
    Fails,
    /// That they succeed again.
    WorksAgain,
}

/// The state of writing.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<State>);

impl Trouble {
    /// A write failed.
    pub fn failed(&self, why: &str) -> Say {
        let mut state = lock(&self.0);
        state.failure = Some(why.to_owned());
        state.well_since = None;
        if state.told.as_deref() == Some(why) {
            return Say::Nothing;
        }
        state.told = Some(why.to_owned());
        Say::Fails
    }

    /// A write succeeded.
    pub fn succeeded(&self, now: u64) {
        let mut state = lock(&self.0);
        state.failure = None;
        if state.told.is_some() && state.well_since.is_none() {
            state.well_since = Some(now);
        }
    }

    /// Time passes.
    pub fn tick(&self, now: u64) -> Say {
        let mut state = lock(&self.0);
        if state.well_since.is_none_or(|since| now < since.saturating_add(CALM)) {
            return Say::Nothing;
        }
        (state.told, state.well_since) = (None, None);
        Say::WorksAgain
    }

    /// Why the last write failed, if it did.
    pub fn failure(&self) -> Option<String> {
        lock(&self.0).failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_and_works_in_turn_is_told_of_once() {
        let trouble = Trouble::default();
        assert_eq!(trouble.tick(0), Say::Nothing);
        assert_eq!(trouble.failed("full"), Say::Fails);
        for now in 1..100 {
            trouble.succeeded(now);
            assert_eq!(trouble.failure(), None, "health knows at once");
            assert_eq!(trouble.tick(now), Say::Nothing);
            assert_eq!(trouble.failed("full"), Say::Nothing);
            assert_eq!(trouble.failure().as_deref(), Some("full"));
        }
        assert_eq!(trouble.failed("damaged"), Say::Fails, "something else");
        trouble.succeeded(100);
        trouble.succeeded(105);
        assert_eq!(trouble.tick(109), Say::Nothing);
        assert_eq!(trouble.tick(110), Say::WorksAgain);
        assert_eq!(trouble.tick(200), Say::Nothing, "said once");
        assert_eq!(trouble.failed("damaged"), Say::Fails);
    }
}
