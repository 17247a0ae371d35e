//! Why a command ends early: one sentence on what went wrong, one on what to do next.

use std::io;
use std::process::ExitCode;

use crate::config::{ConfigError, plain};
use crate::relay::RelayError;
use crate::relay::identity::IdentityError;
use crate::server::ServerError;
use crate::store::StoreError;

/// What a command comes back with.
pub(super) type Outcome = Result<ExitCode, Failure>;

/// Everything went well.
pub(super) const CLEAN: ExitCode = ExitCode::SUCCESS;

/// Something failed, or the command line was wrong.
pub(super) const FAILED: u8 = 1;

/// The command came to its end, but something was left out: lines that an import refused, stored events that are damaged.
pub(super) const LEFT_OUT: u8 = 2;

/// What to do with a database that can still be read in part.
pub(super) const RESCUE: &str =
    "`ratite export --as-stored -o FILE` saves what can still be read; import that into a new folder.";

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// Something the user has to know.
    Error {
        /// What went wrong.
        what: String,
        /// What to do next; empty when `what` says it already.
        next: String,
    },
    /// Whoever read our output has had enough, as `head` does. Not an error.
    ClosedPipe,
}

impl Failure {
    /// A failure with what to do about it.
    pub(super) fn new(what: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure::Error { what: what.into(), next: next.into() }
    }

    /// A failed read or write. A closed pipe becomes the quiet end it is.
    pub(super) fn io(what: impl Into<String>, error: &io::Error, next: impl Into<String>) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            io::ErrorKind::StorageFull => {
                Failure::new(format!("{}: the disk is full", what.into()), "Free some space, then run it again.")
            }
            _ => Failure::new(format!("{}: {}", what.into(), plain(error)), next),
        }
    }

    /// Tells the user, and says how the process ends.
    pub(super) fn report(self) -> ExitCode {
        match self {
            Failure::ClosedPipe => CLEAN,
            Failure::Error { what, next } => {
                complain(&format!("error: {what}"));
                if !next.is_empty() {
                    complain(&format!("       {next}"));
                }
                ExitCode::from(FAILED)
            }
        }
    }
}

/// A line on standard error. Nobody there to read it is no reason to fail.
pub(super) fn complain(line: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr().lock(), "{line}");
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let next = match &error {
            // These say themselves what to do.
            StoreError::Full | StoreError::Missing(_) | StoreError::NotAFolder(_) | StoreError::Version { .. } => "",
            StoreError::Unusable { .. } => "Put a backup in its place, or name another folder with --data.",
            StoreError::Open { path, source } => {
                return Failure::io(
                    format!("the database in {} cannot be opened", path.display()),
                    source,
                    match source.kind() {
                        io::ErrorKind::OutOfMemory => {
                            "It wants addresses, not memory: raise `ulimit -v`, or set storage.map_size to less."
                        }
                        io::ErrorKind::PermissionDenied => {
                            "Run it as the user whose folder this is, as in `sudo -u ratite ratite ...`, or name another one with --data."
                        }
                        // A disk that is failing becomes so by itself.
                        io::ErrorKind::ReadOnlyFilesystem => {
                            "To read it all the same, copy data.mdb into a folder on another disk, and name that with --data."
                        }
                        _ => {
                            "Check that this is a folder that you may read and write, or name another one with --data."
                        }
                    },
                );
            }
            StoreError::Copy { path, source } if source.kind() == io::ErrorKind::WouldBlock => {
                return Failure::new(
                    format!("another command is writing in {}", path.display()),
                    "Wait for its end, or name another place.",
                );
            }
            StoreError::Copy { path, source } => {
                return Failure::io(
                    format!("{} cannot be written", path.display()),
                    source,
                    "Check that the folder exists, that you may write to it, and that there is room.",
                );
            }
            StoreError::InUse(_) => "Stop it, or wait for its end, then run this again.",
            StoreError::Moved => "Run it again.",
            StoreError::Damaged(_) => RESCUE,
            StoreError::Lmdb(_) => "If this happens again, please report it with the lines above.",
        };
        Failure::new(error.to_string(), next)
    }
}

impl From<RelayError> for Failure {
    fn from(error: RelayError) -> Failure {
        match error {
            RelayError::Store(error) => error.into(),
            RelayError::Thread(error) => Failure::io(
                "a thread cannot be started",
                &error,
                "Raise the limits of processes and of addresses (`ulimit -u`, `ulimit -v`), then run it again.",
            ),
            RelayError::Identity(error) => error.into(),
            RelayError::Closed => Failure::new(error.to_string(), "Run it again."),
        }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Failure {
        let next = match &error {
            IdentityError::File { .. } => "Check that you may read and write it.",
            IdentityError::NoKey { .. } => {
                "Put the right key there: clients know the relay by it. Only if there is no copy of it, remove the file to have a new one made."
            }
        };
        Failure::new(error.to_string(), next)
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        match error {
            ServerError::Store(error) => error.into(),
            ServerError::Relay(error) => error.into(),
            _ => Failure::new(error.to_string(), ""),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let problems: Vec<String> = error.problems.iter().map(|problem| format!("\n  {problem}")).collect();
        Failure::new(
            format!(
                "the configuration has {} to put right:{}",
                things(problems.len() as u64, "problem"),
                problems.concat()
            ),
            "`ratite config` prints every setting with its meaning and range.",
        )
    }
}

/// "1 problem", "2 problems".
pub(super) fn things(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{} {thing}s", super::text::number(count)) }
}
