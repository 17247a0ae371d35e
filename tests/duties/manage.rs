//! The management API over HTTP (NIP-86, NIP-98; section 22), and what becomes of what it changes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ratite::nostr::{Event, PublicKey};
use ratite::relay::Clock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::wire::{Socket, TestRelay, event, http, now, pubkey, sign};
use crate::{ask, document, id, publish};

/// The administrator's number.
const ADMIN: u8 = 77;

fn managed(change: impl FnOnce(&mut ratite::config::Config)) -> TestRelay {
    TestRelay::with(|config| {
        config.policy.admins = vec![event(ADMIN, 1, "").pubkey];
        config.info.url = "wss://relay.test".into();
        change(config);
    })
}

/// A token for a call with this body.
fn token(author: u8, at: u64, url: &str, body: &str, salt: &str) -> Event {
    let payload = const_hex::encode(Sha256::digest(body));
    let tags: [&[&str]; 3] = [&["u", url], &["method", "POST"], &["payload", &payload]];
    sign(author, 27_235, at, &tags, salt)
}

/// The header of a call with this body, fresh and signed.
pub fn authorization(author: u8, url: &str, body: &str) -> String {
    header(&token(author, now(), url, body, ""))
}

fn header(token: &Event) -> String {
    let mut json = Vec::new();
    token.write_json(&mut json);
    format!("Authorization: Nostr {}\r\n", STANDARD.encode(json))
}

