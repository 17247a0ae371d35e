//! The readers: a small pool of threads that answers questions slice by slice.
//!
//! A slice is 10 ms or 64 KiB of answer, in one short read transaction. Peers take turns slice by slice, so a peer with a hundred
//! heavy questions delays another one's look-up by a slice, not by a hundred questions; and a slice of any
//! length would be cut off here before it pinned pages that the writer wants back.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::Core;
use super::figures::Verb;
use super::peer::Peer;
use super::question::{Kind, Question};
use super::subscription::{Finished, Subscription, send_one};
use super::texts::AtHand;
use crate::nostr::{EventFields, message};
use crate::store::{Access, Budget, Progress, Record, StoreError};

/// What one turn may cost.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    budget: Budget,
    /// Bytes of answer.
    bytes: usize,
}

const SLICE: Turn = Turn { budget: Budget { keys: 200_000, time: Duration::from_millis(10) }, bytes: 64 << 10 };

/// A turn on the thread that brought the question. The rest, if there is any, goes to a reader.
pub(super) const IN_PLACE: Turn =
    Turn { budget: Budget { keys: 2000, time: Duration::from_micros(300) }, bytes: 32 << 10 };

/// A thread of the pool: takes peers that have questions, until it gets `None`.
pub(super) fn run(core: &Core, queue: Receiver<Option<Arc<Peer>>>) {
    while let Ok(Some(peer)) = queue.recv() {
        while let Some(question) = peer.next_question() {
            let (unfinished, room) = slice(core, &peer, question, SLICE);
            // While nobody else waits, the way through the queue would lead to another reader, which had to be woken for it.
            let nobody_waits = queue.is_empty() && !peer.holds_up_others();
            if !peer.end_turn(unfinished, room, nobody_waits) {
                break;
            }
        }
        peer.leave_reader();
    }
}

