//! `ratite doctor`: what is wrong with this relay, seen from its machine and from outside, and what to do about it.

mod machine;
mod reach;

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::failure::{CLEAN, FAILED, Outcome, things};
use super::globals::Globals;
use super::output::{print, print_json};
use crate::server::{Neighbour, neighbours, visit};

/// Look for what is wrong, and say what to do
#[derive(Args, Debug)]
#[command(
    long_about = "Look for what is wrong with this relay, with the configuration that it reads: whether its name leads here, who listens on its \
        ports, its certificate, the clock, the limit of open files, the disk, memory, the database, what proxies tell of their clients, and \
        what a client sees from outside: a connection, TLS, the information document, a WebSocket and the answer to a question. Each \
        finding comes with what to do about it.\n\n\
        Nothing is changed, but for a small file in the data folder that is written and removed to see how fast the disk is. The relay may \
        be running or not.",
    after_help = "\
Examples:
  ratite doctor
  ratite --config /etc/ratite/ratite.toml doctor --json

Exit codes: 0 nothing is wrong that keeps clients away or events in danger, 1 something is."
)]
pub(super) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Trust this certificate too, as PEM, when looking from outside
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or wrong one day.
    Warning,
    /// Clients stay away, or events are in danger.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at, in a word.
    check: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Level::Ok, found.into(), "");
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Warning, found.into(), advice);
    }

    fn problem(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Problem, found.into(), advice);
    }

    fn add(&mut self, check: &'static str, level: Level, found: String, advice: impl Into<String>) {
        self.0.push(Finding { check, level, found, advice: advice.into() });
    }

    fn problems(&self) -> usize {
        self.0.iter().filter(|finding| finding.level == Level::Problem).count()
    }
}

pub(super) fn run(args: &DoctorArgs, globals: &Globals) -> Outcome {
    let config = globals.load()?;
    let running = neighbours(&config.storage.path).unwrap_or_default();
    let serving = running.iter().rfind(|relay| !relay.hands_over);
    let mut found = Findings::default();
    relay(serving, &mut found);
    reach::names(&config, &mut found);
    reach::ports(&config, serving, &mut found);
    reach::certificate(&config, &mut found);
    machine::clock(&config, args.ca.as_deref(), &mut found);
    machine::files(&config, serving, &mut found);
    machine::disk(&config, &mut found);
    machine::memory(&config, &mut found);
    machine::database(&config, &mut found);
    reach::outside(&config, serving, args.ca.as_deref(), &mut found);

    if args.json {
        print_json(&serde_json::json!({ "problems": found.problems(), "findings": found.0 }))?;
    } else {
        print(&tell(&found))?;
    }
    Ok(if found.problems() == 0 { CLEAN } else { ExitCode::from(FAILED) })
}

fn tell(found: &Findings) -> String {
    let mut out = String::new();
    for Finding { check, level, found, advice } in &found.0 {
        let mark = match level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        out.push_str(&format!("{mark}  {check:<11}  {found}\n"));
        if !advice.is_empty() {
            out.push_str(&format!("{:22}> {advice}\n", ""));
        }
    }
    out.push_str(&match found.problems() {
        0 => "\nnothing is wrong that keeps clients away or events in danger\n".to_owned(),
        problems => format!("\n{} to put right\n", things(problems as u64, "problem")),
    });
    out
}

/// Whether one runs, and how it says it is.
fn relay(serving: Option<&Neighbour>, found: &mut Findings) {
    let Some(relay) = serving else {
        return found.warn("relay", "no relay runs over this data", "Start it: `systemctl start ratite`, or `ratite`.");
    };
    match visit::health(relay) {
        Ok(health) => {
            let problems = health["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let mut is_well = true;
            for problem in problems {
                is_well = false;
                let level = if health["ready"] == true { Level::Warning } else { Level::Problem };
                found.add("relay", level, problem.to_owned(), "Its log tells more: `journalctl -u ratite`.");
            }
            if is_well {
                found.ok("relay", format!("process {} serves and is well", relay.pid));
            }
        }
        Err(why) => found.warn(
            "relay",
            format!("process {} cannot be asked how it is: {why}", relay.pid),
            "Run this as the user of the relay, or as root; if it still does not answer, look into its log.",
        ),
    }
}

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_with_what_to_do() {
        let mut found = Findings::default();
        found.ok("disk", "10 GiB are free");
        assert!(tell(&found).starts_with("ok       disk         10 GiB are free\n"));
        assert!(tell(&found).ends_with("nothing is wrong that keeps clients away or events in danger\n"));
        found.problem("clock", "an hour late", "Set it.");
        let text = tell(&found);
        assert!(text.contains("PROBLEM  clock        an hour late\n                      > Set it.\n"), "{text}");
        assert!(text.ends_with("1 problem to put right\n"));
    }
}
