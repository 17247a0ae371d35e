//! Looking after the database: what is in it, and whether its tables agree with each other.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::ops::ControlFlow;

use heed::RoTxn;
use rayon::prelude::*;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::cursor::Order;
use super::keys::{self, Index, Posting, Seq};
use super::prepare::{address_stem, further_stems};
use super::retention::RetentionReport;
use super::scan::{Budget, Progress, Scan};
use super::sound::{Depth, Watch as _};
use super::statistics::Statistics;
use super::{Store, StoreError, find_id, freelist, get_record, next_seq, parts, read_record, sound, tombstone};
use crate::nostr::{Event, EventFields, Filter, Kind, KindClass};

/// What is in the database, mostly from LMDB's own counters: no table is walked.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StoreInfo {
    /// Events stored.
    pub events: u64,
    /// The number the next event will get; how many were ever stored.
    pub next_seq: Seq,
    /// The version of the layout.
    pub schema_version: u32,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Bytes of it that are free and will be used again before the file grows.
    pub free_bytes: u64,
    /// `created_at` of the oldest event.
    pub oldest: Option<u64>,
    /// `created_at` of the newest event.
    pub newest: Option<u64>,
    /// Every table.
    pub tables: Vec<TableInfo>,
    /// Events by kind.
    pub statistics: Statistics,
    /// What retention found the last time, and what it has removed; `None` when it never looked.
    pub retention: Option<RetentionReport>,
}

/// What the database holds and takes up at one moment. Cheap: no table is walked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Occupancy {
    /// Events stored.
    pub events: u64,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Bytes of it that are free and will be used again before the file grows.
    pub free_bytes: u64,
    /// The most bytes that the file may ever take.
    pub map_bytes: u64,
    /// The most bytes that the disk has left for this user; `None` when the system does not tell.
    pub disk_free_bytes: Option<u64>,
}

/// One table.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TableInfo {
    /// Its name in LMDB.
    pub name: &'static str,
    /// Its entries, duplicates counted each.
    pub entries: u64,
    /// Its pages in bytes. Pages of long lists of duplicates, which LMDB counts for no table, are shared out over the
    /// tables that have such lists, by the bytes of their entries.
    pub bytes: u64,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct VerifyReport {
    /// Whether every page of the file is what LMDB takes it for. Where one is not, LMDB can end the process, so the tables were not
    /// looked at.
    pub pages_are_sound: bool,
    /// Events looked at.
    pub events: u64,
    /// Index entries looked at.
    pub entries: u64,
    /// What is wrong, one sentence each; at most a hundred are kept.
    pub faults: Vec<String>,
}

impl VerifyReport {
    fn fault(&mut self, text: String) {
        if self.faults.len() < 100 {
            self.faults.push(text);
        }
    }
}

/// How far [`Store::verify_with`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What is being looked at.
    pub stage: Stage,
    /// How many of them were.
    pub done: u64,
    /// How many there are, about.
    pub total: u64,
}

/// What [`Store::verify_with`] looks at, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Pages of the file.
    Pages,
    /// Events, each with its entries in the indices.
    Events,
    /// Entries of the indices.
    Entries,
}

/// A check in progress: what it has found, and who hears how far it is.
struct Inspection<'i> {
    report: VerifyReport,
    each: &'i mut dyn FnMut(Verified) -> ControlFlow<()>,
    at: Verified,
    /// Nobody wants to know more.
    ended: bool,
}

/// How often it is told how far a check is.
const TOLD: u64 = 1024;

impl Inspection<'_> {
    fn begin(&mut self, stage: Stage, total: u64) {
        self.at = Verified { stage, done: 0, total };
    }

    /// One more was looked at; breaks when no more is to be.
    fn step(&mut self) -> ControlFlow<()> {
        self.at.done += 1;
        if self.at.done.is_multiple_of(TOLD) { self.tell() } else { ControlFlow::Continue(()) }
    }

    fn tell(&mut self) -> ControlFlow<()> {
        let flow = (self.each)(self.at);
        self.ended |= flow.is_break();
        flow
    }
}

impl sound::Watch for Inspection<'_> {
    fn fault(&mut self, text: String) {
        self.report.fault(text);
    }

    fn met(&mut self, pages: u64) -> ControlFlow<()> {
        self.at.done = pages;
        self.tell()
    }
}

