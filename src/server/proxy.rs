//! Whose connection it really is: the client's address as told by a trusted proxy, in a header or with the PROXY protocol.
//!
//! Only a peer that is configured as a proxy is asked, and only in the one place where it writes. Headers are read from the right:
//! each proxy adds behind what it was given, so the last address that is no trusted proxy's is the first that nobody could
//! choose.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::socket::Caller;
use crate::config::{AddressSource, Config, Network};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");

/// Who is believed, and where the address stands.
pub(super) struct Proxies {
    trusted: Vec<Network>,
    source: AddressSource,
}

/// What is known of the client when a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The client itself is at the other end.
    Direct,
    /// The request will tell, in its headers.
    InHeaders,
    /// The connection begins with a header of the PROXY protocol.
    InProtocol,
}

impl Proxies {
    /// As configured.
    pub(super) fn new(config: &Config) -> Proxies {
        Proxies { trusted: config.listen.trusted_proxies.clone(), source: config.listen.client_address_from }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Where to look for the address of the client. The file of a Unix socket is opened only by those who are allowed to: they are
    /// proxies.
    pub(super) fn origin(&self, caller: Caller) -> Origin {
        match (caller.is_none_or(|address| self.trusts(address)), self.source) {
            (false, _) => Origin::Direct,
            (true, AddressSource::ProxyProtocol) => Origin::InProtocol,
            (true, _) => Origin::InHeaders,
        }
    }

    /// The client's address in the headers of a request from a trusted proxy. `None` when the proxy does not tell.
    pub(super) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        match self.source {
            AddressSource::XForwardedFor => self.last_untrusted(&lines(headers, &X_FORWARDED_FOR), address),
            AddressSource::Forwarded => self.last_untrusted(&lines(headers, &header::FORWARDED), forwarded_for),
            AddressSource::XRealIp => only(headers, &X_REAL_IP),
            AddressSource::CfConnectingIp => only(headers, &CF_CONNECTING_IP),
            AddressSource::ProxyProtocol => None,
        }
    }

    /// From the right over the addresses of trusted proxies, to the first that is not one. What cannot be read ends the
    /// walk: what stands left of it may be anything. Then the proxy that was reached counts.
    fn last_untrusted(&self, lines: &[&str], read: fn(&str) -> Option<IpAddr>) -> Option<IpAddr> {
        let mut reached = None;
        for element in lines.iter().rev().flat_map(|line| FromTheRight { rest: line, separator: b',' }) {
            if element.trim().is_empty() {
                continue;
            }
            match read(element) {
                Some(address) if self.trusts(address) => reached = Some(address),
                Some(address) => return Some(address),
                None => return reached,
            }
        }
        reached
    }
}

/// All lines of a header, in the order they came in; what is not text is a line that cannot be read.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?")).collect()
}

/// A header that proxies replace: with more than one line of it, one is not theirs.
fn only(headers: &HeaderMap, name: &HeaderName) -> Option<IpAddr> {
    match lines(headers, name)[..] {
        [line] => address(line),
        _ => None,
    }
}

/// The parts of a header line from the last to the first; a separator between quotes is none. From the right, a quote that a
/// client has left open cannot swallow what proxies wrote behind it.
struct FromTheRight<'a> {
    rest: &'a str,
    separator: u8,
}

impl<'a> Iterator for FromTheRight<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        for (i, byte) in self.rest.bytes().enumerate().rev() {
            if byte == b'"' {
                quoted = !quoted;
            } else if byte == self.separator && !quoted {
                let part = &self.rest[i + 1..];
                self.rest = &self.rest[..i];
                return Some(part);
            }
        }
        Some(std::mem::take(&mut self.rest))
    }
}

/// The address in one element of `Forwarded` (RFC 7239): `for="[2001:db8::17]:4711";proto=https`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = FromTheRight { rest: element, separator: b';' }.filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    // Each parameter stands once (RFC 7239 section 4).
    match (found.next(), found.next()) {
        (Some(value), None) => address(value),
        _ => None,
    }
}

/// An address as proxies write it: alone, with a port, in brackets, in quotes.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
    let address = match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

/// Begins a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// Most bytes behind the fixed part of version 2: addresses, and extensions that nobody reads here.
const LONGEST_EXTENSION: usize = 4096;

