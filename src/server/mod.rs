//! Sockets: HTTP, WebSocket frames, sessions, pages.
//!
//! | file | what |
//! |---|---|
//! | `bind` | binds what is configured; sockets of systemd; the limit of open files |
//! | `socket` | TCP and Unix sockets as one |
//! | `listen` | accepts, and leads each connection through its life |
//! | `capacity` | how many connections may stay, and whether new ones are let in |
//! | `neighbours` | other relays over the same data, and handing over to them |
//! | `links` | ephemeral events between them |
//! | `successor` | starting the relay that takes over |
//! | `service` | what the service manager is told |
//! | `visit` | a visit to a relay from outside, for those who look for what is wrong |
//! | `visitor` | who connected, and whether it may come in |
//! | `proxy` | the client's address behind a proxy |
//! | `admission` | what one address and one author may do |
//! | `http` | the one request of a connection: upgrade, NIP-11, landing page, `/health` |
//! | `redirect` | plain HTTP where TLS is spoken elsewhere |
//! | `names` | names of people at this relay (NIP-05) |
//! | `manage` | the management API (NIP-86) |
//! | `nip11`, `pages` | the information document and the landing page |
//! | `answers` | answers that several doors give |
//! | `control` | the operator's doors: figures, on an address of their own and on a socket in the data folder |
//! | `metrics` | the figures for Prometheus |
//! | `monitor`, `instruments`, `health` | what is known of a running server, where it is found, and whether it is well |
//! | `reload` | reading the configuration again |
//! | `session` | the life of one WebSocket |
//! | `frame` | WebSocket frames, without I/O |
//! | `deflate` | permessage-deflate: what is agreed, compressing and inflating |
//! | `batch` | messages in the order in which they leave |
//! | `outbox` | what waits to be written to one connection |
//! | `wire` | a plain connection to which two may write |
//! | `stream` | reading without owning a buffer, hanging up |
//! | `shared`, `registry` | what all connections have in common; who is connected |
//! | `tls` | TLS: the relay's certificate, and handshakes |
//! | `signals` | the signals that end the relay |
//!
//! A connection is one task. It never blocks: events and questions go to the core, whose threads put their answers
//! into the connection's outbox.

pub mod admission;
mod answers;
mod batch;
mod bind;
mod capacity;
mod control;
mod deflate;
mod frame;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/sockets.rs"]
pub(crate) mod fuzz;
mod health;
mod http;
mod instruments;
mod links;
mod listen;
mod manage;
mod metrics;
mod monitor;
mod names;
mod neighbours;
mod nip11;
mod outbox;
mod pages;
mod proxy;
mod redirect;
mod registry;
mod reload;
mod service;
mod session;
mod shared;
mod signals;
mod socket;
mod stream;
mod successor;
mod tls;
pub mod visit;
mod visitor;
mod wire;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

pub use bind::BindError;
pub use neighbours::{Neighbour, neighbours};
pub use reload::{Reloaded, Source};
pub use signals::{SAME_WISH, hangup_is_ignored};
pub use successor::Successor;
pub use tls::{CertificateError, CertificateFault, CertificateState, Handshakes, inspect_certificate};

use crate::config::{Address, Config};
use crate::relay::{Relay, RelayError, Settings, Swap};
use crate::store::{Store, StoreError, copy};
use admission::Limiter;
use answers::Token;
use capacity::{Capacity, OVERFLOW, Stage};
use control::Desk;
use http::Site;
use instruments::Instruments;
use listen::Entrance;
use manage::Memory;
use monitor::Monitor;
use neighbours::Place;
use outbox::Phase;
use proxy::Proxies;
use redirect::Redirect;
use registry::{Counters, Registry};
use reload::{Apply, AskReload};
use service::Service;
use session::LAST_WORDS;
use shared::{Shared, Terms};
use signals::{Signals, Wish};
use socket::{Listener, Speaks};
use successor::Passed;
use tls::Tls;
use visitor::Doorman;

/// How long a shutdown waits for accepted events to be committed and answered.
const DRAIN: Duration = Duration::from_millis(3500);

/// How long it then waits for the answers to be read and the connections to close. Together with [`DRAIN`] this stays
/// below five seconds.
const GOODBYE: Duration = Duration::from_millis(1000);

/// How long a client that is sent away may wait for the answers to what it sent. No longer than a commit takes.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Stack of a runtime thread. Nothing on it recurses; only pages that are touched count.
const THREAD_STACK: usize = 1024 * 1024;

