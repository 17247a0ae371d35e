//! What waits to be written to one connection: bounded, shared with the core, emptied by the session.
//!
//! The core's threads put messages in and never wait; the connection's task takes them out in batches and writes
//! each batch with few system calls. The bytes of a live event are shared by all who receive it. At the bound
//! nothing is dropped in silence: the connection is marked and closed.
//!
//! The outbox is also the task's bell: the server rings it to announce a shutdown.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::frame;
use crate::relay::Sink;

/// Above this many waiting bytes the core is asked for no more stored results.
const SOFT_MARK: usize = 256 * 1024;

/// A batch taken out for writing ends at the first message boundary past this.
const BATCH_BYTES: usize = 64 * 1024;

/// Most slices handed to one system call.
const MAX_SLICES: usize = 64;

/// Messages up to this size are copied together instead of being queued one by one.
const SMALL: usize = 1024;

/// Copied-together messages grow up to this size.
const MERGED: usize = 4096;

/// A run of bytes to write.
///
/// A shared event is always the middle of its message: an owned piece with the header stands before it and an owned
/// piece that begins with the closing bracket stands behind it. So a message ends where an owned piece ends that no
/// shared one follows.
#[derive(Debug)]
enum Piece {
    Owned(Vec<u8>),
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
    /// Control frames; they overtake what waits in `queue`.
    urgent: Vec<u8>,
    queue: VecDeque<Piece>,
    /// Bytes in `urgent`, `queue` and the batch being written.
    bytes: usize,
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
    fn push(&mut self, mut bytes: Vec<u8>) {
        self.bytes += bytes.len();
        if bytes.capacity() > 2 * bytes.len() {
            // The bound counts bytes of messages: hold little more than that.
            bytes.shrink_to_fit();
        }
        match self.queue.back_mut() {
            Some(Piece::Owned(last)) if bytes.len() <= SMALL && last.len() + bytes.len() <= MERGED => {
                last.extend_from_slice(&bytes);
            }
            _ => self.queue.push_back(Piece::Owned(bytes)),
        }
    }

    /// The waker to ring after the lock is released, if the task sleeps for want of messages.
    fn ring(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.waiting) { self.waker.clone() } else { None }
    }
}

