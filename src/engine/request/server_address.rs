//! The address of a server as a script gives it to `select_backend_server`.

use std::cell::RefCell;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::name_cache::NameCache;

/// A checked address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAddress<'a> {
    /// An IPv4 or IPv6 literal, as given but without brackets: nginx's mail proxy wants none.
    Literal(&'a str),
    /// A host name, as given.
    Name(&'a str),
}

/// Neither an address literal nor a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IPv4 or IPv6 address or host name expected")
    }
}

/// The longest host name, in bytes, without a trailing dot (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 253;
/// The longest label of a host name, in bytes.
const LONGEST_LABEL: usize = 63;

impl<'a> ServerAddress<'a> {
    /// # Errors
    ///
    /// Where the text is neither an IPv4 or IPv6 literal (an IPv6 one may be in brackets) nor a
    /// host name (RFC 1123 §2.1, `_` allowed; the last label is not a number, so that
    /// `10.0.0.300` is a mistyped address and not a name).
    pub fn parse(text: &'a [u8]) -> Result<Self, NotAnAddress> {
        let text = std::str::from_utf8(text).map_err(|_| NotAnAddress)?;
        if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return match inside.parse::<Ipv6Addr>() {
                Ok(_) => Ok(Self::Literal(inside)),
                Err(_) => Err(NotAnAddress),
            };
        }
        if text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self::Literal(text));
        }
        if is_host_name(text) {
            return Ok(Self::Name(text));
        }
        Err(NotAnAddress)
    }
}

thread_local! {
    /// Every request selects one of a few servers: each address is parsed once.
    static CACHE: RefCell<NameCache<bool>> = const { RefCell::new(NameCache::new()) };
}

/// Whether the text is a literal without brackets.
pub fn is_plain_literal(text: &[u8]) -> bool {
    let make = || matches!(ServerAddress::parse(text), Ok(ServerAddress::Literal(l)) if l.len() == text.len());
    // `try_with`: a Lua finaliser may run while the thread ends, after its cache was destroyed.
    CACHE
        .try_with(|cache| Some(cache.try_borrow_mut().ok()?.get_or_make(text, make)))
        .ok()
        .flatten()
        .unwrap_or_else(make)
}

fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= LONGEST_NAME
        && name.split('.').all(is_label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_lose_their_brackets_and_nothing_else() {
        for (given, kept) in [
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("2001:DB8::1", "2001:DB8::1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ] {
            assert_eq!(
                ServerAddress::parse(given.as_bytes()),
                Ok(ServerAddress::Literal(kept))
            );
        }
    }

    #[test]
    fn a_plain_literal_has_no_brackets_and_is_no_name() {
        for _ in 0..2 {
            assert!(is_plain_literal(b"::1") && is_plain_literal(b"127.0.0.1"));
            for text in ["[::1]", "imap.example.org", "10.0.0.300", ""] {
                assert!(!is_plain_literal(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn names_pass_as_they_are() {
        for name in [
            "imap",
            "imap.example.org",
            "imap.example.org.",
            "a_b.c-d",
            "1and1.example",
        ] {
            assert_eq!(
                ServerAddress::parse(name.as_bytes()),
                Ok(ServerAddress::Name(name))
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "a".repeat(64);
        let longer = ["abcdefg"; 32].join(".") + ".org";
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "10.0.0.300",
            "10.0.0.1.",
            "1.2.3",
            "127.1",
            "10.0.0.1:993",
            "[10.0.0.1]",
            "[imap]",
            "[::1",
            "::1]",
            "fe80::1%eth0",
            "a b",
            "a\r\nX: y",
            "a\0",
            "ä.example",
            "imap:993",
            "http://a",
            &long,
            &longer,
        ] {
            assert_eq!(
                ServerAddress::parse(bad.as_bytes()),
                Err(NotAnAddress),
                "{bad}"
            );
        }
        assert_eq!(ServerAddress::parse(b"\xff"), Err(NotAnAddress));
    }
}
