//! The dashboard for Grafana asks for nothing that `/metrics` does not tell: every name and every label in its expressions is on the page.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use wire::process::RelayProcess;
use wire::tls::Authority;
use wire::{eventually, http};

/// Labels by the names of samples, each with the values that it has.
type Page = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What a relay tells that has everything to tell.
fn page() -> Page {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = Authority::new().issue_into(folder.path(), &["relay.test"]);
    let relay = RelayProcess::with(folder.path(), |command| {
        command.env("RATITE_TLS_CERTIFICATE", certificate).env("RATITE_TLS_KEY", key);
        command.env("RATITE_TLS_LISTEN", "127.0.0.1:0").env("RATITE_TLS_HTTP_LISTEN", "none");
        command.env("RATITE_LISTEN_METRICS_TOKEN", "s3cret");
    });
    let mut socket = relay.connect();
    // So that there is a kind, and each verdict that a panel asks for.
    socket.publish(&wire::event(1, 1, "counted"));
    assert_eq!(socket.hear()[2], true);
    socket.publish(&wire::sign(1, 1, wire::now() + 1_000_000, &[], "too early"));
    assert_eq!(socket.hear()[2], false);
    for (turn, heard) in [("unheard", false), ("delivered", true)] {
        if heard {
            socket.say("[\"REQ\",\"live\",{\"kinds\":[20001]}]");
            socket.hears("EOSE", "live");
        }
        let event = wire::event(2, 20_001, turn);
        socket.publish(&event);
        while socket.hear()[1] != event.id.to_string() {}
    }
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n\r\n";
    let mut answer = String::new();
    // The database is measured now and then.
    eventually("all figures are there", || {
        answer = http(relay.address, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer.contains("\nratite_disk_free_bytes ")
    });
    let mut page = Page::new();
    for line in answer.split_once("\r\n\r\n").unwrap().1.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let known = page.entry(name.to_owned()).or_default();
        for label in labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            known.entry(name.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
        }
    }
    page
}

/// What is wrong with an expression of PromQL: names that the page does not know, labels that its samples do not have, values of
/// these that there are not.
fn strangers(expression: &str, page: &Page) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    let mut rest = expression;
    let mut metrics = Vec::new();
    let mut grouped: Vec<&str> = Vec::new();
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if word == "by" {
            let (list, after) = rest.trim_start().strip_prefix('(').unwrap().split_once(')').unwrap();
            grouped.extend(list.split(',').map(str::trim));
            rest = after;
        } else if word.starts_with("ratite_") || word.starts_with("process_") {
            let Some(labels) = page.get(word) else {
                wrong.push(format!("{word} is not on the page"));
                continue;
            };
            metrics.push(labels);
            let (matchers, after) = rest.strip_prefix('{').unwrap_or("}").split_once('}').unwrap();
            rest = after;
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                let (label, value) = matcher.split_once(['=', '!']).unwrap();
                let values = value.trim_start_matches(['=', '~']).trim_matches('"');
                let known = labels.get(label);
                if label != "instance"
                    && (known.is_none() || !values.split('|').all(|v| v.is_empty() || known.unwrap().contains(v)))
                {
                    wrong.push(format!("{word} has no {label} of {values}"));
                }
            }
        }
    }
    let told = |label: &&str| metrics.iter().all(|labels| labels.contains_key(*label));
    wrong.extend(grouped.iter().filter(|label| !told(label)).map(|label| format!("no {label} to group by")));
    if metrics.is_empty() && wrong.is_empty() {
        wrong.push("it asks for nothing".to_owned());
    }
    wrong
}

fn dashboard() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/ratite.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Every expression under this value.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").map(|expr| expr.as_str().unwrap().to_owned()));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn every_panel_asks_for_what_is_on_the_page() {
    let (page, dashboard) = (page(), dashboard());
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    assert!(all.len() > 40, "{} expressions", all.len());
    let wrong: Vec<_> =
        all.iter().map(|expr| (expr, strangers(expr, &page))).filter(|(_, wrong)| !wrong.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // And the other way round: what would be wrong is found.
    for expr in [
        "sum(ratite_no_such_thing)",
        "rate(ratite_events_total{result=\"no_such_result\"}[5m])",
        "rate(ratite_events_total{no_such_label=\"x\"}[5m])",
        "sum by (no_such_label) (ratite_ready)",
        "1 + 1",
    ] {
        assert_eq!(strangers(expr, &page).len(), 1, "{expr}");
    }
}

#[test]
fn panels_lie_beside_each_other_and_say_what_they_are() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} is there twice", panel["id"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} covers another one", panel["title"]);
        }
        if panel["type"] != "row" {
            assert!(["stat", "timeseries"].contains(&panel["type"].as_str().unwrap()));
            assert!(!panel["title"].as_str().unwrap().is_empty() && !panel["description"].as_str().unwrap().is_empty());
            assert_eq!(panel["datasource"]["uid"], "${datasource}");
            for target in panel["targets"].as_array().unwrap() {
                assert!(target["expr"].as_str().unwrap().contains("instance=~\"$instance\""), "{target}");
            }
        }
    }
}
