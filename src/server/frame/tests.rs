//! Frames of every kind, cut in every way.

use proptest::prelude::*;

use super::*;

const MASK: [u8; 4] = [0x11, 0x82, 0x33, 0x44];

/// A masked client frame; `first` is the first byte as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().enumerate().map(|(i, b)| b ^ MASK[i & 3]));
    out
}

/// Feeds `bytes` in pieces of `size` and notes what comes out.
fn decode(limit: usize, bytes: &[u8], size: usize) -> Vec<String> {
    let mut decoder = Decoder::new(limit, false);
    let mut seen = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        loop {
            match decoder.next(&mut piece, &mut at) {
                Ok(Some(incoming)) => seen.push(match incoming {
                    Incoming::Text(text) if text.len() > 100 => format!("text {}", text.len()),
                    other => format!("{other:?}"),
                }),
                Ok(None) => break,
                Err(violation) => {
                    seen.push(format!("close {}", u16::from(violation.code)));
                    return seen;
                }
            }
        }
        assert_eq!(at, piece.len(), "everything is taken");
    }
    if decoder.frame.is_empty() && decoder.fragmented.is_none() {
        assert_eq!(decoder.held(), 0, "an idle decoder owns no buffer");
    }
    seen
}

/// What comes out must not depend on how the bytes were cut.
#[track_caller]
fn assert_decodes(bytes: &[u8], expected: &[&str]) {
    for size in [1, 2, 3, 5, 7, 16, 125, 126, 127, 1000, bytes.len().max(1)] {
        assert_eq!(decode(1024, bytes, size), expected, "in pieces of {size}");
    }
}

#[test]
fn messages_of_every_header_size() {
    for n in [0, 1, 125, 126, 127, 0xffff, 0x10000, 131_072] {
        let text = "x".repeat(n);
        let bytes = frame(0x81, text.as_bytes());
        for size in [1, 13, 4096, bytes.len()] {
            let seen = decode(131_072, &bytes, size);
            let expected = match n {
                0..=100 => format!("Text({text:?})"),
                _ => format!("text {n}"),
            };
            assert_eq!(seen, [expected], "{n} bytes in pieces of {size}");
        }
    }
}

#[test]
fn several_frames_in_one_read() {
    let bytes = [frame(0x81, b"[1]"), frame(0x8a, b""), frame(0x82, b"ab"), frame(0x81, b"[2]")].concat();
    assert_decodes(&bytes, &["Text(\"[1]\")", "Pong", "Binary([97, 98])", "Text(\"[2]\")"]);
}

#[test]
fn h182_one_byte_fragments() {
    let text = "[\"REQ\",\"é\"]";
    let last = text.len() - 1;
    let bytes: Vec<u8> = text
        .bytes()
        .enumerate()
        .flat_map(|(i, byte)| {
            let first = if i == 0 { 0x01 } else { 0x00 } | if i == last { 0x80 } else { 0 };
            frame(first, &[byte])
        })
        .collect();
    assert_decodes(&bytes, &["Text(\"[\\\"REQ\\\",\\\"é\\\"]\")"]);
}

#[test]
fn h183_endless_empty_fragments() {
    let mut bytes = frame(0x01, b"");
    for _ in 0..100_000 {
        bytes.extend(frame(0x00, b""));
    }
    assert_eq!(decode(1024, &bytes, 4096), ["close 1008"]);
}

#[test]
fn h184_ping_between_fragments() {
    let bytes = [frame(0x01, b"[\"a"), frame(0x89, b"hi"), frame(0x80, b"b\"]")].concat();
    assert_decodes(&bytes, &["Ping([104, 105])", "Text(\"[\\\"ab\\\"]\")"]);
}

#[test]
fn protocol_errors_close_1002() {
    let long_ping = [0x89, 0x80 | 126, 0, 126, 1, 2, 3, 4];
    let top_bit = [0x81, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4];
    for (name, bytes) in [
        ("h185_continuation_without_start", frame(0x80, b"x")),
        ("h186_new_text_inside_message", [frame(0x01, b"x"), frame(0x81, b"y")].concat()),
        ("h186_new_binary_inside_message", [frame(0x01, b"x"), frame(0x02, b"y")].concat()),
        ("h187_unmasked", vec![0x81, 0x01, b'x']),
        ("h188_rsv1", frame(0xc1, b"x")),
        ("h188_rsv2", frame(0xa1, b"x")),
        ("h188_rsv3", frame(0x91, b"x")),
        ("h189_opcode_3", frame(0x83, b"")),
        ("h189_opcode_7", frame(0x87, b"")),
        ("h189_opcode_11", frame(0x8b, b"")),
        ("h189_opcode_15", frame(0x8f, b"")),
        ("h190_ping_of_126", long_ping.to_vec()),
        ("h191_fragmented_ping", frame(0x09, b"x")),
        ("h202_top_bit_of_length", top_bit.to_vec()),
        ("h205_close_of_one_byte", frame(0x88, b"x")),
        ("h206_close_999", frame(0x88, &999u16.to_be_bytes())),
        ("h206_close_1004", frame(0x88, &1004u16.to_be_bytes())),
        ("h206_close_1005", frame(0x88, &1005u16.to_be_bytes())),
        ("h206_close_1006", frame(0x88, &1006u16.to_be_bytes())),
        ("h206_close_1015", frame(0x88, &1015u16.to_be_bytes())),
        ("h206_close_2999", frame(0x88, &2999u16.to_be_bytes())),
        ("h206_close_5000", frame(0x88, &5000u16.to_be_bytes())),
    ] {
        for size in [1, 3, bytes.len()] {
            assert_eq!(decode(1024, &bytes, size), ["close 1002"], "{name} in pieces of {size}");
        }
    }
}

