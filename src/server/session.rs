//! The life of one WebSocket: messages in, answers out, pings in between, and every way it can end.
//!
//! One task per connection, and one place where it sleeps: [`Session::poll_turn`]. It wakes when the peer sends, when
//! the kernel takes more, when the core puts something into the outbox, when a ping is due, or when the server goes
//! down. Everything it keeps lies in the session, so a turn may be dropped at any moment.
//!
//! Backpressure: while an event waits for room in the core's queue, and while too many answers wait for the peer,
//! nothing more is read. Writing and pinging go on.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fastwebsockets::{CloseCode, OpCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::admission::{Excess, Guest, Resource};
use super::batch::Batch;
use super::deflate::Agreement;
use super::frame::{Decoder, Incoming, Violation, write_close, write_control};
use super::outbox::{Outbox, Phase};
use super::registry::{Counters, Ticket};
use super::shared::Shared;
use super::stream::{hang_up, poll_read_with};
use super::wire::Wire;
use crate::nostr::message::{write_closed, write_notice, write_ok};
use crate::nostr::{ClientMessage, Event, EventId, Rejected, SubscriptionId};
use crate::relay::{Admission, Client, Outcome, Relay, Verb};

/// So many useless messages in a row end the connection.
const MOST_STRIKES: u32 = 100;

/// How long a peer may take to read what was left for it and to hang up.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);

/// The same while the server goes down.
const LAST_WORDS_AT_SHUTDOWN: Duration = Duration::from_millis(700);

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The stream broke or the peer stopped sending without a close frame.
    Gone,
    /// A ping stayed unanswered.
    Silent,
    /// The peer sent a close frame.
    Closed(Option<CloseCode>),
    /// The peer broke the protocol or our patience.
    Violation(Violation),
    /// The peer's address goes on in spite of its limits.
    OverLimits,
    /// The peer reads more slowly than it asks.
    TooSlow,
    /// The server goes down.
    ShuttingDown,
    /// Another relay takes over.
    HandedOver,
}

/// A peer that sends large messages without pause gives way to others after this long: its questions are read and entered here. The
/// runtime's own bound counts reads, whatever they cost.
const LONGEST_TURN: Duration = Duration::from_millis(2);

/// What a turn was left for.
enum Turn {
    /// An event waits for room in the core; so many bytes.
    Admit(Box<Event>, usize),
    End(End),
}

