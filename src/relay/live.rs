//! Live delivery: which open subscriptions want a new event, and the one thread that gives it to them.
//!
//! Each filter of a subscription is registered under its most selective field; a new event looks its own fields up and gets the
//! candidates, and the full filter decides. So the cost of an event follows the subscriptions that may want it, not those that are open.
//!
//! Everything stored is delivered in the order of the log, each number once. A subscription enters the index first, and what is
//! delivered to it waits; then the first slice of its scan learns at which number its snapshot ends. Events below that number are
//! the scan's, all from it on are live: none is missed, none comes twice.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::client::Subscription;
use super::outcome::{Outcome, Reply};
use super::{Admission, Core, lock};
use crate::nostr::{EventFields, Filter, TagName, TagValue};
use crate::store::{Record, Seq};

/// Records read from the log in one transaction when another process wrote them.
const CATCH_UP: usize = 256;

/// An event on its way to subscribers; its JSON is made once, when the first one wants it.
pub(super) struct LiveEvent {
    /// Its number; `None` for an ephemeral event.
    pub seq: Option<Seq>,
    /// Its place in the ingest queue, kept until it is delivered: publishers wait when delivery falls behind.
    admission: Mutex<Option<Admission>>,
    record: Box<[u8]>,
    json: OnceLock<Option<Bytes>>,
}

impl LiveEvent {
    pub fn new(seq: Option<Seq>, record: Box<[u8]>, admission: Option<Admission>) -> LiveEvent {
        LiveEvent { seq, admission: Mutex::new(admission), record, json: OnceLock::new() }
    }

    fn record(&self) -> Option<Record<'_>> {
        Record::new(&self.record)
    }

    /// The event's JSON text, shared by everyone who gets it.
    pub fn json(&self) -> Option<Bytes> {
        self.json
            .get_or_init(|| {
                let mut text = Vec::new();
                let whole = self.record()?.write_json(&mut text);
                whole.then(|| Bytes::from(text))
            })
            .clone()
    }

    /// Bytes this event holds while it waits for a scan to end.
    pub fn size(&self) -> usize {
        self.record.len()
    }
}

pub(super) enum Message {
    /// Events of one commit of this process, in the order of their numbers.
    Committed(Vec<LiveEvent>),
    Ephemeral {
        event: LiveEvent,
        reply: Reply,
    },
    /// Something was committed, perhaps by another process.
    Look,
    Stop,
}

/// The live index and the way to its thread.
pub(super) struct Live {
    index: Mutex<Index>,
    queue: Sender<Message>,
    /// Everything below this number is committed, delivered or not.
    committed: AtomicU64,
}

/// What a filter is registered under.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Id([u8; 32]),
    Author([u8; 32]),
    Tag(TagName, TagValue),
    Kind(u16),
    Any,
}

struct Index {
    /// Everything stored below this number was delivered.
    delivered: Seq,
    entries: HashMap<Key, Vec<Arc<Subscription>>>,
    subscriptions: usize,
}

impl Live {
    pub fn new(next_seq: Seq, queue: Sender<Message>) -> Live {
        let index = Index { delivered: next_seq, entries: HashMap::new(), subscriptions: 0 };
        Live { index: Mutex::new(index), queue, committed: AtomicU64::new(next_seq) }
    }

    /// Notes a commit of this process: every scan that begins from now on sees what stands below `next_seq`.
    pub fn committed(&self, next_seq: Seq) {
        self.committed.fetch_max(next_seq, Ordering::Release);
    }

    pub fn send(&self, message: Message) {
        // Fails only when the thread has ended, and then a reply inside answers by being dropped.
        let _ = self.queue.send(message);
    }

    pub fn look(&self) {
        self.send(Message::Look);
    }

    pub fn subscriptions(&self) -> usize {
        lock(&self.index).subscriptions
    }

    /// Enters a subscription: from now on what it wants is delivered to it.
    pub fn enter(&self, subscription: &Arc<Subscription>) {
        let mut index = lock(&self.index);
        for key in keys(&subscription.filters) {
            index.entries.entry(key).or_default().push(subscription.clone());
        }
        index.subscriptions += 1;
        drop(index);
        // What is committed already is the scan's, even where its delivery is behind: after an import that may be more
        // than can wait for the scan's first slice.
        subscription.scan_ends_at(self.committed.load(Ordering::Acquire));
    }

    /// Takes a subscription out again.
    pub fn leave(&self, subscription: &Arc<Subscription>) {
        let mut index = lock(&self.index);
        for key in keys(&subscription.filters) {
            if let Some(entries) = index.entries.get_mut(&key) {
                if let Some(at) = entries.iter().position(|entry| Arc::ptr_eq(entry, subscription)) {
                    entries.swap_remove(at);
                }
                if entries.is_empty() {
                    index.entries.remove(&key);
                }
            }
        }
        index.subscriptions -= 1;
    }

