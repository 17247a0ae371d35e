//! Puts pieces of text together and finds the events in them: lines, or JSON objects in whatever lines they stand.

use std::ops::Range;

use super::layout::Layout;
use super::position::Position;

/// No event is this long; a longer line is some other file, and is passed over without keeping it.
pub(in crate::cli) const MAX_LINE_BYTES: usize = 16 << 20;

/// How much of an event that is too long is kept to show it.
pub(super) const SHOWN_BYTES: usize = 256;

/// Whole lines or objects, each an event if all is well, of one source or of several short ones.
#[derive(Debug)]
pub(in crate::cli) struct Chunk {
    /// The bytes the lines lie in.
    pub(in crate::cli) text: Vec<u8>,
    /// The lines in order; blank ones are left out.
    pub(in crate::cli) lines: Vec<Line>,
    /// Where the sources stand behind the last of these lines: those that ended, and the one at hand.
    pub(in crate::cli) positions: Vec<(usize, Position)>,
}

/// One line of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Line {
    /// Index into the sources.
    pub(in crate::cli) source: usize,
    /// Its number in its source, from 1.
    pub(in crate::cli) number: u64,
    /// Where it lies in the chunk, without its line end.
    pub(in crate::cli) range: Range<usize>,
    /// Whether it was longer than [`MAX_LINE_BYTES`]; then only its beginning is there.
    pub(in crate::cli) too_long: bool,
}

/// Pieces of text on their way to become chunks.
#[derive(Default)]
pub(super) struct Assembly {
    buffer: Vec<u8>,
    /// Takes the place of the buffer when that goes out with its lines.
    spare: Vec<u8>,
    /// The whole lines in the buffer.
    lines: Vec<Line>,
    /// Where the line begins that has no end yet: the end of the whole lines.
    begun: usize,
    /// Whether that line is too long, so that the rest of it is passed over.
    skipping: bool,
    source: usize,
    /// Line ends of this source so far, and one more.
    number: u64,
    /// Bytes of this source so far, those before the event that has no end yet, and how many of its file they took.
    offset: u64,
    begun_at: u64,
    consumed: u64,
    /// Whether a source has begun and not ended.
    is_open: bool,
    /// Sources that ended behind the last lines that were taken.
    ended: Vec<(usize, Position)>,
    values: Option<Values>,
}

/// Where we are in a source that is laid out as [`Layout::Values`].
#[derive(Default)]
struct Values {
    /// Lists that are open around the objects.
    lists: u64,
    /// Brackets that are open within the object at hand; 0 between objects.
    depth: u64,
    /// Within a string, and behind a backslash in it.
    in_string: bool,
    escaped: bool,
    /// In something that is no object: it goes on to the end of its line.
    in_rubbish: bool,
    /// The line in which the object began.
    number: u64,
}

impl Assembly {
    /// The next source begins, at this position.
    pub(super) fn begin_source(&mut self, layout: Layout, from: Position) {
        self.number = from.number;
        (self.offset, self.begun_at, self.consumed) = (from.offset, from.offset, from.consumed);
        self.is_open = true;
        self.values = (layout == Layout::Values).then(|| Values { lists: from.lists, ..Values::default() });
    }

    /// More of the source; so many bytes of its file were read for it so far.
    pub(super) fn add(&mut self, piece: &[u8], consumed: u64) {
        self.consumed = consumed;
        match self.values.take() {
            None => self.add_lines(piece),
            Some(mut values) => {
                self.add_values(piece, &mut values);
                self.values = Some(values);
            }
        }
        self.offset += piece.len() as u64;
    }

    /// Where the next event begins, or has begun.
    fn position(&self) -> Position {
        let (offset, number) = match &self.values {
            None => (self.begun_at, self.number),
            Some(values) if values.depth > 0 || values.in_rubbish => (self.begun_at, values.number),
            Some(_) => (self.offset, self.number),
        };
        let lists = self.values.as_ref().map_or(0, |values| values.lists);
        Position { offset, number, lists, consumed: self.consumed, is_end: false }
    }

    fn add_lines(&mut self, mut piece: &[u8]) {
        let mut at = self.offset;
        while let Some(length) = memchr::memchr(b'\n', piece) {
            self.append(&piece[..length]);
            self.end_line(self.number);
            self.number += 1;
            at += length as u64 + 1;
            self.begun_at = at;
            piece = &piece[length + 1..];
        }
        self.append(piece);
    }

