//! The management API over HTTP (NIP-86): who may call it, and what is answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::nostr::{EventId, PublicKey, http_auth};
use crate::relay::Relay;
use crate::relay::admin::{self, CallError, Caller};

/// The media type of requests and answers.
pub(super) const MEDIA_TYPE: &str = "application/nostr+json+rpc";

/// The longest request, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// The management API of one relay.
pub(super) struct Manage {
    relay: Relay,
    admins: Vec<PublicKey>,
    memory: Arc<Memory>,
}

/// What is remembered whoever the administrators are.
#[derive(Default)]
pub(super) struct Memory {
    /// Authorisations that were used and are still good, with the time at which they are no longer: each serves once (N98-08).
    used: Mutex<VecDeque<(EventId, u64)>>,
    /// One call at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What a call is made of.
#[derive(Deserialize)]
struct Request {
    method: String,
    #[serde(default)]
    params: Vec<Value>,
}

impl Manage {
    /// The API for these administrators; `None` when there are none.
    pub(super) fn new(relay: Relay, admins: &[PublicKey], memory: Arc<Memory>) -> Option<Manage> {
        (!admins.is_empty()).then(|| Manage { relay, admins: admins.to_vec(), memory })
    }

    /// Answers a request with its status and JSON. `host` is where the peer reached this relay, see [`Relay::connect`].
    pub(super) async fn answer(&self, authorization: Option<&str>, host: Option<&str>, body: &[u8]) -> (u16, Value) {
        let caller = match self.authorize(authorization, host, body) {
            Ok(caller) => caller,
            Err((status, why)) => return (status, json!({ "error": why })),
        };
        let request: Request = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return (200, json!({ "error": format!("this is not a request: {error}") })),
        };
        let _turn = self.memory.turn.lock().await;
        let relay = self.relay.clone();
        let call = tokio::task::spawn_blocking(move || {
            let result = admin::call_as(&relay, caller, &request.method, &request.params);
            tracing::info!(method = %request.method.escape_debug(), ok = result.is_ok(), "management call");
            result
        });
        match call.await {
            Ok(Ok(result)) => (200, json!({ "result": result })),
            Ok(Err(error @ CallError::NoRight(_))) => (403, json!({ "error": error.to_string() })),
            Ok(Err(error)) => (200, json!({ "error": error.to_string() })),
            Err(_) => (500, json!({ "error": "the call came to no end" })),
        }
    }

    /// Whose call it is. The error is a status and the reason.
    fn authorize(&self, header: Option<&str>, host: Option<&str>, body: &[u8]) -> Result<Caller, (u16, &'static str)> {
        let settings = self.relay.settings();
        let now = settings.clock.now();
        // The relay's address in either scheme: clients know it as wss://, HTTP as https:// (N98-04).
        let is_own = |url: &str| {
            let url = url.strip_prefix("http").map_or_else(|| url.to_owned(), |rest| format!("ws{rest}"));
            settings.addresses.contain(&url, host)
        };
        let header = header.ok_or((401, "an Authorization header is needed (NIP-98)"))?;
        let event = http_auth::check(header, "POST", is_own, body, now).map_err(|why| (401, why))?;
        let caller = match self.admins.contains(&event.pubkey) {
            true => Caller::Administrator,
            false if self.relay.lists().assigned(&event.pubkey).is_empty() => {
                return Err((403, "this key does not manage this relay"));
            }
            false => Caller::Key(event.pubkey),
        };
        let mut used = self.memory.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.front().is_some_and(|(_, until)| *until < now) {
            used.pop_front();
        }
        if used.iter().any(|(id, _)| *id == event.id) {
            return Err((401, "this authorisation was used before"));
        }
        used.push_back((event.id, now + 2 * http_auth::WINDOW));
        Ok(caller)
    }
}
