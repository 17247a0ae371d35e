//! One relay hands over to another while clients are attached and events come in through both.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wire::process::{RelayProcess, ratite};
use wire::{HANDSHAKE, Socket, event, eventually};

/// A relay over this data on a port that was free a moment ago, and the port.
fn first_relay(data: &Path, settings: &[(&str, &str)]) -> (RelayProcess, SocketAddr) {
    for _ in 0..20 {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if let Some(relay) = another_relay(data, address, settings) {
            return (relay, address);
        }
    }
    panic!("no port is free");
}

fn another_relay(data: &Path, address: SocketAddr, settings: &[(&str, &str)]) -> Option<RelayProcess> {
    let relay = RelayProcess::try_with(data, |command| {
        *command = ratite(data, &["relay", "--listen", &address.to_string()]);
        command.envs(settings.iter().copied());
    });
    relay.inspect(|relay| assert_eq!(relay.address, address))
}

fn drain(data: &Path, arguments: &[&str]) -> String {
    let output = ratite(data, &[&["drain"], arguments].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What everybody in the test shares.
#[derive(Default)]
struct Scene {
    /// Publishers stop.
    enough: AtomicBool,
    published: [AtomicUsize; 2],
}

/// Publishes one event after the other, each until it is acknowledged, whichever relay takes it; returns their ids. Its
/// first connection is `socket`.
fn publish(scene: &Scene, number: usize, mut socket: Socket, address: SocketAddr) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for i in 0.. {
        if scene.enough.load(Ordering::Relaxed) {
            return acknowledged;
        }
        let event = event(number as u8 + 1, 1, &format!("publisher {number}, event {i}"));
        'again: loop {
            if socket.try_publish(&event) {
                // Anything but an answer means that the relay has sent us away.
                while let Ok(message) = socket.hear_or_end() {
                    if message[0] == "OK" && message[1] == event.id.to_string() {
                        assert!(message[2] == true, "{message}");
                        break 'again;
                    }
                }
            }
            socket = Socket::open(address);
        }
        acknowledged.insert(event.id.to_string());
        scene.published[number].fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
    }
    unreachable!()
}

/// What a subscriber went through.
struct Watched {
    /// Everything it was sent, over all connections.
    seen: BTreeSet<String>,
    /// Live events by their publisher, while it was on its first connection.
    live: [usize; 2],
    /// When the first relay sent it away, and with which code.
    sent_away: Option<(Instant, Option<u16>)>,
}

/// Subscribes to everything and listens until it has seen every event of `all`, which is known only in the end. Connects again when it
/// is sent away.
fn watch(mut socket: Socket, address: SocketAddr, all: &std::sync::Mutex<Option<BTreeSet<String>>>) -> Watched {
    let mut watched = Watched { seen: BTreeSet::new(), live: [0, 0], sent_away: None };
    let began = Instant::now();
    loop {
        socket.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.say("[\"REQ\",\"all\",{\"kinds\":[1]}]");
        let mut of_this_subscription = BTreeSet::new();
        let mut stored = true;
        loop {
            assert!(began.elapsed() < 3 * wire::PATIENCE, "events are missing");
            match socket.hear_soon() {
                None => {
                    let all = all.lock().unwrap();
                    if all.as_ref().is_some_and(|all| all.is_subset(&watched.seen)) {
                        return watched;
                    }
                }
                Some(Ok(message)) if message[0] == "EVENT" => {
                    let id = message[2]["id"].as_str().unwrap().to_owned();
                    assert!(of_this_subscription.insert(id.clone()), "{id} comes twice");
                    watched.seen.insert(id);
                    if !stored && watched.sent_away.is_none() {
                        let from_second = message[2]["content"].as_str().unwrap().starts_with("publisher 1");
                        watched.live[usize::from(from_second)] += 1;
                    }
                }
                Some(Ok(message)) if message[0] == "EOSE" => stored = false,
                Some(Ok(message)) => panic!("{message}"),
                Some(Err(code)) => {
                    assert!(watched.sent_away.is_none(), "sent away twice, {code:?}");
                    watched.sent_away = Some((Instant::now(), code));
                    socket = Socket::open(address);
                    break;
                }
            }
        }
    }
}

