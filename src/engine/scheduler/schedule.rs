//! When probes are due: pure arithmetic.
//!
//! First looks come early, so that a verdict comes soon, and so lie close together where
//! targets are few. The second look spreads them: it comes as much later as puts the target
//! where its phase says, evenly over the interval, and never later than an interval after
//! the first. From then on a target keeps its place, give or take the jitter.
//!
//! Probes are due at the times of a grid, so that some start together: to wake up costs as much
//! as a probe, and a second handshake in a row half of what the first one did, since the
//! processor still has everything at hand. An interval is a number of the grid's steps and a
//! half, and a probe comes after as many steps as chance says, around that: the mean is the
//! interval, and no two targets stay together.

use std::time::Duration;

use crate::sys::clock;

/// How far from its interval a probe may start, in thousandths, either way. It is due within
/// the second: the rest is for the probe before it, which may have started late.
const JITTER: u64 = 50;
const DUE_WITHIN: u64 = 45;

/// So many probes start together, if the steps can be chosen so.
const FEW: u64 = 16;

/// Steps of an interval, at least: half of one is within the jitter.
const STEPS_MIN: u64 = 11;

/// A step is at most this long: who only wakes up to make sure of its role does so as often.
const STEP_MAX_NS: u64 = 256_000_000;

/// Where targets are many, more than [`FEW`] start together rather than in shorter steps than
/// this, or than so many in an interval.
const STEP_MANY_NS: u64 = 128_000_000;
const STEPS_MANY: u64 = 64;

/// A look may wait that long for a probe to come with.
const LOOK_WAITS_NS: u64 = 256_000_000;

/// The runtime's timers wake once for a multiple of this since it was made, and twice for
/// other times that are farther away.
const LOOK_STEP_NS: u64 = 64_000_000;

/// First looks are spread so that this many start in a second.
const FIRST_LOOKS_PER_SECOND: u32 = 100;

/// The time over which the first looks of `count` timers are spread: short for a few, at
/// most the interval.
pub(in crate::engine) fn first_window(
    fast: Duration,
    interval: Duration,
    count: usize,
) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let paced = Duration::from_secs(1) * count / FIRST_LOOKS_PER_SECOND;
    paced.max(fast).min(interval)
}

/// Where in its round a timer is, from 0 to 1: evenly apart by position, at random within
/// its share.
pub(in crate::engine) fn phase(position: usize, count: usize) -> f32 {
    (position as f32 + fastrand::f32()) / count.max(1) as f32
}

/// How long after a look that came in its phase of a `window` the next one is due. At least
/// the window, at most the interval; where both are the same, that.
pub(in crate::engine) fn spread_after(
    window: Duration,
    interval: Duration,
    phase: f32,
) -> Duration {
    let window = window.min(interval);
    window + (interval - window).mul_f32(phase.clamp(0.0, 1.0))
}

/// The times at which timers are due together.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Grid {
    origin_ns: u64,
    /// How many timers share it.
    count: u64,
}

/// What the grid is for timers of one interval.
#[derive(Clone, Copy, Debug)]
struct Steps {
    interval_ns: u64,
    step_ns: u64,
    /// The interval is as many steps and a half.
    whole: u64,
    /// As many numbers of steps below the interval as above it are within the jitter.
    reach: u64,
}

impl Steps {
    /// None for an interval that is no time.
    fn of(interval: Duration, count: u64) -> Option<Self> {
        let interval_ns = clock::ns(interval).min(u64::MAX / (4 * JITTER));
        let longest = (2 * interval_ns).div_ceil(2 * STEPS_MIN + 1);
        let longest = longest.min(STEP_MAX_NS);
        let shortest = (interval_ns / STEPS_MANY).min(STEP_MANY_NS);
        let gathers_few = interval_ns.saturating_mul(FEW) / count.max(1);
        let wanted = gathers_few.clamp(shortest, longest).max(1);
        let whole = (2 * interval_ns).saturating_sub(wanted);
        let whole = whole.div_ceil(2 * wanted).max(STEPS_MIN);
        let step_ns = 2 * interval_ns / (2 * whole + 1);
        let within_ns = interval_ns * DUE_WITHIN / 1000;
        let reach = (2 * within_ns + step_ns).checked_div(2 * step_ns)?;
        Some(Self {
            interval_ns,
            step_ns,
            whole,
            reach,
        })
    }

    /// How late a start may be and still count as one at its time.
    fn patience_ns(self) -> u64 {
        let least = (self.whole + 1).saturating_sub(self.reach) * self.step_ns;
        let earliest = self.interval_ns - self.interval_ns * JITTER / 1000;
        least.saturating_sub(earliest)
    }
}

impl Grid {
    /// To be called just before the runtime is built.
    pub(in crate::engine) fn begin() -> Self {
        Self {
            origin_ns: clock::monotonic_ns(),
            count: 1,
        }
    }

