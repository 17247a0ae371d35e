//! The stored form of an event: one MessagePack array, read in place and turned into JSON text without a struct between.
//!
//! `[id, pubkey, created_at, kind, tags, content, sig]`: ids, keys and signatures as `bin`, a tag value of 64 lower-case
//! hex digits as `bin 32`, `created_at` and `kind` at full width. So every fixed field lies at a fixed offset, and
//! the record is still MessagePack that any reader understands:
//!
//! ```text
//! 0x97 | c4 20 id[32] | c4 20 pubkey[32] | cf created_at[8] | cd kind[2] | tags | content | c4 40 sig[64]
//! 0      1              35                 69                 78           81               len-66
//! ```

use std::ops::ControlFlow;

use crate::nostr::{Event, EventFields, EventId, Kind, PublicKey, Signature, TagName, TagRef, Tags, json};

const ID: usize = 3;
const PUBKEY: usize = 37;
const CREATED_AT: usize = 70;
const KIND: usize = 79;
const TAGS: usize = 81;
const SIG: usize = 66;
/// The shortest possible record: no tags, no content.
const MIN: usize = TAGS + 1 + 1 + SIG;

const BIN8: u8 = 0xC4;

/// Appends the record of `event` to `out`.
pub fn encode(event: &Event, out: &mut Vec<u8>) {
    out.reserve(MIN + event.content.len() + 16 * event.tags.len() + 8);
    out.push(0x97);
    out.extend_from_slice(&[BIN8, 32]);
    out.extend_from_slice(&event.id.0);
    out.extend_from_slice(&[BIN8, 32]);
    out.extend_from_slice(&event.pubkey.0);
    out.push(0xCF);
    out.extend_from_slice(&event.created_at.to_be_bytes());
    out.push(0xCD);
    out.extend_from_slice(&event.kind.0.to_be_bytes());
    // Writing into a Vec cannot fail, hence the ignored results.
    let _ = rmp::encode::write_array_len(out, event.tags.len() as u32);
    for tag in event.tags.iter() {
        let _ = rmp::encode::write_array_len(out, tag.len() as u32);
        for value in tag.iter() {
            let _ = match TagRef::new(value) {
                TagRef::Hex(bytes) => rmp::encode::write_bin(out, &bytes),
                TagRef::Text(text) => rmp::encode::write_str(out, text),
            };
        }
    }
    let _ = rmp::encode::write_str(out, &event.content);
    out.extend_from_slice(&[BIN8, 64]);
    out.extend_from_slice(&event.sig.0);
}

