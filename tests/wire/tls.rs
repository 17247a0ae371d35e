//! A certificate authority of our own, and a client that trusts it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{HANDSHAKE, PATIENCE, Socket};

/// An encrypted connection, seen from the client.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: String,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for these names, and its key, as PEM.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_with(names, |_| {})
    }

    /// One that is good between these two moments, in Unix seconds.
    pub fn issue_between(&self, names: &[&str], begins: u64, expires: u64) -> (String, String) {
        let time = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        self.issue_with(names, |params| (params.not_before, params.not_after) = (time(begins), time(expires)))
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes both into this folder, each at once, and returns the paths.
    pub fn issue_into(&self, folder: &Path, names: &[&str]) -> (PathBuf, PathBuf) {
        write_into(folder, &self.issue(names))
    }

    /// Its own certificate, in a file.
    pub fn write_certificate(&self, folder: &Path) -> PathBuf {
        let path = folder.join("authority.pem");
        write_at_once(&path, &self.certificate);
        path
    }
}

/// Writes a certificate and its key into this folder, each at once, and returns the paths.
pub fn write_into(folder: &Path, (certificate, key): &(String, String)) -> (PathBuf, PathBuf) {
    let paths = (folder.join("certificate.pem"), folder.join("key.pem"));
    write_at_once(&paths.1, key);
    write_at_once(&paths.0, certificate);
    paths
}

/// Writes a file so that nobody finds half of it.
pub fn write_at_once(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// A client that trusts these certificates, as PEM, and says that it speaks these protocols.
pub fn client_config(roots: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects and shakes hands, asking for this name.
pub fn try_shake_hands(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> std::io::Result<TlsStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// The same; must succeed.
#[track_caller]
pub fn shake_hands(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> TlsStream {
    try_shake_hands(config, address, name).unwrap()
}

/// A WebSocket over TLS.
#[track_caller]
pub fn open(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> Socket<TlsStream> {
    let request = HANDSHAKE.replace("Host: relay", &format!("Host: {name}"));
    Socket::on(shake_hands(config, address, name), request.as_bytes())
}
