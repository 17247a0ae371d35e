//! Keeps the certificate good: looks at its files, or gets it from the authority and renews it. Runs in a thread of its own, which
//! may wait for files, and wakes every few seconds.
//!
//! A certificate is renewed at two thirds of its life, or earlier where the authority says so. What fails is tried again: soon
//! and then ever later when the authority cannot be reached, and seldom when it refused, for it counts how often it does (Let's
//! Encrypt five times per name and hour). That count is kept in a file, since a relay that is restarted must not begin anew.
//!
//! Relays over the same data take turns: one orders, the others find what it wrote.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::acme::{Authority, Failure, FailureKind, Proof};
use super::certificate::{Certificate, CertificateFault, Stamp};
use super::serve::Served;
use super::state::{CertificateError, CertificateState, Shown};
use super::store::CertificateStore;
use crate::config::{CertificateSource, Tls};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How often the authority is asked when it would have the certificate renewed, in seconds.
const ASK_WINDOW: u64 = 86_400;

/// A problem is said again after this many seconds.
const SAY_AGAIN: u64 = 86_400;

/// So many refused attempts are made within an hour, whatever is restarted meanwhile. Each may be two failed proofs.
const REFUSED_PER_HOUR: usize = 2;

const HOUR: u64 = 3_600;

/// What the operator wants: the settings, and a number that grows when all is to be looked at anew.
pub(super) type Wishes = watch::Receiver<(Tls, u64)>;

/// Keeps the certificate good.
pub(super) struct Keeper {
    data: PathBuf,
    wishes: Wishes,
    served: Arc<Served>,
    shown: Shown,
    /// The files as they were when they were read last.
    read: Option<(Vec<PathBuf>, Stamp)>,
    /// Attempts that failed in a row.
    failures: u32,
    /// Before this moment no attempt is made.
    next_attempt: u64,
    /// The proof that was taken last, or is to be tried.
    proof: Proof,
    /// When the authority would have the certificate renewed, and when to ask it again.
    window: Option<u64>,
    ask_window: u64,
    /// When a problem was told last.
    told: u64,
}

impl Keeper {
    pub fn new(data: PathBuf, wishes: Wishes, served: Arc<Served>, shown: Shown) -> Keeper {
        Keeper {
            data,
            wishes,
            served,
            shown,
            read: None,
            failures: 0,
            next_attempt: 0,
            proof: Proof::Alpn,
            window: None,
            ask_window: 0,
            told: 0,
        }
    }

