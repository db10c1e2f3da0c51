//! Time that several processes of one machine can compare.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds of `CLOCK_MONOTONIC`: the same for every process since boot, never set back.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec for the call to fill in. CLOCK_MONOTONIC exists on
    // every Linux, so the call cannot fail; if it did, `now` would still be initialised.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Whole milliseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Milliseconds since 1970; 0 before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms)
}

/// What `CLOCK_MONOTONIC` would have said, in nanoseconds, when 1970 began.
///
/// Two clocks are not read at one moment: a thread that loses its processor in between would
/// take the pause for a difference. The reading that took least counts.
pub fn monotonic_epoch_ns() -> i64 {
    const TRIES: usize = 10;
    const SHORT_NS: u64 = 100_000;
    let mut shortest = u64::MAX;
    let mut epoch = 0;
    for _ in 0..TRIES {
        let before = monotonic_ns();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ns);
        let took = monotonic_ns().saturating_sub(before);
        if took < shortest {
            shortest = took;
            let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            epoch = signed(before + took / 2).saturating_sub(signed(unix));
        }
        if shortest < SHORT_NS {
            break;
        }
    }
    epoch
}

/// Whole milliseconds, as many as fit.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole nanoseconds, as many as fit.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
