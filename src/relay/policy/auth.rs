//! AUTH: a client proves on this connection that it holds a key (NIP-42).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::moderation::Moderation;
use super::viewer::Viewer;
use crate::nostr::{Event, Kind, RelayAddress};

/// How far created_at may be from now, in seconds, both ways and inclusive (N42-05).
const WINDOW: u64 = 600;

/// The addresses under which clients know this relay.
///
/// With none configured the relay goes by the one on which a connection came in, which the peer cannot choose: with a name that the
/// peer may choose, somebody in the middle could pass on an AUTH that was made for another relay. Behind a trusted proxy it goes by
/// the name that the proxy was asked for; a proxy that answers for any name leaves it to the configuration to settle that.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    configured: Vec<RelayAddress>,
    /// The operator was told that the address is to be configured.
    told: AtomicBool,
}

impl OwnAddresses {
    /// The configured addresses; those that name no relay are passed over.
    pub fn new<'a>(urls: impl IntoIterator<Item = &'a str>) -> OwnAddresses {
        OwnAddresses { configured: urls.into_iter().filter_map(RelayAddress::parse).collect(), told: false.into() }
    }

    /// Whether the operator has told the relay its addresses.
    pub fn are_configured(&self) -> bool {
        !self.configured.is_empty()
    }

    /// Whether `url` is one of this relay's. `host` is where the peer reached it, as far as the server vouches for that.
    pub fn contain(&self, url: &str, host: Option<&str>) -> bool {
        let Some(address) = RelayAddress::parse(url) else { return false };
        if !self.configured.is_empty() {
            return self.configured.contains(&address);
        }
        let Some(host) = host else { return false };
        let is = |host: &str| RelayAddress::of_host(host).is_some_and(|own| own == address);
        let local = host.parse().ok().filter(|socket: &SocketAddr| socket.ip().is_loopback());
        is(host) || local.is_some_and(|socket| is(&format!("localhost:{}", socket.port())))
    }

    /// Tells the operator, once, that clients use an address that the relay does not know for its own.
    fn tell(&self, url: &str) {
        if self.configured.is_empty() && RelayAddress::parse(url).is_some() && !self.told.swap(true, Relaxed) {
            // What a stranger wrote is neither for the log nor for the configuration.
            tracing::debug!(url = ?url.chars().take(100).collect::<String>(), "authenticates for another address");
            tracing::warn!(
                "a client authenticates for an address that this relay does not know for its own; when clients reach it under a name, \
                 set info.url to that, for without it nobody can authenticate there"
            );
        }
    }
}

/// Checks an AUTH and adds its key to what the viewer has proved. The error is the text of an OK.
pub fn authenticate(
    event: &Event,
    viewer: &Viewer,
    own: &OwnAddresses,
    moderation: &Moderation,
    now: u64,
) -> Result<(), String> {
    let challenge = viewer.challenge().ok_or("error: nobody can authenticate here")?;
    check_claim(event, &challenge, |url| own.contain(url, viewer.host()), now).inspect_err(|_| {
        let relay = event.tags.iter().find(|tag| tag.name() == "relay").and_then(|tag| tag.value());
        if let Some(url) = relay.filter(|url| !own.contain(url, viewer.host())) {
            own.tell(url);
        }
    })?;
    // Done here and now, not by the verifying thread: what the client asks next may need it. A connection has this bounded
    // number of checks, some milliseconds in all.
    if !viewer.may_check() {
        return Err("rate-limited: this connection has authenticated often enough".into());
    }
    event.check_id().and_then(|()| event.check_signature()).map_err(|error| format!("invalid: {error}"))?;
    if moderation.is_banned(&event.pubkey) {
        return Err("restricted: this key is banned here".into());
    }
    if !viewer.add(event.pubkey) {
        return Err("rate-limited: this connection has authenticated as many keys as one may".into());
    }
    Ok(())
}

/// Checks what an AUTH says; whether that is signed is the caller's to check (N42-04 to N42-07).
fn check_claim(event: &Event, challenge: &str, is_own: impl Fn(&str) -> bool, now: u64) -> Result<(), String> {
    let says = |name: &str, fits: &dyn Fn(&str) -> bool| {
        event.tags.iter().filter(|tag| tag.name() == name).filter_map(|tag| tag.value()).any(fits)
    };
    if event.kind != Kind::AUTH {
        return Err(format!("invalid: AUTH takes an event of kind {}", Kind::AUTH));
    }
    if event.created_at.abs_diff(now) > WINDOW {
        return Err(format!("invalid: created_at is more than {WINDOW} seconds away from this relay's clock"));
    }
    if !says("challenge", &|value| value == challenge) {
        return Err("invalid: the challenge is not the one that this connection was sent".into());
    }
    if !says("relay", &is_own) {
        return Err("invalid: the relay tag does not name this relay".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n42_04_n42_05_n42_06_n42_07_n42_12_the_vectors_of_auth() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../tests/vectors.json")).unwrap();
        let auth = &vectors["nip42"];
        let own = OwnAddresses::new([auth["relay_url"].as_str().unwrap()]);
        let (challenge, now) = (auth["challenge"].as_str().unwrap(), auth["now"].as_u64().unwrap());
        let mut accepted = 0;
        for case in auth["cases"].as_array().unwrap() {
            let name = &case["name"];
            let message: serde_json::Value = serde_json::from_str(case["message"].as_str().unwrap()).unwrap();
            if message[0] == "EVENT" {
                // Refused as an event, whatever it says: shown over a socket.
                continue;
            }
            let event = Event::parse(message[1].to_string().as_bytes()).unwrap();
            let verdict = check_claim(&event, challenge, |url| own.contain(url, None), now).and_then(|()| {
                event.check_id().and_then(|()| event.check_signature()).map_err(|error| format!("invalid: {error}"))
            });
            assert_eq!(verdict.is_ok(), case["ok"].as_bool().unwrap(), "{name}: {verdict:?}");
            match verdict {
                Ok(()) => accepted += 1,
                Err(words) => assert!(words.starts_with("invalid: "), "{name}: {words}"),
            }
        }
        assert_eq!(accepted, 8);
    }

    #[test]
    fn n42_15_without_configuration_the_relay_goes_by_where_it_was_reached() {
        let none = OwnAddresses::default();
        assert!(none.contain("ws://127.0.0.1:7777", Some("127.0.0.1:7777")));
        assert!(none.contain("ws://localhost:7777/", Some("127.0.0.1:7777")));
        assert!(none.contain("ws://localhost:7777/", Some("[::1]:7777")));
        assert!(none.contain("ws://203.0.113.5/", Some("203.0.113.5:80")));
        assert!(!none.contain("ws://localhost:7777", Some("203.0.113.5:7777")));
        assert!(!none.contain("ws://127.0.0.1:7778", Some("127.0.0.1:7777")));
        assert!(!none.contain("wss://relay.test", None));
        let some = OwnAddresses::new(["wss://relay.test", "ws://abc.onion", ""]);
        assert!(some.contain("ws://relay.test/", None) && some.contain("ws://abc.onion", None));
        assert!(!some.contain("ws://127.0.0.1:7777", Some("127.0.0.1:7777")), "what is configured counts alone");
    }
}
