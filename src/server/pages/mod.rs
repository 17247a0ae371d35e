//! The page that a browser gets at `/`: what this relay is and which address to give to a client.
//!
//! One file, nothing loaded from elsewhere. Every configured text is escaped, and a Content-Security-Policy lets only
//! our own style and script through, known by their hashes.

use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::config::{Config, Picture};
use crate::nostr::nip19;

use super::monitor::Live;
use super::nip11;
use crate::relay::MINUTES;
use crate::relay::policy::moderation::Lists;

const TEMPLATE: &str = include_str!("landing.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The relay's pictures say nothing that the name beside them does not.
const PICTURE: &str = "<img src=\"/icon\" width=\"64\" height=\"64\" alt=\"\">\n";
const BANNER: &str = "<img class=\"banner\" src=\"/banner\" alt=\"\">\n";

/// What stands in the browser's tab without a picture of the operator's.
const FAVICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Ccircle cx='16' cy='16' r='15' \
    fill='%236b3fd4'/%3E%3Cpath d='M12 25V13a4 4 0 0 1 8 0c0 2-1 3-3 3l8 1-8 2v6' fill='none' stroke='%23fff' stroke-width='2.5' \
    stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E";

/// The landing page, ready but for the address, which may depend on the request.
pub(super) struct Landing {
    html: String,
    /// What is allowed here, as items of a list.
    rules: String,
    /// Escaped; empty when it must be taken from the request.
    address: String,
    /// The value of the header of that name.
    pub content_security_policy: String,
}

impl Landing {
    /// Builds the page from the configuration, and from what was changed while the relay ran, which counts more.
    pub(super) fn new(config: &Config, lists: &Lists) -> Landing {
        let info = &config.info;
        let name = escape(lists.text("name").unwrap_or(&info.name));
        let description: String = lists
            .text("description")
            .unwrap_or(&info.description)
            .replace("\r\n", "\n")
            .split("\n\n")
            .map(str::trim)
            .filter(|paragraph| !paragraph.is_empty())
            .map(|paragraph| format!("<p dir=\"auto\">{}</p>\n", escape(paragraph).replace('\n', "<br>\n")))
            .collect();
        let nips: Vec<String> = nip11::supported_nips(config, config.membership.enabled)
            .into_iter()
            .map(|nip| {
                format!("<li><a href=\"https://github.com/nostr-protocol/nips/blob/master/{nip:02}.md\" aria-label=\"NIP-{nip:02}\">{nip}</a></li>")
            })
            .collect();
        let html = fill(
            TEMPLATE,
            &[
                ("name", &name),
                ("favicon", if shows(&info.icon_file) { nip11::ICON } else { FAVICON }),
                ("banner", if shows(&info.banner_file) { BANNER } else { "" }),
                ("picture", if shows(&info.icon_file) { PICTURE } else { "" }),
                ("description", description.trim_end()),
                ("nips", &nips.join("\n")),
                ("facts", &facts(config)),
                ("limits", &limits(config)),
                ("derived", if config.url().is_empty() { " data-derived" } else { "" }),
                ("style", STYLE),
                ("script", SCRIPT),
            ],
        );
        Landing {
            html,
            rules: rules(config),
            address: escape(&config.url()),
            content_security_policy: format!(
                "default-src 'none'; style-src '{}'; script-src '{}'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                 form-action 'none'; frame-ancestors 'none'",
                content_hash(STYLE),
                content_hash(SCRIPT),
            ),
        }
    }

    /// The page for a request that named `host`, with the figures of this moment. `restricted` says whether only some may publish.
    pub(super) fn render(&self, host: &str, live: &Live, restricted: bool) -> String {
        let derived;
        let address = if self.address.is_empty() {
            derived = format!("ws://{}", escape(host));
            &derived
        } else {
            &self.address
        };
        let who = if restricted { "Only those who are on its list may publish." } else { "Everybody may publish." };
        let minute = live.minutes.last().map_or("–".to_owned(), |count| grouped(*count));
        fill(
            &self.html,
            &[
                ("address", address),
                ("rules", &format!("<li>{who}</li>\n{}", self.rules)),
                ("events", &grouped(live.events)),
                ("clients", &grouped(live.clients as u64)),
                ("minute", &minute),
                ("bars", &bars(&live.minutes)),
                ("caption", &caption(&live.minutes)),
                ("stored", &stored(live)),
            ],
        )
    }
}

/// What is stored, what it takes up, and what the rules of retention would free, in a paragraph each; empty when nothing is stored.
fn stored(live: &Live) -> String {
    // Whoever dates an event chooses the number.
    let date = |time: u64| {
        let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.min(u64::from(u32::MAX))));
        date.to_string().split('T').next().unwrap_or_default().to_owned()
    };
    let kinds: Vec<String> =
        live.kinds.iter().map(|(kind, events)| format!("{} of kind {kind}", grouped(*events))).collect();
    let (Some(oldest), Some(newest), false) = (live.oldest, live.newest, kinds.is_empty()) else {
        return String::new();
    };
    let mut paragraphs = vec![format!(
        "Stored: {}; the oldest event is of {}, the newest of {}.",
        kinds.join(", "),
        date(oldest),
        date(newest)
    )];
    let tables: Vec<String> = live.tables.iter().map(|(name, bytes)| format!("{name} {}", megabytes(*bytes))).collect();
    let (file, free) = live.file_bytes;
    let tables = tables.join(", ");
    paragraphs.push(format!(
        "The database takes {}, of which {} are free; {tables}.",
        megabytes(file),
        megabytes(free)
    ));
    let told = |(rule, events, bytes): &(String, u64, u64)| {
        format!("{} events, {}, by the rule “{}”", grouped(*events), megabytes(*bytes), escape(rule))
    };
    let due: Vec<String> = live.due.iter().map(told).collect();
    if !due.is_empty() {
        paragraphs.push(format!("To go: {}.", due.join("; ")));
    }
    paragraphs.iter().map(|paragraph| format!("<p>{paragraph}</p>\n")).collect()
}

