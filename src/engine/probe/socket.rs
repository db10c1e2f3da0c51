//! A connected socket of the runtime's.

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
use crate::sys::readiness;
use crate::sys::relay::{HoldsOn, hold_on};

/// A TCP connection. Unlike tokio's own it tries a write before it waits for leave, and lets
/// itself be woken for writing only once a write had to wait: a conversation of short lines
/// never does, and a wake-up costs more than the line.
#[derive(Debug)]
pub(super) struct Stream {
    /// None only where the runtime refused the socket.
    socket: Option<AsyncFd<Socket>>,
    is_abrupt: bool,
    waits_to_write: bool,
    linger: Option<Arc<LingerHandle>>,
    final_bytes: Vec<u8>,
}

impl Stream {
    /// # Errors
    /// Where the runtime or the kernel has no room for one more.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            socket: Some(readiness::of(socket, Interest::READABLE)?),
            is_abrupt: false,
            waits_to_write: false,
            linger: None,
            final_bytes: Vec::new(),
        })
    }

    /// Ends it with a reset when it is dropped: nothing stays in TIME_WAIT. To shut it down
    /// then does nothing, since the reset says the same to the server.
    pub(super) fn end_abruptly(&mut self) {
        if let Some(socket) = &self.socket {
            end_abruptly(socket.get_ref());
        }
        self.is_abrupt = true;
    }

    /// The address of this end; None where there is no connection any more.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        let local = self.socket.as_ref()?.get_ref().local_addr().ok()?;
        Some(local.as_socket()?.ip())
    }

    /// The way by which it may leave its socket, rather than close it.
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

    /// From now on it is woken when it can be written to.
    ///
    /// To register it anew loses the waker of a read that waits. None does: reads and writes
    /// are polled from one task, one after the other.
    fn wait_to_write(&mut self) -> io::Result<()> {
        if self.waits_to_write {
            return Ok(());
        }
        if let Some(socket) = self.socket.take() {
            let both = Interest::READABLE | Interest::WRITABLE;
            let registered = readiness::of(socket.into_inner(), both).map_err(own_lack)?;
            self.socket = Some(registered);
        }
        self.waits_to_write = true;
        Ok(())
    }
}

/// Waits until an attempt to connect has ended, and returns its socket.
///
/// # Errors
/// Those of the runtime and the kernel; how the attempt ended is asked of the socket.
pub(super) async fn ended(attempt: Socket) -> io::Result<Socket> {
    let socket = readiness::of(attempt, Interest::WRITABLE)?;
    let _before_it_is_closed = HoldsOn;
    let _ = socket.writable().await?;
    Ok(socket.into_inner())
}

fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    // A host may have SIGPIPE end its process.
    socket.send_with_flags(bytes, libc::MSG_NOSIGNAL)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        hold_on();
        let socket = self.socket()?;
        let room = buf.initialize_unfilled();
        loop {
            let mut ready = ready!(socket.poll_read_ready(cx))?;
            let read = ready.try_io(|socket| io::Read::read(&mut socket.get_ref(), room));
            match read {
                Ok(Ok(count)) => {
                    // The kernel had no more; it tells when it does.
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
        hold_on();
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
        hold_on();
        let socket = self.socket()?.get_ref();
        Poll::Ready(socket.shutdown(std::net::Shutdown::Write))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Its socket is closed after this.
        hold_on();
        if let Some(linger) = self.linger.take().filter(|linger| linger.is_open())
            && let Some(socket) = self.socket.take()
        {
            linger.leave(socket.into_inner(), std::mem::take(&mut self.final_bytes));
        }
    }
}

/// Ends a connection with a reset when it is dropped, so that nothing stays in TIME_WAIT.
pub(super) fn end_abruptly<'s>(stream: impl Into<SockRef<'s>>) {
    // A closed socket lingers for nobody.
    let _ = stream.into().set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Stream, tokio::net::TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let far = tokio::net::TcpStream::from_std(far).unwrap();
        (Stream::new(near.into()).unwrap(), far)
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
