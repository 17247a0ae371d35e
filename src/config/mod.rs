//! The typed configuration: what every setting means, where its value comes from, and whether the whole makes sense.
//!
//! A setting is looked for in the command line's flags, then the environment (`RATITE_SECTION_SETTING`), then the file,
//! then the defaults; the first one found counts. Nothing is required.
//!
//! | file | what |
//! |---|---|
//! | `settings` | the one list of all settings |
//! | `rules` | what a setting may hold: numbers, sizes, lists, keys |
//! | `address` | addresses, networks, and where proxies write their client's |
//! | `rates` | rates by kind of event |
//! | `retention` | how long events are kept |
//! | `log` | how the log looks |
//! | `picture` | pictures in files |
//! | `tls` | names, files and addresses of TLS, and what of it belongs together |
//! | `file` | settings from TOML |
//! | `sources` | settings from everywhere, and the check of the whole |
//! | `template` | the commented default file |
//! | `change` | what differs between two configurations, and when it is in force |
//! | `problem` | what is wrong, where, and what to do about it |

mod address;
mod change;
mod file;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/settings.rs"]
pub(crate) mod fuzz;
mod hosts;
mod log;
mod picture;
mod problem;
mod rates;
mod retention;
mod rules;
mod settings;
mod sources;
mod template;
#[cfg(test)]
mod tests;
mod tls;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use address::{Address, AddressSource, Network};
pub use change::{Change, Merged, merge};
pub use log::{LogFormat, LogLevel};
pub use picture::Picture;
pub use problem::{ConfigError, Place, Problem};
pub use rates::KindRate;
pub use retention::{KindRange, RetentionRule, Tier, listed, owners};
pub use settings::{
    Backup, Config, Effect, Info, Limits, Listen, Log, Membership, Policy, Rates, Retention, Storage, Tls,
};
pub use template::{template, template_with};
pub use tls::CertificateSource;

use sources::Draft;

/// The file that is read from the current folder when no other is named.
pub const DEFAULT_FILE: &str = "ratite.toml";

/// The file of the relay that is installed on this machine, read when the current folder has none.
pub const SYSTEM_FILE: &str = "/etc/ratite/ratite.toml";

/// No configuration is this long; what is longer is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where settings may come from, strongest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Replaces `storage.path` (`--data`).
    pub data: Option<PathBuf>,
    /// Replaces `listen.addresses` when not empty (`--listen`).
    pub listen: Vec<Address>,
    /// The environment; variables that do not begin with `RATITE_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// The file to read (`--config`). Without it the variable `RATITE_CONFIG` names one, and without that
    /// [`DEFAULT_FILE`] is read when it is there, or [`SYSTEM_FILE`].
    pub file: Option<PathBuf>,
}

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings in force.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What nobody can have meant, but does no harm.
    pub warnings: Vec<Problem>,
}

impl Policy {
    /// The time up to which events have expired (NIP-40) when it is `now`: 0, at which none has, where that is switched off.
    pub fn expiry_time(&self, now: u64) -> u64 {
        if self.expiration { now } else { 0 }
    }
}

/// Reads and checks every source. Reports everything that is wrong, not just the first.
pub fn load(sources: Sources) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::default();
    let file = choose_file(&sources);
    if let Some(path) = &file {
        match read_file(path) {
            Ok(text) => file::read(path, &text, &mut draft),
            Err(problem) => draft.problems.push(problem),
        }
    }
    draft.read_environment(sources.environment);
    if let Some(path) = sources.data {
        draft.config.storage.path = path;
        draft.set_by_flag("storage", "path", "--data");
    }
    if !sources.listen.is_empty() {
        draft.config.listen.addresses = sources.listen;
        draft.set_by_flag("listen", "addresses", "--listen");
    }
    draft.check_whole();
    draft.problems.sort_by_key(Problem::line);
    if draft.problems.is_empty() {
        Ok(Loaded { config: draft.config, file, warnings: draft.warnings })
    } else {
        Err(ConfigError { problems: draft.problems, warnings: draft.warnings })
    }
}

/// The file that would be read, if any.
pub fn choose_file(sources: &Sources) -> Option<PathBuf> {
    let named =
        sources.environment.iter().find(|(name, value)| name == sources::CONFIG_FILE_VARIABLE && !value.is_empty());
    if let Some(path) = &sources.file {
        return Some(path.clone());
    }
    if let Some((_, path)) = named {
        return Some(PathBuf::from(path));
    }
    let defaults = [DEFAULT_FILE, SYSTEM_FILE].map(Path::new);
    defaults.into_iter().find(|default| default.is_file()).map(Path::to_owned)
}

/// The system's words without the "(os error 2)" that helps nobody.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn read_file(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem::new(Place::File { path: path.to_owned(), line: 0 }, message);
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => problem("there is no such configuration file".to_owned())
            .help(format!("`ratite config > {}` writes one with all defaults", path.display())),
        _ => problem(format!("the configuration file cannot be opened: {}", plain(&error))),
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| problem(format!("the configuration file cannot be read: {}", plain(&error))))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(problem("this is too long for a configuration file".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem::new(Place::File { path: path.to_owned(), line }, "this is not UTF-8 text".to_owned())
    })
}
