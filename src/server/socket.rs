//! Listening sockets and connections of every kind the relay serves: TCP and Unix.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Address;

/// How many connections the kernel may hold for a listener until it accepts them.
pub(super) const BACKLOG: u32 = 1024;

/// An open connection.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Answers leave when they are written; the outbox does the batching. Unix sockets do so anyway.
    pub(super) fn send_at_once(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_nodelay(true),
            Socket::Unix(_) => Ok(()),
        }
    }

    /// The first byte that comes, which is left there to be read; `None` at the end, and for a Unix socket, where nobody can look ahead.
    pub(super) async fn first_byte(&self) -> io::Result<Option<u8>> {
        match self {
            Socket::Tcp(stream) => {
                let mut byte = [0];
                Ok((stream.peek(&mut byte).await? > 0).then_some(byte[0]))
            }
            Socket::Unix(_) => Ok(None),
        }
    }

    /// The address that the other end connected to; none for a Unix socket.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(stream) => {
                stream.local_addr().ok().map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()))
            }
            Socket::Unix(_) => None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Whoever connected: the address, none for a Unix socket.
pub(super) type Caller = Option<IpAddr>;

/// What is spoken on a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP and WebSockets as they are.
    Plain,
    /// The same over TLS.
    Tls,
    /// HTTP that leads to where TLS is spoken.
    Redirect,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listening socket.
pub(super) struct Listener {
    kind: Kind,
    /// Its address as people write it, with the port that was taken where 0 was asked for.
    pub address: Address,
    pub speaks: Speaks,
    /// The file of a Unix socket of ours.
    file: Option<SocketFile>,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(listener) => listener.as_fd(),
            Kind::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// A bound TCP socket.
    pub(super) fn tcp(listener: TcpListener) -> io::Result<Listener> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Listener { kind: Kind::Tcp(listener), address, speaks: Speaks::Plain, file: None })
    }

    /// The same socket, with this spoken on it.
    pub(super) fn speaking(self, speaks: Speaks) -> Listener {
        Listener { speaks, ..self }
    }

    /// A bound Unix socket. Its file goes with it, when it is ours.
    pub(super) fn unix(listener: UnixListener, path: &Path, file: Option<SocketFile>) -> Listener {
        Listener { kind: Kind::Unix(listener), address: Address::Unix(path.into()), speaks: Speaks::Plain, file }
    }

    /// The next connection. May be dropped at any moment without losing one.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Caller)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Kind::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }

    /// Ends the listening, and returns what the kernel has accepted for us until now: closing the socket would reset it.
    pub(super) fn close(self) -> Vec<(Socket, Caller)> {
        // The name goes first, then nobody new can come this way.
        drop(self.file);
        // Straight from the kernel: tokio may not have heard of the newest yet.
        match self.kind {
            Kind::Tcp(listener) => queued(listener.into_std(), |listener| {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Socket::Tcp(TcpStream::from_std(stream)?), Some(peer.ip().to_canonical())))
            }),
            Kind::Unix(listener) => queued(listener.into_std(), |listener| {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Socket::Unix(UnixStream::from_std(stream)?), None))
            }),
        }
    }
}

/// Everything that waits to be accepted. The listener does not block: the end of its queue is an error.
fn queued<L>(listener: io::Result<L>, accept: impl Fn(&L) -> io::Result<(Socket, Caller)>) -> Vec<(Socket, Caller)> {
    let mut queued = Vec::new();
    let Ok(listener) = listener else { return queued };
    // More may come as fast as they are taken; the queue itself is shorter.
    for _ in 0..4 * BACKLOG {
        match accept(&listener) {
            Ok(accepted) => queued.push(accepted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // One that has hung up already, or no file left for it: the next may fare better.
            Err(_) => {}
        }
    }
    queued
}

/// The file of a Unix socket; removed when this is dropped, unless another socket has taken its place.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// The file that stands there now is ours.
    pub(super) fn at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.into(), identity: identity(path)? })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn closing_hands_over_what_waits_to_be_accepted() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        runtime.block_on(async {
            let tcp = Listener::tcp(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
            let address = tcp.address.tcp().unwrap();
            let bound = UnixListener::bind(&path).unwrap();
            let unix = Listener::unix(bound, &path, Some(SocketFile::at(&path).unwrap()));
            // Nothing here gives tokio a moment to hear of them.
            for i in 0..20 {
                std::net::TcpStream::connect(address).unwrap().write_all(&[i]).unwrap();
                std::os::unix::net::UnixStream::connect(&path).unwrap().write_all(&[i]).unwrap();
            }
            for listener in [tcp, unix] {
                let waiting = listener.close();
                assert_eq!(waiting.len(), 20);
                for (i, (mut socket, _)) in waiting.into_iter().enumerate() {
                    assert_eq!(socket.read_u8().await.unwrap(), i as u8);
                }
            }
            assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
            assert!(!path.exists());
        });
    }
}
