//! `ratite top`: the figures of a running relay as they change.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::signals::Stop;
use super::snapshot::{Between, Snapshot};
use super::stats::span;
use super::{desk, text};

/// Show the running relay's figures as they change
#[derive(Args, Debug)]
#[command(
    long_about = "Show the running relay's figures as they change, until q or Ctrl-C: clients, events and questions in a second, what they \
        took, what waits, memory and disk. Rates are those since the last look.\n\n\
        Where the output is no terminal, one look is printed.",
    after_help = "\
Examples:
  ratite top
  ratite top --every 1"
)]
pub(super) struct TopArgs {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// The screen begins anew, and the cursor is out of the way.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Leaves the screen, and the keyboard, as they were, however this ends.
struct Screen {
    /// How the keyboard was set; `None` when there is none.
    keyboard: Option<Termios>,
}

impl Screen {
    fn enter() -> io::Result<Screen> {
        let keyboard = tcgetattr(io::stdin()).ok();
        if let Some(mut keys) = keyboard.clone() {
            // Keys come at once and are not shown; a read ends after a tenth of a second without one.
            keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            keys.special_codes[SpecialCodeIndex::VMIN] = 0;
            keys.special_codes[SpecialCodeIndex::VTIME] = 1;
            tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        }
        show(ENTER)?;
        Ok(Screen { keyboard })
    }

