//! Counters of the shared table, for the metrics: of all processes that share it, never reset.
//!
//! Only the prober counts probes; any process adds to the others. Counters that requests add to
//! exist once per lane, each lane in a cache line of its own, and a process uses the lane of its
//! process id: so requests of different processes rarely contend for a cache line.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub use super::layout::BUCKETS_US;
use super::layout::{
    CHOICES, COUNTED_PROBES, COUNTERS, HISTOGRAM, HISTOGRAM_SUM, HISTOGRAMS, LANES, RESULTS,
    SELECTIONS, SINGLE, STAGES, STORE_HISTOGRAM,
};
use super::memory::VerdictTable;
use crate::engine::probe::error::Stage;
use crate::engine::target::Protocol;

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    Good,
    Failed,
    /// This process could not probe, for example for lack of descriptors: it says nothing about the
    /// target.
    Inconclusive,
}

/// Single counters. Their indices are part of the layout and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Verdicts that changed.
    StateChanges,
    /// Log lines that any of the processes has lost.
    LogLinesLost,
    /// How often a process became the prober after the one before was stopped or had died.
    Takeovers,
    /// Users for whom there was no server, by the index of the reason in [`REFUSALS`].
    Refused(usize),
}

/// How a request got its server, as [`VerdictTable::count_selection`] counts it: by
/// `select_backend_server`. Part of the layout, never reused.
pub const CHOSEN_BY_SCRIPT: usize = 0;
/// By `route`: the number of the first of [`HOWS`].
pub const CHOSEN_BY_HASH: usize = 1;
/// How `route` finds servers, in the order of their numbers from [`CHOSEN_BY_HASH`] on.
pub const HOWS: [&str; 7] = [
    "hash",
    "new",
    "bound",
    "moved",
    "pinned",
    "remembered",
    "fallback",
];

/// Why there was no server for a user, in the order of their numbers. A reason that goes on with a
/// node's name is listed without it.
pub const REFUSALS: [&str; 11] = [
    "no key",
    "no node",
    "unusable",
    "no such protocol on the bound node",
    "held",
    "moving",
    "unstable",
    "unknown node",
    "pinned",
    "store unavailable",
    // A reason of a later version.
    "other",
];

/// A copy of a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Probes per bucket of [`BUCKETS_US`], then those that took longer; not cumulated.
    pub counts: [u64; BUCKETS_US.len() + 1],
    pub sum: Duration,
}

impl VerdictTable {
    /// Counts a probe: its result, the stage at which it failed (`None`: it passed all stages), and
    /// how long it took.
    pub fn count_probe(
        &self,
        protocol: Protocol,
        result: ProbeResult,
        stage: Option<Stage>,
        took: Duration,
    ) {
        let result_index = match result {
            ProbeResult::Good => 0,
            ProbeResult::Failed => 1,
            ProbeResult::Inconclusive => 2,
        };
        self.add(probes_at(protocol, stage) + result_index, 1);
        // An inconclusive probe has not measured the target.
        if result != ProbeResult::Inconclusive {
            self.observe(protocol, None, took);
        }
    }

    /// Adds to the histogram of a stage; `None`: of whole probes.
    pub fn observe(&self, protocol: Protocol, stage: Option<Stage>, took: Duration) {
        self.observe_at(histogram_at(protocol, stage), took);
    }

    /// Adds to the histogram of the store's answers.
    pub fn observe_store(&self, took: Duration) {
        self.observe_at(STORE_HISTOGRAM, took);
    }

    fn observe_at(&self, start: usize, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|&bound| bound < us);
        self.add(start + bucket, 1);
        self.add(start + HISTOGRAM_SUM, us);
    }

    pub fn probes_counted(
        &self,
        protocol: Protocol,
        result: ProbeResult,
        stage: Option<Stage>,
    ) -> u64 {
        let result_index = match result {
            ProbeResult::Good => 0,
            ProbeResult::Failed => 1,
            ProbeResult::Inconclusive => 2,
        };
        self.counted(probes_at(protocol, stage) + result_index)
    }

    pub fn histogram(&self, protocol: Protocol, stage: Option<Stage>) -> Histogram {
        self.histogram_at(histogram_at(protocol, stage))
    }

    /// How long the store took to answer.
    pub fn store_histogram(&self) -> Histogram {
        self.histogram_at(STORE_HISTOGRAM)
    }

    fn histogram_at(&self, start: usize) -> Histogram {
        let mut counts = [0; BUCKETS_US.len() + 1];
        for (bucket, count) in counts.iter_mut().enumerate() {
            *count = self.counted(start + bucket);
        }
        Histogram {
            counts,
            sum: Duration::from_micros(self.counted(start + HISTOGRAM_SUM)),
        }
    }

    /// Counts a user for whom there was no server, for this reason.
    pub fn count_refusal(&self, reason: &str) {
        let at = REFUSALS.iter().position(|known| reason.starts_with(known));
        self.count(Counter::Refused(at.unwrap_or(REFUSALS.len() - 1)), 1);
    }

    pub fn count(&self, counter: Counter, by: u64) {
        self.add(SINGLE + single(counter), by);
    }

    pub fn count_of(&self, counter: Counter) -> u64 {
        self.counted(SINGLE + single(counter))
    }

    /// Counts a server that a request was given. `choice` (0..=7) says how it was chosen.
    pub fn count_selection(&self, pid: u64, choice: usize) {
        let lane = usize::try_from(pid).unwrap_or(0) % LANES;
        self.add(SELECTIONS + lane * CHOICES + choice.min(CHOICES - 1), 1);
    }

    pub fn selections(&self, choice: usize) -> u64 {
        let choice = choice.min(CHOICES - 1);
        (0..LANES)
            .map(|lane| self.counted(SELECTIONS + lane * CHOICES + choice))
            .fold(0, u64::wrapping_add)
    }

    fn add(&self, index: usize, by: u64) {
        if cfg!(feature = "_uncounted") {
            return;
        }
        self.at(self.places.counters + index).fetch_add(by, Relaxed);
    }

    fn counted(&self, index: usize) -> u64 {
        self.at(self.places.counters + index).load(Relaxed)
    }

    pub(super) fn inherit_counters(&self, before: &Self) {
        for index in 0..COUNTERS {
            match before.counted(index) {
                0 => {}
                count => self.at(self.places.counters + index).store(count, Relaxed),
            }
        }
    }
}

