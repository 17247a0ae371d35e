//! Figures as monitors get them: the format taken strictly, and every act counted exactly once.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ratite::config::{Address, Config};
use serde_json::Value;
use wire::process::RelayProcess;
use wire::{PATIENCE, TestRelay, eventually, frame, http, sign};

/// Samples by their names and labels, as they stand on the page.
type Samples = BTreeMap<String, f64>;

fn metrics(address: SocketAddr, headers: &str) -> (u16, String, String) {
    let answer =
        http(address, format!("GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

fn scrape(address: SocketAddr) -> Samples {
    let (status, head, body) = metrics(address, "");
    assert_eq!(status, 200);
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    parse(&body)
}

/// Reads the text format and takes nothing that its description does not allow.
fn parse(page: &str) -> Samples {
    assert!(page.ends_with('\n'), "the last line ends as well");
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let mut family: Option<(String, String)> = None;
    let mut helped: Option<String> = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            assert!(!help.is_empty());
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "HELP, then TYPE, then samples");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (family, kind) = family.as_ref().expect("samples stand below their TYPE");
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} is not of {family}"));
            let allowed: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{name}");
            let (labels, value) = parse_labels(rest);
            assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
            let value: f64 = value.strip_prefix(' ').unwrap().parse().unwrap();
            assert!(value.is_finite(), "{line}");
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let key = format!("{name}{{{}}}", labels.join(","));
            assert!(samples.insert(key, value).is_none(), "twice: {line}");
        }
    }
    check_histograms(&samples);
    samples
}

/// The labels at the beginning, unescaped, and what follows them.
fn parse_labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else { return (labels, text) };
    loop {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
        let (mut out, mut chars) = (String::new(), value.char_indices());
        let end = loop {
            match chars.next().expect("the value ends") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => out.push('\n'),
                    c @ ('\\' | '"') => out.push(c),
                    c => panic!("\\{c} is no escape"),
                },
                (_, c) => out.push(c),
            }
        };
        assert!(labels.insert(name.to_owned(), out).is_none(), "the label {name} comes twice");
        let behind = &value[end + 1..];
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, behind.strip_prefix('}').unwrap()),
        }
    }
}

/// Buckets grow, and the last holds everything.
fn check_histograms(samples: &Samples) {
    for (name, count) in samples.iter().filter(|(name, _)| name.contains("_count{")) {
        let (family, labels) = name.split_once("_count").unwrap();
        let own = |key: &str| {
            let rest = key.strip_prefix(family)?.strip_prefix("_bucket{")?.strip_suffix('}')?;
            let mut others: Vec<&str> = rest.split(',').collect();
            let le = others.remove(others.iter().position(|label| label.starts_with("le="))?);
            let bound = &le[3..];
            (format!("{{{}}}", others.join(",")) == labels).then(|| match bound {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap(),
            })
        };
        let mut buckets: Vec<(f64, f64)> =
            samples.iter().filter_map(|(key, value)| Some((own(key)?, *value))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() > 2, "{name}");
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}");
        assert!(samples.contains_key(&format!("{family}_sum{labels}")), "{name}");
    }
}

fn with_monitor(change: impl FnOnce(&mut Config)) -> (TestRelay, SocketAddr) {
    let relay = TestRelay::with(|config| {
        config.listen.metrics = vec![([127, 0, 0, 1], 0).into()];
        change(config);
    });
    let address = relay.metrics_address();
    (relay, address)
}

/// What grew between two looks, and by how much.
fn grown(before: &Samples, after: &Samples) -> Samples {
    let change = |(name, value): (&String, &f64)| {
        let change = value - before.get(name).copied().unwrap_or(0.0);
        (change != 0.0).then(|| (name.clone(), change))
    };
    after.iter().filter_map(change).collect()
}

fn pick(samples: &Samples, prefix: &str) -> Vec<(String, f64)> {
    let own = samples.iter().filter(|(name, _)| name.starts_with(prefix));
    own.map(|(name, value)| (name[prefix.len()..].to_owned(), *value)).collect()
}

