//! Takes verdicts over from a state file that another process writes.
//!
//! A process that follows the file probes as well: when a script reports a failure. Its outcome says more than an
//! older one in the file, and it must not hide a later one. Connect probes and deep ones may be hours apart, so the
//! two kinds are compared each by itself.

use std::collections::HashSet;

use super::{ActiveConfig, SAME_TIME};
use crate::engine::state_file::saved::{Saved, SavedTarget};
use crate::engine::state_file::text::settings as settings_of;
use crate::engine::verdicts::health::HealthState;
use crate::engine::verdicts::{Record, Slot};
use crate::sys::clock;

/// The targets that a state file covers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// The targets that the file's writer probes with the same intervals and thresholds, and has
    /// probed since their passwords were changed here.
    pub targets: HashSet<Slot>,
    /// Those of them of which a later probe of this process says something else than the file. Until the file
    /// has caught up, which may take a `deep_interval`, nobody else would find out that this has changed again.
    pub ahead: HashSet<Slot>,
}

impl ActiveConfig {
    /// Publishes the verdicts of a state file that another process writes, except where a probe of
    /// this table is more recent.
    pub fn follow(&self, saved: &Saved) -> Covered {
        let mut covered = Covered::default();
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            let Some(SavedTarget {
                record,
                settings,
                tls,
                ..
            }) = saved.targets.get(&self.table.hash(*slot))
            else {
                continue;
            };
            let is_alike = **settings == *settings_of(&self.config, target);
            if !is_alike || self.is_of_earlier_password(*slot, record) {
                continue;
            }
            covered.targets.insert(*slot);
            let (seen, known) = self.table.read_seen(*slot);
            let later = Later::of(&known, record);
            if later.is_ahead(&known, record) {
                covered.ahead.insert(*slot);
            }
            let merged = later.merge(&known, record);
            // Fails where a probe was published meanwhile; the next poll of the file compares again.
            if merged != known
                && self.publish(target, *slot, (seen, &known), &merged, None)
                && !tls.is_empty()
            {
                self.table.note_tls(*slot, tls);
            }
        }
        covered
    }
}

/// Of which kinds the last probe known here is later than the one in the file.
#[derive(Clone, Copy)]
struct Later {
    connect: bool,
    deep: bool,
}

impl Later {
    fn of(known: &Record, told: &Record) -> Self {
        let is_later = |mine: u64, theirs: u64| mine > theirs.saturating_add(clock::ns(SAME_TIME));
        Self {
            connect: is_later(known.connect_started_ns, told.connect_started_ns),
            deep: is_later(known.deep_started_ns, told.deep_started_ns),
        }
    }

    /// Whether what is known here is later than the file and says something else. The same verdict says the
    /// same, unless only this process has reason to probe soon again.
    fn is_ahead(self, known: &Record, told: &Record) -> bool {
        let differs = |mine: HealthState, theirs: HealthState| {
            mine.verdict != theirs.verdict
                || (mine.wants_fast_probe() && !theirs.wants_fast_probe())
        };
        let deep = |record: &Record| record.deep.unwrap_or_default();
        (self.connect && differs(known.connect, told.connect))
            || (self.deep && differs(deep(known), deep(told)))
    }