    /// Reads what is there. With files of the operator's, an error is one to stop for.
    pub fn begin(&mut self) -> Result<(), CertificateFault> {
        let settings = self.wishes.borrow().0.clone();
        match settings.source() {
            Some(CertificateSource::Files) => self.read(&files(&settings, &self.data)),
            Some(CertificateSource::Acme) => {
                let files = files(&settings, &self.data);
                if files[0].exists()
                    && let Err(fault) = self.read(&files)
                {
                    tracing::warn!("the certificate that was kept cannot be used, so there will be a new one: {fault}");
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Goes on until the wishes end.
    pub async fn run(mut self) {
        let mut ended = self.wishes.clone();
        let gone = async move { while ended.changed().await.is_ok() {} };
        tokio::select! {
            () = self.go_on() => {}
            () = gone => {}
        }
    }

    async fn go_on(&mut self) {
        let mut number = self.wishes.borrow_and_update().1;
        loop {
            let (settings, now_number) = self.wishes.borrow_and_update().clone();
            if now_number != number {
                // The operator has changed something: that may have helped.
                number = now_number;
                (self.failures, self.next_attempt, self.read) = (0, 0, None);
            }
            match settings.source() {
                Some(CertificateSource::Files) => self.look_at_files(&settings),
                Some(CertificateSource::Acme) => self.look_at_authority(&settings).await,
                None => {}
            }
            self.say_problem();
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Reads the certificate and has it served.
    fn read(&mut self, files: &[PathBuf]) -> Result<(), CertificateFault> {
        // Noted before they are read: what changes meanwhile shows next time.
        self.read = Some((files.to_vec(), Stamp::of(files)));
        let certificate = Certificate::read(&files[0], files.last().unwrap_or(&files[0]))?;
        self.serve(certificate);
        Ok(())
    }

    fn serve(&self, certificate: Certificate) {
        let (names, begins, expires) = (certificate.names.clone(), certificate.begins, certificate.expires);
        // First served, then known: who sees the new state gets the new certificate.
        self.served.set(certificate);
        self.shown.update(|state| {
            (state.names, state.begins, state.expires) = (names, Some(begins), Some(expires));
            state.last_error = None;
        });
    }

    /// Whether the files are others than those that were read.
    fn has_changed(&self, files: &[PathBuf]) -> bool {
        self.read.as_ref().is_none_or(|(read, stamp)| read != files || *stamp != Stamp::of(files))
    }

    fn look_at_files(&mut self, settings: &Tls) {
        let files = files(settings, &self.data);
        self.shown.update(|state| (state.source, state.next_attempt) = (CertificateSource::Files, None));
        if !self.has_changed(&files) {
            return;
        }
        match self.read(&files) {
            Ok(()) => {
                self.failures = 0;
                tracing::info!("the certificate was read anew: {}", self.served_words());
                self.warn_of_uncovered(settings);
            }
            Err(fault) => {
                self.failures += 1;
                tracing::error!("the new certificate cannot be used, the one before stays in use: {fault}");
                self.note_failure(fault.to_string());
            }
        }
    }

    fn warn_of_uncovered(&self, settings: &Tls) {
        let Some(certificate) = self.served.get() else { return };
        for name in settings.names.iter().filter(|name| !certificate.covers(name)) {
            tracing::warn!("the certificate is not good for {name}, which tls.names lists: {}", self.served_words());
        }
    }

    async fn look_at_authority(&mut self, settings: &Tls) {
        let store = CertificateStore::of(&self.data, &settings.acme_directory);
        let files = files(settings, &self.data);
        self.shown.update(|state| state.source = CertificateSource::Acme);
        // Another relay over this data, or an administrator, may have put one there.
        if files[0].exists() && self.has_changed(&files) {
            match self.read(&files) {
                Ok(()) => tracing::info!("found {}", self.served_words()),
                Err(fault) => tracing::warn!("the certificate that was kept cannot be used: {fault}"),
            }
        }
        let now = now();
        let due = self.due(settings);
        if now < due || now < self.next_attempt {
            self.shown.update(|state| state.next_attempt = Some(due.max(self.next_attempt)));
            if now >= self.ask_window && due > now {
                self.ask_window(settings, &store, now).await;
            }
            return;
        }
        let refused = refusals(&store, now);
        if let [.., first, _] = refused[..] {
            // The operator may have been told already, by the process before this one.
            self.next_attempt = first + HOUR;
            self.shown.update(|state| state.next_attempt = Some(first + HOUR));
            tracing::warn!(
                "no attempt to get a certificate for {} min: the authority has refused {} in the last hour and allows few; \
                 what went wrong stands in the log",
                (first + HOUR).saturating_sub(now).div_ceil(60),
                refused.len()
            );
            return;
        }
        match store.turn() {
            // Another relay over this data orders: what it gets will be found.
            Ok(None) => {}
            Ok(Some(turn)) => {
                // It may have done so since the files were looked at.
                if self.has_changed(&files) && files[0].exists() {
                    return;
                }
                let replaced = self.served.get().filter(|old| settings.names.iter().any(|name| old.covers(name)));
                tracing::info!(
                    "asking {} for a certificate for {}",
                    settings.acme_directory,
                    settings.names.join(", ")
                );
                let identity = replaced.as_ref().and_then(|old| old.identity.as_ref());
                let got = match Authority::enter(settings, &store).await {
                    Ok(mut authority) => authority.order(&turn, self.proof, identity).await,
                    Err(failure) => Err(failure),
                };
                self.conclude(got, &store, &files);
            }
            Err(error) => self.conclude(Err(error.into()), &store, &files),
        }
    }

    /// When a certificate is to be got: now, when there is none for every name.
    fn due(&self, settings: &Tls) -> u64 {
        match self.served.get() {
            Some(certificate) if settings.names.iter().all(|name| certificate.covers(name)) => {
                certificate.two_thirds().min(self.window.unwrap_or(u64::MAX))
            }
            _ => 0,
        }
    }

    /// Asks when the certificate is to be renewed. Without an answer two thirds of its life count.
    async fn ask_window(&mut self, settings: &Tls, store: &CertificateStore, now: u64) {
        self.ask_window = now + ASK_WINDOW;
        let Some(certificate) = self.served.get() else { return };
        let Some(identity) = &certificate.identity else { return };
        if let Ok(authority) = Authority::enter(settings, store).await
            && let Some((first, last)) = authority.renewal_window(identity).await
        {
            // Not everybody in the same second.
            self.window = Some(first + random_below(last.saturating_sub(first).max(1)));
            tracing::debug!(first, last, "the authority says when to renew the certificate");
        }
    }

    fn conclude(&mut self, got: Result<(Certificate, Proof), Failure>, store: &CertificateStore, files: &[PathBuf]) {
        let now = now();
        match got {
            Ok((certificate, proof)) => {
                (self.failures, self.proof) = (0, proof);
                // Should the authority give one that is due at once, it is not asked for the next one without end.
                self.next_attempt = now + (certificate.expires.saturating_sub(now) / 3).min(HOUR);
                (self.window, self.ask_window) = (None, now + ASK_WINDOW);
                let _ = std::fs::remove_file(store.attempts());
                self.read = Some((files.to_vec(), Stamp::of(files)));
                let due = certificate.two_thirds().max(self.next_attempt);
                self.serve(certificate);
                self.shown.update(|state| state.next_attempt = Some(due));
                tracing::info!("new certificate: {}", self.served_words());
            }
            Err(Failure { message, kind }) => {
                self.failures += 1;
                if kind == FailureKind::Refused {
                    note_refusal(store, now);
                }
                self.next_attempt = now + pause(kind, self.failures, now, random_below(1_000));
                self.note_failure(message.clone());
                let wait = humantime::format_duration(Duration::from_secs(self.next_attempt - now));
                match self.shown.get().days_left(now) {
                    Some(days) => tracing::warn!(
                        "the certificate, which is good for {days} more days, could not be renewed; next attempt in {wait}: {message}"
                    ),
                    None => tracing::error!(
                        "no certificate yet, so nobody can connect with TLS; next attempt in {wait}: {message}"
                    ),
                }
            }
        }
    }

    fn note_failure(&self, message: String) {
        let (at, attempts, next) = (now(), self.failures, self.next_attempt);
        self.shown.update(|state| {
            state.last_error = Some(CertificateError { at, message, attempts });
            if state.source == CertificateSource::Acme {
                state.next_attempt = Some(next);
            }
        });
    }

    /// The certificate in words.
    fn served_words(&self) -> String {
        words(&self.shown.get())
    }

    /// Says what is wrong, but not all the time.
    fn say_problem(&mut self) {
        let now = now();
        let state = self.shown.get();
        match state.problem(now) {
            // Its attempts speak for themselves.
            Some(_) if state.expires.is_none() => {}
            Some(problem) if now >= self.told + SAY_AGAIN => {
                self.told = now;
                tracing::error!("{problem}");
            }
            Some(_) => {}
            None => self.told = 0,
        }
    }
}

/// A certificate in words: its names, and until when it counts.
pub(super) fn words(state: &CertificateState) -> String {
    let until = state.expires.map(|expires| UNIX_EPOCH + Duration::from_secs(expires));
    let until = until.map(|until| humantime::format_rfc3339_seconds(until).to_string()).unwrap_or_default();
    format!("a certificate for {}, good until {until}", state.names.join(", "))
}

/// The files of the certificate and its key.
pub(super) fn files(settings: &Tls, data: &std::path::Path) -> Vec<PathBuf> {
    match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => vec![certificate.clone(), key.clone()],
        _ => vec![CertificateStore::of(data, &settings.acme_directory).certificate()],
    }
}

/// How many seconds to wait after so many failures in a row. `noise` is below 1000 and spreads those who failed together.
fn pause(kind: FailureKind, failures: u32, now: u64, noise: u64) -> u64 {
    let doubled = |first: u64, most: u64| first.saturating_mul(1 << (failures.max(1) - 1).min(20)).min(most);
    let wait = match kind {
        FailureKind::Outage => doubled(10, HOUR),
        FailureKind::Refused => doubled(HOUR / 4, 8 * HOUR),
        FailureKind::Limited(until) => {
            let until =
                until.and_then(|until| until.duration_since(UNIX_EPOCH).ok()).map_or(0, |until| until.as_secs());
            doubled(HOUR, 8 * HOUR).max(until.saturating_sub(now))
        }
    };
    wait + wait * noise / 10_000
}

/// When the authority refused within the last hour, the latest at the end; those that count.
fn refusals(store: &CertificateStore, now: u64) -> Vec<u64> {
    let text = std::fs::read(store.attempts()).unwrap_or_default();
    let mut times: Vec<u64> = serde_json::from_slice(&text).unwrap_or_default();
    // A clock that was set back does not put it off for long.
    times.retain(|time| *time <= now && *time + HOUR > now);
    times
}

fn note_refusal(store: &CertificateStore, now: u64) {
    let mut times = refusals(store, now);
    times.push(now);
    let times = &times[times.len().saturating_sub(REFUSED_PER_HOUR)..];
    let written = serde_json::to_vec(times).map_err(std::io::Error::other);
    if let Err(error) = written.and_then(|bytes| store.write(&store.attempts(), &bytes)) {
        tracing::warn!("what the authority refused is forgotten at a restart: {error}");
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random_below(end: u64) -> u64 {
    getrandom::u64().map_or(0, |random| random % end.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_tried_again_soon_and_then_ever_later() {
        let outage = |failures| pause(FailureKind::Outage, failures, 0, 0);
        assert_eq!([1, 2, 3, 9, 10, 4_000_000].map(outage), [10, 20, 40, 2_560, 3_600, 3_600]);
        assert_eq!(pause(FailureKind::Outage, 10, 0, 999), 3_600 + 359, "and not by everybody at once");
    }

    #[test]
    fn who_was_refused_waits_long_and_as_long_as_the_authority_wants() {
        let refused = |failures| pause(FailureKind::Refused, failures, 0, 0) / 60;
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(refused), [15, 30, 60, 120, 240, 480, 480]);
        let limited =
            |until: u64| pause(FailureKind::Limited(Some(UNIX_EPOCH + Duration::from_secs(until))), 1, 1_000_000, 0);
        assert_eq!(limited(1_000_000 + 5 * HOUR), 5 * HOUR);
        assert_eq!(limited(5), HOUR);
        assert_eq!(pause(FailureKind::Limited(None), 9, 0, 0), 8 * HOUR);
    }

    #[test]
    fn the_authority_refuses_at_most_twice_in_an_hour_whoever_asks() {
        let data = tempfile::tempdir().unwrap();
        let store = CertificateStore::of(data.path(), "https://a.org");
        store.make().unwrap();
        assert!(refusals(&store, 100_000).is_empty());
        note_refusal(&store, 100_000);
        note_refusal(&store, 100_900);
        note_refusal(&store, 101_000);
        let other = CertificateStore::of(data.path(), "https://a.org");
        assert_eq!(refusals(&other, 101_000), [100_900, 101_000]);
        assert_eq!(refusals(&other, 100_900 + HOUR), [101_000]);
        assert!(refusals(&other, 50_000).is_empty(), "the clock was set back");
        std::fs::write(store.attempts(), "nonsense").unwrap();
        assert!(refusals(&other, 101_000).is_empty());
    }
}
