//! Membership as events and questions meet it (NIP-43): who belongs to the relay, and what only members may do.
//!
//! Members are the allowed keys of the operator's lists; how one becomes a member is decided where lists are changed.

use crate::config::{Membership, Policy};
use crate::nostr::{Event, Filter, Kind, PublicKey};

/// How far created_at of a request to join or leave may be from now, in seconds, both ways: as with AUTH.
const WINDOW: u64 = 600;

/// What membership means here.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// There are members.
    pub enabled: bool,
    /// Only members may publish.
    pub restricts_writes: bool,
    /// Only members may read.
    pub restricts_reads: bool,
    /// The relay's own key.
    pub own: Option<PublicKey>,
    /// The administrators, who belong to the relay without being listed.
    pub admins: Vec<PublicKey>,
}

impl Gate {
    /// As configured, for a relay with this key of its own.
    pub fn new(membership: &Membership, policy: &Policy, own: Option<PublicKey>) -> Gate {
        // Without a key there is nobody to say who is a member.
        let enabled = membership.enabled && own.is_some();
        Gate {
            enabled,
            restricts_writes: enabled && membership.restrict_writes,
            restricts_reads: enabled && membership.restrict_reads,
            own,
            admins: policy.admins.clone(),
        }
    }

    /// Whether this key belongs to the relay without being listed.
    pub fn is_insider(&self, key: &PublicKey) -> bool {
        self.own == Some(*key) || self.admins.contains(key)
    }

    /// Whether nothing works before AUTH (N11-12).
    pub fn is_closed(&self) -> bool {
        self.restricts_reads && self.restricts_writes
    }
}

/// Whether the event is a request to join or to leave, and in order; anything else is an ordinary event, and may not pretend to be one
/// of the relay's own (N43-05, N43-08 to N43-10). The error is the text of an OK.
pub fn is_request(event: &Event, gate: &Gate, now: u64) -> Result<bool, String> {
    match event.kind {
        // They carry codes, so they are never passed on, not even where there is nothing to join.
        Kind::JOIN_REQUEST | Kind::LEAVE_REQUEST if !gate.enabled => {
            Err("blocked: this relay has no members, so nobody can join it or leave it".into())
        }
        Kind::JOIN_REQUEST | Kind::LEAVE_REQUEST if event.created_at.abs_diff(now) > WINDOW => {
            Err(format!("invalid: created_at is more than {WINDOW} seconds away from this relay's clock"))
        }
        Kind::JOIN_REQUEST if claim(event).is_none() => Err("invalid: a request to join needs a claim tag".into()),
        Kind::LEAVE_REQUEST if !crate::nostr::protected::is_protected(event) => {
            Err("invalid: a request to leave needs a \"-\" tag".into())
        }
        Kind::JOIN_REQUEST | Kind::LEAVE_REQUEST => Ok(true),
        Kind::MEMBER_ADDED | Kind::MEMBER_REMOVED | Kind::MEMBERS | Kind::ROLE | Kind::INVITE
            if gate.enabled && gate.own != Some(event.pubkey) =>
        {
            Err(format!("blocked: events of kind {} are this relay's own to make", event.kind))
        }
        _ => Ok(false),
    }
}

/// The invite code that a request to join brings.
pub fn claim(event: &Event) -> Option<&str> {
    event.tags.iter().find(|tag| tag.name() == "claim").and_then(|tag| tag.value()).filter(|code| !code.is_empty())
}

/// Whether a question asks for an invite code and nothing else: that is no reading (N43-07).
pub fn asks_for_invite_only(filters: &[Filter]) -> bool {
    let only = |filter: &Filter| filter.kinds.as_ref().is_some_and(|kinds| kinds == &[Kind::INVITE]);
    !filters.is_empty() && filters.iter().all(only)
}

/// Whether a question asks for an invite code of this relay, beside whatever else.
pub fn asks_for_invite(filters: &[Filter], own: &PublicKey) -> bool {
    filters.iter().any(|filter| {
        filter.limit != Some(0)
            && filter.kinds.as_ref().is_some_and(|kinds| kinds.contains(&Kind::INVITE))
            && filter.authors.as_ref().is_none_or(|authors| authors.contains(own))
    })
}
