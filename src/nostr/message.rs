//! Messages: what clients send, parsed in place, and the writers of what the relay answers.

use std::fmt;

use super::event::{Event, EventError};
use super::filter::Filter;
use super::hll::Sketch;
use super::id::EventId;
use super::json::{self, JsonError, Scanner, write_hex, write_number, write_string};

/// The longest subscription id, in code points (N01-61).
pub const MAX_SUBSCRIPTION_ID: usize = 64;

/// The most filters that one message may carry, whatever the configuration allows. It bounds what a
/// message of nothing but `{}` costs in memory.
pub const MAX_FILTERS: usize = 1000;

/// How much of a refused event's id is sent back, in characters (N01-79).
const ECHOED_ID: usize = 64;

/// The name a client gave a subscription: 1 to 64 code points, any of them (N01-61).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(Box<str>);

impl SubscriptionId {
    /// `None` when the text is empty or too long.
    pub fn new(text: &str) -> Option<Self> {
        match text.chars().take(MAX_SUBSCRIPTION_ID + 1).count() {
            1..=MAX_SUBSCRIPTION_ID => Some(SubscriptionId(text.into())),
            _ => None,
        }
    }

    /// The text, unescaped.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A well-formed message from a client. Ids, signatures and limits are still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Publish an event (NIP-01).
    Event(Box<Event>),
    /// Open or replace a subscription (NIP-01).
    Req {
        /// The subscription.
        id: SubscriptionId,
        /// At least one filter.
        filters: Vec<Filter>,
    },
    /// Count events (NIP-45).
    Count {
        /// The query.
        id: SubscriptionId,
        /// At least one filter.
        filters: Vec<Filter>,
    },
    /// End a subscription (NIP-01).
    Close(SubscriptionId),
    /// Answer an AUTH challenge (NIP-42).
    Auth(Box<Event>),
}

/// The answer to a message that cannot be processed. Reasons carry their machine-readable prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The message belongs to no event and no subscription.
    Notice(String),
    /// The event is unusable.
    Ok {
        /// The received id if it was a string, cut at 64 characters, else empty.
        id: String,
        /// Why.
        reason: String,
    },
    /// The request is unusable.
    Closed {
        /// The received subscription id.
        id: String,
        /// Why.
        reason: String,
    },
}

impl Rejected {
    /// Appends the answer as one JSON array.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Rejected::Notice(text) => write_notice(out, text),
            Rejected::Ok { id, reason } => {
                out.extend_from_slice(b"[\"OK\",");
                write_string(out, id);
                out.extend_from_slice(b",false,");
                write_string(out, reason);
                out.push(b']');
            }
            Rejected::Closed { id, reason } => write_closed(out, id, reason),
        }
    }
}

/// Why a message is refused, before the answer is chosen.
enum Refusal {
    Json(JsonError),
    Event(EventError),
    Rejected(Rejected),
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        Refusal::Json(error)
    }
}

impl From<EventError> for Refusal {
    fn from(error: EventError) -> Self {
        Refusal::Event(error)
    }
}

fn notice(reason: &str) -> Refusal {
    Refusal::Rejected(Rejected::Notice(reason.into()))
}

impl ClientMessage {
    /// Parses one message: the text of one WebSocket text message.
    ///
    /// Malformed JSON is always answered by a NOTICE (N01-80); a well-formed message with an unusable
    /// event by OK (N01-79), one with an unusable filter or subscription id by CLOSED (N01-62, N01-73).
    pub fn parse(text: &[u8]) -> Result<ClientMessage, Rejected> {
        let text = json::utf8(text).map_err(|error| Rejected::Notice(format!("invalid: {error}")))?;
        json::with_scratch(|scratch| scan_message(&mut Scanner::new(text), scratch))
            .map_err(|refusal| reject(text, refusal))
    }
}

