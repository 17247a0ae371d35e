//! A subscription: stored events first, then EOSE, then live ones, each event once; and the sink all of it goes into.

use std::sync::{Arc, Mutex};

use super::live_event::{LiveEvent, LiveText};
use super::lock;
use super::policy::Viewer;
use crate::nostr::{Filter, SubscriptionId, message};
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
    /// Takes one live event: `prefix` is `["EVENT","<sub>",`, then comes the event's shared text with the bracket behind it.
    fn send_live(&self, prefix: &[u8], event: &LiveText);
}

/// A subscription as the live index and the readers know it.
pub(super) struct Subscription {
    pub id: SubscriptionId,
    pub filters: Arc<[Filter]>,
    /// Who asks.
    pub viewer: Arc<Viewer>,
    /// `["EVENT","<sub>",`
    pub prefix: Box<[u8]>,
    /// Bytes of live events that may wait for the scan. Beyond it the scan is hopelessly behind and the subscription ends.
    max_waiting: usize,
    sink: Arc<dyn Sink>,
    state: Mutex<State>,
}

enum State {
    /// Stored events are on their way; live ones wait until EOSE is out (N01-67).
    Scanning { waiting: Vec<Arc<LiveEvent>>, bytes: usize, from: Seq },
    /// Events with this number and above are delivered as they come; those below it were the scan's.
    Live { from: Seq },
    /// Nothing may be sent any more (N01-69).
    Closed,
}

impl Subscription {
    /// A subscription whose stored events are to be scanned. At most `max_waiting` bytes of live events wait for that.
    pub fn new(
        id: SubscriptionId,
        filters: Arc<[Filter]>,
        viewer: Arc<Viewer>,
        sink: Arc<dyn Sink>,
        max_waiting: usize,
    ) -> Subscription {
        let mut prefix = Vec::new();
        message::write_event_prefix(&mut prefix, id.as_str());
        let state = State::Scanning { waiting: Vec::new(), bytes: 0, from: 0 };
        Subscription { id, filters, viewer, prefix: prefix.into(), max_waiting, sink, state: Mutex::new(state) }
    }

    /// A live event: delivered, or kept until the stored ones are through.
    pub fn deliver(&self, event: &Arc<LiveEvent>) {
        let mut state = lock(&self.state);
        match &mut *state {
            State::Live { from } => {
                if event.seq.is_none_or(|seq| seq >= *from)
                    && let Some(text) = event.text()
                {
                    self.sink.send_live(&self.prefix, text);
                }
            }
            State::Scanning { from, .. } if event.seq.is_some_and(|seq| seq < *from) => {}
            State::Scanning { waiting, bytes, .. } => {
                *bytes += event.size();
                if *bytes <= self.max_waiting {
                    waiting.push(event.clone());
                } else {
                    *state = State::Closed;
                    self.close_message("error: you read stored events slower than new ones arrive; ask for fewer");
                }
            }
            State::Closed => {}
        }
    }

    /// Learns at which number the scan's snapshot ends.
    pub fn scan_ends_at(&self, before: Seq) {
        if let State::Scanning { waiting, bytes, from } = &mut *lock(&self.state) {
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

    /// The last slice, EOSE, and everything that arrived meanwhile; from here on events are delivered as they come.
    /// `None` when the subscription is closed, else whether the sink has room.
    pub fn finish(&self, mut messages: Vec<u8>) -> Option<bool> {
        let mut state = lock(&self.state);
        let State::Scanning { waiting, from, .. } = &mut *state else { return None };
        let from = *from;
        append(&*self.sink, &mut messages, |out| message::write_eose(out, self.id.as_str()));
        for event in waiting.drain(..) {
            if let Some(text) = event.text() {
                append(&*self.sink, &mut messages, |out| {
                    out.extend_from_slice(&self.prefix);
                    out.extend_from_slice(text.text());
                });
            }
        }
        *state = State::Live { from };
        Some(self.sink.send(messages))
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
