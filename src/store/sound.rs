//! Whether the pages of the file are what LMDB takes them for: looked through before LMDB is let loose on a file in doubt, because
//! it ends the process at the first that is not.

use std::fs::File;
use std::ops::ControlFlow;

use super::file::{BIG_DATA, BRANCH, HEADER, LEAF, Meta, NO_PAGE, NODE, Reader, Tree, u16_at, u32_at, u64_at};

/// Flags of pages: a run of pages for one long value, keys of one length without nodes, a page within a page.
const OVERFLOW: u16 = 0x04;
const FIXED: u16 = 0x20;
const WITHIN: u16 = 0x40;
/// Flags that LMDB uses in memory only.
const IN_MEMORY: u16 = 0x10 | 0x4000 | 0x8000;

/// Flags of nodes: the data is the root of a tree, the data is duplicates.
const TREE: u16 = 0x02;
const DUPLICATES: u16 = 0x04;

/// No tree is so high: with two children a page it would have more pages than there are numbers.
const HIGHEST: u16 = 64;

/// How often to try again with a later transaction. Somebody commits twice within microseconds each time, if it is not enough.
pub const TRIES: usize = 100;

/// How far to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At the list of tables and at the one that is read first: a few pages.
    Tables,
    /// At all pages in use.
    Everything,
}

/// Who is told what is found, and how far it is.
pub trait Watch {
    /// A sentence about a page that is not as it should be.
    fn fault(&mut self, text: String);

    /// So many pages were met; may end it.
    fn met(&mut self, pages: u64) -> ControlFlow<()>;
}

/// How many pages are met between two calls of [`Watch::met`].
const STEP: u64 = 1024;

/// Tells `watch` of each page that is not as it should be as of transaction `txn`. False when nothing was looked at:
/// the two transactions after `txn` have taken both meta pages, and a later transaction has to be asked for.
pub fn check(file: &File, page_size: usize, txn: u64, depth: Depth, watch: &mut dyn Watch) -> bool {
    let reader = Reader { file, page_size };
    let Some(meta) = reader.newest_meta(txn) else { return false };
    let Some(words) =
        file.metadata().ok().and_then(|file| usize::try_from(file.len() / page_size as u64 / 64 + 1).ok())
    else {
        watch.fault("the file's length is not known".to_owned());
        return true;
    };
    let (seen, last_page) = (vec![0; words], meta.last_page);
    let mut check = Check { reader, seen, met: 0, ended: false, last_page, depth, watch };
    let Meta { free, main, .. } = meta;
    if depth == Depth::Everything {
        check.tree("the list of free pages", &free);
    }
    check.tree("the list of tables", &main);
    true
}

struct Check<'c> {
    reader: Reader<'c>,
    /// A bit for each page that was met.
    seen: Vec<u64>,
    /// How many are.
    met: u64,
    /// Nobody wants to know more.
    ended: bool,
    last_page: u64,
    depth: Depth,
    watch: &'c mut dyn Watch,
}

