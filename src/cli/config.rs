//! `ratite config`: the commented default configuration, and the check of one's own.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::{CLEAN, Outcome};
use super::globals::Globals;
use super::output::print;
use crate::config;

/// Print the default configuration, or check yours
#[derive(Args, Debug)]
#[command(
    long_about = "Print the whole default configuration: every setting with its meaning, its range and its default.\n\n\
        Nothing has to be configured. Settings come from flags, then from environment variables named RATITE_SECTION_SETTING (an empty one counts as not set), then from \
        the file named by --config or RATITE_CONFIG (without either, from ratite.toml in the current folder, \
        or from /etc/ratite/ratite.toml, when it is there), then from the defaults.",
    after_help = "\
Examples:
  ratite config > ratite.toml
  ratite config --set storage.path=/srv/nostr --set listen.addresses=0.0.0.0:7777,[::]:7777
  ratite config check
  ratite config check /etc/ratite.toml
  RATITE_LIMITS_MAX_LIMIT=1000 ratite"
)]
pub(super) struct ConfigArgs {
    /// Print it with this setting in force; may be repeated
    #[arg(long, value_name = "SECTION.SETTING=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Option<ConfigCommand>,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Check a configuration and report everything that is wrong with it
    #[command(after_help = "Exit codes: 0 the relay would start with it, 1 it would not.")]
    Check {
        /// The file to check; without it, the one that the relay would read
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

pub(super) fn run(args: &ConfigArgs, globals: &Globals) -> Outcome {
    match &args.command {
        None => {
            let values: Vec<_> = args.set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            print(&config::template_with(&values)?.0)?;
        }
        Some(ConfigCommand::Check { file }) => {
            let loaded = globals.load_from(file.clone().or_else(|| globals.config.clone()))?;
            print(&match loaded.file {
                Some(file) => format!("{}: the configuration is right\n", file.display()),
                None => "there is no configuration file; the defaults and the environment are right\n".to_owned(),
            })?;
        }
    }
    Ok(CLEAN)
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as limits.max_limit=1000")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
