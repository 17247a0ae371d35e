//! What a stranger's event must keep to beside the limits. Everything here is decided before the signature is checked.

use super::viewer::Viewer;
use crate::config::Policy;
use crate::nostr::{Event, Kind, pow, protected};

/// Applies every rule; `viewer` is `None` when the event comes from no connection. The error is the text of an OK.
pub fn check(event: &Event, viewer: Option<&Viewer>, policy: &Policy) -> Result<(), String> {
    check_layers(event, policy)?;
    if policy.protected_events {
        check_protected(event, viewer)?;
    }
    check_work(event, policy)
}

/// The inner layers of a gift wrap are never meant to be published: somebody's client has gone wrong, and the message would stand
/// here unwrapped (N17-10).
fn check_layers(event: &Event, policy: &Policy) -> Result<(), String> {
    if event.kind.is_inner_layer() && !policy.accept_unwrapped {
        return Err(format!("blocked: kind {} belongs inside a gift wrap and is not taken without one", event.kind));
    }
    Ok(())
}

/// NIP-70: protected events come from their author only, reposts of them from nobody.
fn check_protected(event: &Event, viewer: Option<&Viewer>) -> Result<(), String> {
    if protected::reposts_protected(event) {
        return Err("blocked: this repost holds an event whose author does not want it passed on".into());
    }
    if !protected::is_protected(event) {
        return Ok(());
    }
    match viewer {
        Some(viewer) if viewer.is(&event.pubkey) => Ok(()),
        Some(viewer) if viewer.is_somebody() => {
            Err("restricted: this event is protected, and you have authenticated as somebody else".into())
        }
        Some(viewer) if viewer.challenge().is_some() => {
            Err("auth-required: this event is protected, only its author may publish it".into())
        }
        _ => Err("blocked: this event is protected, and nobody can authenticate as its author here".into()),
    }
}

/// NIP-13. A request to vanish is obeyed whatever else is asked for (N62-07).
fn check_work(event: &Event, policy: &Policy) -> Result<(), String> {
    let wanted = u32::from(policy.min_pow_difficulty);
    if wanted == 0 || event.kind == Kind::VANISH {
        return Ok(());
    }
    let shown = pow::difficulty(event);
    if shown < wanted {
        return Err(format!("pow: difficulty {shown} is less than {wanted}"));
    }
    Ok(())
}
