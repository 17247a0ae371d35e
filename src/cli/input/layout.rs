//! What a source holds, told from its beginning: JSONL, JSON that is laid out otherwise, or something else altogether.

/// How events lie in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One in each line.
    Lines,
    /// One after another, in a JSON list or just so, over as many lines as they like.
    Values,
}

/// What the beginning of a source tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Too little to tell.
    Wait,
    /// Events, as far as one can see.
    Events(Layout),
    /// No events: what it looks like, and what to do about it.
    Other(String, &'static str),
}

/// The byte order mark that some editors put in front of a file.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// Text in which no line of so many bytes looks like JSON holds no events.
const ENOUGH: usize = 64 << 10;

/// Enough for the marks of other formats.
const FEW: usize = 512;

/// Looks at the beginning of a source, without a byte order mark; `complete` when it is all of it.
pub(super) fn look(head: &[u8], complete: bool) -> Look {
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return UTF_16.look();
    }
    if head.iter().take(FEW).any(|byte| *byte == 0) {
        return if complete || head.len() >= FEW { binary(head).look() } else { Look::Wait };
    }
    let (mut blank, mut end) = (true, 0);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        let text = line.trim_ascii_start();
        match text.first() {
            None => {}
            Some(b'{' | b'[') if blank => return beginning(&head[end - text.len()..], complete),
            Some(b'{' | b'[') => return Look::Events(Layout::Lines),
            Some(_) => blank = false,
        }
    }
    if !complete && head.len() < ENOUGH {
        Look::Wait
    } else if blank {
        Look::Events(Layout::Lines)
    } else {
        text(head)
    }
}

/// `json` begins with the first bracket of the source.
fn beginning(json: &[u8], complete: bool) -> Look {
    let inner = &json[1..];
    let next = match json[0] {
        // An object whose first line holds nothing else goes on in the next ones.
        b'{' => inner.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r')),
        _ => inner.trim_ascii_start().first(),
    };
    match (json[0], next) {
        (_, None) if !complete => Look::Wait,
        (b'{', Some(b'\n')) | (b'[', Some(b'{' | b']')) => Look::Events(Layout::Values),
        _ => Look::Events(Layout::Lines),
    }
}

/// A format that holds no events, or not so that they could be read.
struct Format {
    name: &'static str,
    advice: &'static str,
}

impl Format {
    fn look(&self) -> Look {
        Look::Other(self.name.to_owned(), self.advice)
    }
}

const UTF_16: Format =
    Format { name: "UTF-16 text", advice: "Convert it on the way: iconv -f UTF-16 -t UTF-8 FILE | ratite import" };
const TAR: Format = Format { name: "a tar archive", advice: "Unpack it on the way: tar -xOf FILE | ratite import" };
const SQLITE: Format =
    Format { name: "an SQLite database", advice: "Unpack it if it is packed, then name the file: ratite import FILE" };
const LMDB: Format = Format {
    name: "an LMDB database",
    advice: "Have the program that wrote it export, as in strfry export | ratite import; `ratite restore` brings back a backup of ratite",
};
const BINARY: Format = Format { name: "binary data", advice: "Check that it is the right file." };
const MARKUP: Format = Format { name: "HTML or XML", advice: "Check what was downloaded." };

fn binary(head: &[u8]) -> Format {
    let at = |place: usize, mark: &[u8]| head.get(place..).is_some_and(|rest| rest.starts_with(mark));
    let zeros = |from: usize| head.iter().skip(from).step_by(2).take(16).all(|byte| *byte == 0);
    if at(0, b"SQLite format 3\0") {
        SQLITE
    } else if at(16, &0xBEEF_C0DEu32.to_ne_bytes()) {
        LMDB
    } else if at(257, b"ustar") {
        TAR
    } else if zeros(0) != zeros(1) {
        UTF_16
    } else {
        BINARY
    }
}

fn text(head: &[u8]) -> Look {
    const SHOWN: usize = 30;
    if std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some()) {
        return BINARY.look();
    }
    if head.trim_ascii_start().starts_with(b"<") {
        return MARKUP.look();
    }
    let text = String::from_utf8_lossy(head);
    let line = text.trim_start().lines().next().unwrap_or_default();
    let shown: String = line.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    Look::Other(
        format!("text that begins with \"{shown}\""),
        "Each line should be an event, a JSON object: {\"id\":…,\"pubkey\":…}",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(head: &[u8]) -> String {
        match look(head, true) {
            Look::Other(name, _) => name,
            look => format!("{look:?}"),
        }
    }

    #[test]
    fn events_are_recognised_however_they_are_laid_out() {
        for (text, layout) in [
            ("", Layout::Lines),
            (" \n\n", Layout::Lines),
            ("{\"id\":1}\n", Layout::Lines),
            ("{", Layout::Lines),
            ("\n  {  \"id\"", Layout::Lines),
            ("a line of a log\n{\"id\":1}", Layout::Lines),
            ("[\"EVENT\",{", Layout::Lines),
            ("[2024-01-31 12:00:00] exporting", Layout::Lines),
            ("[{", Layout::Values),
            ("[\r\n  {", Layout::Values),
            ("[]", Layout::Values),
            ("{\r\n  \"id\"", Layout::Values),
            ("\n{ \n\"id\"", Layout::Values),
        ] {
            assert_eq!(look(text.as_bytes(), true), Look::Events(layout), "{text}");
        }
        for text in ["", "\n", "{", "{ ", "[", "[\n", "a line of a log\n", "\0"] {
            assert_eq!(look(text.as_bytes(), false), Look::Wait, "{text}");
        }
    }

    #[test]
    fn everything_else_is_named() {
        let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        assert_eq!(name(&utf_16("\u{feff}{\"id\"")), "UTF-16 text");
        assert_eq!(name(&utf_16("{\"id\":\"00\",\"pubkey\":\"00\"}")), "UTF-16 text");
        assert_eq!(name(b"SQLite format 3\0\x10\0"), "an SQLite database");
        let mut lmdb = vec![0; 4096];
        lmdb[16..20].copy_from_slice(&0xBEEF_C0DEu32.to_ne_bytes());
        assert_eq!(name(&lmdb), "an LMDB database");
        let mut tar = b"events.jsonl".to_vec();
        tar.resize(512, 0);
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(name(&tar), "a tar archive");
        assert_eq!(name(b"\x7fELF\x02\x01\x01\0\0\0"), "binary data");
        assert_eq!(name(b"\xff\xd8\xff\xe0 a picture"), "binary data");
        assert_eq!(name(b" <!DOCTYPE html>\n<html>"), "HTML or XML");
        assert_eq!(name(b"id,pubkey,kind\r\n1,2,3\r\n"), "text that begins with \"id,pubkey,kind\"");
        assert_eq!(look(&b"no JSON here\n".repeat(10_000), false), text(b"no JSON here\n"));
    }
}
