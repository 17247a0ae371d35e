//! Duties of a relay that show only from outside, each test named after the lines it shows; and the list that no line is
//! without its test.

mod auth;
mod nip01;
mod private;
#[path = "../wire/mod.rs"]
mod wire;

use std::collections::BTreeSet;
use std::path::Path;

use ratite::nostr::Event;
use wire::Socket;

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

fn id(event: &Event) -> String {
    event.id.to_string()
}

/// Where a line of sections 1 and 2 of the protocol digest is shown by tests that are not named after it, or by none.
const ELSEWHERE: [(&str, &str); 17] = [
    ("n01_02", "unknown_paths_are_404"),
    ("n01_04", "ids"),
    ("n01_06", "escape_table"),
    ("n01_07", "escape_table"),
    ("ws01", "n01_75"),
    ("ws02", "unknown_paths_are_404"),
    ("ws03", "h187_unmasked_client_frame"),
    ("ws05", "h184_ping_between_fragments"),
    ("ws06", "h200_binary_frame"),
    ("ws07", "h204_message_at_and_above_the_limit"),
    ("ws08", "h205_to_h207_bad_close_frames"),
    // Idle clients are kept while pongs arrive.
    ("ws10", "ws09_one_who_answers_pings_stays"),
    // Compression is not offered yet; what would need it is refused.
    ("ws11", "h210_compressed_frame_without_negotiation"),
    ("ws12", "h222"),
    // The digest allows a limit of connections; per address there is none yet.
    ("ws13", "a_full_relay_turns_websockets_away_with_503_and_recovers"),
    ("ws14", "h242_one_who_never_reads_is_closed_and_others_are_not_delayed"),
    ("ws15", "h240_pipelined_bytes_are_the_first_frames"),
];

/// Every line of the digest's sections 1 and 2 has a test.
#[test]
fn no_duty_of_nip_01_is_without_its_test() {
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
    let shown = |duty: &str| {
        // `n01_44_n01_48_…` and `n01_13_and_14_…` name several.
        let (section, number) = duty.split_at(duty.len() - 2);
        let short = section.trim_end_matches('_');
        names.iter().any(|name| {
            name.contains(duty)
                || name.contains(&format!("{short}_{number}_"))
                || name.starts_with(short) && name.contains(&format!("_and_{number}_"))
        })
    };
    let duties = (1..=85).map(|n| format!("n01_{n:02}")).chain((1..=17).map(|n| format!("ws{n:02}")));
    let missing: Vec<String> = duties
        .filter(|duty| {
            let elsewhere = ELSEWHERE.iter().find(|(line, _)| line == duty);
            !shown(duty) && !elsewhere.is_some_and(|(_, test)| names.iter().any(|name| name.contains(test)))
        })
        .collect();
    assert!(missing.is_empty(), "no test shows {missing:?}");
}
