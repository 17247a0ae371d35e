//! Events in the SQLite database of another relay, as lines of JSON.
//!
//! Nothing is written, neither to the file nor beside it. What is read is the state of the last commit, also when it still stands in the
//! write-ahead log. This reads what relays keep their events in and nothing else: tables with row numbers, text in UTF-8.
//!
//! SQLite's own library would be a second database engine in the program, larger than all the rest of it, for one command; and it changes
//! the folder that it reads: it puts a file beside a log and folds the log in when it closes. What somebody leaves behind on a read-only
//! disk, or wants to go back to, has to stay as it is.
//!
//! | file | what |
//! |---|---|
//! | `pages` | the file and its log, page by page |
//! | `tree` | the rows of a table, and what stands in their columns |
//! | `table` | where the events are: the table and its columns |

mod pages;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::process::{Flock, FlockType, fcntl_getlk};

pub(super) use pages::MAGIC;

use super::assembly::MAX_LINE_BYTES;
use crate::cli::failure::Failure;
use crate::config::plain;
use pages::{Bytes, Pages};
use table::Shape;
use tree::{Row, Rows};

/// Of a row so much is read at most: more than any event has, so that a longer one is seen to be too long.
const ROW_BYTES: usize = MAX_LINE_BYTES + (64 << 10);

/// Lines are made until there are so many bytes of them.
const ENOUGH: usize = 64 << 10;

/// Why a database cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    /// It is not as SQLite writes it.
    Damaged(String),
    /// It is in order, but cannot be read here: why, and what to do.
    Other(String, &'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Io(error) => write!(formatter, "{error}"),
            Fault::Damaged(what) | Fault::Other(what, _) => formatter.write_str(what),
        }
    }
}

impl std::error::Error for Fault {}

const CONVERT: &str =
    "Have its program, or the tool sqlite3, write it anew: VACUUM INTO 'copy.db'; then import the copy.";

impl Fault {
    fn damaged(what: impl Into<String>) -> Fault {
        Fault::Damaged(what.into())
    }

    fn cut_off() -> Fault {
        Fault::Damaged("it is cut off".to_owned())
    }

    fn foreign(what: &str) -> Fault {
        Fault::Other(what.to_owned(), CONVERT)
    }

    /// As the user is told of the database `name`.
    pub(super) fn failure(&self, name: &str) -> Failure {
        match self {
            Fault::Io(error) => Failure::new(
                format!("{name} cannot be read any further: {}", plain(error)),
                "What came before is in; put that right and run the import again.",
            ),
            Fault::Damaged(what) => Failure::new(
                format!("the SQLite database {name} is damaged: {what}"),
                "What came before is in; `sqlite3 FILE .recover | sqlite3 copy.db` may save more, import the copy then.",
            ),
            Fault::Other(what, next) => Failure::new(format!("{name} cannot be imported: {what}"), *next),
        }
    }
}

/// What a reader of a database tells while it reads.
#[derive(Clone, Default)]
pub(in crate::cli) struct Gauges {
    /// Bytes of the sources that lie behind us, of packed ones before unpacking.
    pub(in crate::cli) consumed: Arc<AtomicU64>,
    /// Events that the other relay kept hidden, so that they are passed over.
    pub(in crate::cli) hidden: Arc<AtomicU64>,
}

/// The events of a database as a text of one line for each row; the line of a row that is passed over is blank.
pub(super) struct Events {
    pages: Pages,
    rows: Rows,
    shape: Shape,
    row: Row,
    lines: Vec<u8>,
    given: usize,
    /// What comes behind the lines.
    fault: Option<Fault>,
    gauges: Gauges,
    /// The size of the file, and the number of its last row: how far we are is told by the number of the row at hand.
    bytes: u64,
    last: i64,
    told: u64,
    /// The file as it was in the beginning.
    origin: Option<(PathBuf, Stamp)>,
}

/// What changes when somebody writes to a database.
#[derive(PartialEq, Eq)]
struct Stamp([Option<(u64, SystemTime)>; 2]);

