//! The bytes under a dialogue: a TCP connection, TLS over one, or a test's memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::ProbeError;

/// What a probe reads at most, in bytes: from the connection during a TLS handshake, and
/// from the server in a dialogue.
pub const READ_LIMIT: usize = 64 * 1024;
pub(super) const READ_LIMIT_TEXT: &str = "64 KiB";

/// A connected byte stream in either direction.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Turns a clear transport into one under TLS, verified as the target asks and bounded by
/// its `tls_timeout`. Its errors are of stage `tls`.
pub type Upgrade<'a> = dyn Fn(Box<dyn Transport>) -> BoxFuture<'a, Result<Box<dyn Transport>, ProbeError>>
    + Send
    + Sync
    + 'a;

/// A stream that fails with `FileTooLarge` once more than a number of bytes was read.
pub struct Limited<S> {
    inner: S,
    left: usize,
}

impl<S> Limited<S> {
    pub fn new(inner: S, limit: usize) -> Self {
        Self { inner, left: limit }
    }

    /// Allows so many bytes more, whatever was read so far, and a quarter on top for the
    /// framing of what is carried.
    pub fn renew(&mut self, limit: usize) {
        self.left = limit + limit / 4;
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        self.left = self.left.saturating_sub(read);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
