//! What a probe timer has done about reports of trouble. Each report is followed by a probe that
//! begins after it, also where a probe of the target is in flight, and where another configuration
//! or process takes over meanwhile.

use std::time::Duration;

use crate::sys::clock;

/// Probes for reports on one target begin at most this often, or a host with many failing requests
/// would have the target probed without pause.
const GAP: Duration = Duration::from_millis(100);

/// What a timer has done about reports. The numbers are those of [`VerdictTable::reports`].
///
/// [`VerdictTable::reports`]: crate::engine::verdicts::VerdictTable::reports
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReportsOfTimer {
    /// The last report before the begin of this timer's last probe.
    begun: u32,
    /// The last report before the begin of this timer's last probe with a published outcome.
    pub answered: u32,
    /// When the last probe began that was requested by a report, in `CLOCK_MONOTONIC` nanoseconds.
    probed_ns: u64,
}

impl ReportsOfTimer {
    /// What a new timer knows. `answered`: the reports that the table has as answered. `earlier`:
    /// of the timer that it replaces.
    pub(super) fn after(answered: u32, earlier: Option<Self>) -> Self {
        Self {
            begun: answered,
            answered,
            probed_ns: earlier.map_or(0, |earlier| earlier.probed_ns),
        }
    }

    /// When the probe for a report is due, in `CLOCK_MONOTONIC` nanoseconds. None: none of the
    /// `reports` came after the last probe began.
    pub(super) fn due(&self, reports: u32) -> Option<u64> {
        let due = self.probed_ns.saturating_add(clock::ns(GAP));
        (reports != self.begun).then_some(due)
    }

    /// Records that a probe starts after so many `reports`. Returns whether one of them requested
    /// it.
    pub(super) fn begin(&mut self, reports: u32, now_ns: u64) -> bool {
        let is_reported = reports != self.begun;
        if is_reported {
            self.begun = reports;
            self.probed_ns = now_ns;
        }
        is_reported
    }

    /// Records that the outcome of the last probe was published.
    pub(super) fn publish(&mut self) {
        self.answered = self.begun;
    }

    /// Records that the last probe has no outcome that counts.
    pub(super) fn discard(&mut self) {
        self.begun = self.answered;
    }
}
