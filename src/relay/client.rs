//! A connected peer's doors into the core: EVENT, AUTH, REQ, COUNT and CLOSE.

use std::sync::Arc;

use super::membership::invitation;
use super::peer::{Group, Peer};
use super::policy::auth;
use super::policy::membership::{asks_for_invite, asks_for_invite_only};
use super::question::{self, Kind, Question};
use super::queue::{Answer, Task, ToWriter, Told};
use super::subscription::Sink;
use super::{Admission, Core, Outcome, limits, reader};
use crate::nostr::hll::Sketch;
use crate::nostr::{Event, Filter, PublicKey, SubscriptionId, protected};
use crate::store::{Count, Order, Scan};

/// One connected peer. Dropping it ends its subscriptions and questions.
pub struct Client {
    peer: Arc<Peer>,
}

impl Client {
    pub(super) fn new(core: Arc<Core>, sink: Arc<dyn Sink>, host: Option<Box<str>>) -> Client {
        let peer = Peer::new(core, sink, host);
        // At once, so that a client has it before it needs it (N42-01). But some clients take an AUTH that is refused for a
        // relay that is broken, so one that may not know its own address asks for none before it has to.
        if peer.core.settings().addresses.are_configured() {
            peer.challenge();
        }
        Client { peer }
    }

    /// Has this peer share the bounds of a group. To be said before anything is asked, and once.
    pub fn join(&self, group: Arc<Group>) {
        self.peer.join(group);
    }

    /// EVENT: as [`Relay::publish`](super::Relay::publish), on behalf of whoever the peer has proved to be.
    pub fn publish(&self, event: Event, admission: Admission, reply: impl FnOnce(Outcome) + Send + 'static) {
        if self.peer.core.settings().policy.protected_events && protected::is_protected(&event) {
            self.peer.challenge();
        }
        self.peer.core.publish(event, Some(&self.peer.viewer), admission, reply);
    }

    /// AUTH: proves that the peer holds a key (NIP-42). The error is the text of an OK.
    pub fn authenticate(&self, event: &Event) -> Result<(), String> {
        let settings = self.peer.core.settings();
        auth::authenticate(
            event,
            &self.peer.viewer,
            &settings.addresses,
            &self.peer.core.moderation,
            settings.clock.now(),
        )
    }

    /// REQ: answers with stored events, EOSE, and from then on live ones; replaces a subscription of the same id (N01-66). A
    /// question that breaks a limit is answered with CLOSED.
    pub fn subscribe(&self, id: SubscriptionId, filters: Vec<Filter>) {
        let peer = &self.peer;
        let settings = peer.core.settings();
        let limits = &settings.limits;
        self.unsubscribe(&id);
        if id.as_str().chars().count() > limits.max_subid_length {
            return peer.closed(
                &id,
                &format!("invalid: subscription ids here have {} characters at most", limits.max_subid_length),
            );
        }
        let filters: Arc<[Filter]> = match limits::check_filters(filters, limits) {
            Ok(filters) => filters.into(),
            Err(reason) => return peer.closed(&id, &reason),
        };
        if let Err(reason) = peer.check_question(&filters) {
            return peer.closed(&id, &reason);
        }
        let inviter = match self.inviter(&filters) {
            Ok(inviter) => inviter,
            Err(reason) => return peer.closed(&id, &reason),
        };
        let is_small = question::is_small(&filters);
        match peer.open(&id, filters) {
            Ok(question) => match inviter {
                Some(key) => self.invite(key, question),
                None => self.ask(question, is_small),
            },
            Err(reason) => peer.closed(&id, &reason),
        }
    }

    /// Whose invite code the answer to these filters brings, if they ask for one and the peer may have it (N43-07). The error is
    /// the reason of a CLOSED.
    fn inviter(&self, filters: &[Filter]) -> Result<Option<PublicKey>, String> {
        let Peer { core, viewer, .. } = &*self.peer;
        let Some(identity) = core.members() else { return Ok(None) };
        if !asks_for_invite(filters, &identity.pubkey()) {
            return Ok(None);
        }
        let members_invite = core.settings().membership.invites_per_member > 0;
        match viewer.member().filter(|key| members_invite || core.moderation.gate().is_insider(key)) {
            Some(key) => Ok(Some(key)),
            None if !asks_for_invite_only(filters) => Ok(None),
            None if viewer.is_somebody() => Err("restricted: invite codes are not for you to give here".into()),
            None => Err("auth-required: invite codes are given to those who may invite; authenticate first".into()),
        }
    }

