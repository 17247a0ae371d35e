//! Filters of REQ and COUNT (NIP-01): parsed strictly, kept sorted, matched against any event.

use std::fmt;
use std::ops::ControlFlow;

use super::event::EventFields;
use super::id::{EventId, PublicKey, decode_hex};
use super::json::{self, Integer, JsonError, Scanner, write_hex, write_number, write_string};
use super::kind::Kind;
use super::tag::{TagName, TagRef, TagValue};

/// What a client asks for: every given field must match, any value of a list suffices (N01-50).
///
/// Every list is sorted and holds nothing twice, and so is `tags` by name; [`Filter::matches`] relies on
/// it. [`Filter::parse`] sees to that; call [`Filter::normalize`] after building one by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Event ids.
    pub ids: Option<Vec<EventId>>,
    /// Authors.
    pub authors: Option<Vec<PublicKey>>,
    /// Kinds.
    pub kinds: Option<Vec<Kind>>,
    /// For each letter, values of which the event must have one in a tag of that name.
    pub tags: Vec<(TagName, Vec<TagValue>)>,
    /// Unix seconds, inclusive.
    pub since: Option<u64>,
    /// Unix seconds, inclusive.
    pub until: Option<u64>,
    /// How many stored events are wanted; live events do not count (N01-57).
    pub limit: Option<u64>,
    /// Full-text search (NIP-50).
    pub search: Option<Box<str>>,
}

/// What is wrong with a filter. Displays as the reason of a CLOSED, prefix included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// A field is malformed.
    Invalid(String),
    /// The filter asks for something that this relay does not know.
    Unsupported(String),
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterError::Invalid(what) => write!(f, "invalid: {what}"),
            FilterError::Unsupported(what) => write!(f, "unsupported: {what}"),
        }
    }
}

impl std::error::Error for FilterError {}

impl From<JsonError> for FilterError {
    fn from(error: JsonError) -> Self {
        FilterError::Invalid(error.to_string())
    }
}

/// Times and limits beyond this are the same as this (N01-55, N01-57).
const MAX_INTEGER: u64 = i64::MAX as u64;

/// How much of a client's text an error repeats, in characters.
const QUOTED: usize = 64;

impl Filter {
    /// Parses one filter object. JSON whitespace around it is allowed, nothing else is.
    pub fn parse(json: &[u8]) -> Result<Filter, FilterError> {
        let mut scanner = Scanner::new(json::utf8(json)?);
        let filter = json::with_scratch(|scratch| Filter::scan(&mut scanner, scratch))?;
        scanner.end()?;
        Ok(filter)
    }

