//! What must hold for every configuration file.

use std::path::Path;

use super::sources::Draft;
use super::{Problem, file, settings};

/// A file is right, or every problem is told with its line; and what is right can be shown and read again.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut draft = Draft::default();
    file::read(Path::new("relay.toml"), text, &mut draft);
    draft.check_whole();
    let lines = text.split('\n').count();
    for problem in draft.problems.iter().chain(&draft.warnings) {
        assert!(Problem::line(problem) <= lines, "{problem}");
        assert!(!problem.to_string().is_empty() && !problem.message.is_empty());
    }
    if !draft.problems.is_empty() {
        return;
    }
    let mut shown = String::new();
    for section in settings::SECTIONS {
        shown.push_str(&format!("[{}]\n", section.name));
        for setting in section.settings {
            shown.push_str(&format!("{} = {}\n", setting.name, (setting.show)(&draft.config)));
        }
    }
    let mut again = Draft::default();
    file::read(Path::new("shown.toml"), &shown, &mut again);
    again.check_whole();
    let problems: Vec<String> = again.problems.iter().map(Problem::to_string).collect();
    assert_eq!(problems, [""; 0], "{shown}");
    assert_eq!(again.config, draft.config);
}
