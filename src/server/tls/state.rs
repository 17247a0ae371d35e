//! What is known of the relay's certificate: for the log, `/health`, metrics and those who look for what is wrong.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::CertificateSource;

/// A day in seconds.
const DAY: u64 = 86_400;

/// A certificate that ends this soon is a problem, whoever is to renew it: by then every ordinary attempt has failed, or
/// nobody has made one.
const SOON: u64 = 7 * DAY;

/// What is known of the relay's certificate at one moment. All times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// Where it comes from.
    pub source: CertificateSource,
    /// The names in the certificate that is served; those that are asked for while there is none.
    pub names: Vec<String>,
    /// From when on the certificate that is served counts; `None` while there is none.
    pub begins: Option<u64>,
    /// Until when it counts; `None` while there is none, and every handshake is refused.
    pub expires: Option<u64>,
    /// The last attempt to get or read one, when it failed.
    pub last_error: Option<CertificateError>,
    /// When the next attempt is due; `None` with files, which are read when they change.
    pub next_attempt: Option<u64>,
}

/// An attempt to get or read a certificate that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateError {
    /// When.
    pub at: u64,
    /// Why, and what to do about it: sentences for the operator.
    pub message: String,
    /// How many attempts have failed in a row.
    pub attempts: u32,
}

impl CertificateState {
    /// Nothing is known yet.
    pub fn unknown(source: CertificateSource, names: Vec<String>) -> CertificateState {
        CertificateState { source, names, begins: None, expires: None, last_error: None, next_attempt: None }
    }

    /// Whole days until the certificate ends, negative when it has; `None` while there is none.
    pub fn days_left(&self, now: u64) -> Option<i64> {
        let left = i128::from(self.expires?) - i128::from(now);
        i64::try_from(left.div_euclid(i128::from(DAY))).ok()
    }

    /// What is wrong, in a sentence: clients cannot connect, or soon cannot. A failed attempt to renew is none as long as
    /// there is time for others.
    pub fn problem(&self, now: u64) -> Option<String> {
        let why = self.last_error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
        match self.expires {
            None => Some(format!("there is no certificate yet, so nobody can connect with TLS{why}")),
            Some(expires) if expires <= now => Some(format!("the certificate has expired, so clients refuse it{why}")),
            Some(expires) if expires - now < self.margin() => {
                Some(format!("the certificate ends in {} h and is not renewed yet{why}", (expires - now) / 3_600))
            }
            Some(_) => None,
        }
    }

    /// How long before the end the certificate is a problem: a week, and less for one that does not live for a month.
    fn margin(&self) -> u64 {
        let life = self.expires.unwrap_or(0).saturating_sub(self.begins.unwrap_or(0));
        SOON.min(life / 6)
    }
}

/// The state as its owner keeps it up to date and others look at it.
#[derive(Clone, Debug)]
pub(in crate::server) struct Shown(Arc<Mutex<CertificateState>>);

impl Shown {
    pub(super) fn new(state: CertificateState) -> Shown {
        Shown(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, CertificateState> {
        // Plain data, consistent between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of this moment.
    pub(in crate::server) fn get(&self) -> CertificateState {
        self.lock().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut CertificateState)) {
        change(&mut self.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_a_problem_when_clients_refuse_it_or_soon_will() {
        let mut state = CertificateState::unknown(CertificateSource::Acme, vec!["relay.test".into()]);
        assert!(state.problem(0).unwrap().starts_with("there is no certificate yet"));
        assert_eq!(state.days_left(0), None);
        state.last_error = Some(CertificateError { at: 5, message: "no route".into(), attempts: 1 });
        assert!(state.problem(0).unwrap().ends_with(": no route"));

        (state.begins, state.expires) = (Some(100 * DAY), Some(190 * DAY));
        assert_eq!(state.days_left(100 * DAY), Some(90));
        assert_eq!(state.days_left(100 * DAY + 1), Some(89));
        // An attempt failed, but there is time.
        assert_eq!(state.problem(182 * DAY), None);
        assert_eq!(state.problem(184 * DAY).unwrap(), "the certificate ends in 144 h and is not renewed yet: no route");
        assert_eq!(state.days_left(190 * DAY), Some(0));
        assert_eq!(state.days_left(190 * DAY + 1), Some(-1));
        assert!(state.problem(190 * DAY).unwrap().starts_with("the certificate has expired"));

        // One that lives for six days is renewed after four.
        (state.begins, state.expires) = (Some(100 * DAY), Some(106 * DAY));
        assert_eq!(state.problem(104 * DAY + DAY / 2), None);
        assert!(state.problem(105 * DAY + 1).is_some());
    }
}
