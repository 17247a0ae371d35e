//! A relay in a process of its own, an innocent client, and what must hold after every case.

use std::cell::{Cell, RefCell};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ratite::config::Config;
use ratite::nostr::{Event, Filter, Kind, Tags, UnsignedEvent};
use ratite::relay::{Clock, Relay, Settings};
use ratite::server::Server;
use ratite::store::Store;
use secp256k1::Keypair;
use serde_json::Value;

use crate::wire::{FIN, HANDSHAKE, PATIENCE, PING, PONG, Socket, TEXT, frame, health, text};

/// Names the table whose relay a process is to be.
pub const VARIABLE: &str = "RATITE_TEST_TABLE";

/// Begins the lines that are for us; the test harness writes others.
const MARK: &str = "relay: ";

/// How far memory may be above what it was, in bytes: the allocator keeps some pages of each thread, and which thread does what is
/// not the same each time. What a table leaves behind must not add up: it is played [`ROUNDS`] times.
const ROOM: u64 = 6 << 20;

/// How often a table is played: until memory has taken its shape, and then to see that it keeps it.
const WARM_ROUNDS: usize = 2;
const ROUNDS: usize = 2;

/// One hostile input.
pub struct Case {
    /// Its number in section 23, such as `H001`; a letter behind it tells several of one number apart.
    pub n: String,
    pub does: Box<dyn Fn(&Scene)>,
}

/// Cases that meet the same relay.
pub struct Table {
    pub name: &'static str,
    /// The time that the relay lives at; without one, its own.
    pub clock: Option<u64>,
    pub change: fn(&mut Config),
    pub cases: fn() -> Vec<Case>,
}

pub fn case(n: &str, does: impl Fn(&Scene) + 'static) -> Case {
    Case { n: n.to_owned(), does: Box::new(does) }
}

/// The key that the vectors give to person number `n`.
pub fn key(n: u8) -> Keypair {
    let mut secret = [0; 32];
    secret[31] = n;
    Keypair::from_secret_bytes(secret).unwrap()
}

/// An event by person number `n`.
pub fn sign(n: u8, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    let tags: Tags = tags.iter().copied().collect();
    UnsignedEvent { created_at, kind: Kind(kind), tags, content: content.into() }.sign(&key(n))
}

pub fn canonical(event: &Event) -> String {
    let mut out = Vec::new();
    event.write_json(&mut out);
    String::from_utf8(out).unwrap()
}

/// Listens until its standard input ends, and does what it is told there.
pub fn serve(table: &Table) {
    let folder = std::env::current_dir().unwrap();
    let mut config = Config::default();
    config.listen.addresses = vec![([127, 0, 0, 1], 0).into()];
    config.storage.path = folder.join("data");
    config.storage.map_size = 1 << 30;
    (table.change)(&mut config);
    let clock = table.clock.map_or_else(Clock::system, Clock::fixed);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = Store::open(&config.storage.path, config.storage.map_size).unwrap();
    let relay = Relay::start(store, Settings { clock: clock.clone(), ..Settings::from_config(&config) }).unwrap();
    let server = {
        let _inside = runtime.enter();
        Server::start(relay.clone(), &config).unwrap()
    };
    let address = server.addresses().iter().find_map(|address| address.tcp()).unwrap();
    println!("\n{MARK}{address}");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number: u64 = number.parse().unwrap();
        let answer = match verb {
            "stored" => relay.store().info().unwrap().events,
            "wipe" => relay.remove(vec![Filter::default()], &mut |_| ControlFlow::Continue(())).unwrap(),
            "faults" => relay.store().verify().unwrap().faults.len() as u64,
            "clock" => {
                clock.set(number);
                number
            }
            "fill" => {
                // Signing costs more than all the rest; unsigned copies will do for the operator's door.
                let first = sign(7, 1, 1_600_000_000, &[], "");
                let copy = |n: u64| {
                    let mut copy = first.clone();
                    copy.id.0[..8].copy_from_slice(&n.to_be_bytes());
                    copy.created_at += n;
                    copy
                };
                for start in (0..number).step_by(1000) {
                    relay.ingest((start..number.min(start + 1000)).map(copy).collect(), true).recv().unwrap();
                }
                number
            }
            _ => panic!("{line}"),
        };
        println!("\n{MARK}{answer}");
    }
    runtime.block_on(server.shutdown());
}

