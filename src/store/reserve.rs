//! Room set aside, so that a full database can still be made smaller.
//!
//! LMDB changes no page in place: each transaction writes copies, and the pages it replaces can be used again only by the
//! transaction after the next. So when neither the disk nor the map has a page left, not even a removal fits. The table
//! `reserve` therefore holds blank pages. It grows with the database; a removal that needs pages takes them from it and puts them
//! back when it is done. What is stored in the ordinary way never gets at them.

use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::time::Duration;

use heed::RwTxn;

use super::apply::Batch;
use super::{Store, StoreError, next_seq, write_next_seq};

/// Bytes set aside in a large database: enough to remove an event with some hundred tags, each in a page of its own.
const MOST_BYTES: usize = 4 << 20;

/// In a small one, one page in so many.
const SHARE: usize = 8;

/// Pages that may be missing before it is worth a transaction.
const SLACK: u64 = 32;

/// Pages given back in one step. LMDB notes them in a record of its own, which must not become so long that it needs
/// pages side by side.
const STEP: u64 = 128;

/// Pages that drawing on the reserve itself takes, and more: copies of those on the way to its last entry, to the root of all tables and
/// to the list of free pages.
const FIRST: u64 = 16;

/// Storing an event takes copies of pages in each table, and leaves as many for the next but one. So many pages, within these bounds
/// half as many as in the reserve, count as room.
const ROOM: RangeInclusive<u64> = 64..=512;

/// Bytes by which the file can grow, where it is far from full.
const ROOMY: u64 = 64 << 20;

/// When not even so few removals fit, the reserve is drawn on.
const FEW: usize = 16;

/// How long readers hold on to pages, and how often to wait so long.
const READERS_TURN: Duration = Duration::from_millis(10);
const PATIENCE: u32 = 200;

/// LMDB's bytes at the head of a page.
const PAGE_HEADER: usize = 16;

/// The largest page of any host.
const LARGEST_PAGE: usize = 64 << 10;

impl Store {
    pub(super) fn page_size(&self) -> usize {
        self.env().unnamed_database_stat().page_size as usize
    }

    /// How many pages the reserve should have.
    fn reserve_wanted(&self) -> u64 {
        let used = self.env().info().last_page_number + 1;
        (used / SHARE).min(MOST_BYTES / self.page_size()) as u64
    }

    fn room(&self) -> u64 {
        (self.reserve_wanted() / 2).clamp(*ROOM.start(), *ROOM.end())
    }

    fn reserve_pages(&self) -> Result<u64, StoreError> {
        let txn = self.read()?;
        Ok(self.tables().reserve.len(&txn)?)
    }

    /// Whether the database has outgrown its reserve. Costs a look at a counter.
    pub fn reserve_is_short(&self) -> Result<bool, StoreError> {
        Ok(self.reserve_wanted() >= self.reserve_pages()? + SLACK)
    }

    /// Fills the reserve up in a transaction of its own, as far as there are pages; those that storing an event takes are left.
    pub fn fill_reserve(&self) -> Result<(), StoreError> {
        let pages = self.reserve_pages()?;
        let wanted = self.reserve_wanted().min(pages + self.pages_left()?.saturating_sub(2 * self.room())).max(pages);
        if wanted == pages && self.free_pages()? >= FIRST {
            return Ok(());
        }
        // What grew the file left next to nothing that is free, and the disk may be filled up by others before the next commit: a few pages
        // are given back at once, and made usable, because no page can be drawn from the reserve without some.
        let grown = self.write(|txn| resize(self, txn, wanted + FIRST));
        let given =
            grown.and_then(|()| self.write(|txn| resize(self, txn, wanted))).and_then(|()| self.age_free_pages());
        match given {
            // A reader came between, or another process was faster. It is tried again.
            Err(StoreError::Full) => Ok(()),
            written => written,
        }
    }

    /// Whether a database that was full has room again. If it has, an event can be stored at once: this makes the two commits after
    /// which everything that is free can be used, and shows by the way that writing works.
    pub fn has_room(&self) -> Result<bool, StoreError> {
        let room = self.pages_left()? >= self.room();
        if room {
            self.age_free_pages()?;
        }
        Ok(room)
    }

