//! What a connection may ask before it becomes a WebSocket: the upgrade, the relay information document, the landing
//! page and `/health`.
//!
//! A connection gets one answer and one absolute deadline for it, so there is no idle HTTP connection to look after.
//! hyper parses; what it lets pass and we do not, [`Guard`] and [`Site::respond`] refuse.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready as try_ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::Refusal;
use super::answers::{Token, add_cors, answer, health_page, metrics_page, text, unauthorized};
use super::deflate::{self, Agreement};
use super::manage::{self, Manage, Memory};
use super::monitor::Monitor;
use super::names::{self, Names};
use super::nip11;
use super::pages::Landing;
use super::redirect::{self, Redirect};
use super::stream::hang_up;
use super::tls::Tls;
use super::visitor::Visitor;
use crate::config::{Config, Picture};
use crate::relay::Relay;
use crate::relay::policy::moderation::Lists;

/// Most bytes of a request's head. The least that hyper takes; browsers with many cookies stay below.
const MAX_HEAD: usize = 8192;

/// Most bytes of a request's first line.
const MAX_REQUEST_LINE: usize = 4096;

/// How long a peer that was refused may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The figures of the landing page.
const LIVE: &str = "/live.json";

/// Everything that is served over plain HTTP.
pub(super) struct Site {
    config: Config,
    /// The information document, and the version of the operator's lists it was made from.
    document: Mutex<(u64, Bytes)>,
    /// What is managed; a site of its own serves what the configuration says.
    relay: Option<Relay>,
    manage: Option<Manage>,
    /// The page in a browser, and the version of the lists it was made from.
    landing: Mutex<(u64, Arc<Landing>)>,
    names: Option<Names>,
    /// Whether WebSockets may be compressed.
    compression: bool,
    content_security_policy: HeaderValue,
    monitor: Arc<dyn Monitor>,
    /// What has to be shown for figures; without one they are not served here.
    token: Token,
}

impl Site {
    /// Prepares the answers. `monitor` is asked at every request for what changes.
    pub(super) fn new(
        config: &Config,
        monitor: Arc<dyn Monitor>,
        token: Token,
    ) -> Result<Site, Box<dyn std::error::Error + Send + Sync>> {
        let landing = Landing::new(config, &Lists::default());
        Ok(Site {
            config: config.clone(),
            document: Mutex::new((0, nip11::document(config, &Lists::default(), None)?.into())),
            relay: None,
            manage: None,
            content_security_policy: HeaderValue::from_str(&landing.content_security_policy)?,
            landing: Mutex::new((u64::MAX, Arc::new(landing))),
            names: Names::new(config),
            compression: config.listen.compression,
            monitor,
            token,
        })
    }

    /// The site of this relay: what is changed while it runs shows, and its administrators can change it.
    pub(super) fn of(self, relay: Relay, memory: Arc<Memory>) -> Site {
        let manage = Manage::new(relay.clone(), &self.config.policy.admins, memory);
        // No version of the lists is this one: the document is made anew.
        self.document.lock().unwrap_or_else(PoisonError::into_inner).0 = u64::MAX;
        Site { relay: Some(relay), manage, ..self }
    }

    /// The information document of this moment.
    fn document(&self) -> Bytes {
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((lists, own)) = self.relay.as_ref().map(|relay| (relay.lists(), relay.own_key()))
            && lists.version() != document.0
            && let Ok(written) = nip11::document(&self.config, &lists, own)
        {
            *document = (lists.version(), written.into());
        }
        document.1.clone()
    }

    /// The management API, when that is what the request is for (N86-01).
    fn management<B>(&self, request: &Request<B>) -> Option<&Manage> {
        let manage = self.manage.as_ref()?;
        let is_call = request.method() == Method::POST && request.uri().path() == "/" && is_rpc(request.headers());
        is_call.then_some(manage)
    }

