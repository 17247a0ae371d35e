//! Each NIP can be switched off, and the information document follows by itself (law 9, N11-07): one table, each line a NIP with its
//! switch and what it changes.

use ratite::config::Config;
use ratite::nostr::{Event, pow};
use serde_json::{Value, json};

use crate::wire::{TestRelay, event, http, now, pubkey, sign};
use crate::{ask, document, id, publish};

/// One switch.
struct Switch {
    /// What the information document lists when it is on.
    nips: &'static [u16],
    set: fn(&mut Config, bool),
    /// Looks at the behaviour of a relay where it is on, or off.
    shows: fn(&TestRelay, bool),
}

const SWITCHES: &[Switch] = &[
    Switch {
        nips: &[5],
        set: |config, on| {
            config.info.names = if on { vec![("alice".into(), event(1, 1, "").pubkey)] } else { Vec::new() }
        },
        shows: |relay, on| {
            let answer = http(relay.address, b"GET /.well-known/nostr.json?name=alice HTTP/1.1\r\nHost: h\r\n\r\n");
            assert!(answer.starts_with(if on { "HTTP/1.1 200 " } else { "HTTP/1.1 404 " }), "{answer}");
        },
    },
    Switch {
        nips: &[9],
        set: |config, on| config.policy.deletion_requests = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            let note = sign(1, 1, now() - 9, &[], "to be deleted");
            assert!(publish(&mut socket, &note).0);
            let request = sign(1, 5, now(), &[&["e", &id(&note)]], "");
            assert!(publish(&mut socket, &request).0, "it is stored in any case");
            let (left, gone) = (vec![id(&request), id(&note)], vec![id(&request)]);
            assert_eq!(ask(&mut socket, "q", "{}"), if on { gone } else { left });
            // What comes after its deletion as well.
            let mut socket = relay.connect();
            let later = sign(1, 1, now() - 5, &[], "deleted in advance");
            assert!(publish(&mut socket, &sign(1, 5, now(), &[&["e", &id(&later)]], "")).0);
            assert_eq!(publish(&mut socket, &later).0, !on);
        },
    },
    Switch {
        nips: &[13],
        set: |config, on| config.policy.min_pow_difficulty = if on { 8 } else { 0 },
        shows: |relay, on| {
            let lazy: Option<Event> =
                (0u32..).map(|n| event(1, 1, &n.to_string())).find(|e| pow::leading_zero_bits(&e.id) < 8);
            assert_eq!(publish(&mut relay.connect(), &lazy.expect("almost every one")).0, !on);
            assert_eq!(document(relay)["limitation"]["min_pow_difficulty"], if on { 8 } else { 0 });
        },
    },
    Switch {
        nips: &[17, 59],
        set: |config, on| config.policy.guard_private = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            let wrap = sign(9, 1059, now(), &[&["p", &pubkey(2)]], "");
            assert!(publish(&mut socket, &wrap).0);
            socket.say("[\"REQ\",\"q\",{\"kinds\":[1059]}]");
            socket.hears(if on { "CLOSED" } else { "EVENT" }, "q");
        },
    },
    Switch {
        nips: &[40],
        set: |config, on| config.policy.expiration = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            let over = sign(1, 1, now() - 9, &[&["expiration", &(now() - 5).to_string()]], "");
            let malformed = sign(1, 1, now() - 9, &[&["expiration", "soon"], &["expiration", "7"]], "");
            for event in [&over, &malformed] {
                assert_eq!(publish(&mut socket, event).0, !on);
            }
            let mut stored = ask(&mut socket, "q", "{}");
            stored.sort();
            let mut both = vec![id(&over), id(&malformed)];
            both.sort();
            assert_eq!(stored, if on { Vec::new() } else { both });
            assert_eq!(relay.relay.store().verify().expect("verified").faults.len(), 0);
        },
    },
    Switch {
        nips: &[43],
        set: |config, on| config.membership.enabled = on,
        shows: |relay, on| {
            let (ok, words) = publish(&mut relay.connect(), &event(1, 1, "from one who is no member"));
            assert!(ok != on && (ok || words.starts_with("restricted:")), "{words}");
            assert_eq!(document(relay).get("self").is_some(), on);
        },
    },
    Switch {
        nips: &[45],
        set: |config, on| config.policy.count = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            socket.say("[\"COUNT\",\"c\",{}]");
            if on {
                assert_eq!(socket.hears("COUNT", "c")[2], json!({"count": 0}));
            } else {
                says(&socket.hears("CLOSED", "c")[2], "unsupported:");
            }
        },
    },
    Switch {
        nips: &[62],
        set: |config, on| config.policy.requests_to_vanish = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            let note = sign(1, 1, now() - 9, &[], "");
            assert!(publish(&mut socket, &note).0);
            let (ok, words) = publish(&mut socket, &sign(1, 62, now(), &[&["relay", "ALL_RELAYS"]], ""));
            assert!(ok == on && (on || words.starts_with("blocked:")), "{words}");
            assert_eq!(ask(&mut socket, "q", "{\"kinds\":[1]}").len(), usize::from(!on));
        },
    },
    Switch {
        nips: &[67],
        set: |config, on| config.policy.eose_hints = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            socket.say("[\"REQ\",\"q\",{}]");
            let plain = json!(["EOSE", "q"]);
            assert_eq!(socket.hear(), if on { json!(["EOSE", "q", ["finish"]]) } else { plain });
        },
    },
    Switch {
        nips: &[70],
        set: |config, on| config.policy.protected_events = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            let mine = sign(1, 1, now(), &[&["-"]], "");
            let (ok, words) = publish(&mut socket, &mine);
            assert!(ok != on && (ok || words.starts_with("auth-required:")), "{words}");
            assert_eq!(socket.challenge.is_some(), on, "nobody is asked to authenticate for nothing");
            let mut inner = Vec::new();
            mine.write_json(&mut inner);
            let repost = sign(2, 6, now(), &[&["e", &id(&mine)]], std::str::from_utf8(&inner).expect("JSON"));
            assert_eq!(publish(&mut socket, &repost).0, !on);
        },
    },
    Switch {
        nips: &[86, 98],
        set: |config, on| config.policy.admins = if on { vec![event(77, 1, "").pubkey] } else { Vec::new() },
        shows: |relay, on| {
            let call = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/nostr+json+rpc\r\nContent-Length: 2\r\n\r\n{}";
            let answer = http(relay.address, call);
            assert!(answer.starts_with(if on { "HTTP/1.1 401 " } else { "HTTP/1.1 405 " }), "{answer}");
        },
    },
    // Last, for without it nobody can read what is private, so that these go with it.
    Switch {
        nips: &[17, 42, 59],
        set: |config, on| config.policy.auth = on,
        shows: |relay, on| {
            let mut socket = relay.connect();
            socket.say("[\"REQ\",\"q\",{\"kinds\":[1059]}]");
            says(&socket.hears("CLOSED", "q")[2], if on { "auth-required:" } else { "blocked:" });
            assert_eq!(socket.challenge.is_some(), on);
        },
    },
];