/// A connection's state. Thousands of them sleep at any time: what only a few need for a moment is boxed.
pub(super) struct Session<'a, S> {
    io: S,
    shared: &'a Shared,
    decoder: Decoder,
    /// Bytes that were received but not looked at: behind the handshake, or behind an event that waits for room.
    unread: Vec<u8>,
    batch: Batch,
    /// The kernel took no more bytes the last time. When it does again, the peer has read: a sign of life.
    blocked: bool,
    /// Nothing is read because too much waits to be written.
    paused: bool,
    /// Nothing is read ever again: the server goes down.
    draining: bool,
    last_heard: Instant,
    ping_sent: Option<Instant>,
    peer: Peer,
    _ticket: Ticket,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    /// Begins a session of `guest`. `wire` is for its outbox, where others than the session can write; `early` came behind the handshake, in
    /// which `compression` was agreed; `host` is where the peer reached us, see [`Relay::connect`].
    pub(super) fn new(
        io: S,
        wire: Option<Wire>,
        early: &[u8],
        compression: Option<Agreement>,
        host: Option<Box<str>>,
        guest: Guest,
        shared: &'a Shared,
    ) -> Session<'a, S> {
        let bounds = shared.terms.load().bounds;
        let outbox = Arc::new(Outbox::new(bounds.outbox, compression, wire));
        let ticket = shared.registry.enter(Arc::clone(&outbox), guest.address());
        let client = shared.relay.connect(Arc::clone(&outbox) as _, host);
        if let Some(group) = guest.group() {
            client.join(group);
        }
        Session {
            io,
            shared,
            decoder: Decoder::new(bounds.message, compression.is_some()),
            unread: early.to_vec(),
            batch: Batch::default(),
            blocked: false,
            paused: false,
            draining: false,
            last_heard: Instant::now(),
            ping_sent: None,
            peer: Peer { relay: shared.relay.clone(), client: Some(client), outbox, guest, strikes: 0 },
            _ticket: ticket,
        }
    }

    /// Serves the WebSocket until it ends.
    pub(super) async fn run(&mut self) {
        let mut timer = pin!(sleep(self.shared.terms.load().patience.ping_interval));
        let end = loop {
            match poll_fn(|cx| self.poll_turn(cx, timer.as_mut(), true)).await {
                Turn::End(end) => break end,
                Turn::Admit(event, bytes) => match Box::pin(self.admitted(bytes, timer.as_mut())).await {
                    Ok(Some(admission)) => {
                        if let Some(Turn::End(end)) = self.peer.publish(*event, admission) {
                            break end;
                        }
                    }
                    Ok(None) => self.peer.refuse(&event, "error: the relay is shutting down"),
                    Err(end) => break end,
                },
            }
        };
        tracing::debug!(?end, "connection ends");
        let counters = &self.shared.counters;
        match end {
            End::TooSlow => {
                Counters::count(&counters.too_slow);
                tracing::debug!(address = ?self.peer.guest.address(), "reads too slowly");
                tracing::info!(
                    bound = self.peer.outbox.bound(),
                    "disconnected: reads too slowly, more bytes wait for it than may"
                );
            }
            End::Silent => Counters::count(&counters.silent),
            End::Violation(_) => Counters::count(&counters.violations),
            End::OverLimits => Counters::count(&counters.over_limits),
            End::Gone | End::Closed(_) | End::ShuttingDown | End::HandedOver => {}
        }
        Box::pin(self.leave(end)).await;
    }

    /// Waits for room in the core while all but reading goes on. `None` when the server goes down meanwhile.
    async fn admitted(&mut self, bytes: usize, mut timer: Pin<&mut Sleep>) -> Result<Option<Admission>, End> {
        let mut admit = pin!(self.shared.relay.admit(bytes));
        poll_fn(|cx| {
            if let Poll::Ready(admission) = admit.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(admission)));
            }
            if let Poll::Ready(Turn::End(end)) = self.poll_turn(cx, timer.as_mut(), false) {
                return Poll::Ready(Err(end));
            }
            if self.draining { Poll::Ready(Ok(None)) } else { Poll::Pending }
        })
        .await
    }

    /// Reads, writes and pings until there is nothing left to do.
    fn poll_turn(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, reading: bool) -> Poll<Turn> {
        let began = Instant::now();
        loop {
            // One read, then its answers, then the next: a peer that sends without pause still gets answers.
            let reading = reading && !self.draining && !self.paused;
            let heard = reading
                && match self.poll_incoming(cx) {
                    Poll::Ready(Some(turn)) => return Poll::Ready(turn),
                    Poll::Ready(None) => true,
                    Poll::Pending => false,
                };

            match self.poll_outgoing(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::End(End::Gone)),
                Poll::Ready(Ok(())) => self.blocked = false,
                Poll::Pending => self.blocked = true,
            }

            if self.poll_liveness(cx, timer.as_mut()).is_ready() {
                return Poll::Ready(Turn::End(End::Silent));
            }

            let status = self.peer.outbox.poll_status(cx);
            if status.overflowed {
                return Poll::Ready(Turn::End(End::TooSlow));
            }
            match status.phase {
                Phase::Serving => {}
                Phase::Draining => self.draining = true,
                Phase::Closing if self.shared.hands_over.load(Ordering::Relaxed) => {
                    return Poll::Ready(Turn::End(End::HandedOver));
                }
                Phase::Closing if self.peer.guest.is_blocked() => {
                    return Poll::Ready(Turn::End(End::Violation(Violation {
                        code: CloseCode::Policy,
                        reason: "your address is blocked here",
                    })));
                }
                Phase::Closing => return Poll::Ready(Turn::End(End::ShuttingDown)),
            }
            if status.resume
                && let Some(client) = &self.peer.client
            {
                client.resume();
            }
            let was_paused = std::mem::replace(&mut self.paused, status.bytes > self.peer.outbox.pause_mark());

            // Sleep only when each thing that could go on has promised to wake the task: the socket to read from
            // and to write to, the timer, and the outbox when it is empty.
            let more_to_read = heard || (was_paused && !self.paused);
            let more_to_write = status.queued && !self.blocked;
            if !more_to_read && !more_to_write {
                return Poll::Pending;
            }
            if began.elapsed() > LONGEST_TURN {
                // The runtime puts this task behind all that are ready.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Reads once and handles what came. `None` when everything was handled.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        let Session { io, decoder, unread, peer, last_heard, ping_sent, .. } = self;
        if !unread.is_empty() {
            peer.outbox.attend();
            let mut bytes = std::mem::take(unread);
            return Poll::Ready(peer.digest(cx, decoder, &mut bytes, unread));
        }
        let turn = ready!(poll_read_with(io, cx, |cx, bytes| {
            if bytes.is_empty() {
                return Some(Turn::End(End::Gone));
            }
            *last_heard = Instant::now();
            *ping_sent = None;
            peer.outbox.attend();
            peer.digest(cx, decoder, bytes, unread)
        }));
        Poll::Ready(turn.unwrap_or(Some(Turn::End(End::Gone))))
    }

    /// Writes what waits.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let Session { io, batch, peer, blocked, last_heard, ping_sent, .. } = self;
        peer.outbox.poll_write(batch, io, cx, &mut || {
            if std::mem::take(blocked) {
                *last_heard = Instant::now();
                *ping_sent = None;
            }
        })
    }

    /// Sends the ping that is due. Ready when the peer is to be given up.
    fn poll_liveness(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        // The timer is not moved whenever something is heard; it rings at the earliest moment that could matter and
        // then looks when it really is due.
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let patience = self.shared.terms.load().patience;
            let due = match self.ping_sent {
                Some(sent) => sent + patience.ping_timeout,
                None => self.last_heard + patience.ping_interval,
            };
            if now < due {
                timer.as_mut().reset(due);
            } else if self.ping_sent.is_some() {
                return Poll::Ready(());
            } else {
                self.peer.outbox.push_urgent(|buf| write_control(buf, OpCode::Ping, b""));
                self.ping_sent = Some(now);
                timer.as_mut().reset(now + patience.ping_timeout);
            }
        }
        Poll::Pending
    }

    /// Says goodbye as the way of the end asks for, in bounded time.
    async fn leave(&mut self, end: End) {
        // Subscriptions end here. Events that were accepted go on without us.
        self.peer.client = None;
        let outbox = &self.peer.outbox;
        let (flush, code, reason) = match end {
            End::Gone | End::Silent => return outbox.give_up(),
            // The peer does not want the rest.
            End::Closed(code) => (false, code, ""),
            End::TooSlow => (false, Some(CloseCode::Policy), "too slow: answers and events pile up unread"),
            End::OverLimits => {
                (true, Some(CloseCode::Policy), "rate-limited: your address goes on in spite of its limits")
            }
            End::Violation(violation) => (true, Some(violation.code), violation.reason),
            End::ShuttingDown => (true, Some(CloseCode::Away), "the relay is shutting down"),
            End::HandedOver => (true, Some(CloseCode::Restart), "the relay is being replaced, connect again"),
        };
        let limit = if matches!(end, End::ShuttingDown) { LAST_WORDS_AT_SHUTDOWN } else { LAST_WORDS };
        outbox.finish(flush, |buf| write_close(buf, code, reason));
        let _ = timeout(limit, async {
            let written = poll_fn(|cx| outbox.poll_write(&mut self.batch, &mut self.io, cx, &mut || ())).await;
            if written.is_ok() {
                hang_up(&mut self.io).await;
            }
        })
        .await;
        outbox.give_up();
    }
}