/// The relay of a table, an innocent client of it, and the case's own connections.
pub struct Scene {
    pub address: SocketAddr,
    /// The time that the relay lives at.
    pub clock: Option<u64>,
    child: RefCell<Child>,
    control: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
    innocent: Innocent,
    /// Events that the innocent client has published.
    published: Cell<u64>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn begin(table: &Table) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay_of_a_table", "--ignored", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, table.name)
            // What is freed goes back to the system at once, so that it can be seen.
            .env("MIMALLOC_PURGE_DELAY", "0")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let control = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let control = RefCell::new(control);
        let address = answer(&control).parse().unwrap();
        let innocent = Innocent::new(address);
        Scene {
            address,
            clock: table.clock,
            child: RefCell::new(child),
            control,
            innocent,
            published: Cell::new(0),
            folder,
        }
    }

    /// Tells the relay's process something; its answer.
    pub fn tell(&self, line: &str) -> u64 {
        writeln!(self.control.borrow_mut().0, "{line}").unwrap();
        answer(&self.control).parse().unwrap()
    }

    /// How many events are stored.
    pub fn stored(&self) -> u64 {
        self.tell("stored")
    }

    pub fn connect(&self) -> Socket {
        Socket::open(self.address)
    }

    /// From another address of this machine.
    pub fn connect_from(&self, last: u8) -> Socket {
        Socket::over(connect_from(self.address, last), HANDSHAKE.as_bytes())
    }

    pub fn stream_from(&self, last: u8) -> TcpStream {
        connect_from(self.address, last)
    }

    pub fn now(&self) -> u64 {
        self.clock.unwrap_or_else(crate::wire::now)
    }

    /// An event of now.
    pub fn event(&self, n: u8, kind: u16, tags: &[&[&str]], content: &str) -> Event {
        sign(n, kind, self.now(), tags, content)
    }

    /// What AUTH needs to say on this connection.
    pub fn token(&self, n: u8, challenge: &str) -> Event {
        let relay = format!("ws://{}/", self.address);
        self.event(n, 22_242, &[&["relay", &relay], &["challenge", challenge]], "")
    }

    pub fn authenticate(&self, socket: &mut Socket, n: u8) -> (bool, String) {
        let challenge = socket.challenge();
        socket.claim(&self.token(n, &challenge))
    }

    /// The innocent client publishes, hears it on its subscription to everything, asks for it, and so does one that has just come. Gives
    /// back what was delivered to it meanwhile that was not its own.
    #[track_caller]
    pub fn innocent(&self) -> Vec<Value> {
        let number = self.published.get() + 1;
        self.published.set(number);
        let event = self.event(200, 1, &[], &format!("innocent {number}"));
        let id = event.id.to_string();
        self.innocent.say(&format!("[\"EVENT\",{}]", canonical(&event)));
        let (mut strange, mut accepted, mut delivered) = (Vec::new(), false, false);
        while !accepted || !delivered {
            let message = self.innocent.hear();
            match (message[0].as_str(), message[1].as_str()) {
                (Some("OK"), Some(ok)) if ok == id => {
                    assert_eq!(message[2], true, "{message}");
                    accepted = true;
                }
                (Some("EVENT"), Some("all")) if message[2]["id"] == id => delivered = true,
                (Some("EVENT"), _) => strange.push(message),
                _ => panic!("{message}"),
            }
        }
        let mut fresh = Socket::over(connect_from(self.address, INNOCENT), HANDSHAKE.as_bytes());
        fresh.say(&format!("[\"REQ\",\"q\",{{\"ids\":[\"{id}\"]}}]"));
        assert_eq!(fresh.hears("EVENT", "q")[2]["id"], id);
        fresh.hears("EOSE", "q");
        strange
    }

    /// Anonymous memory of the relay, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// CPU time that the relay has used, however busy the machine is.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // utime and stime, in hundredths of a second on every Linux.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    fn id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// `/health`, as the innocent client's address sees it.
    pub fn health(&self) -> Value {
        let mut stream = connect_from(self.address, INNOCENT);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }

    /// Waits until so many subscriptions are open, the innocent client's among them: what was closed is gone a moment later.
    #[track_caller]
    pub fn has_subscriptions(&self, count: u64) {
        let began = Instant::now();
        while self.health()["subscriptions"] != count {
            assert!(began.elapsed() < PATIENCE, "{count} subscriptions are expected: {}", self.health());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everybody but the innocent client is gone, and so is what they left: subscriptions, events, memory beyond `most`.
    fn recovers(&self, n: &str, most: Option<u64>) {
        let began = Instant::now();
        let alone = || {
            let health = self.health();
            health["connections"] == 1 && health["subscriptions"] == 1
        };
        while !alone() {
            assert!(began.elapsed() < PATIENCE, "{n}: {}", self.health());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tell("wipe");
        assert_eq!(self.stored(), 0, "{n}");
        while let Some(most) = most.filter(|most| self.memory() > *most) {
            let over = self.memory().saturating_sub(most);
            assert!(began.elapsed() < PATIENCE, "{n}: {over} bytes more than before, with {ROOM} allowed for");
            std::thread::sleep(Duration::from_millis(2));
            // What happens next may be what gives memory back.
            self.innocent();
            self.tell("wipe");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
        let _ = &self.folder;
    }
}

impl Table {
    /// Plays all cases, several times over.
    pub fn play(&self) {
        let scene = Scene::begin(self);
        let cases = (self.cases)();
        let mut most = None;
        for round in 0..WARM_ROUNDS + ROUNDS {
            if round == WARM_ROUNDS {
                most = Some(scene.memory() + ROOM);
            }
            for case in &cases {
                // The name is what a failure needs most.
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    (case.does)(&scene);
                    scene.innocent();
                }));
                if let Err(panic) = outcome {
                    eprintln!("{} of table {}, round {round}", case.n, self.name);
                    std::panic::resume_unwind(panic);
                }
                scene.recovers(&case.n, most);
            }
        }
        let grown = (scene.memory() + ROOM).saturating_sub(most.unwrap());
        println!("{}: {} cases, {grown} bytes more after {ROUNDS} further rounds", self.name, cases.len());
        assert_eq!(scene.tell("faults"), 0);
    }
}

