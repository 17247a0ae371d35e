//! Proof of work: how much of it an event shows (NIP-13).

use super::event::Event;
use super::id::EventId;

/// Leading zero bits of an id, 0 to 256 (N13-01).
pub fn leading_zero_bits(id: &EventId) -> u32 {
    let zeros = id.0.iter().take_while(|&&byte| byte == 0).count();
    id.0.get(zeros).map_or(256, |byte| zeros as u32 * 8 + byte.leading_zeros())
}

/// The difficulty that counts: what the id shows, but no more than the author committed to in the third element of the `nonce`
/// tag, so that luck on an easy target does not pass for work (N13-03). Without a commitment that can be read, what the id shows.
pub fn difficulty(event: &Event) -> u32 {
    let shown = leading_zero_bits(&event.id);
    let nonce = event.tags.iter().find(|tag| tag.name() == "nonce");
    let committed = nonce.and_then(|tag| tag.get(2)).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    committed.and_then(|text| text.parse().ok()).map_or(shown, |committed: u32| shown.min(committed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nostr::{Kind, PublicKey, Signature};

    #[test]
    fn n13_01_the_vectors_of_difficulty() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors.json")).unwrap();
        for case in vectors["pow"].as_array().unwrap() {
            let id = EventId::from_hex(case["id"].as_str().unwrap()).unwrap();
            assert_eq!(u64::from(leading_zero_bits(&id)), case["difficulty"].as_u64().unwrap(), "{id}");
        }
    }

    #[test]
    fn n13_03_n13_04_a_commitment_bounds_what_counts_and_the_nonce_is_free() {
        let with = |tags: &[&[&str]]| {
            let mut id = [0xff; 32];
            id[..2].copy_from_slice(&[0, 0x0f]);
            let event = Event {
                id: EventId(id),
                pubkey: PublicKey([1; 32]),
                created_at: 0,
                kind: Kind(1),
                tags: tags.iter().copied().collect(),
                content: "".into(),
                sig: Signature([0; 64]),
            };
            difficulty(&event)
        };
        assert_eq!(with(&[]), 12);
        assert_eq!(with(&[&["nonce", "anything at all", "12"]]), 12);
        assert_eq!(with(&[&["nonce", "7", "8"]]), 8, "lucky, but committed to less");
        assert_eq!(with(&[&["nonce", "7", "20"]]), 12);
        assert_eq!(with(&[&["nonce", "7"]]), 12);
        assert_eq!(with(&[&["nonce", "7", "x"]]), 12);
        assert_eq!(with(&[&["nonce", "7", "99999999999999"]]), 12);
    }
}
