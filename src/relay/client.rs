//! One connected peer of the core: its subscriptions, and the questions it waits for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::line::Line;
use super::live::Live;
use super::memory::{Account, Shortage};
use super::policy::{Viewer, auth};
use super::question::{self, Kind, Question};
use super::subscription::{Owner, Sink, Subscription, send_one};
use super::{Admission, Core, Outcome, limits, lock, reader, threads};
use crate::nostr::hll::Sketch;
use crate::nostr::{Event, Filter, SubscriptionId, message, protected};
use crate::store::{Count, Order, Scan, Seq};

/// What a question takes beside its filters: about that much.
const SUBSCRIPTION_BYTES: usize = 768;

/// So many questions of one peer are worked on by turns. The others hold nothing but their filters.
const TAKING_TURNS: usize = 8;

/// A scan that holds more than this between two slices has the peer's turns to itself.
const LARGE: usize = 256 << 10;

/// One connected peer. Dropping it ends its subscriptions and questions.
pub struct Client {
    peer: Arc<Peer>,
}

/// Peers that share a bound: however many they are, no more of them are with the readers, or in the readers' queue, than there are
/// readers. A server makes one for the connections of each address.
pub struct Group {
    line: Line<Arc<Peer>>,
}

impl Default for Group {
    fn default() -> Group {
        Group { line: Line::new(threads()) }
    }
}

/// The shared part of a client: readers hold it while they work for it.
pub(super) struct Peer {
    core: Arc<Core>,
    pub sink: Arc<dyn Sink>,
    /// Who the peer has proved to be.
    viewer: Arc<Viewer>,
    /// Few enough to look through one by one.
    subscriptions: Mutex<Vec<Open>>,
    questions: Mutex<Questions>,
    memory: Arc<Account>,
    group: OnceLock<Arc<Group>>,
    gone: AtomicBool,
    /// What was answered in place for this peer: see [`reader::InPlace::try_run`].
    spent: AtomicU64,
}

/// A subscription and its number in the live index.
struct Open {
    subscription: Arc<Subscription>,
    number: u32,
}

/// The questions of one peer. They take turns slice by slice, and the peer as a whole takes turns with other peers.
struct Questions {
    waiting: VecDeque<Question>,
    state: Turn,
    /// [`Client::resume`] came during this turn: the sink was full and has drained before the turn's end was noted.
    resumed: bool,
}

#[derive(PartialEq, Eq)]
enum Turn {
    /// Nothing is asked.
    Idle,
    /// In the readers' queue, or with a reader.
    Queued,
    /// The sink is full: waiting for [`Client::resume`].
    Paused,
}

impl Client {
    pub(super) fn new(core: Arc<Core>, sink: Arc<dyn Sink>, host: Option<Box<str>>) -> Client {
        core.clients.fetch_add(1, Relaxed);
        let policy = &core.settings.policy;
        let viewer = Arc::new(Viewer::new(policy.auth, policy.guard_private, host, core.moderation.clone()));
        let peer = Peer {
            memory: core.memory.account(),
            core,
            sink,
            viewer,
            subscriptions: Mutex::new(Vec::new()),
            questions: Mutex::new(Questions { waiting: VecDeque::new(), state: Turn::Idle, resumed: false }),
            group: OnceLock::new(),
            gone: AtomicBool::new(false),
            spent: AtomicU64::new(0),
        };
        // At once, so that a client has it before it needs it (N42-01). But some clients take an AUTH that is refused for a
        // relay that is broken, so one that may not know its own address asks for none before it has to.
        if peer.core.settings.addresses.are_configured() {
            peer.challenge();
        }
        Client { peer: Arc::new(peer) }
    }

    /// Has this peer share the bound of a group. To be said before anything is asked, and once.
    pub fn join(&self, group: Arc<Group>) {
        let _ = self.peer.group.set(group);
    }

    /// EVENT: as [`Relay::publish`](super::Relay::publish), on behalf of whoever the peer has proved to be.
    pub fn publish(&self, event: Event, admission: Admission, reply: impl FnOnce(Outcome) + Send + 'static) {
        if protected::is_protected(&event) {
            self.peer.challenge();
        }
        self.peer.core.publish(event, Some(&self.peer.viewer), admission, reply);
    }

