//! `ratite completions` and `ratite man`: what packages install beside the program, made from the command line as it is.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::failure::{CLEAN, Failure, Outcome};
use super::output::print;

/// Print the completions for a shell
#[derive(Args, Debug)]
#[command(
    hide = true,
    after_help = "\
Examples:
  ratite completions bash > /usr/share/bash-completion/completions/ratite
  ratite completions zsh > /usr/share/zsh/site-functions/_ratite
  ratite completions fish > /usr/share/fish/vendor_completions.d/ratite.fish"
)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the man pages, one for each command
#[derive(Args, Debug)]
#[command(hide = true, after_help = "Example:\n  ratite man /usr/share/man/man1")]
pub(super) struct ManArgs {
    /// The folder to write them to; it must exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "ratite", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(CLEAN)
}

pub(super) fn man(args: &ManArgs) -> Outcome {
    clap_mangen::generate_to(super::Cli::command(), &args.folder).map_err(|error| {
        let what = format!("the man pages cannot be written to {}", args.folder.display());
        Failure::io(what, &error, "Name a folder that exists.")
    })?;
    Ok(CLEAN)
}
