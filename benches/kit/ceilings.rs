//! What the machine itself can do: signatures, bytes through sockets, puts and commits. A relay is measured against these in the same run.

use std::path::Path;
use std::time::{Duration, Instant};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, PutFlags};
use rayon::prelude::*;
use secp256k1::{XOnlyPublicKey, schnorr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::pool::Lines;
use super::report::Latencies;
use super::{Result, process};

/// Signature checks alone, on all cores.
pub struct Verification {
    pub per_second: f64,
    /// CPU microseconds of one core for each.
    pub micros: f64,
}

/// What a signature is checked with.
pub struct Signed {
    id: [u8; 32],
    pubkey: [u8; 32],
    sig: [u8; 64],
}

impl Signed {
    /// Finds them in an event's text, which writes no white space.
    pub fn find(event: &[u8]) -> Option<Signed> {
        fn field<const N: usize>(event: &[u8], name: &str) -> Option<[u8; N]> {
            let at = memchr::memmem::find(event, name.as_bytes())? + name.len();
            const_hex::decode_to_array(event.get(at..at + 2 * N)?).ok()
        }
        Some(Signed {
            id: field(event, "\"id\":\"")?,
            pubkey: field(event, "\"pubkey\":\"")?,
            sig: field(event, "\"sig\":\"")?,
        })
    }

    /// Checks it, the key parsed each time.
    pub fn is_good(&self) -> bool {
        let sig = schnorr::Signature::from_byte_array(self.sig);
        XOnlyPublicKey::from_byte_array(self.pubkey).is_ok_and(|key| schnorr::verify(&sig, &self.id, &key).is_ok())
    }
}

/// Checks `events` signatures of the workload, nothing else.
pub fn verification(lines: &Lines, events: usize) -> Result<Verification> {
    let signed: Vec<Signed> = lines.iter().take(events).filter_map(Signed::find).collect();
    let cpu = process::cpu_seconds(std::process::id()).unwrap_or(0.0);
    let started = Instant::now();
    let good = signed.par_iter().filter(|signed| signed.is_good()).count();
    let seconds = started.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(std::process::id()).unwrap_or(0.0) - cpu;
    if good != signed.len() {
        return Err(format!("{} of {} signatures of the workload are wrong", signed.len() - good, signed.len()).into());
    }
    let count = good.max(1) as f64;
    Ok(Verification { per_second: count / seconds, micros: cpu / count * 1e6 })
}

/// Puts into one bare table, in the order of arrival, with a commit after each batch.
pub struct Puts {
    pub per_second: f64,
    pub cpu_micros: f64,
    pub commits: Latencies,
    pub bytes: u64,
}

/// A database with one table in a new folder.
#[allow(unsafe_code)]
pub fn bare_table(folder: &Path) -> Result<(Env, Database<'_, Bytes, Bytes>)> {
    // SAFETY: the folder was just made for this, nobody else has its file open.
    let env = unsafe { EnvOpenOptions::new().map_size(1 << 40).max_dbs(1).open(folder)? };
    let opened: CommitOrAbort<_, ()> = env.create_databases_and_commit(env.write_txn()?, |opener, txn| {
        let mut options = opener.database_options().types::<Bytes, Bytes>();
        options.name("events").create(txn).map(CommitOrAbort::Commit)
    })?;
    let CommitOrAbort::Commit(table) = opened else { return Err("the table was not made".into()) };
    Ok((env, table))
}

/// Inserts `records` into a table of their own with `batch` records to a commit; each commit is on disk before the next begins. With a
/// `rate`, so many records a second.
pub fn puts<'a>(
    folder: &Path,
    records: impl Iterator<Item = &'a [u8]>,
    batch: usize,
    rate: Option<u64>,
) -> Result<Puts> {
    let (env, table) = bare_table(folder)?;
    let cpu = process::cpu_seconds(std::process::id()).unwrap_or(0.0);
    let started = Instant::now();
    let mut commits = Latencies::default();
    let mut count = 0u64;
    let mut txn = env.write_txn()?;
    let commit = |txn: heed::RwTxn<'_>, commits: &mut Latencies| -> Result<()> {
        let began = Instant::now();
        txn.commit()?;
        commits.add(began.elapsed());
        Ok(())
    };
    for record in records {
        if let Some(rate) = rate {
            let due = started + Duration::from_micros(count * 1_000_000 / rate);
            std::thread::sleep(due.duration_since(Instant::now()));
        }
        table.put_with_flags(&mut txn, PutFlags::APPEND, &count.to_be_bytes()[3..], record)?;
        count += 1;
        if count.is_multiple_of(batch as u64) {
            commit(txn, &mut commits)?;
            txn = env.write_txn()?;
        }
    }
    commit(txn, &mut commits)?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(std::process::id()).unwrap_or(0.0) - cpu;
    let bytes = process::folder_bytes(folder);
    Ok(Puts { per_second: count as f64 / seconds, cpu_micros: cpu / count.max(1) as f64 * 1e6, commits, bytes })
}

/// A server that answers every REQ with the same bytes from memory: what sockets and frames alone allow. It runs as a process of its
/// own, so that its CPU time can be told from the driver's.
pub async fn serve_bytes(listener: tokio::net::TcpListener, answer: std::sync::Arc<[u8]>) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            shake_hands(&mut stream).await?;
            let mut buffer = vec![0; 64 << 10];
            let mut pieces = Vec::new();
            loop {
                // A client sends one question and waits, so whatever arrives is one.
                if stream.read(&mut buffer).await? == 0 {
                    return Ok(());
                }
                // As a relay would: the answer goes through a buffer of 64 KiB.
                for piece in answer.chunks(64 << 10) {
                    pieces.clear();
                    pieces.extend_from_slice(piece);
                    stream.write_all(&pieces).await?;
                }
            }
            #[allow(unreachable_code)]
            Ok::<(), std::io::Error>(())
        });
    }
}

/// Takes a client's request for a WebSocket, whatever it says.
pub async fn shake_hands(stream: &mut tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await
}

/// Appends a frame as a server sends it, its payload given in pieces.
pub fn frame(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    out.push(0x81);
    match len {
        0..126 => out.push(len as u8),
        126..65_536 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
}

/// The frames of an answer with these events, EOSE at its end.
pub fn answer_of<'a>(events: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        frame(&mut out, &[b"[\"EVENT\",\"q\",", event, b"]"]);
    }
    frame(&mut out, &[b"[\"EOSE\",\"q\"]"]);
    out
}

/// The pause in which a process comes to rest after its load.
pub const REST: Duration = Duration::from_millis(300);
