//! How long events are kept: `"7: 90d"`, `"others: 365d and 500 per author"`.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use super::hosts::OptionalFile;
use super::problem::quoted;
use super::rules::{Fault, NONE, Raw, Rule, TIMES, toml_list};
use crate::nostr::{Kind, PublicKey};

/// Whose event it is. In this order they are spared when the database is too large: the last are the first to lose events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The keys in `info.pubkey` and `policy.admins`.
    Owner,
    /// The keys in `retention.people` and `info.names`, and those on the list of allowed keys.
    Listed,
    /// Those who have published an event here while they were authenticated with its key (NIP-42).
    Authenticated,
    /// Everybody else.
    Others,
}

impl Tier {
    /// All of them.
    pub const ALL: [Tier; 4] = [Tier::Owner, Tier::Listed, Tier::Authenticated, Tier::Others];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Owner => "owner",
            Tier::Listed => "listed",
            Tier::Authenticated => "authenticated",
            Tier::Others => "others",
        }
    }
}

/// Kinds that follow each other, written as `7` or `30000-39999`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindRange(pub RangeInclusive<u16>);

impl KindRange {
    /// Whether this is one of them.
    pub fn contains(&self, kind: Kind) -> bool {
        self.0.contains(&kind.0)
    }
}

impl FromStr for KindRange {
    type Err = String;

    fn from_str(text: &str) -> Result<KindRange, String> {
        let wrong =
            || format!("{}, which is neither a kind such as \"7\" nor kinds such as \"30000-39999\"", quoted(text));
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let kind = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
        let kinds = kind(from)?..=kind(to)?;
        if kinds.is_empty() { Err(wrong()) } else { Ok(KindRange(kinds)) }
    }
}

impl fmt::Display for KindRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.0.start(), self.0.end());
        if from == to { write!(f, "{from}") } else { write!(f, "{from}-{to}") }
    }
}

/// One rule: of which events how many are kept, and how long. With neither a time nor a number they are kept for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    /// Whose events; everybody's when it is empty.
    pub tiers: Vec<Tier>,
    /// Of which kinds; of all when it is empty.
    pub kinds: Vec<KindRange>,
    /// How many seconds, by `created_at`.
    pub age: Option<u64>,
    /// How many of each author, the newest.
    pub count: Option<u32>,
}

impl RetentionRule {
    /// Whether this rule is about such events.
    pub fn covers(&self, tier: Tier, kind: Kind) -> bool {
        (self.tiers.is_empty() || self.tiers.contains(&tier))
            && (self.kinds.is_empty() || self.kinds.iter().any(|kinds| kinds.contains(kind)))
    }
}

/// A number that is higher costs memory for nothing: nobody has so many events.
const MOST_PER_AUTHOR: u32 = 10_000_000;

impl FromStr for RetentionRule {
    type Err = String;

    fn from_str(text: &str) -> Result<RetentionRule, String> {
        let wrong = |what: &str| format!("{}, {what}", quoted(text));
        let (about, keep) = text.split_once(':').ok_or_else(|| {
            wrong("which has no colon between the events and how long they are kept, as in \"7: 90d\"")
        })?;
        let (mut tiers, mut kinds, mut all) = (Vec::new(), Vec::new(), false);
        for word in about.split_whitespace() {
            if let Some(tier) = Tier::ALL.into_iter().find(|tier| tier.name() == word) {
                tiers.push(tier);
            } else if word == "all" {
                all = true;
            } else {
                kinds.push(word.parse::<KindRange>().map_err(|_| {
                    wrong("where neither a kind such as 7, nor kinds such as 30000-39999, nor one of the words all, owner, listed, authenticated and others stands before the colon")
                })?);
            }
        }
        // Nobody should lose everything because a word was forgotten.
        if tiers.is_empty() && kinds.is_empty() && !all {
            return Err(wrong("which does not say before the colon which events; write all if you mean all"));
        }
        let mut rule = RetentionRule { tiers, kinds, age: None, count: None };
        let keep = keep.trim();
        if keep == "forever" {
            return Ok(rule);
        }
        let unclear = || {
            wrong(
                "where what follows the colon is none of \"forever\", \"90d\", \"500 per author\" and \"90d and 500 per author\"",
            )
        };
        for part in keep.split(" and ") {
            let part = part.trim();
            if let Some(count) = part.strip_suffix("per author") {
                let count = count.trim().replace('_', "").parse().map_err(|_| unclear())?;
                if rule.count.replace(count).is_some() || !(1..=MOST_PER_AUTHOR).contains(&count) {
                    return Err(wrong(&format!(
                        "where one number per author, from 1 to {MOST_PER_AUTHOR}, is allowed"
                    )));
                }
            } else {
                let age = age(part).ok_or_else(unclear)?;
                if rule.age.replace(age).is_some() || age == 0 {
                    return Err(wrong("where one time, longer than none, is allowed"));
                }
            }
        }
        Ok(rule)
    }
}

/// Seconds of a time that must have a unit: "90" could be anything.
fn age(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (_, seconds) = TIMES.iter().find(|(name, _)| *name == text[digits..].trim())?;
    text[..digits].parse::<u64>().ok()?.checked_mul(*seconds)
}