    /// Reads the filter object that starts at the scanner's position. `scratch` is overwritten.
    pub(crate) fn scan(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<Filter, FilterError> {
        if !scanner.enter_object()? {
            scanner.expect_value()?;
            return Err(FilterError::Invalid("a filter must be an object".into()));
        }
        let mut filter = scan_members(scanner, scratch)?;
        filter.normalize();
        Ok(filter)
    }

    /// Sorts every list and drops repeated values.
    pub fn normalize(&mut self) {
        fn sort<T: Ord>(list: &mut Vec<T>) {
            list.sort_unstable();
            list.dedup();
            // A subscription holds its lists for hours.
            list.shrink_to_fit();
        }
        self.ids.as_mut().map(sort);
        self.authors.as_mut().map(sort);
        self.kinds.as_mut().map(sort);
        self.tags.iter_mut().for_each(|(_, values)| sort(values));
        // Two entries of one letter are two conditions, so only equal ones may go.
        sort(&mut self.tags);
    }

    /// Bytes that it takes in memory, its lists included.
    pub fn memory(&self) -> usize {
        fn list<T>(list: &Option<Vec<T>>) -> usize {
            list.as_ref().map_or(0, |list| list.capacity() * size_of::<T>())
        }
        let values = self.tags.iter().flat_map(|(_, values)| {
            values.iter().map(|value| match value {
                TagValue::Hex(_) => size_of::<TagValue>(),
                // The allocator gives at least 16 bytes.
                TagValue::Text(text) => size_of::<TagValue>() + text.len().next_multiple_of(16),
            })
        });
        size_of::<Filter>()
            + list(&self.ids)
            + list(&self.authors)
            + list(&self.kinds)
            + self.tags.capacity() * size_of::<(TagName, Vec<TagValue>)>()
            + values.sum::<usize>()
            + self.search.as_ref().map_or(0, |text| text.len())
    }

    /// True when no event can match: an empty list (N01-52) or `since` after `until` (N01-56). A limit of
    /// 0 is not impossible, because live events still match.
    pub fn is_impossible(&self) -> bool {
        self.ids.as_ref().is_some_and(Vec::is_empty)
            || self.authors.as_ref().is_some_and(Vec::is_empty)
            || self.kinds.as_ref().is_some_and(Vec::is_empty)
            || self.tags.iter().any(|(_, values)| values.is_empty())
            || self.since.is_some_and(|since| self.until.is_some_and(|until| since > until))
    }

    /// Whether the event fits everything but `limit` and `search`.
    pub fn matches(&self, event: &impl EventFields) -> bool {
        let created_at = event.created_at();
        self.since.is_none_or(|since| since <= created_at)
            && self.until.is_none_or(|until| created_at <= until)
            && in_list(&self.kinds, || event.kind())
            && in_list(&self.authors, || event.pubkey())
            && in_list(&self.ids, || event.id())
            && self.matches_tags(event)
    }

    fn matches_tags(&self, event: &impl EventFields) -> bool {
        // One walk over the event's tags ticks off the conditions, 64 at a time. A parsed filter has at
        // most 52, one for each letter, so there is one round.
        self.tags.chunks(64).all(|conditions| {
            let mut open = u64::MAX >> (64 - conditions.len());
            let _ = event.visit_indexed_tags(|name, value| {
                for (i, (wanted, values)) in conditions.iter().enumerate() {
                    if *wanted == name && open & 1 << i != 0 && contains(values, &value) {
                        open &= !(1 << i);
                    }
                }
                if open == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            open == 0
        })
    }

    /// Appends the filter as JSON: fields that are set, in a fixed order, no whitespace.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len();
        let name = |out: &mut Vec<u8>, name: &str| {
            if out.len() > start {
                out.push(b',');
            }
            write_string(out, name);
            out.push(b':');
        };
        if let Some(ids) = &self.ids {
            name(out, "ids");
            write_list(out, ids, |out, id| write_quoted_hex(out, &id.0));
        }
        if let Some(authors) = &self.authors {
            name(out, "authors");
            write_list(out, authors, |out, author| write_quoted_hex(out, &author.0));
        }
        if let Some(kinds) = &self.kinds {
            name(out, "kinds");
            write_list(out, kinds, |out, kind| write_number(out, kind.0.into()));
        }
        for (letter, values) in &self.tags {
            name(out, &format!("#{letter}"));
            write_list(out, values, |out, value| match value {
                TagValue::Hex(bytes) => write_quoted_hex(out, bytes),
                TagValue::Text(text) => write_string(out, text),
            });
        }
        for (key, value) in [("since", self.since), ("until", self.until), ("limit", self.limit)] {
            if let Some(value) = value {
                name(out, key);
                write_number(out, value);
            }
        }
        if let Some(search) = &self.search {
            name(out, "search");
            write_string(out, search);
        }
        out.push(b'}');
    }
}

fn in_list<T: Ord>(list: &Option<Vec<T>>, value: impl FnOnce() -> T) -> bool {
    list.as_ref().is_none_or(|list| match list.as_slice() {
        [one] => *one == value(),
        many => many.binary_search(&value()).is_ok(),
    })
}

#[inline]
fn contains(values: &[TagValue], value: &TagRef<'_>) -> bool {
    if let [one] = values {
        return value == one;
    }
    values.binary_search_by(|candidate| value.cmp_value(candidate).reverse()).is_ok()
}

fn write_list<T>(out: &mut Vec<u8>, list: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_quoted_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    write_hex(out, bytes);
    out.push(b'"');
}

/// A member that a filter may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Ids,
    Authors,
    Kinds,
    Tag(TagName),
    Since,
    Until,
    Limit,
    Search,
}

impl Key {
    /// `#` with anything but one ASCII letter is as unknown as any other name (N01-54).
    fn new(name: &str) -> Option<Self> {
        Some(match name {
            "ids" => Key::Ids,
            "authors" => Key::Authors,
            "kinds" => Key::Kinds,
            "since" => Key::Since,
            "until" => Key::Until,
            "limit" => Key::Limit,
            "search" => Key::Search,
            _ => Key::Tag(TagName::new(name.strip_prefix('#')?)?),
        })
    }

    /// Whether the filter has this member already.
    fn is_set(self, filter: &Filter) -> bool {
        match self {
            Key::Ids => filter.ids.is_some(),
            Key::Authors => filter.authors.is_some(),
            Key::Kinds => filter.kinds.is_some(),
            Key::Tag(name) => filter.tags.iter().any(|(other, _)| *other == name),
            Key::Since => filter.since.is_some(),
            Key::Until => filter.until.is_some(),
            Key::Limit => filter.limit.is_some(),
            Key::Search => filter.search.is_some(),
        }
    }

