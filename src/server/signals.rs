//! The signals that end the relay or have it hand over, and what a hang-up means.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What comes this soon after a signal is the same wish: Ctrl-C reaches the process from the terminal and from whoever watches over
/// it, and a key may bounce.
pub const SAME_WISH: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To end, and the name of the signal.
    End(&'static str),
    /// To leave the clients to another relay, bit by bit.
    HandOver,
    /// To start that other relay first.
    Renew,
}

/// The signals that end the relay or have it hand over, as they come.
pub(super) struct Signals {
    hand_over: Signal,
    renew: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Left alone when it is ignored, as `nohup` has it.
    hangup: Option<Signal>,
    /// Whether a hang-up means that the terminal is closed. A service has none, and is meant to read its configuration again.
    has_terminal: bool,
    /// Whoever reads it.
    reload: mpsc::Sender<()>,
}

impl Signals {
    /// Listens from now on. `reload` gets a word when the configuration is to be read again.
    pub(super) fn new(reload: mpsc::Sender<()>) -> io::Result<Signals> {
        Ok(Signals {
            reload,
            hand_over: signal(SignalKind::user_defined1())?,
            renew: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
            has_terminal: fs::File::open("/dev/tty").is_ok(),
        })
    }

    /// Waits for a signal; returns what it asks for.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            tokio::select! {
                _ = self.hand_over.recv() => return Wish::HandOver,
                _ = self.renew.recv() => return Wish::Renew,
                _ = self.terminate.recv() => return Wish::End("SIGTERM"),
                _ = self.interrupt.recv() => return Wish::End("SIGINT"),
                () = received(&mut self.hangup) => {
                    if self.has_terminal {
                        return Wish::End("SIGHUP");
                    }
                    // One that has not been heard yet is enough.
                    let _ = self.reload.try_send(());
                }
            }
        }
    }

    /// Waits for a signal that ends the relay; returns its name.
    pub(super) async fn end(&mut self) -> &'static str {
        loop {
            if let Wish::End(name) = self.next().await {
                return name;
            }
        }
    }

    /// Waits for a signal from somebody who does not want to wait any longer for what the one at `first` began.
    pub(super) async fn impatience(&mut self, first: Instant) {
        loop {
            self.end().await;
            if first.elapsed() >= SAME_WISH {
                return;
            }
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started this process wants it to outlive its terminal.
pub fn hangup_is_ignored() -> bool {
    // No safe call asks for this; where there is no such file, the answer is what is usual.
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// SIGHUP is signal 1, the lowest bit of the mask.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert!(ignores_hangup("Name:\tratite\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("SigIgn:\tnonsense\n"));
        assert!(!ignores_hangup(""));
    }
}
