//! A WebSocket client that costs next to nothing: frames made by hand, answers looked at no closer than needed.
//!
//! It checks nothing of the handshake but its status and what was agreed: it is here to load relays, not to judge them.

use std::io;

use flate2::{Decompress, FlushDecompress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Result;

/// Where a relay is: host and port, and the path to ask for.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub path: String,
    /// Ask for compression, as browsers do.
    pub deflate: bool,
}

impl Target {
    /// Reads `ws://host[:port][/path]`. TLS is not spoken here.
    pub fn parse(url: &str) -> Result<Target> {
        let rest = url.strip_prefix("ws://").ok_or_else(|| format!("{url}: only ws:// addresses can be measured"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("{url}: the port is not a number"))?),
            None => (authority, 80),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { host: host.to_owned(), port, path: path.to_owned(), deflate: false })
    }

    pub fn local(port: u16) -> Target {
        Target { host: "127.0.0.1".into(), port, path: "/".into(), deflate: false }
    }
}

/// What a relay says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Event,
    Eose,
    Ok,
    Count,
    Closed,
    Notice,
    Other,
}

impl Says {
    /// By the name that opens the array.
    fn of(payload: &[u8]) -> Says {
        let Some(start) = payload.iter().take(16).position(|&byte| byte == b'"') else { return Says::Other };
        match payload.get(start + 1..start + 3) {
            Some(b"EV") => Says::Event,
            Some(b"EO") => Says::Eose,
            Some(b"OK") => Says::Ok,
            Some(b"CO") => Says::Count,
            Some(b"CL") => Says::Closed,
            Some(b"NO") => Says::Notice,
            _ => Says::Other,
        }
    }
}

/// One connection.
pub struct Socket {
    stream: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// When compression was agreed: the stream, and what it gives out.
    inflater: Option<(Decompress, Vec<u8>)>,
    /// Bytes received so far, frames included.
    pub received: u64,
}

/// What a browser offers. The window from message to message is kept; that an agreement may do without is not looked at.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// The same for every frame: a mask is there to be removed, not to be a secret from ourselves.
pub const MASK: [u8; 4] = [0x5A, 0xC3, 0x96, 0x3C];

impl Socket {
    pub async fn connect(target: &Target) -> Result<Socket> {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
        stream.set_nodelay(true)?;
        let mut socket = Socket { stream, inbox: Vec::new(), outbox: Vec::new(), inflater: None, received: 0 };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
            target.path,
            target.host,
            target.port,
            if target.deflate { OFFER } else { "" }
        );
        socket.stream.write_all(request.as_bytes()).await?;
        loop {
            if socket.stream.read_buf(&mut socket.inbox).await? == 0 {
                return Err("the relay hung up during the handshake".into());
            }
            if let Some(end) = socket.inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                if !socket.inbox.starts_with(b"HTTP/1.1 101") {
                    let line = String::from_utf8_lossy(&socket.inbox).lines().next().unwrap_or_default().to_owned();
                    return Err(format!("no WebSocket: {line}").into());
                }
                let head = String::from_utf8_lossy(&socket.inbox[..end]).to_ascii_lowercase();
                socket.inbox.drain(..end + 4);
                if head.contains("\r\nsec-websocket-extensions: permessage-deflate") {
                    socket.inflater = Some((Decompress::new(false), Vec::with_capacity(4 << 10)));
                } else if target.deflate {
                    return Err("the relay does not compress".into());
                }
                return Ok(socket);
            }
        }
    }

    /// Puts a text message into the outbox, its payload given in pieces.
    pub fn push(&mut self, pieces: &[&[u8]]) {
        self.frame(0x81, pieces);
    }

    fn frame(&mut self, first: u8, pieces: &[&[u8]]) {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let out = &mut self.outbox;
        out.push(first);
        match len {
            0..126 => out.push(0x80 | len as u8),
            126..65_536 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&MASK);
        let start = out.len();
        for piece in pieces {
            out.extend_from_slice(piece);
        }
        for (i, byte) in out[start..].iter_mut().enumerate() {
            *byte ^= MASK[i % 4];
        }
    }

    /// Sends what is in the outbox.
    pub async fn flush(&mut self) -> Result<()> {
        if !self.outbox.is_empty() {
            self.stream.write_all(&self.outbox).await?;
            self.outbox.clear();
        }
        Ok(())
    }

    /// Waits for bytes and gives every message that is complete to `each`, with its payload.
    pub async fn read(&mut self, each: &mut impl FnMut(Says, &[u8])) -> Result<()> {
        if self.inbox.capacity() - self.inbox.len() < 16 << 10 {
            self.inbox.reserve(64 << 10);
        }
        let read = self.stream.read_buf(&mut self.inbox).await?;
        if read == 0 {
            return Err(Box::new(io::Error::new(io::ErrorKind::UnexpectedEof, "the relay closed the connection")));
        }
        self.received += read as u64;
        // Without this a relay that sets no TCP_NODELAY waits 40 ms for our delayed acknowledgements, and we would measure that.
        #[cfg(target_os = "linux")]
        self.stream.set_quickack(true)?;
        let mut at = 0;
        let mut pongs = Vec::new();
        let mut closed = None;
        while let Some((first, start, end)) = frame_at(&self.inbox[at..]) {
            let mut payload = &self.inbox[at + start..at + end];
            at += end;
            if let (Some((inflater, inflated)), true) = (&mut self.inflater, first & 0x40 != 0) {
                inflate(inflater, payload, inflated)?;
                payload = inflated;
            }
            match first & 0x0F {
                // What a message is shows in its first fragment; the rest is only bytes.
                1 => each(Says::of(payload), payload),
                9 => pongs.push(payload.to_vec()),
                8 => closed = Some(String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned()),
                _ => {}
            }
        }
        self.inbox.drain(..at);
        for pong in pongs {
            self.frame(0x8A, &[&pong]);
        }
        match closed {
            Some(reason) => Err(format!("the relay closed the connection: {reason}").into()),
            None => self.flush().await,
        }
    }

    /// Gives the buffers back, as an idle client should.
    pub fn shrink(&mut self) {
        self.inbox.shrink_to_fit();
        self.outbox.shrink_to_fit();
    }
}

/// Inflates a message into `out`, whose memory is used again.
fn inflate(inflater: &mut Decompress, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    for mut part in [message, &[0, 0, 0xFF, 0xFF]] {
        while !part.is_empty() || out.len() == out.capacity() {
            if out.len() == out.capacity() {
                out.reserve(out.capacity());
            }
            let before = inflater.total_in();
            inflater.decompress_vec(part, out, FlushDecompress::Sync)?;
            part = &part[(inflater.total_in() - before) as usize..];
        }
    }
    Ok(())
}

/// The first byte of the first frame, and where its payload begins and ends, once it is complete.
pub fn frame_at(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (start, len) = match second & 0x7F {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, usize::from(len)),
    };
    (bytes.len() >= start + len).then_some((first, start, start + len))
}

/// Where the payload of the first message of a client begins and ends, once it is complete.
pub fn message_at(bytes: &[u8]) -> Option<(usize, usize)> {
    let (_, start, end) = frame_at(bytes)?;
    let (start, end) = (start + MASK.len(), end + MASK.len());
    (bytes.len() >= end).then_some((start, end))
}

/// A client's payload, its mask taken off.
pub fn unmasked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b).collect()
}
