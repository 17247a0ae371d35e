//! What is agreed with which client, and that nothing is lost, hidden or blown up on the way.

use proptest::prelude::*;

use super::*;

/// What is answered to these headers.
fn answer(offers: &[&'static str]) -> Option<(String, u8, bool)> {
    let mut headers = HeaderMap::new();
    for offer in offers {
        headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(offer));
    }
    let (agreement, value) = negotiate(&headers)?;
    Some((value.to_str().unwrap().to_owned(), agreement.window_bits, agreement.takeover))
}

#[test]
fn what_clients_offer_is_agreed_to() {
    let plain = "permessage-deflate; client_no_context_takeover";
    let nothing_kept = "permessage-deflate; client_no_context_takeover; server_no_context_takeover";
    for (client, offers, expected, bits, takeover) in [
        ("Firefox, OkHttp", &["permessage-deflate"][..], plain, 15, true),
        ("Chrome, ws", &["permessage-deflate; client_max_window_bits"], plain, 15, true),
        ("several headers", &["x-webkit-deflate-frame", "permessage-deflate"], plain, 15, true),
        ("a list", &["x-webkit-deflate-frame, permessage-deflate"], plain, 15, true),
        (
            "gorilla",
            &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            nothing_kept,
            15,
            false,
        ),
        (
            "python websockets",
            &["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"],
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=12",
            12,
            true,
        ),
        (
            "Starscream",
            &["permessage-deflate; client_max_window_bits; server_max_window_bits=15"],
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=15",
            15,
            true,
        ),
        (
            "quotes, spaces and case",
            &["PERMESSAGE-DEFLATE ;server_max_window_bits = \"9\" ; server_no_context_takeover"],
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=9",
            9,
            false,
        ),
        ("a second choice", &["permessage-deflate; server_max_window_bits=8, permessage-deflate"], plain, 15, true),
    ] {
        assert_eq!(answer(offers), Some((expected.to_owned(), bits, takeover)), "{client}");
    }
}

#[test]
fn what_cannot_be_kept_is_not_agreed_to() {
    for offer in [
        "permessage-bzip2",
        "permessage-deflate2",
        "permessage-deflate; fast",
        "permessage-deflate;",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=\"15",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover=15",
        "permessage-deflate; client_no_context_takeover=15",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=15",
    ] {
        assert_eq!(answer(&[offer]), None, "{offer}");
    }
    assert_eq!(answer(&[]), None);
}

/// Like an event: fixed words, hexadecimal noise, some text.
fn text_of(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = b"[\"EVENT\",\"sub\",{\"content\":\"good morning, nostr\",\"id\":\"".to_vec();
    while out.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match state >> 62 {
            0 => out.extend_from_slice(b"\",\"pubkey\":\""),
            _ => out.extend_from_slice(format!("{:016x}", state.rotate_left(20)).as_bytes()),
        }
    }
    out.truncate(length);
    out
}

