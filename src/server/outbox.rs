//! What waits to be written to one connection: bounded, shared with the core, emptied by the session.
//!
//! The core's threads put messages in and never wait; the connection's task takes them out in batches and writes
//! each batch with few system calls. While the task sleeps and nothing waits, answers are written by whoever brings them, which costs less
//! than waking the task; what the kernel does not take then is the task's again. The bytes of a live event are shared by all who receive
//! it, compressed ones by all who agreed to compression. At the bound nothing is dropped in silence: the connection is marked and closed.
//!
//! The outbox is also the task's bell: the server rings it to announce a shutdown.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::batch::{Batch, MAX_SLICES, Queue};
use super::deflate::{self, Agreement};
use super::frame;
use super::wire::Wire;
use crate::relay::{LiveText, Sink};

/// Above this many waiting bytes the core is asked for no more stored results.
const SOFT_MARK: usize = 256 * 1024;

/// How far the server is on its way down. Rung in every outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Phase {
    /// Serving.
    #[default]
    Serving,
    /// Nothing new is read; what was accepted is answered.
    Draining,
    /// All answers are in the outboxes: write them, then close with 1001.
    Closing,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Bytes in `queue` and the batch being written.
    bytes: usize,
    /// The connection, when others than its task may write to it.
    wire: Option<Wire>,
    /// The task holds bytes that come before all that is here.
    writing: bool,
    /// A batch that was begun here and is the task's to end.
    begun: Option<Box<Batch>>,
    /// `send` said that there is no room: the core waits to be told otherwise.
    stalled: bool,
    overflowed: bool,
    /// A close frame is queued: nothing may follow it.
    closed: bool,
    phase: Phase,
    /// The connection's task, and whether it wants to know of new messages.
    waker: Option<Waker>,
    waiting: bool,
}

impl State {
    fn push(&mut self, messages: Vec<u8>) {
        self.bytes += messages.len();
        self.queue.push(messages);
    }

    /// Throws away what waits, but not the batch being written: that one ends at a message boundary.
    fn discard(&mut self) {
        self.bytes -= self.queue.clear();
    }

    /// Whether there is something for the task to write.
    fn is_queued(&self) -> bool {
        self.begun.is_some() || !self.queue.is_empty()
    }

    /// The waker to ring after the lock is released, if the task sleeps for want of messages and there is one, or an end to announce.
    fn ring(&mut self) -> Option<Waker> {
        if self.waiting && (self.is_queued() || self.overflowed) {
            self.waiting = false;
            return self.waker.clone();
        }
        None
    }

    /// Writes a batch of what waits, unless something comes before it that the task has taken already.
    fn write_through(&mut self) {
        let Some(wire) = self.wire.as_ref().filter(|_| !self.writing && self.begun.is_none()) else { return };
        let mut batch = Batch::default();
        batch.refill(&mut self.queue);
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = batch.slices(&mut slices);
            match wire.try_write(&slices[..count]) {
                Ok(written) if written > 0 => {
                    self.bytes -= written;
                    batch.advance(written);
                }
                // The kernel takes no more, or the connection is gone, which is the task's to find out.
                _ => {
                    self.begun = Some(Box::new(batch));
                    return;
                }
            }
        }
    }
}

/// Stored results below this many bytes leave as they are. They fit into the first flight of a connection, so nobody waits less
/// when they are smaller, and a window needs some events before it finds anything.
const FEW: usize = 16 * 1024;

/// The header of a frame of the usual size.
const HEADER: usize = 4;

/// The outgoing side of one connection.
pub(super) struct Outbox {
    state: Mutex<State>,
    soft: usize,
    hard: usize,
    /// What was agreed with the peer about compression.
    compression: Option<Agreement>,
}

/// What the connection's task must know before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// Bytes not yet taken by the kernel.
    pub bytes: usize,
    /// Something came in since the last batch was taken out: do not sleep, write.
    pub queued: bool,
    /// The core was told to wait and may go on now. Said once.
    pub resume: bool,
    /// The bound was passed: close.
    pub overflowed: bool,
    /// How far the server is on its way down.
    pub phase: Phase,
}

