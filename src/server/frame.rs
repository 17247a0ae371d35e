//! WebSocket frames (RFC 6455) without I/O: bytes in, messages out, and headers for what we send.
//!
//! The handshake is `fastwebsockets`' work; its frames are not, because a relay needs what it does not give: one
//! bound on the sum of a message's fragments, reads that may be dropped at any moment, many messages in one write,
//! and an idle connection that owns no buffer.

use fastwebsockets::{CloseCode, OpCode, unmask};

/// Most fragments one message may come in. Nobody needs as many; without a bound, empty fragments go on for ever.
const MAX_FRAGMENTS: u32 = 16_384;

/// Most payload of a control frame (RFC 6455 section 5.5).
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

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
}

/// The first 2 to 14 bytes of a frame, checked.
#[derive(Debug, Clone, Copy)]
struct Header {
    fin: bool,
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
    /// Most bytes of a message, the sum of its fragments.
    limit: usize,
    /// The start of a frame whose end has not arrived.
    frame: Vec<u8>,
    /// The fragments so far of a message whose last one has not arrived.
    message: Vec<u8>,
    /// How that message began.
    fragmented: Option<OpCode>,
    fragments: u32,
    /// The caller has seen what lies in `frame` or `message`: give the memory back at the next call.
    spent: bool,
}

