//! One probe timer: when it is due, and what it keeps between probes. How an outcome changes the
//! verdict is in `outcome`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::backoff;
use super::queue::Pace;
use super::reports::ReportsOfTimer;
use super::schedule::{after, first_window, nearest, spread_after};
use crate::engine::active::ActiveConfig;
use crate::engine::probe::error::{Evidence, ProbeError};
use crate::engine::probe::tls::SessionSlot;
use crate::engine::probe::{Depth, Outcome};
use crate::engine::target::{Target, TlsMode};
use crate::engine::verdicts::health::Verdict;
use crate::engine::verdicts::{Record, Slot, VerdictTable};
use crate::sys::clock;
use crate::sys::fork_mark::pid;

/// How many outcomes with [`Evidence::IfRepeated`] in a row make a failure. Targets with one mail store
/// and one test user find its maildrop in use by each other's probes now and then; a store that hangs
/// and holds the lock is found after as many probes.
const REPEATED: u8 = 3;

/// Which of a target's timers this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimerKind {
    /// The target's only timer, or the one for connect probes if deep probes have their own.
    Connect,
    /// The timer for deep probes, if `deep_interval` differs from `connect_interval`.
    Deep,
}

/// One timer of one target.
pub(super) struct ProbeTimer {
    pub target: Arc<Target>,
    pub slot: Slot,
    pub kind: TimerKind,
    pub state: TimerState,
    /// Whether another probe follows at once, because the outcome of the last requested one does not agree
    /// with the verdict yet.
    pub is_requested: bool,
    pub pace: Pace,
    /// The timer's place within its interval, from 0 to 1; see `schedule`.
    pub offset: f32,
    /// Some if the last probe was not at the timer's place in the interval but gathered with those
    /// of other targets, in a window of this length.
    pub gathered: Option<Duration>,
    /// The index of the target's other timer. A target has only one probe in flight at a time.
    pub other: Option<usize>,
    /// How often in a row the login was refused. The record has it too, for the next prober.
    pub refusals: u16,
    /// Whether the last login was refused as one too many, see [`backoff::is_one_too_many`].
    pub is_delayed: bool,
    /// How many outcomes in a row had [`Evidence::IfRepeated`].
    pub unsure: u8,
    /// What this timer has done about reports of trouble.
    pub reports: ReportsOfTimer,
    /// The target's TLS session; None if its probes do not use TLS.
    pub sessions: Option<Arc<SessionSlot>>,
}

pub(super) enum TimerState {
    /// Waits until this time, in `CLOCK_MONOTONIC` nanoseconds. None: never due, because the target
    /// is probed elsewhere.
    Waiting(Option<u64>),
    /// Due; waits for a slot.
    Ready,
    /// Due; waits until the probe of the target's other timer completes.
    Blocked,
    /// Its probe is in flight.
    InFlight(RunningProbe),
}

pub(super) struct RunningProbe {
    pub task: AbortHandle,
    /// How the probe was started.
    pub start: ProbeStart,
    /// The timer's pace when the probe started.
    pub pace: Pace,
    /// Whether its result is known, so that it ends by itself soon.
    pub is_known: Arc<AtomicBool>,
}

