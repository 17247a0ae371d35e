//! permessage-deflate (RFC 7692) without frames: what is agreed with a peer, and bytes made smaller and large again.
//!
//! No connection owns a compressor or a window. What peers send is inflated message by message, because every agreement
//! has `client_no_context_takeover`; one inflater for each thread does for all. What they get is compressed in two ways:
//!
//! - A live event once for all who receive it, alone and ending at a byte boundary, so that each subscriber's head can
//!   stand before it as a stored block.
//! - Stored events slice by slice of an answer, each slice with a window that begins empty: a compressor may start afresh
//!   without telling its peer. The window costs nothing between slices, and a slice holds enough to fill it.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use hyper::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

/// Level of live events: they are compressed once, whoever many receive them.
const LIVE_LEVEL: u32 = 6;

/// Level of stored events: a third of the time of the next level, for two thirds of its gain.
const ANSWER_LEVEL: u32 = 1;

/// The windows in use, as powers of two. A window may be smaller than agreed.
const WINDOWS: [u8; 3] = [9, 12, 15];

/// Messages below this size are sent as they are.
const SMALL: usize = 128;

/// What a flushed compressor ends with and a message leaves out (RFC 7692 section 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// What is put behind a message to inflate it: that end, and a last empty block by which a complete message is known.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// How often one message may end its deflate stream and begin another. Nobody needs more than one.
const MAX_STREAMS: u32 = 8;

/// What was agreed with one peer about what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreement {
    /// The window that the peer keeps, as a power of two.
    window_bits: u8,
    /// Whether the peer keeps it from message to message.
    takeover: bool,
}

/// Reads what a client offers. `None` when it offers nothing that can be agreed to; otherwise the agreement and the value of
/// the header `Sec-WebSocket-Extensions` in the answer.
pub(super) fn negotiate(headers: &HeaderMap) -> Option<(Agreement, HeaderValue)> {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).find_map(agree)
}

/// Agrees to one offer, or not: one with a parameter that is unknown, repeated or out of range is passed over.
fn agree(offer: &str) -> Option<(Agreement, HeaderValue)> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let (mut server_takeover, mut client_takeover) = (None, None);
    let (mut server_bits, mut client_bits) = (None, None);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(window_bits(value.trim_start())?)),
            None => (part, None),
        };
        let repeated = match (name, value) {
            ("server_no_context_takeover", None) => server_takeover.replace(false).is_some(),
            // Agreed in any case.
            ("client_no_context_takeover", None) => client_takeover.replace(false).is_some(),
            ("server_max_window_bits", Some(bits)) => server_bits.replace(bits).is_some(),
            // Without a window from message to message its size does not matter.
            ("client_max_window_bits", bits) => client_bits.replace(bits).is_some(),
            _ => return None,
        };
        if repeated {
            return None;
        }
    }
    let agreement = Agreement { window_bits: server_bits.unwrap_or(15), takeover: server_takeover.unwrap_or(true) };
    if agreement.window_bits < WINDOWS[0] {
        return None;
    }
    let mut answer = "permessage-deflate; client_no_context_takeover".to_owned();
    if !agreement.takeover {
        answer.push_str("; server_no_context_takeover");
    }
    if let Some(bits) = server_bits {
        answer.push_str(&format!("; server_max_window_bits={bits}"));
    }
    Some((agreement, HeaderValue::from_str(&answer).ok()?))
}

/// 8 to 15, with no zero in front, perhaps in quotes.
fn window_bits(value: &str) -> Option<u8> {
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (8..=15).find(|bits| bits.to_string() == value)
}

impl Agreement {
    /// Whether a live event of so many bytes may be sent to this peer compressed: nothing in it lies further back than the
    /// window reaches.
    pub(super) fn takes(self, event: usize) -> bool {
        event <= 1 << self.window_bits
    }

