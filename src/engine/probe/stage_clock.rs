//! How long a probe was in each stage, for the histograms of the metrics.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Stage;

/// The stages that a probe went through, in the order in which it first came to them, and how long
/// it was in each.
pub type StageTimes = Vec<(Stage, Duration)>;

/// Measures the stages of one probe. It has a mutex because the parts of a probe share it, and a
/// probe may be polled by any thread; nothing else ever waits for that mutex.
#[derive(Debug, Default)]
pub struct StageClock(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    /// The present stage, and since when the probe is in it.
    present: Option<(Stage, Instant)>,
    times: StageTimes,
}

impl StageClock {
    /// The probe is in this stage from now on.
    pub fn enter(&self, stage: Stage) {
        self.enter_at(stage, Instant::now());
    }

    /// The probe is in this stage from `at` on. Does nothing if it is in that stage already.
    pub fn enter_at(&self, stage: Stage, at: Instant) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.present.is_none_or(|(present, _)| present != stage) {
            measured.end(at);
            measured.present = Some((stage, at));
        }
    }

    /// The times of all stages of a probe whose result was known at `at`.
    pub fn times_until(&self, at: Instant) -> StageTimes {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        measured.end(at);
        std::mem::take(&mut measured.times)
    }
}

impl Measured {
    fn end(&mut self, at: Instant) {
        let Some((stage, since)) = self.present.take() else {
            return;
        };
        let took = at.saturating_duration_since(since);
        // A stage may come twice: the capabilities are asked for again after STARTTLS.
        match self.times.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, sum)) => *sum += took,
            None => self.times.push((stage, took)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_time_and_one_that_comes_twice_the_sum() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let clock = StageClock::default();
        clock.enter_at(Stage::Connect, at(0));
        clock.enter_at(Stage::Capability, at(3));
        clock.enter_at(Stage::Capability, at(5));
        clock.enter_at(Stage::Tls, at(7));
        clock.enter_at(Stage::Capability, at(20));
        let times = clock.times_until(at(30));
        let ms = |(stage, took): &(Stage, Duration)| (*stage, took.as_millis());
        let expected = [
            (Stage::Connect, 3),
            (Stage::Capability, 14),
            (Stage::Tls, 13),
        ];
        assert_eq!(times.iter().map(ms).collect::<Vec<_>>(), expected);
        assert!(clock.times_until(at(40)).is_empty());
    }
}
