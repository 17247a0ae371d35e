//! A folder for one test, the program in it, and events to feed it with.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ratite::nostr::{Event, Kind, Tags, UnsignedEvent};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use secp256k1::{Keypair, SecretKey};
use serde_json::Value;

/// Long enough for a loaded machine; no test waits for it when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for one test, with the data folder in it.
pub struct Place {
    pub folder: tempfile::TempDir,
}

/// How a process ended.
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The program in this folder, with nothing inherited that could configure it.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.program(env!("CARGO_BIN_EXE_ratite"), arguments)
    }

    /// Any program that ends up as ours.
    pub fn program<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RATITE_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        end(self.command(arguments))
    }

    /// Runs with this on standard input.
    pub fn feed(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // The program may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
        let ended = Ended::of(child.wait_with_output().unwrap());
        writer.join().unwrap();
        ended
    }

    /// Runs on a terminal.
    pub fn show(&self, arguments: &[&str]) -> Terminal {
        let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&host).unwrap();
        unlockpt(&host).unwrap();
        let name = ptsname(&host, Vec::new()).unwrap();
        let end = File::from(rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        tcsetwinsize(&end, Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let mut command = self.command(arguments);
        command.stdin(end.try_clone().unwrap()).stdout(end.try_clone().unwrap()).stderr(end).env("TERM", "xterm");
        Terminal { child: command.spawn().unwrap(), screen: File::from(host) }
    }

    /// The exported lines.
    pub fn export(&self, arguments: &[&str]) -> Vec<String> {
        let ended = self.run(&[&["export"], arguments].concat());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        ended.out.lines().map(str::to_owned).collect()
    }
}

impl Ended {
    pub fn of(output: std::process::Output) -> Ended {
        Ended {
            code: output.status.code().expect("no command dies of a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The counts of `--json`.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    pub fn assert_failed(&self, what: &str) {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        assert!(self.err.contains(what), "\"{what}\" is not in: {}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        assert!(!self.err.contains("os error") && !self.err.contains("panicked"), "{}", self.err);
    }
}

/// The program on a terminal of its own.
pub struct Terminal {
    pub child: Child,
    screen: File,
}

impl Terminal {
    /// What is drawn next; empty when nothing will be any more.
    pub fn drawn(&mut self) -> String {
        let mut buffer = [0; 4096];
        // The terminal ends with an error when nobody has it open.
        let length = self.screen.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    pub fn type_in(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Everything that is drawn until the program ends, and its exit code.
    pub fn end(mut self) -> (i32, String) {
        let mut shown = String::new();
        loop {
            match self.drawn() {
                more if more.is_empty() => break,
                more => shown.push_str(&more),
            }
        }
        (self.child.wait().unwrap().code().expect("no command dies of a signal"), shown)
    }
}

pub fn end(mut command: Command) -> Ended {
    Ended::of(command.output().unwrap())
}

pub fn sign(key: u8, created_at: u64, kind: u16, tags: &[&[&str]], content: &str) -> Event {
    let key = Keypair::from_secret_key(&SecretKey::from_secret_bytes([key; 32]).unwrap());
    let mut list = Tags::default();
    for tag in tags {
        list.push(tag.iter());
    }
    UnsignedEvent { created_at, kind: Kind(kind), tags: list, content: content.into() }.sign(&key)
}

pub fn json(event: &Event) -> String {
    let mut text = Vec::new();
    event.write_json(&mut text);
    String::from_utf8(text).unwrap()
}

/// A note whose place in time is `n`.
pub fn note(n: u64) -> String {
    json(&sign(1, 1_700_000_000 + n, 1, &[], &format!("note {n}")))
}

pub fn notes(count: u64) -> String {
    (0..count).map(|n| note(n) + "\n").collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A place with a few events of every sort.
pub fn filled() -> Place {
    let place = Place::new();
    let mut lines: Vec<String> = (0..10).map(note).collect();
    lines.push(json(&sign(2, 1_600_000_000, 0, &[], "{\"name\":\"emu\"}")));
    lines.push(json(&sign(2, 4_000_000_000, 30_023, &[&["d", "x"], &["t", "nostr"]], "later \"quoted\"\n\u{1f426}")));
    place.write("events.jsonl", lines.join("\n"));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    place
}

/// A relay on a free port, stopped when dropped.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
    pub greeting: String,
}

impl Running {
    pub fn start(place: &Place, arguments: &[&str]) -> Running {
        Running::of(place.command([&["--listen", "127.0.0.1:0"], arguments].concat()))
    }

    pub fn of(mut command: Command) -> Running {
        // Our WebSocket answers no pings, and a test may take its time on a loaded machine.
        command.env("RATITE_LISTEN_PING_INTERVAL", "1h");
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut greeting = String::new();
        // The greeting ends with how to stop.
        for line in &mut lines {
            let line = line.unwrap();
            greeting.push_str(&line);
            greeting.push('\n');
            if line.contains("Ctrl-C") {
                break;
            }
        }
        let first = greeting.lines().next().unwrap_or_else(|| panic!("the relay did not start"));
        let address = first.rsplit_once("ws://").unwrap().1.parse().unwrap();
        Running { child, address, greeting }
    }

    pub fn stop(mut self, signal: Signal) -> i32 {
        send_signal(&self.child, signal);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("an exit, not a death by signal");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the relay does not stop");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As much of a WebSocket client as the tests above need.
pub struct WebSocket(TcpStream);

impl WebSocket {
    pub fn connect(address: SocketAddr) -> WebSocket {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            )
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        WebSocket(stream)
    }

    pub fn send(&mut self, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126, "short messages only");
        // Masked with zeros, which leaves the text as it is.
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.0.write_all(&frame).unwrap();
    }

    /// The next text message; pings and the challenge for AUTH are passed over.
    pub fn receive(&mut self) -> String {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).unwrap();
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.0.read_exact(&mut length).unwrap();
                    u16::from_be_bytes(length).into()
                }
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).unwrap();
            if head[0] == 0x81 && !payload.starts_with(b"[\"AUTH\",") {
                return String::from_utf8(payload).unwrap();
            }
        }
    }
}

pub fn send_signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until the process has asked to be told of Ctrl-C.
pub fn wait_until_it_listens_to_signals(child: &Child) {
    wait_for("signals are listened to", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (Signal::INT.as_raw() - 1) != 0
    });
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
