//! The status codes that `expected_status` names: one code, a text of codes and ranges, or a list
//! of both.

use std::ops::RangeInclusive;

use super::super::target::ExpectedStatus;
use super::issue::Issue;
use super::keys::{self, STATUS_CODES as EXPECTED};
use super::reader::{Reader, item_refusal, item_text};
use super::value::Value;

/// The most codes and ranges: no person writes more, and each probe's status is compared with all.
const RANGES_MAX: usize = 100;

pub(super) fn read(reader: &Reader<'_>) -> Result<ExpectedStatus, Issue> {
    let Some(given) = reader.given(&keys::EXPECTED_STATUS)? else {
        return Ok(ExpectedStatus::usual());
    };
    let ranges = match given.value {
        Value::List(_) => {
            let each = reader.list(&keys::EXPECTED_STATUS, |item| {
                ranges(item).ok_or_else(|| Issue::new(item_refusal(EXPECTED, item)))
            })?;
            each.unwrap_or_default().concat()
        }
        value => ranges(value).ok_or_else(|| reader.refused(&keys::EXPECTED_STATUS, value))?,
    };
    if ranges.is_empty() || ranges.len() > RANGES_MAX {
        let problem = format!("{EXPECTED} expected, got {} of them", ranges.len());
        return Err(reader.conflict(&keys::EXPECTED_STATUS, &problem));
    }
    Ok(ExpectedStatus::new(ranges))
}

/// The codes that a number or a text names. None if the value is neither, or out of range.
fn ranges(value: &Value) -> Option<Vec<RangeInclusive<u16>>> {
    match value {
        Value::Int(code) => Some(vec![range(u16::try_from(*code).ok()?, None)?]),
        // Lua 5.1 has no integers.
        Value::Float(code) if code.fract() == 0.0 && (0.0..1000.0).contains(code) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a whole number of three digits"
            )]
            let code = *code as u16;
            Some(vec![range(code, None)?])
        }
        _ => item_text(value)?.split(',').map(named).collect(),
    }
}

/// `200` or `200-299`, with spaces around.
fn named(text: &str) -> Option<RangeInclusive<u16>> {
    match text.split_once('-') {
        Some((first, last)) => range(code(first)?, Some(code(last)?)),
        None => range(code(text)?, None),
    }
}

/// Three digits: a sign or a leading zero is a slip.
fn code(text: &str) -> Option<u16> {
    let text = text.trim_ascii();
    let is_code = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    is_code.then(|| text.parse().ok()).flatten()
}

fn range(first: u16, last: Option<u16>) -> Option<RangeInclusive<u16>> {
    let last = last.unwrap_or(first);
    let is_allowed = |code| ExpectedStatus::ALLOWED.contains(code);
    (first <= last && is_allowed(&first) && is_allowed(&last)).then_some(first..=last)
}
