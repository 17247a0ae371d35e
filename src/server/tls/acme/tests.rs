//! What pebble of Debian 12 does not know: renewal information (RFC 9773), from an authority made for it. Everything else is tested
//! against pebble, from outside.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use super::*;

/// An authority that answers these paths with these documents; returns its directory, and where it notes what was asked.
async fn authority(folder: &std::path::Path, pages: Vec<(&'static str, String)>) -> (String, Arc<Mutex<Vec<String>>>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (notes, its_base) = (Arc::clone(&asked), base.clone());
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut request = Vec::new();
            while !request.windows(4).any(|four| four == b"\r\n\r\n")
                && stream.read_buf(&mut request).await.unwrap() > 0
            {}
            let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap().to_owned();
            let page = pages.iter().find(|(prefix, _)| path.starts_with(prefix));
            let (status, body) =
                page.map_or((404, "{}".to_owned()), |(_, body)| (200, body.replace("BASE", &its_base)));
            let head = format!("HTTP/1.1 {status} X\r\nRetry-After: 21600\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
            notes.lock().unwrap().push(path);
        }
    });
    (format!("{base}/dir"), asked)
}

fn directory(renewal_info: bool) -> String {
    let mut directory = json!({"newNonce": "BASE/nonce", "newAccount": "BASE/account", "newOrder": "BASE/order"});
    if renewal_info {
        directory["renewalInfo"] = "BASE/renewal-info".into();
    }
    directory.to_string()
}

/// Enters with an account that is kept already.
async fn window(folder: &std::path::Path, directory: String) -> Option<(u64, u64)> {
    let settings = Tls {
        names: vec!["relay.test".to_owned()],
        email: "a@b.c".to_owned(),
        acme_ca: Some(folder.join("ca.pem")),
        acme_directory: directory,
        ..Tls::default()
    };
    let store = CertificateStore::of(folder, &settings.acme_directory);
    store.make().unwrap();
    let key = BASE64_URL_SAFE_NO_PAD.encode(KeyPair::generate().unwrap().serialize_der());
    let kept =
        json!({"email": "a@b.c", "credentials": {"id": "x", "key_pkcs8": key, "directory": settings.acme_directory}});
    store.write(&store.account(), kept.to_string().as_bytes()).unwrap();
    let authority = Authority::enter(&settings, &store).await.unwrap_or_else(|failure| panic!("{}", failure.message));
    authority.renewal_window(&(vec![1, 2, 3], vec![0, 0x87])).await
}

#[tokio::test]
async fn the_authority_is_asked_when_to_renew() {
    let folder = tempfile::tempdir().unwrap();
    let info = json!({"suggestedWindow": {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}}).to_string();
    let (directory, asked) = authority(folder.path(), vec![("/dir", directory(true)), ("/renewal-info/", info)]).await;
    assert_eq!(window(folder.path(), directory).await, Some((1_772_323_200, 1_772_409_600)));
    assert_eq!(*asked.lock().unwrap(), ["/dir", "/renewal-info/AQID.AIc"]);
}

#[tokio::test]
async fn without_an_answer_two_thirds_of_the_life_count() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, _) = authority(folder.path(), vec![("/dir", directory(false))]).await;
    assert_eq!(window(folder.path(), plain).await, None);
    let (broken, _) = authority(folder.path(), vec![("/dir", directory(true)), ("/renewal-info/", "{".into())]).await;
    assert_eq!(window(folder.path(), broken).await, None);
}

#[tokio::test]
async fn an_authority_that_is_out_of_order_is_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let (directory, _) =
        authority(folder.path(), vec![("/dir", "<html>We are down for maintenance</html>".into())]).await;
    let settings = Tls {
        names: vec!["relay.test".to_owned()],
        email: "a@b.c".to_owned(),
        acme_ca: Some(folder.path().join("ca.pem")),
        acme_directory: directory,
        ..Tls::default()
    };
    let store = CertificateStore::of(folder.path(), &settings.acme_directory);
    let Err(failure) = Authority::enter(&settings, &store).await else { panic!("entered") };
    assert_eq!(failure.kind, FailureKind::Outage);
    assert!(failure.message.starts_with("the certificate authority is out of order"), "{}", failure.message);
}

#[test]
fn what_the_authority_says_decides_when_it_is_asked_again() {
    let of = |kind: &str| {
        let problem = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "words", "status": 400});
        Failure::of(Error::Api(serde_json::from_value(problem).unwrap()), &Patience::default())
    };
    assert_eq!(of("rateLimited").kind, FailureKind::Limited(None));
    assert_eq!(of("serverInternal").kind, FailureKind::Outage);
    assert_eq!(of("badNonce").kind, FailureKind::Outage);
    assert_eq!(of("rejectedIdentifier").kind, FailureKind::Refused);
    assert_eq!(of("caa").message, "the certificate authority refuses: words");
}
