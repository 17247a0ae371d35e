//! Starting the relay that takes over from this one: the same command line, from the file that the program is now.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::neighbours::neighbours;
use super::socket::Listener;

/// How to start a relay like this one.
#[derive(Clone, Debug)]
pub struct Successor {
    /// The program; found anew when it is started, so that an upgrade counts.
    pub program: PathBuf,
    /// Its arguments. They must have it come back when a relay listens in a process of its own, with 0, and otherwise with
    /// something else.
    pub arguments: Vec<OsString>,
}

/// The sockets that a service manager passed, kept for the successor, which cannot ask for them again.
#[derive(Debug, Default)]
pub(super) struct Passed {
    sockets: Vec<OwnedFd>,
    names: String,
}

/// From where on the sockets lie in the successor, one behind the other: far above what a program has open when it starts.
const LOWEST: i32 = 64;

impl Passed {
    /// Keeps these.
    pub(super) fn keep(listeners: &[Listener], names: String) -> io::Result<Passed> {
        let mut passed = Passed { sockets: Vec::new(), names };
        for listener in listeners {
            let next = passed.first().map_or(LOWEST, |first| first + passed.sockets.len() as i32);
            // The lowest number from there on that is free.
            let socket = fcntl_dupfd_cloexec(listener, next)?;
            if next != LOWEST && socket.as_raw_fd() != next {
                return Err(io::Error::other("their numbers do not follow each other"));
            }
            passed.sockets.push(socket);
        }
        Ok(passed)
    }

    fn first(&self) -> Option<i32> {
        self.sockets.first().map(AsRawFd::as_raw_fd)
    }
}

impl Successor {
    /// Starts it, waits until it listens, and returns its process id. Blocks.
    pub(super) fn start(&self, passed: &Passed, data: &Path) -> io::Result<u32> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        // Meant for this process. The manager does not hear the successor before it is told of it.
        command.env_remove("WATCHDOG_PID").env_remove("LISTEN_PID");
        if let Some(first) = passed.first() {
            command.env("LISTEN_FDS", passed.sockets.len().to_string());
            command.env("LISTEN_FDS_FIRST_FD", first.to_string()).env("LISTEN_FDNAMES", &passed.names);
        }
        for socket in &passed.sockets {
            fcntl_setfd(socket, FdFlags::empty())?;
        }
        let starter = command.spawn();
        for socket in &passed.sockets {
            fcntl_setfd(socket, FdFlags::CLOEXEC)?;
        }
        let status = starter?.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("it did not come up ({status})")));
        }
        let running = neighbours(data)?;
        let newest = running.iter().rfind(|relay| !relay.hands_over && relay.pid != std::process::id());
        newest.map(|relay| relay.pid).ok_or_else(|| io::Error::other("it ended as soon as it listened"))
    }
}