    /// Gives an event to everyone who wants it; returns how many did.
    fn deliver(&self, event: &Arc<LiveEvent>) -> usize {
        let delivered = self.deliver_to_candidates(event);
        lock(&event.admission).take();
        delivered
    }

    fn deliver_to_candidates(&self, event: &Arc<LiveEvent>) -> usize {
        let Some(record) = event.record() else { return 0 };
        let mut wanted = Vec::new();
        {
            let mut index = lock(&self.index);
            if let Some(seq) = event.seq {
                if seq < index.delivered {
                    return 0;
                }
                index.delivered = seq + 1;
            }
            if index.subscriptions == 0 {
                return 0;
            }
            index.candidates(&record, &mut wanted);
        }
        // Sorted by address: one subscription may be found under several keys.
        wanted.sort_unstable_by_key(Arc::as_ptr);
        wanted.dedup_by_key(|subscription| Arc::as_ptr(subscription));
        wanted.retain(|subscription| subscription.filters.iter().any(|filter| filter.matches(&record)));
        for subscription in &wanted {
            subscription.deliver(event);
        }
        wanted.len()
    }

    /// Delivers what stands in the log up to `to` and was not delivered yet: events of other processes.
    fn catch_up(&self, core: &Core, to: Seq) {
        loop {
            let from = {
                let mut index = lock(&self.index);
                if index.delivered >= to {
                    return;
                }
                if index.subscriptions == 0 {
                    index.delivered = to;
                    return;
                }
                index.delivered
            };
            let mut events = Vec::new();
            let next = core.store.log(from, CATCH_UP, &mut |seq, record| {
                if seq < to {
                    events.push(Arc::new(LiveEvent::new(Some(seq), record.as_bytes().into(), None)));
                }
            });
            for event in &events {
                self.deliver(event);
            }
            match next {
                Ok(Some(next)) if next < to => {}
                Ok(_) => {
                    let mut index = lock(&self.index);
                    index.delivered = index.delivered.max(to);
                    return;
                }
                Err(error) => {
                    tracing::error!("reading the log for live delivery failed: {error}");
                    return;
                }
            }
        }
    }
}

impl Index {
    fn candidates(&self, record: &Record<'_>, wanted: &mut Vec<Arc<Subscription>>) {
        let mut look_up = |key: &Key| {
            if let Some(entries) = self.entries.get(key) {
                wanted.extend(entries.iter().cloned());
            }
        };
        look_up(&Key::Any);
        look_up(&Key::Id(record.id().0));
        look_up(&Key::Author(record.pubkey().0));
        look_up(&Key::Kind(record.kind().0));
        let _ = record.visit_indexed_tags(&mut |name, value| {
            look_up(&Key::Tag(name, value.to_value()));
            ControlFlow::Continue(())
        });
    }
}

/// The keys of all filters: for each the most selective field it has.
fn keys(filters: &[Filter]) -> Vec<Key> {
    let mut keys = Vec::new();
    for filter in filters {
        if filter.is_impossible() {
            continue;
        }
        // Among authors and tags the shorter list is the smaller entry; both are far rarer in events than kinds.
        let tag = filter.tags.iter().min_by_key(|(_, values)| values.len());
        match (&filter.ids, &filter.authors, tag, &filter.kinds) {
            (Some(ids), ..) => keys.extend(ids.iter().map(|id| Key::Id(id.0))),
            (None, Some(authors), tag, _) if tag.is_none_or(|(_, values)| authors.len() <= values.len()) => {
                keys.extend(authors.iter().map(|author| Key::Author(author.0)));
            }
            (None, _, Some((name, values)), _) => {
                keys.extend(values.iter().map(|value| Key::Tag(*name, value.clone())));
            }
            (None, _, None, Some(kinds)) => keys.extend(kinds.iter().map(|kind| Key::Kind(kind.0))),
            (None, _, None, None) => keys.push(Key::Any),
        }
    }
    // Two filters with a field in common enter once.
    let mut seen = std::collections::HashSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    keys
}

/// The thread.
pub(super) fn run(core: &Arc<Core>, queue: Receiver<Message>) {
    let live = &core.live;
    while let Ok(message) = queue.recv() {
        match message {
            Message::Committed(events) => {
                if let Some(first) = events.first().and_then(|event| event.seq) {
                    live.catch_up(core, first);
                }
                for event in events {
                    live.deliver(&Arc::new(event));
                }
            }
            Message::Ephemeral { event, reply } => {
                let heard = live.deliver(&Arc::new(event)) > 0;
                reply.send(if heard { Outcome::Delivered } else { Outcome::Unheard });
            }
            Message::Look => match core.store.next_seq() {
                Ok(next) => live.catch_up(core, next),
                Err(error) => tracing::error!("reading the log for live delivery failed: {error}"),
            },
            Message::Stop => return,
        }
    }
}