/// A set of index entries in two numbers, whatever their order.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Digest {
    entries: u64,
    sum: u128,
}

impl Digest {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut hasher = SipHasher13::new();
        hasher.write(key);
        hasher.write(value);
        self.entries += 1;
        self.sum = self.sum.wrapping_add(hasher.finish128().as_u128());
    }
}

/// Signatures that are checked at once: enough work for every core.
const SIGNATURES: usize = 4096;

fn check_signatures(events: &mut Vec<(Seq, Event)>, report: &mut VerifyReport) {
    let wrong = |(seq, event): &(Seq, Event)| event.check_signature().is_err().then_some(*seq);
    let mut wrong: Vec<Seq> = events.par_iter().with_min_len(16).filter_map(wrong).collect();
    wrong.sort_unstable();
    wrong.iter().for_each(|seq| report.fault(format!("event {seq} has a signature that is not its author's")));
    events.clear();
}

/// Shares `bytes` of uncounted pages out over the tables of postings.
fn share_out(tables: &mut [TableInfo], bytes: u64) {
    let weight = |t: &TableInfo| match t.name {
        "time" | "kinds" => t.entries.saturating_mul(8),
        "authors" | "tags" => t.entries.saturating_mul(9),
        _ => 0,
    };
    let all = tables.iter().map(weight).fold(0, u64::saturating_add).max(1);
    for table in tables {
        let share = u128::from(bytes) * u128::from(weight(table)) / u128::from(all);
        table.bytes = table.bytes.saturating_add(share as u64);
    }
}

impl Store {
    /// Free pages within the file, and the pages of the list of them; zeros when LMDB's list cannot be read.
    fn count_free_pages(&self, txn: &RoTxn<'_>) -> Result<(u64, u64), StoreError> {
        let file = self.env().try_clone_inner_file()?;
        let page_size = self.env().unnamed_database_stat().page_size as usize;
        Ok(freelist::free_pages(&file, page_size, txn.id() as u64).unwrap_or_default())
    }

    /// Free pages within the file. Those that the last two commits freed can be used only after them.
    pub(super) fn free_pages(&self) -> Result<u64, StoreError> {
        let txn = self.read()?;
        Ok(self.count_free_pages(&txn)?.0)
    }

    /// `created_at` of the first event in this order.
    fn outermost(&self, order: Order) -> Result<Option<u64>, StoreError> {
        // The index knows times up to 32 bits only; a scan asks the records.
        let mut scan = Scan::new(vec![Filter { limit: Some(1), ..Filter::default() }], order);
        let mut found = None;
        // At the time 0 nothing has expired: what is stored counts.
        while found.is_none()
            && scan.run(self, 0, Budget::COMMAND, &mut |record| {
                found = Some(record.created_at());
                ControlFlow::Break(())
            })? == Progress::More
        {}
        Ok(found)
    }

    /// What the database takes up now.
    pub fn occupancy(&self) -> Result<Occupancy, StoreError> {
        let txn = self.read()?;
        let page = u64::from(self.env().unnamed_database_stat().page_size);
        let disk = rustix::fs::statvfs(self.path()).ok();
        Ok(Occupancy {
            events: self.tables().events.stat(&txn)?.entries as u64,
            file_bytes: self.env().real_disk_size()?,
            free_bytes: self.count_free_pages(&txn)?.0.saturating_mul(page),
            map_bytes: self.env().info().map_size as u64,
            disk_free_bytes: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        })
    }

