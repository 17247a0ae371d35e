//! What the core must know of the configuration, and where it gets the time from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::policy::OwnAddresses;
use super::{Retention, threads};
use crate::config::{Backup, Config, Limits, Membership, Policy};

/// What the core must know; taken from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits on events and questions.
    pub limits: Limits,
    /// Who may read and write what.
    pub policy: Policy,
    /// Whether the relay has members, and what only they may do.
    pub membership: Membership,
    /// What is kept how long, and how large the database may become.
    pub retention: Retention,
    /// Backups that are made by themselves.
    pub backup: Backup,
    /// The core looks after retention and backups by itself; a command that does so, or wants none of it, does not need that.
    pub unattended: bool,
    /// The relay's own addresses, which AUTH (NIP-42) and requests to vanish (NIP-62) name.
    pub addresses: Arc<OwnAddresses>,
    /// Bytes of events that may wait for verification and commit.
    pub queue_bytes: usize,
    /// The most bytes that texts which are asked for again and again may take.
    pub kept_texts_bytes: usize,
    /// Bytes of live events that may wait for the stored ones of a subscription to be read.
    pub waiting_bytes: usize,
    /// Threads that call the core on behalf of peers, at least two: all but one may answer small questions themselves.
    pub callers: usize,
    /// Nobody else writes to the database meanwhile, and its disk has room to spare: the first bulk transaction of an empty database
    /// may be very large, and hold the write lock as long as that takes.
    pub alone: bool,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Settings {
    /// The settings that a configuration asks for, with the system's clock.
    pub fn from_config(config: &Config) -> Settings {
        Settings {
            limits: config.limits.clone(),
            policy: config.policy.clone(),
            membership: config.membership.clone(),
            retention: Retention::from_config(config),
            backup: config.backup.clone(),
            unattended: true,
            addresses: Arc::new(OwnAddresses::new(config.urls().iter().map(String::as_str))),
            queue_bytes: config.storage.queue_bytes,
            kept_texts_bytes: config.storage.kept_texts_bytes,
            // Half: at the end of a scan they all go into the outbox at once, beside its last slice.
            waiting_bytes: config.listen.outbox_bytes / 2,
            callers: threads(),
            alone: false,
            clock: Clock::system(),
        }
    }

    /// The time up to which events have expired, see [`Policy::expiry_time`].
    pub fn expiry_time(&self) -> u64 {
        self.policy.expiry_time(self.clock.now())
    }
}

/// Where the time comes from: the system, or a test.
#[derive(Clone, Debug)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that stands still until it is [`Clock::set`].
    pub fn fixed(now: u64) -> Clock {
        Clock(Some(Arc::new(AtomicU64::new(now))))
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        match &self.0 {
            Some(time) => time.load(Relaxed),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }

    /// Moves a fixed clock; the system's is left alone.
    pub fn set(&self, now: u64) {
        if let Some(time) = &self.0 {
            time.store(now, Relaxed);
        }
    }
}
