//! How many pages LMDB holds in reserve, read from the file itself: the bindings offer no way to ask.
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
    let meta = [0, 1]
        .into_iter()
        .filter_map(|number| reader.meta(number))
        .filter(|meta| meta.txn <= txn)
        .max_by_key(|meta| meta.txn)?;
    if meta.root == NO_PAGE {
        return Some((0, 0));
    }
    let mut budget = meta.pages + 1;
    Some((reader.count(meta.root, 0, &mut budget)?, meta.pages))
}

struct Meta {
    txn: u64,
    root: u64,
    pages: u64,
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
    fn page(&self, number: u64) -> Option<Vec<u8>> {
        let mut page = vec![0; self.page_size];
        self.file.read_exact_at(&mut page, number.checked_mul(self.page_size as u64)?).ok()?;
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
        let pages = u64_at(&page, tree + 8)? + u64_at(&page, tree + 16)? + u64_at(&page, tree + 24)?;
        Some(Meta { txn: u64_at(&page, after_both_trees + 8)?, root: u64_at(&page, tree + 40)?, pages })
    }

    /// Sums the lengths of all lists below page `number`. `budget` is how many pages the tree has; a loop would exceed it.
    fn count(&self, number: u64, depth: usize, budget: &mut u64) -> Option<u64> {
        *budget = budget.checked_sub(1)?;
        let page = self.page(number)?;
        let flags = u16_at(&page, 10)?;
        let nodes = usize::from(u16_at(&page, 12)?).checked_sub(HEADER)? / 2;
        let mut sum = 0;
        for i in 0..nodes {
            // A node: size or child page (4), flags or its upper part (2), key length (2), key, data.
            let node = usize::from(u16_at(&page, HEADER + 2 * i)?);
            let (low, upper, key) =
                (u32_at(&page, node)?, u16_at(&page, node + 4)?, usize::from(u16_at(&page, node + 6)?));
            let data = node + 8 + key;
            if flags & LEAF != 0 {
                sum += if upper & BIG_DATA != 0 {
                    u64_at(&self.page(u64_at(&page, data)?)?, HEADER)?
                } else {
                    u64_at(&page, data)?
                };
            } else if flags & BRANCH != 0 && depth < 32 {
                sum += self.count(u64::from(low) | u64::from(upper) << 32, depth + 1, budget)?;
            } else {
                return None;
            }
        }
        Some(sum)
    }
}