/// The single counters of refusals begin here; those before it are reserved.
const FIRST_REFUSAL: usize = 16;

fn single(counter: Counter) -> usize {
    match counter {
        Counter::StateChanges => 0,
        Counter::LogLinesLost => 1,
        Counter::Takeovers => 2,
        Counter::Refused(reason) => FIRST_REFUSAL + reason.min(REFUSALS.len() - 1),
    }
}

/// The numbers are part of the layout: a counter would change its meaning with them.
fn protocol_index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Imap => 0,
        Protocol::Pop3 => 1,
        Protocol::Lmtp => 2,
        Protocol::Smtp => 3,
        Protocol::Sieve => 4,
        Protocol::Http => 5,
    }
}

fn stage_index(stage: Option<Stage>) -> usize {
    match stage {
        None => 0,
        Some(Stage::Resolve) => 1,
        Some(Stage::Connect) => 2,
        Some(Stage::Proxy) => 3,
        Some(Stage::Tls) => 4,
        Some(Stage::Greeting) => 5,
        Some(Stage::Capability) => 6,
        Some(Stage::StartTls) => 7,
        Some(Stage::Auth) => 8,
        Some(Stage::Http) => 9,
        Some(Stage::Internal) => 10,
        Some(Stage::Examine) => 11,
        Some(Stage::Stat) => 12,
        Some(Stage::ListScripts) => 13,
    }
}

fn probes_at(protocol: Protocol, stage: Option<Stage>) -> usize {
    COUNTED_PROBES + (protocol_index(protocol) * STAGES + stage_index(stage)) * RESULTS
}

fn histogram_at(protocol: Protocol, stage: Option<Stage>) -> usize {
    HISTOGRAMS + (protocol_index(protocol) * STAGES + stage_index(stage)) * HISTOGRAM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_counted_by_result_and_stage() {
        let table = VerdictTable::new(1).unwrap();
        let took = Duration::from_micros(100);
        table.count_probe(Protocol::Imap, ProbeResult::Good, None, took);
        table.count_probe(
            Protocol::Imap,
            ProbeResult::Failed,
            Some(Stage::Tls),
            took * 2,
        );
        table.count_probe(
            Protocol::Imap,
            ProbeResult::Inconclusive,
            Some(Stage::Internal),
            took,
        );
        let count = |result, stage| table.probes_counted(Protocol::Imap, result, stage);
        assert_eq!(count(ProbeResult::Good, None), 1);
        assert_eq!(count(ProbeResult::Failed, Some(Stage::Tls)), 1);
        assert_eq!(count(ProbeResult::Failed, None), 0);
        assert_eq!(count(ProbeResult::Inconclusive, Some(Stage::Internal)), 1);
        let histogram = table.histogram(Protocol::Imap, None);
        assert_eq!(histogram.counts[..3], [1, 1, 0]);
        assert_eq!(histogram.sum, took * 3);
        assert_eq!(table.histogram(Protocol::Http, None).sum, Duration::ZERO);
    }

    #[test]
    fn the_last_bucket_takes_what_is_longer() {
        let table = VerdictTable::new(1).unwrap();
        table.observe(Protocol::Http, Some(Stage::Http), Duration::from_secs(16));
        let histogram = table.histogram(Protocol::Http, Some(Stage::Http));
        assert_eq!(histogram.counts[BUCKETS_US.len()], 1);
    }

    #[test]
    fn selections_of_all_processes_add_up() {
        let table = VerdictTable::new(1).unwrap();
        for pid in 1..=100 {
            table.count_selection(pid, 0);
        }
        table.count_selection(1, 3);
        assert_eq!(table.selections(0), 100);
        assert_eq!(table.selections(3), 1);
    }

    #[test]
    fn a_table_that_follows_another_goes_on_counting() {
        let before = VerdictTable::new(1).unwrap();
        before.count(Counter::StateChanges, 5);
        let table = VerdictTable::new(1).unwrap();
        table.inherit_counters(&before);
        // The other table is in use until this one is, and then it is copied again.
        before.count(Counter::StateChanges, 1);
        table.inherit_counters(&before);
        table.count(Counter::StateChanges, 1);
        assert_eq!(table.count_of(Counter::StateChanges), 7);
    }
}
