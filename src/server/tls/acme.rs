//! One attempt to get a certificate from the authority (RFC 8555).
//!
//! Of the two ways to prove a name, TLS-ALPN-01 on port 443 and HTTP-01 on port 80, one is tried and then the other: a failed proof
//! ends its order.

use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use serde::{Deserialize, Serialize};

use super::certificate::{Certificate, CertificateFault};
use super::client::{AuthorityClient, Patience, Unreachable};
use super::store::{Answer, CertificateStore, Turn};
use crate::config::Tls;

/// How long the authority may take to look for proof, and to sign.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(120));

/// A way to prove a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// In a handshake on port 443.
    Alpn,
    /// In a page on port 80.
    Http,
}

impl Proof {
    fn challenge(self) -> ChallengeType {
        match self {
            Proof::Alpn => ChallengeType::TlsAlpn01,
            Proof::Http => ChallengeType::Http01,
        }
    }

    fn other(self) -> Proof {
        match self {
            Proof::Alpn => Proof::Http,
            Proof::Http => Proof::Alpn,
        }
    }

    /// As people know it.
    fn name(self) -> &'static str {
        match self {
            Proof::Alpn => "over TLS on port 443",
            Proof::Http => "over HTTP on port 80",
        }
    }
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failure {
    /// Sentences for the operator.
    pub message: String,
    pub kind: FailureKind,
}

/// What a failure means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The authority cannot be reached, or is out of order. It has counted nothing against us.
    Outage,
    /// It said no, and counts how often it does.
    Refused,
    /// It wants to be left alone until then, or for a while.
    Limited(Option<SystemTime>),
}

impl Failure {
    fn outage(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), kind: FailureKind::Outage }
    }

    fn refused(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), kind: FailureKind::Refused }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::outage(format!("the data folder cannot be written to: {}", crate::config::plain(&error)))
    }
}

impl From<CertificateFault> for Failure {
    fn from(fault: CertificateFault) -> Failure {
        Failure::outage(fault)
    }
}

impl Failure {
    fn of(error: Error, patience: &Patience) -> Failure {
        let kind = match &error {
            Error::Api(problem) => match problem.r#type.as_deref().and_then(|name| name.rsplit(':').next()) {
                Some("rateLimited") => FailureKind::Limited(patience.until()),
                Some("serverInternal" | "badNonce") => FailureKind::Outage,
                _ => FailureKind::Refused,
            },
            _ => FailureKind::Outage,
        };
        let message = match &error {
            Error::Api(problem) => {
                let mut words = vec![problem.detail.clone().unwrap_or_else(|| error.to_string())];
                words.extend(problem.subproblems.iter().filter_map(|sub| sub.detail.clone()));
                format!("the certificate authority refuses: {}", words.join("; "))
            }
            Error::Other(other) if other.is::<Unreachable>() => format!("the certificate authority at {other}"),
            // An answer that is no JSON: a page that says what is wrong, as a rule.
            Error::Json(_) => {
                "the certificate authority is out of order: it answers with something that is no ACME".into()
            }
            Error::Timeout(_) => "the certificate authority did not come to a decision in time".into(),
            error => format!("the certificate authority answers with something that cannot be used: {error}"),
        };
        Failure { message, kind }
    }
}

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    email: String,
    credentials: AccountCredentials,
}

/// The authority, asked on behalf of one configuration.
pub(super) struct Authority<'a> {
    settings: &'a Tls,
    store: &'a CertificateStore,
    patience: Patience,
    account: Account,
}

