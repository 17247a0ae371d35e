//! An event on its way to subscribers: stored or ephemeral, its JSON made once for all of them.

use std::sync::{Mutex, OnceLock};

use bytes::Bytes;

use super::{Admission, lock};
use crate::store::{Record, Seq};

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

    /// The event as stored; `None` when it is damaged.
    pub fn record(&self) -> Option<Record<'_>> {
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

    /// Gives its place in the ingest queue back.
    pub fn release(&self) {
        lock(&self.admission).take();
    }

    /// Bytes this event holds while it waits for a scan to end.
    pub fn size(&self) -> usize {
        self.record.len()
    }
}
