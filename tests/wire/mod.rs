//! A relay in this process and a client made of a raw socket, for tests that look at the bytes.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; a failed unwrap fails the test")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ratite::config::Config;
use ratite::nostr::{Event, EventId, Kind, Tags, UnsignedEvent};
use ratite::relay::{Clock, Relay, Settings};
use ratite::server::Server;
use ratite::store::Store;
use secp256k1::Keypair;
use serde_json::Value;

pub mod process;
pub mod tls;

/// Nothing here takes as long; a test that waits for this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A relay that serves on a free port of this machine, with a database of its own.
pub struct TestRelay {
    pub address: SocketAddr,
    pub relay: Relay,
    server: Option<Server>,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl TestRelay {
    pub fn start() -> TestRelay {
        TestRelay::with(|_| {})
    }

    /// `change` gets the default configuration.
    pub fn with(change: impl FnOnce(&mut Config)) -> TestRelay {
        TestRelay::at(Clock::system(), change)
    }

    /// A relay whose configuration depends on its address.
    pub fn on_free_port(change: impl FnOnce(&mut Config, SocketAddr)) -> TestRelay {
        // The port is free again when the relay takes it; nobody else is given it so soon.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        TestRelay::with(|config| {
            config.listen.addresses = vec![address.into()];
            change(config, address);
        })
    }

    /// A relay that lives by this clock.
    pub fn at(clock: Clock, change: impl FnOnce(&mut Config)) -> TestRelay {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.listen.addresses = vec![([127, 0, 0, 1], 0).into()];
        config.storage.path = folder.path().into();
        config.storage.map_size = 1 << 30;
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = Store::open(&config.storage.path, config.storage.map_size).unwrap();
        let relay = Relay::start(store, Settings { clock, ..Settings::from_config(&config) }).unwrap();
        let server = {
            let _inside = runtime.enter();
            Server::start(relay.clone(), &config).unwrap()
        };
        // Tests that listen on Unix sockets alone have no use for the address.
        let address = server.addresses().iter().find_map(|address| address.tcp()).unwrap_or(([0, 0, 0, 0], 0).into());
        TestRelay { address, relay, server: Some(server), runtime, _folder: folder }
    }

    /// A WebSocket to this relay.
    pub fn connect(&self) -> Socket {
        Socket::open(self.address)
    }

    /// The server, which has not been shut down.
    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Begins the shutdown and returns at once; what comes back waits for its end.
    pub fn begin_shutdown(&mut self) -> tokio::task::JoinHandle<()> {
        self.runtime.spawn(self.server.take().unwrap().shutdown())
    }

    pub fn wait<T>(&self, task: tokio::task::JoinHandle<T>) -> T {
        self.runtime.block_on(task).unwrap()
    }

    /// Where monitors get their figures, when that is configured.
    pub fn metrics_address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().metrics_addresses()[0].tcp().unwrap()
    }

    /// The numbers of `/health`.
    pub fn health(&self) -> Value {
        health(self.address).1
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }
}

