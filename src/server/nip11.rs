//! The relay information document (NIP-11), made from what is switched on and from the limits in force.

use std::borrow::Cow;

use serde::Serialize;

use crate::config::{Config, Picture};
use crate::nostr::PublicKey;
use crate::relay::policy::moderation::Lists;

/// Where the source lives. NIP-11 wants an address.
pub(super) const SOFTWARE: &str = "https://github.com/ratite/ratite";

/// The version of this build.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the operator's pictures are served.
pub(super) const ICON: &str = "/icon";
pub(super) const BANNER: &str = "/banner";

/// The NIPs that this relay acts on, as it is configured now.
///
/// What only clients do is not listed (N11-07), nor what is switched off; `members` tells whether the relay has any (NIP-43).
pub(super) fn supported_nips(config: &Config, members: bool) -> Vec<u16> {
    let policy = &config.policy;
    let list = [
        (1, true),
        (5, !config.info.names.is_empty()),
        (9, policy.deletion_requests),
        (11, true),
        (13, policy.min_pow_difficulty > 0),
        // Messages in gift wraps: given to their recipients only.
        (17, policy.auth && policy.guard_private),
        (40, policy.expiration),
        (42, policy.auth),
        (43, members),
        (45, policy.count),
        (59, policy.auth && policy.guard_private),
        (62, policy.requests_to_vanish),
        (67, policy.eose_hints),
        (70, policy.protected_events),
        (86, !policy.admins.is_empty()),
        (98, !policy.admins.is_empty()),
    ];
    list.into_iter().filter_map(|(nip, is_on)| is_on.then_some(nip)).collect()
}

/// The document. Texts that are not configured are left out.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    banner: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    icon: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pubkey: Option<String>,
    /// The relay's own key.
    #[serde(rename = "self", skip_serializing_if = "Option::is_none")]
    own: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    contact: &'a str,
    supported_nips: Vec<u16>,
    software: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    terms_of_service: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    privacy_policy: &'a str,
    limitation: Limitation,
}

/// Numbers are the ones that are enforced (law 9). The two times are seconds from now; one that is off is left out.
#[derive(Serialize)]
struct Limitation {
    max_message_length: usize,
    max_subscriptions: usize,
    max_limit: u64,
    default_limit: u64,
    max_subid_length: usize,
    max_event_tags: usize,
    max_content_length: usize,
    min_pow_difficulty: u8,
    auth_required: bool,
    payment_required: bool,
    restricted_writes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at_lower_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at_upper_limit: Option<u64>,
}

/// Writes the document as JSON. What was changed while the relay ran counts more than the configuration.
/// `own` is the relay's own key, if it has one.
pub(super) fn document(config: &Config, lists: &Lists, own: Option<PublicKey>) -> Result<Vec<u8>, serde_json::Error> {
    let info = &config.info;
    let limits = &config.limits;
    serde_json::to_vec(&Document {
        name: lists.text("name").unwrap_or(&info.name),
        description: lists.text("description").unwrap_or(&info.description),
        banner: &picture(config, &info.banner, info.banner_file.as_ref(), BANNER),
        icon: lists.text("icon").unwrap_or(&picture(config, &info.icon, info.icon_file.as_ref(), ICON)),
        pubkey: info.pubkey.map(|key| key.to_string()),
        own: own.map(|key| key.to_string()),
        contact: &info.contact,
        supported_nips: supported_nips(config, lists.gate().enabled),
        software: SOFTWARE,
        version: VERSION,
        terms_of_service: &info.terms_of_service,
        privacy_policy: &info.privacy_policy,
        limitation: Limitation {
            max_message_length: limits.max_message_length,
            max_subscriptions: limits.max_subscriptions,
            max_limit: limits.max_limit,
            default_limit: limits.default_limit,
            max_subid_length: limits.max_subid_length,
            max_event_tags: limits.max_event_tags,
            max_content_length: limits.max_content_length,
            min_pow_difficulty: config.policy.min_pow_difficulty,
            auth_required: lists.gate().is_closed(),
            payment_required: false,
            restricted_writes: config.policy.min_pow_difficulty > 0 || lists.restrict_writes(),
            created_at_lower_limit: switched_on(limits.created_at_lower_limit),
            created_at_upper_limit: switched_on(limits.created_at_upper_limit),
        },
    })
}