/// Inflates like a peer that keeps this window, and gets only little at a time, so that whatever lies further back is gone.
fn inflate_like_a_peer(window_bits: u8, messages: &[(bool, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut inflater = Decompress::new_with_window_bits(false, window_bits);
    let inflate = |message: &[u8]| {
        let mut out = Vec::new();
        let bytes = [message, &FLUSHED].concat();
        let mut taken = 0;
        loop {
            let mut piece = Vec::with_capacity(61);
            let before = inflater.total_in();
            inflater.decompress_vec(&bytes[taken..], &mut piece, FlushDecompress::Sync).unwrap();
            taken += (inflater.total_in() - before) as usize;
            out.extend_from_slice(&piece);
            if taken == bytes.len() && piece.len() < 61 {
                return out;
            }
        }
    };
    let mut inflate = inflate;
    messages.iter().map(|(compressed, message)| if *compressed { inflate(message) } else { message.clone() }).collect()
}

#[test]
fn every_window_is_respected_and_slices_begin_afresh() {
    for window_bits in 9..=15 {
        let agreement = Agreement { window_bits, takeover: true };
        let (mut sent, mut plain) = (Vec::new(), Vec::new());
        for round in 0..5u64 {
            let slice: Vec<_> = [700, 90, 1200, 40_000, 300, 0, 5000, 70_000, 129].iter().enumerate().collect();
            agreement.slice(|compressor| {
                for (i, length) in slice {
                    let message = text_of(round * 100 + i as u64 / 2, *length);
                    let mut out = b"before".to_vec();
                    let compressed = compressor.compress(&message, &mut out);
                    assert!(out.starts_with(b"before"));
                    assert!(compressed || out.len() == 6, "nothing is left of what was not wanted");
                    sent.push((compressed, if compressed { out.split_off(6) } else { message.clone() }));
                    plain.push(message);
                }
            });
            // A live event in between.
            let event = text_of(round, 1 + (200 << round));
            let packed = if agreement.takes(event.len()) { alone(&event) } else { None };
            if let Some(packed) = packed {
                sent.push((true, [&stored(4).unwrap()[..], b"head", &packed].concat()));
                plain.push([&b"head"[..], &event].concat());
            }
        }
        assert!(inflate_like_a_peer(window_bits, &sent) == plain, "{window_bits} bits");
        let (before, after) =
            (plain.iter().map(Vec::len).sum::<usize>(), sent.iter().map(|m| m.1.len()).sum::<usize>());
        assert!(after < before, "{window_bits} bits: {after} of {before}");
    }
}

#[test]
fn a_peer_that_keeps_no_window_gets_live_events_alone() {
    let agreement = Agreement { window_bits: 15, takeover: false };
    assert!(agreement.slice(|_| ()).is_none());
    let event = text_of(1, 900);
    for _ in 0..2 {
        let packed = alone(&event).unwrap();
        let sent = [(true, [&stored(4).unwrap()[..], b"head", &packed].concat())];
        assert_eq!(inflate_like_a_peer(15, &sent), [[&b"head"[..], &event].concat()]);
    }
}

#[test]
fn what_does_not_shrink_is_left_alone() {
    assert_eq!(alone(b"{}]"), None);
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(4000)
    .collect();
    let agreement = Agreement { window_bits: 15, takeover: true };
    let texts = [text_of(1, 900), noise, text_of(1, 900)];
    let sent = agreement.slice(|slice| {
        texts
            .iter()
            .map(|text| {
                let mut out = Vec::new();
                if slice.compress(text, &mut out) { (true, out) } else { (false, text.clone()) }
            })
            .collect::<Vec<_>>()
    });
    let sent = sent.unwrap();
    assert_eq!(sent.iter().map(|message| message.0).collect::<Vec<_>>(), [true, false, true]);
    assert!(inflate_like_a_peer(15, &sent) == texts, "what went uncompressed is in no window");
}

/// A message as any client would compress it.
fn packed(window_bits: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(flush(&mut Compress::new_with_window_bits(Compression::best(), false, window_bits), message, &mut out));
    out
}

#[test]
fn inflating_stops_at_the_limit() {
    for size in [1000, 1023, 1024] {
        assert_eq!(inflate(&packed(15, &vec![b' '; size]), 1024), Ok(vec![b' '; size]));
    }
    assert_eq!(inflate(&packed(15, &[b' '; 1025]), 1024), Err(Fault::TooLarge));
    assert_eq!(inflate(&packed(15, &vec![b' '; 100 << 20]), 1 << 17), Err(Fault::TooLarge));
    let mut stored_blocks = stored(1025).unwrap().to_vec();
    stored_blocks.extend_from_slice(&[b' '; 1025]);
    stored_blocks.push(0);
    assert_eq!(inflate(&stored_blocks, 1024), Err(Fault::TooLarge));
    assert_eq!(inflate(&stored_blocks, 1025), Ok(vec![b' '; 1025]));
}

#[test]
fn examples_of_the_rfc_are_inflated() {
    // RFC 7692 section 7.2.3: one block, a stored block, a last block, two blocks, nothing.
    assert_eq!(inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 100).unwrap(), b"Hello");
    assert_eq!(inflate(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", 100).unwrap(), b"Hello");
    assert_eq!(inflate(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", 100).unwrap(), b"Hello");
    assert_eq!(inflate(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", 100).unwrap(), b"Hello");
    assert_eq!(inflate(b"\x00", 100).unwrap(), b"");
    assert_eq!(inflate(b"", 100).unwrap(), b"");
}

#[test]
fn what_is_not_deflate_or_not_whole_is_refused() {
    let whole = packed(15, &text_of(7, 3000));
    for cut in 1..whole.len() {
        assert_eq!(inflate(&whole[..cut], 1 << 20), Err(Fault::Invalid), "cut at {cut}");
    }
    for bytes in [&b"\xff"[..], b"\x06", b"\x9a\x31\x07\xff", b"\x00\x05\x00\xff\xff", b"\x02\xff\xff\xff\x01"] {
        assert_eq!(inflate(bytes, 1 << 20), Err(Fault::Invalid), "{bytes:x?}");
    }
    // Streams that end and begin again, for ever.
    assert_eq!(inflate(&b"\x03\x00".repeat(50_000), 1 << 20), Err(Fault::Invalid));
}

proptest! {
    #[test]
    fn what_clients_compress_is_inflated(
        window_bits in 9u8..=15,
        message in prop::collection::vec(prop::sample::select(b"abc\"{}0189 ".to_vec()), 0..3000),
    ) {
        prop_assert_eq!(inflate(&packed(window_bits, &message), 3000), Ok(message));
    }

    #[test]
    fn noise_never_breaks_the_inflater(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        message in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(out) = inflate(&noise, 1000) {
            prop_assert!(out.len() <= 1000);
        }
        // And leaves nothing behind for the next message.
        prop_assert_eq!(inflate(&packed(15, &message), 1000), Ok(message));
    }
}
