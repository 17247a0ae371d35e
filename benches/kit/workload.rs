//! The workload: realistic, correctly signed events, the same for the same seed.
//!
//! Events come in the order of their creation, with the disorder of a network: replies and reactions name earlier events, popular
//! ones most, accounts publish by Zipf's law, profiles and lists replace their older versions, some events are deleted. Nothing here uses
//! ratite's code: ids and JSON are made with serde_json and sha2, so a fault of ratite's cannot hide in its own workload.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use secp256k1::{Keypair, SecretKey, schnorr};
use sha2::{Digest, Sha256};

use super::Result;
use super::random::Rng;
use super::text::{self, Words};

/// 2026-11-18, when nobody says otherwise: the newest event is not in the future, and the same tomorrow.
pub const END: u64 = 1_795_000_000;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    pub events: u64,
    pub seed: u64,
    /// Accounts; 0 for one to forty events, at most 200,000.
    pub authors: usize,
    /// `created_at` of the last event.
    pub end: u64,
    /// The time over which events are spread.
    pub days: u64,
    /// Other events of the same accounts.
    pub stream: u64,
    /// Without signatures the `sig` holds random bytes: thirty times faster to make, good for `--no-verify`.
    pub sign: bool,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec { events: 200_000, seed: 1, authors: 0, end: END, days: 90, stream: 0, sign: true }
    }
}

/// One event; `tags` and `content` are JSON text.
#[derive(Clone)]
pub struct Event {
    pub id: [u8; 32],
    pub pubkey: [u8; 32],
    pub created_at: u64,
    pub kind: u16,
    pub tags: String,
    pub content: String,
    pub sig: [u8; 64],
    signer: Signer,
}

#[derive(Clone)]
enum Signer {
    Author(u32),
    /// Gift wraps are signed with a key that is used once.
    Once([u8; 32]),
}

impl Event {
    /// Appends the event as one line of JSON, without the line end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(500 + self.tags.len() + self.content.len());
        let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
        put("{\"id\":\"");
        put(&const_hex::encode(self.id));
        put("\",\"pubkey\":\"");
        put(&const_hex::encode(self.pubkey));
        put("\",\"created_at\":");
        put(&self.created_at.to_string());
        put(",\"kind\":");
        put(&self.kind.to_string());
        put(",\"tags\":");
        put(&self.tags);
        put(",\"content\":");
        put(&self.content);
        put(",\"sig\":\"");
        put(&const_hex::encode(self.sig));
        put("\"}");
    }

    pub fn json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        self.write_json(&mut json);
        json
    }
}

/// The workload as a file in `folder`, made when it is not there yet and kept for the next run.
pub fn file(folder: &Path, spec: Spec) -> Result<PathBuf> {
    let name = format!("workload-{}-{}{}.jsonl", spec.events, spec.seed, if spec.sign { "" } else { "-unsigned" });
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("making {} events", spec.events);
        fs::create_dir_all(folder)?;
        let part = path.with_extension("part");
        write(spec, fs::File::create(&part)?)?;
        fs::rename(part, &path)?;
    }
    Ok(path)
}

/// Writes the workload as JSONL.
pub fn write(spec: Spec, out: impl Write) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut line = Vec::new();
    for event in Workload::new(spec).flatten() {
        line.clear();
        event.write_json(&mut line);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(out.flush()?)
}

struct Author {
    keypair: Keypair,
    pubkey: [u8; 32],
    hex: String,
}

/// An earlier event that others refer to.
#[derive(Clone, Copy)]
struct Note {
    id: [u8; 32],
    author: u32,
    created_at: u64,
    /// The note its conversation began with.
    root: [u8; 32],
}

/// How many notes are remembered for references, and how many references for popularity.
const NOTES: usize = 1 << 18;
const POPULAR: usize = 1 << 14;

/// Events are made and signed in chunks of this many.
pub const CHUNK: usize = 8192;

/// Generates the events of a [`Spec`], chunk by chunk: while one is signed, the next is drawn.
pub struct Workload {
    spec: Spec,
    rng: Rng,
    words: Words,
    authors: Vec<Author>,
    notes: Vec<Note>,
    popular: Vec<Note>,
    made: u64,
    drawn: Vec<Event>,
}

