//! Verification: what is known already is answered, what is new has its signature checked, on every core when there is enough of it.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use rayon::prelude::*;

use super::live_event::LiveEvent;
use super::outcome::{Outcome, Reply};
use super::queue::{Published, Storable, ToVerify, ToWriter};
use super::{Admission, Core, limits, live, membership};
use crate::nostr::{Audience, EventFields as _, Kind, KindClass};
use crate::store::{Prepared, Store};

/// Events taken from the queue at once: 256 signatures are some milliseconds of work, so nobody waits long behind a batch.
const ROUND: usize = 256;

/// Rounds under way at once: while one core is busy with the last signatures of a round, the others begin with the next.
const UNDER_WAY: usize = 2;

/// While a full round waits in the queue, what is good is gathered for the writer up to this many events and bytes: the larger a transaction, the
/// less it costs for each event, and whoever stands behind so many waits no longer for it.
const GATHERED: usize = 2000;
const GATHERED_BYTES: usize = 4 << 20;

/// What is good of a round, in its order.
type Round = Vec<Storable>;

/// The thread: takes what queued, passes on what is good.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<ToVerify>) {
    let mut under_way: VecDeque<Receiver<Round>> = VecDeque::new();
    let mut gathered = Gathered::default();
    let mut open = true;
    while open || !under_way.is_empty() {
        let mut jobs = Vec::new();
        while open && jobs.len() < ROUND && under_way.len() < UNDER_WAY {
            let message = match jobs.is_empty() && under_way.is_empty() {
                true => queue.recv().ok(),
                false => match queue.try_recv() {
                    Ok(message) => Some(message),
                    Err(error) if error.is_empty() => break,
                    Err(_) => None,
                },
            };
            match message {
                Some(ToVerify::Event(job)) => jobs.push(*job),
                Some(ToVerify::Stop) | None => open = false,
            }
        }
        let fresh = unknown(core, jobs);
        // Handing one event to the pool costs more than it saves, and on one core there is nobody to hand it to.
        if under_way.is_empty() && (fresh.len() < 2 || rayon::current_num_threads() < 2) {
            let store = core.store();
            gathered.add(core, fresh.into_iter().filter_map(|job| verify(&store, job)).collect());
        } else if !fresh.is_empty() {
            // Once for all of them: the threads below would take turns at its lock.
            let store = core.store();
            let (done, round) = crossbeam_channel::bounded(1);
            under_way.push_back(round);
            rayon::spawn(move || {
                let verified = fresh.into_par_iter().with_max_len(4).filter_map(|job| verify(&store, job)).collect();
                let _ = done.send(verified);
            });
            continue;
        } else if let Some(round) = under_way.pop_front().and_then(|oldest| oldest.recv().ok()) {
            gathered.add(core, round);
        }
        if queue.len() < ROUND || gathered.is_enough() {
            gathered.pass_on(core);
        }
    }
    gathered.pass_on(core);
    let _ = core.writer.send(ToWriter::Stop);
}

/// What is good and was not passed on yet.
#[derive(Default)]
struct Gathered {
    storable: Vec<Storable>,
    bytes: usize,
}

impl Gathered {
    /// Takes a round in; what is not for the store goes its own way.
    fn add(&mut self, core: &Arc<Core>, round: Round) {
        for Storable { event, authenticated, admission, reply } in round {
            if matches!(event.record().kind(), Kind::JOIN_REQUEST | Kind::LEAVE_REQUEST) {
                // A record that was encoded a moment ago can be decoded.
                if let Some(event) = event.record().to_event() {
                    membership::request(core, &event, admission, reply);
                }
            } else if event.record().kind().class() == KindClass::Ephemeral {
                publish_ephemeral(core, event, admission, reply);
            } else {
                self.bytes += event.weight();
                self.storable.push(Storable { event, authenticated, admission, reply });
            }
        }
    }

    fn is_enough(&self) -> bool {
        self.storable.len() >= GATHERED || self.bytes >= GATHERED_BYTES
    }

    /// All at once: one by one, the writer would begin a transaction with the first of them alone.
    fn pass_on(&mut self, core: &Core) {
        let Gathered { storable, .. } = std::mem::take(self);
        if !storable.is_empty() {
            let _ = core.writer.send(ToWriter::Events(storable));
        }
    }
}

/// Answers what is stored already, and returns the others. Most of what arrives was sent by others before: an id that is stored needs no
/// signature work.
fn unknown(core: &Core, mut jobs: Vec<Published>) -> Vec<Published> {
    if jobs.is_empty() {
        return jobs;
    }
    let known = core.store().contains(jobs.iter().map(|job| job.event.id)).unwrap_or_else(|error| {
        tracing::warn!("looking for known events failed: {error}");
        vec![false; jobs.len()]
    });
    if !known.contains(&true) {
        return jobs;
    }
    let mut fresh = Vec::with_capacity(jobs.len());
    for (job, known) in jobs.drain(..).zip(known) {
        // Who does not hold a private event with its signature must not learn here that it is stored (N17-03).
        if known && job.event.kind.audience() == Audience::Public {
            job.reply.send(Outcome::Duplicate);
        } else {
            fresh.push(job);
        }
    }
    fresh
}

/// The event with all that the writer needs, if its signature is right; else its publisher is told.
fn verify(store: &Store, job: Published) -> Option<Storable> {
    let Published { event, authenticated, admission, reply } = job;
    match event.check_signature() {
        Ok(()) => Some(Storable { event: store.prepare(&event), authenticated, admission, reply }),
        Err(error) => {
            reply.send(Outcome::Refused(format!("invalid: {error}")));
            None
        }
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
