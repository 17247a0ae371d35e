//! Lines of events from files and standard input: unpacked when compressed, cut into chunks of whole lines, and never
//! more in memory than a few chunks, however long a file or a line is.
//!
//! | file | what |
//! |---|---|
//! | `reader` | the pieces of text in one source, whatever it is |
//! | `unpack` | gzip and Zstandard |
//! | `sqlite` | the database of another relay |
//! | `layout` | what a source holds, told from its beginning |
//! | `assembly` | pieces of text become chunks of events |
//! | `position` | where in a source we are, to go on from there |

mod assembly;
mod layout;
mod position;
mod reader;
pub(super) mod sqlite;
mod unpack;

use std::fs::{self, File};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::failure::{Failure, complain};
use assembly::Assembly;
pub(super) use assembly::{Chunk, Line, MAX_LINE_BYTES};
pub(super) use position::Position;
use reader::{Piece, cut_off, read_source};
pub(super) use sqlite::Gauges;

/// A chunk is handed on when it has this many bytes: some thousand events, which keep all cores busy for a tenth of a second.
const CHUNK_BYTES: usize = 4 << 20;

/// The first chunk has this many bytes, each further one twice as many: small files too are written while they are read.
const FIRST_CHUNK_BYTES: usize = 1 << 20;

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
    /// The names of the sources that have not ended.
    names: std::vec::IntoIter<String>,
    assembly: Assembly,
    gauges: Gauges,
    /// A fault that waits until the lines before it were handed on.
    fault: Option<Failure>,
    /// Bytes that make the next chunk.
    enough: usize,
}

impl Lines {
    /// Begins to read, each source from its position on.
    pub(super) fn read(sources: Vec<(Source, Position)>) -> Lines {
        // Two pieces wait at most: the reader is never far ahead of those who work on what it read.
        let (sender, pieces) = crossbeam_channel::bounded(2);
        let gauges = Gauges::default();
        let told = gauges.clone();
        let names = sources.iter().map(|(source, _)| source.name()).collect::<Vec<_>>().into_iter();
        // Nobody waits for this thread: when a command is stopped while it blocks on a pipe, the process just ends.
        std::thread::spawn(move || {
            for (source, from) in sources {
                let end = match read_source(&source, from, &told, &mut |piece| sender.send(piece).is_ok()) {
                    Ok(true) => Piece::End,
                    Ok(false) => return,
                    Err(fault) => Piece::Failed(fault),
                };
                if sender.send(end).is_err() {
                    return;
                }
            }
        });
        Lines { pieces, names, assembly: Assembly::default(), gauges, fault: None, enough: FIRST_CHUNK_BYTES }
    }

    /// Takes the memory of a chunk that is done with.
    pub(super) fn reuse(&mut self, text: Vec<u8>) {
        self.assembly.reuse(text);
    }

    /// How far reading is; kept up to date.
    pub(super) fn gauges(&self) -> Gauges {
        self.gauges.clone()
    }

    /// Waits up to a fraction of a second for the next chunk. A fault ends one source: it comes
    /// after the lines that were read before it, and the next call goes on with the next source.
    pub(super) fn next(&mut self) -> Result<Next, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            let (enough, otherwise) = match self.pieces.recv_deadline(deadline) {
                Ok(Piece::Begin(layout, from)) => {
                    self.assembly.begin_source(layout, from);
                    continue;
                }
                Ok(Piece::Bytes(piece, consumed)) => {
                    self.assembly.add(&piece, consumed);
                    (self.enough, None)
                }
                Ok(Piece::End) => {
                    let name = self.names.next();
                    if self.assembly.end_source(true) {
                        (self.enough, None)
                    } else {
                        self.fault = name.map(|name| cut_off(&name));
                        (1, None)
                    }
                }
                Ok(Piece::Failed(fault)) => {
                    self.names.next();
                    if fault.whole {
                        self.assembly.end_source(false);
                    } else {
                        self.assembly.give_up_source();
                    }
                    self.fault = Some(fault.failure);
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::assembly::SHOWN_BYTES;
    use super::*;

    /// Every line of a file as (source, number, text, too_long).
    fn read_all(sources: Vec<Source>) -> Result<Vec<(usize, u64, String, bool)>, Failure> {
        let mut lines = Lines::read(sources.into_iter().map(|source| (source, Position::START)).collect());
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
        assert_eq!(texts(b"{a\n\n \t\r\nb\r\nc"), [(1, "{a".into()), (4, "b\r".into()), (5, "c".into())]);
        assert_eq!(texts(b""), []);
        assert_eq!(texts(b"\n\n"), []);
        assert_eq!(texts(b"{x"), [(1, "{x".into())], "a last line needs no line end");
        assert_eq!(texts(b"\xef\xbb\xbf{a\n\xef\xbb\xbfb\n"), [(1, "{a".into()), (2, "\u{feff}b".into())]);
    }

    #[test]
    fn numbers_begin_anew_in_every_source() {
        let (_a, first) = file(b"{a\nb");
        let (_b, second) = file(b"{c\n");
        let found = read_all(vec![first, second]).unwrap();
        assert_eq!(found, [(0, 1, "{a".into(), false), (0, 2, "b".into(), false), (1, 1, "{c".into(), false)]);
    }

    #[test]
    fn compressed_input_is_recognised_by_its_first_bytes() {
        let expected = [(1, "{a".to_owned()), (2, "b".to_owned())];
        assert_eq!(texts(&gzip(b"{a\nb")), expected);
        assert_eq!(texts(&[gzip(b"{a\n"), gzip(b"b")].concat()), expected, "several members in one file");
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert_eq!(texts(&zstd(b"{a\nb")), expected);
        assert_eq!(texts(&[zstd(b"{a\n"), zstd(b"b")].concat()), expected, "several frames in one file");
    }

    #[test]
    fn a_file_that_is_cut_off_gives_what_came_before_and_then_fails() {
        let text = "{0123456789\n".repeat(100_000);
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
        let mut bytes = b"{a\n".to_vec();
        bytes.resize(bytes.len() + MAX_LINE_BYTES + 3 * CHUNK_BYTES, b'x');
        bytes.extend_from_slice(b"\nb\n");
        let (_folder, source) = file(&bytes);
        let found = read_all(vec![source]).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].1, found[0].2.as_str()), (1, "{a"));
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
        let text: String = (0..400_000).map(|n| format!("{{line {n:0100}\n")).collect();
        assert!(text.len() > 2 * CHUNK_BYTES);
        let found = texts(text.as_bytes());
        assert_eq!(found.len(), 400_000);
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(i, (number, text))| { *number == i as u64 + 1 && *text == format!("{{line {i:0100}") })
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
