//! The relay as a service: what the manager is told, and a new process in place of the old one.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use ratite::server::{Neighbour, neighbours};
use ratite::store::Store;
use wire::process::{RelayProcess, is_installed, ratite, take_environment};
use wire::{Socket, event, eventually, now};

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
        Manager(socket)
    }

    fn in_folder(folder: &Path) -> Manager {
        Manager::at(&SocketAddr::from_pathname(folder.join("notify")).unwrap())
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("the relay says nothing");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that begins like this.
    fn hears(&self, beginning: &str) -> String {
        loop {
            let message = self.hear();
            if message.starts_with(beginning) {
                return message;
            }
        }
    }
}

/// Has the relay report to this socket, and be watched like this.
fn report_to(command: &mut Command, socket: &str, watchdog: Option<Duration>) {
    command.env("NOTIFY_SOCKET", socket).env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    if let Some(span) = watchdog {
        command.env("WATCHDOG_USEC", span.as_micros().to_string());
    }
}

/// The one relay over this data that takes clients in, which need not be our child; killed when this is dropped.
struct Successor(Neighbour);

impl Successor {
    fn of(old: u32, data: &Path) -> Successor {
        let mut serving = neighbours(data).unwrap();
        serving.retain(|relay| !relay.hands_over && relay.pid != old);
        assert_eq!(serving.len(), 1);
        Successor(serving.remove(0))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", self.0.pid)]).status();
    }
}

fn restart(data: &Path) -> Output {
    ratite(data, &["restart"]).output().unwrap()
}

#[test]
fn the_manager_is_told_of_the_beginning_and_the_end() {
    let data = tempfile::tempdir().unwrap();
    let manager = Manager::in_folder(data.path());
    let mut relay = RelayProcess::with(data.path(), |command| report_to(command, "notify", None));
    assert_eq!(manager.hear(), format!("READY=1\nSTATUS=listening on {}", relay.address));
    relay.signal("TERM");
    assert!(manager.hear().starts_with("STOPPING=1\n"));
    assert!(relay.wait().success());
}

#[test]
fn the_manager_is_told_when_the_configuration_is_read_again() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("ratite.toml");
    std::fs::write(&file, "").unwrap();
    let manager = Manager::in_folder(data.path());
    let relay = RelayProcess::with(data.path(), |command| report_to(command, "notify", None));
    assert!(manager.hear().starts_with("READY=1\n"));
    let clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
    };
    let began = clock();
    for (config, status) in
        [("[limits]\nmax_limit = 100\n", "was read again"), ("[limits]\nmax_limit = 0\n", "the old one stays in force")]
    {
        std::fs::write(&file, config).unwrap();
        relay.signal("HUP");
        // Should the change of the file be seen before the signal is, there are two rounds.
        loop {
            let reloading = manager.hear();
            let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().split('\n').next().unwrap();
            assert!((began..=clock()).contains(&time.parse::<u64>().unwrap()), "{reloading}");
            let ready = manager.hear();
            assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");
            if ready.ends_with(status) {
                break;
            }
        }
    }
}

#[test]
fn a_manager_without_a_file_is_found_as_well() {
    let data = tempfile::tempdir().unwrap();
    let name = format!("ratite-test-{}", std::process::id());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let _relay = RelayProcess::with(data.path(), |command| report_to(command, &format!("@{name}"), None));
    assert!(manager.hear().starts_with("READY=1\n"));
}

#[test]
fn a_manager_that_is_not_there_is_done_without() {
    let data = tempfile::tempdir().unwrap();
    let relay = RelayProcess::with(data.path(), |command| {
        report_to(command, "/nowhere/at/all", Some(Duration::from_millis(10)));
    });
    relay.connect().still_works();
}