#[test]
fn h192_largest_ping() {
    let payload: Vec<u8> = (0..125).collect();
    assert_decodes(&frame(0x89, &payload), &[&format!("Ping({payload:?})")]);
}

#[test]
fn invalid_utf8_closes_1007() {
    for (name, payload) in [
        ("h195_ff", &b"\xff"[..]),
        ("h196_overlong", b"[\"\xc0\x80\"]"),
        ("h197_surrogate", b"[\"\xed\xa0\x80\"]"),
        ("h199_cut", b"\xf0\x9f"),
        ("beyond_unicode", b"\xf4\x90\x80\x80"),
    ] {
        let bytes = frame(0x81, payload);
        for size in [1, bytes.len()] {
            assert_eq!(decode(1024, &bytes, size), ["close 1007"], "{name}");
        }
    }
    assert_eq!(decode(1024, &frame(0x88, b"\x03\xe8\xff"), 99), ["close 1007"], "h207");
}

#[test]
fn h198_character_across_fragments() {
    let bytes = [frame(0x01, b"\"\xf0\x9f"), frame(0x80, b"\x98\x80\"")].concat();
    assert_decodes(&bytes, &["Text(\"\\\"😀\\\"\")"]);
    let bytes = [frame(0x01, b"\xf0\x9f"), frame(0x80, b"")].concat();
    assert_decodes(&bytes, &["close 1007"]);
}

#[test]
fn h201_huge_length_is_refused_at_its_header() {
    let mut header = vec![0x81, 0x80 | 127];
    header.extend_from_slice(&(1u64 << 62).to_be_bytes());
    let mut decoder = Decoder::new(1024, false);
    let refused = decoder.next(&mut header, &mut 0);
    assert_eq!(refused.map_err(|v| u16::from(v.code)), Err(1009));
    assert_eq!(decoder.held(), 0);
}

#[test]
fn h203_longer_length_encoding_than_needed() {
    let mut bytes = vec![0x81, 0x80 | 126, 0, 3];
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(b"[1]");
    assert_decodes(&bytes, &["Text(\"[1]\")"]);
}

#[test]
fn h204_limit_counts_the_sum_of_fragments() {
    let at_limit = [frame(0x01, &[b' '; 1000]), frame(0x80, &[b' '; 24])].concat();
    assert_decodes(&at_limit, &["text 1024"]);
    let above = [frame(0x01, &[b' '; 1000]), frame(0x80, &[b' '; 25])].concat();
    assert_decodes(&above, &["close 1009"]);
    assert_decodes(&frame(0x81, &[b' '; 1025]), &["close 1009"]);
}

#[test]
fn a_frame_grows_with_its_bytes_not_with_its_header() {
    let bytes = frame(0x81, &[b' '; 100_000]);
    let mut decoder = Decoder::new(131_072, false);
    let mut start = bytes[..1000].to_vec();
    assert_eq!(decoder.next(&mut start, &mut 0), Ok(None));
    assert!(decoder.held() < 4096, "{} bytes for 1000", decoder.held());
}

#[test]
fn close_with_and_without_code() {
    assert_decodes(&frame(0x88, b""), &["Close(None)"]);
    assert_decodes(&frame(0x88, b"\x03\xe8bye"), &["Close(Some(Normal))"]);
    assert_decodes(&frame(0x88, &4000u16.to_be_bytes()), &["Close(Some(Library(4000)))"]);
}

#[test]
fn written_headers() {
    for n in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
        let mut buf = b"before".to_vec();
        let start = begin_text(&mut buf);
        buf.extend(std::iter::repeat_n(b'x', n));
        end_text(&mut buf, start);
        let (header, size) = text_header(n);
        assert_eq!(&buf[..6], b"before");
        assert_eq!(&buf[6..6 + size], &header[..size]);
        assert_eq!(buf.len(), 6 + size + n);
        assert!(buf[6 + size..].iter().all(|&b| b == b'x'));
        let expected = match n {
            0..=125 => vec![0x81, n as u8],
            126..=65_535 => [&[0x81, 126][..], &(n as u16).to_be_bytes()].concat(),
            _ => [&[0x81, 127][..], &(n as u64).to_be_bytes()].concat(),
        };
        assert_eq!(&header[..size], expected);
    }
}

#[test]
fn written_control_frames() {
    let mut buf = Vec::new();
    write_control(&mut buf, OpCode::Pong, b"hi");
    write_close(&mut buf, Some(CloseCode::Away), "bye");
    write_close(&mut buf, None, "unused");
    assert_eq!(buf, b"\x8a\x02hi\x88\x05\x03\xe9bye\x88\x00");
}

/// Frames of a client that is sometimes wrong.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => "[a-zé😀]{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let first =
        prop_oneof![8 => prop::sample::select(vec![0x81, 0x01, 0x00, 0x80, 0x89, 0x8a, 0x82]), 1 => any::<u8>()];
    (first, payload).prop_map(|(first, payload)| frame(first, &payload))
}

proptest! {
    #[test]
    fn the_cut_of_the_bytes_never_matters(
        frames in prop::collection::vec(some_frame(), 0..12),
        noise in prop::collection::vec(any::<u8>(), 0..20),
        size in 1usize..50,
    ) {
        let bytes = [frames.concat(), noise].concat();
        prop_assert_eq!(decode(300, &bytes, size), decode(300, &bytes, bytes.len().max(1)));
    }
}
