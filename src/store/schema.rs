//! The tables: what is kept where, opened together or not at all.
//!
//! | table | LMDB flags | key | value or duplicate |
//! |---|---|---|---|
//! | `events` | append | seq (5) | record, see [`super::record`]; of a long one its head, see [`super::parts`] |
//! | `ids` | | `id[0..7]`, seq (12) | empty |
//! | `time` | DUPFIXED | `t[0..3]` (3) | `t[3]`, inverted `id[0..2]`, seq (8) |
//! | `kinds` | DUPFIXED | kind u16, `t[0..3]` (5) | `t[3]`, inverted `id[0..2]`, seq (8) |
//! | `authors` | DUPFIXED | `pubkey[0..7]`, kind, `t[0..2]` (11) | `t[2..4]`, inverted `id[0..2]`, seq (9) |
//! | `tags` | DUPFIXED | h7(letter, value), kind, `t[0..2]` (11) | `t[2..4]`, inverted `id[0..2]`, seq (9) |
//! | `addresses` | | h7(kind, pubkey, d), seq (12) | t (4) |
//! | `expirations` | | time u40, seq (10) | empty |
//! | `tombstones` | | see [`super::tombstone`] | until when u64, by which event (40) |
//! | `meta` | | name | MessagePack |
//! | `lists` | | which list (1), item | MessagePack, see [`super::lists`] |
//! | `known` | | pubkey (32) | since when u64 (8): who has published here while authenticated |
//! | `parts` | append | seq, number u16 (7) | what stands behind the head of a long record, a page each |
//! | `holes` | | block of the log u32 (4) | its bytes u32, and those that are gone since u32, see [`super::holes`] |
//! | `reserve` | | number u32 (4) | a blank page, see [`super::reserve`] |
//!
//! `t` is `created_at` clamped to 32 bits; the exact value is in the record. `h7` is the first seven bytes of a SipHash-1-3
//! under a key drawn for each database. Replaceable kinds stand in `addresses` as well, with an empty identifier:
//! it is where the version to beat is looked up. Addressable events with several `d` values stand under each of them.

use heed::types::Bytes;
use heed::{CommitOrAbort, DatabaseFlags, Env, RoTxn, RwTxn, WithoutTls};

use super::StoreError;
use super::keys::Index;

/// The version of the layout above, kept in `meta`.
pub const VERSION: u32 = 2;

/// The oldest version that can be read, and written to. There every record lies in `events` as a whole; the table `parts` is missing, or
/// empty. The first long event that is stored raises the version: programs that know nothing of parts refuse the database from then on.
pub const OLDEST: u32 = 1;

/// LMDB wants the number of tables in advance; some are kept free for what comes later.
pub const MAX_TABLES: u32 = 24;

pub type Table = heed::Database<'static, Bytes, Bytes>;

const POSTINGS: DatabaseFlags = DatabaseFlags::DUP_SORT.union(DatabaseFlags::DUP_FIXED);
const PLAIN: DatabaseFlags = DatabaseFlags::empty();