/// The outgoing side of one connection.
pub(super) struct Outbox {
    state: Mutex<State>,
    soft: usize,
    hard: usize,
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
    pub(super) fn new(hard: usize) -> Outbox {
        Outbox { state: Mutex::default(), soft: SOFT_MARK.min(hard / 4), hard }
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
            discard(state);
            state.waiting = true;
            return false;
        }
        true
    }

    /// Queues a control frame ahead of other messages.
    pub(super) fn push_urgent(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let waker = {
            let mut state = self.lock();
            if state.closed || state.overflowed {
                return;
            }
            let before = state.urgent.len();
            write(&mut state.urgent);
            state.bytes += state.urgent.len() - before;
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
        self.send(buf);
    }

    /// Queues the close frame that `write` appends, behind everything that waits, or in its stead. Nothing is
    /// accepted afterwards.
    pub(super) fn finish(&self, keep_waiting: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if !keep_waiting {
            discard(&mut state);
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
        discard(&mut state);
        state.waker = None;
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
        let queued = !state.queue.is_empty() || !state.urgent.is_empty();
        state.waiting = !queued;
        let resume = state.stalled && state.bytes <= self.soft / 2;
        state.stalled &= !resume;
        Status { bytes: state.bytes, queued, resume, overflowed: state.overflowed, phase: state.phase }
    }

    /// Bytes above which the session stops reading, so that answers to a peer that only talks cannot grow.
    pub(super) fn pause_mark(&self) -> usize {
        self.hard / 2
    }
}

/// Throws away what waits, but not the batch being written: that one ends at a message boundary.
fn discard(state: &mut State) {
    let queued: usize = state.queue.iter().map(|piece| piece.as_slice().len()).sum();
    state.bytes -= queued + state.urgent.len();
    state.queue = VecDeque::new();
    state.urgent = Vec::new();
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
        let (waker, room) = {
            let mut state = self.lock();
            if self.admit(&mut state, messages.len()) && !messages.is_empty() {
                state.push(messages);
            }
            let room = !state.closed && !state.overflowed && state.bytes <= self.soft;
            state.stalled |= !room;
            (state.ring(), room)
        };
        wake(waker);
        room
    }

    fn send_live(&self, prefix: &[u8], event: &Bytes) {
        let payload = prefix.len() + event.len() + 1;
        let (header, size) = frame::text_header(payload);
        let waker = {
            let mut state = self.lock();
            if self.admit(&mut state, size + payload) {
                state.bytes += size + payload;
                let state = &mut *state;
                match state.queue.back_mut() {
                    Some(Piece::Owned(last)) if last.len() + size + prefix.len() <= MERGED => {
                        last.extend_from_slice(&header[..size]);
                        last.extend_from_slice(prefix);
                    }
                    _ => {
                        let mut head = Vec::with_capacity(size + prefix.len());
                        head.extend_from_slice(&header[..size]);
                        head.extend_from_slice(prefix);
                        state.queue.push_back(Piece::Owned(head));
                    }
                }
                state.queue.push_back(Piece::Shared(event.clone()));
                // Room for the head of the next event, which most likely goes to the same subscription.
                let mut tail = Vec::with_capacity(1 + size + prefix.len());
                tail.push(b']');
                state.queue.push_back(Piece::Owned(tail));
            }
            state.ring()
        };
        wake(waker);
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
    /// Takes the next whole messages out of the outbox, about 64 KiB of them. Returns whether there were any.
    fn refill(&mut self, outbox: &Outbox) -> bool {
        let mut state = outbox.lock();
        if !state.urgent.is_empty() {
            let urgent = std::mem::take(&mut state.urgent);
            self.pieces.push_back(Piece::Owned(urgent));
        }
        let mut bytes = 0;
        let mut count = 0;
        while let Some(piece) = state.queue.get(count) {
            let boundary =
                matches!(piece, Piece::Owned(_)) && !matches!(state.queue.get(count + 1), Some(Piece::Shared(_)));
            bytes += piece.as_slice().len();
            count += 1;
            if boundary && bytes >= BATCH_BYTES {
                break;
            }
        }
        if count == state.queue.len() && self.pieces.is_empty() {
            // The usual case: everything, with no move. The queue starts afresh without a buffer.
            self.pieces = std::mem::take(&mut state.queue);
        } else {
            self.pieces.extend(state.queue.drain(..count));
        }
        !self.pieces.is_empty()
    }

    /// Writes until the outbox is empty (`Ready`) or the kernel takes no more (`Pending`). `progress` is called after
    /// each write that the kernel took. An error means that the connection is gone.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        outbox: &Outbox,
        cx: &mut Context<'_>,
        progress: &mut dyn FnMut(),
    ) -> Poll<std::io::Result<()>> {
        loop {
            if self.pieces.is_empty() && !self.refill(outbox) {
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            let mut bytes = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                let skip = if count == 0 { self.offset } else { 0 };
                let rest = &piece.as_slice()[skip..];
                *slice = IoSlice::new(rest);
                count += 1;
                bytes += rest.len();
                if bytes >= BATCH_BYTES {
                    break;
                }
            }
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            progress();
            self.advance(written);
            outbox.lock().bytes -= written;
        }
    }

    fn advance(&mut self, written: usize) {
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// A socket that takes at most `room` bytes, and at most `step` in one call.
    struct Pipe {
        taken: Vec<u8>,
        room: usize,
        step: usize,
        calls: usize,
    }

    impl Pipe {
        fn new(room: usize, step: usize) -> Pipe {
            Pipe { taken: Vec::new(), room, step, calls: 0 }
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<std::io::Result<usize>> {
            self.calls += 1;
            let most = self.step.min(self.room);
            if most == 0 {
                return Poll::Pending;
            }
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
            self.room -= bytes.len();
            self.taken.extend_from_slice(&bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Counts how often the connection's task would have been woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(batch: &mut Batch, pipe: &mut Pipe, outbox: &Outbox) -> Poll<std::io::Result<()>> {
        batch.poll_write(pipe, outbox, &mut Context::from_waker(Waker::noop()), &mut || ())
    }

    fn status(outbox: &Outbox) -> Status {
        outbox.poll_status(&mut Context::from_waker(Waker::noop()))
    }

    fn text(outbox: &Outbox, payload: &str) -> Vec<u8> {
        let mut buf = Vec::new();
        let start = outbox.open(&mut buf);
        buf.extend_from_slice(payload.as_bytes());
        outbox.close(&mut buf, start);
        buf
    }

    #[test]
    fn messages_leave_whole_and_in_order_however_the_kernel_takes_them() {
        let event = Bytes::from("{\"content\":\"".to_owned() + &"x".repeat(500) + "\"}");
        for step in [1, 2, 3, 7, 64, 1000, 1 << 20] {
            let outbox = Outbox::new(1 << 20);
            let mut expected = Vec::new();
            for i in 0..40 {
                let prefix = format!("[\"EVENT\",\"s{i}\",");
                outbox.send_live(prefix.as_bytes(), &event);
                let live = format!("{prefix}{}]", std::str::from_utf8(&event).unwrap());
                expected.extend(text(&outbox, &live));
                if i % 3 == 0 {
                    let answer = text(&outbox, &format!("[\"EOSE\",\"s{i}\"]"));
                    expected.extend_from_slice(&answer);
                    assert!(outbox.send(answer));
                }
                if i % 10 == 0 {
                    let stored = text(&outbox, &"y".repeat(5000)).repeat(2);
                    expected.extend_from_slice(&stored);
                    outbox.send(stored);
                }
            }
            assert_eq!(status(&outbox).bytes, expected.len());
            let (mut batch, mut pipe) = (Batch::default(), Pipe::new(usize::MAX, step));
            assert!(write(&mut batch, &mut pipe, &outbox).is_ready());
            assert!(pipe.taken == expected, "steps of {step}");
            assert_eq!(status(&outbox).bytes, 0);
            assert_eq!(batch.pieces.capacity() + outbox.lock().queue.capacity(), 0, "idle, no memory is held");
        }
    }

    #[test]
    fn many_small_messages_take_few_system_calls() {
        let outbox = Outbox::new(4 << 20);
        for _ in 0..1000 {
            outbox.push_text(|buf| buf.extend_from_slice(b"[\"OK\",\"id\",true,\"\"]"));
        }
        let mut pipe = Pipe::new(usize::MAX, usize::MAX);
        assert!(write(&mut Batch::default(), &mut pipe, &outbox).is_ready());
        assert!(pipe.calls <= 2, "{} calls for 1000 answers", pipe.calls);

        let event = Bytes::from(vec![b'x'; 800]);
        for _ in 0..500 {
            outbox.send_live(b"[\"EVENT\",\"sub\",", &event);
        }
        let mut pipe = Pipe::new(usize::MAX, usize::MAX);
        assert!(write(&mut Batch::default(), &mut pipe, &outbox).is_ready());
        assert!(pipe.calls <= 20, "{} calls for 500 events", pipe.calls);
    }

    #[test]
    fn a_live_event_is_shared_not_copied() {
        let event = Bytes::from(vec![b'x'; 800]);
        let outbox = Outbox::new(1 << 20);
        outbox.send_live(b"[\"EVENT\",\"sub\",", &event);
        let state = outbox.lock();
        let shared = state.queue.iter().find_map(|piece| match piece {
            Piece::Shared(bytes) => Some(bytes.as_ptr()),
            Piece::Owned(_) => None,
        });
        assert_eq!(shared, Some(event.as_ptr()));
    }

    #[test]
    fn control_frames_overtake_between_messages_only() {
        let outbox = Outbox::new(1 << 20);
        let big = text(&outbox, &"x".repeat(BATCH_BYTES));
        outbox.send(big.clone());
        outbox.send(big.clone());
        let (mut batch, mut pipe) = (Batch::default(), Pipe::new(100, 100));
        assert!(write(&mut batch, &mut pipe, &outbox).is_pending());
        outbox.push_urgent(|buf| buf.extend_from_slice(b"PONG"));
        pipe.room = usize::MAX;
        pipe.step = usize::MAX;
        assert!(write(&mut batch, &mut pipe, &outbox).is_ready());
        assert!(pipe.taken == [big.as_slice(), b"PONG", &big].concat());
    }

    #[test]
    fn the_core_is_told_to_wait_and_to_go_on() {
        let outbox = Outbox::new(8 << 20);
        let slice = text(&outbox, &"x".repeat(60_000));
        let mut sent = 1;
        while outbox.send(slice.clone()) {
            sent += 1;
        }
        assert_eq!(sent, SOFT_MARK / slice.len() + 1);
        assert!(!status(&outbox).resume);
        let (mut batch, mut pipe) = (Batch::default(), Pipe::new(SOFT_MARK / 4, usize::MAX));
        assert!(write(&mut batch, &mut pipe, &outbox).is_pending());
        assert!(!status(&outbox).resume, "not before it drained below half");
        pipe.room = usize::MAX;
        assert!(write(&mut batch, &mut pipe, &outbox).is_ready());
        assert!(status(&outbox).resume);
        assert!(!status(&outbox).resume, "said once");
    }

    #[test]
    fn beyond_the_bound_the_connection_is_marked_and_costs_nothing_more() {
        let hard = 1 << 20;
        let outbox = Outbox::new(hard);
        let event = Bytes::from(vec![b'x'; 1000]);
        let mut most = 0;
        for _ in 0..100_000 {
            outbox.send_live(b"[\"EVENT\",\"sub\",", &event);
            most = most.max(outbox.lock().bytes);
        }
        assert!(most <= hard && most > hard - 2000, "{most}");
        let now = status(&outbox);
        assert!(now.overflowed);
        assert_eq!(now.bytes, 0);
        assert!(!outbox.send(b"more".to_vec()));
        outbox.finish(false, |buf| buf.extend_from_slice(b"CLOSE"));
        let mut pipe = Pipe::new(usize::MAX, usize::MAX);
        assert!(write(&mut Batch::default(), &mut pipe, &outbox).is_ready());
        assert_eq!(pipe.taken, b"CLOSE");
    }

    #[test]
    fn what_is_cut_off_still_ends_at_a_message_boundary() {
        let outbox = Outbox::new(1 << 20);
        let event = Bytes::from(vec![b'x'; 1000]);
        outbox.send_live(b"[\"EVENT\",\"sub\",", &event);
        let whole = outbox.lock().bytes;
        let (mut batch, mut pipe) = (Batch::default(), Pipe::new(500, usize::MAX));
        assert!(write(&mut batch, &mut pipe, &outbox).is_pending());
        while !status(&outbox).overflowed {
            outbox.send_live(b"[\"EVENT\",\"sub\",", &event);
        }
        outbox.finish(false, |buf| buf.extend_from_slice(b"CLOSE"));
        pipe.room = usize::MAX;
        assert!(write(&mut batch, &mut pipe, &outbox).is_ready());
        assert_eq!(pipe.taken.len(), whole + 5);
        assert!(pipe.taken.ends_with(b"]CLOSE"));
    }

    #[test]
    fn nothing_follows_the_close_frame() {
        let outbox = Outbox::new(1 << 20);
        outbox.push_text(|buf| buf.extend_from_slice(b"[1]"));
        outbox.finish(true, |buf| buf.extend_from_slice(b"CLOSE"));
        outbox.push_text(|buf| buf.extend_from_slice(b"[2]"));
        outbox.send_live(b"[", &Bytes::from_static(b"{}"));
        outbox.push_urgent(|buf| buf.extend_from_slice(b"PING"));
        outbox.finish(true, |buf| buf.extend_from_slice(b"AGAIN"));
        let mut pipe = Pipe::new(usize::MAX, usize::MAX);
        assert!(write(&mut Batch::default(), &mut pipe, &outbox).is_ready());
        assert_eq!(pipe.taken, b"\x81\x03[1]CLOSE");
    }

    #[test]
    fn a_sleeping_task_is_woken_once() {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut cx = Context::from_waker(&waker);
        let rings = || bell.0.load(Ordering::Relaxed);
        let outbox = Outbox::new(1 << 20);
        assert!(!outbox.poll_status(&mut cx).queued);
        for _ in 0..10 {
            outbox.push_text(|buf| buf.push(b'x'));
        }
        assert_eq!(rings(), 1, "the first message wakes, the others find it awake");
        assert!(outbox.poll_status(&mut cx).queued, "and it learns that there is something to write");
        outbox.push_text(|buf| buf.push(b'x'));
        assert_eq!(rings(), 1);
        outbox.announce(Phase::Draining);
        assert_eq!(rings(), 2, "a shutdown always wakes");
        assert_eq!(outbox.poll_status(&mut cx).phase, Phase::Draining);
    }

    #[test]
    fn an_overflow_wakes_a_task_that_waits_for_the_kernel() {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let outbox = Outbox::new(1 << 16);
        outbox.send(vec![b'x'; 60_000]);
        assert!(outbox.poll_status(&mut Context::from_waker(&waker)).queued);
        outbox.send(vec![b'x'; 10_000]);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    }
}
