//! What a command is about to do, and progress, on a terminal: how much, how fast, how long still. In a pipe or a log there is nothing to see.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::failure::complain;
use super::text;

/// The speed shown is that of the last few seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// Whether somebody looks.
pub(super) fn is_shown() -> bool {
    io::stderr().is_terminal()
}

/// Says what the command is about to do, where progress is shown.
pub(super) fn announce(text: &str) {
    if is_shown() {
        complain(text);
    }
}

/// A line at the bottom of the terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// How a number of things is written.
    amount: fn(u64) -> String,
    /// When how many things were done.
    marks: VecDeque<(Instant, u64)>,
}

impl Progress {
    /// As [`Progress::new`], where bytes are counted.
    pub(super) fn of_bytes(what: &'static str, total: u64) -> Progress {
        let mut progress = Progress::new(what, Some(total));
        progress.amount = text::size;
        progress
    }

    /// Shows the share and the time left when `total` is known, in the unit that [`Progress::at`] counts in.
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Progress {
        let bar = match total {
            Some(total) => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
                .with_style(style("{bar:30} {percent}%  {msg}  {eta} left")),
            None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(style("{spinner} {msg}  {elapsed}")),
        };
        Progress { bar, what, amount: text::number, marks: VecDeque::from([(Instant::now(), 0)]) }
    }

    /// `position` of the total is behind us; `count` things are done.
    pub(super) fn at(&mut self, position: u64, count: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let now = Instant::now();
        self.marks.push_back((now, count));
        while self.marks.len() > 2 && self.marks.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            self.marks.pop_front();
        }
        let (since, before) = self.marks.front().copied().unwrap_or((now, count));
        let seconds = (now - since).as_secs_f64().max(0.001);
        let speed = (count.saturating_sub(before)) as f64 / seconds;
        self.bar.set_position(position);
        let amount = self.amount;
        self.bar.set_message(format!("{} {}, {}/s", amount(count), self.what, amount(speed as u64)));
    }

    /// Takes the line away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are the only ones; a mistake in them would show as the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
