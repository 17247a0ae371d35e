//! The writer of JSON in the canonical form that event ids are computed over.

use super::special::{BLOCK, look, plain_run};

/// Appends `text` as a JSON string, quotes included, in the canonical form that event ids are computed
/// over: the seven two-character escapes of NIP-01, `\u00xx` for the other control characters, everything
/// else verbatim (N01-05 to N01-07).
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    write_text(out, text.as_bytes(), text.len());
}

/// Appends the first `len` bytes of `bytes` as [`write_string`] would if they were text; whether they are UTF-8 is the caller's
/// business, but whether they are ASCII, and therefore text in any case, is returned. What lies behind them does not matter, but strings are
/// written fastest when at least a block of bytes does: then the last step, which for most strings is the only one, need not be cut to measure.
pub(crate) fn write_text(out: &mut Vec<u8>, bytes: &[u8], len: usize) -> bool {
    out.reserve(len + 2 + BLOCK);
    out.push(b'"');
    let (mut at, mut ascii) = (0, true);
    while at < len {
        let rest = &bytes[at..];
        let block = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut block = [b' '; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            block
        });
        // The whole block goes out; what turns out to be too much is taken back.
        let start = out.len();
        out.extend_from_slice(&block);
        let left = (len - at).min(BLOCK);
        let (special, is_ascii) = look(&block, left);
        ascii &= is_ascii;
        if special {
            let plain = plain_run(&block, 0);
            out.truncate(start + plain);
            write_escape(out, block[plain]);
            at += plain + 1;
        } else {
            out.truncate(start + left);
            at += left;
        }
    }
    out.push(b'"');
    ascii
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        control => {
            out.extend_from_slice(b"\\u00");
            write_hex(out, &[control]);
        }
    }
}

/// Appends the lower-case hexadecimal digits of `bytes`, without quotes.
pub fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    // Cannot fail: the room is exactly what the digits need.
    let _ = const_hex::encode_to_slice(bytes, &mut out[start..]);
}

/// Appends a decimal number.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte after the other.
    fn naive(text: &str) -> String {
        let escape = |c: char| match c {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            '\u{8}' => "\\b".into(),
            '\u{c}' => "\\f".into(),
            c if c < ' ' => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        };
        format!("\"{}\"", text.chars().map(escape).collect::<String>())
    }

    #[test]
    fn n01_05_n01_06_n01_07_strings_are_escaped_wherever_a_block_ends() {
        for special in ['"', '\\', '\n', '\r', '\t', '\u{8}', '\u{c}', '\0', '\u{1f}', ' ', '\u{7f}', 'é', '€', '😀']
        {
            for len in 0..70 {
                for at in 0..=len {
                    let mut text = "x".repeat(len);
                    text.insert(at, special);
                    for text in [text.clone(), format!("{text}{special}"), special.to_string().repeat(len)] {
                        let mut out = b"before".to_vec();
                        write_string(&mut out, &text);
                        assert_eq!(out, format!("before{}", naive(&text)).into_bytes(), "{text:?}");
                        // What stands behind the text is no part of it.
                        let mut out = Vec::new();
                        let ascii =
                            write_text(&mut out, format!("{text}\"\né{}", "y".repeat(40)).as_bytes(), text.len());
                        assert_eq!(out, naive(&text).into_bytes(), "{text:?}");
                        assert_eq!(ascii, text.is_ascii(), "{text:?}");
                    }
                }
            }
        }
    }
}
