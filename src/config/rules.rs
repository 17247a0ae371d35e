//! What a setting may hold: one rule per kind of value. A rule reads a value from the file or the environment,
//! writes it back as TOML, and says in words what it expects, so that the documentation and the errors agree.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::DeValue;

use super::address::{Address, Network};
use super::problem::quoted;
use crate::nostr::{PublicKey, nip19};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

const SIZES: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

pub(super) const TIMES: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// A value as it was given, before its rule has looked at it.
pub(super) enum Raw<'a> {
    /// From the environment: everything is text there, and a list is separated by commas.
    Word(&'a str),
    /// From the file.
    Toml(&'a DeValue<'a>),
}

impl Raw<'_> {
    /// The text, when the value is text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Raw::Word(word) => Some(word),
            Raw::Toml(value) => value.as_str(),
        }
    }

    /// The elements of a list; a single text is a list of one.
    pub(super) fn list(&self) -> Option<Vec<&str>> {
        match self {
            Raw::Word(word) => Some(word.split(',').map(str::trim).collect()),
            Raw::Toml(DeValue::String(text)) => Some(vec![text]),
            Raw::Toml(DeValue::Array(values)) => values.iter().map(|value| value.get_ref().as_str()).collect(),
            Raw::Toml(_) => None,
        }
    }

    /// The value as it is shown in an error: short, and free of control characters.
    pub(super) fn shown(&self) -> String {
        match self {
            Raw::Word(word) => quoted(word),
            Raw::Toml(DeValue::String(text)) => quoted(text),
            Raw::Toml(DeValue::Integer(number)) => number.to_string(),
            Raw::Toml(DeValue::Float(number)) => number.to_string(),
            Raw::Toml(DeValue::Boolean(value)) => value.to_string(),
            Raw::Toml(DeValue::Datetime(_)) => "a date".to_owned(),
            Raw::Toml(DeValue::Array(_)) => "a list".to_owned(),
            Raw::Toml(DeValue::Table(_)) => "a table".to_owned(),
        }
    }
}

/// Why a rule did not take a value.
pub(super) enum Fault {
    /// It is not what [`Rule::expects`] says.
    Unexpected,
    /// Something more exact, as the end of a sentence that began with the name of the setting.
    Because(String),
}

/// What one setting may hold.
pub(super) trait Rule<T> {
    /// Reads the value.
    fn read(&self, raw: &Raw<'_>) -> Result<T, Fault>;
    /// The value as TOML.
    fn show(&self, value: &T) -> String;
    /// What may stand here, to follow "must be".
    fn expects(&self) -> String;
    /// Whether the value must not be shown to anybody.
    fn is_secret(&self) -> bool {
        false
    }
}

/// The unit of a [`Number`].
enum Unit {
    Count,
    Bytes,
    Seconds,
}

/// A whole number with its unit and range.
pub(super) struct Number {
    unit: Unit,
    range: RangeInclusive<u64>,
    /// What 0 means, where it is allowed as well.
    zero: Option<&'static str>,
}

/// So many of something.
pub(super) fn count(range: RangeInclusive<u64>) -> Number {
    Number { unit: Unit::Count, range, zero: None }
}

/// A size: bytes as a number, or text with a unit.
pub(super) fn bytes(range: RangeInclusive<u64>) -> Number {
    Number { unit: Unit::Bytes, range, zero: None }
}

/// A time span: seconds as a number, or text with a unit.
pub(super) fn seconds(range: RangeInclusive<u64>) -> Number {
    Number { unit: Unit::Seconds, range, zero: None }
}

impl Number {
    /// Lets 0 stand for "no limit".
    pub(super) fn or_off(self) -> Number {
        self.or_zero("no limit")
    }

    /// Lets 0 stand for this.
    pub(super) fn or_zero(mut self, meaning: &'static str) -> Number {
        self.zero = Some(meaning);
        self
    }