/// Asks until the answer is yes.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a request, reads to the end.
pub fn http(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Status and body of `/health`.
pub fn health(address: SocketAddr) -> (u16, Value) {
    let answer = http(address, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

pub const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// First byte of a frame: the last or only one of its message.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A client's frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ MASK[i & 3]));
    out
}

pub fn text(message: &str) -> Vec<u8> {
    frame(FIN | TEXT, message.as_bytes())
}

/// A frame of the relay, inflated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    /// It came compressed.
    pub compressed: bool,
    pub payload: Vec<u8>,
}

/// A WebSocket client without a library.
pub struct Socket<S = TcpStream> {
    pub stream: S,
    /// What AUTH must repeat; known when the first message after it was heard.
    pub challenge: Option<String>,
    /// The challenge is heard like any other message.
    pub shows_auth: bool,
    buffer: Vec<u8>,
    /// When compression was agreed.
    pub inflater: Option<Inflater>,
}

/// First byte of a frame: its message is compressed.
pub const RSV1: u8 = 0x40;

/// What a client needs to take compressed messages, as it was agreed.
pub struct Inflater {
    /// The value of `Sec-WebSocket-Extensions` in the relay's answer.
    pub agreed: String,
    pub window_bits: u8,
    takeover: bool,
    stream: flate2::Decompress,
}

impl Inflater {
    fn new(agreed: String) -> Inflater {
        let bits = agreed.split("server_max_window_bits=").nth(1).and_then(|rest| rest.split(';').next());
        let window_bits = bits.map_or(15, |bits| bits.parse().unwrap());
        let takeover = !agreed.contains("server_no_context_takeover");
        let stream = flate2::Decompress::new_with_window_bits(false, window_bits);
        Inflater { agreed, window_bits, takeover, stream }
    }

    /// In small bites, so that nothing can be found that lies further back than the window.
    fn inflate(&mut self, message: &[u8]) -> Vec<u8> {
        if !self.takeover {
            self.stream.reset(false);
        }
        let bytes = [message, &[0, 0, 0xff, 0xff]].concat();
        let (mut out, mut taken) = (Vec::new(), 0);
        loop {
            let mut piece = Vec::with_capacity(100);
            let before = self.stream.total_in();
            self.stream.decompress_vec(&bytes[taken..], &mut piece, flate2::FlushDecompress::Sync).unwrap();
            taken += (self.stream.total_in() - before) as usize;
            out.extend_from_slice(&piece);
            if taken == bytes.len() && piece.len() < 100 {
                return out;
            }
        }
    }
}

impl Socket {
    pub fn open(address: SocketAddr) -> Socket {
        Socket::open_with(address, b"")
    }

    /// Sends `early` in the same segment as the handshake.
    pub fn open_with(address: SocketAddr, early: &[u8]) -> Socket {
        Socket::shake_hands(address, &[HANDSHAKE.as_bytes(), early].concat())
    }

    /// Offers these extensions.
    pub fn open_offering(address: SocketAddr, extensions: &str) -> Socket {
        let header = format!("\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n");
        Socket::shake_hands(address, HANDSHAKE.replace("\r\n\r\n", &header).as_bytes())
    }

    /// Sends these bytes, which begin with the handshake.
    pub fn shake_hands(address: SocketAddr, request: &[u8]) -> Socket {
        Socket::over(TcpStream::connect(address).unwrap(), request)
    }

    /// The same over a connection that is there.
    pub fn over(stream: TcpStream, request: &[u8]) -> Socket {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Socket::on(stream, request)
    }

    /// Authenticates as author number `author`, and returns what OK says.
    pub fn authenticate(&mut self, author: u8) -> (bool, String) {
        let relay = format!("ws://{}", self.stream.peer_addr().unwrap());
        self.authenticate_for(author, &relay)
    }
}

impl<S: Read + Write> Socket<S> {
    /// A WebSocket over this stream. Sends these bytes, which begin with the handshake.
    pub fn on(mut stream: S, request: &[u8]) -> Socket<S> {
        stream.write_all(request).unwrap();
        let mut socket = Socket { stream, challenge: None, shows_auth: false, buffer: Vec::new(), inflater: None };
        let head = loop {
            if let Some(end) = socket.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break socket.buffer.drain(..end + 4).collect::<Vec<u8>>();
            }
            assert!(socket.fill(), "hung up during the handshake");
        };
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        let agreed = head.split("\r\nsec-websocket-extensions: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        socket.inflater = agreed.map(|agreed| Inflater::new(agreed.to_owned()));
        socket
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn say(&mut self, message: &str) {
        self.send(&text(message));
    }

    pub fn publish(&mut self, event: &Event) {
        let mut message = b"[\"EVENT\",".to_vec();
        event.write_json(&mut message);
        message.push(b']');
        self.send(&frame(FIN | TEXT, &message));
    }

    /// The same; false when the relay has hung up.
    pub fn try_publish(&mut self, event: &Event) -> bool {
        let mut message = b"[\"EVENT\",".to_vec();
        event.write_json(&mut message);
        message.push(b']');
        self.stream.write_all(&frame(FIN | TEXT, &message)).is_ok()
    }

    /// What [`Socket::hear_or_end`] gives, or `None` when nothing comes within the read timeout of the stream.
    pub fn hear_soon(&mut self) -> Option<Result<Value, Option<u16>>> {
        loop {
            while let Some(frame) = self.parse() {
                match frame.opcode {
                    TEXT => return Some(Ok(serde_json::from_slice(&frame.payload).unwrap())),
                    CLOSE => return Some(Err(frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code)))),
                    _ => {}
                }
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(Err(None)),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(_) => return Some(Err(None)),
            }
        }
    }

    /// False at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                n > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            // The test was stopped for a while (SIGSTOP): whoever calls asks again.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => panic!("nothing came: {error}"),
        }
    }

    /// The first frame in the buffer, once it is complete. The challenge for AUTH is kept and, unless it is to be heard, passed over.
    fn parse(&mut self) -> Option<Frame> {
        let bytes = &self.buffer;
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(first & 0x80, 0x80, "the relay sends no fragments");
        assert_eq!(second & 0x80, 0, "the relay does not mask");
        let (length, at) = match second {
            126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let mut payload = bytes.get(at..at + length)?.to_vec();
        self.buffer.drain(..at + length);
        let (compressed, opcode) = (first & RSV1 != 0, first & 0x0f);
        assert_eq!(first & 0x30, 0, "no reserved bits");
        if compressed {
            assert_eq!(opcode, TEXT, "only text is compressed");
            payload = self.inflater.as_mut().expect("compression was agreed").inflate(&payload);
        }
        if opcode == TEXT && payload.starts_with(b"[\"AUTH\",") {
            let message: Value = serde_json::from_slice(&payload).unwrap();
            let earlier = self.challenge.replace(message[1].as_str().unwrap().to_owned());
            assert_eq!(earlier, None, "one challenge a connection");
            if !self.shows_auth {
                return self.parse();
            }
        }
        Some(Frame { opcode, compressed, payload })
    }

    /// The challenge of this connection; asks something that makes the relay send it.
    pub fn challenge(&mut self) -> String {
        if self.challenge.is_none() {
            self.say("[\"REQ\",\"a\",{\"kinds\":[1059]}]");
            self.hears("CLOSED", "a");
        }
        self.challenge.clone().expect("the relay sends a challenge before it answers")
    }

    /// Authenticates as author number `author` at this address, and returns what OK says.
    pub fn authenticate_for(&mut self, author: u8, relay: &str) -> (bool, String) {
        let challenge = self.challenge();
        self.claim(&sign(author, 22_242, now(), &[&["relay", relay], &["challenge", &challenge]], ""))
    }

    /// Sends an AUTH and returns what OK says.
    pub fn claim(&mut self, event: &Event) -> (bool, String) {
        let mut message = b"[\"AUTH\",".to_vec();
        event.write_json(&mut message);
        message.push(b']');
        self.send(&frame(FIN | TEXT, &message));
        let ok = self.hears("OK", &event.id.to_string());
        (ok[2].as_bool().unwrap(), ok[3].as_str().unwrap().to_owned())
    }

    /// The next frame; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parse() {
                return Some(frame);
            }
            if !self.fill() {
                assert!(self.buffer.is_empty(), "the stream ends inside a frame");
                return None;
            }
        }
    }

    /// The next message; otherwise how it ends: with a close code, or at the end of the stream, wherever that comes.
    pub fn hear_or_end(&mut self) -> Result<Value, Option<u16>> {
        loop {
            while let Some(frame) = self.parse() {
                match frame.opcode {
                    TEXT => return Ok(serde_json::from_slice(&frame.payload).unwrap()),
                    CLOSE => return Err(frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
                    _ => {}
                }
            }
            if !self.fill() {
                return Err(None);
            }
        }
    }

    /// The next message, which must be a text; pings are passed over.
    #[track_caller]
    pub fn hear(&mut self) -> Value {
        loop {
            let frame = self.next().expect("the relay hung up");
            match frame.opcode {
                TEXT => return serde_json::from_slice(&frame.payload).unwrap(),
                PING => {}
                _ => panic!("expected a message, got {frame:?}"),
            }
        }
    }

    /// Hears a message that begins like this.
    #[track_caller]
    pub fn hears(&mut self, verb: &str, second: &str) -> Value {
        let message = self.hear();
        assert_eq!((message[0].as_str(), message[1].as_str()), (Some(verb), Some(second)), "{message}");
        message
    }

    /// Hears a NOTICE whose text begins like this.
    #[track_caller]
    pub fn hears_notice(&mut self, prefix: &str) {
        let message = self.hear();
        assert_eq!(message[0], "NOTICE", "{message}");
        assert!(message[1].as_str().unwrap().starts_with(prefix), "{message}");
    }

    /// The connection still answers.
    #[track_caller]
    pub fn still_works(&mut self) {
        self.say("[\"REQ\",\"z\",{\"limit\":0}]");
        self.hears("EOSE", "z");
        self.say("[\"CLOSE\",\"z\"]");
    }

    /// Expects a close frame with this code, passing over what was under way, and the end of the stream behind it.
    #[track_caller]
    pub fn closes_with(&mut self, code: u16) {
        loop {
            let frame = self.next().expect("the relay hung up without a close frame");
            if frame.opcode == CLOSE {
                let got = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                assert_eq!(got, Some(code), "{}", String::from_utf8_lossy(&frame.payload));
                break;
            }
        }
        assert_eq!(self.next(), None, "nothing follows a close frame");
    }
}

