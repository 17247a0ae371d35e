//! The command line from outside: the binary run as a process; exit codes, messages, files.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod admin;
mod backup;
mod conduct;
mod config;
mod damage;
#[path = "../common/disk.rs"]
mod disk;
mod export;
mod full;
mod import;
mod moving;
mod place;
mod prune;
mod relay;
mod setup;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use place::{Place, notes};

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
    for command in [
        "relay",
        "import",
        "export",
        "scan",
        "delete",
        "prune",
        "info",
        "verify",
        "backup",
        "restore",
        "compact",
        "config",
        "admin",
        "drain",
        "restart",
        "completions",
    ] {
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
fn a_database_that_may_not_be_read_is_not_taken_for_none() {
    let place = Place::new();
    place.write("events.jsonl", notes(1));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    // Who may read everything, as root may, sees what stands behind a file instead.
    let locked = Permissions::from_mode(0o000);
    fs::set_permissions(place.path("ratite-data"), locked).unwrap();
    let may_read_all = fs::read_dir(place.path("ratite-data")).is_ok();
    let ended = place.run(&["info"]);
    fs::set_permissions(place.path("ratite-data"), Permissions::from_mode(0o755)).unwrap();
    if may_read_all {
        assert_eq!(ended.code, 0);
    } else {
        ended.assert_failed("the database in ./ratite-data cannot be opened: permission denied");
    }
    place
        .run(&["--data", "ratite-data/data.mdb", "info"])
        .assert_failed("ratite-data/data.mdb is a file, not a folder");
    place.run(&["--data", "events.jsonl/x", "info"]).assert_failed("events.jsonl/x cannot be opened: not a directory");
}

#[test]
fn a_data_folder_that_cannot_be_one_is_an_error_with_advice() {
    let place = Place::new();
    place.write("file", "");
    place.write("events.jsonl", notes(1));
    place.run(&["--data", "file", "import", "events.jsonl"]).assert_failed("file is a file, not a folder");
    fs::create_dir(place.path("junk")).unwrap();
    place.write("junk/data.mdb", "x".repeat(100_000));
    place.run(&["--data", "junk", "import", "events.jsonl"]).assert_failed("is not an LMDB file");
    place.run(&["--data", "junk", "info"]).assert_failed("is not an LMDB file");
}

#[test]
fn a_database_of_another_version_is_refused_by_every_command_and_left_as_it_is() {
    let place = Place::new();
    place.write("events.jsonl", notes(3));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    assert_eq!(place.run(&["backup", "old.mdb"]).code, 0);
    for file in ["ratite-data/data.mdb", "old.mdb"] {
        let mut bytes = fs::read(place.path(file)).unwrap();
        // The name of the entry, and a list of two that begins with the version.
        let mark = b"database\x92\x02";
        let versions: Vec<usize> = (0..bytes.len() - mark.len()).filter(|at| bytes[*at..].starts_with(mark)).collect();
        assert!(!versions.is_empty());
        versions.iter().for_each(|at| bytes[at + mark.len() - 1] = 3);
        place.write(file, bytes);
    }
    let before = fs::read(place.path("ratite-data/data.mdb")).unwrap();
    let words = "the database has schema version 3, this program knows versions up to 2: use the program that wrote it";
    for arguments in [
        &["info"][..],
        &["export"],
        &["scan", "{}"],
        &["delete", "--filter", "{}"],
        &["prune", "--rule", "all: 1d"],
        &["verify"],
        &["backup", "x.mdb"],
        &["compact"],
        &["import", "events.jsonl"],
        &["--listen", "127.0.0.1:0"],
        &["--data", "other", "restore", "old.mdb"],
    ] {
        place.run(arguments).assert_failed(words);
    }
    assert_eq!(fs::read(place.path("ratite-data/data.mdb")).unwrap(), before);
    assert!(!place.path("x.mdb").exists() && !place.path("other").exists());
}

#[test]
fn a_disk_that_became_read_only_says_how_to_rescue_what_is_on_it() {
    let place = Place::new();
    place.write("events.jsonl", notes(3));
    fs::create_dir(place.path("disk")).unwrap();
    let Some(disk) = disk::Disk::mount(8, &place.path("disk")) else { return };
    assert_eq!(place.run(&["--data", "disk/data", "import", "events.jsonl"]).code, 0);
    let remounted = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().unwrap();
    assert!(remounted.success());
    for arguments in [&["info"][..], &["export"], &["verify"], &["import", "events.jsonl"], &["compact"]] {
        let ended = place.run(&[&["--data", "disk/data"], arguments].concat());
        ended.assert_failed("disk/data cannot be opened: read-only file system");
        assert!(ended.err.contains("copy data.mdb into a folder on another disk"), "{}", ended.err);
    }
    place.run(&["--data", "disk/new", "import", "events.jsonl"]).assert_failed("read-only file system");
    // As it says.
    fs::create_dir(place.path("elsewhere")).unwrap();
    fs::copy(place.path("disk/data/data.mdb"), place.path("elsewhere/data.mdb")).unwrap();
    assert_eq!(place.export(&["--data", "elsewhere"]).len(), 3);
    let ended = place.run(&["--data", "elsewhere", "backup", "disk/x.mdb"]);
    ended.assert_failed("disk/x.mdb.partial cannot be written: read-only file system");
}
