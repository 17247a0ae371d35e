//! What this process uses of its machine, from `/proc`. Where there is none, the figures are missing.

use std::fs;

/// What the process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Seconds on a processor, user and system.
    pub cpu: Option<f64>,
    /// Bytes of memory that are in use; pages of the database that happen to be in memory are among them.
    pub resident: Option<u64>,
    /// The part of them that belongs to nobody else: not the database's.
    pub anonymous: Option<u64>,
    /// Bytes of addresses.
    pub addresses: Option<u64>,
    /// Files open.
    pub files: Option<u64>,
    /// The most that may be open.
    pub most_files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// When it started, in Unix seconds.
    pub started: Option<f64>,
}

impl Usage {
    /// What this process uses now.
    pub(super) fn now() -> Usage {
        let mut usage = Usage::default();
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let kilobytes = |name| field(&status, name).map(|kilobytes| kilobytes * 1024);
            usage.resident = kilobytes("VmRSS:");
            usage.anonymous = kilobytes("RssAnon:");
            usage.addresses = kilobytes("VmSize:");
            usage.threads = field(&status, "Threads:");
        }
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
            usage.read_stat(&stat, field(&machine, "btime"), rustix::param::clock_ticks_per_second());
        }
        // The one that is opened to look is among them.
        usage.files = fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1));
        usage.most_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        usage
    }

    fn read_stat(&mut self, stat: &str, booted: Option<u64>, ticks: u64) {
        // The name of the program may hold anything, parentheses too; what follows the last one is numbers, from the third field on.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let seconds = |number: u64| number as f64 / ticks.max(1) as f64;
        self.cpu = number(14).zip(number(15)).map(|(user, system)| seconds(user + system));
        self.started = booted.zip(number(22)).map(|(booted, started)| booted as f64 + seconds(started));
    }
}

/// The number behind a word at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_confuses_nobody() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 3000 999 88 18446744073709551615";
        let mut usage = Usage::default();
        usage.read_stat(stat, Some(1_000), 100);
        assert_eq!((usage.cpu, usage.started), (Some(2.0), Some(1030.0)));
        usage.read_stat("", None, 0);
        assert_eq!((usage.cpu, usage.started), (None, None));
    }

    #[test]
    fn this_process_is_seen() {
        let usage = Usage::now();
        assert!(usage.resident.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        assert!(usage.files.is_some_and(|files| files >= 3) && usage.threads >= Some(1), "{usage:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.started.is_some_and(|started| started > 1e9 && started < now + 2.0), "{usage:?}");
    }
}
