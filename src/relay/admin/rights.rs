//! Who may call which method: administrators all, others those that were assigned to them.

use serde_json::{Value, json};

use super::Method;
use super::lists::{change, page};
use super::params::{arity, pubkey, text_at};
use crate::relay::Relay;
use crate::relay::membership::entry;
use crate::relay::policy::moderation::names;
use crate::store::{Change, List};

/// The methods. They are for administrators only: whoever could call them could call everything.
pub(super) const METHODS: &[Method] = &[
    ("assignmethod", "PUBKEY METHOD", |relay, params| assign(relay, params, true)),
    ("unassignmethod", "PUBKEY METHOD", |relay, params| assign(relay, params, false)),
    ("listmethodassignees", "[LIMIT [AFTER]]", |relay, params| {
        let after = if params.len() > 1 { Some(pubkey(&params[1..])?.0.to_vec()) } else { None };
        page(
            relay,
            params,
            List::Assignees,
            after,
            |key, entry| json!({ "pubkey": const_hex::encode(key), "methods": names(&entry) }),
        )
    }),
];

fn assign(relay: &Relay, params: &[Value], given: bool) -> Result<Value, String> {
    arity(params, 2)?;
    let (key, method) = (pubkey(params)?, text_at(params, 1)?);
    // What these answer is more than true or false, as NIP-86 has it.
    let done = |done: bool, words: &str| Ok(json!([done, words]));
    if METHODS.iter().any(|(name, ..)| *name == method) {
        return done(false, "this method is for the relay's administrators only");
    }
    if given && !super::exists(relay, method) {
        return done(false, "there is no such method");
    }
    let mut methods = relay.lists().assigned(&key).to_vec();
    methods.retain(|known| known != method);
    if given {
        methods.push(method.to_owned());
        methods.sort();
    }
    let since = relay.settings().clock.now();
    let item = key.0.to_vec();
    change(
        relay,
        vec![match methods.is_empty() {
            true => Change::Remove(List::Assignees, item),
            false => Change::Put(List::Assignees, item, entry("", since, &methods)),
        }],
    )?;
    done(true, if given { "the method is assigned" } else { "the method is not assigned" })
}
