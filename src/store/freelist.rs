//! Which pages of the file LMDB uses and which are free, read from the file itself: the bindings offer no way to ask.
//!
//! LMDB keeps the numbers of free pages in a B-tree of its own, whose root stands in the meta pages: for each transaction that
//! freed pages one record, a list of page numbers led by its length. While the caller's read transaction is open, none of the
//! pages of that tree can be overwritten. Anything unexpected yields `None`: a figure is missing then, nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;

const HEADER: usize = 16;
const MAGIC: u32 = 0xBEEF_C0DE;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const BIG_DATA: u16 = 0x01;
const NO_PAGE: u64 = u64::MAX;

/// Free pages, and the pages that the list of them takes itself, as of transaction `txn`.
pub fn free_pages(file: &File, page_size: usize, txn: u64) -> Option<(u64, u64)> {
    let reader = Reader { file, page_size };
    let meta = reader.newest_meta(txn)?;
    let mut free = 0;
    reader.each_list(&meta, &mut |list| {
        free = list.length.checked_add(free)?;
        Some(())
    })?;
    Some((free, meta.pages))
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

struct Meta {
    txn: u64,
    /// Where the tree of free pages begins, and its size.
    root: u64,
    pages: u64,
    /// The highest page that is or was in use.
    last_page: u64,
}

/// One list of free pages: its length, and where its numbers stand in the file.
struct List {
    length: u64,
    at: u64,
}

struct Reader<'f> {
    file: &'f File,
    page_size: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

impl Reader<'_> {
    fn offset(&self, page: u64) -> Option<u64> {
        page.checked_mul(self.page_size as u64)
    }

    fn page(&self, number: u64) -> Option<Vec<u8>> {
        let mut page = vec![0; self.page_size];
        self.file.read_exact_at(&mut page, self.offset(number)?).ok()?;
        Some(page)
    }

    fn meta(&self, number: u64) -> Option<Meta> {
        // Header, magic, version, address, map size; then the free list's tree: flags and depth, three page counts, entries, root.
        let page = self.page(number)?;
        let tree = HEADER + 24;
        let after_both_trees = tree + 2 * 48;
        if u32_at(&page, HEADER)? != MAGIC {
            return None;
        }
        let pages =
            u64_at(&page, tree + 8)?.checked_add(u64_at(&page, tree + 16)?)?.checked_add(u64_at(&page, tree + 24)?)?;
        Some(Meta {
            txn: u64_at(&page, after_both_trees + 8)?,
            root: u64_at(&page, tree + 40)?,
            pages,
            last_page: u64_at(&page, after_both_trees)?,
        })
    }

    /// What stands in the newer meta page, or in the older when a transaction after `txn` wrote the newer.
    fn newest_meta(&self, txn: u64) -> Option<Meta> {
        let metas = [0, 1].into_iter().filter_map(|number| self.meta(number));
        metas.filter(|meta| meta.txn <= txn).max_by_key(|meta| meta.txn)
    }

    fn each_list(&self, meta: &Meta, each: &mut dyn FnMut(List) -> Option<()>) -> Option<()> {
        let mut budget = meta.pages.saturating_add(1);
        if meta.root == NO_PAGE { Some(()) } else { self.walk(meta.root, 0, &mut budget, each) }
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
            // A node: size or child page (4), flags or its upper part (2), key length (2), key, data.
            let node = usize::from(u16_at(&page, HEADER + 2 * i)?);
            let (low, upper, key) =
                (u32_at(&page, node)?, u16_at(&page, node + 4)?, usize::from(u16_at(&page, node + 6)?));
            let data = node + 8 + key;
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