#[test]
fn the_watchdog_hears_of_the_relay_only_while_the_writer_works() {
    let data = tempfile::tempdir().unwrap();
    let manager = Manager::in_folder(data.path());
    let relay = RelayProcess::with(data.path(), |command| {
        report_to(command, "notify", Some(Duration::from_millis(100)));
    });
    assert!(manager.hear().starts_with("READY=1\n"));
    assert!(manager.hear().starts_with("WATCHDOG=1\nSTATUS=0 clients"));
    let mut socket = relay.connect();
    manager.hears("WATCHDOG=1\nSTATUS=1 clients");

    // The write lock of the database is ours: the event makes the writer wait for it.
    let store = Store::open(data.path(), 1 << 30).unwrap();
    let lock = store.batch(now()).unwrap();
    let event = event(1, 1, "waits for its commit");
    socket.publish(&event);
    manager.0.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    eventually("the watchdog hears nothing", || manager.0.recv(&mut [0; 100]).is_err());
    // Sockets are looked after all the same.
    socket.still_works();
    drop(lock);
    manager.0.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    manager.hears("WATCHDOG=1\n");
    assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let manager = Manager::in_folder(data.path());
    let mut relay = RelayProcess::with(data.path(), |command| {
        report_to(command, "notify", Some(Duration::from_millis(10)));
        command.env("WATCHDOG_PID", "1");
    });
    assert!(manager.hear().starts_with("READY=1\n"));
    relay.connect().still_works();
    relay.signal("TERM");
    assert!(manager.hear().starts_with("STOPPING=1\n"));
    assert!(relay.wait().success());
}

