//! One source from its beginning, or from a position, to its end: what it is, unpacked if need be, in pieces of text.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Source;
use super::layout::{Layout, Look, MARK, look};
use super::position::Position;
use super::sqlite::{self, Events, Gauges};
use super::unpack::{RUBBISH, Text, unpack};
use crate::cli::failure::Failure;
use crate::config::plain;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What becomes of a source, piece by piece.
pub(super) enum Piece {
    /// The next source begins, at this position.
    Begin(Layout, Position),
    /// Text, and how many bytes of the file were read so far.
    Bytes(Vec<u8>, u64),
    End,
    Failed(Fault),
}

/// Why a source cannot be read to its end.
pub(super) struct Fault {
    pub(super) failure: Failure,
    /// Whether it is whole nevertheless, as far as there are events in it.
    pub(super) whole: bool,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault { failure, whole: false }
    }
}

/// A source that ends too early.
pub(super) fn cut_off(name: &str) -> Failure {
    Failure::new(format!("{name} ends too early: it is cut off"), AGAIN)
}

/// What to do about a source that cannot be read to its end.
const AGAIN: &str = "Everything before that point is in; get the file again and repeat the import.";

/// Reads one source from the position to its end. False when nobody wants more.
pub(super) fn read_source(
    source: &Source,
    from: Position,
    gauges: &Gauges,
    take: &mut dyn FnMut(Piece) -> bool,
) -> Result<bool, Fault> {
    let name = source.name();
    let failed = |error: io::Error| failed(&name, &error);
    let consumed_before = gauges.consumed.load(Ordering::Relaxed);
    let Text { mut reader, is_packed } = open(source, gauges)?;
    let mut head = Vec::new();
    let (mut complete, mut mark) = (false, 0);
    let layout = loop {
        let piece = read(&mut reader).map_err(failed)?;
        complete |= piece.is_empty();
        head.extend_from_slice(&piece);
        if head.starts_with(MARK) && mark == 0 {
            head.drain(..MARK.len());
            mark = MARK.len() as u64;
        }
        match look(&head, complete) {
            Look::Wait => {}
            Look::Events(layout) => break layout,
            Look::Other(what, advice) => {
                return Err(Failure::new(format!("{name} does not look like JSONL: it is {what}"), advice).into());
            }
        }
    };
    if from.offset <= head.len() as u64 {
        head.drain(..from.offset as usize);
    } else {
        let before = head.len() as u64 + mark;
        head.clear();
        match source {
            // Text that lies on the disk as it is need not be read to be passed over.
            Source::File(path) if !is_packed && is_file(path) => {
                let mut file = File::open(path).map_err(failed)?;
                file.seek(SeekFrom::Start(from.offset + mark)).map_err(failed)?;
                gauges.consumed.fetch_add(from.offset + mark - before, Ordering::Relaxed);
                reader = Box::new(Counted { inner: file, consumed: gauges.consumed.clone() });
            }
            _ => {
                let left = from.offset + mark - before;
                let passed = io::copy(&mut reader.by_ref().take(left), &mut io::sink()).map_err(failed)?;
                if passed < left {
                    return Err(cut_off(&name).into());
                }
            }
        }
        complete = false;
    }
    let consumed = || gauges.consumed.load(Ordering::Relaxed) - consumed_before;
    if !take(Piece::Begin(layout, from)) || !take(Piece::Bytes(head, consumed())) {
        return Ok(false);
    }
    // What has ended is not read again: a terminal would have to be told so twice.
    while !complete {
        let piece = read(&mut reader).map_err(failed)?;
        complete = piece.is_empty();
        if !take(Piece::Bytes(piece, consumed())) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The text of a source.
fn open(source: &Source, gauges: &Gauges) -> Result<Text, Fault> {
    let name = source.name();
    let raw: Box<dyn Read + Send> = match source {
        Source::Stdin => Box::new(io::stdin()),
        Source::File(path) => {
            let mut file = File::open(path).map_err(|error| {
                Failure::io(format!("{name} cannot be opened"), &error, "Check the name and its permissions.")
            })?;
            if is_file(path) {
                let mut start = [0; sqlite::MAGIC.len()];
                if file.read_exact(&mut start).is_ok() && start == *sqlite::MAGIC {
                    let events = Events::open(path, gauges).map_err(|fault| fault.failure(&name))?;
                    return Ok(Text { reader: Box::new(events), is_packed: true });
                }
                file.rewind().map_err(|error| failed(&name, &error))?;
            }
            Box::new(file)
        }
    };
    let unpacked = unpack(Counted { inner: raw, consumed: gauges.consumed.clone() });
    unpacked.map_err(|error| failed(&name, &error))?.map_err(|foreign| {
        let what = format!("{name} is compressed with {}, which is not supported", foreign.format);
        let next = match source {
            Source::File(_) => format!("Unpack it on the way: {} {name} | ratite import", foreign.tool),
            Source::Stdin => format!("Unpack it first, with {}.", foreign.tool),
        };
        Failure::new(what, next).into()
    })
}

/// What an error of a reader means.
fn failed(name: &str, error: &io::Error) -> Fault {
    if let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<sqlite::Fault>()) {
        return fault.failure(name).into();
    }
    let rubbish = error.to_string() == RUBBISH;
    let failure = match error.kind() {
        io::ErrorKind::UnexpectedEof => cut_off(name),
        _ if rubbish => {
            Failure::new(format!("{name} is not clean: {RUBBISH}"), "All that was packed is in; check the rest.")
        }
        _ => Failure::new(format!("{name} cannot be read any further: {}", plain(error)), AGAIN),
    };
    Fault { failure, whole: rubbish }
}

/// The next piece; empty at the end.
fn read(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        match reader.read(&mut piece) {
            Ok(length) => {
                piece.truncate(length);
                return Ok(piece);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

struct Counted<R> {
    inner: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.consumed.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
