//! `ratite backup` and `ratite restore`: the whole database in one file, and back in its place.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::disk::{check_room, room};
use super::failure::{CLEAN, Failure, Outcome, complain, things};
use super::globals::Globals;
use super::output::{print, print_json, spare_databases};
use super::progress::{Progress, announce};
use super::signals::Stop;
use super::{text, time, verify};
use crate::config::Backup;
use crate::relay::RelayError;
use crate::relay::backup::{BackupError, Made, make_if_due, name, newest, sweep};
use crate::server::neighbours;
use crate::store::{StoreError, VerifyReport, copy, copy::Copy};

/// Write the whole database into one file
#[derive(Args, Debug)]
#[command(
    long_about = "Write the whole database into one file: consistent, without free pages, checked after writing. The relay may be \
        running and taking in events; the backup holds what was stored when it began.\n\n\
        For a folder, which is made if its name ends with a slash, the file is named after the time. The file appears under its name only when it is complete and in order. It holds \
        private messages too, so only its owner may read it. `ratite restore` brings it back.\n\n\
        With --every it goes on until it is stopped, and makes a backup whenever the newest in the folder is old enough. A relay does the same \
        by itself when [backup] of the configuration names a folder.",
    after_help = "\
Examples:
  ratite backup /var/backups/ratite/
  ratite backup /var/backups/ratite/ --every 1d --keep 7
  ratite backup events.mdb --force     write over an older backup