thread_local! {
    /// Where answers are put together; taken while in use.
    static ANSWER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Works one slice of a question. Returns the question if it is not finished, and whether the sink has room for more.
pub(super) fn slice(core: &Core, peer: &Arc<Peer>, question: Question, turn: Turn) -> (Option<Question>, bool) {
    let began = Instant::now();
    if question.worked == Duration::ZERO {
        core.figures.query_wait.observe_time(began.saturating_duration_since(question.asked));
    }
    let before = question.worked;
    let mut answered = None;
    let (mut unfinished, room) = work(core, peer, question, turn, &mut answered);
    let worked = before + began.elapsed();
    if let Some(access) = answered {
        core.figures.queries[access as usize].observe_time(worked);
    }
    if let Some(question) = &mut unfinished {
        question.worked = worked;
    }
    (unfinished, room)
}

/// As [`slice`]; says in `answered` how the question was answered, or ended otherwise, when it was.
fn work(
    core: &Core,
    peer: &Arc<Peer>,
    mut question: Question,
    turn: Turn,
    answered: &mut Option<Access>,
) -> (Option<Question>, bool) {
    let sent = &core.figures.sent;
    match &mut question.kind {
        Kind::Stored { subscription, scan } => {
            let subscription = subscription.clone();
            let (mut messages, mut events) = (room(turn), 0);
            let first = scan.before().is_none();
            let mut texts = core.texts.at_hand();
            let progress = scan.run(&core.store(), core.settings().expiry_time(), turn.budget, &mut |record| {
                events += u64::from(append_record(&mut texts, &subscription, &mut messages, record));
                if messages.len() < turn.bytes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            drop(texts);
            let progress = judge(core, progress, scan.walked());
            if let (true, Some(before)) = (first, scan.before()) {
                subscription.scan_ends_at(before);
            }
            let messages = pack(core, peer, keep_room(messages));
            if progress != Ok(Progress::More) {
                *answered = Some(scan.access());
            }
            sent.add(Verb::Event, events);
            let (unfinished, room) = match progress {
                Ok(Progress::Done) => {
                    let complete = core.settings().policy.eose_hints && scan.is_complete();
                    match subscription.finish(messages, complete) {
                        Some(Finished { room, behind, live }) => {
                            sent.add(Verb::Eose, 1);
                            sent.add(Verb::Event, live);
                            (behind.map(|from| Question::log(subscription.clone(), from)), Some(room))
                        }
                        None => (None, None),
                    }
                }
                Ok(Progress::More) => (Some(question), subscription.send_slice(messages)),
                Err(reason) => {
                    subscription.send_slice(messages);
                    subscription.refuse(&reason);
                    (None, None)
                }
            };
            end_slice(peer, &subscription, unfinished, room)
        }
        Kind::Log { subscription, from } => {
            let subscription = subscription.clone();
            let (mut messages, mut seen, mut events) = (room(turn), 0u64, 0);
            let deadline = Instant::now() + turn.budget.time;
            let now = core.settings().expiry_time();
            let mut texts = core.texts.at_hand();
            let next = core.store().log(*from, &mut |_, record| {
                if subscription.wants(&record) && record.expiration().is_none_or(|at| at > now) {
                    events += u64::from(append_record(&mut texts, &subscription, &mut messages, &record));
                }
                seen += 1;
                // The clock costs as much as a step, so it is read now and then.
                let go_on = messages.len() < turn.bytes && (seen % 32 != 0 || Instant::now() < deadline);
                if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            drop(texts);
            let room = subscription.send_slice(pack(core, peer, keep_room(messages)));
            sent.add(Verb::Event, events);
            match next {
                Ok((next, true)) if core.live.caught_up(&subscription, next) => (None, room.unwrap_or(true)),
                Ok((next, _)) => {
                    *from = next;
                    end_slice(peer, &subscription, Some(question), room)
                }
                Err(error) => {
                    subscription.refuse(&unreadable(&error));
                    end_slice(peer, &subscription, None, None)
                }
            }
        }
        Kind::Count { id, count } => {
            let progress = count.run(&core.store(), core.settings().expiry_time(), turn.budget);
            match judge(core, progress, count.walked()) {
                Ok(Progress::More) => return (Some(question), true),
                Ok(Progress::Done) => {
                    sent.add(Verb::Count, 1);
                    send_one(&*peer.sink, |out| message::write_count(out, id.as_str(), count.found(), None))
                }
                Err(reason) => peer.closed(id, &reason),
            }
            *answered = Some(count.access());
            (None, true)
        }
        Kind::Sketch { id, scan, count, sketch } => {
            let progress = scan.run(&core.store(), core.settings().expiry_time(), turn.budget, &mut |record| {
                *count += 1;
                sketch.add(&record.pubkey());
                ControlFlow::Continue(())
            });
            match judge(core, progress, scan.walked()) {
                Ok(Progress::More) => return (Some(question), true),
                Ok(Progress::Done) => {
                    sent.add(Verb::Count, 1);
                    send_one(&*peer.sink, |out| message::write_count(out, id.as_str(), *count, Some(sketch)))
                }
                Err(reason) => peer.closed(id, &reason),
            }
            *answered = Some(scan.access());
            (None, true)
        }
    }
}

/// Room to put an answer together in.
fn room(turn: Turn) -> Vec<u8> {
    /// Beyond the end of a slice: most of its last event.
    const MORE: usize = 8 << 10;
    let mut room = ANSWER.take();
    room.reserve(turn.bytes + MORE);
    room
}

/// Packing is for cores that have time: while another peer waits for a reader, results leave as they are.
fn pack(core: &Core, peer: &Peer, messages: Vec<u8>) -> Vec<u8> {
    if core.readers.is_empty() { peer.sink.pack(messages) } else { messages }
}

/// What becomes of a subscription's question after its slice; `room` is `None` when the subscription is closed.
fn end_slice(
    peer: &Peer,
    subscription: &Arc<Subscription>,
    unfinished: Option<Question>,
    room: Option<bool>,
) -> (Option<Question>, bool) {
    match room {
        Some(room) => (unfinished, room),
        None => {
            peer.forget_only(subscription);
            (None, true)
        }
    }
}

/// Whether the event is whole, and there now.
fn append_record(
    texts: &mut AtHand<'_>,
    subscription: &Subscription,
    messages: &mut Vec<u8>,
    record: &Record<'_>,
) -> bool {
    let mut whole = false;
    subscription.append_event(messages, |out| {
        whole = texts.write_json(record, out);
        if !whole {
            // A damaged record costs its own event, not the answer; `ratite verify` and the log tell of it.
            tracing::error!(id = %record.id(), "a stored event is damaged and was left out");
        }
        whole
    });
    whole
}

fn unreadable(error: &StoreError) -> String {
    tracing::error!("a scan failed: {error}");
    "error: the database cannot be read at the moment".to_owned()
}

/// How a slice ended; the error is the reason of a CLOSED.
fn judge(core: &Core, progress: Result<Progress, StoreError>, walked: u64) -> Result<Progress, String> {
    let max = core.settings().limits.max_scan_keys;
    let progress = progress.map_err(|error| unreadable(&error))?;
    if progress == Progress::More && walked >= max {
        return Err(format!(
            "error: the answer is not complete after {max} index entries; narrow the question by authors, kinds, tags or time"
        ));
    }
    Ok(progress)
}

/// A short answer leaves in memory of its own size, and the room it was put together in serves the next one; a long one takes the room
/// along, because copying it would cost more than new room.
fn keep_room(mut messages: Vec<u8>) -> Vec<u8> {
    /// What EOSE and its frame need.
    const END: usize = 128;
    /// Room that one large event needed is not kept for ever.
    const MOST_KEPT: usize = 256 << 10;
    if messages.len() + END > messages.capacity() / 2 {
        return messages;
    }
    let mut answer = Vec::with_capacity(messages.len() + END);
    answer.extend_from_slice(&messages);
    if messages.capacity() <= MOST_KEPT {
        messages.clear();
        ANSWER.set(messages);
    }
    answer
}

/// Who brings a small question may answer it at once, without the way to a reader and back, which costs more than the answer.
///
/// The threads that bring questions are those of the sockets, and these must not all wait for pages from the disk at once: so one of them at
/// least stays out, always; and when an answer took long, questions go to the readers for a while, which on a machine whose memory
/// does not hold the database is nearly all the time.
pub(super) struct InPlace {
    /// Threads that may still go in.
    free: AtomicUsize,
    started: Instant,
    /// Microseconds after `started` before which nobody goes in.
    closed_until: AtomicU64,
}

/// An answer in place that took longer than this had to wait for something.
const SLOW: Duration = Duration::from_millis(1);

/// How long questions go to the readers after one.
const COLD: Duration = Duration::from_millis(100);

/// What a peer may have answered in place at once, in microseconds of work; beyond it, half of its time.
const CREDIT: u64 = 500;

impl InPlace {
    /// For so many threads that bring questions.
    pub(super) fn new(threads: usize) -> InPlace {
        InPlace {
            free: AtomicUsize::new(threads.saturating_sub(1)),
            started: Instant::now(),
            closed_until: AtomicU64::new(0),
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Runs `work` if there is room for it, for a peer whose account is `spent`: the time at which all it had will be paid for.
    pub(super) fn try_run<T>(&self, spent: &AtomicU64, work: impl FnOnce() -> T) -> Option<T> {
        let begin = self.micros();
        let paid = spent.load(Relaxed).max(begin);
        if self.closed_until.load(Relaxed) > begin || paid > begin + CREDIT {
            return None;
        }
        self.free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1)).ok()?;
        // Given back even if the work panics.
        let _place = Place(&self.free);
        let result = work();
        let end = self.micros();
        spent.store(paid + 2 * (end - begin), Relaxed);
        if end - begin > SLOW.as_micros() as u64 {
            self.closed_until.store(end + COLD.as_micros() as u64, Relaxed);
        }
        Some(result)
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_always_stays_out() {
        for threads in 0..4usize {
            let in_place = InPlace::new(threads);
            // A peer for each, so that accounts play no part; one inside the other, as if they came at the same time.
            fn nested(in_place: &InPlace) -> usize {
                in_place.try_run(&AtomicU64::new(0), || 1 + nested(in_place)).unwrap_or(0)
            }
            assert_eq!(nested(&in_place), threads.saturating_sub(1));
            assert_eq!(in_place.free.load(Relaxed), threads.saturating_sub(1), "everybody left");
        }
    }

    #[test]
    fn who_had_much_in_place_goes_to_the_readers_and_others_do_not() {
        let in_place = InPlace::new(2);
        let (greedy, modest) = (AtomicU64::new(in_place.micros() + 1_000_000_000), AtomicU64::new(0));
        assert_eq!(in_place.try_run(&greedy, || ()), None);
        assert_eq!(in_place.try_run(&modest, || std::thread::sleep(SLOW)), Some(()));
        assert!(modest.load(Relaxed) >= 2 * SLOW.as_micros() as u64, "twice the time is noted");
    }

    #[test]
    fn after_a_slow_answer_all_go_to_the_readers() {
        let in_place = InPlace::new(2);
        in_place.try_run(&AtomicU64::new(0), || std::thread::sleep(2 * SLOW));
        assert!(in_place.closed_until.load(Relaxed) > 0);
        in_place.closed_until.store(u64::MAX, Relaxed);
        assert_eq!(in_place.try_run(&AtomicU64::new(0), || ()), None);
    }
}
