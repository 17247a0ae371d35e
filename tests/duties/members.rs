//! Membership and invite codes (NIP-43, section 12), and the roles of NIP-86.

use ratite::config::Config;
use ratite::nostr::{Event, PublicKey};
use ratite::relay::{Clock, admin};
use serde_json::{Value, json};

use crate::wire::{Socket, TestRelay, event, eventually, now, pubkey, sign};
use crate::{ask, document, id, publish};

const ADMIN: u8 = 77;

fn with_members(change: impl FnOnce(&mut Config)) -> TestRelay {
    TestRelay::with(|config| enable(config, change))
}

fn enable(config: &mut Config, change: impl FnOnce(&mut Config)) {
    config.membership.enabled = true;
    config.policy.admins = vec![event(ADMIN, 1, "").pubkey];
    change(config);
}

fn call(relay: &TestRelay, method: &str, params: Value) -> Value {
    let params = params.as_array().expect("a list").clone();
    admin::call(&relay.relay, method, &params).unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn code(relay: &TestRelay) -> String {
    call(relay, "createinvite", json!([])).as_str().expect("a code").to_owned()
}

/// A member of the relay.
fn admit(relay: &TestRelay, author: u8) {
    call(relay, "allowpubkey", json!([pubkey(author)]));
}

fn join_request(author: u8, at: u64, code: &str) -> Event {
    sign(author, 28_934, at, &[&["-"], &["claim", code]], "")
}

fn leave_request(author: u8) -> Event {
    sign(author, 28_936, now(), &[&["-"]], "")
}

/// The event of a message, whose id and signature are right.
fn of(message: &Value) -> Event {
    let event = Event::parse(message[2].to_string().as_bytes()).expect("an event");
    event.check_id().and_then(|()| event.check_signature()).expect("rightly signed");
    event
}

fn tags(event: &Event) -> Vec<Vec<String>> {
    event.tags.iter().map(|tag| (0..).map_while(|at| tag.get(at)).map(str::to_owned).collect()).collect()
}

/// The keys on the published list, with their roles behind them.
fn members(relay: &TestRelay) -> Vec<Vec<String>> {
    let mut socket = relay.connect();
    socket.say("[\"REQ\",\"m\",{\"kinds\":[13534]}]");
    let message = socket.hear();
    if message[0] == "EOSE" {
        return Vec::new();
    }
    let list = of(&message);
    assert_eq!(Some(list.pubkey), relay.relay.own_key());
    let tags = tags(&list);
    assert_eq!(tags[0], ["-"]);
    tags[1..].iter().map(|tag| tag[1..].to_vec()).collect()
}

#[track_caller]
fn refused((ok, words): (bool, String), prefix: &str) {
    assert!(!ok && words.starts_with(prefix), "{words}");
}

#[track_caller]
fn granted((ok, words): (bool, String), prefix: &str) {
    assert!(ok && words.starts_with(prefix), "{words}");
}

#[test]
fn n43_01_n43_03_to_n43_06_n43_09_who_brings_a_code_becomes_a_member_and_all_hear_of_it() {
    let relay = with_members(|_| {});
    let told = document(&relay);
    let own = told["self"].as_str().and_then(PublicKey::from_hex).expect("the relay's own key");
    assert_eq!(Some(own), relay.relay.own_key());
    assert!(told["supported_nips"].as_array().expect("a list").contains(&json!(43)));
    assert_eq!(
        (&told["limitation"]["restricted_writes"], &told["limitation"]["auth_required"]),
        (&json!(true), &json!(false))
    );

    let mut watcher = relay.connect();
    assert!(ask(&mut watcher, "all", "{}").is_empty());
    let mut bob = relay.connect();
    refused(publish(&mut bob, &event(2, 1, "too early")), "restricted:");
    let code = code(&relay);
    refused(publish(&mut bob, &join_request(2, now(), &code)), "auth-required:");
    assert!(bob.authenticate(2).0);
    refused(publish(&mut bob, &join_request(3, now(), &code)), "restricted:");
    refused(publish(&mut bob, &join_request(2, now(), "guessed")), "restricted:");
    refused(publish(&mut bob, &join_request(2, now(), &"x".repeat(600))), "restricted:");
    granted(publish(&mut bob, &join_request(2, now(), &code)), "info:");

    // What all see is what the relay says, never the request with its code.
    let added = of(&watcher.hears("EVENT", "all"));
    assert_eq!(
        (added.pubkey, added.kind.0, tags(&added)),
        (own, 8000, vec![vec!["-".into()], vec!["p".into(), pubkey(2)]])
    );
    let list = of(&watcher.hears("EVENT", "all"));
    assert_eq!((list.pubkey, list.kind.0), (own, 13_534));
    assert_eq!(tags(&list), [vec!["-".to_owned()], vec!["member".into(), pubkey(2)]]);
    assert_eq!(members(&relay), [[pubkey(2)]]);
    assert!(ask(&mut bob, "q", "{\"kinds\":[28934]}").is_empty());

    let mut bob = relay.connect();
    assert!(publish(&mut bob, &event(2, 1, "here I am")).0);
    assert!(bob.authenticate(2).0);
    granted(publish(&mut bob, &join_request(2, now(), "whatever")), "duplicate:");
    // The code was for one.
    let mut carol = relay.connect();
    assert!(carol.authenticate(3).0);
    refused(publish(&mut carol, &join_request(3, now(), &code)), "restricted:");
    assert!(publish(&mut relay.connect(), &event(ADMIN, 1, "I belong here")).0);
}

#[test]
fn n43_05_requests_are_of_now_and_codes_expire() {
    let clock = Clock::fixed(now());
    let relay = TestRelay::at(clock.clone(), |config| enable(config, |_| {}));
    let mut bob = relay.connect();
    assert!(bob.authenticate(2).0);
    let code = call(&relay, "createinvite", json!([1, 60, "for bob"]));
    let code = code.as_str().expect("a code");
    for at in [clock.now() - 601, clock.now() + 601] {
        refused(publish(&mut bob, &join_request(2, at, code)), "invalid:");
    }
    refused(publish(&mut bob, &sign(2, 28_934, clock.now(), &[&["-"]], "")), "invalid:");
    refused(publish(&mut bob, &sign(2, 28_934, clock.now(), &[&["-"], &["claim", ""]], "")), "invalid:");
    clock.set(clock.now() + 60);
    refused(publish(&mut bob, &join_request(2, clock.now(), code)), "restricted: this invite code has expired");
    assert_eq!(call(&relay, "listinvites", json!([]))[0]["expired"], true);
    // A code for many, and one that was taken back.
    let many = call(&relay, "createinvite", json!([2, 0]));
    let other = self::code(&relay);
    call(&relay, "revokeinvite", json!([other]));
    refused(publish(&mut bob, &join_request(2, clock.now() + 1, &other)), "restricted:");
    for author in 2..=4 {
        let mut socket = relay.connect();
        assert!(socket.authenticate(author).0);
        let (ok, words) = publish(&mut socket, &join_request(author, clock.now() + 2, many.as_str().expect("a code")));
        assert_eq!(ok, author < 4, "{words}");
    }
    assert_eq!(call(&relay, "listinvites", json!([])), json!([]), "used up, or over");
}

#[test]
fn n43_05_a_code_for_one_admits_one_however_many_come_at_once() {
    let relay = with_members(|_| {});
    let code = code(&relay);
    let admitted: usize = std::thread::scope(|scope| {
        let come = |author: u8| {
            let (relay, code) = (&relay, &code);
            scope.spawn(move || {
                let mut socket = relay.connect();
                assert!(socket.authenticate(author).0);
                usize::from(publish(&mut socket, &join_request(author, now(), code)).0)
            })
        };
        let all: Vec<_> = (1..=12).map(come).collect();
        all.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(admitted, 1);
    assert_eq!(members(&relay).len(), 1);
}

#[test]
fn n43_08_n43_04_n43_09_who_leaves_is_off_the_list_and_writes_no_more() {
    let relay = with_members(|_| {});
    admit(&relay, 2);
    admit(&relay, 3);
    eventually("both are listed", || members(&relay).len() == 2);
    let mut watcher = relay.connect();
    ask(&mut watcher, "all", "{\"kinds\":[8001,13534,28936],\"limit\":0}");
    let mut bob = relay.connect();
    refused(publish(&mut bob, &sign(2, 28_936, now(), &[], "")), "invalid:");
    refused(publish(&mut bob, &leave_request(2)), "auth-required:");
    assert!(bob.authenticate(2).0);
    refused(publish(&mut bob, &sign(2, 28_936, now() - 601, &[&["-"]], "")), "invalid:");
    granted(publish(&mut bob, &leave_request(2)), "info:");
    let removed = of(&watcher.hears("EVENT", "all"));
    assert_eq!((removed.kind.0, &tags(&removed)[1][1]), (8001, &pubkey(2)));
    // The list follows at once or a second later: it replaces one of this second.
    assert_eq!(tags(&of(&watcher.hears("EVENT", "all")))[1..], [["member".to_owned(), pubkey(3)]]);
    assert_eq!(members(&relay), [[pubkey(3)]]);
    refused(publish(&mut bob, &event(2, 1, "once more")), "restricted:");
    granted(publish(&mut bob, &sign(2, 28_936, now() + 1, &[&["-"]], "")), "duplicate:");
    let mut admin = relay.connect();
    assert!(admin.authenticate(ADMIN).0);
    refused(publish(&mut admin, &leave_request(ADMIN)), "restricted:");
    // A ban ends membership as well.
    call(&relay, "banpubkey", json!([pubkey(3), "spam"]));
    assert_eq!(of(&watcher.hears("EVENT", "all")).kind.0, 8001);
    eventually("the list is empty", || members(&relay).is_empty());
}

/// Asks for an invite code; what comes before EOSE.
fn invite(socket: &mut Socket, id: &str, filter: &str) -> Option<Event> {
    socket.say(&format!("[\"REQ\",\"{id}\",{filter}]"));
    let message = socket.hear();
    if message[0] == "EOSE" {
        return None;
    }
    let invite = of(&message);
    socket.hears("EOSE", id);
    Some(invite)
}

#[test]
fn n43_07_who_may_invite_is_given_codes_and_nobody_else() {
    let relay = with_members(|config| config.membership.invites_per_member = 2);
    admit(&relay, 2);
    let filter = "{\"kinds\":[28935]}";
    let refusal = |socket: &mut Socket| {
        socket.say(&format!("[\"REQ\",\"i\",{filter}]"));
        socket.hears("CLOSED", "i")[2].as_str().expect("a reason").to_owned()
    };
    let mut nobody = relay.connect();
    assert!(refusal(&mut nobody).starts_with("auth-required:") && nobody.challenge.is_some());
    assert!(nobody.authenticate(9).0);
    assert!(refusal(&mut nobody).starts_with("restricted:"));
    // Who asks for more than that is given the rest.
    assert_eq!(invite(&mut nobody, "more", "{\"kinds\":[1,28935]}"), None);

    let mut bob = relay.connect();
    assert!(bob.authenticate(2).0);
    let own = relay.relay.own_key().expect("a key");
    for nothing in
        ["{\"kinds\":[28935],\"limit\":0}".to_owned(), format!("{{\"kinds\":[28935],\"authors\":[\"{}\"]}}", pubkey(9))]
    {
        assert_eq!(invite(&mut bob, "none", &nothing), None, "{nothing}");
    }
    assert_eq!(call(&relay, "listinvites", json!([])), json!([]), "none was made in vain");
    let first = invite(&mut bob, "1", filter).expect("an invite");
    assert_eq!((first.pubkey, first.kind.0, &tags(&first)[0]), (own, 28_935, &vec!["-".to_owned()]));
    let claim = |event: &Event| tags(event)[1][1].clone();
    let second = invite(&mut bob, "2", &format!("{{\"kinds\":[28935],\"authors\":[\"{own}\"]}}")).expect("another");
    assert_ne!(claim(&first), claim(&second));
    let again = invite(&mut bob, "3", filter).expect("one that was not used");
    assert!([claim(&first), claim(&second)].contains(&claim(&again)), "two at a time");
    let open = call(&relay, "listinvites", json!([]));
    assert_eq!(open.as_array().map(Vec::len), Some(2));
    assert!(open[0]["issuer"] == pubkey(2) && open[0]["uses"] == 1 && open[0]["until"].is_u64(), "{open}");
    // Nothing of it is stored, counted or sent to others.
    assert!(ask(&mut relay.connect(), "q", "{\"kinds\":[1,28935]}").is_empty());

    let mut carol = relay.connect();
    assert!(carol.authenticate(3).0);
    granted(publish(&mut carol, &join_request(3, now(), &claim(&first))), "info:");
    let listed = call(&relay, "listallowedpubkeys", json!([]));
    let carol_listed = listed.as_array().expect("a list").iter().find(|item| item["pubkey"] == pubkey(3));
    assert_eq!(carol_listed.expect("carol")["reason"], format!("invited by {}", pubkey(2)));
    assert!(invite(&mut bob, "4", filter).is_some(), "one was used, so there is room for another");
    // Who is put out has no codes any more.
    call(&relay, "unallowpubkey", json!([pubkey(2)]));
    let mut dave = relay.connect();
    assert!(dave.authenticate(4).0);
    refused(publish(&mut dave, &join_request(4, now(), &claim(&second))), "restricted:");
    assert!(refusal(&mut bob).starts_with("restricted:"));
    let mut admin = relay.connect();
    assert!(admin.authenticate(ADMIN).0);
    assert!(invite(&mut admin, "a", filter).is_some());
}

#[test]
fn n43_10_nobody_else_speaks_for_the_relay() {
    let relay = with_members(|_| {});
    admit(&relay, 2);
    let mut bob = relay.connect();
    let forged: Vec<Event> = [8000, 8001, 13_534, 33_534, 28_935]
        .map(|kind| sign(2, kind, now(), &[&["member", &pubkey(9)], &["p", &pubkey(9)]], ""))
        .into();
    for event in &forged {
        refused(publish(&mut bob, event), "blocked:");
    }
    // An operator's own import is an archive of what others said.
    let outcomes = relay.relay.ingest(forged[..1].to_vec(), false).recv().expect("outcomes");
    assert!(outcomes[0].ok(), "{outcomes:?}");
}

#[test]
fn n43_11_roles_and_own_memberships_are_ordinary_events_elsewhere() {
    let relay = TestRelay::start();
    let mut socket = relay.connect();
    let role = |at: u64, d: &str| sign(1, 33_534, at, &[&["d", d], &["label", "guest"]], "");
    let mine = |at: u64| sign(1, 10_010, at, &[&["r", "wss://relay.test/"]], "");
    let newest = role(now() - 5, "guest");
    for event in [&role(now() - 9, "guest"), &newest, &role(now(), "host"), &mine(now() - 5), &mine(now())] {
        assert!(publish(&mut socket, event).0);
    }
    assert_eq!(ask(&mut socket, "d", "{\"#d\":[\"guest\"]}"), [id(&newest)]);
    assert_eq!(ask(&mut socket, "k", "{\"kinds\":[33534]}").len(), 2, "one for each address");
    assert_eq!(ask(&mut socket, "r", "{\"kinds\":[10010],\"#r\":[\"wss://relay.test/\"]}").len(), 1);
    // Where there are no members nobody joins, and no code is passed on.
    ask(&mut socket, "all", "{\"kinds\":[28934,28936]}");
    refused(publish(&mut relay.connect(), &sign(2, 28_934, now(), &[&["claim", "secret"]], "")), "blocked:");
    refused(publish(&mut relay.connect(), &sign(2, 28_936, now(), &[], "")), "blocked:");
    socket.still_works();
    assert_eq!(document(&relay).get("self"), None);
}

#[test]
fn n43_02_n86_08_roles_are_defined_and_worn() {
    let relay = with_members(|_| {});
    admit(&relay, 2);
    let bad = |method: &str, params: Value| {
        admin::call(&relay.relay, method, params.as_array().expect("a list")).expect_err(&params.to_string())
    };
    call(&relay, "createrole", json!(["host", "Host", "Opens the door.", 120, 1]));
    call(&relay, "createrole", json!(["host", "Host", "Opens the door.", 120, 1]));
    assert!(bad("createrole", json!(["host", "Other"])).contains("editrole"));
    assert!(bad("editrole", json!(["guest", "Guest"])).contains("createrole"));
    assert!(bad("createrole", json!(["red", "Red", "", 361])).contains("360"));
    assert!(bad("createrole", json!([""])).contains("1 to 100"));
    assert!(bad("assignrole", json!([pubkey(2), "guest"])).contains("no such role"));
    assert!(bad("assignrole", json!([pubkey(9), "host"])).contains("no member"));
    let role = || -> Option<Vec<Vec<String>>> {
        let mut socket = relay.connect();
        socket.say("[\"REQ\",\"r\",{\"kinds\":[33534],\"#d\":[\"host\"]}]");
        let message = socket.hear();
        (message[0] == "EVENT").then(|| tags(&of(&message)))
    };
    let written = |label: &str| {
        [
            ["-", ""],
            ["d", "host"],
            ["label", label],
            ["description", "Opens the door."],
            ["color", "120"],
            ["order", "1"],
        ]
        .map(|tag| tag.into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    };
    eventually("the role is published", || role().is_some());
    assert_eq!(role().expect("a role"), written("Host"));
    for _ in 0..2 {
        call(&relay, "assignrole", json!([pubkey(2), "host"]));
    }
    eventually("the list says so", || members(&relay) == [[pubkey(2), "host".to_owned()]]);
    // To allow a member once more takes nothing away.
    call(&relay, "allowpubkey", json!([pubkey(2), "a friend"]));
    assert_eq!(
        call(&relay, "listallowedpubkeys", json!([])),
        json!([{"pubkey": pubkey(2), "reason": "a friend", "roles": ["host"]}])
    );
    call(&relay, "editrole", json!(["host", "Doorkeeper", "Opens the door.", 120, 1]));
    eventually("the role is published anew", || role().is_some_and(|tags| tags == written("Doorkeeper")));
    assert_eq!(
        call(&relay, "listroles", json!([])),
        json!([{"id": "host", "label": "Doorkeeper", "description": "Opens the door.", "color": 120, "order": 1}])
    );
    call(&relay, "unassignrole", json!([pubkey(2), "host"]));
    eventually("the list says so", || members(&relay) == [[pubkey(2)]]);
    call(&relay, "assignrole", json!([pubkey(2), "host"]));
    call(&relay, "deleterole", json!(["host"]));
    assert_eq!(role(), None);
    eventually("nobody wears it", || members(&relay) == [[pubkey(2)]]);
    assert_eq!(call(&relay, "listroles", json!([])), json!([]));
}

#[test]
fn n43_05_n11_12_where_only_members_read_nothing_works_before_auth() {
    let relay = with_members(|config| config.membership.restrict_reads = true);
    assert_eq!(document(&relay)["limitation"]["auth_required"], true);
    admit(&relay, 2);
    let note = event(2, 1, "among us");
    let mut bob = relay.connect();
    refused(publish(&mut bob, &note), "auth-required:");
    for question in
        ["[\"REQ\",\"q\",{}]", "[\"COUNT\",\"q\",{}]", "[\"REQ\",\"q\",{\"limit\":0}]", "[\"REQ\",\"q\",{\"ids\":[]}]"]
    {
        for (author, prefix) in [(None, "auth-required:"), (Some(9), "restricted:")] {
            let mut socket = relay.connect();
            if let Some(author) = author {
                assert!(socket.authenticate(author).0);
            }
            socket.say(question);
            let reason = socket.hears("CLOSED", "q");
            assert!(reason[2].as_str().is_some_and(|reason| reason.starts_with(prefix)), "{question}: {reason}");
            assert!(socket.challenge.is_some());
        }
    }
    assert!(bob.authenticate(2).0);
    assert!(publish(&mut bob, &note).0);
    assert!(ask(&mut bob, "q", "{}").contains(&id(&note)));
    // Who is put out hears no more, from the open subscription neither.
    admit(&relay, 3);
    call(&relay, "unallowpubkey", json!([pubkey(2)]));
    let mut carol = relay.connect();
    assert!(carol.authenticate(3).0);
    let later = event(3, 1, "after bob left");
    assert!(publish(&mut carol, &later).0);
    bob.say("[\"REQ\",\"z\",{\"limit\":0}]");
    let last = loop {
        let message = bob.hear();
        assert_ne!(message[2]["id"], id(&later));
        if message[0] == "CLOSED" {
            break message;
        }
    };
    assert!(last[2].as_str().is_some_and(|reason| reason.starts_with("restricted:")), "{last}");
    // Joining is not reading.
    let mut dave = relay.connect();
    assert!(dave.authenticate(4).0);
    granted(publish(&mut dave, &join_request(4, now(), &code(&relay))), "info:");
    assert!(!ask(&mut dave, "q", "{}").is_empty());
}

#[test]
fn n17_09_n62_07_who_is_no_member_writes_to_members_and_may_vanish() {
    let relay = with_members(|_| {});
    admit(&relay, 2);
    let mut stranger = relay.connect();
    assert!(publish(&mut stranger, &sign(9, 1059, now(), &[&["p", &pubkey(2)]], "")).0);
    refused(publish(&mut stranger, &sign(9, 1059, now(), &[&["p", &pubkey(8)]], "")), "restricted:");
    assert!(publish(&mut stranger, &sign(9, 62, now(), &[&["relay", "ALL_RELAYS"]], "")).0);
    // Reading is for everybody, and so is writing where that is wanted.
    assert!(!ask(&mut stranger, "q", "{}").is_empty());
    let open = with_members(|config| config.membership.restrict_writes = false);
    assert_eq!(document(&open)["limitation"]["restricted_writes"], false);
    assert!(publish(&mut open.connect(), &event(9, 1, "")).0);
}

#[test]
fn n43_01_n43_06_members_codes_and_the_key_outlive_the_relay_and_other_processes_change_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ratite::store::Store::open(folder.path(), 1 << 30).expect("open");
    let start = || {
        let mut config = Config::default();
        config.membership.enabled = true;
        ratite::relay::Relay::start(store.clone(), ratite::relay::Settings::from_config(&config)).expect("start")
    };
    let (one, other) = (start(), start());
    let own = one.own_key().expect("a key");
    assert_eq!(other.own_key(), Some(own));
    let listed = |relay: &ratite::relay::Relay, key: &str| {
        let filter = format!("{{\"kinds\":[13534],\"authors\":[\"{own}\"]}}");
        let filter = ratite::nostr::Filter::parse(filter.as_bytes()).expect("a filter");
        let mut found = false;
        let mut scan = ratite::store::Scan::new(vec![filter], ratite::store::Order::NewestFirst);
        scan.run(&relay.store(), now(), ratite::store::Budget::COMMAND, &mut |record| {
            let event = record.to_event().expect("an event");
            found = tags(&event).iter().any(|tag| tag.get(1).is_some_and(|value| value == key));
            std::ops::ControlFlow::Continue(())
        })
        .expect("scanned");
        found
    };
    let code = admin::call(&one, "createinvite", &[]).expect("a code");
    admin::call(&other, "allowpubkey", &[json!(pubkey(2))]).expect("allowed");
    admin::call(&one, "allowpubkey", &[json!(pubkey(3))]).expect("allowed");
    eventually("one knows both", || one.lists().is_member(&event(2, 1, "").pubkey));
    eventually("the list names both", || listed(&one, &pubkey(2)) && listed(&one, &pubkey(3)));
    one.shutdown();
    other.shutdown();
    let again = start();
    assert_eq!(again.own_key(), Some(own));
    assert_eq!(admin::call(&again, "listinvites", &[]).expect("a list")[0]["code"], code);
    assert!(again.lists().is_member(&event(3, 1, "").pubkey));
    again.shutdown();
}
