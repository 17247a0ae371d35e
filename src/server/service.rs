//! What the service manager is told, and how it knows that the relay is alive: the protocol of `sd_notify(3)`, a few words in a
//! datagram to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::time::sleep;

use crate::relay::Relay;

/// The line to the service manager; a relay that was started by hand has none, and says nothing.
#[derive(Debug, Default)]
pub(super) struct Service {
    line: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear of the relay, if at all.
    watchdog: Option<Duration>,
    /// Another process is the service by now: the manager would only note that it hears from a stranger.
    moved: AtomicBool,
}

impl Service {
    /// The manager that started this process, if it says how to reach it.
    pub(super) fn from_env() -> Service {
        let mut service = Service::default();
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return service };
        let line = address(&name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager that is stuck must not hold up the relay.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        match line {
            Ok(line) => service.line = Some(line),
            Err(error) => tracing::warn!("the service manager cannot be reached at {}: {error}", name.display()),
        }
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // Whoever started a manager's child passes its variables on; they are meant for that one.
        if number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id())) {
            service.watchdog = number("WATCHDOG_USEC").filter(|span| *span > 0).map(Duration::from_micros);
        }
        service
    }

    fn tell(&self, words: &str) {
        let Some((socket, address)) = self.line.as_ref().filter(|_| !self.moved.load(Relaxed)) else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }

    /// The relay begins to read its configuration again; [`Service::ready`] says when it has. The time tells the manager that this is
    /// not about an earlier one (`Type=notify-reload`).
    pub(super) fn reloading(&self) {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(tv_sec) * 1_000_000 + i128::from(tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reading the configuration again"));
    }

    /// The relay serves, after its start or after it has read its configuration again.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The relay ends.
    pub(super) fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// From now on another process is this service, and this one says no more.
    pub(super) fn moves_to(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
        self.moved.store(true, Relaxed);
    }

    /// Tells the manager again and again that the relay is alive: that sockets are looked after, or this would not be running, and
    /// that the writer answers. Never ends.
    pub(super) async fn keep_alive(&self, relay: &Relay, status: impl Fn() -> String) {
        let Some(span) = self.watchdog else { return std::future::pending().await };
        loop {
            if !relay.writer_answers().await {
                // It is shutting down.
                return std::future::pending().await;
            }
            self.tell(&format!("WATCHDOG=1\nSTATUS={}", status()));
            // Within half of the span, as the manual asks for, with room for a transaction.
            sleep(span / 4).await;
        }
    }
}

/// Where `NOTIFY_SOCKET` leads: to a file, or to a name of Linux's own with no file behind it.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
