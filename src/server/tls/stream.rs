//! A connection, with TLS or without, as HTTP and sessions see it.
//!
//! TLS keeps what it has encrypted until the kernel takes it. So that a peer which does not read costs no more than its bound, and
//! so that what the kernel takes counts as a sign of life, nothing new is encrypted before the last is gone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::server::socket::Socket;
use crate::server::wire::{self, Half, Wire};

/// An open connection.
pub(in crate::server) enum Stream {
    /// As it comes.
    Plain(Socket),
    /// Encrypted. Boxed: its state is large, and most of the time it just lies there.
    Tls(Box<TlsStream<Socket>>),
    /// As it comes, and the outbox writes to it as well.
    Parted(Half),
}

impl Stream {
    /// What a session is to hold, and what its outbox may write to. Nobody but the session can encrypt.
    pub(in crate::server) fn part(self) -> (Stream, Option<Wire>) {
        match self {
            Stream::Plain(socket) => {
                let (half, wire) = wire::part(socket);
                (Stream::Parted(half), Some(wire))
            }
            other => (other, None),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Parted(half) => Pin::new(half).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Stream::Parted(half) => Pin::new(half).poll_write(cx, buf),
            Stream::Tls(stream) => {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                Pin::new(stream).poll_write(cx, buf)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Stream::Parted(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                Pin::new(stream).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Parted(half) => Pin::new(half).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Parted(half) => Pin::new(half).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
