//! Handshakes: which certificate they are given, and how they are kept from taking the processor from everybody.
//!
//! Where a hello says `acme-tls/1`, the authority is looking for proof (TLS-ALPN-01, RFC 8737) and gets a certificate made for
//! that. Everybody else gets the relay's, whatever name was asked for: there is one, and a wrong name in it tells more than a
//! refused connection. While there is none, handshakes are refused.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::certificate::Certificate;
use super::store::{Answer, CertificateStore};
use crate::server::socket::Socket;

/// What the authority says when it looks for proof (RFC 8737).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// A record of TLS that begins a handshake starts with this byte.
const HANDSHAKE: u8 = 22;

/// What has happened since the start.
#[derive(Debug, Default)]
pub struct Handshakes {
    /// Handshakes that were completed.
    pub completed: AtomicU64,
    /// Those of them that went on from an earlier connection's, which is cheaper.
    pub resumed: AtomicU64,
    /// Connections that ended before their handshake did: garbage, silence, refused protocols, peers that do not trust the
    /// certificate.
    pub failed: AtomicU64,
}

/// The certificate of this moment.
#[derive(Debug, Default)]
pub(super) struct Served(RwLock<Option<Arc<Certificate>>>);

impl Served {
    /// What new connections get.
    pub fn get(&self) -> Option<Arc<Certificate>> {
        // Replaced as a whole: what a panic may have left behind is a certificate.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has new connections get this one; those that are open go on with theirs.
    pub fn set(&self, certificate: Certificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get().map(|certificate| certificate.key.clone())
    }
}

/// What a peer on a TLS port turned out to be.
pub(in crate::server) enum Peer {
    /// It speaks TLS and is served over it.
    Tls(Box<TlsStream<Socket>>),
    /// It speaks something else; nothing was read.
    Plain(Socket),
    /// It was the authority, and has got what it wanted.
    Served,
}

/// Counts a handshake when it ends, also when the caller's patience ends first.
struct Counted<'a> {
    counter: &'a AtomicU64,
}

impl<'a> Counted<'a> {
    fn completed(mut self, counter: &'a AtomicU64) {
        self.counter = counter;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes handshakes.
pub(super) struct Handshaker {
    config: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
    /// So many at once reckon with keys; the others wait in line. What they wait for takes a fraction of a millisecond, but a
    /// thousand of them together must not keep those waiting who are connected.
    reckoning: Semaphore,
    pub counts: Handshakes,
}

impl Handshaker {
    pub fn new(served: Arc<Served>, at_once: usize) -> Result<Handshaker, tokio_rustls::rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(served);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // What a resumed session needs travels with the client, under keys that change every six hours: nothing is kept here.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Handshaker {
            config: Arc::new(config),
            provider,
            reckoning: Semaphore::new(at_once.max(1)),
            counts: Handshakes::default(),
        })
    }

    /// Shakes hands. The caller bounds it in time.
    pub async fn accept(&self, socket: Socket, store: impl FnOnce() -> Option<CertificateStore>) -> io::Result<Peer> {
        if socket.first_byte().await?.is_some_and(|byte| byte != HANDSHAKE) {
            return Ok(Peer::Plain(socket));
        }
        let counted = Counted { counter: &self.counts.failed };
        let accepted = self.shake(socket, store).await;
        if accepted.is_ok() {
            counted.completed(&self.counts.completed);
        }
        accepted
    }

    async fn shake(&self, socket: Socket, store: impl FnOnce() -> Option<CertificateStore>) -> io::Result<Peer> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let hello = start.client_hello();
        let is_proof = hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ACME_TLS));
        if is_proof {
            let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
            let config = self.proof(&name, store()).await?;
            let mut stream = start.into_stream(config).await?;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
            return Ok(Peer::Served);
        }
        let accepting = {
            // Never closed; and the reckoning is done when into_stream returns.
            let _turn = self.reckoning.acquire().await.map_err(io::Error::other)?;
            start.into_stream(Arc::clone(&self.config))
        };
        let stream = accepting.await?;
        if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.counts.resumed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Peer::Tls(Box::new(stream)))
    }

    /// What proves to the authority that this name is ours, when it asked for that.
    async fn proof(&self, name: &str, store: Option<CertificateStore>) -> io::Result<Arc<ServerConfig>> {
        let unasked = || io::Error::new(io::ErrorKind::NotFound, "no proof of this name was asked for");
        let store = store.ok_or_else(unasked)?;
        let owned = name.to_owned();
        let digest = tokio::task::spawn_blocking(move || store.answer(Answer::Alpn { name: &owned })).await?;
        let digest: [u8; 32] =
            digest.and_then(|digest| const_hex::decode_to_array(digest.trim()).ok()).ok_or_else(unasked)?;
        let key = proof_certificate(name, &digest, &self.provider).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![ACME_TLS.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The certificate of TLS-ALPN-01: for this name, with this digest in an extension, signed by itself.
fn proof_certificate(
    name: &str,
    digest: &[u8; 32],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let signer = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}
