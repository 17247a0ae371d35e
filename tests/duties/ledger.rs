//! The list of all duties: each line of the protocol digest has a test that names it, or a reason why it has none.

use std::collections::BTreeSet;
use std::path::Path;

/// The sections of the protocol digest, and how many lines each has. The lines of section 23, hostile input,
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
    ("pfx_", 1),
    ("n22_", 1),
    ("n26_", 1),
    ("n28_", 1),
    ("n29_", 26),
    ("n32_", 1),
    ("n37_", 1),
    ("n46_", 1),
    ("n47_", 2),
    ("n50_", 9),
    ("n51_", 1),
    ("n56_", 1),
    ("n57_", 1),
    ("n64_", 1),
    ("n65_", 2),
    ("n66_", 2),
    ("n69_", 1),
    ("n77_", 16),
    ("n78_", 1),
    ("nb7_", 1),
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
    ("n29_01_to_n29_26", "relay groups are not there yet, and 29 is not listed"),
    ("n37_01", "this is no storage for private drafts; they are ciphertext, and served as any event"),
    ("n50_01_to_n50_05", "search is not there yet, and 50 is not listed; a question with it is refused (n50_06)"),
    ("n50_07_to_n50_09", "search is not there yet"),
    ("n64_01", "a relay may refuse chess games that are none; this one reads no content"),
    ("n77_01_to_n77_16", "negentropy is not there yet, and 77 is not listed; its verbs are unknown ones"),
    ("n78_01", "there is no duty: data of applications are ordinary events"),
    ("nb7_01", "there is no duty: lists of servers are ordinary events, and no files are served here"),
    ("n59_04", "a relay may ask for work on gift wraps; this one asks for it on all events or on none"),
];

/// Where a line is shown by tests that are not named after it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ws04", "h182_to_h210_frames"),
    // Lives with deletions in them, killed fifty times, end in the state that the model says.
    ("n09_15", "what_was_acknowledged_survives_kill_9"),
    ("n11_01", "h212_information_document"),
    ("n11_02", "h214_cors_preflight"),
    ("n11_04", "h212_information_document"),
    ("n01_02", "unknown_paths_are_404"),
    ("n01_04", "ids"),
    ("n01_06", "escape_table"),
    ("n01_07", "escape_table"),
    ("ws01", "h212_to_h240_requests"),
    ("ws02", "unknown_paths_are_404"),
    ("ws03", "h182_to_h210_frames"),
    ("ws05", "h182_to_h210_frames"),
    ("ws06", "h182_to_h210_frames"),
    ("ws07", "h182_to_h210_frames"),
    ("ws08", "h182_to_h210_frames"),
    // Idle clients are kept while pongs arrive.
    ("ws10", "ws09_one_who_answers_pings_stays"),
    ("ws12", "h212_to_h240_requests"),
    ("ws13", "h241_too_many_connections_get_429"),
    ("ws14", "h242_one_who_never_reads_is_closed_and_others_are_not_delayed"),
    ("n28_01", "n01_43_kind_41_is_regular"),
    ("n47_02", "ws09_one_who_answers_pings_stays"),
    ("n65_01", "n17_11_lists_of_relays_are_for_everybody"),
    ("ws15", "h212_to_h240_requests"),
];

/// How many digits the number of a line has.
const DIGITS: usize = 2;

/// Every line of the digest has a test, or a reason why it has none.
#[test]
fn no_duty_is_without_its_test() {
    let names = tests_of_this_repository();
    let line = |section: &str, number: u32| format!("{section}{number:0width$}", width = DIGITS);
    let is_shown = |section: &str, number: u32| {
        let elsewhere = ELSEWHERE.iter().find(|(own, _)| *own == line(section, number));
        names.iter().any(|name| covers(name, section, number))
            || elsewhere.is_some_and(|(_, test)| names.iter().any(|name| name.contains(test)))
    };
    let is_excused = |section: &str, number: u32| WITHOUT.iter().any(|(own, _)| covers(own, section, number));
    let lines = || SECTIONS.iter().flat_map(|(section, lines)| (1..=*lines).map(move |number| (*section, number)));
    let found = |fits: &dyn Fn(&str, u32) -> bool| -> Vec<String> {
        lines()
            .filter(|(section, number)| fits(section, *number))
            .map(|(section, number)| line(section, number))
            .collect()
    };
    let missing = found(&|section, number| !is_shown(section, number) && !is_excused(section, number));
    assert!(missing.is_empty(), "no test shows {missing:?}");
    let needless = found(&|section, number| is_shown(section, number) && is_excused(section, number));
    assert!(needless.is_empty(), "tests show what has a reason not to be shown: {needless:?}");
    // So many lines has the digest beside those of hostile input.
    assert_eq!(lines().count(), 331);
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
