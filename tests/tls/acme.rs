//! With a certificate authority that is asked over ACME.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ratite::config::Config;
use ratite::server::CertificateState;
use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::pebble::{self, Pebble, Setting, free_port};
use crate::wire::process::{RelayProcess, ratite};
use crate::wire::tls::{client_config, open, shake_hands, try_shake_hands};
use crate::wire::{TestRelay, health, http};

const NAME: &str = "relay.test";

/// Nothing here takes as long: the longest wait is for a second attempt, after ten seconds or twenty.
const LONG: Duration = Duration::from_secs(120);

#[track_caller]
fn at_last(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LONG, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where a test takes place.
struct Scene {
    /// A relay's data folder.
    data: TempDir,
    setting: Setting,
}

/// `None` where there is no Pebble.
fn scene() -> Option<Scene> {
    pebble::is_here().then(|| Scene { data: tempfile::tempdir().unwrap(), setting: Setting::new() })
}

/// A relay that gets its certificate from there, with its data in this folder, where the authority looks for it.
fn relay(setting: &Setting, data: &Path, change: impl FnOnce(&mut Config)) -> TestRelay {
    TestRelay::with(|config| {
        config.storage.path = data.into();
        config.tls.names = vec![NAME.to_owned()];
        config.tls.email = "operator@relay.test".to_owned();
        config.tls.acme_directory = setting.directory();
        config.tls.acme_ca = Some(setting.authority_file());
        config.tls.listen = vec![([127, 0, 0, 1], setting.tls).into()];
        config.tls.http_listen = vec![([127, 0, 0, 1], setting.http).into()];
        config.listen.metrics = vec![([127, 0, 0, 1], 0).into()];
        change(config);
    })
}

fn state(relay: &TestRelay) -> CertificateState {
    relay.server().certificate().unwrap()
}

/// What monitors are told of attempts that failed.
fn failed_attempts(relay: &TestRelay) -> u64 {
    let page = http(relay.metrics_address(), b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    page.lines().find_map(|line| line.strip_prefix("ratite_certificate_failed_attempts ")).unwrap().parse().unwrap()
}

fn tls(relay: &TestRelay) -> SocketAddr {
    relay.server().listening().tls[0].tcp().unwrap()
}

/// The certificate that is served, as bytes.
fn served(relay: &TestRelay, client: &Arc<ClientConfig>) -> Vec<u8> {
    // A resumed session has that of the first one.
    let mut client = ClientConfig::clone(client);
    client.resumption = Resumption::disabled();
    shake_hands(&Arc::new(client), tls(relay), NAME).conn.peer_certificates().unwrap()[0].to_vec()
}

/// Waits for the certificate, and connects.
#[track_caller]
fn works(relay: &TestRelay, pebble: &Pebble) -> Arc<ClientConfig> {
    at_last("there is a certificate", || state(relay).expires.is_some());
    let client = client_config(&pebble.root(), &["http/1.1"]);
    open(&client, tls(relay), NAME).still_works();
    client
}

/// The only files that hold secrets, and who may read them.
fn assert_private(data: &Path) {
    let mut seen = 0;
    for folder in std::fs::read_dir(data.join("tls")).unwrap() {
        let folder = folder.unwrap().path();
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
            let name = file.file_name().into_string().unwrap();
            assert!(["account.json", "certificate.pem", "lock"].contains(&&*name), "{name} was left behind");
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn a_certificate_is_got_over_tls_and_kept() {
    let Some(Scene { data, mut setting, .. }) = scene() else { return };
    // Some requests have to be made twice.
    setting.environment.push(("PEBBLE_WFE_NONCEREJECT".into(), "15".into()));
    let pebble = setting.start();
    let first = {
        // Nothing on port 80: only the handshake can have proved the name.
        let relay = relay(&setting, data.path(), |config| config.tls.http_listen.clear());
        let client = works(&relay, &pebble);
        let state = state(&relay);
        assert_eq!((state.names, state.last_error), (vec![NAME.to_owned()], None));
        assert!(state.next_attempt.is_none_or(|next| next > state.begins.unwrap()));
        assert_private(data.path());
        served(&relay, &client)
    };
    let orders = pebble.orders();
    // Another start finds what was kept, and asks for nothing.
    let relay = relay(&setting, data.path(), |_| {});
    let client = works(&relay, &pebble);
    assert_eq!(served(&relay, &client), first);
    assert_eq!(pebble.orders(), orders);
}

#[test]
fn a_certificate_is_got_over_http_when_tls_does_not_reach_us() {
    let Some(Scene { data, setting, .. }) = scene() else { return };
    let pebble = setting.start();
    // The authority looks at another port than TLS is spoken on.
    let relay = relay(&setting, data.path(), |config| {
        config.tls.listen = vec![([127, 0, 0, 1], free_port()).into()];
        config.tls.names.push("second.test".to_owned());
    });
    let client = works(&relay, &pebble);
    open(&client, tls(&relay), "second.test").still_works();
    assert_eq!(pebble.orders(), 2, "one for each proof");
    assert_private(data.path());
    let answer = http(([127, 0, 0, 1], setting.http).into(), b"GET / HTTP/1.1\r\nHost: second.test\r\n\r\n");
    assert!(answer.contains("location: https://second.test:"), "{answer}");
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_served_at_once() {
    let Some(Scene { data, mut setting, .. }) = scene() else { return };
    setting.life = 30;
    // The second time the name needs no proof.
    setting.environment.push(("PEBBLE_AUTHZREUSE".into(), "100".into()));
    let pebble = setting.start();
    let relay = relay(&setting, data.path(), |_| {});
    at_last("there is a certificate", || state(&relay).expires.is_some());
    let first = state(&relay);
    let life = first.expires.unwrap() - first.begins.unwrap();
    assert!((29..=30).contains(&life), "{life} s");
    let client = client_config(&pebble.root(), &["http/1.1"]);
    let mut early = open(&client, tls(&relay), NAME);
    at_last("it is renewed", || state(&relay).expires > first.expires);
    let second = state(&relay);
    // Not before two thirds; how long after, the machine decides.
    assert!(second.begins.unwrap() >= first.begins.unwrap() + life * 2 / 3 - 2, "{first:?} {second:?}");
    // Whoever was connected has noticed nothing, whoever comes gets the new one.
    early.still_works();
    let newest = served(&relay, &client);
    let kept = std::fs::read_to_string(kept_certificate(data.path())).unwrap();
    let kept = CertificateDer::from_pem_slice(kept.as_bytes()).unwrap();
    // Unless it was renewed again between the two looks.
    assert!(newest == kept.as_ref() || pebble.orders() > 2);
    assert!(pebble.orders() >= 2);
}

/// Where the certificate of the only authority is kept.
fn kept_certificate(data: &Path) -> PathBuf {
    std::fs::read_dir(data.join("tls")).unwrap().next().unwrap().unwrap().path().join("certificate.pem")
}

#[test]
fn a_refused_name_is_asked_for_seldom_however_often_the_relay_is_restarted() {
    let Some(Scene { data, mut setting, .. }) = scene() else { return };
    setting.blocked = vec![NAME.to_owned()];
    let pebble = setting.start();
    for _ in 0..2 {
        let relay = relay(&setting, data.path(), |_| {});
        at_last("the refusal is known", || state(&relay).last_error.is_some());
        let state = state(&relay);
        let error = state.last_error.unwrap();
        assert!(error.message.starts_with("the certificate authority refuses: "), "{}", error.message);
        assert!(error.message.contains("policy"), "{}", error.message);
        assert!(state.next_attempt.unwrap() >= error.at + 900, "a quarter of an hour or more");
        assert_eq!(state.expires, None);
        // Everything else works; TLS says no, and says it quickly.
        relay.connect().still_works();
        assert!(try_shake_hands(&client_config(&pebble.root(), &[]), tls(&relay), NAME).is_err());
        let health = http(relay.address, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(health.contains("there is no certificate yet, so nobody can connect with TLS"), "{health}");
    }
    let asked = pebble.said("POST /order-plz");
    assert_eq!(asked, 2, "once for each start");
    let relay = relay(&setting, data.path(), |_| {});
    at_last("it knows when to try again", || state(&relay).next_attempt.is_some());
    // Nor when the operator insists.
    let mut settings = Config::default().tls;
    settings.names = vec![NAME.to_owned()];
    settings.email = "other@relay.test".to_owned();
    settings.acme_directory = setting.directory();
    settings.acme_ca = Some(setting.authority_file());
    relay.server().reload_certificate(&settings);
    // Another name may be had all the same, but not yet: the authority counts accounts as well.
    at_last("it has looked again", || state(&relay).next_attempt.is_some());
    assert_eq!(pebble.said("POST /order-plz"), asked);
}

#[test]
fn when_no_proof_is_found_the_operator_is_told_of_both_ways() {
    let Some(Scene { data, setting, .. }) = scene() else { return };
    let pebble = setting.start();
    let relay = relay(&setting, data.path(), |config| {
        config.tls.listen = vec![([127, 0, 0, 1], free_port()).into()];
        config.tls.http_listen = vec![([127, 0, 0, 1], free_port()).into()];
    });
    at_last("it has failed", || state(&relay).last_error.is_some());
    let message = state(&relay).last_error.unwrap().message;
    assert!(message.starts_with("the certificate authority could not see that relay.test is this relay"), "{message}");
    for words in [
        "over TLS on port 443: ",
        "; and over HTTP on port 80: ",
        "connection refused",
        "Does the name lead to this machine",
    ] {
        assert!(message.to_lowercase().contains(&words.to_lowercase()), "{words}: {message}");
    }
    assert_eq!(pebble.orders(), 2);
}

#[test]
fn an_outage_of_the_authority_is_waited_out() {
    let Some(Scene { data, setting, .. }) = scene() else { return };
    let relay = relay(&setting, data.path(), |_| {});
    at_last("it cannot be reached", || state(&relay).last_error.is_some());
    let failed = state(&relay);
    let error = failed.last_error.unwrap();
    assert!(
        error.message.starts_with("the certificate authority at localhost cannot be reached: "),
        "{}",
        error.message
    );
    assert!(failed.next_attempt.unwrap() <= error.at + 12, "soon again");
    assert!(failed_attempts(&relay) >= 1, "monitors see it");
    relay.connect().still_works();
    // Nobody tells the relay that it is back.
    let pebble = setting.start();
    let client = works(&relay, &pebble);
    assert_eq!(failed_attempts(&relay), 0);
    let certificate = served(&relay, &client);
    // Gone again, and back with no memory of any account: what is served goes on being served.
    drop(pebble);
    assert_eq!(served(&relay, &client), certificate);
    let pebble = setting.start();
    let mut settings = Config::default().tls;
    settings.names = vec![NAME.to_owned(), "more.test".to_owned()];
    settings.email = "operator@relay.test".to_owned();
    settings.acme_directory = setting.directory();
    settings.acme_ca = Some(setting.authority_file());
    // Another name in the configuration means another certificate, from a new account, with no restart.
    let mut early = open(&client, tls(&relay), NAME);
    relay.server().reload_certificate(&settings);
    at_last("there is one for both names", || state(&relay).names.len() == 2);
    let client = client_config(&pebble.root(), &["http/1.1"]);
    open(&client, tls(&relay), "more.test").still_works();
    early.still_works();
}

#[test]
fn two_relays_that_share_their_ports_order_once_and_either_proves_the_names() {
    let Some(Scene { data, setting, .. }) = scene() else { return };
    let names: Vec<String> = (0..8).map(|i| format!("n{i}.test")).collect();
    let start = || {
        RelayProcess::with(data.path(), |command| {
            command.envs([
                ("RATITE_TLS_NAMES", names.join(",")),
                ("RATITE_TLS_EMAIL", "operator@relay.test".to_owned()),
                ("RATITE_TLS_ACME_DIRECTORY", setting.directory()),
                ("RATITE_TLS_ACME_CA", setting.authority_file().display().to_string()),
                ("RATITE_TLS_LISTEN", format!("127.0.0.1:{}", setting.tls)),
                ("RATITE_TLS_HTTP_LISTEN", format!("127.0.0.1:{}", setting.http)),
                ("RATITE_LISTEN_DRAIN_WAIT", "3600".to_owned()),
            ]);
        })
    };
    // Both are there before the authority is: each of its visits comes to one of them, as the system likes.
    let (first, second) = (start(), start());
    let pebble = setting.start();
    let days = |relay: &RelayProcess| health(relay.address).1["certificate_days"].as_i64();
    at_last("both have the certificate", || days(&first).is_some() && days(&second).is_some());
    assert_eq!(pebble.orders(), 1);
    let client = client_config(&pebble.root(), &["http/1.1"]);
    let address = SocketAddr::from(([127, 0, 0, 1], setting.tls));
    let mut certificates = BTreeSet::new();
    let mut clients: Vec<_> = (0..20)
        .map(|i| {
            let socket = open(&client, address, &names[i % names.len()]);
            certificates.insert(socket.stream.conn.peer_certificates().unwrap()[0].to_vec());
            socket
        })
        .collect();
    assert_eq!(certificates.len(), 1);
    let websockets = |relay: &RelayProcess| health(relay.address).1["connections"].as_u64().unwrap();
    assert_eq!(websockets(&first) + websockets(&second), 20);

    // The first hands over: whoever is there stays, whoever comes is the second's.
    let drained = ratite(data.path(), &["drain"]).output().unwrap();
    assert!(drained.status.success(), "{drained:?}");
    clients.extend((0..10).map(|_| open(&client, address, &names[0])));
    clients.iter_mut().for_each(|client| client.still_works());
    assert!(websockets(&second) >= 10);
}
