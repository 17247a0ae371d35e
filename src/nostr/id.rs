//! Event ids, public keys and signatures: fixed bytes whose text form is lower-case hexadecimal.

use std::cmp::Ordering;
use std::fmt;

/// Decodes exactly `2 * N` lower-case hexadecimal digits; anything else is `None`.
///
/// Upper case is refused on purpose: NIP-01 hashes the text, so two spellings would be two events.
pub(crate) fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    // Checked before decoding because the decoder would strip a leading 0x and accept upper case.
    if digits.len() != 2 * N || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    const_hex::decode_to_array(digits).ok()
}

/// The first eight bytes as the number that sorts as they do.
fn first_bytes(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            #[doc = concat!("Reads exactly ", $digits, " lower-case hexadecimal digits; anything else is `None` (N01-15, N01-16).")]
            pub fn from_hex(text: &str) -> Option<Self> {
                decode_hex(text).map(Self)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl Ord for $name {
            // The first eight bytes decide nearly always, and they need no call: filters are searched for every live event.
            fn cmp(&self, other: &Self) -> Ordering {
                first_bytes(&self.0).cmp(&first_bytes(&other.0)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(const_hex::Buffer::<$len>::new().format(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

fixed_bytes!(
    /// The SHA-256 of an event's canonical serialisation (NIP-01).
    EventId,
    32,
    "64"
);
fixed_bytes!(
    /// An x-only secp256k1 public key (BIP-340). Any 32 bytes; whether they are a point on the curve
    /// shows when a signature is checked.
    PublicKey,
    32,
    "64"
);
fixed_bytes!(
    /// A BIP-340 Schnorr signature.
    Signature,
    64,
    "128"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n01_15_hex_of_exact_length() {
        let text = "0123456789abcdef".repeat(4);
        let id = EventId::from_hex(&text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), text);
        assert_eq!(EventId::from_hex(&text[1..]), None);
        assert_eq!(EventId::from_hex(&format!("{text}0")), None);
        assert_eq!(EventId::from_hex(&format!("{}g", &text[1..])), None);
        assert_eq!(EventId::from_hex(""), None);
        let sig = "fe".repeat(64);
        assert_eq!(Signature::from_hex(&sig).unwrap().to_string(), sig);
        assert_eq!(Signature::from_hex(&sig[2..]), None);
    }

    #[test]
    fn they_sort_as_their_bytes_do() {
        let mut keys: Vec<PublicKey> = (0..200u8)
            .map(|n| {
                let mut key = [n / 50; 32];
                key[usize::from(n) % 32] = n.wrapping_mul(37);
                PublicKey(key)
            })
            .collect();
        let mut bytes: Vec<[u8; 32]> = keys.iter().map(|key| key.0).collect();
        keys.sort();
        bytes.sort();
        assert!(keys.iter().map(|key| key.0).eq(bytes));
    }

    #[test]
    fn n01_16_upper_case_and_0x_are_refused() {
        let lower = "ab".repeat(32);
        assert!(PublicKey::from_hex(&lower).is_some());
        assert_eq!(PublicKey::from_hex(&lower.to_uppercase()), None);
        assert_eq!(PublicKey::from_hex(&format!("A{}", &lower[1..])), None);
        assert_eq!(PublicKey::from_hex(&format!("0x{lower}")), None);
        assert_eq!(PublicKey::from_hex(&format!("0x{}", &lower[2..])), None);
        // 64 bytes that are not 64 digits.
        assert_eq!(PublicKey::from_hex(&"é".repeat(32)), None);
    }
}
