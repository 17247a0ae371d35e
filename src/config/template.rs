//! The commented default file that `ratite config` prints.

use super::settings::{Config, SECTIONS, variable};

const WIDTH: usize = 100;

/// The whole default configuration as TOML: every setting with its meaning, its range and its default, commented out.
/// It is a valid file that changes nothing.
pub fn template() -> String {
    let example = variable("limits", "max_limit");
    let mut out = format!(
        "# The configuration of ratite. Every setting is listed with its default. To change one, remove the # in front\n\
         # of it. `ratite config check FILE` tells whether a file is right.\n\
         #\n\
         # Each setting can also be given as an environment variable, which counts more than this file:\n\
         # {example}=1000 is max_limit of [limits]. Lists are separated by commas. An empty\n\
         # variable counts as not set.\n",
    );
    let defaults = Config::default();
    for section in SECTIONS {
        out.push('\n');
        for line in paragraph(section.doc) {
            out.push_str(&format!("# {line}\n"));
        }
        out.push_str(&format!("[{}]\n", section.name));
        for setting in section.settings {
            out.push('\n');
            for line in paragraph(setting.doc) {
                out.push_str(&format!("# {line}\n"));
            }
            for line in paragraph(&[&format!("Must be {}.", (setting.expects)())]) {
                out.push_str(&format!("# {line}\n"));
            }
            out.push_str(&format!("#{} = {}\n", setting.name, (setting.show)(&defaults)));
        }
    }
    out
}

/// Doc lines as one paragraph, broken into lines that fit.
fn paragraph(doc: &[&str]) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in doc.iter().flat_map(|line| line.split_whitespace()) {
        // There is always a last line: the list starts with one and only grows.
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
