//! A peer as the readers know it: its subscriptions, the questions it waits for, and whose turn it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::figures::Verb;
use super::line::Line;
use super::live::Live;
use super::memory::{Account, Lease, Pool, Shortage};
use super::policy::Viewer;
use super::policy::membership::asks_for_invite_only;
use super::question::{Kind, Question};
use super::subscription::{Owner, Sink, Subscription, send_one};
use super::{Core, lock, threads};
use crate::nostr::{Filter, SubscriptionId, message};
use crate::store::{Order, Scan, Seq};

/// What a question takes beside its filters: about that much.
const SUBSCRIPTION_BYTES: usize = 768;

/// So many questions of one peer are worked on by turns. The others hold nothing but their filters.
const TAKING_TURNS: usize = 8;

/// A scan that holds more than this between two slices has the peer's turns to itself.
const LARGE: usize = 256 << 10;

/// Peers that share bounds: however many they are, no more of them are with the readers, or in the readers' queue, than there are
/// readers, and they take no more than a part of the memory for questions. A server makes one for the connections of each address.
pub struct Group {
    line: Line<Arc<Peer>>,
    memory: OnceLock<Arc<Pool>>,
}

impl Default for Group {
    fn default() -> Group {
        Group { line: Line::new(threads()), memory: OnceLock::new() }
    }
}

/// The shared part of a client: readers hold it while they work for it.
pub(super) struct Peer {
    pub core: Arc<Core>,
    pub sink: Arc<dyn Sink>,
    /// Who the peer has proved to be.
    pub viewer: Arc<Viewer>,
    /// Few enough to look through one by one.
    subscriptions: Mutex<Vec<Open>>,
    questions: Mutex<Questions>,
    memory: Arc<Account>,
    group: OnceLock<Arc<Group>>,
    gone: AtomicBool,
    /// What was answered in place for this peer: see [`super::reader::InPlace::try_run`].
    pub spent: AtomicU64,
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

impl Owner for Peer {
    fn read_log(self: Arc<Self>, subscription: Arc<Subscription>, from: Seq) {
        self.ask(Question::log(subscription, from));
    }

    fn note_closed(&self) {
        self.core.figures.sent.add(Verb::Closed, 1);
    }
}

/// What the filters of a question take, and the question itself.
fn question_bytes(filters: &[Filter]) -> usize {
    SUBSCRIPTION_BYTES + filters.iter().map(Filter::memory).sum::<usize>()
}

impl Peer {
    pub fn new(core: Arc<Core>, sink: Arc<dyn Sink>, host: Option<Box<str>>) -> Arc<Peer> {
        core.clients.fetch_add(1, Relaxed);
        let settings = core.settings();
        let policy = &settings.policy;
        let viewer = Arc::new(Viewer::new(policy.auth, policy.guard_private, host, core.moderation.clone()));
        Arc::new(Peer {
            memory: core.memory.account(),
            core,
            sink,
            viewer,
            subscriptions: Mutex::new(Vec::new()),
            questions: Mutex::new(Questions { waiting: VecDeque::new(), state: Turn::Idle, resumed: false }),
            group: OnceLock::new(),
            gone: AtomicBool::new(false),
            spent: AtomicU64::new(0),
        })
    }

    /// Has this peer share the bounds of a group.
    pub fn join(&self, group: Arc<Group>) {
        self.memory.join(group.memory.get_or_init(|| self.core.memory.part()).clone());
        let _ = self.group.set(group);
    }

    /// The peer is gone: its subscriptions and questions end.
    pub fn leave(&self) {
        self.gone.store(true, Relaxed);
        lock(&self.questions).waiting.clear();
        let subscriptions = std::mem::take(&mut *lock(&self.subscriptions));
        for Open { subscription, number } in &subscriptions {
            subscription.close();
            self.core.live.leave(*number);
        }
        self.core.clients.fetch_sub(1, Relaxed);
    }

    /// Subscriptions open.
    pub fn subscriptions(&self) -> usize {
        lock(&self.subscriptions).len()
    }

    /// Questions that wait.
    pub fn waiting(&self) -> usize {
        lock(&self.questions).waiting.len()
    }

    /// Opens a subscription. Returns the question for its stored events, or the reason of a CLOSED.
    pub fn open(self: &Arc<Self>, id: &SubscriptionId, filters: Arc<[Filter]>) -> Result<Question, String> {
        let most = self.core.settings().limits.max_subscriptions;
        let mut subscriptions = lock(&self.subscriptions);
        if subscriptions.len() >= most {
            return Err(format!("blocked: {most} subscriptions are open, this relay allows no more"));
        }
        let live = &self.core.live;
        let fields = live.fields(&filters);
        let bytes = question_bytes(&filters) + fields.len() * Live::FIELD_BYTES;
        let memory = self.memory.lease(bytes).map_err(|shortage| self.shortage(shortage))?;
        let owner: Weak<Peer> = Arc::downgrade(self);
        let subscription = Arc::new(Subscription::new(
            id.clone(),
            filters.clone(),
            self.viewer.clone(),
            owner,
            self.sink.clone(),
            self.core.settings().waiting_bytes,
            memory,
        ));
        let number = live.enter(&subscription, &fields);
        subscriptions.push(Open { subscription: subscription.clone(), number });
        Ok(Question::stored(subscription, self.guarded(Scan::snapshot(filters, Order::NewestFirst))))
    }