    /// Whether there is room for what need not be done now.
    pub(super) fn is_roomy(&self) -> bool {
        let wanted = ROOMY / self.page_size() as u64;
        let disk = rustix::fs::statvfs(self.path());
        self.growth_within_map() >= wanted
            && disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOMY)
    }

    /// By how many pages the file can grow, the disk permitting.
    fn growth_within_map(&self) -> u64 {
        let info = self.env().info();
        (info.map_size / self.page_size()).saturating_sub(info.last_page_number + 1) as u64
    }

    /// How many pages can be written: free ones, and those by which the file can grow within the map and on its disk.
    fn pages_left(&self) -> Result<u64, StoreError> {
        let free = self.free_pages()?;
        let used = self.env().info().last_page_number as u64 + 1;
        let page = self.page_size() as u64;
        let in_map = self.growth_within_map();
        let growth = match in_map {
            0 => 0,
            // What a write that failed has left behind the last page is there to be used.
            _ if self.disk_is_full() => (self.env().real_disk_size()? / page).saturating_sub(used).min(in_map),
            _ => in_map,
        };
        Ok(free + growth)
    }

    /// Removes up to `most` of something in a transaction: fewer when the database is too full for more, and with the help of the
    /// reserve when it is too full for a few. `work` gets how many it may remove. Returns what it says, and how many that were.
    pub fn remove_some<R>(
        &self,
        now: u64,
        most: usize,
        mut work: impl FnMut(&mut Batch<'_>, usize) -> Result<R, StoreError>,
    ) -> Result<(R, usize), StoreError> {
        let (mut few, mut help, mut patience) = (most, Help::None, PATIENCE);
        let result = loop {
            let worked = self.batch(now).and_then(|mut batch| {
                let result = work(&mut batch, few)?;
                batch.commit()?;
                Ok(result)
            });
            match worked {
                Err(StoreError::Full) if few > FEW => few = (few / 4).max(FEW),
                Err(StoreError::Full) if help == Help::None => {
                    self.age_free_pages()?;
                    help = Help::Aged;
                }
                Err(StoreError::Full) if help != Help::ReserveGone => {
                    help = if self.draw_on_reserve()? { Help::Drawn } else { Help::ReserveGone };
                }
                Err(StoreError::Full) if few > 1 => few /= 2,
                Err(StoreError::Full) if patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(READERS_TURN);
                }
                worked => break worked,
            }
        };
        // Where the file cannot grow, the next to store something needs the very pages that were just freed.
        let drawn = matches!(help, Help::Drawn | Help::ReserveGone);
        if drawn {
            self.age_free_pages()?;
            self.fill_reserve()?;
        } else if help == Help::Aged || self.growth_within_map() < self.room() {
            // What was to be removed is gone, whether this succeeds or not.
            let _ = self.age_free_pages();
        }
        Ok((result?, few))
    }

    /// Takes pages from the reserve. False when there was none any more.
    fn draw_on_reserve(&self) -> Result<bool, StoreError> {
        let mut pages = 0;
        self.write_patiently(&mut |txn| {
            pages = self.tables().reserve.len(txn)?;
            resize(self, txn, pages.saturating_sub(STEP))
        })?;
        self.age_free_pages()?;
        Ok(pages > 0)
    }

    /// Makes two commits: what was replaced before them can be used after them.
    pub fn age_free_pages(&self) -> Result<(), StoreError> {
        for _ in 0..2 {
            // Any change will do.
            self.write_patiently(&mut |txn| write_next_seq(self.tables(), txn, next_seq(self.tables(), txn)?))?;
        }
        Ok(())
    }

    fn write(&self, work: impl FnOnce(&mut RwTxn<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut txn = self.write_txn()?;
        work(&mut txn)?;
        self.commit(txn)
    }

    /// For the smallest of changes, the pages that the commit before the last one replaced are enough, unless a reader still needs
    /// them. Readers take some milliseconds, so this waits for them, but not for ever.
    fn write_patiently(
        &self,
        work: &mut dyn FnMut(&mut RwTxn<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for _ in 0..PATIENCE {
            match self.write(&mut *work) {
                Err(StoreError::Full) => std::thread::sleep(READERS_TURN),
                written => return written,
            }
        }
        self.write(work)
    }
}

/// What was done so that a removal fits into a full database.
#[derive(PartialEq, Eq)]
enum Help {
    None,
    /// All that earlier transactions freed can be used.
    Aged,
    /// The reserve was drawn on.
    Drawn,
    /// It is used up.
    ReserveGone,
}

/// Gives the reserve so many pages. Its keys are the numbers from 0 on, so their number says which there are.
fn resize(store: &Store, txn: &mut RwTxn<'_>, wanted: u64) -> Result<(), StoreError> {
    static BLANK: OnceLock<Vec<u8>> = OnceLock::new();
    let blank = BLANK.get_or_init(|| vec![0; LARGEST_PAGE]);
    let page = &blank[..(store.page_size() - PAGE_HEADER).min(LARGEST_PAGE)];
    let table = store.tables().reserve;
    let key = |number: u64| (number as u32).to_be_bytes();
    let pages = table.len(txn)?;
    for number in pages..wanted {
        table.put(txn, &key(number), page)?;
    }
    for number in (wanted..pages).rev() {
        table.delete(txn, &key(number))?;
    }
    Ok(())
}