    fn units(&self) -> &'static [(&'static str, u64)] {
        match self.unit {
            Unit::Count => &[],
            Unit::Bytes => &SIZES,
            Unit::Seconds => &TIMES,
        }
    }

    fn parse(&self, raw: &Raw<'_>) -> Option<u64> {
        if let Raw::Toml(DeValue::Integer(number)) = raw {
            return u64::from_str_radix(number.as_str(), number.radix()).ok();
        }
        let text = raw.text()?.trim();
        // In the file a plain count is a TOML number; only the environment has to write it as text.
        if matches!((raw, &self.unit), (Raw::Toml(_), Unit::Count)) {
            return None;
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let number: u64 = text[..digits].replace('_', "").parse().ok()?;
        let unit = text[digits..].trim();
        if unit.is_empty() {
            return Some(number);
        }
        let (_, factor) = self.units().iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
        number.checked_mul(*factor)
    }

    fn render(&self, number: u64) -> String {
        match self.unit {
            Unit::Count => number.to_string(),
            Unit::Bytes => {
                // The largest unit that fits: 4 GB stays what it was.
                let fitting = SIZES.iter().filter(|(_, size)| number >= *size && number.is_multiple_of(*size));
                let (name, size) = fitting.max_by_key(|(_, size)| *size).unwrap_or(&("", 1));
                if *size == 1 { number.to_string() } else { format!("{} {name}", number / size) }
            }
            Unit::Seconds => {
                let (name, span) =
                    TIMES.iter().find(|(_, span)| number >= *span && number.is_multiple_of(*span)).unwrap_or(&("s", 1));
                format!("{}{name}", number / span)
            }
        }
    }
}

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Rule<T> for Number {
    fn read(&self, raw: &Raw<'_>) -> Result<T, Fault> {
        let number = self.parse(raw).ok_or(Fault::Unexpected)?;
        let allowed = self.range.contains(&number) || (self.zero.is_some() && number == 0);
        if !allowed {
            return Err(Fault::Unexpected);
        }
        T::try_from(number).map_err(|_| Fault::Because("is more than this machine can address".to_owned()))
    }

    fn show(&self, value: &T) -> String {
        let number: u64 = (*value).try_into().unwrap_or(u64::MAX);
        let text = self.render(number);
        // Seconds are shown as the plain number: "15m" would make people wonder about months.
        match self.unit {
            Unit::Count | Unit::Seconds => number.to_string(),
            Unit::Bytes if text.contains(' ') => format!("\"{text}\""),
            Unit::Bytes => text,
        }
    }

    fn expects(&self) -> String {
        let (low, high) = (self.render(*self.range.start()), self.render(*self.range.end()));
        let range = if low == high { low.clone() } else { format!("from {low} to {high}") };
        let off = self.zero.map(|meaning| format!(", or 0 for {meaning}")).unwrap_or_default();
        match self.unit {
            Unit::Count if low == high => format!("the number {range}{off}"),
            Unit::Count => format!("a whole number {range}{off}"),
            Unit::Bytes => {
                format!("a size {range}, in bytes or with a unit such as \"32 MiB\"{off}")
            }
            Unit::Seconds => {
                format!("a time {range}, in seconds or with a unit such as \"90s\" or \"10m\"{off}")
            }
        }
    }
}

/// On or off.
pub(super) struct Switch;

impl Rule<bool> for Switch {
    fn read(&self, raw: &Raw<'_>) -> Result<bool, Fault> {
        match raw {
            Raw::Toml(DeValue::Boolean(value)) => Ok(*value),
            // The environment has only text.
            Raw::Word("true") => Ok(true),
            Raw::Word("false") => Ok(false),
            _ => Err(Fault::Unexpected),
        }
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn expects(&self) -> String {
        "true or false".to_owned()
    }
}

/// Text of at most so many characters, without control characters other than line ends.
pub(super) struct Text(pub(super) usize);

impl Rule<String> for Text {
    fn read(&self, raw: &Raw<'_>) -> Result<String, Fault> {
        let text = raw.text().ok_or(Fault::Unexpected)?;
        if text.chars().count() > self.0 {
            return Err(Fault::Because(format!(
                "has {} characters but must be text of at most {}",
                text.chars().count(),
                self.0
            )));
        }
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(Fault::Because("contains a control character, which no client could show".to_owned()));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        toml_text(value)
    }

    fn expects(&self) -> String {
        format!("text of at most {} characters", self.0)
    }
}

/// A secret of at most so many visible characters without spaces, or nothing. It is never shown.
pub(super) struct Secret(pub(super) usize);

impl Rule<String> for Secret {
    fn read(&self, raw: &Raw<'_>) -> Result<String, Fault> {
        let text = raw.text().ok_or_else(|| Fault::Because(format!("must be {}", Rule::expects(self))))?;
        if text.len() > self.0 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Fault::Because(format!("must be {}", Rule::expects(self))));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        toml_text(if value.is_empty() { "" } else { "(hidden)" })
    }