/// The peer as the protocol sees it: its place in the core, its outbox, its conduct.
struct Peer {
    relay: Relay,
    /// `None` when the session has ended.
    client: Option<Client>,
    outbox: Arc<Outbox>,
    /// Its share of what its address may do.
    guest: Guest,
    /// Useless messages since the last good one.
    strikes: u32,
}

impl Peer {
    /// Handles all complete messages in `bytes`. When one makes the session leave its turn, what lies behind it is
    /// kept in `unread`.
    fn digest(
        &mut self,
        cx: &mut Context<'_>,
        decoder: &mut Decoder,
        bytes: &mut [u8],
        unread: &mut Vec<u8>,
    ) -> Option<Turn> {
        let mut at = 0;
        loop {
            let turn = match decoder.next(bytes, &mut at) {
                Ok(Some(incoming)) => self.handle(cx, incoming),
                Ok(None) => return None,
                Err(violation) => Some(Turn::End(End::Violation(violation))),
            };
            if turn.is_some() {
                *unread = bytes[at..].to_vec();
                return turn;
            }
        }
    }

    fn handle(&mut self, cx: &mut Context<'_>, incoming: Incoming<'_>) -> Option<Turn> {
        match incoming {
            Incoming::Text(text) => self.handle_text(cx, text),
            Incoming::Binary(_) => {
                self.relay.figures().received.add(Verb::Invalid, 1);
                self.notice("invalid: messages must be text frames, this one was binary");
                self.strike()
            }
            Incoming::Ping(payload) => {
                self.outbox.push_urgent(|buf| write_control(buf, OpCode::Pong, payload));
                None
            }
            Incoming::Pong => None,
            Incoming::Close(code) => Some(Turn::End(End::Closed(code))),
        }
    }

