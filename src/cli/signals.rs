//! Ctrl-C in commands that run without tokio: stop after the batch at hand, and at once when pressed again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Set when the user, or the system, wants the command to stop.
#[derive(Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

/// The exit code of a process that was stopped the second time it was asked.
const STOPPED_AT_ONCE: i32 = 1;

impl Stop {
    /// Listens from now on.
    pub(super) fn on_signals() -> Stop {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag unset and sets it, the second one finds it set. Should
            // registering fail, the signal just ends the process, which the database survives.
            let _ = flag::register_conditional_shutdown(signal, STOPPED_AT_ONCE, stop.clone());
            let _ = flag::register(signal, stop.clone());
        }
        Stop(stop)
    }

    /// Whether to stop.
    pub(super) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
