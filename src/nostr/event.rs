//! Events: parsed in one pass over the bytes, hashed, verified, signed, and written in canonical form.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::ControlFlow;

use secp256k1::{Keypair, XOnlyPublicKey, schnorr};
use sha2::{Digest, Sha256};

use super::id::{EventId, PublicKey, Signature};
use super::json::{self, JsonError, Scanner, write_hex, write_number, write_string};
use super::kind::Kind;
use super::tag::{TagName, TagRef, Tags, TagsBuilder};

/// The largest `created_at`: 2^53 - 1, the last integer that every JSON implementation reads exactly (N01-18).
pub const MAX_CREATED_AT: u64 = (1 << 53) - 1;

/// A signed event (NIP-01). Parsing checks its shape; [`Event::check_id`] and [`Event::check_signature`]
/// check that it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Hash of the other fields but `sig`.
    pub id: EventId,
    /// The author.
    pub pubkey: PublicKey,
    /// Unix seconds, at most [`MAX_CREATED_AT`].
    pub created_at: u64,
    /// What sort of event this is.
    pub kind: Kind,
    /// Tags in the author's order.
    pub tags: Tags,
    /// Any text.
    pub content: Box<str>,
    /// The author's signature of `id`.
    pub sig: Signature,
}

/// One of the seven members of an event object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// `id`
    Id,
    /// `pubkey`
    Pubkey,
    /// `created_at`
    CreatedAt,
    /// `kind`
    Kind,
    /// `tags`
    Tags,
    /// `content`
    Content,
    /// `sig`
    Sig,
}

impl Field {
    const ALL: [Field; 7] =
        [Field::Id, Field::Pubkey, Field::CreatedAt, Field::Kind, Field::Tags, Field::Content, Field::Sig];

    /// The member's name.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Id => "id",
            Field::Pubkey => "pubkey",
            Field::CreatedAt => "created_at",
            Field::Kind => "kind",
            Field::Tags => "tags",
            Field::Content => "content",
            Field::Sig => "sig",
        }
    }

    /// What a value of this member must be.
    const fn expected(self) -> &'static str {
        match self {
            Field::Id | Field::Pubkey => "64 lower-case hexadecimal digits",
            Field::CreatedAt => "an integer between 0 and 9007199254740991",
            Field::Kind => "an integer between 0 and 65535",
            Field::Tags => "a list of lists of strings",
            Field::Content => "a string",
            Field::Sig => "128 lower-case hexadecimal digits",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with an event. The text is what follows `invalid: ` in an OK message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The text is not acceptable JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The text is JSON but not an object.
    #[error("an event must be an object")]
    NotAnObject,
    /// A member is absent.
    #[error("{0} is missing")]
    Missing(Field),
    /// A member occurs twice (N01-29).
    #[error("{0} occurs twice")]
    Duplicate(Field),
    /// A member has the wrong type, range or spelling.
    #[error("{field} must be {expected}", field = .0, expected = .0.expected())]
    Malformed(Field),
    /// A tag is an empty list (N01-25).
    #[error("a tag must have at least one element")]
    EmptyTag,
    /// The strings of an event come to more than 2 GiB.
    #[error("the event is too large")]
    TooLarge,
    /// The id is not the hash of the event (N01-12).
    #[error("id is not the hash of the event")]
    WrongId,
    /// The public key is not on the curve (N01-14).
    #[error("pubkey is not a point on the curve")]
    WrongPubkey,
    /// The signature does not fit id and public key (N01-13).
    #[error("sig is not a signature of id by pubkey")]
    WrongSignature,
    /// An expiration tag cannot be read (N40-05).
    #[error("expiration must be unix seconds, digits only")]
    Expiration,
}

