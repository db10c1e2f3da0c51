//! Why a probe failed: the stage it had reached and one line of text.

use std::fmt;

/// The step of a probe. Its name starts the reason's text.
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
    /// The HTTP request and its response.
    Http,
    /// Ours: a panic, or no memory or descriptor left to try with.
    Internal,
}

impl Stage {
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
            Self::Http => "http",
            Self::Internal => "internal",
        }
    }
}

/// A failed probe. Its text is one printable line, `stage: reason`, lower case, no full stop,
/// and quotes at most [`QUOTE_MAX`] characters of what the peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeError {
    pub stage: Stage,
    pub reason: String,
    /// Where a certificate was refused: seconds since 1970 at which it ends.
    pub certificate_end: Option<i64>,
    /// Whether a deadline passed.
    pub is_timeout: bool,
}

/// Characters of the peer's text that a reason may quote.
pub const QUOTE_MAX: usize = 120;

impl ProbeError {
    pub fn new(stage: Stage, reason: impl Into<String>) -> Self {
        Self {
            stage,
            reason: reason.into(),
            certificate_end: None,
            is_timeout: false,
        }
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

/// An I/O error in the words every stage uses.
pub fn io_text(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
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
    use super::*;

    #[test]
    fn a_quote_is_short_and_printable() {
        assert_eq!(quote(b"* BYE\r\n\x00\xff"), "* BYE....");
        assert_eq!(quote(&[b'a'; 500]).len(), QUOTE_MAX);
        assert_eq!(quote(&[b'a'; 120]).len(), 120);
    }
}