/// The relay's next answer.
fn answer(control: &RefCell<(ChildStdin, BufReader<ChildStdout>)>) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(control.borrow_mut().1.read_line(&mut line).unwrap() > 0, "the relay's process has ended");
        if let Some(answer) = line.strip_prefix(MARK) {
            return answer.trim().to_owned();
        }
    }
}

/// A client that is connected all the time, listens to everything, and answers pings.
struct Innocent {
    writer: Arc<Mutex<TcpStream>>,
    messages: Receiver<Value>,
}

impl Innocent {
    fn new(address: SocketAddr) -> Innocent {
        let mut socket = Socket::over(connect_from(address, INNOCENT), HANDSHAKE.as_bytes());
        socket.say("[\"REQ\",\"all\",{\"limit\":0}]");
        socket.hears("EOSE", "all");
        socket.stream.set_read_timeout(None).unwrap();
        let writer = Arc::new(Mutex::new(socket.stream.try_clone().unwrap()));
        let (sender, messages) = channel();
        let pongs = writer.clone();
        std::thread::spawn(move || {
            while let Some(message) = socket.next() {
                match message.opcode {
                    // Both ends may be gone already when a table is at its end.
                    PING => drop(pongs.lock().unwrap().write_all(&frame(FIN | PONG, &message.payload))),
                    TEXT => drop(sender.send(serde_json::from_slice(&message.payload).unwrap())),
                    _ => {
                        let why = String::from_utf8_lossy(&message.payload).into_owned();
                        return drop(sender.send(serde_json::json!(["it was closed", why])));
                    }
                }
            }
        });
        Innocent { writer, messages }
    }

    fn say(&self, message: &str) {
        self.writer.lock().unwrap().write_all(&text(message)).unwrap();
    }

    #[track_caller]
    fn hear(&self) -> Value {
        self.messages.recv_timeout(PATIENCE).expect("the innocent client hears nothing")
    }
}

/// The innocent client's address, 127.0.0.2; hostile ones come from others of this machine.
pub const INNOCENT: u8 = 2;

/// A connection from 127.0.0.`last`.
fn connect_from(address: SocketAddr, last: u8) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
}

/// Used by cases that look at what `/health` counts.
pub fn number(scene: &Scene, name: &str) -> u64 {
    health(scene.address).1[name].as_u64().unwrap()
}
