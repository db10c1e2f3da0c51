//! Hosts as a user writes them: an address, or a name in the syntax of RFC 1123 §2.1.

use std::net::{IpAddr, Ipv6Addr};

use super::super::target::{Host, HostName};
use super::text::quoted;

/// The words of an error for what was expected.
pub(super) const EXPECTED: &str = "IPv4, IPv6 or host name";

/// The longest name without its trailing dot, in bytes (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// The longest label, in bytes.
const MAX_LABEL: usize = 63;

/// An IPv4 or IPv6 address (brackets are taken off) or a host name (it may have a trailing dot,
/// underscores are allowed).
///
/// # Errors
/// A sentence that says what was expected and repeats the text, shortened. Refused are also
/// addresses no backend can have (unspecified, multicast, broadcast), since connecting to
/// `0.0.0.0` would quietly reach this machine; IPv6 zone ids, since neither a response header
/// nor another machine could use them; and names that end in a number, which resolvers take
/// for legacy IPv4 notations (`10.1` is 10.0.0.1).
pub fn parse_host(text: &str) -> Result<Host, String> {
    read(text).map_err(|hint| {
        let hint = if hint.is_empty() {
            String::new()
        } else {
            format!(" ({hint})")
        };
        format!("{EXPECTED} expected, got {}{hint}", quoted(text))
    })
}

/// The error is a hint on what was meant, or empty.
fn read(text: &str) -> Result<Host, &'static str> {
    if let Some(inner) = text.strip_prefix('[') {
        if let Some((address, port)) = inner.split_once("]:")
            && address.parse::<Ipv6Addr>().is_ok()
            && port.parse::<u16>().is_ok()
        {
            return Err("the port has its own key");
        }
        let inner = inner.strip_suffix(']').ok_or("bracket not closed")?;
        zone(inner)?;
        let ip: Ipv6Addr = inner.parse().map_err(|_| "brackets are for IPv6")?;
        return address(ip.into());
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return address(ip);
    }
    zone(text)?;
    if text.contains("://") || text.contains('/') {
        return Err("a host alone, not a URL");
    }
    match text.split_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Err("the port has its own key"),
        Some(_) => Err(""),
        None => name(text),
    }
}

fn zone(text: &str) -> Result<(), &'static str> {
    match text.split_once('%') {
        Some((address, _)) if address.parse::<Ipv6Addr>().is_ok() => {
            Err("zone ids are not supported")
        }
        _ => Ok(()),
    }
}

fn address(ip: IpAddr) -> Result<Host, &'static str> {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.to_canonical().is_unspecified() || ip.to_canonical().is_multicast() || broadcast {
        return Err("no server can have this address");
    }
    Ok(Host::Ip(ip))
}

fn name(text: &str) -> Result<Host, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !name.is_ascii() {
        return Err("write an international name in its xn-- form");
    }
    if name.len() > MAX_NAME {
        return Err("a name has at most 253 bytes");
    }
    if !name.split('.').all(is_label) {
        return Err("");
    }
    if name.rsplit('.').next().is_some_and(is_number) {
        return Err("a name must not end in a number");
    }
    Ok(Host::Name(HostName::new(text)))
}

fn is_label(label: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether a resolver's `inet_aton` reads this as a part of an IPv4 address.
fn is_number(label: &str) -> bool {
    match label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
    {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ] {
            let host = parse_host(text);
            assert!(matches!(host, Ok(Host::Ip(_))), "{text}: {host:?}");
            assert_eq!(host.map(|h| h.to_string()), Ok(shown.to_owned()));
        }
        let long = format!("{}.example", ["a"; 120].join("."));
        for (text, shown) in [
            ("localhost", "localhost"),
            ("imap.example.org.", "imap.example.org"),
            ("Imap-1.example.org", "Imap-1.example.org"),
            ("_imap._tcp.example.org", "_imap._tcp.example.org"),
            ("xn--mller-kva.example", "xn--mller-kva.example"),
            ("1.example", "1.example"),
            ("4server", "4server"),
            (&long, &long),
        ] {
            let host = parse_host(text);
            assert_eq!(host.as_ref().map(Host::to_string), Ok(shown.to_owned()));
            let is_absolute = matches!(&host, Ok(Host::Name(name)) if name.is_absolute());
            assert_eq!(is_absolute, text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let label = "a".repeat(64);
        let name = ["a"; 128].join(".");
        for (text, hint) in [
            ("", ""),
            (".", ""),
            ("a..b", ""),
            ("a.example..", ""),
            (".a", ""),
            ("-a.example", ""),
            ("a-.example", ""),
            ("a b", ""),
            ("a\nb", ""),
            ("a\0", ""),
            ("*.example.org", ""),
            (" ::1", ""),
            ("2001:db8::g", ""),
            (&label, ""),
            (&name, " (a name has at most 253 bytes)"),
            ("10.0.0.256", " (a name must not end in a number)"),
            ("10.1", " (a name must not end in a number)"),
            ("127", " (a name must not end in a number)"),
            ("0x7f000001", " (a name must not end in a number)"),
            ("a.0x1", " (a name must not end in a number)"),
            ("10.0.0.1:993", " (the port has its own key)"),
            ("host:993", " (the port has its own key)"),
            ("[::1]:993", " (the port has its own key)"),
            ("[2001:db8::1]:143", " (the port has its own key)"),
            ("[::1]:imap", " (bracket not closed)"),
            ("imap://host", " (a host alone, not a URL)"),
            ("imap://u:hunter2@x", " (a host alone, not a URL)"),
            ("u:hunter2@x", ""),
            ("host/path", " (a host alone, not a URL)"),
            ("fe80::1%eth0", " (zone ids are not supported)"),
            ("[fe80::1%2]", " (zone ids are not supported)"),
            ("[::1", " (bracket not closed)"),
            ("[10.0.0.1]", " (brackets are for IPv6)"),
            ("[host]", " (brackets are for IPv6)"),
            ("0.0.0.0", " (no server can have this address)"),
            ("::", " (no server can have this address)"),
            ("::ffff:0.0.0.0", " (no server can have this address)"),
            ("224.0.0.1", " (no server can have this address)"),
            ("ff02::1", " (no server can have this address)"),
            ("255.255.255.255", " (no server can have this address)"),
            (
                "müller.example",
                " (write an international name in its xn-- form)",
            ),
        ] {
            assert_eq!(
                parse_host(text),
                Err(format!(
                    "IPv4, IPv6 or host name expected, got {}{hint}",
                    quoted(text)
                )),
            );
        }
    }
}
