//! The outbox and its batches: order, bounds, boundaries, bells.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::super::batch::{BATCH_BYTES, Piece};
use super::super::socket::Socket;
use super::super::wire::{self, Half};
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
    outbox.poll_write(batch, pipe, &mut Context::from_waker(Waker::noop()), &mut || ())
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
    let event = LiveText::new("{\"content\":\"".to_owned() + &"x".repeat(500) + "\"}]");
    for step in [1, 2, 3, 7, 64, 1000, 1 << 20] {
        let outbox = Outbox::new(1 << 20, None, None);
        let mut expected = Vec::new();
        for i in 0..40 {
            let prefix = format!("[\"EVENT\",\"s{i}\",");
            outbox.send_live(prefix.as_bytes(), &[&event]);
            let live = format!("{prefix}{}", std::str::from_utf8(event.text()).unwrap());
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
        assert_eq!(batch.capacity() + outbox.lock().queue.capacity(), 0, "idle, no memory is held");
    }
}

#[test]
fn many_small_messages_take_few_system_calls() {
    let outbox = Outbox::new(4 << 20, None, None);
    for _ in 0..1000 {
        outbox.push_text(|buf| buf.extend_from_slice(b"[\"OK\",\"id\",true,\"\"]"));
    }
    let mut pipe = Pipe::new(usize::MAX, usize::MAX);
    assert!(write(&mut Batch::default(), &mut pipe, &outbox).is_ready());
    assert!(pipe.calls <= 2, "{} calls for 1000 answers", pipe.calls);

    let event = LiveText::new(vec![b'x'; 800]);
    for _ in 0..500 {
        outbox.send_live(b"[\"EVENT\",\"sub\",", &[&event]);
    }
    let mut pipe = Pipe::new(usize::MAX, usize::MAX);
    assert!(write(&mut Batch::default(), &mut pipe, &outbox).is_ready());
    assert!(pipe.calls <= 20, "{} calls for 500 events", pipe.calls);
}

#[test]
fn live_events_are_shared_beyond_the_first_few_kilobytes() {
    let event = LiveText::new(vec![b'x'; 800]);
    let outbox = Outbox::new(1 << 20, None, None);
    for _ in 0..100 {
        outbox.send_live(b"[\"EVENT\",\"sub\",", &[&event]);
    }
    let state = outbox.lock();
    let (mut shared, mut copied) = (0, 0);
    for piece in state.queue.pieces() {
        match piece {
            Piece::Shared(bytes) => {
                assert_eq!(bytes.as_ptr(), event.text().as_ptr());
                shared += 1;
            }
            Piece::Owned(bytes) => copied += bytes.len(),
        }
    }
    assert!(shared >= 95, "{shared} of 100");
    assert!(copied < 4096 + 100 * 20, "{copied} bytes");
}

