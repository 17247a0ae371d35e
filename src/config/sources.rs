//! A configuration under construction: settings arrive from the file, the environment and the flags, problems are
//! gathered on the way, and at the end the whole is checked.

use std::collections::HashMap;
use std::ffi::OsString;

use super::picture::Picture;
use super::problem::{Place, Problem, nearest};
use super::rules::{Fault, Raw};
use super::settings::{Config, SECTIONS, Section, Setting, variable};
use super::tls;
use crate::nostr::Kind;

/// Environment variables that carry the prefix of settings but are none.
pub(super) const CONFIG_FILE_VARIABLE: &str = "RATITE_CONFIG";

/// A configuration under construction.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    /// What must be put right before the relay can start.
    pub(super) problems: Vec<Problem>,
    /// What the relay can start with, but nobody can have meant.
    pub(super) warnings: Vec<Problem>,
    /// Where each setting was given last.
    pub(super) places: HashMap<(&'static str, &'static str), Place>,
}

impl Draft {
    /// Reads one setting, or notes why its value cannot be read.
    pub(super) fn set(&mut self, section: &Section, setting: &Setting, raw: &Raw<'_>, place: Place) {
        let name = format!("{}.{}", section.name, setting.name);
        let message = match (setting.read)(raw, &mut self.config) {
            Ok(()) => {
                self.places.insert((section.name, setting.name), place);
                return;
            }
            Err(Fault::Unexpected) => format!("{name} must be {}, not {}", (setting.expects)(), raw.shown()),
            Err(Fault::Because(reason)) => format!("{name} {reason}"),
        };
        self.problems.push(Problem::new(place, message));
    }

    /// Takes every `RATITE_SECTION_SETTING` variable. An empty one counts as not set.
    pub(super) fn read_environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        let mut variables: Vec<(String, OsString)> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, value)| name.starts_with("RATITE_") && !value.is_empty())
            .collect();
        variables.sort();
        for (name, value) in variables {
            if name == CONFIG_FILE_VARIABLE {
                continue;
            }
            let place = Place::Environment(name.clone());
            let known = SECTIONS
                .iter()
                .flat_map(|section| section.settings.iter().map(move |setting| (section, setting)))
                .find(|(section, setting)| variable(section.name, setting.name) == name);
            let Some((section, setting)) = known else {
                // A warning, not an error: container platforms set variables of their own that are named after the
                // service, such as RATITE_PORT.
                let names: Vec<String> = SECTIONS
                    .iter()
                    .flat_map(|section| section.settings.iter().map(|setting| variable(section.name, setting.name)))
                    .collect();
                let problem = Problem::new(place, "there is no setting of this name; the variable is ignored");
                self.warnings.push(match nearest(&name, names.iter().map(String::as_str)) {
                    Some(near) => problem.help(format!("did you mean {near}?")),
                    None => problem,
                });
                continue;
            };
            match value.to_str() {
                Some(text) => self.set(section, setting, &Raw::Word(text), place),
                None => self.problems.push(Problem::new(place, "the value is not UTF-8 text")),
            }
        }
    }

    /// Takes a setting that a flag has already read.
    pub(super) fn set_by_flag(&mut self, section: &'static str, setting: &'static str, flag: &'static str) {
        self.places.insert((section, setting), Place::Flag(flag));
    }

    /// Where a setting was given.
    fn place(&self, section: &'static str, setting: &'static str) -> Place {
        self.places.get(&(section, setting)).cloned().unwrap_or(Place::Default)
    }

    /// Checks what no setting can be checked for alone. Call it when every source was read.
    pub(super) fn check_whole(&mut self) {
        if !self.problems.is_empty() {
            // The values that could not be read are still the defaults: comparing them would only mislead.
            return;
        }
        let place = |setting| self.places.get(&("tls", setting)).cloned().unwrap_or(Place::Default);
        tls::check(&self.config, place, &mut self.problems, &mut self.warnings);
        let info = &self.config.info;
        for (setting, picture) in [("icon_file", &info.icon_file), ("banner_file", &info.banner_file)] {
            if let Some(fault) = picture.as_ref().and_then(Picture::fault) {
                let warning = Problem::new(self.place("info", setting), format!("info.{setting}: {fault}"));
                self.warnings.push(warning.help("the relay does without this picture"));
            }
        }
        let limits = &mut self.config.limits;
        if limits.default_limit > limits.max_limit {
            if self.places.contains_key(&("limits", "default_limit")) {
                let message = format!(
                    "limits.default_limit is {} but limits.max_limit allows only {}",
                    limits.default_limit, limits.max_limit
                );
                let place = self.place("limits", "default_limit");
                self.problems.push(Problem::new(place, message).help("lower the one or raise the other"));
            } else {
                limits.default_limit = limits.max_limit;
            }
        }
        if self.config.membership.enabled && !self.config.policy.auth {
            let place = self.place("policy", "auth");
            let message = "policy.auth is off, so that nobody can prove to be a member (membership.enabled)";
            self.problems.push(Problem::new(place, message).help("switch it on, or membership off"));
        }
        let message_length = self.config.limits.max_message_length;
        let message_bytes = self.config.rates.message_bytes;
        if message_bytes > 0 && message_bytes < message_length as u64 {
            let place = match self.place("rates", "message_bytes") {
                Place::Default => self.place("limits", "max_message_length"),
                place => place,
            };
            self.problems.push(
                Problem::new(
                    place,
                    format!(
                        "rates.message_bytes is {message_bytes} bytes, less than limits.max_message_length \
                         ({message_length} bytes): the longest messages would always be refused"
                    ),
                )
                .help(format!("set rates.message_bytes to {message_length} or more")),
            );
        }
        self.check_retention();
        for (section, setting, bytes, why) in [
            ("listen", "outbox_bytes", self.config.listen.outbox_bytes, "long events could never be delivered"),
            ("storage", "queue_bytes", self.config.storage.queue_bytes, "long events could never be taken in"),
        ] {
            if bytes < message_length.saturating_mul(2) {
                // Point at the line the user wrote: one of the two is not the default.
                let place = match self.place(section, setting) {
                    Place::Default => self.place("limits", "max_message_length"),
                    place => place,
                };
                self.problems.push(
                    Problem::new(
                        place,
                        format!(
                            "{section}.{setting} is {bytes} bytes, less than twice limits.max_message_length ({message_length} bytes): {why}"
                        ),
                    )
                    .help(format!("set {section}.{setting} to {} or more", message_length.saturating_mul(2))),
                );
            }
        }
    }

    /// A ceiling with its water marks, and rules that can never remove anything.
    fn check_retention(&mut self) {
        let retention = self.config.retention.clone();
        if retention.low_water >= retention.high_water {
            let place = match self.place("retention", "low_water") {
                Place::Default => self.place("retention", "high_water"),
                place => place,
            };
            let message = format!(
                "retention.low_water is {} and retention.high_water {}: what begins at the one has to end below it",
                retention.low_water, retention.high_water
            );
            self.problems.push(Problem::new(place, message).help("lower the one or raise the other"));
        }
        let is_protected = |kind: u16| retention.protected_kinds.iter().any(|kinds| kinds.contains(Kind(kind)));
        for rule in &retention.rules {
            let limits = rule.age.is_some() || rule.count.is_some();
            if limits && !rule.kinds.is_empty() && rule.kinds.iter().all(|kinds| kinds.0.clone().all(is_protected)) {
                let message =
                    format!("the rule \"{rule}\" removes nothing: its kinds are among retention.protected_kinds");
                self.warnings.push(Problem::new(self.place("retention", "rules"), message));
            }
        }
    }
}
