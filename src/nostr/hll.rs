//! HyperLogLog sketches for COUNT: how many different authors, mergeable between relays (NIP-45).

use sha2::{Digest, Sha256};

use super::filter::Filter;
use super::id::PublicKey;
use super::kind::Kind;
use super::tag::{TagName, TagValue};

/// Registers of a sketch.
const REGISTERS: usize = 256;

/// The questions whose sketches all relays build alike: one tag, and the kinds that go with it (HLL-07).
const CANONICAL: [(u8, &[Kind]); 6] = [
    // Reactions, reposts and replies to an event.
    (b'e', &[Kind(7)]),
    (b'e', &[Kind(6)]),
    (b'e', &[Kind(1)]),
    // Quotes.
    (b'q', &[Kind(1), Kind(1111)]),
    // Comments.
    (b'E', &[Kind(1111)]),
    // Followers.
    (b'p', &[Kind(3)]),
];

/// A sketch of the authors of events. Each author counts once, however many events there are (HLL-06).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// Which byte of a key chooses the register.
    offset: usize,
    registers: [u8; REGISTERS],
}

impl Sketch {
    /// An empty sketch for a COUNT of these filters, when they are one of the questions that have one: a single filter with one
    /// value of one tag and the kinds that go with it, nothing else (HLL-07, HLL-08).
    pub fn of(filters: &[Filter]) -> Option<Sketch> {
        let [filter] = filters else { return None };
        let Filter {
            ids: None,
            authors: None,
            kinds: Some(kinds),
            tags,
            since: None,
            until: None,
            limit: None,
            search: None,
        } = filter
        else {
            return None;
        };
        let [(name, values)] = tags.as_slice() else { return None };
        let [value] = values.as_slice() else { return None };
        let is_canonical =
            CANONICAL.iter().any(|(letter, wanted)| TagName::from_byte(*letter) == Some(*name) && kinds == wanted);
        is_canonical.then(|| Sketch::at(offset(value)))
    }

    fn at(offset: usize) -> Sketch {
        Sketch { offset, registers: [0; REGISTERS] }
    }

    /// Counts an author in (HLL-03, HLL-04).
    pub fn add(&mut self, author: &PublicKey) {
        // The offset is 8 to 23, a key has 32 bytes.
        let [first, rest @ ..] = &author.0[self.offset..] else { return };
        let zero_bytes = rest.iter().take_while(|&&byte| byte == 0).count();
        let zeros = zero_bytes * 8 + rest.get(zero_bytes).map_or(0, |byte| byte.leading_zeros() as usize);
        let register = &mut self.registers[usize::from(*first)];
        // At most 8 × 23 + 1.
        *register = (*register).max(zeros as u8 + 1);
    }

    /// The registers in order, two hexadecimal digits each (HLL-05).
    pub fn to_hex(&self) -> String {
        const_hex::encode(self.registers)
    }
}

/// Which byte of the authors' keys chooses the register: it follows from what is asked for, so that whoever grinds keys for one
/// answer spoils no other (HLL-02).
fn offset(value: &TagValue) -> usize {
    let bytes = match value {
        TagValue::Hex(bytes) => *bytes,
        TagValue::Text(text) => author_of_address(text).unwrap_or_else(|| Sha256::digest(text.as_bytes()).into()),
    };
    8 + usize::from(bytes[16] >> 4)
}