    fn expects(&self) -> String {
        format!("at most {} letters, digits and signs without spaces, or empty", self.0)
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// An address that begins with one of these schemes, or nothing.
pub(super) struct Url(pub(super) &'static [&'static str]);

impl Rule<String> for Url {
    fn read(&self, raw: &Raw<'_>) -> Result<String, Fault> {
        let text = raw.text().ok_or(Fault::Unexpected)?.trim();
        if text.is_empty() {
            return Ok(String::new());
        }
        let rest = self.0.iter().find_map(|scheme| text.strip_prefix(scheme)).ok_or(Fault::Unexpected)?;
        let host = rest.split(['/', '?', '#']).next().unwrap_or("");
        if host.is_empty() || text.len() > 2048 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Fault::Unexpected);
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        toml_text(value)
    }

    fn expects(&self) -> String {
        format!("an address that begins with {}, or empty", self.0.join(" or "))
    }
}

/// Any number of addresses that begin with one of these schemes.
pub(super) struct Urls(pub(super) &'static [&'static str]);

impl Rule<Vec<String>> for Urls {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<String>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        list.into_iter()
            .map(|text| match Url(self.0).read(&Raw::Word(text)) {
                Ok(url) if !url.is_empty() => Ok(url),
                _ => Err(Fault::Because(format!(
                    "contains {}, which is not an address that begins with {}",
                    quoted(text),
                    self.0.join(" or ")
                ))),
            })
            .collect()
    }

    fn show(&self, value: &Vec<String>) -> String {
        let list: Vec<String> = value.iter().map(|url| toml_text(url)).collect();
        format!("[{}]", list.join(", "))
    }

    fn expects(&self) -> String {
        format!("a list of addresses that begin with {}", self.0.join(" or "))
    }
}

/// A public key as npub or hexadecimal, or nothing.
pub(super) struct Key;

impl Rule<Option<PublicKey>> for Key {
    fn read(&self, raw: &Raw<'_>) -> Result<Option<PublicKey>, Fault> {
        let text = raw.text().ok_or(Fault::Unexpected)?.trim();
        if text.is_empty() {
            return Ok(None);
        }
        nip19::parse_pubkey(text).map(Some).map_err(|error| Fault::Because(format!("is not a public key: {error}")))
    }

    fn show(&self, value: &Option<PublicKey>) -> String {
        toml_text(&value.map(|key| key.to_string()).unwrap_or_default())
    }

    fn expects(&self) -> String {
        "a public key, as npub1… or 64 hexadecimal digits, or empty".to_owned()
    }
}

/// Addresses to listen on: at least one.
pub(super) struct Addresses;

impl Rule<Vec<Address>> for Addresses {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<Address>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        let mut addresses = Vec::new();
        for text in &list {
            let address: Address = text.parse().map_err(|error| Fault::Because(format!("contains {error}")))?;
            if addresses.contains(&address) {
                return Err(Fault::Because(format!("names {address} twice")));
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(Fault::Unexpected);
        }
        Ok(addresses)
    }

    fn show(&self, value: &Vec<Address>) -> String {
        toml_list(value)
    }

    fn expects(&self) -> String {
        "a list of one or more IP addresses with ports or Unix sockets, such as [\"127.0.0.1:7777\"]".to_owned()
    }
}

/// The word for an empty list: the environment has no other way to write one.
pub(super) const NONE: &str = "none";

/// Networks, or none.
pub(super) struct Networks;

impl Rule<Vec<Network>> for Networks {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<Network>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        if list == [NONE] {
            return Ok(Vec::new());
        }
        list.iter().map(|text| text.parse().map_err(|error| Fault::Because(format!("contains {error}")))).collect()
    }

    fn show(&self, value: &Vec<Network>) -> String {
        toml_list(value)
    }

    fn expects(&self) -> String {
        "a list of addresses or networks, such as [\"192.0.2.1\", \"2001:db8::/32\"], or \"none\"".to_owned()
    }
}

