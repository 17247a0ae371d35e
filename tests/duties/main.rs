//! Duties of a relay that show only from outside, each test named after the lines it shows; and the list that no line is
//! without its test.

mod auth;
mod count;
mod end;
mod manage;
mod members;
mod nip01;
mod private;
mod publish;
mod switches;
#[path = "../wire/mod.rs"]
mod wire;

use std::collections::BTreeSet;
use std::path::Path;

use ratite::nostr::Event;
use serde_json::Value;
use wire::{Socket, TestRelay, http};

/// Publishes and returns what OK says: accepted or not, and the words.
fn publish(socket: &mut Socket, event: &Event) -> (bool, String) {
    socket.publish(event);
    let ok = socket.hears("OK", &event.id.to_string());
    (ok[2].as_bool().expect("a boolean"), ok[3].as_str().expect("a text").to_owned())
}

/// Asks and returns the ids of the stored events, in the order they came.
fn ask(socket: &mut Socket, id: &str, filters: &str) -> Vec<String> {
    socket.say(&format!("[\"REQ\",\"{id}\",{filters}]"));
    let mut ids = Vec::new();
    loop {
        let message = socket.hear();
        assert_eq!(message[1], id, "{message}");
        match message[0].as_str() {
            Some("EVENT") => ids.push(message[2]["id"].as_str().expect("an id").to_owned()),
            Some("EOSE") => return ids,
            _ => panic!("{message}"),
        }
    }
}

/// The information document (NIP-11).
fn document(relay: &TestRelay) -> Value {
    let answer = http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

fn id(event: &Event) -> String {
    event.id.to_string()
}

/// The sections of the protocol digest that this relay answers for, and how many lines each has. The lines of section 23, hostile input,
/// have tables of their own in `tests/hostile`.
const SECTIONS: &[(&str, u32)] = &[
    ("ws", 17),
    ("n01_", 85),
    ("n02_", 1),
    ("n04_", 2),
    ("n05_", 2),
    ("n09_", 18),
    ("n11_", 18),
    ("n12_", 1),
    ("n13_", 4),
    ("n17_", 13),
    ("n59_", 6),
    ("n40_", 8),
    ("n42_", 16),
    ("n43_", 11),
    ("n45_", 7),
    ("hll_", 9),
    ("n62_", 12),
    ("n67_", 5),
    ("n70_", 7),
    ("n86_", 9),
    ("n98_", 9),
];

/// Lines that no test shows, or will not before what they are about is there, and why. A line such as `n01_03_to_n01_05` stands for
/// all between.
const WITHOUT: &[(&str, &str)] = &[
    ("n05_02", "a relay may take only events of those whose names it can verify; this one has no such policy"),
    ("n67_04", "what would include all events of the boundary second; a limit is a limit here"),
    ("n86_04", "methods beside the NIP's: they are listed like the others"),
    ("n11_15", "fees: a relay that takes no payments says nothing of them"),
    ("n17_13", "what is inside a gift wrap is invisible to a relay"),
    ("n59_03", "a relay may refuse gift wraps as a whole; this one has no such switch"),
    ("n59_04", "a relay may ask for work on gift wraps; this one asks for it on all events or on none"),
];

/// Where a line is shown by tests that are not named after it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ws04", "h195_to_h199_invalid_utf8"),
    // Lives with deletions in them, killed fifty times, end in the state that the model says.
    ("n09_15", "what_was_acknowledged_survives_kill_9"),
    ("n11_01", "h212_information_document"),
    ("n11_02", "h214_cors_preflight"),
    ("n11_04", "h212_information_document"),
    ("n01_02", "unknown_paths_are_404"),
    ("n01_04", "ids"),
    ("n01_06", "escape_table"),
    ("n01_07", "escape_table"),
    ("ws02", "unknown_paths_are_404"),
    ("ws03", "h187_unmasked_client_frame"),
    ("ws05", "h184_ping_between_fragments"),
    ("ws06", "h200_binary_frame"),
    ("ws07", "h204_message_at_and_above_the_limit"),
    ("ws08", "h205_to_h207_bad_close_frames"),
    // Idle clients are kept while pongs arrive.
    ("ws10", "ws09_one_who_answers_pings_stays"),
    ("ws12", "h222"),
    ("ws13", "h241_too_many_connections_get_429"),
    ("ws14", "h242_one_who_never_reads_is_closed_and_others_are_not_delayed"),
    ("ws15", "h240_pipelined_bytes_are_the_first_frames"),
];

/// How many digits the number of a line has.
const DIGITS: usize = 2;

/// Every line of the digest's sections has a test, or a reason why it has none.
#[test]
fn no_duty_is_without_its_test() {
    let names = tests_of_this_repository();
    let is_shown = |section: &str, number: u32| {
        let line = format!("{section}{number:0width$}", width = DIGITS);
        let elsewhere = ELSEWHERE.iter().find(|(own, _)| *own == line);
        names.iter().any(|name| covers(name, section, number))
            || elsewhere.is_some_and(|(_, test)| names.iter().any(|name| name.contains(test)))
            || WITHOUT.iter().any(|(own, _)| covers(own, section, number))
    };
    let missing: Vec<String> = SECTIONS
        .iter()
        .flat_map(|(section, lines)| (1..=*lines).map(move |number| (section, number)))
        .filter(|(section, number)| !is_shown(section, *number))
        .map(|(section, number)| format!("{section}{number:0width$}", width = DIGITS))
        .collect();
    assert!(missing.is_empty(), "no test shows {missing:?}");
}

/// Whether a test's name says that it shows this line: `n01_44_n01_48_…`, `n01_13_and_14_…` and `n11_05_to_n11_08_…` name several.
fn covers(name: &str, section: &str, number: u32) -> bool {
    let (short, width) = (section.trim_end_matches('_'), DIGITS);
    let lines: Vec<(usize, u32)> = name
        .match_indices(section)
        .filter_map(|(at, _)| Some((at, name.get(at + section.len()..at + section.len() + width)?.parse().ok()?)))
        .collect();
    let range = lines.windows(2).any(|pair| {
        let between = &name[pair[0].0 + section.len() + width..pair[1].0];
        between == "_to_" && (pair[0].1..=pair[1].1).contains(&number)
    });
    lines.iter().any(|(_, line)| *line == number)
        || range
        || name.starts_with(short) && name.contains(&format!("_and_{number:02}_"))
}

/// The names of all tests of this crate.
fn tests_of_this_repository() -> BTreeSet<String> {
    fn functions(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                functions(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let tests = text.split("#[test]").skip(1).filter_map(|part| part.split("fn ").nth(1));
                names.extend(tests.filter_map(|part| part.split('(').next()).map(str::to_owned));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    functions(&root.join("tests"), &mut names);
    functions(&root.join("src"), &mut names);
    names
}
