//! Unpacks gzip and Zstandard, which are recognised by their first bytes whatever the name says.

use std::io::{self, BufRead, BufReader, Read};

/// Formats that are recognised only to say how to unpack them.
const FOREIGN: [(&[u8], &str, &str); 4] = [
    (b"\xfd7zXZ", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
];

/// A format that is not unpacked here.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) format: &'static str,
    /// The command that unpacks it.
    pub(super) tool: &'static str,
}

/// As many bytes of a source as it takes to tell what it is; nothing packed is shorter.
const START: u64 = 6;

/// What [`unpack`] makes of a source.
pub(super) type Unpacked = Result<Text, Foreign>;

/// The bytes of a source.
pub(super) struct Text {
    pub(super) reader: Box<dyn Read + Send>,
    /// Whether they were packed, so that they do not lie in the source as they are read.
    pub(super) is_packed: bool,
}

/// The bytes of `raw`, unpacked when they are packed.
pub(super) fn unpack(mut raw: impl Read + Send + 'static) -> io::Result<Unpacked> {
    let mut start = Vec::new();
    raw.by_ref().take(START).read_to_end(&mut start)?;
    if start.len() < START as usize {
        // That was all. A terminal would have to be told so again if it were asked again.
        return Ok(Ok(Text { reader: Box::new(io::Cursor::new(start)), is_packed: false }));
    }
    for (magic, format, tool) in FOREIGN {
        if start.starts_with(magic) {
            return Ok(Err(Foreign { format, tool }));
        }
    }
    let zstd = start.starts_with(b"\x28\xb5\x2f\xfd")
        || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18]);
    let gzip = start.starts_with(b"\x1f\x8b");
    let whole = io::Cursor::new(start).chain(raw);
    let is_packed = gzip || zstd;
    let reader: Box<dyn Read + Send> = if is_packed {
        Box::new(Packed { gzip, any: false, state: State::Between(BufReader::with_capacity(BUFFER, whole)) })
    } else {
        Box::new(whole)
    };
    Ok(Ok(Text { reader, is_packed }))
}

const BUFFER: usize = 64 << 10;

/// Packed data may be several pieces in a row: members of gzip, frames of Zstandard. Zeros between and behind them are padding.
struct Packed<R: BufRead> {
    gzip: bool,
    /// Whether a piece was read to its end.
    any: bool,
    state: State<R>,
}

enum State<R: BufRead> {
    Between(R),
    Gzip(Box<flate2::bufread::GzDecoder<R>>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    /// Ended, or failed.
    Gone,
}

/// What the fault is called when something else follows the packed data.
pub(super) const RUBBISH: &str = "what follows its packed part is not packed";

impl<R: BufRead> Packed<R> {
    /// Begins with the next piece, if there is one.
    fn begin(&self, mut raw: R) -> io::Result<State<R>> {
        let first = loop {
            match raw.fill_buf()? {
                [] => return Ok(State::Gone),
                [0, ..] if self.any => raw.consume(1),
                [first, ..] => break *first,
            }
        };
        let fits = if self.gzip { first == 0x1f } else { first == 0x28 || first & 0xf0 == 0x50 };
        match (fits, self.gzip) {
            (false, _) => Err(io::Error::new(io::ErrorKind::InvalidData, RUBBISH)),
            (true, true) => Ok(State::Gzip(Box::new(flate2::bufread::GzDecoder::new(raw)))),
            (true, false) => Ok(State::Zstd(zstd::stream::read::Decoder::with_buffer(raw)?.single_frame())),
        }
    }
}

impl<R: BufRead> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Gone) {
                State::Gone => return Ok(0),
                State::Between(raw) => self.begin(raw)?,
                State::Gzip(mut decoder) => match decoder.read(buffer)? {
                    0 => State::Between(decoder.into_inner()),
                    length => {
                        self.state = State::Gzip(decoder);
                        return Ok(length);
                    }
                },
                State::Zstd(mut decoder) => match decoder.read(buffer)? {
                    0 => State::Between(decoder.finish()),
                    length => {
                        self.state = State::Zstd(decoder);
                        return Ok(length);
                    }
                },
            };
            self.any |= matches!(self.state, State::Between(_));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    /// What could be read, and the fault that ended it.
    fn read(bytes: &[u8]) -> (Vec<u8>, Option<io::Error>) {
        let mut reader = unpack(io::Cursor::new(bytes.to_vec())).unwrap().ok().unwrap().reader;
        let (mut found, mut piece) = (Vec::new(), [0; 1000]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return (found, None),
                Ok(length) => found.extend_from_slice(&piece[..length]),
                Err(error) => return (found, Some(error)),
            }
        }
    }

    #[test]
    fn several_pieces_in_a_row_are_one_text_and_zeros_are_padding() {
        for pack in [gzip, zstandard] {
            let long = vec![b'x'; 100_000];
            let whole = [&pack(b"a")[..], &pack(&long), &[0; 700], &pack(b""), &pack(b"b"), &[0; 5]].concat();
            let (found, fault) = read(&whole);
            assert!(fault.is_none(), "{fault:?}");
            assert_eq!(found.len(), 100_002);
            assert!(found.starts_with(b"ax") && found.ends_with(b"xb"));
        }
        assert_eq!(read(b"plain").0, b"plain");
        assert_eq!(read(b"").0, b"");
    }

    #[test]
    fn rubbish_behind_the_end_is_told_from_a_file_that_is_cut_off() {
        for pack in [gzip, zstandard] {
            let (found, fault) = read(&[&pack(b"a")[..], &[0; 10], b"rubbish"].concat());
            assert_eq!((found, fault.unwrap().to_string()), (b"a".to_vec(), RUBBISH.to_owned()));
            let long: Vec<u8> = (0..100_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            let packed = pack(&long);
            for length in [packed.len() / 2, packed.len() - 1, 12] {
                let (_, fault) = read(&[&pack(b"a")[..], &packed[..length]].concat());
                assert_eq!(fault.map(|fault| fault.kind()), Some(io::ErrorKind::UnexpectedEof), "{length}");
            }
        }
    }

    #[test]
    fn foreign_formats_are_named() {
        let foreign = unpack(io::Cursor::new(b"\xfd7zXZ\0\0\0")).unwrap().err().unwrap();
        assert_eq!((foreign.format, foreign.tool), ("xz", "xz -dc"));
    }
}