/// One of several words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Rule<T> for Choice<T> {
    fn read(&self, raw: &Raw<'_>) -> Result<T, Fault> {
        let text = raw.text().ok_or(Fault::Unexpected)?.trim();
        let found = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value).ok_or(Fault::Unexpected)
    }

    fn show(&self, value: &T) -> String {
        let name = self.0.iter().find(|(_, known)| known == value).map_or("", |(name, _)| name);
        toml_text(name)
    }

    fn expects(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|(name, _)| toml_text(name)).collect();
        format!("one of {}", names.join(", "))
    }
}

/// The permissions of a file, in octal digits.
pub(super) struct Mode;

impl Rule<u32> for Mode {
    fn read(&self, raw: &Raw<'_>) -> Result<u32, Fault> {
        // As text: 660 as a number of TOML would be a decimal one.
        let text = raw.text().ok_or(Fault::Unexpected)?.trim();
        let mode = u32::from_str_radix(text, 8).map_err(|_| Fault::Unexpected)?;
        if mode <= 0o777 { Ok(mode) } else { Err(Fault::Unexpected) }
    }

    fn show(&self, value: &u32) -> String {
        format!("\"{value:03o}\"")
    }

    fn expects(&self) -> String {
        "permissions in octal digits as text, such as \"660\" or \"666\"".to_owned()
    }
}

/// Names and the keys they stand for: `alice=npub1…`.
pub(super) struct Names;

impl Rule<Vec<(String, PublicKey)>> for Names {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<(String, PublicKey)>, Fault> {
        let mut names: Vec<(String, PublicKey)> = Vec::new();
        for text in raw.list().ok_or(Fault::Unexpected)? {
            let because = |what: String| Fault::Because(format!("contains {}, {what}", quoted(text)));
            let (name, key) =
                text.split_once('=').ok_or_else(|| because("which has no = between name and key".into()))?;
            let name = name.trim().to_ascii_lowercase();
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
            if name.is_empty() || !name.bytes().all(allowed) {
                return Err(because("whose name has other characters than a-z, 0-9, -, _ and .".into()));
            }
            if names.iter().any(|(other, _)| *other == name) {
                return Err(Fault::Because(format!("names {name} twice")));
            }
            let key = nip19::parse_pubkey(key.trim())
                .map_err(|error| because(format!("which has no public key: {error}")))?;
            names.push((name, key));
        }
        Ok(names)
    }

    fn show(&self, value: &Vec<(String, PublicKey)>) -> String {
        let list: Vec<String> =
            value.iter().map(|(name, key)| toml_text(&format!("{name}={}", nip19::encode_npub(key)))).collect();
        format!("[{}]", list.join(", "))
    }

    fn expects(&self) -> String {
        "a list of names with their keys, such as [\"alice=npub1…\"]".to_owned()
    }
}

/// Public keys, each as npub or hexadecimal.
pub(super) struct Keys;

impl Rule<Vec<PublicKey>> for Keys {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<PublicKey>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        list.into_iter()
            .map(|text| {
                nip19::parse_pubkey(text.trim()).map_err(|error| {
                    Fault::Because(format!("contains {}, which is not a public key: {error}", quoted(text)))
                })
            })
            .collect()
    }

    fn show(&self, value: &Vec<PublicKey>) -> String {
        let list: Vec<String> = value.iter().map(|key| toml_text(&nip19::encode_npub(key))).collect();
        format!("[{}]", list.join(", "))
    }

    fn expects(&self) -> String {
        "a list of public keys, each as npub1… or 64 hexadecimal digits".to_owned()
    }
}

/// A folder; it need not exist yet.
pub(super) struct Folder;

impl Rule<PathBuf> for Folder {
    fn read(&self, raw: &Raw<'_>) -> Result<PathBuf, Fault> {
        match raw.text() {
            Some(text) if !text.trim().is_empty() && !text.contains('\0') => Ok(PathBuf::from(text)),
            _ => Err(Fault::Unexpected),
        }
    }

    fn show(&self, value: &PathBuf) -> String {
        toml_text(&value.display().to_string())
    }

    fn expects(&self) -> String {
        "the path of a folder".to_owned()
    }
}

/// A list of texts in TOML.
pub(super) fn toml_list(values: &[impl ToString]) -> String {
    let list: Vec<String> = values.iter().map(|value| toml_text(&value.to_string())).collect();
    format!("[{}]", list.join(", "))
}

/// Text as a TOML string.
pub(super) fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
