//! What all connections of a server have in common: the core, the limits, the books.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::http::Site;
use super::redirect::Redirect;
use super::registry::{Counters, Registry};
use super::tls::Tls;
use super::visitor::Doorman;
use crate::config::Config;
use crate::relay::{Relay, Swap};

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

/// What a connection may expect, and how much it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub patience: Patience,
    pub bounds: Bounds,
}

impl Terms {
    /// As configured.
    pub(super) fn new(config: &Config) -> Terms {
        Terms {
            patience: Patience {
                header: Duration::from_secs(config.listen.header_timeout),
                ping_interval: Duration::from_secs(config.listen.ping_interval),
                ping_timeout: Duration::from_secs(config.listen.ping_timeout),
            },
            bounds: Bounds { message: config.limits.max_message_length, outbox: config.listen.outbox_bytes },
        }
    }
}

/// Everything a connection needs to know.
pub(super) struct Shared {
    pub relay: Relay,
    pub site: Swap<Site>,
    /// TLS, when it is on, and the way to it.
    pub tls: Option<(Arc<Tls>, Redirect)>,
    pub doorman: Arc<Doorman>,
    pub terms: Swap<Terms>,
    /// The configuration in force.
    pub config: Swap<Config>,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    /// Another relay takes over: who is sent away may come back at once.
    pub hands_over: AtomicBool,
}
