//! The byte stream to a server: TCP or a Unix socket, with TLS where it is configured.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslVerifyMode, SslVersion};
use openssl::x509::verify::X509CheckFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::traffic::Traffic;
use crate::engine::config::{ClusterFiles, RedisAddress};
use crate::engine::probe::resolve::Resolver;
use crate::engine::probe::{Attempts, ConnectionLimit, Stream, attempt_interval, connect_to};
use crate::engine::target::Host;
use crate::sys::relay::{HaltIfLost, halt_if_lost};
use crate::sys::tls_certificates;
use crate::sys::tls_stream::TlsStream;

/// Opens streams. The TLS context is made once: it takes milliseconds.
pub(super) struct Dialler {
    resolver: Resolver,
    tls: Option<SslContext>,
    /// How many times a Sentinel was asked.
    asked: AtomicUsize,
}

impl Dialler {
    /// # Errors
    /// OpenSSL refuses a certificate.
    pub(super) fn new(tls: bool, files: &ClusterFiles) -> Result<Self, String> {
        let context = || context(files).map_err(|error| format!("TLS cannot be set up: {error}"));
        Ok(Self {
            resolver: Resolver::default(),
            tls: tls.then(context).transpose()?,
            asked: AtomicUsize::new(0),
        })
    }

    /// The Sentinel whose turn it is: the next one each time, so that none is asked again before the others were.
    pub(super) fn next_of<'a>(&self, sentinels: &'a [RedisAddress]) -> Option<&'a RedisAddress> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        sentinels.get(turn.checked_rem(sentinels.len())?)
    }

    /// Connects to the first address that answers. They are tried in order. The next attempt begins when the
    /// one before fails; and beside it if that takes long, so that all have begun when half of `within`, the
    /// time that the caller grants, is over (as probes do, RFC 8305 §5).
    ///
    /// # Errors
    /// One line with the address and what failed last.
    pub(super) async fn tcp(&self, to: &RedisAddress, within: Duration) -> Result<Duplex, String> {
        let addresses: Arc<[IpAddr]> = match &to.host {
            Host::Ip(ip) => Arc::new([*ip]),
            Host::Name(name) => {
                let found = self.resolver.resolve(name).await;
                found.map_err(|error| format!("{}: {error}", to.host))?
            }
        };
        self.first_of(&addresses, to, within).await
    }

    async fn first_of(
        &self,
        addresses: &[IpAddr],
        to: &RedisAddress,
        within: Duration,
    ) -> Result<Duplex, String> {
        let next_after = attempt_interval(within, addresses.len());
        let attempt = |ip| async move {
            let address = SocketAddr::new(ip, to.port);
            let connected = self.connected(address, &to.host).await;
            connected.map_err(|error| format!("{address}: {error}"))
        };
        let mut waiting = addresses.iter();
        // Its own number bounds them: there are few connections to the store.
        let mut attempts = Attempts::new(&ConnectionLimit::default(), within, addresses.len());
        // Dropped before the attempts, whose sockets are closed then.
        let _before_they_are_closed = HaltIfLost;
        let mut problem = String::from("no address");
        loop {
            let mut pause = next_after;
            if let Some(&ip) = waiting.as_slice().first() {
                if attempts.begin(|| attempt(ip)) {
                    waiting.next();
                } else {
                    pause = attempts.until_room();
                }
            } else if attempts.is_empty() {
                return Err(problem);
            }
            let has_more = !waiting.as_slice().is_empty();
            tokio::select! {
                Some(ended) = attempts.next() => match ended {
                    Ok(wire) => return Ok(wire),
                    Err(error) => problem = error,
                },
                () = sleep(pause), if has_more => {}
            }
        }
    }

    async fn connected(&self, address: SocketAddr, host: &Host) -> Result<Duplex, String> {
        let stream = connect_to(address).await?;
        let Some(context) = &self.tls else {
            return Ok(Duplex::new(stream));
        };
        let ssl = connection(context, host).map_err(|error| format!("TLS: {error}"))?;
        let wire = Duplex::new(stream);
        let mut tls = TlsStream::new(ssl, wire).map_err(|error| format!("TLS: {error}"))?;
        let done = tls.connect().await;
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
/// The path and the system's error.
pub(super) fn unix(path: &Path) -> Result<Duplex, String> {
    let connected = SockAddr::unix(path).and_then(|address| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        // The server of a Unix socket is on this machine, so the kernel knows the result at once.
        if let Err(error) = socket.connect(&address) {
            // The socket is closed on return: make sure that the host has not closed it before.
            halt_if_lost();
            return Err(error);
        }
        Stream::both_ways(socket)
    });
    let stream = connected.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Duplex::new(stream))
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
        Host::Ip(ip) => verified.set_ip(ip.to_canonical())?,
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
    stream: Box<dyn Both>,
    traffic: Arc<Traffic>,
}

impl Duplex {
    fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            traffic: Arc::default(),
        }
    }

    /// What goes through this stream.
    pub(super) fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.traffic.note_read();
        }
        done
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(done, Poll::Ready(Ok(1..))) {
            self.traffic.note_written();
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::time::timeout;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A listener that answers no more connections, because its queue is full.
    fn silent(address: SocketAddr) -> (Socket, Vec<std::net::TcpStream>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let connect =
            || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        (listener, std::iter::from_fn(connect).take(20).collect())
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_delays_the_next_one_by_a_part_of_the_time() {
        let answering = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = answering.local_addr().unwrap();
        let other = IpAddr::from([127, 0, 0, 2]);
        let _silent = silent(SocketAddr::new(other, address.port()));
        let dialler = Dialler::new(false, &ClusterFiles::default()).unwrap();
        let to = RedisAddress {
            host: Host::Ip(other),
            port: address.port(),
        };
        let first_of = |addresses: [IpAddr; 2]| {
            let (to, dialler) = (&to, &dialler);
            async move { timeout(MINUTE, dialler.first_of(&addresses, to, MINUTE)).await }
        };
        assert!(first_of([other, address.ip()]).await.unwrap().is_ok());
        drop(answering);
        let closed = first_of([IpAddr::from([127, 0, 0, 3]), address.ip()]).await;
        let error = closed.unwrap().err().unwrap();
        assert!(error.starts_with(&format!("{address}: ")), "{error}");
    }

    #[test]
    fn sentinels_take_turns() {
        let dialler = Dialler::new(false, &ClusterFiles::default()).unwrap();
        let sentinels = [1, 2, 3].map(|port| RedisAddress {
            host: Host::Ip(Ipv4Addr::LOCALHOST.into()),
            port,
        });
        let ports: Vec<_> = (0..4)
            .filter_map(|_| dialler.next_of(&sentinels))
            .map(|sentinel| sentinel.port)
            .collect();
        assert_eq!(ports, [1, 2, 3, 1]);
        assert!(dialler.next_of(&[]).is_none());
    }
}
