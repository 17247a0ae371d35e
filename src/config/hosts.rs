//! What the values of [tls] may look like: host names, an e-mail address, files, addresses or none.

use std::path::PathBuf;

use super::address::Address;
use super::problem::quoted;
use super::rules::{Addresses, Fault, NONE, Raw, Rule, toml_list, toml_text};

/// As many names as a certificate of Let's Encrypt may have.
const MOST_NAMES: usize = 100;

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
}
