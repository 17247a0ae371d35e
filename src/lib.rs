//! Ratite, a Nostr relay in one file: this page is the map of the house.
//!
//! Imports point downwards only; each room knows the rooms below it and nothing above.
//!
//! | room | what lives there |
//! |---|---|
//! | [`cli`] | one file per subcommand; the binary hands over to it |
//! | [`server`] | sockets: HTTP, WebSocket frames, sessions, outboxes, NIP-11, pages |
//! | [`relay`] | the core, with no socket in it: publish, query, count, subscribe |
//! | [`store`] | events in LMDB: tables, keys, records, write rules, plans and scans |
//! | [`nostr`] | the protocol, pure: events, filters, messages, identifiers |
//! | [`config`] | the typed configuration, read by all; it imports [`nostr`] alone |

pub mod cli;
pub mod config;
/// What the fuzz targets run, and tests of the same over their seeds.
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/bodies.rs"]
pub mod fuzz;
pub mod nostr;
pub mod relay;
pub mod server;
pub mod store;
