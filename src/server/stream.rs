//! Reading without owning a buffer, and hanging up politely: what HTTP and sessions do with the stream beneath them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes read at once.
const SCRATCH: usize = 16 * 1024;

/// Most bytes that are read and thrown away while hanging up.
const MOST_DISCARDED: usize = 1024 * 1024;

thread_local! {
    /// One read buffer for all connections that a thread serves.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads what is there and hands it to `take`, which must copy what it wants to keep and must not read itself.
/// An empty slice means that the peer has finished sending.
pub(super) fn poll_read_with<S, T>(
    io: &mut S,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &mut [u8]) -> T,
) -> Poll<std::io::Result<T>>
where
    S: AsyncRead + Unpin,
{
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(SCRATCH, 0);
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(take(cx, read.filled_mut())))
    })
}

/// Ends the connection in a way that lets the peer read what was sent last: closing a socket with unread bytes in it
/// resets the connection and may take that with it. Waits for the peer to hang up as well; bound it in time.
pub(super) async fn hang_up<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) {
    if io.shutdown().await.is_err() {
        return;
    }
    let mut discarded = 0;
    while discarded < MOST_DISCARDED {
        match poll_fn(|cx| poll_read_with(io, cx, |_, bytes| bytes.len())).await {
            Ok(0) | Err(_) => return,
            Ok(n) => discarded += n,
        }
    }
}