/// Publishes and returns what OK says: accepted or not, and the words.
pub fn publish(socket: &mut Socket, event: &Event) -> (bool, String) {
    socket.publish(event);
    let ok = socket.hears("OK", &event.id.to_string());
    (ok[2].as_bool().expect("a boolean"), ok[3].as_str().expect("a text").to_owned())
}

/// Asks and returns the ids of the stored events, in the order they came.
pub fn ask(socket: &mut Socket, id: &str, filters: &str) -> Vec<String> {
    socket.say(&format!("[\"REQ\",\"{id}\",{filters}]"));
    let mut ids = Vec::new();
    loop {
        let message = socket.hear();
        assert_eq!(message[1], id, "{message}");
        match message[0].as_str() {
            Some("EVENT") => ids.push(message[2]["id"].as_str().expect("an id").to_owned()),
            Some("EOSE") => return ids,
            _ => panic!("{message}"),
        }
    }
}

/// Hears refusals, a hundred and one at most, until the relay has had enough and closes.
pub fn refusals_to_the_end(socket: &mut Socket) {
    let mut refusals = 0;
    loop {
        match socket.hear_or_end() {
            Ok(message) => {
                assert!(message[0] == "OK" && message[2] == false, "{message}");
                refusals += 1;
            }
            Err(code) => break assert!(code.is_none_or(|code| code == 1008), "{code:?}"),
        }
    }
    assert!((1..=101).contains(&refusals), "{refusals}");
}

