//! Conversations with the relay as text files, one for each NIP: to be read by people, and held against a real relay over real sockets.
//!
//! A transcript is a list of lines; one that begins with a space goes on where the line before it ended. `#` begins a comment.
//!
//! | line | what |
//! |---|---|
//! | `config policy.count = false` | a setting of the relay; before anything else |
//! | `hello = {"by":"alice","kind":1,…}` | an event, which the harness signs: `at` is its time, `work` the zero bits of its id |
//! | `alice> […]`, `alice< […]` | what goes to the relay and what comes back, on the connection of that name |
//! | `alice< nothing` | nothing more comes |
//! | `http> …`, `http< …` | a request over HTTP, line by line, and what is answered: status, headers, JSON |
//! | `admin> […]`, `admin< …` | a method of `ratite admin` with its parameters, and its result |
//! | `clock +60` | the relay's clock, which stands still otherwise, goes on |
//!
//! Placeholders stand in angle brackets: `<alice>` is a key, `<hello>` an event, `<hello.id>` its id, `<now-60>` a time, `<challenge>` what
//! this connection was sent last; `<token alice>` authorises an HTTP request. Any other stands for whatever text the relay has put in
//! its place, and for the same text from then on. All else is compared exactly.

#[path = "../wire/mod.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ratite::config::{Config, Sources, load};
use ratite::nostr::{Event, pow};
use ratite::relay::{Clock, admin};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wire::{Socket, TestRelay, http, pubkey, sign};

/// When every conversation begins.
const NOW: u64 = 1_700_000_000;

/// Who takes part, with the number of the key.
const PEOPLE: [(&str, u8); 5] = [("alice", 1), ("bob", 2), ("carol", 3), ("mallory", 9), ("admin", 77)];

/// One line of a transcript with its number.
struct Line {
    number: usize,
    text: String,
}

fn lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.text.push(' ');
                last.text.push_str(line.trim());
            }
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            _ => lines.push(Line { number, text: line.trim_end().to_owned() }),
        }
    }
    lines
}

/// A conversation while it is held.
struct Stage {
    relay: TestRelay,
    clock: Clock,
    connections: BTreeMap<String, Socket>,
    /// What placeholders stand for: texts, and events as JSON.
    known: BTreeMap<String, String>,
    /// The request over HTTP that is being put together, or the answer that is left to look at.
    request: Vec<String>,
    answer: Option<(Vec<String>, Value)>,
    result: Option<Value>,
}

impl Stage {
    fn new(settings: &[String]) -> Stage {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ratite.toml");
        let mut known: BTreeMap<String, String> =
            PEOPLE.iter().map(|(name, number)| ((*name).to_owned(), pubkey(*number))).collect();
        let text: String = settings.iter().map(|line| fill(line, &known, NOW) + "\n").collect();
        std::fs::write(&file, text).expect("written");
        let Config { info, limits, policy, membership, .. } =
            load(Sources { file: Some(file), ..Sources::default() }).expect("settings").config;
        let clock = Clock::fixed(NOW);
        let relay = TestRelay::at(clock.clone(), |config| {
            *config = Config { info, limits, policy, membership, ..config.clone() }
        });
        known.insert("address".into(), relay.address.to_string());
        if let Some(own) = relay.relay.own_key() {
            known.insert("relay".into(), own.to_string());
        }
        let (connections, request) = Default::default();
        Stage { relay, clock, connections, known, request, answer: None, result: None }
    }

    fn fill(&self, text: &str) -> String {
        fill(text, &self.known, self.clock.now())
    }

    fn connection(&mut self, name: &str) -> &mut Socket {
        let relay = &self.relay;
        self.connections.entry(name.to_owned()).or_insert_with(|| {
            let mut socket = relay.connect();
            socket.shows_auth = true;
            socket
        })
    }

