//! The methods of membership: invite codes and roles (NIP-43). Members are the allowed keys.

use serde_json::{Value, json};

use super::Method;
use super::lists::{change, page, with_reason};
use super::params::{arity, number_at, pubkey, text_at, text_or_none};
use crate::relay::Relay;
use crate::relay::membership::{Invite, MAX_NAME, Role, entry};
use crate::relay::outcome::Outcome;
use crate::relay::queue::{Answer, Task};
use crate::store::{Change, List};

/// The methods, which exist where the relay has members.
pub(super) const METHODS: &[Method] = &[
    ("createinvite", "[USES [SECONDS [NOTE]]]", |relay, params| {
        arity(params, 3)?;
        let settings = relay.settings();
        // 0 is no bound for either.
        let uses = number_at(params, 0)?.unwrap_or(1);
        let uses = u32::try_from(uses).map_err(|_| "so many will not come")?;
        let lifetime = number_at(params, 1)?.unwrap_or(settings.membership.invite_lifetime);
        let task = Task::Invite {
            issuer: None,
            uses: (uses > 0).then_some(uses),
            lifetime: (lifetime > 0).then_some(lifetime),
            note: text_or_none(params, 2)?.to_owned(),
        };
        work(relay, task)
    }),
    ("revokeinvite", "CODE", |relay, params| {
        arity(params, 1)?;
        change(relay, vec![Change::Remove(List::Invites, name_at(params, 0)?.into_bytes())])
    }),
    ("listinvites", "[LIMIT [AFTER]]", |relay, params| {
        let now = relay.settings().clock.now();
        page(relay, params, List::Invites, after(params)?, |code, entry| {
            let mut shown = with_reason("code", text(code), &entry);
            let invite = Invite::of(&entry);
            for (name, number) in [("uses", invite.uses.map(u64::from)), ("until", invite.until)] {
                if let Some(number) = number {
                    shown[name] = number.into();
                }
            }
            if let Some(issuer) = &invite.issuer {
                shown["issuer"] = issuer.as_str().into();
            }
            if invite.is_over(now) {
                shown["expired"] = true.into();
            }
            shown
        })
    }),
    ("createrole", "ROLE [LABEL [DESCRIPTION [COLOR [ORDER]]]]", |relay, params| put_role(relay, params, false)),
    ("editrole", "ROLE [LABEL [DESCRIPTION [COLOR [ORDER]]]]", |relay, params| put_role(relay, params, true)),
    ("deleterole", "ROLE", |relay, params| {
        arity(params, 1)?;
        change(relay, vec![Change::Remove(List::Roles, name_at(params, 0)?.into_bytes())])
    }),
    ("listroles", "[LIMIT [AFTER]]", |relay, params| {
        page(relay, params, List::Roles, after(params)?, |id, entry| {
            let Role { label, description, color, order } = role_of(&entry.detail);
            json!({ "id": text(id), "label": label, "description": description, "color": color, "order": order })
        })
    }),
    ("assignrole", "PUBKEY ROLE", |relay, params| assign(relay, params, true)),
    ("unassignrole", "PUBKEY ROLE", |relay, params| assign(relay, params, false)),
];

/// Has the writer do it, and says what came of it.
fn work(relay: &Relay, task: Task) -> Result<Value, String> {
    match relay.work_lists(task).map_err(|error| error.to_string())? {
        Answer::Code(code) => Ok(code.into()),
        Answer::Done(Outcome::Refused(why)) => Err(why),
        Answer::Done(_) => Ok(true.into()),
    }
}

/// The name of a code or a role.
fn name_at(params: &[Value], at: usize) -> Result<String, String> {
    let name = text_at(params, at)?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("parameter {} must be a text of 1 to {MAX_NAME} bytes", at + 1));
    }
    Ok(name.to_owned())
}

/// The item that a page begins behind: the second parameter.
fn after(params: &[Value]) -> Result<Option<Vec<u8>>, String> {
    if params.len() > 1 { name_at(params, 1).map(|name| Some(name.into_bytes())) } else { Ok(None) }
}

fn text(item: Vec<u8>) -> String {
    String::from_utf8_lossy(&item).into_owned()
}

fn role_of(detail: &str) -> Role {
    serde_json::from_str(detail).unwrap_or_default()
}

/// Makes a role, or changes one. To make one that is there just so is done already.
fn put_role(relay: &Relay, params: &[Value], exists: bool) -> Result<Value, String> {
    arity(params, 5)?;
    let id = name_at(params, 0)?;
    let color = number_at(params, 3)?.map(|color| u16::try_from(color).ok().filter(|color| *color <= 360));
    let order = number_at(params, 4)?.map(u32::try_from);
    let role = Role {
        label: text_or_none(params, 1)?.to_owned(),
        description: text_or_none(params, 2)?.to_owned(),
        color: color.map(|color| color.ok_or("a color is a number from 0 to 360")).transpose()?,
        order: order.transpose().map_err(|_| "the order is too large a number")?,
    };
    let known = relay.store().list_entry(List::Roles, id.as_bytes()).map_err(|error| error.to_string())?;
    match known {
        Some(known) if role_of(&known.detail) == role => return Ok(true.into()),
        Some(_) if !exists => return Err("there is such a role already; editrole changes it".into()),
        None if exists => return Err("there is no such role; createrole makes one".into()),
        _ => {}
    }
    let since = relay.settings().clock.now();
    change(relay, vec![Change::Put(List::Roles, id.into_bytes(), entry("", since, &role))])
}

fn assign(relay: &Relay, params: &[Value], given: bool) -> Result<Value, String> {
    arity(params, 2)?;
    work(relay, Task::Assign { key: pubkey(params)?, role: name_at(params, 1)?, given })
}