    /// Answers one request. Status 101 means that the connection is a WebSocket from then on; a visitor for whom there
    /// is no room, or who may not come in, is refused.
    fn respond<B>(&self, request: &mut Request<B>, visitor: &mut Visitor) -> Response<Full<Bytes>> {
        let refused = visitor.present(request.headers());
        let mut response = match self.objection(request) {
            Some(refusal) => refusal,
            // Monitors are answered in any case.
            None if refused.is_some() && !is_for_monitors(request.uri().path()) => too_many_requests(refused),
            None if fastwebsockets::upgrade::is_upgrade_request(request) => {
                upgrade(request, visitor.has_room(), self.compression)
            }
            None => self.page(request),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // One answer per connection. An answer to a WebSocket of another version has a token here already.
            response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// What is wrong with a request, whatever it asks for.
    fn objection<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        if let Some(refusal) = malformed(request) {
            return Some(refusal);
        }
        let path = request.uri().path();
        let is_known = match path {
            "/" | "*" | "/health" | "/health/live" | "/health/ready" | LIVE => true,
            nip11::ICON | nip11::BANNER => self.picture(path).is_some(),
            "/metrics" => self.token.is_set(),
            path => path == names::PATH && self.names.is_some(),
        };
        if !is_known {
            return Some(text(
                StatusCode::NOT_FOUND,
                "Not found. This is a Nostr relay; its only address is the path /\n",
            ));
        }
        None
    }

    /// What monitors ask for, when it is that.
    pub(super) fn page_for_monitors(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        is_for_monitors(path).then(|| health_page(&*self.monitor, path))
    }

    /// Requests that are not upgrades.
    fn page<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let method = request.method();
        if method == Method::OPTIONS {
            let mut response = answer(StatusCode::NO_CONTENT, "", Bytes::new());
            response.headers_mut().remove(header::CONTENT_TYPE);
            add_cors(response.headers_mut());
            return response;
        }
        if method != Method::GET && method != Method::HEAD || is_rpc(request.headers()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET, HEAD and OPTIONS are taken.\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            return response;
        }
        match (request.uri().path(), &self.names) {
            (path @ ("/health" | "/health/live" | "/health/ready"), _) => health_page(&*self.monitor, path),
            ("/metrics", _) if self.token.is_shown(request.headers()) => metrics_page(&*self.monitor),
            ("/metrics", _) => unauthorized(),
            (LIVE, _) => live_page(&*self.monitor),
            (path @ (nip11::ICON | nip11::BANNER), _) => self.picture_page(path),
            (names::PATH, Some(names)) => known_names(names, request.uri().query()),
            _ if accepts_document(request.headers()) => {
                let mut response = answer(StatusCode::OK, "application/nostr+json", self.document());
                let headers = response.headers_mut();
                add_cors(headers);
                headers.insert(header::VARY, HeaderValue::from_static("Accept"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                response
            }
            _ => self.landing(request),
        }
    }

    /// The operator's picture that is served at this path.
    fn picture(&self, path: &str) -> Option<(&'static str, Bytes)> {
        let info = &self.config.info;
        let picture = if path == nip11::ICON { &info.icon_file } else { &info.banner_file };
        picture.as_ref().and_then(Picture::content)
    }

    fn picture_page(&self, path: &str) -> Response<Full<Bytes>> {
        let Some((media_type, bytes)) = self.picture(path) else {
            return text(StatusCode::NOT_FOUND, "There is no such picture.\n");
        };
        let mut response = answer(StatusCode::OK, media_type, bytes);
        let headers = response.headers_mut();
        add_cors(headers);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// The page of this moment but for its figures.
    fn landing_page(&self) -> Arc<Landing> {
        let mut landing = self.landing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lists) = self.relay.as_ref().map(Relay::lists)
            && lists.version() != landing.0
        {
            *landing = (lists.version(), Arc::new(Landing::new(&self.config, &lists)));
        }
        Arc::clone(&landing.1)
    }

    fn landing<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let host = request
            .uri()
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| request.headers().get(header::HOST).and_then(|host| host.to_str().ok()))
            .unwrap_or_default();
        let restricted = self.relay.as_ref().is_some_and(|relay| relay.lists().restrict_writes())
            || self.config.membership.enabled && self.config.membership.restrict_writes;
        let html = self.landing_page().render(host, &self.monitor.live(), restricted);
        let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", html.into());
        let headers = response.headers_mut();
        add_cors(headers);
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::CONTENT_SECURITY_POLICY, self.content_security_policy.clone());
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

/// What is wrong with a request wherever it is sent to.
fn malformed<B>(request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    let headers = request.headers();
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() != Version::HTTP_10) {
        return Some(text(StatusCode::BAD_REQUEST, "One Host header is needed.\n"));
    }
    // Nothing here takes a body. One of unclear length is how requests are smuggled through proxies.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(text(StatusCode::BAD_REQUEST, "Transfer-Encoding is not taken.\n"));
    }
    None
}

