//! Names served at `/.well-known/nostr.json`: `alice@relay.example.org` is this key (NIP-05).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::config::Config;

/// Where they are served.
pub(super) const PATH: &str = "/.well-known/nostr.json";

/// The configured names, with the relays at which their keys are found.
pub(super) struct Names {
    keys: BTreeMap<String, String>,
    relays: Vec<String>,
}

/// What is answered.
#[derive(Serialize)]
struct Answer<'a> {
    names: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    relays: BTreeMap<&'a str, &'a [String]>,
}

impl Names {
    /// The names of a configuration; `None` when there are none, and then the path leads nowhere.
    pub(super) fn new(config: &Config) -> Option<Names> {
        let info = &config.info;
        let keys = info.names.iter().map(|(name, key)| (name.clone(), key.to_string())).collect();
        (!info.names.is_empty()).then(|| Names { keys, relays: config.urls() })
    }

    /// The answer to a query such as `name=alice`: that name if it is known, or all names when none is asked for (N05-01).
    pub(super) fn answer(&self, query: Option<&str>) -> Result<Bytes, serde_json::Error> {
        let wanted = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("name=")));
        let wanted = wanted.map(str::to_ascii_lowercase);
        let names: BTreeMap<&str, &str> = match &wanted {
            Some(name) => {
                self.keys.get_key_value(name).into_iter().map(|(name, key)| (name.as_str(), key.as_str())).collect()
            }
            None => self.keys.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect(),
        };
        let relays = match self.relays.is_empty() {
            true => BTreeMap::new(),
            false => names.values().map(|key| (*key, self.relays.as_slice())).collect(),
        };
        serde_json::to_vec(&Answer { names, relays }).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::nostr::PublicKey;

    #[test]
    fn n05_01_names_are_answered_one_or_all() {
        let (alice, bob) = (PublicKey([0xaa; 32]), PublicKey([0xbb; 32]));
        let mut config = Config::default();
        assert!(Names::new(&config).is_none());
        config.info.names = vec![("alice".into(), alice), ("_".into(), bob), ("bob.b-1".into(), bob)];
        let answer = |config: &Config, query| -> Value {
            serde_json::from_slice(&Names::new(config).unwrap().answer(query).unwrap()).unwrap()
        };
        let (a, b) = (alice.to_string(), bob.to_string());
        assert_eq!(answer(&config, Some("name=alice")), json!({"names": {"alice": a}}));
        assert_eq!(answer(&config, Some("x=1&name=Alice")), json!({"names": {"alice": a}}));
        assert_eq!(answer(&config, Some("name=_")), json!({"names": {"_": b}}));
        assert_eq!(answer(&config, Some("name=nobody")), json!({"names": {}}));
        assert_eq!(answer(&config, Some("name=")), json!({"names": {}}));
        assert_eq!(answer(&config, None), json!({"names": {"alice": a, "_": b, "bob.b-1": b}}));
        config.info.url = "wss://relay.test".into();
        config.info.other_urls = vec!["ws://relay.onion".into()];
        let relays = ["wss://relay.test", "ws://relay.onion"];
        assert_eq!(
            answer(&config, Some("name=alice")),
            json!({"names": {"alice": a}, "relays": {(a.clone()): relays}})
        );
    }
}
