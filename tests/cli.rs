//! The command line from outside: the binary run as a process; exit codes, messages, files.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ratite::nostr::{Event, Kind, Tags, UnsignedEvent};
use secp256k1::{Keypair, SecretKey};
use serde_json::Value;

/// Long enough for a loaded machine; no test waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for one test, with the data folder in it.
struct Place {
    folder: tempfile::TempDir,
}

/// How a process ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The program in this folder, with nothing inherited that could configure it.
    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ratite"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RATITE_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        end(self.command(arguments))
    }

    /// Runs with this on standard input.
    fn feed(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // The program may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
        let ended = Ended::of(child.wait_with_output().unwrap());
        writer.join().unwrap();
        ended
    }

    /// The exported lines.
    fn export(&self, arguments: &[&str]) -> Vec<String> {
        let ended = self.run(&[&["export"], arguments].concat());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        ended.out.lines().map(str::to_owned).collect()
    }
}

impl Ended {
    fn of(output: std::process::Output) -> Ended {
        Ended {
            code: output.status.code().expect("no command dies of a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The counts of `--json`.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    fn assert_failed(&self, what: &str) {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        assert!(self.err.contains(what), "\"{what}\" is not in: {}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        assert!(!self.err.contains("os error") && !self.err.contains("panicked"), "{}", self.err);
    }
}

fn end(mut command: Command) -> Ended {
    Ended::of(command.output().unwrap())
}

fn sign(key: u8, created_at: u64, kind: u16, tags: &[&[&str]], content: &str) -> Event {
    let key = Keypair::from_secret_key(&SecretKey::from_secret_bytes([key; 32]).unwrap());
    let mut list = Tags::default();
    for tag in tags {
        list.push(tag.iter());
    }
    UnsignedEvent { created_at, kind: Kind(kind), tags: list, content: content.into() }.sign(&key)
}

fn json(event: &Event) -> String {
    let mut text = Vec::new();
    event.write_json(&mut text);
    String::from_utf8(text).unwrap()
}

/// A note whose place in time is `n`.
fn note(n: u64) -> String {
    json(&sign(1, 1_700_000_000 + n, 1, &[], &format!("note {n}")))
}

fn notes(count: u64) -> String {
    (0..count).map(|n| note(n) + "\n").collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

// The command line itself.

#[test]
fn help_and_version_are_no_errors() {
    let place = Place::new();
    for arguments in
        [&["--help"][..], &["-V"], &["help"], &["help", "import"], &["export", "--help"], &["config", "check", "-h"]]
    {
        let ended = place.run(arguments);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{arguments:?}");
        assert!(ended.out.contains("ratite"), "{arguments:?}");
    }
    assert_eq!(place.run(&["--version"]).out, format!("ratite {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["relay", "import", "export", "scan", "delete", "info", "config"] {
        let help = place.run(&["help", command]).out;
        assert!(help.contains("Examples:\n  "), "{command} teaches by example: {help}");
    }
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0, "asking for help leaves nothing behind");
}

#[test]
fn wrong_flags_end_with_1_and_name_the_nearest() {
    let place = Place::new();
    let ended = place.run(&["--lisen", "127.0.0.1:1"]);
    ended.assert_failed("'--lisen'");
    assert!(ended.err.contains("'--listen'"), "{}", ended.err);
    place.run(&["imprt"]).assert_failed("imprt");
    place.run(&["export", "--since", "yesterday"]).assert_failed("not a time: write unix seconds");
    place.run(&["--listen", "localhost:7777"]).assert_failed("not an IP address with a port");
    place.run(&["--listen", "127.0.0.1:1", "info"]).assert_failed("--listen belongs to the relay");
    place.run(&["scan"]).assert_failed("FILTER");
    place.run(&["scan", "--json", "{}"]).assert_failed("--count");
}

#[test]
fn commands_that_need_a_database_say_what_to_do_without_one() {
    let place = Place::new();
    for arguments in [&["info"][..], &["export"], &["scan", "{}"], &["delete", "--filter", "{}"]] {
        let ended = place.run(arguments);
        ended.assert_failed("there is no database in ./ratite-data");
        assert!(ended.err.contains("--data"), "{}", ended.err);
        assert_eq!(ended.out, "");
    }
    assert!(!place.path("ratite-data").exists(), "looking does not create");
    place.run(&["--data", "elsewhere", "info"]).assert_failed("there is no database in elsewhere");
}

#[test]
fn a_data_folder_that_cannot_be_one_is_an_error_with_advice() {
    let place = Place::new();
    place.write("file", "");
    place.write("events.jsonl", notes(1));
    place.run(&["--data", "file", "import", "events.jsonl"]).assert_failed("cannot be opened");
    fs::create_dir(place.path("junk")).unwrap();
    place.write("junk/data.mdb", "x".repeat(100_000));
    place.run(&["--data", "junk", "import", "events.jsonl"]).assert_failed("is not an LMDB file");
    place.run(&["--data", "junk", "info"]).assert_failed("is not an LMDB file");
}

// Configuration.

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

// Import.

#[test]
fn an_import_is_summed_up_and_repeating_it_changes_nothing() {
    let place = Place::new();
    place.write("events.jsonl", notes(30));
    let ended = place.run(&["import", "events.jsonl"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> =
        ended.out.lines().map(|line| line.split("  ").map(str::trim).filter(|s| !s.is_empty()).collect()).collect();
    for row in [
        ["read", "30"],
        ["new", "30"],
        ["already there", "0"],
        ["replaced", "0"],
        ["deleted earlier", "0"],
        ["refused", "0"],
    ] {
        assert!(rows.contains(&row.to_vec()), "{row:?} is not in {}", ended.out);
    }
    assert!(ended.out.lines().last().unwrap().ends_with("events per second"), "{}", ended.out);
    let again = place.run(&["import", "events.jsonl", "--json"]);
    assert_eq!(again.code, 0);
    let counts = again.json();
    assert_eq!((&counts["read"], &counts["new"], &counts["already_there"]), (&30.into(), &0.into(), &30.into()));
    assert_eq!(counts["complete"], true);
    assert_eq!(place.export(&[]).len(), 30);
}

#[test]
fn every_fate_of_an_event_is_counted() {
    let place = Place::new();
    let victim = sign(1, 1_700_000_000, 1, &[], "regretted");
    let deletion = sign(1, 1_700_000_001, 5, &[&["e", &victim.id.to_string()]], "");
    let lines = [
        note(1),
        note(1),
        json(&deletion),
        json(&victim),
        json(&sign(1, 1_700_000_009, 0, &[], "new profile")),
        json(&sign(1, 1_700_000_002, 0, &[], "old profile")),
        json(&sign(1, 1_700_000_003, 20_001, &[], "ephemeral")),
        json(&sign(1, 1_700_000_004, 1, &[&["expiration", "1700000005"]], "expired")),
        "nonsense".to_owned(),
    ];
    place.write("events.jsonl", lines.join("\n"));
    let ended = place.run(&["import", "events.jsonl", "--json"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    let expected = serde_json::json!({
        "read": 9, "new": 3, "already_there": 1, "replaced": 1, "deleted_earlier": 1, "expired": 1, "ephemeral": 1,
        "refused": 1, "complete": true
    });
    assert_eq!(ended.json(), expected);
    assert!(ended.err.starts_with("events.jsonl:9: invalid: "), "{}", ended.err);
}

#[test]
fn bad_lines_never_stop_the_run_and_are_written_with_their_reasons() {
    let place = Place::new();
    let mut forged = note(3);
    forged = forged.replace("note 3", "note 4");
    let signature = {
        let event = sign(1, 1_700_000_050, 1, &[], "x");
        let other = sign(2, 1_700_000_050, 1, &[], "x");
        json(&event).replace(&event.sig.to_string(), &other.sig.to_string())
    };
    let mut file = Vec::new();
    for line in [&note(0), "", &forged, "   ", "{\"id\":1}", &note(1), "[]", &signature, "not json"] {
        file.extend_from_slice(line.as_bytes());
        file.extend_from_slice(b"\r\n");
    }
    file.extend_from_slice(b"\xff\xfe\n");
    // The last line ends without a line end, and carries a member that strfry's fried dumps have.
    let fried = note(2);
    file.extend_from_slice(format!("{},\"fried\":\"00ff\"}}", &fried[..fried.len() - 1]).as_bytes());
    place.write("events.jsonl", &file);

    let ended = place.run(&["import", "events.jsonl", "--rejects", "rejects.jsonl", "--json"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    let counts = ended.json();
    assert_eq!((&counts["read"], &counts["new"], &counts["refused"]), (&9.into(), &3.into(), &6.into()));
    assert_eq!(ended.err, "the refused lines are in rejects.jsonl\n");
    let rejects: Vec<Value> =
        place.read("rejects.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<u64> = rejects.iter().map(|reject| reject["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 5, 7, 8, 9, 10], "in order, blank lines counted");
    assert_eq!(rejects[0]["file"], "events.jsonl");
    assert_eq!(rejects[0]["event"], forged.as_str(), "the line as it was");
    assert_eq!(rejects[0]["reason"], "invalid: id is not the hash of the event");
    assert_eq!(rejects[3]["reason"], "invalid: sig is not a signature of id by pubkey");
    assert!(rejects.iter().all(|reject| reject["reason"].as_str().unwrap().starts_with("invalid: ")));
    assert_eq!(place.export(&[]), [note(0), note(1), fried], "unknown members are stripped");
}

#[test]
fn without_a_file_for_them_the_first_refused_lines_are_shown() {
    let place = Place::new();
    place.write("events.jsonl", "bad\n".repeat(25));
    let ended = place.run(&["import", "events.jsonl"]);
    assert_eq!(ended.code, 2);
    let shown: Vec<&str> = ended.err.lines().collect();
    assert_eq!(shown.len(), 11, "{}", ended.err);
    assert!(shown[0].starts_with("events.jsonl:1: invalid: "), "{}", ended.err);
    assert_eq!(shown[10], "and 15 more lines; --rejects FILE writes all of them with their reasons");
}

#[test]
fn standard_input_and_compressed_files_just_work() {
    let text = notes(20);
    let compressed = [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 1).unwrap()];
    for (i, bytes) in [text.as_bytes(), &compressed[0], &compressed[1]].into_iter().enumerate() {
        for arguments in [&["import", "--json"][..], &["import", "-", "--json"]] {
            let place = Place::new();
            let ended = place.feed(arguments, bytes);
            assert_eq!((ended.code, &ended.json()["new"]), (0, &20.into()), "{i} {arguments:?}: {}", ended.err);
        }
        let place = Place::new();
        // The content decides, not the name.
        place.write("events.jsonl", bytes);
        let ended = place.run(&["import", "--json", "events.jsonl"]);
        assert_eq!((ended.code, &ended.json()["new"]), (0, &20.into()), "{i}: {}", ended.err);
    }
    let place = Place::new();
    let ended = place.run(&["import", "--json"]);
    assert_eq!((ended.code, &ended.json()["read"]), (0, &0.into()), "nothing is a clean import of nothing");
}

#[test]
fn several_sources_are_read_in_order() {
    let place = Place::new();
    place.write("a.jsonl", note(0));
    place.write("b.jsonl.zst", zstd::encode_all((note(1) + "\nbad").as_bytes(), 1).unwrap());
    let ended = place.feed(&["import", "a.jsonl", "-", "b.jsonl.zst", "--json"], note(2).as_bytes());
    assert_eq!(ended.code, 2);
    assert_eq!((&ended.json()["read"], &ended.json()["new"]), (&4.into(), &3.into()));
    assert!(ended.err.starts_with("b.jsonl.zst:2: "), "{}", ended.err);
}

#[test]
fn wrong_sources_fail_before_anything_is_read() {
    let place = Place::new();
    place.write("good.jsonl", note(0));
    place.run(&["import", "good.jsonl", "missing.jsonl"]).assert_failed("there is no file missing.jsonl");
    place.run(&["import", "good.jsonl", "."]).assert_failed(". is a folder");
    place.run(&["import", "-", "-"]).assert_failed("standard input (-) is named twice");
    place.run(&["import", "good.jsonl", "--rejects", "./good.jsonl"]).assert_failed("is to be read and to be written");
    place
        .run(&["import", "good.jsonl", "--rejects", "no/such/folder"])
        .assert_failed("no/such/folder cannot be written");
    assert_eq!(place.read("good.jsonl"), note(0));
    assert!(!place.path("ratite-data").exists(), "nothing was begun");
}

#[test]
fn a_file_that_is_cut_off_keeps_what_came_before() {
    let place = Place::new();
    let whole = gzip(notes(500).as_bytes());
    place.write("events.jsonl.gz", &whole[..whole.len() / 2]);
    let ended = place.run(&["import", "events.jsonl.gz", "--json"]);
    ended.assert_failed("events.jsonl.gz ends too early");
    let counts = ended.json();
    assert_eq!((&counts["complete"], &counts["refused"]), (&false.into(), &0.into()));
    let stored = place.export(&[]).len();
    assert!(stored > 0 && counts["new"] == stored, "{counts}");
    place.write("events.jsonl.gz", whole);
    assert_eq!(place.run(&["import", "events.jsonl.gz", "--json"]).json()["new"], 500 - stored);
}

#[test]
fn a_line_too_long_to_be_an_event_is_refused_alone() {
    let place = Place::new();
    let mut file = (note(0) + "\n").into_bytes();
    file.resize(file.len() + (40 << 20), b'x');
    file.extend_from_slice(format!("\n{}", note(1)).as_bytes());
    let ended = place.feed(&["import", "--json"], &file);
    assert_eq!(ended.code, 2);
    assert_eq!((&ended.json()["new"], &ended.json()["refused"]), (&2.into(), &1.into()));
    assert_eq!(ended.err, "standard input:2: invalid: the line is longer than 16.0 MiB\n");
}

#[test]
fn a_trusted_import_checks_no_signatures() {
    let place = Place::new();
    let event = sign(1, 1_700_000_000, 1, &[], "x");
    place.write("events.jsonl", json(&event).replace(&event.sig.to_string(), &"0".repeat(128)));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 2);
    let ended = place.run(&["import", "--no-verify", "events.jsonl", "--json"]);
    assert_eq!((ended.code, &ended.json()["new"]), (0, &1.into()));
}

#[test]
fn an_import_that_is_stopped_keeps_whole_batches_and_continues_later() {
    let place = Place::new();
    let mut child = place.command(["import", "--json"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(notes(40).as_bytes()).unwrap();
    stdin.flush().unwrap();
    // The pipe stays open, as that of a slow source does; what has come is stored all the same.
    wait_for("the first lines are stored", || {
        let ended = place.run(&["scan", "--count", "{}"]);
        ended.code == 0 && ended.out == "40\n"
    });
    interrupt(&child);
    let ended = Ended::of(child.wait_with_output().unwrap());
    ended.assert_failed("the import was stopped");
    assert!(ended.err.contains("Run it again to continue"), "{}", ended.err);
    let counts = ended.json();
    assert_eq!((&counts["new"], &counts["complete"]), (&40.into(), &false.into()));
    drop(stdin);

    let again = place.feed(&["import", "--json"], notes(60).as_bytes());
    assert_eq!((again.code, &again.json()["new"], &again.json()["already_there"]), (0, &20.into(), &40.into()));
    assert_eq!(place.run(&["info", "--verify"]).code, 0);
}

// Export, scan, delete, info.

/// A place with a few events of every sort.
fn filled() -> Place {
    let place = Place::new();
    let mut lines: Vec<String> = (0..10).map(note).collect();
    lines.push(json(&sign(2, 1_600_000_000, 0, &[], "{\"name\":\"emu\"}")));
    lines.push(json(&sign(2, 4_000_000_000, 30_023, &[&["d", "x"], &["t", "nostr"]], "later \"quoted\"\n\u{1f426}")));
    place.write("events.jsonl", lines.join("\n"));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    place
}

#[test]
fn an_export_is_what_was_imported_oldest_first() {
    let place = filled();
    let mut expected: Vec<String> = place.read("events.jsonl").lines().map(str::to_owned).collect();
    expected.sort_by_key(|line| Event::parse(line.as_bytes()).unwrap().created_at);
    assert_eq!(place.export(&[]), expected);
    expected.reverse();
    assert_eq!(place.export(&["--reverse"]), expected);
}

#[test]
fn an_export_is_narrowed_by_filter_and_time() {
    let place = filled();
    assert_eq!(place.export(&["--since", "1700000008"]).len(), 3);
    assert_eq!(place.export(&["--until", "2020-09-13T12:26:40Z"]).len(), 1);
    assert_eq!(place.export(&["--since", "1700000003", "--until", "1700000005"]), [note(3), note(4), note(5)]);
    assert_eq!(place.export(&["--filter", "{\"kinds\":[1],\"limit\":2}"]), [note(0), note(1)]);
    assert_eq!(place.export(&["--filter", "{\"kinds\":[1],\"limit\":2}", "--reverse"]), [note(9), note(8)]);
    assert_eq!(place.export(&["--filter", "[{\"kinds\":[0]},{\"#t\":[\"nostr\"]}]"]).len(), 2);
    assert_eq!(
        place.export(&["--since", "1h"]),
        [json(&sign(2, 4_000_000_000, 30_023, &[&["d", "x"], &["t", "nostr"]], "later \"quoted\"\n\u{1f426}"))]
    );
    assert_eq!(place.export(&["--filter", "{\"ids\":[]}"]).len(), 0);
}

#[test]
fn an_export_to_a_file_can_be_imported_again() {
    let place = filled();
    let expected = place.export(&[]);
    for name in ["backup.jsonl", "backup.jsonl.gz", "backup.jsonl.zst"] {
        let ended = place.run(&["export", "-o", name]);
        assert_eq!((ended.code, ended.out.as_str()), (0, ""));
        assert_eq!(ended.err, format!("12 events written to {name}\n"));
        let other = Place::new();
        let from = place.path(name);
        assert_eq!(other.run(&["import", from.to_str().unwrap()]).code, 0);
        assert_eq!(other.export(&[]), expected, "{name}");
    }
    let plain = place.read("backup.jsonl").len() as u64;
    assert!(fs::metadata(place.path("backup.jsonl.gz")).unwrap().len() < plain);
    assert!(fs::metadata(place.path("backup.jsonl.zst")).unwrap().len() < plain);
    assert!(!place.folder.path().join("backup.jsonl.unfinished").exists());
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new();
    place.write("events.jsonl", notes(2_000));
    assert_eq!(place.run(&["import", "events.jsonl", "--no-verify"]).code, 0);
    for arguments in [&["export"][..], &["scan", "{}"], &["config"], &["info"], &["--help"]] {
        let mut child = place.command(arguments).spawn().unwrap();
        // Not even one byte is read.
        drop(child.stdout.take());
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn a_bad_filter_shows_what_is_wrong_and_an_example() {
    let place = filled();
    for arguments in [
        &["export", "--filter", "{\"kinds\":\"1\"}"][..],
        &["scan", "{\"kinds\":\"1\"}"],
        &["delete", "--filter", "{\"kinds\":\"1\"}"],
    ] {
        let ended = place.run(arguments);
        ended.assert_failed("this is not a filter: kinds must be");
        assert!(
            ended.err.contains("{\"kinds\":\"1\"}") && ended.err.contains("A filter looks like this"),
            "{}",
            ended.err
        );
    }
    place.run(&["scan", "{kinds:[1]}"]).assert_failed("The shell has eaten the double quotes");
    place.run(&["scan", "{\"search\":\"emu\"}"]).assert_failed("\"search\" are not supported yet");
}

#[test]
fn a_scan_prints_newest_first_and_counts() {
    let place = filled();
    let ended = place.run(&["scan", "{\"kinds\":[1],\"limit\":3}"]);
    assert_eq!(ended.code, 0);
    assert_eq!(ended.out, [note(9), note(8), note(7)].join("\n") + "\n");
    let ended = place.run(&["scan", "{\"kinds\":[1],\"limit\":1}", "{\"kinds\":[1],\"limit\":2}", "{\"kinds\":[0]}"]);
    assert_eq!(ended.out.lines().count(), 3, "the union, each event once");
    assert_eq!(place.run(&["scan", "--count", "{\"kinds\":[1]}"]).out, "10\n");
    assert_eq!(place.run(&["scan", "--count", "--json", "{}"]).json(), serde_json::json!({"count": 12}));
    assert_eq!(place.run(&["scan", "--count", "{}", "--until", "1700000004"]).out, "6\n");
}

#[test]
fn a_delete_removes_what_a_dry_run_counts() {
    let place = filled();
    place.run(&["delete"]).assert_failed("nothing says which events to remove");
    let select = ["--filter", "{\"kinds\":[1]}", "--until", "1700000004"];
    let ended = place.run(&[&["delete", "--dry-run"][..], &select].concat());
    assert_eq!((ended.code, ended.out.as_str()), (0, "5 events would be removed\n"));
    assert_eq!(place.export(&[]).len(), 12);
    let ended = place.run(&[&["delete", "--json"][..], &select].concat());
    assert_eq!((ended.code, ended.json()), (0, serde_json::json!({"removed": 5})));
    assert_eq!(place.export(&[]).len(), 7);
    assert_eq!(place.run(&[&["delete"][..], &select].concat()).out, "0 events removed\n");
    assert_eq!(place.run(&["delete", "--dry-run", "--json", "--since", "1750000000"]).json()["would_remove"], 1);
    assert_eq!(place.run(&["info", "--verify"]).code, 0);
    // Removing is not forbidding: the same file brings them back.
    assert_eq!(place.run(&["import", "events.jsonl", "--json"]).json()["new"], 5);
}

#[test]
fn info_tells_people_and_scripts() {
    let place = filled();
    let ended = place.run(&["info"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    for line in ["events          12", "oldest          2020-09-13T12:26:40Z", "newest          2096-10-02T07:06:40Z"] {
        assert!(ended.out.lines().any(|found| found == line), "{line} is not in {}", ended.out);
    }
    let info = place.run(&["info", "--json", "--verify"]).json();
    assert_eq!(
        (&info["events"], &info["oldest"], &info["newest"]),
        (&12.into(), &1_600_000_000u64.into(), &4_000_000_000u64.into())
    );
    assert_eq!(info["path"], "./ratite-data");
    assert!(info["schema_version"].is_u64() && info["file_bytes"].as_u64() > Some(0) && info["free_bytes"].is_u64());
    assert!(info["tables"].as_array().unwrap().iter().any(|table| table["name"] == "events" && table["entries"] == 12));
    assert_eq!(info["verify"]["faults"], serde_json::json!([]));
    let empty = Place::new();
    assert_eq!(empty.feed(&["import"], b"").code, 0);
    let info = empty.run(&["info", "--json"]).json();
    assert_eq!((&info["events"], &info["oldest"]), (&0.into(), &Value::Null));
}

// The relay as a process.

/// A relay on a free port, stopped when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    greeting: String,
}

impl Running {
    fn start(place: &Place, arguments: &[&str]) -> Running {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let mut child = place.command(arguments).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut greeting = String::new();
        // The greeting ends with how to stop.
        for line in &mut lines {
            let line = line.unwrap();
            greeting.push_str(&line);
            greeting.push('\n');
            if line.contains("Ctrl-C") {
                break;
            }
        }
        let first = greeting.lines().next().unwrap_or_else(|| panic!("the relay did not start"));
        let address = first.rsplit_once("ws://").unwrap().1.parse().unwrap();
        Running { child, address, greeting }
    }

    fn stop(mut self, signal: i32) -> i32 {
        send_signal(&self.child, signal);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("an exit, not a death by signal");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the relay does not stop");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_relay_greets_serves_and_stops_with_0() {
    let place = Place::new();
    for (signal, arguments) in [(15, &[][..]), (2, &["relay"])] {
        let running = Running::start(&place, arguments);
        let first = running.greeting.lines().next().unwrap();
        assert!(first.starts_with("ratite ") && first.contains(" is listening on ws://127.0.0.1:"), "{first}");
        for part in ["./ratite-data", "import FILE.jsonl", &format!("add ws://{} to", running.address)] {
            assert!(running.greeting.contains(part), "{part} is not in {}", running.greeting);
        }
        assert!(place.path("ratite-data/data.mdb").exists());
        let mut stream = TcpStream::connect(running.address).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(running.stop(signal), 0);
    }
}

#[test]
fn an_address_that_is_taken_is_an_error_with_advice() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = place.run(&["--listen", &address]);
    ended.assert_failed(&address);
    assert!(ended.err.contains("--listen"), "{}", ended.err);
    assert_eq!(ended.out, "", "no greeting without a relay");
}

#[test]
fn everything_works_while_the_relay_runs_and_imports_are_delivered_live() {
    let place = filled();
    let running = Running::start(&place, &[]);
    let mut socket = WebSocket::connect(running.address);
    socket.send("[\"REQ\",\"live\",{\"kinds\":[1],\"limit\":1}]");
    assert_eq!(socket.receive(), format!("[\"EVENT\",\"live\",{}]", note(9)));
    assert_eq!(socket.receive(), "[\"EOSE\",\"live\"]");

    let ended = place.feed(&["import", "--json"], [note(20), note(21)].join("\n").as_bytes());
    assert_eq!((ended.code, &ended.json()["new"]), (0, &2.into()), "{}", ended.err);
    let live = [socket.receive(), socket.receive()];
    assert_eq!(live, [20, 21].map(|n| format!("[\"EVENT\",\"live\",{}]", note(n))));

    assert_eq!(place.export(&[]).len(), 14);
    assert_eq!(place.run(&["delete", "--filter", "{\"kinds\":[1]}"]).out, "12 events removed\n");
    assert_eq!(place.run(&["info", "--json", "--verify"]).json()["events"], 2);
    socket.send("[\"REQ\",\"again\",{\"kinds\":[1]}]");
    assert_eq!(socket.receive(), "[\"EOSE\",\"again\"]", "the relay sees what was removed");
    assert_eq!(running.stop(15), 0);
}

/// As much of a WebSocket client as the tests above need.
struct WebSocket(TcpStream);

impl WebSocket {
    fn connect(address: SocketAddr) -> WebSocket {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            )
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        WebSocket(stream)
    }

    fn send(&mut self, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126, "short messages only");
        // Masked with zeros, which leaves the text as it is.
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.0.write_all(&frame).unwrap();
    }

    /// The next text message; pings and the challenge for AUTH are passed over.
    fn receive(&mut self) -> String {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).unwrap();
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.0.read_exact(&mut length).unwrap();
                    u16::from_be_bytes(length).into()
                }
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).unwrap();
            if head[0] == 0x81 && !payload.starts_with(b"[\"AUTH\",") {
                return String::from_utf8(payload).unwrap();
            }
        }
    }
}

fn send_signal(child: &Child, signal: i32) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

fn interrupt(child: &Child) {
    send_signal(child, 2);
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_real_corpus_survives_import_and_export() {
    let Some(corpus) = std::env::var_os("RATITE_CORPUS") else { return };
    let corpus = Path::new(&corpus);
    let place = Place::new();
    let ended = place.run(&["import", "--json", corpus.join("real-events.jsonl").to_str().unwrap()]);
    assert!(ended.code == 0 || ended.code == 2, "{}", ended.err);
    let exported = place.export(&[]);
    assert_eq!(exported.len() as u64, place.run(&["info", "--json", "--verify"]).json()["events"]);
    let other = Place::new();
    assert_eq!(other.feed(&["import", "--json"], exported.join("\n").as_bytes()).code, 0);
    assert_eq!(other.export(&[]), exported, "byte for byte");
}
