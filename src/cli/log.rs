//! Log lines on standard error: for people, for the journal of systemd, or as JSON for machines.
//!
//! Addresses of clients and what they send stand in no line above `debug`; `tests/log.rs` sees to it. What strangers can cause
//! without end must not fill a disk: so many lines from one place in the program, then they are counted, and the sum is written
//! once a minute. Lines at `debug` are written all, for whoever asks for them. What strangers sent cannot begin a line of its
//! own or colour a terminal: control characters are escaped.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use super::failure::complain;
use crate::config::{LogFormat, LogLevel};

/// As many lines from one place are written at once.
const BURST: u32 = 100;

/// And one more each time that this has passed.
const PACE: Duration = Duration::from_secs(10);

/// How often what was left out is summed up.
const SUMS: Duration = Duration::from_secs(60);

/// The longest value in a line, in characters.
const LONGEST: usize = 1_000;

/// The log. What was left out and not said yet is said when it is dropped.
pub(super) struct Log(Arc<Lines>);

/// Begins to log. `RUST_LOG` decides what is shown; without it, `level` does. `times` puts the time in front of lines for people.
pub(super) fn begin(level: LogLevel, times: bool, format: LogFormat) -> Log {
    let default = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "ratite=info,warn",
        LogLevel::Debug => "ratite=debug,info",
    };
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = match wanted.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(_)) => {
            complain("warning: RUST_LOG cannot be understood and is ignored; an example: RUST_LOG=ratite=debug");
            EnvFilter::new(default)
        }
        None => EnvFilter::new(default),
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let look = match format {
        LogFormat::Json => Look::Json,
        LogFormat::Journal => Look::Journal,
        LogFormat::Auto if journal_reads() => Look::Journal,
        LogFormat::Auto | LogFormat::Text => Look::Text { times, colours },
    };
    let lines = Arc::new(Lines::new(look, Box::new(std::io::stderr())));
    // Fails only when logging has begun already, as in tests.
    let _ = Registry::default().with(filter).with(Printer(Arc::clone(&lines))).try_init();
    Log(lines)
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.sum_up();
    }
}

/// Whether standard error leads to the journal: systemd names the stream that does (systemd.exec(5)).
fn journal_reads() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Text { times: bool, colours: bool },
    Journal,
    Json,
}

/// A place in the program that writes lines.
struct Place {
    level: Level,
    /// How many lines it may write.
    room: u32,
    /// Up to when its room was reckoned.
    since: Instant,
    left_out: u64,
    /// What the last line said.
    last: String,
}

impl Place {
    /// Whether it may write a line now.
    fn admit(&mut self, now: Instant) -> bool {
        let earned = u32::try_from(now.saturating_duration_since(self.since).as_secs() / PACE.as_secs());
        let earned = earned.unwrap_or(BURST).min(BURST);
        if earned > 0 {
            self.room = BURST.min(self.room + earned);
            self.since = now;
        }
        let fits = self.room > 0;
        if fits {
            self.room -= 1;
        } else {
            self.left_out += 1;
        }
        fits
    }
}

/// Writes lines.
struct Lines {
    look: Look,
    out: Mutex<Box<dyn Write + Send>>,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// Of which there are as many as the program has.
    known: HashMap<Identifier, Place>,
    /// Whether a thread waits to sum up.
    summing: bool,
}

/// What a line says.
#[derive(Default)]
struct Words {
    message: String,
    /// The rest for people: ` name=value`, one behind the other.
    rest: String,
    /// The rest for machines.
    fields: Map<String, Value>,
}

impl Lines {
    fn new(look: Look, out: Box<dyn Write + Send>) -> Lines {
        Lines { look, out: Mutex::new(out), places: Mutex::default() }
    }

    /// Writes a line, or counts it. True when somebody has to sum up later.
    fn take(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        let level = *metadata.level();
        let mut words = Words::default();
        event.record(&mut words);
        // Who asks for more wants all of it.
        if level <= Level::INFO {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let Places { known, summing } = &mut *places;
            let new = || Place { level, room: BURST, since: now, left_out: 0, last: String::new() };
            let place = known.entry(metadata.callsite()).or_insert_with(new);
            if !place.admit(now) {
                place.last = words.text();
                return !std::mem::replace(summing, true);
            }
        }
        self.write(level, metadata.target(), words);
        false
    }

    /// Says what was left out since the last time. False when nothing was.
    fn sum_up(&self) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = places.known.values_mut().filter(|place| place.left_out > 0);
        let sums: Vec<(Level, u64, String)> = left_out
            .map(|place| (place.level, std::mem::take(&mut place.left_out), std::mem::take(&mut place.last)))
            .collect();
        places.summing = !sums.is_empty();
        drop(places);
        let any = !sums.is_empty();
        for (level, count, last) in sums {
            let message = format!("left out {count} more lines like this one: {last}");
            let fields = Map::from_iter([("left_out".to_owned(), count.into())]);
            self.write(level, module_path!(), Words { message, rest: String::new(), fields });
        }
        any
    }

    fn write(&self, level: Level, target: &str, words: Words) {
        let line = self.line(level, target, words);
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // When standard error is gone, there is nobody to complain to.
        let _ = out.write_all(line.as_bytes());
    }

    fn line(&self, level: Level, target: &str, mut words: Words) -> String {
        match self.look {
            Look::Json => {
                let mut line = std::mem::take(&mut words.fields);
                line.insert("time".into(), time().into());
                line.insert("level".into(), level.as_str().to_lowercase().into());
                line.insert("target".into(), target.into());
                line.insert("message".into(), words.message.into());
                format!("{}\n", Value::Object(line))
            }
            Look::Journal => format!("<{}>{}\n", priority(level), escaped(&words.text())),
            Look::Text { times, colours } => {
                let (dim, colour, plain) = match colours {
                    true => ("\x1b[2m", colour(level), "\x1b[0m"),
                    false => ("", "", ""),
                };
                let time = if times { format!("{dim}{}{plain} ", time()) } else { String::new() };
                format!("{time}{colour}{:>5}{plain} {}\n", level.as_str(), escaped(&words.text()))
            }
        }
    }
}