    /// What is in the database.
    pub fn info(&self) -> Result<StoreInfo, StoreError> {
        let txn = self.read()?;
        let env = self.env().info();
        let root = self.env().unnamed_database_stat();
        let page = u64::from(root.page_size);
        let mut tables = Vec::new();
        for (name, table) in self.tables().list() {
            let stat = table.stat(&txn)?;
            tables.push(TableInfo { name, entries: stat.entries as u64, bytes: stat.non_free_page_size() as u64 });
        }
        let used_and_free = (env.last_page_number as u64).saturating_add(1);
        let (free, list) = self.count_free_pages(&txn)?;
        // Saturating, because in a damaged file any of these may be anything.
        let own = [free, list, root.leaf_pages as u64, 2];
        let counted = own.into_iter().chain(tables.iter().map(|t| t.bytes / page)).fold(0, u64::saturating_add);
        share_out(&mut tables, used_and_free.saturating_sub(counted).saturating_mul(page));
        Ok(StoreInfo {
            events: tables.iter().find(|t| t.name == "events").map_or(0, |t| t.entries),
            next_seq: next_seq(self.tables(), &txn)?,
            schema_version: super::schema_version(self.tables(), &txn)?,
            file_bytes: self.env().real_disk_size()?,
            free_bytes: free.saturating_mul(page),
            oldest: self.outermost(Order::OldestFirst)?,
            newest: self.outermost(Order::NewestFirst)?,
            tables,
            statistics: self.statistics()?,
            retention: self.retention_report()?,
        })
    }

    /// Walks every table against every other, see [`Store::verify_with`].
    pub fn verify(&self) -> Result<VerifyReport, StoreError> {
        let whole = self.verify_with(false, &mut |_| ControlFlow::Continue(()))?;
        // It was never told to stop.
        Ok(whole.unwrap_or_default())
    }

    /// Looks through the pages of the file, and if they are sound walks every table against every other in one read
    /// transaction. An index entry without its event, an event without one of its entries, a tombstone whose victim is
    /// there: each is a fault. With `signatures` they are checked too, on all cores. `each` hears how far it is; `None` when it
    /// breaks off.
    pub fn verify_with(
        &self,
        signatures: bool,
        each: &mut dyn FnMut(Verified) -> ControlFlow<()>,
    ) -> Result<Option<VerifyReport>, StoreError> {
        let at = Verified { stage: Stage::Pages, done: 0, total: 0 };
        let mut inspection = Inspection { report: VerifyReport::default(), each, at, ended: false };
        self.inspect(signatures, &mut inspection)?;
        Ok((!inspection.ended).then_some(inspection.report))
    }

