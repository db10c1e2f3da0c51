//! Computes when probes are due. Pure arithmetic.
//!
//! First probes start early, so that a verdict is known soon, and therefore close together. The
//! second probe spreads the targets evenly over the interval: it is delayed according to the
//! target's offset, but by no more than an interval after the first probe. From then on a target
//! keeps its place in the interval, apart from the jitter.
//!
//! Due times are rounded to ticks, so that probes share a wake-up. A wake-up costs as much as a
//! probe, and a handshake right after another one costs half as much, because code and data are
//! still in the processor's caches.

use std::time::Duration;

use crate::sys::clock;

/// The random jitter in thousandths of the interval, in both directions. Together with the rounding
/// to a tick it is at most 4.4 %. The documentation promises 5 %; the rest absorbs a late start.
const JITTER: u64 = 33;

/// A tick in thousandths of the interval. The range of the jitter is exactly three ticks, so that
/// rounding does not change the mean interval.
const TICK: u64 = 22;

/// The longest tick, 256 ms: the engine thread wakes up about as often for role checks anyway.
const TICK_MAX_NS: u64 = 256_000_000;

/// A role check is delayed by up to 256 ms so that it shares a wake-up with a probe.
pub(in crate::engine) const CHECK_WAITS_NS: u64 = 256_000_000;

/// Longer intervals are cut to this one, some 150 years, so that sums of times do not overflow.
const LONGEST_NS: u64 = u64::MAX / 4;

/// How many first probes start per fast interval.
pub(super) const FIRST_PROBES_AT_ONCE: usize = 100;

/// The time over which the first probes of `count` timers are spread: a fast interval for each
/// hundred of them, at most the interval.
pub(super) fn first_window(fast: Duration, interval: Duration, count: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let paced = fast.saturating_mul(count) / FIRST_PROBES_AT_ONCE as u32;
    paced.max(fast).min(interval)
}

/// A timer's place within its interval, from 0 to 1. The interval is divided into `count` equal
/// shares; the place is random within the share of `position`.
pub(super) fn offset(position: usize, count: usize) -> f32 {
    (position as f32 + fastrand::f32()) / count.max(1) as f32
}

/// The time from a probe that was gathered in a `window` to the next one, which is at the timer's
/// place in the interval. At least the window, at most the interval.
pub(super) fn spread_after(window: Duration, interval: Duration, offset: f32) -> Duration {
    let window = window.min(interval);
    window + (interval - window).mul_f32(offset.clamp(0.0, 1.0))
}

/// When a timer is due again, in `CLOCK_MONOTONIC` nanoseconds. Its last probe started at
/// `started_ns`.
pub(super) fn after(started_ns: u64, interval: Duration) -> u64 {
    let interval_ns = clock::ns(interval).min(LONGEST_NS);
    let jitter_ns = interval_ns / 1000 * JITTER;
    let earliest = started_ns.saturating_add(interval_ns - jitter_ns);
    let due_ns = earliest.saturating_add(fastrand::u64(..=2 * jitter_ns));
    nearest(due_ns, interval)
}

/// The tick nearest to `due_ns`. The length of a tick depends on the interval.
pub(super) fn nearest(due_ns: u64, interval: Duration) -> u64 {
    let tick_ns = tick_ns(clock::ns(interval).min(LONGEST_NS)).max(1);
    let up = due_ns.saturating_add(tick_ns / 2);
    up - up % tick_ns
}

fn tick_ns(interval_ns: u64) -> u64 {
    (interval_ns / 1000 * TICK).min(TICK_MAX_NS)
}