impl Workload {
    pub fn new(spec: Spec) -> Workload {
        let count = match spec.authors {
            0 => (spec.events / 40).clamp(100, 200_000) as usize,
            count => count,
        };
        let authors = (0..count)
            .into_par_iter()
            .map(|i| {
                let keypair = key(&Rng::new(spec.seed, 1 << 40 | i as u64).bytes());
                let pubkey = keypair.x_only_public_key().0.to_byte_array();
                Author { keypair, pubkey, hex: const_hex::encode(pubkey) }
            })
            .collect();
        let rng = Rng::new(spec.seed, spec.stream);
        let mut workload = Workload {
            spec,
            rng,
            words: Words::new(),
            authors,
            notes: Vec::new(),
            popular: Vec::new(),
            made: 0,
            drawn: Vec::new(),
        };
        workload.drawn = workload.draw_chunk();
        workload
    }

    /// The accounts' public keys, the busiest first.
    pub fn pubkeys(&self) -> impl Iterator<Item = [u8; 32]> + '_ {
        self.authors.iter().map(|author| author.pubkey)
    }

    /// The same event as its author would publish it anew at another time. For events of [`Spec::authors`].
    pub fn again(&self, event: &Event, created_at: u64) -> Event {
        self.finish(Event { created_at, ..event.clone() })
    }

    /// The author's request to delete an event (NIP-09).
    pub fn deletion(&self, event: &Event, created_at: u64) -> Event {
        let mut tags = TagWriter::new();
        tags.tag(&["e", &const_hex::encode(event.id)]);
        tags.tag(&["k", &event.kind.to_string()]);
        self.finish(Event { created_at, kind: 5, tags: tags.finish(), content: literal(""), ..event.clone() })
    }

    fn finish(&self, mut event: Event) -> Event {
        event.id = id(&event);
        if let Signer::Author(author) = event.signer {
            event.sig = signature(&event.id, &self.authors[author as usize].keypair, self.spec.sign);
        }
        event
    }

    fn draw_chunk(&mut self) -> Vec<Event> {
        let count = (self.spec.events - self.made).min(CHUNK as u64);
        (0..count).map(|_| self.draw()).collect()
    }

    fn draw(&mut self) -> Event {
        let i = self.made;
        self.made += 1;
        let span = self.spec.days * 86_400;
        let at = self.spec.end - span + (span as u128 * u128::from(i + 1) / u128::from(self.spec.events)) as u64;
        // Most events arrive at once, some late, a few after days.
        let mut created_at = at
            - match self.rng.below(100) {
                _ if self.spec.days == 0 => 0,
                0..90 => self.rng.below(30),
                90..99 => self.rng.below(600),
                _ => self.rng.below(2 * 86_400),
            };
        let (kind, signer, tags, content) = self.compose(&mut created_at);
        let pubkey = match &signer {
            Signer::Author(author) => self.authors[*author as usize].pubkey,
            Signer::Once(secret) => key(secret).x_only_public_key().0.to_byte_array(),
        };
        let mut event = Event {
            id: [0; 32],
            pubkey,
            created_at,
            kind,
            tags: tags.finish(),
            content: literal(&content),
            sig: [0; 64],
            signer,
        };
        event.id = id(&event);
        if let (1, Signer::Author(author)) = (kind, &event.signer) {
            let root = tags_root(&event.tags).unwrap_or(event.id);
            let note = Note { id: event.id, author: *author, created_at, root };
            if self.notes.len() == NOTES {
                self.notes.drain(..NOTES / 2);
            }
            self.notes.push(note);
        }
        event
    }

    /// An account, the busiest most often.
    fn author(&mut self) -> u32 {
        self.rng.zipf(self.authors.len()) as u32
    }

    /// Any account: people have one profile each, however much they write.
    fn anyone(&mut self) -> u32 {
        self.rng.index(self.authors.len()) as u32
    }

    /// An earlier note: a recent one, or one that others referred to already.
    fn note(&mut self) -> Note {
        let note = if !self.popular.is_empty() && self.rng.percent(50) {
            let age = self.rng.zipf(self.popular.len());
            self.popular[self.popular.len() - 1 - age]
        } else if self.notes.is_empty() {
            let id = self.rng.bytes();
            Note { id, author: self.author(), created_at: 0, root: id }
        } else {
            let age = self.rng.zipf(self.notes.len());
            self.notes[self.notes.len() - 1 - age]
        };
        if self.popular.len() == POPULAR {
            self.popular.drain(..POPULAR / 2);
        }
        self.popular.push(note);
        note
    }

    fn hex(&self, author: u32) -> &str {
        &self.authors[author as usize].hex
    }

    /// One event by the kinds' shares of the live network.
    fn compose(&mut self, created_at: &mut u64) -> (u16, Signer, TagWriter, String) {
        let now = *created_at;
        let mut tags = TagWriter::new();
        let share = self.rng.below(1000);
        let kind = match share {
            0..450 => 1,
            450..700 => 7,
            700..760 => 9735,
            760..810 => 6,
            810..840 => 0,
            840..860 => 3,
            860..875 => 4,
            875..890 => 1059,
            890..910 => 10002,
            910..920 => 30023,
            920..930 => 5,
            _ => self.rng.pick(&[
                16, 16, 42, 42, 1063, 1111, 1111, 1111, 1311, 1984, 9802, 10000, 30000, 30003, 30078, 30078, 30315,
                31990,
            ]),
        };
        let mut author = match kind {
            0 | 3 | 10000 | 10002 => self.anyone(),
            _ => self.author(),
        };
        let content = match kind {
            1 => {
                let median = if self.rng.percent(35) {
                    for _ in 0..if self.rng.percent(35) { self.rng.range(1, 4) } else { 0 } {
                        tags.tag(&["t", &text::topic(&mut self.rng)]);
                    }
                    180.0
                } else {
                    let parent = self.note();
                    tags.tag(&["e", &const_hex::encode(parent.root), text::relay(&mut self.rng), "root"]);
                    if parent.root != parent.id {
                        tags.tag(&["e", &const_hex::encode(parent.id), "", "reply"]);
                    }
                    tags.tag(&["p", self.hex(parent.author)]);
                    for _ in 0..self.rng.below(3) {
                        let other = self.author();
                        tags.tag(&["p", self.hex(other)]);
                    }
                    90.0
                };
                if self.rng.percent(20) {
                    tags.tag(&["client", "Amethyst", "31990:0000:1685802317447"]);
                }
                let len = self.rng.log_normal(median, 0.9).clamp(2.0, 6000.0);
                self.words.text(&mut self.rng, len as usize)
            }
            7 | 6 | 16 | 1984 | 9802 | 1111 => {
                let note = self.note();
                if kind == 1111 {
                    tags.tag(&["E", &const_hex::encode(note.root), "", self.hex(note.author)]);
                    tags.tag(&["K", "30023"]);
                }
                let relay = if self.rng.percent(40) { text::relay(&mut self.rng) } else { "" };
                tags.tag(&["e", &const_hex::encode(note.id), relay]);
                tags.tag(&["p", self.hex(note.author)]);
                if kind != 1984 {
                    tags.tag(&["k", "1"]);
                }
                match kind {
                    7 => text::reaction(&mut self.rng).to_owned(),
                    6 if self.rng.percent(60) => self.quoted(note, now),
                    1984 | 9802 | 1111 => self.words.text(&mut self.rng, 120),
                    _ => String::new(),
                }
            }
            9735 => {
                let (note, sender) = (self.note(), self.author());
                let (id, recipient) = (const_hex::encode(note.id), self.hex(note.author).to_owned());
                let sats = (self.rng.range(1, 210) * 1000).to_string();
                let request = serde_json::json!({
                    "id": self.rng.hex32(), "pubkey": self.hex(sender), "created_at": now, "kind": 9734, "content": "",
                    "tags": [["e", id], ["p", recipient], ["amount", sats], ["relays", text::relay(&mut self.rng), text::relay(&mut self.rng)]],
                    "sig": const_hex::encode(self.rng.bytes::<64>()),
                });
                tags.tag(&["p", &recipient]);
                tags.tag(&["e", &id]);
                tags.tag(&["P", self.hex(sender)]);
                tags.tag(&["bolt11", &text::invoice(&mut self.rng)]);
                tags.tag(&["description", &request.to_string()]);
                tags.tag(&["preimage", &self.rng.hex32()]);
                // A few wallets sign all receipts.
                author = self.rng.zipf(20.min(self.authors.len())) as u32 + self.authors.len() as u32 / 2;
                author = author.min(self.authors.len() as u32 - 1);
                String::new()
            }
            0 => {
                let name = self.words.name(&mut self.rng);
                serde_json::json!({
                    "name": name, "display_name": name, "about": self.words.text(&mut self.rng, 100),
                    "picture": format!("https://image.nostr.build/{}.jpg", self.rng.hex32()),
                    "nip05": format!("{name}@nostrplebs.com"), "lud16": format!("{name}@getalby.com"),
                })
                .to_string()
            }
            3 => {
                let mut follows: Vec<u32> = (0..self.rng.range(100, 500)).map(|_| self.author()).collect();
                let strangers = follows.len() / 2;
                for follow in &mut follows[..strangers] {
                    *follow = self.rng.index(self.authors.len()) as u32;
                }
                let mut seen = std::collections::HashSet::new();
                follows.retain(|follow| seen.insert(*follow));
                for follow in follows {
                    tags.tag(&["p", self.hex(follow)]);
                }
                String::new()
            }
            4 => {
                let to = self.author();
                tags.tag(&["p", self.hex(to)]);
                let len = self.rng.log_normal(150.0, 0.8).clamp(24.0, 4000.0);
                format!("{}?iv={}==", text::base64(&mut self.rng, len as usize), text::base64(&mut self.rng, 22))
            }
            1059 => {
                let to = self.author();
                tags.tag(&["p", self.hex(to)]);
                let len = self.rng.log_normal(1400.0, 0.4).clamp(700.0, 8000.0);
                let content = text::base64(&mut self.rng, len as usize);
                return (kind, Signer::Once(self.rng.bytes()), tags, content);
            }
            10002 => {
                for _ in 0..self.rng.range(3, 8) {
                    let relay = text::relay(&mut self.rng);
                    if self.rng.percent(70) { tags.tag(&["r", relay]) } else { tags.tag(&["r", relay, "write"]) }
                }
                String::new()
            }
            30023 => {
                let title = self.words.text(&mut self.rng, 40);
                tags.tag(&["d", &format!("{}-{}", text::topic(&mut self.rng), self.rng.below(20))]);
                tags.tag(&["title", &title]);
                tags.tag(&["published_at", &now.to_string()]);
                for _ in 0..self.rng.range(1, 5) {
                    tags.tag(&["t", &text::topic(&mut self.rng)]);
                }
                let len = self.rng.log_normal(3500.0, 0.6).clamp(300.0, 30_000.0);
                format!("# {title}\n\n{}", self.words.text(&mut self.rng, len as usize))
            }
            5 => {
                // People delete what is their own: most deletions hit a stored note.
                let note = self.note();
                author = note.author;
                // Nobody deletes what is not written yet; relays differ in what they make of it.
                *created_at = now.max(note.created_at);
                tags.tag(&["e", &const_hex::encode(note.id)]);
                tags.tag(&["k", "1"]);
                String::new()
            }
            42 | 1311 => {
                let mut channel = Rng::new(self.spec.seed, 1 << 41 | self.rng.zipf(50) as u64);
                tags.tag(&["e", &channel.hex32(), text::relay(&mut self.rng), "root"]);
                self.words.text(&mut self.rng, 70)
            }
            1063 => {
                tags.tag(&["url", &format!("https://image.nostr.build/{}.jpg", self.rng.hex32())]);
                tags.tag(&["m", "image/jpeg"]);
                tags.tag(&["x", &self.rng.hex32()]);
                tags.tag(&["size", &self.rng.range(10_000, 5_000_000).to_string()]);
                String::new()
            }
            10000 | 30000 | 30003 => {
                if kind != 10000 {
                    tags.tag(&["d", &text::topic(&mut self.rng)]);
                }
                for _ in 0..self.rng.range(3, 40) {
                    if kind == 30003 {
                        let note = self.note();
                        tags.tag(&["e", &const_hex::encode(note.id)]);
                    } else {
                        let other = self.author();
                        tags.tag(&["p", self.hex(other)]);
                    }
                }
                text::base64(&mut self.rng, 200)
            }
            _ => {
                // Settings, statuses, handlers of applications.
                tags.tag(&["d", &format!("app-{}", self.rng.zipf(30))]);
                self.words.text(&mut self.rng, 150)
            }
        };
        (kind, Signer::Author(author), tags, content)
    }

    /// A note as a repost carries it.
    fn quoted(&mut self, note: Note, now: u64) -> String {
        let len = self.rng.log_normal(150.0, 0.8).clamp(5.0, 3000.0);
        serde_json::json!({
            "id": const_hex::encode(note.id), "pubkey": self.hex(note.author), "created_at": now - 60, "kind": 1, "tags": [],
            "content": self.words.text(&mut self.rng, len as usize), "sig": const_hex::encode(self.rng.bytes::<64>()),
        })
        .to_string()
    }
}