    /// Puts together the record of the state file and the one of this table: each kind of probe, connect and deep, has
    /// its result from the record in which it started later.
    fn merge(self, known: &Record, told: &Record) -> Record {
        let has_deep = known.deep.is_some() || told.deep.is_some();
        if self.connect && (self.deep || !has_deep) {
            return known.clone();
        }
        let mut merged = told.clone();
        if self.connect {
            merged.connect = known.connect;
            merged.connect_started_ns = known.connect_started_ns;
        }
        if self.deep {
            merged.deep = known.deep;
            merged.deep_started_ns = known.deep_started_ns;
        }
        let verdict = merged.verdict();
        if verdict != told.verdict() {
            let is_known = verdict == known.verdict();
            merged.error = known.error.clone().filter(|_| is_known);
            merged.since_ms = if is_known {
                known.since_ms
            } else {
                clock::unix_ms()
            };
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::verdicts::health::Verdict;

    const SECOND: u64 = 1_000_000_000;

    fn state(verdict: Verdict) -> HealthState {
        HealthState {
            verdict,
            failures: u16::from(verdict == Verdict::Dead),
            successes: u16::from(verdict == Verdict::Alive),
            ..HealthState::default()
        }
    }

    /// A record whose connect probe and deep probe began at these seconds and found this.
    fn record(connect: (u64, Verdict), deep: Option<(u64, Verdict)>) -> Record {
        let mut record = Record {
            connect: state(connect.1),
            connect_started_ns: connect.0 * SECOND,
            deep: deep.map(|(_, verdict)| state(verdict)),
            deep_started_ns: deep.map_or(0, |(at, _)| at * SECOND),
            since_ms: connect.0,
            ..Record::default()
        };
        record.error = (record.verdict() == Verdict::Dead).then(|| format!("of {}", connect.0));
        record
    }

    fn merged(known: &Record, told: &Record) -> Record {
        let merged = Later::of(known, told).merge(known, told);
        let again = Later::of(&merged, told).merge(&merged, told);
        assert_eq!(again, merged, "the next poll would store another record");
        merged
    }

    fn is_ahead(known: &Record, told: &Record) -> bool {
        Later::of(known, told).is_ahead(known, told)
    }

    #[test]
    fn the_later_record_counts() {
        use Verdict::{Alive, Dead};
        for deep in [None, Some((3, Alive))] {
            let older = record((5, Alive), deep);
            let newer = record((6, Dead), deep.map(|(at, _)| (at + 1, Alive)));
            assert_eq!(merged(&older, &newer), newer);
            assert!(!is_ahead(&older, &newer));
            assert_eq!(merged(&newer, &older), newer);
            assert!(is_ahead(&newer, &older));
        }
    }

    #[test]
    fn a_later_deep_probe_does_not_hide_a_later_connect_probe_of_the_writer() {
        use Verdict::{Alive, Dead};
        let known = record((50, Alive), Some((50, Alive)));
        let told = record((60, Dead), Some((1, Alive)));
        let both = merged(&known, &told);
        assert_eq!((both.verdict(), both.since_ms), (Dead, 60));
        assert_eq!(both.error.as_deref(), Some("of 60"));
        assert_eq!(both.deep_started_ns, 50 * SECOND);
        assert!(!is_ahead(&known, &told));
    }

    #[test]
    fn what_a_later_deep_probe_has_found_stays_until_the_writer_has_probed() {
        use Verdict::{Alive, Dead};
        let known = record((50, Alive), Some((50, Dead)));
        let told = record((60, Alive), Some((1, Alive)));
        let both = merged(&known, &told);
        assert_eq!((both.verdict(), both.since_ms), (Dead, 50));
        assert_eq!(both.error.as_deref(), Some("of 50"));
        assert!(is_ahead(&both, &told), "nobody else probes it soon");
        let told = record((60, Alive), Some((61, Alive)));
        assert_eq!(merged(&both, &told), told);
        assert!(!is_ahead(&both, &told));
    }

    /// Both records have a dead part that the other one's later probe disproves.
    #[test]
    fn two_halves_may_make_a_verdict_that_neither_record_has() {
        use Verdict::{Alive, Dead};
        let known = record((50, Dead), Some((50, Alive)));
        let told = record((60, Alive), Some((1, Dead)));
        let both = merged(&known, &told);
        assert_eq!((both.verdict(), both.error.clone()), (Alive, None));
        assert!(both.since_ms > 60);
    }

    #[test]
    fn a_writer_that_probes_soon_itself_is_relied_on() {
        use Verdict::{Alive, Dead};
        let dead = record((50, Dead), None);
        assert!(!is_ahead(&dead, &record((40, Dead), None)));
        let mut failing = record((50, Alive), None);
        failing.connect.failures = 1;
        assert!(is_ahead(&failing, &record((40, Alive), None)));
        assert!(!is_ahead(&failing, &record((60, Alive), None)));
    }

    #[test]
    fn times_that_only_the_clock_tells_apart_are_equal() {
        use Verdict::{Alive, Dead};
        let mut known = record((50, Alive), None);
        known.connect_started_ns += SECOND / 200;
        let told = record((50, Dead), None);
        assert_eq!(merged(&known, &told), told);
        assert!(!is_ahead(&known, &told));
    }
}
