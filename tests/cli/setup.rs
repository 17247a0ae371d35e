//! `ratite setup` and `ratite doctor`.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;

use crate::place::{Ended, Place, Running};

const OWNER: &str = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";

/// The lines of a configuration that say something.
fn settings(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])).collect()
}

/// A file of its own: as root, setup would set up the service of this machine.
const FILE: [&str; 2] = ["--config", "ratite.toml"];

#[test]
fn setup_without_a_terminal_wants_its_answers_as_flags() {
    let place = Place::new();
    let ended = place.run(&[&["setup"], &FILE[..]].concat());
    ended.assert_failed("setup asks questions, but this is no terminal");
    assert!(ended.err.contains("ratite setup --yes --name"), "{}", ended.err);
    assert!(!place.path("ratite.toml").exists());
}

#[test]
fn setup_writes_a_configuration_that_is_right_and_keeps_the_one_before() {
    let place = Place::new();
    let setup = |arguments: &[&str]| place.run(&[&["setup", "--yes"], &FILE[..], arguments].concat());
    let ended = setup(&["--name", "localhost", "--owner", OWNER, "--max-disk", "1GB"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    let text = place.read("ratite.toml");
    let lines = settings(&text);
    assert!(lines.contains(&"url = \"wss://localhost\"") && lines.contains(&"max_size = \"1 GB\""), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("admins = [\"npub1")), "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(place.run(&["config", "check"]).code, 0);

    setup(&["--name", "relay.invalid"]).assert_failed("is there already; nothing was changed");
    assert_eq!(place.read("ratite.toml"), text);
    let ended = setup(&["--force", "--name", "relay.invalid", "--email", "you@example.org"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("the name relay.invalid leads nowhere"), "{}", ended.out);
    assert_eq!(settings(&place.read("ratite.toml")), ["names = [\"relay.invalid\"]", "email = \"you@example.org\""]);
    let kept: Vec<String> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("ratite.toml.before-"))
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(place.read(&kept[0]), text);
}

#[test]
fn setup_on_a_terminal_asks_four_things_and_takes_no_answer_that_is_wrong() {
    let place = Place::new();
    let command = format!("'{}' setup --config ratite.toml", env!("CARGO_BIN_EXE_ratite"));
    let setup = |answers: &[&str]| {
        // A shell with a terminal of its own, whose keys are these.
        let mut script = place.program("script", ["-qec", &command, "/dev/null"]);
        let mut script = script.stdin(Stdio::piped()).spawn().unwrap();
        let mut keys = script.stdin.take().unwrap();
        keys.write_all(answers.iter().map(|answer| format!("{answer}\n")).collect::<String>().as_bytes()).unwrap();
        let ended = Ended::of(script.wait_with_output().unwrap());
        drop(keys);
        ended
    };
    let wrong = ["no name at all", "localhost nobody", "nsec1", "npub1", "perhaps", "lots"];
    let [words, email, secret, key, choice, size] = wrong;
    // The last one is for those who could install the service.
    let ended = setup(&[words, email, "localhost", secret, key, OWNER, choice, "n", size, "1GB", "n"]);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    for question in ["1. The name", "2. Your public key", "3. Who may write", "4. How much disk"] {
        assert_eq!(ended.out.matches(question).count(), 1, "{question}: {}", ended.out);
    }
    assert!(!ended.out.contains("5. "), "{}", ended.out);
    for words in [
        "a name and an e-mail address, with a space between them",
        "   tls.email must be an e-mail address",
        "this is not a public key",
        "y or n",
        "   retention.max_size must be a size",
        "only you may write for now",
    ] {
        assert!(ended.out.contains(words), "{words}: {}", ended.out);
    }
    let text = place.read("ratite.toml");
    let lines = settings(&text);
    assert!(lines.contains(&"url = \"wss://localhost\"") && lines.contains(&"max_size = \"1 GB\""), "{lines:?}");

    // Enter alone, four times: nothing is named, so everybody may write.
    std::fs::remove_file(place.path("ratite.toml")).unwrap();
    let ended = setup(&["", "", "", "n"]);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("3. Everybody may write"), "{}", ended.out);
    let text = place.read("ratite.toml");
    assert!(matches!(settings(&text)[..], [size] if size.starts_with("max_size = ")), "{:?}", settings(&text));
    // A file that is there stays unless the answer is yes.
    let ended = setup(&["localhost", "", "", "n", "n"]);
    assert_eq!((ended.code, place.read("ratite.toml")), (1, text), "{}", ended.out);
}

#[test]
fn setup_refuses_answers_that_cannot_be() {
    let place = Place::new();
    let setup = |arguments: &[&str]| place.run(&[&["setup", "--yes"], &FILE[..], arguments].concat());
    setup(&["--name", "not a name"]).assert_failed("error: tls.names");
    setup(&["--owner", "npub1"]).assert_failed("--owner: this is not a public key");
    setup(&["--max-disk", "lots"]).assert_failed("--max-disk:");
    setup(&["--max-disk", "60TiB"]).assert_failed("are free where");
    setup(&["--listed"]).assert_failed("Name yourself with --owner");
    assert!(!place.path("ratite.toml").exists());
}

#[test]
fn a_relay_for_listed_people_has_its_owner_on_the_list() {
    let place = Place::new();
    let ended = place.run(&[&["setup", "--yes", "--listed", "--owner", OWNER], &FILE[..]].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("only you may write for now"), "{}", ended.out);
    let listed = place.run(&["admin", "listallowedpubkeys"]).out;
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

/// The findings of `doctor --json` about one thing: their levels and texts.
fn about<'a>(report: &'a serde_json::Value, check: &str) -> Vec<(&'a str, &'a str)> {
    let findings = report["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    findings.map(|it| (it["level"].as_str().unwrap(), it["found"].as_str().unwrap())).collect()
}

#[test]
fn the_doctor_finds_a_healthy_relay_well() {
    let place = Place::new();
    let relay = Running::start(&place, &[]);
    let url = format!("ws://localhost:{}", relay.address.port());
    place.write("ratite.toml", format!("[info]\nurl = \"{url}\"\n[listen]\naddresses = \"{}\"\n", relay.address));
    let ended = place.run(&["doctor", "--json"]);
    let report = ended.json();
    assert_eq!(ended.code, 0, "{}", ended.out);
    for check in ["relay", "name", "ports", "clock", "files", "memory", "database", "outside"] {
        let found = about(&report, check);
        assert!(!found.is_empty() && found.iter().all(|(level, _)| *level == "ok"), "{check}: {found:?}");
    }
    assert!(about(&report, "outside")[1].1.contains("a question over a WebSocket is answered"), "{}", ended.out);
    assert!(about(&report, "disk").iter().any(|(_, text)| text.contains("what is written is safe after")));
    // Only what keeps clients away counts for the exit code; people are told in words.
    let told = place.run(&["doctor"]).out;
    assert!(told.contains("ok       database     0 events in"), "{told}");
    assert!(told.ends_with("nothing is wrong that keeps clients away or events in danger\n"), "{told}");
}

#[test]
fn the_doctor_says_what_to_do_about_what_is_wrong() {
    let place = Place::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    place.write(
        "ratite.toml",
        format!(
            "[info]\nurl = \"wss://relay.invalid\"\n[listen]\naddresses = \"{taken}\"\n[tls]\ncertificate = \"a.pem\"\nkey = \
             \"a.pem\"\nlisten = \"127.0.0.1:0\"\nhttp_listen = \"none\"\n"
        ),
    );
    let ended = place.run(&["doctor", "--json"]);
    let report = ended.json();
    assert_eq!(ended.code, 1);
    assert_eq!(about(&report, "relay"), [("warning", "no relay runs over this data")]);
    assert_eq!(about(&report, "name"), [("problem", "the name relay.invalid leads nowhere")]);
    assert!(about(&report, "ports").contains(&("problem", format!("{taken} is taken by another program").as_str())));
    assert_eq!(about(&report, "certificate")[0].0, "problem");
    assert_eq!(about(&report, "outside"), [], "nobody to look at");
    for finding in report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] != "ok") {
        assert!(!finding["advice"].as_str().unwrap().is_empty(), "{finding}");
    }
}

#[test]
fn the_doctor_notices_who_answers_in_place_of_the_relay() {
    let place = Place::new();
    let relay = Running::start(&place, &[]);
    // Nobody listens where clients are told to go.
    let gone = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    place.write("ratite.toml", format!("[info]\nurl = \"ws://{gone}\"\n[listen]\naddresses = \"{}\"\n", relay.address));
    let ended = place.run(&["doctor", "--json"]);
    let report = ended.json();
    assert_eq!(ended.code, 1);
    assert!(about(&report, "outside")[0].1.contains("cannot be reached from here"), "{}", ended.out);
    // A broken database is no reason for the doctor not to look at the rest.
    drop(relay);
    std::fs::write(place.path("ratite-data/data.mdb"), "nonsense").unwrap();
    let ended = place.run(&["doctor", "--json"]);
    assert_eq!((ended.code, about(&ended.json(), "database")[0].0), (1, "problem"), "{}", ended.out);
}