/// Each table is named once: a field of [`Tables`], its name in the database and its flags.
macro_rules! tables {
    ($($name:ident: $flags:ident,)*) => {
        /// Every table of the database.
        #[derive(Clone, Copy)]
        pub struct Tables {
            $(pub $name: Table,)*
        }

        /// Names and flags, in the order of the fields of [`Tables`].
        const DEFINITIONS: [(&str, DatabaseFlags); COUNT] = [$((stringify!($name), $flags),)*];

        const COUNT: usize = [$(stringify!($name)),*].len();

        impl Tables {
            fn from_list([$($name),*]: [Table; COUNT]) -> Tables {
                Tables { $($name),* }
            }

            /// Their names, and the tables.
            pub fn list(&self) -> [(&'static str, Table); COUNT] {
                [$((stringify!($name), self.$name),)*]
            }
        }
    };
}

tables! {
    events: PLAIN,
    ids: PLAIN,
    time: POSTINGS,
    kinds: POSTINGS,
    authors: POSTINGS,
    tags: POSTINGS,
    addresses: PLAIN,
    expirations: PLAIN,
    tombstones: PLAIN,
    meta: PLAIN,
    reserve: PLAIN,
    lists: PLAIN,
    known: PLAIN,
    parts: PLAIN,
    holes: PLAIN,
}

/// Tables that say something of their file, not of what is stored.
pub const OF_THE_FILE: [&str; 2] = ["reserve", "holes"];

impl Tables {
    pub fn index(&self, index: Index) -> Table {
        match index {
            Index::Time => self.time,
            Index::Kinds => self.kinds,
            Index::Authors => self.authors,
            Index::Tags => self.tags,
        }
    }
}

/// Opens every table, creating those that are missing, in one write transaction of its own. Waits while another process writes.
pub fn create(env: &Env<WithoutTls>) -> Result<Tables, StoreError> {
    fn all<'e>(
        opener: &heed::DatabaseOpener<'e, WithoutTls>,
        wtxn: &mut RwTxn<'e>,
    ) -> Result<[heed::Database<'e, Bytes, Bytes>; COUNT], heed::Error> {
        let mut tables = Vec::with_capacity(DEFINITIONS.len());
        for (name, flags) in DEFINITIONS {
            let mut options = opener.database_options().types::<Bytes, Bytes>();
            tables.push(options.name(name).flags(flags).create(wtxn)?);
        }
        Ok(std::array::from_fn(|i| tables[i]))
    }
    let wtxn = env.write_txn()?;
    let committed: CommitOrAbort<_, ()> =
        env.create_databases_and_commit(wtxn, |opener, wtxn| all(opener, wtxn).map(CommitOrAbort::Commit))?;
    match committed {
        CommitOrAbort::Commit(tables) => Ok(Tables::from_list(tables)),
        CommitOrAbort::Abort(()) => Err(StoreError::Damaged("the tables could not be created".into())),
    }
}

/// Whether this is a database of ours, though perhaps of an older program that had fewer tables.
pub fn is_ours(env: &Env<WithoutTls>) -> Result<bool, StoreError> {
    fn meta<'e>(
        opener: &heed::DatabaseOpener<'e, WithoutTls>,
        rtxn: &RoTxn<'e>,
    ) -> Result<CommitOrAbort<[heed::Database<'e, Bytes, Bytes>; 1], bool>, heed::Error> {
        let mut options = opener.database_options().types::<Bytes, Bytes>();
        Ok(CommitOrAbort::Abort(options.name("meta").open(rtxn)?.is_some()))
    }
    let rtxn = env.read_txn()?;
    let found: CommitOrAbort<_, bool> = env.open_databases_and_commit(rtxn, |opener, rtxn| meta(opener, rtxn))?;
    Ok(matches!(found, CommitOrAbort::Abort(true)))
}

/// Opens the tables of a database that has them all, without taking the write lock; `None` when one is missing.
pub fn open(env: &Env<WithoutTls>) -> Result<Option<Tables>, StoreError> {
    fn all<'e>(
        opener: &heed::DatabaseOpener<'e, WithoutTls>,
        rtxn: &RoTxn<'e>,
    ) -> Result<Option<[heed::Database<'e, Bytes, Bytes>; COUNT]>, heed::Error> {
        let mut tables = Vec::with_capacity(DEFINITIONS.len());
        for (name, flags) in DEFINITIONS {
            let mut options = opener.database_options().types::<Bytes, Bytes>();
            match options.name(name).flags(flags).open(rtxn)? {
                Some(table) => tables.push(table),
                None => return Ok(None),
            }
        }
        Ok(Some(std::array::from_fn(|i| tables[i])))
    }
    let rtxn = env.read_txn()?;
    let committed: CommitOrAbort<_, ()> = env.open_databases_and_commit(rtxn, |opener, rtxn| {
        all(opener, rtxn).map(|tables| match tables {
            Some(tables) => CommitOrAbort::Commit(tables),
            None => CommitOrAbort::Abort(()),
        })
    })?;
    Ok(committed.commit().map(Tables::from_list))
}
