//! The core, with no socket in it: publish, query, count, subscribe.
//!
//! [`Relay`] is the heart. Sockets, the command line and tests all come through the same doors, so the whole protocol can be
//! tested without a socket. Its threads, and the bounded ways between them:
//!
//! ```text
//! publish ─ admission (bytes) ─▶ verify ──▶ writer ──▶ live ──▶ sinks of subscribers
//!                                 (rayon)     │ one transaction for all that queued, fsync, replies
//! subscribe, count ─▶ readers (one turn for each client, short slices) ──▶ the client's sink
//!                      small ones are answered where they come in, while the disk keeps up
//! housekeeping: expiry, other processes' commits, stale reader slots, the list of members
//! ```

pub mod admin;
pub mod backup;
mod bulk;
mod client;
mod compact;
mod figures;
mod housekeeping;
pub mod identity;
mod index;
mod limits;
mod line;
mod live;
mod live_event;
mod membership;
mod memory;
mod outcome;
mod peer;
pub mod policy;
mod precedence;
mod pulse;
mod question;
mod queue;
mod reader;
mod retention;
mod settings;
mod subscription;
mod swap;
mod texts;
mod trouble;
mod verify;
mod writer;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use backup::BackupState;
pub use bulk::{Bulk, Closed};
pub use client::Client;
pub use compact::{CompactError, Compacted, copy_in};
pub use figures::{Counter, Events, Figures, Histogram, Messages, Observed, Verb};
pub use live_event::LiveText;
pub use outcome::Outcome;
pub use peer::Group;
pub use pulse::{Holdings, MINUTES};
pub use retention::{CEILING, Plan, Retention, Watch};
pub use settings::{Clock, Settings};
pub use subscription::Sink;
pub use swap::Swap;

use identity::{Identity, IdentityError};
use live_event::LiveEvent;
use outcome::Reply;
use policy::membership::Gate;
use policy::{Moderation, Viewer};
use queue::{Answer, Published, Task, ToVerify, ToWriter};

use crate::config::Policy;
use crate::nostr::{Event, EventFields, EventId, Filter, Kind, KindClass, PublicKey};
use crate::store::{Batch, Budget, Change, Count, Occupancy, Order, Progress, Record, Rules, Scan, Store, StoreError};

/// What can go wrong when the core starts or works for an operator.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The relay's own key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The relay is shutting down.
    #[error("the relay is shutting down")]
    Closed,
}

/// Room in the ingest queue, held until the event is refused or delivered.
#[derive(Debug, Default)]
pub struct Admission {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Figures of the running core.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Stats {
    /// Clients connected to the core.
    pub clients: usize,
    /// Subscriptions open.
    pub subscriptions: usize,
    /// Bytes of events waiting for verification or commit.
    pub queued_bytes: usize,
    /// The most that may wait.
    pub queue_bytes: usize,
    /// Bytes of texts that are kept because they are asked for again and again.
    pub kept_texts_bytes: usize,
    /// The most that they may take.
    pub kept_texts_max_bytes: usize,
    /// What waits in the queues between the threads: events to be verified, orders to the writer, to live delivery, and peers with
    /// questions.
    pub queues: Queues,
    /// What the database took up a moment ago.
    pub occupancy: Occupancy,
    /// Events taken in each of the last whole minutes, the latest last.
    pub minutes: Vec<u64>,
    /// Why events are refused: the last write to the database failed.
    pub write_failure: Option<String>,
    /// Why events are refused, or soon will be: the database has come to its ceiling (`retention.max_size`).
    pub ceiling: Option<String>,
    /// How scheduled backups stand.
    pub backup: BackupState,
}

/// How many wait in each of the core's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Queues {
    /// Events for verification.
    pub verify: usize,
    /// Orders for the writer.
    pub writer: usize,
    /// Orders for live delivery.
    pub live: usize,
    /// Peers that have questions, for the readers.
    pub readers: usize,
}

/// The relay. Clones share it.
#[derive(Clone)]
pub struct Relay {
    core: Arc<Core>,
}