/// Bytes in megabytes, two digits behind the point.
fn megabytes(bytes: u64) -> String {
    format!("{}.{:02} MB", grouped(bytes / 1_000_000), bytes % 1_000_000 / 10_000)
}

/// Whether there is such a picture.
fn shows(picture: &Option<Picture>) -> bool {
    picture.as_ref().and_then(Picture::content).is_some()
}

/// What is allowed here, beside who may publish.
fn rules(config: &Config) -> String {
    let policy = &config.policy;
    let mut rules = Vec::new();
    if config.membership.enabled && config.membership.restrict_reads {
        rules.push("Only members may read.".to_owned());
    }
    if policy.auth && policy.guard_private {
        rules.push("Private messages are given only to those they concern.".to_owned());
    }
    if policy.deletion_requests {
        rules.push("What its author deletes is gone.".to_owned());
    }
    if policy.min_pow_difficulty > 0 {
        rules.push(format!("Events must show proof of work: {} bits.", policy.min_pow_difficulty));
    }
    let items: Vec<String> = rules.iter().map(|rule| format!("<li>{}</li>", escape(rule))).collect();
    items.join("\n")
}

/// The limits that people run into, as rows of a list.
fn limits(config: &Config) -> String {
    let limits = &config.limits;
    let mut rows = vec![
        ("Largest message", bytes(limits.max_message_length as u64)),
        ("Longest text", format!("{} characters", grouped(limits.max_content_length as u64))),
        ("Subscriptions at once", grouped(limits.max_subscriptions as u64)),
        ("Events in one answer", grouped(limits.max_limit)),
    ];
    if config.rates.events > 0 {
        rows.push(("Events from one address", format!("{} a minute", grouped(config.rates.events.into()))));
    }
    if limits.created_at_upper_limit > 0 {
        rows.push(("Dated in the future", format!("by {} at most", span(limits.created_at_upper_limit))));
    }
    let rows: Vec<String> = rows.into_iter().map(|(term, value)| format!("<dt>{term}</dt><dd>{value}</dd>")).collect();
    rows.join("\n")
}

/// A number of bytes, in a larger unit when that is exact.
fn bytes(number: u64) -> String {
    match number {
        _ if number.is_multiple_of(1 << 20) => format!("{} MiB", grouped(number >> 20)),
        _ if number.is_multiple_of(1 << 10) => format!("{} KiB", grouped(number >> 10)),
        _ => format!("{} bytes", grouped(number)),
    }
}

