//! Durations as a user writes them: seconds as a number, or text such as `500ms` or `1m30s`.
//!
//! Not the crate `humantime`: it reads `1 0s` as ten seconds, accepts months and years, and panics if the sum
//! exceeds `Duration::MAX`.

use std::time::Duration;

use super::value::Value;

/// Units by length in nanoseconds, the largest first.
const UNITS: [(&str, u128); 9] = [
    ("w", 7 * DAY),
    ("d", DAY),
    ("h", 3_600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];
const SECOND: u128 = 1_000_000_000;
const DAY: u128 = 86_400 * SECOND;

/// A duration from a number of seconds or a text; `None` for anything else, for a negative or
/// undefined number, and for what exceeds [`Duration::MAX`].
pub(super) fn from_value(value: &Value) -> Option<Duration> {
    match value {
        Value::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        Value::Str(text) | Value::Env { text, .. } => parse(text),
        _ => None,
    }
}

/// `500ms`, `10s`, `1m30s`, `1.5s`, `14d`; a number without a unit is in seconds, as Lua coerces
/// it. Digits beyond a nanosecond are cut off.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim_ascii();
    let mut nanos: u128 = 0;
    let mut first = true;
    while first || !rest.is_empty() {
        let (amount, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| !c.is_ascii_digit() && c != '.');
        let scale = match unit {
            "" if first => SECOND,
            _ => UNITS.iter().find(|(name, _)| *name == unit)?.1,
        };
        nanos = nanos.checked_add(scaled(amount, scale)?)?;
        rest = after;
        first = false;
    }
    let seconds = u64::try_from(nanos / SECOND).ok()?;
    let below = u32::try_from(nanos % SECOND).ok()?;
    Some(Duration::new(seconds, below))
}

/// Splits before the first character that `keep` rejects.
fn split(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

/// A decimal number (`12`, `1.5`, `.5`) of units of `scale` nanoseconds.
fn scaled(amount: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0_u128)
        } else {
            text.parse().ok()
        }
    };
    // Further decimal places are less than a nanosecond even in weeks, the largest unit.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let places = u32::try_from(fraction.len()).ok()?;
    let part = digits(fraction)?.checked_mul(scale)? / 10_u128.checked_pow(places)?;
    digits(whole)?.checked_mul(scale)?.checked_add(part)
}

/// The shortest text of [`parse`]'s language for a duration: `24h`, `1m30s`, `500ms`.
pub(super) fn text(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, scale) in UNITS {
        // `24h` and `30d` are easier to read than `1d` and `4w2d`.
        let rounds = match unit {
            "w" | "µs" => continue,
            "d" => nanos.is_multiple_of(DAY) && nanos > DAY,
            _ => nanos >= scale,
        };
        if rounds {
            out.push_str(&format!("{}{unit}", nanos / scale));
            nanos %= scale;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_mean_what_they_say() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("14d", 1_209_600_000),
            ("2w", 1_209_600_000),
            ("1.5s", 1_500),
            ("1m0.5s", 60_500),
            (".5s", 500),
            ("5.s", 5_000),
            ("2", 2_000),
            ("2.25", 2_250),
            (" 3s ", 3_000),
            ("1500us", 1),
            ("1500µs", 1),
            ("0s", 0),
            ("0", 0),
            ("0.0000000000000000000000000001s", 0),
        ] {
            let parsed = parse(text).map(|d| d.as_millis());
            assert_eq!(parsed, Some(millis), "{text}");
        }
        assert_eq!(parse("1ns"), Some(Duration::from_nanos(1)));
        assert_eq!(parse("1.5us"), Some(Duration::from_nanos(1_500)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "s",
            ".",
            ".s",
            "-1s",
            "+1s",
            "1 0s",
            "1m 30s",
            "1x",
            "10sec",
            "1e3s",
            "1..5s",
            "1.2.3s",
            "1.0000000000000000000.5s",
            "1m30",
            "1,5s",
            "NaN",
            "inf",
            "infinity",
            "0x10",
            "\u{661}s",
            "1s\0",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        // More than Duration::MAX, more than u128, and a sum that exceeds them.
        assert_eq!(parse("18446744073709551616s"), None);
        assert_eq!(parse("18446744073709551615.999999999s1ns"), None);
        assert_eq!(parse(&format!("{}s", "9".repeat(60))), None);
        assert_eq!(
            parse("18446744073709551615s"),
            Some(Duration::from_secs(u64::MAX))
        );
    }

    #[test]
    fn numbers_are_seconds() {
        for (value, expected) in [
            (Value::Int(3), Some(Duration::from_secs(3))),
            (Value::Int(0), Some(Duration::ZERO)),
            (Value::Int(-1), None),
            (Value::Int(i64::MIN), None),
            (Value::Float(0.25), Some(Duration::from_millis(250))),
            (Value::Float(-0.25), None),
            (Value::Float(f64::NAN), None),
            (Value::Float(f64::INFINITY), None),
            (Value::Float(1e300), None),
            (Value::Bool(true), None),
            (Value::Nil, None),
        ] {
            assert_eq!(from_value(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_written_duration_reads_back() {
        for (millis, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1s500ms"),
            (60_000, "1m"),
            (90_000, "1m30s"),
            (86_400_000, "24h"),
            (86_400_000 * 14, "14d"),
            (86_400_000 * 365, "365d"),
            (86_400_000 + 1, "24h1ms"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(text(duration), expected);
            assert_eq!(parse(expected), Some(duration), "{expected}");
        }
    }
}
