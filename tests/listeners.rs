//! Where the relay listens: several addresses at once, Unix sockets, sockets passed by systemd, and the limit of open files.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use ratite::config::{Address, Config};
use ratite::server::Server;

use wire::process::{RelayProcess, ratite, take_environment};
use wire::tls::{Authority, client_config, open};
use wire::{HANDSHAKE, TestRelay, eventually, http};

fn unix(path: &Path) -> Address {
    Address::Unix(path.into())
}

/// The status of the answer to a request over a Unix socket.
fn status(path: &Path, request: &str) -> u16 {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// Why a relay cannot listen there.
fn bind_error(relay: &TestRelay, address: Address) -> String {
    let mut config = Config::default();
    config.listen.addresses = vec![address];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async { Server::start(relay.relay.clone(), &config).err() });
    error.expect("it listens").to_string()
}

#[test]
fn ipv4_ipv6_and_unix_sockets_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let data = tempfile::tempdir().unwrap();
    // A port that is free on both, tried until nobody else is faster.
    for attempt in 0.. {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        let listen = ["relay", "--listen", &v4, "--listen", &v6, "--listen", &format!("unix:{}", path.display())];
        let mut taken = true;
        let mut relay = RelayProcess::try_with(data.path(), |command| *command = ratite(data.path(), &listen));
        if let Some(relay) = &mut relay {
            taken = false;
            for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
                wire::Socket::open(address.parse().unwrap()).still_works();
            }
            assert_eq!(status(&path, HANDSHAKE), 101);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
            relay.signal("TERM");
            assert!(relay.wait().success());
            assert!(!path.exists(), "the file goes with the relay");
        }
        if !taken {
            return;
        }
        assert!(attempt < 20, "no port is free");
    }
}

#[test]
fn a_unix_socket_is_shared_with_whom_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let _relay = TestRelay::with(|config| {
        config.listen.addresses = vec![unix(&path)];
        config.listen.unix_mode = 0o606;
    });
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o606);
    assert_eq!(status(&path, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn clients_behind_a_unix_socket_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let _relay = TestRelay::with(|config| {
        config.listen.addresses = vec![unix(&path)];
        config.listen.trusted_proxies = Vec::new();
        config.rates.new_connections = 1;
    });
    let from = |address: &str| {
        status(&path, &HANDSHAKE.replace("Host: relay\r\n", &format!("Host: relay\r\nX-Forwarded-For: {address}\r\n")))
    };
    assert_eq!(from("203.0.113.1"), 101);
    assert_eq!(from("203.0.113.1"), 429);
    assert_eq!(from("203.0.113.2"), 101);
    assert_eq!(
        (status(&path, HANDSHAKE), status(&path, HANDSHAKE)),
        (101, 101),
        "one without an address has no limits"
    );
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let relay = TestRelay::start();

    let theirs = UnixListener::bind(&path).unwrap();
    let error = bind_error(&relay, unix(&path));
    assert!(error.contains(path.to_str().unwrap()) && error.contains("another program"), "{error}");
    drop(theirs);
    assert!(path.exists(), "left behind");
    let mut successor = TestRelay::with(|config| config.listen.addresses = vec![unix(&path)]);
    assert_eq!(status(&path, HANDSHAKE), 101);

    // When another socket has taken the place, its file stays.
    std::fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    let identity = std::fs::metadata(&path).unwrap().ino();
    let ended = successor.begin_shutdown();
    successor.wait(ended);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), identity);
    drop(successor);

    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "mine").unwrap();
    let error = bind_error(&relay, unix(&file));
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");

    let error = bind_error(&relay, unix(&folder.path().join("missing/relay.sock")));
    assert!(error.contains("no such folder"), "{error}");
}

/// `ratite` that finds `socket` as its third file, as systemd passes it.
fn passed(data: &Path, socket: OwnedFd, arguments: &str, pid: &str) -> Command {
    let plain = ratite(data, &[]);
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID={pid} LISTEN_FDNAMES=${{NAME-web}} exec {} --data {} relay {arguments}",
        env!("CARGO_BIN_EXE_ratite"),
        data.display()
    );
    command.args(["-c", &script]).current_dir(data).stdin(socket);
    take_environment(&mut command, &plain);
    command
}

#[test]
fn sockets_of_systemd_take_the_place_of_the_default() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let data = tempfile::tempdir().unwrap();
    let relay = RelayProcess::with(data.path(), |command| *command = passed(data.path(), listener.into(), "", "$$"));
    assert_eq!(relay.address, address);
    relay.connect().still_works();
}