    /// Goes on until its end, or until it is told to break off.
    fn inspect(&self, signatures: bool, inspection: &mut Inspection<'_>) -> Result<(), StoreError> {
        let mut unchecked: Vec<(Seq, Event)> = Vec::new();
        let page_size = self.env().unnamed_database_stat().page_size as usize;
        let file = self.env().try_clone_inner_file()?;
        let mut txn = self.read()?;
        for _ in 0..sound::TRIES {
            inspection.begin(Stage::Pages, self.used_bytes()? / page_size as u64);
            if sound::check(&file, page_size, txn.id() as u64, Depth::Everything, inspection) {
                break;
            }
            drop(txn);
            txn = self.read()?;
        }
        inspection.report.pages_are_sound = inspection.report.faults.is_empty();
        if !inspection.report.pages_are_sound || inspection.ended || inspection.tell().is_break() {
            return Ok(());
        }
        let tables = self.tables();
        let mut expected = [Digest::default(); 4];
        let (mut addressed, mut expiring, mut parts) = (0u64, 0u64, 0u64);
        let mut kinds: BTreeMap<Kind, (u64, u64)> = BTreeMap::new();
        inspection.begin(Stage::Events, tables.events.len(&txn)?);
        for entry in tables.events.iter(&txn)? {
            let (key, bytes) = entry?;
            let Some(seq) = keys::read_seq(key) else {
                inspection.fault("an event has a key that is no number".into());
                continue;
            };
            parts += parts::count(bytes);
            let Some(record) = read_record(self, &txn, seq, bytes)? else {
                inspection.fault(format!("event {seq} is not a record"));
                continue;
            };
            inspection.report.events += 1;
            let kind = kinds.entry(record.kind()).or_default();
            *kind = (kind.0 + 1, kind.1 + record.as_bytes().len() as u64);
            match record.to_event() {
                None => inspection.fault(format!("event {seq} cannot be read")),
                Some(event) if event.check_id().is_err() => {
                    inspection.fault(format!("event {seq} does not match its id"))
                }
                Some(event) if signatures => unchecked.push((seq, event)),
                Some(_) => {}
            }
            if unchecked.len() == SIGNATURES {
                check_signatures(&mut unchecked, &mut inspection.report);
            }
            if inspection.step().is_break() {
                return Ok(());
            }
            match find_id(self, &txn, &record.id())? {
                Some((found, _)) if found == seq => {}
                Some((found, _)) => inspection.fault(format!("event {seq} is stored twice, also as {found}")),
                None => inspection.fault(format!("event {seq} is missing in ids")),
            }
            keys::each_entry(&record, &keys::tag_stems(self.hasher(), &record), seq, &mut |index, entry| {
                expected[index as usize].add(&entry.key(index), &entry.value(index));
            });
            if let Some(stem) = address_stem(self.hasher(), record.kind(), &record.pubkey(), || record.identifier()) {
                addressed += 1 + further_stems(self, &record, Some(stem)).len() as u64;
            }
            if let Some(at) = record.expiration() {
                expiring += 1;
                if tables.expirations.get(&txn, &keys::expiration_key(at, seq))?.is_none() {
                    inspection.fault(format!("event {seq} is missing in expirations"));
                }
            }
            self.verify_not_deleted(&txn, seq, &record, inspection)?;
        }
        check_signatures(&mut unchecked, &mut inspection.report);
        if inspection.tell().is_break() {
            return Ok(());
        }
        if next_seq(tables, &txn)? < tables.events.last(&txn)?.and_then(|(k, _)| keys::read_seq(k)).map_or(0, |s| s + 1)
        {
            inspection.fault("the next sequence number is in use".into());
        }
        let mut entries = tables.addresses.len(&txn)?;
        for index in Index::ALL {
            entries += tables.index(index).len(&txn)?;
        }
        inspection.begin(Stage::Entries, entries);
        for index in Index::ALL {
            self.verify_index(&txn, index, expected[index as usize], inspection)?;
            if inspection.ended {
                return Ok(());
            }
        }
        for (name, table, wanted) in [
            ("ids", tables.ids, inspection.report.events),
            ("addresses", tables.addresses, addressed),
            ("expirations", tables.expirations, expiring),
            ("parts", tables.parts, parts),
        ] {
            let entries = table.len(&txn)?;
            inspection.report.entries += entries;
            if entries != wanted {
                inspection.fault(format!("{name} has {entries} entries, the events call for {wanted}"));
            }
        }
        self.verify_addresses(&txn, inspection)?;
        if inspection.ended {
            return Ok(());
        }
        self.verify_statistics(&txn, &kinds, &mut |fault| inspection.fault(fault))?;
        Ok(())
    }

    /// Compares an index with what the events call for: as many entries, with the same sum of hashes. Only when the sums differ
    /// is each entry derived again from its event, which takes long for events with thousands of tags.
    fn verify_index(
        &self,
        txn: &RoTxn<'_>,
        index: Index,
        expected: Digest,
        inspection: &mut Inspection<'_>,
    ) -> Result<(), StoreError> {
        let mut found = Digest::default();
        for entry in self.tables().index(index).iter(txn)? {
            let (key, value) = entry?;
            found.add(key, value);
            if inspection.step().is_break() {
                return Ok(());
            }
        }
        inspection.report.entries += found.entries;
        if found == expected {
            return Ok(());
        }
        inspection.fault(format!("{index:?} has {} entries, the events call for {}", found.entries, expected.entries));
        for entry in self.tables().index(index).iter(txn)? {
            let (key, value) = entry?;
            if inspection.tell().is_break() {
                return Ok(());
            }
            let Some(posting) = Posting::read(index, key, value) else {
                inspection.fault(format!("{index:?} has an entry that cannot be read"));
                continue;
            };
            let Some(record) = get_record(self, txn, posting.seq)? else {
                inspection.fault(format!("{index:?} points at event {}, which is not there", posting.seq));
                continue;
            };
            let mut its_own = false;
            let stems = keys::tag_stems(self.hasher(), &record);
            keys::each_entry(&record, &stems, posting.seq, &mut |i, entry| {
                its_own |= i == index && entry.key(i)[..] == *key && entry.value(i)[..] == *value;
            });
            if !its_own {
                inspection.fault(format!("{index:?} has an entry for event {} that it does not call for", posting.seq));
            }
        }
        Ok(())
    }

