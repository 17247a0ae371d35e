//! What several tests need: a relay in a temporary folder, a sink that keeps what it is sent, and the real corpus.
#![allow(dead_code)] // each test binary uses its own part

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ratite::config::Config;
use ratite::nostr::{Event, Filter, SubscriptionId};
use ratite::relay::{Admission, Client, Clock, LiveText, Outcome, Relay, Settings, Sink};
use ratite::store::Store;

pub mod model;

/// The clock of the vectors.
pub const NOW: u64 = 1_700_000_000;

/// How long something may take on a busy machine before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Address space for test databases.
pub const MAP: u64 = 16 << 30;

/// The vectors that the tests are driven by.
pub fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../vectors.json")).expect("tests/vectors.json is JSON")
}

/// The folder of the real corpus; says so when it is not there.
pub fn corpus() -> Option<PathBuf> {
    match std::env::var_os("RATITE_CORPUS") {
        Some(folder) => Some(folder.into()),
        None => {
            eprintln!("RATITE_CORPUS is not set: the tests over real events were passed over");
            None
        }
    }
}

/// Settings without limits on time and without a guard before private messages, at the vectors' clock.
pub fn settings() -> Settings {
    let mut config = Config::default();
    config.info.url = "wss://relay.test/".into();
    config.limits.created_at_upper_limit = 0;
    config.policy.guard_private = false;
    Settings { clock: Clock::fixed(NOW), ..Settings::from_config(&config) }
}

/// A relay in a folder of its own, removed with it.
pub struct TestRelay {
    pub relay: Relay,
    pub clock: Clock,
    pub folder: tempfile::TempDir,
}

impl TestRelay {
    pub fn new() -> TestRelay {
        TestRelay::with(settings())
    }

    pub fn with(settings: Settings) -> TestRelay {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = settings.clock.clone();
        let relay = Relay::start(Store::open(folder.path(), MAP).expect("open"), settings).expect("start");
        TestRelay { relay, clock, folder }
    }

    /// Ends the relay and starts it anew over the same folder.
    pub fn restart(&mut self) {
        let settings = self.relay.settings();
        self.relay.shutdown();
        // The store closes when its last handle goes, and one process opens a database once: another stands in meanwhile.
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let stand_in = Store::open(elsewhere.path(), MAP).expect("open");
        self.relay = Relay::start(stand_in, (*settings).clone()).expect("start");
        let store = Store::open(self.folder.path(), MAP).expect("reopen");
        std::mem::replace(&mut self.relay, Relay::start(store, (*settings).clone()).expect("restart")).shutdown();
    }

    pub fn publish(&self, event: &Event) -> Outcome {
        let (tx, rx) = std::sync::mpsc::channel();
        self.relay
            .publish(event.clone(), Admission::default(), move |outcome| tx.send(outcome).expect("the test waits"));
        rx.recv().expect("one answer")
    }

    pub fn connect(&self) -> (Client, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        let client = self.relay.connect(inbox.clone(), None);
        // The challenge for AUTH comes before anything else.
        if self.relay.settings().addresses.are_configured() {
            inbox.until(|message| message.starts_with("[\"AUTH\","));
        }
        (client, inbox)
    }

    /// What a REQ answers until EOSE.
    pub fn query(&self, filters: Vec<Filter>) -> Vec<Event> {
        let (client, inbox) = self.connect();
        client.subscribe(SubscriptionId::new("q").expect("an id"), filters);
        let messages = inbox.until(|message| message.starts_with("[\"EOSE\"") || message.starts_with("[\"CLOSED\""));
        events_of(&messages)
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.relay.shutdown();
    }
}

/// An event's canonical JSON.
pub fn json(event: &Event) -> String {
    let mut text = Vec::new();
    event.write_json(&mut text);
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// The events among messages.
pub fn events_of(messages: &[String]) -> Vec<Event> {
    messages
        .iter()
        .filter(|message| message.starts_with("[\"EVENT\""))
        .map(|message| {
            let at = message.find('{').expect("an event");
            Event::parse(&message.as_bytes()[at..message.len() - 1]).expect("the relay sends valid events")
        })
        .collect()
}

/// A sink that keeps everything, one message a line.
#[derive(Default)]
pub struct Inbox {
    messages: Mutex<Vec<String>>,
    arrived: Condvar,
}

impl Inbox {
    /// Waits for a message that fits and returns everything up to it, taken out.
    pub fn until(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut messages = self.messages.lock().expect("lock");
        loop {
            if let Some(at) = messages.iter().position(|message| fits(message)) {
                return messages.drain(..=at).collect();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such message among {:?}", &messages[..messages.len().min(20)]);
            messages = self.arrived.wait_timeout(messages, left).expect("lock").0;
        }
    }

    /// Waits for so many messages and takes them out.
    pub fn take_count(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut messages = self.messages.lock().expect("lock");
        while messages.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            messages = self.arrived.wait_timeout(messages, left).expect("lock").0;
        }
        let count = count.min(messages.len());
        messages.drain(..count).collect()
    }

    /// Everything that has arrived, taken out.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.messages.lock().expect("lock"))
    }

    fn add(&self, text: &[u8]) {
        let text = std::str::from_utf8(text).expect("messages are UTF-8");
        let mut messages = self.messages.lock().expect("lock");
        messages.extend(text.lines().map(str::to_owned));
        self.arrived.notify_all();
    }
}

impl Sink for Inbox {
    fn open(&self, buf: &mut Vec<u8>) -> usize {
        buf.len()
    }

    fn close(&self, buf: &mut Vec<u8>, _start: usize) {
        buf.push(b'\n');
    }

    fn send(&self, messages: Vec<u8>) -> bool {
        self.add(&messages);
        true
    }

    fn has_room(&self) -> bool {
        true
    }

    fn send_live(&self, prefix: &[u8], events: &[&LiveText]) {
        events.iter().for_each(|event| self.add(&[prefix, event.text()].concat()));
    }
}

/// A signed event by the author with this small secret key.
pub fn sign(author: u8, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    let mut secret = [0; 32];
    secret[31] = author;
    let key = secp256k1::Keypair::from_secret_bytes(secret).expect("a key");
    let mut all = ratite::nostr::Tags::default();
    for tag in tags {
        all.push(*tag);
    }
    ratite::nostr::UnsignedEvent { created_at, kind: ratite::nostr::Kind(kind), tags: all, content: content.into() }
        .sign(&key)
}

/// A signed note.
pub fn note(author: u8, created_at: u64, content: &str) -> Event {
    sign(author, 1, created_at, &[], content)
}
