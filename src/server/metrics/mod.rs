//! `/metrics`: the figures of a running relay for Prometheus.
//!
//! | file | what |
//! |---|---|
//! | `text` | the format |
//! | `process` | what the process uses of its machine |
//!
//! Counters are atomics of those who count; they are read here when somebody asks, and nothing is kept for it. Every label has a
//! bounded set of values: nothing that strangers send becomes one.

mod process;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};

use process::Usage;
use text::Page;

pub(super) use text::MEDIA_TYPE;

use super::admission::Resource;
use super::health::Reason;
use super::instruments::Instruments;
use super::nip11::VERSION;
use super::registry::Counters;
use super::tls::Handshakes;
use crate::relay::{Figures, Holdings, Stats, Verb};
use crate::store::{Access, KindInfo, RuleReport};

/// Figures that are counted in nanoseconds are shown in seconds.
const NANOSECONDS: f64 = 1e9;

/// The page.
pub(super) fn page(instruments: &Instruments) -> String {
    let mut page = Page::default();
    let stats = instruments.relay.stats();
    page.gauge("ratite_build_info", "Always 1; the labels say which build this is.")
        .sample(&[("version", VERSION), ("architecture", std::env::consts::ARCH)], 1);
    health(&mut page, instruments, &stats);
    connections(&mut page, instruments);
    messages(&mut page, instruments.relay.figures());
    events(&mut page, instruments.relay.figures());
    questions(&mut page, instruments.relay.figures());
    storage(&mut page, &stats, instruments.relay.figures());
    holdings(&mut page, &instruments.relay.holdings());
    limits(&mut page, instruments);
    process(&mut page, &Usage::now());
    page.finish()
}

/// What the process uses, as JSON.
pub(super) fn usage() -> serde_json::Value {
    let Usage { cpu, resident, anonymous, addresses, files, most_files, threads, started } = Usage::now();
    serde_json::json!({
        "cpu_seconds": cpu,
        "resident_bytes": resident,
        "anonymous_bytes": anonymous,
        "virtual_bytes": addresses,
        "open_files": files,
        "max_open_files": most_files,
        "threads": threads,
        "started": started,
    })
}

fn health(page: &mut Page, instruments: &Instruments, stats: &Stats) {
    let health = instruments.judged(stats);
    page.gauge("ratite_ready", "Whether clients and events are taken.").value(u8::from(health.is_ready()));
    let mut degraded = page.gauge("ratite_degraded", "Whether something is wrong, by what.");
    for reason in Reason::ALL {
        let is_so = health.problems.iter().any(|(found, _)| *found == reason);
        degraded.sample(&[("reason", reason.code())], u8::from(is_so));
    }
    let (taken, refused) = &instruments.reloads;
    page.counter("ratite_config_reloads_total", "Times that the configuration was read again, by what came of it.")
        .sample(&[("result", "taken")], taken.load(Ordering::Relaxed))
        .sample(&[("result", "refused")], refused.load(Ordering::Relaxed));
    if let Some(certificate) = instruments.certificate() {
        let now = instruments.relay.settings().clock.now();
        if let (Some(expires), Some(days)) = (certificate.expires, certificate.days_left(now)) {
            page.gauge("ratite_certificate_expiry_time_seconds", "When the certificate ends, in Unix seconds.")
                .value(expires);
            page.gauge("ratite_certificate_days", "Whole days until the certificate ends.").value(days);
        }
        let failed = certificate.last_error.map_or(0, |error| error.attempts);
        page.gauge("ratite_certificate_failed_attempts", "Attempts in a row to get or read a certificate that failed.")
            .value(failed);
    }
    if let Some(Handshakes { completed, resumed, failed }) = instruments.handshakes() {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.counter("ratite_tls_handshakes_total", "Handshakes of TLS by what became of them.")
            .sample(&[("result", "full")], count(completed).saturating_sub(count(resumed)))
            .sample(&[("result", "resumed")], count(resumed))
            .sample(&[("result", "failed")], count(failed));
    }
}