/// A number of seconds, in a larger unit when that is exact.
fn span(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)).unwrap_or((1, "second"));
    let count = seconds / unit;
    format!("{} {name}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// The bars of the chart, as the path of a drawing 240 wide and 48 high, the latest minute at its right end. The script draws the same.
fn bars(minutes: &[u64]) -> String {
    let most = minutes.iter().copied().max().unwrap_or(0).max(1);
    let shown = &minutes[minutes.len().saturating_sub(MINUTES)..];
    let first = MINUTES - shown.len();
    let bar = |(i, count): (usize, &u64)| {
        let height = (u128::from(*count) * 46).div_ceil(u128::from(most));
        (height > 0).then(|| format!("M{} 48v-{height}h3v{height}z", 4 * (first + i)))
    };
    shown.iter().enumerate().filter_map(bar).collect()
}

/// The chart in words.
fn caption(minutes: &[u64]) -> String {
    match minutes.iter().max() {
        None => "Events per minute over the last hour: the first minute is not over yet.".to_owned(),
        Some(most) => format!("Events per minute over the last hour, {} at most.", grouped(*most)),
    }
}

/// The rows of the list at the end.
fn facts(config: &Config) -> String {
    let info = &config.info;
    let mut rows = vec![("Software", format!("<a href=\"{}\">ratite</a> {}", nip11::SOFTWARE, escape(nip11::VERSION)))];
    if let Some(pubkey) = info.pubkey {
        let npub = nip19::encode_npub(&pubkey);
        rows.push(("Operator", format!("<a href=\"nostr:{npub}\"><code>{npub}</code></a>")));
    }
    if !info.contact.is_empty() {
        rows.push(("Contact", link(&info.contact)));
    }
    if !info.terms_of_service.is_empty() {
        rows.push(("Terms of service", link(&info.terms_of_service)));
    }
    let rows: Vec<String> = rows.into_iter().map(|(term, value)| format!("<dt>{term}</dt><dd>{value}</dd>")).collect();
    rows.join("\n")
}

/// A number with its thousands apart: `131,072`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A link when the text is an address that is safe to follow, else just the text.
fn link(text: &str) -> String {
    let escaped = escape(text);
    let (scheme, _) = text.split_once(':').unwrap_or_default();
    let shown = if scheme.eq_ignore_ascii_case("mailto") { &escaped["mailto:".len()..] } else { &escaped };
    if ["https", "http", "mailto", "nostr"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        format!("<a href=\"{escaped}\" rel=\"nofollow\">{shown}</a>")
    } else {
        escaped
    }
}

/// Puts values, which are HTML already, in the place of their `{{name}}`. Escaped text holds no braces, so a value
/// cannot be taken for a place.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = template.to_owned();
    for (name, value) in values {
        out = out.replace(&format!("{{{{{name}}}}}"), value);
    }
    out
}

/// Makes a text harmless wherever it stands in the page, attributes included.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '{' => out.push_str("&#123;"),
            '}' => out.push_str("&#125;"),
            c => out.push(c),
        }
    }
    out
}

