//! The readers: a small pool of threads that answers questions slice by slice.
//!
//! A slice is 10 ms or 64 KiB of answer, in one short read transaction. Peers take turns slice by slice, so a peer with a hundred
//! heavy questions delays another one's look-up by a slice, not by a hundred questions; and a slice of any
//! length would be cut off here before it pinned pages that the writer wants back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::Core;
use super::client::Peer;
use super::question::{Kind, Question};
use super::subscription::send_one;
use crate::nostr::{EventFields as _, message};
use crate::store::{Budget, Progress, Scan, StoreError};

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
        Kind::Stored(subscription) => {
            let subscription = subscription.clone();
            let mut messages = Vec::new();
            let sink = &peer.sink;
            let first = question.scan.before().is_none();
            let progress = run_scan(core, &mut question.scan, &mut |record| {
                let start = sink.open(&mut messages);
                messages.extend_from_slice(&subscription.prefix);
                if record.write_json(&mut messages) {
                    messages.push(b']');
                    sink.close(&mut messages, start);
                } else {
                    // A damaged record costs its own event, not the answer; `ratite info` and the log tell of it.
                    tracing::error!(id = %record.id(), "a stored event is damaged and was left out");
                    sink.abandon(&mut messages, start);
                }
                if messages.len() < SLICE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            if let (true, Some(before)) = (first, question.scan.before()) {
                subscription.scan_ends_at(before);
            }
            // Packing is for cores that have time: while another peer waits for a reader, results leave as they are.
            let messages = if core.readers.is_empty() { sink.pack(messages) } else { messages };
            let (unfinished, room) = match progress {
                Ok(Progress::Done) => (None, subscription.finish(messages)),
                Ok(Progress::More) => (Some(question), subscription.send_slice(messages)),
                Err(reason) => {
                    subscription.send_slice(messages);
                    subscription.refuse(&reason);
                    (None, None)
                }
            };
            match room {
                Some(room) => (unfinished, room),
                None => {
                    peer.forget_only(&subscription);
                    (None, true)
                }
            }
        }
        Kind::Count { id, count, sketch } => {
            let progress = run_scan(core, &mut question.scan, &mut |record| {
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

/// Runs a scan for one slice; the error is the reason of a CLOSED.
fn run_scan(
    core: &Core,
    scan: &mut Scan,
    each: &mut dyn FnMut(&crate::store::Record<'_>) -> ControlFlow<()>,
) -> Result<Progress, String> {
    let max = core.settings.limits.max_scan_keys;
    let progress = scan.run(&core.store, core.settings.clock.now(), SLICE, each).map_err(|error: StoreError| {
        tracing::error!("a scan failed: {error}");
        "error: the database cannot be read at the moment".to_owned()
    })?;
    if progress == Progress::More && scan.walked() >= max {
        return Err(format!(
            "error: the answer is not complete after {max} index entries; narrow the question by authors, kinds, tags or time"
        ));
    }
    Ok(progress)
}