    /// Whether the user asks for the end, now or within a moment.
    fn quits(&self) -> bool {
        let mut keys = [0; 64];
        match self.keyboard.is_some().then(|| io::stdin().read(&mut keys)) {
            Some(Ok(count)) if count > 0 => keys[..count].iter().any(|key| matches!(key, b'q' | b'Q')),
            // No key; or no keyboard, or one that is gone, which says so at once: then only signals end this.
            _ => {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = show(LEAVE);
        if let Some(keyboard) = &self.keyboard {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, keyboard);
        }
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

pub(super) fn run(args: &TopArgs, globals: &Globals) -> Outcome {
    let failed = |error: io::Error| Failure::io("the terminal cannot be written", &error, "");
    let every = Duration::from_secs(args.every);
    let stop = Stop::on_signals();
    let relay = desk::serving(globals)?;
    let mut before = Snapshot::of(&relay)?;
    let mut looked_at = Instant::now();
    let on_terminal = io::stdout().is_terminal();
    let screen = if on_terminal { Some(Screen::enter().map_err(failed)?) } else { None };
    // The first look says at once what there is.
    let mut first = on_terminal;
    loop {
        if !first && wait(every, &stop, screen.as_ref()) {
            return Ok(CLEAN);
        }
        // Whoever serves by now: the relay may have been replaced meanwhile.
        let now = Snapshot::of(&desk::serving(globals)?)?;
        let seconds = looked_at.elapsed().as_secs_f64();
        looked_at = Instant::now();
        if now.pid != before.pid {
            before = now.clone();
        }
        let (columns, rows) = size();
        let lines = view(&Between { before: &before, now: &now, seconds }, columns);
        if !on_terminal {
            show(&format!("{}\n", lines.join("\n"))).map_err(failed)?;
            return Ok(CLEAN);
        }
        // Each line is cleared behind its text, so that nothing flickers.
        let lines: Vec<&str> = lines.iter().take(rows.max(1)).map(String::as_str).collect();
        show(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))).map_err(failed)?;
        (before, first) = (now, false);
    }
}

/// Waits; true when the user wants no more.
fn wait(time: Duration, stop: &Stop, screen: Option<&Screen>) -> bool {
    let began = Instant::now();
    while began.elapsed() < time && !stop.requested() {
        match screen {
            Some(screen) if screen.quits() => return true,
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(50).min(time)),
        }
    }
    stop.requested()
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).ok();
    let known = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((80, usize::MAX), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// The screen, line by line, none longer than this many characters.
fn view(between: &Between<'_>, columns: usize) -> Vec<String> {
    let now = between.now;
    let mut lines =
        vec![format!("ratite {}   process {}   up {}   {}", now.version, now.pid, span(now.uptime()), now.status)];
    lines.extend(now.problems.iter().map(|problem| format!("! {problem}")));
    lines.push(String::new());
    let mut row = |name: &str, value: String| lines.push(format!("{name:<12}{value}"));
    row(
        "clients",
        format!(
            "{} ({} connections of {})   subscriptions {}",
            now.websockets, now.connections, now.max_connections, now.subscriptions
        ),
    );
    let verb = |messages: fn(&Snapshot) -> &std::collections::BTreeMap<String, u64>, verb: &'static str| {
        between.rate(|snapshot| messages(snapshot).get(verb).copied().unwrap_or(0))
    };
    row(
        "in /s",
        format!(
            "EVENT {:<9.1} REQ {:<9.1} COUNT {:<9.1} CLOSE {:.1}",
            verb(|s| &s.received, "EVENT"),
            verb(|s| &s.received, "REQ"),
            verb(|s| &s.received, "COUNT"),
            verb(|s| &s.received, "CLOSE")
        ),
    );
    row(
        "out /s",
        format!(
            "EVENT {:<9.1} EOSE {:<8.1} OK {:<12.1} CLOSED {:.1}",
            verb(|s| &s.sent, "EVENT"),
            verb(|s| &s.sent, "EOSE"),
            verb(|s| &s.sent, "OK"),
            verb(|s| &s.sent, "CLOSED")
        ),
    );
    let milliseconds =
        |timed: super::snapshot::Timed| timed.mean().map_or("-".to_owned(), |mean| format!("{mean:.2} ms"));
    row(
        "questions",
        format!(
            "{:.1} /s   work {}   wait {}",
            between.rate(|snapshot| snapshot.asked().count),
            milliseconds(between.timed(Snapshot::asked)),
            milliseconds(between.timed(|snapshot| snapshot.query_wait)),
        ),
    );
    let commits = between.timed(|snapshot| snapshot.commits);
    let committed = now.events_committed.saturating_sub(between.before.events_committed);
    row(
        "commits",
        format!(
            "{:.1} /s   {}   {} events each",
            between.rate(|snapshot| snapshot.commits.count),
            milliseconds(commits),
            committed.checked_div(commits.count).unwrap_or(0),
        ),
    );
    row("limited", format!("{:.1} /s", between.rate(Snapshot::limited)));
    let queues: Vec<String> = now.queues.iter().map(|(name, count)| format!("{name} {count}")).collect();
    row(
        "waiting",
        format!("{} of {}   {}", text::size(now.queued_bytes), text::size(now.queue_bytes), queues.join("  ")),
    );
    row("outboxes", format!("{} (largest {})", text::size(now.outbox_bytes), text::size(now.largest_outbox_bytes)));
    row(
        "stored",
        format!(
            "{} events   {} ({} free)   disk {}",
            text::number(now.stored_events),
            text::size(now.database_bytes),
            text::size(now.database_free_bytes),
            now.disk_free_bytes.map_or("?".to_owned(), |free| format!("{} free", text::size(free)))
        ),
    );
    let cpu = between.cpu().map_or("?".to_owned(), |percent| format!("{percent:.0} %"));
    let memory = now.process.resident_bytes.map_or("?".to_owned(), text::size);
    let own = now.process.anonymous_bytes.map_or("?".to_owned(), text::size);
    row(
        "process",
        format!(
            "CPU {cpu}   memory {memory} ({own} without the database)   files {}",
            now.process.open_files.unwrap_or(0)
        ),
    );
    if let Some(days) = now.certificate_days {
        row("certificate", format!("{days} days left"));
    }
    lines.push(String::new());
    lines.push("events taken, minute by minute".to_owned());
    lines.push(spark(&now.events_per_minute, columns.min(60)));
    lines.into_iter().map(|line| line.chars().take(columns).collect()).collect()
}

/// A row of bars, the latest right.
fn spark(values: &[u64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let Some(most) = shown.iter().copied().max() else { return "(the first minute is not over)".to_owned() };
    let bar = |value: u64| match value {
        0 => ' ',
        value => BARS[(u128::from(value) * 7 / u128::from(most.max(1))).min(7) as usize],
    };
    format!("{}  {most} at most", shown.iter().map(|value| bar(*value)).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Timed;
    use super::*;

    #[test]
    fn rates_are_those_between_two_looks_and_no_line_is_too_long() {
        let mut before = Snapshot { pid: 7, events_per_minute: vec![0, 1, 700], ..Snapshot::default() };
        before.received.insert("EVENT".into(), 100);
        before.commits = Timed { count: 10, seconds: 1.0 };
        let mut now = before.clone();
        now.received.insert("EVENT".into(), 150);
        now.commits = Timed { count: 20, seconds: 1.05 };
        now.events_committed = 500;
        now.problems = vec!["x".repeat(300)];
        let lines = view(&Between { before: &before, now: &now, seconds: 2.0 }, 80);
        let text = lines.join("\n");
        assert!(text.contains("EVENT 25.0"), "{text}");
        assert!(text.contains("5.0 /s   5.00 ms   50 events each"), "{text}");
        assert!(text.contains(" ▁█  700 at most"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn a_row_of_bars_has_the_latest_values() {
        assert_eq!(spark(&[], 10), "(the first minute is not over)");
        assert_eq!(spark(&[0, 0], 10), "    0 at most");
        assert_eq!(spark(&[9, 1, 4, 8], 3), "▁▄█  8 at most");
        assert_eq!(spark(&[u64::MAX, 1], 3), "█▁  18446744073709551615 at most");
    }
}
