//! The readers: a small pool of threads that answers questions slice by slice.
//!
//! A slice is 10 ms or 64 KiB of answer, in one short read transaction. Peers take turns slice by slice, so a peer with a hundred
//! heavy questions delays another one's look-up by a slice, not by a hundred questions; and a slice of any
//! length would be cut off here before it pinned pages that the writer wants back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::Core;
use super::client::Peer;
use super::question::{Kind, Question};
use super::subscription::{Finished, Subscription, send_one};
use crate::nostr::{EventFields, message};
use crate::store::{Budget, Progress, Record, Scan, StoreError};

const SLICE: Budget = Budget { keys: 200_000, time: Duration::from_millis(10) };
const SLICE_BYTES: usize = 64 << 10;

/// A thread of the pool: takes peers that have questions, until it gets `None`.
pub(super) fn run(core: &Core, queue: Receiver<Option<Arc<Peer>>>) {
    while let Ok(Some(peer)) = queue.recv() {
        if let Some(question) = peer.next_question() {
            let (unfinished, room) = slice(core, &peer, question);
            peer.end_turn(unfinished, room);
        }
    }
}

/// Works one slice of a question. Returns the question if it is not finished, and whether the sink has room for more.
fn slice(core: &Core, peer: &Arc<Peer>, mut question: Question) -> (Option<Question>, bool) {
    match &mut question.kind {
        Kind::Stored { subscription, scan } => {
            let subscription = subscription.clone();
            let mut messages = Vec::new();
            let first = scan.before().is_none();
            let progress = run_scan(core, scan, &mut |record| {
                append_record(&subscription, &mut messages, record);
                if messages.len() < SLICE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            if let (true, Some(before)) = (first, scan.before()) {
                subscription.scan_ends_at(before);
            }
            let messages = pack(core, peer, messages);
            let (unfinished, room) = match progress {
                Ok(Progress::Done) => {
                    let complete = core.settings.policy.eose_hints && scan.is_complete();
                    match subscription.finish(messages, complete) {
                        Some(Finished { room, behind }) => {
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
            let (mut messages, mut seen) = (Vec::new(), 0u64);
            let deadline = Instant::now() + SLICE.time;
            let next = core.store.log(*from, &mut |_, record| {
                if subscription.wants(&record) {
                    append_record(&subscription, &mut messages, &record);
                }
                seen += 1;
                // The clock costs as much as a step, so it is read now and then.
                let go_on = messages.len() < SLICE_BYTES && (seen % 32 != 0 || Instant::now() < deadline);
                if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let room = subscription.send_slice(pack(core, peer, messages));
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
        Kind::Count { id, scan, count, sketch } => {
            let progress = run_scan(core, scan, &mut |record| {
                *count += 1;
                if let Some(sketch) = sketch {
                    sketch.add(&record.pubkey());
                }
                ControlFlow::Continue(())
            });
            match progress {
                Ok(Progress::More) => return (Some(question), true),
                Ok(Progress::Done) => {
                    send_one(&*peer.sink, |out| message::write_count(out, id.as_str(), *count, sketch.as_deref()))
                }
                Err(reason) => send_one(&*peer.sink, |out| message::write_closed(out, id.as_str(), &reason)),
            }
            (None, true)
        }
    }
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

fn append_record(subscription: &Subscription, messages: &mut Vec<u8>, record: &Record<'_>) {
    subscription.append_event(messages, |out| {
        let whole = record.write_json(out);
        if !whole {
            // A damaged record costs its own event, not the answer; `ratite info` and the log tell of it.
            tracing::error!(id = %record.id(), "a stored event is damaged and was left out");
        }
        whole
    });
}

fn unreadable(error: &StoreError) -> String {
    tracing::error!("a scan failed: {error}");
    "error: the database cannot be read at the moment".to_owned()
}

/// Runs a scan for one slice; the error is the reason of a CLOSED.
fn run_scan(
    core: &Core,
    scan: &mut Scan,
    each: &mut dyn FnMut(&Record<'_>) -> ControlFlow<()>,
) -> Result<Progress, String> {
    let max = core.settings.limits.max_scan_keys;
    let progress = scan.run(&core.store, core.settings.clock.now(), SLICE, each).map_err(|error| unreadable(&error))?;
    if progress == Progress::More && scan.walked() >= max {
        return Err(format!(
            "error: the answer is not complete after {max} index entries; narrow the question by authors, kinds, tags or time"
        ));
    }
    Ok(progress)
}
