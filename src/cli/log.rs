//! Log lines: for people, on standard error, coloured only on a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::failure::complain;

/// Begins to log, with the time in front of each line or without. `RUST_LOG` decides what is shown; without it, `default` does.
pub(super) fn begin(default: &str, times: bool) {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = match wanted.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(_)) => {
            complain("warning: RUST_LOG cannot be understood and is ignored; an example: RUST_LOG=ratite=debug");
            EnvFilter::new(default)
        }
        None => EnvFilter::new(default),
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        // When standard error is gone, a complaint about that would end the process.
        .log_internal_errors(false);
    // Fails only when logging has begun already, as in tests.
    let _ = if times { lines.try_init() } else { lines.without_time().try_init() };
}
