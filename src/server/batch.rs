//! Messages in the order in which they leave, and the batch of them that is being written. Books only: no lock, no socket.
//!
//! A message is one owned piece, or part of one, or an owned head with a shared body behind it: the bytes of a live
//! event, which all who receive it have in common where more than a little waits. What is cut off ends at a message boundary.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// A batch taken out for writing ends at the first message boundary past this.
pub(super) const BATCH_BYTES: usize = 64 * 1024;

/// Most slices handed to one system call: heads and bodies of as many events of the usual size as fill a batch.
pub(super) const MAX_SLICES: usize = 128;

/// Messages up to this size are copied together instead of being queued one by one.
const SMALL: usize = 1024;

/// Copied-together messages grow up to this size.
const MERGED: usize = 4096;

/// A run of bytes to write.
#[derive(Debug)]
pub(super) enum Piece {
    /// Whole messages, or the head of the message whose body follows.
    Owned(Vec<u8>),
    /// The body of a message: where it ends the message ends.
    Shared(Bytes),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Owned(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

/// What waits to be taken into a batch. Owns no memory while nothing waits.
#[derive(Default)]
pub(super) struct Queue {
    /// Control frames; they overtake what waits in `pieces`.
    urgent: Vec<u8>,
    pieces: VecDeque<Piece>,
}

impl Queue {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.urgent.is_empty()
    }

    /// Appends whole messages.
    pub(super) fn push(&mut self, mut messages: Vec<u8>) {
        if messages.capacity() > 2 * messages.len() {
            // The bound counts bytes of messages: hold little more than that.
            messages.shrink_to_fit();
        }
        match self.pieces.back_mut() {
            Some(Piece::Owned(last)) if messages.len() <= SMALL && last.len() + messages.len() <= MERGED => {
                last.extend_from_slice(&messages);
            }
            _ => self.pieces.push_back(Piece::Owned(messages)),
        }
    }

    /// Appends one message: its head in parts, and its body; about `more` bytes of such messages follow it. The first few kilobytes that
    /// wait are copied together, so that a small event leaves in one piece; the bodies of all others are shared.
    pub(super) fn push_shared(&mut self, head: [&[u8]; 3], body: &Bytes, more: usize) {
        let size: usize = head.iter().map(|part| part.len()).sum();
        let whole = size + body.len();
        if self.pieces.is_empty() && whole <= MERGED {
            self.pieces.push_back(Piece::Owned(Vec::with_capacity((whole + more).min(MERGED))));
        }
        if let (1, Some(Piece::Owned(first))) = (self.pieces.len(), self.pieces.back_mut())
            && first.len() + whole <= MERGED
        {
            head.into_iter().chain([&body[..]]).for_each(|part| first.extend_from_slice(part));
            return;
        }
        if !matches!(self.pieces.back(), Some(Piece::Owned(last)) if last.len() + size <= MERGED) {
            self.pieces.push_back(Piece::Owned(Vec::with_capacity(size)));
        }
        if let Some(Piece::Owned(last)) = self.pieces.back_mut() {
            head.iter().for_each(|part| last.extend_from_slice(part));
        }
        self.pieces.push_back(Piece::Shared(body.clone()));
    }

    /// Where control frames are appended.
    pub(super) fn urgent(&mut self) -> &mut Vec<u8> {
        &mut self.urgent
    }

    /// Throws everything away; returns how many bytes it was.
    pub(super) fn clear(&mut self) -> usize {
        let Queue { urgent, pieces } = std::mem::take(self);
        urgent.len() + pieces.iter().map(|piece| piece.as_slice().len()).sum::<usize>()
    }

    /// The allocations that are held.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pieces.capacity() + self.urgent.capacity()
    }

    /// The pieces that wait, in order.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter()
    }
}

/// The batch of whole messages that the connection's task is writing. Owns no memory while there is none.
#[derive(Default)]
pub(super) struct Batch {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written already.
    offset: usize,
}

impl Batch {
    /// Whether everything of it is written.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes the next whole messages out of the queue, about 64 KiB of them. Returns whether there were any.
    pub(super) fn refill(&mut self, queue: &mut Queue) -> bool {
        if !queue.urgent.is_empty() {
            self.pieces.push_back(Piece::Owned(std::mem::take(&mut queue.urgent)));
        }
        let mut bytes = 0;
        let mut count = 0;
        while let Some(piece) = queue.pieces.get(count) {
            bytes += piece.as_slice().len();
            count += 1;
            let boundary =
                matches!(piece, Piece::Shared(_)) || !matches!(queue.pieces.get(count), Some(Piece::Shared(_)));
            if boundary && bytes >= BATCH_BYTES {
                break;
            }
        }
        if count == queue.pieces.len() && self.pieces.is_empty() {
            // The usual case: everything, with no move. The queue starts afresh without a buffer.
            self.pieces = std::mem::take(&mut queue.pieces);
        } else {
            self.pieces.extend(queue.pieces.drain(..count));
        }
        !self.pieces.is_empty()
    }

    /// What one system call is to write next; returns how many of the slices are in use.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.offset;
        let mut count = 0;
        let mut bytes = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let rest = &piece.as_slice()[skip..];
            *slice = IoSlice::new(rest);
            skip = 0;
            count += 1;
            bytes += rest.len();
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        count
    }

    /// Notes that so many bytes were written.
    pub(super) fn advance(&mut self, written: usize) {
        self.offset += written;
        while let Some(piece) = self.pieces.front() {
            let size = piece.as_slice().len();
            if self.offset < size {
                return;
            }
            self.offset -= size;
            self.pieces.pop_front();
        }
        self.pieces = VecDeque::new();
    }

    /// The allocations that are held.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pieces.capacity()
    }
}
