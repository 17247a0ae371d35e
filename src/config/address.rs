//! Where to listen and whom to know by address: TCP addresses, Unix sockets, networks, and where a proxy writes its
//! client's address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::problem::quoted;

/// What stands in front of the path of a Unix socket.
const UNIX: &str = "unix:";

/// Something to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 takes any that is free.
    Tcp(SocketAddr),
    /// A Unix socket at this path, written `unix:/run/ratite.sock`.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port, when it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            if path.is_empty() || path.contains('\0') {
                return Err(format!("{}, which names no file behind unix:", quoted(text)));
            }
            return Ok(Address::Unix(path.into()));
        }
        text.parse().map(Address::Tcp).map_err(|_| {
            format!(
                "{}, which is not an IP address with a port such as 127.0.0.1:7777, 0.0.0.0:7777 or [::]:7777, nor a Unix \
                 socket such as unix:/run/ratite.sock",
                quoted(text)
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(address: (I, u16)) -> Address {
        Address::Tcp(address.into())
    }
}

/// All addresses that begin with the same bits, such as `10.0.0.0/8` or `2001:db8::/32`; one address is a network too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Bits behind the prefix are zero.
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of `address` with so many bits in common, if an address has as many.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Network> {
        let base = match address {
            IpAddr::V4(v4) if prefix <= 32 => IpAddr::V4((u32::from(v4) & mask(u128::from(prefix), 32) as u32).into()),
            IpAddr::V6(v6) if prefix <= 128 => IpAddr::V6((u128::from(v6) & mask(u128::from(prefix), 128)).into()),
            _ => return None,
        };
        Some(Network { base, prefix })
    }

    /// Whether the address lies in it. An IPv4 address inside IPv6 (`::ffff:1.2.3.4`) counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        Network::new(address.to_canonical(), self.prefix).is_some_and(|other| other.base == self.base)
    }
}

/// The highest `prefix` of `width` bits.
fn mask(prefix: u128, width: u128) -> u128 {
    let ones = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    // A shift by the full width is none that a machine knows.
    if prefix == 0 { 0 } else { ones & (ones << (width - prefix)) }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let wrong =
            || format!("{}, which is not an address or network such as 192.0.2.1 or 2001:db8::/32", quoted(text));
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        Network::new(address, prefix.unwrap_or(whole)).ok_or_else(wrong)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.base.is_ipv4() { 32 } else { 128 };
        match self.prefix {
            prefix if prefix == whole => self.base.fmt(f),
            prefix => write!(f, "{}/{prefix}", self.base),
        }
    }
}

/// Where a trusted proxy writes the address of its client. Only this one place is believed: a header that the proxy does not
/// set itself comes from the client as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The header `X-Forwarded-For`, to which every proxy on the way adds the address it was called from.
    XForwardedFor,
    /// The header `Forwarded` (RFC 7239), to which every proxy adds likewise.
    Forwarded,
    /// The header `X-Real-IP`: one address.
    XRealIp,
    /// The header `CF-Connecting-IP` of Cloudflare: one address.
    CfConnectingIp,
    /// PROXY protocol, version 1 or 2: the connection begins with it.
    ProxyProtocol,
}

impl AddressSource {
    /// Every place by its name in the configuration.
    pub const NAMES: [(&str, AddressSource); 5] = [
        ("x-forwarded-for", AddressSource::XForwardedFor),
        ("forwarded", AddressSource::Forwarded),
        ("x-real-ip", AddressSource::XRealIp),
        ("cf-connecting-ip", AddressSource::CfConnectingIp),
        ("proxy-protocol", AddressSource::ProxyProtocol),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_know_their_addresses() {
        let contains =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3/8", "10.0.0.1"), "bits behind the prefix do not count");
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(!contains("192.0.2.1", "192.0.2.2"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(!contains("::/0", "203.0.113.9"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
        assert!(contains("::1", "::1"));
        assert!(!contains("::1", "::2"));
    }

    #[test]
    fn networks_and_addresses_are_written_as_they_are_read() {
        for text in ["10.0.0.0/8", "192.0.2.1", "::1", "2001:db8::/32", "0.0.0.0/0", "::/0"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for text in ["127.0.0.1:7777", "[::1]:80", "unix:/run/ratite.sock", "unix:relative.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/", "/8", "10.0.0/8", "example.org", "1.2.3.4:5"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        for text in ["", "unix:", "unix:a\0b", "localhost:1", "127.0.0.1", "::1", "127.0.0.1:65536"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
