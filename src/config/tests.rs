//! Tests of the configuration as a whole: what users write, and what they are told.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// Loads one file's text with these environment variables, as `relay.toml`.
fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::default();
    file::read(Path::new("relay.toml"), text, &mut draft);
    draft.read_environment(environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
    draft.check_whole();
    draft.problems.sort_by_key(Problem::line);
    if draft.problems.is_empty() {
        Ok(Loaded { config: draft.config, file: None, warnings: draft.warnings })
    } else {
        Err(ConfigError { problems: draft.problems, warnings: draft.warnings })
    }
}

fn problems(text: &str) -> Vec<String> {
    load_text(text, &[]).unwrap_err().problems.iter().map(Problem::to_string).collect()
}

fn config(text: &str) -> Config {
    load_text(text, &[]).unwrap().config
}

#[test]
fn nothing_is_required() {
    assert_eq!(config(""), Config::default());
    assert_eq!(config("[info]\n[listen]\n[storage]\n[limits]\n"), Config::default());
    let defaults = Config::default();
    assert_eq!(defaults.listen.addresses, ["127.0.0.1:7777".parse().unwrap()]);
    assert_eq!(defaults.storage.path, PathBuf::from("./ratite-data"));
    assert_eq!(defaults.storage.map_size, 1 << 40);
    assert_eq!(defaults.limits.max_message_length, 131_072);
    assert_eq!(defaults.limits.created_at_upper_limit, 900);
}