/// Answers one request of plain HTTP where TLS is spoken elsewhere. Proofs and `/health` are given to everybody.
async fn lead_on<B>(
    request: &Request<B>,
    site: &Site,
    visitor: &Mutex<Visitor>,
    (redirect, tls): (&Redirect, &Tls),
) -> Response<Full<Bytes>> {
    let refused = visitor.lock().unwrap_or_else(PoisonError::into_inner).present(request.headers());
    let path = request.uri().path();
    let mut response = match malformed(request) {
        Some(refusal) => refusal,
        None if refused.is_some() && !is_for_monitors(path) && !redirect::is_proof(path) => too_many_requests(refused),
        None => match site.page_for_monitors(path) {
            Some(page) => page,
            None => redirect.respond(request, tls).await,
        },
    };
    response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What monitors ask for: they are answered in any case.
fn is_for_monitors(path: &str) -> bool {
    matches!(path, "/health" | "/health/live" | "/health/ready")
}

/// The figures that the landing page shows.
fn live_page(monitor: &dyn Monitor) -> Response<Full<Bytes>> {
    let Ok(body) = serde_json::to_vec(&monitor.live()) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "The figures cannot be written.\n");
    };
    let mut response = answer(StatusCode::OK, "application/json", body.into());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Agrees to become a WebSocket (RFC 6455 section 4.2), or says why not. Subprotocols are ignored, and so are extensions but for
/// compression, where it is switched on; what was agreed about it goes with the response.
fn upgrade<B>(request: &mut Request<B>, room: bool, compression: bool) -> Response<Full<Bytes>> {
    let bad = |why: &'static str| text(StatusCode::BAD_REQUEST, why);
    let headers = request.headers();
    if request.uri().path() != "/" {
        return text(StatusCode::NOT_FOUND, "Not found. The relay's address is the path /\n");
    }
    if request.method() != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "A WebSocket begins with GET.\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    if request.version() != Version::HTTP_11 {
        return bad("A WebSocket needs HTTP/1.1.\n");
    }
    // What follows the head is the first frame, so there must be no body in between.
    if headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return bad("A WebSocket request has no body.\n");
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => return bad("Sec-WebSocket-Key is missing.\n"),
        (Some(key), None) if is_nonce(key.as_bytes()) => {}
        _ => return bad("Sec-WebSocket-Key must be 16 bytes in base64.\n"),
    }
    match headers.get(header::SEC_WEBSOCKET_VERSION) {
        None => return bad("Sec-WebSocket-Version is missing.\n"),
        Some(version) if version == "13" => {}
        Some(_) => {
            let mut response = text(StatusCode::UPGRADE_REQUIRED, "This relay speaks WebSocket version 13.\n");
            let headers = response.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            return response;
        }
    }
    if !room {
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "This relay is full; try again later.\n");
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        return response;
    }
    let agreed = if compression { deflate::negotiate(headers) } else { None };
    match fastwebsockets::upgrade::upgrade(request) {
        // The stream is taken back from hyper directly, so the future that would bring it is not needed.
        Ok((response, _)) => {
            let mut response = response.map(|empty| {
                let _: http_body_util::Empty<Bytes> = empty;
                Full::default()
            });
            if let Some((agreement, value)) = agreed {
                response.extensions_mut().insert(agreement);
                response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
            }
            response
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Says to wait (RFC 6585 section 4).
fn too_many_requests(refusal: Option<Refusal>) -> Response<Full<Bytes>> {
    if refusal == Some(Refusal::Blocked) {
        return text(StatusCode::FORBIDDEN, format!("{}\n", Refusal::Blocked.reason()));
    }
    let (reason, wait) = refusal.map_or(("", 1), |refusal| (refusal.reason(), refusal.wait()));
    let mut response = text(StatusCode::TOO_MANY_REQUESTS, format!("{reason} Try again in {wait} s.\n"));
    add_cors(response.headers_mut());
    response.headers_mut().insert(header::RETRY_AFTER, wait.into());
    response
}

/// Whether this is base64 of 16 bytes.
fn is_nonce(key: &[u8]) -> bool {
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(base64)
}

/// Whether the client asks for the relay information document: the media type stands anywhere in `Accept`, in any
/// case and with any parameters (N11-03).
fn accepts_document(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|range| range.trim().eq_ignore_ascii_case("application/nostr+json"))
}

/// Whether the body is a call of the management API.
fn is_rpc(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()?.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(manage::MEDIA_TYPE))
}

/// Reads a call of the management API and answers it (NIP-86).
async fn call(manage: &Manage, request: Request<Incoming>, host: Option<&str>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    // What is announced to be too long is not waited for.
    let read = match body.size_hint().lower() <= manage::MAX_BODY as u64 {
        true => Limited::new(body, manage::MAX_BODY).collect().await.ok(),
        false => None,
    };
    let (status, body) = match read {
        Some(body) => {
            let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            manage.answer(authorization, host, &body.to_bytes()).await
        }
        None => (413, serde_json::json!({ "error": "the request is longer than 64 KiB, or was cut off" })),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer(status, manage::MEDIA_TYPE, body.to_string().into());
    let headers = response.headers_mut();
    add_cors(headers);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Nostr"));
    }
    response
}

