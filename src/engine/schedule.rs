//! When probes are due: pure arithmetic.
//!
//! First looks come early, so that a verdict comes soon, and so lie close together where
//! targets are few. The second look spreads them: it comes as much later as puts the target
//! where its phase says, evenly over the interval, and never later than an interval after
//! the first. From then on a target keeps its place, give or take the jitter.

use std::time::Duration;

use crate::sys::clock;

/// How far from its interval a probe may be due, either way: what is drawn, and what the
/// grid adds.
const JITTER: f64 = 0.05;
const DRAWN: f64 = JITTER - 0.5 / GRID_SHARE as f64;

/// Probes that are due within this share of an interval may start together: waking up costs
/// as much as a probe.
const GRID_SHARE: u32 = 39;

/// But no longer than so many milliseconds: twice as long where that gathers few.
const GRID_MAX_MS: u64 = 128;
const GRID_WIDE_MS: u64 = 2 * GRID_MAX_MS;

/// So many probes that start together are few.
const FEW: usize = 16;

/// First looks are spread so that this many start in a second.
const FIRST_LOOKS_PER_SECOND: u32 = 100;

/// The time over which the first looks of `count` timers are spread: short for a few, at
/// most the interval.
pub(super) fn first_window(fast: Duration, interval: Duration, count: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let paced = Duration::from_secs(1) * count / FIRST_LOOKS_PER_SECOND;
    paced.max(fast).min(interval)
}

/// Where in its round a timer is, from 0 to 1: evenly apart by position, at random within
/// its share.
pub(super) fn phase(position: usize, count: usize) -> f32 {
    (position as f32 + fastrand::f32()) / count.max(1) as f32
}

/// How long after a look that came in its phase of a `window` the next one is due. At least
/// the window, at most the interval; where both are the same, that.
pub(super) fn spread_after(window: Duration, interval: Duration, phase: f32) -> Duration {
    let window = window.min(interval);
    window + (interval - window).mul_f32(phase.clamp(0.0, 1.0))
}

/// An interval with its jitter.
pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - DRAWN + 2.0 * DRAWN * fastrand::f64())
}

/// The times at which timers are due together.
///
/// They are powers of two of a millisecond apart and counted from when the runtime was made:
/// its timer wheel wakes once for such a time, and twice or more for any other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    origin_ns: u64,
    max_ms: u64,
}

impl Grid {
    /// To be called just before the runtime is built.
    pub(super) fn begin() -> Self {
        Self {
            origin_ns: clock::monotonic_ns(),
            max_ms: GRID_MAX_MS,
        }
    }

    /// The grid for `count` timers of about this interval.
    pub(super) fn fitted(self, count: usize, interval: Duration) -> Self {
        let steps = clock::ms(interval) / GRID_WIDE_MS;
        let gathers_few = usize::try_from(steps).is_ok_and(|steps| count <= FEW * steps);
        Self {
            max_ms: if gathers_few {
                GRID_WIDE_MS
            } else {
                GRID_MAX_MS
            },
            ..self
        }
    }

    /// When to wake for a look that is due about `at_ns`, where the next probe is due at
    /// `next_due`. Who wakes for a probe looks as well, and the timer stays for the next time:
    /// to set the only timer of a runtime costs two system calls.
    pub(super) fn look(self, at_ns: u64, next_due: Option<u64>) -> u64 {
        let near = self.nearest(at_ns, Duration::MAX);
        match next_due {
            Some(due) if due <= near => near + self.max_ms * 1_000_000,
            _ => near,
        }
    }