    fn add_values(&mut self, piece: &[u8], values: &mut Values) {
        // Where in the piece the part begins that belongs to the event at hand.
        let mut start = 0;
        for (i, byte) in piece.iter().enumerate() {
            let mut ended = false;
            if values.in_rubbish {
                ended = *byte == b'\n';
            } else if values.in_string {
                match byte {
                    _ if values.escaped => values.escaped = false,
                    b'\\' => values.escaped = true,
                    b'"' => values.in_string = false,
                    _ => {}
                }
            } else if values.depth > 0 {
                match byte {
                    b'"' => values.in_string = true,
                    b'{' | b'[' => values.depth += 1,
                    b'}' | b']' => values.depth -= 1,
                    _ => {}
                }
                ended = values.depth == 0;
            } else {
                match byte {
                    b'[' => values.lists += 1,
                    b']' if values.lists > 0 => values.lists -= 1,
                    b',' => {}
                    byte if byte.is_ascii_whitespace() => {}
                    byte => {
                        (start, values.number) = (i, self.number);
                        self.begun_at = self.offset + i as u64;
                        values.depth = u64::from(*byte == b'{');
                        values.in_rubbish = *byte != b'{';
                    }
                }
            }
            if ended {
                self.append(&piece[start..=i]);
                self.end_line(values.number);
                values.in_rubbish = false;
            }
            self.number += u64::from(*byte == b'\n');
        }
        if values.depth > 0 || values.in_rubbish {
            self.append(&piece[start..]);
        }
    }

    /// More of the line that has no end yet.
    fn append(&mut self, part: &[u8]) {
        if !self.skipping {
            self.buffer.extend_from_slice(part);
        }
        if self.buffer.len() - self.begun > MAX_LINE_BYTES {
            self.buffer.truncate(self.begun + SHOWN_BYTES);
            self.skipping = true;
        }
    }

    fn end_line(&mut self, number: u64) {
        let range = self.begun..self.buffer.len();
        if !self.buffer[range.clone()].iter().all(u8::is_ascii_whitespace) {
            self.lines.push(Line { source: self.source, number, range, too_long: self.skipping });
        }
        self.begun = self.buffer.len();
        self.skipping = false;
    }

    /// The source has come to its end, if `is_clean` to the end of its file. False when that is too early: a list or an object in it has
    /// none.
    pub(super) fn end_source(&mut self, is_clean: bool) -> bool {
        let values = self.values.take();
        let whole = values.as_ref().is_none_or(|values| values.lists == 0 && values.depth == 0);
        if whole && self.begun < self.buffer.len() {
            // A last line needs no line end.
            self.end_line(values.map_or(self.number, |values| values.number));
        }
        if whole && is_clean {
            self.ended.push((self.source, Position { is_end: true, ..self.position() }));
        }
        self.give_up_source();
        whole
    }

    /// Nothing more comes of this source: what has no end is not an event.
    pub(super) fn give_up_source(&mut self) {
        self.buffer.truncate(self.begun);
        self.skipping = false;
        self.values = None;
        self.is_open = false;
        self.source += 1;
    }

    /// Gives back the memory of a chunk: having it anew from the system for each chunk costs as much as reading it.
    pub(super) fn reuse(&mut self, mut text: Vec<u8>) {
        if text.capacity() <= MAX_LINE_BYTES {
            text.clear();
            self.spare = text;
        }
    }