impl Outbox {
    /// An outbox that marks its connection for closing when more than `hard` bytes wait.
    pub(super) fn new(hard: usize, compression: Option<Agreement>, wire: Option<Wire>) -> Outbox {
        let state = Mutex::new(State { wire, ..State::default() });
        Outbox { state, soft: SOFT_MARK.min(hard / 4), hard, compression }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data that is consistent between any two statements, so a panic elsewhere under the
        // lock (there is none) would leave it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for `more` bytes in the books, or marks the connection for closing. Returns `false` when the
    /// message is not wanted any more.
    fn admit(&self, state: &mut State, more: usize) -> bool {
        if state.closed || state.overflowed {
            return false;
        }
        // A single message larger than the bound may pass when nothing else waits.
        if state.bytes > 0 && state.bytes + more > self.hard {
            // What waits goes at once: this connection must not cost more than its bound, not even while it closes.
            state.overflowed = true;
            state.discard();
            state.waiting = true;
            return false;
        }
        true
    }

    /// Queues one text message made of these parts; about `more` bytes follow.
    fn push_shared(
        &self,
        state: &mut State,
        header: fn(usize) -> ([u8; 10], usize),
        [stored, prefix]: [&[u8]; 2],
        body: &Bytes,
        more: usize,
    ) {
        let payload = stored.len() + prefix.len() + body.len();
        let (header, size) = header(payload);
        if self.admit(state, size + payload) {
            state.bytes += size + payload;
            state.queue.push_shared([&header[..size], stored, prefix], body, more);
        }
    }

    /// Queues a control frame ahead of other messages.
    pub(super) fn push_urgent(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let waker = {
            let mut state = self.lock();
            if state.closed || state.overflowed {
                return;
            }
            let urgent = state.queue.urgent();
            let before = urgent.len();
            write(urgent);
            let written = urgent.len() - before;
            state.bytes += written;
            state.ring()
        };
        wake(waker);
    }

    /// Queues one text message that `write` appends.
    pub(super) fn push_text(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut buf = Vec::with_capacity(128);
        let start = self.open(&mut buf);
        write(&mut buf);
        self.close(&mut buf, start);
        self.put(buf, false);
    }

    /// Queues whole messages; with `through` they are written here if the task sleeps. Returns whether there is room for more.
    fn put(&self, messages: Vec<u8>, through: bool) -> bool {
        let (waker, room) = {
            let mut state = self.lock();
            if self.admit(&mut state, messages.len()) && !messages.is_empty() {
                state.push(messages);
                // One that is awake writes all that comes at once.
                if through && state.waiting {
                    state.write_through();
                }
            }
            let room = !state.closed && !state.overflowed && state.bytes <= self.soft;
            state.stalled |= !room;
            (state.ring(), room)
        };
        wake(waker);
        room
    }

    /// Queues the close frame that `write` appends, behind everything that waits, or in its stead. Nothing is
    /// accepted afterwards.
    pub(super) fn finish(&self, keep_waiting: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if !keep_waiting {
            state.discard();
        }
        state.closed = true;
        let mut frame = Vec::new();
        write(&mut frame);
        state.push(frame);
    }

    /// Throws away what waits and accepts nothing more: the connection is gone.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.discard();
        (state.waker, state.wire, state.begun) = (None, None, None);
    }

    /// Bytes above which the connection is given up.
    pub(super) fn bound(&self) -> usize {
        self.hard
    }

    /// Notes that the connection's task is awake and will look at the books before it sleeps: what comes in meanwhile, its own answers above
    /// all, need not wake it. To wake a task that runs has it run once more, and another thread of the runtime woken to help.
    pub(super) fn attend(&self) {
        self.lock().waiting = false;
    }

    /// Bytes not yet taken by the kernel.
    pub(super) fn waiting(&self) -> usize {
        self.lock().bytes
    }

