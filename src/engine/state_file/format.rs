//! The content of a state file: the verdicts of a table and the operators' settings, as text.
//!
//! ```text
//! saved 1795373316540
//! settings 0 connect=10s deep=10s fast=1s failures=1 recoveries=1 initially=alive
//! target 0011…ff settings=0 verdict=alive connect=1 since=1795373000000 … key="imap://10.0.0.1:143"
//! operator node:mail1 state=drain since=1795373000000 by="ann" reason="kernel update"
//! answer 12 ok
//! ```
//!
//! `docs/formats.md` describes every line. A line of an unknown kind is kept and written again; an
//! unknown field of a known line is lost. So what a later version adds has to be a line of its own
//! if it is to survive an older writer.
//!
//! A content is refused as a whole where its checksum fails, or where a line of a known kind does
//! not read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::container::{CONTENTS_AT, FILE_MAX, PAGE, fits, has_title, heads};
use super::saved::{RequestAnswer, Saved, SavedTarget, WantedSetting};
use super::text::{optional, or_dash, settings, to_monotonic_ns, to_unix_ms};
use super::version_1;
use crate::engine::config::Config;
use crate::engine::fields::{Fields, put, put_quoted};
use crate::engine::tls_details::TLS_LINE_MAX;
use crate::engine::verdicts::health::HealthState;
use crate::engine::verdicts::{
    ERROR_MAX, IdentityHash, Operator, OperatorState, Record, Setting, Slot, VerdictTable, WHAT_MAX,
};
use crate::sys::clock;

/// How many bytes of unknown lines are kept: a file must not grow without bound.
const UNKNOWN_MAX: usize = 1024 * 1024;

