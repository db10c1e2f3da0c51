//! Begins the probes that are due, and decides on their outcomes when the next ones are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError};

use super::queue::Pace;
use super::schedule::FIRST_PROBES_AT_ONCE;
use super::timer::{ProbeStart, ProbeTimer, RunningProbe, TimerState};
use super::{SLOW_AFTER, Scheduler};
use crate::engine::log::{Level, Line};
use crate::engine::probe::{Begun, Outcome, Resumption, ReusableSockets, panics};
use crate::engine::verdicts::Slot;
use crate::sys::clock;

/// How many probes are begun in a row before other tasks of the engine thread run.
const BATCH: usize = 64;

/// A timer that is overdue for longer was not late by itself: the process was stopped, or the
/// machine slept. Otherwise due timers are begun within milliseconds.
const PAUSE: Duration = Duration::from_secs(2);

impl Scheduler {
    /// Requests a probe of each target with a report that came after its last probe began.
    pub(in crate::engine) fn handle_reports(&mut self) {
        let wakes = self.active.table.wakes();
        if self.wakes_seen.replace(wakes) == Some(wakes) {
            return;
        }
        for at in 0..self.timers.len() {
            let Some(report_due) = self.report_due(at) else {
                continue;
            };
            // Timers in another state check for reports when their probe starts or completes.
            if let Some(timer) = self.timers.get_mut(at)
                && let TimerState::Waiting(due) = timer.state
            {
                due.into_iter().for_each(|due| {
                    self.due.remove(&(due, at));
                });
                if report_due <= clock::monotonic_ns() {
                    timer.state = TimerState::Ready;
                    self.ready.push_first(at, timer.pace);
                } else {
                    let due = due.map_or(report_due, |due| due.min(report_due));
                    timer.state = TimerState::Waiting(Some(due));
                    self.due.insert((due, at));
                }
            }
        }
    }

    /// When the timer's probe for a report is due, in `CLOCK_MONOTONIC` nanoseconds. None: there
    /// was no report after its last probe began.
    fn report_due(&self, at: usize) -> Option<u64> {
        let timer = self.timers.get(at)?;
        timer.reports.due(self.active.table.reports(timer.slot))
    }

    /// Records that the timer's probe starts.
    fn note_start(&mut self, at: usize, now_ns: u64) -> Option<ProbeStart> {
        let timer = self.timers.get_mut(at)?;
        let before_ns = timer.note_start(&self.active.table, now_ns);
        let reports = self.active.table.note_probe(timer.slot);
        let is_reported = timer.reports.begin(reports, now_ns);
        Some(ProbeStart {
            is_hurried: std::mem::take(&mut timer.is_requested) || is_reported,
            before_ns,
        })
    }

    /// Records that the timer's outcome was published. A report is answered when a probe of each of
    /// the target's timers began after it.
    fn answer_reports(&mut self, at: usize) {
        let Some(timer) = self.timers.get_mut(at) else {
            return;
        };
        timer.reports.publish();
        let (slot, answered) = (timer.slot, timer.reports.answered);
        let other = timer.other.and_then(|other| self.timers.get(other));
        if other.is_none_or(|other| other.reports.answered == answered) {
            self.active.table.answer(slot, answered);
        }
    }

    /// Repeats a probe whose outcome was not published: another configuration has come into force,
    /// or another process has become the prober. Mostly this scheduler ends as well, and its
    /// successor makes the probe.
    fn discard(&mut self, at: usize, start: ProbeStart) {
        let is_followed = |slot: &Slot| self.followed.contains(slot);
        if let Some(timer) = self.timers.get_mut(at) {
            timer.take_back_start(&self.active.table, start);
            timer.is_requested |= start.is_hurried;
            timer.reports.discard();
            let due = (!is_followed(&timer.slot)).then(clock::monotonic_ns);
            timer.state = TimerState::Waiting(due);
            self.due.extend(due.map(|due| (due, at)));
        }
        self.wakes_seen = None;
        self.release_other(at);
    }

    /// Cancels the probe of a timer that ends, if one is in flight.
    pub(super) fn cancel(&self, timer: &ProbeTimer) {
        if let TimerState::InFlight(running) = &timer.state {
            timer.take_back_start(&self.active.table, running.start);
        }
    }

