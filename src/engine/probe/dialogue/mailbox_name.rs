//! IMAP mailbox names in modified UTF-7 (RFC 3501 §5.1.3), which every IMAP4rev1 server reads.

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

const UTF7: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);

/// Encodes a name: printable ASCII stays, `&` becomes `&-`, and each run of other characters
/// becomes the base64 of its UTF-16 between `&` and `-`.
pub(super) fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    let mut others: Vec<u8> = Vec::new();
    for c in name.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            end_run(&mut encoded, &mut others);
            encoded.push(c);
            if c == '&' {
                encoded.push('-');
            }
        } else {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units);
            others.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
        }
    }
    end_run(&mut encoded, &mut others);
    encoded
}

fn end_run(encoded: &mut String, others: &mut Vec<u8>) {
    if !others.is_empty() {
        encoded.push('&');
        UTF7.encode_string(&others, encoded);
        encoded.push('-');
        others.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_rfc_has_them() {
        for (name, wire) in [
            ("INBOX", "INBOX"),
            ("", ""),
            ("a & b", "a &- b"),
            // RFC 3501 §5.1.3.
            (
                "~peter/mail/\u{53f0}\u{5317}/\u{65e5}\u{672c}\u{8a9e}",
                "~peter/mail/&U,BTFw-/&ZeVnLIqe-",
            ),
            ("Entw\u{fc}rfe", "Entw&APw-rfe"),
            ("\u{1f4e8}", "&2D3c6A-"),
            ("a\tb", "a&AAk-b"),
        ] {
            assert_eq!(encoded(name), wire, "{name}");
        }
    }
}
