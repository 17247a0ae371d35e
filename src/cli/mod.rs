//! The command line: one file per subcommand, and what they share. The binary hands over to [`main`].
//!
//! | file | what |
//! |---|---|
//! | `relay` `import` `export` `scan` `delete` `prune` `info` `verify` `backup` `compact` `config` `admin` `drain` `restart` `reload` `stats` `top` `manual` `setup` `doctor` | the subcommands |
//! | `globals` | the flags of every command, and the configuration they lead to |
//! | `desk` `snapshot` | asking a running relay, and its figures |
//! | `failure` | how a command fails: exit codes, and what the user is told |
//! | `filters` `time` | filters and times as arguments |
//! | `input` `output` | lines in and out, compressed or not |
//! | `resume` | where an import goes on that was stopped |
//! | `walk` | stored events in slices |
//! | `disk` | room on disks |
//! | `probe` `install` | names, addresses and ports of this machine; the service |
//! | `progress` `text` `log` `signals` | what is shown on a terminal, and Ctrl-C |

mod admin;
mod backup;
mod compact;
mod config;
mod delete;
mod desk;
mod disk;
mod doctor;
mod drain;
mod export;
mod failure;
mod filters;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/imports.rs"]
pub(crate) mod fuzz;
mod globals;
mod import;
mod info;
mod input;
mod install;
mod key;
mod log;
mod manual;
mod output;
mod probe;
mod progress;
mod prune;
mod relay;
mod reload;
mod restart;
mod resume;
mod scan;
mod setup;
mod signals;
mod snapshot;
mod stats;
mod text;
mod time;
mod top;
mod verify;
mod walk;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{FAILED, Failure, Outcome};
use globals::Globals;

use crate::config::{LogFormat, LogLevel};

#[derive(Parser, Debug)]
#[command(
    name = "ratite",
    version,
    about = "A Nostr relay in one file",
    long_about = "A Nostr relay in one file.\n\n\
        Without a command it serves: `ratite` listens on ws://127.0.0.1:7777 and keeps its events in ./ratite-data. Every other command works \
        while the relay runs, except restore, which replaces the database.",
    after_help = "\
Examples:
  ratite                               run the relay
  ratite import events.jsonl           bring events in
  ratite export -o events.jsonl.zst    write all events to a file
  ratite backup /var/backups/          copy the whole database while the relay runs
  ratite config > ratite.toml          begin a configuration

`ratite help COMMAND` tells more about each command."
)]
struct Cli {
    #[command(flatten)]
    relay: relay::RelayArgs,
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Relay(relay::RelayArgs),
    Setup(setup::SetupArgs),
    Doctor(doctor::DoctorArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Scan(scan::ScanArgs),
    Delete(delete::DeleteArgs),
    Prune(prune::PruneArgs),
    Info(info::InfoArgs),
    Verify(verify::VerifyArgs),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Compact(compact::CompactArgs),
    Config(config::ConfigArgs),
    Admin(admin::AdminArgs),
    Key(key::KeyArgs),
    Drain(drain::DrainArgs),
    Restart(restart::RestartArgs),
    Reload(reload::ReloadArgs),
    Top(top::TopArgs),
    Stats(stats::StatsArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

/// Runs the command that the process was started with; the result is its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version count as errors here too, but are none. A wrong command line ends with 1, because 2 says that
            // an import refused some lines. Nobody there to read it is no reason to fail.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
    };
    run(cli).unwrap_or_else(Failure::report)
}

fn run(cli: Cli) -> Outcome {
    let Cli { globals, mut relay, command } = cli;
    let serve = matches!(command, None | Some(Command::Relay(_)));
    let mine = [("--listen", !relay.listen.is_empty()), ("--log-format", relay.log_format.is_some())];
    if !serve && let Some((flag, _)) = mine.iter().find(|(_, given)| *given) {
        return Err(Failure::new(
            format!("{flag} belongs to the relay; this command does not listen"),
            "Leave it out.",
        ));
    }
    // The relay's log is configured.
    let level = if globals.verbose { LogLevel::Debug } else { LogLevel::Warn };
    let _log = (!serve).then(|| log::begin(level, false, LogFormat::Text));
    match command {
        None => relay::run(&relay, &globals),
        Some(Command::Relay(args)) => {
            relay.listen.extend(args.listen);
            relay.detach |= args.detach;
            relay.log_format = args.log_format.or(relay.log_format);
            relay::run(&relay, &globals)
        }
        Some(Command::Setup(args)) => setup::run(&args, &globals),
        Some(Command::Doctor(args)) => doctor::run(&args, &globals),
        Some(Command::Import(args)) => import::run(&args, &globals),
        Some(Command::Export(args)) => export::run(&args, &globals),
        Some(Command::Scan(args)) => scan::run(&args, &globals),
        Some(Command::Delete(args)) => delete::run(&args, &globals),
        Some(Command::Prune(args)) => prune::run(&args, &globals),
        Some(Command::Info(args)) => info::run(&args, &globals),
        Some(Command::Verify(args)) => verify::run(&args, &globals),
        Some(Command::Backup(args)) => backup::backup(&args, &globals),
        Some(Command::Restore(args)) => backup::restore(&args, &globals),
        Some(Command::Compact(args)) => compact::run(&args, &globals),
        Some(Command::Config(args)) => config::run(&args, &globals),
        Some(Command::Admin(args)) => admin::run(&args, &globals),
        Some(Command::Key(args)) => key::run(&args, &globals),
        Some(Command::Drain(args)) => drain::run(&args, &globals),
        Some(Command::Restart(args)) => restart::run(&args, &globals),
        Some(Command::Reload(args)) => reload::run(&args, &globals),
        Some(Command::Top(args)) => top::run(&args, &globals),
        Some(Command::Stats(args)) => stats::run(&args, &globals),
        Some(Command::Completions(args)) => manual::completions(&args),
        Some(Command::Man(args)) => manual::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