Exit codes: 0 the backup is there and in order, 1 it failed or was stopped, and nothing of it is left."
)]
pub(super) struct BackupArgs {
    /// The file to write, or the folder to write it into
    #[arg(value_name = "FILE|DIR")]
    target: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Go on, and make a backup every so often, such as 1d or 6h; FILE|DIR is a folder then
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    every: Option<u64>,
    /// How many backups of --every are kept
    #[arg(long, value_name = "NUMBER", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..), requires = "every")]
    keep: u32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Bring a backup back
#[derive(Args, Debug)]
#[command(
    long_about = "Bring a backup back: copy it into the data folder and check it there, before anything else is touched. No relay and no \
        other command may use the folder meanwhile.\n\n\
        A database that is there already stays unless --replace is given, and then it is kept under another name beside the new one. Tables, pages and ids are checked, and with \
        --deep signatures too.",
    after_help = "\
Examples:
  ratite restore /var/backups/ratite/ratite-2026-01-31T03-00-00Z.mdb
  ratite --data ./elsewhere restore events.mdb
  ratite restore events.mdb --replace --deep

Exit codes: 0 the backup is in place and in order, 1 it failed or was stopped, and nothing was changed."
)]
pub(super) struct RestoreArgs {
    /// A file that `ratite backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the database that is there, and keep it as data.mdb.TIME
    #[arg(long)]
    replace: bool,
    /// Check signatures as well, on all cores
    #[arg(long)]
    deep: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// How often it is looked whether a scheduled backup is due.
const SCHEDULE: Duration = Duration::from_secs(5);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn backup(args: &BackupArgs, globals: &Globals) -> Outcome {
    let started = Instant::now();
    if args.target.as_os_str() == "-" {
        return Err(Failure::new(
            "a backup is a file, it cannot go to standard output",
            "Name a file or a folder; `ratite export` writes events to standard output.",
        ));
    }
    if let Some(interval) = args.every {
        return schedule(args, interval, globals);
    }
    let (store, config) = globals.open_existing()?;
    let target = target(&args.target);
    if target.is_dir() {
        return Err(Failure::new(format!("{} is a folder", target.display()), "Name another file."));
    }
    if target.exists() && !target.is_file() {
        return Err(Failure::new(format!("{} is a device or a pipe", target.display()), "Name a file."));
    }
    spare_databases(&target)?;
    if target.exists() && !args.force {
        return Err(Failure::new(
            format!("{} exists already", target.display()),
            "Name another file, or replace it with --force.",
        ));
    }
    let bytes = store.used_bytes()?;
    let folder = beside(&target, ".partial");
    let named = is_folder(&args.target);
    let created = named.then(|| Created::folder(&args.target)).transpose().map_err(|error| {
        Failure::io(format!("{} cannot be created", args.target.display()), &error, "Name another folder.")
    })?;
    if named {
        // Of backups that were killed. Where this fails, making one says why.
        let _ = sweep(&args.target);
    }
    check_room(&folder, bytes)?;
    announce(&format!(
        "{}, about {}, are written to {} and checked; {}",
        things(store.occupancy()?.events, "event"),
        text::size(bytes),
        target.display(),
        room(&folder)
    ));
    let copy = Copy::begin(&folder)?;
    let stop = Stop::on_signals();
    let copy = write(store, copy, bytes, &stop)?;
    let report = checked(&copy, config.storage.map_size, false, &stop, "the backup")?;
    let bytes = fs::metadata(copy.file()).map_or(bytes, |metadata| metadata.len());
    copy.put(&target).map_err(|source| StoreError::Copy { path: target.clone(), source })?;
    if let Some(created) = created {
        created.keep();
    }
    tell("backup", &target, &report, bytes, started, args.json)
}

/// Seconds of a time such as "1d".
fn parse_interval(text: &str) -> Result<u64, String> {
    let seconds = humantime::parse_duration(text).map(|time| time.as_secs()).unwrap_or(0);
    if seconds > 0 { Ok(seconds) } else { Err("not a time; write 1d, 6h or 30m".to_owned()) }
}

/// Makes backups until it is told to stop.
fn schedule(args: &BackupArgs, interval: u64, globals: &Globals) -> Outcome {
    let (store, _) = globals.open_existing()?;
    let schedule = Backup { folder: Some(args.target.clone()), interval, keep: args.keep };
    let stop = Stop::on_signals();
    while !stop.requested() {
        match make_if_due(&store, &schedule, time::now(), &|| stop.requested()) {
            Ok(Some(Made { file, events, bytes })) if args.json => print_json(&serde_json::json!({
                "backup": file.display().to_string(),
                "events": events,
                "bytes": bytes,
            }))?,
            Ok(Some(Made { file, events, bytes })) => print(&format!(
                "backup: {}, {} in {}, checked and in order\n",
                things(events, "event"),
                text::size(bytes),
                file.display()
            ))?,
            Ok(None) => {}
            Err(BackupError::Stopped) => break,
            // The next one may go well.
            Err(error) => complain(&format!("error: the backup failed: {error}")),
        }
        let began = Instant::now();
        while !stop.requested() && began.elapsed() < SCHEDULE {
            std::thread::sleep(LOOK);
        }
    }
    Ok(CLEAN)
}

/// Has the copy written, which LMDB does in one go, on a thread of its own.
pub(super) fn write(store: crate::store::Store, copy: Copy, bytes: u64, stop: &Stop) -> Result<Copy, Failure> {
    let copy = Arc::new(copy);
    let file = copy.file();
    let writer = std::thread::Builder::new().name("copy".to_owned()).spawn({
        let copy = copy.clone();
        move || store.copy_into(&copy)
    });
    let writer = writer.map_err(RelayError::Thread)?;
    let mut progress = Progress::of_bytes("written", bytes);
    while !writer.is_finished() {
        let written = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        progress.at(written, written);
        if stop.requested() {
            // The thread goes with the process; what it wrote goes now. It may just be about to begin.
            let folder = file.parent().unwrap_or(Path::new(""));
            let _ = (0..3).try_for_each(|_| fs::remove_dir_all(folder));
            return Err(Failure::new("the copy was stopped", "Nothing of it is left; run it again."));
        }
        std::thread::sleep(LOOK);
    }
    drop(progress);
    match writer.join() {
        Ok(written) => written?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Arc::into_inner(copy).ok_or_else(|| Failure::new("the copy is still being written", "Please report this."))
}

pub(super) fn restore(args: &RestoreArgs, globals: &Globals) -> Outcome {
    let started = Instant::now();
    let config = globals.load()?;
    let data = &config.storage.path;
    let source = if args.file.is_dir() { in_folder(&args.file)? } else { args.file.clone() };
    let unreadable = |error: &io::Error| {
        Failure::io(format!("{} cannot be read", source.display()), error, "Name a file that `ratite backup` wrote.")
    };
    let input = File::open(&source).map_err(|error| unreadable(&error))?;
    let bytes = input.metadata().map_err(|error| unreadable(&error))?.len();
    ensure_unused(data)?;
    let place = data.join("data.mdb");
    if place.exists() && !args.replace {
        return Err(Failure::new(
            format!("there is a database in {} already", data.display()),
            "Name another folder with --data, or replace it with --replace; it is kept under another name then.",
        ));
    }
    let mut head = Vec::new();
    (&input).take(HEAD).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
    recognise(&head, &source)?;
    copy::sweep(data);
    let folder = data.join(copy::RESTORED);
    check_room(data, bytes)?;
    let had_one = place.exists();
    let replaced = if had_one { "; the database that is there is kept beside it" } else { "" };
    announce(&format!(
        "{} are copied into {} and checked before anything is changed; {}{replaced}",
        text::size(bytes),
        data.display(),
        room(data)
    ));
    let created = Created::folder(data).map_err(|error| {
        Failure::io(format!("{} cannot be created", data.display()), &error, "Name another folder with --data.")
    })?;
    let stop = Stop::on_signals();
    let copy = Copy::begin(&folder)?;
    fill(&copy, &mut head.as_slice().chain(input), bytes, &stop, &unreadable)?;
    let report = checked(&copy, config.storage.map_size, args.deep, &stop, &source.display().to_string())?;
    prepare(&copy, config.storage.map_size)?;
    // Somebody may have come in the meantime.
    ensure_unused(data)?;
    let kept = kept_as(data);
    created.keep();
    copy::replace(data, copy, &kept)?;
    if had_one && !args.json {
        print(&format!("the database that was there is kept as {}\n", kept.display()))?;
    }
    tell("restored", data, &report, bytes, started, args.json)
}

/// The database in a folder that somebody named in the place of a file.
fn in_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let file = folder.join("data.mdb");
    match newest(folder) {
        _ if file.exists() => Ok(file),
        Some(newest) => Err(Failure::new(
            format!("{} is a folder with backups", folder.display()),
            format!("Name one of them; the newest is {}", newest.display()),
        )),
        None => Err(Failure::new(
            format!("{} is a folder without a backup", folder.display()),
            "Name a file that `ratite backup` wrote.",
        )),
    }
}

/// Bytes at the beginning of a file that tell a database from everything else.
const HEAD: u64 = 20;

/// An error when no database begins like this.
fn recognise(head: &[u8], source: &Path) -> Result<(), Failure> {
    let (what, next) = match head {
        [] => ("it is empty", "Name a file that `ratite backup` wrote."),
        [0x1F, 0x8B, ..] => ("it is compressed with gzip", "Unpack it first: gunzip FILE"),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => ("it is compressed with Zstandard", "Unpack it first: zstd -d FILE"),
        [b'{' | b'[', ..] => ("it is text, events perhaps", "`ratite import` reads events."),
        _ if head.starts_with(b"SQLite format 3") => {
            ("it is an SQLite database", "`ratite import` reads that of nostr-rs-relay.")
        }
        // LMDB's mark stands behind the head of the first page.
        _ if head.get(16..) == Some(&0xBEEF_C0DE_u32.to_ne_bytes()[..]) => return Ok(()),
        _ => ("it is no LMDB file", "Name a file that `ratite backup` wrote."),
    };
    Err(Failure::new(format!("{} is no database that can be used: {what}", source.display()), next))
}

/// A folder that goes again, empty as it was, unless something came into it.
struct Created<'f>(Option<&'f Path>);

