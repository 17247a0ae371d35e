//! NIP-42: clients prove who they are (section 11), and what goes wrong when they try (23.4).

use ratite::relay::Clock;

use crate::wire::{FIN, Socket, TEXT, TestRelay, event, frame, now, pubkey, refusals_to_the_end, sign};
use crate::{ask, publish};

/// An AUTH that is right but for what is given here.
fn claim(author: u8, at: u64, relay: &str, challenge: &str) -> ratite::nostr::Event {
    sign(author, 22_242, at, &[&["relay", relay], &["challenge", challenge]], "")
}

fn address(socket: &Socket) -> String {
    format!("ws://{}/", socket.stream.peer_addr().expect("an address"))
}

#[test]
fn n42_01_n42_02_each_connection_hears_a_challenge_of_its_own_before_anything_else() {
    let relay = TestRelay::with(|config| config.info.url = "wss://relay.test".into());
    let (mut one, mut two) = (relay.connect(), relay.connect());
    // Sockets pass over the challenge and keep it; here is nothing asked before it.
    one.say("[\"REQ\",\"s\",{\"limit\":0}]");
    one.hears("EOSE", "s");
    let first = one.challenge.clone().expect("the challenge came before EOSE");
    assert!(first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "128 bits: {first}");
    assert_ne!(first, two.challenge());
}

/// Clients sign for the name they know. A relay that does not know its name would refuse that, and some clients take the refusal for
/// a relay that is broken: so it sends no challenge to those who have no use for it.
#[test]
fn n42_01_n42_11_h093_without_a_configured_address_the_challenge_comes_when_it_is_needed() {
    let relay = TestRelay::start();
    for (question, needs) in [
        ("[\"REQ\",\"s\",{}]", false),
        ("[\"REQ\",\"s\",{\"kinds\":[1,30023]}]", false),
        ("[\"REQ\",\"s\",{\"kinds\":[1,4]}]", true),
        ("[\"REQ\",\"s\",{\"kinds\":[1059]}]", true),
        ("[\"REQ\",\"s\",{},{\"#p\":[\"PUBKEY\"]}]", true),
        ("[\"REQ\",\"s\",{\"kinds\":[1],\"#p\":[\"PUBKEY\"]}]", false),
        ("[\"COUNT\",\"s\",{\"kinds\":[4]}]", true),
    ] {
        let mut socket = relay.connect();
        socket.still_works();
        assert_eq!(socket.challenge, None, "nothing was needed yet");
        socket.say(&question.replace("PUBKEY", &pubkey(1)));
        socket.hear();
        assert_eq!(socket.challenge.is_some(), needs, "{question}");
    }
    let mut socket = relay.connect();
    let (ok, words) = publish(&mut socket, &sign(1, 1, now(), &[&["-"]], ""));
    assert!(!ok && words.starts_with("auth-required:") && socket.challenge.is_some(), "{words}");
}

#[test]
fn n42_03_h156_h157_every_auth_is_answered() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    assert_eq!(socket.authenticate(1), (true, String::new()));
    // Without an event there is no id to answer with.
    for message in ["[\"AUTH\",\"challenge\"]", "[\"AUTH\",{}]"] {
        socket.say(message);
        let ok = socket.hears("OK", "");
        assert!(ok[2] == false && ok[3].as_str().is_some_and(|words| words.starts_with("invalid:")), "{ok}");
    }
    socket.say("[\"AUTH\"]");
    socket.hears_notice("invalid:");
    socket.still_works();
}

#[test]
fn n42_04_n42_05_n42_06_n42_07_n42_08_n42_12_h158_what_is_not_right_is_refused() {
    let clock = Clock::fixed(1_700_000_000);
    let relay = TestRelay::at(clock.clone(), |config| config.info.url = "wss://relay.test".into());
    let (mut socket, mut other) = (relay.connect(), relay.connect());
    let (own, foreign) = (socket.challenge(), other.challenge());
    let (url, now) = ("wss://relay.test/", clock.now());
    let wrong_sig = ratite::nostr::Event { sig: event(2, 1, "").sig, ..claim(1, now, url, &own) };
    let wrong_id = ratite::nostr::Event { content: "changed".into(), ..claim(1, now, url, &own) };
    for (what, bad) in [
        ("another connection's challenge", claim(1, now, url, &foreign)),
        ("the beginning of the challenge", claim(1, now, url, &own[..16])),
        ("an empty challenge", claim(1, now, url, "")),
        ("no challenge", sign(1, 22_242, now, &[&["relay", url]], "")),
        ("no relay", sign(1, 22_242, now, &[&["challenge", &own]], "")),
        ("another relay", claim(1, now, "wss://other.test/", &own)),
        ("where the socket leads, while another address is configured", claim(1, now, &address(&socket), &own)),
        ("too old", claim(1, now - 601, url, &own)),
        ("from the future", claim(1, now + 601, url, &own)),
        ("another kind", sign(1, 1, now, &[&["relay", url], &["challenge", &own]], "")),
        ("the kind of HTTP", sign(1, 27_235, now, &[&["relay", url], &["challenge", &own]], "")),
        ("a signature of something else", wrong_sig),
        ("an id of something else", wrong_id),
    ] {
        let (ok, words) = socket.claim(&bad);
        assert!(!ok && words.starts_with("invalid:"), "{what}: {words}");
    }
    // None of it has made anybody of this connection.
    socket.say("[\"REQ\",\"s\",{\"kinds\":[1059]}]");
    assert!(socket.hears("CLOSED", "s")[2].as_str().is_some_and(|reason| reason.starts_with("auth-required:")));
    for good in [
        claim(1, now - 600, url, &own),
        claim(1, now + 600, "ws://Relay.Test:443", &own),
        sign(2, 22_242, now, &[&["x"], &["challenge", "other"], &["challenge", &own], &["relay", url]], "any"),
    ] {
        assert_eq!(socket.claim(&good), (true, String::new()));
    }
}

