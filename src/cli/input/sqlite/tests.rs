//! The reader against databases that SQLite wrote (`tests/cli/sqlite/make.py`), whole and broken.

use super::*;

const EVENTS: &str = include_str!("../../../../tests/cli/sqlite/events.jsonl");
const RELAY: &[u8] = include_bytes!("../../../../tests/cli/sqlite/relay.db");
const LOG: &[u8] = include_bytes!("../../../../tests/cli/sqlite/relay.db-wal");
const STORE: &[u8] = include_bytes!("../../../../tests/cli/sqlite/store.db");

/// A frame of the log: a page of 512 bytes and what stands before it.
const FRAME: usize = 24 + 512;

/// The lines of the numbers, blank for those that are hidden.
fn lines(count: usize, hidden: &[usize]) -> String {
    let line = |(n, line): (usize, &str)| if hidden.contains(&n) { "\n".to_owned() } else { format!("{line}\n") };
    EVENTS.lines().take(count).enumerate().map(line).collect()
}

/// The text, which must come without a fault.
fn text(file: &[u8], log: Option<&[u8]>) -> String {
    let (text, _, fault) = read_all(file.to_vec(), log.map(<[u8]>::to_vec));
    assert_eq!(fault, None);
    String::from_utf8(text).unwrap()
}

fn fault(file: &[u8], log: Option<&[u8]>) -> String {
    read_all(file.to_vec(), log.map(<[u8]>::to_vec)).2.expect("a fault")
}

#[test]
fn what_is_committed_is_read_from_the_file_and_from_its_log() {
    assert_eq!(text(RELAY, None), lines(20, &[3]));
    assert_eq!(text(RELAY, Some(LOG)), lines(27, &[3, 8]));
    assert_eq!(read_all(RELAY.to_vec(), Some(LOG.to_vec())).1, 2, "hidden");
}

#[test]
fn a_column_for_each_field_makes_the_same_events() {
    let found = text(STORE, None);
    let parse = |text: &str| -> Vec<crate::nostr::Event> {
        text.lines().map(|line| crate::nostr::Event::parse(line.as_bytes()).unwrap()).collect()
    };
    assert_eq!(parse(&found), parse(EVENTS));
}

#[test]
fn of_a_log_that_breaks_off_or_is_damaged_counts_what_was_committed_before() {
    let (before, after) = (lines(20, &[3]), lines(27, &[3, 8]));
    let mut found = Vec::new();
    for length in (0..LOG.len()).step_by(97).chain([LOG.len()]) {
        found.push(text(RELAY, Some(&LOG[..length])) == after);
        assert!(found[found.len() - 1] || text(RELAY, Some(&LOG[..length])) == before, "{length}");
    }
    // First the one, then the other.
    assert!(found.is_sorted() && !found[0] && found[found.len() - 1]);
    let frames = (LOG.len() - 32) / FRAME;
    let committed = (0..frames).rposition(|n| LOG[32 + n * FRAME + 4..32 + n * FRAME + 8] != [0; 4]).unwrap();
    assert!(committed > 0 && committed < frames - 1, "pages of a transaction that was never committed follow");
    for frame in 0..frames {
        for at in [0, 7, 12, 20, 24, 300] {
            let mut log = LOG.to_vec();
            log[32 + frame * FRAME + at] ^= 4;
            let expected = if frame <= committed { &before } else { &after };
            assert_eq!(&text(RELAY, Some(&log)), expected, "frame {frame}, byte {at}");
        }
    }
    let mut log = LOG.to_vec();
    log[17] ^= 1;
    assert_eq!(text(RELAY, Some(&log)), before, "salts of another log");
}

#[test]
fn what_is_no_database_of_events_is_called_what_it_is() {
    for length in [50, 100, 512, 20_000] {
        assert_eq!(fault(&RELAY[..length], None), "it is cut off", "{length}");
    }
    let with = |at: usize, byte: u8| {
        let mut file = RELAY.to_vec();
        file[at] = byte;
        fault(&file, None)
    };
    assert_eq!(with(59, 2), "its text is in UTF-16");
    assert_eq!(with(19, 3), "it was written by a version of SQLite that is not known here");
    assert_eq!(with(17, 3), "its header is not one");
    assert_eq!(with(100, 2), "page 1 is not one of a table");
    let mut file = RELAY.to_vec();
    let name = (0..file.len()).find(|at| file[*at..].starts_with(b"tableeventevent")).unwrap() + "table".len();
    file[name] = b'E';
    assert_eq!(text(&file, None), lines(20, &[3]), "names have no case");
    file[name] = b'p';
    assert_eq!(fault(&file, None), "it is an SQLite database without a table \"event\"");
}

#[test]
fn what_stands_before_damage_is_read() {
    let all = lines(20, &[3]);
    let mut lengths = std::collections::BTreeSet::new();
    for page in (1..RELAY.len() / 512).filter(|page| RELAY[page * 512] == 13) {
        let mut file = RELAY.to_vec();
        file[page * 512] = 99;
        let (text, _, fault) = read_all(file, None);
        let text = String::from_utf8(text).unwrap();
        assert!(all.starts_with(&text) && (text.is_empty() || text.ends_with('\n')), "{text}");
        // Pages of other tables are not looked at.
        let expected = (text != all).then(|| format!("page {} is not one of a table", page + 1));
        assert_eq!(fault, expected);
        lengths.insert(text.len());
    }
    assert!(lengths.len() > 3, "{lengths:?}");
}

#[test]
fn pages_that_go_round_in_circles_end() {
    let inner: Vec<usize> = (1..RELAY.len() / 512).filter(|page| RELAY[page * 512] == 5).collect();
    assert!(!inner.is_empty());
    for page in &inner {
        for to in &inner {
            let mut file = RELAY.to_vec();
            file[page * 512 + 8..page * 512 + 12].copy_from_slice(&(*to as u32 + 1).to_be_bytes());
            let (text, _, fault) = read_all(file, None);
            let known = ["its pages go round in circles", "a table is too deep"];
            assert!(fault.is_none_or(|fault| known.contains(&fault.as_str())), "{page} leads to {to}");
            assert!(text.len() <= RELAY.len());
        }
    }
}