impl Iterator for Workload {
    type Item = Vec<Event>;

    fn next(&mut self) -> Option<Vec<Event>> {
        let mut chunk = std::mem::take(&mut self.drawn);
        if chunk.is_empty() {
            return None;
        }
        // The authors' keys are needed by both halves: signing borrows them, drawing gives them back afterwards.
        let authors = std::mem::take(&mut self.authors);
        let keys: Vec<Keypair> = chunk
            .iter()
            .map(|event| match &event.signer {
                Signer::Author(author) if self.spec.sign => authors[*author as usize].keypair,
                Signer::Author(_) => authors[0].keypair,
                Signer::Once(secret) => key(secret),
            })
            .collect();
        self.authors = authors;
        let sign = self.spec.sign;
        let (_, drawn) = rayon::join(
            || {
                chunk.par_iter_mut().zip(keys).with_min_len(16).for_each(|(event, key)| {
                    event.sig = signature(&event.id, &key, sign);
                });
            },
            || self.draw_chunk(),
        );
        self.drawn = drawn;
        Some(chunk)
    }
}

/// The key pair of a secret; one in 2^128 secrets is none, and then its successor serves.
fn key(secret: &[u8; 32]) -> Keypair {
    let mut secret = *secret;
    loop {
        if let Ok(secret) = SecretKey::from_secret_bytes(secret) {
            return Keypair::from_secret_key(&secret);
        }
        secret[31] = secret[31].wrapping_add(1);
    }
}

