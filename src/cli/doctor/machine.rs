//! Whether the machine is fit for the relay: its clock, its limit of open files, disk and memory, and the database on it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::super::disk::free_bytes;
use super::super::failure::things;
use super::super::{probe, text};
use super::reach::host_of;
use super::{Findings, now};
use crate::config::{CertificateSource, Config, plain};
use crate::server::Neighbour;
use crate::server::visit;
use crate::store::Store;

/// How far the clock may be off. NIP-42 allows ten minutes, and events of the future are refused after fifteen.
const SKEW: i64 = 60;

/// The clock, against that of the certificate authority when there is one, and against what was written here before.
pub(super) fn clock(config: &Config, ca: Option<&Path>, found: &mut Findings) {
    const ADVICE: &str = "Have it set by the network: `timedatectl set-ntp true`, or install chrony.";
    let written = fs::metadata(config.storage.path.join("data.mdb")).and_then(|file| file.modified());
    if let Ok(ahead) = written.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default())
        && ahead.as_secs() as i64 > SKEW
    {
        let found_text = format!("the database was written {} in the future", things(ahead.as_secs(), "second"));
        return found.problem("clock", found_text, ADVICE);
    }
    if config.tls.source() != Some(CertificateSource::Acme) {
        return found.ok("clock", "later than all that was written here (no other clock to compare with)");
    }
    let (url, ca) = (config.tls.acme_directory.clone(), config.tls.acme_ca.clone().or_else(|| ca.map(Path::to_owned)));
    let host = host_of(&config.tls.acme_directory);
    let answer = probe::within(Duration::from_secs(30), move || visit::fetch(&url, "application/json", ca.as_deref()));
    let date = answer.and_then(Result::ok).and_then(|answer| httpdate::parse_http_date(answer.header("date")?).ok());
    let Some(date) = date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok()) else {
        return found.warn(
            "clock",
            format!("{host}, which gives out the certificate, cannot be asked for the time"),
            "Without it the certificate is not renewed either: check that this machine may connect to port 443 elsewhere.",
        );
    };
    let off = date.as_secs() as i64 - now() as i64;
    if off.abs() > SKEW {
        found.problem("clock", format!("it differs from that of {host} by {off} seconds"), ADVICE);
    } else {
        found.ok("clock", format!("agrees with that of {host}"));
    }
}

/// Files that the relay has open beside its connections.
const OTHER_FILES: u64 = 128;

/// The limit of open files, of the relay that runs or else of one started like this command.
pub(super) fn files(config: &Config, serving: Option<&Neighbour>, found: &mut Findings) {
    let wanted = config.listen.max_connections as u64 + OTHER_FILES;
    let (limit, whose) = match serving.and_then(|relay| limit_of(relay.pid)) {
        Some(limit) => (limit, "the relay may have"),
        None => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            (limit.maximum.unwrap_or(u64::MAX), "a relay started from here may have")
        }
    };
    if limit >= wanted {
        return found.ok("files", format!("{whose} {} open", text::number(limit)));
    }
    found.warn(
        "files",
        format!("{whose} {} open, fewer than {} connections need", text::number(limit), config.listen.max_connections),
        format!(
            "Raise the limit (LimitNOFILE={wanted} in the unit, `ulimit -n {wanted}`), or lower listen.max_connections."
        ),
    );
}

/// The limit of open files of a process.
fn limit_of(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Less than this is nearly nothing.
const LITTLE_ROOM: u64 = 512 << 20;

/// A disk that takes longer than this to keep a promise makes publishers wait.
const SLOW: Duration = Duration::from_millis(50);

/// Room, the kind of file system, and how long it takes to write.
pub(super) fn disk(config: &Config, found: &mut Findings) {
    let folder = &config.storage.path;
    let size = fs::metadata(folder.join("data.mdb")).map_or(0, |file| file.len());
    match free_bytes(folder) {
        None => found.warn("disk", "the system does not say how much is free", "Look with `df -h`."),
        Some(free) => {
            // The default of map_size reserves addresses and says nothing of the disk.
            let default = Config::default().storage.map_size;
            let (setting, most) = match (config.retention.max_size, config.storage.map_size) {
                (0, map) if map == default => ("", 0),
                (0, map) => ("storage.map_size", map),
                (most, _) => ("retention.max_size", most),
            };
            let missing = most.saturating_sub(size).saturating_sub(free);
            if free < LITTLE_ROOM {
                found.problem(
                    "disk",
                    format!("only {} are free where {} lies", text::size(free), folder.display()),
                    "Free some space: a full disk refuses events.",
                );
            } else if missing > 0 {
                found.warn(
                    "disk",
                    format!(
                        "{} are free, {} less than {setting} lets the database take",
                        text::size(free),
                        text::size(missing)
                    ),
                    format!("Lower {setting}, or free some space: a full disk refuses events."),
                );
            } else {
                found.ok("disk", format!("{} are free, the database takes {}", text::size(free), text::size(size)));
            }
        }
    }
    match rustix::fs::statfs(folder).map(|disk| disk.f_type as u64 & 0xffff_ffff) {
        Ok(0x0102_1994 | 0x8584_58f6) => found.warn(
            "disk",
            format!("{} lies in memory: a restart of the machine empties it", folder.display()),
            "Set storage.path to a folder on a disk.",
        ),
        Ok(magic) => {
            if let Some(kind) = unsuitable(magic) {
                found.problem(
                    "disk",
                    format!("{} lies on {kind}", folder.display()),
                    "The database needs a file system of this machine (ext4, xfs, btrfs, zfs): set storage.path to one.",
                );
            }
        }
        Err(_) => {}
    }
    if !folder.is_dir() {
        return;
    }
    let place = folder.to_owned();
    match probe::within(Duration::from_secs(20), move || time_to_write(&place)) {
        None => found.problem(
            "disk",
            "a small file is not written within 20 seconds",
            "Look at the disk: `dmesg`, `smartctl`.",
        ),
        Some(Err(error)) => found.warn(
            "disk",
            format!("{} cannot be written to by this user: {}", folder.display(), plain(&error)),
            "Run this as the user of the relay, or as root.",
        ),
        Some(Ok(time)) if time > SLOW => found.warn(
            "disk",
            format!("it takes {} ms until what was written is safe", time.as_millis()),
            "Publishers wait as long for their OK. A disk of its own, or an SSD, is faster.",
        ),
        Some(Ok(time)) => found.ok("disk", format!("what is written is safe after {:.1} ms", time.as_secs_f64() * 1e3)),
    }
}

/// File systems on which a memory map is not what LMDB needs, by their magic numbers.
fn unsuitable(magic: u64) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS, a network file system"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB, a network file system"),
        0x6573_5546 => Some("a file system in user space (FUSE)"),
        0x0102_1997 => Some("9p, a file system of the host"),
        0x5346_414f => Some("AFS, a network file system"),
        _ => None,
    }
}

