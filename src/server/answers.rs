//! Answers over HTTP that several doors give: texts, whether the relay is well, figures, and the token that these may need.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::metrics;
use super::monitor::Monitor;
use super::nip11::VERSION;

/// A page of another origin may read the information document (NIP-11).
const CORS: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, Accept"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, OPTIONS"),
];

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body.into())
}

pub(super) fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn add_cors(headers: &mut HeaderMap) {
    for (name, value) in CORS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What a monitor has to know; nothing when it is empty.
#[derive(Clone, Default)]
pub(super) struct Token(Arc<RwLock<String>>);

impl Token {
    pub(super) fn set(&self, token: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token.to_owned();
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        !self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether a request shows it, or there is none to show.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if token.is_empty() {
            return true;
        }
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, shown) = shown.split_at_checked(b"Bearer ".len()).unwrap_or_default();
        // Of the hashes nothing can be learned by measuring how long the comparison takes.
        scheme.eq_ignore_ascii_case(b"Bearer ") && Sha256::digest(shown) == Sha256::digest(token.as_bytes())
    }
}

/// Whether the relay is well; see [`super::health`].
pub(super) fn health_page(monitor: &dyn Monitor, path: &str) -> Response<Full<Bytes>> {
    let health = monitor.health();
    let status = match health.is_ready() || path == "/health/live" {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = answer(status, "application/json", health.into_json(VERSION).to_string().into());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Says that a token is needed.
pub(super) fn unauthorized() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::UNAUTHORIZED, "Authorization: Bearer and the token of listen.metrics_token\n");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// The figures for Prometheus.
pub(super) fn metrics_page(monitor: &dyn Monitor) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::OK, metrics::MEDIA_TYPE, monitor.metrics().into());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_must_be_shown_as_it_is() {
        let token = Token::default();
        let shown = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            token.is_shown(&headers)
        };
        assert!(token.is_shown(&HeaderMap::new()) && shown("whatever"), "none is needed");
        token.set("s3cret");
        assert!(shown("Bearer s3cret") && shown("bearer s3cret"));
        for wrong in ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret ", "Basic s3cret"] {
            assert!(!shown(wrong), "{wrong:?}");
        }
        assert!(!token.is_shown(&HeaderMap::new()));
    }
}