/// What all threads of the core share.
struct Core {
    /// Another takes its place when it is compacted.
    store: Swap<Store>,
    settings: Swap<Settings>,
    moderation: Arc<Moderation>,
    /// The relay's own key, once it has one.
    identity: OnceLock<Identity>,
    /// What is published of members may differ from the lists.
    unpublished: AtomicBool,
    live: live::Live,
    memory: Arc<memory::Pool>,
    texts: texts::Texts,
    /// When the log was last told that it is used up.
    shortage_told: AtomicU64,
    room: Arc<Semaphore>,
    room_total: usize,
    verify: Sender<ToVerify>,
    writer: Sender<ToWriter>,
    /// Peers that have questions; `None` ends a reader.
    readers: Sender<Option<Arc<peer::Peer>>>,
    in_place: reader::InPlace,
    stop_housekeeping: Sender<()>,
    stop_retention: Sender<()>,
    stop_backups: Sender<()>,
    backup: Mutex<BackupState>,
    /// Held by whoever compacts the database.
    compacting: Mutex<()>,
    ceiling: retention::Ceiling,
    /// Bytes stored since the database was last measured against its ceiling.
    unmeasured: Mutex<u64>,
    closed: AtomicBool,
    trouble: trouble::Trouble,
    figures: Arc<Figures>,
    pulse: pulse::Pulse,
    clients: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Passes ephemeral events on to other relays over this data.
    pass_on: OnceLock<PassOn>,
}

/// Gets the record of an ephemeral event; whether anybody may hear of it elsewhere. Must not block.
type PassOn = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

impl Relay {
    /// Starts the core's threads over an open database.
    pub fn start(store: Store, settings: Settings) -> Result<Relay, RelayError> {
        // Before anything is read: what is committed from here on is looked at again.
        let seen = store.last_commit()?;
        let (verify_tx, verify_rx) = crossbeam_channel::unbounded();
        let (writer_tx, writer_rx) = crossbeam_channel::unbounded();
        let (live_tx, live_rx) = crossbeam_channel::unbounded();
        let (reader_tx, reader_rx) = crossbeam_channel::unbounded();
        let (stop_tx, stop_rx) = crossbeam_channel::bounded(1);
        let identity = match settings.membership.enabled {
            true => Some(Identity::load_or_create(store.path())?),
            false => Identity::load(store.path())?,
        };
        let own = identity.as_ref().map(Identity::pubkey);
        let gate = Gate::new(&settings.membership, &settings.policy, own);
        let (stop_retention, retention_stops) = crossbeam_channel::bounded(1);
        let (stop_backups, backups_stop) = crossbeam_channel::bounded(1);
        let room_total = settings.queue_bytes.clamp(1 << 16, u32::MAX as usize);
        let figures: Arc<Figures> = Arc::default();
        let core = Arc::new(Core {
            moderation: Arc::new(Moderation::load(&store, gate)?),
            identity: identity.map_or_else(OnceLock::new, OnceLock::from),
            unpublished: AtomicBool::new(true),
            live: live::Live::new(store.next_seq()?, live_tx, Arc::clone(&figures)),
            shortage_told: AtomicU64::new(0),
            memory: memory::Pool::new(settings.limits.max_filter_bytes_total, settings.limits.max_filter_bytes),
            texts: texts::Texts::new(settings.kept_texts_bytes, threads() + settings.callers),
            store: Swap::new(store),
            room: Arc::new(Semaphore::new(room_total)),
            room_total,
            verify: verify_tx,
            writer: writer_tx,
            readers: reader_tx,
            in_place: reader::InPlace::new(settings.callers),
            stop_housekeeping: stop_tx,
            stop_retention,
            stop_backups,
            backup: Mutex::default(),
            compacting: Mutex::default(),
            ceiling: retention::Ceiling::default(),
            unmeasured: Mutex::new(0),
            closed: AtomicBool::new(false),
            trouble: trouble::Trouble::default(),
            figures,
            pulse: pulse::Pulse::default(),
            clients: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
            pass_on: OnceLock::new(),
            settings: Swap::new(settings),
        });
        let relay = Relay { core };
        // Before there is a thread with precedence: whoever needs the pool first would hand it on to all of them.
        rayon::current_num_threads();
        relay.spawn("verify", |core| verify::run(core, verify_rx))?;
        relay.spawn("writer", |core| writer::run(core, writer_rx))?;
        relay.spawn("live", |core| live::run(core, live_rx))?;
        for i in 0..threads() {
            let queue = reader_rx.clone();
            relay.spawn(&format!("reader-{i}"), |core| reader::run(core, queue))?;
        }
        relay.spawn("housekeeping", move |core| housekeeping::run(core, stop_rx, seen))?;
        if relay.core.settings().unattended {
            // What they are to do may change while they run, from nothing to something.
            relay.spawn("backup", move |core| backup::keep(core, backups_stop))?;
            relay.spawn("retention", move |core| retention::keep_house(core, retention_stops))?;
        }
        Ok(relay)
    }