fn scan_message(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<ClientMessage, Refusal> {
    const NOT_A_MESSAGE: &str = "invalid: a message must be an array that starts with a verb";
    if !scanner.enter_array()? {
        return Err(notice(NOT_A_MESSAGE));
    }
    let mut first = true;
    if !scanner.next_element(&mut first)? || scanner.peek() != Some(b'"') {
        return Err(notice(NOT_A_MESSAGE));
    }
    match scanner.string(scratch)? {
        "EVENT" => scan_event(scanner, scratch, "EVENT").map(ClientMessage::Event),
        "REQ" => scan_request(scanner, scratch, "REQ").map(|(id, filters)| ClientMessage::Req { id, filters }),
        "COUNT" => scan_request(scanner, scratch, "COUNT").map(|(id, filters)| ClientMessage::Count { id, filters }),
        "CLOSE" => scan_close(scanner, scratch).map(ClientMessage::Close),
        "AUTH" => scan_event(scanner, scratch, "AUTH").map(ClientMessage::Auth),
        verb => {
            let verb: String = verb.chars().take(32).collect();
            Err(notice(&format!("unsupported: unknown verb \"{verb}\"")))
        }
    }
}

/// Reads what follows the verb of EVENT and AUTH; elements after the event are ignored (N01-81).
fn scan_event(scanner: &mut Scanner<'_>, scratch: &mut String, verb: &str) -> Result<Box<Event>, Refusal> {
    let mut first = false;
    if !scanner.next_element(&mut first)? {
        return Err(notice(&format!("invalid: {verb} needs an event")));
    }
    let event = Event::scan(scanner, scratch)?;
    skip_rest(scanner)?;
    Ok(Box::new(event))
}

/// Reads what follows the verb of REQ and COUNT.
fn scan_request(
    scanner: &mut Scanner<'_>,
    scratch: &mut String,
    verb: &str,
) -> Result<(SubscriptionId, Vec<Filter>), Refusal> {
    let id = scan_subscription_id(scanner, scratch, verb)?;
    let Some(id) = SubscriptionId::new(id) else {
        let id = id.to_owned();
        return Err(Refusal::Rejected(Rejected::Closed { id, reason: BAD_SUBSCRIPTION_ID.into() }));
    };
    let refuse = |reason: String| Refusal::Rejected(Rejected::Closed { id: id.to_string(), reason });
    let mut filters = Vec::new();
    let mut first = false;
    while scanner.next_element(&mut first)? {
        if filters.len() == MAX_FILTERS {
            return Err(refuse(format!("invalid: more than {MAX_FILTERS} filters")));
        }
        match Filter::scan(scanner, scratch) {
            Ok(filter) => filters.push(filter),
            Err(error) => return Err(refuse(error.to_string())),
        }
    }
    if filters.is_empty() {
        return Err(refuse(format!("invalid: {verb} needs at least one filter")));
    }
    scanner.end()?;
    Ok((id, filters))
}

const BAD_SUBSCRIPTION_ID: &str = "invalid: a subscription id must have 1 to 64 characters";

/// Reads what follows the verb of CLOSE; elements after the id are ignored (N01-81).
fn scan_close(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<SubscriptionId, Refusal> {
    let id = scan_subscription_id(scanner, scratch, "CLOSE")?;
    let id = SubscriptionId::new(id).ok_or_else(|| notice(BAD_SUBSCRIPTION_ID))?;
    skip_rest(scanner)?;
    Ok(id)
}

fn scan_subscription_id<'s, 'a: 's>(
    scanner: &mut Scanner<'a>,
    scratch: &'s mut String,
    verb: &str,
) -> Result<&'s str, Refusal> {
    let mut first = false;
    if !scanner.next_element(&mut first)? || scanner.peek() != Some(b'"') {
        return Err(notice(&format!("invalid: {verb} needs a subscription id, which is a string")));
    }
    Ok(scanner.string(scratch)?)
}

/// Skips the elements that are left, the end of the message, and makes sure nothing follows.
fn skip_rest(scanner: &mut Scanner<'_>) -> Result<(), JsonError> {
    let mut first = false;
    while scanner.next_element(&mut first)? {
        scanner.skip_value()?;
    }
    scanner.end()
}

