//! One timer of one target: when it is due, and what is kept from probe to probe. What an
//! outcome changes is in `outcome`.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::backoff;
use super::queue::Pace;
use super::schedule::{after, first_window, nearest, spread_after};
use crate::engine::active::ActiveConfig;
use crate::engine::probe::Depth;
use crate::engine::probe::tls::SessionSlot;
use crate::engine::target::{Target, TlsMode};
use crate::engine::verdicts::health::Verdict;
use crate::engine::verdicts::{Record, Slot, VerdictTable};
use crate::sys::clock;

/// Which of a target's timers this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimerKind {
    /// The only one, or that of connect probes where deep ones have their own.
    Connect,
    /// Deep probes, where `deep_interval` is another than `connect_interval`.
    Deep,
}

/// One timer of one target.
pub(super) struct ProbeTimer {
    pub target: Arc<Target>,
    pub slot: Slot,
    pub kind: TimerKind,
    pub state: TimerState,
    /// Somebody wants a probe now, or one more after the one under way.
    pub is_requested: bool,
    pub pace: Pace,
    /// Where in its round it is, from 0 to 1.
    pub offset: f32,
    /// It was last probed among others, out of its place: within this time.
    pub gathered: Option<Duration>,
    /// The target's other timer: a target has one probe at a time.
    pub other: Option<usize>,
    /// How often in a row its login was refused.
    pub refusals: u32,
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
    /// As what it started.
    pub pace: Pace,
}

impl Drop for RunningProbe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProbeTimer {
    /// A timer that is never due.
    pub(super) fn new(slot: Slot, kind: TimerKind, target: &Arc<Target>, offset: f32) -> Self {
        Self {
            target: target.clone(),
            slot,
            kind,
            state: TimerState::Waiting(None),
            is_requested: false,
            pace: Pace::Prompt,
            offset,
            gathered: None,
            other: None,
            refusals: 0,
            sessions: sessions(target),
        }
    }

    /// When its last probe started, in `CLOCK_MONOTONIC` nanoseconds; 0: never.
    fn started_ns(&self, record: &Record) -> u64 {
        match self.kind {
            TimerKind::Connect => record.connect_started_ns,
            TimerKind::Deep => record.deep_started_ns,
        }
    }

    pub(super) fn note_start(&self, table: &VerdictTable, now_ns: u64) {
        match self.kind {
            TimerKind::Connect => table.note_connect_start(self.slot, now_ns.max(1)),
            TimerKind::Deep => table.note_deep_start(self.slot, now_ns.max(1)),
        }
    }

    /// Between the starts of two probes while all is well.
    fn interval(&self) -> Duration {
        match self.kind {
            TimerKind::Connect => self.target.policy.connect_interval,
            TimerKind::Deep => self.target.policy.deep_interval,
        }
    }

    pub(super) fn depth(&self) -> Depth {
        match self.kind {
            TimerKind::Deep => Depth::Deep,
            TimerKind::Connect if self.target.deep_check && !self.target.has_deep_timer() => {
                Depth::Deep
            }
            TimerKind::Connect => Depth::Connect,
        }
    }

    /// Says when the first probe of this process is due, of so many timers: where one went
    /// before, of this process or another, it counts.
    pub(super) fn take_first_turn(&mut self, active: &ActiveConfig, count: usize) {
        self.take_first_turn_at(active, count, clock::monotonic_ns());
    }

    fn take_first_turn_at(&mut self, active: &ActiveConfig, count: usize, now: u64) {
        let record = active.table.read(self.slot);
        let started = self.started_ns(&record);
        let interval = self.interval();
        let policy = &self.target.policy;
        // Nothing is known, or what is known is older than it may be, after a restart or a long
        // pause: those come first, spread over a fast interval for each hundred timers.
        let longest = clock::ns(interval).saturating_mul(21) / 20;
        let is_late = started == 0 || now.saturating_sub(started) > longest;
        let window = first_window(policy.fast_interval, policy.connect_interval, count);
        let (due, gathered) = if is_late {
            let first = now + clock::ns(window.mul_f32(self.offset));
            (nearest(first, interval), Some(window))
        } else {
            let gathered = (record.probes < 2).then_some(window);
            self.due_after(&record, gathered)
        };
        self.gathered = gathered;
        self.state = TimerState::Waiting(Some(due));
    }

    /// When the probe after the last one is due, and whether that is out of its place again.
    pub(super) fn next_due(&self, record: &Record) -> (u64, Option<Duration>) {
        self.due_after(record, self.gathered)
    }

    fn due_after(&self, record: &Record, gathered: Option<Duration>) -> (u64, Option<Duration>) {
        let started = self.started_ns(record);
        let interval = self.interval();
        let fast = self.target.policy.fast_interval.min(interval);
        let gate = self.gate(record);
        if gate.wants_fast_probe() {
            // Until the verdict every attempt counts.
            let wait = match gate.verdict {
                Verdict::Dead => backoff::interval(fast, self.refusals),
                _ => fast,
            };
            return (after(started, wait), Some(fast));
        }
        let due = match gathered {
            Some(window) => {
                let wait = spread_after(window, interval, self.offset);
                nearest(started + clock::ns(wait), interval)
            }
            None => after(started, interval),
        };
        (due, None)
    }
}

/// Where the target's TLS sessions are kept, if it may have any.
pub(super) fn sessions(target: &Target) -> Option<Arc<SessionSlot>> {
    (target.tls_mode != TlsMode::Plain).then(Arc::default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::State;
    use crate::engine::config::Config;

    /// After a restart, what is older than its interval comes first.
    #[test]
    fn verdicts_that_are_overdue_are_checked_first() {
        let text = "backend_server_monitoring:
  {log: none, connect_interval: 1h, fast_interval: 1s, backend_servers: [
    {protocol: imap, host: 127.0.0.1, port: 1}, {protocol: imap, host: 127.0.0.1, port: 2},
    {protocol: imap, host: 127.0.0.1, port: 3}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, State::default()).unwrap();
        let minute = 60_000_000_000;
        let now = clock::monotonic_ns() + 300 * minute;
        let timers: Vec<ProbeTimer> = active
            .config
            .targets
            .iter()
            .zip(&active.slots)
            .zip([now - 200 * minute, now - 30 * minute, 0])
            .map(|((target, slot), started)| {
                let record = Record {
                    probes: 9,
                    connect_started_ns: started,
                    ..Record::default()
                };
                active.table.write(*slot, &record, false);
                let mut timer = ProbeTimer::new(*slot, TimerKind::Connect, target, 0.5);
                timer.take_first_turn_at(&active, 250, now);
                timer
            })
            .collect();
        let due = |at: usize| match timers[at].state {
            TimerState::Waiting(Some(due)) => due.saturating_sub(now),
            _ => panic!("never due"),
        };
        // 250 timers in two and a half fast intervals.
        for overdue in [0, 2] {
            assert!(due(overdue) <= 2_500_000_000, "{}", due(overdue));
        }
        assert!(due(1) > 25 * minute, "{}", due(1));
    }
}