    fn play(&mut self, line: &str) {
        if let Some(step) = line.strip_prefix("clock +") {
            return self.clock.set(self.clock.now() + step.parse::<u64>().expect("seconds"));
        }
        if let Some((name, template)) = line.split_once(" = ")
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            let event = self.event(&read(&self.fill(template)));
            let mut text = Vec::new();
            event.write_json(&mut text);
            self.known.insert(format!("{name}.id"), event.id.to_string());
            self.known.insert(name.to_owned(), String::from_utf8(text).expect("JSON"));
            return;
        }
        let at = line.find(['>', '<']).expect("a line of one of the kinds");
        let (name, said) = (&line[..at], line[at + 1..].trim());
        match (name, &line[at..=at]) {
            ("http", ">") => self.request.push(said.to_owned()),
            ("http", _) => self.look_at_answer(said),
            ("admin", ">") => {
                let call = read(&self.fill(said));
                let call = call.as_array().expect("a list");
                let method = call[0].as_str().expect("a method");
                self.result = Some(
                    admin::call(&self.relay.relay, method, &call[1..])
                        .unwrap_or_else(|error| json!({ "error": error })),
                );
            }
            ("admin", _) => {
                let result = self.result.take().expect("a result");
                self.compare(&result, said);
            }
            (name, ">") => {
                let message = self.fill(said);
                self.connection(name).say(&message);
            }
            (name, _) if said == "nothing" => {
                let socket = self.connection(name);
                socket.say("[\"nothing\"]");
                let message = socket.hear();
                assert_eq!(message[0], "NOTICE", "there was more to come: {message}");
            }
            (name, _) => {
                let message = self.connection(name).hear();
                if message[0] == "AUTH" {
                    // A connection's newest challenge is the one that counts.
                    self.known.remove("challenge");
                }
                self.compare(&message, said);
            }
        }
    }

    /// Signs an event.
    fn event(&self, template: &Value) -> Event {
        let by = template["by"].as_str().expect("an author");
        let (_, author) = PEOPLE.iter().find(|(name, _)| *name == by).expect("one of the people");
        let kind = template["kind"].as_u64().expect("a kind") as u16;
        let at = template["at"].as_u64().unwrap_or_else(|| self.clock.now());
        let content = template["content"].as_str().unwrap_or_default();
        let tags: Vec<Vec<String>> = serde_json::from_value(template["tags"].clone()).unwrap_or_default();
        let work = template["work"].as_u64().unwrap_or(0) as u32;
        let sign_with = |nonce: Option<u32>| {
            let nonce = nonce.map(|nonce| vec!["nonce".to_owned(), nonce.to_string(), work.to_string()]);
            let tags: Vec<&Vec<String>> = tags.iter().chain(&nonce).collect();
            let tags: Vec<Vec<&str>> = tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
            let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
            sign(*author, kind, at, &tags, content)
        };
        match work {
            0 => sign_with(None),
            _ => (0..)
                .map(|nonce| sign_with(Some(nonce)))
                .find(|event| pow::leading_zero_bits(&event.id) >= work)
                .expect("work"),
        }
    }

    /// Sends the request when its answer is first looked at, and then takes the answer line by line: status, headers, JSON.
    fn look_at_answer(&mut self, expected: &str) {
        if !self.request.is_empty() {
            let lines: Vec<String> = self.request.drain(..).collect();
            let body =
                lines.last().filter(|line| line.starts_with('{') || line.starts_with('[')).cloned().unwrap_or_default();
            let body = fill(&body, &self.known, self.clock.now());
            let mut head = format!("{} HTTP/1.1\r\nHost: relay.test\r\n", lines[0]);
            for line in lines[1..].iter().filter(|line| !line.starts_with(['{', '['])) {
                head += &fill(&self.authorise(line, &body), &self.known, self.clock.now());
                head += "\r\n";
            }
            let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            let answer = http(self.relay.address, request.as_bytes());
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            let head = head.lines().map(str::to_ascii_lowercase).collect();
            self.answer = Some((head, serde_json::from_str(body).unwrap_or(Value::Null)));
        }
        let (head, body) = self.answer.clone().expect("a request before its answer");
        match expected.parse::<u16>() {
            Ok(status) => assert!(head[0].contains(&format!(" {status} ")), "{}", head[0]),
            Err(_) if expected.starts_with(['{', '[']) => self.compare(&body, expected),
            Err(_) => assert!(head.contains(&expected.to_ascii_lowercase()), "{expected} is not among {head:?}"),
        }
    }

    /// Puts an event of NIP-98 in the place of `<token alice>`.
    fn authorise(&self, line: &str, body: &str) -> String {
        let Some((before, rest)) = line.split_once("<token ") else { return line.to_owned() };
        let (by, after) = rest.split_once('>').expect("a closed placeholder");
        let payload = const_hex::encode(Sha256::digest(body));
        let tags = json!([["u", "https://relay.test/"], ["method", "POST"], ["payload", payload]]);
        let event = self.event(&json!({ "by": by, "kind": 27_235, "tags": tags, "content": body }));
        let mut text = Vec::new();
        event.write_json(&mut text);
        format!("{before}{}{after}", STANDARD.encode(text))
    }

    /// Holds what came against what was to come.
    fn compare(&mut self, got: &Value, expected: &str) {
        let pattern = read(&self.fill(expected));
        let fits = self.fits(got, &pattern);
        assert!(fits, "\n     expected {pattern}\n          got {got}");
    }

    /// Whether a value is as the pattern says; learns what placeholders stand for.
    fn fits(&mut self, got: &Value, pattern: &Value) -> bool {
        match (got, pattern) {
            (Value::String(got), Value::String(pattern)) => match placeholder(pattern) {
                Some(name) => self.known.entry(name.to_owned()).or_insert_with(|| got.clone()) == got,
                None => got == pattern,
            },
            (Value::Array(got), Value::Array(pattern)) => {
                got.len() == pattern.len() && got.iter().zip(pattern).all(|(got, pattern)| self.fits(got, pattern))
            }
            (Value::Object(got), Value::Object(pattern)) => {
                got.len() == pattern.len()
                    && got.iter().all(|(name, got)| pattern.get(name).is_some_and(|pattern| self.fits(got, pattern)))
            }
            _ => got == pattern,
        }
    }
}