/// Chooses the answer to a message that was refused. Slow path: reads the message a second time, because
/// only then it is known whether the sender's JSON is broken or what it says.
fn reject(text: &str, refusal: Refusal) -> Rejected {
    if let Err(error) = json::check_grammar(text) {
        return Rejected::Notice(format!("invalid: {error}"));
    }
    match refusal {
        Refusal::Json(error) => Rejected::Notice(format!("invalid: {error}")),
        Refusal::Event(error) => {
            Rejected::Ok { id: received_id(text).unwrap_or_default(), reason: format!("invalid: {error}") }
        }
        Refusal::Rejected(rejected) => rejected,
    }
}

/// The id of the event in a well-formed EVENT or AUTH message, if it is a string.
fn received_id(text: &str) -> Option<String> {
    let mut scratch = String::new();
    let mut scanner = Scanner::lenient(text);
    let mut first = true;
    scanner.enter_array().ok()?;
    scanner.next_element(&mut first).ok()?;
    scanner.skip_value().ok()?;
    scanner.next_element(&mut first).ok()?;
    let mut first = true;
    if !scanner.enter_object().ok()? {
        return None;
    }
    while let Some(name) = scanner.next_member(&mut first, &mut scratch).ok()? {
        if name != "id" {
            scanner.skip_value().ok()?;
        } else if scanner.peek() == Some(b'"') {
            return Some(scanner.string(&mut scratch).ok()?.chars().take(ECHOED_ID).collect());
        } else {
            return None;
        }
    }
    None
}

/// Appends `["OK",<id>,<ok>,<message>]`. The message is empty or starts with a prefix (N01-75).
pub fn write_ok(out: &mut Vec<u8>, id: &EventId, ok: bool, message: &str) {
    out.extend_from_slice(b"[\"OK\",\"");
    write_hex(out, &id.0);
    out.extend_from_slice(if ok { b"\",true," } else { b"\",false," });
    write_string(out, message);
    out.push(b']');
}

/// Appends `["EOSE",<id>]`. With `finish` it says that every stored event was sent (NIP-67).
pub fn write_eose(out: &mut Vec<u8>, id: &str, finish: bool) {
    out.extend_from_slice(b"[\"EOSE\",");
    write_string(out, id);
    out.extend_from_slice(if finish { b",[\"finish\"]]" } else { b"]" });
}

/// Appends `["CLOSED",<id>,<reason>]`. The reason starts with a prefix.
pub fn write_closed(out: &mut Vec<u8>, id: &str, reason: &str) {
    out.extend_from_slice(b"[\"CLOSED\",");
    write_string(out, id);
    out.push(b',');
    write_string(out, reason);
    out.push(b']');
}

/// Appends `["NOTICE",<text>]`.
pub fn write_notice(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"[\"NOTICE\",");
    write_string(out, text);
    out.push(b']');
}

/// Appends `["AUTH",<challenge>]` (NIP-42).
pub fn write_auth(out: &mut Vec<u8>, challenge: &str) {
    out.extend_from_slice(b"[\"AUTH\",");
    write_string(out, challenge);
    out.push(b']');
}

/// Appends `["COUNT",<id>,{"count":<n>}]`, with the sketch of the events' authors as `hll` where there is one (NIP-45).
pub fn write_count(out: &mut Vec<u8>, id: &str, n: u64, sketch: Option<&Sketch>) {
    out.extend_from_slice(b"[\"COUNT\",");
    write_string(out, id);
    out.extend_from_slice(b",{\"count\":");
    write_number(out, n);
    if let Some(sketch) = sketch {
        out.extend_from_slice(b",\"hll\":\"");
        out.extend_from_slice(sketch.to_hex().as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b"}]");
}

/// Appends `["EVENT",<id>,`, which an event and `]` complete.
pub fn write_event_prefix(out: &mut Vec<u8>, id: &str) {
    out.extend_from_slice(b"[\"EVENT\",");
    write_string(out, id);
    out.push(b',');
}

/// Appends `["EVENT",<id>,<event>]`.
pub fn write_event(out: &mut Vec<u8>, id: &str, event: &Event) {
    write_event_prefix(out, id);
    event.write_json(out);
    out.push(b']');
}
