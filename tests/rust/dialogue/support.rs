//! Targets, and conversations written down line by line.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use futures_util::FutureExt;
use nauthilus_backend::engine::probe::dialogue::{self, Conversation};
use nauthilus_backend::engine::probe::error::ProbeError;
use nauthilus_backend::engine::probe::transport::Transport;
use nauthilus_backend::engine::target::{AuthMechanism, Host, Protocol, Secret, Target, TlsMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::sync::Semaphore;

pub(crate) const USER: &str = "probe";
pub(crate) const PASSWORD: &str = "hunter22";

/// A deep-checked target on 127.0.0.1 without credentials.
pub(crate) fn target(protocol: Protocol) -> Target {
    let host = Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let port = protocol.default_port(TlsMode::Plain);
    Target {
        deep_check: true,
        deep_timeout: Duration::from_secs(5),
        helo_name: Some("probe.example.org".into()),
        ..Target::new(protocol, host, port)
    }
}

/// Changes to a target, in the order they read.
pub(crate) trait With: Sized {
    fn user(self, user: &str, password: &str) -> Self;
    fn login(self) -> Self {
        self.user(USER, PASSWORD)
    }
    fn starttls(self) -> Self;
    fn mechanism(self, mechanism: AuthMechanism) -> Self;
}

impl With for Target {
    fn user(mut self, user: &str, password: &str) -> Self {
        self.test_username = Some(user.into());
        self.test_password = Some(Secret::new(password.into()));
        self
    }

    fn starttls(mut self) -> Self {
        self.tls_mode = TlsMode::StartTls;
        self
    }

    fn mechanism(mut self, mechanism: AuthMechanism) -> Self {
        self.auth_mechanism = mechanism;
        self
    }
}

/// How the connection stands when the dialogue begins.
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) tls: bool,
    pub(crate) loopback: bool,
    /// Our address.
    pub(crate) local: IpAddr,
    /// Bytes that fit between the two sides: 1 delivers each byte alone.
    pub(crate) pipe: usize,
}

pub(crate) const LOOPBACK: Connection = Connection {
    tls: false,
    loopback: true,
    local: IpAddr::V4(Ipv4Addr::LOCALHOST),
    pipe: 64 * 1024,
};

/// Speaks with a peer that follows `script`, in memory. Its lines, however far indented:
///
/// - `S: text` is sent with CRLF, `S! text` as it is (with `\r` and `\n` as in Rust);
/// - `C: text` must come next from the client, with CRLF;
/// - `TLS` waits for the upgrade, which leaves the bytes as they are;
/// - `EOF` closes.
///
/// After the last line nothing more may come, until the client closes. Of `$PLAIN`, `$USER`,
/// `$PASSWORD`, `$BASIC` and others see [`expand`].
///
/// Returns the verdict, and what went not by the script.
pub(crate) async fn converse(
    target: &Target,
    connection: Connection,
    script: &str,
) -> (Result<(), ProbeError>, Result<(), String>) {
    let script = expand(script, target);
    let (ours, theirs) = tokio::io::duplex(connection.pipe);
    let upgrades = Arc::new(Semaphore::new(0));
    let counted = upgrades.clone();
    let upgrade = move |clear: Box<dyn Transport>| {
        counted.add_permits(1);
        async move { Ok(clear) }.boxed()
    };
    let about = Conversation {
        target,
        tls: connection.tls,
        loopback: connection.loopback,
        local: connection.local,
        upgrade: &upgrade,
        observer: None,
        clock: None,
    };
    let peer = follow(theirs, &script, &upgrades);
    tokio::join!(dialogue::run(Box::new(ours), about), peer)
}