impl<'a> Authority<'a> {
    /// Enters with the account that is kept, or a new one.
    pub async fn enter(settings: &'a Tls, store: &'a CertificateStore) -> Result<Authority<'a>, Failure> {
        store.make()?;
        let patience = Patience::default();
        let kept = std::fs::read(store.account()).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let account = match kept {
            Some(Kept { email, credentials }) => {
                let credentials_again = serde_json::to_value(&credentials).map_err(Failure::outage)?;
                let account = builder(settings, &patience)?
                    .from_credentials(credentials)
                    .await
                    .map_err(|error| Failure::of(error, &patience))?;
                if email != settings.email {
                    let contact = format!("mailto:{}", settings.email);
                    account.update_contacts(&[&contact]).await.map_err(|error| Failure::of(error, &patience))?;
                    let credentials = serde_json::from_value(credentials_again).map_err(Failure::outage)?;
                    keep(settings, store, credentials)?;
                }
                account
            }
            None => open_account(settings, store, &patience).await?,
        };
        Ok(Authority { settings, store, patience, account })
    }

    /// From when on the authority would have a certificate renewed, if it says so (RFC 9773): seconds since 1970, first and last.
    pub async fn renewal_window(&self, identity: &(Vec<u8>, Vec<u8>)) -> Option<(u64, u64)> {
        let (info, _) = self.account.renewal_info(&identifier(identity)).await.ok()?;
        let window = info.suggested_window;
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        Some((seconds(window.start.unix_timestamp()), seconds(window.end.unix_timestamp())))
    }

    /// Gets a certificate, and which proof it was given for. `first` is the proof to try first; `replaces` the certificate that it
    /// takes the place of. It is written to the store.
    pub async fn order(
        &mut self,
        turn: &Turn,
        first: Proof,
        replaces: Option<&(Vec<u8>, Vec<u8>)>,
    ) -> Result<(Certificate, Proof), Failure> {
        let mut said = Vec::new();
        for proof in [first, first.other()] {
            let result = self.order_by(proof, replaces).await;
            self.store.clear_answers(turn);
            match result {
                Ok(certificate) => return Ok((certificate, proof)),
                Err(Stop::Unproven(why)) => said.push(format!("{}: {why}", proof.name())),
                Err(Stop::Failed(failure)) if said.is_empty() => return Err(failure),
                // The first proof was looked for and not found; what came then does not make that undone.
                Err(Stop::Failed(failure)) => said.push(format!("{}: {}", proof.name(), failure.message)),
            }
        }
        Err(Failure::refused(format!(
            "the certificate authority could not see that {} is this relay. It looked {}. Does the name lead to this machine, and do \
             ports 443 and 80 reach it from everywhere?",
            self.settings.names.join(", "),
            said.join("; and ")
        )))
    }

    async fn order_by(&mut self, proof: Proof, replaces: Option<&(Vec<u8>, Vec<u8>)>) -> Result<Certificate, Stop> {
        let mut order = self.new_order(replaces).await?;
        self.put_proofs(&mut order, proof).await?;
        let status = match order.poll_ready(&POLLING).await {
            Ok(status) => status,
            // The order's own words say less than those of the proof.
            Err(Error::Api(problem)) => match self.complaint(&mut order).await {
                Some(complaint) => return Err(Stop::Unproven(complaint)),
                None => return Err(self.failed(Error::Api(problem))),
            },
            Err(error) => return Err(self.failed(error)),
        };
        if status != OrderStatus::Ready {
            let complaint = self.complaint(&mut order).await;
            return Err(Stop::Unproven(complaint.unwrap_or_else(|| "it does not say why".into())));
        }
        let key = order.finalize().await.map_err(|error| self.failed(error))?;
        let chain = order.poll_certificate(&POLLING).await.map_err(|error| self.failed(error))?;
        let path = self.store.certificate();
        let certificate = Certificate::parse(chain.as_bytes(), key.as_bytes(), &path, &path).map_err(Failure::from)?;
        self.store.write(&path, format!("{key}{chain}").as_bytes()).map_err(Failure::from)?;
        Ok(certificate)
    }

    async fn new_order(&mut self, replaces: Option<&(Vec<u8>, Vec<u8>)>) -> Result<Order, Stop> {
        let names: Vec<Identifier> = self.settings.names.iter().cloned().map(Identifier::Dns).collect();
        if let Some(identity) = replaces
            && let Ok(order) = self.account.new_order(&NewOrder::new(&names).replaces(identifier(identity))).await
        {
            return Ok(order);
        }
        // Also when the authority knows nothing of the certificate to replace, or of replacing.
        let wanted = NewOrder::new(&names);
        match self.account.new_order(&wanted).await {
            Ok(order) => Ok(order),
            // It has forgotten us: a test server began anew, or somebody closed the account.
            Err(Error::Api(problem)) if is_about_the_account(&problem) => {
                self.account = open_account(self.settings, self.store, &self.patience).await?;
                self.account.new_order(&wanted).await.map_err(|error| self.failed(error))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Has every name proved that is not proved yet.
    async fn put_proofs(&self, order: &mut Order, proof: Proof) -> Result<(), Stop> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failed(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(proof.challenge()) else {
                return Err(Stop::Unproven(format!("it does not look for {name} in this way")));
            };
            let authorized = challenge.key_authorization();
            let put = match proof {
                Proof::Http => self.store.put_answer(Answer::Http { token: &challenge.token }, authorized.as_str()),
                Proof::Alpn => {
                    self.store.put_answer(Answer::Alpn { name: &name }, &const_hex::encode(authorized.digest()))
                }
            };
            put.map_err(Failure::from)?;
            challenge.set_ready().await.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// What the authority says about the proofs that it did not find.
    async fn complaint(&self, order: &mut Order) -> Option<String> {
        let mut complaints = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let Ok(mut authorization) = authorization else { continue };
            let Ok(state) = authorization.refresh().await else { continue };
            for challenge in &state.challenges {
                if let Some(problem) = &challenge.error {
                    complaints.push(problem.detail.clone().unwrap_or_else(|| problem.to_string()));
                }
            }
        }
        (!complaints.is_empty()).then(|| complaints.join("; "))
    }

    fn failed(&self, error: Error) -> Stop {
        Stop::Failed(Failure::of(error, &self.patience))
    }
}

/// Why an order ends.
enum Stop {
    /// The authority looked for proof and did not find it: the other kind may do.
    Unproven(String),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

fn identifier((issuer, serial): &(Vec<u8>, Vec<u8>)) -> CertificateIdentifier<'static> {
    CertificateIdentifier::new(issuer.as_slice().into(), serial.as_slice().into()).into_owned()
}

fn is_about_the_account(problem: &instant_acme::Problem) -> bool {
    let kind = problem.r#type.as_deref().and_then(|name| name.rsplit(':').next());
    matches!(kind, Some("accountDoesNotExist" | "unauthorized"))
}

fn builder(settings: &Tls, patience: &Patience) -> Result<instant_acme::AccountBuilder, Failure> {
    let client = AuthorityClient::new(settings.acme_ca.as_deref(), patience.clone())?;
    Ok(Account::builder_with_http(Box::new(client)))
}

/// Opens an account, under a key of its own, and keeps it.
async fn open_account(settings: &Tls, store: &CertificateStore, patience: &Patience) -> Result<Account, Failure> {
    let contact = format!("mailto:{}", settings.email);
    let wanted = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder(settings, patience)?
        .create(&wanted, settings.acme_directory.clone(), None)
        .await
        .map_err(|error| Failure::of(error, patience))?;
    keep(settings, store, credentials)?;
    Ok(account)
}

fn keep(settings: &Tls, store: &CertificateStore, credentials: AccountCredentials) -> Result<(), Failure> {
    let kept = Kept { email: settings.email.clone(), credentials };
    let bytes = serde_json::to_vec(&kept).map_err(Failure::outage)?;
    Ok(store.write(&store.account(), &bytes)?)
}

#[cfg(test)]
mod tests;
