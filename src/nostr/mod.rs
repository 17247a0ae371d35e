//! The protocol, pure: events, filters, messages, identifiers. No I/O, no async, no LMDB.
