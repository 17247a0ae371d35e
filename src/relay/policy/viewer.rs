//! Who is at the other end of a connection, and the one guard in front of private events.
//!
//! Every path on which events reach a client asks [`Viewer::may_see`]: stored events and counts inside the scan, live ones
//! before delivery. For public kinds that costs one look at the kind.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use crate::nostr::{Audience, EventFields, Filter, Kind, PublicKey, TagName, TagRef};
use crate::relay::lock;
use crate::relay::policy::Moderation;

/// The most keys that one connection may authenticate (N42-09).
const MAX_KEYS: usize = 16;

/// Signatures that are checked for AUTH on one connection. A client needs one for each key.
const MAX_CHECKS: u8 = 100;

/// One connection as the core knows it.
pub struct Viewer {
    /// Private kinds go only to those they concern.
    guarded: bool,
    /// What an AUTH on this connection must repeat; `None` where nobody can authenticate.
    challenge: Option<[u8; 16]>,
    /// Host and port under which the peer reached this relay, when the server can vouch for them.
    host: Option<Box<str>>,
    moderation: Arc<Moderation>,
    proved: Mutex<Proved>,
}

/// What has been proved.
#[derive(Default)]
struct Proved {
    keys: Vec<PublicKey>,
    checks: u8,
    /// The challenge was sent.
    challenged: bool,
}

impl Viewer {
    /// A connection that has proved nothing yet. With `auth` it has a fresh challenge.
    pub fn new(auth: bool, guarded: bool, host: Option<Box<str>>, moderation: Arc<Moderation>) -> Viewer {
        let mut challenge = [0; 16];
        // A system without random bytes has no unpredictable challenge, so nobody can authenticate.
        let challenge = (auth && getrandom::fill(&mut challenge).is_ok()).then_some(challenge);
        Viewer { guarded, challenge, host, moderation, proved: Mutex::default() }
    }

    /// The challenge as text: 32 hexadecimal digits, 128 random bits (N42-02).
    pub fn challenge(&self) -> Option<String> {
        self.challenge.map(const_hex::encode)
    }

    /// The challenge, the first time this is called: it is sent once (N42-01).
    pub fn first_challenge(&self) -> Option<String> {
        let sent = std::mem::replace(&mut lock(&self.proved).challenged, true);
        if sent { None } else { self.challenge() }
    }

    /// Host and port under which the peer reached this relay, when the server can vouch for them.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Takes a place for one more check of a signature; false when they are used up.
    pub fn may_check(&self) -> bool {
        let mut proved = lock(&self.proved);
        proved.checks = proved.checks.saturating_add(1);
        proved.checks <= MAX_CHECKS
    }

    /// Adds a key whose possession was proved. False when there are too many.
    pub fn add(&self, key: PublicKey) -> bool {
        let mut proved = lock(&self.proved);
        if !proved.keys.contains(&key) {
            if proved.keys.len() == MAX_KEYS {
                return false;
            }
            proved.keys.push(key);
        }
        true
    }

    /// Whether this key was proved here. One that is banned has no rights any more (N42-13).
    pub fn is(&self, key: &PublicKey) -> bool {
        lock(&self.proved).keys.contains(key) && !self.moderation.is_banned(key)
    }

    /// Whether any key was proved here.
    pub fn is_somebody(&self) -> bool {
        lock(&self.proved).keys.iter().any(|key| !self.moderation.is_banned(key))
    }

    /// The first of the proved keys that belongs to a relay with members (NIP-43).
    pub fn member(&self) -> Option<PublicKey> {
        let lists = self.moderation.lists();
        let is_member = |key: &&PublicKey| lists.is_member(key) && !self.moderation.is_banned(key);
        lock(&self.proved).keys.iter().find(is_member).copied()
    }

    /// Refuses what only members may do; the error is the reason of a CLOSED, or the text of an OK.
    pub fn check_member(&self, what: &str) -> Result<(), String> {
        match self.member() {
            Some(_) => Ok(()),
            None if self.is_somebody() => Err(format!("restricted: only members may {what} here")),
            None => Err(format!("auth-required: only members may {what} here; authenticate first")),
        }
    }

