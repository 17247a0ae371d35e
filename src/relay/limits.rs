//! The cheap checks: what an event or a question must keep to before anything expensive is done for it.

use super::Settings;
use super::policy::Viewer;
use crate::config::Limits;
use crate::nostr::{Event, Filter, Kind};

/// The answer to an event whose time is over (N40-02).
pub(super) const EXPIRED: &str = "invalid: the event has expired";

/// What every event must keep to, whichever door it comes through. The error is the text of an OK, prefix included.
/// `host` is where the peer reached this relay, as far as the server vouches for that.
pub(super) fn check_rules(event: &Event, settings: &Settings, host: Option<&str>) -> Result<(), String> {
    // Both are tokens that prove an identity to one relay: passing them on would let others use them (N42-10, N98-09).
    if matches!(event.kind, Kind::AUTH | Kind::HTTP_AUTH) {
        return Err(format!("invalid: kind {} is for authentication and is never stored or passed on", event.kind));
    }
    if settings.policy.expiration {
        let expiration = event.expiration().map_err(|error| format!("invalid: {error}"))?;
        if expiration.is_some_and(|at| at <= settings.clock.now()) {
            return Err(EXPIRED.into());
        }
    }
    if event.kind == Kind::VANISH {
        if !settings.policy.requests_to_vanish {
            return Err("blocked: this relay does not obey requests to vanish".into());
        }
        check_vanish(event, |url| settings.addresses.contain(url, host))?;
    }
    Ok(())
}

/// NIP-62: a request to vanish names the relays that are to obey it.
fn check_vanish(event: &Event, is_own: impl Fn(&str) -> bool) -> Result<(), String> {
    let mut relays = event.tags.iter().filter(|tag| tag.name() == "relay").filter_map(|tag| tag.value()).peekable();
    if relays.peek().is_none() {
        return Err("invalid: a request to vanish needs a relay tag".into());
    }
    if relays.any(|relay| relay == "ALL_RELAYS" || is_own(relay)) {
        return Ok(());
    }
    Err("invalid: this request to vanish is addressed to other relays".into())
}

/// Gift wraps are dated back by up to two days on purpose: a limit on age leaves them this many seconds (N17-12).
const WRAPS_MAY_BE_OLD: u64 = 3 * 24 * 3600;

/// What an event from a stranger must keep to as well.
pub(super) fn check_event(event: &Event, settings: &Settings, viewer: Option<&Viewer>) -> Result<(), String> {
    let Limits { max_event_tags, max_content_length, created_at_lower_limit, created_at_upper_limit, .. } =
        settings.limits;
    if event.tags.len() > max_event_tags {
        return Err(format!("invalid: {} tags are too many, this relay takes {max_event_tags}", event.tags.len()));
    }
    // Characters are counted, not bytes (N11-11); there are never more of them than bytes.
    if event.content.len() > max_content_length && event.content.chars().count() > max_content_length {
        return Err(format!(
            "invalid: the content is longer than the {max_content_length} characters this relay takes"
        ));
    }
    let now = settings.clock.now();
    if created_at_upper_limit > 0 && event.created_at > now.saturating_add(created_at_upper_limit) {
        return Err(format!("invalid: created_at is more than {created_at_upper_limit} seconds in the future"));
    }
    let oldest = match event.kind {
        Kind::GIFT_WRAP => created_at_lower_limit.max(WRAPS_MAY_BE_OLD),
        _ => created_at_lower_limit,
    };
    // A request to vanish is obeyed whenever it was written (N62-07).
    if created_at_lower_limit > 0 && event.kind != Kind::VANISH && event.created_at < now.saturating_sub(oldest) {
        return Err(format!("invalid: created_at is more than {oldest} seconds in the past"));
    }
    check_rules(event, settings, viewer.and_then(Viewer::host))
}

/// What the filters of a question must keep to; clamps their limits. The error is the reason of a CLOSED.
pub(super) fn check_filters(mut filters: Vec<Filter>, limits: &Limits) -> Result<Vec<Filter>, String> {
    if filters.len() > limits.max_filters {
        return Err(format!(
            "invalid: {} filters are too many, this relay takes {}",
            filters.len(),
            limits.max_filters
        ));
    }
    for filter in &mut filters {
        if filter.search.is_some() {
            return Err("unsupported: this relay has no search".into());
        }
        // Who names ids wants those, however many are the default.
        let ids = filter.ids.as_ref().map_or(0, |ids| ids.len() as u64);
        let default = limits.default_limit.max(ids);
        filter.limit = Some(filter.limit.unwrap_or(default).min(limits.max_limit));
    }
    Ok(filters)
}

/// Filters as COUNT understands them.
pub(super) fn without_limit(mut filters: Vec<Filter>) -> Vec<Filter> {
    for filter in &mut filters {
        filter.limit = None;
    }
    filters
}