#[test]
fn n42_09_h160_h161_every_key_of_a_connection_counts() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    for author in [1, 2, 3, 2] {
        assert_eq!(socket.authenticate(author), (true, String::new()), "author {author}");
    }
    for author in [1, 2, 3] {
        let protected = sign(author, 1, now(), &[&["-"]], "mine");
        assert_eq!(publish(&mut socket, &protected), (true, String::new()), "author {author}");
    }
    // Up to sixteen.
    for author in 4..=16 {
        assert!(socket.authenticate(author).0);
    }
    let (ok, words) = socket.authenticate(17);
    assert!(!ok && words.starts_with("rate-limited:"), "{words}");
    assert!(socket.authenticate(16).0, "one of them again");
}

#[test]
fn n42_10_h091_an_auth_sent_as_an_event_goes_nowhere() {
    let relay = TestRelay::start();
    let (mut socket, mut watcher) = (relay.connect(), relay.connect());
    ask(&mut watcher, "all", "{}");
    let challenge = socket.challenge();
    let token = claim(1, now(), &address(&socket), &challenge);
    let (ok, words) = publish(&mut socket, &token);
    assert!(!ok && words.starts_with("invalid:"), "{words}");
    // As AUTH it is good, and still nobody hears of it.
    assert_eq!(socket.claim(&token), (true, String::new()));
    let note = event(1, 1, "after");
    assert!(publish(&mut socket, &note).0);
    assert_eq!(watcher.hears("EVENT", "all")[2]["id"], note.id.to_string());
    assert!(ask(&mut socket, "q", "{\"kinds\":[22242]}").is_empty());
}

#[test]
fn n42_11_h094_n70_01_n70_02_auth_required_until_somebody_is_known_then_restricted() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let protected = sign(1, 1, now(), &[&["-"]], "mine");
    let (ok, words) = publish(&mut socket, &protected);
    assert!(!ok && words.starts_with("auth-required:"), "{words}");
    assert!(socket.challenge.is_some(), "the challenge came first");
    assert!(socket.authenticate(2).0);
    let (ok, words) = publish(&mut socket, &protected);
    assert!(!ok && words.starts_with("restricted:"), "{words}");
    assert!(socket.authenticate(1).0);
    assert!(publish(&mut socket, &protected).0);
}

#[test]
fn n42_13_who_has_authenticated_stays_so_to_the_end_and_no_longer() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |_| {});
    let mut socket = relay.connect();
    assert!(socket.authenticate(1).0);
    clock.set(clock.now() + 86_400);
    ask(&mut socket, "s", "{\"kinds\":[1059]}");
    let mut again = relay.connect();
    again.say("[\"REQ\",\"s\",{\"kinds\":[1059]}]");
    assert!(again.hears("CLOSED", "s")[2].as_str().is_some_and(|reason| reason.starts_with("auth-required:")));
}

#[test]
fn n42_14_what_was_refused_before_is_asked_again_by_the_client() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"s\",{\"kinds\":[4]}]");
    socket.hears("CLOSED", "s");
    assert!(socket.authenticate(1).0);
    // Nothing came by itself: the next message answers the next question.
    assert!(ask(&mut socket, "s", "{\"kinds\":[4]}").is_empty());
}

#[test]
fn n42_15_the_relay_knows_itself_by_its_configuration_or_by_where_it_was_reached() {
    let relay = TestRelay::with(|config| {
        config.info.url = "wss://relay.test/".into();
        config.info.other_urls = vec!["ws://relay.onion".into()];
    });
    let mut socket = relay.connect();
    let challenge = socket.challenge();
    for (url, ok) in [("wss://relay.test", true), ("ws://relay.onion/", true), ("wss://h", false)] {
        assert_eq!(socket.claim(&claim(1, now(), url, &challenge)).0, ok, "{url}");
    }
    let unconfigured = TestRelay::start();
    let mut socket = unconfigured.connect();
    let challenge = socket.challenge();
    let port = unconfigured.address.port();
    for (url, ok) in [
        (format!("ws://127.0.0.1:{port}"), true),
        (format!("ws://localhost:{port}/"), true),
        // What the handshake's Host header says is the client's own word.
        ("ws://relay".to_owned(), false),
        ("wss://relay.test".to_owned(), false),
    ] {
        assert_eq!(socket.claim(&claim(1, now(), &url, &challenge)).0, ok, "{url}");
    }
}