/// Posts a body; status, head in lower case, JSON.
fn post(relay: &TestRelay, headers: &str, body: &str) -> (u16, String, Value) {
    let length = body.len();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/nostr+json+rpc\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let answer = http(relay.address, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A call as this author; the status and what is answered.
fn call_as(relay: &TestRelay, author: u8, method: &str, params: Value) -> (u16, Value) {
    let body = json!({"method": method, "params": params}).to_string();
    let salt = format!("{method} {params} {author}");
    let (status, _, answer) = post(relay, &header(&token(author, now(), "https://relay.test/", &body, &salt)), &body);
    (status, answer)
}

/// A good call, which is answered with 200.
fn call(relay: &TestRelay, method: &str, params: Value) -> Value {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SALT: AtomicU64 = AtomicU64::new(0);
    let body = json!({"method": method, "params": params}).to_string();
    let salt = SALT.fetch_add(1, Ordering::Relaxed).to_string();
    let (status, head, answer) = post(relay, &header(&token(ADMIN, now(), "https://relay.test/", &body, &salt)), &body);
    assert_eq!(status, 200, "{answer}");
    assert!(
        head.contains("\r\ncontent-type: application/nostr+json+rpc") && head.contains("allow-origin: *"),
        "{head}"
    );
    answer
}

#[track_caller]
fn done(answer: &Value) {
    assert_eq!(*answer, json!({"result": true}));
}

fn closed(socket: &mut Socket, event: &Event) {
    let (ok, words) = publish(socket, event);
    assert!(!ok && words.starts_with("blocked:"), "{words}");
}

#[test]
fn n86_02_n86_06_n98_01_to_n98_09_h232_h235_only_administrators_with_a_fresh_token_are_let_in() {
    let relay = managed(|_| {});
    let body = r#"{"method":"supportedmethods","params":[]}"#;
    let url = "https://relay.test/";
    let (status, head, _) = post(&relay, "", body);
    assert!(status == 401 && head.contains("\r\nwww-authenticate: nostr"), "{head}");
    let good = token(ADMIN, now(), url, body, "");
    for (what, expected, header) in [
        ("another body", 401, header(&token(ADMIN, now(), url, "{}", ""))),
        ("another address", 401, header(&token(ADMIN, now(), "https://other.test/", body, ""))),
        ("too old", 401, header(&token(ADMIN, now() - 70, url, body, ""))),
        ("from the future", 401, header(&token(ADMIN, now() + 70, url, body, ""))),
        ("somebody else", 403, header(&token(3, now(), url, body, ""))),
        ("a signature of something else", 401, header(&Event { sig: event(1, 1, "").sig, ..good.clone() })),
        ("an AUTH", 401, header(&sign(ADMIN, 22_242, now(), &[&["u", url], &["method", "POST"]], ""))),
        ("another scheme", 401, "Authorization: Basic YTpi\r\n".into()),
        ("nonsense", 401, "Authorization: Nostr %%%\r\n".into()),
    ] {
        let (status, _, answer) = post(&relay, &header, body);
        assert!(status == expected && answer["error"].is_string(), "{what}: {status} {answer}");
    }
    assert_eq!(post(&relay, &header(&good), body).0, 200);
    assert_eq!(post(&relay, &header(&good), body).0, 401, "each token serves once");
    // Known by its WebSocket address, and with content that nobody reads.
    for url in ["wss://relay.test", "wss://relay.test/", "https://relay.test"] {
        assert_eq!(post(&relay, &header(&token(ADMIN, now(), url, body, "some text")), body).0, 200, "{url}");
    }
    // Over a WebSocket a token is worth nothing.
    let (ok, words) = publish(&mut relay.connect(), &good);
    assert!(!ok && words.starts_with("invalid:"), "{words}");
}

#[test]
fn n86_01_n86_03_n86_05_h231_h233_h234_calls_are_checked_and_wrong_ones_change_nothing() {
    let relay = managed(|_| {});
    let methods = call(&relay, "supportedmethods", json!([]));
    let methods: Vec<&str> = methods["result"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(methods.contains(&"banpubkey") && !methods.contains(&"supportedmethods"), "{methods:?}");
    for method in &methods {
        // Each exists: it is not the unknown method that is complained of.
        let answer = call(&relay, method, json!([{"not": "a parameter"}, 1, 2, 3]));
        assert!(answer["error"].as_str().is_some_and(|error| !error.contains("no method")), "{method}: {answer}");
    }
    let (key, kind) = (pubkey(1), json!(1));
    for (method, params) in [
        ("nosuchmethod", json!([])),
        ("banpubkey", json!([])),
        ("banpubkey", json!(["abc"])),
        ("banpubkey", json!([key.to_uppercase()])),
        ("banpubkey", json!([1])),
        ("banpubkey", json!([key, 5])),
        ("banpubkey", json!([key, "why", "more"])),
        ("banevent", json!(["npub1"])),
        ("allowkind", json!(["1"])),
        ("allowkind", json!([70_000])),
        ("allowkind", json!([-1])),
        ("allowkind", json!([1.5])),
        ("allowkind", json!([kind, "why", "more"])),
        ("listbannedpubkeys", json!([0])),
        ("listbannedpubkeys", json!([10, "zz"])),
        ("changerelayname", json!([5])),
        ("changerelayname", json!(["a\u{7}b"])),
        ("changerelayname", json!(["x".repeat(5001)])),
        ("changerelayicon", json!(["javascript:alert(1)"])),
    ] {
        let answer = call(&relay, method, params.clone());
        assert!(answer["error"].is_string() && answer.get("result").is_none(), "{method} {params}: {answer}");
    }
    assert_eq!(relay.relay.lists().version(), 0, "nothing was changed");
    for body in ["", "{}", "[]", "{\"method\":5}", "{\"method\":\"stats\",\"params\":{}}", "\u{0}"] {
        let (status, _, answer) = post(&relay, &header(&token(ADMIN, now(), "https://relay.test/", body, "")), body);
        assert!(status == 200 && answer["error"].is_string(), "{body}: {status} {answer}");
    }
    let long = "x".repeat(70_000);
    assert_eq!(post(&relay, "", &long).0, 413);
}

#[test]
fn n86_03_n86_06_each_caller_may_what_was_assigned_and_is_told_just_that() {
    let relay = managed(|_| {});
    const HELPER: u8 = 5;
    assert_eq!(call_as(&relay, HELPER, "supportedmethods", json!([])).0, 403, "a stranger");
    for method in ["banevent", "listbannedevents", "banevent"] {
        let answer = call(&relay, "assignmethod", json!([pubkey(HELPER), method]));
        assert_eq!(answer["result"][0], true, "{answer}");
    }
    for method in ["nosuchmethod", "assignmethod", "unassignmethod", "listmethodassignees", "createinvite"] {
        let answer = call(&relay, "assignmethod", json!([pubkey(HELPER), method]));
        assert!(answer["result"][0] == false && answer["result"][1].is_string(), "{method}: {answer}");
    }
    let methods = json!(["banevent", "listbannedevents"]);
    assert_eq!(
        call(&relay, "listmethodassignees", json!([]))["result"],
        json!([{"pubkey": pubkey(HELPER), "methods": methods}])
    );
    let (status, told) = call_as(&relay, HELPER, "supportedmethods", json!([]));
    assert_eq!((status, &told["result"]), (200, &methods));
    let spam = event(1, 1, "spam");
    assert!(publish(&mut relay.connect(), &spam).0);
    assert_eq!(call_as(&relay, HELPER, "banevent", json!([id(&spam)])), (200, json!({"result": true})));
    assert!(ask(&mut relay.connect(), "q", "{}").is_empty());
    // An administrator may more than is told to anybody else, and nobody may give himself more.
    let all = call(&relay, "supportedmethods", json!([]));
    assert!(all["result"].as_array().expect("a list").len() > 20, "{all}");
    assert!(!all.to_string().contains("createinvite"), "without members there is nobody to invite: {all}");
    for (method, params) in [
        ("banpubkey", json!([pubkey(1)])),
        ("assignmethod", json!([pubkey(HELPER), "banpubkey"])),
        ("nosuchmethod", json!([])),
        ("listmethodassignees", json!([])),
    ] {
        let (status, answer) = call_as(&relay, HELPER, method, params);
        assert!(status == 403 && answer["error"].is_string(), "{method}: {status} {answer}");
    }
    for method in ["banevent", "listbannedevents"] {
        assert_eq!(call(&relay, "unassignmethod", json!([pubkey(HELPER), method]))["result"][0], true);
    }
    assert_eq!(call_as(&relay, HELPER, "listbannedevents", json!([])).0, 403);
    assert_eq!(call(&relay, "listmethodassignees", json!([]))["result"], json!([]));
}

#[test]
fn n86_03_what_was_banned_or_allowed_is_taken_off_its_list_without_going_to_the_other() {
    let relay = managed(|_| {});
    let bad = event(1, 1, "bad");
    done(&call(&relay, "banevent", json!([id(&bad), "illegal"])));
    done(&call(&relay, "unbanevent", json!([id(&bad)])));
    assert!(publish(&mut relay.connect(), &bad).0);
    done(&call(&relay, "allowevent", json!([id(&bad)])));
    done(&call(&relay, "unallowevent", json!([id(&bad)])));
    done(&call(&relay, "banpubkey", json!([pubkey(1)])));
    done(&call(&relay, "unbanpubkey", json!([pubkey(1)])));
    done(&call(&relay, "allowpubkey", json!([pubkey(1)])));
    done(&call(&relay, "unallowpubkey", json!([pubkey(1)])));
    for list in ["listbannedevents", "listallowedevents", "listbannedpubkeys", "listallowedpubkeys"] {
        assert_eq!(call(&relay, list, json!([]))["result"], json!([]), "{list}");
    }
}

#[test]
fn n86_09_other_ways_to_ask_are_refused_and_pages_of_other_origins_may_ask() {
    let relay = managed(|_| {});
    for method in ["GET", "HEAD", "PUT"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: h\r\nContent-Type: Application/Nostr+Json+Rpc; charset=utf-8\r\n\r\n"
        );
        assert!(http(relay.address, request.as_bytes()).starts_with("HTTP/1.1 405 "), "{method}");
    }
    let preflight =
        http(relay.address, b"OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\n\r\n").to_ascii_lowercase();
    assert!(preflight.contains("access-control-allow-headers: authorization, content-type"), "{preflight}");
    // Without administrators there is nothing to post to.
    let nobody = TestRelay::start();
    assert_eq!(post(&nobody, "", "{}").0, 405);
    assert!(!document(&nobody)["supported_nips"].as_array().expect("a list").contains(&json!(86)));
    assert!(document(&relay)["supported_nips"].as_array().expect("a list").contains(&json!(86)));
}

#[test]
fn n86_07_a_banned_key_is_refused_and_hidden_until_the_ban_is_lifted_and_its_history_can_be_removed() {
    let relay = managed(|_| {});
    let mut socket = relay.connect();
    let (bad, good) = (event(1, 1, "spam"), event(2, 1, "ham"));
    for event in [&bad, &good] {
        assert!(publish(&mut socket, event).0);
    }
    done(&call(&relay, "banpubkey", json!([pubkey(1), "sells watches"])));
    done(&call(&relay, "banpubkey", json!([pubkey(1), "sells watches"])));
    assert_eq!(
        call(&relay, "listbannedpubkeys", json!([]))["result"],
        json!([{"pubkey": pubkey(1), "reason": "sells watches"}])
    );
    closed(&mut socket, &event(1, 1, "more spam"));
    assert_eq!(ask(&mut socket, "a", "{}"), [id(&good)], "what it published is hidden");
    socket.say("[\"COUNT\",\"c\",{}]");
    assert_eq!(socket.hears("COUNT", "c")[2]["count"], 1);
    let outcomes = relay.relay.ingest(vec![event(1, 1, "by the bulk door")], false).recv().expect("outcomes");
    assert!(outcomes[0].message().starts_with("blocked:"), "{outcomes:?}");
    done(&call(&relay, "unbanpubkey", json!([pubkey(1)])));
    assert_eq!(call(&relay, "listbannedpubkeys", json!([]))["result"], json!([]));
    assert_eq!(ask(&mut relay.connect(), "b", "{}").len(), 2, "it was hidden, not removed");
    assert_eq!(call(&relay, "purgepubkey", json!([pubkey(1)]))["result"], 1);
    assert_eq!(ask(&mut relay.connect(), "c", "{}"), [id(&good)]);
}

#[test]
fn n42_13_a_ban_ends_the_rights_of_a_connection_at_once() {
    let relay = managed(|config| config.info.url = String::new());
    let mut bob = relay.connect();
    assert!(bob.authenticate(2).0);
    let wrap = sign(9, 1059, now(), &[&["p", &pubkey(2)]], "");
    assert!(publish(&mut bob, &wrap).0);
    assert_eq!(ask(&mut bob, "a", "{\"kinds\":[1059]}"), [id(&wrap)]);
    let key: PublicKey = event(2, 1, "").pubkey;
    let params = [json!(key.to_string())];
    ratite::relay::admin::call(&relay.relay, "banpubkey", &params).expect("banned");
    bob.say("[\"REQ\",\"b\",{\"kinds\":[1059]}]");
    assert!(bob.hears("CLOSED", "b")[2].as_str().is_some_and(|reason| reason.starts_with("auth-required:")));
    let (ok, words) = bob.authenticate(2);
    assert!(!ok && words.starts_with("restricted:"), "{words}");
}

#[test]
fn n86_07_a_banned_event_is_gone_and_does_not_come_back() {
    let relay = managed(|_| {});
    let mut socket = relay.connect();
    let bad = event(1, 1, "bad");
    assert!(publish(&mut socket, &bad).0);
    done(&call(&relay, "banevent", json!([id(&bad), "illegal"])));
    assert_eq!(call(&relay, "listbannedevents", json!([]))["result"], json!([{"id": id(&bad), "reason": "illegal"}]));
    assert!(ask(&mut socket, "a", "{}").is_empty());
    closed(&mut socket, &bad);
    let outcomes = relay.relay.ingest(vec![bad.clone()], true).recv().expect("outcomes");
    assert!(outcomes[0].message().starts_with("blocked:"), "{outcomes:?}");
    done(&call(&relay, "allowevent", json!([id(&bad)])));
    assert_eq!(call(&relay, "listallowedevents", json!([]))["result"], json!([{"id": id(&bad)}]));
    assert!(publish(&mut relay.connect(), &bad).0);
}

#[test]
fn n86_07_n11_13_n17_09_once_keys_or_kinds_are_allowed_only_those_are_taken() {
    let relay = managed(|_| {});
    let mut socket = relay.connect();
    assert_eq!(document(&relay)["limitation"]["restricted_writes"], false);
    done(&call(&relay, "allowpubkey", json!([pubkey(1)])));
    assert_eq!(document(&relay)["limitation"]["restricted_writes"], true);
    assert!(publish(&mut socket, &event(1, 1, "")).0);
    closed(&mut socket, &event(2, 1, ""));
    // A gift wrap is for somebody, and a request to vanish for everybody.
    assert!(publish(&mut socket, &sign(9, 1059, now(), &[&["p", &pubkey(1)]], "")).0);
    closed(&mut socket, &sign(9, 1059, now(), &[&["p", &pubkey(2)]], ""));
    assert!(publish(&mut socket, &sign(2, 62, now() - 10, &[&["relay", "ALL_RELAYS"]], "")).0);
    done(&call(&relay, "banpubkey", json!([pubkey(1)])));
    assert_eq!(call(&relay, "listallowedpubkeys", json!([]))["result"], json!([]), "never on both lists");
    done(&call(&relay, "unbanpubkey", json!([pubkey(1)])));
    done(&call(&relay, "allowkind", json!([1])));
    done(&call(&relay, "allowkind", json!([7])));
    assert!(publish(&mut socket, &event(3, 7, "+")).0);
    closed(&mut socket, &event(3, 30_023, ""));
    assert_eq!(call(&relay, "listallowedkinds", json!([]))["result"], json!([1, 7]));
    done(&call(&relay, "disallowkind", json!([7])));
    closed(&mut socket, &event(4, 7, "+"));
    assert_eq!(call(&relay, "listdisallowedkinds", json!([]))["result"], json!([7]));
    done(&call(&relay, "resetkinds", json!([])));
    assert!(publish(&mut socket, &event(4, 7, "+")).0 && publish(&mut socket, &event(4, 30_023, "")).0);
}

#[test]
fn n86_07_what_the_relay_says_of_itself_changes_at_once() {
    let relay = managed(|config| config.info.name = "configured".into());
    assert_eq!(document(&relay)["name"], "configured");
    done(&call(&relay, "changerelayname", json!(["a \"new\" name"])));
    done(&call(&relay, "changerelaydescription", json!(["One.\n\nTwo."])));
    done(&call(&relay, "changerelayicon", json!(["https://relay.test/icon.png"])));
    let document_now = document(&relay);
    assert_eq!(document_now["name"], "a \"new\" name");
    assert_eq!(document_now["description"], "One.\n\nTwo.");
    assert_eq!(document_now["icon"], "https://relay.test/icon.png");
    done(&call(&relay, "changerelayname", json!([""])));
    assert_eq!(document(&relay)["name"], "configured");
}

#[test]
fn n86_03_lists_are_read_page_by_page() {
    let relay = managed(|_| {});
    let keys: Vec<String> = (0u32..25).map(|n| format!("{n:064x}")).collect();
    for key in &keys {
        ratite::relay::admin::call(&relay.relay, "banpubkey", &[json!(key)]).expect("banned");
    }
    let (mut seen, mut after) = (Vec::new(), Vec::new());
    loop {
        let params: Vec<Value> = std::iter::once(json!(10)).chain(after.clone()).collect();
        let page = call(&relay, "listbannedpubkeys", params.into());
        let page: Vec<Value> = page["result"].as_array().expect("a list").clone();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 10);
        seen.extend(page.iter().map(|item| item["pubkey"].as_str().expect("a key").to_owned()));
        after = vec![json!(seen.last().expect("some"))];
    }
    assert_eq!(seen, keys);
    for kind in [1, 7, 300] {
        done(&call(&relay, "allowkind", json!([kind])));
    }
    assert_eq!(call(&relay, "listallowedkinds", json!([2]))["result"], json!([1, 7]));
    assert_eq!(call(&relay, "listallowedkinds", json!([2, 7]))["result"], json!([300]));
}

#[test]
fn n56_01_n86_03_reported_events_wait_for_a_decision_and_nothing_is_moderated_by_itself() {
    let relay = managed(|_| {});
    let mut socket = relay.connect();
    let (one, two) = (event(1, 1, "one"), event(1, 1, "two"));
    for event in [&one, &two] {
        assert!(publish(&mut socket, event).0);
    }
    let unknown = "ab".repeat(32);
    for target in [id(&one), id(&two), unknown] {
        let report = sign(3, 1984, now(), &[&["e", &target, "spam"], &["p", &pubkey(1)]], "");
        assert!(publish(&mut socket, &report).0);
    }
    let waiting = || -> Vec<String> {
        let list = call(&relay, "listeventsneedingmoderation", json!([]));
        let ids = list["result"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|item| item["id"].as_str().expect("an id").to_owned());
        ids.collect()
    };
    let mut both = vec![id(&one), id(&two)];
    both.sort();
    let mut open = waiting();
    open.sort();
    assert_eq!(open, both);
    assert_eq!(ask(&mut socket, "q", "{\"kinds\":[1]}").len(), 2, "still there");
    let first = call(&relay, "listeventsneedingmoderation", json!([1]));
    assert_eq!((first["result"].as_array().map(Vec::len), &first["result"][0]["reason"]), (Some(1), &json!("spam")));
    let rest = call(&relay, "listeventsneedingmoderation", json!([10, first["result"][0]["id"]]));
    assert_eq!(rest["result"].as_array().map(Vec::len), Some(1), "{rest}");
    assert_ne!(rest["result"][0]["id"], first["result"][0]["id"]);
    done(&call(&relay, "allowevent", json!([id(&one)])));
    done(&call(&relay, "banevent", json!([id(&two)])));
    assert!(waiting().is_empty());
}

#[test]
fn n86_07_effects_outlive_the_relay_and_reach_others_that_use_the_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ratite::store::Store::open(folder.path(), 1 << 30).expect("open");
    let settings = || ratite::relay::Settings {
        clock: Clock::fixed(now()),
        ..ratite::relay::Settings::from_config(&ratite::config::Config::default())
    };
    let one = ratite::relay::Relay::start(store.clone(), settings()).expect("start");
    let other = ratite::relay::Relay::start(store.clone(), settings()).expect("start");
    ratite::relay::admin::call(&one, "banpubkey", &[json!(pubkey(1))]).expect("banned");
    crate::wire::eventually("the other relay knows of it", || other.lists().version() == one.lists().version());
    one.shutdown();
    other.shutdown();
    let again = ratite::relay::Relay::start(store, settings()).expect("start");
    let (tx, rx) = std::sync::mpsc::channel();
    again.publish(event(1, 1, ""), Default::default(), move |outcome| tx.send(outcome).expect("sent"));
    assert!(rx.recv().expect("an outcome").message().starts_with("blocked:"));
    again.shutdown();
}

