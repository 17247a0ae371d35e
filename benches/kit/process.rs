//! Children, and what /proc says of a process: CPU time and memory. Linux only; elsewhere the figures are missing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;

/// The unit of the times in /proc/PID/stat, fixed in Linux's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// How often a process had to wait for a page of a file to be read from the disk.
pub fn disk_reads(pid: u32) -> Option<f64> {
    stat_fields(pid, &[11]).map(|seconds| seconds * TICKS_PER_SECOND)
}

/// User and system time of a process, all its threads, ended ones included, in seconds.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    stat_fields(pid, &[13, 14])
}

/// The same for all children this process has waited for.
pub fn children_cpu_seconds() -> f64 {
    stat_fields(std::process::id(), &[15, 16]).unwrap_or(0.0)
}

/// The sum of some fields of /proc/PID/stat, counted from 0.
fn stat_fields(pid: u32, wanted: &[usize]) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 1 may hold anything, spaces and brackets too; its last bracket ends it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = wanted.iter().filter_map(|&i| fields.get(i - 2)?.parse::<f64>().ok()).sum();
    Some(ticks / TICKS_PER_SECOND)
}

/// A line of /proc/PID/status (`VmRSS`, `VmHWM`, `RssAnon`) in MiB.
pub fn memory(pid: u32, name: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// CPU nanoseconds of the threads of this process that bear `name`.
pub fn thread_cpu_ns(name: &str) -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .flatten()
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
        .filter_map(|task| {
            fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

/// The process that listens on a local port.
pub fn listener(port: u16) -> Option<u32> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
                continue;
            };
            if local.rsplit_once(':').is_some_and(|(_, p)| u16::from_str_radix(p, 16) == Ok(port)) {
                sockets.push(format!("socket:[{inode}]"));
            }
        }
    }
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        open.flatten().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|link| link.to_str().is_some_and(|link| sockets.iter().any(|s| s == link)))
        })
    })
}

/// A port nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A folder of this run, below `target`, empty.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let folder = scratch_root().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Where benches keep their files.
pub fn scratch_root() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench")
}

/// A command that serves until it is dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    /// The process that listens: the child itself, or one that it started.
    pub pid: u32,
}

impl Server {
    /// Starts a shell command, in which `{port}` and `{dir}` are replaced, and waits until it listens. What it prints goes
    /// to `dir/log`.
    pub fn start(command: &str, dir: &Path) -> Result<Server> {
        let port = free_port()?;
        let command = fill(command, dir, port);
        let log = fs::File::options().create(true).append(true).open(dir.join("log"))?;
        let child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let mut server = Server { child, port, pid: 0 };
        let started = Instant::now();
        loop {
            if let Some(pid) = listener(port) {
                server.pid = pid;
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("`{command}` ended with {status}; see {}", dir.join("log").display()).into());
            }
            if started.elapsed() > Duration::from_secs(60) {
                return Err(
                    format!("`{command}` does not listen on port {port}; see {}", dir.join("log").display()).into()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The whole group, whatever the command started.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).stderr(Stdio::null()).status();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

/// Puts folder and port into a command.
pub fn fill(command: &str, dir: &Path, port: u16) -> String {
    command.replace("{port}", &port.to_string()).replace("{dir}", &dir.display().to_string())
}

/// What a finished command took.
pub struct Run {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_mib: f64,
    pub output: String,
}

/// Runs a command to its end. Exit codes other than 0 and those of `fine` are errors.
pub fn run(mut command: Command, fine: &[i32]) -> Result<Run> {
    let before = children_cpu_seconds();
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut peak_mib = 0f64;
    let status = loop {
        peak_mib = peak_mib.max(memory(child.id(), "VmHWM").unwrap_or(0.0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = started.elapsed().as_secs_f64();
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        std::io::Read::read_to_string(&mut stdout, &mut output)?;
    }
    if !status.success() && !status.code().is_some_and(|code| fine.contains(&code)) {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(Run { seconds, cpu_seconds: children_cpu_seconds() - before, peak_mib, output })
}

/// Bytes of all files in a folder that begins with nothing but files.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
