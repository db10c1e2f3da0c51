//! The time of Redis's clock. Deadlines are sent in that clock, so that a script that runs too late can
//! notice it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::sys::clock::{self, monotonic_us};

/// For how long, in microseconds, the quickest measurement of Redis's clock is preferred to later, slower
/// ones. After that the two clocks may have drifted apart.
const BEST_FOR_US: u64 = 30_000_000;

/// The difference between Redis's clock and this machine's `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub(super) struct RedisClock(Mutex<Option<Measured>>);

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Redis's clock minus this machine's, in microseconds. Wrapping, as clocks may differ by any
    /// amount.
    offset: u64,
    /// How long the answer took: the offset is wrong by half of it at most.
    took: u64,
    at: u64,
}

impl RedisClock {
    /// Records an answer of Redis: its clock was at `redis_us`, in microseconds since 1970, at some moment
    /// between `asked`, in microseconds of `CLOCK_MONOTONIC`, and now.
    pub(super) fn measured(&self, asked: u64, redis_us: u64) {
        self.measured_at(asked, monotonic_us(), redis_us);
    }

    fn measured_at(&self, asked: u64, answered: u64, redis_us: u64) {
        let took = answered.saturating_sub(asked);
        let new = Measured {
            offset: redis_us.wrapping_sub(asked.saturating_add(took / 2)),
            took,
            at: answered,
        };
        let mut best = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_kept = best.is_some_and(|best| {
            let differ = new.offset.wrapping_sub(best.offset);
            let differ = differ.min(differ.wrapping_neg());
            // If both offsets cannot be right, Redis's clock was set in between.
            let is_possible = differ <= (new.took + best.took) / 2 + 1_000;
            is_possible && best.took < new.took && answered.saturating_sub(best.at) < BEST_FOR_US
        });
        if !is_kept {
            *best = Some(new);
        }
    }

    /// Microseconds since 1970 in Redis at a time of this machine; 0 before the first measurement.
    pub(super) fn at(&self, time: Instant) -> u64 {
        let left = time.saturating_duration_since(Instant::now());
        let left = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        self.at_us(monotonic_us().saturating_add(left))
    }

    fn at_us(&self, monotonic: u64) -> u64 {
        let best = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        best.map_or(0, |best| monotonic.wrapping_add(best.offset))
    }

    /// The time in Redis now, in microseconds since 1970; before the first measurement that of this
    /// machine's own clock.
    pub(super) fn now(&self) -> u64 {
        match self.at(Instant::now()) {
            0 => clock::unix_ms().saturating_mul(1000),
            now => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_answer_counts_unless_the_clock_was_set() {
        let clock = RedisClock::default();
        assert_eq!(clock.at_us(5), 0);
        clock.measured_at(1_000, 1_100, 5_001_050);
        assert_eq!(clock.at_us(2_000), 5_002_000);
        // A slow answer is less exact, so the offset stays.
        clock.measured_at(3_000, 53_000, 5_004_000);
        assert_eq!(clock.at_us(2_000), 5_002_000);
        // Redis's clock was set back by four seconds.
        clock.measured_at(60_000, 60_200, 1_060_100);
        assert_eq!(clock.at_us(70_000), 1_070_000);
        // The best one is used for 30 s.
        clock.measured_at(40_000_000, 40_050_000, 41_025_400);
        assert_eq!(clock.at_us(40_050_000), 41_050_400);
    }
}
