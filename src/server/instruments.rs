//! Where everything is found that is known of a running server, and whether it is well.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::admission::Limiter;
use super::capacity::{Capacity, Stage};
use super::health::{Health, Signs, judge};
use super::registry::{Counters, Registry};
use super::tls::{CertificateState, Handshakes, Tls};
use crate::relay::{Relay, Stats};

/// What a [`Monitor`](super::monitor::Monitor) reads of a server.
pub(super) struct Instruments {
    pub relay: Relay,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    pub limiter: Arc<Limiter>,
    pub capacity: Capacity,
    pub stage: watch::Receiver<Stage>,
    /// `None` when TLS is off.
    pub tls: Option<Arc<Tls>>,
    /// Why the last configuration was not taken.
    pub rejected: Mutex<Option<String>>,
    /// How often the configuration was read again and taken, and how often not.
    pub reloads: (AtomicU64, AtomicU64),
}

impl Instruments {
    /// What is known of the certificate.
    pub(super) fn certificate(&self) -> Option<CertificateState> {
        self.tls.as_ref().map(|tls| tls.state())
    }

    /// The handshakes of TLS since the start.
    pub(super) fn handshakes(&self) -> Option<&Handshakes> {
        self.tls.as_ref().map(|tls| tls.handshakes())
    }

    /// Whether all is well.
    pub(super) fn judged(&self, stats: &Stats) -> Health {
        let signs = Signs {
            stats,
            open: *self.stage.borrow() == Stage::Open,
            connections: self.capacity.taken(),
            certificate: self.certificate(),
            rejected: self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            now: self.relay.settings().clock.now(),
        };
        Health { problems: judge(&signs), numbers: Default::default() }
    }
}
