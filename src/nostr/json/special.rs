//! Finds the bytes that a JSON string cannot hold as they are: quotes, backslashes and control characters.

/// Bytes that are looked at in one step.
pub(super) const BLOCK: usize = 32;

#[inline]
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The places in a block.
const PLACES: [u8; BLOCK] = {
    let mut places = [0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        places[i] = i as u8;
        i += 1;
    }
    places
};

/// Looks at the first `len` bytes of a block, all of it if that is more: whether a JSON string cannot hold one of them as it is, and whether all are
/// ASCII.
#[inline]
pub(super) fn look(block: &[u8; BLOCK], len: usize) -> (bool, bool) {
    const SPECIAL: u8 = 1;
    const TOP: u8 = 0x80;
    const ALL: u128 = u128::from_le_bytes([1; 16]);
    let len = len.min(BLOCK) as u8;
    // One mark for each byte, in an array and without a branch: in this form the compiler makes vectors of it. A micro bench tells when it does not
    // any more, for then this is four times as slow.
    let mut marks = [0; BLOCK];
    for i in 0..BLOCK {
        let byte = block[i];
        let here = if PLACES[i] < len { 0xFF } else { 0 };
        let special = if is_special(byte) { SPECIAL } else { 0 };
        marks[i] = (special | byte & TOP) & here;
    }
    let all = marks.as_chunks().0.iter().fold(0, |all, half| all | u128::from_le_bytes(*half));
    (all & (ALL * u128::from(SPECIAL)) != 0, all & (ALL * u128::from(TOP)) == 0)
}

/// Marks the quotes, backslashes and control characters among eight bytes, by the arithmetic that finds a zero byte in a word. The lowest
/// mark is exact, those above it need not be.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    (word.wrapping_sub(ONES * 0x20) & !word
        | quote.wrapping_sub(ONES) & !quote
        | backslash.wrapping_sub(ONES) & !backslash)
        & TOPS
}

/// Where the first quote, backslash or control character lies, from `at` on; the length if there is none.
#[inline]
pub(super) fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
        if look(block, BLOCK).0 {
            break;
        }
        at += BLOCK;
    }
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if is_special(byte) {
            break;
        }
        at += 1;
    }
    at
}
