//! Settings of TLS: what names and files may look like, what only makes sense together, and which addresses follow from them.

use std::path::PathBuf;

use super::address::Address;
use super::problem::{Place, Problem, quoted};
use super::rules::{Addresses, Fault, NONE, Raw, Rule, toml_list, toml_text};
use super::settings::{Config, Tls};

/// As many names as a certificate of Let's Encrypt may have.
const MOST_NAMES: usize = 100;

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

/// Host names as they stand in certificates.
pub(super) struct HostNames;

impl Rule<Vec<String>> for HostNames {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<String>, Fault> {
        let mut names = Vec::new();
        for text in raw.list().ok_or(Fault::Unexpected)? {
            let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
            if let Some(why) = objection(&name) {
                return Err(Fault::Because(format!("contains {}, {why}", quoted(text))));
            }
            if names.contains(&name) {
                return Err(Fault::Because(format!("names {name} twice")));
            }
            names.push(name);
        }
        if names.len() > MOST_NAMES {
            return Err(Fault::Because(format!(
                "has {} names, more than the {MOST_NAMES} of a certificate",
                names.len()
            )));
        }
        Ok(names)
    }

    fn show(&self, value: &Vec<String>) -> String {
        toml_list(value)
    }

    fn expects(&self) -> String {
        "a list of host names, such as [\"relay.example.org\"]".to_owned()
    }
}

/// Why this is no name to get a certificate for.
fn objection(name: &str) -> Option<&'static str> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.contains("://") || name.contains('/') {
        Some("which is an address, not a host name: leave out what stands before and behind the name")
    } else if name.parse::<std::net::IpAddr>().is_ok() {
        Some("which is an IP address; a certificate needs a host name")
    } else if name.starts_with("*.") {
        Some("but names with a * are given to nobody by the ways that this relay can prove a name; list each name")
    } else if !name.is_ascii() {
        Some("which has other letters than a-z; write it in its ASCII form, which begins with xn--")
    } else if name.len() > 253 || !name.split('.').all(is_label) {
        Some("which is not a host name such as relay.example.org")
    } else {
        None
    }
}

/// An e-mail address, or nothing.
pub(super) struct Email;

impl Rule<String> for Email {
    fn read(&self, raw: &Raw<'_>) -> Result<String, Fault> {
        let Raw::Word(text) = *raw else {
            let text = raw.text().ok_or(Fault::Unexpected)?;
            return self.read(&Raw::Word(text));
        };
        let text = text.trim();
        let text = text.strip_prefix("mailto:").unwrap_or(text);
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '?' | '<' | '>');
        let is_address = |text: &str| {
            text.len() <= 254
                && !text.contains(odd)
                && text
                    .split_once('@')
                    .is_some_and(|(who, host)| !who.is_empty() && !host.is_empty() && !host.contains('@'))
        };
        if text.is_empty() || is_address(text) { Ok(text.to_owned()) } else { Err(Fault::Unexpected) }
    }

    fn show(&self, value: &String) -> String {
        toml_text(value)
    }

    fn expects(&self) -> String {
        "an e-mail address such as \"you@example.org\", or empty".to_owned()
    }
}

/// The path of a file, or nothing.
pub(super) struct OptionalFile;

impl Rule<Option<PathBuf>> for OptionalFile {
    fn read(&self, raw: &Raw<'_>) -> Result<Option<PathBuf>, Fault> {
        match raw.text().ok_or(Fault::Unexpected)? {
            text if text.contains('\0') => Err(Fault::Unexpected),
            text if text.trim().is_empty() => Ok(None),
            text => Ok(Some(PathBuf::from(text))),
        }
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        toml_text(&value.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
    }

    fn expects(&self) -> String {
        "the path of a file, or empty".to_owned()
    }
}

/// Addresses to listen on, or none.
pub(super) struct AddressesOrNone;

impl Rule<Vec<Address>> for AddressesOrNone {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<Address>, Fault> {
        if raw.list().ok_or(Fault::Unexpected)? == [NONE] {
            return Ok(Vec::new());
        }
        Addresses.read(raw)
    }

    fn show(&self, value: &Vec<Address>) -> String {
        if value.is_empty() { toml_text(NONE) } else { Addresses.show(value) }
    }

    fn expects(&self) -> String {
        format!("{}, or \"none\"", Addresses.expects())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Result<Vec<String>, Option<String>> {
        HostNames.read(&Raw::Word(list)).map_err(|fault| match fault {
            Fault::Because(why) => Some(why),
            Fault::Unexpected => None,
        })
    }

    #[test]
    fn host_names_are_taken_as_people_write_them() {
        let taken = names(" Relay.Example.ORG. , a-1.xn--bcher-kva.example,localhost");
        assert_eq!(taken, Ok(vec!["relay.example.org".into(), "a-1.xn--bcher-kva.example".into(), "localhost".into()]));
        for (text, why) in [
            ("wss://relay.example.org", "an address, not a host name"),
            ("relay.example.org/path", "an address, not a host name"),
            ("192.0.2.1", "an IP address"),
            ("::1", "an IP address"),
            ("*.example.org", "list each name"),
            ("bücher.example", "xn--"),
            ("relay..org", "not a host name"),
            ("-a.org", "not a host name"),
            ("a_b.org", "not a host name"),
            ("a.org:443", "not a host name"),
            ("", "not a host name"),
            ("a.org,A.org", "names a.org twice"),
        ] {
            let found = names(text).unwrap_err().unwrap();
            assert!(found.contains(why), "{text}: {found}");
        }
        let many: Vec<String> = (0..101).map(|i| format!("n{i}.example.org")).collect();
        assert!(names(&many.join(",")).unwrap_err().unwrap().contains("101 names"));
    }

    #[test]
    fn e_mail_addresses() {
        let read = |text: &str| Email.read(&Raw::Word(text)).ok();
        for text in ["you@example.org", " you@example.org ", "mailto:you@example.org"] {
            assert_eq!(read(text).as_deref(), Some("you@example.org"), "{text}");
        }
        assert_eq!(read("").as_deref(), Some(""));
        for text in ["you", "@example.org", "you@", "a@b@c", "You <you@example.org>", "a@b.c,d@e.f", "a b@c.d"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

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
