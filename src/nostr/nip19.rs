//! Bech32 identifiers (NIP-19): npub, nsec, note, nprofile, nevent and naddr, read and written.

use std::fmt;

use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError};
use bech32::{Bech32, Checksum, Hrp};
use secp256k1::{Keypair, SecretKey};

use super::id::{EventId, PublicKey};
use super::kind::Kind;

/// What a bech32 identifier names. [`fmt::Debug`] never shows a secret key.
#[derive(Clone, PartialEq, Eq)]
pub enum Entity {
    /// `npub`: a public key.
    PublicKey(PublicKey),
    /// `nsec`: a secret key.
    SecretKey(SecretKey),
    /// `note`: an event id.
    Note(EventId),
    /// `nprofile`: a public key and where its events may be found.
    Profile {
        /// The person.
        pubkey: PublicKey,
        /// Relay addresses.
        relays: Vec<String>,
    },
    /// `nevent`: an event id and where it may be found.
    Event {
        /// The event.
        id: EventId,
        /// Relay addresses.
        relays: Vec<String>,
        /// Its author, if given.
        author: Option<PublicKey>,
        /// Its kind, if given.
        kind: Option<Kind>,
    },
    /// `naddr`: the address of a replaceable or addressable event.
    Address(Address),
}

/// The address of a replaceable or addressable event, and where it may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The kind.
    pub kind: Kind,
    /// The author.
    pub pubkey: PublicKey,
    /// The value of the `d` tag; empty for replaceable kinds.
    pub identifier: String,
    /// Relay addresses.
    pub relays: Vec<String>,
}

