//! The byte stream to a server: TCP or a Unix socket, with TLS where it is configured.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslVerifyMode, SslVersion};
use openssl::x509::verify::X509CheckFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_openssl::SslStream;

use crate::engine::config::{ClusterFiles, RedisAddress};
use crate::engine::probe::resolve::Resolver;
use crate::engine::target::Host;
use crate::sys::relay::HaltIfLost;
use crate::sys::tls_certificates;

/// Opens streams. The TLS context is made once: it takes milliseconds.
pub(super) struct Dialler {
    resolver: Resolver,
    tls: Option<SslContext>,
}

impl Dialler {
    /// # Errors
    /// OpenSSL refuses a certificate.
    pub(super) fn new(tls: bool, files: &ClusterFiles) -> Result<Self, String> {
        let context = || context(files).map_err(|error| format!("TLS cannot be set up: {error}"));
        Ok(Self {
            resolver: Resolver::default(),
            tls: tls.then(context).transpose()?,
        })
    }

    /// Connects to the first address that answers. The caller bounds the time.
    ///
    /// # Errors
    /// One line with the address and what failed last.
    pub(super) async fn tcp(&self, to: &RedisAddress) -> Result<Duplex, String> {
        let addresses: Arc<[IpAddr]> = match &to.host {
            Host::Ip(ip) => Arc::new([*ip]),
            Host::Name(name) => {
                let found = self.resolver.resolve(name).await;
                found.map_err(|error| format!("{}: {error}", to.host))?
            }
        };
        let mut problem = String::from("no address");
        for ip in addresses.iter() {
            let address = SocketAddr::new(*ip, to.port);
            match self.connected(address, &to.host).await {
                Ok(wire) => return Ok(wire),
                Err(error) => problem = format!("{address}: {error}"),
            }
        }
        Err(problem)
    }

    async fn connected(&self, address: SocketAddr, host: &Host) -> Result<Duplex, String> {
        let stream = TcpStream::connect(address).await.map_err(text)?;
        // A login sends one small request and waits for its answer: Nagle's algorithm would delay it.
        stream.set_nodelay(true).map_err(text)?;
        let Some(context) = &self.tls else {
            return Ok(Duplex::new(stream));
        };
        let ssl = connection(context, host).map_err(|error| format!("TLS: {error}"))?;
        let wire = Duplex::new(stream);
        let mut tls = SslStream::new(ssl, wire).map_err(|error| format!("TLS: {error}"))?;
        let done = Pin::new(&mut tls).connect().await;
        done.map_err(|error| {
            let verified = tls.ssl().verify_result();
            if verified == openssl::x509::X509VerifyResult::OK {
                format!("TLS: {error}")
            } else {
                format!("TLS: certificate refused: {}", verified.error_string())
            }
        })?;
        Ok(Duplex::new(tls))
    }
}

/// # Errors
/// The system's error.
pub(super) async fn unix(path: &Path) -> Result<Duplex, String> {
    let stream = UnixStream::connect(path).await;
    let stream = stream.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Duplex::new(stream))
}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn context(files: &ClusterFiles) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_options(SslOptions::NO_COMPRESSION);
    builder.set_verify(SslVerifyMode::PEER);
    if let Some(pem) = &files.authorities {
        for authority in tls_certificates::from_pem(pem)? {
            // An error is ignored: the system's list may contain a certificate twice, which OpenSSL refuses.
            let _ = builder.cert_store_mut().add_cert(authority);
        }
    }
    if let Some(certificate) = &files.certificate {
        certificate.install(&mut builder)?;
    }
    Ok(builder.build())
}

fn connection(context: &SslContext, host: &Host) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    let verified = ssl.param_mut();
    // RFC 9525 §6.3: a wildcard stands for one whole left-most label.
    verified.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
    match host {
        Host::Ip(ip) => verified.set_ip(*ip)?,
        Host::Name(name) => {
            let name = name.to_string();
            let name = name.trim_end_matches('.');
            verified.set_host(name)?;
            ssl.set_hostname(name)?;
        }
    }
    Ok(ssl)
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A stream of any kind.
pub(super) struct Duplex {
    // Declared first, so dropped first: checks that the descriptor is still ours. A host may have closed
    // it and opened a file of its own with the same number, which dropping the stream would close.
    _check: HaltIfLost,
    stream: Box<dyn Both>,
}

impl Duplex {
    fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            _check: HaltIfLost,
            stream: Box::new(stream),
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