/// The content for all targets of a configuration. `answer`: the last request that was handled, and
/// the lines of its reply as [`put_reply`] makes them; `unknown`: lines that were read from the file
/// and are written again.
pub fn encode(
    config: &Config,
    table: &VerdictTable,
    slots: &[Slot],
    answer: Option<(&RequestAnswer, &str)>,
    unknown: &[String],
) -> String {
    let mut text = format!("saved {}\n", clock::unix_ms());
    let mut known_settings: HashMap<String, usize> = HashMap::new();
    for (target, slot) in config.targets.iter().zip(slots) {
        let next = known_settings.len();
        let settings = settings(config, target);
        let number = match known_settings.get(&settings) {
            Some(number) => *number,
            None => {
                text.push_str(&format!("settings {next} {settings}\n"));
                known_settings.insert(settings, next);
                next
            }
        };
        let (hash, record) = (table.hash(*slot), table.read(*slot));
        let tls = table.tls(*slot).unwrap_or_default();
        text.push_str(&target_line(hash, number, &record, &tls, &target.key()));
    }
    for operator in table.operators() {
        text.push_str(&operator_line(&operator));
    }
    if let Some((answer, reply)) = answer {
        text.push_str(&format!(
            "answer {} {}\n",
            answer.number,
            one_line(&answer.text)
        ));
        text.push_str(reply);
    }
    for line in unknown {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Adds the line of a content for a line of a reply.
pub fn put_reply(text: &mut String, line: &str) {
    text.push_str("reply ");
    let of_line = |c: char| if c.is_control() { ' ' } else { c };
    text.extend(line.chars().map(of_line));
    text.push('\n');
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn target_line(
    hash: IdentityHash,
    settings: usize,
    record: &Record,
    tls: &str,
    key: &str,
) -> String {
    let mut line = format!("target {:016x}{:016x}", hash[0], hash[1]);
    put(&mut line, "settings", settings);
    put(&mut line, "verdict", record.verdict().name());
    put(&mut line, "connect", record.connect.pack());
    put(
        &mut line,
        "deep",
        or_dash(record.deep.map(HealthState::pack)),
    );
    put(&mut line, "since", record.since_ms);
    put(&mut line, "probes", record.probes);
    put(&mut line, "failures", record.failures);
    put(&mut line, "changes", record.changes);
    put(
        &mut line,
        "connect_started",
        to_unix_ms(record.connect_started_ns),
    );
    put(
        &mut line,
        "deep_started",
        to_unix_ms(record.deep_started_ns),
    );
    put(
        &mut line,
        "latency",
        or_dash(record.latency.map(|latency| latency.as_micros())),
    );
    put(&mut line, "address", or_dash(record.address));
    put(&mut line, "certificate_end", or_dash(record.not_after));
    put(
        &mut line,
        "certificate_logged",
        record.certificate_logged_ms,
    );
    put_quoted(
        &mut line,
        "error",
        record.error.as_deref().unwrap_or_default(),
    );
    if !tls.is_empty() {
        put_quoted(&mut line, "tls", tls);
    }
    put_quoted(&mut line, "key", key);
    line.push('\n');
    line
}

/// The line of an operator's setting. Requests contain the same lines.
pub fn operator_line(operator: &Operator) -> String {
    let mut line = "operator".to_owned();
    put_quoted(&mut line, "what", &operator.what);
    match operator.setting {
        Setting::State(state) => put(&mut line, "state", state.name()),
        Setting::Weight(weight) => put(&mut line, "weight", or_dash(weight)),
    }
    put(&mut line, "since", operator.since_ms);
    put(&mut line, "until", operator.until_ms);
    put_quoted(&mut line, "by", &operator.by);
    put_quoted(&mut line, "reason", &operator.reason);
    line.push('\n');
    line
}

/// Reads the bytes of a whole file.
///
/// # Errors
/// Why they cannot be used, for a log line.
pub fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let read = |offset: u64, length: usize| {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let end = start.saturating_add(length).min(bytes.len());
        Ok(bytes.get(start..end).unwrap_or_default().to_vec())
    };
    read_file(read).and_then(|saved| saved.ok_or_else(|| "not a state file".to_owned()))
}

/// Reads a file piece by piece; `None` where no content was ever written to it. `read(offset, length)` returns at
/// most `length` bytes, fewer at the end of the file.
///
/// # Errors
/// Why it cannot be used, for a log line.
pub(super) fn read_file(
    mut read: impl FnMut(u64, usize) -> std::io::Result<Vec<u8>>,
) -> Result<Option<Saved>, String> {
    let mut bytes =
        |offset, length| read(offset, length).map_err(|e| format!("cannot be read: {e}"));
    let page = bytes(0, PAGE)?;
    let is_blank = page.iter().all(|&byte| byte == 0);
    // A new file, in which there may already be a request.
    if is_blank && bytes(CONTENTS_AT, 1)?.is_empty() {
        return Ok(None);
    }
    if page.starts_with(version_1::TITLE.as_bytes()) {
        let content = bytes(0, FILE_MAX + 1)?;
        if content.len() > FILE_MAX {
            return Err("too long".to_owned());
        }
        return version_1::decode(&content).map(Some);
    }
    if !has_title(&page) {
        return Err("not a state file of this version".to_owned());
    }
    let mut reason = None;
    for head in heads(&page) {
        let content = bytes(head.offset, head.length)?;
        let read = if fits(&head, &content) {
            decode_content(&content)
        } else {
            Err(damaged())
        };
        match read {
            Ok(saved) => {
                let number = head.number;
                return Ok(Some(Saved { number, ..saved }));
            }
            Err(why) => reason = reason.or(Some(why)),
        }
    }
    Err(reason.unwrap_or_else(damaged))
}

fn damaged() -> String {
    "truncated or damaged: its checksum fails".to_owned()
}

fn decode_content(content: &[u8]) -> Result<Saved, String> {
    let text = std::str::from_utf8(content).map_err(|_| "not a state file".to_owned())?;
    let mut saved = Saved::default();
    let mut settings: HashMap<&str, Arc<str>> = HashMap::new();
    let mut unknown = 0;
    for (number, line) in text.lines().enumerate() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let read = match kind {
            "saved" => rest.parse().ok().map(|ms| saved.saved_ms = ms),
            "settings" => rest.split_once(' ').map(|(number, rest)| {
                settings.insert(number, rest.into());
            }),
            "target" => read_target(rest, &settings).map(|(hash, target)| {
                saved.targets.insert(hash, target);
            }),
            "operator" => read_operator(rest).map(|operator| saved.operators.push(operator)),
            "answer" => read_answer(rest).map(|answer| saved.answer = Some(answer)),
            "reply" => {
                if let Some(answer) = &mut saved.answer {
                    answer.reply.push(rest.to_owned());
                }
                Some(())
            }
            _ => {
                unknown += line.len() + 1;
                if unknown <= UNKNOWN_MAX && !line.is_empty() {
                    saved.unknown.push(line.to_owned());
                }
                Some(())
            }
        };
        if read.is_none() {
            return Err(format!("line {} does not read", number + 1));
        }
    }
    Ok(saved)
}

fn read_target(
    line: &str,
    settings: &HashMap<&str, Arc<str>>,
) -> Option<(IdentityHash, SavedTarget)> {
    let (hash, rest) = line.split_once(' ')?;
    let half = |range| u64::from_str_radix(hash.get(range)?, 16).ok();
    let hash = [half(0..16)?, half(16..32)?];
    let mut target = SavedTarget::default();
    let record = &mut target.record;
    for field in Fields::of(rest) {
        let (name, value) = field.ok()?;
        let value = value.as_ref();
        match name {
            "settings" => target.settings = settings.get(value)?.clone(),
            "connect" => record.connect = read_health(value)?,
            "deep" => record.deep = optional(value, read_health)?,
            "since" => record.since_ms = value.parse().ok()?,
            "probes" => record.probes = value.parse().ok()?,
            "failures" => record.failures = value.parse().ok()?,
            "changes" => record.changes = value.parse().ok()?,
            "connect_started" => record.connect_started_ns = to_monotonic_ns(value.parse().ok()?),
            "deep_started" => record.deep_started_ns = to_monotonic_ns(value.parse().ok()?),
            "latency" => {
                record.latency = optional(value, |us| us.parse().ok().map(Duration::from_micros))?;
            }
            "address" => record.address = optional(value, |ip| ip.parse().ok())?,
            "certificate_end" => record.not_after = optional(value, |at| at.parse().ok())?,
            "certificate_logged" => record.certificate_logged_ms = value.parse().ok()?,
            "error" if value.len() > ERROR_MAX => return None,
            "error" => record.error = (!value.is_empty()).then(|| value.to_owned()),
            "tls" if value.len() > TLS_LINE_MAX => return None,
            "tls" => target.tls = value.into(),
            "key" => target.key = value.to_owned(),
            // A field for people (`verdict`), and those of later versions.
            _ => {}
        }
    }
    Some((hash, target))
}

fn read_health(field: &str) -> Option<HealthState> {
    field.parse().ok().map(HealthState::unpack)
}

/// The line of a setting that an operator asks for.
pub fn wanted_line(wanted: &WantedSetting) -> String {
    let mut line = "set".to_owned();
    put_quoted(&mut line, "what", &wanted.what);
    match wanted.setting {
        Setting::State(state) => put(&mut line, "state", state.name()),
        Setting::Weight(weight) => put(&mut line, "weight", or_dash(weight)),
    }
    put(&mut line, "for", wanted.for_ms);
    put_quoted(&mut line, "by", &wanted.by);
    put_quoted(&mut line, "reason", &wanted.reason);
    line.push('\n');
    line
}

/// Reads such a line: the part after `set `.
pub fn read_wanted(rest: &str) -> Option<WantedSetting> {
    // A line of a request has the fields of a content's line, with `for` instead of the times.
    let operator = read_operator(rest)?;
    let mut for_ms = 0;
    for field in Fields::of(rest) {
        let (name, value) = field.ok()?;
        if name == "for" {
            for_ms = value.parse().ok()?;
        }
    }
    Some(WantedSetting {
        what: operator.what,
        setting: operator.setting,
        for_ms,
        by: operator.by,
        reason: operator.reason,
    })
}

/// Reads an operator's setting: the part of its line after `operator `.
pub fn read_operator(rest: &str) -> Option<Operator> {
    let mut setting = None;
    let mut operator = Operator {
        what: String::new(),
        setting: Setting::State(OperatorState::Auto),
        since_ms: 0,
        until_ms: 0,
        reason: String::new(),
        by: String::new(),
    };
    for field in Fields::of(rest) {
        let (name, value) = field.ok()?;
        match name {
            "what" => operator.what = value.into_owned(),
            "state" => setting = Some(Setting::State(OperatorState::from_name(&value)?)),
            "weight" => {
                setting = Some(Setting::Weight(optional(&value, |weight| {
                    weight.parse().ok()
                })?))
            }
            "since" => operator.since_ms = value.parse().ok()?,
            "until" => operator.until_ms = value.parse().ok()?,
            "by" => operator.by = value.into_owned(),
            "reason" => operator.reason = value.into_owned(),
            _ => {}
        }
    }
    operator.setting = setting?;
    let is_named = (1..=WHAT_MAX).contains(&operator.what.len());
    is_named.then_some(operator)
}

fn read_answer(rest: &str) -> Option<RequestAnswer> {
    let (number, text) = rest.split_once(' ')?;
    Some(RequestAnswer {
        number: number.parse().ok()?,
        text: text.to_owned(),
        reply: Vec::new(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::state_file::container::{Head, title};
    use crate::engine::verdicts::health::Verdict;

    const TLS: &str = "at=1 protocol=TLSv1.3 subject=\"CN=a \\\\ b\"";

    /// A record in which each field has a value of its own.
    pub(in crate::engine::state_file) fn record() -> Record {
        Record {
            connect: HealthState {
                verdict: Verdict::Dead,
                failures: 3,
                successes: 0,
                refusals: 2,
            },
            deep: Some(HealthState::default()),
            since_ms: 1_700_000_000_000,
            probes: 7,
            failures: 3,
            changes: 2,
            connect_started_ns: clock::monotonic_ns() - 2_000_000_000,
            deep_started_ns: 0,
            latency: Some(Duration::from_micros(1234)),
            address: Some("2001:db8::1".parse().unwrap()),
            not_after: Some(1_800_000_000),
            certificate_logged_ms: 1_700_000_000_001,
            error: Some("greeting: \"* BYE\" error=\\ x".to_owned()),
        }
    }

    fn operators() -> Vec<Operator> {
        let drain = Operator {
            what: "node:mail1".to_owned(),
            setting: Setting::State(OperatorState::Drain),
            since_ms: 1_700_000_000_002,
            until_ms: 0,
            reason: "new \"kernel\" \\".to_owned(),
            by: "ann".to_owned(),
        };
        let weight = |weight| Operator {
            setting: Setting::Weight(weight),
            until_ms: 1_800_000_000_000,
            reason: String::new(),
            ..drain.clone()
        };
        vec![drain.clone(), weight(Some(0)), weight(None)]
    }

    fn content(lines: &[String]) -> String {
        let mut text =
            "saved 1700000000000\nsettings 0 connect=10s deep=10s\nsettings 1 connect=1s\n"
                .to_owned();
        for line in lines {
            text.push_str(line);
        }
        text
    }

    /// A file with one content, or two of which the second is the newer one.
    fn file(contents: &[&str]) -> Vec<u8> {
        let mut bytes = title();
        let mut last: Option<Head> = None;
        for (number, content) in contents.iter().enumerate() {
            let head = Head::after(last.as_ref(), u64::try_from(number).unwrap() + 8, content);
            let mut put = |at: u64, data: &[u8]| {
                let at = usize::try_from(at).unwrap();
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(data);
            };
            put(head.offset, content.as_bytes());
            put(head.place(), &head.sector());
            last = Some(head);
        }
        bytes
    }

    #[test]
    fn a_content_reads_as_it_was_written() {
        let plain = Record {
            deep: None,
            error: None,
            address: None,
            latency: None,
            not_after: None,
            connect_started_ns: 0,
            ..record()
        };
        let mut lines = vec![
            target_line([1, 2], 0, &record(), TLS, "imap://[2001:db8::1]:143"),
            target_line([3, 4], 1, &plain, "", "imap://a:143"),
            "answer 12 ok\n".to_owned(),
        ];
        lines.extend(operators().iter().map(operator_line));
        let saved = decode(&file(&[&content(&lines)])).unwrap();
        assert_eq!((saved.number, saved.saved_ms), (8, 1_700_000_000_000));
        assert_eq!(saved.targets[&[3, 4]].record, plain);
        assert_eq!(&*saved.targets[&[3, 4]].settings, "connect=1s");
        assert_eq!(&*saved.targets[&[3, 4]].tls, "");
        assert_eq!(&*saved.targets[&[1, 2]].tls, TLS);
        assert_eq!(saved.operators, operators());
        assert_eq!(
            saved.answer.as_ref().map(|a| (a.number, a.text.as_str())),
            Some((12, "ok"))
        );
        let read = &saved.targets[&[1, 2]].record;
        let started = record().connect_started_ns;
        assert!(read.connect_started_ns.abs_diff(started) < 60_000_000_000);
        let without_start = |record: &Record| Record {
            connect_started_ns: 0,
            ..record.clone()
        };
        assert_eq!(without_start(read), without_start(&record()));
    }

    #[test]
    fn lines_and_fields_of_a_version_to_come_are_no_mistake() {
        let mut line = target_line([1, 2], 0, &record(), TLS, "imap://a:143");
        line.truncate(line.len() - 1);
        line.push_str(" colour=\"light blue\"\n");
        let lines = [line, "binding 12 x=1\n".to_owned(), "node\n".to_owned()];
        let saved = decode(&file(&[&content(&lines)])).unwrap();
        assert_eq!(saved.targets.len(), 1);
        assert_eq!(saved.unknown, ["binding 12 x=1", "node"]);
    }

    #[test]
    fn the_newest_good_content_counts() {
        let (old, new) = (content(&[]), content(&["node a\n".to_owned()]));
        let whole = file(&[&old, &new]);
        let read = |bytes: &[u8]| decode(bytes).map(|saved| saved.number);
        assert_eq!(read(&whole), Ok(9));
        let head = |number: usize| if number.is_multiple_of(2) { 512 } else { 1024 };
        // Whichever part of the newer content is damaged, the older one is read.
        let new_at = whole.windows(6).rposition(|w| w == b"node a").unwrap();
        for at in [head(9), new_at] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), Ok(8));
            damaged[head(8)] ^= 1;
            assert!(read(&damaged).is_err());
        }
        assert_eq!(read(&whole[..new_at]), Ok(8));
    }

    #[test]
    fn every_change_of_a_byte_is_noticed() {
        let text = content(&[target_line([1, 2], 0, &record(), TLS, "imap://a:143")]);
        let whole = file(&[&text]);
        let start = whole.len() - text.len();
        for at in start..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&whole[..at]).is_err(), "cut at {at}");
        }
        let longer = [whole.as_slice(), b"the end of an older one"].concat();
        assert!(decode(&longer).is_ok());
        assert!(decode(b"").is_err());
        assert!(decode(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn a_line_of_a_known_kind_that_does_not_read_is_named() {
        for bad in [
            "target zz verdict=alive\n",
            "operator what=\"\" state=drain\n",
            "saved x\n",
            "answer x\n",
        ] {
            let text = content(&[bad.to_owned()]);
            assert_eq!(
                decode(&file(&[&text])),
                Err("line 4 does not read".to_owned()),
                "{bad}"
            );
        }
    }
}