#[test]
fn n86_07_a_blocked_address_is_cut_off_at_once_and_let_in_again_later() {
    let relay = managed(|config| config.listen.trusted_proxies = Vec::new());
    let mut socket = relay.connect();
    socket.still_works();
    // Calls come from the same address, so the lists are changed in this process.
    let admin = |method: &str, params: &[Value]| ratite::relay::admin::call(&relay.relay, method, params);
    assert!(admin("blockip", &[json!("127.0.0.1:80")]).is_err());
    assert!(admin("blockip", &[json!("localhost")]).is_err());
    admin("blockip", &[json!("2001:db8::1"), json!("scraper")]).expect("blocked");
    socket.still_works();
    admin("blockip", &[json!("::ffff:127.0.0.1"), json!("this test")]).expect("blocked");
    socket.closes_with(1008);
    let refused = http(relay.address, crate::wire::HANDSHAKE.as_bytes());
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let list = admin("listblockedips", &[]).expect("a list");
    assert_eq!(list, json!([{"ip": "2001:db8::1", "reason": "scraper"}, {"ip": "127.0.0.1", "reason": "this test"}]));
    let page = admin("listblockedips", &[json!(1), json!("2001:db8::1")]).expect("a list");
    assert_eq!(page, json!([{"ip": "127.0.0.1", "reason": "this test"}]));
    admin("unblockip", &[json!("127.0.0.1")]).expect("unblocked");
    relay.connect().still_works();
}