    /// The grid for so many timers.
    pub(in crate::engine) fn fitted(self, count: usize) -> Self {
        Self {
            count: u64::try_from(count).unwrap_or(u64::MAX),
            ..self
        }
    }

    /// When to wake for a look that is due about `at_ns`, where the next probe is due at
    /// `next_due`: who wakes for a probe looks as well.
    pub(in crate::engine) fn look(self, at_ns: u64, next_due: Option<u64>) -> u64 {
        let since = at_ns.saturating_sub(self.origin_ns);
        let near = self.origin_ns + since.next_multiple_of(LOOK_STEP_NS);
        match next_due {
            Some(due) if due < near + LOOK_WAITS_NS => near + LOOK_WAITS_NS,
            _ => near,
        }
    }

    /// When a timer of this interval is due again, the last probe of which started at
    /// `started_ns`.
    pub(in crate::engine) fn after(self, started_ns: u64, interval: Duration) -> u64 {
        let Some(steps) = Steps::of(interval, self.count) else {
            return started_ns;
        };
        let since = started_ns.saturating_sub(self.origin_ns);
        let is_after_origin = started_ns >= self.origin_ns;
        if is_after_origin && since % steps.step_ns <= steps.patience_ns() {
            let least = steps.whole + 1 - steps.reach.min(steps.whole);
            let drawn = least + fastrand::u64(..2 * steps.reach.max(1));
            return self.origin_ns + (since / steps.step_ns + drawn) * steps.step_ns;
        }
        // It was not one of the grid's: what the way there adds is taken from the jitter.
        let room = (steps.interval_ns * DUE_WITHIN / 1000).saturating_sub(steps.step_ns / 2);
        let due_ns = started_ns + steps.interval_ns - room + fastrand::u64(..=2 * room);
        self.nearest(due_ns, interval)
    }

    /// The time nearest to `due_ns` at which timers of this interval are due.
    pub(in crate::engine) fn nearest(self, due_ns: u64, interval: Duration) -> u64 {
        let Some(Steps { step_ns, .. }) = Steps::of(interval, self.count) else {
            return due_ns;
        };
        let since = due_ns.saturating_sub(self.origin_ns) + step_ns / 2;
        self.origin_ns + since - since % step_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn grid(count: usize) -> Grid {
        let grid = Grid {
            origin_ns: 77,
            count: 1,
        };
        grid.fitted(count)
    }

    const INTERVALS: [Duration; 7] = [
        Duration::from_secs(86_400),
        Duration::from_secs(100),
        Duration::from_secs(10),
        Duration::from_millis(1234),
        SECOND,
        Duration::from_millis(50),
        Duration::from_millis(1),
    ];
    const COUNTS: [usize; 7] = [0, 1, 30, 200, 700, 2000, 100_000];

    fn all() -> impl Iterator<Item = (Duration, Grid)> {
        INTERVALS
            .into_iter()
            .flat_map(|interval| COUNTS.map(|count| (interval, grid(count))))
    }

    /// Starts of one target's probes, each as late as `late` says of an interval, but less than
    /// a step.
    fn starts(
        grid: Grid,
        interval: Duration,
        late: impl Fn() -> f64,
        count: usize,
    ) -> impl Iterator<Item = u64> {
        let step_ns = Steps::of(interval, grid.count).unwrap().step_ns;
        let late_ns = move || (interval.mul_f64(late()).as_nanos() as u64).min(step_ns - 1);
        // Where between two times of the grid it starts is chance.
        let first = 123_456_789_012_345 + fastrand::u64(..1_000_000_000);
        std::iter::successors(Some(first), move |start| {
            Some(grid.after(*start, interval) + late_ns())
        })
        .take(count)
    }

    /// What is between them, as shares of the interval.
    fn shares(starts: &[u64], interval: Duration) -> Vec<f64> {
        starts
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64 / 1e9 / interval.as_secs_f64())
            .collect()
    }

    #[test]
    fn a_probe_starts_within_five_percent_of_its_interval() {
        for (interval, grid) in all() {
            // As late as may be every time, and now and then.
            for late in [|| 0.0, || 0.004, || 0.005 * fastrand::f64()] {
                let starts: Vec<u64> = starts(grid, interval, late, 3000).collect();
                let shares = shares(&starts, interval);
                let seen = || format!("{interval:?} {grid:?}");
                assert!(
                    shares.iter().all(|s| (0.95..=1.05).contains(s)),
                    "{}",
                    seen()
                );
                // Both ways, and by more than a little.
                assert!(shares.iter().any(|s| *s < 0.98), "{}", seen());
                assert!(shares.iter().any(|s| *s > 1.02), "{}", seen());
            }
            // Whatever came before it: a probe on demand, or one that was very late.
            for _ in 0..1000 {
                let start = 123_456_789_012_345 + fastrand::u64(..1_000_000_000);
                let due = grid.after(start, interval);
                let share = (due - start) as f64 / 1e9 / interval.as_secs_f64();
                assert!(
                    (0.95..=1.05).contains(&share),
                    "{share} {interval:?} {grid:?}"
                );
            }
        }
    }

