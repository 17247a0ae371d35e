//! Flags that several benches have.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::workload::{self, Spec};
use super::{Result, process};

/// Which ratite is measured.
#[derive(clap::Args, Clone)]
pub struct Program {
    /// Another ratite than the one built here, such as target/dist/ratite
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ratite"))]
    pub ratite: PathBuf,
    /// What cargo says to each bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Program {
    /// A command of ratite over the database in `data`.
    pub fn command<'w>(&self, data: &Path, words: impl IntoIterator<Item = &'w str>) -> Command {
        let mut command = Command::new(&self.ratite);
        command.arg("--data").arg(data).args(words);
        command
    }

    /// Runs one to its end.
    pub fn run<'w>(&self, data: &Path, words: impl IntoIterator<Item = &'w str>) -> Result<process::Run> {
        process::run(self.command(data, words), &[])
    }

    /// The relay over the database in `{dir}/data`, for [`process::Server::start`].
    pub fn relay(&self) -> String {
        format!("{} --listen 127.0.0.1:{{port}} --data {{dir}}/data", self.ratite.display())
    }
}

/// Which events it is given.
#[derive(clap::Args, Clone)]
pub struct Given {
    /// How many events
    #[arg(long, default_value_t = 200_000)]
    pub events: u64,
    /// Another seed gives other events
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Given {
    /// The workload that is asked for.
    pub fn spec(&self, sign: bool) -> Spec {
        Spec { events: self.events, seed: self.seed, sign, ..Spec::default() }
    }
}

/// The same, or a file of them.
#[derive(clap::Args, Clone)]
pub struct Source {
    #[command(flatten)]
    given: Given,
    /// Random bytes for signatures: quick to make, where nobody looks at them
    #[arg(long)]
    pub unsigned: bool,
    /// Read events from this file instead of generating them
    #[arg(long)]
    file: Option<PathBuf>,
}

impl Source {
    /// The file of events, made if need be.
    pub fn file(&self) -> Result<PathBuf> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => workload::file(&process::scratch_root(), self.given.spec(!self.unsigned)),
        }
    }
}
