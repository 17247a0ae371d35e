//! WebSocket frames (RFC 6455) without I/O: bytes in, messages out, and headers for what we send.
//!
//! The handshake is `fastwebsockets`' work; its frames are not, because a relay needs what it does not give: one
//! bound on the sum of a message's fragments, reads that may be dropped at any moment, many messages in one write,
//! compression, and an idle connection that owns no buffer.

use fastwebsockets::{CloseCode, OpCode, unmask};

use super::deflate::{Fault, inflate};

/// Most fragments one message may come in. Nobody needs as many; without a bound, empty fragments go on for ever.
const MAX_FRAGMENTS: u32 = 16_384;

/// Most payload of a control frame (RFC 6455 section 5.5).
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

/// Set in the first byte of the last or only frame of a message.
const FIN: u8 = 0x80;

/// Set in the first byte of the first frame of a compressed message (RFC 7692 section 6).
const RSV1: u8 = 0x40;

/// Bytes that [`begin_text`] leaves free: the header of a payload of 126 to 65,535 bytes, which most events are.
const RESERVED: usize = 4;

/// What a peer sent, complete and unmasked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// A text message, all fragments joined.
    Text(&'a str),
    /// A binary message. Nostr has none.
    Binary(&'a [u8]),
    /// To be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping of ours, or unsolicited.
    Pong,
    /// The peer is leaving; `None` when it gave no code.
    Close(Option<CloseCode>),
}

/// A breach of the protocol: the connection ends with this close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation {
    /// 1002, 1007, 1008 or 1009.
    pub code: CloseCode,
    /// For the close frame.
    pub reason: &'static str,
}

impl Violation {
    const fn protocol(reason: &'static str) -> Violation {
        Violation { code: CloseCode::Protocol, reason }
    }

    const fn not_utf8() -> Violation {
        Violation { code: CloseCode::Invalid, reason: "text is not valid UTF-8" }
    }

    const fn too_large() -> Violation {
        Violation { code: CloseCode::Size, reason: "message is larger than this relay takes" }
    }
}

impl From<Fault> for Violation {
    fn from(fault: Fault) -> Violation {
        match fault {
            Fault::TooLarge => Violation::too_large(),
            Fault::Invalid => Violation { code: CloseCode::Invalid, reason: "message cannot be inflated" },
        }
    }
}

/// The first 2 to 14 bytes of a frame, checked.
#[derive(Debug, Clone, Copy)]
struct Header {
    fin: bool,
    /// The message that begins here is compressed.
    compressed: bool,
    opcode: OpCode,
    mask: [u8; 4],
    /// Bytes of the header itself.
    size: usize,
    /// Bytes of payload behind it.
    payload: usize,
}

impl Header {
    fn total(&self) -> usize {
        self.size + self.payload
    }
}

/// Where the bytes of a complete message lie.
enum Place {
    /// In the input of this call.
    Input,
    /// In the decoder's copy of one frame.
    Frame,
    /// Joined from fragments.
    Message,
}

/// Takes the bytes of one connection as they come and gives back messages.
///
/// Holds a buffer only while a frame or a message is incomplete. Nothing is allocated for what a header merely
/// announces.
pub(super) struct Decoder {
    /// Most bytes of a message, the sum of its fragments, compressed or not.
    limit: usize,
    /// Compressed messages are taken: so it was agreed.
    inflates: bool,
    /// The start of a frame whose end has not arrived.
    frame: Vec<u8>,
    /// The fragments so far of a message whose last one has not arrived.
    message: Vec<u8>,
    /// How that message began, and whether it is compressed.
    fragmented: Option<(OpCode, bool)>,
    fragments: u32,
    /// The caller has seen what lies in `frame` or `message`: give the memory back at the next call.
    spent: bool,
}

impl Decoder {
    /// A decoder that refuses messages above `limit` bytes, and compressed ones unless it was agreed that it `inflates`.
    pub(super) fn new(limit: usize, inflates: bool) -> Decoder {
        let (frame, message) = (Vec::new(), Vec::new());
        Decoder { limit, inflates, frame, message, fragmented: None, fragments: 0, spent: false }
    }

