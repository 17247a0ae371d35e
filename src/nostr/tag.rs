//! Tags of an event, stored flat, and tag values in the one form that indexes and filters compare.

use std::cmp::Ordering;
use std::fmt;

use super::id::decode_hex;

/// Marks the last element of a tag in [`Tags::ends`].
const LAST: u32 = 1 << 31;

/// The tags of one event: lists of strings, each with at least one element.
///
/// All strings lie behind one another in one buffer, so an event with a thousand tags costs two
/// allocations. Tags are read in order; there is no random access, because nothing needs it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tags {
    /// Every element of every tag, concatenated.
    text: String,
    /// Where each element ends in `text`; the top bit is set on the last element of a tag.
    ends: Vec<u32>,
    /// How many tags there are.
    len: u32,
}

impl Tags {
    /// No tags.
    pub const fn new() -> Self {
        Tags { text: String::new(), ends: Vec::new(), len: 0 }
    }

    /// The tags in order.
    pub fn iter(&self) -> impl Iterator<Item = Tag<'_>> + '_ {
        let mut ends = self.ends.as_slice();
        let mut start = 0;
        std::iter::from_fn(move || {
            let last = ends.iter().position(|end| end & LAST != 0)?;
            let (own, rest) = ends.split_at(last + 1);
            let tag = Tag { text: &self.text, start, ends: own };
            ends = rest;
            start = own[last] & !LAST;
            Some(tag)
        })
    }

    /// How many tags there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True when there is no tag.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes the elements of all tags have together.
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// How many elements all tags have together.
    pub fn element_count(&self) -> usize {
        self.ends.len()
    }

    /// Appends one tag. A tag without elements is not a tag and is not added; nor is one that would
    /// make all tags together longer than 2 GiB.
    pub fn push<S: AsRef<str>>(&mut self, values: impl IntoIterator<Item = S>) {
        let (text_len, ends_len) = (self.text.len(), self.ends.len());
        let mut builder = TagsBuilder { text: &mut self.text, ends: &mut self.ends, len: self.len };
        for value in values {
            builder.text.push_str(value.as_ref());
            if !builder.end_element() {
                self.text.truncate(text_len);
                self.ends.truncate(ends_len);
                return;
            }
        }
        if builder.end_tag() {
            self.len = builder.len;
        }
    }

    /// Copies tags that a parser gathered in buffers of its own, with exact allocations.
    pub(crate) fn from_buffers(text: &str, ends: &[u32], len: u32) -> Self {
        Tags { text: text.to_owned(), ends: ends.to_vec(), len }
    }
}

/// Appends tags to borrowed buffers in the layout of [`Tags`].
pub(crate) struct TagsBuilder<'b> {
    /// Elements go to the end of this; then call [`TagsBuilder::end_element`].
    pub(crate) text: &'b mut String,
    /// Where each element ends.
    pub(crate) ends: &'b mut Vec<u32>,
    /// How many tags are complete.
    pub(crate) len: u32,
}

impl TagsBuilder<'_> {
    /// Ends an element whose text has been appended. False when the text has grown beyond 2 GiB.
    #[must_use]
    pub(crate) fn end_element(&mut self) -> bool {
        match u32::try_from(self.text.len()) {
            Ok(end) if end < LAST => {
                self.ends.push(end);
                true
            }
            _ => false,
        }
    }

    /// Ends a tag after its last element. False when the tag has none.
    #[must_use]
    pub(crate) fn end_tag(&mut self) -> bool {
        match self.ends.last_mut() {
            Some(last) if *last & LAST == 0 => {
                *last |= LAST;
                // Tags of empty strings are not bounded by the 2 GiB of text; do not wrap even then.
                self.len = self.len.saturating_add(1);
                true
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>, T: IntoIterator<Item = S>> FromIterator<T> for Tags {
    fn from_iter<I: IntoIterator<Item = T>>(tags: I) -> Self {
        let mut all = Tags::new();
        for tag in tags {
            all.push(tag);
        }
        all
    }
}

/// One tag: a list of at least one string.
#[derive(Clone, Copy)]
pub struct Tag<'a> {
    text: &'a str,
    start: u32,
    ends: &'a [u32],
}

impl<'a> Tag<'a> {
    /// How many elements the tag has; at least one. (Never empty, hence no `is_empty`.)
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        self.ends.len()
    }

    /// Element `i`; 0 is the name.
    pub fn get(self, i: usize) -> Option<&'a str> {
        let end = self.ends.get(i)? & !LAST;
        let start = match i {
            0 => self.start,
            _ => self.ends[i - 1] & !LAST,
        };
        self.text.get(start as usize..end as usize)
    }

    /// Element 0.
    pub fn name(self) -> &'a str {
        self.get(0).unwrap_or_default()
    }

    /// Element 1, the only one that is indexed (N01-33).
    pub fn value(self) -> Option<&'a str> {
        self.get(1)
    }

    /// Name and value when relays index this tag: the name is one ASCII letter and there is a value
    /// (N01-32, N01-35).
    pub fn indexed(self) -> Option<(TagName, TagRef<'a>)> {
        Some((TagName::new(self.name())?, TagRef::new(self.value()?)))
    }

    /// The elements in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        (0..self.len()).filter_map(move |i| self.get(i))
    }
}

