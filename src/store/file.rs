//! The file as LMDB wrote it, read without LMDB: meta pages, and the numbers on any page.
//!
//! LMDB trusts its file: what is not as it should be ends the process, by an assertion or by the system. What is read here is
//! checked, and `None` when it cannot be had. While a read transaction is open, no page that it could see is overwritten.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes at the head of each page.
pub const HEADER: usize = 16;
/// Bytes at the head of each node: size or child page (4), flags or the child's upper part (2), key length (2).
pub const NODE: usize = 8;

pub const BRANCH: u16 = 0x01;
pub const LEAF: u16 = 0x02;
pub const BIG_DATA: u16 = 0x01;
pub const NO_PAGE: u64 = u64::MAX;

const MAGIC: u32 = 0xBEEF_C0DE;

/// What a meta page says.
pub struct Meta {
    /// The transaction that wrote it.
    pub txn: u64,
    /// The tree of free pages, and the tree of tables.
    pub free: Tree,
    pub main: Tree,
    /// The highest page that is or was in use.
    pub last_page: u64,
}

/// The root of a tree.
pub struct Tree {
    /// Levels of pages.
    pub depth: u16,
    /// Pages it has.
    pub pages: u64,
    /// [`NO_PAGE`] when it is empty.
    pub root: u64,
}

impl Tree {
    pub const BYTES: usize = 48;

    /// Reads one: padding (4), flags (2), depth (2), branch, leaf and overflow pages, entries, root (8 each).
    pub fn read(bytes: &[u8], at: usize) -> Option<Tree> {
        let pages = [8, 16, 24].into_iter().try_fold(0u64, |sum, field| sum.checked_add(u64_at(bytes, at + field)?))?;
        Some(Tree { depth: u16_at(bytes, at + 6)?, pages, root: u64_at(bytes, at + 40)? })
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

/// A database file.
pub struct Reader<'f> {
    pub file: &'f File,
    pub page_size: usize,
}

impl Reader<'_> {
    pub fn offset(&self, page: u64) -> Option<u64> {
        page.checked_mul(self.page_size as u64)
    }

    pub fn page(&self, number: u64) -> Option<Vec<u8>> {
        let mut page = vec![0; self.page_size];
        self.file.read_exact_at(&mut page, self.offset(number)?).ok()?;
        Some(page)
    }

    fn meta(&self, number: u64) -> Option<Meta> {
        // Header, magic, version, address, map size; then both trees, the last page, the transaction.
        let page = self.page(number)?;
        let trees = HEADER + 24;
        let behind = trees + 2 * Tree::BYTES;
        if u32_at(&page, HEADER)? != MAGIC {
            return None;
        }
        Some(Meta {
            txn: u64_at(&page, behind + 8)?,
            free: Tree::read(&page, trees)?,
            main: Tree::read(&page, trees + Tree::BYTES)?,
            last_page: u64_at(&page, behind)?,
        })
    }

    /// What stands in the newer meta page, or in the older when a transaction after `txn` wrote the newer.
    pub fn newest_meta(&self, txn: u64) -> Option<Meta> {
        let metas = [0, 1].into_iter().filter_map(|number| self.meta(number));
        metas.filter(|meta| meta.txn <= txn).max_by_key(|meta| meta.txn)
    }
}
