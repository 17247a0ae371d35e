//! Walking the ranges of an index: places in it that outlive a transaction, and postings read ahead.

use std::cmp::Ordering;
use std::ops::Bound;

use heed::RoTxn;

use super::keys::{self, Index, Posting, Short};
use super::{Store, StoreError, damaged_key};
use crate::nostr::Filter;

/// The direction of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// `created_at` descending, then id ascending: the order of NIP-01.
    NewestFirst,
    /// The exact reverse: `created_at` ascending, then id descending.
    OldestFirst,
}

/// The part of the time line a filter asks for, as indices see it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub since: u32,
    pub until: u32,
}

impl Window {
    pub fn of(filter: &Filter) -> Window {
        Window {
            since: keys::index_time(filter.since.unwrap_or(0)),
            until: keys::index_time(filter.until.unwrap_or(u64::MAX)),
        }
    }
}

/// A place in one range of an index. It holds no transaction: it remembers the last posting it read and seeks there anew.
#[derive(Debug)]
pub struct Cursor {
    index: Index,
    prefix: Short,
    window: Window,
    order: Order,
    last: Option<Posting>,
}

impl Cursor {
    pub fn new(index: Index, prefix: Short, window: Window, order: Order) -> Cursor {
        Cursor { index, prefix, window, order, last: None }
    }

    /// Reads up to `count` further postings; fewer only when the range is at its end.
    ///
    /// LMDB is asked for the bucket; what comes before the place inside that bucket is stepped over.
    pub fn read(&mut self, store: &Store, txn: &RoTxn<'_>, count: usize) -> Result<Vec<Posting>, StoreError> {
        let Window { mut since, mut until } = self.window;
        match (self.order, self.last) {
            (Order::NewestFirst, Some(last)) => until = until.min(last.time()),
            (Order::OldestFirst, Some(last)) => since = since.max(last.time()),
            (_, None) => {}
        }
        let mut found = Vec::new();
        if since > until {
            return Ok(found);
        }
        let start = keys::time_key(self.index, &self.prefix, since);
        // Excluded, because heed loses duplicates when a reverse range includes its end.
        let end = keys::time_key(self.index, &self.prefix, until).successor();
        let range =
            (Bound::Included(&start[..]), end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..])));
        let table = store.tables().index(self.index);
        match self.order {
            Order::NewestFirst => self.collect(table.rev_range(txn, &range)?, count, &mut found)?,
            Order::OldestFirst => self.collect(table.range(txn, &range)?, count, &mut found)?,
        }
        if let Some(last) = found.last() {
            self.last = Some(*last);
        }
        Ok(found)
    }

    /// Whether the two ranges belong to one author, or to one value of a tag.
    fn is_beside(&self, other: &Cursor) -> bool {
        /// What an author's or a tag's keys begin with; times and kinds have shorter prefixes.
        const STEM: usize = 7;
        let stem = self.prefix.get(..STEM);
        stem.is_some() && stem == other.prefix.get(..STEM)
    }

    fn collect<'t>(
        &self,
        entries: impl Iterator<Item = heed::Result<(&'t [u8], &'t [u8])>>,
        count: usize,
        found: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        for entry in entries {
            let (key, value) = entry?;
            let posting = self.posting(key, value)?;
            match self.side(&posting) {
                Side::Before => {}
                Side::Within => found.push(posting),
                Side::Past => break,
            }
            if found.len() == count {
                break;
            }
        }
        Ok(())
    }

    fn posting(&self, key: &[u8], value: &[u8]) -> Result<Posting, StoreError> {
        Posting::read(self.index, key, value).ok_or_else(|| damaged_key("postings"))
    }

    /// Where a posting of its range stands in relation to what it has still to read.
    fn side(&self, posting: &Posting) -> Side {
        let time = posting.time();
        let (before, past) = match self.order {
            Order::NewestFirst => {
                let seen = self.last.is_some_and(|last| *posting >= last);
                (time > self.window.until || seen, time < self.window.since)
            }
            Order::OldestFirst => {
                let seen = self.last.is_some_and(|last| *posting <= last);
                (time < self.window.since || seen, time > self.window.until)
            }
        };
        if past {
            Side::Past
        } else if before {
            Side::Before
        } else {
            Side::Within
        }
    }

    /// The same for a key of its table, by what it begins with.
    fn side_of_key(&self, key: &[u8]) -> Side {
        let start = key.get(..self.prefix.len()).unwrap_or(key);
        let rank = start.cmp(&self.prefix);
        match (self.order, rank) {
            (_, Ordering::Equal) => Side::Within,
            (Order::NewestFirst, Ordering::Greater) | (Order::OldestFirst, Ordering::Less) => Side::Before,
            (Order::NewestFirst, Ordering::Less) | (Order::OldestFirst, Ordering::Greater) => Side::Past,
        }
    }
}