    /// Begins the probes that are due, as far as there are free slots, at most one batch.
    pub(in crate::engine) fn probe_due(&mut self) {
        self.lingering.close_finished();
        let now = clock::monotonic_ns();
        self.spread_overdue(now);
        while let Some(&(due, at)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            self.make_ready(at);
        }
        let mut reusable = ReusableSockets::default();
        for _ in 0..BATCH {
            self.make_way();
            match self.ready.pop(self.slots(), now) {
                Some(at) => self.start(at, &mut reusable),
                None => break,
            }
        }
    }

    /// Spreads the timers that are overdue after a pause of this process as first probes are: all of
    /// them at once would be late for each other's deadlines.
    pub(super) fn spread_overdue(&mut self, now: u64) {
        let is_overdue = |due: u64| now.saturating_sub(due) > clock::ns(PAUSE);
        if !self.due.first().is_some_and(|(due, _)| is_overdue(*due)) {
            return;
        }
        let overdue: Vec<(u64, usize)> = self
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .copied()
            .collect();
        if overdue.len() <= FIRST_PROBES_AT_ONCE {
            return;
        }
        for entry in &overdue {
            self.due.remove(entry);
            if let Some(timer) = self.timers.get_mut(entry.1) {
                let due = timer.gather(overdue.len(), now);
                self.due.insert((due, entry.1));
            }
        }
    }

    /// Cancels probes that turn out to be slow while a prompt target waits for a slot. A cancelled
    /// probe changes no verdict; it is repeated when its target's turn comes in the slow queue.
    pub(super) fn make_way(&mut self) {
        let now = clock::monotonic_ns();
        while self.gives_way_at().is_some_and(|at| at <= now)
            && let Some((_, task)) = self.prompt_tasks.pop_front()
        {
            // One whose result is known ends by itself within 250 ms, and its result counts.
            if let Some(&at) = self.tasks.get(&task)
                && let Some(timer) = self.timers.get_mut(at)
                && let TimerState::InFlight(running) = &timer.state
                && !running.is_known.load(Ordering::Relaxed)
            {
                self.tasks.remove(&task);
                timer.take_back_start(&self.active.table, running.start);
                timer.is_requested |= running.start.is_hurried;
                timer.pace = Pace::Slow;
                self.ready.note_slow(SLOW_AFTER, now);
                // Dropping the `RunningProbe` cancels its task.
                timer.state = TimerState::Ready;
                self.ready.push(at, Pace::Slow);
                self.release_other(at);
            }
        }
    }

    /// Makes the target's other timer ready, if it was blocked by this one's probe.
    fn release_other(&mut self, at: usize) {
        let other = self.timers.get(at).and_then(|timer| timer.other);
        if let Some(other) = other
            && let Some(timer) = self.timers.get(other)
            && matches!(timer.state, TimerState::Blocked)
        {
            self.make_ready(other);
        }
    }

    pub(super) fn make_ready(&mut self, at: usize) {
        if let Some(timer) = self.timers.get_mut(at) {
            timer.state = TimerState::Ready;
            self.ready.push(at, timer.pace);
        }
    }

    fn start(&mut self, at: usize, reusable: &mut ReusableSockets) {
        let Some(timer) = self.timers.get(at) else {
            return;
        };
        let other = timer.other.and_then(|other| self.timers.get(other));
        let is_blocked = other.is_some_and(|other| matches!(other.state, TimerState::InFlight(_)));
        if is_blocked {
            if let Some(timer) = self.timers.get_mut(at) {
                timer.state = TimerState::Blocked;
            }
            return;
        }
        let depth = timer.depth();
        let now = clock::monotonic_ns();
        let Some(start) = self.note_start(at, now) else {
            return;
        };
        let Some(timer) = self.timers.get(at) else {
            return;
        };
        match panics::caught(|| self.prober.begin(&timer.target, depth, reusable)) {
            Ok(Begun::Ended(outcome)) | Err(outcome) => self.settle(at, outcome, start),
            Ok(Begun::Underway(probe)) => {
                let (prober, target) = (self.prober.clone(), timer.target.clone());
                let (lingering, is_known) = (self.lingering.clone(), probe.is_known());
                let resumption = timer.sessions.clone().map(|slot| Resumption {
                    slot,
                    full_every: self.active.config.tls_full_handshake_interval,
                });
                let task = self.in_flight.spawn(async move {
                    let kept = resumption.as_ref();
                    let probe = prober.finish(probe, &target, depth, kept, Some(&lingering));
                    panics::contained(Box::pin(probe)).await
                });
                self.note_task(task.id(), at, now);
                self.set_in_flight(at, task, start, is_known);
            }
        }
    }

