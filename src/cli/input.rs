//! Lines of events from files and standard input: unpacked when compressed, cut into chunks of whole lines, and never
//! more in memory than a few chunks, however long a file or a line is.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::failure::{Failure, complain, plain};

/// A chunk is handed on when it has this many bytes. Each chunk becomes one transaction, and a transaction rewrites the
/// pages it touches however little it changes in them: chunks of 4 MiB write four times as much to the disk as these.
const CHUNK_BYTES: usize = 16 << 20;

/// The first chunk has this many bytes, each further one twice as many: small files too are written while they are read.
const FIRST_CHUNK_BYTES: usize = 1 << 20;

/// No event is this long; a longer line is some other file, and is passed over without keeping it.
pub(super) const MAX_LINE_BYTES: usize = 16 << 20;

/// How much of a line that is too long is kept to show it.
const SHOWN_BYTES: usize = 256;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Lines that arrive slowly, as from `tail -f`, wait no longer than this for company.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// The name that messages use.
    pub(super) fn name(&self) -> String {
        match self {
            Source::Stdin => "standard input".to_owned(),
            Source::File(path) => path.display().to_string(),
        }
    }
}

/// Turns the arguments of a command into sources, and finds out what is wrong with them before anything is read.
pub(super) fn sources(arguments: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for argument in arguments {
        let source = if argument.as_os_str() == "-" { Source::Stdin } else { Source::File(argument.clone()) };
        if let Source::File(path) = &source {
            check_file(path)?;
        } else if sources.contains(&Source::Stdin) {
            return Err(Failure::new("standard input (-) is named twice", "It can be read only once."));
        }
        sources.push(source);
    }
    if sources.is_empty() {
        sources.push(Source::Stdin);
    }
    if from_terminal(&sources) {
        complain(
            "Reading events from the terminal: paste lines of JSON, then press Ctrl-D. To read a file instead: ratite import FILE",
        );
    }
    Ok(sources)
}

/// Whether somebody types the lines.
pub(super) fn from_terminal(sources: &[Source]) -> bool {
    sources.contains(&Source::Stdin) && io::stdin().is_terminal()
}

fn check_file(path: &Path) -> Result<(), Failure> {
    let name = path.display();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(format!("there is no file {name}"), "Check the name; nothing was read.")
        }
        _ => unreadable(path, &error),
    })?;
    if metadata.is_dir() {
        return Err(Failure::new(
            format!("{name} is a folder"),
            format!("Name the files in it, for example {}/*.jsonl; nothing was read.", name),
        ));
    }
    if metadata.is_file() {
        // A pipe must not be opened just to try it: its writer would see the other end close.
        File::open(path).map_err(|error| unreadable(path, &error))?;
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::io(
        format!("{} cannot be opened", path.display()),
        error,
        "Check the name and its permissions; nothing was read.",
    )
}

/// The bytes all sources have together, as they lie on disk; `None` when one of them cannot tell.
pub(super) fn total_bytes(sources: &[Source]) -> Option<u64> {
    let size = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len());
    sources
        .iter()
        .map(|source| match source {
            Source::Stdin => size(Path::new("/dev/stdin")),
            Source::File(path) => size(path),
        })
        .sum()
}

/// Whole lines, of one source or of several short ones.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The bytes the lines lie in.
    pub(super) text: Vec<u8>,
    /// The lines in order; blank ones are left out.
    pub(super) lines: Vec<Line>,
}

/// One line of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Index into the sources.
    pub(super) source: usize,
    /// Its number in its source, from 1.
    pub(super) number: u64,
    /// Where it lies in the chunk, without its line end.
    pub(super) range: Range<usize>,
    /// Whether it was longer than [`MAX_LINE_BYTES`]; then only its beginning is there.
    pub(super) too_long: bool,
}

/// What the next look at the input brought.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Chunk),
    /// Nothing yet; look again.
    Waiting,
    /// Every source was read to its end.
    End,
}