/// Where something stands on a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    Within,
    Past,
}

/// A range and the postings read from it in advance. Reading ahead costs 16 ns an entry, opening the range anew
/// near 1 µs and, inside a crowded bucket, more.
#[derive(Debug)]
pub struct Stream {
    cursor: Cursor,
    /// Read and not yet taken, the next one last.
    ahead: Vec<Posting>,
    /// How many to read next time.
    chunk: usize,
    max_chunk: usize,
    ended: bool,
}

/// Entries that nobody asked for and that are stepped over on the way to the next range: they cost about as much as going there.
const STEPPED_OVER: usize = 8;

impl Stream {
    /// A stream that reads `chunk` postings at first, and up to `max_chunk` later.
    pub fn new(cursor: Cursor, chunk: usize, max_chunk: usize) -> Stream {
        Stream { cursor, ahead: Vec::new(), chunk: chunk.min(max_chunk), max_chunk, ended: false }
    }

    /// Bytes that it holds beside itself.
    pub fn memory(&self) -> usize {
        self.ahead.capacity() * size_of::<Posting>()
    }

    /// Takes the next posting. Entries walked and places sought are added to `walked`.
    pub fn next(&mut self, store: &Store, txn: &RoTxn<'_>, walked: &mut u64) -> Result<Option<Posting>, StoreError> {
        if self.ahead.is_empty() && !self.ended {
            let found = self.cursor.read(store, txn, self.chunk)?;
            *walked += found.len() as u64 + 1;
            let ended = found.len() < self.chunk;
            self.take_in(found, ended);
        }
        Ok(self.ahead.pop())
    }

    fn take_in(&mut self, mut found: Vec<Posting>, ended: bool) {
        if let Some(last) = found.last() {
            self.cursor.last = Some(*last);
        }
        found.reverse();
        self.ahead = found;
        self.ended = ended;
        self.chunk = (self.chunk * 4).min(self.max_chunk);
    }

    /// Reads the first postings of streams in the order of their prefixes, where ranges stand side by side: those of one author, or of
    /// one value of a tag, a kind each. Mostly one walk sees several of them to their end. A range that it does not come to is left
    /// to [`Stream::next`].
    pub fn open(streams: &mut [Stream], store: &Store, txn: &RoTxn<'_>, walked: &mut u64) -> Result<(), StoreError> {
        for group in streams.chunk_by_mut(|a, b| a.cursor.is_beside(&b.cursor)) {
            if let [first, .., last] = &*group {
                let Cursor { index, order, window, .. } = first.cursor;
                if window.since > window.until {
                    continue;
                }
                let start = keys::time_key(index, &first.cursor.prefix, window.since);
                let end = keys::time_key(index, &last.cursor.prefix, window.until).successor();
                let end = end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
                let range = (Bound::Included(&start[..]), end);
                let table = store.tables().index(index);
                *walked += 1;
                match order {
                    Order::NewestFirst => walk(table.rev_range(txn, &range)?, group.iter_mut().rev(), walked)?,
                    Order::OldestFirst => walk(table.range(txn, &range)?, group.iter_mut(), walked)?,
                }
            }
        }
        Ok(())
    }
}

/// Fills the streams, which come in the order of the walk, each to its first chunk or its end, as far as the walk serves.
fn walk<'t, 's>(
    entries: impl Iterator<Item = heed::Result<(&'t [u8], &'t [u8])>>,
    mut streams: impl Iterator<Item = &'s mut Stream>,
    walked: &mut u64,
) -> Result<(), StoreError> {
    let Some(mut stream) = streams.next() else { return Ok(()) };
    let (mut found, mut stepped_over) = (Vec::new(), 0);
    for entry in entries {
        let (key, value) = entry?;
        *walked += 1;
        let mut side = stream.cursor.side_of_key(key);
        while side == Side::Past {
            stream.take_in(std::mem::take(&mut found), true);
            let Some(next) = streams.next() else { return Ok(()) };
            stream = next;
            side = stream.cursor.side_of_key(key);
        }
        if side == Side::Within {
            let posting = stream.cursor.posting(key, value)?;
            side = stream.cursor.side(&posting);
            if side == Side::Within {
                found.push(posting);
                // What follows may be long, and is read when it is wanted.
                if found.len() == stream.chunk {
                    stream.take_in(found, false);
                    return Ok(());
                }
                continue;
            }
        }
        // Before the next range, or what its window leaves out. Of a range of which something was found the window leaves out the end alone.
        stepped_over += 1;
        if stepped_over > STEPPED_OVER {
            if !found.is_empty() {
                stream.take_in(found, side == Side::Past);
            }
            return Ok(());
        }
    }
    stream.take_in(found, true);
    streams.for_each(|stream| stream.take_in(Vec::new(), true));
    Ok(())
}
