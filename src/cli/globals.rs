//! Flags that every command knows, and the configuration and the database they lead to.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Failure, complain};
use crate::config::{Address, Config, DEFAULT_FILE, Loaded, Problem, Sources, choose_file, load};
use crate::server::Source;
use crate::store::Store;

/// Flags that every command knows.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Globals {
    /// Read the configuration from this file [default: ratite.toml, or /etc/ratite/ratite.toml, when it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The folder with the events [default: ./ratite-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Say more about what is going on
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

impl Globals {
    /// The settings in force.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        Ok(load_warned(self.sources(self.config.clone()))?.config)
    }

    /// The settings for a relay, with these addresses to listen on when there are any, and where it finds them again. Whoever calls
    /// this says the warnings: by then they know what their log looks like.
    pub(super) fn load_for_relay(&self, listen: &[Address]) -> Result<(Loaded, Source), Failure> {
        let sources = Sources { listen: listen.to_vec(), ..self.sources(self.config.clone()) };
        // One that is not there yet may come.
        let file = choose_file(&sources).unwrap_or_else(|| DEFAULT_FILE.into());
        let again = sources.clone();
        // Looked at before it is read: no change comes between.
        let source = Source::new(move || load(again.clone()), &file);
        Ok((load(sources).inspect_err(|error| warn(&error.warnings))?, source))
    }

    /// The settings in force when this is the file.
    pub(super) fn load_from(&self, file: Option<PathBuf>) -> Result<Loaded, Failure> {
        load_warned(self.sources(file))
    }

    fn sources(&self, file: Option<PathBuf>) -> Sources {
        Sources { data: self.data.clone(), listen: Vec::new(), environment: std::env::vars_os().collect(), file }
    }

    /// Opens the database for a command that makes no sense without one.
    pub(super) fn open_existing(&self) -> Result<(Store, Config), Failure> {
        let config = self.load()?;
        let store = Store::open_existing(&config.storage.path, config.storage.map_size)?;
        Ok((store, config))
    }
}

/// Loads the configuration and says what nobody can have meant.
fn load_warned(sources: Sources) -> Result<Loaded, Failure> {
    let loaded = load(sources).inspect_err(|error| warn(&error.warnings))?;
    warn(&loaded.warnings);
    Ok(loaded)
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
}
