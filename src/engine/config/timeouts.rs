//! How long the stages of a probe may take.

use std::time::Duration;

/// How long each stage of a probe may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving, connecting and the PROXY header. At most one minute.
    pub connect: Duration,
    /// The TLS handshake. At most one minute.
    pub tls: Duration,
    /// The dialogue. At most five minutes.
    pub deep: Duration,
}

impl Default for Timeouts {
    /// Those of a configuration that says nothing of them.
    fn default() -> Self {
        const EACH: Duration = Duration::from_secs(5);
        Self {
            connect: EACH,
            tls: EACH,
            deep: EACH,
        }
    }
}