#[test]
fn nobody_loses_an_event_and_nobody_gets_one_twice() {
    const WATCHERS: usize = 6;
    let data = tempfile::tempdir().unwrap();
    // All that was published must fit an answer; nobody asks a second time for older ones.
    let settings = [
        ("RATITE_LISTEN_DRAIN_WAIT", "2"),
        ("RATITE_LISTEN_DRAIN_SPREAD", "2"),
        ("RATITE_LIMITS_MAX_LIMIT", "1000000"),
        ("RATITE_LIMITS_DEFAULT_LIMIT", "1000000"),
    ];
    let (mut first, address) = first_relay(data.path(), &settings);
    let (scene, all) = (Scene::default(), std::sync::Mutex::new(None));
    thread::scope(|scope| {
        let (scene, all) = (&scene, &all);
        let socket = Socket::open(address);
        let here = scope.spawn(move || publish(scene, 0, socket, address));
        // These are all with the first relay: there is no other yet.
        let old: Vec<_> = (0..WATCHERS)
            .map(|_| Socket::open(address))
            .map(|socket| scope.spawn(move || watch(socket, address, all)))
            .collect();
        eventually("events come in", || scene.published[0].load(Ordering::Relaxed) > 50);

        let second = another_relay(data.path(), address, &settings).expect("the second relay stands beside the first");
        let asked = Instant::now();
        let said = drain(data.path(), &[]);
        assert!(said.contains(&format!("process {} accepts no new clients", first.id())), "{said}");
        assert!(said.contains(&format!("new clients come to process {}", second.id())), "{said}");
        // The first relay accepts nobody any more: these are all with the second.
        let socket = Socket::open(address);
        let there = scope.spawn(move || publish(scene, 1, socket, address));
        let new: Vec<_> = (0..WATCHERS)
            .map(|_| Socket::open(address))
            .map(|socket| scope.spawn(move || watch(socket, address, all)))
            .collect();

        assert!(first.wait().success(), "the first relay ends by itself");
        let after = scene.published[0].load(Ordering::Relaxed);
        eventually("publishing goes on", || scene.published[0].load(Ordering::Relaxed) > after + 50);
        scene.enough.store(true, Ordering::Relaxed);
        let published: BTreeSet<String> = &here.join().unwrap() | &there.join().unwrap();
        *all.lock().unwrap() = Some(published.clone());

        let mut departures = Vec::new();
        for watcher in old {
            let watched = watcher.join().unwrap();
            assert_eq!(watched.seen, published, "nothing else was ever sent");
            assert!(watched.live[1] > 0, "those at the first relay get what the second takes in");
            let (when, code) = watched.sent_away.expect("the first relay is gone");
            assert_eq!(code, Some(1012));
            departures.push(when - asked);
        }
        for watcher in new {
            let watched = watcher.join().unwrap();
            assert_eq!(watched.seen, published);
            assert!(watched.live[0] > 0, "those at the second relay get what the first takes in");
            assert!(watched.sent_away.is_none(), "nobody at the second relay is sent away");
        }
        // Nobody leaves before his turn: they are seven, with the publisher, and the spread is two seconds.
        departures.sort();
        for (i, departure) in (1..).zip(departures) {
            assert!(departure >= Duration::from_secs(2) + Duration::from_secs(2) * i / 7, "{i}: {departure:?}");
        }
        assert!(scene.published[1].load(Ordering::Relaxed) > 50);
    });
}

#[test]
fn ephemeral_events_reach_the_clients_of_both() {
    let data = tempfile::tempdir().unwrap();
    let (first, address) = first_relay(data.path(), &[]);
    // One who listens and one who speaks, at each relay.
    let mut ear_here = Socket::open(address);
    let mut mouth_here = Socket::open(address);
    let _second = another_relay(data.path(), address, &[]).unwrap();
    drain(data.path(), &[]);
    let mut ear_there = Socket::open(address);
    let mut mouth_there = Socket::open(address);
    let speak = |mouth: &mut Socket, kind: u16, content: &str| {
        let event = event(1, kind, content);
        mouth.publish(&event);
        mouth.hears("OK", &event.id.to_string())[2] == true
    };
    assert!(speak(&mut mouth_here, 20_002, "somebody may hear it at the other relay"));
    for ear in [&mut ear_here, &mut ear_there] {
        ear.say("[\"REQ\",\"e\",{\"kinds\":[20001]}]");
        ear.hears("EOSE", "e");
    }
    let said: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    for (i, content) in said.iter().enumerate() {
        assert!(speak(if i % 2 == 0 { &mut mouth_here } else { &mut mouth_there }, 20_001, content));
    }
    for ear in [&mut ear_here, &mut ear_there] {
        // In whichever order the two relays come: each exactly once.
        let mut heard: Vec<u32> =
            (0..said.len()).map(|_| ear.hears("EVENT", "e")[2]["content"].as_str().unwrap().parse().unwrap()).collect();
        heard.sort();
        assert_eq!(heard, (0..100).collect::<Vec<u32>>());
        ear.still_works();
    }
    // When one of them is gone the other does without.
    first.signal("TERM");
    drop(ear_there);
    eventually("nobody listens anywhere", || !speak(&mut mouth_there, 20_001, "unheard"));
}