impl fmt::Display for RetentionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers = self.tiers.iter().map(|tier| tier.name().to_owned());
        let mut about: Vec<String> = tiers.chain(self.kinds.iter().map(KindRange::to_string)).collect();
        if about.is_empty() {
            about.push("all".to_owned());
        }
        let age = self.age.map(|age| {
            let (name, span) = TIMES.iter().find(|(_, span)| age.is_multiple_of(*span)).unwrap_or(&("s", 1));
            format!("{}{name}", age / span)
        });
        let keep: Vec<String> = age.into_iter().chain(self.count.map(|count| format!("{count} per author"))).collect();
        let keep = if keep.is_empty() { "forever".to_owned() } else { keep.join(" and ") };
        write!(f, "{}: {keep}", about.join(" "))
    }
}

/// What is protected unless the operator says otherwise: who people are (0), whom they follow (3), where they are found and what else
/// they have one of (10000-19999), and the requests to delete and to vanish (5, 62), which others have to learn of.
pub(super) fn protected_kinds() -> Vec<KindRange> {
    [0..=0, 3..=3, 5..=5, 62..=62, 10_000..=19_999].into_iter().map(KindRange).collect()
}

/// Rules, or none.
pub(super) struct RetentionRules;

/// Each costs a look at every author's kinds.
const MOST_RULES: usize = 100;

impl Rule<Vec<RetentionRule>> for RetentionRules {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<RetentionRule>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        if list == [NONE] {
            return Ok(Vec::new());
        }
        if list.len() > MOST_RULES {
            return Err(Fault::Because(format!("has {} rules, more than {MOST_RULES}", list.len())));
        }
        list.iter().map(|text| text.parse().map_err(|error| Fault::Because(format!("contains {error}")))).collect()
    }

    fn show(&self, value: &Vec<RetentionRule>) -> String {
        toml_list(value)
    }

    fn expects(&self) -> String {
        "a list of rules, such as [\"7: 90d\", \"others: 365d and 500 per author\"], or \"none\"".to_owned()
    }
}

/// Kinds, or none.
pub(super) struct KindRanges;

impl Rule<Vec<KindRange>> for KindRanges {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<KindRange>, Fault> {
        let list = raw.list().ok_or(Fault::Unexpected)?;
        if list == [NONE] {
            return Ok(Vec::new());
        }
        list.iter().map(|text| text.parse().map_err(|error| Fault::Because(format!("contains {error}")))).collect()
    }

    fn show(&self, value: &Vec<KindRange>) -> String {
        toml_list(value)
    }

    fn expects(&self) -> String {
        "a list of kinds, such as [\"0\", \"10000-19999\"], or \"none\"".to_owned()
    }
}

/// The path of a folder, or nothing.
pub(super) struct OptionalFolder;

impl Rule<Option<PathBuf>> for OptionalFolder {
    fn read(&self, raw: &Raw<'_>) -> Result<Option<PathBuf>, Fault> {
        OptionalFile.read(raw)
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        OptionalFile.show(value)
    }

    fn expects(&self) -> String {
        "the path of a folder, or empty".to_owned()
    }
}

/// The keys that belong to the people of the relay, see [`Tier`].
pub fn owners(config: &super::Config) -> Vec<PublicKey> {
    config.info.pubkey.iter().chain(&config.policy.admins).copied().collect()
}

/// The keys that the configuration lists, see [`Tier`].
pub fn listed(config: &super::Config) -> Vec<PublicKey> {
    config.retention.people.iter().chain(config.info.names.iter().map(|(_, key)| key)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in [
            "7: 90d",
            "all: 365d",
            "owner listed: forever",
            "others 1 6 30000-39999: 1w and 500 per author",
            "authenticated: 1000 per author",
            "20: 90s",
        ] {
            let rule: RetentionRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!(
            " others   7 :  5 per author and 24h ".parse::<RetentionRule>().unwrap().to_string(),
            "others 7: 1d and 5 per author"
        );
    }

    #[test]
    fn what_is_unclear_is_refused_with_the_reason() {
        for (text, reason) in [
            ("7", "no colon"),
            (": 90d", "which events"),
            ("7: ", "none of \"forever\""),
            ("7: 90", "none of"),
            ("7: ninety days", "none of"),
            ("7: 90d and", "none of"),
            ("7: 0d", "longer than none"),
            ("7: 90d and 60d", "one time"),
            ("7: 0 per author", "one number per author"),
            ("7: 5 per author and 6 per author", "one number per author"),
            ("friends: 90d", "one of the words all, owner"),
            ("9-7: 90d", "one of the words"),
            ("70000: 1d", "one of the words"),
            ("7: 99999999999999999999d", "none of"),
        ] {
            let error = text.parse::<RetentionRule>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_rule_covers_its_people_and_its_kinds() {
        let covers = |text: &str, tier, kind| text.parse::<RetentionRule>().unwrap().covers(tier, Kind(kind));
        assert!(covers("all: 1d", Tier::Owner, 0) && covers("7: 1d", Tier::Listed, 7));
        assert!(covers("others 7 9-11: 1d", Tier::Others, 10));
        assert!(!covers("others 7 9-11: 1d", Tier::Others, 8) && !covers("others 7: 1d", Tier::Listed, 7));
    }
}
