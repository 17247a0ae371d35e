//! Pages of an SQLite database as its last commit left them: from the file, or from the write-ahead log beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::Fault;

/// What every SQLite database begins with.
pub(in crate::cli) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Bytes at any place.
pub(super) trait Bytes: Send {
    /// How many there are.
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer from there on; an error when there are too few.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Bytes for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Bytes for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A database, page by page.
pub(super) struct Pages {
    file: Box<dyn Bytes>,
    log: Option<Log>,
    page_size: usize,
    /// Bytes of a page that may be used.
    usable: usize,
    /// Pages that the database has.
    count: u32,
    /// Pages that are there: in the file, or in the log.
    there: u64,
}

const HEADER: usize = 100;

impl Pages {
    /// Reads the header of a database, and of the log beside it as much as was committed.
    pub(super) fn open(file: Box<dyn Bytes>, log: Option<Box<dyn Bytes>>) -> Result<Pages, Fault> {
        let length = file.length()?;
        let mut header = [0; HEADER];
        if length < HEADER as u64 {
            return Err(Fault::cut_off());
        }
        file.read_at(&mut header, 0)?;
        let page_size = page_size(&header)?;
        // How it is to be read: 1 without a log, 2 with one.
        let log = match header[19] {
            1 => None,
            2 => log.map(|log| Log::read(log, page_size)).transpose()?.flatten(),
            _ => return Err(Fault::foreign("it was written by a version of SQLite that is not known here")),
        };
        let in_file = u32::try_from(length / page_size as u64).unwrap_or(u32::MAX);
        let logged = log.as_ref().map_or(0, |log| log.pages.len() as u64);
        let there = u64::from(in_file) + logged;
        let mut pages = Pages { file, page_size, usable: 0, count: in_file, there, log };
        if let Some(log) = &pages.log {
            pages.count = log.count;
            header.copy_from_slice(&pages.read(1)?[..HEADER]);
        }
        pages.usable = page_size - usize::from(header[20]);
        if !header.starts_with(MAGIC) || self::page_size(&header)? != page_size || pages.usable < 480 {
            return Err(Fault::damaged("its header is not one"));
        }
        // The header tells how many there should be, if whoever wrote it last knew how to.
        let stated = u32_at(&header, 28).filter(|_| header[24..28] == header[92..96]).unwrap_or(0);
        if pages.log.is_none() && stated > in_file {
            return Err(Fault::cut_off());
        }
        match u32_at(&header, 56) {
            Some(0 | 1) => Ok(pages),
            _ => Err(Fault::foreign("its text is in UTF-16")),
        }
    }

    /// No walk reads more pages than this, unless it reads one twice.
    pub(super) fn most(&self) -> u64 {
        self.there.min(u64::from(self.count))
    }

    /// Bytes of a page that may be used.
    pub(super) fn usable(&self) -> usize {
        self.usable
    }

    /// A page; they are numbered from 1.
    pub(super) fn read(&self, number: u32) -> Result<Vec<u8>, Fault> {
        if number == 0 || number > self.count {
            return Err(Fault::damaged(format!("it points at page {number}, which it does not have")));
        }
        let mut page = vec![0; self.page_size];
        let read = match self.log.as_ref().and_then(|log| Some((log, log.pages.get(&number)?))) {
            Some((log, offset)) => log.file.read_at(&mut page, *offset),
            None => self.file.read_at(&mut page, u64::from(number - 1) * self.page_size as u64),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::cut_off()),
            read => Ok(read.map(|()| page)?),
        }
    }
}

fn page_size(header: &[u8]) -> Result<usize, Fault> {
    match u16_at(header, 16) {
        Some(1) => Ok(65_536),
        Some(size) if size >= 512 && size.is_power_of_two() => Ok(size),
        _ => Err(Fault::damaged("its header is not one")),
    }
}

/// The write-ahead log: pages that were written since the last of them were copied into the file.
struct Log {
    file: Box<dyn Bytes>,
    /// Where the newest version of each page begins.
    pages: HashMap<u32, u64>,
    /// Pages that the database has after the last commit.
    count: u32,
}

const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

impl Log {
    /// What was committed: frames with the right salts and checksums, up to the last that ends a transaction. `None` when there is none.
    fn read(file: Box<dyn Bytes>, page_size: usize) -> Result<Option<Log>, Fault> {
        let length = file.length()?;
        if length < LOG_HEADER {
            return Ok(None);
        }
        let mut header = [0; LOG_HEADER as usize];
        file.read_at(&mut header, 0)?;
        let number = |at| u32_at(&header, at).unwrap_or(0);
        let (magic, salts) = (number(0), header[16..24].to_vec());
        let mut sum = Checksum { big_endian: magic & 1 == 1, a: 0, b: 0 };
        sum.add(&header[..24]);
        if magic & !1 != 0x377f_0682 || !sum.is(&header[24..32]) || number(8) as usize != page_size {
            // As SQLite does: a log that was not begun properly holds nothing.
            return Ok(None);
        }
        if number(4) != 3_007_000 {
            return Err(Fault::foreign("its log was written by a version of SQLite that is not known here"));
        }
        let mut log = Log { file, pages: HashMap::new(), count: 0 };
        let mut frame = vec![0; FRAME_HEADER as usize + page_size];
        let mut begun: Vec<(u32, u64)> = Vec::new();
        let mut at = LOG_HEADER;
        while at + frame.len() as u64 <= length {
            log.file.read_at(&mut frame, at)?;
            let (page, count) = (u32_at(&frame, 0).unwrap_or(0), u32_at(&frame, 4).unwrap_or(0));
            sum.add(&frame[..8]);
            sum.add(&frame[FRAME_HEADER as usize..]);
            if page == 0 || frame[8..16] != salts || !sum.is(&frame[16..24]) {
                break;
            }
            begun.push((page, at + FRAME_HEADER));
            if count > 0 {
                log.pages.extend(begun.drain(..));
                log.count = count;
            }
            at += frame.len() as u64;
        }
        Ok((log.count > 0).then_some(log))
    }
}

/// The checksum of the log, over words of 32 bits in the order of bytes of the machine that wrote it.
struct Checksum {
    big_endian: bool,
    a: u32,
    b: u32,
}

impl Checksum {
    /// Of a multiple of eight bytes.
    fn add(&mut self, bytes: &[u8]) {
        let word = |bytes: [u8; 4]| if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        for pair in bytes.chunks_exact(8) {
            let (first, second) = ([pair[0], pair[1], pair[2], pair[3]], [pair[4], pair[5], pair[6], pair[7]]);
            self.a = self.a.wrapping_add(word(first)).wrapping_add(self.b);
            self.b = self.b.wrapping_add(word(second)).wrapping_add(self.a);
        }
    }

    fn is(&self, stated: &[u8]) -> bool {
        stated == [self.a.to_be_bytes(), self.b.to_be_bytes()].concat()
    }
}