/// Why an identifier cannot be read or written. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nip19Error {
    /// Neither bech32 nor hexadecimal.
    #[error("expected {0}")]
    Expected(&'static str),
    /// The checksum does not fit.
    #[error("the checksum does not fit: check for a typing error or a missing end")]
    Checksum,
    /// The prefix is not one of NIP-19.
    #[error("unknown prefix {0:?}: expected npub, nsec, note, nprofile, nevent or naddr")]
    UnknownPrefix(String),
    /// The payload lacks something or has a part of the wrong length.
    #[error("the {0} is damaged: {1} is missing or has the wrong length")]
    Damaged(&'static str, &'static str),
    /// An identifier of another sort than was asked for.
    #[error("this is {0}, expected {1}")]
    WrongSort(&'static str, &'static str),
    /// A secret key where a public key was asked for.
    #[error("this is a secret key (nsec); use the public key, which starts with npub1, and tell the secret to nobody")]
    SecretKey,
    /// A part is too long for the format.
    #[error("{0} is too long for a bech32 identifier, at most 255 bytes")]
    TooLong(&'static str),
    /// The whole is too long for the format.
    #[error("the identifier is too long, at most 5000 characters")]
    AllTooLong,
}

/// Bech32 with the length that NIP-19 allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LongBech32 {}

impl Checksum for LongBech32 {
    type MidstateRepr = <Bech32 as Checksum>::MidstateRepr;
    type CorrectionField = <Bech32 as Checksum>::CorrectionField;
    const ROOT_GENERATOR: Self::CorrectionField = Bech32::ROOT_GENERATOR;
    const ROOT_EXPONENTS: std::ops::RangeInclusive<usize> = Bech32::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = 5000;
    const CHECKSUM_LENGTH: usize = Bech32::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32::TARGET_RESIDUE;
}

const PUBLIC_KEY: &str = "a public key: npub1… or 64 lower-case hexadecimal digits";
const SECRET_KEY: &str = "a secret key: nsec1… or 64 lower-case hexadecimal digits";
const EVENT_ID: &str = "an event id: note1…, nevent1… or 64 lower-case hexadecimal digits";

/// Reads a public key: npub, nprofile or 64 lower-case hexadecimal digits, with or without `nostr:`.
pub fn parse_pubkey(text: &str) -> Result<PublicKey, Nip19Error> {
    let text = text.trim();
    if let Some(pubkey) = PublicKey::from_hex(text) {
        return Ok(pubkey);
    }
    match parse_expecting(text, PUBLIC_KEY)? {
        Entity::PublicKey(pubkey) | Entity::Profile { pubkey, .. } => Ok(pubkey),
        Entity::SecretKey(_) => Err(Nip19Error::SecretKey),
        other => Err(Nip19Error::WrongSort(other.sort(), PUBLIC_KEY)),
    }
}

/// Reads a secret key: nsec or 64 lower-case hexadecimal digits.
pub fn parse_secret_key(text: &str) -> Result<Keypair, Nip19Error> {
    let text = text.trim();
    if let Some(bytes) = super::id::decode_hex(text) {
        let key = SecretKey::from_secret_bytes(bytes);
        return key.map(|key| key.keypair()).map_err(|_| Nip19Error::Expected(SECRET_KEY));
    }
    match parse_expecting(text, SECRET_KEY)? {
        Entity::SecretKey(key) => Ok(key.keypair()),
        other => Err(Nip19Error::WrongSort(other.sort(), SECRET_KEY)),
    }
}

/// Reads an event id: note, nevent or 64 lower-case hexadecimal digits, with or without `nostr:`.
pub fn parse_event_id(text: &str) -> Result<EventId, Nip19Error> {
    let text = text.trim();
    if let Some(id) = EventId::from_hex(text) {
        return Ok(id);
    }
    match parse_expecting(text, EVENT_ID)? {
        Entity::Note(id) | Entity::Event { id, .. } => Ok(id),
        other => Err(Nip19Error::WrongSort(other.sort(), EVENT_ID)),
    }
}

/// Parses an identifier where `expected` is wanted, so that text that is no identifier at all is answered
/// with what to give.
fn parse_expecting(text: &str, expected: &'static str) -> Result<Entity, Nip19Error> {
    match Entity::parse(text) {
        Err(Nip19Error::Expected(_) | Nip19Error::UnknownPrefix(_)) => Err(Nip19Error::Expected(expected)),
        result => result,
    }
}

/// Writes a public key as npub.
pub fn encode_npub(pubkey: &PublicKey) -> String {
    encode_fixed("npub", &pubkey.0)
}

/// Writes an event id as note.
pub fn encode_note(id: &EventId) -> String {
    encode_fixed("note", &id.0)
}

fn encode_fixed(prefix: &'static str, bytes: &[u8; 32]) -> String {
    // 32 bytes are far below the length bound, so this cannot fail.
    encode(prefix, bytes).unwrap_or_default()
}

fn encode(prefix: &'static str, payload: &[u8]) -> Result<String, Nip19Error> {
    bech32::encode::<LongBech32>(Hrp::parse_unchecked(prefix), payload).map_err(|_| Nip19Error::AllTooLong)
}

impl Entity {
    /// Reads any identifier of NIP-19, with or without the `nostr:` of NIP-21.
    pub fn parse(text: &str) -> Result<Entity, Nip19Error> {
        let text = text.strip_prefix("nostr:").unwrap_or(text);
        let parsed = CheckedHrpstring::new::<LongBech32>(text).map_err(|error| match error {
            CheckedHrpstringError::Checksum(_) => Nip19Error::Checksum,
            _ => Nip19Error::Expected("a bech32 identifier such as npub1…"),
        })?;
        let payload: Vec<u8> = parsed.byte_iter().collect();
        match parsed.hrp().to_string().to_ascii_lowercase().as_str() {
            "npub" => Ok(Entity::PublicKey(PublicKey(fixed("npub", "the key", &payload)?))),
            "nsec" => SecretKey::from_secret_bytes(fixed("nsec", "the key", &payload)?)
                .map(Entity::SecretKey)
                .map_err(|_| Nip19Error::Damaged("nsec", "the key")),
            "note" => Ok(Entity::Note(EventId(fixed("note", "the id", &payload)?))),
            "nprofile" => {
                let parts = Parts::read("nprofile", &payload)?;
                let pubkey = PublicKey(parts.special("the key")?);
                Ok(Entity::Profile { pubkey, relays: parts.relays })
            }
            "nevent" => {
                let parts = Parts::read("nevent", &payload)?;
                let id = EventId(parts.special("the id")?);
                Ok(Entity::Event { id, relays: parts.relays, author: parts.author, kind: parts.kind })
            }
            "naddr" => {
                let parts = Parts::read("naddr", &payload)?;
                let identifier = parts.special.and_then(|bytes| std::str::from_utf8(bytes).ok());
                Ok(Entity::Address(Address {
                    kind: parts.kind.ok_or(Nip19Error::Damaged("naddr", "the kind"))?,
                    pubkey: parts.author.ok_or(Nip19Error::Damaged("naddr", "the author"))?,
                    identifier: identifier.ok_or(Nip19Error::Damaged("naddr", "the identifier"))?.to_owned(),
                    relays: parts.relays,
                }))
            }
            other => Err(Nip19Error::UnknownPrefix(other.to_owned())),
        }
    }

    /// Writes the identifier.
    ///
    /// Fails when a relay address or the identifier of an address has more than 255 bytes, or when the
    /// whole would have more than 5000 characters.
    pub fn encode(&self) -> Result<String, Nip19Error> {
        let mut payload = Vec::new();
        match self {
            Entity::PublicKey(pubkey) => Ok(encode_npub(pubkey)),
            Entity::SecretKey(key) => Ok(encode_fixed("nsec", key.as_secret_bytes())),
            Entity::Note(id) => Ok(encode_note(id)),
            Entity::Profile { pubkey, relays } => {
                push_part(&mut payload, SPECIAL, &pubkey.0, "the key")?;
                push_relays(&mut payload, relays)?;
                encode("nprofile", &payload)
            }
            Entity::Event { id, relays, author, kind } => {
                push_part(&mut payload, SPECIAL, &id.0, "the id")?;
                push_relays(&mut payload, relays)?;
                if let Some(author) = author {
                    push_part(&mut payload, AUTHOR, &author.0, "the author")?;
                }
                if let Some(kind) = kind {
                    push_part(&mut payload, KIND, &u32::from(kind.0).to_be_bytes(), "the kind")?;
                }
                encode("nevent", &payload)
            }
            Entity::Address(Address { kind, pubkey, identifier, relays }) => {
                push_part(&mut payload, SPECIAL, identifier.as_bytes(), "the identifier")?;
                push_relays(&mut payload, relays)?;
                push_part(&mut payload, AUTHOR, &pubkey.0, "the author")?;
                push_part(&mut payload, KIND, &u32::from(kind.0).to_be_bytes(), "the kind")?;
                encode("naddr", &payload)
            }
        }
    }

    /// The sort of identifier, for people.
    const fn sort(&self) -> &'static str {
        match self {
            Entity::PublicKey(_) => "a public key (npub)",
            Entity::SecretKey(_) => "a secret key (nsec)",
            Entity::Note(_) => "an event id (note)",
            Entity::Profile { .. } => "a profile (nprofile)",
            Entity::Event { .. } => "an event (nevent)",
            Entity::Address { .. } => "an address (naddr)",
        }
    }
}