#[test]
fn a_relay_is_started_anew_without_dropping_anybody() {
    let data = tempfile::tempdir().unwrap();
    let manager = Manager::in_folder(data.path());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut old = RelayProcess::with(data.path(), |command| {
        // From the configuration, so that it reaches the successor by the same way.
        std::fs::write(
            data.path().join("ratite.toml"),
            format!("[listen]\naddresses = \"{address}\"\ndrain_wait = 0\ndrain_spread = 0\n"),
        )
        .unwrap();
        *command = ratite(data.path(), &[]);
        report_to(command, "notify", Some(Duration::from_secs(60)));
    });
    manager.hears("READY=1");
    let mut here = old.connect();
    here.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
    here.hears("EOSE", "all");
    let output = restart(data.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let new = Successor::of(old.id(), data.path());
    assert!(said.starts_with(&format!("process {} serves; process {} keeps", new.0.pid, old.id())), "{said}");
    // The successor says READY and WATCHDOG in its own name; to the manager it is the service from here on.
    manager.hears(&format!("MAINPID={}", new.0.pid));

    let mut there = Socket::open(address);
    let event = event(1, 1, "heard by those who were there before");
    there.publish(&event);
    assert_eq!(there.hears("OK", &event.id.to_string())[2], true);
    here.hears("EVENT", "all");
    here.closes_with(1012);
    assert!(old.wait().success());
    there.still_works();
    // And once more: the successor is a relay like any other.
    let output = restart(data.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let newest = Successor::of(new.0.pid, data.path());
    // Nor has the one that went said anything once it was not the service any more: the manager would only wonder.
    loop {
        let message = manager.hear();
        assert!(!message.starts_with("STOPPING=1"), "{message}");
        if message == format!("MAINPID={}", newest.0.pid) {
            break;
        }
    }
    there.closes_with(1012);
    Socket::open(address).still_works();
}

#[test]
fn a_relay_goes_on_when_its_successor_cannot_start() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("ratite.toml");
    std::fs::write(&file, "").unwrap();
    let mut relay = RelayProcess::start(data.path());
    let mut socket = relay.connect();
    std::fs::write(&file, "[limits]\nmax_limit = \"many\"\n").unwrap();
    let output = restart(data.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("max_limit"), "the configuration is the same for all: {error}");
    let output = ratite(data.path(), &["restart", "--config", "/dev/null"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("no successor came up"), "{error}");
    socket.still_works();
    relay.connect().still_works();
    relay.signal("TERM");
    assert!(relay.wait().success());
    let error = String::from_utf8(ratite(data.path(), &["restart", "--config", "/dev/null"]).output().unwrap().stderr);
    assert!(error.unwrap().contains("no relay runs over"));
    std::fs::write(&file, "").unwrap();
    assert!(ratite(data.path(), &["restart", "--if-running"]).status().unwrap().success());
}

#[test]
fn sockets_of_the_manager_reach_the_successor() {
    let data = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let settings = [("RATITE_LISTEN_DRAIN_WAIT", "0"), ("RATITE_LISTEN_DRAIN_SPREAD", "0")];
    let mut old = RelayProcess::with(data.path(), |command| {
        let script = format!(
            "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web exec {} --data {}",
            env!("CARGO_BIN_EXE_ratite"),
            data.path().display()
        );
        let plain = ratite(data.path(), &[]);
        *command = Command::new("sh");
        command.args(["-c", &script]).current_dir(data.path()).stdin(std::os::fd::OwnedFd::from(listener));
        take_environment(command, &plain);
        command.envs(settings);
    });
    assert_eq!(old.address, address);
    let mut here = old.connect();
    let mut running = old.id();
    let mut successors = Vec::new();
    for _ in 0..2 {
        let output = restart(data.path());
        // Found first, so that they end when the test fails.
        successors.push(Successor::of(running, data.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let new = &successors.last().unwrap().0;
        assert_eq!(new.addresses, [address.into()]);
        here.closes_with(1012);
        here = Socket::open(address);
        here.still_works();
        running = new.pid;
    }
    assert!(old.wait().success());
}

/// The nice value of this relay's threads of that name.
fn niceness(relay: &RelayProcess, name: &str) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).ok());
    let of_name = stats.filter_map(|stat| {
        let (found, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
        (found == name).then(|| fields.split(' ').nth(16).unwrap().parse().unwrap())
    });
    of_name.collect()
}

/// Publishes an event and hears of it: the threads that commit and deliver have begun, and have their names.
fn have_all_work(relay: &RelayProcess) {
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"live\",{\"limit\":0}]");
    socket.hears("EOSE", "live");
    let event = event(1, 1, "heard");
    relay.connect().publish(&event);
    assert_eq!(socket.hears("EVENT", "live")[2]["id"], event.id.to_string());
}

#[test]
fn the_writer_goes_before_the_sockets_where_the_system_allows_it() {
    let allowed = Command::new("nice").args(["-n", "-10", "nice"]).output().unwrap().stdout == b"-10\n";
    let data = tempfile::tempdir().unwrap();
    let relay = RelayProcess::start(data.path());
    have_all_work(&relay);
    let [writer, live] = if allowed { [-10, -5] } else { [0, 0] };
    assert_eq!((niceness(&relay, "writer"), niceness(&relay, "live")), (vec![writer], vec![live]));
    // Verification has threads of the process's name.
    for name in ["ratite-net", "ratite", "verify", "reader-0"] {
        let is_usual = |nice: &[i32]| !nice.is_empty() && nice.iter().all(|nice| *nice == 0);
        eventually(name, || is_usual(&niceness(&relay, name)));
    }
}

#[test]
fn a_relay_that_may_not_go_first_works_as_well() {
    let data = tempfile::tempdir().unwrap();
    if !is_installed("setpriv", "--version") {
        return;
    }
    // Root keeps the right to do so unless it is taken away.
    let without = ["--bounding-set=-sys_nice", "--inh-caps=-sys_nice"];
    if !Command::new("setpriv").args(without).arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("passed over: this user has no rights to give up, which the test before shows");
        return;
    }
    let relay = RelayProcess::with(data.path(), |command| {
        let plain = std::mem::replace(command, Command::new("setpriv"));
        command.args(without).arg(plain.get_program()).args(plain.get_args());
        take_environment(command, &plain);
    });
    have_all_work(&relay);
    assert_eq!((niceness(&relay, "writer"), niceness(&relay, "live")), (vec![0], vec![0]));
}