    /// What compresses the messages of an answer for this peer, one slice of it: messages that are sent one behind the
    /// other, with no other compressed one in between. `None` for a peer that keeps no window from message to message:
    /// alone, stored events cost too much for what it saves.
    pub(super) fn slice<T>(self, work: impl FnOnce(&mut Slice<'_>) -> T) -> Option<T> {
        if !self.takeover {
            return None;
        }
        let window = WINDOWS.into_iter().rev().find(|window| *window <= self.window_bits)?;
        Some(COMPRESSORS.with_borrow_mut(|compressors| {
            let compressor = get(compressors, ANSWER_LEVEL, window);
            compressor.reset();
            work(&mut Slice { compressor })
        }))
    }
}

/// A compressor and what makes it: level and window.
type Compressors = Vec<(u32, u8, Compress)>;

thread_local! {
    /// The compressors of a thread, made when they are first needed.
    static COMPRESSORS: RefCell<Compressors> = const { RefCell::new(Vec::new()) };
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

fn get(compressors: &mut Compressors, level: u32, window: u8) -> &mut Compress {
    let at = match compressors.iter().position(|(l, w, _)| (*l, *w) == (level, window)) {
        Some(at) => at,
        None => {
            let compressor = Compress::new_with_window_bits(Compression::new(level), false, window);
            compressors.push((level, window, compressor));
            compressors.len() - 1
        }
    };
    &mut compressors[at].2
}

/// Compresses the messages of one slice of an answer.
pub(super) struct Slice<'a> {
    compressor: &'a mut Compress,
}

impl Slice<'_> {
    /// Appends the compressed message to `out`. False when it grows by that: then nothing is appended, and the message is to be
    /// sent as it is.
    pub(super) fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        if message.len() < SMALL {
            return false;
        }
        let start = out.len();
        // The first messages of a slice find nothing in the window: a small loss is taken for what follows them.
        if flush(self.compressor, message, out) && out.len() - start <= message.len() + message.len() / 32 {
            return true;
        }
        // The peer's window will not hold it.
        self.compressor.reset();
        out.truncate(start);
        false
    }
}

/// Compresses a live event for everybody; `None` when that saves nothing.
///
/// What stands before it in a message is a stored block, so it refers to nothing but itself.
pub(super) fn alone(event: &[u8]) -> Option<Bytes> {
    COMPRESSORS.with_borrow_mut(|compressors| {
        let compressor = get(compressors, LIVE_LEVEL, 15);
        compressor.reset();
        let mut out = Vec::with_capacity(event.len());
        let saves = flush(compressor, event, &mut out) && out.len() + STORED < event.len();
        out.shrink_to_fit();
        saves.then(|| Bytes::from(out))
    })
}

/// Bytes that a stored block has before its content.
pub(super) const STORED: usize = 5;

/// What stands before `content` to make a stored block of it; `None` when it is too long for one.
pub(super) fn stored(content: usize) -> Option<[u8; STORED]> {
    let length = u16::try_from(content).ok()?;
    let ([a, b], [c, d]) = (length.to_le_bytes(), (!length).to_le_bytes());
    Some([0, a, b, c, d])
}

/// Appends `input`, compressed and flushed to a byte boundary, without the end that all messages have in common.
fn flush(compressor: &mut Compress, input: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = input;
    loop {
        out.reserve(rest.len() + rest.len() / 8 + 64);
        let before = compressor.total_in();
        if compressor.compress_vec(rest, out, FlushCompress::Sync).is_err() {
            return false;
        }
        rest = &rest[(compressor.total_in() - before) as usize..];
        if rest.is_empty() && out.len() < out.capacity() {
            break;
        }
    }
    let whole = out.ends_with(&FLUSHED);
    out.truncate(out.len() - FLUSHED.len().min(out.len()));
    whole
}

/// Why a message was not inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It would be longer than the limit.
    TooLarge,
    /// It is not deflate data, or not complete.
    Invalid,
}

/// Inflates a message to `limit` bytes at most. Memory grows with what comes out, not with what is announced.
pub(super) fn inflate(message: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    if message.is_empty() {
        return Ok(Vec::new());
    }
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
        inflater.reset(false);
        let mut out = Vec::with_capacity((message.len() * 3).min(limit) + 1);
        let (mut rest, mut behind, mut streams) = (message, &END[..], 1);
        loop {
            if out.len() > limit {
                return Err(Fault::TooLarge);
            }
            if out.len() == out.capacity() {
                let more = out.capacity().min(limit + 1 - out.len());
                out.reserve_exact(more);
            }
            let before = (inflater.total_in(), inflater.total_out());
            let status = inflater.decompress_vec(rest, &mut out, FlushDecompress::None).map_err(|_| Fault::Invalid)?;
            let after = (inflater.total_in(), inflater.total_out());
            rest = &rest[(after.0 - before.0) as usize..];
            if status == Status::StreamEnd {
                if rest.is_empty() && behind.is_empty() {
                    break;
                }
                // The sender marked a block as its last. What follows is another stream (RFC 7692 section 7.2.3.4).
                streams += 1;
                if streams > MAX_STREAMS {
                    return Err(Fault::Invalid);
                }
                inflater.reset(false);
            } else if before == after {
                // Nothing more comes out of what went in.
                if !rest.is_empty() || behind.is_empty() {
                    return Err(Fault::Invalid);
                }
                rest = std::mem::take(&mut behind);
            }
        }
        if out.len() > limit { Err(Fault::TooLarge) } else { Ok(out) }
    })
}

#[cfg(test)]
mod tests;