    /// The next message in `input[*at..]`, or `None` when more bytes are needed; `at` then stands at the end and
    /// the decoder has kept what it needs. Call it until it returns `None`.
    pub(super) fn next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        at: &mut usize,
    ) -> Result<Option<Incoming<'a>>, Violation> {
        if self.spent {
            self.spent = false;
            if self.fragmented.is_none() {
                self.message = Vec::new();
            }
            self.frame = Vec::new();
        }
        let (opcode, compressed, place, range) = loop {
            let Some((header, place, start)) = self.next_frame(input, at)? else {
                return Ok(None);
            };
            let range = start + header.size..start + header.total();
            let payload = match place {
                Place::Input => &mut input[range.clone()],
                _ => &mut self.frame[range.clone()],
            };
            unmask(payload, header.mask);
            match (header.opcode, header.fin) {
                (OpCode::Close | OpCode::Ping | OpCode::Pong, _) => {
                    break (header.opcode, false, place, range);
                }
                (OpCode::Text | OpCode::Binary, true) => break (header.opcode, header.compressed, place, range),
                (opcode, fin) => {
                    // The header check has made sure that a continuation continues something and that nothing
                    // else begins meanwhile.
                    let (first, compressed) = *self.fragmented.get_or_insert((opcode, header.compressed));
                    self.fragments += 1;
                    if self.fragments > MAX_FRAGMENTS {
                        return Err(Violation { code: CloseCode::Policy, reason: "too many fragments" });
                    }
                    self.message.extend_from_slice(payload);
                    if !matches!(place, Place::Input) {
                        self.frame = Vec::new();
                    }
                    if fin {
                        self.fragmented = None;
                        self.fragments = 0;
                        break (first, compressed, Place::Message, 0..self.message.len());
                    }
                }
            }
        };
        let (place, range) = if compressed {
            let packed = match place {
                Place::Input => &input[range],
                Place::Frame => &self.frame[range],
                Place::Message => &self.message[range],
            };
            // No message is under way: the bytes of this one were the last.
            self.message = inflate(packed, self.limit)?;
            (Place::Message, 0..self.message.len())
        } else {
            (place, range)
        };
        let payload = match place {
            Place::Input => &input[range],
            Place::Frame => {
                self.spent = true;
                &self.frame[range]
            }
            Place::Message => {
                self.spent = true;
                &self.message[range]
            }
        };
        match opcode {
            OpCode::Binary => Ok(Some(Incoming::Binary(payload))),
            OpCode::Ping => Ok(Some(Incoming::Ping(payload))),
            OpCode::Pong => Ok(Some(Incoming::Pong)),
            OpCode::Close => close_code(payload).map(|code| Some(Incoming::Close(code))),
            // A joined message carries the opcode of its first fragment, never `Continuation`.
            OpCode::Text | OpCode::Continuation => match simdutf8::basic::from_utf8(payload) {
                Ok(text) => Ok(Some(Incoming::Text(text))),
                Err(_) => Err(Violation::not_utf8()),
            },
        }
    }

    /// The next complete frame, still masked, and where it starts: in `input`, or in `self.frame` (then at 0).
    fn next_frame(&mut self, input: &[u8], at: &mut usize) -> Result<Option<(Header, Place, usize)>, Violation> {
        if self.frame.is_empty() {
            let rest = &input[*at..];
            let header = self.header(rest)?;
            if let Some(header) = header
                && rest.len() >= header.total()
            {
                let start = *at;
                *at += header.total();
                return Ok(Some((header, Place::Input, start)));
            }
            self.frame.extend_from_slice(rest);
            *at = input.len();
            return Ok(None);
        }
        // Only a header's worth first: how much of the input belongs to this frame is not known before.
        let header = loop {
            if let Some(header) = self.header(&self.frame)? {
                break header;
            }
            let Some(&byte) = input.get(*at) else {
                return Ok(None);
            };
            self.frame.push(byte);
            *at += 1;
        };
        let missing = header.total() - self.frame.len();
        let taken = missing.min(input.len() - *at);
        self.reserve(taken, header.total());
        self.frame.extend_from_slice(&input[*at..*at + taken]);
        *at += taken;
        Ok((taken == missing).then_some((header, Place::Frame, 0)))
    }

    /// Makes room for `more` bytes of a frame of `total`, growing by doubling but never past the frame.
    fn reserve(&mut self, more: usize, total: usize) {
        let needed = self.frame.len() + more;
        if needed > self.frame.capacity() {
            let capacity = needed.max(self.frame.capacity() * 2).min(total);
            self.frame.reserve_exact(capacity - self.frame.len());
        }
    }

    /// Reads and checks a frame's header; `None` when it is not complete. What can be refused early is: the first
    /// two bytes already tell most faults, and the length is held against the limit before any payload arrives.
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        let fin = first & FIN != 0;
        let Ok(opcode) = OpCode::try_from(first & 0x0f) else {
            return Err(Violation::protocol("unknown opcode"));
        };
        let compressed = first & RSV1 != 0;
        let may_be = self.inflates && matches!(opcode, OpCode::Text | OpCode::Binary);
        if first & 0x30 != 0 || (compressed && !may_be) {
            return Err(Violation::protocol("reserved bits are set"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::protocol("client frames must be masked"));
        }
        let short = usize::from(second & 0x7f);
        match opcode {
            OpCode::Close | OpCode::Ping | OpCode::Pong => {
                if !fin {
                    return Err(Violation::protocol("fragmented control frame"));
                }
                if short > MAX_CONTROL_PAYLOAD {
                    return Err(Violation::protocol("control frame above 125 bytes"));
                }
            }
            OpCode::Continuation if self.fragmented.is_none() => {
                return Err(Violation::protocol("continuation of nothing"));
            }
            OpCode::Text | OpCode::Binary if self.fragmented.is_some() => {
                return Err(Violation::protocol("new message inside a fragmented one"));
            }
            OpCode::Continuation | OpCode::Text | OpCode::Binary => {}
        }
        let (length, mask_at) = match short {
            126 => match bytes.get(2..4) {
                Some(&[a, b]) => (u64::from(u16::from_be_bytes([a, b])), 4),
                _ => return Ok(None),
            },
            127 => match bytes.get(2..10).and_then(|b| <[u8; 8]>::try_from(b).ok()) {
                Some(length) => (u64::from_be_bytes(length), 10),
                None => return Ok(None),
            },
            _ => (short as u64, 2),
        };
        if length >> 63 != 0 {
            return Err(Violation::protocol("frame length has its top bit set"));
        }
        // Control frames are small, as checked above, and part of no message.
        let room = match opcode {
            OpCode::Close | OpCode::Ping | OpCode::Pong => MAX_CONTROL_PAYLOAD,
            _ => self.limit.saturating_sub(self.message.len()),
        };
        let payload = match usize::try_from(length) {
            Ok(payload) if payload <= room => payload,
            _ => return Err(Violation::too_large()),
        };
        let Some(&[a, b, c, d]) = bytes.get(mask_at..mask_at + 4) else {
            return Ok(None);
        };
        Ok(Some(Header { fin, compressed, opcode, mask: [a, b, c, d], size: mask_at + 4, payload }))
    }

    /// Bytes of memory held for an incomplete frame or message.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.frame.capacity() + self.message.capacity()
    }
}

