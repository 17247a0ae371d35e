//! The operator's doors: figures for Prometheus on `listen.metrics`, and everything on a socket in the data folder that only the relay's own
//! user may open. `ratite top`, `ratite stats` and `ratite reload` come through it; so does
//! `curl --unix-socket DATA/relay-0.ctl http://relay/metrics`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /metrics` | figures in the format of Prometheus |
//! | `GET /health`, `/health/live`, `/health/ready` | as on the public doors |
//! | `GET /stats.json` | figures for people (socket only) |
//! | `POST /reload` | reads the configuration again and says what came of it (socket only) |
//! | `POST /compact` | compacts the database and says what came of it (socket only); whoever hangs up before the end stops it |

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::sleep;

use super::answers::{Token, answer, health_page, metrics_page, text, unauthorized};
use super::capacity::Stage;
use super::monitor::Monitor;
use super::reload::AskReload;
use super::socket::{Listener, Socket};
use crate::relay::Relay;

/// Connections that are served at once: a few monitors, each with one.
const CONNECTIONS: usize = 32;

/// How long a connection may be silent. Prometheus keeps its own open between two looks.
const SILENCE: Duration = Duration::from_secs(150);

/// Pause after a failed `accept`.
const PAUSE: Duration = Duration::from_millis(100);

/// What stands behind the doors.
pub(super) struct Desk {
    pub monitor: Arc<dyn Monitor>,
    pub token: Token,
    /// The socket in the data folder: who reaches it may know everything, and have the configuration read again.
    pub reload: Option<AskReload>,
    /// The same: who may have its database compacted.
    pub compact: Option<Relay>,
}

/// Serves on a listener until the stage goes beyond `last`.
pub(super) async fn serve(listener: Listener, desk: Arc<Desk>, mut stage: watch::Receiver<Stage>, last: Stage) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage > last) => return,
            accepted = listener.accept() => accepted,
        };
        match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok((socket, _)), Ok(place)) => {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    connection(socket, &desk).await;
                    drop(place);
                });
            }
            // Dropped: it is hung up on.
            (Ok(_), Err(_)) => tracing::debug!("a monitor was turned away: {CONNECTIONS} are connected"),
            (Err(_), _) => sleep(PAUSE).await,
        }
    }
}

/// Has the configuration read again.
async fn reload(desk: &Desk) -> Response<Full<Bytes>> {
    let (done, outcome) = oneshot::channel();
    let asked = match &desk.reload {
        Some(reload) => reload.send(done).await.is_ok(),
        None => false,
    };
    let outcome = if asked { outcome.await.ok() } else { None };
    match outcome.map(|outcome| serde_json::to_vec(&outcome)) {
        Some(Ok(body)) => answer(StatusCode::OK, "application/json", body.into()),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "The relay is ending.\n"),
    }
}

/// Has the database compacted.
async fn compact(desk: &Desk) -> Response<Full<Bytes>> {
    /// Set when nobody waits for the answer any more.
    #[derive(Default)]
    struct Gone(Arc<AtomicBool>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let (gone, (done, outcome)) = (Gone::default(), oneshot::channel());
    let started = desk.compact.clone().map(|relay| {
        let gone = Arc::clone(&gone.0);
        // A thread of its own: it may take an hour.
        let work = move || drop(done.send(relay.compact(&|| gone.load(Relaxed))));
        std::thread::Builder::new().name("compact".to_owned()).spawn(work)
    });
    let outcome = match started {
        Some(Ok(_)) => outcome.await.ok(),
        _ => None,
    };
    let body = match outcome {
        Some(Ok(compacted)) => json!({ "compacted": compacted }),
        Some(Err(error)) => json!({ "problem": error.to_string() }),
        None => return text(StatusCode::SERVICE_UNAVAILABLE, "The relay cannot do that now.\n"),
    };
    answer(StatusCode::OK, "application/json", body.to_string().into())
}

async fn connection(socket: Socket, desk: &Desk) {
    let service =
        service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(respond(desk, &request).await) });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a monitor's connection ends");
    }
}

async fn respond(desk: &Desk, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !desk.token.is_shown(request.headers()) {
        return unauthorized();
    }
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    match path {
        "/metrics" if is_get => metrics_page(&*desk.monitor),
        "/health" | "/health/live" | "/health/ready" if is_get => health_page(&*desk.monitor, path),
        "/stats.json" if desk.reload.is_some() && is_get => {
            answer(StatusCode::OK, "application/json", desk.monitor.figures().to_string().into())
        }
        "/reload" if desk.reload.is_some() && *request.method() == Method::POST => reload(desk).await,
        "/compact" if desk.compact.is_some() && *request.method() == Method::POST => compact(desk).await,
        "/metrics" | "/health" | "/health/live" | "/health/ready" => {
            text(StatusCode::METHOD_NOT_ALLOWED, "Not with this method.\n")
        }
        _ => text(StatusCode::NOT_FOUND, "Not found. There are /metrics and /health here.\n"),
    }
}