impl fmt::Debug for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entity::SecretKey(_) => f.write_str("nsec1…"),
            other => f.write_str(&other.encode().unwrap_or_else(|error| error.to_string())),
        }
    }
}

/// Type of the part that the prefix gives a meaning.
const SPECIAL: u8 = 0;
/// Type of a relay address.
const RELAY: u8 = 1;
/// Type of an author's public key.
const AUTHOR: u8 = 2;
/// Type of a kind, four bytes big-endian.
const KIND: u8 = 3;

/// The type-length-value parts of an nprofile, nevent or naddr.
struct Parts<'a> {
    prefix: &'static str,
    special: Option<&'a [u8]>,
    relays: Vec<String>,
    author: Option<PublicKey>,
    kind: Option<Kind>,
}

impl<'a> Parts<'a> {
    /// Unknown types are skipped, as NIP-19 asks; of repeated ones other than relays the first counts.
    fn read(prefix: &'static str, mut payload: &'a [u8]) -> Result<Self, Nip19Error> {
        let mut parts = Parts { prefix, special: None, relays: Vec::new(), author: None, kind: None };
        while let [sort, len, rest @ ..] = payload {
            let (value, rest) =
                rest.split_at_checked(usize::from(*len)).ok_or(Nip19Error::Damaged(prefix, "its last part"))?;
            payload = rest;
            match *sort {
                SPECIAL if parts.special.is_none() => parts.special = Some(value),
                RELAY => parts.relays.push(
                    std::str::from_utf8(value).map_err(|_| Nip19Error::Damaged(prefix, "a relay address"))?.to_owned(),
                ),
                AUTHOR if parts.author.is_none() => {
                    parts.author = Some(PublicKey(fixed(prefix, "the author", value)?));
                }
                KIND if parts.kind.is_none() => {
                    let kind = u32::from_be_bytes(fixed(prefix, "the kind", value)?);
                    let kind = u16::try_from(kind);
                    parts.kind = Some(Kind(kind.map_err(|_| Nip19Error::Damaged(prefix, "the kind"))?));
                }
                _ => {}
            }
        }
        Ok(parts)
    }

