//! Somebody who connected and has not been let in yet: who it is, and whether there is room and it may come in.
//!
//! Whose address the socket shows is known at once. Of a proxy's client the PROXY protocol or the request's headers tell.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hyper::header::{HOST, HeaderMap, HeaderValue};

use super::admission::{Guest, Limiter, Refusal};
use super::proxy::{Origin, Proxies};
use super::socket::Caller;
use crate::relay::Swap;

/// Knows whom to believe and whom to let in.
pub(super) struct Doorman {
    pub proxies: Swap<Proxies>,
    pub limiter: Arc<Limiter>,
}

/// A connection before its session.
pub(super) struct Visitor {
    doorman: Arc<Doorman>,
    caller: Caller,
    standing: Standing,
    /// What the relay was called, when a trusted proxy made the request for its client.
    host: Option<Box<str>>,
    /// There is a place for a session.
    room: bool,
}

enum Standing {
    /// A proxy's client: the connection begins with its address.
    InProtocol,
    /// A proxy's client: its request's headers tell.
    InHeaders,
    Known(Guest),
    Refused(Refusal),
}

impl Visitor {
    /// Somebody who just connected.
    pub(super) fn new(doorman: &Arc<Doorman>, caller: Caller) -> Visitor {
        let standing = match doorman.proxies.load().origin(caller) {
            Origin::Direct => standing(doorman.limiter.enter(caller, Instant::now())),
            Origin::InHeaders => Standing::InHeaders,
            Origin::InProtocol => Standing::InProtocol,
        };
        Visitor { doorman: Arc::clone(doorman), caller, standing, host: None, room: true }
    }

    /// Notes whether there is a place for a session.
    pub(super) fn with_room(self, room: bool) -> Visitor {
        Visitor { room, ..self }
    }

    pub(super) fn has_room(&self) -> bool {
        self.room
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.standing, Standing::Refused(_))
    }

    /// Refused for longer than a moment, and it knows why by now or will not hear it.
    pub(super) fn is_shut_out(&self) -> bool {
        matches!(self.standing, Standing::Refused(Refusal::ShutOut(_) | Refusal::Blocked))
    }

    pub(super) fn speaks_proxy_protocol(&self) -> bool {
        matches!(self.standing, Standing::InProtocol)
    }

    /// Hears from the proxy whose connection it is; `None` when it is the proxy's own or the proxy does not know.
    pub(super) fn told(&mut self, client: Option<IpAddr>) {
        self.identify(client, None);
    }

    /// Looks at the headers of the request, when they are to tell. A refusal is to be answered with 429.
    pub(super) fn present(&mut self, headers: &HeaderMap) -> Option<Refusal> {
        if matches!(self.standing, Standing::InHeaders) {
            let client = self.doorman.proxies.load().client(headers);
            let host = headers.get(HOST);
            self.identify(client, host);
            // A proxy that says for whom it asks was asked under a name that it answers for. Anybody else may call us what he likes.
            let vouched = host.filter(|_| client.is_some()).and_then(|host| host.to_str().ok());
            self.host = vouched.map(Into::into);
        }
        match self.standing {
            Standing::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Knows the client, or that the proxy does not tell; `host` is what the request calls the relay.
    fn identify(&mut self, client: Option<IpAddr>, host: Option<&HeaderValue>) {
        let address = client.or(self.caller);
        let entered = self.doorman.limiter.enter(address, Instant::now());
        if client.is_none()
            && let Ok(guest) = &entered
        {
            if guest.is_limited() {
                warn_once(self.caller, "so that all its clients count as one address");
            } else if host.is_some_and(|host| !names_this_machine(host)) {
                warn_once(self.caller, "so that its clients have no limits");
            }
        }
        tracing::debug!(?address, proxy = ?self.caller, "a proxy's client");
        self.standing = standing(entered);
    }

    /// The name under which a trusted proxy was asked for the relay, see [`crate::relay::Relay::connect`].
    pub(super) fn host(&self) -> Option<Box<str>> {
        self.host.clone()
    }

    /// The guest, when it was let in.
    pub(super) fn into_guest(self) -> Option<Guest> {
        match self.standing {
            Standing::Known(guest) => Some(guest),
            _ => None,
        }
    }
}

fn standing(entered: Result<Guest, Refusal>) -> Standing {
    entered.map_or_else(Standing::Refused, Standing::Known)
}

/// Whether a request names the relay as only those on this machine can: then nobody stands between.
fn names_this_machine(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        // The last colon of an IPv6 address is none of a port.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Requests that came through a proxy which did not tell for whom.
static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// How many requests came through a proxy that did not tell for whom, since the start of the process.
pub(super) fn untold() -> u64 {
    UNTOLD.load(Ordering::Relaxed)
}

/// Whoever set up the proxy should hear of this, but not with every connection.
fn warn_once(caller: Caller, consequence: &str) {
    if UNTOLD.fetch_add(1, Ordering::Relaxed) == 0 {
        // Whom listen.trusted_proxies wrongly takes for a proxy is a client, whose address belongs in no warning.
        tracing::debug!(?caller, "does not tell for whom it asks");
        tracing::warn!(
            "one of listen.trusted_proxies does not tell the address of its client where listen.client_address_from says, \
             {consequence}; have it do so, or correct the settings"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine() {
        for host in ["localhost", "LocalHost:7777", "127.0.0.1", "127.0.0.1:7777", "127.9.9.9", "[::1]", "[::1]:7777"] {
            assert!(names_this_machine(&HeaderValue::from_static(host)), "{host}");
        }
        for host in [
            "",
            "relay.example.org",
            "relay.example.org:443",
            "localhost.example.org",
            "192.0.2.1:80",
            "[::2]:80",
            ":",
            "[]",
        ] {
            assert!(!names_this_machine(&HeaderValue::from_static(host)), "{host}");
        }
    }
}