    fn handle_text(&mut self, cx: &mut Context<'_>, text: &str) -> Option<Turn> {
        let message = match ClientMessage::parse(text.as_bytes()) {
            Ok(message) => message,
            Err(rejected) => {
                let figures = self.relay.figures();
                figures.received.add(Verb::Invalid, 1);
                figures.sent.add(answer_to(&rejected), 1);
                self.outbox.push_text(|buf| rejected.write(buf));
                return match self.guest.charge(None, text.len(), std::time::Instant::now()) {
                    Err(Excess { enough: true, .. }) => Some(Turn::End(End::OverLimits)),
                    _ => self.strike(),
                };
            }
        };
        self.relay.figures().received.add(verb(&message), 1);
        if let Err(excess) = self.guest.charge(resource(&message), text.len(), std::time::Instant::now()) {
            return self.limit(message, excess);
        }
        let client = self.client.as_ref()?;
        if let ClientMessage::Auth(event) = &message
            && let Err(reason) = client.authenticate(event)
        {
            self.ok(&event.id, false, &reason);
            return self.strike();
        }
        self.strikes = 0;
        match message {
            ClientMessage::Event(event) => {
                let admit = pin!(self.relay.admit(text.len()));
                match admit.poll(cx) {
                    Poll::Ready(admission) => return self.publish(*event, admission),
                    Poll::Pending => return Some(Turn::Admit(event, text.len())),
                }
            }
            ClientMessage::Req { id, filters } => client.subscribe(id, filters),
            ClientMessage::Count { id, filters } => client.count(id, filters),
            ClientMessage::Close(id) => client.unsubscribe(&id),
            ClientMessage::Auth(event) => self.ok(&event.id, true, ""),
        }
        None
    }

    /// Answers a message that its address may not send now.
    fn limit(&self, message: ClientMessage, excess: Excess) -> Option<Turn> {
        let reason = excess.reason();
        match message {
            ClientMessage::Event(event) => self.refuse(&event, &reason),
            ClientMessage::Req { id, .. } => {
                // CLOSED ends what is open under this id.
                self.client.as_ref()?.unsubscribe(&id);
                self.closed(&id, &reason);
            }
            ClientMessage::Count { id, .. } => self.closed(&id, &reason),
            // Asks for less, so it is done all the same.
            ClientMessage::Close(id) => self.client.as_ref()?.unsubscribe(&id),
            ClientMessage::Auth(event) => self.ok(&event.id, false, &reason),
        }
        excess.enough.then_some(Turn::End(End::OverLimits))
    }