    fn note_task(&mut self, task: Id, at: usize, now_ns: u64) {
        self.tasks.insert(task, at);
        match self.timers.get(at).map(|timer| timer.pace) {
            Some(Pace::Slow) => self.slow_tasks += 1,
            _ => {
                // Completed tasks at the front are removed, so that the queue does not grow.
                while let Some((_, first)) = self.prompt_tasks.front()
                    && !self.tasks.contains_key(first)
                {
                    self.prompt_tasks.pop_front();
                }
                self.prompt_tasks.push_back((now_ns, task));
            }
        }
    }

    fn set_in_flight(
        &mut self,
        at: usize,
        task: AbortHandle,
        start: ProbeStart,
        is_known: Arc<AtomicBool>,
    ) {
        if let Some(timer) = self.timers.get_mut(at) {
            timer.state = TimerState::InFlight(RunningProbe {
                task,
                start,
                pace: timer.pace,
                is_known,
            });
        }
    }

    /// Handles the completion of a probe in flight.
    pub(in crate::engine) fn complete(&mut self, completed: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match completed {
            Ok(completed) => completed,
            Err(error) => (error.id(), panics::ended(error)),
        };
        // A task that is not in `tasks` was cancelled: its target was removed, or it gave up its
        // slot.
        if let Some(at) = self.tasks.remove(&id)
            && let Some(timer) = self.timers.get(at)
            && let TimerState::InFlight(running) = &timer.state
        {
            if running.pace == Pace::Slow {
                self.slow_tasks -= 1;
                self.ready.note_slow(outcome.elapsed, clock::monotonic_ns());
            }
            let start = running.start;
            self.settle(at, outcome, start);
        }
    }

    /// Publishes an outcome and sets when the next probe is due. It is due at once if the probe was
    /// requested and its outcome does not agree with the verdict yet, for example after one failure
    /// of the two that make a target dead.
    fn settle(&mut self, at: usize, mut outcome: Outcome, start: ProbeStart) {
        let Some(timer) = self.timers.get_mut(at) else {
            return;
        };
        let unsure_before = timer.unsure;
        timer.weigh(&mut outcome);
        let outcome = &outcome;
        let applied = panics::caught(|| timer.apply(&self.active, outcome, &self.log));
        if applied.as_ref().is_ok_and(|effect| !effect.is_published) {
            // The probe is repeated, and must not count twice.
            timer.unsure = unsure_before;
            self.discard(at, start);
            return;
        }
        let is_followed = self.followed.contains(&timer.slot);
        let record = match &applied {
            Ok(effect) => effect.record.clone(),
            Err(panicked) => {
                let text = panicked.result.as_ref().err().map(ToString::to_string);
                self.log.write(
                    Line::new(Level::Error, "engine_panicked")
                        .quoted("reason", text.as_deref().unwrap_or_default()),
                );
                self.active.table.read(timer.slot)
            }
        };
        let Some(timer) = self.timers.get_mut(at) else {
            return;
        };
        timer.note_login(outcome);
        let (due, gathered) = timer.next_due(&record);
        let has_failed = timer.health(&record).wants_fast_probe();
        let is_turned = applied.as_ref().is_ok_and(|effect| effect.turned);
        if is_followed && (has_failed || is_turned) {
            self.own_findings.push(timer.slot);
        }
        if let Some(saver) = self.saver.as_mut().filter(|_| is_turned) {
            saver.note_turn();
        }
        self.release_other(at);
        self.answer_reports(at);
        let waits_until = self.report_due(at);
        // After a panic there is no retry at once, because it would panic again.
        let is_settled = applied.map_or(true, |effect| effect.settled);
        if let Some(timer) = self.timers.get_mut(at) {
            timer.is_requested |= start.is_hurried && !is_settled;
            timer.gathered = gathered;
            timer.pace = pace_of(outcome).unwrap_or(timer.pace);
            if timer.is_requested {
                // At the end of the queue, so that repeated requests do not delay other targets.
                self.make_ready(at);
            } else {
                let due = (!is_followed).then_some(due);
                let due = due.into_iter().chain(waits_until).min();
                timer.state = TimerState::Waiting(due);
                self.due.extend(due.map(|due| (due, at)));
            }
        }
    }
}

/// The pace that an outcome shows; None if the outcome is inconclusive.
fn pace_of(outcome: &Outcome) -> Option<Pace> {
    let is_slow = outcome.elapsed > SLOW_AFTER;
    let pace = if is_slow { Pace::Slow } else { Pace::Prompt };
    outcome.is_conclusive().then_some(pace)
}
