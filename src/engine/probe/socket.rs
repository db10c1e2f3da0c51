//! A connected socket that is registered with the runtime.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::error::own_lack;
use super::lingering::LingerHandle;
use crate::sys::registered_socket::register;
use crate::sys::relay::{HaltIfLost, halt_if_lost};

/// A TCP connection, or one over a Unix socket. Unlike tokio's streams, that of a probe writes without waiting for
/// readiness, and registers for writability only after a write would have blocked. A dialogue of short lines
/// never blocks, and a wake-up for writability would cost more than sending the line.
#[derive(Debug)]
pub(in crate::engine) struct Stream {
    /// None only after registering it for writability has failed.
    socket: Option<AsyncFd<Socket>>,
    is_abrupt: bool,
    waits_to_write: bool,
    linger: Option<Arc<LingerHandle>>,
    final_bytes: Vec<u8>,
}

impl Stream {
    /// A stream of which one task reads and writes, the one after the other.
    ///
    /// # Errors
    /// If the runtime or the kernel cannot register one more descriptor.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self::registered(register(socket, Interest::READABLE)?))
    }

    /// A stream that may be read while a write waits.
    ///
    /// # Errors
    /// Those of [`Stream::new`].
    pub(in crate::engine) fn both_ways(socket: Socket) -> io::Result<Self> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let mut stream = Self::registered(register(socket, both)?);
        stream.waits_to_write = true;
        Ok(stream)
    }

    fn registered(socket: AsyncFd<Socket>) -> Self {
        Self {
            socket: Some(socket),
            is_abrupt: false,
            waits_to_write: false,
            linger: None,
            final_bytes: Vec::new(),
        }
    }

    /// Makes the drop of this stream send a reset, so that no socket stays in TIME_WAIT. Shutting
    /// the stream down then does nothing: a FIN before the reset would tell the server nothing new.
    pub(super) fn end_abruptly(&mut self) {
        if let Some(socket) = &self.socket {
            end_abruptly(socket.get_ref());
        }
        self.is_abrupt = true;
    }

    /// The local address; None if the connection has ended.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        let local = self.socket.as_ref()?.get_ref().local_addr().ok()?;
        Some(local.as_socket()?.ip())
    }

    /// The handle by which the stream can be told to leave its socket behind instead of closing it.
    pub(super) fn linger(&mut self) -> Arc<LingerHandle> {
        self.linger.get_or_insert_default().clone()
    }

    fn leaves_by(&self) -> Option<&Arc<LingerHandle>> {
        self.linger.as_ref().filter(|linger| linger.is_open())
    }

    fn socket(&self) -> io::Result<&AsyncFd<Socket>> {
        self.socket
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Registers the socket for writability as well.
    ///
    /// This loses the waker of a pending read. No read is pending during a write: see [`Stream::new`].
    fn wait_to_write(&mut self) -> io::Result<()> {
        if self.waits_to_write {
            return Ok(());
        }
        if let Some(socket) = self.socket.take() {
            let both = Interest::READABLE | Interest::WRITABLE;
            let registered = register(socket.into_inner(), both).map_err(own_lack)?;
            self.socket = Some(registered);
        }
        self.waits_to_write = true;
        Ok(())
    }
}

/// Waits until a connection attempt has completed, and returns its socket. Whether it succeeded is
/// then read from the socket (`take_error`).
///
/// # Errors
/// If the runtime or the kernel cannot wait for the socket.
pub(super) async fn ended(attempt: Socket) -> io::Result<Socket> {
    let socket = register(attempt, Interest::WRITABLE)?;
    let _before_it_is_closed = HaltIfLost;
    let _ = socket.writable().await?;
    Ok(socket.into_inner())
}

fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    // Without this flag SIGPIPE could end the host's process.
    socket.send_with_flags(bytes, libc::MSG_NOSIGNAL)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        halt_if_lost();
        let socket = self.socket()?;
        let room = buf.initialize_unfilled();
        loop {
            let mut ready = ready!(socket.poll_read_ready(cx))?;
            let read = ready.try_io(|socket| io::Read::read(&mut socket.get_ref(), room));
            match read {
                Ok(Ok(count)) => {
                    // A short read has emptied the socket's buffer; the kernel reports new bytes.
                    if 0 < count && count < room.len() {
                        ready.clear_ready();
                    }
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.leaves_by().is_some() {
            self.final_bytes.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        halt_if_lost();
        if !self.waits_to_write {
            match send(self.socket()?.get_ref(), buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_to_write()?,
                sent => return Poll::Ready(sent),
            }
        }
        loop {
            let mut ready = ready!(self.socket()?.poll_write_ready(cx))?;
            if let Ok(sent) = ready.try_io(|socket| send(socket.get_ref(), buf)) {
                return Poll::Ready(sent);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_abrupt || self.leaves_by().is_some() {
            return Poll::Ready(Ok(()));
        }
        halt_if_lost();
        let socket = self.socket()?.get_ref();
        Poll::Ready(socket.shutdown(std::net::Shutdown::Write))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The socket is closed after this: make sure that the host has not closed it before.
        halt_if_lost();
        if let Some(linger) = self.linger.take().filter(|linger| linger.is_open())
            && let Some(socket) = self.socket.take()
        {
            linger.leave(socket.into_inner(), std::mem::take(&mut self.final_bytes));
        }
    }
}

/// Makes closing the socket send a reset, so that it does not stay in TIME_WAIT.
pub(super) fn end_abruptly<'s>(stream: impl Into<SockRef<'s>>) {
    // This can only fail for a closed socket.
    let _ = stream.into().set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Stream, tokio::net::TcpStream) {
        let (near, far) = raw_pair();
        (Stream::new(near).unwrap(), far)
    }

    fn raw_pair() -> (Socket, tokio::net::TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let far = tokio::net::TcpStream::from_std(far).unwrap();
        (near.into(), far)
    }

    #[tokio::test]
    async fn much_goes_both_ways_at_once() {
        let (mut near, mut far) = pair();
        let much: Vec<u8> = (0..=u8::MAX).cycle().take(16 << 20).collect();
        let there = async {
            near.write_all(&much).await.unwrap();
            near.shutdown().await.unwrap();
            let mut back = Vec::new();
            near.read_to_end(&mut back).await.unwrap();
            back
        };
        let here = async {
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).await.unwrap();
            far.write_all(&seen).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (back, ()) = tokio::join!(there, here);
        assert!(back == much);
    }

    #[tokio::test]
    async fn both_ways_are_read_while_a_write_waits() {
        let (near, mut far) = raw_pair();
        let near = Stream::both_ways(near).unwrap();
        let (mut read, mut write) = tokio::io::split(near);
        let much: Vec<u8> = (0..=u8::MAX).cycle().take(16 << 20).collect();
        let sent = async {
            write.write_all(&much).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let seen = async {
            let mut seen = Vec::new();
            read.read_to_end(&mut seen).await.unwrap();
            seen
        };
        // Reads nothing before the whole of its own was read.
        let there = async {
            far.write_all(&much).await.unwrap();
            far.shutdown().await.unwrap();
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).await.unwrap();
            seen
        };
        let ((), seen, there) = tokio::join!(sent, seen, there);
        assert!(seen == much && there == much);
    }

    #[tokio::test]
    async fn what_comes_after_a_short_read_is_seen() {
        let (mut near, mut far) = pair();
        for word in ["one", "two", "three"] {
            let mut seen = [0; 64];
            let read = near.read(&mut seen);
            let write = async {
                tokio::task::yield_now().await;
                far.write_all(word.as_bytes()).await.unwrap();
            };
            let (count, ()) = tokio::join!(read, write);
            assert_eq!(&seen[..count.unwrap()], word.as_bytes());
        }
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_abrupt_end_is_a_reset() {
        let (mut near, mut far) = pair();
        near.end_abruptly();
        near.write_all(b"bye").await.unwrap();
        near.shutdown().await.unwrap();
        let mut seen = [0; 3];
        far.read_exact(&mut seen).await.unwrap();
        drop(near);
        let end = far.read(&mut [0; 8]).await.map_err(|e| e.kind());
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
    }
}
