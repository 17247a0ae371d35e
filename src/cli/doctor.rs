//! `ratite doctor`: what is wrong with this relay, seen from its machine and from outside, and what to do about it.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::disk::free_bytes;
use super::failure::{CLEAN, FAILED, Outcome, things};
use super::globals::Globals;
use super::output::{print, print_json};
use super::probe;
use super::text;
use crate::config::{Address, CertificateSource, Config, plain};
use crate::server::visit::{self, Answer};
use crate::server::{Neighbour, inspect_certificate, neighbours};
use crate::store::Store;

/// Look for what is wrong, and say what to do
#[derive(Args, Debug)]
#[command(
    long_about = "Look for what is wrong with this relay, with the configuration that it reads: whether its name leads here, who listens on its \
        ports, its certificate, the clock, the limit of open files, the disk, memory, the database, what proxies tell of their clients, and \
        what a client sees from outside: a connection, TLS, the information document, a WebSocket and the answer to a question. Each \
        finding comes with what to do about it.\n\n\
        Nothing is changed, but for a small file in the data folder that is written and removed to see how fast the disk is. The relay may \
        be running or not.",
    after_help = "\
Examples:
  ratite doctor
  ratite --config /etc/ratite/ratite.toml doctor --json

Exit codes: 0 nothing is wrong that keeps clients away or events in danger, 1 something is."
)]
pub(super) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Trust this certificate too, as PEM, when looking from outside
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or wrong one day.
    Warning,
    /// Clients stay away, or events are in danger.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at, in a word.
    check: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Level::Ok, found.into(), "");
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Warning, found.into(), advice);
    }

    fn problem(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Problem, found.into(), advice);
    }

    fn add(&mut self, check: &'static str, level: Level, found: String, advice: impl Into<String>) {
        self.0.push(Finding { check, level, found, advice: advice.into() });
    }

    fn problems(&self) -> usize {
        self.0.iter().filter(|finding| finding.level == Level::Problem).count()
    }
}

pub(super) fn run(args: &DoctorArgs, globals: &Globals) -> Outcome {
    let config = globals.load()?;
    let running = neighbours(&config.storage.path).unwrap_or_default();
    let serving = running.iter().rfind(|relay| !relay.hands_over);
    let mut found = Findings::default();
    relay(serving, &mut found);
    names(&config, &mut found);
    ports(&config, serving, &mut found);
    certificate(&config, &mut found);
    clock(&config, args.ca.as_deref(), &mut found);
    files(&config, serving, &mut found);
    disk(&config, &mut found);
    memory(&config, &mut found);
    database(&config, &mut found);
    outside(&config, serving, args.ca.as_deref(), &mut found);

    if args.json {
        print_json(&serde_json::json!({ "problems": found.problems(), "findings": found.0 }))?;
    } else {
        print(&tell(&found))?;
    }
    Ok(if found.problems() == 0 { CLEAN } else { ExitCode::from(FAILED) })
}

fn tell(found: &Findings) -> String {
    let mut out = String::new();
    for Finding { check, level, found, advice } in &found.0 {
        let mark = match level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        out.push_str(&format!("{mark}  {check:<11}  {found}\n"));
        if !advice.is_empty() {
            out.push_str(&format!("{:22}> {advice}\n", ""));
        }
    }
    out.push_str(&match found.problems() {
        0 => "\nnothing is wrong that keeps clients away or events in danger\n".to_owned(),
        problems => format!("\n{} to put right\n", things(problems as u64, "problem")),
    });
    out
}

/// Whether one runs, and how it says it is.
fn relay(serving: Option<&Neighbour>, found: &mut Findings) {
    let Some(relay) = serving else {
        return found.warn("relay", "no relay runs over this data", "Start it: `systemctl start ratite`, or `ratite`.");
    };
    match visit::health(relay) {
        Ok(health) => {
            let problems = health["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let mut is_well = true;
            for problem in problems {
                is_well = false;
                let level = if health["ready"] == true { Level::Warning } else { Level::Problem };
                found.add("relay", level, problem.to_owned(), "Its log tells more: `journalctl -u ratite`.");
            }
            if is_well {
                found.ok("relay", format!("process {} serves and is well", relay.pid));
            }
        }
        Err(why) => found.warn(
            "relay",
            format!("process {} cannot be asked how it is: {why}", relay.pid),
            "Run this as the user of the relay, or as root; if it still does not answer, look into its log.",
        ),
    }
}

/// Where the names lead.
fn names(config: &Config, found: &mut Findings) {
    let urls = config.urls();
    if urls.is_empty() {
        return found.warn(
            "name",
            "the relay does not know its own address",
            "Set tls.names, or info.url when a proxy does TLS; clients cannot authenticate through a proxy without it.",
        );
    }
    for url in urls {
        let host = host_of(&url);
        if host.ends_with(".onion") || host.parse::<IpAddr>().is_ok() {
            continue;
        }
        match probe::resolve(host) {
            Err(problem) => {
                found.problem("name", problem, "Set its address where you bought the name (A and AAAA records).")
            }
            Ok(addresses) => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let list = list.join(" and ");
                let foreign: Vec<_> = addresses.iter().filter(|address| !probe::is_own(**address)).collect();
                if foreign.is_empty() {
                    found.ok("name", format!("{host} leads here: {list}"));
                } else {
                    found.warn(
                        "name",
                        format!("{host} leads to {list}, which is not all of this machine"),
                        "Right behind a router or a proxy elsewhere; otherwise correct the name's A and AAAA records.",
                    );
                }
            }
        }
    }
}

