//! Rows of a table of an SQLite database, in the order of their numbers, and the columns in a row.

use super::Fault;
use super::pages::{Pages, u16_at, u32_at};

/// As deep as SQLite itself follows a tree.
const DEEPEST: usize = 20;

/// A walk over the rows of one table.
pub(super) struct Rows {
    /// Where we are: pages from the root down.
    path: Vec<Node>,
    /// Pages that may still be read. No page stands in a tree twice, so a walk that needs more goes in circles.
    left: u64,
}

struct Node {
    page: Vec<u8>,
    is_leaf: bool,
    /// Where the places of its cells stand, and how many there are.
    cells_at: usize,
    cells: usize,
    /// The next cell; behind the last one of an inner page comes the rightmost child.
    next: usize,
    rightmost: u32,
    /// Bytes of the page that no cell has taken yet: cells that lie one over another would make much of little.
    left: usize,
}

/// A row. Of a long one only the beginning is read.
#[derive(Default)]
pub(super) struct Row {
    pub(super) number: i64,
    /// Its columns as they are stored.
    pub(super) payload: Vec<u8>,
    is_whole: bool,
}

fn broken(what: &str) -> Fault {
    Fault::damaged(format!("a page of a table has {what}"))
}

impl Node {
    fn parse(page: Vec<u8>, number: u32) -> Result<Node, Fault> {
        // The first page begins with the header of the database.
        let at = if number == 1 { 100 } else { 0 };
        let is_leaf = match page.get(at) {
            Some(5) => false,
            Some(13) => true,
            _ => return Err(Fault::damaged(format!("page {number} is not one of a table"))),
        };
        let cells = u16_at(&page, at + 3).ok_or_else(|| broken("no header"))?;
        let rightmost = if is_leaf { 0 } else { u32_at(&page, at + 8).ok_or_else(|| broken("no header"))? };
        let (cells_at, left) = (at + if is_leaf { 8 } else { 12 }, page.len());
        Ok(Node { page, is_leaf, cells_at, cells, next: 0, rightmost, left })
    }

    /// The bytes from the cell on.
    fn cell(&self, index: usize) -> Result<&[u8], Fault> {
        let place = u16_at(&self.page, self.cells_at + 2 * index).ok_or_else(|| broken("too many cells"))?;
        self.page.get(place..).ok_or_else(|| broken("a cell outside of it"))
    }
}

impl Rows {
    /// The rows of the table whose tree begins with this page.
    pub(super) fn of(root: u32, pages: &Pages) -> Result<Rows, Fault> {
        let mut rows = Rows { path: Vec::new(), left: pages.most() };
        rows.descend(root, pages)?;
        Ok(rows)
    }

    fn read(&mut self, number: u32, pages: &Pages) -> Result<Vec<u8>, Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Fault::damaged("its pages go round in circles"))?;
        pages.read(number)
    }

    fn descend(&mut self, number: u32, pages: &Pages) -> Result<(), Fault> {
        if self.path.len() == DEEPEST {
            return Err(Fault::damaged("a table is too deep"));
        }
        let page = self.read(number, pages)?;
        self.path.push(Node::parse(page, number)?);
        Ok(())
    }

    /// The number of the last row; 0 when there is none.
    pub(super) fn last(root: u32, pages: &Pages) -> Result<i64, Fault> {
        let mut rows = Rows::of(root, pages)?;
        loop {
            match rows.path.pop() {
                Some(node) if node.is_leaf && node.cells == 0 => return Ok(0),
                Some(node) if node.is_leaf => {
                    let mut cell = node.cell(node.cells - 1)?;
                    varint(&mut cell)?;
                    return Ok(varint(&mut cell)? as i64);
                }
                Some(node) => rows.descend(node.rightmost, pages)?,
                None => return Ok(0),
            }
        }
    }

    /// Reads the next row into `row`, of its payload `most` bytes at most. False when there is none.
    pub(super) fn next(&mut self, pages: &Pages, most: usize, row: &mut Row) -> Result<bool, Fault> {
        loop {
            let Some(node) = self.path.last_mut() else { return Ok(false) };
            let index = node.next;
            node.next += 1;
            if index < node.cells {
                let mut cell = node.cell(index)?;
                if node.is_leaf {
                    let length = varint(&mut cell)?;
                    row.number = varint(&mut cell)? as i64;
                    let local = local(length, pages.usable()).min(usize::MAX as u64) as usize;
                    let here = cell.get(..local).ok_or_else(|| broken("a cell that is too long for it"))?;
                    row.payload.clear();
                    row.payload.extend_from_slice(here);
                    let first = u32_at(cell, local);
                    node.left = node.left.checked_sub(local).ok_or_else(|| broken("cells one over another"))?;
                    if length > local as u64 {
                        let first = first.ok_or_else(|| broken("a cell that is too long for it"))?;
                        self.read_on(first, length.min(most as u64) as usize, pages, row)?;
                    }
                    row.is_whole = row.payload.len() as u64 == length;
                    return Ok(true);
                }
                let child = u32_at(cell, 0).ok_or_else(|| broken("a cell outside of it"))?;
                self.descend(child, pages)?;
            } else if index == node.cells && !node.is_leaf {
                let child = node.rightmost;
                self.descend(child, pages)?;
            } else {
                self.path.pop();
            }
        }
    }

    /// Reads the pages that a long row goes on in, until it has so many bytes.
    fn read_on(&mut self, first: u32, length: usize, pages: &Pages, row: &mut Row) -> Result<(), Fault> {
        let mut next = first;
        while row.payload.len() < length {
            let page = self.read(next, pages)?;
            let part = pages.usable().min(4 + length - row.payload.len());
            // `usable` is at most the size of a page, and at least 480.
            row.payload.extend_from_slice(&page[4..part]);
            next = u32_at(&page, 0).unwrap_or(0);
        }
        Ok(())
    }
}

