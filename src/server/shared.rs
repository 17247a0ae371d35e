//! What all connections of a server have in common: the core, the limits, the books.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::http::Site;
use super::redirect::Redirect;
use super::registry::{Counters, Registry};
use super::tls::Tls;
use super::visitor::Doorman;
use crate::relay::Relay;

/// How patient the server is with its peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the accepted connection to the answer of its one HTTP request.
    pub header: Duration,
    /// Silence after which a ping is sent.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered.
    pub ping_timeout: Duration,
}

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of a message from the peer.
    pub message: usize,
    /// Bytes that may wait to be written to the peer.
    pub outbox: usize,
}

/// Everything a connection needs to know.
pub(super) struct Shared {
    pub relay: Relay,
    pub site: Site,
    /// TLS, when it is on, and the way to it.
    pub tls: Option<(Arc<Tls>, Redirect)>,
    pub doorman: Arc<Doorman>,
    pub patience: Patience,
    pub bounds: Bounds,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    /// Another relay takes over: who is sent away may come back at once.
    pub hands_over: AtomicBool,
}