/// Behind a proxy clients know the relay by the proxy's name.
#[test]
fn n42_15_n98_04_behind_a_trusted_proxy_the_host_header_counts_unless_an_address_is_configured() {
    const FORWARDED: &str = "X-Forwarded-For: 203.0.113.9\r\n";
    for (what, configured, trusted, header, expected) in [
        ("a proxy's client", false, true, FORWARDED, true),
        ("the client itself, whatever it calls us", false, true, "", false),
        ("a client that pretends to be a proxy", false, false, FORWARDED, false),
        ("an address is configured", true, true, FORWARDED, false),
    ] {
        let relay = TestRelay::with(|config| {
            config.policy.admins = vec![event(77, 1, "").pubkey];
            if configured {
                config.info.url = "wss://other.test".into();
            }
            if !trusted {
                config.listen.trusted_proxies = Vec::new();
            }
        });
        let host = format!("Host: Relay.Example\r\n{header}");
        let handshake = crate::wire::HANDSHAKE.replace("Host: relay\r\n", &host);
        let mut socket = Socket::shake_hands(relay.address, handshake.as_bytes());
        let challenge = socket.challenge();
        assert_eq!(socket.claim(&claim(1, now(), "wss://relay.example/", &challenge)).0, expected, "{what}");
        assert!(!socket.claim(&claim(1, now(), "wss://elsewhere.example/", &challenge)).0, "{what}");
        // Where the proxy itself connected to is no address that clients know.
        let local = format!("ws://{}", relay.address);
        assert_eq!(socket.claim(&claim(1, now(), &local, &challenge)).0, !configured && !expected, "{what}");
        // The same for calls of the management API.
        let body = "{\"method\":\"supportedmethods\",\"params\":[]}";
        let token = crate::manage::authorization(77, "https://relay.example/", body);
        let request = format!(
            "POST / HTTP/1.1\r\n{host}Content-Type: application/nostr+json+rpc\r\nContent-Length: {}\r\n{token}\r\n{body}",
            body.len()
        );
        let answer = crate::wire::http(relay.address, request.as_bytes());
        assert!(answer.starts_with(if expected { "HTTP/1.1 200 " } else { "HTTP/1.1 401 " }), "{what}: {answer}");
    }
}

#[test]
fn n42_15_names_of_tls_are_the_relays_own() {
    let mut config = ratite::config::Config::default();
    config.tls.names = vec!["relay.test".into()];
    let own = &ratite::relay::Settings::from_config(&config).addresses;
    assert!(own.are_configured() && own.contain("wss://relay.test/", None) && !own.contain("wss://other.test/", None));
}

#[test]
fn n42_16_limits_on_events_do_not_meet_auth() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |config| {
        config.limits.created_at_lower_limit = 10;
        config.limits.created_at_upper_limit = 10;
        config.limits.max_event_tags = 1;
        config.policy.min_pow_difficulty = 200;
    });
    let mut socket = relay.connect();
    let challenge = socket.challenge();
    for at in [clock.now() - 500, clock.now() + 500] {
        let good = claim(1, at, &address(&socket), &challenge);
        assert_eq!(socket.claim(&good), (true, String::new()));
    }
}

#[test]
fn h162_a_thousand_bad_signatures_end_the_connection() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let challenge = socket.challenge();
    let bad = ratite::nostr::Event { sig: event(2, 1, "").sig, ..claim(1, now(), &address(&socket), &challenge) };
    let mut message = b"[\"AUTH\",".to_vec();
    bad.write_json(&mut message);
    message.push(b']');
    let mut flood = Vec::new();
    (0..1000).for_each(|_| flood.extend(frame(FIN | TEXT, &message)));
    // The relay may hang up before it has read all of it.
    let _ = std::io::Write::write_all(&mut socket.stream, &flood);
    refusals_to_the_end(&mut socket);
    relay.connect().still_works();
}

#[test]
fn n42_02_n70_07_with_auth_switched_off_there_is_no_challenge_and_nothing_protected() {
    let relay = TestRelay::with(|config| config.policy.auth = false);
    let mut socket = relay.connect();
    socket.still_works();
    assert_eq!(socket.challenge, None);
    let (ok, words) = socket.claim(&claim(1, now(), &address(&socket), "anything"));
    assert!(!ok && words.starts_with("error:"), "{words}");
    let (ok, words) = publish(&mut socket, &sign(1, 1, now(), &[&["-"]], ""));
    assert!(!ok && words.starts_with("blocked:"), "{words}");
    socket.say("[\"REQ\",\"s\",{\"kinds\":[4]}]");
    assert!(socket.hears("CLOSED", "s")[2].as_str().is_some_and(|reason| reason.starts_with("blocked:")));
}
