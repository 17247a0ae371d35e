//! Points in time as they are written on the command line: unix seconds, RFC 3339, or how long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Said in the help of every command that takes a time.
pub(super) const TIMES_HELP: &str = "\
Times are unix seconds (1700000000), RFC 3339 (2024-01-31T12:00:00Z, 2024-01-31T14:00:00+02:00), a day \
(2024-01-31, its first second in UTC), or how long ago: 90s, 10m, 6h, 30d, 2w, 3M, 1y (m is minutes, M is \
months of 30.44 days, a year has 365.25 days), also combined as in 1d12h.";

const UNITS: [(char, u64); 7] =
    [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800), ('M', 2_630_016), ('y', 31_557_600)];

/// Unix seconds now. A clock before 1970 counts as 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads a time, counting ages back from now.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    parse_at(text, now())
}

/// A time as RFC 3339, or as the plain number when it lies beyond the year 9999, as only a mistaken or malicious event does.
pub(super) fn show(seconds: u64) -> String {
    const YEAR_9999: u64 = 253_402_300_799;
    if seconds > YEAR_9999 {
        return format!("{seconds} (unix seconds, after the year 9999)");
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn parse_at(text: &str, now: u64) -> Result<u64, String> {
    let text = text.trim();
    let found = if text == "now" {
        Some(now)
    } else if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else if text.ends_with(|c| UNITS.iter().any(|(unit, _)| *unit == c)) {
        age(text).map(|age| now.saturating_sub(age))
    } else {
        date(text)
    };
    found.ok_or_else(|| {
        if let Some(age) = text.strip_prefix('-').filter(|age| self::age(age).is_some_and(|age| age > 0)) {
            return format!("ages are written without a sign: {age}");
        }
        "not a time: write unix seconds (1700000000), a date (2024-01-31 or 2024-01-31T12:00:00Z) or an age (30d)"
            .to_owned()
    })
}

fn age(text: &str) -> Option<u64> {
    let mut seconds = 0u64;
    let mut digits = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == c)?;
        let count: u64 = std::mem::take(&mut digits).parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(*factor)?)?;
    }
    digits.is_empty().then_some(seconds)
}

fn date(text: &str) -> Option<u64> {
    let seconds = |text: &str| {
        let time = humantime::parse_rfc3339_weak(text).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    if text.len() == "2024-01-31".len() {
        return seconds(&format!("{text}T00:00:00"));
    }
    // RFC 3339 allows small letters, and offsets that humantime does not know.
    let text = text.to_ascii_uppercase();
    if let Some(local) = text.strip_suffix('Z') {
        return seconds(local);
    }
    let split = text.len().checked_sub("+02:00".len()).filter(|split| text.is_char_boundary(*split))?;
    let (local, offset) = text.split_at(split);
    let (sign, offset) = (offset.chars().next()?, offset.get(1..)?);
    let (hours, minutes) = offset.split_once(':')?;
    let two = |text: &str| (text.len() == 2).then(|| text.parse::<u64>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = hours * 3_600 + minutes * 60;
    match sign {
        '+' => seconds(local)?.checked_sub(offset),
        '-' => seconds(local)?.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn unix_seconds() {
        assert_eq!(parse_at("0", NOW), Ok(0));
        assert_eq!(parse_at(" 1700000000 ", NOW), Ok(1_700_000_000));
        assert_eq!(parse_at("now", NOW), Ok(NOW));
    }

    #[test]
    fn ages_count_back_from_now() {
        for (text, age) in [
            ("90s", 90),
            ("10m", 600),
            ("6h", 21_600),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
            ("3M", 3 * 2_630_016),
            ("1y", 31_557_600),
            ("1d12h", 129_600),
        ] {
            assert_eq!(parse_at(text, NOW), Ok(NOW - age), "{text}");
        }
        assert_eq!(parse_at("1000y", NOW), Ok(0), "nothing is older than 1970");
    }

    #[test]
    fn dates_of_rfc_3339() {
        for text in [
            "2024-01-31T12:00:00Z",
            "2024-01-31t12:00:00z",
            "2024-01-31 12:00:00Z",
            "2024-01-31T14:00:00+02:00",
            "2024-01-31T06:30:00-05:30",
            "2024-01-31T12:00:00.987Z",
        ] {
            assert_eq!(parse_at(text, NOW), Ok(1_706_702_400), "{text}");
        }
        assert_eq!(parse_at("2024-01-31", NOW), Ok(1_706_659_200));
    }

    #[test]
    fn anything_else_says_what_is_possible() {
        for text in [
            "",
            "-5",
            "yesterday",
            "30x",
            "d",
            "5d3",
            "2024-13-01",
            "2024-01-31T12:00:00",
            "1e9",
            "3.5d",
            "99999999999999999999",
            "99999999999999999999d",
            "18446744073709551615y",
            "2024-01-31T12:00:00+2:00",
            "ééééé",
            "2024-01-31T12:00:00é00",
            "1969-12-31T23:59:59Z",
            "2024-01-31T12:00:00+99:00",
        ] {
            let result = parse_at(text, NOW);
            assert!(result.as_ref().is_err_and(|error| error.starts_with("not a time: ")), "{text}: {result:?}");
        }
    }

    #[test]
    fn shown_as_rfc_3339() {
        assert_eq!(show(0), "1970-01-01T00:00:00Z");
        assert_eq!(show(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(show(253_402_300_800), "253402300800 (unix seconds, after the year 9999)");
    }
}
