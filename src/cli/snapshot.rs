//! The figures of a running relay as it gives them to its operator, and what happened between two looks at them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::desk;
use super::failure::Failure;
use crate::server::Neighbour;

/// What a relay tells of itself.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(super) struct Snapshot {
    pub version: String,
    pub pid: u32,
    /// Unix seconds, by the relay's clock.
    pub time: u64,
    pub status: String,
    pub problems: Vec<String>,
    pub websockets: u64,
    pub connections: u64,
    pub max_connections: u64,
    pub subscriptions: u64,
    /// Messages by verb.
    pub received: BTreeMap<String, u64>,
    pub sent: BTreeMap<String, u64>,
    /// Published events.
    pub events: Vec<Published>,
    pub events_taken: u64,
    pub events_per_minute: Vec<u64>,
    /// By plan.
    pub queries: BTreeMap<String, Timed>,
    pub query_wait: Timed,
    pub commits: Timed,
    pub events_committed: u64,
    pub stored_events: u64,
    pub database_bytes: u64,
    pub database_free_bytes: u64,
    pub disk_free_bytes: Option<u64>,
    pub queued_bytes: u64,
    pub queue_bytes: u64,
    pub queues: BTreeMap<String, u64>,
    pub outbox_bytes: u64,
    pub largest_outbox_bytes: u64,
    pub certificate_days: Option<i64>,
    pub counters: BTreeMap<String, u64>,
    pub process: Process,
}

/// Published events of one kind and what became of them.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Published {
    /// `None` for kinds that are counted together.
    pub kind: Option<u16>,
    pub result: String,
    pub reason: String,
    pub count: u64,
}

/// How often, and how long in all.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
pub(super) struct Timed {
    pub count: u64,
    pub seconds: f64,
}

impl Timed {
    /// The mean in milliseconds.
    pub(super) fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.seconds * 1_000.0 / self.count as f64)
    }

    fn since(self, before: Timed) -> Timed {
        Timed { count: self.count.saturating_sub(before.count), seconds: (self.seconds - before.seconds).max(0.0) }
    }
}

/// What the process uses.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(super) struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub anonymous_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub max_open_files: Option<u64>,
    pub threads: Option<u64>,
    /// Unix seconds.
    pub started: Option<f64>,
}

impl Snapshot {
    /// Asks a relay.
    pub(super) fn of(relay: &Neighbour) -> Result<Snapshot, Failure> {
        let body = desk::ask(relay, "GET /stats.json")?;
        serde_json::from_str(&body).map_err(|error| {
            Failure::new(
                format!("the figures of the relay in process {} cannot be read: {error}", relay.pid),
                "It may be another version of ratite.",
            )
        })
    }

    /// How long the relay has run, in seconds.
    pub(super) fn uptime(&self) -> u64 {
        self.process.started.map_or(0, |started| (self.time as f64 - started).max(0.0) as u64)
    }

    /// All questions.
    pub(super) fn asked(&self) -> Timed {
        self.queries.values().fold(Timed::default(), |sum, timed| Timed {
            count: sum.count + timed.count,
            seconds: sum.seconds + timed.seconds,
        })
    }

    /// Published events by what became of them.
    pub(super) fn verdicts(&self) -> BTreeMap<String, u64> {
        let mut verdicts = BTreeMap::new();
        for event in &self.events {
            let name = match event.reason.as_str() {
                "" => event.result.clone(),
                reason => format!("{} ({reason})", event.result),
            };
            *verdicts.entry(name).or_default() += event.count;
        }
        verdicts
    }

    /// Messages refused over limits.
    pub(super) fn limited(&self) -> u64 {
        let limited = self.counters.iter().filter(|(name, _)| name.starts_with("limited_"));
        limited.map(|(_, count)| count).sum()
    }
}

/// What happened between two looks.
pub(super) struct Between<'s> {
    pub before: &'s Snapshot,
    pub now: &'s Snapshot,
    /// How far they lie apart.
    pub seconds: f64,
}

impl Between<'_> {
    /// How much of this there was in a second.
    pub(super) fn rate(&self, what: impl Fn(&Snapshot) -> u64) -> f64 {
        what(self.now).saturating_sub(what(self.before)) as f64 / self.seconds.max(0.001)
    }

    /// What was timed meanwhile.
    pub(super) fn timed(&self, what: impl Fn(&Snapshot) -> Timed) -> Timed {
        what(self.now).since(what(self.before))
    }

    /// How much of one processor the relay used, in percent.
    pub(super) fn cpu(&self) -> Option<f64> {
        let (before, now) = (self.before.process.cpu_seconds?, self.now.process.cpu_seconds?);
        Some((now - before).max(0.0) * 100.0 / self.seconds.max(0.001))
    }
}
