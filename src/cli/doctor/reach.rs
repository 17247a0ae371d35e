//! Whether clients reach the relay: its names, ports and certificate, and what one of them sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::super::failure::things;
use super::super::probe;
use super::{Findings, now};
use crate::config::{Address, CertificateSource, Config, plain};
use crate::server::visit::{self, Answer};
use crate::server::{Neighbour, inspect_certificate};

/// Where the names lead.
pub(super) fn names(config: &Config, found: &mut Findings) {
    let urls = config.urls();
    if urls.is_empty() {
        return found.warn(
            "name",
            "the relay does not know its own address",
            "Set tls.names, or info.url when a proxy does TLS; clients cannot authenticate through a proxy without it.",
        );
    }
    for url in urls {
        let host = host_of(&url);
        if host.ends_with(".onion") || host.parse::<IpAddr>().is_ok() {
            continue;
        }
        match probe::resolve(host) {
            Err(problem) => {
                found.problem("name", problem, "Set its address where you bought the name (A and AAAA records).")
            }
            Ok(addresses) => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let list = list.join(" and ");
                let foreign: Vec<_> = addresses.iter().filter(|address| !probe::is_own(**address)).collect();
                if foreign.is_empty() {
                    found.ok("name", format!("{host} leads here: {list}"));
                } else {
                    found.warn(
                        "name",
                        format!("{host} leads to {list}, which is not all of this machine"),
                        "Right behind a router or a proxy elsewhere; otherwise correct the name's A and AAAA records.",
                    );
                }
            }
        }
    }
}

/// The host in an address such as `wss://relay.example.org:8443/path`.
pub(super) fn host_of(url: &str) -> &str {
    let authority = url.split("://").nth(1).unwrap_or(url).split('/').next().unwrap_or("");
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
    .trim_start_matches('[')
    .trim_end_matches(']')
}

/// Whether what is to be listened on is listened on, or could be.
pub(super) fn ports(config: &Config, serving: Option<&Neighbour>, found: &mut Findings) {
    let tls = config.tls.source().map(|_| config.tls.listen.iter().chain(&config.tls.http_listen));
    for address in config.listen.addresses.iter().chain(tls.into_iter().flatten()) {
        let answers = answers(address);
        match (serving, answers) {
            // Sockets that systemd passed take the place of the default.
            (Some(relay), Err(_)) if *config.listen.addresses == Config::default().listen.addresses => {
                let list: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
                found.ok("ports", format!("the relay listens on {}", list.join(" and ")));
            }
            (Some(_), Ok(())) => found.ok("ports", format!("{address} is listened on")),
            (Some(_), Err(why)) => found.problem(
                "ports",
                format!("{address} takes no connection: {why}"),
                "`ratite restart` starts the relay anew, with this configuration; its log says why it does not listen.",
            ),
            (None, Ok(())) => found.problem(
                "ports",
                format!("{address} is taken by another program"),
                "`ss -ltnp` shows which. Stop it, or choose another address in the configuration.",
            ),
            (None, Err(_)) => match address.tcp().map(TcpListener::bind) {
                Some(Err(error)) => found.problem(
                    "ports",
                    format!("{address} cannot be listened on by this user: {}", plain(&error)),
                    "Ports below 1024 need root or CAP_NET_BIND_SERVICE, which the service has; run this as root.",
                ),
                _ => found.ok("ports", format!("{address} is free")),
            },
        }
    }
}

/// Whether somebody takes connections there.
fn answers(address: &Address) -> Result<(), String> {
    match address {
        Address::Tcp(address) => {
            let here = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            let at = SocketAddr::new(here, address.port());
            TcpStream::connect_timeout(&at, probe::PATIENCE).map(drop).map_err(|error| plain(&error))
        }
        Address::Unix(path) => UnixStream::connect(path).map(drop).map_err(|error| plain(&error)),
    }
}

