//! Version 1 of the state file, which is read but no longer written: one content with one checksum
//! at its end, and one line of settings for all targets.
//!
//! ```text
//! nauthilus_backend state 1
//! saved 1795373316540
//! policy connect=10s deep=10s fast=1s failures=1 recoveries=1 initially=alive
//! target 0011…ff alive 1 - 1795373000000 120 4 … error="" key=imap://10.0.0.1:143
//! sha256 …
//! ```
//!
//! What follows the checksum is ignored: it is the rest of a longer content, whose writer died
//! before it truncated the file.

use std::sync::Arc;
use std::time::Duration;

use super::saved::{Saved, SavedTarget};
use super::text::{hex_sum, optional, to_monotonic_ns};
use crate::engine::verdicts::health::HealthState;
use crate::engine::verdicts::{ERROR_MAX, IdentityHash, Record};

pub(super) const TITLE: &str = "nauthilus_backend state 1";

/// Reads the bytes of a whole file.
///
/// # Errors
/// Why they cannot be used, for a log line.
pub(super) fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not a state file".to_owned())?;
    if !text.starts_with(TITLE) {
        return Err("not a state file of this version".to_owned());
    }
    let (body, rest) = match text.find("\nsha256 ") {
        Some(at) => text.split_at(at + 1),
        None => (text, ""),
    };
    let sum = rest.strip_prefix("sha256 ").and_then(|sum| sum.get(..64));
    if sum != Some(hex_sum(body.as_bytes()).as_str()) {
        return Err("truncated or damaged: its checksum fails".to_owned());
    }
    let mut saved = Saved::default();
    let mut settings: Arc<str> = Arc::default();
    for (number, line) in body.lines().enumerate().skip(1) {
        let read = match line.split_once(' ') {
            Some(("saved", ms)) => ms.parse().ok().map(|ms| saved.saved_ms = ms),
            Some(("policy", rest)) => {
                settings = rest.into();
                Some(())
            }
            Some(("target", rest)) => read_target(rest).map(|(hash, record)| {
                let settings = settings.clone();
                let target = SavedTarget {
                    record,
                    settings,
                    tls: Box::default(),
                    key: String::new(),
                };
                saved.targets.insert(hash, target);
            }),
            _ => None,
        };
        if read.is_none() {
            return Err(format!("line {} does not read", number + 1));
        }
    }
    Ok(saved)
}

fn read_target(line: &str) -> Option<(IdentityHash, Record)> {
    let (fields, rest) = line.split_once(" error=")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let [
        hash,
        _verdict,
        connect,
        deep,
        since,
        probes,
        failures,
        connect_started,
        deep_started,
        latency,
        address,
        not_after,
        certificate_logged,
    ] = fields.as_slice()
    else {
        return None;
    };
    let half = |range| u64::from_str_radix(hash.get(range)?, 16).ok();
    let record = Record {
        connect: read_health(connect)?,
        deep: optional(deep, read_health)?,
        since_ms: since.parse().ok()?,
        probes: probes.parse().ok()?,
        failures: failures.parse().ok()?,
        changes: 0,
        connect_started_ns: to_monotonic_ns(connect_started.parse().ok()?),
        deep_started_ns: to_monotonic_ns(deep_started.parse().ok()?),
        latency: optional(latency, |us| us.parse().ok().map(Duration::from_micros))?,
        address: optional(address, |ip| ip.parse().ok())?,
        not_after: optional(not_after, |at| at.parse().ok())?,
        certificate_logged_ms: certificate_logged.parse().ok()?,
        error: read_error(rest)?,
    };
    Some(([half(0..16)?, half(16..32)?], record))
}

fn read_health(field: &str) -> Option<HealthState> {
    field.parse().ok().map(HealthState::unpack)
}

/// The inverse of `{:?}` for error texts, which are printable and one line.
fn read_error(rest: &str) -> Option<Option<String>> {
    let rest = rest.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => match characters.next()? {
                c @ ('"' | '\\' | '\'') => text.push(c),
                // `{:?}` escapes nothing else that is printable.
                _ => text.push('?'),
            },
            c if c.is_control() => return None,
            c => text.push(c),
        }
        if text.len() > ERROR_MAX {
            return None;
        }
    }
    Some((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state_file::format;
    use crate::engine::state_file::text::{or_dash, to_unix_ms};

    /// Version 1 did not count changes.
    fn record() -> Record {
        Record {
            changes: 0,
            ..format::tests::record()
        }
    }

    /// The line as version 1 wrote it.
    fn line(hash: IdentityHash, record: &Record) -> String {
        let deep = record
            .deep
            .map_or_else(|| "-".to_owned(), |health| health.pack().to_string());
        format!(
            "target {:016x}{:016x} {} {} {deep} {} {} {} {} {} {} {} {} {} error={:?}",
            hash[0],
            hash[1],
            record.verdict().name(),
            record.connect.pack(),
            record.since_ms,
            record.probes,
            record.failures,
            to_unix_ms(record.connect_started_ns),
            to_unix_ms(record.deep_started_ns),
            or_dash(record.latency.map(|latency| latency.as_micros())),
            or_dash(record.address),
            or_dash(record.not_after),
            record.certificate_logged_ms,
            record.error.as_deref().unwrap_or_default(),
        )
    }

    fn file(lines: &[String]) -> String {
        let mut text = format!("{TITLE}\nsaved 1700000000000\npolicy connect=10s\n");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        let sum = hex_sum(text.as_bytes());
        format!("{text}sha256 {sum}\n")
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let plain = Record {
            deep: None,
            error: None,
            address: None,
            latency: None,
            not_after: None,
            connect_started_ns: 0,
            ..record()
        };
        let lines = [line([1, 2], &record()), line([3, 4], &plain)];
        let saved = decode(file(&lines).as_bytes()).unwrap();
        assert_eq!(saved.saved_ms, 1_700_000_000_000);
        assert_eq!(saved.targets[&[3, 4]].record, plain);
        assert_eq!(&*saved.targets[&[3, 4]].settings, "connect=10s");
        let read = &saved.targets[&[1, 2]].record;
        let drift = read
            .connect_started_ns
            .abs_diff(record().connect_started_ns);
        assert!(drift < 50_000_000, "{drift} ns");
        let started = record().connect_started_ns;
        assert_eq!(
            Record {
                connect_started_ns: started,
                ..read.clone()
            },
            Record {
                connect_started_ns: started,
                ..record()
            }
        );
    }

    #[test]
    fn every_change_of_a_byte_is_noticed() {
        let whole = file(&[line([1, 2], &record())]).into_bytes();
        // The line feed after the checksum is not checked.
        for at in 0..whole.len() - 1 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&whole[..at]).is_err(), "cut at {at}");
        }
        let mut longer = whole.clone();
        longer.extend_from_slice(b"the end of an older one");
        assert!(decode(&longer).is_ok());
        assert!(decode(b"").is_err());
        assert!(decode(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn a_line_that_does_not_read_is_named() {
        let text = file(&["target zz alive".to_owned()]);
        assert_eq!(
            decode(text.as_bytes()),
            Err("line 4 does not read".to_owned())
        );
    }
}
