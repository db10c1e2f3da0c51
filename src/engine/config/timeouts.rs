//! How long the stages of a probe may take.

use std::time::Duration;

use crate::engine::target::Protocol;

/// How long each stage of a probe may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving, connecting and the PROXY header. At most one minute.
    pub connect: Duration,
    /// The TLS handshake. At most one minute.
    pub tls: Duration,
    /// The dialogue, where it is not left to the protocol. At most five minutes.
    pub deep: Option<Duration>,
}

impl Timeouts {
    /// How long a dialogue of that protocol may take.
    pub fn deep_of(&self, protocol: Protocol) -> Duration {
        self.deep.unwrap_or_else(|| protocol.default_deep_timeout())
    }
}

impl Default for Timeouts {
    /// The defaults.
    fn default() -> Self {
        const EACH: Duration = Duration::from_secs(5);
        Self {
            connect: EACH,
            tls: EACH,
            deep: None,
        }
    }
}