#[test]
fn sockets_of_systemd_speak_tls_when_they_are_named_so() {
    let data = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue_into(data.path(), &["relay.test"]);
    for (name, is_tls) in [("https", true), ("http", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The other kind is configured, so that neither is at its default.
        let other = if is_tls { "RATITE_TLS_HTTP_LISTEN" } else { "RATITE_TLS_LISTEN" };
        let relay = RelayProcess::with(data.path(), |command| {
            *command = passed(data.path(), listener.into(), "--listen 127.0.0.1:0", "$$");
            command.env("NAME", name).env(other, "127.0.0.1:0");
            command.env("RATITE_TLS_CERTIFICATE", &certificate).env("RATITE_TLS_KEY", &key);
        });
        assert_ne!(relay.address, address);
        if is_tls {
            assert_eq!(relay.tls, Some(address));
            open(&client_config(&authority.certificate, &[]), address, "relay.test").still_works();
        } else {
            let answer = http(address, b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        }
        relay.connect().still_works();
    }
}

#[test]
fn sockets_of_systemd_stand_beside_configured_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("systemd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut relay = RelayProcess::with(data.path(), |command| {
        *command = passed(data.path(), listener.into(), "--listen 127.0.0.1:0", "$$");
    });
    relay.connect().still_works();
    assert_eq!(status(&path, HANDSHAKE), 101);
    relay.signal("TERM");
    assert!(relay.wait().success());
    assert!(path.exists(), "systemd's file stays");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let data = tempfile::tempdir().unwrap();
    let relay = RelayProcess::with(data.path(), |command| {
        *command = passed(data.path(), listener.into(), "--listen 127.0.0.1:0", "1");
    });
    assert_ne!(relay.address, address);
}

#[test]
fn what_systemd_passes_must_be_listening() {
    let data = tempfile::tempdir().unwrap();
    let file = File::open("/dev/null").unwrap();
    let output = passed(data.path(), file.into(), "", "$$").output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot listen on the web that systemd passed"), "{error}");
}

#[test]
fn a_proxy_that_does_not_tell_its_client_is_complained_of_once() {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("log");
    let relay = RelayProcess::with(data.path(), |command| {
        command.stderr(File::create(&log).unwrap());
    });
    let complaints =
        || std::fs::read_to_string(&log).unwrap().matches("does not tell the address of its client").count();
    let ask = |head: &str| wire::http(relay.address, format!("GET / HTTP/1.1\r\n{head}\r\n\r\n").as_bytes());
    ask("Host: localhost:7777");
    ask("Host: relay.example.org\r\nX-Forwarded-For: 203.0.113.1");
    assert_eq!(complaints(), 0);
    ask("Host: relay.example.org");
    ask("Host: relay.example.org");
    assert_eq!(complaints(), 1);
}

/// A relay for a thousand connections below these limits of open files, and what it logged.
#[cfg(target_os = "linux")]
fn with_file_limits(limits: &str) -> (String, String) {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("log");
    let mut relay = RelayProcess::with(data.path(), |command| {
        let script = format!(
            "{limits}; exec {} --data {} relay --listen 127.0.0.1:0",
            env!("CARGO_BIN_EXE_ratite"),
            data.path().display()
        );
        *command = Command::new("sh");
        command.args(["-c", &script]).env("RATITE_LISTEN_MAX_CONNECTIONS", "1000").stderr(File::create(&log).unwrap());
    });
    let mut limit = String::new();
    eventually("the process can be seen", || {
        limit = std::fs::read_to_string(format!("/proc/{}/limits", relay.id())).unwrap_or_default();
        limit.contains("Max open files")
    });
    let open = limit.lines().find(|line| line.starts_with("Max open files")).unwrap();
    relay.kill();
    (open.split_whitespace().nth(3).unwrap().to_owned(), std::fs::read_to_string(log).unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn the_limit_of_open_files_is_raised_as_far_as_needed() {
    let (limit, log) = with_file_limits("ulimit -Sn 100; ulimit -Hn 2000");
    assert_eq!(limit, "1128");
    assert!(!log.contains("open files"), "{log}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_system_that_allows_too_few_open_files_is_complained_of() {
    let (limit, log) = with_file_limits("ulimit -Sn 100; ulimit -Hn 500");
    assert_eq!(limit, "500");
    assert!(log.contains("the system allows 500 open files, fewer than listen.max_connections = 1000 needs"), "{log}");
    assert!(log.contains("LimitNOFILE=1128"), "{log}");
}