/// How a probe was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeStart {
    /// Whether the probe was requested.
    pub is_hurried: bool,
    /// When the timer's probe before this one started, in `CLOCK_MONOTONIC` nanoseconds; 0: never.
    pub before_ns: u64,
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
            is_delayed: false,
            unsure: 0,
            reports: ReportsOfTimer::default(),
            sessions: sessions(target),
        }
    }

    /// Counts the outcomes in a row with [`Evidence::IfRepeated`], and makes this one a failure if there
    /// are enough of them.
    pub(super) fn weigh(&mut self, outcome: &mut Outcome) {
        match &mut outcome.result {
            Ok(()) => self.unsure = 0,
            Err(error) => self.weigh_failure(error),
        }
    }

    fn weigh_failure(&mut self, error: &mut ProbeError) {
        match error.evidence {
            Evidence::IfRepeated => {
                self.unsure = self.unsure.saturating_add(1);
                if self.unsure >= REPEATED {
                    error.evidence = Evidence::Failure;
                }
            }
            Evidence::Nothing => {}
            Evidence::Failure => self.unsure = 0,
        }
    }

    /// Counts refused logins, from which the pause before the next one follows.
    pub(super) fn note_login(&mut self, outcome: &Outcome) {
        match &outcome.result {
            Ok(()) => (self.refusals, self.is_delayed) = (0, false),
            Err(error) => self.note_failure(error),
        }
    }

    fn note_failure(&mut self, error: &ProbeError) {
        self.refusals = backoff::refusals_after(self.refusals, error);
        self.is_delayed = backoff::is_one_too_many(error)
            // What says nothing of the server does not say that the delay is over.
            || (self.is_delayed && !error.is_conclusive());
    }

    /// When the last probe started, in `CLOCK_MONOTONIC` nanoseconds; 0 if never.
    fn started_ns(&self, record: &Record) -> u64 {
        match self.kind {
            TimerKind::Connect => record.connect_started_ns,
            TimerKind::Deep => record.deep_started_ns,
        }
    }

    /// Records the start of a probe, and returns when the one before it started.
    pub(super) fn note_start(&self, table: &VerdictTable, now_ns: u64) -> u64 {
        let (connect_ns, deep_ns) = table.starts(self.slot);
        self.set_started(table, now_ns.max(1));
        match self.kind {
            TimerKind::Connect => connect_ns,
            TimerKind::Deep => deep_ns,
        }
    }

    /// Takes back [`ProbeTimer::note_start`]: the probe has ended without an outcome that counts.
    /// Otherwise the next probe, also that of another configuration or process, would only come an
    /// interval later.
    pub(super) fn take_back_start(&self, table: &VerdictTable, start: ProbeStart) {
        if table.has_lease(pid()) {
            self.set_started(table, start.before_ns);
        }
    }

    fn set_started(&self, table: &VerdictTable, at_ns: u64) {
        match self.kind {
            TimerKind::Connect => table.note_connect_start(self.slot, at_ns),
            TimerKind::Deep => table.note_deep_start(self.slot, at_ns),
        }
    }

    /// The interval between the starts of two probes while the target is alive and no probe fails.
    fn interval(&self) -> Duration {
        match self.kind {
            TimerKind::Connect => self.target.policy.connect_interval,
            TimerKind::Deep => self.target.policy.deep_interval,
        }
    }

    fn fast_interval(&self) -> Duration {
        self.target.policy.fast_interval.min(self.interval())
    }

    /// The time from the start of a probe to the next one while probes fail, or are too few for the first
    /// verdict. Refusals that count towards the verdict make it longer only if the target is dead: before,
    /// a delay would postpone the verdict. A login that was one too many brings no verdict nearer, and many
    /// of them would keep the server from ever taking one.
    fn wait_after_failure(&self, record: &Record) -> Duration {
        let fast = self.fast_interval();
        match self.health(record).verdict {
            _ if self.is_delayed => backoff::after_delay(fast, self.interval(), self.refusals),
            Verdict::Dead => backoff::interval(fast, self.refusals),
            _ => fast,
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

    /// Sets when the first probe is due. `count` is the number of timers, whose first probes are
    /// spread. If the table says that the target was probed before, by this process or another, the
    /// interval counts from that probe.
    pub(super) fn take_first_turn(&mut self, active: &ActiveConfig, count: usize) {
        self.take_first_turn_at(active, count, clock::monotonic_ns());
    }

    fn take_first_turn_at(&mut self, active: &ActiveConfig, count: usize, now: u64) {
        let record = active.table.read(self.slot);
        let started = self.started_ns(&record);
        let interval = self.interval();
        let policy = &self.target.policy;
        self.refusals = self.health(&record).refusals;
        // Targets that were never probed, or not for longer than an interval with its jitter (after
        // a restart or a long pause), come first, spread over a fast interval per hundred timers.
        let usual = interval.max(self.wait_after_failure(&record));
        let longest = clock::ns(usual).saturating_mul(21) / 20;
        // A start without an outcome says nothing: it may be that of a probe which another
        // configuration called off after the record was emptied for this one.
        let is_late = started == 0 || record.probes == 0 || now.saturating_sub(started) > longest;
        if is_late {
            self.gather(count, now);
            return;
        }
        let window = first_window(policy.fast_interval, policy.connect_interval, count);
        let gathered = (record.probes < 2).then_some(window);
        let (due, gathered) = self.due_after(&record, gathered);
        self.gathered = gathered;
        self.state = TimerState::Waiting(Some(due));
    }

    /// The target is probed elsewhere from now on. A probe that has begun, or is about to, is made all the same.
    pub(super) fn follow_elsewhere(&mut self) {
        if let TimerState::Waiting(due) = &mut self.state {
            *due = None;
        }
    }

    /// The target is no longer probed elsewhere: it is due by itself again, and no later than a report that waits
    /// has made it.
    pub(super) fn probe_again(&mut self, active: &ActiveConfig, count: usize) {
        let TimerState::Waiting(reported) = self.state else {
            return;
        };
        self.take_first_turn(active, count);
        if let (TimerState::Waiting(due), Some(reported)) = (&mut self.state, reported) {
            *due = Some(due.map_or(reported, |due| due.min(reported)));
        }
    }

    /// Makes the first probe due soon if the record is empty. A timer that was kept may be due much
    /// later: its target was removed and has come back before the engine thread saw that.
    pub(super) fn hasten_first(&mut self, active: &ActiveConfig, count: usize) {
        if let TimerState::Waiting(Some(due)) = self.state
            && active.table.read(self.slot).probes == 0
        {
            let first = self.gather(count, clock::monotonic_ns());
            self.state = TimerState::Waiting(Some(first.min(due)));
        }
    }

    /// Gathers the next probe with those of `count` timers from `now` on, and returns when it is due.
    pub(super) fn gather(&mut self, count: usize, now: u64) -> u64 {
        let policy = &self.target.policy;
        let window = first_window(policy.fast_interval, policy.connect_interval, count);
        let first = now + clock::ns(window.mul_f32(self.offset));
        let due = nearest(first, self.interval());
        self.gathered = Some(window);
        self.state = TimerState::Waiting(Some(due));
        due
    }

    /// When the next probe is due, in `CLOCK_MONOTONIC` nanoseconds, and the new value of
    /// `gathered`.
    pub(super) fn next_due(&self, record: &Record) -> (u64, Option<Duration>) {
        self.due_after(record, self.gathered)
    }

    fn due_after(&self, record: &Record, gathered: Option<Duration>) -> (u64, Option<Duration>) {
        let started = self.started_ns(record);
        let interval = self.interval();
        if self.health(record).wants_fast_probe() {
            let wait = self.wait_after_failure(record);
            return (after(started, wait), Some(self.fast_interval()));
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

/// An empty place for the target's TLS session; None if its probes do not use TLS.
pub(super) fn sessions(target: &Target) -> Option<Arc<SessionSlot>> {
    (target.tls_mode != TlsMode::Plain).then(Arc::default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::Config;
    use crate::engine::verdicts::health::HealthState;

    /// A process that takes over, or the one after a reload, logs in no sooner than the one before
    /// it would have.
    #[test]
    fn a_password_that_was_refused_is_not_tried_sooner_by_the_next_prober() {
        let text = "backend_server_monitoring:
  {log: none, connect_interval: 10s, fast_interval: 1s, backend_servers: [
    {protocol: imap, host: 127.0.0.1, port: 1, deep_check: true, test_username: a, test_password: b}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap();
        let (slot, target) = (active.slots[0], &active.config.targets[0]);
        let second = 1_000_000_000;
        let now = clock::monotonic_ns() + 300 * second;
        let due_after = |refusals: u16| {
            let record = Record {
                probes: 9,
                error: Some("auth: refused: a1 NO".to_owned()),
                connect_started_ns: now - 20 * second,
                connect: HealthState {
                    verdict: Verdict::Dead,
                    failures: 9,
                    refusals,
                    ..HealthState::default()
                },
                ..Record::default()
            };
            active.table.write(slot, &record, false);
            let mut timer = ProbeTimer::new(slot, TimerKind::Connect, target, 0.5);
            timer.take_first_turn_at(&active, 1, now);
            match timer.state {
                TimerState::Waiting(Some(due)) => due.saturating_sub(now) / second,
                _ => panic!("never due"),
            }
        };
        assert!(due_after(9) > 30);
        // The server refused for now, whatever the password.
        assert!(due_after(0) < 2);
    }

    /// After a restart, targets whose last probe is older than the interval are probed first.
    #[test]
    fn verdicts_that_are_overdue_are_checked_first() {
        let text = "backend_server_monitoring:
  {log: none, connect_interval: 1h, fast_interval: 1s, backend_servers: [
    {protocol: imap, host: 127.0.0.1, port: 1}, {protocol: imap, host: 127.0.0.1, port: 2},
    {protocol: imap, host: 127.0.0.1, port: 3}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap();
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
        // 250 timers are spread over two and a half fast intervals of 1 s.
        for overdue in [0, 2] {
            assert!(due(overdue) <= 2_500_000_000, "{}", due(overdue));
        }
        assert!(due(1) > 25 * minute, "{}", due(1));
    }
}
