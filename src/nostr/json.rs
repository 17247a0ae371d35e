//! A strict JSON scanner that works in place; the writer of canonical JSON is `write`.
//!
//! The scanner follows RFC 8259 to the letter and knows no tree: whoever calls it says which token must
//! come next. It reads every byte once, never recurses, and refuses what strict parsers disagree about:
//! a byte order mark, raw control characters in strings, leading zeros, lone surrogate escapes, nesting
//! deeper than [`MAX_DEPTH`] (N01-10, N01-82).

mod special;
mod write;

use std::cell::Cell;
use std::fmt;

use special::plain_run;
pub(crate) use write::write_text;
pub use write::{write_hex, write_number, write_string};

/// How deep arrays and objects may be nested, the outermost included.
pub const MAX_DEPTH: u32 = 32;

/// Why a text is not acceptable JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Byte offset into the text.
    pub at: usize,
    /// What is wrong there, in a few words.
    pub what: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed JSON at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for JsonError {}

const TOO_DEEP: &str = "nested deeper than 32 levels";

impl JsonError {
    /// Whether the text may be fine JSON that is only nested deeper than is read here.
    pub(crate) fn is_too_deep(&self) -> bool {
        self.what == TOO_DEEP
    }
}

type Result<T> = std::result::Result<T, JsonError>;

/// Checks that `bytes` are UTF-8, which every JSON text is.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| JsonError {
        // The fast check does not say where; the slow one does.
        at: std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len),
        what: "not UTF-8",
    })
}

/// Checks that `text` is one JSON value and nothing else.
///
/// Lone surrogate escapes pass here: the grammar allows them, and the caller wants to know whether the
/// sender's JSON is broken or the value in it.
pub(crate) fn check_grammar(text: &str) -> Result<()> {
    let mut scanner = Scanner::lenient(text);
    scanner.skip_value()?;
    scanner.end()
}

thread_local! {
    /// Where strings with escapes are decoded; taken while in use, so re-entrance is harmless.
    static SCRATCH: Cell<String> = const { Cell::new(String::new()) };
}

/// Scratch space that grew beyond this is given back to the allocator.
const SCRATCH_KEPT: usize = 256 << 10;

/// Lends the thread's scratch string to `f`.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut String) -> T) -> T {
    let mut scratch = SCRATCH.take();
    let result = f(&mut scratch);
    if scratch.capacity() <= SCRATCH_KEPT {
        scratch.clear();
        SCRATCH.set(scratch);
    }
    result
}

/// An integer as a filter may spell it: a sign and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer {
    pub(crate) negative: bool,
    /// Saturates at `u64::MAX`.
    pub(crate) magnitude: u64,
}

