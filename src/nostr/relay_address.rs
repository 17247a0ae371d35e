//! Addresses of relays, and when two of them are the same relay (N42-07).

/// What counts of a relay's address: host, port and path.
///
/// Behind a proxy a relay cannot know which scheme its clients use, so `ws` and `wss` are the same, and so are their default
/// ports. The host compares in any case, the path without closing slashes. Internationalised host names compare as written:
/// clients write them in their ASCII form (`xn--…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    host: Box<str>,
    port: u16,
    path: Box<str>,
}

/// Stands for the default ports of both schemes.
const DEFAULT_PORT: u16 = 443;

impl RelayAddress {
    /// Reads `ws://…` or `wss://…`. `None` for anything else, and for an address with user information, a query or a fragment,
    /// which names no relay.
    pub fn parse(url: &str) -> Option<RelayAddress> {
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("wss") && !scheme.eq_ignore_ascii_case("ws") || rest.contains(['@', '?', '#']) {
            return None;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            // The last colon of an IPv6 address without a port is none of a port.
            Some((host, port)) if !port.ends_with(']') => (host, read_port(port)?),
            _ => (authority, DEFAULT_PORT),
        };
        let port = if port == 80 { DEFAULT_PORT } else { port };
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
        if host.is_empty() || rest.contains(bad) {
            return None;
        }
        Some(RelayAddress { host: host.to_ascii_lowercase().into(), port, path: path.trim_end_matches('/').into() })
    }

    /// The address of a relay at the root of this host and port, such as `127.0.0.1:7777`.
    pub fn of_host(authority: &str) -> Option<RelayAddress> {
        RelayAddress::parse(&format!("ws://{authority}")).filter(|address| address.path.is_empty())
    }
}

/// Digits only; none at all is the default.
fn read_port(digits: &str) -> Option<u16> {
    match digits {
        "" => Some(DEFAULT_PORT),
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        RelayAddress::parse(a).is_some_and(|a| RelayAddress::parse(b) == Some(a))
    }

    #[test]
    fn n42_07_relay_addresses_compare_as_urls() {
        for url in [
            "wss://relay.test/",
            "wss://relay.test",
            "WSS://Relay.TEST",
            "wss://relay.test:443/",
            "ws://relay.test",
            "ws://relay.test:80",
            "wss://relay.test:",
        ] {
            assert!(same(url, "wss://relay.test/"), "{url}");
        }
        for url in [
            "wss://relay.test:8443/",
            "wss://relay.tes",
            "wss://relay.test.evil/",
            "wss://relay.test@evil/",
            "wss://x@relay.test/",
            "wss://a/relay.test",
            "wss://relay.test/path",
            "wss://relay.test/?query",
            "wss://relay.test/#fragment",
            "wss://relay.test:+443/",
            "wss://relay.test:99999/",
            "wss://relay.test /",
            "https://relay.test/",
            "relay.test",
            "wss://",
            "",
        ] {
            assert!(!same(url, "wss://relay.test/"), "{url}");
        }
        assert!(same("wss://relay.test/inbox/", "wss://relay.test/inbox"));
        assert!(!same("wss://relay.test/inbox/", "wss://relay.test/Inbox"));
        assert!(same("ws://[::1]:80/", "ws://[::1]"));
        assert_eq!(RelayAddress::of_host("127.0.0.1:7777"), RelayAddress::parse("wss://127.0.0.1:7777/"));
        assert_eq!(RelayAddress::of_host("a/b"), None);
    }
}
