//! The binary, run as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::{PATIENCE, Socket};

/// `ratite` with these arguments over this data folder, with nothing inherited that could configure it.
pub fn ratite(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratite"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RATITE_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("RUST_LOG", "warn").arg("--data").arg(data).args(arguments).current_dir(data).stdin(Stdio::null());
    command
}

/// Has a command that starts `ratite` in a roundabout way do so in the environment of the plain one.
pub fn take_environment(command: &mut Command, plain: &Command) {
    plain.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
}

/// Whether this program of Debian's is there. Tests that need it say so and pass over when it is not, but not where everything has to run.
pub fn is_installed(program: &str, harmless: &str) -> bool {
    let mut command = Command::new(program);
    let is_there = command.arg(harmless).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed, and CI passes nothing over");
        println!("passed over: {program} is not installed (`apt install {program}`)");
    }
    is_there
}

/// A relay in a process of its own; killed when it is dropped.
pub struct RelayProcess {
    pub address: SocketAddr,
    /// Where it speaks TLS, when it does.
    pub tls: Option<SocketAddr>,
    child: Child,
}

impl RelayProcess {
    /// Starts it on a free port and waits until it listens.
    pub fn start(data: &Path) -> RelayProcess {
        RelayProcess::with(data, |_| {})
    }

    /// `change` may add to its arguments and its environment.
    pub fn with(data: &Path, change: impl FnOnce(&mut Command)) -> RelayProcess {
        RelayProcess::try_with(data, change).expect("the relay ended before it listened")
    }

    /// The same; `None` when it ended before it listened.
    pub fn try_with(data: &Path, change: impl FnOnce(&mut Command)) -> Option<RelayProcess> {
        let mut command = ratite(data, &["relay", "--listen", "127.0.0.1:0"]);
        change(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let Some(first) = lines.next() else {
            let _ = child.wait();
            return None;
        };
        let first = first.unwrap();
        let behind = |scheme| first.split(scheme).nth(1)?.split(' ').next()?.parse().ok();
        let address = behind(" ws://").unwrap_or_else(|| panic!("no address in: {first}"));
        let tls = behind(" wss://");
        // The rest is for people; it is read so that the relay never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Some(RelayProcess { address, tls, child })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> Socket {
        Socket::open(self.address)
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name, such as `TERM`. A shell has its own `kill`, so that no package is needed for it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success(), "kill -{name}: {status}");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the relay does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