/// Bytes of a row of this length that stand in the table itself, on pages with so many usable bytes.
fn local(length: u64, usable: usize) -> u64 {
    let usable = usable as u64;
    let most = usable - 35;
    if length <= most {
        return length;
    }
    let least = (usable - 12) * 32 / 255 - 23;
    let filling = least + (length - least) % (usable - 4);
    if filling <= most { filling } else { least }
}

/// Takes a number of 1 to 9 bytes from the front.
fn varint(bytes: &mut &[u8]) -> Result<u64, Fault> {
    let mut number = 0;
    for i in 0..9 {
        let (first, rest) = bytes.split_first().ok_or_else(|| broken("a number that is cut off"))?;
        *bytes = rest;
        if i == 8 {
            return Ok(number << 8 | u64::from(*first));
        }
        number = number << 7 | u64::from(first & 0x7f);
        if first & 0x80 == 0 {
            break;
        }
    }
    Ok(number)
}

/// What stands in a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'r> {
    Null,
    Integer(i64),
    Float,
    /// Text or a blob; of a row that was not read to its end perhaps only the beginning.
    Bytes(&'r [u8]),
}

impl Row {
    /// What stands in the column of this index. Columns that were added to the table later than the row have nothing.
    pub(super) fn column(&self, index: usize) -> Result<Value<'_>, Fault> {
        let mut header = &self.payload[..];
        let length = varint(&mut header)?;
        let taken = self.payload.len() - header.len();
        let end = usize::try_from(length).ok().filter(|end| *end >= taken && *end <= self.payload.len());
        let end = end.ok_or_else(|| broken("a row without a header"))?;
        header = &self.payload[taken..end];
        let mut start = end;
        for _ in 0..index {
            if header.is_empty() {
                return Ok(Value::Null);
            }
            let length = usize::try_from(size(varint(&mut header)?)?).unwrap_or(usize::MAX);
            start = start.saturating_add(length);
        }
        if header.is_empty() {
            return Ok(Value::Null);
        }
        let code = varint(&mut header)?;
        let length = usize::try_from(size(code)?).unwrap_or(usize::MAX);
        let bytes = match self.payload.get(start..start.saturating_add(length)) {
            Some(bytes) => bytes,
            None if !self.is_whole => self.payload.get(start..).unwrap_or_default(),
            None => return Err(broken("a row that is shorter than it says")),
        };
        Ok(match code {
            0 => Value::Null,
            1..=6 => {
                let sign = bytes.first().map_or(0, |first| i64::from(*first as i8) >> 7);
                Value::Integer(bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte)))
            }
            7 => Value::Float,
            8 | 9 => Value::Integer(code as i64 - 8),
            _ => Value::Bytes(bytes),
        })
    }
}

/// Bytes of a value whose kind has this code.
fn size(code: u64) -> Result<u64, Fault> {
    match code {
        0 | 8 | 9 => Ok(0),
        1..=4 => Ok(code),
        5 => Ok(6),
        6 | 7 => Ok(8),
        10 | 11 => Err(broken("a value of a kind that is not known")),
        // Blobs are even, text is odd.
        _ => Ok((code - 12) / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_one_to_nine_bytes() {
        for (bytes, number) in [
            (&[0][..], 0),
            (&[0x7f], 127),
            (&[0x81, 0], 128),
            (&[0x82, 0x01, 7], 257),
            (&[0xff; 9], u64::MAX),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 5], 5),
        ] {
            let mut rest = bytes;
            assert_eq!(varint(&mut rest).ok(), Some(number), "{bytes:?}");
            assert_eq!(rest, if number == 257 { &[7][..] } else { &[] });
        }
        assert!(varint(&mut &[0x80, 0x80][..]).is_err());
    }

    #[test]
    fn columns_are_read_by_their_kind() {
        let payload = [&[8, 0, 9, 1, 2, 15, 16, 7][..], &[0xff], &[1, 0], b"t", b"bb", &[0; 8]].concat();
        let row = Row { number: 1, payload, is_whole: true };
        let expected = [
            Value::Null,
            Value::Integer(1),
            Value::Integer(-1),
            Value::Integer(256),
            Value::Bytes(b"t"),
            Value::Bytes(b"bb"),
            Value::Float,
            Value::Null,
        ];
        for (index, value) in expected.into_iter().enumerate() {
            assert_eq!(row.column(index).ok(), Some(value), "column {index}");
        }
        let short = Row { payload: vec![2, 23], ..row };
        assert!(short.column(0).is_err());
        assert_eq!(Row { is_whole: false, ..short }.column(0).ok(), Some(Value::Bytes(b"")));
    }
}
