//! Databases that are not as they were written: what can be read is read, what cannot is said.

use std::fs;

use ratite::nostr::Event;

use crate::place::{Place, Running, WebSocket, json, note, notes, sign};

const FILE: &str = "ratite-data/data.mdb";

/// A place with so many notes in its database.
fn stored(count: u64) -> Place {
    let place = Place::new();
    place.write("events.jsonl", notes(count));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    place
}

/// Changes the record of note `n` at this place, counted from its beginning; the id lies at 3.
fn damage(place: &Place, n: u64, at: usize) {
    let id = Event::parse(note(n).as_bytes()).unwrap().id.0;
    let mut bytes = fs::read(place.path(FILE)).unwrap();
    let record: Vec<usize> = (3..bytes.len() - 32)
        .filter(|i| bytes[i - 3..].starts_with(&[0x97, 0xc4, 32]) && bytes[*i..].starts_with(&id))
        .collect();
    assert!(!record.is_empty());
    // Copies that older transactions left do no harm, whatever they hold.
    for found in record {
        bytes[found - 3 + at] ^= 0xff;
    }
    fs::write(place.path(FILE), bytes).unwrap();
}

#[test]
fn damaged_events_are_left_out_named_and_counted() {
    let place = stored(30);
    // The frame of one record, and the tags of another.
    damage(&place, 7, 0);
    damage(&place, 9, 81);
    let rest: Vec<String> = (0..30).filter(|n| ![7, 9].contains(n)).map(note).collect();
    let ninth = Event::parse(note(9).as_bytes()).unwrap().id.to_string();

    for arguments in [&["export"][..], &["export", "--as-stored"], &["export", "-o", "backup.jsonl"]] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, 2, "{}", ended.err);
        let lines = if arguments.len() == 3 { place.read("backup.jsonl") } else { ended.out };
        assert_eq!(lines.lines().collect::<Vec<_>>(), rest);
        for part in ["event 7 of the database is damaged", &ninth, "2 events in the database could not be read"] {
            assert!(ended.err.contains(part), "{part} is not in {}", ended.err);
        }
    }
    let ended = place.run(&["scan", "{\"kinds\":[1],\"limit\":25}"]);
    assert_eq!((ended.code, ended.out.lines().count()), (2, 24), "{}", ended.err);
    assert_eq!(place.run(&["scan", "--count", "{}"]).code, 2);
    assert_eq!(place.run(&["scan", "{\"kinds\":[1],\"limit\":10}"]).code, 0, "nothing damaged is among these");
    let ended = place.run(&["verify"]);
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains("event 7 is not a record") && ended.err.contains("ratite export"), "{}", ended.err);

    // The relay serves the rest, and what is lost can be stored anew.
    let running = Running::start(&place, &[]);
    let mut socket = WebSocket::connect(running.address);
    socket.send("[\"REQ\",\"x\",{\"kinds\":[1]}]");
    for line in rest.iter().rev() {
        assert_eq!(socket.receive(), format!("[\"EVENT\",\"x\",{line}]"));
    }
    assert_eq!(socket.receive(), "[\"EOSE\",\"x\"]");
    drop(running);
    assert_eq!(place.feed(&["import", "--json"], note(7).as_bytes()).json()["new"], 1);
    let ended = place.run(&["delete", "--filter", "{\"kinds\":[1]}", "--json"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    assert!(ended.json()["removed"].as_u64() >= Some(29), "{}", ended.out);
}

#[test]
fn an_event_that_expires_damaged_is_swept_away_all_the_same() {
    let place = Place::new();
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 2;
    let mortal = |content: &str| json(&sign(1, 1_700_000_100, 1, &[&["expiration", &soon.to_string()]], content));
    place.write("events.jsonl", [note(0), mortal("a"), mortal("b")].join("\n"));
    assert_eq!(place.run(&["import", "events.jsonl"]).code, 0);
    let mut bytes = fs::read(place.path(FILE)).unwrap();
    let id = Event::parse(mortal("a").as_bytes()).unwrap().id.0;
    while let Some(at) = (3..bytes.len() - 32).find(|i| bytes[i - 3] == 0x97 && bytes[*i..].starts_with(&id)) {
        bytes[at - 3] = 0;
    }
    fs::write(place.path(FILE), bytes).unwrap();
    let running = Running::start(&place, &[]);
    crate::place::wait_for("both are removed", || place.run(&["info", "--json"]).json()["events"] == 1);
    drop(running);
}

#[test]
fn a_database_that_is_cut_off_is_refused_by_every_command() {
    let place = stored(200);
    let whole = fs::read(place.path(FILE)).unwrap();
    for length in [whole.len() / 2, whole.len() - 4096, 3 * 4096] {
        fs::write(place.path(FILE), &whole[..length]).unwrap();
        for arguments in [
            &["info"][..],
            &["export"],
            &["scan", "{}"],
            &["delete", "--filter", "{}"],
            &["import"],
            &["--listen", "127.0.0.1:0"],
        ] {
            let ended = place.run(arguments);
            ended.assert_failed(&format!("data.mdb is cut off, it has {length} bytes and should have"));
            assert!(ended.err.contains("backup") && !ended.err.contains("export"), "{}", ended.err);
        }
        assert_eq!(fs::metadata(place.path(FILE)).unwrap().len(), length as u64, "nothing was written");
    }
    fs::write(place.path(FILE), &whole[..100]).unwrap();
    place.run(&["export"]).assert_failed("is not an LMDB file");
    fs::write(place.path(FILE), "").unwrap();
    place.run(&["export"]).assert_failed("there is no database in");
    fs::write(place.path(FILE), whole).unwrap();
    assert_eq!(place.run(&["verify"]).code, 0);
}

#[test]
fn a_lost_page_costs_what_stood_on_it() {
    const PAGE: usize = 4096;
    let place = stored(120);
    let whole = fs::read(place.path(FILE)).unwrap();
    let (mut unharmed, mut saved, mut beyond_help, mut told) = (0, 0, 0, 0);
    for page in 0..whole.len() / PAGE {
        let mut bytes = whole.clone();
        bytes[page * PAGE..][..PAGE].fill(0);
        fs::write(place.path(FILE), bytes).unwrap();
        let ended = place.run(&["export", "--as-stored"]);
        let count = ended.out.lines().count();
        match ended.code {
            0 => {
                assert_eq!(count, 120, "page {page}: {}", ended.err);
                unharmed += 1;
            }
            2 if count >= 60 => saved += 1,
            2 => assert!(count == 0 && ended.err.contains("120 events"), "page {page}: {count} {}", ended.err),
            _ => {
                beyond_help += 1;
                ended.assert_failed("the database in ./ratite-data cannot be used: ");
                assert!(ended.err.contains("backup") && !ended.err.contains("ratite export"), "{}", ended.err);
            }
        }
        // Whoever looks closer is told of every page that is used.
        let ended = place.run(&["verify"]);
        assert!(ended.code == 1 || count == 120, "page {page}: {}{}", ended.out, ended.err);
        told += u32::from(ended.out.contains(&format!("page {page} of ")));
        // Indices that lead nowhere end in words as well.
        let ended = place.run(&["export"]);
        assert!([0, 1, 2].contains(&ended.code), "page {page}: {}", ended.err);
    }
    // Records take some pages; the roots are few.
    assert!(unharmed > 0 && saved > 3 && beyond_help < 6 && told > 10, "{unharmed} {saved} {beyond_help} {told}");
}
