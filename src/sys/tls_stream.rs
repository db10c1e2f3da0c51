//! A TLS connection by OpenSSL, whose calls no earlier error of the thread makes fail.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use openssl::error::ErrorStack;
use openssl::ssl::{self, Ssl, SslRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_openssl::SslStream;

use super::tls_errors;

/// TLS over a stream. All connections of a thread share OpenSSL's queue of errors, which has to be empty before each
/// call (see [`tls_errors`]), and `tokio_openssl` leaves that to its caller.
pub struct TlsStream<S>(SslStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// # Errors
    /// There is no memory.
    pub fn new(ssl: Ssl, stream: S) -> Result<Self, ErrorStack> {
        Ok(Self(SslStream::new(ssl, stream)?))
    }

    /// Performs the handshake of a client.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn connect(&mut self) -> Result<(), ssl::Error> {
        poll_fn(|cx| self.ready().poll_connect(cx)).await
    }

    /// Like `poll_read`, but leaves what it reads to the next read.
    pub fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, ssl::Error>> {
        self.ready().poll_peek(cx, buffer)
    }

    pub fn ssl(&self) -> &SslRef {
        self.0.ssl()
    }

    /// The stream under TLS.
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// The connection, with the queue of errors emptied for its next call.
    fn ready(&mut self) -> Pin<&mut SslStream<S>> {
        tls_errors::forget();
        Pin::new(&mut self.0)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready().poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ready().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::ssl::{SslContext, SslMethod, SslVerifyMode};
    use openssl::x509::X509;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// A server's context with a certificate that nobody trusts.
    fn server() -> SslContext {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_pubkey(&key).unwrap();
        let at = |days| Asn1Time::days_from_now(days).unwrap();
        certificate.set_not_before(&at(0)).unwrap();
        certificate.set_not_after(&at(1)).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        context.set_certificate(&certificate.build()).unwrap();
        context.set_private_key(&key).unwrap();
        context.build()
    }

    /// Leaves an error in the queue, as the verification of another server's certificate may do.
    fn leave_an_error() {
        X509::from_der(b"").unwrap_err().put();
    }

    #[tokio::test]
    async fn an_error_that_something_else_has_left_is_no_failure_of_this_connection() {
        let (near, far) = duplex(64 * 1024);
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.set_verify(SslVerifyMode::NONE);
        let ssl = Ssl::new(&context.build()).unwrap();
        let mut ours = TlsStream::new(ssl, near).unwrap();
        let mut theirs = SslStream::new(Ssl::new(&server()).unwrap(), far).unwrap();
        leave_an_error();
        let (connected, accepted) = tokio::join!(ours.connect(), Pin::new(&mut theirs).accept());
        connected.unwrap();
        accepted.unwrap();
        // Nothing has come yet, so each of these only has to wait.
        let waits = poll_fn(|cx| {
            leave_an_error();
            let peeks = ours.poll_peek(cx, &mut [0]).is_pending();
            leave_an_error();
            let reads = Pin::new(&mut ours).poll_read(cx, &mut ReadBuf::new(&mut [0]));
            Poll::Ready((peeks, reads.is_pending()))
        });
        assert_eq!(waits.await, (true, true));
        leave_an_error();
        ours.write_all(b"?").await.unwrap();
        tls_errors::forget();
        assert_eq!(theirs.read_u8().await.unwrap(), b'?');
        theirs.write_all(b"!").await.unwrap();
        leave_an_error();
        assert_eq!(ours.read_u8().await.unwrap(), b'!');
        leave_an_error();
        ours.shutdown().await.unwrap();
    }
}
