//! Requests to the certificate authority: one connection each, over TLS, bounded in time and size.

use std::error::Error as StdError;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::certificate::CertificateFault;
use crate::config::plain;

/// How long one of the authority's addresses may take to answer.
const TO_CONNECT: Duration = Duration::from_secs(10);

/// How long a request may take.
const TO_ANSWER: Duration = Duration::from_secs(60);

/// Most bytes of an answer. Chains have some thousands.
const LONGEST_ANSWER: usize = 1 << 20;

/// Where systems keep the certificates that they trust: Debian, Alpine and Arch; Fedora and its kin; others.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Until when the authority wants to be left alone, if it said so.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Arc<Mutex<Option<SystemTime>>>);

impl Patience {
    /// What it said last.
    pub fn until(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, response: &Response<impl Sized>) {
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|value| {
            match value.trim().parse::<u64>() {
                // A bound, so that no answer puts the next attempt off for years.
                Ok(seconds) => Some(SystemTime::now() + Duration::from_secs(seconds.min(7 * 86_400))),
                Err(_) => httpdate::parse_http_date(value).ok(),
            }
        });
        if response.status().is_client_error() || response.status().is_server_error() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = after;
        }
    }
}

/// Makes requests.
pub(super) struct AuthorityClient {
    tls: TlsConnector,
    patience: Patience,
}

impl AuthorityClient {
    /// A client that trusts those whom everybody trusts, and the certificates in `extra`.
    pub fn new(extra: Option<&Path>, patience: Patience) -> Result<AuthorityClient, CertificateFault> {
        Ok(AuthorityClient { tls: TlsConnector::from(trusting(extra)?), patience })
    }
}

/// How to speak TLS with those whom everybody trusts, and with those whose certificates are signed by one in `extra`.
pub(in crate::server) fn trusting(extra: Option<&Path>) -> Result<Arc<ClientConfig>, CertificateFault> {
    // Those of this build, so that a lone file works in a bare container; and the system's, which are kept up to date while
    // this build grows old.
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let system = SYSTEM_ROOTS.iter().find(|path| Path::new(path).is_file());
    if let Some(Ok(certificates)) = system.map(CertificateDer::pem_file_iter) {
        roots.add_parsable_certificates(certificates.flatten());
    }
    if let Some(path) = extra {
        let fault = |why: String| CertificateFault::new(format!("tls.acme_ca: {}: {why}", path.display()));
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| fault(error.to_string()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(fault("there is no certificate in this file".into()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateFault::new(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl HttpClient for AuthorityClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (tls, patience) = (self.tls.clone(), self.patience.clone());
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            match timeout(TO_ANSWER, ask(tls, request)).await {
                Ok(Ok(response)) => {
                    patience.note(&response);
                    Ok(response.into())
                }
                Ok(Err(error)) => {
                    let why = error.downcast_ref::<std::io::Error>().map_or_else(|| error.to_string(), plain);
                    Err(Error::Other(Box::new(Unreachable { host, why })))
                }
                Err(_) => Err(Error::Other(Box::new(Unreachable { host, why: "no answer in time".to_owned() }))),
            }
        })
    }
}

/// The authority could not be asked. What it answers is not such an error.
#[derive(Debug, thiserror::Error)]
#[error("{host} cannot be reached: {why}")]
pub(super) struct Unreachable {
    host: String,
    why: String,
}

async fn ask(
    tls: TlsConnector,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, Box<dyn StdError + Send + Sync>> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or("its address names no host")?.clone();
    if head.uri.scheme_str() != Some("https") {
        return Err("its address does not begin with https://".into());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = connect(&host, authority.port_u16().unwrap_or(443)).await?;
    let stream = tls.connect(ServerName::try_from(host)?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    head.uri = head.uri.path_and_query().map_or(Uri::default(), |path| Uri::from(path.clone()));
    let body = body.collect().await?.to_bytes();
    let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, Full::new(body)))
}

/// Tries the host's addresses one after the other.
async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "its name leads to no address");
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    for address in addresses {
        match timeout(TO_CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