#[track_caller]
fn says(words: &Value, prefix: &str) {
    assert!(words.as_str().is_some_and(|words| words.starts_with(prefix)), "{words}");
}

fn supported(relay: &TestRelay) -> Vec<u64> {
    document(relay)["supported_nips"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
}

#[test]
fn n11_07_each_nip_can_be_switched_off_and_the_document_follows() {
    let everything = |config: &mut Config| SWITCHES.iter().for_each(|switch| (switch.set)(config, true));
    let all = supported(&TestRelay::with(everything));
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    for switch in SWITCHES {
        let nips: Vec<u64> = switch.nips.iter().map(|nip| u64::from(*nip)).collect();
        // By itself, for the others would get into the way: nobody publishes for nothing where work is asked for.
        let on = TestRelay::with(|config| (switch.set)(config, true));
        assert!(nips.iter().all(|nip| supported(&on).contains(nip)), "{nips:?}");
        (switch.shows)(&on, true);
        let off = TestRelay::with(|config| (switch.set)(config, false));
        assert!(!nips.iter().any(|nip| supported(&off).contains(nip)), "{nips:?}");
        (switch.shows)(&off, false);
        // Nothing else goes with it.
        let all_but = TestRelay::with(|config| {
            everything(config);
            (switch.set)(config, false);
        });
        let left: Vec<u64> = all.iter().copied().filter(|nip| !nips.contains(nip)).collect();
        assert_eq!(supported(&all_but), left);
    }
    // The two that are no relay's to switch off: what it is, and where it says so.
    let switched: Vec<u64> = SWITCHES.iter().flat_map(|switch| switch.nips).map(|nip| u64::from(*nip)).collect();
    assert_eq!(all.into_iter().filter(|nip| !switched.contains(nip)).collect::<Vec<_>>(), [1, 11]);
}

/// Limits on time are no NIP of their own; they stand among the limitations.
#[test]
fn n11_14_limits_on_time_can_be_switched_off() {
    for on in [true, false] {
        let relay = TestRelay::with(|config| {
            config.limits.created_at_upper_limit = if on { 900 } else { 0 };
            config.limits.created_at_lower_limit = if on { 3600 } else { 0 };
        });
        let limitation = &document(&relay)["limitation"];
        let mut socket = relay.connect();
        for (name, at) in [("created_at_upper_limit", now() + 2000), ("created_at_lower_limit", now() - 7200)] {
            assert_eq!(limitation.get(name).is_some(), on, "{limitation}");
            assert_eq!(publish(&mut socket, &sign(1, 1, at, &[], "")).0, !on, "{name}");
        }
    }
}

/// What expired while expiration was switched off goes when it is on again, whoever wrote it.
#[test]
fn n40_04_what_is_over_goes_when_expiration_is_switched_on_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ratite::store::Store::open(folder.path(), 1 << 30).expect("open");
    let start = |expiration: bool| {
        let mut config = Config::default();
        config.policy.expiration = expiration;
        ratite::relay::Relay::start(store.clone(), ratite::relay::Settings::from_config(&config)).expect("start")
    };
    let off = start(false);
    let over = sign(1, 1, now() - 9, &[&["expiration", &(now() - 5).to_string()]], "");
    assert!(off.ingest(vec![over], false).recv().expect("outcomes")[0].ok());
    assert_eq!(off.count(vec![ratite::nostr::Filter::default()]).expect("counted"), 1);
    off.shutdown();
    let on = start(true);
    assert_eq!(on.count(vec![ratite::nostr::Filter::default()]).expect("counted"), 0);
    crate::wire::eventually("it is removed", || store.info().expect("info").events == 0);
    on.shutdown();
}
