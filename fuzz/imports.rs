//! What must hold for every file that somebody imports; part of the command line, so that its rooms stay private.

use super::input::sqlite;

/// Bytes of a line that are not in the row it is made of: names of fields, brackets.
const FRAME: usize = 128;

/// A database of SQLite, as the length of its file in four bytes, the file, and the log beside it: it is read or refused, in time and
/// room that its size bounds.
pub fn sqlite(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<4>() else { return };
    let length = rest.len().min(u32::from_be_bytes(*length) as usize);
    let (file, log) = rest.split_at(length);
    let log = (!log.is_empty()).then(|| log.to_vec());
    let (text, hidden, fault) = sqlite::read_all(file.to_vec(), log.clone());
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    // A row takes two bytes at least, and no byte is in two of them; JSON writes a byte in six at most.
    assert!(lines <= rest.len() / 2 && hidden <= lines as u64, "{lines} lines, {hidden} hidden");
    assert!(text.len() <= 6 * rest.len() + FRAME * lines, "{} bytes", text.len());
    assert!(fault.as_ref().is_none_or(|fault| !fault.is_empty() && fault.len() < 200), "{fault:?}");
    assert_eq!(sqlite::read_all(file.to_vec(), log), (text, hidden, fault));
}
