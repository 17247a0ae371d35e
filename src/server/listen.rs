//! Accepting connections, and the life of a connection from its first byte.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::admission::Guest;
use super::doors::{Doors, Stage};
use super::http::{self, Upgraded};
use super::proxy;
use super::registry::Counters;
use super::session::Session;
use super::shared::Shared;
use super::socket::{Caller, Listener, Socket};
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
    pub doors: Doors,
    pub stage: watch::Receiver<Stage>,
    /// Every task holds a clone.
    pub alive: mpsc::Sender<Infallible>,
}

/// Accepts connections as long as the stage allows it. Those that the kernel has already accepted for us are then let in as well.
pub(super) async fn accept(listener: Listener, entrance: Entrance) {
    let mut stage = entrance.stage.clone();
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage > Stage::Open) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, caller)) => entrance.admit(socket, caller),
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
        entrance.admit(socket, caller);
    }
}

impl Entrance {
    /// Gives a connection a place and a task, or drops it.
    fn admit(&self, socket: Socket, caller: Caller) {
        let shared = &self.shared;
        let visitor = Visitor::new(&shared.doorman, caller);
        // Those who are refused need only an answer.
        let place = if visitor.is_refused() { self.doors.answer() } else { self.doors.enter() };
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
        let greeting = Box::pin(greet(socket, visitor.with_room(full), Arc::clone(shared), self.stage.clone()));
        let (shared, alive) = (Arc::clone(shared), self.alive.clone());
        tokio::spawn(async move {
            if let Some(Greeted { upgraded, guest, host }) = greeting.await {
                let Upgraded { stream, early, compression } = upgraded;
                let mut session = Session::new(stream, &early, compression, host, guest, &shared);
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
    upgraded: Upgraded<Socket>,
    guest: Guest,
    /// The address the connection came to, which its peer cannot choose.
    host: Option<Box<str>>,
}

/// The beginning of a connection: one HTTP request.
async fn greet(
    mut socket: Socket,
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
        let deadline = Instant::now() + shared.patience.header.min(most);
        if lock(&visitor).speaks_proxy_protocol() {
            let told = timeout_at(deadline, proxy::read_header(&mut socket)).await.ok()?.ok()?;
            lock(&visitor).told(told);
        }
        http::serve(socket, &shared.site, &visitor, host.as_deref(), deadline).await
    };
    let upgraded = tokio::select! {
        upgraded = greeting => upgraded?,
        _ = stage.wait_for(|stage| *stage == Stage::Closing) => return None,
    };
    let guest = visitor.into_inner().unwrap_or_else(PoisonError::into_inner).into_guest()?;
    Some(Greeted { upgraded, guest, host })
}

fn lock(visitor: &Mutex<Visitor>) -> std::sync::MutexGuard<'_, Visitor> {
    // What a panic may have left behind is still a visitor.
    visitor.lock().unwrap_or_else(PoisonError::into_inner)
}
