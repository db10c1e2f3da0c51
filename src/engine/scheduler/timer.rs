//! A timer: one timer of one target, when it is due, and what is kept from probe to probe.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::outcome::{TimerKind, Watch};
use super::schedule::{Grid, first_window, spread_after};
use crate::engine::active::ActiveConfig;
use crate::engine::probe::tls::SessionSlot;
use crate::engine::target::{Target, TlsMode};
use crate::engine::verdicts::{Record, Slot};
use crate::sys::clock;

/// One timer of one target.
pub(super) struct ProbeTimer {
    pub target: Arc<Target>,
    pub slot: Slot,
    pub kind: TimerKind,
    pub state: TimerState,
    /// Somebody wants a probe now, or one more after the one under way.
    pub is_requested: bool,
    /// Where in its round it is.
    pub phase: f32,
    /// It was last probed among others, out of its place: within this time.
    pub gathered: Option<Duration>,
    /// The target's other timer: a target has one probe at a time.
    pub other: Option<usize>,
    /// Kept from probe to probe where a probe may use TLS.
    pub sessions: Option<Arc<SessionSlot>>,
}

pub(super) enum TimerState {
    /// Until it is due; those that others see to never are.
    Waiting(Option<u64>),
    /// Its time has come.
    Ready,
    /// Until the target's other timer has had its probe.
    Blocked,
    /// Its probe is under way.
    InFlight(RunningProbe),
}

pub(super) struct RunningProbe {
    pub task: AbortHandle,
    /// Somebody asked for it.
    pub is_hurried: bool,
}

impl Drop for RunningProbe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProbeTimer {
    /// A timer that is never due.
    pub(super) fn new(slot: Slot, kind: TimerKind, target: &Arc<Target>, phase: f32) -> Self {
        Self {
            target: target.clone(),
            slot,
            kind,
            state: TimerState::Waiting(None),
            is_requested: false,
            phase,
            gathered: None,
            other: None,
            sessions: sessions(target),
        }
    }

    pub(super) fn watch<'a>(&'a self, active: &'a ActiveConfig) -> Watch<'a> {
        Watch {
            active,
            target: &self.target,
            slot: self.slot,
            kind: self.kind,
        }
    }

    /// Says when the first probe of this process is due, of so many timers: where one went
    /// before, of this process or another, it counts.
    pub(super) fn take_first_turn(&mut self, active: &ActiveConfig, count: usize, grid: Grid) {
        let watch = self.watch(active);
        let record = watch.record();
        let started = watch.started_ns(&record);
        let interval = watch.interval();
        let config = &active.config;
        let window = first_window(config.fast_interval, config.connect_interval, count);
        let now = clock::monotonic_ns();
        // Never probed, or not for so long that all of them are late.
        let is_first = started == 0 || now.saturating_sub(started) > 2 * clock::ns(interval);
        let (due, gathered) = if is_first {
            let first = now + clock::ns(window.mul_f32(self.phase));
            (grid.nearest(first, interval), Some(window))
        } else {
            let gathered = (record.probes < 2).then_some(window);
            self.due_after(&watch, &record, gathered, grid)
        };
        self.gathered = gathered;
        self.state = TimerState::Waiting(Some(due));
    }

    /// When the probe after the last one is due, and whether that is out of its place again.
    pub(super) fn next_due(
        &self,
        watch: &Watch<'_>,
        record: &Record,
        grid: Grid,
    ) -> (u64, Option<Duration>) {
        self.due_after(watch, record, self.gathered, grid)
    }

    fn due_after(
        &self,
        watch: &Watch<'_>,
        record: &Record,
        gathered: Option<Duration>,
        grid: Grid,
    ) -> (u64, Option<Duration>) {
        let started = watch.started_ns(record);
        let (fast, interval) = (watch.fast_interval(), watch.interval());
        if watch.wants_fast_probe(record) {
            return (grid.after(started, fast), Some(fast));
        }
        let due = match gathered {
            Some(window) => {
                let wait = spread_after(window, interval, self.phase);
                grid.nearest(started + clock::ns(wait), interval)
            }
            None => grid.after(started, interval),
        };
        (due, None)
    }
}

/// Where the target's TLS sessions are kept, if it may have any.
pub(super) fn sessions(target: &Target) -> Option<Arc<SessionSlot>> {
    (target.tls_mode != TlsMode::Plain).then(Arc::default)
}
