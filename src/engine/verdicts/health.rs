//! Decides when a target is dead: counts probe outcomes against the thresholds. Pure functions, no
//! clock and no shared memory.

/// What is known of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// No verdict yet.
    #[default]
    Unknown,
    Alive,
    Dead,
}

impl Verdict {
    /// The name in `status()` and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Dead => "dead",
        }
    }
}

/// How many consecutive outcomes change a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failed probes that make a target dead.
    pub failure: u32,
    /// Good probes that make it alive again.
    pub recovery: u32,
    /// Whether a target without a verdict counts as alive. If so, its first good probe makes it
    /// alive; if not, it needs `recovery` good probes like a dead one.
    pub initially_alive: bool,
}

/// A verdict, and the outcomes that count towards the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthState {
    pub verdict: Verdict,
    /// Consecutive failed probes, at most 65535.
    pub failures: u16,
    /// Consecutive good probes, at most 65535.
    pub successes: u16,
    /// Consecutive logins that were refused for their user or password, at most 65535. They change no
    /// verdict: the next prober continues to make such logins less often.
    pub refusals: u16,
}

impl HealthState {
    /// The state after one more outcome; `good`: the probe succeeded.
    #[must_use]
    pub fn step(self, good: bool, thresholds: Thresholds) -> Self {
        let mut next = self;
        if good {
            next.failures = 0;
            next.successes = self.successes.saturating_add(1);
            let needed = match self.verdict {
                Verdict::Unknown if thresholds.initially_alive => 1,
                _ => thresholds.recovery,
            };
            if u32::from(next.successes) >= needed {
                next.verdict = Verdict::Alive;
            }
        } else {
            next.successes = 0;
            next.failures = self.failures.saturating_add(1);
            if u32::from(next.failures) >= thresholds.failure {
                next.verdict = Verdict::Dead;
            }
        }
        next
    }

    /// Whether the next probe should come after `fast_interval`: the target is dead, its last probe
    /// failed, or it has had good probes and needs more of them for its first verdict.
    pub fn wants_fast_probe(self) -> bool {
        let is_recovering = self.verdict == Verdict::Unknown && self.successes > 0;
        self.verdict == Verdict::Dead || self.failures > 0 || is_recovering
    }

    /// The state as one word of shared memory.
    pub fn pack(self) -> u64 {
        let verdict = match self.verdict {
            Verdict::Unknown => 0,
            Verdict::Alive => 1,
            Verdict::Dead => 2,
        };
        verdict
            | u64::from(self.failures) << 16
            | u64::from(self.successes) << 32
            | u64::from(self.refusals) << 48
    }

    /// The inverse of [`HealthState::pack`]. An unknown verdict number reads as [`Verdict::Unknown`].
    pub fn unpack(word: u64) -> Self {
        let verdict = match word & 0xffff {
            1 => Verdict::Alive,
            2 => Verdict::Dead,
            _ => return Self::default().with_counts(word),
        };
        Self {
            verdict,
            ..Self::default()
        }
        .with_counts(word)
    }

    fn with_counts(self, word: u64) -> Self {
        let part = |shift: u32| u16::try_from(word >> shift & 0xffff).unwrap_or_default();
        Self {
            failures: part(16),
            successes: part(32),
            refusals: part(48),
            ..self
        }
    }
}

/// The verdict of a target whose connect and deep probes have a health state each: dead if one of
/// them is dead, alive if both are alive.
pub fn both(connect: Verdict, deep: Verdict) -> Verdict {
    match (connect, deep) {
        (Verdict::Dead, _) | (_, Verdict::Dead) => Verdict::Dead,
        (Verdict::Alive, Verdict::Alive) => Verdict::Alive,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn thresholds(failure: u32, recovery: u32, initially_alive: bool) -> Thresholds {
        Thresholds {
            failure,
            recovery,
            initially_alive,
        }
    }

    fn run(outcomes: &str, thresholds: Thresholds) -> Vec<Verdict> {
        let mut health = HealthState::default();
        outcomes
            .chars()
            .map(|c| {
                health = HealthState::unpack(health.step(c == '+', thresholds).pack());
                health.verdict
            })
            .collect()
    }

    #[test]
    fn verdicts_turn_after_their_threshold() {
        use Verdict::{Alive as A, Dead as D, Unknown as U};
        assert_eq!(run("+-+-", thresholds(1, 1, true)), [A, D, A, D]);
        assert_eq!(run("--+--", thresholds(2, 1, true)), [U, D, A, A, D]);
        assert_eq!(
            run("+--+-++", thresholds(2, 2, true)),
            [A, A, D, D, D, D, A]
        );
        assert_eq!(run("-+-+", thresholds(3, 1, true)), [U, A, A, A]);
        assert_eq!(run("++", thresholds(1, 2, false)), [U, A]);
        assert_eq!(run("+-++", thresholds(1, 2, false)), [U, D, D, A]);
    }

    #[test]
    fn a_fast_probe_follows_a_failure() {
        let t = thresholds(2, 1, true);
        assert!(!HealthState::default().wants_fast_probe());
        assert!(!HealthState::default().step(true, t).wants_fast_probe());
        let failed = HealthState::default().step(true, t).step(false, t);
        assert_eq!(failed.verdict, Verdict::Alive);
        assert!(failed.wants_fast_probe());
        assert!(failed.step(false, t).wants_fast_probe());
        assert!(!failed.step(true, t).wants_fast_probe());
    }

    #[test]
    fn a_fast_probe_follows_a_good_one_that_makes_no_verdict_yet() {
        let t = thresholds(1, 3, false);
        assert!(!HealthState::default().wants_fast_probe());
        let first = HealthState::default().step(true, t);
        assert!(first.wants_fast_probe() && first.step(true, t).wants_fast_probe());
        assert!(!first.step(true, t).step(true, t).wants_fast_probe());
    }

    #[test]
    fn counts_do_not_wrap() {
        let mut health = HealthState {
            failures: u16::MAX,
            refusals: u16::MAX,
            ..HealthState::default()
        };
        health = health.step(false, thresholds(100, 1, true));
        assert_eq!((health.failures, health.refusals), (u16::MAX, u16::MAX));
        assert_eq!(HealthState::unpack(health.pack()), health);
    }

    #[test]
    fn a_foreign_word_is_a_fresh_state() {
        assert_eq!(HealthState::unpack(99).verdict, Verdict::Unknown);
    }

    #[test]
    fn two_health_states_make_one_verdict() {
        use Verdict::{Alive, Dead, Unknown};
        assert_eq!(both(Alive, Alive), Alive);
        assert_eq!(both(Alive, Dead), Dead);
        assert_eq!(both(Dead, Unknown), Dead);
        assert_eq!(both(Alive, Unknown), Unknown);
    }
}
