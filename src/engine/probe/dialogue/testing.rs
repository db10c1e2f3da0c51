//! What unit tests of the dialogues share.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::engine::target::{Host, Protocol, Target, TlsMode};

/// A deep-checked target on loopback, without credentials.
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