/// What a filter needs to see of an event; implemented by [`Event`] and by the stored record.
pub trait EventFields {
    /// The event's id.
    fn id(&self) -> EventId;
    /// The author.
    fn pubkey(&self) -> PublicKey;
    /// Unix seconds.
    fn created_at(&self) -> u64;
    /// The kind.
    fn kind(&self) -> Kind;
    /// Calls `visit` for every tag whose name is one ASCII letter and that has a value, in order, until it
    /// breaks.
    fn visit_indexed_tags(&self, visit: impl FnMut(TagName, TagRef<'_>) -> ControlFlow<()>) -> ControlFlow<()>;
}

impl EventFields for Event {
    fn id(&self) -> EventId {
        self.id
    }

    fn pubkey(&self) -> PublicKey {
        self.pubkey
    }

    fn created_at(&self) -> u64 {
        self.created_at
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn visit_indexed_tags(&self, mut visit: impl FnMut(TagName, TagRef<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        self.tags.iter().filter_map(|tag| tag.indexed()).try_for_each(|(name, value)| visit(name, value))
    }
}

impl Event {
    /// Parses one event object. JSON whitespace around it is allowed, nothing else is.
    ///
    /// Members other than the seven are skipped and lost (N01-28). Neither the id nor the signature is
    /// checked here.
    pub fn parse(json: &[u8]) -> Result<Event, EventError> {
        let mut scanner = Scanner::new(json::utf8(json)?);
        let event = json::with_scratch(|scratch| Event::scan(&mut scanner, scratch))?;
        scanner.end()?;
        Ok(event)
    }

    /// Reads the event object that starts at the scanner's position. `scratch` is overwritten.
    pub(crate) fn scan(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<Event, EventError> {
        if !scanner.enter_object()? {
            scanner.expect_value()?;
            return Err(EventError::NotAnObject);
        }
        scan_members(scanner, scratch)
    }

    /// The id this event must have: SHA-256 of its canonical serialisation (N01-04 to N01-10).
    pub fn compute_id(&self) -> EventId {
        compute_id(&self.pubkey, self.created_at, self.kind, &self.tags, &self.content)
    }

    /// Checks that the id is the hash of the event (N01-12).
    pub fn check_id(&self) -> Result<(), EventError> {
        if self.compute_id() == self.id { Ok(()) } else { Err(EventError::WrongId) }
    }

    /// Checks the signature of the id (BIP-340, N01-13). Says nothing about the id itself.
    pub fn check_signature(&self) -> Result<(), EventError> {
        let pubkey = point_of(&self.pubkey).ok_or(EventError::WrongPubkey)?;
        schnorr::verify(&schnorr::Signature::from_byte_array(self.sig.0), &self.id.0, &pubkey)
            .map_err(|_| EventError::WrongSignature)
    }

    /// Appends the event in canonical form: the seven members in the order id, pubkey, created_at, kind,
    /// tags, content, sig, escapes as NIP-01 wants them, no whitespace.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Everything but escapes: 384 hexadecimal digits, names, numbers and punctuation.
        out.reserve(
            480 + self.content.len() + self.tags.text_len() + 3 * self.tags.element_count() + 3 * self.tags.len(),
        );
        out.extend_from_slice(b"{\"id\":\"");
        write_hex(out, &self.id.0);
        out.extend_from_slice(b"\",\"pubkey\":\"");
        write_hex(out, &self.pubkey.0);
        out.extend_from_slice(b"\",\"created_at\":");
        write_number(out, self.created_at);
        out.extend_from_slice(b",\"kind\":");
        write_number(out, self.kind.0.into());
        out.extend_from_slice(b",\"tags\":");
        write_tags(out, &self.tags);
        out.extend_from_slice(b",\"content\":");
        write_string(out, &self.content);
        out.extend_from_slice(b",\"sig\":\"");
        write_hex(out, &self.sig.0);
        out.extend_from_slice(b"\"}");
    }

    /// When the event expires, in unix seconds: the earliest of its `expiration` tags (NIP-40, N40-06).
    /// One that is not a plain number is an error (N40-05).
    pub fn expiration(&self) -> Result<Option<u64>, EventError> {
        let mut earliest = None;
        for tag in self.tags.iter().filter(|tag| tag.name() == "expiration") {
            let time = tag.value().and_then(parse_expiration).ok_or(EventError::Expiration)?;
            earliest = Some(earliest.map_or(time, |earlier: u64| earlier.min(time)));
        }
        Ok(earliest)
    }

    /// The identifier of an addressable event: the value of its first `d` tag, or "" (N01-39, N01-40).
    pub fn identifier(&self) -> &str {
        self.tags.iter().find(|tag| tag.name() == "d").and_then(|tag| tag.value()).unwrap_or_default()
    }
}

/// Digits only, at most 2^63.
fn parse_expiration(value: &str) -> Option<u64> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|&time| time <= 1 << 63)
}

thread_local! {
    /// Where tags are gathered before they are copied with exact size; taken while in use.
    static TAG_BUFFERS: Cell<(String, Vec<u32>)> = const { Cell::new((String::new(), Vec::new())) };
    /// Where the serialisation is built that the id is the hash of; taken while in use.
    static ID_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Buffers that grew beyond this are given back to the allocator.
const BUFFER_KEPT: usize = 256 << 10;

/// Reads the members of an event object that has been entered.
fn scan_members(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<Event, EventError> {
    let (mut id, mut pubkey, mut created_at, mut kind) = (None, None, None, None);
    let (mut tags, mut content, mut sig) = (None, None, None);
    let mut seen = 0u8;
    let mut first = true;
    while let Some(name) = scanner.next_member(&mut first, scratch)? {
        let field = match name {
            "id" => Field::Id,
            "pubkey" => Field::Pubkey,
            "created_at" => Field::CreatedAt,
            "kind" => Field::Kind,
            "tags" => Field::Tags,
            "content" => Field::Content,
            "sig" => Field::Sig,
            _ => {
                scanner.skip_value()?;
                continue;
            }
        };
        let bit = 1 << field as u8;
        if seen & bit != 0 {
            return Err(EventError::Duplicate(field));
        }
        seen |= bit;
        let malformed = EventError::Malformed(field);
        match field {
            Field::Id => {
                let text = scan_text(scanner, scratch, malformed)?;
                id = Some(EventId::from_hex(text).ok_or(EventError::Malformed(field))?);
            }
            Field::Pubkey => {
                let text = scan_text(scanner, scratch, malformed)?;
                pubkey = Some(PublicKey::from_hex(text).ok_or(EventError::Malformed(field))?);
            }
            Field::Sig => {
                let text = scan_text(scanner, scratch, malformed)?;
                sig = Some(Signature::from_hex(text).ok_or(EventError::Malformed(field))?);
            }
            Field::CreatedAt => {
                let time = scanner.digits()?.filter(|&time| time <= MAX_CREATED_AT);
                created_at = Some(time.ok_or(malformed)?);
            }
            Field::Kind => {
                let number = scanner.digits()?.and_then(|number| u16::try_from(number).ok());
                kind = Some(Kind(number.ok_or(malformed)?));
            }
            Field::Tags => tags = Some(scan_tags(scanner)?),
            Field::Content => content = Some(scan_text(scanner, scratch, malformed)?.into()),
        }
    }
    match (id, pubkey, created_at, kind, tags, content, sig) {
        (Some(id), Some(pubkey), Some(created_at), Some(kind), Some(tags), Some(content), Some(sig)) => {
            Ok(Event { id, pubkey, created_at, kind, tags, content, sig })
        }
        _ => {
            let missing = Field::ALL.into_iter().find(|&field| seen & 1 << field as u8 == 0);
            // One is missing, or the arm above would have matched.
            Err(EventError::Missing(missing.unwrap_or(Field::Id)))
        }
    }
}

/// Reads a string, or fails with `otherwise` when another type is there.
#[inline]
fn scan_text<'s, 'a: 's>(
    scanner: &mut Scanner<'a>,
    scratch: &'s mut String,
    otherwise: EventError,
) -> Result<&'s str, EventError> {
    match scanner.peek() {
        Some(b'"') => Ok(scanner.string(scratch)?),
        _ => Err(otherwise),
    }
}

/// Reads a list of lists of strings (N01-21 to N01-25).
fn scan_tags(scanner: &mut Scanner<'_>) -> Result<Tags, EventError> {
    let (mut text, mut ends) = TAG_BUFFERS.take();
    text.clear();
    ends.clear();
    let result = scan_tags_into(scanner, TagsBuilder { text: &mut text, ends: &mut ends, len: 0 })
        .map(|len| Tags::from_buffers(&text, &ends, len));
    if text.capacity() + ends.capacity() * size_of::<u32>() <= BUFFER_KEPT {
        TAG_BUFFERS.set((text, ends));
    }
    result
}

fn scan_tags_into(scanner: &mut Scanner<'_>, mut tags: TagsBuilder<'_>) -> Result<u32, EventError> {
    const MALFORMED: EventError = EventError::Malformed(Field::Tags);
    if !scanner.enter_array()? {
        return Err(MALFORMED);
    }
    let mut first_tag = true;
    while scanner.next_element(&mut first_tag)? {
        if !scanner.enter_array()? {
            return Err(MALFORMED);
        }
        let mut first = true;
        while scanner.next_element(&mut first)? {
            if scanner.peek() != Some(b'"') {
                return Err(MALFORMED);
            }
            scanner.string_into(tags.text)?;
            if !tags.end_element() {
                return Err(EventError::TooLarge);
            }
        }
        if !tags.end_tag() {
            return Err(EventError::EmptyTag);
        }
    }
    Ok(tags.len)
}

fn write_tags(out: &mut Vec<u8>, tags: &Tags) {
    out.push(b'[');
    for (i, tag) in tags.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b"[" } else { b",[" });
        for (j, value) in tag.iter().enumerate() {
            if j > 0 {
                out.push(b',');
            }
            write_string(out, value);
        }
        out.push(b']');
    }
    out.push(b']');
}

