//! TLS: the relay's certificate, where it comes from, and the handshakes that it is for.
//!
//! | file | what |
//! |---|---|
//! | `serve` | handshakes |
//! | `stream` | a connection with TLS or without |
//! | `keeper` | keeps the certificate good: reads it, gets it, renews it |
//! | `acme` | one attempt to get it from a certificate authority |
//! | `client` | requests to the authority |
//! | `store` | what is kept in the data folder |
//! | `certificate` | a certificate with its key |
//! | `state` | what is known of the certificate |

mod acme;
mod certificate;
mod client;
mod keeper;
mod serve;
mod state;
mod store;
mod stream;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

pub use certificate::CertificateFault;
pub(super) use client::trusting;
pub use serve::Handshakes;
pub(super) use serve::Peer;
pub use state::{CertificateError, CertificateState};
pub(super) use stream::Stream;

use super::socket::Socket;
use crate::config::{self, Config};
use certificate::Certificate;
use keeper::Keeper;
use serve::{Handshaker, Served};
use state::Shown;
use store::{Answer, CertificateStore};

/// Stack of the keeper's thread. Nothing in it recurses; only pages that are touched count.
const THREAD_STACK: usize = 512 * 1024;

/// The relay's TLS, as long as it serves.
pub(super) struct Tls {
    data: PathBuf,
    /// What the operator wants. The keeper ends with it.
    wishes: watch::Sender<(config::Tls, u64)>,
    served: Arc<Served>,
    shown: Shown,
    handshaker: Handshaker,
}

impl Tls {
    /// Reads the certificate and begins to keep it good; `None` when TLS is off. `at_once` handshakes may reckon at the same time.
    pub fn start(config: &Config, at_once: usize) -> Result<Option<Tls>, CertificateFault> {
        let Some(source) = config.tls.source() else { return Ok(None) };
        let system = |error: &dyn std::fmt::Display| CertificateFault::new(format!("cannot begin with TLS: {error}"));
        let (wishes, watched) = watch::channel((config.tls.clone(), 0));
        let served = Arc::new(Served::default());
        let shown = Shown::new(CertificateState::unknown(source, config.tls.names.clone()));
        let handshaker = Handshaker::new(Arc::clone(&served), at_once).map_err(|error| system(&error))?;
        let data = config.storage.path.clone();
        let mut keeper = Keeper::new(data.clone(), watched, Arc::clone(&served), shown.clone());
        keeper.begin()?;
        // A runtime of its own: this work may wait for files and for names, and nobody else's may wait for it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(|error| system(&error))?;
        std::thread::Builder::new()
            .name("ratite-tls".to_owned())
            .stack_size(THREAD_STACK)
            .spawn(move || {
                runtime.block_on(keeper.run());
                // A look-up of names that hangs keeps nobody.
                runtime.shutdown_background();
            })
            .map_err(|error| system(&error))?;
        Ok(Some(Tls { data, wishes, served, shown, handshaker }))
    }

    /// What is known of the certificate.
    pub fn state(&self) -> CertificateState {
        self.shown.get()
    }

    /// The handshakes since the start.
    pub fn handshakes(&self) -> &Handshakes {
        &self.handshaker.counts
    }

    /// Looks at everything anew, with these settings: files are read, and an attempt that was put off is made. Where to listen is not
    /// among what can change. Returns at once.
    pub fn reload(&self, settings: &config::Tls) {
        self.wishes.send_modify(|(wanted, number)| {
            *wanted = settings.clone();
            *number += 1;
        });
    }

    /// Shakes hands with whoever connected to a TLS port. The caller bounds it in time.
    pub async fn accept(&self, socket: Socket) -> io::Result<Peer> {
        self.handshaker.accept(socket, || self.store()).await
    }

    /// What a challenge for this token is answered with (HTTP-01), when it is one of ours.
    pub async fn answer(&self, token: &str) -> Option<String> {
        let (store, token) = (self.store()?, token.to_owned());
        tokio::task::spawn_blocking(move || store.answer(Answer::Http { token: &token })).await.ok()?
    }

    /// Whether the certificate is good for this name.
    pub fn covers(&self, name: &str) -> bool {
        self.served.get().is_some_and(|certificate| certificate.covers(name))
    }

    fn store(&self) -> Option<CertificateStore> {
        let settings = &self.wishes.borrow().0;
        let asks = settings.source() == Some(config::CertificateSource::Acme);
        asks.then(|| CertificateStore::of(&self.data, &settings.acme_directory))
    }
}

/// What is known of the certificate without the relay that serves it: the files of this configuration are read and checked. `None` when
/// TLS is off.
///
/// # Errors
///
/// When there are files and they cannot be used. A certificate that is still to come is no error: then
/// [`CertificateState::expires`] is `None`.
pub fn inspect_certificate(settings: &config::Tls, data: &Path) -> Result<Option<CertificateState>, CertificateFault> {
    let Some(source) = settings.source() else { return Ok(None) };
    let mut state = CertificateState::unknown(source, settings.names.clone());
    let files = keeper::files(settings, data);
    if source == config::CertificateSource::Files || files[0].exists() {
        let certificate = Certificate::read(&files[0], files.last().unwrap_or(&files[0]))?;
        (state.begins, state.expires) = (Some(certificate.begins), Some(certificate.expires));
        state.names = certificate.names;
    }
    Ok(Some(state))
}