/// The median time that a write of one page takes to be safe.
fn time_to_write(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// A file that is gone from the folder before it is used.
fn tempfile_in(folder: &Path) -> std::io::Result<fs::File> {
    let path = folder.join(format!("doctor-{}.tmp", std::process::id()));
    let file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// What each connection needs at rest, in bytes: measured, see the README of the benches.
const PER_CONNECTION: u64 = 6 << 10;

/// The same with TLS.
const PER_TLS_CONNECTION: u64 = 24 << 10;

/// What the configuration allows the relay to take, against what the machine has.
pub(super) fn memory(config: &Config, found: &mut Findings) {
    let Some(there) = memory_of_machine() else {
        return found.warn("memory", "the system does not say how much there is", "");
    };
    let each = if config.tls.source().is_some() { PER_TLS_CONNECTION } else { PER_CONNECTION };
    let connections = config.listen.max_connections as u64 * each;
    let bound = [
        connections,
        config.storage.queue_bytes as u64,
        config.storage.kept_texts_bytes as u64,
        config.limits.max_filter_bytes_total as u64,
        config.rates.remembered as u64 * 270,
        16 << 20,
    ];
    let bound: u64 = bound.iter().fold(0, |sum, part| sum.saturating_add(*part));
    if bound > there / 10 * 9 {
        return found.warn(
            "memory",
            format!(
                "the bounds of the configuration come to {}, the machine has {}",
                text::size(bound),
                text::size(there)
            ),
            "Lower listen.max_connections, limits.max_filter_bytes_total or storage.queue_bytes.",
        );
    }
    found.ok(
        "memory",
        format!("the relay takes {} at most without slow readers, of {}", text::size(bound), text::size(there)),
    );
}

/// What this machine, or this container, has.
fn memory_of_machine() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024);
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    Some(limit.map_or(total, |limit: u64| limit.min(total)))
}

/// Whether the database opens and its tables can be read.
pub(super) fn database(config: &Config, found: &mut Findings) {
    let path = &config.storage.path;
    match path.join("data.mdb").try_exists() {
        Ok(true) => {}
        Ok(false) => return found.ok("database", format!("none yet in {}; the relay makes one", path.display())),
        Err(error) => {
            return found.warn(
                "database",
                format!("{} cannot be looked into by this user: {}", path.display(), plain(&error)),
                "Run this as the user of the relay, or as root.",
            );
        }
    }
    let (place, map) = (path.clone(), config.storage.map_size);
    let looked = probe::within(Duration::from_secs(60), move || {
        let store = Store::open_existing(&place, map)?;
        Ok::<_, crate::store::StoreError>((store.info()?, store.damaged().len()))
    });
    match looked {
        None => found.problem("database", "it does not open within a minute", "Another program may hold its lock."),
        Some(Err(error)) => found.problem(
            "database",
            error.to_string(),
            "`ratite verify` tells more, `ratite restore` brings a backup back, `ratite export --as-stored` saves what can be read.",
        ),
        Some(Ok((_, damaged))) if damaged > 0 => found.problem(
            "database",
            format!("{} cannot be read", things(damaged as u64, "event")),
            "`ratite verify` tells more; `ratite restore` brings a backup back.",
        ),
        Some(Ok((info, _))) => found.ok(
            "database",
            format!("{} in {}; `ratite verify` looks at each", things(info.events, "event"), text::size(info.file_bytes)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_lie_on_disks_of_their_own_machine() {
        assert_eq!(unsuitable(0x6969), Some("NFS, a network file system"));
        assert_eq!(unsuitable(0xef53), None);
    }
}