fn compute_id(pubkey: &PublicKey, created_at: u64, kind: Kind, tags: &Tags, content: &str) -> EventId {
    let mut buffer = ID_BUFFER.take();
    buffer.clear();
    buffer.extend_from_slice(b"[0,\"");
    write_hex(&mut buffer, &pubkey.0);
    buffer.extend_from_slice(b"\",");
    write_number(&mut buffer, created_at);
    buffer.push(b',');
    write_number(&mut buffer, kind.0.into());
    buffer.push(b',');
    write_tags(&mut buffer, tags);
    buffer.push(b',');
    write_string(&mut buffer, content);
    buffer.push(b']');
    let id = EventId(Sha256::digest(&buffer).into());
    if buffer.capacity() <= BUFFER_KEPT {
        ID_BUFFER.set(buffer);
    }
    id
}

/// Points kept by each thread that verifies: 400 KiB, for the thousands of authors it met last.
const KNOWN_POINTS: usize = 4096;

/// The point of the curve that a public key stands for; `None` when there is none. Finding it takes a square root, a seventh of
/// a verification, and most events are by few authors: points are kept in a table that a key's first bytes
/// index. Whoever grinds such bytes evicts others and gains nothing.
fn point_of(pubkey: &PublicKey) -> Option<XOnlyPublicKey> {
    thread_local! {
        static KNOWN: RefCell<Vec<Option<(PublicKey, XOnlyPublicKey)>>> = const { RefCell::new(Vec::new()) };
    }
    KNOWN.with_borrow_mut(|known| {
        known.resize(KNOWN_POINTS, None);
        let slot = &mut known[usize::from(u16::from_be_bytes([pubkey.0[0], pubkey.0[1]])) % KNOWN_POINTS];
        match slot {
            Some((key, point)) if key == pubkey => Some(*point),
            _ => {
                let point = XOnlyPublicKey::from_byte_array(pubkey.0).ok()?;
                *slot = Some((*pubkey, point));
                Some(point)
            }
        }
    })
}

/// What an author fills in before signing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsignedEvent {
    /// Unix seconds.
    pub created_at: u64,
    /// What sort of event this is.
    pub kind: Kind,
    /// Tags in the author's order.
    pub tags: Tags,
    /// Any text.
    pub content: Box<str>,
}

impl UnsignedEvent {
    /// Completes the event with author, id and signature. The signature uses no auxiliary randomness, so
    /// the same event signed twice is the same event.
    pub fn sign(self, key: &Keypair) -> Event {
        let UnsignedEvent { created_at, kind, tags, content } = self;
        let pubkey = PublicKey(key.x_only_public_key().0.to_byte_array());
        let id = compute_id(&pubkey, created_at, kind, &tags, &content);
        let sig = Signature(schnorr::sign_with_aux_rand(&id.0, key, &[0; 32]).to_byte_array());
        Event { id, pubkey, created_at, kind, tags, content, sig }
    }
}
