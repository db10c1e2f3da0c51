//! The group in which a resumed handshake exchanges keys.
//!
//! OpenSSL makes a key share for each group that it thinks a server may choose. From version 3.5 on
//! these are two, one of them post-quantum, which makes a resumed TLS 1.3 handshake half as costly
//! again. A probe has nothing to hide from an attacker with a quantum computer, so a handshake that
//! offers a session offers the cheapest group alone, if the system's policy (`Groups` in
//! `openssl.cnf`) allows that group. A server that does not support it fails the handshake, and the
//! probe is repeated without the session and with every group of the policy.

use std::io::{self, Read, Write};

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslStream};

use crate::sys::tls_group::CheapGroup;

/// The types of the extensions and of the handshake message (RFC 8446 §4, §4.2).
const SUPPORTED_GROUPS: u16 = 10;
const KEY_SHARE: u16 = 51;
const CLIENT_HELLO: u8 = 1;

/// The groups to choose from, the cheapest first.
const CHEAP: [CheapGroup; 2] = [CheapGroup::X25519, CheapGroup::P256];

/// The cheapest group that the policy of this context allows. None if it allows neither of
/// [`CHEAP`], or if its handshakes make a key share for that group alone anyway.
///
/// # Errors
/// There is no memory.
pub(super) fn cheapest(context: &SslContext) -> Result<Option<CheapGroup>, ErrorStack> {
    let hello = client_hello(context)?;
    let Some(offer) = Offer::read(&hello) else {
        return Ok(None);
    };
    let cheapest = CHEAP
        .into_iter()
        .find(|group| offer.groups.contains(&group.number()));
    Ok(cheapest.filter(|group| offer.shares != [group.number()]))
}

/// What OpenSSL sends first. It has no function that tells which groups a policy allows.
fn client_hello(context: &SslContext) -> Result<Vec<u8>, ErrorStack> {
    let mut stream = SslStream::new(Ssl::new(context)?, Recorder::default())?;
    // Fails, since nobody answers.
    let _ = stream.connect();
    Ok(std::mem::take(&mut stream.get_mut().0))
}

/// Keeps what is written. A read would block.
#[derive(Default)]
struct Recorder(Vec<u8>);

impl Read for Recorder {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The groups of a ClientHello, by their numbers in IANA's registry of TLS supported groups.
#[derive(Debug, Default)]
struct Offer {
    groups: Vec<u16>,
    shares: Vec<u16>,
}

impl Offer {
    /// Reads one TLS record with a ClientHello (RFC 8446 §5.1, §4.1.2). None where it is anything
    /// else: then no handshake is restricted.
    fn read(record: &[u8]) -> Option<Self> {
        let mut record = Fields(record);
        record.take(3)?;
        let mut message = record.of_length(2)?;
        (message.take(1)? == [CLIENT_HELLO]).then_some(())?;
        let mut hello = message.of_length(3)?;
        // The version and the random bytes.
        hello.take(2 + 32)?;
        // The session's number, the cipher suites and the compression methods.
        hello.of_length(1)?;
        hello.of_length(2)?;
        hello.of_length(1)?;
        let mut offer = Self::default();
        let mut extensions = hello.of_length(2)?;
        while !extensions.0.is_empty() {
            let kind = extensions.number()?;
            let mut content = extensions.of_length(2)?;
            if kind == SUPPORTED_GROUPS {
                let mut groups = content.of_length(2)?;
                while !groups.0.is_empty() {
                    offer.groups.push(groups.number()?);
                }
            } else if kind == KEY_SHARE {
                let mut shares = content.of_length(2)?;
                while !shares.0.is_empty() {
                    offer.shares.push(shares.number()?);
                    shares.of_length(2)?;
                }
            }
        }
        Some(offer)
    }
}

/// The rest of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A field after its length, which has this many bytes itself.
    fn of_length(&mut self, bytes: usize) -> Option<Self> {
        let length = self.take(bytes)?;
        let length = length
            .iter()
            .fold(0, |length, &byte| length << 8 | usize::from(byte));
        self.take(length).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use openssl::ssl::SslMethod;

    use super::*;

    fn cheapest_of(policy: &str) -> Option<CheapGroup> {
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder.set_groups_list(policy).unwrap();
        cheapest(&builder.build()).unwrap()
    }

    #[test]
    fn the_cheapest_group_of_the_policy_is_found() {
        assert_eq!(cheapest_of("P-521:X25519:P-256"), Some(CheapGroup::X25519));
        assert_eq!(cheapest_of("P-384:P-256"), Some(CheapGroup::P256));
    }

    #[test]
    fn nothing_changes_where_nothing_is_saved_or_allowed() {
        // OpenSSL makes a key share for the first group.
        assert_eq!(cheapest_of("X25519:P-521"), None);
        assert_eq!(cheapest_of("P-256"), None);
        assert_eq!(cheapest_of("P-521:P-384"), None);
    }

    #[test]
    fn what_is_no_client_hello_or_is_cut_off_is_not_read() {
        let context = SslContext::builder(SslMethod::tls_client())
            .unwrap()
            .build();
        let hello = client_hello(&context).unwrap();
        assert!(!Offer::read(&hello).unwrap().shares.is_empty());
        for length in 0..hello.len() {
            assert!(Offer::read(&hello[..length]).is_none(), "{length}");
        }
        let mut other = hello;
        other[5] = 2;
        assert!(Offer::read(&other).is_none());
    }
}
