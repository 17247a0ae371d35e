//! Ephemeral events between relays over the same data. Stored events reach the others through the log; these stand in none, and
//! without a link those who talk in them (NIP-46, NIP-47) could not while one relay hands over to the other.
//!
//! Every relay listens on a socket beside its lock file, which only its own user may open; a relay that starts links up with
//! those it finds. Over a link go records of events that were verified by the relay that took them in, in both
//! directions, each once: what came over a link is not sent on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::bind::bind_unix;
use super::socket::Socket;
use crate::relay::Relay;

/// Events that may wait for a link; further ones are lost to those behind it, as ephemeral events may be.
const WAITING: usize = 256;

/// How long another relay may take to agree to a link.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sent when a link stands.
const AGREED: u8 = b'!';

/// The links of one relay.
struct Links {
    /// Knows these links in turn: both are there until the process ends.
    relay: Relay,
    /// The longest record that is taken.
    longest: usize,
    open: Mutex<Vec<mpsc::Sender<Bytes>>>,
}

/// Listens on `own`, links up with those who listen on `others`, and has `relay` pass its ephemeral events on from now on. Messages of its
/// clients have `longest` bytes at most. Needs a tokio runtime around it.
pub(super) async fn link_up(relay: &Relay, own: &Path, others: &[PathBuf], longest: usize) -> io::Result<()> {
    let links = Arc::new(Links { relay: relay.clone(), longest, open: Mutex::default() });
    // Whoever left a socket here is dead: the lock file beside it is ours.
    let listener = bind_unix(own, 0o600, true)?;
    let accepting = Arc::clone(&links);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((Socket::Unix(mut stream), _)) => {
                    // Agreed when the link is open, so that the other misses nothing from then on.
                    let waiting = accepting.open();
                    if stream.write_all(&[AGREED]).await.is_ok() {
                        accepting.run(stream, waiting);
                    }
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    for other in others {
        // One that is just ending, or of another version, is done without.
        if let Ok(Ok(stream)) = timeout(PATIENCE, agree(other)).await {
            let waiting = links.open();
            links.run(stream, waiting);
        }
    }
    relay.pass_on_ephemeral(move |record| links.send(record));
    Ok(())
}

/// Pause after a failed `accept`.
const PAUSE: Duration = Duration::from_millis(100);

async fn agree(other: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(other).await?;
    match stream.read_u8().await? {
        AGREED => Ok(stream),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Links {
    /// From now on events wait for a link that is about to stand.
    fn open(&self) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.lock().push(sender);
        receiver
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Bytes>>> {
        // A list of senders, whole between any two statements.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event over all links; whether there is one. Never waits.
    fn send(&self, record: &[u8]) -> bool {
        let mut open = self.lock();
        open.retain(|link| !link.is_closed());
        if open.is_empty() {
            return false;
        }
        let record = Bytes::copy_from_slice(record);
        for link in open.iter() {
            if link.try_send(record.clone()).is_err() {
                tracing::debug!(
                    "an ephemeral event is lost to the clients of another relay over this data: it is too slow"
                );
            }
        }
        true
    }

    fn run(self: &Arc<Self>, stream: UnixStream, waiting: mpsc::Receiver<Bytes>) {
        let (reading, writing) = stream.into_split();
        // The writer ends, and closes the link for good, when the other end is gone.
        let writer = tokio::spawn(write(writing, waiting));
        let links = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = links.read(reading).await {
                tracing::debug!(%error, "the link to another relay over this data ends");
            }
            writer.abort();
        });
    }

    async fn read(&self, mut stream: OwnedReadHalf) -> io::Result<()> {
        loop {
            let length = stream.read_u32().await? as usize;
            if length > self.longest {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut record = vec![0; length];
            stream.read_exact(&mut record).await?;
            let admission = self.relay.admit(length).await;
            self.relay.deliver_ephemeral(record.into(), admission);
        }
    }
}

async fn write(mut stream: OwnedWriteHalf, mut waiting: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(record) = waiting.recv().await {
        // Records are shorter than messages, and messages than 64 MiB.
        let length = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_u32(length).await?;
        stream.write_all(&record).await?;
    }
    Ok(())
}