/// Events that were let in before a ban and are stored after it would come back by the smallest door of all.
#[test]
fn n86_07_nothing_slips_in_behind_a_ban_while_events_are_on_their_way() {
    let relay = managed(|_| {});
    for round in 0..10u8 {
        let author = 100 + round;
        let spam: Vec<Event> = (0..50).map(|n| sign(author, 1, now(), &[], &n.to_string())).collect();
        let mut socket = relay.connect();
        for event in &spam {
            socket.publish(event);
        }
        // Some are stored by now, some wait, some are not read yet.
        socket.hear();
        let key = [json!(pubkey(author))];
        ratite::relay::admin::call(&relay.relay, "banpubkey", &key).expect("banned");
        ratite::relay::admin::call(&relay.relay, "purgepubkey", &key).expect("purged");
        for _ in 1..spam.len() {
            let ok = socket.hear();
            assert!(ok[2] == true || ok[3].as_str().is_some_and(|words| words.starts_with("blocked:")), "{ok}");
        }
        ratite::relay::admin::call(&relay.relay, "unbanpubkey", &key).expect("forgiven");
        let left = ask(&mut relay.connect(), "q", &format!("{{\"authors\":[\"{}\"]}}", pubkey(author)));
        assert!(left.is_empty(), "round {round}: {} are left", left.len());
    }
}
