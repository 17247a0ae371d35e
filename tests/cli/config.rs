//! `ratite config`, and where settings come from.

use crate::place::{Place, end, notes};

#[test]
fn the_default_configuration_is_printed_and_passes_its_own_check() {
    let place = Place::new();
    let template = place.run(&["config"]);
    assert_eq!((template.code, template.err.as_str()), (0, ""));
    place.write("ratite.toml", &template.out);
    let ended = place.run(&["config", "check"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "ratite.toml: the configuration is right\n"));
    let ended = place.run(&["config", "check", "ratite.toml"]);
    assert_eq!(ended.code, 0);
    let ended = Place::new().run(&["config", "check"]);
    assert_eq!(ended.code, 0);
    assert!(ended.out.starts_with("there is no configuration file"), "{}", ended.out);
}

#[test]
fn every_problem_of_a_configuration_is_reported() {
    let place = Place::new();
    place.write("bad.toml", "[limits]\nmax_limt = 5\nmax_filters = -1\n[lmits]\n");
    let ended = place.run(&["config", "check", "bad.toml"]);
    ended.assert_failed("the configuration has 3 problems to put right:");
    for line in [
        "  bad.toml:2: [limits] has no setting \"max_limt\"; did you mean \"max_limit\"?",
        "  bad.toml:3: limits.max_filters must be a whole number from 1 to 10000, not -1",
        "  bad.toml:4: there is no section [lmits]; did you mean [limits]?",
    ] {
        assert!(ended.err.lines().any(|found| found == line), "{line} is not in {}", ended.err);
    }
    for arguments in [&["relay"][..], &["import"], &["info"], &["export"]] {
        place.run(&[&["--config", "bad.toml"], arguments].concat()).assert_failed("3 problems");
    }
    place.run(&["config", "check", "missing.toml"]).assert_failed("there is no such configuration file");
    assert!(!place.path("ratite-data").exists());
}

#[test]
fn settings_come_from_flags_then_environment_then_file() {
    let place = Place::new();
    place.write("ratite.toml", "[storage]\npath = \"from-file\"\n");
    place.write("events.jsonl", notes(1));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    assert!(place.path("from-file/data.mdb").exists());
    let mut command = place.command(["import", "events.jsonl"]);
    assert_eq!(
        end({
            command.env("RATITE_STORAGE_PATH", "from-environment");
            command
        })
        .code,
        0
    );
    assert!(place.path("from-environment/data.mdb").exists());
    let mut command = place.command(["import", "events.jsonl", "--data", "from-flag"]);
    assert_eq!(
        end({
            command.env("RATITE_STORAGE_PATH", "unused");
            command
        })
        .code,
        0
    );
    assert!(place.path("from-flag/data.mdb").exists() && !place.path("unused").exists());
    let mut command = place.command(["config", "check"]);
    let ended = end({
        command.env("RATITE_LISTEN_ADDRESES", "x");
        command
    });
    assert_eq!(ended.code, 0);
    assert!(
        ended.err.starts_with("warning: ") && ended.err.contains("did you mean RATITE_LISTEN_ADDRESSES?"),
        "{}",
        ended.err
    );
}

#[test]
fn what_follows_from_a_broken_line_is_not_reported() {
    let place = Place::new();
    place.write("bad.toml", "[limits\nmax_limit = 5\n[info]\nname = \"x\"\n");
    let ended = place.run(&["config", "check", "bad.toml"]);
    ended.assert_failed("the configuration has 1 problem to put right:");
    assert!(ended.err.contains("bad.toml:1: this is not TOML: "), "{}", ended.err);
    place.write("list.toml", "[listen]\naddresses = [\"127.0.0.1:1\"\n[limits]\nmax_limit = 0\n");
    let ended = place.run(&["config", "check", "list.toml"]);
    ended.assert_failed("this is not TOML");
    assert!(!ended.err.contains("list.toml:2"), "{}", ended.err);
}

#[test]
fn a_warning_is_a_warning_beside_problems_too() {
    let place = Place::new();
    let mut command = place.command(["delete", "--filter", "{}"]);
    command.env("RATITE_LIMITS_MAX_LIMITS", "5").env("RATITE_LIMITS_MAX_LIMIT", "x").env("RATITE_LISTEN_ADDRESSES", "");
    let ended = end(command);
    assert_eq!(ended.code, 1);
    let lines: Vec<&str> = ended.err.lines().collect();
    assert!(lines[0].starts_with("warning: environment variable RATITE_LIMITS_MAX_LIMITS: "), "{}", ended.err);
    assert_eq!(lines[1], "error: the configuration has 1 problem to put right:");
    assert_eq!(ended.err.matches("MAX_LIMITS").count(), 1);
    let template = place.run(&["config"]).out;
    assert!(template.contains("An empty\n# variable counts as not set."), "{template}");
}

#[test]
fn a_configuration_is_written_with_settings_in_force() {
    let place = Place::new();
    let ended = place.run(&["config", "--set", "storage.path=/srv/nostr", "--set", "listen.addresses=[::1]:1,[::1]:2"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let lines: Vec<&str> = ended.out.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])).collect();
    assert_eq!(lines, ["addresses = [\"[::1]:1\", \"[::1]:2\"]", "path = \"/srv/nostr\""]);
    place.write("ratite.toml", &ended.out);
    assert_eq!(place.run(&["config", "check"]).code, 0);

    let ended = place.run(&["config", "--set", "limits.max_limits=1", "--set", "limits.max_limit=0"]);
    ended.assert_failed("there is no setting \"limits.max_limits\"");
    assert!(ended.err.contains("--set: limits.max_limit must be"), "{}", ended.err);
    place
        .run(&["config", "--set", "limits.max_limit=5", "--set", "limits.default_limit=6"])
        .assert_failed("allows only 5");
    place.run(&["config", "--set", "limits.max_limit"]).assert_failed("write it as");
}

#[test]
fn man_pages_and_completions_know_every_command() {
    let place = Place::new();
    let help = place.run(&["--help"]).out;
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"import") && commands.contains(&"restart"), "{help}");
    std::fs::create_dir(place.path("man")).unwrap();
    assert_eq!(place.run(&["man", "man"]).code, 0);
    assert!(place.read("man/ratite.1").contains("A Nostr relay in one file"));
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]).out;
        for command in commands.iter().filter(|command| **command != "help") {
            assert!(script.contains(command), "{shell} does not know {command}");
            assert!(place.read(&format!("man/ratite-{command}.1")).contains(command));
        }
    }
    place.run(&["man", "missing"]).assert_failed("Name a folder that exists");
}