#[test]
fn connections_that_nobody_has_accepted_yet_are_not_lost() {
    let data = tempfile::tempdir().unwrap();
    let (mut first, address) = first_relay(data.path(), &[]);
    let _second = another_relay(data.path(), address, &[]).unwrap();
    // About half of these wait in the queue of a process that stands still, and is asked to leave when it goes on.
    first.signal("STOP");
    let mut waiting: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(wire::PATIENCE)).unwrap();
            stream.write_all(HANDSHAKE.as_bytes()).unwrap();
            stream
        })
        .collect();
    first.signal("USR1");
    first.signal("CONT");
    for stream in &mut waiting {
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
    }
    drop(waiting);
    assert!(first.wait().success(), "its clients have left, so it ends before its time");
}

#[test]
fn a_relay_that_hands_over_ends_at_once_when_told() {
    let data = tempfile::tempdir().unwrap();
    let (mut relay, address) = first_relay(data.path(), &[]);
    let mut socket = Socket::open(address);
    let said = drain(data.path(), &[]);
    assert!(said.contains("no other relay serves this data"), "{said}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
    socket.still_works();
    relay.signal("USR1");
    socket.still_works();
    relay.signal("TERM");
    socket.closes_with(1012);
    assert!(relay.wait().success());
    let output = ratite(data.path(), &["drain"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("no relay runs over"), "{error}");
}

#[test]
fn drain_can_wait_for_the_end() {
    let data = tempfile::tempdir().unwrap();
    let settings = [("RATITE_LISTEN_DRAIN_WAIT", "0"), ("RATITE_LISTEN_DRAIN_SPREAD", "0")];
    let (mut relay, address) = first_relay(data.path(), &settings);
    let mut socket = Socket::open(address);
    let event = event(1, 1, "the last");
    socket.publish(&event);
    assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
    drain(data.path(), &["--wait"]);
    socket.closes_with(1012);
    assert!(relay.wait().success());
}

#[test]
fn a_unix_socket_changes_hands_without_a_gap() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("relay.sock");
    let listen = format!("unix:{}", path.display());
    let start = || {
        RelayProcess::with(data.path(), |command| {
            *command = ratite(data.path(), &["relay", "--listen", "127.0.0.1:0", "--listen", &listen]);
        })
    };
    let works = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(wire::PATIENCE)).unwrap();
        stream.write_all(HANDSHAKE.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
    };
    let mut first = start();
    works();
    let mut second = start();
    works();
    drain(data.path(), &["--wait"]);
    assert!(first.wait().success());
    works();
    second.signal("TERM");
    assert!(second.wait().success());
    assert!(!path.exists());
}

#[test]
fn a_port_is_not_shared_with_strangers() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let refuses = |data: &Path, address: SocketAddr| {
        let output = ratite(data, &["relay", "--listen", &address.to_string()]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(
            error.contains(&format!("cannot listen on {address}: another program, or a ratite with another data")),
            "{error}"
        );
        assert!(error.contains("--listen"), "{error}");
    };
    // A ratite over other data, which allows sharing.
    let (mut relay, address) = first_relay(data.path(), &[]);
    refuses(other.path(), address);
    assert!(!other.path().join("data.mdb").exists(), "nothing else has happened");
    // Killed, it leaves its lock file behind, which says nothing about whoever listens there now.
    relay.kill();
    let stranger = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    };
    rustix::net::sockopt::set_socket_reuseport(&stranger, true).unwrap();
    refuses(data.path(), address);
    drop(stranger);
    let log = data.path().join("log");
    let again = RelayProcess::with(data.path(), |command| {
        *command = ratite(data.path(), &["relay", "--listen", &address.to_string()]);
        command.stderr(File::create(&log).unwrap());
    });
    again.connect().still_works();
}
