//! A certificate with its key: read from PEM, checked, and what it says of itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectAltName};

use crate::config::plain;

/// No chain is this long; what is longer is some other file.
const MOST_BYTES: u64 = 1 << 20;

/// Why a certificate cannot be used: a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CertificateFault(String);

impl CertificateFault {
    pub(super) fn new(message: String) -> CertificateFault {
        CertificateFault(message)
    }

    fn of(path: &Path, why: impl std::fmt::Display) -> CertificateFault {
        CertificateFault(format!("{}: {why}", path.display()))
    }
}

/// A certificate that fits its key.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// The chain and the key, as handshakes need them.
    pub key: Arc<CertifiedKey>,
    /// Its host names, in lower case.
    pub names: Vec<String>,
    /// From when on it counts, in seconds since 1970.
    pub begins: u64,
    /// Until when it counts, in seconds since 1970.
    pub expires: u64,
    /// What its authority knows it by (RFC 9773): its issuer's key identifier and its serial number, the contents of their DER.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificate {
    /// Reads a chain, the relay's own certificate first, and its private key; they may stand in one file. Errors name the file.
    pub fn read(chain: &Path, key: &Path) -> Result<Certificate, CertificateFault> {
        let chain_text = read(chain)?;
        let key_text = if key == chain { chain_text.clone() } else { read(key)? };
        Certificate::parse(&chain_text, &key_text, chain, key)
    }

    /// Makes one of PEM texts; the paths are for the errors.
    pub fn parse(
        chain: &[u8],
        key: &[u8],
        chain_path: &Path,
        key_path: &Path,
    ) -> Result<Certificate, CertificateFault> {
        let of_chain = |why: String| CertificateFault::of(chain_path, why);
        let of_key = |why: String| CertificateFault::of(key_path, why);
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| of_chain(format!("this is not PEM: {}", pem_words(&error))))?;
        if certificates.is_empty() {
            return Err(of_chain("there is no certificate in this file (BEGIN CERTIFICATE)".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => {
                of_key("there is no private key in this file (BEGIN PRIVATE KEY), or it is encrypted".into())
            }
            error => of_key(format!("this is not PEM: {}", pem_words(&error))),
        })?;
        let key = any_supported_type(&key).map_err(|_| {
            of_key("a private key of this kind cannot be used; ECDSA P-256, Ed25519 and RSA can".into())
        })?;
        let key = CertifiedKey::new(certificates, key);
        key.keys_match().map_err(|_| {
            of_key(format!("the private key does not belong to the first certificate in {}", chain_path.display()))
        })?;
        let facts =
            Facts::of(&key.cert[0]).map_err(|error| of_chain(format!("the first certificate is damaged: {error}")))?;
        Ok(Certificate {
            key: Arc::new(key),
            names: facts.names,
            begins: facts.begins,
            expires: facts.expires,
            identity: facts.identity,
        })
    }

    /// When it is to be renewed, in seconds since 1970: at two thirds of its life.
    pub fn two_thirds(&self) -> u64 {
        self.begins + self.expires.saturating_sub(self.begins) / 3 * 2
    }

    /// Whether it is good for a name; a `*` stands for one label.
    pub fn covers(&self, name: &str) -> bool {
        let behind_first = name.split_once('.').map(|(_, rest)| rest);
        self.names
            .iter()
            .any(|own| own == name || (own.strip_prefix("*.").is_some() && own.strip_prefix("*.") == behind_first))
    }
}

