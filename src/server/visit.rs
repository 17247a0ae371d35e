//! A visit to a relay from outside, as a client makes it: its name, TLS, the information document, a WebSocket, one question.
//!
//! For those who look for what is wrong: plain blocking sockets, everything bounded in time and size, and every failure in words.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use super::neighbours::Neighbour;
use super::tls::trusting;
use crate::config::plain;

/// How long one address may take to take the connection.
const TO_CONNECT: Duration = Duration::from_secs(5);

/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// How long an answer may take as a whole.
const TO_ANSWER: Duration = Duration::from_secs(20);

/// Most bytes of an answer.
const LONGEST: usize = 1 << 20;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// What stands in front of the path of an address.
struct Target {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Target, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url} is no address"))?;
        let tls = match scheme {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(format!("{url} is neither wss:// nor ws://")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("{url} has no proper port"))?)
            }
            _ => (authority, if tls { 443 } else { 80 }),
        };
        Ok(Target { tls, host: host.to_owned(), port, path: format!("/{path}") })
    }

    /// As a `Host` header has it.
    fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    fn connect(&self, ca: Option<&Path>) -> Result<Box<dyn Stream>, String> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (bare, self.port)
            .to_socket_addrs()
            .map_err(|_| format!("the name {bare} leads nowhere"))?
            .take(MOST_ADDRESSES)
            .collect();
        let mut last = format!("the name {bare} leads nowhere");
        for address in addresses {
            match TcpStream::connect_timeout(&address, TO_CONNECT) {
                Ok(stream) => return self.secure(stream, bare, ca),
                Err(error) => last = format!("{address} takes no connection: {}", plain(&error)),
            }
        }
        Err(last)
    }

    fn secure(&self, stream: TcpStream, host: &str, ca: Option<&Path>) -> Result<Box<dyn Stream>, String> {
        bound(&stream).map_err(|error| plain(&error))?;
        if !self.tls {
            return Ok(Box::new(stream));
        }
        let config = trusting(ca).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name for a certificate"))?;
        let connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| format!("TLS fails: {}", plain(&error)))?;
        }
        Ok(Box::new(stream))
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn bound(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}

/// An answer to a request.
pub struct Answer {
    /// The status, such as 200.
    pub status: u16,
    head: String,
    /// What stands behind the headers.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// Asks for a page, of a relay or of any other server. `ca` names certificates to trust beside the usual ones. Blocks for half a minute
/// at most, not counting name servers.
pub fn fetch(url: &str, accept: &str, ca: Option<&Path>) -> Result<Answer, String> {
    let target = Target::parse(url)?;
    let mut stream = target.connect(ca)?;
    get(&mut *stream, &target.path, &target.authority(), accept)
}

/// Asks a relay on this machine, through its own socket, how it is.
pub fn health(relay: &Neighbour) -> Result<Value, String> {
    let asked = || {
        let stream = UnixStream::connect(relay.desk())?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(stream)
    };
    let mut stream = asked().map_err(|error: io::Error| plain(&error))?;
    let answer = get(&mut stream, "/health", "relay", "application/json")?;
    serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
}

fn get(stream: &mut dyn Stream, path: &str, host: &str, accept: &str) -> Result<Answer, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nUser-Agent: ratite\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(|error| plain(&error))?;
    let mut bytes = Vec::new();
    let head = read_head(stream, &mut bytes)?;
    let length = header(&head, "content-length").and_then(|value| value.parse::<usize>().ok());
    let began = Instant::now();
    // A server that keeps the connection open says how long its answer is.
    while length.is_none_or(|length| bytes.len() < length) && bytes.len() < LONGEST && began.elapsed() < TO_ANSWER {
        if read_more(stream, &mut bytes).is_err() {
            break;
        }
    }
    let status = status_of(&head)?;
    Ok(Answer { status, head, body: bytes })
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

fn status_of(head: &str) -> Result<u16, String> {
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| "whoever answers does not speak HTTP".to_owned())
}