/// How a Content-Security-Policy names an inline style or script.
fn content_hash(content: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("sha256-");
    for chunk in Sha256::digest(content).chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for i in 0..4 {
            out.push(if i <= chunk.len() { char::from(DIGITS[(group >> (18 - 6 * i)) as usize & 63]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(config: &Config) -> Landing {
        Landing::new(config, &Lists::default())
    }

    #[test]
    fn configured_text_is_escaped_everywhere() {
        let mut config = Config::default();
        let evil = "<script>alert('1')</script>\" onload=\"x {{script}} {{address}}";
        config.info.name = evil.into();
        config.info.description = format!("{evil}\n\n{evil}\nsecond line");
        config.info.contact = format!("mailto:{evil}");
        config.info.terms_of_service = format!("javascript:{evil}");
        let page = page_of(&config).render(&format!("host\"{evil}"), &Live::default(), false);
        assert_eq!(page.matches("<script>").count(), 1, "only our own");
        assert!(!page.contains("onload=\""));
        assert!(!page.contains("href=\"javascript:"));
        assert!(!page.contains("{{"), "every place is filled");
        assert_eq!(page.matches(SCRIPT).count(), 1);
        assert_eq!(page.matches("<p dir=\"auto\">&lt;script&gt;").count(), 2, "two paragraphs");
    }

    #[test]
    fn the_address_is_the_configured_one_or_the_one_in_use() {
        let mut config = Config::default();
        let page = page_of(&config).render("localhost:7777", &Live::default(), false);
        assert!(page.contains("<code id=\"address\" data-derived>ws://localhost:7777</code>"));
        config.info.url = "wss://relay.example.org".into();
        let page = page_of(&config).render("localhost:7777", &Live::default(), false);
        assert!(page.contains("<code id=\"address\">wss://relay.example.org</code>"));
    }

    #[test]
    fn nips_are_links_and_the_operator_is_an_npub() {
        let mut config = Config::default();
        config.info.pubkey = crate::nostr::PublicKey::from_hex(&"ab".repeat(32));
        config.info.contact = "mailto:op@example.org".into();
        let page = page_of(&config).render("h", &Live::default(), false);
        assert!(page.contains("/nips/blob/master/01.md\" aria-label=\"NIP-01\">1</a>"));
        assert!(page.contains("/nips/blob/master/62.md\" aria-label=\"NIP-62\">62</a>"));
        assert!(page.contains("<code>npub1"));
        assert!(page.contains("128 KiB"));
        assert!(page.contains("<a href=\"mailto:op@example.org\" rel=\"nofollow\">op@example.org</a>"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let landing = page_of(&Config::default());
        let page = landing.render("h", &Live::default(), false);
        assert!(!page.contains(" src="));
        assert!(!page.contains("url("));
        assert!(!page.contains("@import"));
        assert!(landing.content_security_policy.starts_with("default-src 'none';"));
    }

    #[test]
    fn content_hashes_as_browsers_compute_them() {
        // From the Content Security Policy Level 3 text: the hash of `doSomething();` and two of other lengths.
        assert_eq!(content_hash("doSomething();"), "sha256-RFWPLDbv2BY+rCkDzsE+0fr8ylGr2R2faWMhq4lfEQc=");
        assert_eq!(content_hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn limits_are_told_as_people_say_them() {
        assert_eq!([128 << 10, 64 << 20, 1_500].map(bytes), ["128 KiB", "64 MiB", "1,500 bytes"]);
        assert_eq!(
            [900, 60, 7_200, 86_400, 61].map(span),
            ["15 minutes", "1 minute", "2 hours", "1 day", "61 seconds"]
        );
    }

    #[test]
    fn figures_are_there_without_a_script() {
        let live = Live {
            events: 1_234_567,
            clients: 1_000,
            minutes: vec![0, 23, 46],
            kinds: vec![(1, 700_000), (7, 1_234)],
            oldest: Some(1_700_000_000),
            newest: Some(1_800_000_000),
            file_bytes: (1_234_567_890, 20_000),
            tables: vec![("events", 800_000_000), ("tags", 9_999)],
            due: vec![("others 7: 90d".into(), 1_000, 1_500_000), ("all: <1d".into(), 0, 0)],
        };
        let page = page_of(&Config::default()).render("h", &live, true);
        for part in [
            "<dd id=\"events\">1,234,567</dd>",
            "<dd id=\"clients\">1,000</dd>",
            "<dd id=\"minute\">46</dd>",
            "d=\"M232 48v-23h3v23zM236 48v-46h3v46z\"",
            "over the last hour, 46 at most.",
            "<p>Stored: 700,000 of kind 1, 1,234 of kind 7; the oldest event is of 2023-11-14, the newest of 2027-01-15.</p>",
            "<p>The database takes 1,234.56 MB, of which 0.02 MB are free; events 800.00 MB, tags 0.00 MB.</p>",
            "<p>To go: 1,000 events, 1.50 MB, by the rule “others 7: 90d”; 0 events, 0.00 MB, by the rule “all: &lt;1d”.</p>",
            "Only those who are on its list may publish.",
            "Private messages are given only to those they concern.",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(bars(&[u64::MAX; 100]).matches('M').count(), MINUTES);
        assert_eq!(bars(&[0; 60]), "");
    }
}