/// The host in an address such as `wss://relay.example.org:8443/path`.
fn host_of(url: &str) -> &str {
    let authority = url.split("://").nth(1).unwrap_or(url).split('/').next().unwrap_or("");
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
    .trim_start_matches('[')
    .trim_end_matches(']')
}

/// Whether what is to be listened on is listened on, or could be.
fn ports(config: &Config, serving: Option<&Neighbour>, found: &mut Findings) {
    let tls = config.tls.source().map(|_| config.tls.listen.iter().chain(&config.tls.http_listen));
    for address in config.listen.addresses.iter().chain(tls.into_iter().flatten()) {
        let answers = answers(address);
        match (serving, answers) {
            // Sockets that systemd passed take the place of the default.
            (Some(relay), Err(_)) if *config.listen.addresses == Config::default().listen.addresses => {
                let list: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
                found.ok("ports", format!("the relay listens on {}", list.join(" and ")));
            }
            (Some(_), Ok(())) => found.ok("ports", format!("{address} is listened on")),
            (Some(_), Err(why)) => found.problem(
                "ports",
                format!("{address} takes no connection: {why}"),
                "`ratite restart` starts the relay anew, with this configuration; its log says why it does not listen.",
            ),
            (None, Ok(())) => found.problem(
                "ports",
                format!("{address} is taken by another program"),
                "`ss -ltnp` shows which. Stop it, or choose another address in the configuration.",
            ),
            (None, Err(_)) => match address.tcp().map(TcpListener::bind) {
                Some(Err(error)) => found.problem(
                    "ports",
                    format!("{address} cannot be listened on by this user: {}", plain(&error)),
                    "Ports below 1024 need root or CAP_NET_BIND_SERVICE, which the service has; run this as root.",
                ),
                _ => found.ok("ports", format!("{address} is free")),
            },
        }
    }
}

/// Whether somebody takes connections there.
fn answers(address: &Address) -> Result<(), String> {
    match address {
        Address::Tcp(address) => {
            let here = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            let at = SocketAddr::new(here, address.port());
            TcpStream::connect_timeout(&at, probe::PATIENCE).map(drop).map_err(|error| plain(&error))
        }
        Address::Unix(path) => UnixStream::connect(path).map(drop).map_err(|error| plain(&error)),
    }
}

