//! An event on its way to subscribers: stored or ephemeral, its JSON made once for all of them.

use std::sync::{Mutex, OnceLock};

use bytes::Bytes;

use super::{Admission, lock};
use crate::store::{Record, Seq};

/// The end of a message with a live event, the same for everyone who gets it: the event's JSON and the bracket behind it, `{…}]`.
pub struct LiveText {
    text: Bytes,
    packed: OnceLock<Option<Bytes>>,
}

impl LiveText {
    /// Wraps the JSON of an event with the bracket behind it.
    pub fn new(text: impl Into<Bytes>) -> LiveText {
        LiveText { text: text.into(), packed: OnceLock::new() }
    }

    /// `{…}]`
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// What `pack` makes of the text, asked once for all who want it; `None` when it makes nothing of it. A relay has one kind of
    /// packing: the first one asked decides.
    pub fn packed(&self, pack: impl FnOnce(&[u8]) -> Option<Bytes>) -> Option<&Bytes> {
        self.packed.get_or_init(|| pack(&self.text)).as_ref()
    }
}

/// An event on its way to subscribers; its JSON is made once, when the first one wants it.
pub(super) struct LiveEvent {
    /// Its number; `None` for an ephemeral event.
    pub seq: Option<Seq>,
    /// Its place in the ingest queue, kept until it is delivered: publishers wait when delivery falls behind.
    admission: Mutex<Option<Admission>>,
    record: Box<[u8]>,
    text: OnceLock<Option<LiveText>>,
}

impl LiveEvent {
    pub fn new(seq: Option<Seq>, record: Box<[u8]>, admission: Option<Admission>) -> LiveEvent {
        LiveEvent { seq, admission: Mutex::new(admission), record, text: OnceLock::new() }
    }

    /// The event as stored; `None` when it is damaged.
    pub fn record(&self) -> Option<Record<'_>> {
        Record::new(&self.record)
    }

    /// The record itself.
    pub fn record_bytes(&self) -> &[u8] {
        &self.record
    }

    /// The event's JSON text, shared by everyone who gets it.
    pub fn text(&self) -> Option<&LiveText> {
        let make = || {
            let mut text = Vec::new();
            let whole = self.record()?.write_json(&mut text);
            text.push(b']');
            whole.then(|| LiveText::new(text))
        };
        self.text.get_or_init(make).as_ref()
    }

    /// Gives its place in the ingest queue back.
    pub fn release(&self) {
        lock(&self.admission).take();
    }

    /// Bytes this event holds while it waits for a scan to end.
    pub fn size(&self) -> usize {
        self.record.len()
    }
}
