//! TLS from outside: with files of the operator's, and with a certificate authority that is asked over ACME.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../wire/mod.rs"]
mod wire;

mod acme;
mod files;
mod pebble;
