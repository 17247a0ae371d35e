//! What plain HTTP gets where TLS is spoken elsewhere: the way to https, the proof that a certificate authority looks for, and
//! `/health`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};

use super::answers::{add_cors, text};
use super::tls::Tls;
use crate::config::Config;

/// Where certificate authorities look for proof (RFC 8555 section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Whether a certificate authority looks for proof there.
pub(super) fn is_proof(path: &str) -> bool {
    path.starts_with(CHALLENGES)
}

/// Leads plain HTTP to https.
pub(super) struct Redirect {
    /// The relay's own hosts, with their ports where these are not 443; the first is the one to name when in doubt.
    hosts: Vec<String>,
    /// Behind other hosts that the certificate is good for: empty, or a colon and a port.
    port: String,
}

impl Redirect {
    /// Leads to the addresses of this configuration.
    pub(super) fn new(config: &Config) -> Redirect {
        let host = |url: &String| {
            let host = url.strip_prefix("wss://")?.split('/').next()?;
            Some(host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase())
        };
        Redirect { hosts: config.urls().iter().filter_map(host).collect(), port: config.tls.port_suffix() }
    }

    /// Answers a request.
    pub(super) async fn respond<B>(&self, request: &Request<B>, tls: &Tls) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if let Some(token) = path.strip_prefix(CHALLENGES) {
            return match tls.answer(token).await {
                Some(answer) => text(StatusCode::OK, answer),
                None => text(StatusCode::NOT_FOUND, "Nobody has asked for this proof.\n"),
            };
        }
        let asked = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let Some(host) = self.host(asked, |name| tls.covers(name)) else {
            return text(StatusCode::BAD_REQUEST, "This relay is reached over https:// and wss:// only.\n");
        };
        // `OPTIONS *` has a path that is none, and would become part of the name.
        let rest = request.uri().path_and_query().map(|path| path.as_str()).filter(|path| path.starts_with('/'));
        let rest = rest.unwrap_or("/");
        let mut response = text(
            StatusCode::PERMANENT_REDIRECT,
            format!("This relay is at wss://{host}, for browsers at https://{host}\n"),
        );
        match HeaderValue::from_str(&format!("https://{host}{rest}")) {
            Ok(location) => response.headers_mut().insert(header::LOCATION, location),
            Err(_) => return text(StatusCode::BAD_REQUEST, "This is no path.\n"),
        };
        // Pages that ask for the information document may follow.
        add_cors(response.headers_mut());
        response
    }

    /// The host to go to from the one that was asked for; `None` when nobody knows any.
    fn host(&self, asked: &str, is_covered: impl Fn(&str) -> bool) -> Option<String> {
        let name = match asked.rsplit_once(':') {
            // The last colon of an IPv6 address is none of a port.
            Some((name, port)) if !port.ends_with(']') => name,
            _ => asked,
        };
        let name = name.to_ascii_lowercase();
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']');
        let own = |host: &&String| host.split(':').next() == Some(&*name);
        let known = self.hosts.iter().find(own).cloned();
        let there = || (!name.is_empty() && name.bytes().all(is_name)).then(|| format!("{name}{}", self.port));
        known.or_else(|| there().filter(|_| is_covered(&name))).or_else(|| self.hosts.first().cloned()).or_else(there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_itself_and_others_to_the_first() {
        let mut config = Config::default();
        config.tls.names = vec!["a.org".into(), "b.org".into()];
        config.info.other_urls = vec!["ws://abc.onion".into()];
        let to = |config: &Config, asked| Redirect::new(config).host(asked, |name| name == "c.org");
        for (asked, host) in [
            ("a.org", "a.org"),
            ("B.org:80", "b.org"),
            ("c.org", "c.org"),
            ("evil.org", "a.org"),
            ("192.0.2.1", "a.org"),
            ("[::1]:80", "a.org"),
            ("", "a.org"),
            ("a.org\" onclick", "a.org"),
        ] {
            assert_eq!(to(&config, asked).as_deref(), Some(host), "{asked}");
        }
        config.tls.listen = vec!["127.0.0.1:8443".parse().unwrap()];
        assert_eq!(to(&config, "b.org").as_deref(), Some("b.org:8443"));
        assert_eq!(to(&config, "c.org").as_deref(), Some("c.org:8443"));
        // Clients reach another port than is listened on.
        config.info.url = "wss://a.org/".into();
        assert_eq!(to(&config, "a.org").as_deref(), Some("a.org"));
    }

    #[test]
    fn without_a_name_the_one_that_was_asked_for_counts() {
        let redirect = Redirect::new(&Config::default());
        assert_eq!(redirect.host("relay.test:80", |_| false).as_deref(), Some("relay.test"));
        assert_eq!(redirect.host("[::1]", |_| false).as_deref(), Some("[::1]"));
        assert_eq!(redirect.host("", |_| false), None);
        assert_eq!(redirect.host("a b", |_| false), None);
    }
}