/// How long the certificate counts, and for which names.
pub(super) fn certificate(config: &Config, found: &mut Findings) {
    let advice = match config.tls.source() {
        None => return,
        Some(CertificateSource::Acme) => {
            "The relay tries again by itself; its log says what the authority wants. The name must lead here, and ports 443 and 80 \
             must be open to everybody."
        }
        Some(CertificateSource::Files) => {
            "Renew the files in tls.certificate and tls.key; the relay reads them again by itself."
        }
    };
    let state = match inspect_certificate(&config.tls, &config.storage.path) {
        Ok(Some(state)) => state,
        Ok(None) => return,
        Err(fault) => return found.problem("certificate", fault.to_string(), advice),
    };
    let now = now();
    if let Some(problem) = state.problem(now) {
        return found.problem("certificate", problem, advice);
    }
    let missing: Vec<&str> =
        config.tls.names.iter().filter(|name| !covers(&state.names, name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return found.problem("certificate", format!("it does not hold for {}", missing.join(", ")), advice);
    }
    let days = state.days_left(now).unwrap_or(0);
    found.ok("certificate", format!("for {}, {}", state.names.join(", "), things(days.max(0) as u64, "more day")));
}

/// Whether one of the names of a certificate, `*.example.org` among them, is this one.
fn covers(names: &[String], name: &str) -> bool {
    let rest = name.split_once('.').map(|(_, rest)| rest);
    names.iter().any(|known| known.eq_ignore_ascii_case(name) || (rest.is_some() && known.strip_prefix("*.") == rest))
}

/// For those with a proxy in front.
const PROXIES: &str =
    "What nginx and Caddy need is in packaging/proxies, or /usr/share/doc/ratite/proxies with the Debian package.";

/// What a client sees.
pub(super) fn outside(config: &Config, serving: Option<&Neighbour>, ca: Option<&Path>, found: &mut Findings) {
    let Some(serving) = serving else { return };
    let here = serving.addresses.iter().find_map(Address::tcp).map(|address| format!("ws://{address}"));
    let url = match (config.url(), here) {
        (url, _) if !url.is_empty() => url,
        (_, Some(here)) => here,
        _ => return found.ok("outside", "the relay is reached through a Unix socket alone"),
    };
    let ca = ca.or(config.tls.acme_ca.as_deref()).map(Path::to_owned);
    let untold_before = untold(serving);
    let asked = (url.replacen("ws", "http", 1), ca.clone());
    let document = probe::within(Duration::from_secs(40), move || {
        visit::fetch(&asked.0, "application/nostr+json", asked.1.as_deref())
    });
    match document.unwrap_or_else(|| Err("no answer in time".to_owned())) {
        Err(why) => {
            return found.problem(
                "outside",
                format!("{url} cannot be reached from here: {why}"),
                "The name must lead to this machine or its proxy, the firewall must let port 443 through, and the certificate must be \
                 right. Some routers let nobody in from within: then try from elsewhere.",
            );
        }
        Ok(answer) if !is_document(&answer) => found.problem(
            "outside",
            format!("{url} answers with something else than a relay's information document (status {})", answer.status),
            "Another program answers there, or the proxy does not pass requests on as they are.",
        ),
        Ok(_) => found.ok("outside", format!("{url} gives the information document")),
    }
    let asked = (url.clone(), ca);
    let answered = probe::within(Duration::from_secs(40), move || visit::question(&asked.0, asked.1.as_deref()));
    match answered.unwrap_or_else(|| Err("no answer in time".to_owned())) {
        Err(why) => return found.problem("outside", format!("{url}: {why}"), PROXIES),
        Ok(time) => {
            found.ok("outside", format!("a question over a WebSocket is answered within {} ms", time.as_millis()))
        }
    }
    proxy(config, untold_before, untold(serving), found);
}

fn is_document(answer: &Answer) -> bool {
    let document = serde_json::from_slice::<Value>(&answer.body);
    answer.status == 200 && document.is_ok_and(|document| document["supported_nips"].is_array())
}

/// How many requests have come through a proxy that does not tell for whom.
fn untold(relay: &Neighbour) -> Option<u64> {
    visit::health(relay).ok()?["proxied_for_nobody"].as_u64()
}

/// Whether the proxy that we came through told the relay of us.
fn proxy(config: &Config, before: Option<u64>, after: Option<u64>, found: &mut Findings) {
    // Without TLS of its own and with an address of its own, a proxy stands in front.
    if config.tls.source().is_some() || config.info.url.is_empty() {
        return;
    }
    match (before, after) {
        (Some(before), Some(after)) if after > before => found.problem(
            "proxy",
            "it does not tell the relay the addresses of its clients, so that limits for each of them do not work",
            format!("Have it set X-Forwarded-For, or name what it sets in listen.client_address_from. {PROXIES}"),
        ),
        (Some(_), Some(_)) if config.listen.trusted_proxies.is_empty() => found.warn(
            "proxy",
            "no proxy is trusted: everybody who comes through it counts as one client",
            "Name its address in listen.trusted_proxies.",
        ),
        (Some(_), Some(_)) => found.ok("proxy", "the addresses of clients are known"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_certificates_are_matched() {
        assert_eq!(host_of("wss://relay.example.org:8443/x"), "relay.example.org");
        assert_eq!(host_of("wss://[::1]:1"), "::1");
        assert_eq!(host_of("https://[::1]"), "::1");
        let names = ["relay.example.org".to_owned(), "*.example.net".to_owned()];
        assert!(covers(&names, "Relay.example.org") && covers(&names, "a.example.net"));
        assert!(!covers(&names, "example.net") && !covers(&names, "a.b.example.net") && !covers(&names, "example.org"));
    }
}