/// The messages of a login by the target's credentials, and the fields of a HTTP request.
fn expand(script: &str, target: &Target) -> String {
    let user = target.test_username.as_deref().unwrap_or_default();
    let password = target.test_password.as_ref().map_or("", Secret::expose);
    script
        .replace("$PLAIN", &base64(&format!("\0{user}\0{password}")))
        .replace("$BASIC", &base64(&format!("{user}:{password}")))
        .replace("$USER", &base64(user))
        .replace("$PASSWORD", &base64(password))
        .replace("$GET", "C: GET / HTTP/1.1\nC: Host: 127.0.0.1\n$FIELDS\nC:")
        .replace(
            "$FIELDS",
            concat!(
                "C: User-Agent: nauthilus_backend/",
                env!("CARGO_PKG_VERSION"),
                "\nC: Accept: */*\nC: Connection: close"
            ),
        )
}

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

async fn follow(
    stream: tokio::io::DuplexStream,
    script: &str,
    upgrades: &Semaphore,
) -> Result<(), String> {
    let mut stream = BufReader::new(stream);
    let lines: Vec<&str> = script.lines().map(str::trim_start).collect();
    for (at, line) in lines.iter().enumerate() {
        match line.split_at_checked(2).unwrap_or((line, "")) {
            ("", _) => {}
            ("S:" | "S!", text) => {
                let text = text.strip_prefix(' ').unwrap_or(text);
                let wire = if line.starts_with("S!") {
                    text.replace("\\r", "\r").replace("\\n", "\n")
                } else {
                    format!("{text}\r\n")
                };
                match stream.write_all(wire.as_bytes()).await {
                    // The client need not have waited for the end.
                    Err(_) if at + 1 == lines.len() => return Ok(()),
                    sent => sent.map_err(|e| format!("at {line:?}: {e}"))?,
                }
            }
            ("C:", text) => {
                let text = text.strip_prefix(' ').unwrap_or(text);
                expect(&mut stream, format!("{text}\r\n").as_bytes()).await?;
            }
            _ if *line == "TLS" => upgrades.acquire().await.expect("open").forget(),
            _ if *line == "EOF" => return Ok(()),
            _ => panic!("what is {line:?}?"),
        }
    }
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .await
        .map_err(|e| e.to_string())?;
    match (rest.as_slice(), upgrades.available_permits()) {
        ([], 0) => Ok(()),
        ([], _) => Err("an upgrade too many".to_owned()),
        (rest, _) => Err(format!("and then {:?}", String::from_utf8_lossy(rest))),
    }
}

/// Reads as far as `wanted` goes, byte by byte, so that a mismatch is shown up to where it is.
async fn expect(stream: &mut (impl AsyncRead + Unpin), wanted: &[u8]) -> Result<(), String> {
    let mut got = Vec::new();
    while got.len() < wanted.len() && wanted.starts_with(&got) {
        match stream.read_u8().await {
            Ok(byte) => got.push(byte),
            Err(_) => break,
        }
    }
    if got == wanted {
        return Ok(());
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("expected {:?}, got {:?}", text(wanted), text(&got)))
}

/// A peer that always has more to send, and reads whatever it is sent.
pub(crate) struct Endless {
    pub(crate) text: &'static [u8],
    /// Bytes taken from it.
    pub(crate) taken: Arc<AtomicUsize>,
}

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let text = &self.text[self.taken.load(SeqCst) % self.text.len()..];
        let count = text.len().min(buffer.remaining());
        buffer.put_slice(&text[..count]);
        self.taken.fetch_add(count, SeqCst);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A peer that sends a text, so many bytes at a time, and closes; it reads whatever it is sent.
pub(crate) struct Answering {
    pub(crate) text: Vec<u8>,
    pub(crate) at: usize,
    pub(crate) chunk: usize,
}

impl AsyncRead for Answering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.text.len() - self.at;
        let count = left.min(self.chunk).min(buffer.remaining());
        buffer.put_slice(&self.text[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Answering {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A dialogue with any stream, as if over loopback.
pub(crate) async fn talk_to(
    peer: impl Transport + 'static,
    target: &Target,
) -> Result<(), ProbeError> {
    let about = Conversation {
        target,
        tls: false,
        loopback: true,
        local: LOOPBACK.local,
        upgrade: &|clear| async move { Ok(clear) }.boxed(),
        observer: None,
        clock: None,
    };
    dialogue::run(Box::new(peer), about).await
}
