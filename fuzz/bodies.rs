//! What must hold for every input, one function for each fuzz target. The targets run them under libFuzzer (`fuzz/run.sh`), the tests
//! below over the seeds and mutations of them.
//!
//! Part of the library in those two cases only, so that private rooms need no public door for it.

mod judge;

use std::ops::ControlFlow;

use serde_json::Value;

pub use crate::cli::fuzz::sqlite;
pub use crate::config::fuzz::config;
use crate::nostr::message::{write_closed, write_event, write_event_prefix};
use crate::nostr::{ClientMessage, Event, EventFields, EventId, Filter, Kind, PublicKey, Rejected, Signature};
pub use crate::server::fuzz::{frame, header};
use crate::store::{Record, encode};

fn text(json: &[u8]) -> &str {
    std::str::from_utf8(json).expect("what the relay writes is UTF-8")
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("what the relay writes is JSON")
}

fn event_json(event: &Event) -> Vec<u8> {
    let mut out = Vec::new();
    event.write_json(&mut out);
    out
}

/// A message is understood as it was meant, or refused with an answer that every client can read.
pub fn message(data: &[u8]) {
    let rejected = match ClientMessage::parse(data) {
        Ok(message) => return understood(data, &message),
        Err(rejected) => rejected,
    };
    let mut out = Vec::new();
    rejected.write(&mut out);
    let answer = value(&out);
    let reason = answer.as_array().and_then(|answer| answer.last()).and_then(Value::as_str).expect("a reason");
    let (prefix, words) = reason.split_once(": ").expect("a prefix");
    assert!(["invalid", "unsupported"].contains(&prefix) && !words.is_empty() && reason.len() < 400, "{reason}");
    // The judge cannot read everything that is JSON: numbers that no f64 holds, surrogates without a partner.
    let sent = || serde_json::from_slice::<Value>(data).map_or_else(|_| answer[1].clone(), |sent| sent[1].clone());
    match rejected {
        Rejected::Notice(_) => assert_eq!(answer[0], "NOTICE"),
        Rejected::Ok { id, .. } => assert!(id.chars().count() <= 64 && answer[1] == id, "{answer}"),
        Rejected::Closed { id, .. } => assert!(sent() == id && answer[1] == id, "{answer}"),
    }
}

/// Whatever passes is JSON, and written again it is the same message.
fn understood(data: &[u8], message: &ClientMessage) {
    let again = match message {
        ClientMessage::Event(event) | ClientMessage::Auth(event) => {
            let mut out = Vec::new();
            write_event(&mut out, "s", event);
            assert_eq!(value(&out)[2], value(&event_json(event)));
            let verb: &[u8] = if matches!(message, ClientMessage::Auth(_)) { b"[\"AUTH\"," } else { b"[\"EVENT\"," };
            [verb, &event_json(event), b"]"].concat()
        }
        ClientMessage::Req { id, filters } | ClientMessage::Count { id, filters } => {
            let mut out = Vec::new();
            write_closed(&mut out, id.as_str(), "error: no");
            assert_eq!(value(&out)[1], id.as_str());
            out.clear();
            // `["EVENT",<id>,`
            write_event_prefix(&mut out, id.as_str());
            for filter in filters {
                filter.write_json(&mut out);
                out.push(b',');
            }
            out.pop();
            out.push(b']');
            let verb = if matches!(message, ClientMessage::Count { .. }) { "COUNT" } else { "REQ" };
            text(&out).replacen("EVENT", verb, 1).into_bytes()
        }
        ClientMessage::Close(id) => serde_json::json!(["CLOSE", id.as_str()]).to_string().into_bytes(),
    };
    assert_eq!(ClientMessage::parse(&again).as_ref(), Ok(message), "{}", text(&again));
    if let Err(error) = serde_json::from_slice::<Value>(data) {
        // Numbers that no f64 holds are JSON all the same.
        assert!(error.to_string().contains("out of range"), "{error}");
    }
}

/// An event is read as the judge reads it, and survives being stored.
pub fn event(data: &[u8]) {
    let Ok(judged) = judge::event(data) else { return };
    let event = match (Event::parse(data), judged) {
        (Ok(event), Some(judged)) => {
            assert_eq!(value(&event_json(&event)), judged);
            event
        }
        (Err(_), None) => return,
        (Ok(_), None) => panic!("accepted, the judge refuses"),
        (Err(error), Some(_)) => panic!("{error}, the judge accepts"),
    };
    let json = event_json(&event);
    assert_eq!(Event::parse(&json).as_ref(), Ok(&event));
    // serde_json escapes as NIP-01 does, so it is a second opinion on what is hashed.
    let judged = value(&json);
    let [pubkey, created_at, kind, tags, content] =
        ["pubkey", "created_at", "kind", "tags", "content"].map(|name| judged[name].clone());
    let serialized = Value::from(vec![0.into(), pubkey, created_at, kind, tags, content]).to_string();
    let hash: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(serialized).into();
    assert_eq!(event.compute_id(), EventId(hash));
    assert_eq!(event.check_id().is_ok(), event.id.0 == hash);
    let _ = (event.check_signature(), event.expiration());

    let mut stored = Vec::new();
    encode(&event, &mut stored);
    let record = Record::new(&stored).expect("what was encoded is a record");
    let mut out = Vec::new();
    assert!(record.write_json(&mut out));
    assert_eq!(text(&out), text(&json));
    assert_eq!(record.to_event().as_ref(), Some(&event));
    assert_eq!(record.identifier(), event.identifier());
    if let Ok(expiration) = event.expiration() {
        assert_eq!(record.expiration(), expiration);
    }
    assert_eq!(indexed(&record), indexed(&event));
}