/// How long the certificate counts, and for which names.
fn certificate(config: &Config, found: &mut Findings) {
    let advice = match config.tls.source() {
        None => return,
        Some(CertificateSource::Acme) => {
            "The relay tries again by itself; its log says what the authority wants. The name must lead here, and ports 443 and 80 \
             must be open to everybody."
        }
        Some(CertificateSource::Files) => {
            "Renew the files in tls.certificate and tls.key; the relay reads them again by itself."
        }
    };
    let state = match inspect_certificate(&config.tls, &config.storage.path) {
        Ok(Some(state)) => state,
        Ok(None) => return,
        Err(fault) => return found.problem("certificate", fault.to_string(), advice),
    };
    let now = now();
    if let Some(problem) = state.problem(now) {
        return found.problem("certificate", problem, advice);
    }
    let missing: Vec<&str> =
        config.tls.names.iter().filter(|name| !covers(&state.names, name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return found.problem("certificate", format!("it does not hold for {}", missing.join(", ")), advice);
    }
    let days = state.days_left(now).unwrap_or(0);
    found.ok("certificate", format!("for {}, {}", state.names.join(", "), things(days.max(0) as u64, "more day")));
}

/// Whether one of the names of a certificate, `*.example.org` among them, is this one.
fn covers(names: &[String], name: &str) -> bool {
    let rest = name.split_once('.').map(|(_, rest)| rest);
    names.iter().any(|known| known.eq_ignore_ascii_case(name) || (rest.is_some() && known.strip_prefix("*.") == rest))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How far the clock may be off. NIP-42 allows ten minutes, and events of the future are refused after fifteen.
const SKEW: i64 = 60;

/// The clock, against that of the certificate authority when there is one, and against what was written here before.
fn clock(config: &Config, ca: Option<&Path>, found: &mut Findings) {
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
fn files(config: &Config, serving: Option<&Neighbour>, found: &mut Findings) {
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
fn disk(config: &Config, found: &mut Findings) {
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
fn memory(config: &Config, found: &mut Findings) {
    let Some(there) = memory_of_machine() else {
        return found.warn("memory", "the system does not say how much there is", "");
    };
    let each = if config.tls.source().is_some() { PER_TLS_CONNECTION } else { PER_CONNECTION };
    let connections = config.listen.max_connections as u64 * each;
    let bound = [
        connections,
        config.storage.queue_bytes as u64,
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
fn database(config: &Config, found: &mut Findings) {
    let path = &config.storage.path;
    if !path.join("data.mdb").exists() {
        return found.ok("database", format!("none yet in {}; the relay makes one", path.display()));
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

/// What a client sees.
fn outside(config: &Config, serving: Option<&Neighbour>, ca: Option<&Path>, found: &mut Findings) {
    let Some(serving) = serving else { return };
    let here = serving.addresses.iter().find_map(Address::tcp).map(|address| format!("ws://{address}"));
    let url = match (config.url(), here) {
        (url, _) if !url.is_empty() => url,
        (_, Some(here)) => here,
        _ => return found.ok("outside", "the relay is reached through a Unix socket alone"),
    };
    let ca = ca.or(config.tls.acme_ca.as_deref()).map(Path::to_owned);
    let untold_before = untold(serving);
    let asked = (url.replacen("ws", "http", 1), ca.clone());
    let document = probe::within(Duration::from_secs(40), move || {
        visit::fetch(&asked.0, "application/nostr+json", asked.1.as_deref())
    });
    match document.unwrap_or_else(|| Err("no answer in time".to_owned())) {
        Err(why) => {
            return found.problem(
                "outside",
                format!("{url} cannot be reached from here: {why}"),
                "The name must lead to this machine or its proxy, the firewall must let port 443 through, and the certificate must be \
                 right. Some routers let nobody in from within: then try from elsewhere.",
            );
        }
        Ok(answer) if !is_document(&answer) => found.problem(
            "outside",
            format!("{url} answers with something else than a relay's information document (status {})", answer.status),
            "Another program answers there, or the proxy does not pass requests on as they are.",
        ),
        Ok(_) => found.ok("outside", format!("{url} gives the information document")),
    }
    let asked = (url.clone(), ca);
    let answered = probe::within(Duration::from_secs(40), move || visit::question(&asked.0, asked.1.as_deref()));
    match answered.unwrap_or_else(|| Err("no answer in time".to_owned())) {
        Err(why) => {
            found.problem("outside", format!("{url}: {why}"), "packaging/proxies has what nginx and Caddy need.")
        }
        Ok(time) => {
            found.ok("outside", format!("a question over a WebSocket is answered within {} ms", time.as_millis()))
        }
    }
    proxy(config, untold_before, untold(serving), found);
}

fn is_document(answer: &Answer) -> bool {
    let document = serde_json::from_slice::<Value>(&answer.body);
    answer.status == 200 && document.is_ok_and(|document| document["supported_nips"].is_array())
}

/// How many requests have come through a proxy that does not tell for whom.
fn untold(relay: &Neighbour) -> Option<u64> {
    visit::health(relay).ok()?["proxied_for_nobody"].as_u64()
}

/// Whether the proxy that we came through told the relay of us.
fn proxy(config: &Config, before: Option<u64>, after: Option<u64>, found: &mut Findings) {
    // Without TLS of its own and with an address of its own, a proxy stands in front.
    if config.tls.source().is_some() || config.info.url.is_empty() {
        return;
    }
    match (before, after) {
        (Some(before), Some(after)) if after > before => found.problem(
            "proxy",
            "it does not tell the relay the addresses of its clients, so that limits for each of them do not work",
            "Have it set X-Forwarded-For (packaging/proxies shows how), or name what it sets in listen.client_address_from.",
        ),
        (Some(_), Some(_)) if config.listen.trusted_proxies.is_empty() => found.warn(
            "proxy",
            "no proxy is trusted: everybody who comes through it counts as one client",
            "Name its address in listen.trusted_proxies.",
        ),
        (Some(_), Some(_)) => found.ok("proxy", "the addresses of clients are known"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_with_what_to_do() {
        let mut found = Findings::default();
        found.ok("disk", "10 GiB are free");
        assert!(tell(&found).starts_with("ok       disk         10 GiB are free\n"));
        assert!(tell(&found).ends_with("nothing is wrong that keeps clients away or events in danger\n"));
        found.problem("clock", "an hour late", "Set it.");
        let text = tell(&found);
        assert!(text.contains("PROBLEM  clock        an hour late\n                      > Set it.\n"), "{text}");
        assert!(text.ends_with("1 problem to put right\n"));
    }

    #[test]
    fn hosts_and_certificates_are_matched() {
        assert_eq!(host_of("wss://relay.example.org:8443/x"), "relay.example.org");
        assert_eq!(host_of("wss://[::1]:1"), "::1");
        assert_eq!(host_of("https://[::1]"), "::1");
        let names = ["relay.example.org".to_owned(), "*.example.net".to_owned()];
        assert!(covers(&names, "Relay.example.org") && covers(&names, "a.example.net"));
        assert!(!covers(&names, "example.net") && !covers(&names, "a.b.example.net") && !covers(&names, "example.org"));
        assert_eq!(unsuitable(0x6969), Some("NFS, a network file system"));
        assert_eq!(unsuitable(0xef53), None);
    }
}
