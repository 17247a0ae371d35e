//! Which pages of the file LMDB uses and which are free, read from the file itself: the bindings offer no way to ask.
//!
//! LMDB keeps the numbers of free pages in a B-tree of its own, whose root stands in the meta pages: for each transaction that
//! freed pages one record, a list of page numbers led by its length. While the caller's read transaction is open, none of the
//! pages of that tree can be overwritten. Anything unexpected yields `None`: a figure is missing then, nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::file::{BIG_DATA, BRANCH, HEADER, LEAF, Meta, NO_PAGE, NODE, Reader, u16_at, u32_at, u64_at};

/// Free pages, and the pages that the list of them takes itself, as of transaction `txn`.
pub fn free_pages(file: &File, page_size: usize, txn: u64) -> Option<(u64, u64)> {
    let reader = Reader { file, page_size };
    let meta = reader.newest_meta(txn)?;
    let mut free = 0;
    reader.each_list(&meta, &mut |list| {
        free = list.length.checked_add(free)?;
        Some(())
    })?;
    Some((free, meta.free.pages))
}

/// How many bytes the file should have as of transaction `txn`, when it is cut off. Touching what is not there would end the process.
pub fn cut_off(file: &File, page_size: usize, txn: u64) -> Option<u64> {
    let reader = Reader { file, page_size };
    let meta = reader.newest_meta(txn)?;
    // The length comes last: beside a writer it can only have grown.
    let there = file.metadata().ok()?.len() / page_size as u64;
    let missing = meta.last_page.checked_add(1)?.checked_sub(there).filter(|missing| *missing > 0)?;
    // A page that one transaction took and gave back was never written, so what is missing may be free.
    let mut free = 0;
    let read = reader.each_list(&meta, &mut |list| {
        free += reader.numbers(list)?.iter().filter(|number| **number >= there).count() as u64;
        Some(())
    });
    (read.is_none() || free < missing).then_some((meta.last_page + 1).saturating_mul(page_size as u64))
}

/// One list of free pages: its length, and where its numbers stand in the file.
struct List {
    length: u64,
    at: u64,
}

impl Reader<'_> {
    fn each_list(&self, meta: &Meta, each: &mut dyn FnMut(List) -> Option<()>) -> Option<()> {
        let mut budget = meta.free.pages.saturating_add(1);
        if meta.free.root == NO_PAGE { Some(()) } else { self.walk(meta.free.root, 0, &mut budget, each) }
    }

    /// Visits all lists below page `number`. `budget` is how many pages the tree has; a loop would exceed it.
    fn walk(
        &self,
        number: u64,
        depth: usize,
        budget: &mut u64,
        each: &mut dyn FnMut(List) -> Option<()>,
    ) -> Option<()> {
        *budget = budget.checked_sub(1)?;
        let page = self.page(number)?;
        let flags = u16_at(&page, 10)?;
        let nodes = usize::from(u16_at(&page, 12)?).checked_sub(HEADER)? / 2;
        for i in 0..nodes {
            let node = usize::from(u16_at(&page, HEADER + 2 * i)?);
            let (low, upper, key) =
                (u32_at(&page, node)?, u16_at(&page, node + 4)?, usize::from(u16_at(&page, node + 6)?));
            let data = node + NODE + key;
            if flags & LEAF != 0 {
                // A list: its length, then the numbers. A long one has pages of its own.
                each(if upper & BIG_DATA != 0 {
                    let own = u64_at(&page, data)?;
                    List { length: u64_at(&self.page(own)?, HEADER)?, at: self.offset(own)? + HEADER as u64 + 8 }
                } else {
                    List { length: u64_at(&page, data)?, at: self.offset(number)? + data as u64 + 8 }
                })?;
            } else if flags & BRANCH != 0 && depth < 32 {
                self.walk(u64::from(low) | u64::from(upper) << 32, depth + 1, budget, each)?;
            } else {
                return None;
            }
        }
        Some(())
    }

    fn numbers(&self, list: List) -> Option<Vec<u64>> {
        // No list is longer than the file.
        let length = usize::try_from(list.length.checked_mul(8)?).ok()?;
        if length as u64 > self.file.metadata().ok()?.len() {
            return None;
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, list.at).ok()?;
        bytes.chunks_exact(8).map(|number| u64_at(number, 0)).collect()
    }
}
