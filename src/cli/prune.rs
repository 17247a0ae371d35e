//! `ratite prune`: removes what the rules of retention no longer keep, or shows what that would be.

use std::ops::ControlFlow;

use clap::Args;
use serde::Serialize;

use super::failure::{CLEAN, Failure, Outcome, things};
use super::globals::Globals;
use super::output::{print, print_json};
use super::progress::{Progress, announce};
use super::signals::Stop;
use super::text;
use crate::config::{Backup, Config, RetentionRule};
use crate::relay::{CEILING, Plan, Relay, Retention, Settings};
use crate::server::neighbours;
use crate::store::{Amount, Store};

/// Remove what the rules of [retention] no longer keep
#[derive(Args, Debug)]
#[command(
    long_about = "Remove what the rules of [retention] in the configuration no longer keep, and if the database is larger than \
        max_size allows, the oldest events. A running relay does this by itself, unless retention.apply is off.\n\n\
        First everything is looked through, and it is said what will go and why; --dry-run ends there. Then it goes, in small steps, so \
        that a relay that is running is not held up. The file does not shrink, but what becomes free is used again; nothing more is needed \
        on the disk. Removed events are not remembered: they come back when somebody publishes or imports them again. Stopped half-way, \
        it can simply be run again.",
    after_help = "\
Examples:
  ratite prune --dry-run
  ratite prune
  ratite prune --rule '7: 90d' --rule 'others: 365d and 500 per author' --dry-run

Exit codes: 0 it is done, 1 it failed or was stopped.

Rules: before the colon kinds (7, 30000-39999), people (owner, listed, authenticated, others), both, or all; behind
it a time (90d), a number of events per author, both joined by and, or forever. The first that fits counts."
)]
pub(super) struct PruneArgs {
    /// Only show what would go
    #[arg(long)]
    dry_run: bool,
    /// Go by this rule instead of those of the configuration; may be repeated
    #[arg(long, value_name = "RULE")]
    rule: Vec<RetentionRule>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PruneArgs, globals: &Globals) -> Outcome {
    let (store, mut config) = globals.open_existing()?;
    if !args.rule.is_empty() {
        config.retention.rules.clone_from(&args.rule);
        config.retention.max_size = 0;
    }
    let retention = Retention::from_config(&config);
    if !retention.is_on() {
        return Err(Failure::new(
            "nothing says which events to remove",
            "Set rules or max_size in [retention] of the configuration, or name rules with --rule.",
        ));
    }
    let stop = Stop::on_signals();
    let gentle = neighbours(&config.storage.path).is_ok_and(|relays| !relays.is_empty());
    let relay = Relay::start(
        store.clone(),
        Settings { retention, unattended: false, backup: Backup::default(), ..Settings::from_config(&config) },
    )?;
    let outcome = prune(args, &relay, &store, &config, gentle, &stop);
    relay.shutdown();
    outcome
}

fn prune(args: &PruneArgs, relay: &Relay, store: &Store, config: &Config, gentle: bool, stop: &Stop) -> Outcome {
    announce(&format!("{} are looked through", things(store.occupancy()?.events, "event")));
    let flow = || if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let mut progress = Progress::new("events found", Some(1000));
    let plan = relay.plan_retention(&mut |thousandths, found| {
        progress.at(thousandths, found.events);
        flow()
    })?;
    drop(progress);
    if !plan.complete {
        return Err(Failure::new("the search was stopped", "Nothing was removed; run it again."));
    }
    if args.dry_run {
        if args.json {
            print_json(&Json::new(&plan, "would_remove", config))?;
        } else {
            print(&format!("{}{}", table(&plan, config), end(&plan.total(), "would be removed")))?;
        }
        return Ok(CLEAN);
    }
    if !args.json {
        print(&format!("{}{}", table(&plan, config), end(&plan.total(), "will be removed")))?;
    }
    announce("They are removed in small steps; the file does not grow.");
    let total = plan.total().events;
    let mut progress = Progress::new("events removed", Some(total.max(1)));
    let done = relay.prune(gentle, &mut |_, removed| {
        progress.at(removed.events.min(total), removed.events);
        flow()
    })?;
    drop(progress);
    if args.json {
        print_json(&Json::new(&done, "removed", config))?;
    } else {
        let free = store.info()?.free_bytes;
        print(&format!(
            "{} removed; {} of the file are free now\n",
            things(done.total().events, "event"),
            text::size(free)
        ))?;
    }
    if done.complete { Ok(CLEAN) } else { Err(Failure::new("the removal was stopped", "Run it again to continue.")) }
}

/// What goes, and why.
fn table(plan: &Plan, config: &Config) -> String {
    let mut out = String::new();
    let width = plan.rules.iter().map(|(rule, _)| rule.chars().count()).max().unwrap_or(0).max(CEILING.len()) + 2;
    let mut row = |rule: &str, amount: &Amount| {
        let (events, size) = (text::number(amount.events), text::size(amount.bytes));
        out.push_str(&format!("{rule:<width$}{events:>14}{size:>14}\n"));
    };
    plan.rules.iter().for_each(|(rule, amount)| row(rule, amount));
    if config.retention.max_size > 0 {
        row(CEILING, &plan.ceiling);
        out.push_str(&format!(
            "in use are {}, allowed {}\n",
            text::size(plan.used),
            text::size(config.retention.max_size)
        ));
    }
    out
}

fn end(total: &Amount, what: &str) -> String {
    format!("{}, about {}, {what}\n", things(total.events, "event"), text::size(total.bytes))
}

#[derive(Serialize)]
struct Json {
    #[serde(flatten)]
    total: std::collections::BTreeMap<&'static str, Amount>,
    rules: Vec<JsonRule>,
    used_bytes: u64,
    complete: bool,
}

#[derive(Serialize)]
struct JsonRule {
    rule: String,
    #[serde(flatten)]
    amount: Amount,
}

impl Json {
    fn new(plan: &Plan, what: &'static str, config: &Config) -> Json {
        let ceiling = (config.retention.max_size > 0).then(|| (CEILING.to_owned(), plan.ceiling));
        let rules = plan.rules.iter().cloned().chain(ceiling).map(|(rule, amount)| JsonRule { rule, amount });
        Json {
            total: [(what, plan.total())].into(),
            rules: rules.collect(),
            used_bytes: plan.used,
            complete: plan.complete,
        }
    }
}