/// NIP-05: pages of every origin may read it, and no redirect leads there (N05-01).
fn known_names(names: &Names, query: Option<&str>) -> Response<Full<Bytes>> {
    let Ok(body) = names.answer(query) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "The names cannot be written.\n");
    };
    let mut response = answer(StatusCode::OK, "application/json", body);
    add_cors(response.headers_mut());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A connection that became a WebSocket.
pub(super) struct Upgraded<S> {
    pub stream: S,
    /// What came behind the request: the first frames (WS-15).
    pub early: Bytes,
    /// What was agreed about compression.
    pub compression: Option<Agreement>,
}

/// Serves the HTTP side of a connection. Gives the stream back when it became a WebSocket.
/// `host` is where the peer reached us if no proxy tells, see [`Relay::connect`]; with `elsewhere` the request is led on to https.
pub(super) async fn serve<S>(
    stream: S,
    site: &Site,
    elsewhere: Option<(&Redirect, &Tls)>,
    visitor: &Mutex<Visitor>,
    host: Option<&str>,
    deadline: Instant,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Set by the one answer that is an upgrade.
    let upgraded = OnceLock::new();
    let upgraded_here = &upgraded;
    let service = service_fn(|mut request: Request<Incoming>| {
        Box::pin(async move {
            if let Some(elsewhere) = elsewhere {
                return Ok(lead_on(&request, site, visitor, elsewhere).await);
            }
            let response = site.respond(&mut request, &mut visitor.lock().unwrap_or_else(PoisonError::into_inner));
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                upgraded_here.get_or_init(|| response.extensions().get::<Agreement>().copied());
            }
            // Whatever else is wrong with a call has been answered: it may not come in, or is no proper request.
            Ok::<_, Infallible>(match site.management(&request) {
                Some(manage) if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
                    let vouched = visitor.lock().unwrap_or_else(PoisonError::into_inner).host();
                    call(manage, request, vouched.as_deref().or(host)).await
                }
                _ => response,
            })
        })
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        // One deadline for everything stands around the whole.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(Guard::new(stream)), service);
    let served = timeout_at(deadline, poll_fn(|cx| connection.poll_without_shutdown(cx))).await;
    let parts = connection.into_parts();
    let Guard { io: mut stream, refusal, .. } = parts.io.into_inner();
    match (served, refusal, upgraded.get()) {
        (Ok(Ok(())), None, Some(&compression)) => {
            return Some(Upgraded { stream, early: parts.read_buf, compression });
        }
        // Silent or too slow.
        (Err(_), ..) => return None,
        (Ok(_), refusal, _) => {
            let _ = timeout(LAST_WORDS, async {
                if let Some(status) = refusal {
                    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                }
                hang_up(&mut stream).await;
                Ok::<_, std::io::Error>(())
            })
            .await;
        }
    }
    None
}

/// Watches the head of a request on its way to hyper, for what hyper would let pass or name wrongly: a line feed
/// without its carriage return, which proxies read differently (H238), and an endless request line (H225).
struct Guard<S> {
    io: S,
    /// Bytes of the current line, without its end.
    line: usize,
    /// The byte before.
    last: u8,
    /// The request line is complete.
    started: bool,
    /// The head is complete: what follows is not ours to judge.
    done: bool,
    refusal: Option<StatusCode>,
}

impl<S> Guard<S> {
    fn new(io: S) -> Guard<S> {
        Guard { io, line: 0, last: 0, started: false, done: false, refusal: None }
    }

    /// Looks at bytes as they arrive. `Some` is the status to refuse the request with.
    fn inspect(&mut self, bytes: &[u8]) -> Option<StatusCode> {
        for &byte in bytes {
            if self.done {
                return None;
            }
            match byte {
                b'\n' if self.last != b'\r' => return Some(StatusCode::BAD_REQUEST),
                b'\n' => {
                    // Empty lines before the request line are allowed (RFC 9112 section 2.2).
                    self.done = self.started && self.line == 0;
                    self.started |= self.line > 0;
                    self.line = 0;
                }
                b'\r' => {}
                _ => self.line += 1,
            }
            if !self.started && self.line > MAX_REQUEST_LINE {
                return Some(StatusCode::URI_TOO_LONG);
            }
            self.last = byte;
        }
        None
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        try_ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let refusal = self.inspect(&buf.filled()[before..]);
        if refusal.is_some() {
            self.refusal = refusal;
            return Poll::Ready(Err(std::io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