/// A stored event, borrowed from the database. Reading it allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Checks the frame of a record; `None` when these bytes are not one. The tags and the content are checked as they are
    /// read: a damaged part ends early, it never panics.
    pub fn new(bytes: &'a [u8]) -> Option<Record<'a>> {
        let marks = [(0, 0x97), (1, BIN8), (2, 32), (35, BIN8), (36, 32), (69, 0xCF), (78, 0xCD)];
        let framed = bytes.len() >= MIN
            && marks.iter().all(|&(at, mark)| bytes[at] == mark)
            && bytes[bytes.len() - SIG..].starts_with(&[BIN8, 64]);
        framed.then_some(Record { bytes })
    }

    /// What [`encode`] wrote, which needs no checks.
    pub(super) fn of_encoded(bytes: &'a [u8]) -> Record<'a> {
        debug_assert!(Record::new(bytes).is_some());
        Record { bytes }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        // `new` checked that the record is longer than every fixed field's end.
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }

    /// The signature.
    pub fn sig(&self) -> Signature {
        Signature(self.array(self.bytes.len() - 64))
    }

    /// The record's bytes as stored.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn body(&self) -> Reader<'a> {
        Reader(&self.bytes[TAGS..self.bytes.len() - SIG])
    }

    /// Appends the event's canonical JSON, the same text as [`Event::write_json`]. False when the record is damaged; `out` then
    /// holds a part and must be cut back by the caller.
    #[must_use]
    pub fn write_json(&self, out: &mut Vec<u8>) -> bool {
        out.reserve(self.bytes.len() * 2);
        out.extend_from_slice(b"{\"id\":\"");
        json::write_hex(out, &self.bytes[ID..ID + 32]);
        out.extend_from_slice(b"\",\"pubkey\":\"");
        json::write_hex(out, &self.bytes[PUBKEY..PUBKEY + 32]);
        out.extend_from_slice(b"\",\"created_at\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.created_at()).as_bytes());
        out.extend_from_slice(b",\"kind\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.kind().0).as_bytes());
        out.extend_from_slice(b",\"tags\":");
        let mut body = self.body();
        if body.write_tags(out).is_none() {
            return false;
        }
        out.extend_from_slice(b",\"content\":");
        let Some(Value::Text(content)) = body.value() else { return false };
        json::write_string(out, content);
        out.extend_from_slice(b",\"sig\":\"");
        json::write_hex(out, &self.bytes[self.bytes.len() - 64..]);
        out.extend_from_slice(b"\"}");
        body.0.is_empty()
    }

    /// The event as a struct of its own; `None` when the record is damaged.
    pub fn to_event(&self) -> Option<Event> {
        let mut body = self.body();
        let mut tags = Tags::default();
        let mut values: Vec<std::borrow::Cow<'_, str>> = Vec::new();
        for _ in 0..body.array_len()? {
            values.clear();
            for _ in 0..body.array_len()? {
                values.push(match body.value()? {
                    Value::Text(text) => text.into(),
                    Value::Hex(bytes) => const_hex::encode(bytes).into(),
                });
            }
            tags.push(&values);
        }
        let Value::Text(content) = body.value()? else { return None };
        Some(Event {
            id: self.id(),
            pubkey: self.pubkey(),
            created_at: self.created_at(),
            kind: self.kind(),
            tags,
            content: content.into(),
            sig: self.sig(),
        })
    }

    /// NIP-40: the earliest `expiration` tag that can be read.
    pub fn expiration(&self) -> Option<u64> {
        let mut earliest = None;
        let mut body = self.body();
        for _ in 0..body.array_len()? {
            let len = body.array_len()?;
            let mut is_expiration = false;
            for i in 0..len {
                let value = body.value()?;
                match (i, value) {
                    (0, Value::Text("expiration")) => is_expiration = true,
                    (1, Value::Text(text)) if is_expiration => {
                        if let Ok(at) = text.parse::<u64>() {
                            earliest = Some(earliest.map_or(at, |e: u64| e.min(at)));
                        }
                    }
                    _ => {}
                }
            }
        }
        earliest
    }

    /// The value of the first `d` tag, `""` without one (N01-39, N01-40).
    pub fn identifier(&self) -> String {
        let mut found = None;
        let mut body = self.body();
        let mut walk = || -> Option<()> {
            for _ in 0..body.array_len()? {
                let len = body.array_len()?;
                let mut is_identifier = false;
                for i in 0..len {
                    let value = body.value()?;
                    match (i, value) {
                        (0, Value::Text("d")) => is_identifier = true,
                        (1, value) if is_identifier => {
                            found = Some(match value {
                                Value::Text(text) => text.to_owned(),
                                Value::Hex(bytes) => const_hex::encode(bytes),
                            });
                        }
                        _ => {}
                    }
                }
                if is_identifier {
                    return Some(());
                }
            }
            Some(())
        };
        walk();
        found.unwrap_or_default()
    }
}

impl EventFields for Record<'_> {
    fn id(&self) -> EventId {
        EventId(self.array(ID))
    }

    fn pubkey(&self) -> PublicKey {
        PublicKey(self.array(PUBKEY))
    }

    fn created_at(&self) -> u64 {
        u64::from_be_bytes(self.array(CREATED_AT))
    }

    fn kind(&self) -> Kind {
        Kind(u16::from_be_bytes(self.array(KIND)))
    }

    fn visit_indexed_tags(&self, visit: &mut dyn FnMut(TagName, TagRef<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut body = self.body();
        let Some(count) = body.array_len() else { return ControlFlow::Continue(()) };
        for _ in 0..count {
            let Some(len) = body.array_len() else { return ControlFlow::Continue(()) };
            let mut name = None;
            for i in 0..len {
                let Some(value) = body.value() else { return ControlFlow::Continue(()) };
                match (i, value) {
                    (0, Value::Text(text)) => name = TagName::new(text),
                    (1, value) => {
                        if let Some(name) = name {
                            visit(
                                name,
                                match value {
                                    Value::Text(text) => TagRef::Text(text),
                                    Value::Hex(bytes) => TagRef::Hex(bytes),
                                },
                            )?;
                        }
                    }
                    _ => {}
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A string of the event: as text, or as the 32 bytes that stand for 64 hex digits.
enum Value<'a> {
    Text(&'a str),
    Hex([u8; 32]),
}

/// Reads the few MessagePack forms that [`encode`] writes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |n, &byte| n << 8 | usize::from(byte)))
    }

    fn array_len(&mut self) -> Option<usize> {
        match self.take(1)?[0] {
            mark @ 0x90..=0x9F => Some(usize::from(mark & 0x0F)),
            0xDC => self.number(2),
            0xDD => self.number(4),
            _ => None,
        }
    }

    fn value(&mut self) -> Option<Value<'a>> {
        let len = match self.take(1)?[0] {
            mark @ 0xA0..=0xBF => usize::from(mark & 0x1F),
            0xD9 => self.number(1)?,
            0xDA => self.number(2)?,
            0xDB => self.number(4)?,
            BIN8 if self.number(1)? == 32 => {
                let mut bytes = [0; 32];
                bytes.copy_from_slice(self.take(32)?);
                return Some(Value::Hex(bytes));
            }
            _ => return None,
        };
        std::str::from_utf8(self.take(len)?).ok().map(Value::Text)
    }

    fn write_tags(&mut self, out: &mut Vec<u8>) -> Option<()> {
        out.push(b'[');
        for i in 0..self.array_len()? {
            out.extend_from_slice(if i == 0 { b"[" } else { b",[" });
            for j in 0..self.array_len()? {
                if j > 0 {
                    out.push(b',');
                }
                match self.value()? {
                    Value::Text(text) => json::write_string(out, text),
                    Value::Hex(bytes) => {
                        out.push(b'"');
                        json::write_hex(out, &bytes);
                        out.push(b'"');
                    }
                }
            }
            out.push(b']');
        }
        out.push(b']');
        Some(())
    }
}