fn signature(id: &[u8; 32], key: &Keypair, sign: bool) -> [u8; 64] {
    if sign {
        return schnorr::sign_with_aux_rand(id, key, &[0; 32]).to_byte_array();
    }
    let seed = u64::from_le_bytes(id[..8].try_into().unwrap_or_default());
    Rng::new(seed, 0).bytes()
}

/// SHA-256 of the canonical serialisation of NIP-01.
fn id(event: &Event) -> [u8; 32] {
    let head = format!("[0,\"{}\",{},{},", const_hex::encode(event.pubkey), event.created_at, event.kind);
    let mut hash = Sha256::new();
    for part in [head.as_str(), &event.tags, ",", &event.content, "]"] {
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// The event that the first `e` tag of a reply names.
fn tags_root(tags: &str) -> Option<[u8; 32]> {
    const_hex::decode_to_array(tags.strip_prefix("[[\"e\",\"")?.get(..64)?).ok()
}

/// A JSON string. serde_json escapes exactly what NIP-01 wants escaped, for text without other control characters.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes tags as JSON.
struct TagWriter(String);

impl TagWriter {
    fn new() -> TagWriter {
        TagWriter("[".into())
    }

    fn tag(&mut self, values: &[&str]) {
        self.0.push_str(if self.0.len() > 1 { ",[" } else { "[" });
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                self.0.push(',');
            }
            self.0.push_str(&literal(value));
        }
        self.0.push(']');
    }

    fn finish(mut self) -> String {
        self.0.push(']');
        self.0
    }
}