    #[test]
    fn the_mean_interval_is_the_interval() {
        for (interval, grid) in all() {
            for late in [|| 0.0, || 0.005 * fastrand::f64()] {
                let starts: Vec<u64> = starts(grid, interval, late, 20_001).collect();
                let span = (starts[20_000] - starts[0]) as f64 / 1e9;
                let mean = span / 20_000.0 / interval.as_secs_f64();
                // Chance alone leaves less than a fifth of that.
                assert!((mean - 1.0).abs() < 0.002, "{mean} {interval:?} {grid:?}");
            }
        }
    }

    #[test]
    fn targets_that_start_together_part_and_spread_over_the_interval() {
        for (interval, grid) in [(SECOND, grid(200)), (SECOND * 10, grid(100))] {
            let start = grid.nearest(500_000_000_000, interval);
            let mut together = vec![start; 2000];
            let mut after = |rounds: usize| {
                for _ in 0..rounds {
                    for start in &mut together {
                        *start = grid.after(*start, interval);
                    }
                }
                let mut times = together.clone();
                times.sort_unstable();
                let spread = times[times.len() * 9 / 10] - times[times.len() / 10];
                let most = times.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
                (most.unwrap(), spread as f64 / clock::ns(interval) as f64)
            };
            let (most, _) = after(1);
            assert!(most < 1200, "{most} are still together");
            let (most, spread) = after(400);
            assert!(most < 400, "{most} met again");
            assert!(spread > 0.8, "spread over {spread} of an interval");
        }
    }

    #[test]
    fn a_burst_is_of_few_or_of_a_short_time() {
        let step_ms = |count, interval: Duration| {
            let grid = grid(count);
            let fine = clock::ns(interval) / 10_000;
            let mut times = (0..).map(|at| grid.nearest(at * fine, interval));
            let first = times.next().unwrap();
            let second = times.find(|due| *due > first).unwrap();
            (second - first) as f64 / 1e6
        };
        for interval in INTERVALS
            .into_iter()
            .filter(|interval| *interval <= SECOND * 100)
        {
            for count in COUNTS {
                let ms = step_ms(count, interval);
                let interval_ms = interval.as_secs_f64() * 1000.0;
                let burst = count as f64 * ms / interval_ms;
                assert!(ms <= 256.0 && ms < interval_ms / 11.0, "{ms} {interval:?}");
                let is_short = ms <= 128.0 && ms <= interval_ms / 64.0;
                assert!(
                    burst <= 16.01 || is_short,
                    "{burst} in {ms} of {interval:?}"
                );
            }
        }
        // And not of fewer than may be.
        assert!(step_ms(200, SECOND) > 79.0);
        assert!(step_ms(1, SECOND) > 86.0);
        assert!(step_ms(100, SECOND * 10) > 250.0);
        assert!(step_ms(10_000, SECOND * 10) > 126.0);
    }

    #[test]
    fn timers_of_an_interval_share_their_times() {
        let grid = grid(200);
        let step = grid.nearest(200_000_000, SECOND) - grid.nearest(120_000_000, SECOND);
        for start in [0, 1, 40_000_000, 1_000_000_000] {
            let due = grid.after(77 + start, SECOND);
            assert_eq!((due - 77) % step, 0, "{start}");
        }
        assert_eq!(grid.nearest(3, SECOND), 77);
        assert_eq!(grid.nearest(77 + step / 2 - 1, SECOND), 77);
        assert_eq!(grid.nearest(77 + step / 2 + 1, SECOND), 77 + step);
    }

    #[test]
    fn no_interval_is_at_once() {
        assert_eq!(grid(1).after(5, Duration::ZERO), 5);
        assert_eq!(grid(1).nearest(5, Duration::ZERO), 5);
        let far = grid(1).after(5, Duration::MAX);
        assert!(far > u64::MAX / 1000);
    }

    #[test]
    fn a_look_comes_with_a_probe() {
        let grid = Grid {
            origin_ns: 0,
            count: 1,
        };
        let ms = |ms: u64| ms * 1_000_000;
        assert_eq!(grid.look(ms(250), None), ms(256));
        assert_eq!(grid.look(ms(256), None), ms(256));
        assert_eq!(grid.look(ms(250), Some(ms(512))), ms(256));
        for due in [0, 128, 256, 511] {
            assert_eq!(grid.look(ms(250), Some(ms(due))), ms(512));
        }
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
