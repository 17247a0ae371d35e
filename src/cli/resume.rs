//! Where an import goes on that was stopped: how far each file was read is kept in the database, with the events that were read.
//!
//! A file is known again by its size, its time of change, its beginning and its end, not by its name. The notes go when an import comes
//! to its end, so whoever imports a file again has it read again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::failure::{Failure, complain, things};
use super::input::{Position, Source, sqlite};
use super::text;
use crate::store::{BookmarkKey, Store};

/// So much of the beginning and of the end of a file is looked at.
const LOOKED_AT: u64 = 64 << 10;

/// A source and how far it was read.
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) name: String,
    /// What its bookmark is found by; pipes have none.
    pub(super) key: Option<BookmarkKey>,
    /// Where this import begins with it.
    pub(super) from: Position,
    /// Lines of it that were read so far and those that were refused, by earlier imports too.
    pub(super) read: u64,
    pub(super) refused: u64,
}

/// What is kept of a source.
#[derive(Deserialize, Serialize)]
struct Noted {
    position: Position,
    read: u64,
    refused: u64,
}

impl Reading {
    fn new(source: Source) -> Reading {
        let key = match &source {
            Source::Stdin => None,
            Source::File(path) => key(path),
        };
        Reading { name: source.name(), source, key, from: Position::START, read: 0, refused: 0 }
    }

    /// What is to be kept when everything before this position has been dealt with.
    pub(super) fn note(&self, position: Position) -> Option<(BookmarkKey, Vec<u8>)> {
        // Should this ever fail, the file is read from its beginning the next time.
        let noted = rmp_serde::to_vec(&Noted { position, read: self.read, refused: self.refused }).ok()?;
        self.key.map(|key| (key, noted))
    }
}

/// Looks up where to begin with each of the sources, and tells the user where it is not at the beginning. With `all_refused` every refused
/// line must be met again, so a source that has some is begun anew.
pub(super) fn look_up(store: &Store, sources: Vec<Source>, all_refused: bool) -> Result<Vec<Reading>, Failure> {
    let mut readings: Vec<Reading> = sources.into_iter().map(Reading::new).collect();
    for reading in &mut readings {
        let place = reading.key.map(|key| store.bookmark(&key)).transpose()?.flatten();
        // What another version noted is not understood, and the file is read from its beginning.
        let Some(noted) = place.and_then(|place| rmp_serde::from_slice::<Noted>(&place).ok()) else { continue };
        if all_refused && noted.refused > 0 {
            let (name, lines) = (&reading.name, things(noted.refused, "line"));
            complain(&format!(
                "{name} is read from its beginning: --rejects is to have the {lines} too that were refused before"
            ));
            store.forget_bookmarks(reading.key.as_slice())?;
        } else {
            (reading.from, reading.read, reading.refused) = (noted.position, noted.read, noted.refused);
            complain(&told(reading));
        }
    }
    Ok(readings)
}

/// Nothing more is to be gone on with: forgets how far these were read.
pub(super) fn forget(store: &Store, readings: &[Reading]) -> Result<(), Failure> {
    let keys: Vec<BookmarkKey> = readings.iter().filter_map(|reading| reading.key).collect();
    Ok(store.forget_bookmarks(&keys)?)
}

/// As [`forget`], before anything was read.
pub(super) fn begin_anew(store: &Store, sources: Vec<Source>) -> Result<Vec<Reading>, Failure> {
    let readings: Vec<Reading> = sources.into_iter().map(Reading::new).collect();
    forget(store, &readings)?;
    Ok(readings)
}

/// Where it goes on.
fn told(reading: &Reading) -> String {
    let Reading { name, from, refused, source, .. } = reading;
    let refused = match refused {
        0 => String::new(),
        refused => format!(", {} of it refused", things(*refused, "line")),
    };
    if from.is_end {
        return format!(
            "{name} was read to its end by an import that was stopped later{refused}; --from-start reads it again"
        );
    }
    let size = match source {
        Source::Stdin => 0,
        Source::File(path) => fs::metadata(path).map_or(0, |metadata| metadata.len()),
    };
    let share = from.consumed.min(size) * 100 / size.max(1);
    let line = text::number(from.number);
    format!(
        "{name} goes on at {share} %, line {line}, where an import was stopped{refused}; --from-start reads all of it"
    )
}

/// What a file is known by; `None` for what is no file.
fn key(path: &Path) -> Option<BookmarkKey> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))?;
    let size = file.metadata().ok()?.len();
    let mut hash = Sha256::new();
    let stamp = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH).duration_since(UNIX_EPOCH);
        Some((metadata.len(), changed.unwrap_or_default().as_nanos()))
    };
    // What is newest in a database stands in its log.
    for (size, changed) in [stamp(path), stamp(&sqlite::log_of(path))].into_iter().flatten() {
        hash.update(size.to_be_bytes());
        hash.update(changed.to_be_bytes());
    }
    let mut part = vec![0; LOOKED_AT.min(size) as usize];
    for offset in [0, size - part.len() as u64] {
        file.read_exact_at(&mut part, offset).ok()?;
        hash.update(&part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash[..16].try_into().ok()
}
