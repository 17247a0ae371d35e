//! A subscription: stored events first, then EOSE, then live ones, each event once; and the sink all of it goes into.
//!
//! One that cannot keep up with what others write falls behind: it takes its events from the log, as it has room for them, until
//! it has caught up.

use std::sync::{Arc, Mutex, Weak};

use super::live_event::{LiveEvent, LiveText};
use super::lock;
use super::memory::Lease;
use super::policy::Viewer;
use crate::nostr::{EventFields, Filter, SubscriptionId, message};
use crate::store::Seq;

/// Where the core puts answers for one peer. Called from the core's threads; must not block.
pub trait Sink: Send + Sync + 'static {
    /// Opens one message at the end of `buf`, where a socket reserves its frame header. Returns where the message begins, for [`Sink::close`].
    fn open(&self, buf: &mut Vec<u8>) -> usize;
    /// Closes the message that was opened at `start`.
    fn close(&self, buf: &mut Vec<u8>, start: usize);
    /// Takes the message that was opened at `start` out again.
    fn abandon(&self, buf: &mut Vec<u8>, start: usize) {
        buf.truncate(start);
    }
    /// Takes complete messages. False when the peer should get no more stored results until it has drained what it has: the core then waits
    /// for [`Client::resume`](super::Client::resume). Nothing is ever dropped in silence.
    fn send(&self, messages: Vec<u8>) -> bool;
    /// The last touch to a slice of stored results, made by a reader that holds no lock: a socket may compress the messages. What it
    /// returns is given to [`Sink::send`] next, or to nobody.
    fn pack(&self, messages: Vec<u8>) -> Vec<u8> {
        messages
    }
    /// Takes live events, a message for each: `prefix` is `["EVENT","<sub>",`, then comes the event's shared text with the bracket
    /// behind it.
    fn send_live(&self, prefix: &[u8], events: &[&LiveText]);
    /// Whether the peer keeps up with what it is sent. Asked before events are sent that nobody paces otherwise.
    fn has_room(&self) -> bool;
}

/// Whose subscription it is: sees to it that the log is read for it.
pub(super) trait Owner: Send + Sync {
    /// Has the log read for a subscription that fell behind, from this number on.
    fn read_log(self: Arc<Self>, subscription: Arc<Subscription>, from: Seq);
    /// Notes that it was told of an end.
    fn note_closed(&self);
}

/// A subscription as the live index and the readers know it.
pub(super) struct Subscription {
    pub id: SubscriptionId,
    pub filters: Arc<[Filter]>,
    /// Who asks.
    pub viewer: Arc<Viewer>,
    /// `["EVENT","<sub>",`
    pub prefix: Box<[u8]>,
    /// Bytes of live events that may wait for the scan. What is more is read from the log when the scan has ended.
    max_waiting: usize,
    owner: Weak<dyn Owner>,
    sink: Arc<dyn Sink>,
    state: Mutex<State>,
    /// What it holds.
    _memory: Lease,
}

enum State {
    /// Stored events are on their way; live ones wait until EOSE is out (N01-67).
    Scanning {
        waiting: Vec<Arc<LiveEvent>>,
        bytes: usize,
        /// The scan's snapshot ends below this number.
        from: Seq,
        /// More came than may wait.
        behind: bool,
    },
    /// Events with this number and above are delivered as they come; those below it were the scan's.
    Live { from: Seq },
    /// The log is read for it, until it has caught up with those that are live. Only ephemeral events come to it as they are.
    Behind,
    /// Nothing may be sent any more (N01-69).
    Closed,
}

/// How the stored events of a subscription ended.
pub(super) struct Finished {
    /// Whether the sink has room.
    pub room: bool,
    /// Where the log is to be read on, if it fell behind meanwhile.
    pub behind: Option<Seq>,
    /// Live events that had waited for the end, and were sent.
    pub live: u64,
}

impl Subscription {
    /// A subscription whose stored events are to be scanned. At most `max_waiting` bytes of live events wait for that.
    pub fn new(
        id: SubscriptionId,
        filters: Arc<[Filter]>,
        viewer: Arc<Viewer>,
        owner: Weak<dyn Owner>,
        sink: Arc<dyn Sink>,
        max_waiting: usize,
        memory: Lease,
    ) -> Subscription {
        let mut prefix = Vec::new();
        message::write_event_prefix(&mut prefix, id.as_str());
        let state = State::Scanning { waiting: Vec::new(), bytes: 0, from: 0, behind: false };
        Subscription {
            id,
            filters,
            viewer,
            prefix: prefix.into(),
            max_waiting,
            owner,
            sink,
            state: Mutex::new(state),
            _memory: memory,
        }
    }

    /// Whether an event is one that it asks for and that its owner may see.
    pub fn wants(&self, event: &impl EventFields) -> bool {
        self.filters.iter().any(|filter| filter.matches(event)) && self.viewer.may_see(event)
    }

    /// Live events in the order of the log: delivered, or kept until the stored ones are through. Returns how many were sent
    /// now.
    pub fn deliver(&self, events: &[&Arc<LiveEvent>]) -> u64 {
        let mut state = lock(&self.state);
        match &mut *state {
            State::Live { from } => {
                let from = *from;
                self.send_live(events, |event| event.seq.is_none_or(|seq| seq >= from))
            }
            State::Scanning { .. } => {
                events.iter().for_each(|event| self.keep(&mut state, event));
                0
            }
            State::Behind => self.send_live(events, |event| event.seq.is_none()),
            State::Closed => 0,
        }
    }

