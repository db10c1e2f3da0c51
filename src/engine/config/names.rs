//! Names that a probe sends to a server: those of EHLO and of an HTTP request's `Host`.

use std::net::{IpAddr, Ipv6Addr};

use super::super::target::Host;
use super::host::parse_host;

/// The words of an error for what was expected.
pub(super) const EXPECTED_HELO: &str =
    "host name, or an address literal as in [192.0.2.1] or [IPv6:2001:db8::1]";
pub(super) const EXPECTED_HTTP_HOST: &str = "host, or host:port";

/// What RFC 5321 §4.1.1.1 lets a client call itself: a host name without a trailing dot, or an
/// address literal (§4.1.3).
pub(super) fn is_helo_name(text: &str) -> bool {
    if let Some(literal) = text.strip_prefix('[') {
        let Some(address) = literal.strip_suffix(']') else {
            return false;
        };
        return match address.split_at_checked("IPv6:".len()) {
            Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
                address.parse::<Ipv6Addr>().is_ok()
            }
            _ => matches!(address.parse(), Ok(IpAddr::V4(_))),
        };
    }
    !text.ends_with('.') && matches!(parse_host(text), Ok(Host::Name(_)))
}

/// The value of `Host` that `text` stands for (RFC 9110 §7.2): `text` as it is, an IPv6 address in
/// brackets. None where it is no host with or without a port.
pub(super) fn http_host(text: &str) -> Option<String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return parse_host(text).ok().map(|_| format!("[{text}]"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| {
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    (port.is_none_or(is_port) && parse_host(host).is_ok()).then(|| text.to_owned())
}
