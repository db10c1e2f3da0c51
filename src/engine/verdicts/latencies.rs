//! The last probes of each target, for graphs: how long each took and its result.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::counters::ProbeResult;
use super::layout::*;
use super::memory::{Slot, VerdictTable};

/// The duration and the result of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Stored in whole microseconds, at most 2^30 - 1 (about 17 minutes).
    pub took: Duration,
    pub result: ProbeResult,
}

const RESULT_SHIFT: u32 = 30;
const MAX_US: u32 = (1 << RESULT_SHIFT) - 1;

impl Sample {
    /// Half a word: the result in the upper two bits, which are never 0, then the microseconds.
    fn pack(self) -> u32 {
        let us = u32::try_from(self.took.as_micros())
            .unwrap_or(MAX_US)
            .min(MAX_US);
        let result = match self.result {
            ProbeResult::Good => 1,
            ProbeResult::Failed => 2,
            ProbeResult::Inconclusive => 3,
        };
        result << RESULT_SHIFT | us
    }

    fn unpack(half: u32) -> Option<Self> {
        let result = match half >> RESULT_SHIFT {
            1 => ProbeResult::Good,
            2 => ProbeResult::Failed,
            3 => ProbeResult::Inconclusive,
            _ => return None,
        };
        let took = Duration::from_micros(u64::from(half & MAX_US));
        Some(Self { took, result })
    }
}

impl VerdictTable {
    /// The last probes, at most 60, the oldest first.
    pub fn latencies(&self, slot: Slot) -> Vec<Sample> {
        self.consistent(self.word(slot, SLOT_SEQUENCE), || {
            let told = self.word(slot, LATENCIES_TOLD).load(Relaxed);
            let oldest = told.saturating_sub(as_u64(LATENCIES));
            (oldest..told)
                .filter_map(|number| {
                    let (word, shift) = self.latency_place(slot, number);
                    let half = word.load(Relaxed) >> shift & u64::from(u32::MAX);
                    Sample::unpack(u32::try_from(half).ok()?)
                })
                .collect()
        })
    }

    /// Adds a sample. The caller holds the slot's write ticket.
    pub(super) fn add_latency(&self, slot: Slot, sample: Sample) {
        let told = self.word(slot, LATENCIES_TOLD);
        let number = told.load(Relaxed);
        let (word, shift) = self.latency_place(slot, number);
        let others = word.load(Relaxed) & !(u64::from(u32::MAX) << shift);
        word.store(others | u64::from(sample.pack()) << shift, Relaxed);
        told.store(number.wrapping_add(1), Relaxed);
    }

    pub(super) fn inherit_latencies(&self, slot: Slot, before: &Self, known: Slot) {
        self.word(slot, LATENCIES_TOLD).store(0, Relaxed);
        for sample in before.latencies(known) {
            self.add_latency(slot, sample);
        }
    }

    fn latency_place(&self, slot: Slot, number: u64) -> (&std::sync::atomic::AtomicU64, u32) {
        let position = usize::try_from(number % as_u64(LATENCIES)).unwrap_or(0);
        let index = self.places.latencies + slot.0 * LATENCY_RING + position / 2;
        (
            self.at(index),
            if position.is_multiple_of(2) { 0 } else { 32 },
        )
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::verdicts::{Record, hash_identity};

    fn sample(us: u64) -> Sample {
        Sample {
            took: Duration::from_micros(us),
            result: if us.is_multiple_of(7) {
                ProbeResult::Failed
            } else {
                ProbeResult::Good
            },
        }
    }

    #[test]
    fn the_last_sixty_are_kept_in_their_order() {
        let table = VerdictTable::new(2).unwrap();
        let slots = table
            .assign(&["a", "b"].map(hash_identity), |_| None)
            .unwrap();
        assert_eq!(table.latencies(slots[0]), []);
        for us in 1..=100 {
            let (seen, _) = table.read_seen(slots[0]);
            assert!(table.write_seen(slots[0], seen, &Record::default(), false, Some(sample(us))));
        }
        let kept: Vec<Sample> = (41..=100).map(sample).collect();
        assert_eq!(table.latencies(slots[0]), kept);
        assert_eq!(table.latencies(slots[1]), []);
    }

    #[test]
    fn a_probe_that_takes_very_long_fits() {
        let long = Sample {
            took: Duration::from_secs(7200),
            result: ProbeResult::Inconclusive,
        };
        let kept = Sample::unpack(long.pack()).unwrap();
        assert_eq!(kept.result, long.result);
        assert_eq!(kept.took, Duration::from_micros(u64::from(MAX_US)));
        assert_eq!(Sample::unpack(0), None);
    }
}