fn indexed(event: &impl EventFields) -> Vec<String> {
    let mut tags = Vec::new();
    let _ = event.visit_indexed_tags(|name, value| {
        tags.push(format!("{name} {:?}", value.to_value()));
        ControlFlow::Continue(())
    });
    tags
}

/// Events for filters to choose from.
fn some_events() -> Vec<Event> {
    let hex = "ab".repeat(32);
    let tags: [&[&[&str]]; 4] = [
        &[],
        &[&["t", "x"], &["e", &hex, "y"], &["t", "y"]],
        &[&["p", &hex], &["T", "x"], &["t"], &["d", ""]],
        &[&["t", &hex], &["t", "\u{0}\"\\é"], &["tt", "x"], &["", "x"]],
    ];
    let event = |(n, tags): (usize, &&[&[&str]])| Event {
        id: EventId([if n == 3 { 0xab } else { n as u8 }; 32]),
        pubkey: PublicKey([if n == 2 { 0xab } else { n as u8 }; 32]),
        created_at: [0, 5, 1_700_000_000, (1 << 53) - 1][n],
        kind: Kind([0, 1, 1059, 65_535][n]),
        tags: tags.iter().copied().collect(),
        content: "".into(),
        sig: Signature([n as u8; 64]),
    };
    tags.iter().enumerate().map(event).collect()
}

/// A filter is read as the judge reads it, and matches what NIP-01 says.
pub fn filter(data: &[u8]) {
    let Ok(judged) = judge::filter(data) else { return };
    let (filter, judged) = match (Filter::parse(data), judged) {
        (Ok(filter), Some(judged)) => (filter, judged),
        (Err(error), None) => return assert!(error.to_string().len() < 400, "{error}"),
        (Ok(_), None) => panic!("accepted, the judge refuses"),
        (Err(error), Some(_)) => panic!("{error}, the judge accepts"),
    };
    let mut json = Vec::new();
    filter.write_json(&mut json);
    assert_eq!(Filter::parse(&json).as_ref(), Ok(&filter), "{}", text(&json));
    let mut normal = filter.clone();
    normal.normalize();
    assert_eq!(normal, filter);
    assert!(filter.memory() >= size_of::<Filter>());
    for event in some_events() {
        let by_the_words = judge::matches(&judged, &value(&event_json(&event)));
        assert_eq!(filter.matches(&event), by_the_words, "{event:?}");
        assert!(!(filter.is_impossible() && by_the_words));
        let mut stored = Vec::new();
        encode(&event, &mut stored);
        let record = Record::new(&stored).expect("what was encoded is a record");
        assert_eq!(filter.matches(&record), by_the_words, "{event:?}");
    }
}

/// Whatever a disk makes of a record: it is refused, or it is an event.
pub fn record(data: &[u8]) {
    let Some(record) = Record::new(data) else { return };
    let (mut json, event) = (Vec::new(), record.to_event());
    let whole = record.write_json(&mut json);
    // A reader of a damaged record gets nothing, or the tags up to the damage.
    let (tags, _, _) = (indexed(&record), record.identifier(), record.expiration());
    if !whole {
        return;
    }
    value(&json);
    let event = event.expect("what can be written can be read");
    // A record may hold what no event is: a tag without elements, a time beyond 2^53.
    let Ok(parsed) = Event::parse(&json) else { return };
    assert_eq!(parsed, event);
    assert_eq!(text(&event_json(&event)), text(&json));
    assert_eq!(tags, indexed(&event));
    let mut again = Vec::new();
    encode(&event, &mut again);
    assert_eq!(Record::new(&again).and_then(|record| record.to_event()), Some(event));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Mutations of each seed: enough to find what is broken, few enough for every test run.
    const MUTATIONS: usize = 300;

    /// A small generator of numbers: the same failure everywhere.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }
    }

    /// Some edits: bytes changed, taken out and put in, pieces doubled, two seeds joined.
    fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
        const LIKELY: &[u8] = b"\"\\{}[],:0123456789-+.eEutrfnlsax# \n\r\t/\0\x01\x1f\x7e\x7f\x80\x81\x90\xc4\xff=;'";
        let mut bytes = seed.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() + 1);
            let end = (at + random.below(16)).min(bytes.len());
            match random.below(8) {
                0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => bytes.truncate(at),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    let to = random.below(bytes.len() + 1);
                    bytes.splice(to..to, piece);
                }
                4 => {
                    let from = random.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                5 if at < bytes.len() => bytes[at] = LIKELY[random.below(LIKELY.len())],
                _ => bytes.insert(at, LIKELY[random.below(LIKELY.len())]),
            }
        }
        bytes
    }

    fn run(target: &str, body: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(&folder)
            .expect("each target has seeds")
            .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a seed"))
            .collect();
        seeds.sort();
        assert!(!seeds.is_empty());
        let run = |input: &[u8]| {
            let escaped = || format!("{target}: {}", input.escape_ascii());
            std::panic::catch_unwind(|| body(input)).unwrap_or_else(|_| panic!("{}", escaped()));
        };
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for seed in &seeds {
            run(seed);
            for _ in 0..MUTATIONS {
                let other = &seeds[random.below(seeds.len())];
                run(&mutate(seed, other, &mut random));
            }
        }
    }

    #[test]
    fn messages() {
        run("message", super::message);
    }

    #[test]
    fn events() {
        run("event", super::event);
    }

    #[test]
    fn filters() {
        run("filter", super::filter);
    }

    #[test]
    fn records() {
        run("record", super::record);
    }

    #[test]
    fn frames() {
        run("frame", super::frame);
    }

    #[test]
    fn headers() {
        run("header", super::header);
    }

    #[test]
    fn databases() {
        run("sqlite", super::sqlite);
    }

    #[test]
    fn configurations() {
        run("config", super::config);
    }
}