    /// The values of `#e` and `#p` are event ids and public keys, not free text (N01-51).
    fn is_hex(self) -> bool {
        matches!(self, Key::Ids | Key::Authors | Key::Tag(TagName::E | TagName::P))
    }

    /// The error of a value that is not what this member holds.
    fn invalid(self) -> FilterError {
        let expected = match self {
            _ if self.is_hex() => "a list of strings of 64 lower-case hexadecimal digits",
            Key::Kinds => "a list of integers between 0 and 65535",
            Key::Since | Key::Until => "an integer",
            Key::Limit => "an integer not below 0",
            Key::Search => "a string",
            _ => "a list of strings",
        };
        FilterError::Invalid(format!("{self} must be {expected}"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Ids => f.write_str("ids"),
            Key::Authors => f.write_str("authors"),
            Key::Kinds => f.write_str("kinds"),
            Key::Tag(name) => write!(f, "#{name}"),
            Key::Since => f.write_str("since"),
            Key::Until => f.write_str("until"),
            Key::Limit => f.write_str("limit"),
            Key::Search => f.write_str("search"),
        }
    }
}

/// Reads the members of a filter object that has been entered.
fn scan_members(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<Filter, FilterError> {
    let mut filter = Filter::default();
    let mut first = true;
    while let Some(name) = scanner.next_member(&mut first, scratch)? {
        let Some(key) = Key::new(name) else {
            let name: String = name.chars().take(QUOTED).collect();
            return Err(FilterError::Unsupported(format!("filter contains the unknown element \"{name}\"")));
        };
        if key.is_set(&filter) {
            return Err(FilterError::Invalid(format!("{key} occurs twice")));
        }
        match key {
            Key::Ids => {
                filter.ids = Some(scan_strings(scanner, scratch, key, EventId::from_hex)?);
            }
            Key::Authors => {
                filter.authors = Some(scan_strings(scanner, scratch, key, PublicKey::from_hex)?);
            }
            Key::Kinds => {
                filter.kinds = Some(scan_list(scanner, key, |scanner| {
                    let number = scanner.digits()?;
                    Ok(number.and_then(|number| u16::try_from(number).ok()).map(Kind))
                })?);
            }
            Key::Tag(name) if key.is_hex() => {
                let values = scan_strings(scanner, scratch, key, |value| decode_hex(value).map(TagValue::Hex))?;
                filter.tags.push((name, values));
            }
            Key::Tag(name) => {
                let values = scan_strings(scanner, scratch, key, |value| Some(TagValue::new(value)))?;
                filter.tags.push((name, values));
            }
            Key::Since => filter.since = Some(scan_integer(scanner, key, true)?),
            Key::Until => filter.until = Some(scan_integer(scanner, key, true)?),
            Key::Limit => filter.limit = Some(scan_integer(scanner, key, false)?),
            Key::Search => {
                if scanner.peek() != Some(b'"') {
                    return Err(key.invalid());
                }
                filter.search = Some(scanner.string(scratch)?.into());
            }
        }
    }
    Ok(filter)
}

/// Reads a list. `item` is called where a value starts; `None` is a value of the wrong sort.
fn scan_list<'a, T>(
    scanner: &mut Scanner<'a>,
    key: Key,
    mut item: impl FnMut(&mut Scanner<'a>) -> Result<Option<T>, JsonError>,
) -> Result<Vec<T>, FilterError> {
    if !scanner.enter_array()? {
        return Err(key.invalid());
    }
    let mut list = Vec::new();
    let mut first = true;
    while scanner.next_element(&mut first)? {
        list.push(item(scanner)?.ok_or_else(|| key.invalid())?);
    }
    Ok(list)
}

fn scan_strings<T>(
    scanner: &mut Scanner<'_>,
    scratch: &mut String,
    key: Key,
    convert: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, FilterError> {
    scan_list(scanner, key, |scanner| match scanner.peek() {
        Some(b'"') => Ok(convert(scanner.string(scratch)?)),
        _ => Ok(None),
    })
}

/// Reads an integer and clamps it. Below 0 it is 0 when `negative` is allowed (N01-55), else an error.
fn scan_integer(scanner: &mut Scanner<'_>, key: Key, negative: bool) -> Result<u64, FilterError> {
    match scanner.integer()? {
        Some(Integer { negative: true, .. }) if negative => Ok(0),
        Some(Integer { negative: false, magnitude }) => Ok(magnitude.min(MAX_INTEGER)),
        _ => Err(key.invalid()),
    }
}
