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

use std::ops::{ControlFlow, Range};

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

/// A stored event, borrowed from the database. Reading it allocates nothing, but for the few long ones that lie there in parts, see
/// `store/parts.rs`.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    bytes: Bytes<'a>,
}

#[derive(Clone, Debug)]
enum Bytes<'a> {
    Stored(&'a [u8]),
    PutTogether(Box<[u8]>),
}

impl<'a> Record<'a> {
    /// Checks the frame of a record; `None` when these bytes are not one. The tags and the content are checked as they are
    /// read: a damaged part ends early, it never panics.
    pub fn new(bytes: &'a [u8]) -> Option<Record<'a>> {
        Record::is_framed(bytes).then_some(Record { bytes: Bytes::Stored(bytes) })
    }

    /// The same of bytes that nobody else has.
    pub(super) fn of_parts(bytes: Box<[u8]>) -> Option<Record<'a>> {
        Record::is_framed(&bytes).then_some(Record { bytes: Bytes::PutTogether(bytes) })
    }

    fn is_framed(bytes: &[u8]) -> bool {
        let marks = [(0, 0x97), (1, BIN8), (2, 32), (35, BIN8), (36, 32), (69, 0xCF), (78, 0xCD)];
        bytes.len() >= MIN
            && marks.iter().all(|&(at, mark)| bytes[at] == mark)
            && bytes[bytes.len() - SIG..].starts_with(&[BIN8, 64])
    }