/// Why the relay could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address is taken or not permitted.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The core cannot start.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The configuration holds something that no HTTP header or JSON document can.
    #[error("cannot make the relay's pages from its configuration: {0}")]
    Pages(Box<dyn std::error::Error + Send + Sync>),
    /// The certificate for TLS, or its key, cannot be used.
    #[error("cannot begin with TLS: {0}")]
    Tls(#[from] CertificateFault),
    /// The system refuses threads, sockets or signal handlers.
    #[error("cannot start the server: {0}")]
    System(#[from] io::Error),
    /// A second signal came while the relay was shutting down.
    #[error("ended at once by a second signal; what was acknowledged is safe on disk")]
    Interrupted,
}

/// Runs a relay until SIGTERM, SIGINT or the end of its terminal: opens the store, listens, calls `on_ready` with where it listens and
/// the relays that run over the same data, serves, and shuts down within five seconds of the signal. A later signal,
/// [`SAME_WISH`] after the first or more, ends it at once. SIGUSR1 has it hand its clients over and then end; SIGUSR2 the same, after
/// it has started its successor; SIGHUP without a terminal, a change of the file of `source` and whoever asks for it have it read its
/// configuration again. The service manager that started this process, if one did, is told of all this.
pub fn run(
    config: Config,
    source: Source,
    successor: &Successor,
    on_ready: impl FnOnce(&Listening, &[Neighbour]),
) -> Result<(), ServerError> {
    let service = Arc::new(Service::from_env());
    let settings = Settings::from_config(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.callers)
        // Sockets are looked at after so many turns, not after 61: where each takes its milliseconds, others would wait long.
        .event_interval(8)
        // Only a shutdown needs a thread that may block.
        .max_blocking_threads(2)
        .thread_name("ratite-net")
        .thread_stack_size(THREAD_STACK)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let (hang_up, hangup) = mpsc::channel(1);
        let mut signals = Signals::new(hang_up)?;
        // First the addresses: when they are taken, nothing else should have happened.
        // A folder that cannot be read is complained of when the database is opened.
        let beside = neighbours(&config.storage.path).unwrap_or_default();
        let shared: Vec<Address> = beside.iter().flat_map(|neighbour| neighbour.addresses.clone()).collect();
        let (listeners, passed) = bind::passed_by_systemd()?;
        let listeners = bind::bind(&config, listeners, &shared)?;
        let monitors = bind::bind_monitors(&config, &beside)?;
        bind::raise_file_limit(config.listen.max_connections, OVERFLOW);
        // What a restore or a compaction left that was killed takes room for nothing.
        copy::sweep(&config.storage.path);
        let store = Store::open(&config.storage.path, config.storage.map_size)?;
        let relay = Relay::start(store, settings)?;
        let mut server = Server::serve(relay.clone(), &config, listeners, monitors)?;
        let reload = server.watch(source, hangup, Arc::clone(&service));
        let mut place = Place::take(&config.storage.path, &server.listening().all())
            .inspect_err(|error| tracing::warn!("no other relay can take over from this one: no lock file: {error}"))
            .ok();
        if let Some(place) = &place {
            // Looked for anew: only now are we to be found by those who start as we do.
            let others = neighbours(&config.storage.path).unwrap_or_default();
            let others: Vec<PathBuf> =
                others.iter().map(Neighbour::socket).filter(|socket| *socket != place.socket).collect();
            if let Err(error) = links::link_up(&relay, &place.socket, &others, config.limits.max_message_length).await {
                tracing::warn!("ephemeral events will not reach other relays over this data: {error}");
            }
            if let Err(error) = server.open_desk(&place.desk(), reload) {
                tracing::warn!("`ratite top` and others cannot reach this relay: {error}");
            }
        }
        on_ready(server.listening(), &beside);
        let listening: Vec<String> = server.listening().all().iter().map(Address::to_string).collect();
        service.ready(&format!("listening on {}", listening.join(" and ")));
        tokio::spawn({
            let (service, registry) = (Arc::clone(&service), Arc::clone(&server.shared.registry));
            async move { service.keep_alive(&relay, || format!("{} clients", registry.len())).await }
        });
        let passed = Arc::new(passed);
        let wish = loop {
            match signals.next().await {
                Wish::Renew => {}
                wish => break wish,
            }
            let started = tokio::select! {
                started = renew(successor, &passed, &config) => started,
                name = signals.end() => break Wish::End(name),
            };
            match started {
                Ok(pid) => {
                    tracing::info!("process {pid} takes over");
                    service.moves_to(pid);
                    break Wish::HandOver;
                }
                Err(error) => {
                    tracing::error!("this relay goes on: no successor can be started: {error}");
                    if let Some(Err(error)) = place.as_mut().map(Place::renewal_failed) {
                        tracing::debug!(%error, "whoever asked for the successor will have to wait to find out");
                    }
                }
            }
        };
        let name = match wish {
            Wish::End(name) => name,
            Wish::HandOver | Wish::Renew => tokio::select! {
                () = server.hand_over(place.as_mut()) => "everybody has been handed over",
                name = signals.end() => name,
            },
        };
        let first = Instant::now();
        tracing::info!("{name}: shutting down, accepted events are finished first");
        service.stopping("finishing accepted events");
        tokio::select! {
            () = server.shutdown() => Ok(()),
            () = signals.impatience(first) => Err(ServerError::Interrupted),
        }
    });
    // Connections that did not leave in time end here.
    runtime.shutdown_background();
    ended
}

