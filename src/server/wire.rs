//! A plain connection to which two may write: its session, and whoever puts something into its outbox while nothing waits there.
//!
//! Waking a task only to hand it one small message costs as much as the system call that sends it. So the outbox holds a [`Wire`],
//! and the session the other [`Half`], which reads, and writes what the wire could not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{tcp, unix};

use super::socket::Socket;

/// What the session holds.
pub(super) enum Half {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// What the outbox holds. The connection stays open until both are gone.
pub(super) enum Wire {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// Parts a connection between its session and its outbox.
pub(super) fn part(socket: Socket) -> (Half, Wire) {
    match socket {
        Socket::Tcp(stream) => {
            let (half, wire) = stream.into_split();
            (Half::Tcp(half), Wire::Tcp(wire))
        }
        Socket::Unix(stream) => {
            let (half, wire) = stream.into_split();
            (Half::Unix(half), Wire::Unix(wire))
        }
    }
}

impl Wire {
    /// Writes as much as the kernel takes now, from any thread; `WouldBlock` when that is nothing.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            // The shorter way through the kernel.
            (Wire::Tcp(wire), [one]) => wire.try_write(one),
            (Wire::Unix(wire), [one]) => wire.try_write(one),
            (Wire::Tcp(wire), several) => wire.try_write_vectored(several),
            (Wire::Unix(wire), several) => wire.try_write_vectored(several),
        }
    }
}

impl Half {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        tcp: impl Fn(&tokio::net::TcpStream) -> io::Result<usize>,
        unix: impl Fn(&tokio::net::UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Half::Tcp(half) => {
                    ready!(half.as_ref().poll_write_ready(cx))?;
                    tcp(half.as_ref())
                }
                Half::Unix(half) => {
                    ready!(half.as_ref().poll_write_ready(cx))?;
                    unix(half.as_ref())
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Half {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Half::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Half::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Half {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |tcp| tcp.try_write(buf), |unix| unix.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |tcp| tcp.try_write_vectored(bufs), |unix| unix.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel holds nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = match self.get_mut() {
            Half::Tcp(half) => rustix::net::shutdown(half.as_ref(), Shutdown::Write),
            Half::Unix(half) => rustix::net::shutdown(half.as_ref(), Shutdown::Write),
        };
        Poll::Ready(ended.map_err(io::Error::from))
    }
}
