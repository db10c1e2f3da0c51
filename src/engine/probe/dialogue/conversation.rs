//! What a dialogue knows about its target and its connection.

use std::net::IpAddr;

use crate::engine::probe::progress::ProbeObserver;
use crate::engine::probe::stage_clock::StageClock;
use crate::engine::probe::transport::Upgrade;
use crate::engine::target::Target;

/// What a dialogue knows about its target and its connection.
pub struct Conversation<'a> {
    pub target: &'a Target,
    /// Whether TLS already runs (`tls_mode: implicit`).
    pub tls: bool,
    /// Whether the peer's address is a loopback address: credentials may then be sent without TLS.
    pub loopback: bool,
    /// The local address of the connection.
    pub local: IpAddr,
    /// Performs the TLS handshake after STARTTLS or STLS.
    pub upgrade: &'a Upgrade<'a>,
    /// Receives the stages and what the server says of itself.
    pub observer: Option<&'a dyn ProbeObserver>,
    /// Measures the stages.
    pub clock: Option<&'a StageClock>,
}