    /// What [`encode`] wrote, which needs no checks.
    pub(super) fn of_encoded(bytes: &'a [u8]) -> Record<'a> {
        debug_assert!(Record::is_framed(bytes));
        Record { bytes: Bytes::Stored(bytes) }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        // `new` checked that the record is longer than every fixed field's end.
        out.copy_from_slice(&self.as_bytes()[at..at + N]);
        out
    }

    /// The signature.
    pub fn sig(&self) -> Signature {
        Signature(self.array(self.as_bytes().len() - 64))
    }

    /// The record's bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Stored(bytes) => bytes,
            Bytes::PutTogether(bytes) => bytes,
        }
    }

    /// The record's bytes, for those who keep them.
    pub(super) fn into_bytes(self) -> Box<[u8]> {
        match self.bytes {
            Bytes::Stored(bytes) => bytes.into(),
            Bytes::PutTogether(bytes) => bytes,
        }
    }

    /// Bytes of memory that it takes beside itself.
    pub(super) fn memory(&self) -> usize {
        match &self.bytes {
            Bytes::Stored(_) => 0,
            Bytes::PutTogether(bytes) => bytes.len(),
        }
    }

    #[inline]
    fn body(&self) -> Reader<'_> {
        Reader { bytes: self.as_bytes(), at: TAGS }
    }

    /// Appends the event's canonical JSON, the same text as [`Event::write_json`]. False when the record is damaged; `out` then
    /// holds a part and must be cut back by the caller.
    #[must_use]
    pub fn write_json(&self, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.reserve(self.as_bytes().len() * 2 + HEAD.len());
        out.extend_from_slice(HEAD);
        // Neither can fail: the room is exactly what the digits need.
        let _ = const_hex::encode_to_slice(self.array::<32>(ID), &mut out[start + HEAD_ID..][..64]);
        let _ = const_hex::encode_to_slice(self.array::<32>(PUBKEY), &mut out[start + HEAD_PUBKEY..][..64]);
        out.extend_from_slice(itoa::Buffer::new().format(self.created_at()).as_bytes());
        out.extend_from_slice(b",\"kind\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.kind().0).as_bytes());
        out.extend_from_slice(b",\"tags\":");
        let mut body = self.body();
        let Some(mut ascii) = body.write_tags(out) else { return false };
        out.extend_from_slice(b",\"content\":");
        let Some(Piece::Text(content)) = body.piece() else { return false };
        ascii &= json::write_text(out, &body.bytes[content.start..], content.len());
        out.extend_from_slice(b",\"sig\":\"");
        json::write_hex(out, &self.sig().0);
        out.extend_from_slice(b"\"}");
        // Strings were copied without a look at what they are; one look at all of them together is cheaper. What divides them is
        // ASCII, so that no damaged one can be made good by its neighbour.
        body.is_at_end() && (ascii || simdutf8::basic::from_utf8(&out[start..]).is_ok())
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

    fn visit_indexed_tags(&self, mut visit: impl FnMut(TagName, TagRef<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut body = self.body();
        let Some(count) = body.array_len() else { return ControlFlow::Continue(()) };
        for _ in 0..count {
            if let Some((name, bytes)) = body.short_tag() {
                visit(name, TagRef::Hex(*bytes))?;
                continue;
            }
            let Some(mut left) = body.array_len() else { return ControlFlow::Continue(()) };
            if left >= 2
                && let Some(name) = body.letter()
            {
                left -= 2;
                match body.value() {
                    Some(Value::Text(text)) => visit(name, TagRef::Text(text))?,
                    Some(Value::Hex(bytes)) => visit(name, TagRef::Hex(bytes))?,
                    None => return ControlFlow::Continue(()),
                }
            }
            for _ in 0..left {
                if body.piece().is_none() {
                    return ControlFlow::Continue(());
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

/// The same, not looked at: where in the record it lies.
enum Piece {
    Text(Range<usize>),
    /// Of 32 bytes.
    Hex(usize),
}

/// Reads the few MessagePack forms that [`encode`] writes, front to back.
struct Reader<'a> {
    /// The whole record.
    bytes: &'a [u8],
    /// How far it is read; never beyond the beginning of the signature.
    at: usize,
}

impl<'a> Reader<'a> {
    /// Where the tags and the content end.
    fn end(&self) -> usize {
        // `Record::new` checked that there is a signature.
        self.bytes.len() - SIG
    }

    fn is_at_end(&self) -> bool {
        self.at == self.end()
    }

    fn take(&mut self, n: usize) -> Option<Range<usize>> {
        let start = self.at;
        if n > self.end() - start {
            return None;
        }
        self.at = start + n;
        Some(start..self.at)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes[self.take(1)?.start])
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.bytes[self.take(width)?].iter().fold(0, |n, &byte| n << 8 | usize::from(byte)))
    }

    #[inline]
    fn array_len(&mut self) -> Option<usize> {
        match self.byte()? {
            mark @ 0x90..=0x9F => Some(usize::from(mark & 0x0F)),
            0xDC => self.number(2),
            0xDD => self.number(4),
            _ => None,
        }
    }

    /// Reads a string of one ASCII letter; without one, nothing.
    #[inline]
    fn letter(&mut self) -> Option<TagName> {
        // Every record ends in a signature, so there are bytes to look at.
        if self.bytes[self.at] != 0xA1 {
            return None;
        }
        let name = TagName::from_byte(self.bytes[self.at + 1])?;
        self.take(2)?;
        Some(name)
    }

    /// Takes a tag that is a letter and 32 bytes, `["p","…64 hex digits…"]`, in one step; without one, nothing. Lists of contacts consist of
    /// hundreds of them.
    #[inline]
    fn short_tag(&mut self) -> Option<(TagName, &'a [u8; 32])> {
        let tag: &'a [u8; 37] = self.bytes[self.at..self.end()].first_chunk()?;
        let ([0x92, 0xA1, letter, BIN8, 32], bytes) = tag.split_first_chunk::<5>()? else { return None };
        let found = (TagName::from_byte(*letter)?, bytes.first_chunk()?);
        self.at += tag.len();
        Some(found)
    }

    #[inline]
    fn piece(&mut self) -> Option<Piece> {
        let len = match self.byte()? {
            mark @ 0xA0..=0xBF => usize::from(mark & 0x1F),
            BIN8 if self.byte()? == 32 => return Some(Piece::Hex(self.take(32)?.start)),
            0xD9 => self.number(1)?,
            0xDA => self.number(2)?,
            0xDB => self.number(4)?,
            _ => return None,
        };
        self.take(len).map(Piece::Text)
    }

    #[inline]
    fn value(&mut self) -> Option<Value<'a>> {
        match self.piece()? {
            Piece::Text(text) => std::str::from_utf8(&self.bytes[text]).ok().map(Value::Text),
            Piece::Hex(at) => self.bytes[at..].first_chunk().copied().map(Value::Hex),
        }
    }

    /// Appends the tags; returns whether they are ASCII.
    fn write_tags(&mut self, out: &mut Vec<u8>) -> Option<bool> {
        let mut ascii = true;
        out.push(b'[');
        for i in 0..self.array_len()? {
            if let Some((name, bytes)) = self.short_tag() {
                write_short_tag(out, i == 0, name, bytes);
                continue;
            }
            out.extend_from_slice(if i == 0 { b"[" } else { b",[" });
            for j in 0..self.array_len()? {
                if j > 0 {
                    out.push(b',');
                }
                match self.piece()? {
                    // What follows, the signature at the least, gives the writer its run-out.
                    Piece::Text(text) => ascii &= json::write_text(out, &self.bytes[text.start..], text.len()),
                    Piece::Hex(at) => write_hex32(out, self.bytes[at..].first_chunk()?),
                }
            }
            out.push(b']');
        }
        out.push(b']');
        Some(ascii)
    }
}

/// What every event's text begins with, its id and its author left blank, and where they stand.
const HEAD: &[u8; 162] = b"{\"id\":\"0000000000000000000000000000000000000000000000000000000000000000\",\
\"pubkey\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"created_at\":";
const HEAD_ID: usize = 7;
const HEAD_PUBKEY: usize = 83;

/// Appends 64 hex digits in quotes.
fn write_hex32(out: &mut Vec<u8>, bytes: &[u8; 32]) {
    let start = out.len();
    out.extend_from_slice(&[b'"'; 66]);
    // Cannot fail: the room is exactly what the digits need.
    let _ = const_hex::encode_to_slice(bytes, &mut out[start + 1..start + 65]);
}

/// Appends a tag of a letter and 64 hex digits, a comma before it unless it is the first.
#[inline]
fn write_short_tag(out: &mut Vec<u8>, first: bool, name: TagName, bytes: &[u8; 32]) {
    if !first {
        out.push(b',');
    }
    let start = out.len();
    let mut text = [b'"'; 72];
    text[..6].copy_from_slice(&[b'[', b'"', name.as_byte(), b'"', b',', b'"']);
    text[71] = b']';
    out.extend_from_slice(&text);
    // Cannot fail: the room is exactly what the digits need.
    let _ = const_hex::encode_to_slice(bytes, &mut out[start + 6..start + 70]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let hex = "ab".repeat(32);
        let tags: [&[&str]; 10] = [
            &["p", &hex, "wss://r", &hex],
            &["e", &hex],
            &["p", &hex],
            &["é", &hex],
            &["7", &hex],
            &["t"],
            &["long", "é"],
            &["p", "ü\"\n"],
            &[&hex, &hex],
            &[""],
        ];
        Event {
            id: EventId([1; 32]),
            pubkey: PublicKey([2; 32]),
            created_at: 1_700_000_000,
            kind: Kind(1),
            tags: tags.iter().copied().collect(),
            content: "ein Gruß, \"quoted\"\n".into(),
            sig: Signature([3; 64]),
        }
    }

    fn json(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        Record::new(bytes)?.write_json(&mut out).then_some(out)
    }

    #[test]
    fn a_record_reads_as_the_event_it_was_made_of() {
        let event = event();
        let mut bytes = Vec::new();
        encode(&event, &mut bytes);
        let mut expected = Vec::new();
        event.write_json(&mut expected);
        assert_eq!(json(&bytes).map(|j| String::from_utf8(j).unwrap()), String::from_utf8(expected).ok());
        let record = Record::new(&bytes).unwrap();
        let (mut of_record, mut of_event) = (Vec::new(), Vec::new());
        let _ = record.visit_indexed_tags(|name, value| {
            of_record.push((name, value.to_value()));
            ControlFlow::Continue(())
        });
        let _ = event.visit_indexed_tags(|name, value| {
            of_event.push((name, value.to_value()));
            ControlFlow::Continue(())
        });
        assert_eq!(of_record, of_event);
        assert_eq!(of_event.len(), 4);
    }

    /// Whatever a disk makes of a record: no panic, and no text that is not UTF-8.
    #[test]
    fn a_damaged_record_is_refused_or_is_still_text() {
        let mut bytes = Vec::new();
        encode(&event(), &mut bytes);
        for at in 0..bytes.len() {
            for value in [0x00, 0x7F, 0x80, 0x91, 0xA1, 0xC3, 0xC4, 0xDB, 0xDD, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Some(json) = json(&damaged) {
                    assert!(std::str::from_utf8(&json).is_ok(), "byte {at} is {value:#x}");
                }
                if let Some(record) = Record::new(&damaged) {
                    let _ = record.visit_indexed_tags(|_, _| ControlFlow::Continue(()));
                    let _ = (record.to_event(), record.expiration(), record.identifier());
                }
            }
            let _ = json(&bytes[..at]);
        }
    }
}