/// When to wake up for a role check that is due at `at_ns`. If a probe is due less than 256 ms
/// later, the wake-up is put off by 256 ms, because the wake-up for the probe makes the check.
pub(in crate::engine) fn check_at(at_ns: u64, next_due: Option<u64>) -> u64 {
    let latest = at_ns.saturating_add(CHECK_WAITS_NS);
    match next_due {
        Some(due) if due < latest => latest,
        _ => at_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVALS: [Duration; 7] = [
        Duration::from_millis(10),
        Duration::from_millis(50),
        Duration::from_millis(200),
        SECOND,
        Duration::from_secs(10),
        Duration::from_secs(600),
        Duration::from_secs(86_400),
    ];

    /// The starts of one target's probes, each late by the share of an interval that `late` gives.
    fn starts(interval: Duration, late: impl Fn() -> f64, count: usize) -> Vec<u64> {
        // The first start is at a random point between two ticks.
        let first = 123_456_789_012_345 + fastrand::u64(..1_000_000_000);
        std::iter::successors(Some(first), |start| {
            let late_ns = u64::try_from(interval.mul_f64(late()).as_nanos()).unwrap();
            Some(after(*start, interval) + late_ns)
        })
        .take(count)
        .collect()
    }

    /// The distances between starts, as shares of the interval.
    fn shares(starts: &[u64], interval: Duration) -> impl Iterator<Item = f64> {
        starts
            .windows(2)
            .map(move |pair| (pair[1] - pair[0]) as f64 / 1e9 / interval.as_secs_f64())
    }

    #[test]
    fn a_probe_starts_within_five_percent_of_its_interval() {
        for interval in INTERVALS {
            for late in [|| 0.0, || 0.004, || 0.005 * fastrand::f64()] {
                let starts = starts(interval, late, 3000);
                assert!(
                    shares(&starts, interval).all(|s| (0.95..=1.05).contains(&s)),
                    "{interval:?}"
                );
                // The jitter goes both ways, by more than 2 %.
                assert!(shares(&starts, interval).any(|s| s < 0.98), "{interval:?}");
                assert!(shares(&starts, interval).any(|s| s > 1.02), "{interval:?}");
            }
        }
    }

    #[test]
    fn the_mean_interval_is_the_interval_and_what_starts_were_late() {
        for interval in INTERVALS {
            for late in [0.0, 0.005] {
                let starts = starts(interval, || late, 20_001);
                let span = (starts[20_000] - starts[0]) as f64 / 1e9;
                let mean = span / 20_000.0 / interval.as_secs_f64();
                // Random variation alone is less than a fifth of 0.002.
                assert!((mean - 1.0 - late).abs() < 0.002, "{mean} {interval:?}");
            }
        }
    }

    #[test]
    fn targets_that_start_together_part_and_spread_over_the_interval() {
        for interval in [SECOND, SECOND * 10] {
            let start = nearest(500_000_000_000, interval);
            let mut together = vec![start; 2000];
            let mut after_rounds = |rounds: usize| {
                for _ in 0..rounds {
                    for start in &mut together {
                        *start = after(*start, interval);
                    }
                }
                let mut times = together.clone();
                times.sort_unstable();
                let spread = times[times.len() * 9 / 10] - times[times.len() / 10];
                let most = times.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
                (most.unwrap(), spread as f64 / clock::ns(interval) as f64)
            };
            let (most, _) = after_rounds(1);
            assert!(most < 1200, "{most} are still together");
            let (most, spread) = after_rounds(400);
            assert!(most < 400, "{most} met again");
            assert!(spread > 0.5, "spread over {spread} of an interval");
        }
    }

    #[test]
    fn probes_that_are_due_about_the_same_time_are_due_together() {
        let tick = 22_000_000;
        assert_eq!(nearest(10 * tick + 1, SECOND), 10 * tick);
        assert_eq!(nearest(10 * tick + tick / 2 - 1, SECOND), 10 * tick);
        assert_eq!(nearest(10 * tick + tick / 2 + 1, SECOND), 11 * tick);
        assert_eq!(after(77, SECOND) % tick, 0);
        // The tick of a long interval is limited to 256 ms.
        assert_eq!(nearest(TICK_MAX_NS + 1, SECOND * 86_400), TICK_MAX_NS);
    }

    #[test]
    fn no_interval_is_at_once() {
        assert_eq!(after(5, Duration::ZERO), 5);
        assert_eq!(nearest(5, Duration::ZERO), 5);
        let far = after(5, Duration::MAX);
        assert!(far > u64::MAX / 1000);
    }

    #[test]
    fn a_role_check_comes_with_a_probe() {
        let ms = |ms: u64| ms * 1_000_000;
        assert_eq!(check_at(ms(250), None), ms(250));
        assert_eq!(check_at(ms(250), Some(ms(506))), ms(250));
        for due in [0, 128, 250, 505] {
            assert_eq!(check_at(ms(250), Some(ms(due))), ms(506));
        }
    }

    #[test]
    fn first_probes_come_soon_and_are_paced() {
        let window = |count| first_window(SECOND, SECOND * 10, count);
        assert_eq!(window(3), SECOND);
        assert_eq!(window(500), SECOND * 5);
        assert_eq!(window(10_000), SECOND * 10);
        assert_eq!(first_window(SECOND, SECOND / 2, 3), SECOND / 2);
    }

    /// Starts of the first two probes of each of `count` timers, in seconds.
    fn probes(count: usize, window: Duration, interval: Duration) -> Vec<(f64, f64)> {
        (0..count)
            .map(|position| {
                let offset = offset(position, count);
                let first = window.mul_f32(offset);
                let second = first + spread_after(window, interval, offset);
                (first.as_secs_f64(), second.as_secs_f64())
            })
            .collect()
    }

    #[test]
    fn second_probes_are_spread_over_the_interval() {
        for count in [3, 100, 500] {
            let window = first_window(SECOND, SECOND * 10, count);
            let probes = probes(count, window, SECOND * 10);
            for (first, second) in &probes {
                assert!(*first <= window.as_secs_f64());
                let apart = second - first;
                assert!((window.as_secs_f64()..=10.0001).contains(&apart), "{apart}");
            }
            // Each third of the interval has the same number of probes.
            for third in 0..3 {
                let from = window.as_secs_f64() + 10.0 / 3.0 * f64::from(third);
                let within = from - 0.001..from + 10.0 / 3.0 + 0.001;
                let seen = probes.iter().filter(|(_, at)| within.contains(at)).count();
                assert!(seen.abs_diff(count / 3) <= 2, "{seen} of {count}");
            }
        }
    }

    #[test]
    fn a_window_of_an_interval_makes_one_probe_an_interval() {
        for (first, second) in probes(2000, SECOND, SECOND) {
            assert!((second - first - 1.0).abs() < 0.001);
        }
    }
}
