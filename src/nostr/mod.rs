//! The protocol, pure: events, filters, messages, identifiers. No I/O, no async, no LMDB.
//!
//! Everything here works on bytes that a stranger sent, so nothing panics, nothing recurses on unknown
//! input, and everything costs time linear in what was received.
//!
//! | file | what |
//! |---|---|
//! | [`id`] | event ids, public keys, signatures: fixed bytes with a hexadecimal face |
//! | [`kind`] | event kinds and how each range is stored |
//! | [`tag`] | tags of an event, and tag values in the form that indexes and filters compare |
//! | [`json`] | the strict JSON scanner and the escape writer |
//! | [`event`] | events: parse, hash, verify, sign, write |
//! | [`filter`] | filters of REQ and COUNT: parse, match, write |
//! | [`hll`] | sketches of how many authors there are (NIP-45) |
//! | [`http_auth`] | authorisation of HTTP requests (NIP-98) |
//! | [`message`] | messages from clients, and the writers of the relay's answers |
//! | [`pow`] | proof of work (NIP-13) |
//! | [`protected`] | protected events, and reposts of them (NIP-70) |
//! | [`relay_address`] | addresses of relays, and when two are the same |
//! | [`nip19`] | bech32 identifiers: npub, note, nevent, naddr and their kin |

pub mod event;
pub mod filter;
pub mod hll;
pub mod http_auth;
pub mod id;
pub mod json;
pub mod kind;
pub mod message;
pub mod nip19;
pub mod pow;
pub mod protected;
pub mod relay_address;
pub mod tag;

pub use event::{Event, EventError, EventFields, UnsignedEvent};
pub use filter::{Filter, FilterError};
pub use id::{EventId, PublicKey, Signature};
pub use kind::{Audience, Kind, KindClass};
pub use message::{ClientMessage, Rejected, SubscriptionId};
pub use relay_address::RelayAddress;
pub use tag::{Tag, TagName, TagRef, TagValue, Tags};
