//! The ceiling of publishing: signatures checked on all cores, the events put into one bare table, OK after the commit, over the same sockets and
//! from the same driver.
//!
//! A process of its own, on the runtime that the relay runs on. It keeps what no relay may leave out that says OK only when a signed event
//! is on disk. What it leaves out is all the rest: it believes the id, knows no duplicates, rules, limits or indices, and delivers
//! nothing. All that came while signatures were checked is checked next, all that passed during a commit goes into the next one.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use heed::PutFlags;
use memchr::memmem;
use rayon::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Result;
use super::ceilings::{Signed, bare_table, frame, shake_hands};
use super::socket::{message_at, unmasked};

/// A published event, and where its OK goes.
struct Published {
    /// The message that it came in.
    message: Vec<u8>,
    oks: UnboundedSender<Vec<u8>>,
}

/// Events checked together at most: the first of them wait for the last.
const ROUND: usize = 512;

/// Serves until the process ends; the table lies in `folder`.
pub async fn serve(listener: TcpListener, folder: PathBuf) -> Result<()> {
    let (checks, to_check) = channel();
    let (commits, to_commit) = channel();
    std::thread::spawn(move || check(&to_check, &commits));
    std::thread::spawn(move || commit(&to_commit, &folder));
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(hear(stream, checks.clone()));
    }
}

/// A publisher.
async fn hear(mut stream: TcpStream, checks: Sender<Published>) -> Result<()> {
    shake_hands(&mut stream).await?;
    let (mut stream, mut answers) = stream.into_split();
    let (oks, mut to_say): (_, UnboundedReceiver<Vec<u8>>) = unbounded_channel();
    tokio::spawn(async move {
        let (mut batch, mut text) = (Vec::new(), Vec::new());
        while to_say.recv_many(&mut batch, usize::MAX).await > 0 {
            batch.drain(..).for_each(|ok| text.extend_from_slice(&ok));
            answers.write_all(&text).await?;
            text.clear();
        }
        Ok::<(), std::io::Error>(())
    });
    let mut bytes = Vec::new();
    loop {
        let mut at = 0;
        while let Some((start, end)) = message_at(&bytes[at..]) {
            checks.send(Published { message: unmasked(&bytes[at + start..at + end]), oks: oks.clone() })?;
            at += end;
        }
        bytes.drain(..at);
        bytes.reserve(16 << 10);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// Takes what waits, so many at most.
fn gather<T>(queue: &Receiver<T>, most: usize) -> Option<Vec<T>> {
    let first = queue.recv().ok()?;
    Some(std::iter::once(first).chain(queue.try_iter().take(most - 1)).collect())
}

fn check(queue: &Receiver<Published>, commits: &Sender<Vec<(Published, bool)>>) {
    while let Some(round) = gather(queue, ROUND) {
        let checked = round.into_par_iter().map(|published| {
            let good = Signed::find(&published.message).is_some_and(|signed| signed.is_good());
            (published, good)
        });
        if commits.send(checked.collect()).is_err() {
            return;
        }
    }
}

fn commit(queue: &Receiver<Vec<(Published, bool)>>, folder: &std::path::Path) -> Result<()> {
    let (env, table) = bare_table(folder)?;
    let mut next = 0u64;
    while let Some(rounds) = gather(queue, usize::MAX) {
        let mut txn = env.write_txn()?;
        for (published, _) in rounds.iter().flatten().filter(|(_, good)| *good) {
            table.put_with_flags(&mut txn, PutFlags::APPEND, &next.to_be_bytes(), &published.message)?;
            next += 1;
        }
        txn.commit()?;
        for (published, good) in rounds.iter().flatten() {
            let name = b"\"id\":\"";
            let id = memmem::find(&published.message, name)
                .and_then(|at| published.message.get(at + name.len()..)?.get(..64));
            let mut ok = Vec::new();
            let said: &[u8] = if *good { b"\",true,\"\"]" } else { b"\",false,\"invalid: signature\"]" };
            frame(&mut ok, &[b"[\"OK\",\"", id.unwrap_or_default(), said]);
            // Fails only when whoever published has left.
            let _ = published.oks.send(ok);
        }
    }
    Ok(())
}