    /// Has an invite code made, and the question answered with it in front.
    fn invite(&self, key: PublicKey, question: Question) {
        let Kind::Stored { subscription, .. } = &question.kind else { return self.peer.ask(question) };
        let (peer, subscription) = (self.peer.clone(), subscription.clone());
        let settings = self.peer.core.settings();
        let now = settings.clock.now();
        let lifetime = Some(settings.membership.invite_lifetime);
        let task = Task::Invite { issuer: Some(key), uses: Some(1), lifetime, note: String::new() };
        let done: Told = Box::new(move |answer| {
            match (answer, peer.core.members()) {
                (Ok(Answer::Code(code)), Some(identity)) => {
                    let event = invitation(identity, now, &code);
                    if subscription.filters.iter().any(|filter| filter.matches(&event)) {
                        let mut messages = Vec::new();
                        subscription.append_event(&mut messages, |out| {
                            event.write_json(out);
                            true
                        });
                        subscription.send_slice(messages);
                    }
                }
                (Err(error), _) => return peer.refuse(question, &format!("error: {error}")),
                (Ok(Answer::Done(outcome)), _) => return peer.refuse(question, &outcome.message()),
                (Ok(Answer::Code(_)), None) => {}
            }
            peer.ask(question);
        });
        let _ = self.peer.core.writer.send(ToWriter::Lists { task, done });
    }

    /// CLOSE: after this returns nothing more is sent for the id. An unknown id is no error (N01-69).
    pub fn unsubscribe(&self, id: &SubscriptionId) {
        self.peer.forget(id);
    }

    /// COUNT: answers with the exact number of stored events, and with a sketch of their authors to the questions that have
    /// one (NIP-45), or with CLOSED.
    pub fn count(&self, id: SubscriptionId, filters: Vec<Filter>) {
        let peer = &self.peer;
        let settings = peer.core.settings();
        let super::Settings { limits, policy, .. } = &*settings;
        if !policy.count {
            return peer.closed(&id, "unsupported: this relay does not count");
        }
        // Before limits are put into the filters.
        let sketch = Sketch::of(&filters).map(Box::new);
        let filters = match limits::check_filters(filters, limits) {
            Ok(filters) => limits::without_limit(filters),
            Err(reason) => return peer.closed(&id, &reason),
        };
        if let Err(reason) = peer.check_question(&filters) {
            return peer.closed(&id, &reason);
        }
        if peer.waiting() >= limits.max_subscriptions {
            return peer.closed(&id, "rate-limited: too many questions are waiting for their answers");
        }
        let memory = match peer.lease(&filters) {
            Ok(memory) => memory,
            Err(reason) => return peer.closed(&id, &reason),
        };
        let is_small = question::is_small(&filters);
        let question = match sketch {
            Some(sketch) => Question::sketch(id, peer.guarded(Scan::new(filters, Order::NewestFirst)), sketch, memory),
            None => {
                let viewer = peer.viewer.clone();
                let hides = peer.core.moderation.hides_some();
                Question::count(id, Count::new(filters).visible(move |record| viewer.may_see(record), hides), memory)
            }
        };
        self.ask(question, is_small);
    }

    /// Sees to a question: at once if it is small, nothing else is asked and there is room for that, else by a reader.
    fn ask(&self, question: Question, is_small: bool) {
        let peer = &self.peer;
        if !is_small || !peer.claim_turn() {
            return peer.ask(question);
        }
        let mut question = Some(question);
        let turn = peer.core.in_place.try_run(&peer.spent, || match question.take() {
            Some(question) => reader::slice(&peer.core, peer, question, reader::IN_PLACE),
            None => (None, true),
        });
        match turn {
            Some((unfinished, room)) => {
                peer.end_turn(unfinished, room, false);
            }
            None => peer.give_back(question),
        }
    }

    /// The sink has room again: stored results flow on.
    pub fn resume(&self) {
        self.peer.resume();
    }

    /// Subscriptions open.
    pub fn subscriptions(&self) -> usize {
        self.peer.subscriptions()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.peer.leave();
    }
}
