//! What became of an event, and the promise to say so exactly once.

use std::borrow::Cow;

/// What became of a published event; what an OK says (N01-75).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, and on disk.
    Stored,
    /// Ephemeral: handed to subscribers, or, on import, passed over.
    Delivered,
    /// Ephemeral, and nobody was subscribed to it (N01-83).
    Unheard,
    /// It was stored already.
    Duplicate,
    /// A newer version of it is stored (N01-46).
    Replaced,
    /// Done as it asks, and neither stored nor passed on; the text begins with its prefix, or is empty.
    Granted(String),
    /// Refused; the text begins with its machine-readable prefix.
    Refused(String),
    /// Not stored through no fault of the event; the text begins with its prefix.
    Failed(String),
}

impl Outcome {
    /// The third element of OK.
    pub fn ok(&self) -> bool {
        matches!(self, Outcome::Stored | Outcome::Delivered | Outcome::Duplicate | Outcome::Granted(_))
    }

    /// The fourth element of OK.
    pub fn message(&self) -> Cow<'_, str> {
        match self {
            Outcome::Stored | Outcome::Delivered => "".into(),
            Outcome::Unheard => "mute: nobody is subscribed to this ephemeral event".into(),
            Outcome::Duplicate => "duplicate: already have this event".into(),
            Outcome::Replaced => "duplicate: a newer version is stored".into(),
            Outcome::Granted(text) | Outcome::Refused(text) | Outcome::Failed(text) => text.as_str().into(),
        }
    }

    pub(super) fn closing() -> Outcome {
        Outcome::Failed("error: the relay is shutting down".into())
    }
}

/// Calls back exactly once. Dropped unanswered, wherever that happens, it answers that the relay is shutting down: no
/// publisher waits for ever.
pub(super) struct Reply(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Reply {
    pub fn new(callback: impl FnOnce(Outcome) + Send + 'static) -> Reply {
        Reply(Some(Box::new(callback)))
    }

    pub fn send(mut self, outcome: Outcome) {
        if let Some(callback) = self.0.take() {
            callback(outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Outcome::closing());
        }
    }
}
