//! Why a probe failed: the stage at which it failed and one line of text.

use std::{fmt, io};

/// The step at which a probe failed. Its name is the first word of the error's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The host name.
    Resolve,
    /// TCP.
    Connect,
    /// The PROXY protocol header.
    Proxy,
    /// The TLS handshake and the certificate.
    Tls,
    /// The server's first line.
    Greeting,
    /// What the server says it can do (EHLO, CAPABILITY, CAPA).
    Capability,
    /// The command that asks for TLS.
    StartTls,
    /// The login.
    Auth,
    /// IMAP's EXAMINE of the test mailbox.
    Examine,
    /// POP3's STAT.
    Stat,
    /// ManageSieve's LISTSCRIPTS.
    ListScripts,
    /// The HTTP request and its response.
    Http,
    /// A failure of our own process: a panic, or no memory or descriptor left. Inconclusive: it
    /// changes no verdict.
    Internal,
}

impl Stage {
    pub const ALL: [Self; 13] = [
        Self::Resolve,
        Self::Connect,
        Self::Proxy,
        Self::Tls,
        Self::Greeting,
        Self::Capability,
        Self::StartTls,
        Self::Auth,
        Self::Examine,
        Self::Stat,
        Self::ListScripts,
        Self::Http,
        Self::Internal,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Capability => "capability",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Examine => "examine",
            Self::Stat => "stat",
            Self::ListScripts => "listscripts",
            Self::Http => "http",
            Self::Internal => "internal",
        }
    }
}

/// What a failed probe says about the server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The server has failed.
    Failure,
    /// Nothing: the probe is inconclusive and changes no verdict.
    Nothing,
    /// Nothing while it is rare. If several probes in a row end like this, the last one counts as a
    /// failure.
    IfRepeated,
}

/// A failed probe. Its text is one printable line, `stage: reason`, lower case, no full stop,
/// and quotes at most [`QUOTE_MAX`] characters of what the peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeError {
    pub stage: Stage,
    pub reason: String,
    /// If a certificate was refused: when it expires, in seconds since 1970.
    pub certificate_end: Option<i64>,
    /// Whether a deadline passed.
    pub is_timeout: bool,
    /// Whether the server refused the user, the password or the login's mechanism, or wants fewer
    /// logins. The next logins are then made less often, because servers delay their answers after
    /// each refused login and may block the client's address.
    pub login_refused: bool,
    pub evidence: Evidence,
}

/// What is added to the reason of a login that the server did not answer in time.
pub const LATE_ANSWER: &str = " (servers delay the answer to a wrong password)";

/// The most characters of the peer's text that a reason quotes.
pub const QUOTE_MAX: usize = 120;

impl ProbeError {
    /// A failure of the server; for [`Stage::Internal`] one that says nothing about it.
    pub fn new(stage: Stage, reason: impl Into<String>) -> Self {
        Self {
            stage,
            reason: reason.into(),
            certificate_end: None,
            is_timeout: false,
            login_refused: false,
            evidence: match stage {
                Stage::Internal => Evidence::Nothing,
                _ => Evidence::Failure,
            },
        }
    }

    /// Whether the failure may change the target's verdict.
    pub fn is_conclusive(&self) -> bool {
        self.evidence == Evidence::Failure
    }

    /// `timed out after 5s`, the same words at every stage.
    pub fn timeout(stage: Stage, after: std::time::Duration) -> Self {
        let reason = format!("timed out after {}", humantime::format_duration(after));
        Self {
            is_timeout: true,
            ..Self::new(stage, reason)
        }
    }
}

/// A failure of our own process to continue with a stream. It is carried inside the stream's
/// [`io::Error`], so that it is not mistaken for a failure of the peer.
#[derive(Debug)]
struct OwnLack(io::Error);

impl fmt::Display for OwnLack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot wait for the connection: {}", self.0)
    }
}

impl std::error::Error for OwnLack {}

/// Marks an error as a failure of our own process, for the code that reads or writes the stream.
pub(super) fn own_lack(error: io::Error) -> io::Error {
    io::Error::other(OwnLack(error))
}

/// The probe error, of stage `internal`, for an error that [`own_lack`] has marked; else None.
pub(super) fn as_own_lack(error: &io::Error) -> Option<ProbeError> {
    let lack = error.get_ref()?.downcast_ref::<OwnLack>()?;
    Some(ProbeError::new(Stage::Internal, lack.to_string()))
}

/// Whether an `errno` means that this process or machine has run out of descriptors or memory, or
/// that the host has closed one of our descriptors.
pub(super) fn is_want_of_means(number: i32) -> bool {
    use libc::{EBADF, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOTSOCK};
    [EMFILE, ENFILE, ENOBUFS, ENOMEM, EBADF, ENOTSOCK].contains(&number)
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage.name(), self.reason)
    }
}

impl std::error::Error for ProbeError {}

/// Quotes what a peer sent: printable ASCII as it is, anything else as `.`, at most
/// [`QUOTE_MAX`] characters, `...` where it was cut.
pub fn quote(peer: &[u8]) -> String {
    let mut text: String = peer
        .iter()
        .take(QUOTE_MAX)
        .map(|&b| {
            if b == b' ' || b.is_ascii_graphic() {
                char::from(b)
            } else {
                '.'
            }
        })
        .collect();
    if peer.len() > QUOTE_MAX {
        text.truncate(QUOTE_MAX - 3);
        text.push_str("...");
    }
    text
}

/// The text for an I/O error, the same at every stage.
pub fn io_text(error: &io::Error) -> String {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => "connection reset".to_owned(),
        ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => "connection closed".to_owned(),
        ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        ErrorKind::TimedOut => "timed out (no answer from the host)".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures_util::FutureExt;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;
    use crate::engine::probe::dialogue::{self, Conversation, testing};
    use crate::engine::probe::proxy;
    use crate::engine::probe::tls::TlsClient;
    use crate::engine::target::Protocol;

    /// A stream that greets; every write fails for lack of resources of our own.
    struct Lacking;

    impl AsyncRead for Lacking {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(b"220 mx\r\n");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Lacking {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(own_lack(io::Error::from_raw_os_error(libc::ENOSPC))))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_this_process_lacks_is_no_failure_of_the_peer() {
        let target = testing::target(Protocol::Smtp);
        let tls = TlsClient::default().handshake(Lacking, &target, None).await;
        let about = Conversation {
            target: &target,
            tls: false,
            loopback: true,
            local: [127, 0, 0, 1].into(),
            upgrade: &|clear| async move { Ok(clear) }.boxed(),
            observer: None,
            clock: None,
        };
        for error in [
            proxy::send(&mut Lacking).await.unwrap_err(),
            tls.map(drop).unwrap_err(),
            dialogue::run(Box::new(Lacking), about).await.unwrap_err(),
        ] {
            assert_eq!(error.stage, Stage::Internal, "{error}");
            assert!(error.reason.starts_with("cannot wait for"), "{error}");
        }
    }

    #[test]
    fn a_quote_is_short_and_printable() {
        assert_eq!(quote(b"* BYE\r\n\x00\xff"), "* BYE....");
        assert_eq!(quote(&[b'a'; 500]).len(), QUOTE_MAX);
        assert_eq!(quote(&[b'a'; 120]).len(), 120);
    }
}
