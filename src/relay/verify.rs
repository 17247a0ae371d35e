//! Verification: what is known already is answered, what is new has its signature checked, on every core when there is enough of it.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use rayon::prelude::*;

use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::queue::{Published, Storable, ToVerify, ToWriter};
use super::{Admission, Core, limits, live, membership};
use crate::nostr::{Audience, EventFields as _, Kind, KindClass};
use crate::store::Prepared;

/// Events taken from the queue at once: 256 signatures are some milliseconds of work, so nobody waits long behind a batch.
const ROUND: usize = 256;

/// The thread: takes what queued, passes on what is good.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<ToVerify>) {
    let mut jobs = Vec::with_capacity(ROUND);
    let mut open = true;
    while open {
        match queue.recv() {
            Ok(ToVerify::Event(job)) => jobs.push(*job),
            Ok(ToVerify::Stop) | Err(_) => open = false,
        }
        while open && jobs.len() < ROUND {
            match queue.try_recv() {
                Ok(ToVerify::Event(job)) => jobs.push(*job),
                Ok(ToVerify::Stop) => open = false,
                Err(_) => break,
            }
        }
        round(core, &mut jobs);
    }
    let _ = core.writer.send(ToWriter::Stop);
}

fn round(core: &Arc<Core>, jobs: &mut Vec<Published>) {
    if jobs.is_empty() {
        return;
    }
    // Once for all of them: the threads below would take turns at its lock.
    let store = core.store();
    // Most of what arrives was sent by others before: an id that is stored needs no signature work.
    let known = store.contains(jobs.iter().map(|job| job.event.id)).unwrap_or_else(|error| {
        tracing::warn!("looking for known events failed: {error}");
        vec![false; jobs.len()]
    });
    let mut fresh = Vec::with_capacity(jobs.len());
    for (job, known) in jobs.drain(..).zip(known) {
        // Who does not hold a private event with its signature must not learn here that it is stored (N17-03).
        if known && job.event.kind.audience() == Audience::Public {
            job.reply.send(Outcome::Duplicate);
        } else {
            fresh.push(job);
        }
    }
    let verify = |job: Published| match job.event.check_signature() {
        Ok(()) => Some((store.prepare(&job.event), job.authenticated, job.admission, job.reply)),
        Err(error) => {
            job.reply.send(Outcome::Refused(format!("invalid: {error}")));
            None
        }
    };
    // Handing one event to the pool costs more than it saves, and on one core there is nobody to hand it to.
    let verified: Vec<_> = if fresh.len() < 2 || rayon::current_num_threads() < 2 {
        fresh.into_iter().filter_map(verify).collect()
    } else {
        fresh.into_par_iter().with_max_len(4).filter_map(verify).collect()
    };
    let mut storable = Vec::with_capacity(verified.len());
    for (event, authenticated, admission, reply) in verified {
        if matches!(event.record().kind(), Kind::JOIN_REQUEST | Kind::LEAVE_REQUEST) {
            // A record that was encoded a moment ago can be decoded.
            if let Some(event) = event.record().to_event() {
                membership::request(core, &event, admission, reply);
            }
        } else if event.record().kind().class() == KindClass::Ephemeral {
            publish_ephemeral(core, event, admission, reply);
        } else {
            storable.push(Storable { event, authenticated, admission, reply });
        }
    }
    // All at once: one by one, the writer would begin a transaction with the first of them alone.
    if !storable.is_empty() {
        let _ = core.writer.send(ToWriter::Events(storable));
    }
}

/// Ephemeral events skip the store and go straight to the live index (N01-41).
fn publish_ephemeral(core: &Core, event: Prepared, admission: Admission, reply: Reply) {
    let now = core.settings().expiry_time();
    if event.expiration().is_some_and(|at| at <= now) {
        return reply.send(Outcome::Refused(limits::EXPIRED.into()));
    }
    let event = LiveEvent::new(None, event.into_record(), Some(admission));
    core.live.send(live::Message::Ephemeral { event, reply });
}
