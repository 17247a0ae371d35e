//! Accepting connections, and the life of a connection from its first byte.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::admission::Guest;
use super::capacity::{Capacity, Stage};
use super::http::{self, Upgraded};
use super::proxy;
use super::registry::Counters;
use super::session::Session;
use super::shared::Shared;
use super::socket::{Caller, Listener, Socket, Speaks};
use super::tls::{Peer, Stream};
use super::visitor::Visitor;

/// Pause after a failed `accept`, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a visitor that was refused may take to ask why.
const REFUSED_PATIENCE: Duration = Duration::from_secs(2);

/// At most one log line about failed accepts in this time.
const ACCEPT_COMPLAINT: Duration = Duration::from_secs(10);

/// What every connection is given.
#[derive(Clone)]
pub(super) struct Entrance {
    pub shared: Arc<Shared>,
    pub capacity: Capacity,
    pub stage: watch::Receiver<Stage>,
    /// Every task holds a clone.
    pub alive: mpsc::Sender<Infallible>,
}

/// Accepts connections as long as the stage allows it. Those that the kernel has already accepted for us are then let in as well.
pub(super) async fn accept(listener: Listener, entrance: Entrance) {
    let speaks = listener.speaks;
    let mut stage = entrance.stage.clone();
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage > Stage::Open) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, caller)) => entrance.admit(socket, caller, speaks),
            // The peer gave up while it waited in the backlog; nothing is wrong with us.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                if complained.is_none_or(|at| at.elapsed() > ACCEPT_COMPLAINT) {
                    complained = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections; is the limit of open files (ulimit -n) too low?");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for (socket, caller) in listener.close() {
        entrance.admit(socket, caller, speaks);
    }
}

impl Entrance {
    /// Gives a connection a place and a task, or drops it.
    fn admit(&self, socket: Socket, caller: Caller, speaks: Speaks) {
        let shared = &self.shared;
        let visitor = Visitor::new(&shared.doorman, caller);
        // Those who are refused need only an answer.
        let place = if visitor.is_refused() { self.capacity.answer() } else { self.capacity.enter() };
        let Some((place, full)) = place else {
            if !visitor.is_refused() {
                Counters::count(&shared.counters.turned_away);
            }
            tracing::debug!(?caller, "turned away at once: no room");
            return;
        };
        if full {
            Counters::count(&shared.counters.accepted);
        } else if !visitor.is_refused() {
            Counters::count(&shared.counters.turned_away);
        }
        tracing::debug!(?caller, full, "connection begins");
        // Boxed before the task is made, so that what the handshake needs is given back before the session begins, which may last
        // for days: what an async function was given it keeps room for to its end.
        let greeting = Box::pin(greet(socket, speaks, visitor.with_room(full), Arc::clone(shared), self.stage.clone()));
        let (shared, alive) = (Arc::clone(shared), self.alive.clone());
        tokio::spawn(async move {
            if let Some(Greeted { upgraded, guest, host }) = greeting.await {
                let Upgraded { stream, early, compression } = upgraded;
                let (stream, wire) = stream.part();
                let mut session = Session::new(stream, wire, &early, compression, host, guest, &shared);
                // The buffer of the handshake.
                drop(early);
                session.run().await;
            }
            drop((place, alive));
        });
    }
}

/// A connection that became a WebSocket.
struct Greeted {
    upgraded: Upgraded<Stream>,
    guest: Guest,
    /// The name that a trusted proxy vouches for, or the address the connection came to, which its peer cannot choose.
    host: Option<Box<str>>,
}

/// The beginning of a connection: the handshake of TLS where that is spoken, and one HTTP request.
async fn greet(
    mut socket: Socket,
    speaks: Speaks,
    visitor: Visitor,
    shared: Arc<Shared>,
    mut stage: watch::Receiver<Stage>,
) -> Option<Greeted> {
    socket.send_at_once().ok()?;
    let host: Option<Box<str>> = socket.local_address().map(|at| at.to_string().into());
    let visitor = Mutex::new(visitor);
    let greeting = async {
        // Who only gets a refusal keeps one of few places for answers.
        let most = if lock(&visitor).is_refused() { REFUSED_PATIENCE } else { Duration::MAX };
        let deadline = Instant::now() + shared.terms.load().patience.header.min(most);
        if lock(&visitor).speaks_proxy_protocol() {
            let told = timeout_at(deadline, proxy::read_header(&mut socket)).await.ok()?.ok()?;
            lock(&visitor).told(told);
        }
        let tls = shared.tls.as_ref();
        let (stream, leads_on) = match tls.filter(|_| speaks == Speaks::Tls) {
            // Handshakes are dear: who is shut out gets none.
            Some(_) if lock(&visitor).is_shut_out() => return None,
            Some((tls, _)) => {
                let accepted = timeout_at(deadline, Box::pin(tls.accept(socket))).await.ok()?;
                match accepted.inspect_err(|error| tracing::debug!(%error, "no handshake")).ok()? {
                    Peer::Tls(stream) => (Stream::Tls(stream), false),
                    // Somebody who began with http:// or ws://, most likely; garbage is refused as HTTP like anything else.
                    Peer::Plain(socket) => (Stream::Plain(socket), true),
                    Peer::Served => return None,
                }
            }
            None => (Stream::Plain(socket), speaks == Speaks::Redirect),
        };
        let elsewhere = tls.filter(|_| leads_on).map(|(tls, redirect)| (redirect, &**tls));
        let site = shared.site.load();
        http::serve(stream, &site, elsewhere, &visitor, host.as_deref(), deadline).await
    };
    let upgraded = tokio::select! {
        upgraded = greeting => upgraded?,
        _ = stage.wait_for(|stage| *stage == Stage::Closing) => return None,
    };
    let visitor = visitor.into_inner().unwrap_or_else(PoisonError::into_inner);
    let host = visitor.host().or(host);
    let guest = visitor.into_guest()?;
    Some(Greeted { upgraded, guest, host })
}

fn lock(visitor: &Mutex<Visitor>) -> std::sync::MutexGuard<'_, Visitor> {
    // What a panic may have left behind is still a visitor.
    visitor.lock().unwrap_or_else(PoisonError::into_inner)
}