#[test]
fn the_template_is_a_valid_file_that_changes_nothing() {
    let text = template();
    assert_eq!(config(&text), Config::default());
    // Every line with a single # is a setting; taking it away must give the same configuration.
    let uncommented: String = text
        .lines()
        .map(|line| if line.starts_with('#') && !line.starts_with("# ") && line != "#" { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_ne!(uncommented, text);
    assert_eq!(config(&uncommented), Config::default());
    for section in settings::SECTIONS {
        assert!(uncommented.contains(&format!("\n[{}]\n", section.name)));
        for setting in section.settings {
            assert!(uncommented.contains(&format!("\n{} = ", setting.name)), "{} is missing", setting.name);
        }
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120), "lines fit a terminal");
}

#[test]
fn values_come_from_the_file() {
    let config = config(
        "[info]\nname = \"birds\"\nurl = \"wss://relay.example.org\"\n\
         [listen]\naddresses = [\"0.0.0.0:80\", \"[::]:80\"]\nping_interval = \"1m\"\n\
         [storage]\npath = \"/var/lib/ratite\"\nqueue_bytes = \"64 MiB\"\n\
         [limits]\nmax_limit = 1_000\nmax_message_length = 65536\ncreated_at_lower_limit = \"30d\"\n",
    );
    assert_eq!(config.info.name, "birds");
    assert_eq!(config.info.url, "wss://relay.example.org");
    assert_eq!(config.listen.addresses.len(), 2);
    assert_eq!(config.listen.ping_interval, 60);
    assert_eq!(config.storage.path, PathBuf::from("/var/lib/ratite"));
    assert_eq!(config.storage.queue_bytes, 64 << 20);
    assert_eq!(config.limits.max_limit, 1000);
    assert_eq!(config.limits.max_message_length, 65_536);
    assert_eq!(config.limits.created_at_lower_limit, 30 * 86_400);
}

#[test]
fn names_and_their_keys_are_checked() {
    let hex = "ab".repeat(32);
    let key = crate::nostr::PublicKey([0xab; 32]);
    let npub = crate::nostr::nip19::encode_npub(&key);
    let text = format!("[info]\nnames = [\"Alice={npub}\", \"_ = {hex}\"]\nother_urls = \"ws://abc.onion\"");
    let info = config(&text).info;
    assert_eq!(info.names, [("alice".to_owned(), key), ("_".to_owned(), key)]);
    assert_eq!(info.other_urls, ["ws://abc.onion"]);
    for (line, expected) in [
        ("names = [\"alice\"]".to_owned(), "which has no = between name and key"),
        (format!("names = [\"ali ce={hex}\"]"), "other characters than a-z"),
        (format!("names = [\"={hex}\"]"), "other characters than a-z"),
        (format!("names = [\"a={hex}\", \"A={hex}\"]"), "names a twice"),
        ("names = [\"a=abc\"]".to_owned(), "which has no public key"),
        ("names = 5".to_owned(), "must be a list of names with their keys"),
        ("other_urls = [\"https://x\"]".to_owned(), "which is not an address that begins with wss:// or ws://"),
        ("other_urls = [\"\"]".to_owned(), "which is not an address"),
    ] {
        let found = problems(&format!("[info]\n{line}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{line}: {found:?}");
    }
}

#[test]
fn tls_is_on_with_a_name_and_an_e_mail_address_or_with_files() {
    assert_eq!(Config::default().tls.source(), None);
    let acme = config("[tls]\nnames = \"Relay.example.org\"\nemail = \"you@example.org\"").tls;
    assert_eq!((acme.source(), acme.names), (Some(CertificateSource::Acme), vec!["relay.example.org".to_owned()]));
    assert_eq!(acme.listen, ["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()]);
    assert_eq!(acme.http_listen, ["0.0.0.0:80".parse().unwrap(), "[::]:80".parse().unwrap()]);
    let files = config("[tls]\ncertificate = \"a.pem\"\nkey = \"a.pem\"\nhttp_listen = \"none\"").tls;
    assert_eq!((files.source(), files.http_listen), (Some(CertificateSource::Files), vec![]));
}

#[test]
fn settings_of_tls_that_do_not_fit_together_are_named_with_what_to_do() {
    for (lines, line, expected) in [
        ("names = \"a.org\"", 2, "tls.names needs a certificate; set tls.email to your e-mail address"),
        ("email = \"a@b.c\"", 2, "tls.names has no name for it; set tls.names"),
        ("certificate = \"a\"", 2, "tls.certificate needs its private key; name its file in tls.key"),
        ("key = \"a\"", 2, "tls.key is a key without a certificate"),
        ("certificate = \"a\"\nkey = \"b\"\nemail = \"a@b.c\"", 4, "remove the one or the other"),
        ("email = \"you\"", 2, "must be an e-mail address"),
        ("acme_directory = \"http://a\"", 2, "must be an address that begins with https://"),
        ("certificate = 5", 2, "must be the path of a file, or empty, not 5"),
        ("http_listen = []", 2, "or \"none\", not a list"),
        (
            "certificate = \"a\"\nkey = \"a\"\nlisten = \"127.0.0.1:7777\"",
            4,
            "tls.listen and listen.addresses both name 127.0.0.1:7777",
        ),
        (
            "certificate = \"a\"\nkey = \"a\"\nlisten = \"[::]:80\"",
            0,
            "default: tls.http_listen and tls.listen both name [::]:80",
        ),
    ] {
        let found = problems(&format!("[tls]\n{lines}"));
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        assert!(found[0].contains(expected), "{lines}: {found:?}");
        assert!(line == 0 || found[0].starts_with(&format!("relay.toml:{line}: ")), "{lines}: {found:?}");
    }
    let loaded = load_text("[tls]\nlisten = \"127.0.0.1:1\"\nacme_ca = \"ca.pem\"", &[]).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("relay.toml:2: tls.listen does nothing: TLS is off; it is on when"),
        "{warnings:?}"
    );
}

#[test]
fn one_address_needs_no_list() {
    assert_eq!(config("[listen]\naddresses = \"[::1]:7000\"").listen.addresses, ["[::1]:7000".parse().unwrap()]);
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let found = problems(
        "# a file\n\n[limits]\nmax_limt = 5\nmax_filters = 0\n\n[limit]\nx = 1\n\n[listen]\nmax_limit = 7\nping_interval = \"soon\"\n",
    );
    assert_eq!(
        found,
        [
            "relay.toml:4: [limits] has no setting \"max_limt\"; did you mean \"max_limit\"?",
            "relay.toml:5: limits.max_filters must be a whole number from 1 to 10000, not 0",
            "relay.toml:7: there is no section [limit]; did you mean [limits]?",
            "relay.toml:11: [listen] has no setting \"max_limit\"; it belongs to [limits]",
            "relay.toml:12: listen.ping_interval must be a time from 5s to 1h, in seconds or with a unit such as \"90s\" or \"10m\", not \"soon\"",
        ]
    );
}

#[test]
fn a_setting_outside_of_its_section_is_sent_home() {
    assert_eq!(
        problems("max_limit = 5\n"),
        [
            "relay.toml:1: the setting \"max_limit\" stands outside of any section; put it below a line that says [limits]"
        ]
    );
    assert_eq!(
        problems("port = 80\n"),
        [
            "relay.toml:1: the setting \"port\" stands outside of any section; the sections are [info], [listen], [tls], [rates], [storage], [retention], [backup], [limits], [policy], [membership], [log]"
        ]
    );
    assert_eq!(
        problems("limits = 5\n[[info]]\n"),
        [
            "relay.toml:1: \"limits\" is a section, not a setting; write [limits] once on a line of its own, with its settings below",
            "relay.toml:2: \"info\" is a section, not a setting; write [info] once on a line of its own, with its settings below",
        ]
    );
}

#[test]
fn broken_toml_names_the_line_and_the_rest_is_still_checked() {
    let found = problems("[limits]\nmax_limit = = 5\nmax_filters = 0\n");
    assert!(found[0].starts_with("relay.toml:2: this is not TOML: "), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("relay.toml:3: limits.max_filters must be")), "{found:?}");
    assert!(problems("[limits\n")[0].starts_with("relay.toml:1: this is not TOML: "));
    assert!(problems("a = 1\na = 2\n").iter().any(|line| line.starts_with("relay.toml:2: this is not TOML: ")));
}

#[test]
fn wrong_types_and_ranges_say_what_is_right() {
    for (line, expected) in [
        ("[limits]\nmax_limit = -1", "must be a whole number from 1 to 1000000, not -1"),
        ("[limits]\nmax_limit = \"5\"", "must be a whole number from 1 to 1000000, not \"5\""),
        ("[limits]\nmax_limit = 5.5", "not 5.5"),
        ("[limits]\nmax_limit = 99999999999999999999", "not 99999999999999999999"),
        ("[limits]\nmax_limit = true", "not true"),
        ("[limits]\nmax_limit = [1]", "not a list"),
        ("[limits]\nmax_limit = {a = 1}", "not a table"),
        ("[limits]\nmax_limit = 2020-01-01", "not a date"),
        ("[limits]\nmax_subid_length = 65", "must be the number 64, not 65"),
        (
            "[limits]\nmax_message_length = \"3 parsecs\"",
            "must be a size from 4 KiB to 64 MiB, in bytes or with a unit",
        ),
        ("[limits]\nmax_message_length = \"128 GiB\"", "from 4 KiB to 64 MiB"),
        ("[limits]\nmax_message_length = \"99999999999999999 TiB\"", "from 4 KiB to 64 MiB"),
        ("[info]\nname = 5", "must be text of at most 100 characters, not 5"),
        ("[info]\nname = \"a\\u0007b\"", "contains a control character"),
        (
            "[info]\nurl = \"https://relay.example.org\"",
            "must be an address that begins with wss:// or ws://, or empty",
        ),
        ("[info]\nurl = \"wss://\"", "must be an address that begins with wss://"),
        ("[info]\nicon = \"https://a b\"", "must be an address that begins with https://"),
        ("[listen]\naddresses = []", "must be a list of one or more IP addresses"),
        ("[listen]\naddresses = [7777]", "must be a list of one or more IP addresses"),
        (
            "[listen]\naddresses = [\"localhost:7777\"]",
            "contains \"localhost:7777\", which is not an IP address with a port",
        ),
        ("[listen]\naddresses = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "names 127.0.0.1:1 twice"),
        ("[storage]\npath = \"\"", "must be the path of a folder"),
        ("[listen]\nping_interval = 0", "must be a time from 5s to 1h"),
    ] {
        let found = problems(line);
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        assert!(found[0].starts_with("relay.toml:2: ") && found[0].contains(expected), "{line}: {found:?}");
    }
}

#[test]
fn zero_switches_off_only_where_that_is_said() {
    assert_eq!(config("[limits]\ncreated_at_upper_limit = 0").limits.created_at_upper_limit, 0);
    assert!(problems("[limits]\nmax_limit = 0")[0].contains("must be a whole number from 1 to"));
}

#[test]
fn switches_are_true_or_false() {
    assert!(config("[listen]\ncompression = true").listen.compression);
    assert!(!config("[listen]\ncompression = false").listen.compression);
    for other in ["0", "\"false\"", "\"off\"", "[]"] {
        let found = problems(&format!("[listen]\ncompression = {other}"));
        assert!(found[0].starts_with("relay.toml:2: listen.compression must be true or false"), "{found:?}");
    }
}

#[test]
fn numbers_may_be_written_as_toml_allows() {
    assert_eq!(config("[limits]\nmax_limit = 0x10").limits.max_limit, 16);
    assert_eq!(config("[limits]\nmax_limit = 4_000").limits.max_limit, 4000);
    assert_eq!(config("limits.max_limit = 4").limits.max_limit, 4);
    assert_eq!(config("limits = { max_limit = 4 }").limits.max_limit, 4);
    assert_eq!(config("\u{feff}[limits]\r\nmax_limit = 4\r\n").limits.max_limit, 4);
}

#[test]
fn an_unset_default_limit_follows_a_lower_max_limit() {
    assert_eq!(config("[limits]\nmax_limit = 100").limits.default_limit, 100);
    assert_eq!(
        problems("[limits]\nmax_limit = 100\ndefault_limit = 200"),
        [
            "relay.toml:3: limits.default_limit is 200 but limits.max_limit allows only 100; lower the one or raise the other"
        ]
    );
}

#[test]
fn a_buffer_that_could_never_hold_a_message_is_refused() {
    let found = problems("[limits]\nmax_message_length = \"4 MiB\"");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("relay.toml:2: listen.outbox_bytes is 2097152 bytes, less than twice"), "{found:?}");
    assert!(found[0].ends_with("set listen.outbox_bytes to 8388608 or more"), "{found:?}");
}

#[test]
fn the_environment_counts_more_than_the_file() {
    let loaded = load_text(
        "[limits]\nmax_limit = 100\nmax_filters = 3\n",
        &[
            ("RATITE_LIMITS_MAX_LIMIT", "200"),
            ("RATITE_LISTEN_ADDRESSES", "127.0.0.1:1, [::1]:2"),
            ("RATITE_STORAGE_QUEUE_BYTES", "2MiB"),
            ("RATITE_INFO_NAME", ""),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.config.limits.max_limit, 200);
    assert_eq!(loaded.config.limits.max_filters, 3);
    assert_eq!(loaded.config.listen.addresses.len(), 2);
    assert_eq!(loaded.config.storage.queue_bytes, 2 << 20);
    assert_eq!(loaded.config.info.name, Config::default().info.name, "an empty variable counts as not set");
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_bad_variable_is_an_error_and_an_unknown_one_a_warning() {
    let error = load_text("", &[("RATITE_LIMITS_MAX_LIMIT", "many")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable RATITE_LIMITS_MAX_LIMIT: limits.max_limit must be a whole number from 1 to 1000000, not \"many\""
    );
    let loaded =
        load_text("", &[("RATITE_LIMITS_MAX_LIMITS", "5"), ("RATITE_PORT_7777_TCP", "tcp://10.0.0.1")]).unwrap();
    assert_eq!(
        loaded.warnings.iter().map(Problem::to_string).collect::<Vec<_>>(),
        [
            "environment variable RATITE_LIMITS_MAX_LIMITS: there is no setting of this name; the variable is ignored; did you mean RATITE_LIMITS_MAX_LIMIT?",
            "environment variable RATITE_PORT_7777_TCP: there is no setting of this name; the variable is ignored",
        ]
    );
}

#[test]
fn flags_count_more_than_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    fs::write(&path, "[storage]\npath = \"file\"\n[limits]\nmax_limit = 9\n").unwrap();
    let sources = Sources {
        data: Some(PathBuf::from("flag")),
        listen: vec!["127.0.0.1:9".parse().unwrap()],
        environment: vec![("RATITE_STORAGE_PATH".into(), "environment".into())],
        file: Some(path.clone()),
    };
    let loaded = load(sources).unwrap();
    assert_eq!(loaded.config.storage.path, PathBuf::from("flag"));
    assert_eq!(loaded.config.listen.addresses, ["127.0.0.1:9".parse().unwrap()]);
    assert_eq!(loaded.config.limits.max_limit, 9);
    assert_eq!(loaded.file, Some(path.clone()));

    let named_by_variable =
        load(Sources { environment: vec![("RATITE_CONFIG".into(), path.into())], ..Sources::default() }).unwrap();
    assert_eq!(named_by_variable.config.storage.path, PathBuf::from("file"));
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    let load_file = || load(Sources { file: Some(path.clone()), ..Sources::default() }).unwrap_err().to_string();

    let missing = load_file();
    assert!(missing.contains("there is no such configuration file; `ratite config > "), "{missing}");
    fs::write(&path, b"[info]\nname = \"\xff\"").unwrap();
    assert!(load_file().ends_with("relay.toml:2: this is not UTF-8 text"));
    fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(load_file().ends_with("this is too long for a configuration file"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(load_file().contains("the configuration file cannot be read: "));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(parts in proptest::collection::vec(proptest::sample::select(&[
        "[", "]", "limits", "info", "max_limit", "name", "=", " ", "\n", "\r", "\"", "'''", "\"\"\"", ".", ",", "{", "}", "-", "1",
        "0x", "_", "9999999999999999999999", "1.5e9", "nan", "true", "1979-05-27T07:32:00Z", "#", "\\", "\\u00", "é", "\u{0}", "KiB",
        "[limits]\n", "[[limits]]\n", "max_limit = ", "addresses = [\"", "\"1 PiB\"", "\u{feff}",
    ][..]), 0..30)) {
        let text = parts.concat();
        if let Err(error) = load_text(&text, &[("RATITE_LIMITS_MAX_MESSAGE_LENGTH", &text), ("RATITE_LISTEN_ADDRESSES", &text)]) {
            let lines = text.lines().count() + 1;
            proptest::prop_assert!(error.problems.iter().all(|problem| match problem.place {
                Place::File { line, .. } => (1..=lines).contains(&line),
                _ => true,
            }), "{error}");
        }
    }
}

#[test]
fn rules_of_retention_are_read_from_everywhere_and_checked() {
    let text = "[retention]\nrules = [\"7: 90d\", \"others: 365d and 500 per author\"]\nmax_size = \"20 GiB\"\n";
    let read = config(text).retention;
    assert_eq!(
        read.rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["7: 90d", "others: 365d and 500 per author"]
    );
    assert_eq!(read.max_size, 20 << 30);
    assert!(read.apply && read.protected_kinds.iter().any(|kinds| kinds.contains(crate::nostr::Kind(10_002))));
    let variable = [("RATITE_RETENTION_RULES", "listed: forever, 7 16: 2w")];
    let of_environment = load_text(text, &variable).unwrap().config.retention.rules;
    assert_eq!(of_environment.iter().map(ToString::to_string).collect::<Vec<_>>(), ["listed: forever", "7 16: 2w"]);
    assert_eq!(
        problems("[retention]\nrules = [\"7: 90\"]\n"),
        [
            "relay.toml:2: retention.rules contains \"7: 90\", where what follows the colon is none of \"forever\", \"90d\", \"500 per author\" \
          and \"90d and 500 per author\""
        ]
    );
    assert_eq!(
        problems("[retention]\nlow_water = 96\n"),
        [
            "relay.toml:2: retention.low_water is 96 and retention.high_water 95: what begins at the one has to end below it; \
          lower the one or raise the other"
        ]
    );
    let loaded = load_text("[retention]\nrules = [\"0 3: 1d\", \"0 1: 1d\", \"0: forever\"]\n", &[]).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        warnings,
        ["relay.toml:2: the rule \"0 3: 1d\" removes nothing: its kinds are among retention.protected_kinds"]
    );
}