/// Reads the body of a close frame.
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::protocol("close frame of one byte")),
        [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::protocol("close code that must not be sent"));
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(_) => Ok(Some(CloseCode::from(code))),
        Err(_) => Err(Violation::not_utf8()),
    }
}

/// Opens a text message in `buf`; the payload follows, then [`end_text`] with the value returned here.
pub(super) fn begin_text(buf: &mut Vec<u8>) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&[0; RESERVED]);
    start
}

/// Writes the header of the message opened at `start`. The payload moves only when it is below 126 bytes or above
/// 65,535.
pub(super) fn end_text(buf: &mut Vec<u8>, start: usize) {
    end(buf, start, text_header);
}

fn end(buf: &mut Vec<u8>, start: usize, header: fn(usize) -> ([u8; 10], usize)) {
    let payload = start + RESERVED;
    let (header, size) = header(buf.len() - payload);
    match size {
        RESERVED => {}
        2 => {
            buf.copy_within(payload.., start + 2);
            buf.truncate(buf.len() - 2);
        }
        _ => {
            let end = buf.len();
            buf.resize(end + size - RESERVED, 0);
            buf.copy_within(payload..end, start + size);
        }
    }
    buf[start..start + size].copy_from_slice(&header[..size]);
}

/// The header of a text message with `payload` bytes, and how many of the ten bytes it takes.
pub(super) fn text_header(payload: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | OpCode::Text as u8;
    let size = match payload {
        0..=125 => {
            header[1] = payload as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    (header, size)
}

/// The same for a compressed text message.
pub(super) fn compressed_header(payload: usize) -> ([u8; 10], usize) {
    let (mut header, size) = text_header(payload);
    header[0] |= RSV1;
    (header, size)
}

/// Text messages as [`end_text`] left them, one behind the other, each compressed by `compress`, which appends to what it is
/// given or says that the message is to stay as it is.
pub(super) fn compress_texts(messages: &[u8], mut compress: impl FnMut(&[u8], &mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while let Some((header, payload)) = split_text(rest) {
        let start = begin_text(&mut out);
        let (payload, behind) = rest[header..].split_at(payload);
        if compress(payload, &mut out) {
            end(&mut out, start, compressed_header);
        } else {
            out.truncate(start);
            out.extend_from_slice(&rest[..header + payload.len()]);
        }
        rest = behind;
    }
    out
}

/// The sizes of the header and the payload of the first of our own frames; `None` at the end.
fn split_text(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, payload) = match *bytes.get(1)? {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let payload = usize::try_from(payload).ok()?;
    (bytes.len() - header >= payload).then_some((header, payload))
}

/// Appends a ping or pong. A payload above 125 bytes is cut: no such frame may exist.
pub(super) fn write_control(buf: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    buf.extend_from_slice(&[FIN | opcode as u8, payload.len() as u8]);
    buf.extend_from_slice(payload);
}

/// Appends a close frame; without a code its body is empty. `reason` is plain ASCII, at most 123 bytes.
pub(super) fn write_close(buf: &mut Vec<u8>, code: Option<CloseCode>, reason: &'static str) {
    let mut body = Vec::new();
    if let Some(code) = code {
        body.extend_from_slice(&u16::from(code).to_be_bytes());
        body.extend_from_slice(reason.as_bytes());
    }
    write_control(buf, OpCode::Close, &body);
}

#[cfg(test)]
mod tests;