/// What a certificate says of itself.
struct Facts {
    names: Vec<String>,
    begins: u64,
    expires: u64,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Facts {
    fn of(der: &CertificateDer<'_>) -> Result<Facts, x509_cert::der::Error> {
        let certificate = x509_cert::Certificate::from_der(der)?;
        let facts = certificate.tbs_certificate();
        let names = match facts.get_extension::<SubjectAltName>()? {
            Some((_, SubjectAltName(names))) => names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
                    _ => None,
                })
                .collect(),
            None => Vec::new(),
        };
        let issuer = facts.get_extension::<AuthorityKeyIdentifier>()?.and_then(|(_, issuer)| issuer.key_identifier);
        // With the zero byte that keeps the number positive: that is how authorities write it.
        let serial = x509_cert::der::asn1::AnyRef::from_der(&facts.serial_number().to_der()?)?.value().to_vec();
        Ok(Facts {
            names,
            begins: facts.validity().not_before.to_unix_duration().as_secs(),
            expires: facts.validity().not_after.to_unix_duration().as_secs(),
            identity: issuer.map(|issuer| (issuer.as_bytes().to_vec(), serial)),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateFault> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => CertificateFault::of(path, "the relay's user may not read this file"),
        _ => CertificateFault::of(path, plain(&error)),
    })?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| CertificateFault::of(path, plain(&error)))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(CertificateFault::of(path, "this is too long for a certificate or key"));
    }
    Ok(bytes)
}

fn pem_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end; is the file cut off?".into(),
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section is broken".into(),
        pem::Error::Base64Decode(_) => "what stands between the lines of a section is no base64".into(),
        other => other.to_string(),
    }
}

/// Files as they were when they were last looked at: whether one was replaced or written to shows without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<Look>>);

/// Device, number, time of the last change in seconds and nanoseconds, length.
type Look = (u64, u64, i64, i64, u64);

impl Stamp {
    /// Looks at files; one that is not there counts as what it is.
    pub fn of(paths: &[PathBuf]) -> Stamp {
        use std::os::unix::fs::MetadataExt as _;
        let look = |path: &PathBuf| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.len()))
        };
        Stamp(paths.iter().map(look).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 4, 1);
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(vec![0x87, 0x65, 0x43, 0x21].into());
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn parse(chain: &str, key: &str) -> Result<Certificate, String> {
        Certificate::parse(chain.as_bytes(), key.as_bytes(), Path::new("c.pem"), Path::new("k.pem"))
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_certificate_tells_its_names_and_its_time() {
        let (chain, key) = made(&["Relay.test", "*.wild.test"]);
        let certificate = parse(&chain, &key).unwrap();
        assert_eq!(certificate.names, ["relay.test", "*.wild.test"]);
        assert_eq!((certificate.begins, certificate.expires), (1_767_225_600, 1_775_001_600));
        assert_eq!(certificate.two_thirds(), 1_767_225_600 + 60 * 86_400);
        for (name, is_covered) in [
            ("relay.test", true),
            ("a.wild.test", true),
            ("wild.test", false),
            ("a.b.wild.test", false),
            ("test", false),
        ] {
            assert_eq!(certificate.covers(name), is_covered, "{name}");
        }
        let (issuer, serial) = certificate.identity.unwrap();
        assert_eq!((issuer.len(), serial), (20, vec![0x00, 0x87, 0x65, 0x43, 0x21]));
        // Both in one file, whatever else stands there.
        let both = format!("some words\n{key}\n{chain}");
        assert!(parse(&both, &both).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        let (chain, key) = made(&["relay.test"]);
        let (_, other) = made(&["relay.test"]);
        for (chain, key, expected) in [
            ("", &*key, "c.pem: there is no certificate in this file"),
            (&*key, &*key, "c.pem: there is no certificate in this file"),
            (&chain[..chain.len() / 2], &*key, "c.pem: this is not PEM: a section has no end"),
            (&*chain, "", "k.pem: there is no private key in this file"),
            (&*chain, &*chain, "k.pem: there is no private key in this file"),
            (&*chain, &*other, "k.pem: the private key does not belong to the first certificate in c.pem"),
            (
                &*chain,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "k.pem: a private key of this kind cannot be used",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &*key,
                "k.pem: the private key does not belong",
            ),
        ] {
            let error = parse(chain, key).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let missing = Certificate::read(Path::new("/nowhere/c.pem"), Path::new("/nowhere/c.pem")).unwrap_err();
        assert!(missing.to_string().starts_with("/nowhere/c.pem: no such file"), "{missing}");
        assert!(Certificate::read(Path::new("/dev/zero"), Path::new("/dev/zero")).unwrap_err().0.contains("too long"));
    }
}