    fn verify_addresses(&self, txn: &RoTxn<'_>, inspection: &mut Inspection<'_>) -> Result<(), StoreError> {
        let mut previous: Option<(Vec<u8>, Seq)> = None;
        for entry in self.tables().addresses.iter(txn)? {
            let (key, _) = entry?;
            if inspection.step().is_break() {
                return Ok(());
            }
            let Some(seq) = key.get(7..).and_then(keys::read_seq) else {
                inspection.fault("addresses has an entry that cannot be read".into());
                continue;
            };
            let Some(record) = get_record(self, txn, seq)? else {
                inspection.fault(format!("addresses points at event {seq}, which is not there"));
                continue;
            };
            let address = |r: &super::Record<'_>| {
                let d = if r.kind().class() == KindClass::Addressable { r.identifier() } else { String::new() };
                (r.kind(), r.pubkey(), d)
            };
            if let Some((stem, other)) = &previous
                && key.starts_with(stem)
                && let Some(rival) = get_record(self, txn, *other)?
                && address(&rival) == address(&record)
            {
                inspection.fault(format!("events {other} and {seq} are versions of one address"));
            }
            previous = Some((key[..7].to_vec(), seq));
        }
        Ok(())
    }

    /// What was deleted must not be there (law 7).
    fn verify_not_deleted(
        &self,
        txn: &RoTxn<'_>,
        seq: Seq,
        record: &super::Record<'_>,
        inspection: &mut Inspection<'_>,
    ) -> Result<(), StoreError> {
        let tombstones = &self.tables().tombstones;
        let (id, author, kind) = (record.id(), record.pubkey(), record.kind());
        let deletable = !matches!(kind, Kind::DELETION | Kind::VANISH);
        if deletable && tombstones.get(txn, &tombstone::event_key(&id, &author))?.is_some() {
            inspection.fault(format!("event {seq} was deleted by its author and is there"));
        }
        let vanished = tombstones.get(txn, &tombstone::vanish_key(&author))?.map(tombstone::until);
        if kind != Kind::VANISH && vanished.is_some_and(|until| record.created_at() <= until) {
            inspection.fault(format!("event {seq} is there although its author vanished"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{EventId, PublicKey, Signature, Tags};

    fn filled() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1 << 30).unwrap();
        let mut batch = store.batch(0).unwrap();
        for n in 0..6000_u64 {
            let mut event = Event {
                id: EventId([0; 32]),
                pubkey: PublicKey([n as u8; 32]),
                created_at: 1_700_000_000 + n,
                kind: Kind(1),
                tags: Tags::new(),
                // More than a page: such are looked at too.
                content: "x".repeat(if n % 10 == 0 { 9000 } else { 10 }).into(),
                sig: Signature([0; 64]),
            };
            event.id = event.compute_id();
            batch.apply(&store.prepare(&event)).unwrap();
        }
        batch.commit().unwrap();
        (folder, store)
    }

    #[test]
    fn a_check_says_how_far_it_is_and_ends_at_any_stage() {
        let (_folder, store) = filled();
        let mut heard: Vec<Verified> = Vec::new();
        let report = store.verify_with(false, &mut |at| {
            heard.push(at);
            ControlFlow::Continue(())
        });
        let report = report.unwrap().unwrap();
        assert_eq!((report.faults.as_slice(), report.events), (&[][..], 6000));
        let stages = [(Stage::Pages, 0), (Stage::Events, 6000), (Stage::Entries, 18_000)];
        for (stage, total) in stages {
            let of: Vec<&Verified> = heard.iter().filter(|at| at.stage == stage).collect();
            assert!(of.len() > 1 && of.is_sorted_by_key(|at| at.done), "{of:?}");
            assert!(of.iter().all(|at| at.done <= at.total && (total == 0 || at.total == total)), "{of:?}");
            // The last word comes near the end.
            assert!(of.last().is_some_and(|at| at.done + 1024 >= at.total), "{of:?}");

            let mut asked_again = false;
            let ended = store.verify_with(true, &mut |at| {
                asked_again |= at.stage as u8 > stage as u8;
                if at.stage == stage { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(ended.unwrap().is_none() && !asked_again, "{stage:?}");
        }
        assert!(heard.is_sorted_by_key(|at| at.stage as u8));
    }
}