    /// The time nearest to `due_ns` at which timers of this interval are due: the average
    /// interval stays what it is.
    pub(super) fn nearest(self, due_ns: u64, interval: Duration) -> u64 {
        let most = clock::ms(interval / GRID_SHARE).min(self.max_ms);
        let Some(exponent) = most.checked_ilog2() else {
            return due_ns;
        };
        let step = (1 << exponent) * 1_000_000;
        let since = due_ns.saturating_sub(self.origin_ns) + step / 2;
        self.origin_ns + since - since % step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn grid(origin_ns: u64) -> Grid {
        Grid {
            origin_ns,
            max_ms: GRID_MAX_MS,
        }
    }

    #[test]
    fn jitter_and_grid_stay_within_five_percent_and_add_nothing() {
        for interval in [SECOND * 100, SECOND * 10, SECOND, SECOND / 10] {
            let grid = grid(77).fitted(1, interval);
            let shares: Vec<f64> = (0..20_000)
                .map(|_| {
                    // Where between two times of the grid it starts is chance.
                    let start = 123_456_789_012_345 + fastrand::u64(..1_000_000_000);
                    grid.nearest(start + clock::ns(jittered(interval)), interval) - start
                })
                .map(|ns| ns as f64 / 1e9 / interval.as_secs_f64())
                .collect();
            assert!(shares.iter().all(|share| (0.95..=1.05).contains(share)));
            assert!(shares.iter().any(|s| *s < 0.97) && shares.iter().any(|s| *s > 1.03));
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            assert!((mean - 1.0).abs() < 0.005, "{mean}");
        }
    }

    #[test]
    fn timers_of_an_interval_share_their_times() {
        let grid = grid(7);
        let near = |due, interval| grid.nearest(due, interval) - 7;
        let due = [1_000_000, 8_000_006, 8_000_007, 24_000_006, 24_000_007];
        let at = due.map(|ns| near(ns, SECOND) / 1_000_000);
        assert_eq!(at, [0, 0, 16, 16, 32]);
        assert_eq!(near(2_900_000, SECOND / 10), 2_000_000);
        assert_eq!(near(200_000_000, SECOND * 10), 256_000_000);
        assert_eq!(near(200_000_000, SECOND * 3600), 256_000_000);
        assert_eq!(near(1234, SECOND / 100), 1227);
        assert_eq!(grid.nearest(3, SECOND), 7);
    }

    #[test]
    fn a_look_comes_with_a_probe() {
        let grid = grid(0);
        let ms = |ms: u64| ms * 1_000_000;
        assert_eq!(grid.look(ms(250), None), ms(256));
        assert_eq!(grid.look(ms(250), Some(ms(257))), ms(256));
        for due in [0, 128, 256] {
            assert_eq!(grid.look(ms(250), Some(ms(due))), ms(384));
        }
    }

    #[test]
    fn few_timers_wake_less_often() {
        let step = |count, interval| {
            let grid = grid(0).fitted(count, interval);
            let mut times = (1..).map(|ms| grid.nearest(ms * 1_000_000, interval));
            times.find(|due| *due > 0).unwrap() / 1_000_000
        };
        assert_eq!(step(100, SECOND * 10), 256);
        assert_eq!(step(624, SECOND * 10), 256);
        assert_eq!(step(625, SECOND * 10), 128);
        assert_eq!(step(10_000, SECOND * 10), 128);
        assert_eq!(step(1, SECOND * 9), 128);
        assert_eq!(step(1, SECOND), 16);
        assert_eq!(step(100_000, SECOND), 16);
    }

    #[test]
    fn first_looks_come_soon_and_are_paced() {
        let window = |count| first_window(SECOND, SECOND * 10, count);
        assert_eq!(window(3), SECOND);
        assert_eq!(window(500), SECOND * 5);
        assert_eq!(window(10_000), SECOND * 10);
        assert_eq!(first_window(SECOND, SECOND / 2, 3), SECOND / 2);
    }

    /// Starts of the first two looks of each of `count` timers, in seconds.
    fn looks(count: usize, window: Duration, interval: Duration) -> Vec<(f64, f64)> {
        (0..count)
            .map(|position| {
                let phase = phase(position, count);
                let first = window.mul_f32(phase);
                let second = first + spread_after(window, interval, phase);
                (first.as_secs_f64(), second.as_secs_f64())
            })
            .collect()
    }

    #[test]
    fn second_looks_are_spread_over_the_interval() {
        for count in [3, 100, 500] {
            let window = first_window(SECOND, SECOND * 10, count);
            let looks = looks(count, window, SECOND * 10);
            for (first, second) in &looks {
                assert!(*first <= window.as_secs_f64());
                let apart = second - first;
                assert!((window.as_secs_f64()..=10.0001).contains(&apart), "{apart}");
            }
            // As many in each third of the interval.
            for third in 0..3 {
                let from = window.as_secs_f64() + 10.0 / 3.0 * f64::from(third);
                let within = from - 0.001..from + 10.0 / 3.0 + 0.001;
                let seen = looks.iter().filter(|(_, at)| within.contains(at)).count();
                assert!(seen.abs_diff(count / 3) <= 2, "{seen} of {count}");
            }
        }
    }

    #[test]
    fn a_window_of_an_interval_makes_one_look_an_interval() {
        for (first, second) in looks(2000, SECOND, SECOND) {
            assert!((second - first - 1.0).abs() < 0.001);
        }
    }
}
