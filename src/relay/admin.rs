//! Managing a running relay: the methods of NIP-86, which the HTTP interface and the command line share.
//!
//! Every effect is on disk and in force when a call returns, in this process at once, in others that use the database within a
//! tenth of a second.
//!
//! | file | what |
//! |---|---|
//! | `lists` | moderation: banned and allowed keys, events, kinds, addresses; the relay's texts |
//! | `members` | invite codes and roles (NIP-43) |
//! | `rights` | who may call what |
//! | `params` | parameters, read and checked |

mod lists;
mod members;
mod params;
mod rights;

use serde_json::Value;

use super::Relay;
use crate::nostr::PublicKey;

/// One method: its name, its parameters in words, and what it does.
type Method = (&'static str, &'static str, fn(&Relay, &[Value]) -> Result<Value, String>);

/// Lists the others, so it is none of them; each caller may call it.
const SUPPORTED: &str = "supportedmethods";

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The command line, or a key of `policy.admins`.
    Administrator,
    /// Any other key.
    Key(PublicKey),
}

/// Why a call came to nothing. The text is a sentence for whoever called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The caller has no right to this.
    #[error("this key may not call {0:.64}")]
    NoRight(String),
    /// The call is wrong, or it failed; then nothing was changed.
    #[error("{0}")]
    Failed(String),
}

/// All there are, whether the relay has members or not.
fn all() -> impl Iterator<Item = &'static Method> {
    [lists::METHODS, members::METHODS, rights::METHODS].into_iter().flatten()
}

/// Whether a method can be called here.
fn exists(relay: &Relay, method: &str) -> bool {
    let with_members = relay.lists().gate().enabled;
    all().any(|(name, ..)| *name == method)
        && (with_members || !members::METHODS.iter().any(|(name, ..)| *name == method))
}

/// The methods and the words for their parameters, those included that need membership.
pub fn methods() -> impl Iterator<Item = (&'static str, &'static str)> {
    [(SUPPORTED, "")].into_iter().chain(all().map(|(name, words, _)| (*name, *words)))
}

/// The methods that `caller` can call here.
pub fn supported(relay: &Relay, caller: Caller) -> Vec<&'static str> {
    let lists = relay.lists();
    let may = |name: &&str| match caller {
        Caller::Administrator => true,
        Caller::Key(key) => lists.assigned(&key).iter().any(|own| own == name),
    };
    all().map(|(name, ..)| *name).filter(|name| exists(relay, name)).filter(may).collect()
}

/// Calls a method as an administrator, see [`call_as`].
pub fn call(relay: &Relay, method: &str, params: &[Value]) -> Result<Value, String> {
    call_as(relay, Caller::Administrator, method, params).map_err(|error| error.to_string())
}

/// Calls a method. Blocks.
pub fn call_as(relay: &Relay, caller: Caller, method: &str, params: &[Value]) -> Result<Value, CallError> {
    let failed = |why: String| Err(CallError::Failed(why));
    let supported = supported(relay, caller);
    let asks_what_it_may = method == SUPPORTED && !supported.is_empty();
    if caller != Caller::Administrator && !asks_what_it_may && !supported.contains(&method) {
        return Err(CallError::NoRight(method.to_owned()));
    }
    if method == SUPPORTED {
        return match params {
            [] => Ok(supported.into()),
            _ => failed("supportedmethods takes no parameters".into()),
        };
    }
    let Some((_, words, call)) = all().find(|(name, ..)| *name == method) else {
        return failed(format!("there is no method {method:.64}"));
    };
    if !supported.contains(&method) {
        return failed(format!("{method} is for relays with members; membership.enabled is off"));
    }
    call(relay, params).or_else(|error| match words.is_empty() {
        true => failed(error),
        false => failed(format!("{error}; {method} takes {words}")),
    })
}