fn connections(page: &mut Page, instruments: &Instruments) {
    let Counters { accepted, turned_away, too_slow, silent, violations, over_limits } = &*instruments.counters;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (taken, most) = instruments.capacity.taken();
    page.gauge("ratite_websockets", "WebSockets open.").value(instruments.registry.len());
    page.gauge("ratite_connections", "Connections open, those included that are not WebSockets (yet).").value(taken);
    page.gauge("ratite_connections_max", "The most that may be open, as configured.").value(most);
    page.gauge("ratite_subscriptions", "Subscriptions open.").value(instruments.relay.stats().subscriptions);
    let refused = instruments.limiter.refused();
    page.counter("ratite_connections_total", "Connections by what became of them at the door.")
        .sample(&[("result", "accepted")], count(accepted))
        .sample(&[("result", "full")], count(turned_away))
        .sample(&[("result", "too_many")], count(&refused.too_many))
        .sample(&[("result", "too_fast")], count(&refused.too_fast))
        .sample(&[("result", "shut_out")], count(&refused.shut_out));
    page.counter("ratite_connections_closed_total", "Connections that the relay closed, by why.")
        .sample(&[("reason", "too_slow")], count(too_slow))
        .sample(&[("reason", "silent")], count(silent))
        .sample(&[("reason", "violation")], count(violations))
        .sample(&[("reason", "over_limits")], count(over_limits));
    let outboxes = instruments.registry.waiting();
    page.gauge("ratite_outbox_bytes", "Bytes that wait to be sent, over all connections.").value(outboxes.sum);
    page.gauge("ratite_outbox_bytes_largest", "Bytes that wait to be sent on the connection with the most of them.")
        .value(outboxes.largest);
}

fn messages(page: &mut Page, figures: &Figures) {
    let mut family = page.counter("ratite_messages_total", "Messages by direction, seen from the relay, and verb.");
    use Verb::{Auth, Close, Closed, Count, Eose, Event, Invalid, Notice, Ok, Req};
    for verb in [Event, Req, Count, Close, Auth, Invalid] {
        family.sample(&[("direction", "in"), ("verb", verb.name())], figures.received.get(verb));
    }
    for verb in [Event, Ok, Eose, Closed, Count, Notice, Auth] {
        family.sample(&[("direction", "out"), ("verb", verb.name())], figures.sent.get(verb));
    }
}

fn events(page: &mut Page, figures: &Figures) {
    let mut family = page.counter(
        "ratite_events_total",
        "Events that clients published, by kind (\"other\" for the rarer ones), what became of them, and the class of the reason.",
    );
    for (kind, (result, reason), count) in figures.events.read() {
        let kind = kind.map_or("other".to_owned(), |kind| kind.to_string());
        family.sample(&[("kind", &kind), ("result", result), ("reason", reason)], count);
    }
}

fn questions(page: &mut Page, figures: &Figures) {
    let mut family = page.histogram(
        "ratite_query_seconds",
        "Work on a question (REQ or COUNT) until all that is stored was sent, by the plan of its answer.",
    );
    for (access, histogram) in Access::ALL.iter().zip(&figures.queries) {
        family.observed(&[("plan", access.name())], &histogram.read(), NANOSECONDS);
    }
    page.histogram("ratite_query_wait_seconds", "How long questions waited before work on them began.").observed(
        &[],
        &figures.query_wait.read(),
        NANOSECONDS,
    );
}

fn storage(page: &mut Page, stats: &Stats, figures: &Figures) {
    let occupancy = &stats.occupancy;
    page.gauge("ratite_stored_events", "Events stored.").value(occupancy.events);
    page.gauge("ratite_database_bytes", "Size of the database file.").value(occupancy.file_bytes);
    page.gauge("ratite_database_free_bytes", "Bytes of the database file that are free for new events.")
        .value(occupancy.free_bytes);
    page.gauge("ratite_database_max_bytes", "The most that the database file may take.").value(occupancy.map_bytes);
    if let Some(free) = occupancy.disk_free_bytes {
        page.gauge("ratite_disk_free_bytes", "Bytes that are free on the disk of the database.").value(free);
    }
    page.gauge("ratite_queue_bytes", "Bytes of events that wait to be checked, stored or delivered.")
        .value(stats.queued_bytes);
    page.gauge("ratite_queue_max_bytes", "The most that may wait before publishers have to.").value(stats.queue_bytes);
    page.gauge("ratite_kept_texts_bytes", "Bytes of texts kept because they are asked for again and again.")
        .value(stats.kept_texts_bytes);
    page.gauge("ratite_kept_texts_max_bytes", "The most that they may take.").value(stats.kept_texts_max_bytes);
    let queues = &stats.queues;
    page.gauge("ratite_queue_depth", "What waits in each queue: events, orders, or clients with questions.")
        .sample(&[("queue", "verify")], queues.verify)
        .sample(&[("queue", "writer")], queues.writer)
        .sample(&[("queue", "live")], queues.live)
        .sample(&[("queue", "readers")], queues.readers);
    page.histogram(
        "ratite_commit_seconds",
        "Transactions that store published events, from the write lock to the disk's word.",
    )
    .observed(&[], &figures.commits.read(), NANOSECONDS);
    page.histogram("ratite_batch_events", "Published events in one transaction.").observed(
        &[],
        &figures.batches.read(),
        1.0,
    );
    page.histogram(
        "ratite_prune_seconds",
        "Transactions that remove what retention lets go, from the wait for the write lock to the disk's word: publishers wait as long.",
    )
    .observed(&[], &figures.prunes.read(), NANOSECONDS);
    page.histogram("ratite_prune_events", "Events that retention removed in one transaction.").observed(
        &[],
        &figures.pruned.read(),
        1.0,
    );
}

