//! The commented file that `ratite config` prints.

use super::problem::{ConfigError, Place, Problem};
use super::rules::Raw;
use super::settings::{Config, Effect, SECTIONS, variable};
use super::sources::Draft;

const WIDTH: usize = 100;

/// The whole default configuration as TOML: every setting with its meaning, its range and its default, commented out.
/// It is a valid file that changes nothing.
pub fn template() -> String {
    write(&Config::default(), &[])
}

/// The same file with these settings in force, given as "section.setting" and a value as an environment variable has it, and the
/// configuration that it stands for. Reports everything that is wrong with them, alone and together.
pub fn template_with(values: &[(&str, &str)]) -> Result<(String, Config), ConfigError> {
    let mut draft = Draft::default();
    let mut given = Vec::new();
    for (name, value) in values {
        let place = Place::Flag("--set");
        let known = name.split_once('.').and_then(|(section, setting)| {
            let section = SECTIONS.iter().find(|known| known.name == section)?;
            Some((section, section.settings.iter().find(|known| known.name == setting)?))
        });
        match known {
            Some((section, setting)) => {
                draft.set(section, setting, &Raw::Word(value), place);
                given.push((section.name, setting.name));
            }
            None => draft.problems.push(
                Problem::new(place, format!("there is no setting \"{name}\""))
                    .help("name it with its section, such as limits.max_limit; `ratite config` prints every setting"),
            ),
        }
    }
    draft.check_whole();
    match draft.problems.is_empty() {
        true => Ok((write(&draft.config, &given), draft.config)),
        false => Err(ConfigError { problems: draft.problems, warnings: draft.warnings }),
    }
}

/// The file with the settings that are `given` as `config` has them, and all others as comments.
fn write(config: &Config, given: &[(&str, &str)]) -> String {
    let example = variable("limits", "max_limit");
    let mut out = format!(
        "# The configuration of ratite. Every setting is listed with its default. To change one, remove the # in front\n\
         # of it. `ratite config check FILE` tells whether a file is right. A running relay takes a changed file up by itself\n\
         # within seconds, or at `ratite reload`, and says in its log what has changed.\n\
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
            out.push_str(match setting.effect {
                Effect::Now => "# A change is in force at once.\n",
                Effect::NewConnections => "# A change is in force for those who connect from then on.\n",
                Effect::Restart => "# A change needs a restart.\n",
            });
            match given.contains(&(section.name, setting.name)) {
                true => out.push_str(&format!("{} = {}\n", setting.name, (setting.show)(config))),
                false => out.push_str(&format!("#{} = {}\n", setting.name, (setting.show)(&defaults))),
            }
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
