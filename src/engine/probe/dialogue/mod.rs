//! Deep checks: what is said to a server after the connection stands.

use super::error::ProbeError;
use super::transport::{Transport, Upgrade};
use crate::engine::target::Target;

/// What a dialogue knows of its connection.
pub struct Conversation<'a> {
    pub target: &'a Target,
    /// Whether TLS already runs (`tls_mode: implicit`).
    pub tls: bool,
    /// Whether the peer's address is a loopback one: credentials may cross it in the clear.
    pub loopback: bool,
    /// For STARTTLS and STLS.
    pub upgrade: &'a Upgrade<'a>,
}

/// Speaks the target's protocol as far as its configuration allows, within `deep_timeout`.
pub async fn run(
    _transport: Box<dyn Transport>,
    _about: Conversation<'_>,
) -> Result<(), ProbeError> {
    Ok(())
}
