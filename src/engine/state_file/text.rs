//! What both versions of the format share.

use std::fmt::Write as _;

use crate::engine::config::{Config, InitialState};
use crate::engine::target::Target;
use crate::engine::verdicts::digest;
use crate::sys::clock;

/// SHA-256 as 64 hexadecimal digits.
pub(super) fn hex_sum(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest::sha256(bytes) {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// A target's intervals and thresholds as text. A process relies on verdicts in the state file only
/// where its writer probes with the same ones.
pub fn settings(config: &Config, target: &Target) -> String {
    let time = humantime::format_duration;
    let policy = &target.policy;
    let initially = match config.initial_state {
        InitialState::Alive => "alive",
        InitialState::Dead => "dead",
    };
    format!(
        "connect={} deep={} fast={} failures={} recoveries={} initially={initially}",
        time(policy.connect_interval),
        time(policy.deep_interval),
        time(policy.fast_interval),
        policy.failure_threshold,
        policy.recovery_threshold,
    )
}

pub(super) fn optional<T>(field: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    match field {
        "-" => Some(None),
        field => read(field).map(Some),
    }
}

pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Converts a start time for the file, which holds wall-clock times: the monotonic clock starts
/// anew with each boot. 0 (never) stays 0.
pub(super) fn to_unix_ms(monotonic_ns: u64) -> u64 {
    if monotonic_ns == 0 {
        return 0;
    }
    let then = i64::try_from(monotonic_ns).unwrap_or(i64::MAX);
    let unix_ns = then.saturating_sub(clock::monotonic_epoch_ns());
    u64::try_from(unix_ns / 1_000_000).unwrap_or(0)
}

/// The inverse of [`to_unix_ms`]. A time in the future or before this boot becomes 0 (never).
pub(super) fn to_monotonic_ns(unix_ms: u64) -> u64 {
    if unix_ms == 0 {
        return 0;
    }
    let unix_ns = i64::try_from(unix_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let then = unix_ns.saturating_add(clock::monotonic_epoch_ns());
    let then = u64::try_from(then).unwrap_or(0);
    let now = clock::monotonic_ns();
    match then.checked_sub(now) {
        // Converting the present moment between two clocks may give a time slightly ahead.
        Some(ahead) if ahead < 1_000_000_000 => now,
        Some(_) => 0,
        None => then,
    }
}