    fn spawn(&self, name: &str, work: impl FnOnce(&Arc<Core>) + Send + 'static) -> Result<(), RelayError> {
        let core = self.core.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            // A relay without one of its threads would take events and never answer. Better to end and be started again.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&core))).is_err() {
                tracing::error!(
                    thread = name,
                    "a thread of the core failed; this is a fault in ratite, please report it"
                );
                std::process::abort();
            }
        });
        lock(&self.core.threads).push(thread.map_err(RelayError::Thread)?);
        Ok(())
    }

    /// The database. Another file takes its place when it is compacted, so whoever works for long asks again.
    pub fn store(&self) -> Arc<Store> {
        self.core.store()
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.core.settings()
    }

    /// Puts other settings in force, from the next event and the next question on. What the core was built with stays: queues, threads,
    /// the clock, and the memory for questions. A relay that has members for the first time gets a key of its own; without one, nothing
    /// changes.
    pub fn change_settings(&self, new: Settings) -> Result<(), IdentityError> {
        if new.membership.enabled && self.own_key().is_none() {
            let identity = Identity::load_or_create(self.core.store().path())?;
            // Another thread may have been faster, with the same file.
            let _ = self.core.identity.set(identity);
        }
        let old = self.core.settings();
        let Settings { queue_bytes, kept_texts_bytes, callers, alone, unattended, ref clock, .. } = *old;
        self.core.moderation.set_gate(Gate::new(&new.membership, &new.policy, self.own_key()));
        self.core.unpublished.store(true, Relaxed);
        let clock = clock.clone();
        self.core.settings.store(Settings { queue_bytes, kept_texts_bytes, callers, alone, unattended, clock, ..new });
        self.core.ceiling.settle(self.core.settings().retention.config.max_size);
        Ok(())
    }

    /// Waits for room for `bytes` of event in the ingest queue. This is where a flood of events meets its bound: the caller
    /// stops reading its socket meanwhile.
    pub async fn admit(&self, bytes: usize) -> Admission {
        let bytes = bytes.clamp(1, self.core.room_total) as u32;
        let permit = self.core.room.clone().acquire_many_owned(bytes).await;
        Admission { _permit: permit.ok() }
    }

    /// Has ephemeral events passed on to other relays over the same data, as records; stored ones reach them through the log.
    /// `pass_on` tells whether anybody may hear of it elsewhere, and must not block. The first call counts.
    pub fn pass_on_ephemeral(&self, pass_on: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
        let _ = self.core.pass_on.set(Box::new(pass_on));
    }

    /// Delivers an ephemeral event, as a record, that another relay over the same data took in, checked and passed on. Anything else is
    /// left alone.
    pub fn deliver_ephemeral(&self, record: Box<[u8]>, admission: Admission) {
        let is_ephemeral = Record::new(&record).is_some_and(|record| record.kind().class() == KindClass::Ephemeral);
        if is_ephemeral {
            self.core.live.send(live::Message::PassedOn(LiveEvent::new(None, record, Some(admission))));
        }
    }

    /// Publishes an event. Limits, the id and the shape are checked here and now; then it is queued, verified, stored and
    /// delivered. `reply` is called exactly once: after the commit, or when the event is refused. Nothing of this depends on the
    /// caller's staying.
    ///
    /// The event comes from nobody in particular; what a connected peer publishes goes through [`Client::publish`].
    pub fn publish(&self, event: Event, admission: Admission, reply: impl FnOnce(Outcome) + Send + 'static) {
        self.core.publish(event, None, admission, reply);
    }

    /// Opens the bulk door, for an operator's own events. Of a `trusted` source neither ids nor signatures are checked.
    pub fn bulk(&self, trusted: bool) -> Bulk {
        Bulk::new(self.core.clone(), trusted)
    }

    /// Takes some events through the bulk door in one transaction: verifies on all cores on the calling thread (unless the source
    /// is `trusted`), then hands them to the writer. The receiver yields one outcome for each event, in order, after the commit.
    pub fn ingest(&self, events: Vec<Event>, trusted: bool) -> Receiver<Vec<Outcome>> {
        let (done, outcomes) = crossbeam_channel::bounded(1);
        let batch = bulk::prepare_all(&self.core, events, trusted);
        let _ = self.core.writer.send(ToWriter::Batch { batch, bookmarks: Vec::new(), done, ticket: None });
        outcomes
    }

    /// Removes everything that matches, for the operator: in small transactions between which publishers get their turn.
    /// `progress` gets the number removed so far, and may end it there. Returns how many were removed. Removed events may be published again; authors' deletions are remembered, these are not.
    pub fn remove(
        &self,
        filters: Vec<Filter>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, RelayError> {
        const CHUNK: usize = 500;
        let mut scan = Scan::new(filters, Order::NewestFirst);
        let mut removed = 0;
        loop {
            let mut ids: Vec<EventId> = Vec::new();
            let state =
                scan.run(&self.core.store(), self.core.settings().expiry_time(), Budget::COMMAND, &mut |record| {
                    ids.push(record.id());
                    if ids.len() < CHUNK { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
            if !ids.is_empty() {
                let (tx, rx) = crossbeam_channel::bounded(1);
                let _ = self.core.writer.send(ToWriter::Remove { ids, done: tx });
                removed += rx.recv().map_err(|_| RelayError::Closed)??;
            }
            if progress(removed).is_break() || state == Progress::Done {
                return Ok(removed);
            }
        }
    }

    /// Counts the stored events that match any of the filters, each once; `limit` is ignored (N45-04). Blocks.
    pub fn count(&self, filters: Vec<Filter>) -> Result<u64, RelayError> {
        let mut count = Count::new(filters);
        while count.run(&self.core.store(), self.core.settings().expiry_time(), Budget::COMMAND)? == Progress::More {}
        Ok(count.found())
    }

    /// The operator's lists in force.
    pub fn lists(&self) -> Arc<policy::moderation::Lists> {
        self.core.moderation.lists()
    }

    /// Has `watcher` called with the operator's lists, now and whenever they have changed. It must not block.
    pub fn watch_lists(&self, watcher: impl Fn(&policy::moderation::Lists) + Send + Sync + 'static) {
        self.core.moderation.watch(watcher);
    }

    /// Makes changes to the operator's lists; they are on disk and in force on return. Blocks.
    pub fn change_lists(&self, changes: Vec<Change>) -> Result<(), RelayError> {
        self.work_lists(Task::Change(changes)).map(|_| ())
    }

    /// Has a task worked on the operator's lists. Blocks.
    fn work_lists(&self, task: Task) -> Result<Answer, RelayError> {
        let (tx, rx) = crossbeam_channel::bounded(1);
        let done = Box::new(move |answer| drop(tx.send(answer)));
        let _ = self.core.writer.send(ToWriter::Lists { task, done });
        rx.recv().map_err(|_| RelayError::Closed)?.map_err(RelayError::Store)
    }

    /// The relay's own key, if it has one (NIP-11 `self`).
    pub fn own_key(&self) -> Option<PublicKey> {
        self.core.identity.get().map(Identity::pubkey)
    }

    /// Connects a peer, whose answers go into `sink`; where the relay's addresses are configured, the first is the challenge for
    /// AUTH. `host` is the host and port under which the peer reached this relay, and must not be the peer's own word: the local
    /// address of its connection, or what a trusted proxy says.
    pub fn connect(&self, sink: Arc<dyn Sink>, host: Option<Box<str>>) -> Client {
        Client::new(self.core.clone(), sink, host)
    }

    /// What the core has counted since the start.
    pub fn figures(&self) -> &Figures {
        &self.core.figures
    }

    /// Waits until the writer has done everything that was queued before this call; true when it has, false when the relay is
    /// shutting down. A writer that is stuck leaves it waiting.
    pub async fn writer_answers(&self) -> bool {
        let (done, answer) = tokio::sync::oneshot::channel();
        let _ = self.core.writer.send(ToWriter::Ping(done));
        answer.await.is_ok()
    }

    /// What is stored, as of the last ten seconds.
    pub fn holdings(&self) -> Holdings {
        self.core.pulse.holdings()
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Stats {
        let core = &self.core;
        Stats {
            clients: core.clients.load(Relaxed),
            subscriptions: core.live.subscriptions(),
            queued_bytes: core.room_total.saturating_sub(core.room.available_permits()),
            queue_bytes: core.room_total,
            kept_texts_bytes: core.texts.bytes(),
            kept_texts_max_bytes: core.settings().kept_texts_bytes,
            queues: Queues {
                verify: core.verify.len(),
                writer: core.writer.len(),
                live: core.live.waiting(),
                readers: core.readers.len(),
            },
            occupancy: core.pulse.occupancy(),
            minutes: core.pulse.minutes(),
            write_failure: core.write_failure(),
            ceiling: core.ceiling.problem(),
            backup: lock(&core.backup).clone(),
        }
    }

    /// Ends the core: refuses new events, verifies and commits what was accepted, calls every reply, joins the threads. Blocks; calling it
    /// again does nothing.
    pub fn shutdown(&self) {
        if self.core.closed.swap(true, Relaxed) {
            return;
        }
        let _ = self.core.stop_housekeeping.try_send(());
        let _ = self.core.stop_retention.try_send(());
        let _ = self.core.stop_backups.try_send(());
        for _ in 0..threads() {
            let _ = self.core.readers.send(None);
        }
        // Each thread passes the word on when it has done all that came before it: verify, then writer, then live.
        let _ = self.core.verify.send(ToVerify::Stop);
        let threads = std::mem::take(&mut *lock(&self.core.threads));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Core {
    /// The database as it is now; to be kept for one piece of work, and no longer.
    fn store(&self) -> Arc<Store> {
        self.store.load()
    }

    /// Works on the database in a transaction of its own, on the new one if it moves meanwhile.
    fn write<T>(&self, work: impl Fn(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match work(&self.store()) {
                Err(StoreError::Moved) => {}
                worked => return worked,
            }
        }
    }

    /// The settings in force.
    fn settings(&self) -> Arc<Settings> {
        self.settings.load()
    }

    /// Says, once a minute at most, that there is no memory for more questions.
    fn tell_of_shortage(&self) {
        const PAUSE: u64 = 60;
        let settings = self.settings();
        let (now, told) = (settings.clock.now(), self.shortage_told.load(Relaxed));
        if now >= told.saturating_add(PAUSE) && self.shortage_told.swap(now, Relaxed) == told {
            let bytes = settings.limits.max_filter_bytes_total;
            tracing::warn!(
                "large questions are refused: filters of all connections together take {bytes} bytes, see limits.max_filter_bytes_total"
            );
        }
    }

    /// Checks an event and queues it; see [`Relay::publish`].
    fn publish(
        &self,
        event: Event,
        viewer: Option<&Viewer>,
        admission: Admission,
        reply: impl FnOnce(Outcome) + Send + 'static,
    ) {
        // That a private event is stored already is told only to those it concerns (N17-03).
        let is_hidden = viewer.is_some_and(|viewer| !viewer.may_see(&event));
        let (figures, kind) = (Arc::clone(&self.figures), event.kind);
        let reply = Reply::new(move |outcome| {
            figures.events.add(kind, &outcome);
            reply(if is_hidden && outcome == Outcome::Duplicate { Outcome::Stored } else { outcome });
        });
        let settings = self.settings();
        let checked = limits::check_event(&event, &settings, viewer)
            .and_then(|()| event.check_id().map_err(|error| format!("invalid: {error}")))
            .and_then(|()| {
                let lists = self.moderation.lists();
                lists.check(&event)?;
                if policy::membership::is_request(&event, lists.gate(), settings.clock.now())? {
                    return Ok(());
                }
                // Where nothing is to be read, the answer to an event would tell whether it is stored.
                if let Some(viewer) = viewer.filter(|_| lists.gate().is_closed() && event.kind != Kind::VANISH) {
                    viewer.check_member("publish")?;
                }
                lists.check_stranger(&event)
            })
            .and_then(|()| policy::publish::check(&event, viewer, &settings.policy));
        if let Err(reason) = checked {
            return reply.send(Outcome::Refused(reason));
        }
        if self.closed.load(Relaxed) {
            return reply.send(Outcome::closing());
        }
        let must_be_taken = matches!(event.kind, Kind::DELETION | Kind::VANISH);
        if event.kind.class() != KindClass::Ephemeral
            && !must_be_taken
            && let Some(reason) = self.ceiling.refusal()
        {
            return reply.send(Outcome::Failed(reason));
        }
        let authenticated = viewer.is_some_and(|viewer| viewer.is(&event.pubkey));
        // A failed send drops the reply, and a dropped reply answers that the relay is shutting down.
        let _ = self.verify.send(ToVerify::Event(Box::new(Published { event, authenticated, admission, reply })));
    }

    /// The key that signs what is said of members, where there are any.
    fn members(&self) -> Option<&Identity> {
        self.identity.get().filter(|_| self.moderation.gate().enabled)
    }

    /// Begins a write transaction under the rules in force. Only for the writer, on whose thread the database moves.
    fn batch<'s>(&self, store: &'s Store) -> Result<Batch<'s>, StoreError> {
        let settings = self.settings();
        let Policy { deletion_requests: deletion, expiration, .. } = settings.policy;
        Ok(store.batch(settings.clock.now())?.under(Rules { deletion, expiration }))
    }

    /// Why the last write failed, if it did.
    fn write_failure(&self) -> Option<String> {
        self.trouble.failure()
    }
}

/// Threads that run scans: one for each core, and two at least, so that a long question on one core leaves room for short ones.
fn threads() -> usize {
    // Asked once: the system reads files to find out.
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(2, |n| n.get().max(2)))
}

/// A lock whose holder panicked is as good as any other: every critical section here leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
