//! `ratite stats`: the figures of a running relay.

use clap::Args;

use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use super::snapshot::Snapshot;
use super::{desk, text};
use crate::store::{Statistics, Store};

/// Show the figures of the running relay
#[derive(Args, Debug)]
#[command(
    long_about = "Show the figures of the running relay: clients, messages, events and what became of them, questions, commits, what is \
        stored by kind, memory. Everything since its start, but for what is stored.\n\n\
        The same, and more, comes at /metrics for Prometheus: see listen.metrics. `ratite top` shows it as it changes, `ratite info` what \
        is in a database whether a relay runs or not.",
    after_help = "\
Examples:
  ratite stats
  ratite stats --json | jq .events_taken"
)]
pub(super) struct StatsArgs {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    relay: &'a Snapshot,
    stored: &'a Statistics,
}

pub(super) fn run(args: &StatsArgs, globals: &Globals) -> Outcome {
    let relay = Snapshot::of(&desk::serving(globals)?)?;
    let config = globals.load()?;
    let store = Store::open_existing(&config.storage.path, config.storage.map_size)?;
    let stored = store.statistics().map_err(Failure::from)?;
    if args.json {
        print_json(&Json { relay: &relay, stored: &stored })?;
    } else {
        print(&show(&relay, &stored))?;
    }
    Ok(CLEAN)
}

fn show(relay: &Snapshot, stored: &Statistics) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| out.push_str(&format!("{name:<16}{value}\n"));
    row("relay", format!("{} in process {}, up {}", relay.version, relay.pid, span(relay.uptime())));
    row("status", relay.status.clone());
    for problem in &relay.problems {
        row("", problem.clone());
    }
    row(
        "clients",
        format!("{} of {} connections, {} subscriptions", relay.websockets, relay.max_connections, relay.subscriptions),
    );
    let list = |counts: &mut dyn Iterator<Item = (&String, &u64)>| {
        let parts: Vec<String> = counts
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{name} {}", text::number(*count)))
            .collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    row("messages in", list(&mut relay.received.iter()));
    row("messages out", list(&mut relay.sent.iter()));
    row("events", list(&mut relay.verdicts().iter()));
    let queries = relay.queries.iter().filter_map(|(plan, timed)| {
        Some(format!("{plan} {} (mean {:.2} ms)", text::number(timed.count), timed.mean()?))
    });
    let queries: Vec<String> = queries.collect();
    row("questions", if queries.is_empty() { "none".to_owned() } else { queries.join(", ") });
    if let Some(mean) = relay.commits.mean() {
        row("commits", format!("{} (mean {mean:.2} ms)", text::number(relay.commits.count)));
    }
    row("limited", text::number(relay.limited()));
    row("queue", format!("{} of {}", text::size(relay.queued_bytes), text::size(relay.queue_bytes)));
    row("outboxes", text::size(relay.outbox_bytes));
    row(
        "database",
        format!("{}, of which {} are free", text::size(relay.database_bytes), text::size(relay.database_free_bytes)),
    );
    if let Some(free) = relay.disk_free_bytes {
        row("disk", format!("{} free", text::size(free)));
    }
    if let Some(resident) = relay.process.resident_bytes {
        row("memory", format!("{} resident", text::size(resident)));
    }
    if let Some(days) = relay.certificate_days {
        row("certificate", format!("{days} days left"));
    }
    row("stored", format!("{} events", text::number(relay.stored_events)));
    for kind in stored.kinds.iter().take(10) {
        row("", format!("kind {}: {} events, {}", kind.kind, text::number(kind.events), text::size(kind.bytes)));
    }
    out
}

/// A time as people say it: `3 d 4 h`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
