//! The byte stream under a dialogue: a TCP connection, TLS over one, or memory in tests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::ProbeError;

/// The most bytes that a probe reads from its connection. All of them count: a dialogue without
/// TLS, TLS's handshake, and its records.
pub const READ_LIMIT: usize = 64 * 1024;
pub(super) const READ_LIMIT_TEXT: &str = "64 KiB";

/// A connected byte stream that can be read and written.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Performs the TLS handshake over a transport, within the target's `tls_timeout`, and returns the
/// encrypted transport. Its errors have stage `tls`, or `internal` for a failure of our own.
pub type Upgrade<'a> = dyn Fn(Box<dyn Transport>) -> BoxFuture<'a, Result<Box<dyn Transport>, ProbeError>>
    + Send
    + Sync
    + 'a;

/// A stream from which a limited number of bytes is read. A read beyond that fails with
/// `FileTooLarge`.
pub struct Limited<S> {
    inner: S,
    left: usize,
}

impl<S> Limited<S> {
    pub fn new(inner: S, limit: usize) -> Self {
        Self { inner, left: limit }
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
        let room = buf.remaining().min(self.left);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        self.left -= read;
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn not_a_byte_more_is_read() {
        let endless = tokio::io::repeat(b'x');
        let mut limited = Limited::new(endless, 1000);
        let mut seen = Vec::new();
        let end = limited.read_to_end(&mut seen).await;
        assert_eq!(seen.len(), 1000);
        assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::FileTooLarge));
    }

    #[tokio::test]
    async fn an_end_before_the_limit_is_an_end() {
        let mut limited = Limited::new(&b"abc"[..], 4);
        let mut seen = Vec::new();
        assert_eq!(limited.read_to_end(&mut seen).await.ok(), Some(3));
        assert_eq!(seen, b"abc");
    }
}
