//! Ctrl-C in commands that run without tokio: stop after the batch at hand, and at once when pressed again.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::server::{SAME_WISH, hangup_is_ignored};

/// Set when the user, or the system, wants the command to stop.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

/// The exit code of a process that was stopped the second time it was asked.
const STOPPED_AT_ONCE: i32 = 1;

impl Stop {
    /// Listens from now on.
    pub(super) fn on_signals() -> Stop {
        let stop = Stop::default();
        // Should this fail, a signal just ends the process, which the database survives.
        let _ = stop.listen();
        stop
    }

    fn listen(&self) -> io::Result<()> {
        let (mut signals, sender) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal != SIGHUP || !hangup_is_ignored() {
                pipe::register(signal, sender.try_clone()?)?;
            }
        }
        let stop = self.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut first = None;
            // One byte for each signal.
            while signals.read_exact(&mut [0]).is_ok() {
                stop.0.store(true, Ordering::Relaxed);
                if first.get_or_insert_with(Instant::now).elapsed() >= SAME_WISH {
                    std::process::exit(STOPPED_AT_ONCE);
                }
            }
        })?;
        Ok(())
    }

    /// Whether to stop.
    pub(super) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