/// Starts the successor and waits until it listens; returns its process id.
async fn renew(successor: &Successor, passed: &Arc<Passed>, config: &Config) -> io::Result<u32> {
    let (successor, passed, data) = (successor.clone(), Arc::clone(passed), config.storage.path.clone());
    let (done, started) = tokio::sync::oneshot::channel();
    // A thread of its own: those that may block are few, and needed at the end.
    std::thread::Builder::new()
        .name("successor".to_owned())
        .spawn(move || drop(done.send(successor.start(&passed, &data))))?;
    started.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

/// Where a relay listens, with the ports that were taken where 0 was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// For HTTP and WebSockets as they are.
    pub plain: Vec<Address>,
    /// For the same over TLS.
    pub tls: Vec<Address>,
    /// For plain HTTP that is led to https.
    pub http: Vec<Address>,
}

impl Listening {
    fn on(listeners: &[Listener]) -> Listening {
        let on = |speaks| {
            listeners
                .iter()
                .filter(|listener| listener.speaks == speaks)
                .map(|listener| listener.address.clone())
                .collect()
        };
        Listening { plain: on(Speaks::Plain), tls: on(Speaks::Tls), http: on(Speaks::Redirect) }
    }

    /// Every address.
    fn all(&self) -> Vec<Address> {
        [&*self.plain, &*self.tls, &*self.http].concat()
    }
}

/// A listening server, for those who bring their own runtime: tests, and programs that embed a relay.
pub struct Server {
    listening: Listening,
    /// Where figures are given out.
    monitored: Vec<Address>,
    instruments: Arc<Instruments>,
    /// What monitors have to show.
    token: Token,
    /// What the management API remembers whoever the administrators are.
    memory: Arc<Memory>,
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    /// The tasks that accept connections.
    accepting: Vec<JoinHandle<()>>,
    /// Closes when the last task has ended.
    tasks: mpsc::Receiver<Infallible>,
}

impl Server {
    /// Binds `config.listen.addresses` (port 0 takes any free port), and those of `config.tls` when TLS is on, and serves
    /// `relay` on them. Must be called inside a tokio runtime.
    pub fn start(relay: Relay, config: &Config) -> Result<Server, ServerError> {
        let listeners = bind::bind(config, Vec::new(), &[])?;
        Server::serve(relay, config, listeners, bind::bind_monitors(config, &[])?)
    }