    /// AUTH: proves that the peer holds a key (NIP-42). The error is the text of an OK.
    pub fn authenticate(&self, event: &Event) -> Result<(), String> {
        let settings = &self.peer.core.settings;
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
        let limits = &peer.core.settings.limits;
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
        let mut subscriptions = lock(&peer.subscriptions);
        if subscriptions.len() >= limits.max_subscriptions {
            drop(subscriptions);
            let reason =
                format!("blocked: {} subscriptions are open, this relay allows no more", limits.max_subscriptions);
            return peer.closed(&id, &reason);
        }
        let live = &peer.core.live;
        let fields = live.fields(&filters);
        let bytes = SUBSCRIPTION_BYTES + filter_bytes(&filters) + fields.len() * Live::FIELD_BYTES;
        let memory = match peer.memory.lease(bytes) {
            Ok(memory) => memory,
            Err(shortage) => {
                drop(subscriptions);
                return peer.closed(&id, &peer.shortage(shortage));
            }
        };
        let owner: Weak<Peer> = Arc::downgrade(peer);
        let max_waiting = peer.core.settings.waiting_bytes;
        let subscription =
            Subscription::new(id, filters.clone(), peer.viewer.clone(), owner, peer.sink.clone(), max_waiting, memory);
        let subscription = Arc::new(subscription);
        let number = live.enter(&subscription, &fields);
        subscriptions.push(Open { subscription: subscription.clone(), number });
        drop(subscriptions);
        let is_small = question::is_small(&filters);
        let scan = peer.guarded(Scan::snapshot(filters, Order::NewestFirst));
        peer.ask(Question::stored(subscription, scan), is_small);
    }

    /// CLOSE: after this returns nothing more is sent for the id. An unknown id is no error (N01-69).
    pub fn unsubscribe(&self, id: &SubscriptionId) {
        self.peer.forget(id);
    }

    /// COUNT: answers with the exact number of stored events, and with a sketch of their authors to the questions that have
    /// one (NIP-45), or with CLOSED.
    pub fn count(&self, id: SubscriptionId, filters: Vec<Filter>) {
        let peer = &self.peer;
        let limits = &peer.core.settings.limits;
        // Before limits are put into the filters.
        let sketch = Sketch::of(&filters).map(Box::new);
        let filters = match limits::check_filters(filters, limits) {
            Ok(filters) => limits::without_limit(filters),
            Err(reason) => return peer.closed(&id, &reason),
        };
        if let Err(reason) = peer.check_question(&filters) {
            return peer.closed(&id, &reason);
        }
        if lock(&peer.questions).waiting.len() >= limits.max_subscriptions {
            return peer.closed(&id, "rate-limited: too many questions are waiting for their answers");
        }
        let memory = match peer.memory.lease(SUBSCRIPTION_BYTES + filter_bytes(&filters)) {
            Ok(memory) => memory,
            Err(shortage) => return peer.closed(&id, &peer.shortage(shortage)),
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
        peer.ask(question, is_small);
    }

    /// The sink has room again: stored results flow on.
    pub fn resume(&self) {
        let mut questions = lock(&self.peer.questions);
        if questions.state == Turn::Paused {
            questions.state = self.peer.next_turn(&mut questions);
        } else {
            questions.resumed = true;
        }
    }

    /// Subscriptions open.
    pub fn subscriptions(&self) -> usize {
        lock(&self.peer.subscriptions).len()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.peer.gone.store(true, Relaxed);
        lock(&self.peer.questions).waiting.clear();
        let subscriptions = std::mem::take(&mut *lock(&self.peer.subscriptions));
        for Open { subscription, number } in &subscriptions {
            subscription.close();
            self.peer.core.live.leave(*number);
        }
        self.peer.core.clients.fetch_sub(1, Relaxed);
    }
}

impl Owner for Peer {
    fn read_log(self: Arc<Self>, subscription: Arc<Subscription>, from: Seq) {
        self.ask(Question::log(subscription, from), false);
    }
}

/// What the filters of a question take.
fn filter_bytes(filters: &[Filter]) -> usize {
    filters.iter().map(Filter::memory).sum()
}

impl Peer {
    /// Why a question finds no memory, as the reason of a CLOSED.
    fn shortage(&self, shortage: Shortage) -> String {
        match shortage {
            Shortage::Peer => format!(
                "blocked: the filters of one connection may take {} bytes here; close subscriptions or ask for fewer values",
                self.core.settings.limits.max_filter_bytes
            ),
            Shortage::Everybody => {
                "rate-limited: the relay holds as many large questions as it has memory for; try again later".into()
            }
        }
    }

    fn closed(&self, id: &SubscriptionId, reason: &str) {
        send_one(&*self.sink, |out| message::write_closed(out, id.as_str(), reason));
    }

    /// Sends the challenge for AUTH, if there is one and it was not sent yet.
    fn challenge(&self) {
        if let Some(challenge) = self.viewer.first_challenge() {
            send_one(&*self.sink, |out| message::write_auth(out, &challenge));
        }
    }

