//! Listening sockets: binding them with words for what goes wrong, accepting, and counting who may stay.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep};

use super::http::{self, Upgraded};
use super::session::Session;
use super::shared::{Counters, Shared};

/// How many connections the kernel may hold for us until we accept them.
const BACKLOG: u32 = 1024;

/// So many connections above the limit are answered (503 to a WebSocket, `/health` as ever); further ones are dropped.
const OVERFLOW: usize = 64;

/// Pause after a failed `accept`, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// At most one log line about failed accepts in this time.
const ACCEPT_COMPLAINT: Duration = Duration::from_secs(10);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(.source))]
pub struct BindError {
    /// As configured.
    pub address: SocketAddr,
    source: io::Error,
}

fn advice(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another program, perhaps another ratite, listens there; stop it or choose another \
                                 address with --listen or listen.addresses"
            .to_owned(),
        ErrorKind::PermissionDenied => "not permitted; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE), so \
                                        choose a higher port or put a proxy in front"
            .to_owned(),
        ErrorKind::AddrNotAvailable => "this machine has no such address; use 127.0.0.1 for this machine only, \
                                        0.0.0.0 or [::] for all of its addresses"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Binds all addresses, or none. Needs a tokio runtime around it.
pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    addresses.iter().map(|&address| bind_one(address).map_err(|source| BindError { address, source })).collect()
}

/// Files the relay keeps open beside its connections: the database, listeners, standard streams, and some to spare.
const OTHER_FILES: u64 = 64;

/// Asks the system for as many open files as `connections` need; most systems start a program with 1,024 and allow it far
/// more. When they do not, a line in the log says what will happen.
pub(super) fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = connections as u64 + OVERFLOW as u64 + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.current.unwrap_or(u64::MAX);
    if allowed >= wanted {
        return;
    }
    let reachable = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    limit.current = Some(reachable);
    let granted = if setrlimit(Resource::Nofile, limit).is_ok() { reachable } else { allowed };
    if granted < wanted {
        tracing::warn!(
            "the system allows {granted} open files, fewer than listen.max_connections = {connections} needs: raise the limit \
             (`ulimit -n {wanted}`, or LimitNOFILE={wanted} in a systemd unit), or lower the setting"
        );
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for connections of the last run to leave the kernel's tables.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Who may stay: one semaphore for full members, one for those who only get an answer.
#[derive(Clone)]
pub(super) struct Doors {
    rooms: Arc<Semaphore>,
    overflow: Arc<Semaphore>,
}

impl Doors {
    /// Doors for so many connections.
    pub(super) fn new(max_connections: usize) -> Doors {
        Doors {
            rooms: Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS))),
            overflow: Arc::new(Semaphore::new(OVERFLOW)),
        }
    }

    /// A place for one connection and whether it is a full one.
    fn enter(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        match Arc::clone(&self.rooms).try_acquire_owned() {
            Ok(place) => Some((place, true)),
            Err(_) => Arc::clone(&self.overflow).try_acquire_owned().ok().map(|place| (place, false)),
        }
    }
}

/// Accepts connections until `stop` says so. Every task holds a clone of `alive`.
pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    doors: Doors,
    mut stop: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
) {
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The peer gave up while it waited in the backlog; nothing is wrong with us.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => continue,
            Err(error) => {
                if complained.is_none_or(|at| at.elapsed() > ACCEPT_COMPLAINT) {
                    complained = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections; is the limit of open files (ulimit -n) too low?");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((place, full)) = doors.enter() else {
            Counters::count(&shared.counters.turned_away);
            tracing::debug!(%peer, "turned away at once: too many connections");
            continue;
        };
        if full {
            Counters::count(&shared.counters.accepted);
        } else {
            Counters::count(&shared.counters.turned_away);
        }
        tracing::debug!(%peer, full, "connection begins");
        let task = connection(stream, full, Arc::clone(&shared), stop.clone());
        let alive = alive.clone();
        tokio::spawn(async move {
            task.await;
            drop((place, alive));
        });
    }
}

/// The whole life of a connection: one HTTP request, and when that was an upgrade, a WebSocket session.
async fn connection(stream: TcpStream, room: bool, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    // Answers leave when they are written; the outbox does the batching.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // The address the connection came to, which its peer cannot choose.
    let host = stream.local_addr().ok().map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()).to_string().into());
    // Boxed, so that what HTTP needs is given back before the session, which may last for days, begins.
    let upgraded = Box::pin(async {
        tokio::select! {
            upgraded = http::serve(stream, &shared.site, room, shared.patience.header) => upgraded,
            _ = stop.wait_for(|stop| *stop) => None,
        }
    })
    .await;
    drop(stop);
    let Some(Upgraded { stream, early, compression }) = upgraded else { return };
    let mut session = Session::new(stream, &early, compression, host, &shared);
    // The buffer of the handshake.
    drop(early);
    session.run().await;
}