fn read_more(stream: &mut dyn Stream, bytes: &mut Vec<u8>) -> Result<(), String> {
    let mut buffer = [0; 8192];
    match stream.read(&mut buffer) {
        Ok(0) => Err("the connection was closed before the answer".to_owned()),
        Ok(length) => {
            bytes.extend_from_slice(&buffer[..length]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(format!("there is no answer within {} seconds", SILENCE.as_secs()))
        }
        Err(error) => Err(plain(&error)),
    }
}

/// Reads up to the end of the headers, which are returned; what came behind them is left in `bytes`.
fn read_head(stream: &mut dyn Stream, bytes: &mut Vec<u8>) -> Result<String, String> {
    const END: &[u8] = b"\r\n\r\n";
    let began = Instant::now();
    loop {
        if let Some(at) = bytes.windows(END.len()).position(|window| window == END) {
            let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
            bytes.drain(..at + END.len());
            return Ok(head);
        }
        if bytes.len() > LONGEST || began.elapsed() > TO_ANSWER {
            return Err("whoever answers does not speak HTTP".to_owned());
        }
        read_more(stream, bytes)?;
    }
}

/// Opens a WebSocket, asks for one event, and waits for the end of what is stored; returns how long all this took.
pub fn question(url: &str, ca: Option<&Path>) -> Result<Duration, String> {
    let began = Instant::now();
    let target = Target::parse(url)?;
    let mut stream = target.connect(ca)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nUser-Agent: ratite\r\n\
         Sec-WebSocket-Key: cmF0aXRlIGlzIGEgYmlyZA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        target.path,
        target.authority()
    );
    stream.write_all(request.as_bytes()).map_err(|error| plain(&error))?;
    let mut bytes = Vec::new();
    let head = read_head(&mut *stream, &mut bytes)?;
    match status_of(&head)? {
        101 => {}
        status => {
            return Err(format!(
                "no WebSocket is opened (status {status}): if a proxy stands in front, it must pass on the headers Upgrade and Connection"
            ));
        }
    }
    // Masked with zeros, which changes nothing.
    let message = br#"["REQ","doctor",{"limit":1}]"#;
    let mut frame = vec![0x81, 0x80 | message.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(message);
    stream.write_all(&frame).map_err(|error| plain(&error))?;
    while began.elapsed() < TO_ANSWER {
        while let Some((opcode, payload)) = take_frame(&mut bytes) {
            match opcode {
                1 if payload.starts_with(b"[\"EOSE\",\"doctor\"") => return Ok(began.elapsed()),
                1 if payload.starts_with(b"[\"CLOSED\",\"doctor\"") => {
                    return Err(format!("the question is refused: {}", String::from_utf8_lossy(&payload)));
                }
                8 => return Err("the WebSocket is closed at once".to_owned()),
                _ => {}
            }
        }
        if bytes.len() > 8 * LONGEST {
            break;
        }
        read_more(&mut *stream, &mut bytes)?;
    }
    Err("the question is not answered".to_owned())
}

/// A whole frame from the front, if there is one: its opcode and its payload. Servers do not mask.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let opcode = bytes.first()? & 0x0f;
    let (length, start) = match *bytes.get(1)? {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        short => (usize::from(short & 0x7f), 2),
    };
    let end = usize::checked_add(start, length)?;
    let payload = bytes.get(start..end)?.to_vec();
    bytes.drain(..end);
    Some((opcode, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let parts =
            |url| Target::parse(url).map(|it| (it.tls, it.host.clone(), it.port, it.path.clone(), it.authority()));
        let is = |tls, host: &str, port, path: &str, authority: &str| {
            Ok((tls, host.to_owned(), port, path.to_owned(), authority.to_owned()))
        };
        assert_eq!(parts("wss://relay.example.org"), is(true, "relay.example.org", 443, "/", "relay.example.org"));
        assert_eq!(parts("ws://127.0.0.1:7777/x"), is(false, "127.0.0.1", 7777, "/x", "127.0.0.1:7777"));
        assert_eq!(parts("wss://[::1]:8443"), is(true, "[::1]", 8443, "/", "[::1]:8443"));
        assert_eq!(parts("ws://[::1]"), is(false, "[::1]", 80, "/", "[::1]"));
        for wrong in ["relay.example.org", "ftp://x", "ws://x:port"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn frames_are_taken_when_they_are_whole() {
        let mut long = vec![0x81, 126, 1, 0];
        long.extend([7; 256]);
        let mut bytes = [&[0x89, 0][..], &long[..10]].concat();
        assert_eq!(take_frame(&mut bytes), Some((9, vec![])));
        assert_eq!(take_frame(&mut bytes), None);
        bytes.extend_from_slice(&long[10..]);
        assert_eq!(take_frame(&mut bytes), Some((1, vec![7; 256])));
        assert!(bytes.is_empty());
        assert_eq!(take_frame(&mut vec![0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1]), None);
    }
}