/// Reads the header of the PROXY protocol that a trusted proxy begins its connections with, and not one byte more. `None` when the
/// connection is the proxy's own, or it does not know its client's address.
pub(super) async fn read_header<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Option<IpAddr>> {
    // Both versions are longer than this.
    let mut start = [0; SIGNATURE.len()];
    io.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return version_2(io).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_LINE {
            return Err(malformed());
        }
        // Byte by byte: what follows the line is not ours to read, and a line is short.
        line.push(io.read_u8().await?);
    }
    version_1(&line[..line.len() - 2]).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no header of the PROXY protocol")
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`; the outer `None` when it is malformed.
fn version_1(line: &[u8]) -> Option<Option<IpAddr>> {
    let line = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        // Whatever follows is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", family, from, to, from_port, to_port] => {
            let from: IpAddr = match family {
                "TCP4" => from.parse::<Ipv4Addr>().ok().filter(|_| to.parse::<Ipv4Addr>().is_ok())?.into(),
                "TCP6" => from.parse::<Ipv6Addr>().ok().filter(|_| to.parse::<Ipv6Addr>().is_ok())?.into(),
                _ => return None,
            };
            from_port.parse::<u16>().ok()?;
            to_port.parse::<u16>().ok()?;
            Some(Some(from.to_canonical()))
        }
        _ => None,
    }
}

async fn version_2<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Option<IpAddr>> {
    let command = io.read_u8().await?;
    let family = io.read_u8().await?;
    let length = usize::from(io.read_u16().await?);
    if length > LONGEST_EXTENSION {
        return Err(malformed());
    }
    let mut rest = vec![0; length];
    io.read_exact(&mut rest).await?;
    match (command, family) {
        // LOCAL: a health check of the proxy itself.
        (0x20, _) => Ok(None),
        // TCP over IPv4: from, to, and the ports.
        (0x21, 0x11) if length >= 12 => Ok(rest.first_chunk::<4>().map(|from| Ipv4Addr::from(*from).into())),
        // TCP over IPv6.
        (0x21, 0x21) if length >= 36 => {
            Ok(rest.first_chunk::<16>().map(|from| IpAddr::V6(Ipv6Addr::from(*from)).to_canonical()))
        }
        // Unspecified, or a Unix socket: no address to speak of.
        (0x21, 0x00 | 0x31) => Ok(None),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn proxies(source: AddressSource) -> Proxies {
        let trusted = ["10.0.0.0/8", "2001:db8:ffff::/48", "127.0.0.1"].map(|network| network.parse().unwrap());
        Proxies { trusted: trusted.to_vec(), source }
    }

    /// The client's address that these lines of a header lead to.
    fn client(source: AddressSource, name: HeaderName, lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        proxies(source).client(&headers).map(|address| address.to_string())
    }

    #[track_caller]
    fn x_forwarded_for(lines: &[&str], expected: Option<&str>) {
        assert_eq!(client(AddressSource::XForwardedFor, X_FORWARDED_FOR, lines).as_deref(), expected, "{lines:?}");
    }

    #[track_caller]
    fn forwarded(lines: &[&str], expected: Option<&str>) {
        assert_eq!(client(AddressSource::Forwarded, header::FORWARDED, lines).as_deref(), expected, "{lines:?}");
    }

    #[test]
    fn who_is_asked() {
        let from =
            |source, caller: Option<&str>| proxies(source).origin(caller.map(|address| address.parse().unwrap()));
        assert_eq!(from(AddressSource::XForwardedFor, Some("203.0.113.1")), Origin::Direct, "H239");
        assert_eq!(from(AddressSource::ProxyProtocol, Some("203.0.113.1")), Origin::Direct);
        assert_eq!(from(AddressSource::XForwardedFor, Some("10.1.1.1")), Origin::InHeaders);
        assert_eq!(from(AddressSource::XForwardedFor, Some("::ffff:10.1.1.1")), Origin::InHeaders);
        assert_eq!(from(AddressSource::ProxyProtocol, Some("10.1.1.1")), Origin::InProtocol);
        assert_eq!(from(AddressSource::Forwarded, None), Origin::InHeaders, "Unix sockets are trusted");
        assert_eq!(from(AddressSource::ProxyProtocol, None), Origin::InProtocol);
    }

    #[test]
    fn one_address_in_every_shape() {
        x_forwarded_for(&["203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["  203.0.113.1\t"], Some("203.0.113.1"));
        x_forwarded_for(&["203.0.113.1:5678"], Some("203.0.113.1"));
        x_forwarded_for(&["2001:db8::1"], Some("2001:db8::1"));
        x_forwarded_for(&["[2001:db8::1]"], Some("2001:db8::1"));
        x_forwarded_for(&["[2001:db8::1]:443"], Some("2001:db8::1"));
        x_forwarded_for(&["\"[2001:DB8::1]:443\""], Some("2001:db8::1"));
        x_forwarded_for(&["::ffff:203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["203.0.113.1, "], Some("203.0.113.1"));
    }

    #[test]
    fn the_last_untrusted_address_counts() {
        x_forwarded_for(&["198.51.100.9, 203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["198.51.100.9, 203.0.113.1, 10.0.0.2,10.0.0.3"], Some("203.0.113.1"));
        x_forwarded_for(&["127.0.0.1, 203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["203.0.113.1, 2001:db8:ffff::5"], Some("203.0.113.1"));
        x_forwarded_for(&["10.0.0.2, 10.0.0.3"], Some("10.0.0.2"));
    }

    #[test]
    fn several_lines_are_one_list() {
        x_forwarded_for(&["198.51.100.9", "203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["198.51.100.9, 203.0.113.1", "10.0.0.2", ""], Some("203.0.113.1"));
        forwarded(&["for=198.51.100.9", "for=203.0.113.1, for=10.0.0.2"], Some("203.0.113.1"));
    }

    #[test]
    fn what_cannot_be_read_hides_what_stands_left_of_it() {
        x_forwarded_for(&[], None);
        x_forwarded_for(&[""], None);
        x_forwarded_for(&[",,,"], None);
        x_forwarded_for(&["unknown"], None);
        x_forwarded_for(&["203.0.113.1, unknown"], None);
        x_forwarded_for(&["203.0.113.1, unknown, 10.0.0.2"], Some("10.0.0.2"));
        x_forwarded_for(&["unknown, 203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["\"203.0.113.9, 203.0.113.1"], Some("203.0.113.1"));
        x_forwarded_for(&["203.0.113.1\u{e4}"], None);
        for garbage in
            ["203.0.113", "203.0.113.1.1", "203.0.113.256", "1", "[203.0.113.1]", "[::1", "::1]", "fe80::1%eth0", "a.b"]
        {
            x_forwarded_for(&[garbage], None);
        }
    }

    #[test]
    fn forwarded_of_rfc_7239() {
        forwarded(&["for=203.0.113.1"], Some("203.0.113.1"));
        forwarded(&["For=\"[2001:db8:cafe::17]:4711\""], Some("2001:db8:cafe::17"));
        forwarded(&["for=203.0.113.1;proto=http;by=10.0.0.1"], Some("203.0.113.1"));
        forwarded(&["by=10.0.0.1 ; FOR = 203.0.113.1"], Some("203.0.113.1"));
        forwarded(&["for=198.51.100.9, for=203.0.113.1;by=\"a,b;for=1.2.3.4\""], Some("203.0.113.1"));
        forwarded(&["for=203.0.113.1:80, for=10.0.0.2"], Some("203.0.113.1"));
        forwarded(&["for=_hidden"], None);
        forwarded(&["for=unknown, for=10.0.0.2"], Some("10.0.0.2"));
        forwarded(&["proto=https"], None);
        forwarded(&["for=203.0.113.1;for=203.0.113.2"], None);
    }

    #[test]
    fn an_open_quote_swallows_nothing_that_a_proxy_wrote() {
        forwarded(&["for=\"198.51.100.9, for=203.0.113.1"], Some("203.0.113.1"));
        forwarded(&["for=\"198.51.100.9", "for=203.0.113.1"], Some("203.0.113.1"));
        forwarded(&["for=\"198.51.100.9, for=\"[2001:db8::1]\""], Some("2001:db8::1"));
    }

    #[test]
    fn headers_that_proxies_replace_stand_alone() {
        for (source, name) in [(AddressSource::XRealIp, X_REAL_IP), (AddressSource::CfConnectingIp, CF_CONNECTING_IP)] {
            assert_eq!(client(source, name.clone(), &["203.0.113.1"]).as_deref(), Some("203.0.113.1"));
            assert_eq!(client(source, name.clone(), &["2001:db8::1"]).as_deref(), Some("2001:db8::1"));
            assert_eq!(client(source, name.clone(), &["203.0.113.1", "203.0.113.2"]), None);
            assert_eq!(client(source, name.clone(), &["203.0.113.1, 203.0.113.2"]), None);
            assert_eq!(client(source, name, &[]), None);
        }
    }

    #[test]
    fn only_the_configured_header_is_read() {
        assert_eq!(client(AddressSource::XForwardedFor, CF_CONNECTING_IP, &["203.0.113.1"]), None);
        assert_eq!(client(AddressSource::CfConnectingIp, X_FORWARDED_FOR, &["203.0.113.1"]), None);
        assert_eq!(client(AddressSource::ProxyProtocol, X_FORWARDED_FOR, &["203.0.113.1"]), None);
    }

    /// What a header of the PROXY protocol says, and what was left unread behind it.
    fn protocol(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), ()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut rest = bytes;
        let address = runtime.block_on(read_header(&mut rest)).map_err(|_| ())?;
        Ok((address.map(|address| address.to_string()), rest.to_vec()))
    }

    fn says(bytes: &[u8], expected: Option<&str>) {
        let sent = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        let got = protocol(&sent).unwrap_or_else(|()| panic!("{}", bytes.escape_ascii()));
        assert_eq!(got, (expected.map(str::to_owned), b"GET / HTTP/1.1\r\n".to_vec()), "{}", bytes.escape_ascii());
    }

    #[test]
    fn proxy_protocol_version_1() {
        says(b"PROXY TCP4 203.0.113.1 198.51.100.1 56324 443\r\n", Some("203.0.113.1"));
        says(b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", Some("2001:db8::1"));
        says(b"PROXY TCP6 ::ffff:203.0.113.1 ::ffff:10.0.0.1 1 2\r\n", Some("203.0.113.1"));
        says(b"PROXY UNKNOWN\r\n", None);
        says(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None);
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), LONGEST_LINE);
        says(longest.as_bytes(), None);
        for wrong in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "PROXY\r\n\r\n\r\n\r\n",
            "PROXY TCP4 203.0.113.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 203.0.113.1 198.51.100.1 56324 443 1\r\n",
            "PROXY TCP4 203.0.113.1  198.51.100.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n",
            "PROXY TCP6 203.0.113.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 203.0.113.1 198.51.100.1 65536 443\r\n",
            "PROXY UDP4 203.0.113.1 198.51.100.1 56324 443\r\n",
            "proxy TCP4 203.0.113.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 203.0.113.1 198.51.100.1 56324 443",
        ] {
            assert!(protocol(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(protocol(format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).as_bytes()).is_err());
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn proxy_protocol_version_2() {
        let v4 = [203, 0, 113, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb];
        let mut v6 = vec![0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        says(&v2(0x21, 0x11, &v4), Some("203.0.113.1"));
        says(&v2(0x21, 0x21, &v6), Some("2001:db8::1"));
        let with_extensions = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        says(&v2(0x21, 0x11, &with_extensions), Some("203.0.113.1"));
        says(&v2(0x20, 0x00, b""), None);
        says(&v2(0x20, 0x11, &v4), None);
        says(&v2(0x21, 0x00, b""), None);
        says(&v2(0x21, 0x31, &[0; 216]), None);
        for wrong in [
            v2(0x21, 0x11, &v4[..11]),
            v2(0x21, 0x21, &v6[..35]),
            v2(0x22, 0x11, &v4),
            v2(0x11, 0x11, &v4),
            v2(0x21, 0x12, &v4),
            v2(0x21, 0x11, &[0; LONGEST_EXTENSION + 1]),
            v2(0x21, 0x11, &v4)[..20].to_vec(),
            SIGNATURE.to_vec(),
        ] {
            assert!(protocol(&wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