fn time() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// The priorities of syslog, as systemd takes them at the beginning of a line (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// One line of visible characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A text that is not too long for a line.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Words {
    /// For people: what is said, then the fields.
    fn text(&self) -> String {
        format!("{}{}", self.message, self.rest)
    }

    /// Adds a field, for people and for machines.
    fn add(&mut self, field: &Field, shown: &dyn fmt::Display, value: Value) {
        // Writing into a string cannot fail.
        let _ = write!(self.rest, " {}={shown}", field.name());
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = cut(&format!("{value:?}"));
        match field.name() {
            "message" => self.message = text,
            _ => self.add(field, &text, text.clone().into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = cut(value),
            // Quoted for people, who have to see where it ends.
            _ => self.add(field, &format!("{:?}", cut(value)), cut(value).into()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &value, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value, value.into());
    }
}

/// Where events of tracing become lines.
struct Printer(Arc<Lines>);

impl<S: Subscriber> Layer<S> for Printer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !self.0.take(event, Instant::now()) {
            return;
        }
        let lines = Arc::clone(&self.0);
        // Only while something is left out. Where no thread can be had, the end of the log sums up.
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(SUMS);
                if !lines.sum_up() {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that can be read.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn read(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    /// What `work` logs.
    fn logged(look: Look, work: impl FnOnce(&Lines)) -> String {
        let paper = Paper::default();
        let lines = Arc::new(Lines::new(look, Box::new(paper.clone())));
        tracing::subscriber::with_default(Registry::default().with(Printer(Arc::clone(&lines))), || work(&lines));
        paper.read()
    }

    const PLAIN: Look = Look::Text { times: false, colours: false };

    #[test]
    fn a_place_that_says_too_much_is_counted_and_summed_up() {
        let text = logged(PLAIN, |lines| {
            for turn in 0..1_000 {
                tracing::warn!(turn, "a stranger knocks");
                tracing::debug!(turn, "asked for");
            }
            tracing::warn!("something else is heard all the same");
            assert!(lines.sum_up());
            assert!(!lines.sum_up(), "said once");
        });
        assert_eq!(text.matches(" WARN a stranger knocks turn=").count(), BURST as usize);
        assert_eq!(text.matches("DEBUG asked for turn=").count(), 1_000);
        assert!(
            text.ends_with(
                " WARN something else is heard all the same\n \
                 WARN left out 900 more lines like this one: a stranger knocks turn=999\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_place_may_speak_again_after_a_while() {
        let began = Instant::now();
        let mut place = Place { level: Level::WARN, room: BURST, since: began, left_out: 0, last: String::new() };
        let admitted = |place: &mut Place, at| (0..1_000).filter(|_| place.admit(began + at)).count();
        assert_eq!(admitted(&mut place, Duration::ZERO), BURST as usize);
        assert_eq!(admitted(&mut place, PACE * 3), 3);
        assert_eq!(admitted(&mut place, PACE * 100_000), BURST as usize);
        assert_eq!(place.left_out, 3_000 - 2 * u64::from(BURST) - 3);
        // Whoever knocks without a pause does not put off its next line.
        let mut place = Place { room: 0, since: began, ..place };
        assert_eq!((0..100_u32).filter(|i| place.admit(began + PACE * *i / 10)).count(), 9);
    }

    #[test]
    fn every_look_is_one_line_whatever_stands_in_it() {
        let evil = "\x1b[31m\n<0>forged\u{9b}";
        let write = |_: &Lines| {
            tracing::error!(count = 7, name = "a b", half = 0.5, is = true, error = ?evil, "said: {evil}");
        };
        let said = r"said: \u{1b}[31m\n<0>forged\u{9b}";
        let text = logged(PLAIN, write);
        assert!(text.starts_with(&format!("ERROR {said} count=7 name=\"a b\" half=0.5 is=true error=")), "{text}");
        let journal = logged(Look::Journal, write);
        assert!(journal.starts_with(&format!("<3>{said} count=7")), "{journal}");
        let json = logged(Look::Json, write);
        let line: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(line["message"], format!("said: {evil}"));
        assert_eq!((&line["level"], &line["count"], &line["is"]), (&"error".into(), &7.into(), &true.into()));
        assert_eq!(line["target"], module_path!());
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok());
        for log in [text, journal, json] {
            assert!(log.ends_with('\n') && log.matches('\n').count() == 1, "{log}");
            assert!(!log.contains('\x1b') && !log.contains('\u{9b}') || log.starts_with('{'), "{log}");
        }
        let coloured = logged(Look::Text { times: true, colours: true }, write);
        assert!(coloured.contains(" \x1b[31mERROR\x1b[0m said: "), "{coloured}");
        assert!(coloured.starts_with("\x1b[2m2"), "{coloured}");
    }

    #[test]
    fn a_line_has_an_end() {
        let text = logged(PLAIN, |_| tracing::info!(long = "ä".repeat(100_000), "{}", "é".repeat(100_000)));
        assert!(text.len() < 5 * LONGEST, "{} bytes", text.len());
        assert_eq!(text.matches('…').count(), 2);
    }
}