    fn serve(
        relay: Relay,
        config: &Config,
        listeners: Vec<Listener>,
        monitors: Vec<Listener>,
    ) -> Result<Server, ServerError> {
        let listening = Listening::on(&listeners);
        let monitored = monitors.iter().map(|listener| listener.address.clone()).collect();
        let at_once = relay.settings().callers;
        let tls = Tls::start(config, at_once)?.map(|tls| (Arc::new(tls), Redirect::new(config)));
        let registry = Arc::new(Registry::default());
        let counters = Arc::new(Counters::default());
        let limiter = Limiter::new(&config.rates, std::time::Instant::now());
        relay.watch_lists({
            let (registry, limiter) = (Arc::clone(&registry), Arc::clone(&limiter));
            move |lists| {
                limiter.block(lists.blocked_addresses());
                registry.close(|address| limiter.blocks(address));
            }
        });
        let (stage, watched) = watch::channel(Stage::Open);
        let capacity = Capacity::new(config.listen.max_connections);
        let instruments = Arc::new(Instruments {
            relay: relay.clone(),
            registry: Arc::clone(&registry),
            counters: Arc::clone(&counters),
            limiter: Arc::clone(&limiter),
            capacity: capacity.clone(),
            stage: watched.clone(),
            tls: tls.as_ref().map(|(tls, _)| Arc::clone(tls)),
            rejected: Mutex::default(),
            reloads: Default::default(),
        });
        let token = Token::default();
        token.set(&config.listen.metrics_token);
        let monitor: Arc<dyn Monitor> = Arc::clone(&instruments) as _;
        let memory = Arc::new(Memory::default());
        let site = Site::new(config, Arc::clone(&monitor), token.clone())
            .map_err(ServerError::Pages)?
            .of(relay.clone(), Arc::clone(&memory));
        let desk = Arc::new(Desk { monitor: Arc::clone(&monitor), token: token.clone(), reload: None, compact: None });
        for listener in monitors {
            tokio::spawn(control::serve(listener, Arc::clone(&desk), watched.clone(), Stage::Open));
        }
        let shared = Arc::new(Shared {
            relay,
            site: Swap::new(site),
            tls,
            doorman: Arc::new(Doorman { proxies: Swap::new(Proxies::new(config)), limiter }),
            terms: Swap::new(Terms::new(config)),
            config: Swap::new(config.clone()),
            registry,
            counters,
            hands_over: AtomicBool::new(false),
        });
        let (alive, tasks) = mpsc::channel(1);
        let entrance = Entrance { shared: Arc::clone(&shared), capacity, stage: watched, alive };
        let accepting = listeners.into_iter().map(|listener| tokio::spawn(listen::accept(listener, entrance.clone())));
        let accepting = accepting.collect();
        Ok(Server { listening, monitored, instruments, token, memory, shared, stage, accepting, tasks })
    }

    /// The addresses on which HTTP and WebSockets are spoken as they are.
    pub fn addresses(&self) -> &[Address] {
        &self.listening.plain
    }

    /// Every address that clients can use.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// What is known of the certificate; `None` when TLS is off.
    pub fn certificate(&self) -> Option<CertificateState> {
        self.shared.tls.as_ref().map(|(tls, _)| tls.state())
    }

    /// The handshakes of TLS since the start; `None` when TLS is off.
    pub fn handshakes(&self) -> Option<&Handshakes> {
        self.shared.tls.as_ref().map(|(tls, _)| tls.handshakes())
    }

    /// Has the certificate looked at anew, with these settings: files are read again, and an attempt that was put off is made.
    /// Names, e-mail address, files and authority may be others than before; addresses to listen on, and whether TLS is on at
    /// all, stay as they are. Returns at once.
    pub fn reload_certificate(&self, settings: &crate::config::Tls) {
        if let Some((tls, _)) = &self.shared.tls {
            tls.reload(settings);
        }
    }

    /// The addresses on which figures are given out.
    pub fn metrics_addresses(&self) -> &[Address] {
        &self.monitored
    }

    /// Reads the configuration again when there is an occasion: a word through what is returned, or through `hangup`, or a change of
    /// the file. The service manager is told.
    fn watch(&self, source: Source, hangup: mpsc::Receiver<()>, service: Arc<Service>) -> AskReload {
        let (ask, asked) = mpsc::channel(4);
        let (shared, instruments) = (Arc::clone(&self.shared), Arc::clone(&self.instruments));
        let running = Running {
            shared,
            instruments: Arc::clone(&instruments),
            token: self.token.clone(),
            memory: Arc::clone(&self.memory),
        };
        let config = (*self.shared.config.load()).clone();
        tokio::spawn(reload::run(source, config, running, (instruments, service), asked, hangup));
        ask
    }

    /// Opens the operator's door at this path. Who comes through it may `reload`, and have the database compacted.
    fn open_desk(&self, path: &Path, reload: AskReload) -> io::Result<()> {
        // Whoever left a socket here is dead: the lock file beside it is ours.
        let listener = bind::bind_unix(path, 0o600, true)?;
        let (monitor, relay) = (Arc::clone(&self.instruments) as _, self.shared.relay.clone());
        let desk = Desk { monitor, token: Token::default(), reload: Some(reload), compact: Some(relay) };
        // Open to the end: who wants to know how the handing over goes asks here.
        tokio::spawn(control::serve(listener, Arc::new(desk), self.stage.subscribe(), Stage::HandingOver));
        Ok(())
    }

