//! Relays over the same data: who runs, who listens where, and asking one to hand over.
//!
//! Each keeps a lock file in the data folder, `relay-N.lock`, locked as long as its process lives, however it ends; in it stands
//! what others must know. Who finds a file locked finds a living relay, and a file that is not locked means nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::config::Address;

/// So many relays can share one data folder. Two do while one hands over to the other.
const MOST: usize = 16;

/// How long a locked file may be without a record: its relay is about to write it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a relay may take to stop accepting when it was asked to hand over.
const CONFIRMATION: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(20);

/// A relay that runs over this data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its process.
    pub pid: u32,
    /// Where it listens; nowhere once it hands over.
    pub addresses: Vec<Address>,
    /// It keeps the clients it has and accepts no more.
    pub hands_over: bool,
    /// How often it could not start a successor.
    pub failed_renewals: u32,
    /// When it started, in milliseconds since 1970.
    started: u64,
    file: PathBuf,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    pid: u32,
    started: u64,
    addresses: Vec<String>,
    hands_over: bool,
    #[serde(default)]
    failed_renewals: u32,
}

/// This relay's own lock file.
pub(super) struct Place {
    file: File,
    /// Where other relays over this data reach this one.
    pub socket: PathBuf,
    record: Record,
}

fn path_of(data: &Path, number: usize) -> PathBuf {
    data.join(format!("relay-{number}.lock"))
}

/// The operator's door beside a lock file.
fn desk_of(file: &Path) -> PathBuf {
    file.with_extension("ctl")
}

/// The socket beside a lock file.
fn socket_of(file: &Path) -> PathBuf {
    file.with_extension("sock")
}

impl Place {
    /// Takes a file that no living relay holds, and says in it where this one listens.
    pub(super) fn take(data: &Path, addresses: &[Address]) -> io::Result<Place> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let record = Record {
            pid: std::process::id(),
            started,
            addresses: addresses.iter().map(Address::to_string).collect(),
            hands_over: false,
            failed_renewals: 0,
        };
        for number in 0..MOST {
            // Not truncated before it is ours: it may be somebody else's.
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let path = path_of(data, number);
            let file = options.open(&path)?;
            if is_free(&file, FlockOperation::NonBlockingLockExclusive)? {
                let mut place = Place { file, socket: socket_of(&path), record };
                place.write()?;
                return Ok(place);
            }
        }
        Err(io::Error::other(format!("{MOST} relays run over {} already", data.display())))
    }

    /// Where the operator reaches this relay.
    pub(super) fn desk(&self) -> PathBuf {
        desk_of(&self.socket)
    }

    /// Says that this relay listens no more.
    pub(super) fn hand_over(&mut self) -> io::Result<()> {
        self.record.addresses.clear();
        self.record.hands_over = true;
        self.write()
    }

    /// Says that no successor could be started.
    pub(super) fn renewal_failed(&mut self) -> io::Result<()> {
        self.record.failed_renewals += 1;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.record)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&text)
    }
}

/// Tries to lock a file. False when somebody else has.
fn is_free(file: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The relays that run over the data in this folder, the longest-running first. None when there is no such folder.
pub fn neighbours(data: &Path) -> io::Result<Vec<Neighbour>> {
    let mut found = Vec::new();
    for number in 0..MOST {
        let path = path_of(data, number);
        match read(&path) {
            Ok(neighbour) => found.extend(neighbour),
            // Files are taken in order and never removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|neighbour| neighbour.started);
    Ok(found)
}

/// Whose file this is; `None` when nobody's.
fn read(path: &Path) -> io::Result<Option<Neighbour>> {
    let began = Instant::now();
    loop {
        let mut file = File::open(path)?;
        if is_free(&file, FlockOperation::NonBlockingLockShared)? {
            return Ok(None);
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        match serde_json::from_str::<Record>(&text) {
            Ok(record) => {
                return Ok(Some(Neighbour {
                    pid: record.pid,
                    addresses: record.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                    hands_over: record.hands_over,
                    failed_renewals: record.failed_renewals,
                    started: record.started,
                    file: path.into(),
                }));
            }
            // Found between being locked and being written, or while another looked at it as we do.
            Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(_) => return Ok(None),
        }
    }
}

impl Neighbour {
    /// Where it is reached.
    pub(super) fn socket(&self) -> PathBuf {
        socket_of(&self.file)
    }

    /// Where its operator reaches it: a socket that speaks HTTP.
    pub fn desk(&self) -> PathBuf {
        desk_of(&self.file)
    }

    /// Asks it to hand over (`SIGUSR1`) and waits until it has stopped accepting. False when it ended instead.
    pub fn ask_to_hand_over(&self) -> io::Result<bool> {
        self.signal(Signal::USR1)?;
        let began = Instant::now();
        while began.elapsed() < CONFIRMATION {
            match self.now()? {
                None => return Ok(false),
                Some(neighbour) if neighbour.hands_over => return Ok(true),
                Some(_) => std::thread::sleep(PAUSE),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Asks it to start a successor and hand over to that (`SIGUSR2`).
    pub fn ask_to_renew(&self) -> io::Result<()> {
        self.signal(Signal::USR2)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until its last client has left and it has ended.
    pub fn wait(&self) -> io::Result<()> {
        while self.now()?.is_some() {
            std::thread::sleep(5 * PAUSE);
        }
        Ok(())
    }

    /// What its file says now; `None` when it is not this relay's any more.
    fn now(&self) -> io::Result<Option<Neighbour>> {
        let now = read(&self.file)?;
        Ok(now.filter(|now| now.pid == self.pid && now.started == self.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_as_long_as_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert_eq!(neighbours(data).unwrap(), []);
        assert_eq!(neighbours(&data.join("missing")).unwrap(), []);
        let addresses: Vec<Address> = vec!["127.0.0.1:7777".parse().unwrap(), "unix:/run/a b.sock".parse().unwrap()];
        let mut first = Place::take(data, &addresses).unwrap();
        let second = Place::take(data, &[]).unwrap();
        let known = neighbours(data).unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(known.iter().filter(|known| known.addresses == addresses && !known.hands_over).count(), 1);
        assert!(known.iter().all(|known| known.pid == std::process::id()));

        first.hand_over().unwrap();
        let known = neighbours(data).unwrap();
        assert_eq!(known.iter().filter(|known| known.hands_over && known.addresses.is_empty()).count(), 1);

        drop(first);
        let known = neighbours(data).unwrap();
        assert_eq!((known.len(), known[0].hands_over), (1, false));
        let _third = Place::take(data, &addresses).unwrap();
        drop(second);
        assert_eq!(neighbours(data).unwrap().len(), 1, "the first file was free and is in use again");
    }

    #[test]
    fn what_a_dead_relay_left_means_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (number, text) in
            ["", "{", "{\"pid\":1,\"started\":1,\"addresses\":[],\"hands_over\":false}"].iter().enumerate()
        {
            std::fs::write(path_of(folder.path(), number), text).unwrap();
        }
        assert_eq!(neighbours(folder.path()).unwrap(), []);
        let _place = Place::take(folder.path(), &[]).unwrap();
        assert_eq!(neighbours(folder.path()).unwrap().len(), 1);
    }
}
