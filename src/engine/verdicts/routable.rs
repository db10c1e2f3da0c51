//! The verdict that routing goes by. Routing follows a verdict only after it has held for some
//! time, so that a target that comes and goes does not move users back and forth.
//!
//! It is one word of the shared table, so that all processes agree: the verdict that routing goes
//! by, the verdict of the last probe, and since when they differ. Readers compare that time with
//! the clock themselves, so that no process has to act when a delay is over.
//!
//! A first verdict that is dead is provisional until it has lasted for `node_down_after`. Servers that start
//! together with this machine fail their first probe and answer the next one: users return to them at once,
//! and users who are bound there stay meanwhile.

use std::time::Duration;

use super::health::Verdict;
use crate::sys::clock;

/// How long a verdict has to hold before routing follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// After a target died: `node_down_after`.
    pub down: Duration,
    /// After a target came back: `node_up_after`.
    pub up: Duration,
}

impl Delays {
    /// How long this verdict has to hold.
    fn until(self, verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Dead => self.down,
            Verdict::Alive | Verdict::Unknown => self.up,
        }
    }
}

/// The routing word of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routable {
    /// The verdict that routing went by when the word was written; unknown before the first one, and
    /// while the first one is provisional.
    followed: Verdict,
    /// The last verdict of the probes.
    probed: Verdict,
    /// When `probed` last changed, in milliseconds of `CLOCK_MONOTONIC`; 0 where both are equal.
    changed_ms: u64,
}

impl Routable {
    /// The word of a target whose verdict routing follows now.
    pub fn settled(verdict: Verdict) -> Self {
        Self {
            followed: verdict,
            probed: verdict,
            changed_ms: 0,
        }
    }

    /// The word after a probe gave this verdict. A first verdict that is alive is followed at once, also
    /// after a provisional one: no user was routed by another verdict.
    #[must_use]
    pub fn after(self, verdict: Verdict, now_ms: u64, delays: Delays) -> Self {
        let followed = self.verdict_for_bound(now_ms, delays);
        if verdict == self.probed {
            // A delay that is over is recorded as over, so that a later configuration with longer
            // delays does not reopen it.
            return if followed == verdict {
                Self::settled(verdict)
            } else {
                self
            };
        }
        let may_be_provisional = verdict == Verdict::Dead && !delays.down.is_zero();
        if followed == Verdict::Unknown && !may_be_provisional {
            return Self::settled(verdict);
        }
        Self {
            followed,
            probed: verdict,
            changed_ms: now_ms,
        }
    }

    /// The verdict that routing goes by at this time, in milliseconds of `CLOCK_MONOTONIC`, for users
    /// without a binding. A provisional verdict counts: nobody is sent to a server that has never
    /// answered.
    pub fn verdict(self, now_ms: u64, delays: Delays) -> Verdict {
        if self.is_provisional() {
            return self.probed;
        }
        self.verdict_for_bound(now_ms, delays)
    }

    /// The same for users who are bound to the target's node. A provisional verdict does not count yet.
    pub fn verdict_for_bound(self, now_ms: u64, delays: Delays) -> Verdict {
        if self.followed == self.probed {
            return self.followed;
        }
        let delay = delays.until(self.probed);
        let has_held = Duration::from_millis(now_ms.saturating_sub(self.changed_ms));
        if has_held >= delay {
            self.probed
        } else {
            self.followed
        }
    }

    /// When [`Routable::verdict`] changes by itself, in milliseconds of `CLOCK_MONOTONIC`. `None`
    /// where it does not depend on the time.
    pub fn changes_at_ms(self, delays: Delays) -> Option<u64> {
        let delay = delays.until(self.probed);
        let is_fixed = self.is_settled() || self.is_provisional();
        (!is_fixed).then(|| self.changed_ms.saturating_add(clock::ms(delay)))
    }

    /// The last verdict of the probes.
    pub fn probed(self) -> Verdict {
        self.probed
    }

    /// Whether both verdicts are the same and independent of the time, as they mostly are: the caller
    /// then need not read the clock.
    pub fn is_settled(self) -> bool {
        self.followed == self.probed
    }

    /// Whether the verdict is the first one, and dead. It stays so when the delay is over, until a probe
    /// gives the same verdict again.
    fn is_provisional(self) -> bool {
        self.followed == Verdict::Unknown && self.probed == Verdict::Dead
    }

    pub(super) fn pack(self) -> u64 {
        self.changed_ms << 4 | code(self.probed) << 2 | code(self.followed)
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self {
            followed: verdict(word),
            probed: verdict(word >> 2),
            changed_ms: word >> 4,
        }
    }
}

fn code(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Unknown => 0,
        Verdict::Alive => 1,
        Verdict::Dead => 2,
    }
}

