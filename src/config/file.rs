//! Reads settings from TOML text: every problem with its line, unknown names with the nearest known one.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, nearest};
use super::rules::Raw;
use super::settings::SECTIONS;
use super::sources::Draft;

/// Puts every setting of the text into the draft.
pub(super) fn read(path: &Path, text: &str, draft: &mut Draft) {
    let mut reader = Reader { path, text, broken: BTreeSet::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = reader.line(error.span());
        // What else is wrong with a broken line follows from the first fault more often than not.
        if reader.broken.insert(line) {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            draft.problems.push(Problem::new(reader.place_of_line(line), format!("this is not TOML: {message}")));
        }
    }
    for (name, value) in table.get_ref() {
        reader.section(name, value, draft);
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    /// The lines that are not TOML. The parser goes on behind them, so that the rest can be checked; but what it guessed about them,
    /// and about where sections begin, is not.
    broken: BTreeSet<usize>,
}

impl Reader<'_> {
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn place_of_line(&self, line: usize) -> Place {
        Place::File { path: self.path.to_owned(), line }
    }

    /// Whether some of what these spans enclose stands on a broken line. What was guessed may lie before its own name.
    fn is_guessed(&self, key: &Range<usize>, value: &Range<usize>) -> bool {
        if self.broken.is_empty() {
            return false;
        }
        let lines = [key.start, key.end, value.start, value.end].map(|at| self.line(Some(at..at)));
        let (first, last) =
            lines.iter().fold((usize::MAX, 0), |(first, last), line| (first.min(*line), last.max(*line)));
        self.broken.range(first..=last).next().is_some()
    }

    fn place(&self, span: Range<usize>) -> Place {
        self.place_of_line(self.line(Some(span)))
    }

    fn section(&self, name: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>, draft: &mut Draft) {
        let known = SECTIONS.iter().any(|section| section.name == name.get_ref().as_ref());
        if !self.broken.is_empty() && (!known || !matches!(value.get_ref(), DeValue::Table(_))) {
            return;
        }
        let place = self.place(name.span());
        let name = name.get_ref().as_ref();
        let Some(section) = SECTIONS.iter().find(|section| section.name == name) else {
            let problem = if matches!(value.get_ref(), DeValue::Table(_)) {
                let sections = SECTIONS.iter().map(|section| section.name);
                Problem::new(place, format!("there is no section [{name}]")).help(match nearest(name, sections) {
                    Some(near) => format!("did you mean [{near}]?"),
                    None => known_sections(),
                })
            } else {
                let problem = Problem::new(place, format!("the setting \"{name}\" stands outside of any section"));
                match homes(name).first() {
                    Some(home) => problem.help(format!("put it below a line that says [{home}]")),
                    None => problem.help(known_sections()),
                }
            };
            draft.problems.push(problem);
            return;
        };
        let DeValue::Table(table) = value.get_ref() else {
            draft.problems.push(
                Problem::new(place, format!("\"{name}\" is a section, not a setting"))
                    .help(format!("write [{name}] once on a line of its own, with its settings below")),
            );
            return;
        };
        for (key, value) in table {
            if self.is_guessed(&key.span(), &value.span()) {
                continue;
            }
            let place = self.place(key.span());
            let key = key.get_ref().as_ref();
            let Some(setting) = section.settings.iter().find(|setting| setting.name == key) else {
                draft.problems.push(unknown_setting(place, section.name, key));
                continue;
            };
            // The value may begin on a later line than its name only inside a list; the name is what people look for.
            draft.set(section, setting, &Raw::Toml(value.get_ref()), place);
        }
    }
}

/// The problem of a name that `section` does not have, with the nearest name it could have been.
fn unknown_setting(place: Place, section: &str, key: &str) -> Problem {
    let problem = Problem::new(place, format!("[{section}] has no setting \"{key}\""));
    if let Some(home) = homes(key).first() {
        return problem.help(format!("it belongs to [{home}]"));
    }
    let here = SECTIONS.iter().filter(|s| s.name == section).flat_map(|s| s.settings).map(|s| s.name);
    if let Some(near) = nearest(key, here) {
        return problem.help(format!("did you mean \"{near}\"?"));
    }
    let everywhere = SECTIONS.iter().flat_map(|s| s.settings).map(|s| s.name);
    match nearest(key, everywhere) {
        Some(near) => problem.help(format!("did you mean \"{near}\" of [{}]?", homes(near).join("], ["))),
        None => problem.help("`ratite config` prints every setting"),
    }
}

/// The sections that have a setting of this name.
fn homes(key: &str) -> Vec<&'static str> {
    SECTIONS.iter().filter(|s| s.settings.iter().any(|setting| setting.name == key)).map(|s| s.name).collect()
}

fn known_sections() -> String {
    let names: Vec<String> = SECTIONS.iter().map(|section| format!("[{}]", section.name)).collect();
    format!("the sections are {}", names.join(", "))
}
