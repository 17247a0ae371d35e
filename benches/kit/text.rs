//! Text that looks like what people write: a few common words, a long tail of rare ones, links, emoji, other scripts.

use super::random::Rng;

const COMMON: &str = "the to a and of is in it that for you i this on not with be are have my but as was just so if can \
    what all they about or at like from we me when there do one how your an by out up more will people now get no time has would \
    think who because good know them then some than only really also why make want see new its don't going other need here which \
    even should could their very still much had every way day use same into any been love work right thing our lol never well \
    over back after where being too world life bitcoin nostr relay freedom money zap sats notes client node lightning privacy \
    open source code build web free gm today great first little own something someone always those better before feel around \
    again years many most next without keep long already down let looks sure these stuff post read trying took doing made come";

const SYLLABLES: &[&str] = &[
    "ka", "ro", "mi", "ten", "sol", "ver", "an", "dra", "li", "mo", "ni", "pha", "qui", "ra", "stu", "ter", "ul", "va",
    "wen", "xi", "yo", "zen", "bel", "cor", "den", "el", "for", "gra", "hol", "in", "jo", "kel",
];

const OTHER: &[&str] = &[
    "おはよう",
    "今日は",
    "ノストル",
    "楽しい",
    "ありがとう",
    "これは",
    "привет",
    "сегодня",
    "время",
    "работа",
    "größe",
    "straße",
    "café",
    "niño",
    "você",
    "não",
    "안녕하세요",
    "오늘",
    "مرحبا",
    "สวัสดี",
];

const EMOJI: &[&str] = &["😂", "🤙", "🫂", "🔥", "❤️", "👀", "⚡", "🚀", "🙏", "😅", "💜", "🌞", "☕", "🧡", "🤔"];

const HOSTS: &[&str] =
    &["image.nostr.build", "void.cat", "github.com", "www.youtube.com", "njump.me", "x.com", "i.imgur.com"];

const BECH32: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Words people use as hashtags, the first ones most often.
const TOPICS: &[&str] = &[
    "bitcoin",
    "nostr",
    "zap",
    "gm",
    "art",
    "photography",
    "plebchain",
    "introductions",
    "news",
    "music",
    "coffeechain",
    "grownostr",
    "siamstr",
    "foodstr",
    "travel",
    "bookstr",
    "ai",
    "memes",
    "linux",
    "privacy",
    "lightning",
    "nature",
    "catstr",
    "dev",
    "podcast",
];

/// The vocabulary.
pub struct Words {
    common: Vec<&'static str>,
}

impl Words {
    pub fn new() -> Words {
        Words { common: COMMON.split_whitespace().collect() }
    }

    /// One word.
    pub fn word(&self, rng: &mut Rng, out: &mut String) {
        match rng.below(100) {
            0..80 => out.push_str(self.common[rng.zipf(self.common.len())]),
            80..94 => self.rare(rng, out),
            94..97 => out.push_str(rng.pick(EMOJI)),
            97 => {
                let host = rng.pick(HOSTS);
                let name = rng.word_of(ALPHANUMERIC, 11);
                out.push_str(&format!("https://{host}/{name}{}", if rng.percent(50) { ".jpg" } else { "" }));
            }
            98 => {
                out.push_str("nostr:npub1");
                out.push_str(&rng.word_of(BECH32, 58));
            }
            _ => {
                out.push('"');
                self.rare(rng, out);
                out.push('"');
            }
        }
    }

    /// A word of the long tail; the same ones return now and then.
    fn rare(&self, rng: &mut Rng, out: &mut String) {
        let mut word = Rng::new(0x7e87, rng.zipf(200_000) as u64);
        for _ in 0..word.range(2, 4) {
            out.push_str(word.pick(SYLLABLES));
        }
    }

    /// About `len` bytes of text: sentences, now and then a new paragraph.
    pub fn text(&self, rng: &mut Rng, len: usize) -> String {
        let mut out = String::with_capacity(len + 80);
        let foreign = rng.percent(10);
        while out.len() < len {
            for i in 0..rng.range(4, 14) {
                if i > 0 {
                    out.push(' ');
                }
                if foreign && rng.percent(60) {
                    out.push_str(rng.pick(OTHER))
                } else {
                    self.word(rng, &mut out)
                }
                if out.len() >= len {
                    break;
                }
            }
            out.push_str(match rng.below(10) {
                0 => "\n\n",
                1 => "! ",
                2 => "? ",
                3 => "\n",
                _ => ". ",
            });
        }
        out.truncate(out.trim_end().len());
        out
    }

    /// A name of an account.
    pub fn name(&self, rng: &mut Rng) -> String {
        let mut name = String::new();
        self.rare(rng, &mut name);
        name
    }
}

/// A hashtag without its sign.
pub fn topic(rng: &mut Rng) -> String {
    if rng.percent(60) {
        return TOPICS[rng.zipf(TOPICS.len())].to_owned();
    }
    let mut word = Rng::new(0x707, rng.zipf(20_000) as u64);
    (0..word.range(2, 4)).map(|_| word.pick(SYLLABLES)).collect()
}

/// Base64 as encrypted messages have it.
pub fn base64(rng: &mut Rng, len: usize) -> String {
    rng.word_of(ALPHANUMERIC, len)
}

/// A lightning invoice by its looks.
pub fn invoice(rng: &mut Rng) -> String {
    format!("lnbc{}n1p{}", rng.range(1, 9999) * 10, rng.word_of(BECH32, 280))
}

/// A relay's address.
pub fn relay(rng: &mut Rng) -> &'static str {
    const RELAYS: &[&str] = &[
        "wss://relay.damus.io",
        "wss://nos.lol",
        "wss://relay.nostr.band",
        "wss://relay.primal.net",
        "wss://nostr.wine",
        "wss://relay.snort.social",
        "wss://offchain.pub",
        "wss://nostr.mom",
        "wss://purplepag.es",
        "wss://eden.nostr.land",
        "wss://yabu.me",
        "wss://relay.nostr.bg",
    ];
    RELAYS[rng.zipf(RELAYS.len())]
}

/// A reaction's content.
pub fn reaction(rng: &mut Rng) -> &'static str {
    if rng.percent(70) { "+" } else { EMOJI[rng.zipf(EMOJI.len())] }
}
