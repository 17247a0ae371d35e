//! The shapes of questions that clients ask, each with fresh random parameters.

use super::pool::Pool;
use super::random::Rng;

/// One shape.
pub struct Shape {
    pub name: &'static str,
    /// COUNT instead of REQ.
    pub count: bool,
    make: fn(&Pool, &mut Rng) -> String,
}

impl Shape {
    /// A filter as JSON.
    pub fn filter(&self, pool: &Pool, rng: &mut Rng) -> String {
        (self.make)(pool, rng)
    }
}

/// `["a","b"]`
fn list(values: &[&str]) -> String {
    if values.is_empty() { "[]".to_owned() } else { ["[\"", &values.join("\",\""), "\"]"].concat() }
}

fn one<'a>(rng: &mut Rng, from: &'a [String]) -> &'a str {
    if from.is_empty() { "" } else { &from[rng.index(from.len())] }
}

const fn is_count(marker: &str) -> bool {
    !marker.is_empty()
}

macro_rules! shapes {
    ($($(#[$count:ident])? $name:ident($pool:ident, $rng:ident) => $make:expr;)+) => {
        /// All shapes, in the order of the report.
        pub const SHAPES: &[Shape] = &[$(Shape {
            name: stringify!($name),
            count: is_count(stringify!($($count)?)),
            make: |$pool, $rng| $make,
        }),+];
    };
}

shapes! {
    // One event by its id.
    id(pool, rng) => format!(r#"{{"ids":["{}"]}}"#, one(rng, &pool.ids));
    // The events of a conversation, by their ids.
    ids_100(pool, rng) => format!(r#"{{"ids":{}}}"#, list(&Pool::some(rng, &pool.ids, 100)));
    // A profile page.
    author_k1_l20(pool, rng) => format!(r#"{{"authors":["{}"],"kinds":[1],"limit":20}}"#, one(rng, &pool.authors));
    // A home feed.
    home_500_l100(pool, rng) =>
        format!(r#"{{"authors":{},"kinds":[1,6],"limit":100}}"#, list(&Pool::some(rng, &pool.authors, 500)));
    // A smaller one, as MEASURED in earlier comparisons of relays.
    home_100_l100(pool, rng) =>
        format!(r#"{{"authors":{},"kinds":[1],"limit":100}}"#, list(&Pool::some(rng, &pool.authors, 100)));
    // Everybody's notes.
    global_k1_l500(_pool, _rng) => r#"{"kinds":[1],"limit":500}"#.to_owned();
    // The same further down, a page that nobody asked for lately.
    older_k1_l500(pool, rng) => {
        let span = pool.newest - pool.oldest;
        format!(r#"{{"kinds":[1],"until":{},"limit":500}}"#, pool.newest - rng.below(span * 9 / 10 + 1))
    };
    // Answers and reactions to a note.
    e_k1_7(pool, rng) => format!(r##"{{"#e":["{}"],"kinds":[1,7]}}"##, one(rng, &pool.referred));
    // Reactions to all notes on a screen.
    e_100_k7_9735(pool, rng) =>
        format!(r##"{{"#e":{},"kinds":[7,9735]}}"##, list(&Pool::some(rng, &pool.referred, 100)));
    // Notifications.
    p_l50(pool, rng) => format!(r##"{{"#p":["{}"],"limit":50}}"##, one(rng, &pool.mentioned));
    // Names and pictures of those on a screen.
    k0_100(pool, rng) => format!(r#"{{"authors":{},"kinds":[0]}}"#, list(&Pool::some(rng, &pool.authors, 100)));
    k0_50(pool, rng) => format!(r#"{{"authors":{},"kinds":[0]}}"#, list(&Pool::some(rng, &pool.authors, 50)));
    // A hashtag between two times.
    t_window_l50(pool, rng) => {
        let day = 86_400;
        let since = pool.oldest + rng.below((pool.newest - pool.oldest).saturating_sub(day).max(1));
        let until = since + rng.range(1, 7) * day;
        format!(r##"{{"#t":["{}"],"since":{since},"until":{until},"limit":50}}"##, one(rng, &pool.topics))
    };
    // One article, list or setting.
    address(pool, rng) => match pool.addresses.len() {
        0 => r#"{"ids":[]}"#.to_owned(),
        n => {
            let address = &pool.addresses[rng.index(n)];
            let d = serde_json::Value::from(address.d.as_str());
            format!(r##"{{"authors":["{}"],"kinds":[{}],"#d":[{d}]}}"##, address.pubkey, address.kind)
        }
    };
    // How much somebody wrote.
    #[count] count_author(pool, rng) => format!(r#"{{"authors":["{}"],"kinds":[1]}}"#, one(rng, &pool.authors));
    // What came in the last minute: a bot that keeps up.
    last_minute(pool, _rng) => format!(r#"{{"since":{}}}"#, pool.newest - 60);
    // Questions that nothing answers, one for each index.
    none_ids(_pool, rng) => format!(r#"{{"ids":["{}"]}}"#, rng.hex32());
    none_authors(_pool, rng) => format!(r#"{{"authors":["{}"],"limit":20}}"#, rng.hex32());
    none_authors_kinds(_pool, rng) => format!(r#"{{"authors":["{}"],"kinds":[1],"limit":20}}"#, rng.hex32());
    none_kinds(_pool, rng) => format!(r#"{{"kinds":[{}],"limit":20}}"#, rng.range(50_000, 60_000));
    none_tags(_pool, rng) => format!(r##"{{"#e":["{}"],"limit":20}}"##, rng.hex32());
    none_tags_kinds(_pool, rng) => format!(r##"{{"#e":["{}"],"kinds":[1,7]}}"##, rng.hex32());
    none_address(_pool, rng) => format!(r##"{{"authors":["{}"],"kinds":[30023],"#d":["x"]}}"##, rng.hex32());
    none_time(_pool, rng) => format!(r#"{{"until":{},"limit":20}}"#, rng.range(1_000_000, 2_000_000));
}