/// Reads sources one after another on a thread of its own.
pub(super) struct Lines {
    pieces: Receiver<Piece>,
    assembly: Assembly,
    /// Bytes read from disk or pipe, before unpacking.
    consumed: Arc<AtomicU64>,
    /// A fault that waits until the lines before it were handed on.
    fault: Option<Failure>,
    /// Bytes that make the next chunk.
    enough: usize,
}

enum Piece {
    Bytes(Vec<u8>),
    EndOfSource,
    Failed(Failure),
}

impl Lines {
    /// Begins to read.
    pub(super) fn read(sources: Vec<Source>) -> Lines {
        // Two pieces wait at most: the reader is never far ahead of those who work on what it read.
        let (sender, pieces) = crossbeam_channel::bounded(2);
        let consumed = Arc::new(AtomicU64::new(0));
        let counter = consumed.clone();
        // Nobody waits for this thread: when a command is stopped while it blocks on a pipe, the process just ends.
        std::thread::spawn(move || {
            for source in sources {
                match read_source(&source, &counter, &mut |piece| sender.send(Piece::Bytes(piece)).is_ok()) {
                    Ok(true) if sender.send(Piece::EndOfSource).is_ok() => {}
                    Ok(_) => return,
                    Err(failure) => {
                        let _ = sender.send(Piece::Failed(failure));
                        return;
                    }
                }
            }
        });
        Lines { pieces, assembly: Assembly::default(), consumed, fault: None, enough: FIRST_CHUNK_BYTES }
    }

    /// Bytes read so far, before unpacking.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Waits up to a fraction of a second for the next chunk. A fault comes after the whole lines that were read before it.
    pub(super) fn next(&mut self) -> Result<Next, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            let (enough, otherwise) = match self.pieces.recv_deadline(deadline) {
                Ok(Piece::Bytes(piece)) => {
                    self.assembly.add(&piece);
                    (self.enough, None)
                }
                Ok(Piece::EndOfSource) => {
                    self.assembly.end_of_source();
                    (self.enough, None)
                }
                Ok(Piece::Failed(fault)) => {
                    self.fault = Some(fault);
                    (1, None)
                }
                Err(RecvTimeoutError::Timeout) => (1, Some(Next::Waiting)),
                Err(RecvTimeoutError::Disconnected) => (1, Some(Next::End)),
            };
            match (self.assembly.take(enough), otherwise) {
                (Some(chunk), _) => {
                    self.enough = (2 * self.enough).min(CHUNK_BYTES);
                    return Ok(Next::Chunk(chunk));
                }
                (None, Some(otherwise)) => return Ok(otherwise),
                (None, None) => {}
            }
        }
    }
}

/// Puts pieces together and finds the lines in them.
#[derive(Default)]
struct Assembly {
    buffer: Vec<u8>,
    /// The whole lines in the buffer.
    lines: Vec<Line>,
    /// Where the line begins that has no end yet: the end of the whole lines.
    begun: usize,
    /// Whether that line is too long, so that the rest of it is passed over.
    skipping: bool,
    source: usize,
    /// Lines of this source so far.
    number: u64,
}

impl Assembly {
    fn add(&mut self, mut piece: &[u8]) {
        while let Some(length) = memchr::memchr(b'\n', piece) {
            self.append(&piece[..length]);
            self.end_line();
            piece = &piece[length + 1..];
        }
        self.append(piece);
    }

    /// More of the line that has no end yet.
    fn append(&mut self, part: &[u8]) {
        if !self.skipping {
            self.buffer.extend_from_slice(part);
        }
        if self.buffer.len() - self.begun > MAX_LINE_BYTES {
            self.buffer.truncate(self.begun + SHOWN_BYTES);
            self.skipping = true;
        }
    }

    fn end_line(&mut self) {
        self.number += 1;
        let mut range = self.begun..self.buffer.len();
        if self.number == 1 && self.buffer[range.clone()].starts_with(b"\xef\xbb\xbf") {
            // The byte order mark that some editors put in front of a file.
            range.start += 3;
        }
        if !self.buffer[range.clone()].iter().all(u8::is_ascii_whitespace) {
            self.lines.push(Line { source: self.source, number: self.number, range, too_long: self.skipping });
        }
        self.begun = self.buffer.len();
        self.skipping = false;
    }