/// Asks for events by their ids, over a socket.
pub fn ask_for(socket: &mut Socket, ids: &[EventId]) -> BTreeSet<EventId> {
    let mut found = BTreeSet::new();
    for some in ids.chunks(500) {
        let list: Vec<String> = some.iter().map(|id| format!("\"{id}\"")).collect();
        socket.say(&format!("[\"REQ\",\"q\",{{\"ids\":[{}]}}]", list.join(",")));
        loop {
            let message = socket.hear();
            match message[0].as_str() {
                Some("EVENT") => {
                    let id = EventId::from_hex(message[2]["id"].as_str().unwrap()).unwrap();
                    assert!(found.insert(id), "{id} comes twice");
                }
                Some("EOSE") => break,
                _ => panic!("{message}"),
            }
        }
    }
    found
}

/// A signed event by author number `author`.
pub fn event(author: u8, kind: u16, content: &str) -> Event {
    sign(author, kind, now(), &[], content)
}

/// A signed event with everything chosen.
pub fn sign(author: u8, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    let key = Keypair::from_secret_bytes([author; 32]).unwrap();
    let mut all = Tags::default();
    for tag in tags {
        all.push(*tag);
    }
    UnsignedEvent { created_at, kind: Kind(kind), tags: all, content: content.into() }.sign(&key)
}

/// The public key of author number `author`.
pub fn pubkey(author: u8) -> String {
    event(author, 1, "").pubkey.to_string()
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