    /// Takes the whole lines out when they come to this many bytes.
    pub(super) fn take(&mut self, enough: usize) -> Option<Chunk> {
        if self.begun < enough {
            return None;
        }
        let mut rest = std::mem::take(&mut self.spare);
        rest.extend_from_slice(&self.buffer[self.begun..]);
        self.buffer.truncate(self.begun);
        let text = std::mem::replace(&mut self.buffer, rest);
        self.begun = 0;
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return None;
        }
        let mut positions = std::mem::take(&mut self.ended);
        positions.extend(self.is_open.then(|| (self.source, self.position())));
        Some(Chunk { text, lines, positions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a text that comes in pieces of this length, with the lines they begin in, and whether it was whole.
    fn values(text: &str, piece: usize) -> (Vec<(u64, String)>, bool) {
        let mut assembly = Assembly::default();
        assembly.begin_source(Layout::Values, Position::START);
        text.as_bytes().chunks(piece).for_each(|piece| assembly.add(piece, 0));
        let whole = assembly.end_source(true);
        let found = assembly.take(1).map_or(Vec::new(), |chunk| {
            let text = |line: &Line| String::from_utf8(chunk.text[line.range.clone()].to_vec()).unwrap();
            chunk.lines.iter().map(|line| (line.number, text(line))).collect()
        });
        (found, whole)
    }

    #[test]
    fn objects_are_found_wherever_they_begin_and_end() {
        let text = "[\n  {\"a\": \"}\\\"]\"},\r\n  {\n \"b\": [{}, [\"\\\\\"]]\n}  , {}\n]\n{\"c\":1}{\"d\":2} rubbish {\n[{\"e\":3}]";
        for piece in 1..=text.len() {
            let (found, whole) = values(text, piece);
            let found: Vec<(u64, &str)> = found.iter().map(|(number, text)| (*number, text.trim_end())).collect();
            assert!(whole);
            assert_eq!(
                found,
                [
                    (2, "{\"a\": \"}\\\"]\"}"),
                    (3, "{\n \"b\": [{}, [\"\\\\\"]]\n}"),
                    (5, "{}"),
                    (7, "{\"c\":1}"),
                    (7, "{\"d\":2}"),
                    (7, "rubbish {"),
                    (8, "{\"e\":3}"),
                ],
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn from_every_position_the_rest_is_read() {
        let lines = "{\"a\":1}\n\n  {\"b\":2}\r\n{\"c\":3}\n{\"d\":4}";
        let values = "[\n{\"a\":\"[,\"}, {\n\"b\":[1]}\n,\n rubbish\n[{\"c\":3}]\n]\n{\"d\":4}";
        for (text, layout) in [(lines, Layout::Lines), (values, Layout::Values)] {
            // The events from a position on, taken after every piece, each with the position behind it.
            let read = |from: Position, piece: usize| {
                let (mut assembly, mut found) = (Assembly::default(), Vec::new());
                assembly.begin_source(layout, from);
                let mut take = |assembly: &mut Assembly| {
                    let Some(chunk) = assembly.take(1) else { return };
                    let events = chunk.lines.iter().map(|line| {
                        let text = String::from_utf8(chunk.text[line.range.clone()].to_vec()).unwrap();
                        (line.number, text.trim().to_owned())
                    });
                    found.extend(events.map(|event| (event, chunk.positions.clone())));
                };
                for piece in text.as_bytes()[from.offset as usize..].chunks(piece) {
                    assembly.add(piece, 0);
                    take(&mut assembly);
                }
                assert!(assembly.end_source(true));
                take(&mut assembly);
                found
            };
            let all: Vec<(u64, String)> = read(Position::START, text.len()).into_iter().map(|found| found.0).collect();
            assert!(all.len() >= 4);
            for piece in 1..=text.len() {
                for (n, (_, positions)) in read(Position::START, piece).iter().enumerate() {
                    let [(0, position)] = positions[..] else { panic!("{positions:?}") };
                    // Several come with one position, which lies behind the last of them.
                    let behind: Vec<(u64, String)> = match position.is_end {
                        true => Vec::new(),
                        false => read(position, piece).into_iter().map(|found| found.0).collect(),
                    };
                    assert!(behind.len() < all.len() - n, "{position:?} in pieces of {piece}");
                    assert_eq!(behind, all[all.len() - behind.len()..], "{position:?} in pieces of {piece}");
                    if piece == 1 {
                        assert_eq!(behind.len(), all.len() - n - 1, "{position:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_no_end_is_no_event() {
        for text in ["[{\"a\":1}", "[{\"a\":1},", "{\"a\":1}\n{\n\"b\":\"}", "[{\"a\":1},{"] {
            let (found, whole) = values(text, 3);
            assert_eq!((found, whole), (vec![(1, "{\"a\":1}".to_owned())], false), "{text}");
        }
        assert_eq!(
            values("]]{\"a\":1}", 3),
            (vec![(1, "]]{\"a\":1}".to_owned())], true),
            "nothing is passed over in silence"
        );
    }

    #[test]
    fn a_value_too_long_to_be_an_event_is_cut_and_the_next_one_found() {
        let text = format!("[{{\"a\":\"{}\"}},\n{{}}]", "x".repeat(MAX_LINE_BYTES));
        let mut assembly = Assembly::default();
        assembly.begin_source(Layout::Values, Position::START);
        text.as_bytes().chunks(1 << 20).for_each(|piece| assembly.add(piece, 0));
        assert!(assembly.end_source(true));
        let lines = assembly.take(1).unwrap().lines;
        assert_eq!(lines.iter().map(|line| (line.number, line.too_long)).collect::<Vec<_>>(), [(1, true), (2, false)]);
    }
}