    /// Whether this peer may ask this. When the answer may depend on who asks, it is told how to say so.
    fn check_question(&self, filters: &[Filter]) -> Result<(), String> {
        if Viewer::matters_to(filters) {
            self.challenge();
        }
        self.viewer.check_question(filters)
    }

    /// A scan that passes over what this peer may not see.
    fn guarded(&self, scan: Scan) -> Scan {
        let viewer = self.viewer.clone();
        scan.visible(move |record| viewer.may_see(record))
    }

    /// Ends the subscription of this id without a word.
    fn forget(&self, id: &SubscriptionId) {
        self.end(|open| open.subscription.id == *id);
    }

    /// Ends this very subscription without a word; one that took its place meanwhile stays.
    pub fn forget_only(&self, subscription: &Arc<Subscription>) {
        self.end(|open| Arc::ptr_eq(&open.subscription, subscription));
    }

    fn end(&self, is_meant: impl Fn(&Open) -> bool) {
        let mut subscriptions = lock(&self.subscriptions);
        let Some(at) = subscriptions.iter().position(is_meant) else { return };
        let Open { subscription, number } = subscriptions.swap_remove(at);
        drop(subscriptions);
        subscription.close();
        self.core.live.leave(number);
        lock(&self.questions).waiting.retain(|question| !question.is_for(&subscription));
    }

    /// Ends a question with a reason.
    fn refuse(&self, question: Question, reason: &str) {
        match question.kind {
            Kind::Stored { subscription, .. } | Kind::Log { subscription, .. } => {
                subscription.refuse(reason);
                self.forget_only(&subscription);
            }
            Kind::Count { id, .. } | Kind::Sketch { id, .. } => self.closed(&id, reason),
        }
    }

    /// Sees to a question: at once if it is small, nothing else is asked and there is room for that, else by a reader.
    fn ask(self: &Arc<Self>, question: Question, is_small: bool) {
        let mut questions = lock(&self.questions);
        if questions.state != Turn::Idle {
            return questions.waiting.push_back(question);
        }
        questions.state = Turn::Queued;
        questions.resumed = false;
        let mut question = Some(question);
        if is_small {
            drop(questions);
            let turn = self.core.in_place.try_run(&self.spent, || match question.take() {
                Some(question) => reader::slice(&self.core, self, question, reader::IN_PLACE),
                None => (None, true),
            });
            if let Some((unfinished, room)) = turn {
                return self.end_turn(unfinished, room);
            }
            questions = lock(&self.questions);
        }
        questions.waiting.extend(question);
        self.queue();
    }

    /// What follows a turn when the sink has room.
    fn next_turn(self: &Arc<Self>, questions: &mut Questions) -> Turn {
        if questions.waiting.is_empty() {
            // An idle peer keeps no room for questions.
            questions.waiting = VecDeque::new();
            Turn::Idle
        } else {
            self.queue();
            Turn::Queued
        }
    }

    fn queue(self: &Arc<Self>) {
        let goes = match self.group.get() {
            None => Some(self.clone()),
            Some(group) => group.line.come(self.clone()),
        };
        if goes.is_some() {
            let _ = self.core.readers.send(goes);
        }
    }

    /// A reader is done with this peer for now: the next one of its group may take its place.
    pub fn leave_reader(&self) {
        let next = self.group.get().and_then(|group| group.line.next());
        if next.is_some() {
            let _ = self.core.readers.send(next);
        }
    }

    /// The next question to work on; `None` ends the turn.
    pub fn next_question(&self) -> Option<Question> {
        let mut questions = lock(&self.questions);
        questions.resumed = false;
        let next = questions.waiting.pop_front();
        if next.is_none() {
            // An idle peer keeps no room for questions.
            questions.waiting = VecDeque::new();
            questions.state = Turn::Idle;
        }
        next
    }

    /// Ends a turn: an unfinished question goes behind the few that take turns in the peer's own line, the peer to the back of
    /// everybody's. A question that holds much goes before the others: it is finished before they begin to hold anything.
    pub fn end_turn(self: &Arc<Self>, unfinished: Option<Question>, room: bool) {
        let unfinished = unfinished.and_then(|mut question| match question.hold(&self.memory) {
            Ok(bytes) => Some((question, bytes)),
            Err(shortage) => {
                self.refuse(question, &self.shortage(shortage));
                None
            }
        });
        let mut questions = lock(&self.questions);
        if let Some((question, bytes)) = unfinished
            && question.is_open()
            && !self.gone.load(Relaxed)
        {
            let line = questions.waiting.len();
            questions.waiting.insert(if bytes > LARGE { 0 } else { line.min(TAKING_TURNS - 1) }, question);
        }
        let room = room || questions.resumed;
        questions.state = if room { self.next_turn(&mut questions) } else { Turn::Paused };
    }
}
