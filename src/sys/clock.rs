//! Clocks whose readings can be compared between processes of one machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds of `CLOCK_MONOTONIC`, which is never set back. All processes of a machine read the
/// same clock (but for those in a time namespace of their own).
pub fn monotonic_ns() -> u64 {
    nanoseconds_of(libc::CLOCK_MONOTONIC)
}

/// Whole microseconds of `CLOCK_BOOTTIME`: `CLOCK_MONOTONIC` that also goes on while the machine is suspended.
pub fn boot_us() -> u64 {
    nanoseconds_of(libc::CLOCK_BOOTTIME) / 1000
}

fn nanoseconds_of(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` has room for what the call writes, and is initialised even if the call fails
    // (it cannot: every Linux has these clocks).
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Whole microseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_us() -> u64 {
    monotonic_ns() / 1000
}

/// Whole milliseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Milliseconds since 1970-01-01 UTC; 0 if the clock is set to an earlier time.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms)
}

/// The value in nanoseconds that `CLOCK_MONOTONIC` would have had at 1970-01-01 UTC, by the present
/// setting of the system clock. Usually negative.
///
/// The two clocks cannot be read at the same moment, and a thread that is preempted between the
/// readings would add the pause to the result. So both are read up to 10 times, until a reading
/// takes less than 100 µs, and the shortest one counts.
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

/// Whole milliseconds; `u64::MAX` if there are more.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole nanoseconds; `u64::MAX` if there are more.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