    /// Hands an event to the core; its OK comes into the outbox when the core is done with it.
    fn publish(&self, event: Event, admission: Admission) -> Option<Turn> {
        let charge = match self.guest.charge_author(&event.pubkey, event.kind, std::time::Instant::now()) {
            Ok(charge) => charge,
            Err(excess) => return self.limit(ClientMessage::Event(Box::new(event)), excess),
        };
        // Without a client the session has ended, and nobody waits for the answer.
        let client = self.client.as_ref()?;
        let (outbox, relay) = (Arc::clone(&self.outbox), self.relay.clone());
        let id = event.id;
        client.publish(event, admission, move |outcome: Outcome| {
            // What was not its author's, or was nothing new, does not count.
            if !matches!(outcome, Outcome::Stored | Outcome::Delivered | Outcome::Unheard | Outcome::Granted(_)) {
                charge.take_back();
            }
            relay.figures().sent.add(Verb::Ok, 1);
            outbox.push_text(|buf| write_ok(buf, &id, outcome.ok(), &outcome.message()));
        });
        None
    }

    /// Answers an event that does not even reach the core.
    fn refuse(&self, event: &Event, reason: &str) {
        self.relay.figures().events.add(event.kind, &Outcome::Refused(reason.to_owned()));
        self.ok(&event.id, false, reason);
    }

    fn ok(&self, id: &EventId, ok: bool, reason: &str) {
        self.relay.figures().sent.add(Verb::Ok, 1);
        self.outbox.push_text(|buf| write_ok(buf, id, ok, reason));
    }

    fn closed(&self, id: &SubscriptionId, reason: &str) {
        self.relay.figures().sent.add(Verb::Closed, 1);
        self.outbox.push_text(|buf| write_closed(buf, id.as_str(), reason));
    }

    fn notice(&self, text: &str) {
        self.relay.figures().sent.add(Verb::Notice, 1);
        self.outbox.push_text(|buf| write_notice(buf, text));
    }

    /// Counts a useless message.
    fn strike(&mut self) -> Option<Turn> {
        self.strikes += 1;
        (self.strikes > MOST_STRIKES).then_some(Turn::End(End::Violation(Violation {
            code: CloseCode::Policy,
            reason: "too many messages that are of no use",
        })))
    }
}

/// The verb of a message.
fn verb(message: &ClientMessage) -> Verb {
    match message {
        ClientMessage::Event(_) => Verb::Event,
        ClientMessage::Req { .. } => Verb::Req,
        ClientMessage::Count { .. } => Verb::Count,
        ClientMessage::Close(_) => Verb::Close,
        ClientMessage::Auth(_) => Verb::Auth,
    }
}

/// The verb of the answer to what is no message.
fn answer_to(rejected: &Rejected) -> Verb {
    match rejected {
        Rejected::Notice(_) => Verb::Notice,
        Rejected::Ok { .. } => Verb::Ok,
        Rejected::Closed { .. } => Verb::Closed,
    }
}

/// What a message is counted as, beside a message.
fn resource(message: &ClientMessage) -> Option<Resource> {
    match message {
        // AUTH is an event too: checking it costs a signature.
        ClientMessage::Event(_) | ClientMessage::Auth(_) => Some(Resource::Events),
        ClientMessage::Req { .. } => Some(Resource::Reqs),
        ClientMessage::Count { .. } => Some(Resource::Counts),
        ClientMessage::Close(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        // With its timer and its entry in the runtime this is what a connection costs in the server. Before growing it,
        // think of ten thousand of them.
        let size = size_of::<Session<'_, super::super::tls::Stream>>();
        assert!(size <= 400, "{size} bytes");
    }
}