    /// Stops accepting, keeps every client for `listen.drain_wait`, then sends those who are left away one after the other, spread
    /// over `listen.drain_spread`. Ends when the last one has left.
    async fn hand_over(&mut self, place: Option<&mut Place>) {
        self.stage.send_replace(Stage::HandingOver);
        self.shared.hands_over.store(true, Ordering::Relaxed);
        for accepting in self.accepting.drain(..) {
            let _ = accepting.await;
        }
        if let Some(Err(error)) = place.map(Place::hand_over) {
            tracing::warn!(%error, "cannot tell other relays over this data that this one hands over");
        }
        let config = self.shared.config.load();
        let listen = &config.listen;
        let registry = Arc::clone(&self.shared.registry);
        tracing::info!(
            clients = registry.len(),
            "handing over: no new clients from now on; those who are here may stay for {} s and then leave within {} s",
            listen.drain_wait,
            listen.drain_spread
        );
        let leaving = async {
            sleep(Duration::from_secs(listen.drain_wait)).await;
            send_away(&registry, Duration::from_secs(listen.drain_spread)).await;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            // Nothing is ever sent: this ends when the last connection has.
            _ = self.tasks.recv() => {}
            () = leaving => {}
        }
    }

    /// Stops accepting and reading, has the core finish what it accepted, delivers the answers, closes every
    /// WebSocket with 1001. Takes less than five seconds even when peers do not read; it stops the relay as well.
    pub async fn shutdown(mut self) {
        self.stage.send_replace(Stage::Closing);
        self.shared.registry.announce(Phase::Draining);
        let relay = self.shared.relay.clone();
        let drained = timeout(DRAIN, tokio::task::spawn_blocking(move || relay.shutdown())).await;
        if drained.is_err() {
            tracing::warn!("not all accepted events could be finished in time; those without an answer may be lost");
        }
        self.shared.registry.announce(Phase::Closing);
        // Nothing is ever sent: this ends when the last task has dropped its sender, or in time.
        if timeout(GOODBYE, self.tasks.recv()).await.is_err() {
            tracing::debug!("some peers did not take their leave in time");
        }
    }
}

/// A server whose configuration can change.
struct Running {
    shared: Arc<Shared>,
    instruments: Arc<Instruments>,
    token: Token,
    memory: Arc<Memory>,
}

impl Apply for Running {
    fn apply(&self, config: &Config) -> Result<(), String> {
        let shared = &self.shared;
        // What can fail comes first.
        let site = Site::new(config, Arc::clone(&self.instruments) as _, self.token.clone())
            .map_err(|error| ServerError::Pages(error).to_string())?
            .of(shared.relay.clone(), Arc::clone(&self.memory));
        shared.relay.change_settings(Settings::from_config(config)).map_err(|error| error.to_string())?;
        shared.doorman.limiter.change(&config.rates);
        shared.doorman.proxies.store(Proxies::new(config));
        bind::raise_file_limit(config.listen.max_connections, OVERFLOW);
        self.instruments.capacity.set_most(config.listen.max_connections);
        shared.terms.store(Terms::new(config));
        if let Some((tls, _)) = &shared.tls {
            // Whatever changed: whoever asks for this may have put other files there.
            tls.reload(&config.tls);
        }
        self.token.set(&config.listen.metrics_token);
        shared.site.store(site);
        shared.config.store(config.clone());
        Ok(())
    }
}

/// Sends every session away, one by one in equal steps over this time.
async fn send_away(registry: &Arc<Registry>, spread: Duration) {
    let began = tokio::time::Instant::now();
    let numbers = registry.numbers();
    let step = spread / u32::try_from(numbers.len()).unwrap_or(u32::MAX).max(1);
    for (i, number) in (1..).zip(numbers) {
        // Those who left by themselves leave a gap: the others need not hurry.
        sleep_until(began + step * i).await;
        if let Some(outbox) = registry.outbox(number) {
            tokio::spawn(async move {
                // What was accepted is answered first.
                outbox.announce(Phase::Draining);
                sleep(LAST_ANSWERS).await;
                outbox.announce(Phase::Closing);
            });
        }
    }
    // Who was still shaking hands when the list was made.
    sleep(LAST_ANSWERS).await;
    registry.announce(Phase::Closing);
}
