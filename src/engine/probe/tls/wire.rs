//! The stream between OpenSSL and the socket: it limits what is read and joins small writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::engine::probe::transport::{Limited, READ_LIMIT};

/// The most bytes that are held back: more than the longest flight of a handshake.
const GATHERED_MAX: usize = 8 * 1024;

/// The stream under TLS, from which at most [`READ_LIMIT`] bytes are read.
///
/// Writes are held back and sent together before the next read, by [`Self::poll_send`], or at
/// shutdown. So the last flight of a handshake and the first command share a packet.
pub(super) struct Wire<S> {
    inner: Limited<S>,
    gathered: Vec<u8>,
}

impl<S> Wire<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner: Limited::new(inner, READ_LIMIT),
            gathered: Vec::with_capacity(1024),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Sends the bytes that were held back.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let outcome = loop {
            let rest = self.gathered.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.inner).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(e)) => break Poll::Ready(Err(e)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.gathered.drain(..sent.min(self.gathered.len()));
        outcome
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= GATHERED_MAX {
            ready!(self.poll_send(cx))?;
        }
        self.gathered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_written_leaves_before_a_read_or_with_the_end() {
        let (near, mut far) = duplex(64 * 1024);
        let mut wire = Wire::new(near);
        let mut seen = [0; 64];
        for parts in [&["a", "b"][..], &["c"]] {
            for part in parts {
                wire.write_all(part.as_bytes()).await.unwrap();
                wire.flush().await.unwrap();
            }
            let early =
                tokio::time::timeout(std::time::Duration::from_millis(20), far.read(&mut seen));
            assert!(early.await.is_err(), "sent before its time");
            let read = wire.read_u8();
            let answer = async {
                let count = far.read(&mut seen).await.unwrap();
                far.write_all(b"!").await.unwrap();
                count
            };
            let (read, count) = tokio::join!(read, answer);
            assert_eq!(read.unwrap(), b'!');
            assert_eq!(&seen[..count], parts.concat().as_bytes());
        }
        wire.write_all(b"bye").await.unwrap();
        wire.shutdown().await.unwrap();
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye");
    }

    #[tokio::test]
    async fn a_peer_that_reads_slowly_loses_nothing() {
        let (near, mut far) = duplex(100);
        let mut wire = Wire::new(near);
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(5 * GATHERED_MAX).collect();
        let send = async {
            wire.write_all(&sent).await.unwrap();
            wire.shutdown().await.unwrap();
        };
        let mut seen = Vec::new();
        let (_, read) = tokio::join!(send, far.read_to_end(&mut seen));
        read.unwrap();
        assert_eq!(seen, sent);
    }

    #[tokio::test]
    async fn an_endless_writer_is_held_up() {
        let (near, _far) = duplex(100);
        let mut wire = Wire::new(near);
        let all = wire.write_all(&[0; 1000]);
        all.await.unwrap();
        let endless = async {
            loop {
                wire.write_all(&[0; 1000]).await.unwrap();
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), endless);
        assert!(waited.await.is_err());
        assert!(wire.gathered.len() <= GATHERED_MAX + 1000);
    }
}
