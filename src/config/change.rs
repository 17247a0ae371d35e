//! What differs between the configuration in force and a new one, and what of it a running relay can take over.

use std::fmt;

use super::problem::Problem;
use super::settings::{Config, Effect, SECTIONS};
use super::sources::Draft;

/// A setting that has another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Section and name: `limits.max_limit`.
    pub name: String,
    /// When it is in force.
    pub effect: Effect,
    /// Both values as TOML; `None` for a secret.
    values: Option<(String, String)>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            // A file with other content.
            Some((old, new)) if old == new => write!(f, "{}: {} was read again", self.name, cut(new))?,
            Some((old, new)) => write!(f, "{}: {} -> {}", self.name, cut(old), cut(new))?,
            None => write!(f, "{}: changed", self.name)?,
        }
        match self.effect {
            Effect::Now => Ok(()),
            Effect::NewConnections => f.write_str(" (for those who connect from now on)"),
            Effect::Restart => f.write_str(" (needs a restart)"),
        }
    }
}

/// A value as it fits a line.
fn cut(value: &str) -> String {
    const SHOWN: usize = 200;
    let cut: String = value.chars().take(SHOWN).collect();
    if cut.len() < value.len() { format!("{cut}…") } else { cut }
}

/// A configuration that a running relay can take over.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The new values of everything that can change while the relay runs, the old ones of everything else.
    pub config: Config,
    /// What differs between the old configuration and the new one.
    pub changes: Vec<Change>,
}

/// Merges a new configuration into the one in force. The error says why the new values cannot stand beside those that need a
/// restart.
pub fn merge(old: &Config, new: &Config) -> Result<Merged, Vec<Problem>> {
    let mut draft = Draft { config: old.clone(), ..Draft::default() };
    let mut changes = Vec::new();
    // A certificate can be exchanged, but TLS begins and ends with the relay.
    let tls_is_switched = old.tls.source().is_some() != new.tls.source().is_some();
    for section in SECTIONS {
        for setting in section.settings {
            let (before, after) = ((setting.show)(old), (setting.show)(new));
            let mut taken = old.clone();
            (setting.take)(new, &mut taken);
            if taken == *old {
                continue;
            }
            let effect = if section.name == "tls" && tls_is_switched { Effect::Restart } else { setting.effect };
            changes.push(Change {
                name: format!("{}.{}", section.name, setting.name),
                effect,
                values: (!(setting.is_secret)()).then_some((before, after)),
            });
            if effect != Effect::Restart {
                (setting.take)(new, &mut draft.config);
            }
        }
    }
    if changes.iter().any(|change| change.effect == Effect::Restart) {
        // Both were checked, but not what is left of each.
        draft.check_whole();
    }
    if draft.problems.is_empty() { Ok(Merged { config: draft.config, changes }) } else { Err(draft.problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(old: &Config, new: &Config) -> Vec<String> {
        merge(old, new).unwrap().changes.iter().map(Change::to_string).collect()
    }

    #[test]
    fn what_changed_is_told_and_secrets_are_not() {
        let (old, mut new) = (Config::default(), Config::default());
        assert_eq!(texts(&old, &new), [""; 0]);
        (new.limits.max_limit, new.limits.default_limit) = (100, 100);
        new.limits.max_message_length = 70_000;
        new.storage.map_size = 1 << 30;
        new.listen.metrics_token = "s3cret".into();
        new.info.name = "a \"new\" name".into();
        assert_eq!(
            texts(&old, &new),
            [
                "info.name: \"ratite relay\" -> 'a \"new\" name'",
                "listen.metrics_token: changed",
                "storage.map_size: \"1 TiB\" -> \"1 GiB\" (needs a restart)",
                "limits.max_message_length: \"128 KiB\" -> \"70 kB\" (for those who connect from now on)",
                "limits.max_limit: 5000 -> 100",
                "limits.default_limit: 500 -> 100",
            ]
        );
        let merged = merge(&old, &new).unwrap();
        assert_eq!(merged.config.limits.max_limit, 100);
        assert_eq!(merged.config.storage.map_size, old.storage.map_size, "not in force yet");
        // What was not taken over is still a change the next time.
        assert_eq!(merge(&merged.config, &new).unwrap().changes.len(), 1);
        let mut other = new.clone();
        other.listen.metrics_token = "other".into();
        assert_eq!(texts(&new, &other), ["listen.metrics_token: changed"], "one secret for another");
    }

    #[test]
    fn what_cannot_stand_beside_the_rest_is_not_taken() {
        let (old, mut new) = (Config::default(), Config::default());
        // Right by itself, but the queue grows only at a restart.
        new.limits.max_message_length = 32 << 20;
        new.storage.queue_bytes = 64 << 20;
        new.listen.outbox_bytes = 64 << 20;
        let problems = merge(&old, &new).unwrap_err();
        assert!(problems[0].message.starts_with("storage.queue_bytes is 33554432 bytes"), "{problems:?}");
    }

    #[test]
    fn a_certificate_can_be_exchanged_and_tls_begins_at_a_start() {
        let mut old = Config::default();
        let mut new = old.clone();
        new.tls.certificate = Some("/a.pem".into());
        new.tls.key = Some("/a.key".into());
        assert!(merge(&old, &new).unwrap().changes.iter().all(|change| change.effect == Effect::Restart));
        assert_eq!(merge(&old, &new).unwrap().config, old);
        old = new.clone();
        new.tls.certificate = Some("/b.pem".into());
        let merged = merge(&old, &new).unwrap();
        assert_eq!((merged.changes[0].effect, merged.config), (Effect::Now, new));
    }

    #[test]
    fn every_setting_can_be_taken_over_alone() {
        let old = Config::default();
        for section in SECTIONS {
            for setting in section.settings {
                let mut taken = old.clone();
                (setting.take)(&old, &mut taken);
                assert_eq!(taken, old, "{}", setting.name);
            }
        }
    }
}
