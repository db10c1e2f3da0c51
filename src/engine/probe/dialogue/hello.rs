//! The name that a probe gives in EHLO, HELO and LHLO (RFC 5321 §4.1.1.1).

use std::net::IpAddr;

use super::session::Session;
use crate::sys::host_name::host_name;

/// The configured name; else the machine's host name, if it is fully qualified; else the local
/// address of the connection. Servers refuse a name without a domain (Postfix:
/// `reject_non_fqdn_helo_hostname`).
pub(super) fn name(s: &Session<'_>) -> String {
    match &s.target().helo_name {
        Some(name) => name.to_string(),
        None => host_name()
            .filter(|name| is_fully_qualified(name))
            .unwrap_or_else(|| literal(s.local_address())),
    }
}

/// Whether the name has a domain other than those that mean the local machine (`localdomain`).
fn is_fully_qualified(name: &str) -> bool {
    let is_label = |label: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let Some((_, last)) = name.rsplit_once('.') else {
        return false;
    };
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last.bytes().all(|b| b.is_ascii_digit())
        && !["localhost", "localdomain"].contains(&last.to_ascii_lowercase().as_str())
}

/// An address literal (RFC 5321 §4.1.3).
fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_has_a_domain_that_is_not_this_machine() {
        for name in [
            "mx.example.org",
            "a-1.corp.internal",
            "xn--bcher-kva.example",
        ] {
            assert!(is_fully_qualified(name), "{name}");
        }
        for name in [
            "",
            "mx",
            "localhost",
            "localhost.localdomain",
            "mx.LOCALDOMAIN",
            "mx.",
            ".example",
            "a..b",
            "-a.example",
            "10.0.0.1",
            "m\u{fc}.example",
            "a_b.example",
            "a b.example",
        ] {
            assert!(!is_fully_qualified(name), "{name}");
        }
    }

    #[test]
    fn literals_are_as_the_rfc_has_them() {
        for (address, literal_) in [
            ("192.0.2.1", "[192.0.2.1]"),
            ("::ffff:192.0.2.1", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(literal(address.parse().unwrap()), literal_);
        }
    }
}