impl<'f> Created<'f> {
    fn folder(folder: &'f Path) -> io::Result<Created<'f>> {
        let is_new = !folder.exists();
        fs::create_dir_all(folder)?;
        Ok(Created(is_new.then_some(folder)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Created<'_> {
    fn drop(&mut self) {
        // Fails where it is not empty, as it should.
        self.0.map(fs::remove_dir);
    }
}

fn fill(
    copy: &Copy,
    input: &mut dyn io::Read,
    bytes: u64,
    stop: &Stop,
    unreadable: &dyn Fn(&io::Error) -> Failure,
) -> Result<(), Failure> {
    let mut output = copy.create()?;
    let failed = |source| StoreError::Copy { path: copy.file(), source };
    let mut progress = Progress::of_bytes("read", bytes);
    let (mut buffer, mut done) = (vec![0; 1 << 20], 0);
    loop {
        if stop.requested() {
            return Err(Failure::new("the restore was stopped", "Nothing was changed; run it again."));
        }
        let count = input.read(&mut buffer).map_err(|error| unreadable(&error))?;
        if count == 0 {
            return Ok(output.sync_all().map_err(failed)?);
        }
        output.write_all(&buffer[..count]).map_err(failed)?;
        done += count as u64;
        progress.at(done, done);
    }
}

/// Has a copy that is to be used set pages aside for a full disk: none are free in it.
pub(super) fn prepare(copy: &Copy, map_size: u64) -> Result<(), Failure> {
    Ok(copy.open(map_size)?.fill_reserve()?)
}

/// Checks a copy where it lies; signatures only if it is to be `deep`.
pub(super) fn checked(
    copy: &Copy,
    map_size: u64,
    deep: bool,
    stop: &Stop,
    what: &str,
) -> Result<VerifyReport, Failure> {
    let store = copy.open(map_size).map_err(|error| match error {
        StoreError::Copy { .. } => error.into(),
        StoreError::Unusable { fault, .. } => Failure::new(
            format!("{what} is no database that can be used: {fault}"),
            "Name a file that `ratite backup` wrote.",
        ),
        error => Failure::new(
            format!("{what} is no database that can be used: {error}"),
            "Name a file that `ratite backup` wrote.",
        ),
    })?;
    let report = verify::check(&store, deep, stop)?;
    match report.faults.first() {
        None => Ok(report),
        Some(first) => Err(Failure::new(
            format!(
                "{what} is not in order: {} found, the first: {first}",
                things(report.faults.len() as u64, "fault")
            ),
            "`ratite verify` checks the database itself; an export saves what can be read.",
        )),
    }
}

/// An error when somebody uses the database in this folder.
pub(super) fn ensure_unused(data: &Path) -> Result<(), Failure> {
    let relays = neighbours(data).map_err(|error| {
        Failure::io(format!("cannot look for relays in {}", data.display()), &error, "Check the folder.")
    })?;
    let user = relays.first().map(|relay| ("a relay", relay.pid));
    match user.or(copy::user(data)?.map(|pid| ("another command", pid))) {
        None => Ok(()),
        Some((who, pid)) => {
            Err(Failure::new(format!("{who} uses {}: process {pid}", data.display()), "Stop it, then run this again."))
        }
    }
}

/// Whether this is a folder, or is to be one.
fn is_folder(given: &Path) -> bool {
    given.is_dir() || given.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// The file that a backup goes to.
fn target(given: &Path) -> PathBuf {
    if is_folder(given) { given.join(name(time::now())) } else { given.to_owned() }
}

/// The time, as part of a file's name.
fn stamp() -> String {
    time::show(time::now()).replace(':', "-")
}

/// Where the database in this folder is kept that gives way to another.
pub(super) fn kept_as(data: &Path) -> PathBuf {
    let name = format!("{}{}", copy::KEPT, stamp());
    // Two within one second are two.
    let more = (2..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.clone()).chain(more).map(|name| data.join(name));
    names.find(|name| !name.exists()).unwrap_or_else(|| data.join(&name))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn tell(what: &str, place: &Path, report: &VerifyReport, bytes: u64, started: Instant, json: bool) -> Outcome {
    let seconds = started.elapsed().as_secs_f64();
    if json {
        print_json(&serde_json::json!({
            what: place.display().to_string(),
            "events": report.events,
            "bytes": bytes,
            "seconds": (seconds * 1000.0).round() / 1000.0,
        }))?;
    } else {
        print(&format!(
            "{what}: {}, {} in {}, checked and in order, {seconds:.1} seconds\n",
            things(report.events, "event"),
            text::size(bytes),
            place.display()
        ))?;
    }
    Ok(CLEAN)
}
