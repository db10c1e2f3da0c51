//! A connection that ends without TCP's ceremony.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connect::end_abruptly;

/// A connection that ends with a reset when it is dropped: nothing stays in TIME_WAIT. To
/// shut it down does nothing, since the reset says the same to the server.
pub(super) struct Abrupt(TcpStream);

impl Abrupt {
    pub(super) fn new(stream: TcpStream) -> Self {
        end_abruptly(&stream);
        Self(stream)
    }
}

impl AsyncRead for Abrupt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Abrupt {
    /// Tries the socket first: the runtime would wait for the kernel to say that a new one can
    /// be written to.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flags = libc::MSG_NOSIGNAL;
        match SockRef::from(&self.0).send_with_flags(buf, flags) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(&mut self.0).poll_write(cx, buf)
            }
            done => Poll::Ready(done),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