/// The address of a picture: the one that is configured, or that of the relay's own, which is known when its own address is.
fn picture<'c>(config: &'c Config, configured: &'c str, own: Option<&Picture>, path: &str) -> Cow<'c, str> {
    let has_own = configured.is_empty() && own.and_then(Picture::content).is_some();
    match config.url().strip_prefix("ws").and_then(|rest| rest.split_once("://")) {
        Some((s, rest)) if has_own => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            format!("http{s}://{host}{path}").into()
        }
        _ => configured.into(),
    }
}

/// 0 means off.
fn switched_on(seconds: u64) -> Option<u64> {
    (seconds > 0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(config: &Config) -> Value {
        serde_json::from_slice(&document(config, &Lists::default(), None).unwrap()).unwrap()
    }

    #[test]
    fn n11_09_to_n11_14_limits_in_force() {
        let mut config = Config::default();
        config.limits.max_message_length = 70_001;
        config.limits.max_subscriptions = 7;
        config.limits.max_limit = 77;
        config.limits.default_limit = 70;
        config.limits.max_event_tags = 777;
        config.limits.max_content_length = 7777;
        config.limits.created_at_lower_limit = 0;
        config.limits.created_at_upper_limit = 300;
        let limitation = &written(&config)["limitation"];
        assert_eq!(limitation["max_message_length"], 70_001);
        assert_eq!(limitation["max_subscriptions"], 7);
        assert_eq!(limitation["max_limit"], 77);
        assert_eq!(limitation["default_limit"], 70);
        assert_eq!(limitation["max_subid_length"], 64);
        assert_eq!(limitation["max_event_tags"], 777);
        assert_eq!(limitation["max_content_length"], 7777);
        assert_eq!(limitation["created_at_upper_limit"], 300);
        assert_eq!(limitation["auth_required"], false, "what is public is read without");
        assert_eq!((&limitation["min_pow_difficulty"], &limitation["restricted_writes"]), (&json!(0), &json!(false)));
        assert_eq!(limitation.get("created_at_lower_limit"), None, "what is off is not advertised");
    }

    #[test]
    fn n11_07_n11_12_n11_13_what_is_switched_on_is_told() {
        let mut config = Config::default();
        config.policy.min_pow_difficulty = 20;
        config.policy.auth = false;
        let document = written(&config);
        assert_eq!(document["supported_nips"], json!([1, 9, 11, 13, 40, 45, 62, 70]));
        let limitation = &document["limitation"];
        assert_eq!((&limitation["min_pow_difficulty"], &limitation["restricted_writes"]), (&json!(20), &json!(true)));
        config.policy = crate::config::Policy { guard_private: false, eose_hints: true, ..Default::default() };
        assert_eq!(written(&config)["supported_nips"], json!([1, 9, 11, 40, 42, 45, 62, 67, 70]));
    }

    #[test]
    fn n11_05_to_n11_08_n11_16_n11_17_n12_01_texts() {
        let mut config = Config::default();
        config.info.name = "A \"quoted\" </script> name\n".into();
        config.info.contact = "mailto:a@example.org".into();
        config.info.privacy_policy = "https://example.org/privacy".into();
        config.info.pubkey = crate::nostr::PublicKey::from_hex(&"ab".repeat(32));
        let document = written(&config);
        assert_eq!(document["name"], config.info.name);
        assert_eq!(document["contact"], "mailto:a@example.org");
        assert_eq!(document["pubkey"], "ab".repeat(32));
        assert_eq!(document["privacy_policy"], "https://example.org/privacy");
        assert_eq!(document["software"], SOFTWARE);
        assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(document["supported_nips"], json!([1, 9, 11, 17, 40, 42, 45, 59, 62, 70]));
        // Left out as long as there is nothing to say, or for good since the NIP dropped them.
        for absent in [
            "description",
            "icon",
            "banner",
            "terms_of_service",
            "self",
            "retention",
            "relay_countries",
            "language_tags",
            "tags",
            "posting_policy",
            "payments_url",
            "fees",
        ] {
            assert_eq!(document.get(absent), None, "{absent}");
        }
    }
}
