//! Rates by kind of event: `"1059=600"`, `"20000-29999=1200"`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::problem::quoted;
use super::rules::{Fault, NONE, Raw, Rule, toml_list};

/// How many events of these kinds one author may publish in a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindRate {
    /// The kinds.
    pub kinds: RangeInclusive<u16>,
    /// Events per minute, all these kinds together; 0 is no limit.
    pub per_minute: u32,
}

impl KindRate {
    /// Ephemeral events: they are passed on, never kept, and some clients talk in them (NIP-46, NIP-47).
    pub(super) const EPHEMERAL: KindRate = KindRate { kinds: 20_000..=29_999, per_minute: 1_200 };
}

impl FromStr for KindRate {
    type Err = String;

    fn from_str(text: &str) -> Result<KindRate, String> {
        let wrong = || {
            format!(
                "{}, which is not a kind and a rate such as \"1=60\", or kinds such as \"30000-39999=60\"",
                quoted(text)
            )
        };
        let (kinds, rate) = text.split_once('=').ok_or_else(wrong)?;
        let (from, to) = kinds.split_once('-').unwrap_or((kinds, kinds));
        let kind = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
        let kinds = kind(from)?..=kind(to)?;
        if kinds.is_empty() {
            return Err(wrong());
        }
        Ok(KindRate { kinds, per_minute: rate.trim().parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for KindRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.kinds.start(), self.kinds.end());
        if from == to { write!(f, "{from}={}", self.per_minute) } else { write!(f, "{from}-{to}={}", self.per_minute) }
    }
}

/// Rates by kind, or none.
pub(super) struct KindRates;

/// Each rule costs a look at every event.
const MOST_RULES: usize = 100;

impl Rule<Vec<KindRate>> for KindRates {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<KindRate>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        if list == [NONE] {
            return Ok(Vec::new());
        }
        if list.len() > MOST_RULES {
            return Err(Fault::Because(format!("has {} rates, more than {MOST_RULES}", list.len())));
        }
        list.iter().map(|text| text.parse().map_err(|error| Fault::Because(format!("contains {error}")))).collect()
    }

    fn show(&self, value: &Vec<KindRate>) -> String {
        toml_list(value)
    }

    fn expects(&self) -> String {
        "a list of kinds and rates, such as [\"1=60\", \"30000-39999=60\"], or \"none\"".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_by_kind_are_written_as_they_are_read() {
        for text in ["1=60", "20000-29999=1200", "0=0", "65535=1"] {
            assert_eq!(text.parse::<KindRate>().unwrap().to_string(), text);
        }
        assert_eq!(" 1 - 3 = 5".parse::<KindRate>().unwrap().to_string(), "1-3=5");
        for text in ["", "1", "=", "1=", "=5", "3-1=5", "65536=1", "1=-1", "1=x", "1-2-3=4", "1=4294967296"] {
            assert!(text.parse::<KindRate>().is_err(), "{text}");
        }
    }
}