#[test]
fn control_frames_overtake_between_messages_only() {
    let outbox = Outbox::new(1 << 20, None, None);
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
    let outbox = Outbox::new(8 << 20, None, None);
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
    let outbox = Outbox::new(hard, None, None);
    let event = LiveText::new([vec![b'x'; 999], vec![b']']].concat());
    let mut most = 0;
    for _ in 0..100_000 {
        outbox.send_live(b"[\"EVENT\",\"sub\",", &[&event]);
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
    let outbox = Outbox::new(1 << 20, None, None);
    let event = LiveText::new([vec![b'x'; 999], vec![b']']].concat());
    outbox.send_live(b"[\"EVENT\",\"sub\",", &[&event]);
    let whole = outbox.lock().bytes;
    let (mut batch, mut pipe) = (Batch::default(), Pipe::new(500, usize::MAX));
    assert!(write(&mut batch, &mut pipe, &outbox).is_pending());
    while !status(&outbox).overflowed {
        outbox.send_live(b"[\"EVENT\",\"sub\",", &[&event]);
    }
    outbox.finish(false, |buf| buf.extend_from_slice(b"CLOSE"));
    pipe.room = usize::MAX;
    assert!(write(&mut batch, &mut pipe, &outbox).is_ready());
    assert_eq!(pipe.taken.len(), whole + 5);
    assert!(pipe.taken.ends_with(b"]CLOSE"));
}

#[test]
fn nothing_follows_the_close_frame() {
    let outbox = Outbox::new(1 << 20, None, None);
    outbox.push_text(|buf| buf.extend_from_slice(b"[1]"));
    outbox.finish(true, |buf| buf.extend_from_slice(b"CLOSE"));
    outbox.push_text(|buf| buf.extend_from_slice(b"[2]"));
    outbox.send_live(b"[", &[&LiveText::new("{}]")]);
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
    let outbox = Outbox::new(1 << 20, None, None);
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
    let outbox = Outbox::new(1 << 16, None, None);
    outbox.send(vec![b'x'; 60_000]);
    assert!(outbox.poll_status(&mut Context::from_waker(&waker)).queued);
    outbox.send(vec![b'x'; 10_000]);
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
}

/// An outbox over a real socket, the session's half of it, and the peer.
async fn wired() -> (Arc<Outbox>, Half, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Tokio believes that a socket takes bytes when it has heard so.
    ours.writable().await.unwrap();
    let (half, wire) = wire::part(Socket::Unix(ours));
    (Arc::new(Outbox::new(1 << 30, None, Some(wire))), half, theirs)
}

/// What the peer finds when it looks.
fn arrived(peer: &UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let read = peer.try_read(&mut bytes).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

#[tokio::test]
async fn what_a_sleeping_task_has_not_to_write_does_not_wake_it() {
    let (outbox, _half, peer) = wired().await;
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    assert!(!outbox.poll_status(&mut cx).queued);
    for size in [10, 60_000] {
        assert!(outbox.send(vec![7; size]));
        peer.readable().await.unwrap();
        assert!(arrived(&peer) == vec![7; size]);
        assert_eq!((bell.0.load(Ordering::Relaxed), outbox.waiting()), (0, 0));
    }

    // A task that is awake writes all that comes together, and is not woken for it.
    outbox.attend();
    outbox.send(vec![8; 10]);
    outbox.send(vec![9; 10]);
    assert_eq!(arrived(&peer), b"");
    assert!(outbox.poll_status(&mut cx).queued);
    assert_eq!((bell.0.load(Ordering::Relaxed), outbox.waiting()), (0, 20));
}

#[tokio::test]
async fn nothing_overtakes_what_the_task_has_taken_or_the_kernel_would_not_take() {
    // Pieces written here, by the task, and half by each: all arrive in order, none twice.
    let (outbox, mut half, peer) = wired().await;
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    let mut batch = Batch::default();
    let (mut expected, mut got, mut begun, mut taken) = (Vec::new(), Vec::new(), false, false);
    let mut random = 1u32;
    for round in 0..3000u32 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = 1 + (random >> 8) as usize % if round % 7 == 0 { 200_000 } else { 2000 };
        let piece: Vec<u8> = (0..size).map(|i| (i as u32 ^ round) as u8).collect();
        expected.extend_from_slice(&piece);
        outbox.send(piece);
        begun |= outbox.lock().begun.is_some();
        if random >> 28 & 3 == 0 {
            // The peer sees what is written as soon as it is; tokio hears of a socket that is ready again only when it looks.
            tokio::task::yield_now().await;
            got.extend(arrived(&peer));
        }
        if random >> 26 & 3 == 0 {
            let written = outbox.poll_write(&mut batch, &mut half, &mut cx, &mut || ());
            taken |= written.is_pending();
            let idle = written.is_ready();
            assert_eq!(outbox.lock().writing, !idle);
            outbox.poll_status(&mut cx);
        }
    }
    assert!(begun && taken, "the socket was never full");
    while got.len() < expected.len() {
        let _ = outbox.poll_write(&mut batch, &mut half, &mut cx, &mut || ());
        tokio::task::yield_now().await;
        got.extend(arrived(&peer));
    }
    assert!(got == expected, "bytes are missing, doubled or out of order");
    assert_eq!(outbox.waiting(), 0);
}

#[tokio::test]
async fn a_wire_goes_with_its_session() {
    let (outbox, half, mut peer) = wired().await;
    outbox.give_up();
    drop(half);
    assert_eq!(peer.read(&mut [0; 10]).await.unwrap(), 0, "the outbox, which others still hold, keeps nothing open");
    outbox.send(b"too late".to_vec());
}
