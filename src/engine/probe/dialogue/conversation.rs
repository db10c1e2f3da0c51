//! What a dialogue knows of its connection.

use std::net::IpAddr;

use crate::engine::probe::transport::Upgrade;
use crate::engine::target::Target;

/// What a dialogue knows of its connection.
pub struct Conversation<'a> {
    pub target: &'a Target,
    /// Whether TLS already runs (`tls_mode: implicit`).
    pub tls: bool,
    /// Whether the peer's address is a loopback one: credentials may cross it in the clear.
    pub loopback: bool,
    /// Our end of the connection.
    pub local: IpAddr,
    /// For STARTTLS and STLS.
    pub upgrade: &'a Upgrade<'a>,
}
