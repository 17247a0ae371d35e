//! Filters and time ranges as they are given on the command line.

use clap::Args;
use serde_json::value::RawValue;

use super::failure::Failure;
use super::time;
use crate::nostr::Filter;

const EXAMPLE: &str = "A filter looks like this, in single quotes: '{\"kinds\":[1],\"authors\":[\"<64 hexadecimal digits>\"],\"limit\":10}'.";

/// Selects by time; added to every filter.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct TimeRange {
    /// Only events created at this time or later
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse)]
    pub(super) since: Option<u64>,
    /// Only events created at this time or earlier
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse)]
    pub(super) until: Option<u64>,
}

impl TimeRange {
    /// Whether nothing was given.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none() && self.until.is_none()
    }

    /// Narrows every filter to the range.
    pub(super) fn apply(&self, filters: &mut [Filter]) {
        for filter in filters {
            filter.since = filter.since.max(self.since);
            filter.until = match (filter.until, self.until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
}

/// Reads filters: each text is one JSON object or a list of them.
pub(super) fn parse(texts: &[String]) -> Result<Vec<Filter>, Failure> {
    let mut filters = Vec::new();
    for text in texts {
        let list: Vec<&RawValue> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(|error| bad_filter(text, &error.to_string()))?
        } else {
            Vec::new()
        };
        let objects = if list.is_empty() { vec![text.as_str()] } else { list.iter().map(|raw| raw.get()).collect() };
        for object in objects {
            let filter = Filter::parse(object.as_bytes()).map_err(|error| {
                let error = error.to_string();
                bad_filter(object, error.split_once(": ").map_or(error.as_str(), |(_, reason)| reason))
            })?;
            if filter.search.is_some() {
                // Taking it for a filter without search would select far too much.
                return Err(Failure::new(
                    "filters with \"search\" are not supported yet",
                    "Select by kinds, authors, tags or time instead.",
                ));
            }
            filters.push(filter);
        }
    }
    Ok(filters)
}

fn bad_filter(text: &str, reason: &str) -> Failure {
    const SHOWN: usize = 200;
    let cut: String = text.trim().chars().take(SHOWN).collect();
    let dots = if cut.len() < text.trim().len() { "…" } else { "" };
    let next = if text.contains('{') && text.contains(':') && !text.contains('"') {
        "The shell has eaten the double quotes; put single quotes around the whole filter: '{\"kinds\":[1]}'."
    } else {
        EXAMPLE
    };
    Failure::new(format!("this is not a filter: {reason}\n         {cut}{dots}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(text: &str) -> Result<Vec<Filter>, String> {
        parse(&[text.to_owned()]).map_err(|failure| match failure {
            Failure::Error { what, next } => format!("{what}\n{next}"),
            Failure::ClosedPipe => unreachable!(),
        })
    }

    #[test]
    fn an_object_or_a_list_of_objects() {
        assert_eq!(parse_one("{}").unwrap(), [Filter::default()]);
        assert_eq!(parse_one(" [ {} , {\"limit\":1} ]\n").unwrap().len(), 2);
        assert_eq!(parse(&["{}".to_owned(), "[{},{}]".to_owned()]).unwrap().len(), 3);
    }

    #[test]
    fn a_bad_filter_says_what_is_wrong_and_shows_an_example() {
        for (text, expected) in [
            ("{\"kinds\":\"1\"}", "kinds"),
            ("{\"author\":[]}", "author"),
            ("{\"kinds\":[1]", "malformed JSON"),
            ("[{\"kinds\":[1]}", "EOF"),
            ("[]", "a filter must be an object"),
            ("[5]", "a filter must be an object"),
            ("", "malformed JSON"),
            ("kind 1", "malformed JSON"),
        ] {
            let error = parse_one(text).unwrap_err();
            assert!(error.starts_with("this is not a filter: ") && error.contains(expected), "{text}: {error}");
            assert!(error.contains(EXAMPLE), "{text}: {error}");
        }
        assert!(parse_one("{kinds:[1]}").unwrap_err().contains("The shell has eaten the double quotes"));
    }

    #[test]
    fn a_search_is_refused_and_never_ignored() {
        assert!(parse_one("{\"search\":\"x\"}").unwrap_err().starts_with("filters with \"search\""));
    }

    #[test]
    fn a_time_range_only_narrows() {
        let mut filters = parse_one("[{\"since\":10,\"until\":20},{}]").unwrap();
        TimeRange { since: Some(5), until: Some(15) }.apply(&mut filters);
        assert_eq!((filters[0].since, filters[0].until), (Some(10), Some(15)));
        assert_eq!((filters[1].since, filters[1].until), (Some(5), Some(15)));
        TimeRange::default().apply(&mut filters);
        assert_eq!((filters[1].since, filters[1].until), (Some(5), Some(15)));
    }
}
