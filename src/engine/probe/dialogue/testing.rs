//! What unit tests of the dialogues share.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::engine::target::{
    AuthMechanism, Host, Placement, ProbePolicy, Protocol, Target, TlsMode,
};

/// A deep-checked target on loopback, without credentials.
pub(crate) fn target(protocol: Protocol) -> Target {
    Target {
        protocol,
        host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: protocol.default_port(TlsMode::Plain),
        tls_mode: TlsMode::Plain,
        tls_skip_verify: false,
        tls_server_name: None,
        tls_ca_file: None,
        haproxy_v2: false,
        deep_check: true,
        test_username: None,
        test_password: None,
        auth_mechanism: AuthMechanism::Auto,
        allow_plaintext_auth: false,
        request_uri: "/".into(),
        placement: Placement::default(),
        connect_timeout: Duration::from_secs(5),
        tls_timeout: Duration::from_secs(5),
        deep_timeout: Duration::from_secs(5),
        policy: ProbePolicy::DEFAULT,
        source_address: None,
    }
}
