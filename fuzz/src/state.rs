//! The state file. What is on a disk may be anything, and a checksum proves no good will: an
//! input is read as it is, and once more as a file whose checksum is right.
//!
//! Whatever it says: no panic; a refusal is one short printable line; what is accepted can be
//! gone on from; a file cut short is never accepted.

use std::fmt::Write as _;

use nauthilus_backend::engine::state_file::format::{decode, operator_line, read_operator};
use nauthilus_backend::engine::verdicts::health::Thresholds;
use nauthilus_backend::engine::verdicts::{ERROR_MAX, WHAT_MAX};

pub fn state(data: &[u8]) {
    load(data);
}

/// Loads it as it is, and sealed in both versions; whether it was accepted with a checksum.
pub fn load(data: &[u8]) -> bool {
    check(data);
    let mut first = data.to_vec();
    if !first.ends_with(b"\n") {
        first.push(b'\n');
    }
    first.extend_from_slice(checksum_line(&first).as_bytes());
    let in_version_1 = check(&first);
    // The last byte is a line end, which is no loss.
    let part = &first[..first.len() - 2];
    assert!(!(in_version_1 && check(part)), "accepted a part");
    let second = version_2(data);
    let in_version_2 = check(&second);
    let part = &second[..second.len() - usize::from(!data.is_empty())];
    assert!(
        data.is_empty() || !(in_version_2 && check(part)),
        "accepted a part"
    );
    in_version_1 || in_version_2
}

/// A file of version 2 with this content.
fn version_2(content: &[u8]) -> Vec<u8> {
    const CONTENTS_AT: usize = 16 * 1024;
    let sector = |line: &str| {
        let mut bytes = line.as_bytes().to_vec();
        bytes.resize(511, b' ');
        bytes.push(b'\n');
        bytes
    };
    let hex = |bytes: &[u8]| {
        let mut text = String::new();
        for byte in openssl::sha::sha256(bytes) {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    };
    let line = format!("head 8 {CONTENTS_AT} {} {}", content.len(), hex(content));
    let check = hex(line.as_bytes());
    let mut file = sector("nauthilus_backend state 2");
    file.extend(sector(&format!("{line} {}", &check[..16])));
    file.resize(CONTENTS_AT, 0);
    file.extend_from_slice(content);
    file
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
    assert!(saved.targets.len() <= lines + 1, "more targets than lines");
    assert!(
        saved.operators.len() <= lines + 1,
        "more operators than lines"
    );
    let thresholds = Thresholds {
        failure: 1,
        recovery: 1,
        initially_alive: true,
    };
    for line in &saved.unknown {
        assert!(!line.contains('\n'), "{line:?}");
    }
    for operator in &saved.operators {
        assert!(
            (1..=WHAT_MAX).contains(&operator.what.len()),
            "{operator:?}"
        );
        let line = operator_line(operator);
        let rest = line.trim_end_matches('\n').strip_prefix("operator ");
        assert_eq!(rest.and_then(read_operator).as_ref(), Some(operator));
    }
    for target in saved.targets.values() {
        let record = &target.record;
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
    b"saved 1795373316540\nsettings 0 connect=10s deep=10s fast=1s failures=1 recoveries=1 initially=alive\n\
      target 00112233445566778899aabbccddeeff settings=0 verdict=dead connect=196610 deep=65538 \
      since=1795373000000 probes=120 failures=4 changes=2 connect_started=1795373316000 deep_started=0 \
      latency=1234 address=192.0.2.7 certificate_end=- certificate_logged=0 error=\"greeting: \\\"x\\\"\" \
      key=\"imap://192.0.2.7:993\"\n\
      operator what=\"node:mail1\" state=drain since=1795373000000 until=0 by=\"ann\" reason=\"new \\\\ kernel\"\n\
      operator what=\"node:mail1\" weight=- since=1 until=0 by=\"\" reason=\"\"\nanswer 12 ok\nbinding x\n",
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
    "nauthilus_backend state 2",
    "settings ",
    "settings=",
    "operator ",
    "what=\"",
    "state=drain",
    "weight=",
    "answer ",
    "\u{e9}",
    "\u{0}",
];
