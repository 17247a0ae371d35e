//! What can be asked for: ids, authors, references, hashtags and addresses taken from the events themselves, so that questions hit what
//! is stored as often as real ones do. Any JSONL of events will do, a dump of a live relay too.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;

use super::Result;
use super::random::Rng;

/// The text of a workload, one event to a line.
#[derive(Default)]
pub struct Lines {
    text: Vec<u8>,
    lines: Vec<Range<usize>>,
}

impl Lines {
    pub fn read(path: &Path) -> Result<Lines> {
        Ok(Lines::new(std::fs::read(path)?))
    }

    /// The same for a file too large for the memory: whole lines of some of its parts, spread evenly, the first and the last among them.
    pub fn sample(path: &Path, most: u64) -> Result<Lines> {
        const PART: u64 = 1 << 20;
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        if size <= most {
            return Lines::read(path);
        }
        let (parts, mut text) = ((most / PART).max(2), Vec::new());
        for part in 0..parts {
            // Not times and then divided: that would not fit.
            let start = (size - PART) / (parts - 1) * part;
            let start = if part + 1 == parts { size - PART } else { start };
            let mut bytes = vec![0; PART as usize];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)?;
            let first = if start == 0 { 0 } else { memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |at| at + 1) };
            let last = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
            text.extend_from_slice(bytes.get(first..last).unwrap_or_default());
        }
        Ok(Lines::new(text))
    }

    pub fn new(text: Vec<u8>) -> Lines {
        let mut start = 0;
        let mut lines = Vec::new();
        for end in memchr::memchr_iter(b'\n', &text) {
            if end > start {
                lines.push(start..end);
            }
            start = end + 1;
        }
        if start < text.len() {
            lines.push(start..text.len());
        }
        Lines { text, lines }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    pub fn get(&self, i: usize) -> &[u8] {
        &self.text[self.lines[i].clone()]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.lines.iter().map(|line| &self.text[line.clone()])
    }
}

#[derive(Deserialize)]
struct Seen {
    id: String,
    pubkey: String,
    created_at: u64,
    kind: u16,
    tags: Vec<Vec<String>>,
}

/// An event that can be replaced and is found by its address.
pub struct Address {
    pub pubkey: String,
    pub kind: u16,
    pub d: String,
}

/// Values to ask for, each as often as it occurs: what is popular is asked for most.
#[derive(Default)]
pub struct Pool {
    /// Regular events: these are neither replaced nor, most of them, deleted.
    pub ids: Vec<String>,
    /// The authors of notes.
    pub authors: Vec<String>,
    /// Notes that others refer to.
    pub referred: Vec<String>,
    /// Accounts that others refer to.
    pub mentioned: Vec<String>,
    pub topics: Vec<String>,
    pub addresses: Vec<Address>,
    pub oldest: u64,
    pub newest: u64,
    /// Who wrote most, and how much.
    pub busiest: (String, usize),
}

/// Events looked at; from more, every so manieth.
const MOST: usize = 200_000;

impl Pool {
    pub fn new(lines: &Lines) -> Pool {
        let step = lines.len().div_ceil(MOST).max(1);
        let seen: Vec<Seen> = (0..lines.len())
            .into_par_iter()
            .step_by(step)
            .filter_map(|i| serde_json::from_slice(lines.get(i)).ok())
            .collect();
        let mut pool = Pool { oldest: u64::MAX, ..Pool::default() };
        let mut notes = std::collections::HashMap::new();
        for event in seen {
            pool.oldest = pool.oldest.min(event.created_at);
            pool.newest = pool.newest.max(event.created_at);
            for tag in &event.tags {
                match (tag.first().map(String::as_str), tag.get(1)) {
                    (Some("e"), Some(id)) if matches!(event.kind, 1 | 7 | 9735) => pool.referred.push(id.clone()),
                    (Some("p"), Some(key)) if matches!(event.kind, 1 | 7 | 9735) => pool.mentioned.push(key.clone()),
                    (Some("t"), Some(topic)) if event.kind == 1 => pool.topics.push(topic.clone()),
                    (Some("d"), Some(d)) if (30_000..40_000).contains(&event.kind) => {
                        pool.addresses.push(Address { pubkey: event.pubkey.clone(), kind: event.kind, d: d.clone() })
                    }
                    _ => {}
                }
            }
            if matches!(event.kind, 1 | 4 | 6 | 7 | 9735 | 1059) {
                pool.ids.push(event.id);
            }
            if event.kind == 1 {
                *notes.entry(event.pubkey.clone()).or_insert(0usize) += 1;
                pool.authors.push(event.pubkey);
            }
        }
        let busiest = notes.into_iter().max_by_key(|(key, count)| (*count, key.clone())).unwrap_or_default();
        pool.busiest = (busiest.0, busiest.1 * step);
        pool
    }

    /// `count` different values, fewer when there are not so many.
    pub fn some<'a>(rng: &mut Rng, from: &'a [String], count: usize) -> Vec<&'a str> {
        let mut some = Vec::with_capacity(count);
        // Asking must cost the driver next to nothing: 32 bits of a key tell a few hundred apart, in a table without a hash.
        let mut seen = vec![0u32; (4 * count).next_power_of_two()];
        // Popular values come again and again; a bounded number of draws is enough.
        for _ in 0..count * 20 {
            if some.len() == count || from.is_empty() {
                break;
            }
            let one = from[rng.index(from.len())].as_str();
            let key = one.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or_default() | 1;
            let mut at = key as usize >> 1;
            while seen[at % seen.len()] != 0 && seen[at % seen.len()] != key {
                at += 1;
            }
            let at = at % seen.len();
            if seen[at] == 0 {
                seen[at] = key;
                some.push(one);
            }
        }
        some
    }
}