/// The key in `<kind>:<pubkey>:<d>`.
fn author_of_address(text: &str) -> Option<[u8; 32]> {
    let (kind, rest) = text.split_once(':')?;
    let (pubkey, _) = rest.split_once(':')?;
    kind.parse::<u16>().ok()?;
    PublicKey::from_hex(pubkey).map(|key| key.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors.json")).unwrap();
        vectors["hll"].clone()
    }

    fn number(value: &serde_json::Value) -> usize {
        value.as_u64().unwrap() as usize
    }

    #[test]
    fn hll_02_the_offset_follows_from_the_value() {
        for case in vectors()["offsets"].as_array().unwrap() {
            let value = TagValue::new(case["value"].as_str().unwrap());
            assert_eq!(offset(&value), number(&case["offset"]), "{case}");
        }
    }

    #[test]
    fn hll_03_hll_04_registers() {
        for case in vectors()["registers"].as_array().unwrap() {
            let mut sketch = Sketch::at(number(&case["offset"]));
            sketch.add(&PublicKey::from_hex(case["pubkey"].as_str().unwrap()).unwrap());
            let mut expected = [0; REGISTERS];
            expected[number(&case["register"])] = number(&case["value"]) as u8;
            assert_eq!(sketch.registers, expected, "{case}");
        }
    }

    #[test]
    fn hll_05_hll_06_whole_sketches() {
        let keys: Vec<PublicKey> =
            (0..100).map(|n| PublicKey(Sha256::digest(format!("hll-{n}").as_bytes()).into())).collect();
        for case in vectors()["full"].as_array().unwrap() {
            let mut sketch = Sketch::at(number(&case["offset"]));
            keys.iter().chain(&keys).for_each(|key| sketch.add(key));
            assert_eq!(sketch.to_hex(), case["hll"], "{case}");
        }
        assert_eq!(Sketch::at(8).to_hex(), vectors()["empty_set_hll"]);
    }

    proptest::proptest! {
        /// Each relay's registers, the larger of two: the sketch of both, in any order and any number of times.
        #[test]
        fn hll_05_sketches_merge(one: Vec<[u8; 32]>, two: Vec<[u8; 32]>, offset in 8usize..24) {
            let sketch = |keys: &[[u8; 32]]| {
                let mut sketch = Sketch::at(offset);
                keys.iter().for_each(|key| sketch.add(&PublicKey(*key)));
                sketch.registers
            };
            let merged: Vec<u8> = sketch(&one).iter().zip(sketch(&two)).map(|(a, b)| *a.max(&b)).collect();
            proptest::prop_assert_eq!(&merged[..], &sketch(&[two.clone(), one.clone(), one].concat())[..]);
        }
    }

    #[test]
    fn hll_07_hll_08_canonical_questions_only() {
        let x = "1".repeat(64);
        for question in [
            r##"{"#e":["X"],"kinds":[7]}"##,
            r##"{"kinds":[6],"#e":["X"]}"##,
            r##"{"#q":["X"],"kinds":[1111,1]}"##,
            r##"{"#q":["30023:X:d"],"kinds":[1,1111]}"##,
            r##"{"#e":["X"],"kinds":[1]}"##,
            r##"{"#E":["X"],"kinds":[1111]}"##,
            r##"{"#p":["X"],"kinds":[3,3]}"##,
        ] {
            let filter = Filter::parse(question.replace('X', &x).as_bytes()).unwrap();
            assert!(Sketch::of(std::slice::from_ref(&filter)).is_some(), "{question}");
            assert!(Sketch::of(&[filter.clone(), filter]).is_none(), "two filters");
        }
        for question in [
            "{}",
            r##"{"#e":["X"]}"##,
            r##"{"kinds":[7]}"##,
            r##"{"#e":["X"],"kinds":[7,6]}"##,
            r##"{"#e":["X"],"kinds":[3]}"##,
            r##"{"#p":["X"],"kinds":[7]}"##,
            r##"{"#q":["X"],"kinds":[1]}"##,
            r##"{"#e":[],"kinds":[7]}"##,
            r##"{"#e":["X"],"#p":["X"],"kinds":[7]}"##,
            r##"{"#e":["X"],"kinds":[7],"limit":1}"##,
            r##"{"#e":["X"],"kinds":[7],"since":1}"##,
            r##"{"#e":["X"],"kinds":[7],"until":1}"##,
            r##"{"#e":["X"],"kinds":[7],"authors":["X"]}"##,
            r##"{"#e":["X"],"kinds":[7],"ids":["X"]}"##,
            r##"{"#e":["X"],"kinds":[7],"search":"x"}"##,
        ] {
            let filter = Filter::parse(question.replace('X', &x).as_bytes()).unwrap();
            assert!(Sketch::of(&[filter]).is_none(), "{question}");
        }
        let two = Filter::parse(format!(r##"{{"#e":["{x}","{}"],"kinds":[7]}}"##, "2".repeat(64)).as_bytes()).unwrap();
        assert!(Sketch::of(&[two]).is_none(), "two values");
    }
}
