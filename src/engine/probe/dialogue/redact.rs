//! Removes our secrets from what is quoted from a peer. Servers echo what they were sent, complete
//! or cut short, as plain text or in base64.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::encode;
use crate::engine::target::Target;

/// How many bytes of a line are searched: more than a reason quotes.
const LOOK_MAX: usize = 512;

/// How many characters of a secret in a row count as a piece of it.
const PIECE_MIN: usize = 4;

const SUBSTITUTE: &[u8] = b"[redacted]";

/// `peer`, with the target's password, its base64 forms and all pieces of them of [`PIECE_MIN`] or
/// more characters replaced, in upper or lower case. Cut after [`LOOK_MAX`] bytes.
pub(super) fn redact<'p>(target: &Target, peer: &'p [u8]) -> Cow<'p, [u8]> {
    let Some(password) = &target.test_password else {
        return Cow::Borrowed(peer);
    };
    let user = target.test_username.as_deref().unwrap_or_default();
    let password = password.expose();
    let secrets = [
        Zeroizing::new(password.as_bytes().to_vec()),
        encode::base64(password.as_bytes()),
        encode::plain(user, password),
        encode::basic(user, password),
    ];

    let peer = &peer[..peer.len().min(LOOK_MAX)];
    let mut clean = Vec::with_capacity(peer.len());
    let mut at = 0;
    while at < peer.len() {
        let rest = &peer[at..];
        match secrets.iter().map(|s| piece(rest, s)).max() {
            Some(length) if length > 0 => {
                clean.extend_from_slice(SUBSTITUTE);
                at += length;
            }
            _ => {
                clean.push(peer[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(clean)
}

/// How many bytes at the start of `text` are a piece of `secret`; 0 if fewer than [`PIECE_MIN`].
fn piece(text: &[u8], secret: &[u8]) -> usize {
    let longest = (0..secret.len())
        .map(|from| {
            text.iter()
                .zip(&secret[from..])
                .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
                .count()
        })
        .max()
        .unwrap_or(0);
    if longest >= PIECE_MIN.min(secret.len()) {
        longest
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::probe::dialogue::testing::target;
    use crate::engine::target::{Protocol, Secret};

    fn shown(password: &str, peer: &str) -> String {
        let mut target = target(Protocol::Smtp);
        target.test_username = Some("probe".into());
        target.test_password = Some(Secret::new(password.into()));
        String::from_utf8_lossy(&redact(&target, peer.as_bytes())).into_owned()
    }

    #[test]
    fn what_has_no_secret_stays() {
        let text = "535 5.7.8 Error: authentication failed";
        assert_eq!(shown("x9!kQ2", text), text);
    }

    #[test]
    fn a_password_goes_whole_cut_short_or_in_another_case() {
        assert_eq!(
            shown("hunter22", "-ERR PASS hunter22?"),
            "-ERR PASS [redacted]?"
        );
        assert_eq!(shown("hunter22", "-ERR PASS hunte"), "-ERR PASS [redacted]");
        assert_eq!(
            shown("hunter22", "-ERR PASS HUNTER22"),
            "-ERR PASS [redacted]"
        );
        assert_eq!(shown("ab", "xabx"), "x[redacted]x");
    }

    #[test]
    fn base64_forms_go() {
        // printf '\0probe\0hunter22' | base64; printf hunter22 | base64; printf probe:hunter22 | base64
        for form in [
            "AHByb2JlAGh1bnRlcjIy",
            "aHVudGVyMjI=",
            "cHJvYmU6aHVudGVyMjI=",
        ] {
            assert_eq!(
                shown("hunter22", &format!("501 {form} what")),
                "501 [redacted] what"
            );
        }
    }

    #[test]
    fn an_empty_password_redacts_nothing() {
        let mut target = target(Protocol::Smtp);
        target.test_password = Some(Secret::new(String::new()));
        assert_eq!(&*redact(&target, b"250 ok"), b"250 ok");
    }
}