#[track_caller]
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The name, when a text is a placeholder and nothing else.
fn placeholder(text: &str) -> Option<&str> {
    text.strip_prefix('<')?.strip_suffix('>')
}

/// Puts in what is known.
fn fill(text: &str, known: &BTreeMap<String, String>, now: u64) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('<') {
        let (name, after) = behind.split_once('>').expect("a closed placeholder");
        filled += before;
        match (name.strip_prefix("now"), known.get(name)) {
            (Some(""), _) => filled += &now.to_string(),
            (Some(shift), _) => filled += &now.saturating_add_signed(shift.parse().expect("seconds")).to_string(),
            (None, Some(value)) => filled += value,
            (None, None) => filled += &format!("<{name}>"),
        }
        rest = after;
    }
    filled + rest
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts"))
}

/// Holds the conversation of a file.
fn hold(name: &str) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("a transcript");
    let lines = lines(&text);
    let settings: Vec<String> =
        lines.iter().filter_map(|line| line.text.strip_prefix("config ")).map(str::to_owned).collect();
    let mut stage = Stage::new(&settings);
    let heard = lines.iter().filter(|line| line.text.contains("< ")).count();
    assert!(heard > 1, "the relay says something in {name}");
    for Line { number, text } in lines.iter().filter(|line| !line.text.starts_with("config ")) {
        // Shown when the conversation goes wrong, down to the line where it does.
        println!("{name}.txt:{number}: {text}");
        stage.play(text);
    }
    // Whatever was not told of would be missing from the transcript.
    for name in stage.connections.keys().cloned().collect::<Vec<_>>() {
        println!("{name}.txt: {name}< nothing");
        stage.play(&format!("{name}< nothing"));
    }
}

macro_rules! transcripts {
    ($($name:ident: $file:literal,)+) => {
        $(#[test]
        fn $name() {
            hold($file);
        })+

        const FILES: &[&str] = &[$($file),+];
    };
}

transcripts! {
    nip_01: "nip-01",
    nip_05: "nip-05",
    nip_09: "nip-09",
    nip_11: "nip-11",
    nip_13: "nip-13",
    nip_17: "nip-17",
    nip_40: "nip-40",
    nip_42: "nip-42",
    nip_43: "nip-43",
    nip_45: "nip-45",
    nip_59: "nip-59",
    nip_62: "nip-62",
    nip_67: "nip-67",
    nip_70: "nip-70",
    nip_86: "nip-86",
    nip_98: "nip-98",
}

/// Every NIP that the relay can list has its transcript, and every transcript is held.
#[test]
fn every_nip_that_can_be_listed_has_its_transcript() {
    let relay = TestRelay::with(|config| {
        let key = ratite::nostr::PublicKey::from_hex(&pubkey(77)).expect("a key");
        config.info.names = vec![("alice".into(), key)];
        config.policy.min_pow_difficulty = 1;
        config.policy.eose_hints = true;
        config.policy.admins = vec![key];
        config.membership.enabled = true;
    });
    let document = http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    let document = read(document.split_once("\r\n\r\n").expect("a body").1);
    let listed = document["supported_nips"].as_array().expect("a list");
    let listed: BTreeSet<String> =
        listed.iter().map(|nip| format!("nip-{:02}", nip.as_u64().expect("a number"))).collect();
    let held: BTreeSet<String> = FILES.iter().map(|file| (*file).to_owned()).collect();
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("the folder")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".txt")?.to_owned()))
        .collect();
    assert_eq!(held, listed);
    assert_eq!(there, listed);
}
