//! The name that a certificate must have.

use std::net::IpAddr;

use openssl::error::ErrorStack;
use openssl::x509::verify::{X509CheckFlags, X509VerifyParamRef};

use crate::engine::target::{Host, Target};

/// The name to send as SNI and to find in the certificate: a host name without a trailing dot, or
/// an IP address. An IPv4 address that was written as an IPv6 one (`::ffff:192.0.2.1`) is that IPv4 address.
pub(super) fn server_name(target: &Target) -> String {
    match (&target.tls_server_name, &target.host) {
        (Some(name), _) => name.trim_end_matches('.').to_owned(),
        (None, Host::Name(name)) => name.trim_end_matches('.').to_owned(),
        (None, Host::Ip(ip)) => ip.to_string(),
    }
}

/// Has OpenSSL compare the certificate's names with `name`. An IP address is compared with the
/// certificate's IP addresses only; an IPv4-mapped one as the IPv4 address that it stands for.
pub(super) fn expect_name(param: &mut X509VerifyParamRef, name: &str) -> Result<(), ErrorStack> {
    // RFC 9525 §6.3: a wildcard stands for one whole left-most label.
    param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
    match name.parse::<IpAddr>() {
        Ok(ip) => param.set_ip(ip.to_canonical()),
        Err(_) => param.set_host(name),
    }
}