    fn end_of_source(&mut self) {
        if self.begun < self.buffer.len() {
            // A last line needs no line end.
            self.end_line();
        }
        self.source += 1;
        self.number = 0;
    }

    /// Takes the whole lines out when they come to this many bytes.
    fn take(&mut self, enough: usize) -> Option<Chunk> {
        if self.begun < enough {
            return None;
        }
        let rest = self.buffer.split_off(self.begun);
        let text = std::mem::replace(&mut self.buffer, rest);
        self.begun = 0;
        let lines = std::mem::take(&mut self.lines);
        (!lines.is_empty()).then_some(Chunk { text, lines })
    }
}

/// Reads one source to its end. False when nobody wants more.
fn read_source(
    source: &Source,
    consumed: &Arc<AtomicU64>,
    take: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<bool, Failure> {
    let raw: Box<dyn Read + Send> = match source {
        Source::Stdin => Box::new(io::stdin()),
        Source::File(path) => Box::new(File::open(path).map_err(|error| {
            Failure::io(format!("{} cannot be opened", path.display()), &error, "Check the name and its permissions.")
        })?),
    };
    let failed = |error: io::Error| {
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("{} ends too early: it is cut off", source.name()),
            _ => format!("{} cannot be read any further: {}", source.name(), plain(&error)),
        };
        Failure::new(what, "Everything before that point is in; get the file again and repeat the import.")
    };
    let mut reader = unpack(source, Counted { inner: raw, consumed: consumed.clone() }, &failed)?;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        match reader.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(length) => {
                piece.truncate(length);
                if !take(piece) {
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
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

/// Formats that are recognised only to say how to unpack them.
const FOREIGN: [(&[u8], &str, &str); 4] = [
    (b"\xfd7zXZ", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
];

/// Unpacks gzip and Zstandard, which are recognised by their first bytes whatever the name says.
fn unpack(
    source: &Source,
    mut raw: impl Read + Send + 'static,
    failed: &dyn Fn(io::Error) -> Failure,
) -> Result<Box<dyn Read + Send>, Failure> {
    let mut start = Vec::new();
    raw.by_ref().take(6).read_to_end(&mut start).map_err(failed)?;
    for (magic, format, tool) in FOREIGN {
        if start.starts_with(magic) {
            let name = source.name();
            return Err(Failure::new(
                format!("{name} is compressed with {format}, which is not supported"),
                match source {
                    Source::File(_) => format!("Unpack it on the way: {tool} {name} | ratite import"),
                    Source::Stdin => format!("Unpack it first, with {tool}."),
                },
            ));
        }
    }
    let zstd = start.starts_with(b"\x28\xb5\x2f\xfd")
        || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18]);
    let gzip = start.starts_with(b"\x1f\x8b");
    let whole = io::Cursor::new(start).chain(raw);
    Ok(if gzip {
        Box::new(flate2::read::MultiGzDecoder::new(whole))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::new(whole).map_err(failed)?)
    } else {
        Box::new(whole)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Every line of a file as (source, number, text, too_long).
    fn read_all(sources: Vec<Source>) -> Result<Vec<(usize, u64, String, bool)>, Failure> {
        let mut lines = Lines::read(sources);
        let mut found = Vec::new();
        loop {
            match lines.next()? {
                Next::Chunk(chunk) => found.extend(chunk.lines.iter().map(|line| {
                    let text = String::from_utf8_lossy(&chunk.text[line.range.clone()]).into_owned();
                    (line.source, line.number, text, line.too_long)
                })),
                Next::Waiting => {}
                Next::End => return Ok(found),
            }
        }
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        fs::write(&path, bytes).unwrap();
        (folder, Source::File(path))
    }

    fn texts(bytes: &[u8]) -> Vec<(u64, String)> {
        let (_folder, source) = file(bytes);
        read_all(vec![source]).unwrap().into_iter().map(|(_, number, text, _)| (number, text)).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_left_out() {
        assert_eq!(texts(b"a\n\n \t\r\nb\r\nc"), [(1, "a".into()), (4, "b\r".into()), (5, "c".into())]);
        assert_eq!(texts(b""), []);
        assert_eq!(texts(b"\n\n"), []);
        assert_eq!(texts(b"x"), [(1, "x".into())], "a last line needs no line end");
        assert_eq!(texts(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"), [(1, "a".into()), (2, "\u{feff}b".into())]);
    }

    #[test]
    fn numbers_begin_anew_in_every_source() {
        let (_a, first) = file(b"a\nb");
        let (_b, second) = file(b"c\n");
        let found = read_all(vec![first, second]).unwrap();
        assert_eq!(found, [(0, 1, "a".into(), false), (0, 2, "b".into(), false), (1, 1, "c".into(), false)]);
    }

    #[test]
    fn compressed_input_is_recognised_by_its_first_bytes() {
        let expected = [(1, "a".to_owned()), (2, "b".to_owned())];
        assert_eq!(texts(&gzip(b"a\nb")), expected);
        assert_eq!(texts(&[gzip(b"a\n"), gzip(b"b")].concat()), expected, "several members in one file");
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert_eq!(texts(&zstd(b"a\nb")), expected);
        assert_eq!(texts(&[zstd(b"a\n"), zstd(b"b")].concat()), expected, "several frames in one file");
    }

    #[test]
    fn a_file_that_is_cut_off_gives_what_came_before_and_then_fails() {
        let text = "0123456789\n".repeat(100_000);
        for whole in [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 1).unwrap()] {
            let (_folder, source) = file(&whole[..whole.len() - 10]);
            match read_all(vec![source]).unwrap_err() {
                Failure::Error { what, .. } => assert!(what.contains("ends too early"), "{what}"),
                Failure::ClosedPipe => unreachable!(),
            }
        }
    }

    #[test]
    fn foreign_formats_are_named() {
        let (_folder, source) = file(b"\xfd7zXZ\0\0\0");
        match read_all(vec![source]).unwrap_err() {
            Failure::Error { what, next } => {
                assert!(what.ends_with("is compressed with xz, which is not supported"), "{what}");
                assert!(next.starts_with("Unpack it on the way: xz -dc "), "{next}");
            }
            Failure::ClosedPipe => unreachable!(),
        }
    }

    #[test]
    fn a_line_without_end_is_passed_over_in_bounded_memory() {
        let mut bytes = b"a\n".to_vec();
        bytes.resize(bytes.len() + MAX_LINE_BYTES + 3 * CHUNK_BYTES, b'x');
        bytes.extend_from_slice(b"\nb\n");
        let (_folder, source) = file(&bytes);
        let found = read_all(vec![source]).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].1, found[0].2.as_str()), (1, "a"));
        assert_eq!((found[1].1, found[1].2.len(), found[1].3), (2, SHOWN_BYTES, true));
        assert_eq!((found[2].1, found[2].2.as_str(), found[2].3), (3, "b", false));
        bytes.truncate(MAX_LINE_BYTES + CHUNK_BYTES);
        let (_folder, source) = file(&bytes);
        let found = read_all(vec![source]).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[1].3, "also at the end of a file");
    }

    #[test]
    fn lines_survive_every_cut() {
        let text: String = (0..400_000).map(|n| format!("line {n:0100}\n")).collect();
        assert!(text.len() > 2 * CHUNK_BYTES);
        let found = texts(text.as_bytes());
        assert_eq!(found.len(), 400_000);
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(i, (number, text))| { *number == i as u64 + 1 && *text == format!("line {i:0100}") })
        );
    }

    #[test]
    fn wrong_files_fail_before_anything_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.jsonl");
        for (path, expected) in [(missing, "there is no file "), (folder.path().to_owned(), "is a folder")] {
            match sources(&[path]).unwrap_err() {
                Failure::Error { what, .. } => assert!(what.contains(expected), "{what}"),
                Failure::ClosedPipe => unreachable!(),
            }
        }
        assert!(sources(&["-".into(), "-".into()]).is_err());
    }
}