    /// Memory for a question with these filters, or the reason of a CLOSED.
    pub fn lease(&self, filters: &[Filter]) -> Result<Lease, String> {
        self.memory.lease(question_bytes(filters)).map_err(|shortage| self.shortage(shortage))
    }

    /// Why a question finds no memory, as the reason of a CLOSED.
    fn shortage(&self, shortage: Shortage) -> String {
        match shortage {
            Shortage::Peer => format!(
                "blocked: the filters of one connection may take {} bytes here; close subscriptions or ask for fewer values",
                self.core.settings().limits.max_filter_bytes
            ),
            Shortage::Group => {
                "rate-limited: the connections of your address hold as many large questions as one address may; close some".into()
            }
            Shortage::Everybody => {
                self.core.tell_of_shortage();
                "rate-limited: the relay holds as many large questions as it has memory for; try again later".into()
            }
        }
    }

    pub fn closed(&self, id: &SubscriptionId, reason: &str) {
        self.note_closed();
        send_one(&*self.sink, |out| message::write_closed(out, id.as_str(), reason));
    }

    /// Sends the challenge for AUTH, if there is one and it was not sent yet.
    pub fn challenge(&self) {
        if let Some(challenge) = self.viewer.first_challenge() {
            self.core.figures.sent.add(Verb::Auth, 1);
            send_one(&*self.sink, |out| message::write_auth(out, &challenge));
        }
    }

    /// Whether this peer may ask this. When the answer may depend on who asks, it is told how to say so.
    pub fn check_question(&self, filters: &[Filter]) -> Result<(), String> {
        let gate = self.core.moderation.gate();
        let for_members = gate.restricts_reads && !asks_for_invite_only(filters);
        if for_members || gate.enabled && asks_for_invite_only(filters) || Viewer::matters_to(filters) {
            self.challenge();
        }
        if for_members {
            self.viewer.check_member("read")?;
        }
        self.viewer.check_question(filters)
    }

    /// A scan that passes over what this peer may not see.
    pub fn guarded(&self, scan: Scan) -> Scan {
        let viewer = self.viewer.clone();
        scan.visible(move |record| viewer.may_see(record))
    }

    /// Ends the subscription of this id without a word.
    pub fn forget(&self, id: &SubscriptionId) {
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
    pub fn refuse(&self, question: Question, reason: &str) {
        match question.kind {
            Kind::Stored { subscription, .. } | Kind::Log { subscription, .. } => {
                subscription.refuse(reason);
                self.forget_only(&subscription);
            }
            Kind::Count { id, .. } | Kind::Sketch { id, .. } => self.closed(&id, reason),
        }
    }

    /// Hands a question to the readers.
    pub fn ask(self: &Arc<Self>, question: Question) {
        let mut questions = lock(&self.questions);
        questions.waiting.push_back(question);
        if questions.state == Turn::Idle {
            questions.state = Turn::Queued;
            self.queue();
        }
    }

    /// Claims a turn for whoever brings a question, if nothing else is asked and there is room: it ends with [`Peer::end_turn`], or with
    /// [`Peer::give_back`].
    pub fn claim_turn(&self) -> bool {
        let mut questions = lock(&self.questions);
        let claimed = questions.state == Turn::Idle;
        if claimed {
            questions.state = Turn::Queued;
            questions.resumed = false;
        }
        claimed
    }

    /// Gives a claimed turn to the readers, with its question.
    pub fn give_back(self: &Arc<Self>, question: Option<Question>) {
        let mut questions = lock(&self.questions);
        questions.waiting.extend(question);
        self.queue();
    }

    /// The sink has room again: stored results flow on.
    pub fn resume(self: &Arc<Self>) {
        let mut questions = lock(&self.questions);
        if questions.state == Turn::Paused {
            questions.state = self.next_turn(&mut questions);
        } else {
            questions.resumed = true;
        }
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

    /// Whether others of its group wait until it has left its reader.
    pub fn holds_up_others(&self) -> bool {
        self.group.get().is_some_and(|group| group.line.is_held_up())
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
    /// everybody's, or on to its next turn at once if whoever works for it may `stay`: then true is returned, and the turn is claimed. A question
    /// that holds much goes before the others: it is finished before they begin to hold anything.
    pub fn end_turn(self: &Arc<Self>, unfinished: Option<Question>, room: bool, stay: bool) -> bool {
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
        let stays = room && stay && !questions.waiting.is_empty();
        if !stays {
            questions.state = if room { self.next_turn(&mut questions) } else { Turn::Paused };
        }
        stays
    }
}
