//! `ratite reload`: have a running relay read its configuration again.

use clap::Args;

use super::desk;
use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use crate::server::Reloaded;

/// Have the running relay read its configuration again
#[derive(Args, Debug)]
#[command(
    long_about = "Have the running relay read its configuration again and say what changed. It checks the whole first: when anything \
        is wrong with it, the old configuration stays in force. No client is disconnected.\n\n\
        A relay does the same by itself within seconds when its file changes, and on SIGHUP when it runs without a terminal. What can \
        change only at a start is named; `ratite config` says of every setting when a change is in force. Flags and environment \
        variables are those it was started with.",
    after_help = "\
Examples:
  ratite reload
  ratite config check && ratite reload

Exit codes: 0 the configuration is in force, 1 it is not."
)]
pub(super) struct ReloadArgs {
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ReloadArgs, globals: &Globals) -> Outcome {
    let relay = desk::serving(globals)?;
    let body = desk::ask(&relay, "POST /reload")?;
    let reloaded: Reloaded = serde_json::from_str(&body)
        .map_err(|error| Failure::new(format!("the relay's answer cannot be read: {error}"), ""))?;
    if args.json {
        print_json(&reloaded)?;
    } else {
        print(&show(&reloaded))?;
    }
    if reloaded.problems.is_empty() {
        return Ok(CLEAN);
    }
    Err(Failure::new(reloaded.problems.join("\n"), "The relay goes on with the configuration it had."))
}

fn show(reloaded: &Reloaded) -> String {
    let Reloaded { problems, changes, needs_restart, warnings } = reloaded;
    let mut out = String::new();
    for warning in warnings {
        out.push_str(&format!("warning: {warning}\n"));
    }
    for change in changes.iter().chain(needs_restart) {
        out.push_str(&format!("{change}\n"));
    }
    if !problems.is_empty() {
        return out;
    }
    out.push_str(match (changes.is_empty(), needs_restart.is_empty()) {
        (true, true) => "nothing has changed\n",
        (false, true) => "the new configuration is in force\n",
        (true, false) => "what has changed needs a restart: `ratite restart` loses no client\n",
        (false, false) => {
            "the new configuration is in force, but for what needs a restart: `ratite restart` loses no client\n"
        }
    });
    out
}