    /// Announces how far the server is on its way down and wakes the connection's task.
    pub(super) fn announce(&self, phase: Phase) {
        let waker = {
            let mut state = self.lock();
            state.phase = state.phase.max(phase);
            state.waker.clone()
        };
        wake(waker);
    }

    /// Looks at the books, and has the task woken when they change for the worse or when messages come in.
    pub(super) fn poll_status(&self, cx: &mut Context<'_>) -> Status {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        let queued = state.is_queued();
        state.waiting = !queued;
        let resume = state.stalled && state.bytes <= self.soft / 2;
        state.stalled &= !resume;
        Status { bytes: state.bytes, queued, resume, overflowed: state.overflowed, phase: state.phase }
    }

    /// Writes until nothing waits (`Ready`) or the kernel takes no more (`Pending`). `progress` is called after
    /// each write that the kernel took. An error means that the connection is gone.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        batch: &mut Batch,
        io: &mut W,
        cx: &mut Context<'_>,
        progress: &mut dyn FnMut(),
    ) -> Poll<std::io::Result<()>> {
        let mut written = 0;
        loop {
            let full = {
                let mut state = self.lock();
                state.bytes -= written;
                if let Some(begun) = state.begun.take() {
                    // The task had none of its own, or nobody else would have written.
                    *batch = *begun;
                }
                let full = !batch.is_empty() || batch.refill(&mut state.queue);
                state.writing = full;
                full
            };
            if !full {
                // TLS may hold back some of it still.
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
                progress();
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = batch.slices(&mut slices);
            written = match &slices[..count] {
                // The shorter way through the kernel.
                [one] => ready!(Pin::new(&mut *io).poll_write(cx, one))?,
                several => ready!(Pin::new(&mut *io).poll_write_vectored(cx, several))?,
            };
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            progress();
            batch.advance(written);
        }
    }

    /// Bytes above which the session stops reading, so that answers to a peer that only talks cannot grow.
    pub(super) fn pause_mark(&self) -> usize {
        self.hard / 2
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Sink for Outbox {
    fn open(&self, buf: &mut Vec<u8>) -> usize {
        frame::begin_text(buf)
    }

    fn close(&self, buf: &mut Vec<u8>, start: usize) {
        frame::end_text(buf, start);
    }

    fn send(&self, messages: Vec<u8>) -> bool {
        self.put(messages, true)
    }

    fn pack(&self, messages: Vec<u8>) -> Vec<u8> {
        if messages.len() < FEW {
            return messages;
        }
        let packed = self.compression.and_then(|agreement| {
            agreement.slice(|slice| frame::compress_texts(&messages, |payload, out| slice.compress(payload, out)))
        });
        packed.unwrap_or(messages)
    }

    fn has_room(&self) -> bool {
        self.lock().bytes <= self.soft
    }

    fn send_live(&self, prefix: &[u8], events: &[&LiveText]) {
        let packed = |event: &LiveText| match self.compression {
            Some(agreement) if agreement.takes(event.text().len()) => event.packed(deflate::alone).cloned(),
            _ => None,
        };
        if self.compression.is_some() {
            // Before the lock is taken. It is done only once for all who get it.
            events.iter().for_each(|event| drop(packed(event)));
        }
        let waker = {
            let mut state = self.lock();
            let size = |event: &LiveText| HEADER + prefix.len() + event.text().len();
            let mut more: usize = events.iter().map(|event| size(event)).sum();
            for event in events {
                more -= size(event);
                match packed(event).zip(deflate::stored(prefix.len())) {
                    Some((body, stored)) => {
                        self.push_shared(&mut state, frame::compressed_header, [&stored, prefix], &body, more);
                    }
                    None => self.push_shared(&mut state, frame::text_header, [b"", prefix], event.text(), more),
                }
            }
            state.ring()
        };
        wake(waker);
    }
}

#[cfg(test)]
mod tests;