#[test]
fn every_act_is_counted_once() {
    let (relay, monitor) = with_monitor(|config| config.policy.min_pow_difficulty = 0);
    let mut socket = relay.connect();
    socket.still_works();
    // What is said last in there gets no answer.
    eventually("all of that is counted", || scrape(monitor)["ratite_messages_total{direction=in,verb=CLOSE}"] == 1.0);
    let before = scrape(monitor);

    // Two notes, one of them twice, one from the future, one whose signature is another's, one of a kind nobody knows, one that nobody hears.
    let note = wire::event(1, 1, "a");
    let second = wire::event(1, 1, "b");
    let mut forged = wire::event(1, 7, "c");
    forged.sig = note.sig;
    let future = sign(1, 1, wire::now() + 100_000, &[], "d");
    let rare = wire::event(1, 33_333, "e");
    let unheard = wire::event(1, 20_001, "f");
    for (event, ok) in [(&note, true), (&second, true), (&note, true), (&forged, false), (&future, false)] {
        socket.publish(event);
        assert_eq!(socket.hears("OK", &event.id.to_string())[2], ok);
    }
    for event in [&rare, &unheard] {
        socket.publish(event);
        socket.hears("OK", &event.id.to_string());
    }
    // One question by author and kind with two answers, one by id; then one live event; a count, a refusal, nonsense.
    socket.say(&format!("[\"REQ\",\"s\",{{\"authors\":[\"{}\"],\"kinds\":[1]}}]", wire::pubkey(1)));
    socket.hears("EVENT", "s");
    socket.hears("EVENT", "s");
    socket.hears("EOSE", "s");
    socket.say(&format!("[\"REQ\",\"i\",{{\"ids\":[\"{}\"]}}]", second.id));
    socket.hears("EVENT", "i");
    socket.hears("EOSE", "i");
    socket.say("[\"CLOSE\",\"i\"]");
    let live = wire::event(1, 1, "g");
    socket.publish(&live);
    let (mut oks, mut events) = (0, 0);
    for _ in 0..2 {
        match socket.hear()[0].as_str() {
            Some("OK") => oks += 1,
            Some("EVENT") => events += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((oks, events), (1, 1));
    socket.say("[\"COUNT\",\"c\",{\"kinds\":[1]}]");
    socket.hears("COUNT", "c");
    socket.say("[\"REQ\",\"p\",{\"kinds\":[1059]}]");
    socket.hears("CLOSED", "p");
    socket.say("nonsense");
    socket.hears_notice("");
    socket.send(&frame(wire::FIN | wire::BINARY, b"x"));
    socket.hears_notice("invalid");

    // What is counted behind the act itself may take a moment.
    eventually("the live event and the last question are counted", || {
        let change = grown(&before, &scrape(monitor));
        let questions: f64 = pick(&change, "ratite_query_seconds_count").iter().map(|(_, count)| count).sum();
        change.get("ratite_messages_total{direction=out,verb=EVENT}") >= Some(&4.0) && questions >= 3.0
    });
    let change = grown(&before, &scrape(monitor));
    let one = |name: &str| (name.to_owned(), 1.0);
    assert_eq!(
        pick(&change, "ratite_events_total"),
        [
            ("{kind=1,reason=,result=duplicate}".to_owned(), 1.0),
            ("{kind=1,reason=,result=stored}".to_owned(), 3.0),
            one("{kind=1,reason=invalid,result=refused}"),
            one("{kind=20001,reason=,result=unheard}"),
            one("{kind=7,reason=invalid,result=refused}"),
            one("{kind=other,reason=,result=stored}"),
        ]
    );
    assert_eq!(
        pick(&change, "ratite_messages_total"),
        [
            one("{direction=in,verb=CLOSE}"),
            one("{direction=in,verb=COUNT}"),
            ("{direction=in,verb=EVENT}".to_owned(), 8.0),
            ("{direction=in,verb=REQ}".to_owned(), 3.0),
            ("{direction=in,verb=invalid}".to_owned(), 2.0),
            // The challenge that came with the private question.
            one("{direction=out,verb=AUTH}"),
            one("{direction=out,verb=CLOSED}"),
            one("{direction=out,verb=COUNT}"),
            ("{direction=out,verb=EOSE}".to_owned(), 2.0),
            ("{direction=out,verb=EVENT}".to_owned(), 4.0),
            ("{direction=out,verb=NOTICE}".to_owned(), 2.0),
            ("{direction=out,verb=OK}".to_owned(), 8.0),
        ]
    );
    assert_eq!(
        pick(&change, "ratite_query_seconds_count"),
        [one("{plan=authors}"), one("{plan=ids}"), one("{plan=kinds}")]
    );
    assert_eq!(pick(&change, "ratite_query_wait_seconds_count"), [("{}".to_owned(), 3.0)]);
    // Each was answered before the next was sent, so each had a transaction of its own: what is stored, and the one whose signature was
    // only then known to be wrong had none.
    assert_eq!(pick(&change, "ratite_commit_seconds_count"), [("{}".to_owned(), 4.0)]);
    assert_eq!(pick(&change, "ratite_batch_events_sum"), [("{}".to_owned(), 4.0)]);
    assert_eq!(pick(&change, "ratite_subscriptions"), [one("{}")]);
    assert_eq!(change.get("ratite_connections_total{result=accepted}"), None, "nobody else came");
    eventually("what is stored is measured", || scrape(monitor)["ratite_stored_events{}"] == 4.0);
    drop(socket);
    eventually("nobody is connected", || {
        let now = scrape(monitor);
        now["ratite_websockets{}"] == 0.0 && now["ratite_connections{}"] == 0.0 && now["ratite_outbox_bytes{}"] == 0.0
    });
}

#[test]
fn what_is_asked_for_again_and_again_is_kept_as_it_is_and_given_to_nobody_when_it_was_deleted() {
    let (relay, monitor) = with_monitor(|config| config.storage.kept_texts_bytes = 1 << 20);
    let mut socket = relay.connect();
    let note = sign(1, 1, wire::now() - 10, &[&["t", "kept"]], "kept: \"ü\"\n");
    assert!(wire::publish(&mut socket, &note).0);
    let mut expected = Vec::new();
    note.write_json(&mut expected);
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let question = format!("[\"REQ\",\"s\",{{\"ids\":[\"{}\"]}}]", note.id);
    assert_eq!(scrape(monitor)["ratite_kept_texts_bytes{}"], 0.0);
    // Each thread that answers keeps its own.
    for _ in 0..30 {
        socket.say(&question);
        assert_eq!(socket.hears("EVENT", "s")[2], expected);
        socket.hears("EOSE", "s");
    }
    let kept = scrape(monitor)["ratite_kept_texts_bytes{}"];
    assert!(kept > 0.0 && kept <= scrape(monitor)["ratite_kept_texts_max_bytes{}"], "{kept}");
    let deletion = sign(1, 5, wire::now(), &[&["e", &note.id.to_string()]], "");
    assert!(wire::publish(&mut socket, &deletion).0);
    for _ in 0..30 {
        socket.say(&question);
        socket.hears("EOSE", "s");
    }
}

#[test]
fn what_is_stored_is_told_by_kind_by_table_and_by_rule_of_retention() {
    const DAY: u64 = 86_400;
    let (relay, monitor) = with_monitor(|config| {
        config.retention.rules = vec!["1: 10d".parse().unwrap(), "others: forever".parse().unwrap()];
        config.retention.apply = false;
    });
    let mut socket = relay.connect();
    let oldest = wire::now() - 20 * DAY;
    let notes = [sign(1, 1, oldest, &[], "old"), sign(1, 1, oldest + 1, &[], "old too"), wire::event(1, 1, "young")];
    // Two of kinds that nobody knows make no kinds of their own.
    for event in notes.iter().chain(&[wire::event(1, 33_333, "e"), wire::event(1, 2_222, "f")]) {
        socket.publish(event);
        assert_eq!(socket.hears("OK", &event.id.to_string())[2], true);
    }
    let plan = relay.relay.plan_retention(&mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(plan.total().events, 2);
    eventually("it is told", || scrape(monitor).get("ratite_retention_due_events{rule=1: 10d}") == Some(&2.0));
    let samples = scrape(monitor);
    assert_eq!(
        pick(&samples, "ratite_stored_kind_events"),
        [("{kind=1}".to_owned(), 3.0), ("{kind=other}".to_owned(), 2.0)]
    );
    assert!(
        samples["ratite_stored_kind_bytes{kind=1}"] > 300.0 && samples["ratite_stored_kind_bytes{kind=other}"] > 200.0
    );
    assert_eq!(samples["ratite_table_entries{table=events}"], 5.0);
    assert!(pick(&samples, "ratite_table_bytes").len() > 10 && samples["ratite_table_bytes{table=time}"] > 0.0);
    assert_eq!(samples["ratite_oldest_event_time_seconds{}"], oldest as f64);
    assert!(samples["ratite_newest_event_time_seconds{}"] >= (oldest + 20 * DAY) as f64);
    assert_eq!(samples["ratite_retention_due_bytes{rule=1: 10d}"], plan.total().bytes as f64);
    assert_eq!(samples["ratite_retention_due_events{rule=others: forever}"], 0.0);
    assert_eq!(samples["ratite_retention_removed_events_total{rule=1: 10d}"], 0.0);
    let page = http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n");
    for part in [
        "<p>Stored: 3 of kind 1; the oldest event is of ",
        ", the newest of ",
        "<p>The database takes ",
        " MB are free; ",
        " events 0.0",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(page.contains("<p>To go: 2 events, 0.00 MB, by the rule “1: 10d”; 0 events, "), "{page}");
    for name in ["ratite_database_bytes{}", "ratite_database_free_bytes{}"] {
        assert!(samples[name] > 0.0, "{name}");
    }

    // `ratite info` reads the same counters.
    let command = |json: &[&str]| {
        let data = relay.relay.store().path().to_owned();
        let output = wire::process::ratite(&data, &[&["info"], json].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let info: Value = serde_json::from_str(&command(&["--json"])).unwrap();
    let kinds = info["statistics"]["kinds"].as_array().unwrap();
    assert_eq!((kinds.len(), &kinds[0]["kind"], &kinds[0]["events"]), (3, &1.into(), &3.into()), "{info}");
    assert_eq!(kinds[0]["bytes"].as_f64(), Some(samples["ratite_stored_kind_bytes{kind=1}"]));
    let tables = info["tables"].as_array().unwrap();
    for name in ["events", "ids", "time", "kinds", "authors", "tags", "meta"] {
        let table = tables.iter().find(|table| table["name"] == name).unwrap();
        assert!(table["bytes"].is_u64() && table["entries"].is_u64(), "{table}");
    }
    assert_eq!((info["oldest"].as_u64(), info["events"].as_u64()), (Some(oldest), Some(5)));
    assert!(
        info["newest"].as_u64() > Some(oldest) && info["free_bytes"].is_u64() && info["file_bytes"].as_u64() > Some(0)
    );
    let rule = &info["retention"]["rules"][0];
    assert_eq!((&rule["rule"], &rule["due"]["events"]), (&"1: 10d".into(), &2.into()), "{info}");
    assert_eq!(rule["due"]["bytes"].as_u64(), Some(plan.total().bytes));
    let shown = command(&[]);
    for part in ["oldest ", "newest ", "free for new events", "table ", "tags ", "kind ", "retention ", "1: 10d "] {
        assert!(shown.contains(part), "{part} in {shown}");
    }

    // They go, and that is told as well.
    relay.relay.prune(true, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    eventually("they are gone", || {
        scrape(monitor).get("ratite_retention_removed_events_total{rule=1: 10d}") == Some(&2.0)
    });
    let samples = scrape(monitor);
    assert_eq!(samples["ratite_stored_kind_events{kind=1}"], 1.0);
    assert_eq!((samples["ratite_prune_events_sum{}"], samples["ratite_prune_seconds_count{}"]), (2.0, 1.0));
}

#[test]
fn refusals_at_the_door_and_limits_are_counted() {
    let (relay, monitor) = with_monitor(|config| {
        config.rates.exempt = Vec::new();
        config.rates.events = 2;
        config.rates.connections = 1;
        config.listen.trusted_proxies = Vec::new();
    });
    let before = scrape(monitor);
    let mut socket = relay.connect();
    for n in 0..5 {
        let event = wire::event(2, 1, &n.to_string());
        socket.publish(&event);
        socket.hears("OK", &event.id.to_string());
    }
    let answer = http(relay.address, wire::HANDSHAKE.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    let change = grown(&before, &scrape(monitor));
    assert_eq!(change["ratite_events_total{kind=1,reason=,result=stored}"], 2.0);
    assert_eq!(change["ratite_events_total{kind=1,reason=rate-limited,result=refused}"], 3.0);
    assert_eq!(change["ratite_limited_total{resource=events}"], 3.0);
    assert_eq!(change["ratite_connections_total{result=accepted}"], 1.0);
    assert_eq!(change["ratite_connections_total{result=too_many}"], 1.0);
}

#[test]
fn figures_are_not_for_the_public_unless_there_is_a_token() {
    let (relay, monitor) = with_monitor(|_| {});
    assert_eq!(metrics(relay.address, "").0, 404);
    let now = scrape(monitor);
    for name in ["ratite_ready{}", "process_cpu_seconds_total{}", "process_open_fds{}", "ratite_database_bytes{}"] {
        assert!(now.contains_key(name), "{name}");
    }
    assert_eq!(now["ratite_ready{}"], 1.0);
    assert!(pick(&now, "ratite_degraded").iter().all(|(_, value)| *value == 0.0));
    assert!(pick(&now, "ratite_build_info")[0].0.contains(env!("CARGO_PKG_VERSION")));
    let monitored = http(monitor, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(monitored.starts_with("HTTP/1.1 404 "), "nothing else is there: {monitored}");
    let private = http(monitor, b"GET /stats.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(private.starts_with("HTTP/1.1 404 "), "{private}");

    let (relay, monitor) = with_monitor(|config| config.listen.metrics_token = "s3cret".into());
    for address in [relay.address, monitor] {
        let (status, head, _) = metrics(address, "");
        assert_eq!(status, 401);
        assert!(head.contains("\r\nwww-authenticate: bearer"), "{head}");
        assert_eq!(metrics(address, "Authorization: Bearer wrong\r\n").0, 401);
        let (status, _, body) = metrics(address, "Authorization: Bearer s3cret\r\n");
        assert_eq!(status, 200);
        assert_eq!(parse(&body)["ratite_ready{}"], 1.0);
    }
}

#[test]
fn one_connection_serves_a_monitor_for_long() {
    use std::io::{Read as _, Write as _};
    let (_relay, monitor) = with_monitor(|_| {});
    let mut stream = std::net::TcpStream::connect(monitor).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).unwrap();
            assert!(count > 0, "hung up");
            answer.extend_from_slice(&some[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

#[test]
fn the_operators_door_lies_in_the_data_folder_and_only_its_owner_may_open_it() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let relay = RelayProcess::start(folder.path());
    let path = folder.path().join("relay-0.ctl");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = |request: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let mut socket = relay.connect();
    socket.publish(&wire::event(3, 1, "x"));
    socket.hear();
    let answer = ask("GET /metrics");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(parse(body)["ratite_events_total{kind=1,reason=,result=stored}"], 1.0);
    let answer = ask("GET /stats.json");
    let figures: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(figures["events_taken"], 1);
    assert_eq!(figures["received"]["EVENT"], 1);
    assert_eq!(figures["pid"], relay.id());
    assert_eq!(figures["status"], "ok");
    // A relay that is killed leaves the socket; the next one takes its place.
    drop(relay);
    let relay = RelayProcess::start(folder.path());
    let answer = ask("GET /stats.json");
    assert!(answer.contains(&format!("\"pid\":{}", relay.id())), "{answer}");
}

#[test]
fn health_has_reasons_and_a_liveness_of_its_own() {
    let (relay, monitor) = with_monitor(|config| config.listen.max_connections = 1);
    let ask = |path: &str| {
        let answer = http(monitor, format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), serde_json::from_str::<Value>(body).unwrap())
    };
    let (status, body) = ask("/health");
    assert_eq!((status.as_str(), &body["status"], &body["ready"]), ("200", &"ok".into(), &true.into()), "{body}");
    let _socket = relay.connect();
    let (status, body) = ask("/health/ready");
    assert_eq!((status.as_str(), &body["status"]), ("200", &"degraded".into()), "{body}");
    assert_eq!(body["reasons"][0], "full");
    assert!(body["problems"][0].as_str().unwrap().contains("listen.max_connections"), "{body}");
    assert_eq!(scrape(monitor)["ratite_degraded{reason=full}"], 1.0);
}

#[test]
fn a_unix_socket_serves_monitors_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let relay = TestRelay::with(|config| config.listen.metrics = vec![Address::Unix(path.clone())]);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    use std::io::{Read as _, Write as _};
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(parse(answer.split_once("\r\n\r\n").unwrap().1)["ratite_ready{}"], 1.0);
    drop(relay);
}
