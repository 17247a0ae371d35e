//! A relay under test: how it is started, how it gets its events, what /proc says of it while it runs.

use std::path::Path;

use super::Result;
use super::process::{self, Server};
use super::socket::Target;

/// A relay under test.
pub struct Contender {
    pub name: String,
    pub how: How,
    pub import: Option<String>,
    /// Its clients ask for compression.
    pub deflate: bool,
    /// Running with the workload in its store.
    pub running: Option<Running>,
}

pub enum How {
    Command(String),
    Url(Target),
}

pub struct Running {
    pub target: Target,
    pub pid: Option<u32>,
    /// Keeps the process alive.
    pub server: Option<Server>,
}

impl Running {
    pub fn cpu(&self) -> f64 {
        self.pid.and_then(process::cpu_seconds).unwrap_or(f64::NAN)
    }

    pub fn disk_reads(&self) -> f64 {
        self.pid.and_then(process::disk_reads).unwrap_or(f64::NAN)
    }

    pub fn memory(&self, name: &str) -> f64 {
        self.pid.and_then(|pid| process::memory(pid, name)).unwrap_or(f64::NAN)
    }

    /// All that is resident, and the part of it that is not pages of files, which the system takes back when it wants.
    pub fn resident(&self) -> (f64, f64) {
        (self.memory("VmRSS"), self.memory("RssAnon"))
    }
}

impl Contender {
    /// Starts the relay over the store in `dir`, or finds the one that is running.
    pub fn start(&self, dir: &Path) -> Result<Running> {
        let mut running = match &self.how {
            How::Command(command) => {
                let server = Server::start(command, dir)?;
                Running { target: Target::local(server.port), pid: Some(server.pid), server: Some(server) }
            }
            How::Url(target) => {
                let here = matches!(target.host.as_str(), "127.0.0.1" | "localhost" | "[::1]");
                let pid = if here { process::listener(target.port) } else { None };
                Running { target: target.clone(), pid, server: None }
            }
        };
        running.target.deflate = self.deflate;
        Ok(running)
    }

    pub fn folder(&self) -> String {
        self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
    }
}

/// CPU of this tool; when it comes near a whole core per thread, the tool is what is measured.
pub fn own_cpu() -> f64 {
    process::cpu_seconds(std::process::id()).unwrap_or(0.0)
}
