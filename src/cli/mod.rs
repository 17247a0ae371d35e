//! The command line: one file per subcommand, and what they share. The binary hands over to [`main`].
//!
//! | file | what |
//! |---|---|
//! | `relay` `import` `export` `scan` `delete` `info` `config` | the subcommands |
//! | `failure` | how a command fails: exit codes, and what the user is told |
//! | `filters` `time` | filters and times as arguments |
//! | `input` `output` | lines in and out, compressed or not |
//! | `walk` | stored events in slices |
//! | `progress` `text` `log` `signals` | what is shown on a terminal, and Ctrl-C |

mod config;
mod delete;
mod export;
mod failure;
mod filters;
mod import;
mod info;
mod input;
mod log;
mod output;
mod progress;
mod relay;
mod scan;
mod signals;
mod text;
mod time;
mod walk;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Loaded, Sources, load};
use crate::store::Store;
use failure::{FAILED, Failure, Outcome, complain};

#[derive(Parser, Debug)]
#[command(
    name = "ratite",
    version,
    about = "A Nostr relay in one file",
    long_about = "A Nostr relay in one file.\n\n\
        Without a command it serves: `ratite` listens on ws://127.0.0.1:7777 and keeps its events in ./ratite-data. Every other command works \
        while the relay runs.",
    after_help = "\
Examples:
  ratite                               run the relay
  ratite import events.jsonl           bring events in
  ratite export -o backup.jsonl.zst    write all events to a file
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

/// Flags that every command knows.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command")]
struct Globals {
    /// Read the configuration from this file [default: ratite.toml, when it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder with the events [default: ./ratite-data]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Say more about what is going on
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    Relay(relay::RelayArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Scan(scan::ScanArgs),
    Delete(delete::DeleteArgs),
    Info(info::InfoArgs),
    Config(config::ConfigArgs),
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
    log::begin(match (globals.verbose, serve) {
        (true, _) => "ratite=debug,info",
        (false, true) => "ratite=info,warn",
        (false, false) => "warn",
    });
    if !serve && !relay.listen.is_empty() {
        return Err(Failure::new("--listen belongs to the relay; this command does not listen", "Leave it out."));
    }
    match command {
        None => relay::run(&relay, &globals),
        Some(Command::Relay(args)) => {
            relay.listen.extend(args.listen);
            relay::run(&relay, &globals)
        }
        Some(Command::Import(args)) => import::run(&args, &globals),
        Some(Command::Export(args)) => export::run(&args, &globals),
        Some(Command::Scan(args)) => scan::run(&args, &globals),
        Some(Command::Delete(args)) => delete::run(&args, &globals),
        Some(Command::Info(args)) => info::run(&args, &globals),
        Some(Command::Config(args)) => config::run(&args, &globals),
    }
}

impl Globals {
    /// The settings in force.
    fn load(&self) -> Result<Config, Failure> {
        self.load_with(&[])
    }

    /// The settings in force, with these addresses to listen on when there are any.
    fn load_with(&self, listen: &[SocketAddr]) -> Result<Config, Failure> {
        let sources = Sources { listen: listen.to_vec(), ..self.sources(self.config.clone()) };
        Ok(warned(load(sources)?).config)
    }

    /// The settings in force when this is the file.
    fn load_from(&self, file: Option<PathBuf>) -> Result<Loaded, Failure> {
        Ok(warned(load(self.sources(file))?))
    }

    fn sources(&self, file: Option<PathBuf>) -> Sources {
        Sources { data: self.data.clone(), listen: Vec::new(), environment: std::env::vars_os().collect(), file }
    }

    /// Opens the database for a command that makes no sense without one.
    fn open_existing(&self) -> Result<Store, Failure> {
        let config = self.load()?;
        Ok(Store::open_existing(&config.storage.path, config.storage.map_size)?)
    }
}

fn warned(loaded: Loaded) -> Loaded {
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    loaded
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
