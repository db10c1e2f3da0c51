//! Encodes credentials for sending: the messages of SASL PLAIN and HTTP Basic, in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Bytes of a login; wiped when dropped. They are made in one allocation, because growing would
/// leave an unwiped copy.
pub(super) type Wiped = Zeroizing<Vec<u8>>;

/// The message of SASL PLAIN, without an authorization identity, in base64.
pub(super) fn plain(user: &str, password: &str) -> Wiped {
    base64(&concat(&[
        b"\0",
        user.as_bytes(),
        b"\0",
        password.as_bytes(),
    ]))
}

/// The credentials of HTTP Basic (RFC 7617 §2), in base64.
pub(super) fn basic(user: &str, password: &str) -> Wiped {
    base64(&concat(&[user.as_bytes(), b":", password.as_bytes()]))
}

pub(super) fn base64(bytes: &[u8]) -> Wiped {
    let mut text = Zeroizing::new(vec![0; bytes.len().div_ceil(3) * 4]);
    // The only possible error is an output slice that is too short.
    if let Ok(length) = STANDARD.encode_slice(bytes, &mut text) {
        text.truncate(length);
    }
    text
}

pub(super) fn concat(parts: &[&[u8]]) -> Wiped {
    let mut bytes = Zeroizing::new(Vec::with_capacity(parts.iter().map(|p| p.len()).sum()));
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_rfcs_have_them() {
        // RFC 4616 §4, without its authorization identity.
        assert_eq!(
            plain("tim", "tanstaaftanstaaf").as_slice(),
            b"AHRpbQB0YW5zdGFhZnRhbnN0YWFm"
        );
        // RFC 7617 §2.
        assert_eq!(
            basic("Aladdin", "open sesame").as_slice(),
            b"QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(base64(b"").as_slice(), b"");
    }
}