impl fmt::Debug for Tag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Tag<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Tag<'_> {}

/// A tag value in the form both the index and filters compare: 64 lower-case hexadecimal digits become
/// 32 bytes, everything else stays text. The two forms never overlap, so comparing forms is comparing values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TagValue {
    /// The bytes of 64 lower-case hexadecimal digits.
    Hex([u8; 32]),
    /// Any other text.
    Text(Box<str>),
}

impl TagValue {
    /// The value in its one form.
    pub fn new(value: &str) -> Self {
        TagRef::new(value).to_value()
    }

    /// The value, borrowed.
    pub fn as_tag_ref(&self) -> TagRef<'_> {
        match self {
            TagValue::Hex(bytes) => TagRef::Hex(*bytes),
            TagValue::Text(text) => TagRef::Text(text),
        }
    }
}

/// A [`TagValue`] that borrows its text. Both hash and order alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TagRef<'a> {
    /// The bytes of 64 lower-case hexadecimal digits.
    Hex([u8; 32]),
    /// Any other text.
    Text(&'a str),
}

impl<'a> TagRef<'a> {
    /// The value in its one form.
    pub fn new(value: &'a str) -> Self {
        decode_hex(value).map_or(TagRef::Text(value), TagRef::Hex)
    }

    /// Orders as the two values would.
    pub fn cmp_value(&self, value: &TagValue) -> Ordering {
        self.cmp(&value.as_tag_ref())
    }

    /// An owned copy.
    pub fn to_value(self) -> TagValue {
        match self {
            TagRef::Hex(bytes) => TagValue::Hex(bytes),
            TagRef::Text(text) => TagValue::Text(text.into()),
        }
    }
}

impl PartialEq<TagValue> for TagRef<'_> {
    fn eq(&self, value: &TagValue) -> bool {
        *self == value.as_tag_ref()
    }
}

/// The name of an indexed tag: one ASCII letter, case matters (N01-32).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(u8);

impl TagName {
    /// Event references.
    pub const E: TagName = TagName(b'e');
    /// Public key references.
    pub const P: TagName = TagName(b'p');
    /// Address references.
    pub const A: TagName = TagName(b'a');
    /// Identifiers of addressable events.
    pub const D: TagName = TagName(b'd');

    /// `None` unless the name is exactly one ASCII letter.
    pub fn new(name: &str) -> Option<Self> {
        match name.as_bytes() {
            [letter] => Self::from_byte(*letter),
            _ => None,
        }
    }

    /// `None` unless the byte is an ASCII letter.
    pub const fn from_byte(letter: u8) -> Option<Self> {
        if letter.is_ascii_alphabetic() { Some(TagName(letter)) } else { None }
    }

    /// The letter.
    pub const fn as_byte(self) -> u8 {
        self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        char::from(self.0).fmt(f)
    }
}

impl fmt::Debug for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_shape() {
        let shapes: &[&[&str]] = &[&[""], &["t"], &["t", ""], &["r", "wss://a", "read", "", "é"]];
        let mut tags: Tags = shapes.iter().copied().collect();
        tags.push::<&str>([]);
        assert_eq!(tags.len(), 4);
        let back: Vec<Vec<&str>> = tags.iter().map(|tag| tag.iter().collect()).collect();
        assert_eq!(back, shapes);
        let last = tags.iter().last().unwrap();
        assert_eq!((last.len(), last.name(), last.value()), (5, "r", Some("wss://a")));
        assert_eq!((last.get(4), last.get(5)), (Some("é"), None));
        assert!(Tags::new().is_empty() && Tags::new().iter().next().is_none());
        assert_eq!(format!("{tags:?}"), format!("{shapes:?}"));
    }

    #[test]
    fn n01_32_only_single_letters_are_indexed_and_case_matters() {
        assert_ne!(TagName::new("e"), TagName::new("E"));
        assert!(TagName::new("a").is_some() && TagName::new("Z").is_some());
        for name in ["", "1", "-", "é", "tt", "expiration"] {
            assert_eq!(TagName::new(name), None, "{name}");
        }
    }

    #[test]
    fn n01_34_values_compare_by_code_point() {
        let hex = "ab".repeat(32);
        assert_eq!(TagValue::new(&hex), TagValue::Hex([0xab; 32]));
        assert_eq!(TagValue::new(&hex.to_uppercase()), TagValue::Text(hex.to_uppercase().into()));
        assert_eq!(TagRef::new("x").cmp_value(&TagValue::new("x")), Ordering::Equal);
        assert_ne!(TagRef::new("é"), TagValue::new("e\u{301}"));
        assert_ne!(TagRef::new("wss://relay.test"), TagValue::new("wss://relay.test/"));
    }
}