impl Decoder {
    /// A decoder that refuses messages above `limit` bytes.
    pub(super) fn new(limit: usize) -> Decoder {
        Decoder { limit, frame: Vec::new(), message: Vec::new(), fragmented: None, fragments: 0, spent: false }
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
        let (opcode, place, range) = loop {
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
                    break (header.opcode, place, range);
                }
                (OpCode::Text | OpCode::Binary, true) => break (header.opcode, place, range),
                (opcode, fin) => {
                    // The header check has made sure that a continuation continues something and that nothing
                    // else begins meanwhile.
                    let first = *self.fragmented.get_or_insert(opcode);
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
                        break (first, Place::Message, 0..self.message.len());
                    }
                }
            }
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
        let fin = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(Violation::protocol("reserved bits are set"));
        }
        let Ok(opcode) = OpCode::try_from(first & 0x0f) else {
            return Err(Violation::protocol("unknown opcode"));
        };
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
            _ => {
                return Err(Violation { code: CloseCode::Size, reason: "message is larger than this relay takes" });
            }
        };
        let Some(&[a, b, c, d]) = bytes.get(mask_at..mask_at + 4) else {
            return Ok(None);
        };
        Ok(Some(Header { fin, opcode, mask: [a, b, c, d], size: mask_at + 4, payload }))
    }

    /// Bytes of memory held for an incomplete frame or message.
    #[cfg(test)]
    fn held(&self) -> usize {
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
    let payload = start + RESERVED;
    let (header, size) = text_header(buf.len() - payload);
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
    header[0] = 0x80 | OpCode::Text as u8;
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

/// Appends a ping or pong. A payload above 125 bytes is cut: no such frame may exist.
pub(super) fn write_control(buf: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    buf.extend_from_slice(&[0x80 | opcode as u8, payload.len() as u8]);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [0x11, 0x82, 0x33, 0x44];

    /// A masked client frame; `first` is the first byte as it is.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&MASK);
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ MASK[i & 3]));
        out
    }

    /// Feeds `bytes` in pieces of `size` and notes what comes out.
    fn decode(limit: usize, bytes: &[u8], size: usize) -> Vec<String> {
        let mut decoder = Decoder::new(limit);
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            let mut piece = piece.to_vec();
            let mut at = 0;
            loop {
                match decoder.next(&mut piece, &mut at) {
                    Ok(Some(incoming)) => seen.push(match incoming {
                        Incoming::Text(text) if text.len() > 100 => format!("text {}", text.len()),
                        other => format!("{other:?}"),
                    }),
                    Ok(None) => break,
                    Err(violation) => {
                        seen.push(format!("close {}", u16::from(violation.code)));
                        return seen;
                    }
                }
            }
            assert_eq!(at, piece.len(), "everything is taken");
        }
        if decoder.frame.is_empty() && decoder.fragmented.is_none() {
            assert_eq!(decoder.held(), 0, "an idle decoder owns no buffer");
        }
        seen
    }

    /// What comes out must not depend on how the bytes were cut.
    #[track_caller]
    fn assert_decodes(bytes: &[u8], expected: &[&str]) {
        for size in [1, 2, 3, 5, 7, 16, 125, 126, 127, 1000, bytes.len().max(1)] {
            assert_eq!(decode(1024, bytes, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn messages_of_every_header_size() {
        for n in [0, 1, 125, 126, 127, 0xffff, 0x10000, 131_072] {
            let text = "x".repeat(n);
            let bytes = frame(0x81, text.as_bytes());
            for size in [1, 13, 4096, bytes.len()] {
                let seen = decode(131_072, &bytes, size);
                let expected = match n {
                    0..=100 => format!("Text({text:?})"),
                    _ => format!("text {n}"),
                };
                assert_eq!(seen, [expected], "{n} bytes in pieces of {size}");
            }
        }
    }

    #[test]
    fn several_frames_in_one_read() {
        let bytes = [frame(0x81, b"[1]"), frame(0x8a, b""), frame(0x82, b"ab"), frame(0x81, b"[2]")].concat();
        assert_decodes(&bytes, &["Text(\"[1]\")", "Pong", "Binary([97, 98])", "Text(\"[2]\")"]);
    }

    #[test]
    fn h182_one_byte_fragments() {
        let text = "[\"REQ\",\"é\"]";
        let last = text.len() - 1;
        let bytes: Vec<u8> = text
            .bytes()
            .enumerate()
            .flat_map(|(i, byte)| {
                let first = if i == 0 { 0x01 } else { 0x00 } | if i == last { 0x80 } else { 0 };
                frame(first, &[byte])
            })
            .collect();
        assert_decodes(&bytes, &["Text(\"[\\\"REQ\\\",\\\"é\\\"]\")"]);
    }

    #[test]
    fn h183_endless_empty_fragments() {
        let mut bytes = frame(0x01, b"");
        for _ in 0..100_000 {
            bytes.extend(frame(0x00, b""));
        }
        assert_eq!(decode(1024, &bytes, 4096), ["close 1008"]);
    }

    #[test]
    fn h184_ping_between_fragments() {
        let bytes = [frame(0x01, b"[\"a"), frame(0x89, b"hi"), frame(0x80, b"b\"]")].concat();
        assert_decodes(&bytes, &["Ping([104, 105])", "Text(\"[\\\"ab\\\"]\")"]);
    }

    #[test]
    fn protocol_errors_close_1002() {
        let long_ping = [0x89, 0x80 | 126, 0, 126, 1, 2, 3, 4];
        let top_bit = [0x81, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4];
        for (name, bytes) in [
            ("h185_continuation_without_start", frame(0x80, b"x")),
            ("h186_new_text_inside_message", [frame(0x01, b"x"), frame(0x81, b"y")].concat()),
            ("h186_new_binary_inside_message", [frame(0x01, b"x"), frame(0x02, b"y")].concat()),
            ("h187_unmasked", vec![0x81, 0x01, b'x']),
            ("h188_rsv1", frame(0xc1, b"x")),
            ("h188_rsv2", frame(0xa1, b"x")),
            ("h188_rsv3", frame(0x91, b"x")),
            ("h189_opcode_3", frame(0x83, b"")),
            ("h189_opcode_7", frame(0x87, b"")),
            ("h189_opcode_11", frame(0x8b, b"")),
            ("h189_opcode_15", frame(0x8f, b"")),
            ("h190_ping_of_126", long_ping.to_vec()),
            ("h191_fragmented_ping", frame(0x09, b"x")),
            ("h202_top_bit_of_length", top_bit.to_vec()),
            ("h205_close_of_one_byte", frame(0x88, b"x")),
            ("h206_close_999", frame(0x88, &999u16.to_be_bytes())),
            ("h206_close_1004", frame(0x88, &1004u16.to_be_bytes())),
            ("h206_close_1005", frame(0x88, &1005u16.to_be_bytes())),
            ("h206_close_1006", frame(0x88, &1006u16.to_be_bytes())),
            ("h206_close_1015", frame(0x88, &1015u16.to_be_bytes())),
            ("h206_close_2999", frame(0x88, &2999u16.to_be_bytes())),
            ("h206_close_5000", frame(0x88, &5000u16.to_be_bytes())),
        ] {
            for size in [1, 3, bytes.len()] {
                assert_eq!(decode(1024, &bytes, size), ["close 1002"], "{name} in pieces of {size}");
            }
        }
    }

    #[test]
    fn h192_largest_ping() {
        let payload: Vec<u8> = (0..125).collect();
        assert_decodes(&frame(0x89, &payload), &[&format!("Ping({payload:?})")]);
    }

    #[test]
    fn invalid_utf8_closes_1007() {
        for (name, payload) in [
            ("h195_ff", &b"\xff"[..]),
            ("h196_overlong", b"[\"\xc0\x80\"]"),
            ("h197_surrogate", b"[\"\xed\xa0\x80\"]"),
            ("h199_cut", b"\xf0\x9f"),
            ("beyond_unicode", b"\xf4\x90\x80\x80"),
        ] {
            let bytes = frame(0x81, payload);
            for size in [1, bytes.len()] {
                assert_eq!(decode(1024, &bytes, size), ["close 1007"], "{name}");
            }
        }
        assert_eq!(decode(1024, &frame(0x88, b"\x03\xe8\xff"), 99), ["close 1007"], "h207");
    }

    #[test]
    fn h198_character_across_fragments() {
        let bytes = [frame(0x01, b"\"\xf0\x9f"), frame(0x80, b"\x98\x80\"")].concat();
        assert_decodes(&bytes, &["Text(\"\\\"😀\\\"\")"]);
        let bytes = [frame(0x01, b"\xf0\x9f"), frame(0x80, b"")].concat();
        assert_decodes(&bytes, &["close 1007"]);
    }

    #[test]
    fn h201_huge_length_is_refused_at_its_header() {
        let mut header = vec![0x81, 0x80 | 127];
        header.extend_from_slice(&(1u64 << 62).to_be_bytes());
        let mut decoder = Decoder::new(1024);
        let refused = decoder.next(&mut header, &mut 0);
        assert_eq!(refused.map_err(|v| u16::from(v.code)), Err(1009));
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn h203_longer_length_encoding_than_needed() {
        let mut bytes = vec![0x81, 0x80 | 126, 0, 3];
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(b"[1]");
        assert_decodes(&bytes, &["Text(\"[1]\")"]);
    }

    #[test]
    fn h204_limit_counts_the_sum_of_fragments() {
        let at_limit = [frame(0x01, &[b' '; 1000]), frame(0x80, &[b' '; 24])].concat();
        assert_decodes(&at_limit, &["text 1024"]);
        let above = [frame(0x01, &[b' '; 1000]), frame(0x80, &[b' '; 25])].concat();
        assert_decodes(&above, &["close 1009"]);
        assert_decodes(&frame(0x81, &[b' '; 1025]), &["close 1009"]);
    }

    #[test]
    fn a_frame_grows_with_its_bytes_not_with_its_header() {
        let bytes = frame(0x81, &[b' '; 100_000]);
        let mut decoder = Decoder::new(131_072);
        let mut start = bytes[..1000].to_vec();
        assert_eq!(decoder.next(&mut start, &mut 0), Ok(None));
        assert!(decoder.held() < 4096, "{} bytes for 1000", decoder.held());
    }

    #[test]
    fn close_with_and_without_code() {
        assert_decodes(&frame(0x88, b""), &["Close(None)"]);
        assert_decodes(&frame(0x88, b"\x03\xe8bye"), &["Close(Some(Normal))"]);
        assert_decodes(&frame(0x88, &4000u16.to_be_bytes()), &["Close(Some(Library(4000)))"]);
    }

    #[test]
    fn written_headers() {
        for n in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let mut buf = b"before".to_vec();
            let start = begin_text(&mut buf);
            buf.extend(std::iter::repeat_n(b'x', n));
            end_text(&mut buf, start);
            let (header, size) = text_header(n);
            assert_eq!(&buf[..6], b"before");
            assert_eq!(&buf[6..6 + size], &header[..size]);
            assert_eq!(buf.len(), 6 + size + n);
            assert!(buf[6 + size..].iter().all(|&b| b == b'x'));
            let expected = match n {
                0..=125 => vec![0x81, n as u8],
                126..=65_535 => [&[0x81, 126][..], &(n as u16).to_be_bytes()].concat(),
                _ => [&[0x81, 127][..], &(n as u64).to_be_bytes()].concat(),
            };
            assert_eq!(&header[..size], expected);
        }
    }

    #[test]
    fn written_control_frames() {
        let mut buf = Vec::new();
        write_control(&mut buf, OpCode::Pong, b"hi");
        write_close(&mut buf, Some(CloseCode::Away), "bye");
        write_close(&mut buf, None, "unused");
        assert_eq!(buf, b"\x8a\x02hi\x88\x05\x03\xe9bye\x88\x00");
    }

    /// Frames of a client that is sometimes wrong.
    fn some_frame() -> impl Strategy<Value = Vec<u8>> {
        let payload = prop_oneof![
            4 => "[a-zé😀]{0,40}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..200),
        ];
        let first =
            prop_oneof![8 => prop::sample::select(vec![0x81, 0x01, 0x00, 0x80, 0x89, 0x8a, 0x82]), 1 => any::<u8>()];
        (first, payload).prop_map(|(first, payload)| frame(first, &payload))
    }

    proptest! {
        #[test]
        fn the_cut_of_the_bytes_never_matters(
            frames in prop::collection::vec(some_frame(), 0..12),
            noise in prop::collection::vec(any::<u8>(), 0..20),
            size in 1usize..50,
        ) {
            let bytes = [frames.concat(), noise].concat();
            prop_assert_eq!(decode(300, &bytes, size), decode(300, &bytes, bytes.len().max(1)));
        }
    }
}