impl Check<'_> {
    fn tree(&mut self, name: &str, tree: &Tree) {
        if tree.root == NO_PAGE {
            return;
        }
        if tree.depth == 0 || tree.depth > HIGHEST {
            self.watch.fault(format!("{name} has a root that is damaged"));
        } else {
            self.visit(name, tree.root, tree.depth);
        }
    }

    /// Whether this page is met for the first time and can be there.
    fn meet(&mut self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|word| self.seen.get_mut(word));
        let bit = 1 << (number % 64);
        match word {
            Some(word) if number >= 2 && number <= self.last_page && *word & bit == 0 => {
                *word |= bit;
                self.met += 1;
                if self.met.is_multiple_of(STEP) {
                    self.ended |= self.watch.met(self.met).is_break();
                }
                true
            }
            _ => false,
        }
    }

    /// Looks at a page that stands so many levels above the leaves, 1 for a leaf, and at all below it.
    fn visit(&mut self, name: &str, number: u64, level: u16) {
        if self.ended {
            return;
        }
        let page = if self.meet(number) { self.reader.page(number) } else { None };
        let sound = page.as_deref().and_then(|page| {
            if u64_at(page, 0)? != number {
                return None;
            }
            self.contents(name, page, level)
        });
        if sound.is_none() {
            self.watch.fault(format!("page {number} of {name} is damaged"));
        }
    }

    /// `None` when the page is not as it should be. What is wrong with pages below it is told on the way.
    fn contents(&mut self, name: &str, page: &[u8], level: u16) -> Option<()> {
        let flags = u16_at(page, 10)? & !IN_MEMORY;
        if level > 1 {
            let children = nodes(page, flags, BRANCH)?;
            // A single child is allowed in the list of free pages only.
            if children.is_empty() {
                return None;
            }
            for node in children {
                let child = u64::from(u32_at(page, node.at)?) | u64::from(node.flags) << 32;
                self.visit(name, child, level - 1);
            }
            return Some(());
        }
        if flags & FIXED != 0 {
            return fixed(page, flags & !FIXED);
        }
        for node in nodes(page, flags, LEAF)? {
            self.value(name, page, &node)?;
        }
        Some(())
    }

    /// Looks at what a node of a leaf holds.
    fn value(&mut self, name: &str, page: &[u8], node: &Node) -> Option<()> {
        let (data, size) = (node.at + NODE + node.key, u32_at(page, node.at)? as usize);
        if node.flags & BIG_DATA != 0 {
            let first = u64_at(page, data)?;
            self.run(first, size).unwrap_or_else(|| self.watch.fault(format!("page {first} of {name} is damaged")));
            return Some(());
        }
        let bytes = page.get(data..data.checked_add(size)?)?;
        match node.flags & (TREE | DUPLICATES) {
            0 => Some(()),
            // The root of a table stands under the table's name.
            TREE => {
                let key = String::from_utf8_lossy(page.get(node.at + NODE..data)?).into_owned();
                let (key, tree) = (key.trim_end_matches('\0'), Tree::read(bytes, 0)?);
                if self.depth == Depth::Everything || key == "meta" {
                    self.tree(&format!("table {key}"), &tree);
                }
                Some(())
            }
            DUPLICATES => {
                let flags = u16_at(bytes, 10)? & !IN_MEMORY;
                if flags & WITHIN == 0 {
                    None
                } else if flags & FIXED != 0 {
                    fixed(bytes, flags & !FIXED & !WITHIN)
                } else {
                    nodes(bytes, flags & !WITHIN, LEAF).map(drop)
                }
            }
            _ => {
                self.tree(name, &Tree::read(bytes, 0)?);
                Some(())
            }
        }
    }

    /// Looks at the run of pages of a long value.
    fn run(&mut self, first: u64, size: usize) -> Option<()> {
        if self.ended {
            return Some(());
        }
        let page = if self.meet(first) { self.reader.page(first)? } else { return None };
        let pages = u64::from(u32_at(&page, 12)?);
        let whole = u64_at(&page, 0)? == first
            && u16_at(&page, 10)? & !IN_MEMORY == OVERFLOW
            && self.reader.offset(pages)? >= (HEADER + size) as u64;
        // Each of them is met, and none twice.
        (whole && (1..pages).all(|next| self.meet(first.saturating_add(next)))).then_some(())
    }
}

struct Node {
    at: usize,
    flags: u16,
    key: usize,
}

/// The nodes of a page of this kind; `None` when one of them does not lie on it.
fn nodes(page: &[u8], flags: u16, kind: u16) -> Option<Vec<Node>> {
    let (lower, upper) = (usize::from(u16_at(page, 12)?), usize::from(u16_at(page, 14)?));
    if flags != kind || lower < HEADER || lower > upper || upper > page.len() {
        return None;
    }
    (HEADER..lower - lower % 2)
        .step_by(2)
        .map(|slot| {
            let at = usize::from(u16_at(page, slot)?);
            let node = Node { at, flags: u16_at(page, at + 4)?, key: usize::from(u16_at(page, at + 6)?) };
            let fits = at >= upper && at % 2 == 0 && at + NODE + node.key <= page.len();
            fits.then_some(node)
        })
        .collect()
}

/// A page of keys of one length, which stands in the place of padding.
fn fixed(page: &[u8], flags: u16) -> Option<()> {
    let (length, lower) = (usize::from(u16_at(page, 8)?), usize::from(u16_at(page, 12)?));
    let keys = lower.checked_sub(HEADER)? / 2;
    (flags == LEAF && length > 0 && HEADER + keys * length <= page.len()).then_some(())
}