fn holdings(page: &mut Page, holdings: &Holdings) {
    let kind = |kind: &KindInfo| (kind.kind.to_string(), kind.events, kind.bytes);
    let (events, bytes) = holdings.others;
    let kinds: Vec<_> = holdings.kinds.iter().map(kind).chain([("other".to_owned(), events, bytes)]).collect();
    let mut family = page.gauge("ratite_stored_kind_events", "Events stored, by kind (\"other\" for the rarer ones).");
    for (kind, events, _) in &kinds {
        family.sample(&[("kind", kind)], events);
    }
    let mut family = page.gauge("ratite_stored_kind_bytes", "Bytes of their records, without index entries, by kind.");
    for (kind, _, bytes) in &kinds {
        family.sample(&[("kind", kind)], bytes);
    }
    let mut family = page.gauge("ratite_table_bytes", "Bytes that each table of the database takes.");
    for table in &holdings.tables {
        family.sample(&[("table", table.name)], table.bytes);
    }
    let mut family = page.gauge("ratite_table_entries", "Entries in each table of the database.");
    for table in &holdings.tables {
        family.sample(&[("table", table.name)], table.entries);
    }
    for (name, help, time) in [
        ("ratite_oldest_event_time_seconds", "created_at of the oldest event that is stored.", holdings.oldest),
        ("ratite_newest_event_time_seconds", "created_at of the newest event that is stored.", holdings.newest),
    ] {
        if let Some(time) = time {
            page.gauge(name, help).value(time);
        }
    }
    let Some(report) = &holdings.retention else { return };
    page.gauge("ratite_retention_time_seconds", "When retention last looked at everything.").value(report.at);
    type Of = fn(&RuleReport) -> u64;
    let families: [(&str, &str, Of); 4] = [
        (
            "ratite_retention_due_events",
            "Events that each rule of retention would remove, as of the last look.",
            |rule| rule.due.events,
        ),
        ("ratite_retention_due_bytes", "Bytes that each rule of retention would free, about.", |rule| rule.due.bytes),
        ("ratite_retention_removed_events_total", "Events that each rule of retention has removed.", |rule| {
            rule.removed.events
        }),
        ("ratite_retention_removed_bytes_total", "Bytes that they took, about.", |rule| rule.removed.bytes),
    ];
    for (name, help, of) in families {
        let mut family = if name.ends_with("_total") { page.counter(name, help) } else { page.gauge(name, help) };
        for rule in &report.rules {
            family.sample(&[("rule", &rule.rule)], of(rule));
        }
    }
}

fn limits(page: &mut Page, instruments: &Instruments) {
    let refused = instruments.limiter.refused();
    page.counter("ratite_limited_total", "Messages that were refused because there were too many, by of what.")
        .sample(&[("resource", "messages")], refused.messages(Resource::Messages))
        .sample(&[("resource", "bytes")], refused.messages(Resource::Bytes))
        .sample(&[("resource", "events")], refused.messages(Resource::Events))
        .sample(&[("resource", "reqs")], refused.messages(Resource::Reqs))
        .sample(&[("resource", "counts")], refused.messages(Resource::Counts))
        .sample(&[("resource", "author")], refused.messages(Resource::Author));
    page.counter("ratite_penalties_total", "Times that an address was shut out for a while.")
        .value(refused.penalties.load(Ordering::Relaxed));
    page.gauge("ratite_remembered_addresses", "Addresses whose use is remembered.")
        .value(instruments.limiter.addresses());
    page.gauge("ratite_remembered_authors", "Authors whose use is remembered.").value(instruments.limiter.authors());
}

fn process(page: &mut Page, usage: &Usage) {
    if let Some(cpu) = usage.cpu {
        page.counter("process_cpu_seconds_total", "Time on a processor, user and system.").value(cpu);
    }
    if let Some(started) = usage.started {
        page.gauge("process_start_time_seconds", "When the process started, in Unix seconds.").value(started);
    }
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory in use; pages of the database that happen to be in memory are among it.",
            usage.resident,
        ),
        ("ratite_anonymous_memory_bytes", "Memory in use that is not the database's.", usage.anonymous),
        ("process_virtual_memory_bytes", "Addresses in use.", usage.addresses),
        ("process_open_fds", "Files open.", usage.files),
        ("process_max_fds", "The most files that may be open.", usage.most_files),
        ("process_threads", "Threads.", usage.threads),
    ] {
        if let Some(value) = value {
            page.gauge(name, help).value(value);
        }
    }
}
