//! Where a database has its events: the table `event`, and what its columns are.

use super::Fault;
use super::pages::Pages;
use super::tree::{Row, Rows, Value};

/// How long the text may be that a table was made with.
const SQL_BYTES: usize = 256 << 10;

/// The columns of the table that lists all tables: what it is, its name, its first page, the text it was made with.
const TYPE: usize = 0;
const NAME: usize = 1;
const ROOT: usize = 3;
const SQL: usize = 4;

/// How a row holds an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// nostr-rs-relay: the whole of it as JSON in `content`, and whether it is hidden, because its author had it deleted.
    Whole { content: usize, hidden: Option<usize> },
    /// The event stores of khatru and others: a column for each field, of this name.
    Fields([usize; 7]),
}

/// The fields of an event, in the order in which they are written.
const FIELDS: [&str; 7] = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"];

const ADVICE: &str = "ratite reads the databases of nostr-rs-relay; have any other program export its events as JSONL.";

/// The first page of the table with the events, and how they stand in it.
pub(super) fn find(pages: &Pages) -> Result<(u32, Shape), Fault> {
    let (mut tables, mut row) = (Rows::of(1, pages)?, Row::default());
    while tables.next(pages, SQL_BYTES, &mut row)? {
        let is = |column: usize, text: &str| -> Result<bool, Fault> {
            Ok(matches!(row.column(column)?, Value::Bytes(found) if found.eq_ignore_ascii_case(text.as_bytes())))
        };
        if !(is(TYPE, "table")? && is(NAME, "event")?) {
            continue;
        }
        let (Value::Integer(root), Value::Bytes(sql)) = (row.column(ROOT)?, row.column(SQL)?) else {
            return Err(Fault::damaged("its list of tables is not one"));
        };
        let root = u32::try_from(root).map_err(|_| Fault::damaged("its list of tables is not one"))?;
        let shape = Shape::of(&columns(&String::from_utf8_lossy(sql)));
        return shape
            .map(|shape| (root, shape))
            .ok_or_else(|| Fault::Other("its table \"event\" has other columns than a relay's".to_owned(), ADVICE));
    }
    Err(Fault::Other("it is an SQLite database without a table \"event\"".to_owned(), ADVICE))
}

/// The names of the columns in a CREATE TABLE.
fn columns(sql: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let (mut depth, mut name) = (0u32, None::<String>);
    let mut rest = sql.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let mut word = None;
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 1 => columns.extend(name.take()),
            '-' if sql[at..].starts_with("--") => while rest.next().is_some_and(|(_, c)| c != '\n') {},
            '/' if sql[at..].starts_with("/*") => {
                let end = sql[at + 2..].find("*/").map_or(sql.len(), |end| at + 2 + end + 2);
                while rest.next_if(|(at, _)| *at < end).is_some() {}
            }
            '"' | '\'' | '`' | '[' => {
                let end = if c == '[' { ']' } else { c };
                let quoted: String = std::iter::from_fn(|| rest.next_if(|(_, c)| *c != end)).map(|(_, c)| c).collect();
                rest.next();
                word = Some(quoted);
            }
            c if c.is_alphanumeric() || c == '_' => {
                let more = std::iter::from_fn(|| rest.next_if(|(_, c)| c.is_alphanumeric() || *c == '_'));
                word = Some(std::iter::once(c).chain(more.map(|(_, c)| c)).collect());
            }
            _ => {}
        }
        // What comes first in each part between the commas; the names of tables stand before the bracket.
        if depth == 1 && name.is_none() {
            name = word;
        }
    }
    columns.extend(name);
    columns
}

impl Shape {
    fn of(columns: &[String]) -> Option<Shape> {
        let place = |name: &str| columns.iter().position(|column| column.eq_ignore_ascii_case(name));
        if place("event_hash").is_some() {
            return Some(Shape::Whole { content: place("content")?, hidden: place("hidden") });
        }
        let mut fields = [0; FIELDS.len()];
        for (field, name) in fields.iter_mut().zip(FIELDS) {
            *field = place(name)?;
        }
        Some(Shape::Fields(fields))
    }

    /// Whether the other relay did not give this event to anybody any more.
    pub(super) fn is_hidden(&self, row: &Row) -> Result<bool, Fault> {
        match self {
            Shape::Whole { hidden: Some(hidden), .. } => {
                Ok(matches!(row.column(*hidden)?, Value::Integer(hidden) if hidden != 0))
            }
            _ => Ok(false),
        }
    }

    /// Writes the event of a row as JSON in one line. What is no event there is none here: the import will say so.
    pub(super) fn write(&self, row: &Row, out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = out.len();
        match self {
            Shape::Whole { content, .. } => match row.column(*content)? {
                Value::Bytes(json) => out.extend_from_slice(json),
                _ => out.extend_from_slice(b"null"),
            },
            Shape::Fields(fields) => {
                for (n, (field, name)) in fields.iter().zip(FIELDS).enumerate() {
                    out.extend_from_slice(if n == 0 { b"{\"" } else { b",\"" });
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(b"\":");
                    match row.column(*field)? {
                        Value::Bytes(json) if name == "tags" => out.extend_from_slice(json),
                        Value::Bytes(text) => write_text(text, out),
                        Value::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
                        Value::Null | Value::Float => out.extend_from_slice(b"null"),
                    }
                }
                out.push(b'}');
            }
        }
        // Between the parts of an object any white space will do, and within a string there are no line ends.
        out[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        Ok(())
    }
}

/// A JSON string. What is not UTF-8 stays that way, and is refused by whoever reads it.
fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sql: &str) -> Option<Shape> {
        Shape::of(&columns(sql))
    }

    #[test]
    fn columns_are_found_in_whatever_way_they_are_written() {
        assert_eq!(
            columns(
                "CREATE TABLE IF NOT EXISTS \"main\".event ( -- a, (comment\n id INTEGER PRIMARY KEY, [event_hash] BLOB /* , x */ NOT NULL,\n\
                 n NUMERIC(5,2) DEFAULT (max(1, 2)), `first seen` TEXT DEFAULT 'a, b', \"content\" TEXT, é)"
            ),
            ["id", "event_hash", "n", "first seen", "content", "é"]
        );
        assert_eq!(columns("CREATE TABLE event"), [""; 0]);
        assert_eq!(columns("CREATE TABLE event(a,'b"), ["a", "b"]);
        assert_eq!(columns("CREATE TABLE event(/*"), [""; 0]);
    }

    #[test]
    fn tables_of_relays_are_told_from_others() {
        let whole = "create table event (id integer, event_hash blob, content text, hidden integer)";
        assert_eq!(shape(whole), Some(Shape::Whole { content: 2, hidden: Some(3) }));
        let old = "create table event (id integer, event_hash blob, content text)";
        assert_eq!(shape(old), Some(Shape::Whole { content: 2, hidden: None }));
        let fields =
            "create table event (id text, pubkey text, kind int, created_at int, tags jsonb, content text, sig text)";
        assert_eq!(shape(fields), Some(Shape::Fields([0, 1, 3, 2, 4, 5, 6])));
        assert_eq!(shape("create table event (id integer, name text, content text)"), None);
    }
}
