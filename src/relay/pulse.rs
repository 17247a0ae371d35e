//! What the relay was like lately: how many events it took in each of the last minutes, and what the database takes up. Looked at by
//! housekeeping, so that nobody who asks has to read the database for it.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::figures::KINDS;
use super::lock;
use crate::store::{KindInfo, Occupancy, RetentionReport, StoreInfo, TableInfo};

/// Minutes that are remembered.
pub const MINUTES: usize = 60;

/// What is stored, from counters that are kept with it: nothing is searched for this.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Holdings {
    /// The kinds that are stored of those that are counted each for itself, the most frequent first.
    pub kinds: Vec<KindInfo>,
    /// Events of all other kinds, and bytes of their records.
    pub others: (u64, u64),
    /// Every table of the database.
    pub tables: Vec<TableInfo>,
    /// `created_at` of the oldest event.
    pub oldest: Option<u64>,
    /// `created_at` of the newest event.
    pub newest: Option<u64>,
    /// What each rule of retention would free, and has; `None` when nobody has looked.
    pub retention: Option<RetentionReport>,
}

impl From<StoreInfo> for Holdings {
    fn from(info: StoreInfo) -> Holdings {
        let StoreInfo { oldest, newest, tables, statistics, retention, .. } = info;
        let (kinds, others) =
            statistics.kinds.into_iter().partition::<Vec<_>, _>(|kind| KINDS.binary_search(&kind.kind).is_ok());
        let sum = |of: fn(&KindInfo) -> u64| others.iter().map(of).sum();
        let others = (sum(|kind| kind.events), sum(|kind| kind.bytes));
        Holdings { kinds, others, tables, oldest, newest, retention }
    }
}

#[derive(Debug, Default)]
struct State {
    occupancy: Occupancy,
    holdings: Holdings,
    /// Events taken in whole minutes, the latest last.
    minutes: VecDeque<u64>,
    /// The current minute, since 1970.
    minute: Option<u64>,
    /// Events taken before it.
    before: u64,
}

/// What the relay was like lately.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    state: Mutex<State>,
}

impl Pulse {
    /// Notes the time, in Unix seconds, and how many events were taken until now.
    pub fn tick(&self, now: u64, taken: u64) {
        let mut state = lock(&self.state);
        let minute = now / 60;
        let Some(current) = state.minute else {
            state.minute = Some(minute);
            state.before = taken;
            return;
        };
        // A clock that was set back starts over where it is.
        let passed = usize::try_from(minute.saturating_sub(current)).unwrap_or(usize::MAX).min(MINUTES);
        if passed > 0 {
            let before = std::mem::replace(&mut state.before, taken);
            state.minutes.push_back(taken.saturating_sub(before));
            state.minutes.extend(std::iter::repeat_n(0, passed - 1));
            let too_many = state.minutes.len().saturating_sub(MINUTES);
            state.minutes.drain(..too_many);
        }
        state.minute = Some(minute);
    }

    /// Notes what the database takes up.
    pub fn occupied(&self, occupancy: Occupancy) {
        lock(&self.state).occupancy = occupancy;
    }

    /// What the database took up when it was last looked at.
    pub fn occupancy(&self) -> Occupancy {
        lock(&self.state).occupancy
    }

    /// Notes what is stored.
    pub fn holds(&self, holdings: Holdings) {
        lock(&self.state).holdings = holdings;
    }

    /// What was stored when it was last looked at.
    pub fn holdings(&self) -> Holdings {
        lock(&self.state).holdings.clone()
    }

    /// Events taken in each of the last whole minutes, the latest last; no more than [`MINUTES`], and fewer after the start.
    pub fn minutes(&self) -> Vec<u64> {
        lock(&self.state).minutes.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_think_of_makes_no_kind_of_its_own() {
        let kind = |kind, events| KindInfo { kind, events, bytes: events * 100 };
        let info = StoreInfo {
            events: 0,
            next_seq: 0,
            schema_version: 1,
            file_bytes: 0,
            free_bytes: 0,
            oldest: Some(5),
            newest: None,
            tables: Vec::new(),
            statistics: crate::store::Statistics {
                kinds: vec![kind(39_999, 50), kind(1, 40), kind(2, 30), kind(0, 20)],
                complete: true,
            },
            retention: None,
        };
        let holdings = Holdings::from(info);
        assert_eq!(holdings.kinds, [kind(1, 40), kind(0, 20)]);
        assert_eq!((holdings.others, holdings.oldest), ((80, 8_000), Some(5)));
    }

    #[test]
    fn minutes_are_kept_for_an_hour_and_empty_ones_count() {
        let pulse = Pulse::default();
        pulse.tick(600, 10);
        assert!(pulse.minutes().is_empty(), "what came before the start is nobody's");
        pulse.tick(659, 15);
        assert!(pulse.minutes().is_empty(), "the minute is not over");
        pulse.tick(661, 17);
        assert_eq!(pulse.minutes(), [7]);
        pulse.tick(905, 20);
        assert_eq!(pulse.minutes(), [7, 3, 0, 0, 0]);
        // Set back, and on again: nothing is lost and nothing invented.
        pulse.tick(300, 21);
        pulse.tick(360, 22);
        assert_eq!(pulse.minutes(), [7, 3, 0, 0, 0, 2]);
        for minute in 7..200 {
            pulse.tick(minute * 60, 22 + minute);
        }
        assert_eq!(pulse.minutes().len(), MINUTES);
        assert!(pulse.minutes().iter().all(|count| *count == 1));
        pulse.tick(u64::MAX, 0);
        assert_eq!(pulse.minutes().iter().sum::<u64>(), 0, "a leap of ages");
    }
}
