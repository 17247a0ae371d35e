//! Settings of TLS: what only makes sense together, and which addresses follow from them.

use super::address::Address;
use super::problem::{Place, Problem};
use super::settings::{Config, Tls};

/// The port of https and wss.
const HTTPS: u16 = 443;

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Files of the operator's.
    Files,
    /// A certificate authority, asked over ACME (RFC 8555).
    Acme,
}

impl Tls {
    /// Where the certificate comes from; `None` when TLS is off.
    pub fn source(&self) -> Option<CertificateSource> {
        if self.certificate.is_some() {
            Some(CertificateSource::Files)
        } else if !self.names.is_empty() {
            Some(CertificateSource::Acme)
        } else {
            None
        }
    }

    /// Addresses of the relay under its names, such as `wss://relay.example.org`. None when no names are configured.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        let port = self.port_suffix();
        self.names.iter().map(move |name| format!("wss://{name}{port}"))
    }

    /// What stands behind a host name in an address of the relay: a colon and a port, or nothing for 443.
    pub fn port_suffix(&self) -> String {
        self.public_port().filter(|port| *port != HTTPS).map(|port| format!(":{port}")).unwrap_or_default()
    }

    /// The port that clients use: 443 when it is listened on, else the first of the others.
    fn public_port(&self) -> Option<u16> {
        let ports = || self.listen.iter().filter_map(Address::tcp).map(|address| address.port());
        ports().find(|port| *port == HTTPS).or_else(|| ports().next())
    }
}

impl Config {
    /// The address to give to clients: `info.url`, else the first TLS name. Empty when neither is configured.
    pub fn url(&self) -> String {
        if self.info.url.is_empty() { self.tls.urls().next().unwrap_or_default() } else { self.info.url.clone() }
    }

    /// Every configured address under which clients reach the relay, that of [`Config::url`] first.
    pub fn urls(&self) -> Vec<String> {
        let info = &self.info;
        let configured = std::iter::once(&info.url).chain(&info.other_urls).filter(|url| !url.is_empty()).cloned();
        let mut urls: Vec<String> = configured.collect();
        if info.url.is_empty() {
            urls.splice(0..0, self.tls.urls());
        } else {
            urls.extend(self.tls.urls());
        }
        urls
    }
}

/// Checks the section as a whole. `place` tells where one of its settings was given, `other` where one of `[listen]` was.
pub(super) fn check(
    config: &Config,
    place: impl Fn(&'static str) -> Place,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let (tls, defaults) = (&config.tls, Tls::default());
    let has_email = !tls.email.is_empty();
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => problems.push(
            Problem::new(place("certificate"), "tls.certificate needs its private key")
                .help("name its file in tls.key; it may be the same file"),
        ),
        (None, Some(_)) => problems.push(
            Problem::new(place("key"), "tls.key is a key without a certificate")
                .help("name the certificate's file in tls.certificate; it may be the same file"),
        ),
        (Some(_), Some(_)) if has_email => problems.push(
            Problem::new(place("email"), "tls.email asks for a certificate while tls.certificate names one already")
                .help("remove the one or the other"),
        ),
        (None, None) if tls.names.is_empty() && has_email => problems.push(
            Problem::new(place("email"), "tls.email asks for a certificate, but tls.names has no name for it")
                .help("set tls.names to the name of this relay, such as \"relay.example.org\""),
        ),
        (None, None) if !tls.names.is_empty() && !has_email => {
            problems.push(Problem::new(place("names"), "tls.names needs a certificate").help(
                "set tls.email to your e-mail address, and the relay gets one from Let's Encrypt (which means that you \
                 agree to its terms), or name your own in tls.certificate and tls.key",
            ))
        }
        _ => {}
    }
    if tls.source().is_some() {
        let listeners =
            [("tls.listen", place("listen"), &tls.listen), ("tls.http_listen", place("http_listen"), &tls.http_listen)];
        for (i, (name, place, addresses)) in listeners.iter().enumerate() {
            let before = std::iter::once(("listen.addresses", &config.listen.addresses))
                .chain(listeners[..i].iter().map(|(name, _, addresses)| (*name, *addresses)));
            for (other, others) in before {
                for address in addresses.iter().filter(|address| takes_port(address) && others.contains(address)) {
                    problems.push(
                        Problem::new(place.clone(), format!("{name} and {other} both name {address}"))
                            .help("an address is for one of them"),
                    );
                }
            }
        }
    } else if problems.is_empty() {
        let idle = [
            ("listen", tls.listen != defaults.listen),
            ("http_listen", tls.http_listen != defaults.http_listen),
            ("acme_directory", tls.acme_directory != defaults.acme_directory),
            ("acme_ca", tls.acme_ca != defaults.acme_ca),
        ];
        for (setting, _) in idle.iter().filter(|(_, is_set)| *is_set) {
            warnings.push(
                Problem::new(place(setting), format!("tls.{setting} does nothing: TLS is off"))
                    .help("it is on when tls.names and tls.email are set, or tls.certificate and tls.key"),
            );
        }
    }
}

/// Two sockets cannot have the same address, but for port 0, which is another one each time.
fn takes_port(address: &Address) -> bool {
    address.tcp().is_none_or(|address| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relays_addresses_follow_from_its_names() {
        let mut config = Config::default();
        assert_eq!((config.url(), config.urls()), (String::new(), vec![]));
        config.tls.names = vec!["a.org".into(), "b.org".into()];
        config.info.other_urls = vec!["ws://abc.onion".into()];
        assert_eq!(config.url(), "wss://a.org");
        assert_eq!(config.urls(), ["wss://a.org", "wss://b.org", "ws://abc.onion"]);
        config.tls.listen = vec!["127.0.0.1:8443".parse().unwrap()];
        config.info.url = "wss://c.org".into();
        assert_eq!(config.url(), "wss://c.org");
        assert_eq!(config.urls(), ["wss://c.org", "ws://abc.onion", "wss://a.org:8443", "wss://b.org:8443"]);
        config.tls.listen.push("[::]:443".parse().unwrap());
        assert_eq!(config.tls.urls().next().unwrap(), "wss://a.org");
    }
}