    fn special<const N: usize>(&self, what: &'static str) -> Result<[u8; N], Nip19Error> {
        fixed(self.prefix, what, self.special.unwrap_or_default())
    }
}

fn fixed<const N: usize>(prefix: &'static str, what: &'static str, bytes: &[u8]) -> Result<[u8; N], Nip19Error> {
    bytes.try_into().map_err(|_| Nip19Error::Damaged(prefix, what))
}

fn push_part(payload: &mut Vec<u8>, sort: u8, value: &[u8], what: &'static str) -> Result<(), Nip19Error> {
    let len = u8::try_from(value.len()).map_err(|_| Nip19Error::TooLong(what))?;
    payload.extend_from_slice(&[sort, len]);
    payload.extend_from_slice(value);
    Ok(())
}

fn push_relays(payload: &mut Vec<u8>, relays: &[String]) -> Result<(), Nip19Error> {
    relays.iter().try_for_each(|relay| push_part(payload, RELAY, relay.as_bytes(), "a relay address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples printed in NIP-19, and alice (secret key 1).
    const NPUB: &str = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";
    const NPUB_HEX: &str = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
    const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
    const NSEC_HEX: &str = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa";
    const NPROFILE: &str = "nprofile1qqsrhuxx8l9ex335q7he0f09aej04zpazpl0ne2cgukyawd24mayt8gpp4mhxue69uhhytnc9e3k7mgpz4mhxue69uhkg6nzv9ejuumpv34kytnrdaksjlyr9p";
    const ALICE_HEX: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

    fn alice() -> PublicKey {
        PublicKey::from_hex(ALICE_HEX).unwrap()
    }

    #[test]
    fn npub_of_the_nip() {
        let pubkey = PublicKey::from_hex(NPUB_HEX).unwrap();
        assert_eq!(encode_npub(&pubkey), NPUB);
        for text in [NPUB, NPUB_HEX, &NPUB.to_uppercase(), &format!("nostr:{NPUB}"), &format!(" {NPUB}\n")] {
            assert_eq!(parse_pubkey(text), Ok(pubkey), "{text}");
        }
    }

    #[test]
    fn nsec_of_the_nip() {
        let key = parse_secret_key(NSEC).unwrap();
        assert_eq!(const_hex::encode(key.to_secret_bytes()), NSEC_HEX);
        assert_eq!(parse_secret_key(NSEC_HEX).unwrap(), key);
        assert_eq!(Entity::SecretKey(key.secret_key()).encode().unwrap(), NSEC);
        assert_eq!(format!("{:?}", Entity::parse(NSEC).unwrap()), "nsec1…");
    }

    #[test]
    fn nprofile_of_the_nip() {
        let entity = Entity::parse(NPROFILE).unwrap();
        let Entity::Profile { pubkey, relays } = &entity else { panic!("{entity:?}") };
        assert_eq!(pubkey.to_string(), "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d");
        assert_eq!(relays, &["wss://r.x.com", "wss://djbas.sadkb.com"]);
        assert_eq!(entity.encode().unwrap(), NPROFILE);
        assert_eq!(parse_pubkey(NPROFILE), Ok(*pubkey));
    }

    #[test]
    fn everything_survives_a_round_trip() {
        let id = EventId([7; 32]);
        let relays = vec!["wss://relay.example.org".to_owned(); 30];
        for entity in [
            Entity::Note(id),
            Entity::Event { id, relays: vec![], author: None, kind: None },
            Entity::Event { id, relays: relays.clone(), author: Some(alice()), kind: Some(Kind(65535)) },
            Entity::Address(Address { kind: Kind(30023), pubkey: alice(), identifier: "é".repeat(127), relays }),
            Entity::Address(Address { kind: Kind(10002), pubkey: alice(), identifier: String::new(), relays: vec![] }),
        ] {
            let text = entity.encode().unwrap();
            assert_eq!(Entity::parse(&text).unwrap(), entity, "{text}");
        }
        assert_eq!(parse_event_id(&encode_note(&id)), Ok(id));
        assert_eq!(parse_event_id(&id.to_string()), Ok(id));
    }

    #[test]
    fn too_long_is_refused_not_cut() {
        let address = |identifier: String, relays| {
            Entity::Address(Address { kind: Kind(30023), pubkey: alice(), identifier, relays })
        };
        assert_eq!(address("x".repeat(256), vec![]).encode(), Err(Nip19Error::TooLong("the identifier")));
        assert_eq!(address(String::new(), vec!["x".repeat(255); 20]).encode(), Err(Nip19Error::AllTooLong));
    }

    #[test]
    fn mistakes_are_named() {
        let say = |text: &str| parse_pubkey(text).unwrap_err().to_string();
        assert!(say(NSEC).contains("secret key") && say(NSEC).contains("npub1"));
        assert!(!say(NSEC).contains(&NSEC[5..20]));
        assert!(say(&encode_note(&EventId([1; 32]))).starts_with("this is an event id (note), expected a public key"));
        assert!(say(&NPUB.replace('q', "p")).contains("checksum"));
        assert!(say(&NPUB[..40]).contains("checksum"));
        for text in ["", "npub", "npub1", "alice", "alice@example.org", &NPUB_HEX.to_uppercase(), "é1é"] {
            let said = say(text);
            assert!(said.starts_with("expected a public key") || said.contains("checksum"), "{text}: {said}");
        }
        let short = encode("npub", &[1; 31]).unwrap();
        assert_eq!(say(&short), "the npub is damaged: the key is missing or has the wrong length");
        let cut = encode("nevent", &[0, 32, 1]).unwrap();
        assert!(Entity::parse(&cut).is_err());
        assert!(Entity::parse(&encode("nprofile", &[]).unwrap()).is_err());
        assert_eq!(
            Entity::parse(&encode("nrelay", &[1, 1, b'x']).unwrap()),
            Err(Nip19Error::UnknownPrefix("nrelay".into()))
        );
        assert!(parse_secret_key(NPUB).is_err());
        assert!(parse_secret_key(&"0".repeat(64)).is_err(), "0 is not a secret key");
    }

    #[test]
    fn the_longer_checksum_is_sane() {
        LongBech32::sanity_check();
    }
}
