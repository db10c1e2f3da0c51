//! The state file. What is on a disk may be anything, and a checksum proves no good will: an
//! input is read as it is, and once more as a file whose checksum is right.
//!
//! Whatever it says: no panic; a refusal is one short printable line; what is accepted can be
//! gone on from; a file cut short is never accepted.

use std::fmt::Write as _;

use nauthilus_backend::engine::state_file::format::decode;
use nauthilus_backend::engine::verdicts::ERROR_MAX;
use nauthilus_backend::engine::verdicts::health::Thresholds;

pub fn state(data: &[u8]) {
    load(data);
}

/// Loads it both ways; whether it was accepted with a checksum.
pub fn load(data: &[u8]) -> bool {
    check(data);
    let mut sealed = data.to_vec();
    if !sealed.ends_with(b"\n") {
        sealed.push(b'\n');
    }
    sealed.extend_from_slice(checksum_line(&sealed).as_bytes());
    let accepted = check(&sealed);
    // The last byte is a line end, which is no loss.
    let part = &sealed[..sealed.len() - 2];
    assert!(!(accepted && check(part)), "accepted a part");
    accepted
}

fn checksum_line(content: &[u8]) -> String {
    let mut line = "sha256 ".to_owned();
    for byte in openssl::sha::sha256(content) {
        // Writing to a String does not fail.
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

/// Whether it was accepted.
fn check(bytes: &[u8]) -> bool {
    let saved = match decode(bytes) {
        Ok(saved) => saved,
        Err(reason) => {
            assert!((1..100).contains(&reason.len()), "{reason}");
            assert!(!reason.contains(char::is_control), "{reason:?}");
            return false;
        }
    };
    let lines = bytes.iter().filter(|&&b| b == b'\n').count();
    assert!(saved.records.len() <= lines, "more targets than lines");
    let thresholds = Thresholds {
        failure: 1,
        recovery: 1,
        initially_alive: true,
    };
    for record in saved.records.values() {
        if let Some(error) = &record.error {
            assert!((1..=ERROR_MAX).contains(&error.len()), "{error:?}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
        let _ = record.verdict();
        for good in [true, false] {
            let gate = record.connect.step(good, thresholds);
            assert_eq!(gate.verdict.name(), if good { "alive" } else { "dead" });
        }
    }
    true
}

pub const STATE: &[&[u8]] = &[
    b"nauthilus_backend state 1\nsaved 1795373316540\n",
    b"nauthilus_backend state 1\nsaved 1795373316540\n\
      target 00112233445566778899aabbccddeeff alive 4295032833 - 1795373000000 120 4 \
      1795373316000 0 1234 192.0.2.7 1800000000 0 error=\"\" key=imap://192.0.2.7:993\n\
      target ffeeddccbbaa99887766554433221100 dead 196610 65538 1795373000000 18446744073709551615 \
      7 1795373316000 1795373315000 - 2001:db8::1 -1 1795373316001 \
      error=\"greeting: \\\"* BYE\\\" \\\\ x\" key=imap://[2001:db8::1]:143\n",
    b"nauthilus_backend state 1\nsaved 0\n\
      target 0000000000000001ffffffffffffffff unknown 0 0 0 0 0 0 0 - - - 0 \
      error=\"\xc3\xa9\\u{1b}\\n\" key=http://a\n",
];

pub const STATE_WORDS: &[&str] = &[
    "\n",
    " ",
    "-",
    "\"",
    "\\",
    "\\u{7f}",
    "\r\n",
    "target ",
    "saved ",
    "error=\"",
    " error=",
    "key=",
    "0",
    "1",
    "2",
    "65535",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "9223372036854775807",
    "::ffff:192.0.2.1",
    "fe80::1%1",
    "nauthilus_backend state 1\n",
    "\u{e9}",
    "\u{0}",
];