fn verdict(code: u64) -> Verdict {
    match code & 3 {
        1 => Verdict::Alive,
        2 => Verdict::Dead,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Alive, Dead, Unknown};

    const DELAYS: Delays = Delays {
        down: Duration::from_secs(10),
        up: Duration::from_secs(30),
    };

    /// The word after verdicts at these seconds.
    fn after(verdicts: &[(u64, Verdict)]) -> Routable {
        verdicts
            .iter()
            .fold(Routable::default(), |word, &(second, verdict)| {
                word.after(verdict, second * 1000, DELAYS)
            })
    }

    fn at(word: Routable, second: u64) -> Verdict {
        word.verdict(second * 1000, DELAYS)
    }

    #[test]
    fn a_first_verdict_is_followed_at_once() {
        assert_eq!(at(Routable::default(), 5), Unknown);
        assert_eq!(at(after(&[(5, Dead)]), 5), Dead);
        assert_eq!(at(after(&[(5, Alive)]), 5), Alive);
    }

    fn bound_at(word: Routable, second: u64) -> Verdict {
        word.verdict_for_bound(second * 1000, DELAYS)
    }

    #[test]
    fn a_first_verdict_that_is_dead_moves_bound_users_when_it_has_held() {
        // Probes in between repeat the verdict: they do not make it provisional for longer.
        for word in [after(&[(5, Dead)]), after(&[(5, Dead), (9, Dead)])] {
            assert_eq!(
                [5, 14, 15].map(|second| bound_at(word, second)),
                [Unknown, Unknown, Dead]
            );
            assert_eq!([5, 14, 15].map(|second| at(word, second)), [Dead; 3]);
            assert_eq!(word.changes_at_ms(DELAYS), None);
        }
        assert_eq!(after(&[(5, Dead), (15, Dead)]), Routable::settled(Dead));
    }

    #[test]
    fn a_target_that_answers_soon_after_its_first_failure_is_followed_at_once() {
        assert_eq!(after(&[(5, Dead), (14, Alive)]), Routable::settled(Alive));
        // After the delay it is a target that died.
        let word = after(&[(5, Dead), (15, Alive)]);
        assert_eq!([at(word, 44), at(word, 45)], [Dead, Alive]);
        assert_eq!([bound_at(word, 44), bound_at(word, 45)], [Dead, Alive]);
    }

    #[test]
    fn without_a_delay_no_verdict_is_provisional() {
        let delays = Delays {
            down: Duration::ZERO,
            ..DELAYS
        };
        let word = Routable::default().after(Dead, 5_000, delays);
        assert_eq!(word, Routable::settled(Dead));
    }

    #[test]
    fn users_with_and_without_a_binding_go_by_the_same_later_verdicts() {
        let word = after(&[(0, Alive), (100, Dead)]);
        for second in [100, 109, 110] {
            assert_eq!(bound_at(word, second), at(word, second));
        }
    }

    #[test]
    fn a_verdict_is_followed_when_it_has_held() {
        let word = after(&[(0, Alive), (100, Dead)]);
        assert_eq!(
            [at(word, 100), at(word, 109), at(word, 110)],
            [Alive, Alive, Dead]
        );
        let word = after(&[(0, Alive), (100, Dead), (200, Alive)]);
        assert_eq!(
            [at(word, 200), at(word, 229), at(word, 230)],
            [Dead, Dead, Alive]
        );
    }

    #[test]
    fn a_short_failure_changes_nothing() {
        let word = after(&[(0, Alive), (100, Dead), (109, Alive)]);
        assert!((109..200).all(|second| at(word, second) == Alive));
    }

    #[test]
    fn flapping_moves_users_once_at_most() {
        let mut word = after(&[(0, Alive)]);
        let mut seen = vec![Alive];
        for second in 1..600 {
            let verdict = if second / 20 % 2 == 1 { Dead } else { Alive };
            word = word.after(verdict, second * 1000, DELAYS);
            let now = at(word, second);
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        assert_eq!(seen, [Alive, Dead]);
    }

    #[test]
    fn a_word_knows_when_it_changes_by_itself() {
        assert_eq!(after(&[(5, Alive)]).changes_at_ms(DELAYS), None);
        let word = after(&[(0, Alive), (100, Dead)]);
        let end = word.changes_at_ms(DELAYS).unwrap();
        assert_eq!(word.verdict(end - 1, DELAYS), Alive);
        assert_eq!(word.verdict(end, DELAYS), Dead);
    }

    #[test]
    fn a_delay_that_is_over_stays_over() {
        let word = after(&[(0, Alive), (100, Dead), (111, Dead)]);
        let longer = Delays {
            down: Duration::from_secs(3600),
            up: Duration::from_secs(3600),
        };
        assert_eq!(word.verdict(112_000, longer), Dead);
        let word = after(&[(0, Alive), (100, Dead), (105, Dead)]);
        assert_eq!(word.verdict(112_000, longer), Alive);
    }

    #[test]
    fn a_word_reads_as_it_was_written() {
        for word in [
            Routable::default(),
            Routable::settled(Dead),
            after(&[(0, Alive), (1_000_000, Dead)]),
            after(&[(1_000_000, Dead)]),
        ] {
            assert_eq!(Routable::unpack(word.pack()), word);
        }
    }

    #[test]
    fn a_clock_that_stood_still_does_no_harm() {
        let word = after(&[(0, Alive), (100, Dead)]);
        assert_eq!(at(word, 0), Alive);
    }
}