impl Stamp {
    fn of(file: &Path) -> Stamp {
        let stamp = |file: &Path| {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        Stamp([stamp(file), stamp(&log_of(file))])
    }
}

/// The write-ahead log of the database in this file.
pub(in crate::cli) fn log_of(file: &Path) -> PathBuf {
    beside(file, "-wal")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    // SQLite follows links too.
    let mut name = file.canonicalize().map_or_else(|_| OsString::from(file), PathBuf::into_os_string);
    name.push(suffix);
    name.into()
}

/// Whether a database that was written to without a log was left in the middle of it: whoever opens it next has to undo a part.
fn is_half_written(file: &Path) -> bool {
    let mut first = [0];
    File::open(beside(file, "-journal")).is_ok_and(|mut file| file.read_exact(&mut first).is_ok() && first != [0])
}

impl Events {
    /// Opens a file that begins with [`MAGIC`].
    pub(super) fn open(path: &Path, gauges: &Gauges) -> Result<Events, Fault> {
        let file = File::open(path)?;
        let in_use = |who: String| {
            let what = format!("{who} has it open");
            Fault::Other(what, "Stop it, then run this again; or import a copy: sqlite3 FILE \"VACUUM INTO 'copy.db'\"")
        };
        // Whoever writes to it holds a lock, and with a log whoever has it open at all.
        if let Ok(Some(lock)) = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)) {
            return Err(in_use(
                lock.pid.map_or("another program".to_owned(), |pid| format!("process {}", pid.as_raw_nonzero())),
            ));
        }
        if is_half_written(path) {
            return Err(Fault::Other(
                "its program was stopped in the middle of a write".to_owned(),
                "Open it once with that program, or with the tool sqlite3, then import it.",
            ));
        }
        let stamp = Stamp::of(path);
        let log = match File::open(log_of(path)) {
            Ok(log) => Some(Box::new(log) as Box<dyn Bytes>),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut events = Events::begin(Box::new(file), log, gauges.clone())?;
        events.origin = Some((path.to_owned(), stamp));
        Ok(events)
    }

    fn begin(file: Box<dyn Bytes>, log: Option<Box<dyn Bytes>>, gauges: Gauges) -> Result<Events, Fault> {
        let bytes = file.length()?;
        let pages = Pages::open(file, log)?;
        let (root, shape) = table::find(&pages)?;
        Ok(Events {
            rows: Rows::of(root, &pages)?,
            last: Rows::last(root, &pages)?,
            pages,
            shape,
            row: Row::default(),
            lines: Vec::new(),
            given: 0,
            fault: None,
            gauges,
            bytes,
            told: 0,
            origin: None,
        })
    }

    /// Makes more lines; none at the end. A fault comes behind the lines that were made before it.
    fn refill(&mut self) -> Result<(), Fault> {
        self.lines.clear();
        self.given = 0;
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        while self.lines.len() < ENOUGH {
            let whole = self.lines.len();
            match self.add_line() {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    self.lines.truncate(whole);
                    self.fault = Some(fault);
                    break;
                }
            }
        }
        match self.fault.take_if(|_| self.lines.is_empty()) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// Makes one more line; false at the end.
    fn add_line(&mut self) -> Result<bool, Fault> {
        if !self.rows.next(&self.pages, ROW_BYTES, &mut self.row)? {
            self.tell(self.bytes);
            let changed = self.origin.as_ref().is_some_and(|(path, stamp)| Stamp::of(path) != *stamp);
            return match changed {
                true => Err(Fault::Other(
                    "somebody wrote to it meanwhile".to_owned(),
                    "What was read is in; stop its program and run the import again.",
                )),
                false => Ok(false),
            };
        }
        if self.shape.is_hidden(&self.row)? {
            self.gauges.hidden.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shape.write(&self.row, &mut self.lines)?;
        }
        self.lines.push(b'\n');
        // Numbers may be negative, the last one too.
        let last = self.last.max(1);
        let share = self.row.number.clamp(0, last) as f64 / last as f64;
        self.tell((self.bytes as f64 * share) as u64);
        Ok(true)
    }

    fn tell(&mut self, bytes: u64) {
        let bytes = bytes.max(self.told);
        self.gauges.consumed.fetch_add(bytes - self.told, Ordering::Relaxed);
        self.told = bytes;
    }
}

impl Read for Events {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.lines.len() {
            self.refill().map_err(io::Error::other)?;
        }
        let length = buffer.len().min(self.lines.len() - self.given);
        buffer[..length].copy_from_slice(&self.lines[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}

/// Reads a database from memory, with its log if there is one, as the fuzzer wants it.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_all(file: Vec<u8>, log: Option<Vec<u8>>) -> (Vec<u8>, u64, Option<String>) {
    let gauges = Gauges::default();
    let mut text = Vec::new();
    let log = log.map(|log| Box::new(log) as Box<dyn Bytes>);
    let fault = match Events::begin(Box::new(file), log, gauges.clone()) {
        Ok(mut events) => events.read_to_end(&mut text).err().map(|error| error.to_string()),
        Err(fault) => Some(fault.to_string()),
    };
    (text, gauges.hidden.load(Ordering::Relaxed), fault)
}