    /// Keeps a live event until the stored ones are through.
    fn keep(&self, state: &mut State, event: &Arc<LiveEvent>) {
        let State::Scanning { waiting, bytes, from, behind } = state else { return };
        if event.seq.is_some_and(|seq| seq < *from || *behind) {
            return;
        }
        waiting.push(event.clone());
        *bytes += event.size();
        if *bytes > self.max_waiting {
            // What is stored can be read later; what is not must be kept, or the subscription is of no use.
            *behind = true;
            waiting.retain(|event| event.seq.is_none());
            *bytes = waiting.iter().map(|event| event.size()).sum();
        }
        if *bytes > self.max_waiting {
            *state = State::Closed;
            self.close_message("error: you read stored events slower than new ones arrive; ask for fewer");
        }
    }

    /// An event of the log: delivered if the sink has room for it. If not, the subscription falls behind. Returns how many were
    /// sent now.
    pub fn deliver_if_room(self: &Arc<Self>, event: &Arc<LiveEvent>) -> u64 {
        let Some(seq) = event.seq else { return self.deliver(&[event]) };
        {
            let mut state = lock(&self.state);
            match *state {
                State::Live { from } if seq >= from && !self.sink.has_room() => *state = State::Behind,
                _ => {
                    drop(state);
                    return self.deliver(&[event]);
                }
            }
        }
        if let Some(owner) = self.owner.upgrade() {
            owner.read_log(self.clone(), seq);
        }
        0
    }

    fn send_live(&self, events: &[&Arc<LiveEvent>], wanted: impl Fn(&LiveEvent) -> bool) -> u64 {
        // Most often it is one, which needs no list.
        if let [event] = events {
            let Some(text) = event.text().filter(|_| wanted(event)) else { return 0 };
            self.sink.send_live(&self.prefix, &[text]);
            return 1;
        }
        let texts: Vec<&LiveText> =
            events.iter().filter(|event| wanted(event)).filter_map(|event| event.text()).collect();
        if !texts.is_empty() {
            self.sink.send_live(&self.prefix, &texts);
        }
        texts.len() as u64
    }

    /// Ends being behind: events with this number and above are delivered as they come.
    pub fn go_live(&self, from: Seq) {
        let mut state = lock(&self.state);
        if matches!(*state, State::Behind) {
            *state = State::Live { from };
        }
    }

    /// Learns at which number the scan's snapshot ends.
    pub fn scan_ends_at(&self, before: Seq) {
        if let State::Scanning { waiting, bytes, from, .. } = &mut *lock(&self.state) {
            *from = before;
            waiting.retain(|event| event.seq.is_none_or(|seq| seq >= before));
            *bytes = waiting.iter().map(|event| event.size()).sum();
        }
    }

    /// Sends a slice of stored events if the subscription is still open. `None` when it is not, else whether the sink has room.
    pub fn send_slice(&self, messages: Vec<u8>) -> Option<bool> {
        let state = lock(&self.state);
        if matches!(*state, State::Closed) {
            return None;
        }
        Some(messages.is_empty() || self.sink.send(messages))
    }

    /// The last slice, EOSE (which says with `complete` that nothing was left out), and everything that arrived meanwhile; from
    /// here on events are delivered as they come, or the log is to be read first. `None` when the subscription is closed.
    pub fn finish(&self, mut messages: Vec<u8>, complete: bool) -> Option<Finished> {
        let mut state = lock(&self.state);
        let State::Scanning { waiting, from, behind, .. } = &mut *state else { return None };
        let (from, behind) = (*from, *behind);
        append(&*self.sink, &mut messages, |out| message::write_eose(out, self.id.as_str(), complete));
        let mut live = 0;
        for event in waiting.drain(..) {
            if let Some(text) = event.text() {
                live += 1;
                append(&*self.sink, &mut messages, |out| {
                    out.extend_from_slice(&self.prefix);
                    out.extend_from_slice(text.text());
                });
            }
        }
        *state = if behind { State::Behind } else { State::Live { from } };
        Some(Finished { room: self.sink.send(messages), behind: behind.then_some(from), live })
    }

    /// Appends one EVENT message; `write` appends the event's JSON and says whether that went well.
    pub fn append_event(&self, messages: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.sink.open(messages);
        messages.extend_from_slice(&self.prefix);
        if write(messages) {
            messages.push(b']');
            self.sink.close(messages, start);
        } else {
            self.sink.abandon(messages, start);
        }
    }

    /// Ends the subscription from the relay's side, with a reason.
    pub fn refuse(&self, reason: &str) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Closed) {
            *state = State::Closed;
            self.close_message(reason);
        }
    }

    fn close_message(&self, reason: &str) {
        if let Some(owner) = self.owner.upgrade() {
            owner.note_closed();
        }
        send_one(&*self.sink, |out| message::write_closed(out, self.id.as_str(), reason));
    }

    /// Ends the subscription without a word.
    pub fn close(&self) {
        *lock(&self.state) = State::Closed;
    }

    /// Whether anything may still be sent for it.
    pub fn is_open(&self) -> bool {
        !matches!(*lock(&self.state), State::Closed)
    }
}

fn append(sink: &dyn Sink, messages: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = sink.open(messages);
    write(messages);
    sink.close(messages, start);
}

/// Sends one message.
pub(super) fn send_one(sink: &dyn Sink, write: impl FnOnce(&mut Vec<u8>)) {
    let mut messages = Vec::new();
    append(sink, &mut messages, write);
    sink.send(messages);
}