    /// Whether this connection may learn of the event: the guard of private kinds (N17-01, N17-03), of what banned keys
    /// left here, and of all that is for members only.
    pub fn may_see(&self, event: &impl EventFields) -> bool {
        if self.moderation.hides(event) || self.moderation.is_for_members() && self.member().is_none() {
            return false;
        }
        let audience = event.kind().audience();
        if audience == Audience::Public || !self.guarded {
            return true;
        }
        let proved = lock(&self.proved);
        if proved.keys.is_empty() {
            return false;
        }
        let is_mine = |key: &PublicKey| proved.keys.contains(key) && !self.moderation.is_banned(key);
        if audience == Audience::Parties && is_mine(&event.pubkey()) {
            return true;
        }
        event
            .visit_indexed_tags(|name, value| match value {
                TagRef::Hex(key) if name == TagName::P && is_mine(&PublicKey(key)) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .is_break()
    }

    /// Whether the answer to this question may depend on who asks: it names a private kind, or asks for all that concerns a key.
    pub fn matters_to(filters: &[Filter]) -> bool {
        filters.iter().any(|filter| match &filter.kinds {
            Some(kinds) => kinds.iter().any(|kind| kind.audience() != Audience::Public),
            None => filter.tags.iter().any(|(name, _)| *name == TagName::P),
        })
    }

    /// Refuses a question that can only be about private events and comes from nobody known (N17-04). Any other question is
    /// answered as if what its asker may not see did not exist (N17-05, N17-06).
    pub fn check_question(&self, filters: &[Filter]) -> Result<(), String> {
        let private = |kind: &Kind| kind.audience() != Audience::Public;
        let only_private =
            |filter: &Filter| filter.kinds.as_ref().is_some_and(|kinds| !kinds.is_empty() && kinds.iter().all(private));
        if !self.guarded || self.is_somebody() || filters.is_empty() || !filters.iter().all(only_private) {
            return Ok(());
        }
        Err(match self.challenge {
            Some(_) => "auth-required: private messages are given only to those they are for; authenticate first",
            None => "blocked: private messages are not served here",
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{Event, EventId, Signature, Tags};

    fn somebody(auth: bool, guarded: bool) -> Viewer {
        Viewer::new(auth, guarded, None, Arc::default())
    }

    fn event(kind: u16, author: u8, p: &[u8]) -> Event {
        let mut tags = Tags::new();
        for key in p {
            tags.push(["p".to_owned(), PublicKey([*key; 32]).to_string()]);
        }
        Event {
            id: EventId([0; 32]),
            pubkey: PublicKey([author; 32]),
            created_at: 0,
            kind: Kind(kind),
            tags,
            content: "".into(),
            sig: Signature([0; 64]),
        }
    }

    #[test]
    fn n17_01_n17_02_n17_10_n59_02_n04_01_who_may_see_what() {
        let viewer = somebody(true, true);
        let private = [4, 13, 14, 15, 444, 1059, 21059];
        for kind in private {
            assert!(!viewer.may_see(&event(kind, 1, &[2, 3])), "nobody sees kind {kind}");
        }
        for public in [0, 1, 5, 10_002, 10_050] {
            assert!(viewer.may_see(&event(public, 1, &[2])), "everybody sees kind {public}");
        }
        assert!(viewer.add(PublicKey([9; 32])) && viewer.add(PublicKey([3; 32])));
        for kind in private {
            assert!(viewer.may_see(&event(kind, 1, &[2, 3])), "one of the recipients, by the second key: {kind}");
            assert!(!viewer.may_see(&event(kind, 1, &[2])), "for somebody else: {kind}");
            let own = viewer.may_see(&event(kind, 3, &[2]));
            assert_eq!(own, !matches!(kind, 1059 | 21059), "the author of {kind}");
        }
        assert!(somebody(true, false).may_see(&event(1059, 1, &[2])), "the open switch");
    }

    #[test]
    fn n42_09_a_connection_has_sixteen_keys_at_most() {
        let viewer = somebody(true, true);
        for n in 0..16 {
            assert!(viewer.add(PublicKey([n; 32])));
            assert!(viewer.add(PublicKey([n; 32])), "again is nothing new");
        }
        assert!(!viewer.add(PublicKey([16; 32])));
        assert!((0..16).all(|n| viewer.is(&PublicKey([n; 32]))) && !viewer.is(&PublicKey([16; 32])));
    }

    #[test]
    fn n42_02_challenges_are_unpredictable_and_each_their_own() {
        let (a, b) = (somebody(true, true).challenge(), somebody(true, true).challenge());
        assert_eq!(a.as_ref().map(String::len), Some(32), "128 bits");
        assert_ne!(a, b);
        assert_eq!(somebody(false, true).challenge(), None);
    }

    #[test]
    fn a_viewer_is_small() {
        // Ten thousand idle connections have one each.
        let size = size_of::<Viewer>();
        assert!(size <= 96, "{size} bytes");
    }
}