/// Reads JSON tokens from a text, front to back.
#[derive(Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Arrays and objects that are open.
    depth: u32,
    /// Accept lone surrogate escapes in strings that are skipped, not read.
    lone_surrogates: bool,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Scanner { text, at: 0, depth: 0, lone_surrogates: false }
    }

    /// A scanner that accepts lone surrogate escapes in whatever it skips.
    pub(crate) fn lenient(text: &'a str) -> Self {
        Scanner { lone_surrogates: true, ..Scanner::new(text) }
    }

    fn error<T>(&self, what: &'static str) -> Result<T> {
        Err(JsonError { at: self.at, what })
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The first byte of the next token; whitespace before it is skipped.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.byte() {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Takes the next token if it is this one-byte token.
    #[inline]
    fn eat(&mut self, token: u8) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    /// Refuses anything but whitespace up to the end of the text.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.error("expected the end"),
        }
    }

    /// Fails unless a JSON value can start here. Used to tell a value of the wrong type from a missing one.
    pub(crate) fn expect_value(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"' | b'[' | b'{' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => Ok(()),
            _ => self.error("expected a value"),
        }
    }

    /// Takes an opening bracket or brace that [`Scanner::peek`] has just seen.
    fn open(&mut self) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return self.error(TOO_DEEP);
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Enters an array if one starts here.
    pub(crate) fn enter_array(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b'[') => self.open().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Enters an object if one starts here.
    pub(crate) fn enter_object(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b'{') => self.open().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Moves to the next element of the array entered last; false when the array has ended. `first` is
    /// true before the first call.
    #[inline]
    pub(crate) fn next_element(&mut self, first: &mut bool) -> Result<bool> {
        let was_first = std::mem::take(first);
        match self.peek() {
            Some(b']') => {
                self.close();
                Ok(false)
            }
            Some(b',') if !was_first => {
                self.at += 1;
                // A closing bracket here would be a trailing comma.
                self.expect_value().map(|()| true)
            }
            Some(_) if was_first => self.expect_value().map(|()| true),
            _ => self.error("expected ',' or ']'"),
        }
    }

    /// Moves to the next member of the object entered last and reads its name, unescaped; `None` when the
    /// object has ended. `first` is true before the first call.
    #[inline]
    pub(crate) fn next_member<'s>(&mut self, first: &mut bool, scratch: &'s mut String) -> Result<Option<&'s str>>
    where
        'a: 's,
    {
        let was_first = std::mem::take(first);
        match self.peek() {
            Some(b'}') => {
                self.close();
                return Ok(None);
            }
            Some(b',') if !was_first => self.at += 1,
            Some(_) if was_first => {}
            _ => return self.error("expected ',' or '}'"),
        }
        if self.peek() != Some(b'"') {
            return self.error("expected a member name");
        }
        let name = self.string(scratch)?;
        if !self.eat(b':') {
            return self.error("expected ':'");
        }
        self.expect_value()?;
        Ok(Some(name))
    }

    /// Reads the string that starts here. Without escapes it is borrowed from the text, else decoded into
    /// `scratch`. [`Scanner::peek`] has just seen the opening quote.
    #[inline]
    pub(crate) fn string<'s>(&mut self, scratch: &'s mut String) -> Result<&'s str>
    where
        'a: 's,
    {
        let start = self.at + 1;
        let end = plain_run(self.text.as_bytes(), start);
        if self.text.as_bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            // In bounds and on character boundaries: a quote lies before `start` and another at `end`.
            return Ok(&self.text[start..end]);
        }
        scratch.clear();
        self.string_into(scratch)?;
        Ok(scratch)
    }

    /// Appends the string that starts here to `out`. [`Scanner::peek`] has just seen the opening quote.
    pub(crate) fn string_into(&mut self, out: &mut String) -> Result<()> {
        self.at += 1;
        loop {
            let end = plain_run(self.text.as_bytes(), self.at);
            // In bounds and on character boundaries: both ends are next to ASCII or at the end.
            out.push_str(&self.text[self.at..end]);
            self.at = end;
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => match self.escape()? {
                    Some(c) => out.push(c),
                    None => return self.error("lone surrogate escape"),
                },
                Some(_) => return self.error("control character in a string"),
                None => return self.error("unterminated string"),
            }
        }
    }

    fn skip_string(&mut self) -> Result<()> {
        self.at += 1;
        loop {
            self.at = plain_run(self.text.as_bytes(), self.at);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    if self.escape()?.is_none() && !self.lone_surrogates {
                        return self.error("lone surrogate escape");
                    }
                }
                Some(_) => return self.error("control character in a string"),
                None => return self.error("unterminated string"),
            }
        }
    }

    /// Reads the escape that starts here; `None` is a surrogate without its partner.
    fn escape(&mut self) -> Result<Option<char>> {
        let c = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return self.error("unknown escape"),
        };
        self.at += 2;
        Ok(Some(c))
    }

    fn unicode_escape(&mut self) -> Result<Option<char>> {
        let Some(unit) = self.escaped_unit() else {
            return self.error("expected four hexadecimal digits after \\u");
        };
        self.at += 6;
        if (0xd800..0xdc00).contains(&unit)
            && let Some(low @ 0xdc00..0xe000) = self.escaped_unit()
        {
            self.at += 6;
            return Ok(char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)));
        }
        // A surrogate is no char, so this is `None` for exactly the lone ones.
        Ok(char::from_u32(unit))
    }

    /// The code unit of the escape, `\u` and four digits, that starts here.
    fn escaped_unit(&self) -> Option<u32> {
        let [b'\\', b'u', digits @ ..] = self.text.as_bytes().get(self.at..self.at + 6)? else {
            return None;
        };
        digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
    }

    /// Reads a number that is plain digits; saturates at `u64::MAX`. `None` when another JSON value starts
    /// here, a number with sign, fraction or exponent included; the scanner then stands somewhere in it.
    pub(crate) fn digits(&mut self) -> Result<Option<u64>> {
        let start = self.at;
        let mut value = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            value = value.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        match self.at - start {
            0 => return Ok(None),
            1 => {}
            _ if self.text.as_bytes()[start] == b'0' => {
                self.at = start;
                return self.error("leading zero");
            }
            _ => {}
        }
        match self.byte() {
            Some(b'.' | b'e' | b'E') => Ok(None),
            _ => Ok(Some(value)),
        }
    }

    /// Reads an integer, sign allowed. `None` as for [`Scanner::digits`].
    pub(crate) fn integer(&mut self) -> Result<Option<Integer>> {
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        Ok(self.digits()?.map(|magnitude| Integer { negative, magnitude }))
    }

    fn skip_number(&mut self) -> Result<()> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        let start = self.at;
        if let (b'0', 2..) = self.skip_digits()? {
            self.at = start;
            return self.error("leading zero");
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    /// Skips at least one digit; returns the first and how many there were.
    fn skip_digits(&mut self) -> Result<(u8, usize)> {
        let start = self.at;
        let Some(first @ b'0'..=b'9') = self.byte() else {
            return self.error("expected a digit");
        };
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        Ok((first, self.at - start))
    }

    fn skip_word(&mut self, word: &'static str) -> Result<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.error("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    /// Skips one value of any type and checks its grammar, without recursion.
    pub(crate) fn skip_value(&mut self) -> Result<()> {
        let base = self.depth;
        // Bit `depth - 1` says whether the container at that depth is an object; MAX_DEPTH bits suffice.
        let mut objects = 0u32;
        loop {
            match self.peek() {
                Some(b'"') => self.skip_string()?,
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(b't') => self.skip_word("true")?,
                Some(b'f') => self.skip_word("false")?,
                Some(b'n') => self.skip_word("null")?,
                Some(b'[') => {
                    self.open()?;
                    objects &= !(1 << (self.depth - 1));
                    if self.peek() != Some(b']') {
                        continue;
                    }
                    self.close();
                }
                Some(b'{') => {
                    self.open()?;
                    objects |= 1 << (self.depth - 1);
                    if self.peek() != Some(b'}') {
                        self.skip_name()?;
                        continue;
                    }
                    self.close();
                }
                _ => return self.error("expected a value"),
            }
            // A value has ended: end the containers that end with it, up to the next comma.
            loop {
                if self.depth == base {
                    return Ok(());
                }
                let in_object = objects >> (self.depth - 1) & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if in_object {
                            self.skip_name()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => self.close(),
                    Some(b']') if !in_object => self.close(),
                    _ if in_object => return self.error("expected ',' or '}'"),
                    _ => return self.error("expected ',' or ']'"),
                }
            }
        }
    }

    fn skip_name(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return self.error("expected a member name");
        }
        self.skip_string()?;
        if !self.eat(b':') {
            return self.error("expected ':'");
        }
        Ok(())
    }
}
