//! What is told of a running server at one moment, to those who ask: `/health`, `/metrics`, the page, `ratite top`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::admission::Resource;
use super::health::Health;
use super::instruments::Instruments;
use super::metrics;
use super::nip11::VERSION;
use super::tls::Handshakes;
use super::visitor;
use crate::relay::{Histogram, Holdings, Messages, Verb};
use crate::store::Access;

/// What pages tell of a relay.
pub(super) trait Monitor: Send + Sync {
    /// Whether it is well.
    fn health(&self) -> Health;
    /// Its figures in the format of Prometheus.
    fn metrics(&self) -> String;
    /// Everything about it, for its operator.
    fn figures(&self) -> Value;
    /// Its figures for people.
    fn live(&self) -> Live;
}

/// Kinds that people are told of.
const SHOWN: usize = 5;

/// Figures for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Live {
    /// Events stored.
    pub events: u64,
    /// Clients connected.
    pub clients: usize,
    /// Events taken in each of the last whole minutes, the latest last.
    pub minutes: Vec<u64>,
    /// Kinds with how many events of them are stored, the most frequent first.
    pub kinds: Vec<(u16, u64)>,
    /// `created_at` of the oldest event.
    pub oldest: Option<u64>,
    /// The same of the newest.
    pub newest: Option<u64>,
    /// Bytes of the database's file, and of those that are free.
    pub file_bytes: (u64, u64),
    /// Bytes of each table that has any, the largest first.
    pub tables: Vec<(&'static str, u64)>,
    /// What each rule of retention would free now: events and bytes.
    pub due: Vec<(String, u64, u64)>,
}

impl Monitor for Instruments {
    fn health(&self) -> Health {
        let stats = self.relay.stats();
        let (counters, refused) = (&self.counters, self.limiter.refused());
        let numbers = [
            ("connections", self.registry.len() as u64),
            ("subscriptions", stats.subscriptions as u64),
            ("queued_bytes", stats.queued_bytes as u64),
            ("accepted", counters.accepted.load(Ordering::Relaxed)),
            ("turned_away", counters.turned_away.load(Ordering::Relaxed)),
            ("proxied_for_nobody", visitor::untold()),
            ("closed_too_slow", counters.too_slow.load(Ordering::Relaxed)),
            ("closed_silent", counters.silent.load(Ordering::Relaxed)),
            ("closed_for_violations", counters.violations.load(Ordering::Relaxed)),
            ("closed_over_limits", counters.over_limits.load(Ordering::Relaxed)),
            ("refused_too_many", refused.too_many.load(Ordering::Relaxed)),
            ("refused_too_fast", refused.too_fast.load(Ordering::Relaxed)),
            ("refused_shut_out", refused.shut_out.load(Ordering::Relaxed)),
            ("penalties", refused.penalties.load(Ordering::Relaxed)),
            ("limited_messages", refused.messages(Resource::Messages)),
            ("limited_bytes", refused.messages(Resource::Bytes)),
            ("limited_events", refused.messages(Resource::Events)),
            ("limited_reqs", refused.messages(Resource::Reqs)),
            ("limited_counts", refused.messages(Resource::Counts)),
            ("limited_authors", refused.messages(Resource::Author)),
            ("addresses", self.limiter.addresses() as u64),
            ("authors", self.limiter.authors() as u64),
        ];
        let mut numbers: Map<String, Value> =
            numbers.map(|(name, number)| (name.to_owned(), number.into())).into_iter().collect();
        if let Some(Handshakes { completed, resumed, failed }) = self.handshakes() {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).into();
            numbers.insert("handshakes".into(), count(completed));
            numbers.insert("handshakes_resumed".into(), count(resumed));
            numbers.insert("handshakes_failed".into(), count(failed));
            let days = self.certificate().and_then(|state| state.days_left(self.relay.settings().clock.now()));
            numbers.insert("certificate_days".into(), days.into());
        }
        Health { numbers, ..self.judged(&stats) }
    }

    fn metrics(&self) -> String {
        metrics::page(self)
    }

    fn figures(&self) -> Value {
        let stats = self.relay.stats();
        let figures = self.relay.figures();
        let Health { numbers, .. } = self.health();
        let health = self.judged(&stats);
        let count = |messages: &Messages| -> Value {
            let counted = Verb::ALL.iter().map(|verb| (verb.name().to_owned(), Value::from(messages.get(*verb))));
            counted.collect()
        };
        let events = figures.events.read().map(|(kind, (result, reason), count)| {
            json!({ "kind": kind, "result": result, "reason": reason, "count": count })
        });
        let seconds = |histogram: &Histogram| {
            let seen = histogram.read();
            json!({ "count": seen.count, "seconds": seen.sum as f64 / 1e9 })
        };
        let queries = Access::ALL.iter().zip(&figures.queries);
        let queries: Value =
            queries.map(|(access, histogram)| (access.name().to_owned(), seconds(histogram))).collect();
        let outboxes = self.registry.waiting();
        let (connections, max_connections) = self.capacity.taken();
        let now = self.relay.settings().clock.now();
        json!({
            "version": VERSION,
            "pid": std::process::id(),
            "time": now,
            "status": health.status(),
            "ready": health.is_ready(),
            "problems": health.problems.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(),
            "websockets": self.registry.len(),
            "connections": connections,
            "max_connections": max_connections,
            "subscriptions": stats.subscriptions,
            "received": count(&figures.received),
            "sent": count(&figures.sent),
            "events": events.collect::<Vec<_>>(),
            "events_taken": figures.events.taken(),
            "events_per_minute": stats.minutes,
            "queries": queries,
            "query_wait": seconds(&figures.query_wait),
            "commits": seconds(&figures.commits),
            "events_committed": figures.batches.read().sum,
            "stored_events": stats.occupancy.events,
            "database_bytes": stats.occupancy.file_bytes,
            "database_free_bytes": stats.occupancy.free_bytes,
            "disk_free_bytes": stats.occupancy.disk_free_bytes,
            "queued_bytes": stats.queued_bytes,
            "queue_bytes": stats.queue_bytes,
            "queues": stats.queues,
            "outbox_bytes": outboxes.sum,
            "largest_outbox_bytes": outboxes.largest,
            "certificate_days": self.certificate().and_then(|certificate| certificate.days_left(now)),
            "counters": numbers,
            "process": metrics::usage(),
        })
    }

    fn live(&self) -> Live {
        let stats = self.relay.stats();
        let Holdings { kinds, oldest, newest, tables, retention, .. } = self.relay.holdings();
        let kinds = kinds.into_iter().take(SHOWN).map(|kind| (kind.kind, kind.events)).collect();
        let mut tables: Vec<_> =
            tables.into_iter().map(|table| (table.name, table.bytes)).filter(|(_, bytes)| *bytes > 0).collect();
        tables.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let rules = retention.into_iter().flat_map(|report| report.rules);
        let due = rules.map(|rule| (rule.rule, rule.due.events, rule.due.bytes)).collect();
        let (events, file_bytes) = (stats.occupancy.events, (stats.occupancy.file_bytes, stats.occupancy.free_bytes));
        let (clients, minutes) = (self.registry.len(), stats.minutes);
        Live { events, clients, minutes, kinds, oldest, newest, file_bytes, tables, due }
    }
}
