//! The scheduler: decides when which target is probed. There is one probe timer per target and kind
//! of probe.
//!
//! All timers run in one task of the engine thread. A probe that needs no waiting completes within
//! that task; any other one continues in its own task. The number of these is bounded by
//! `max_concurrent_probes`.

mod backoff;
pub(in crate::engine) mod follower;
mod notifier;
mod outcome;
mod queue;
#[cfg(test)]
mod reload_tests;
mod reports;
mod requests;
mod saver;
pub(in crate::engine) mod schedule;
mod timer;
mod wakeup;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::active::{ActiveConfig, Panic};
use super::log::{Level, Line, Log};
use super::probe::panics;
use super::probe::{Begun, LingeringConnections, Outcome, Prober, Resumption, ReusableSockets};
use super::target::{Host, Target};
use super::verdicts::{Event, EventKind, Slot};
use crate::sys::{clock, gate};
use follower::Followed;
use notifier::Notifier;
use queue::{Pace, ReadyQueue, Slots};
use reports::ReportsOfTimer;
use saver::Saver;
use schedule::offset;
use timer::{ProbeStart, ProbeTimer, RunningProbe, TimerKind, TimerState, sessions};
use wakeup::WakeupTimer;

/// How many probes are begun in a row before other tasks of the engine thread run.
const BATCH: usize = 64;

/// A probe that takes longer than this is slow, see `queue`.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// One in this many of the connections that may be open at once may be a lingering connection.
const LINGERING_SHARE: usize = 8;

/// Probes the targets of the active configuration. A process has one while it has the prober's role
/// or follows the state file.
pub(super) struct Scheduler {
    pub active: Arc<ActiveConfig>,
    log: Arc<Log>,
    prober: Arc<Prober>,
    /// The targets that are probed elsewhere. Here they are probed only when a script reports
    /// trouble.
    followed: Followed,
    timers: Vec<ProbeTimer>,
    /// When waiting timers are due, in `CLOCK_MONOTONIC` nanoseconds, and their index in `timers`;
    /// the soonest first.
    due: BTreeSet<(u64, usize)>,
    wakeup: WakeupTimer,
    /// Timers that are due and wait for a free slot.
    ready: ReadyQueue,
    /// The tasks of probes in flight.
    in_flight: JoinSet<Outcome>,
    /// The index in `timers` for each of these tasks, unless its probe was cancelled.
    tasks: HashMap<Id, usize>,
    /// How many of these tasks probe slow targets.
    slow_tasks: usize,
    /// The tasks of prompt targets and when they started, in `CLOCK_MONOTONIC` nanoseconds, the
    /// oldest first. Some of them have completed.
    prompt_tasks: VecDeque<(u64, Id)>,
    /// How many probes in flight and lingering connections there may be in total.
    limit: usize,
    lingering: Arc<LingeringConnections>,
    notifier: Notifier,
    /// The protocols in panic that were last logged.
    panicking: Vec<Panic>,
    /// The value of [`super::verdicts::VerdictTable::wakes`] when reports were last handled.
    wakes_seen: Option<u32>,
    /// Present if this process writes the state file.
    saver: Option<Saver>,
}

/// What the scheduler waits for.
pub(super) enum SchedulerEvent {
    /// A probe is due.
    Due,
    /// Another thread or process notified the scheduler.
    Notified,
    /// A probe has completed.
    Completed(Result<(Id, Outcome), JoinError>),
}

impl Scheduler {
    pub(super) fn begin(active: &Arc<ActiveConfig>, log: &Arc<Log>, prober: &Arc<Prober>) -> Self {
        Self {
            active: active.clone(),
            log: log.clone(),
            prober: prober.clone(),
            followed: Followed::default(),
            timers: Vec::new(),
            due: BTreeSet::new(),
            wakeup: WakeupTimer::new(),
            ready: ReadyQueue::default(),
            in_flight: JoinSet::new(),
            tasks: HashMap::new(),
            slow_tasks: 0,
            prompt_tasks: VecDeque::new(),
            limit: 0,
            lingering: Arc::default(),
            notifier: Notifier::start(active.table.clone()),
            panicking: active.panicking(),
            wakes_seen: None,
            saver: None,
        }
    }

    /// Waits for the next event. Cancel-safe.
    pub(super) async fn event(&mut self) -> SchedulerEvent {
        if self.may_start() {
            // More timers are ready than fit in one batch. A fork or an exit of the host must not
            // wait for the remaining batches.
            gate::give_way();
            tokio::task::yield_now().await;
            return SchedulerEvent::Due;
        }
        let next = match (self.due.first(), self.gives_way_at()) {
            (Some((due, _)), Some(at)) => Some(at.min(*due)),
            (due, at) => due.map(|(due, _)| *due).or(at),
        };
        let due = async {
            match next {
                Some(at) => self.wakeup.until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => SchedulerEvent::Due,
            () = self.notifier.notify.notified() => SchedulerEvent::Notified,
            Some(completed) = self.in_flight.join_next_with_id() => SchedulerEvent::Completed(completed),
        }
    }

    /// When the next probe is due, in `CLOCK_MONOTONIC` nanoseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    fn may_start(&self) -> bool {
        self.ready.may_start(self.slots())
    }

    fn slots(&self) -> Slots {
        Slots {
            limit: self.limit,
            taken: self.tasks.len() + self.lingering.count(),
            slow: self.slow_tasks,
        }
    }

    /// When the oldest prompt probe in flight has to give up its slot, in `CLOCK_MONOTONIC`
    /// nanoseconds. None unless all slots are taken and a prompt target waits.
    fn gives_way_at(&self) -> Option<u64> {
        if !self.ready.is_held_up(self.slots()) {
            return None;
        }
        let is_running = |(_, task): &&(u64, Id)| self.tasks.contains_key(task);
        let (started, _) = self.prompt_tasks.iter().find(is_running)?;
        Some(started + clock::ns(SLOW_AFTER))
    }

    /// Starts or stops writing the state file. It is written if the configuration names one and
    /// `is_ours`, that is, this process is its writer.
    pub(super) fn keep_file(&mut self, is_ours: bool) {
        let store = self.active.store.as_ref().filter(|_| is_ours);
        let same = match (store, &self.saver) {
            (Some(store), Some(saver)) => saver.is_to(store),
            (store, saver) => store.is_none() && saver.is_none(),
        };
        if !same {
            self.saver = store.map(|store| Saver::begin(&self.active, store, &self.log));
        }
        if let Some(saver) = &mut self.saver {
            saver.answer_requests(&self.active);
        }
    }

    /// Whether the state file waits to be written.
    pub(super) fn is_saving_pending(&self) -> bool {
        self.saver.as_ref().is_some_and(Saver::is_pending)
    }

    pub(super) fn save(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.save(&self.active);
        }
    }

    // === Timers ===

    /// Discards all TLS sessions, so that the next handshake of every target is a full one. A
    /// resumed session would skip the check against CA files that have changed.
    pub(super) fn forget_sessions(&mut self) {
        for timer in &mut self.timers {
            timer.sessions = sessions(&timer.target);
        }
    }

    /// Makes the timers for a configuration. A target that has not changed keeps its timer, with
    /// its due time and its probe in flight. `limit` turns `max_concurrent_probes` into the number
    /// that this process has descriptors for.
    pub(super) fn fit(
        &mut self,
        active: &Arc<ActiveConfig>,
        log: &Arc<Log>,
        followed: &Followed,
        limit: fn(usize) -> usize,
    ) {
        let is_same = Arc::ptr_eq(&self.active, active);
        if is_same && Arc::ptr_eq(&self.followed, followed) && !self.timers.is_empty() {
            return;
        }
        let followed_before = std::mem::replace(&mut self.followed, followed.clone());
        let mut before: HashMap<(Slot, TimerKind), ProbeTimer> = std::mem::take(&mut self.timers)
            .into_iter()
            .map(|timer| ((timer.slot, timer.kind), timer))
            .collect();
        self.active = active.clone();
        self.log = log.clone();
        self.limit = limit(active.config.max_concurrent_probes);
        self.lingering.set_room(self.limit / LINGERING_SHARE);

        let count = timers(active).count();
        let mut positions: HashMap<(Slot, TimerKind), usize> = HashMap::with_capacity(count);
        self.timers.reserve_exact(count);
        for (position, (slot, kind, target)) in timers(active).enumerate() {
            // Equal targets share a slot.
            let at = self.timers.len();
            if positions.contains_key(&(slot, kind)) {
                continue;
            }
            let earlier = before.remove(&(slot, kind));
            let is_kept = earlier.as_ref().is_some_and(|timer| {
                timer.target == *target
                    && followed_before.contains(&slot) == followed.contains(&slot)
            });
            let timer = match earlier {
                Some(timer) if is_kept => ProbeTimer {
                    target: target.clone(),
                    ..timer
                },
                earlier => {
                    let mut timer = ProbeTimer::new(slot, kind, target, offset(position, count));
                    let answered = active.table.answered(slot);
                    let before = earlier.as_ref().map(|timer| timer.reports);
                    timer.reports = ReportsOfTimer::after(answered, before);
                    if let Some(earlier) = earlier {
                        self.cancel(&earlier);
                    }
                    if !followed.contains(&slot) {
                        timer.take_first_turn(active, count);
                    }
                    timer
                }
            };
            positions.insert((slot, kind), at);
            self.timers.push(timer);
        }
        self.link(&positions);
        self.wakes_seen = None;
        drop(before);
        self.suggest_addresses();
        self.rebuild_queues();
    }

    /// Gives the resolver the address of each host name's last good probe, or those found when the
    /// configuration was read, for use if a look-up fails.
    fn suggest_addresses(&self) {
        let names = self.active.names();
        for timer in &self.timers {
            if matches!(timer.target.host, Host::Name(_)) {
                let (_, address) = self.active.table.read_brief(timer.slot);
                let address = address.as_ref().map(std::slice::from_ref);
                let known = address.unwrap_or_else(|| names.addresses_of(&timer.target));
                self.prober.suggest(&timer.target, known);
            }
        }
    }

    /// Stores with each timer the index of the target's other timer.
    fn link(&mut self, positions: &HashMap<(Slot, TimerKind), usize>) {
        for timer in &mut self.timers {
            let other = match timer.kind {
                TimerKind::Connect => TimerKind::Deep,
                TimerKind::Deep => TimerKind::Connect,
            };
            timer.other = positions.get(&(timer.slot, other)).copied();
        }
    }

    /// Rebuilds the queues from the states of all timers, whose indices have changed.
    fn rebuild_queues(&mut self) {
        self.due.clear();
        self.ready.clear();
        self.tasks.clear();
        self.slow_tasks = 0;
        for (at, timer) in self.timers.iter_mut().enumerate() {
            match &timer.state {
                TimerState::Waiting(Some(due)) => {
                    self.due.insert((*due, at));
                }
                TimerState::Waiting(None) => {}
                TimerState::Ready | TimerState::Blocked => {
                    timer.state = TimerState::Ready;
                    self.ready.push(at, timer.pace);
                }
                TimerState::InFlight(running) => {
                    self.tasks.insert(running.task.id(), at);
                    self.slow_tasks += usize::from(running.pace == Pace::Slow);
                }
            }
        }
    }

    // === Probes ===

    /// Requests a probe of each target with a report that came after its last probe began.
    pub(super) fn handle_reports(&mut self) {
        let wakes = self.active.table.wakes();
        if self.wakes_seen.replace(wakes) == Some(wakes) {
            return;
        }
        for at in 0..self.timers.len() {
            let Some(report_due) = self.report_due(at) else {
                continue;
            };
            // Timers in another state look for reports when their probe starts or completes.
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
    fn cancel(&self, timer: &ProbeTimer) {
        if let TimerState::InFlight(running) = &timer.state {
            timer.take_back_start(&self.active.table, running.start);
        }
    }

    /// Begins the probes that are due, as far as there are free slots, at most one batch.
    pub(super) fn probe_due(&mut self) {
        self.lingering.look();
        let now = clock::monotonic_ns();
        while let Some(&(due, at)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            self.make_ready(at);
        }
        let mut reusable = ReusableSockets::default();
        for _ in 0..BATCH {
            self.make_way();
            match self.ready.pop(self.slots()) {
                Some(at) => self.start(at, &mut reusable),
                None => break,
            }
        }
    }

    /// Cancels probes that turn out to be slow while a prompt target waits for a slot. A cancelled
    /// probe changes no verdict; it is repeated when its target's turn comes in the slow queue.
    fn make_way(&mut self) {
        let now = clock::monotonic_ns();
        while self.gives_way_at().is_some_and(|at| at <= now)
            && let Some((_, task)) = self.prompt_tasks.pop_front()
        {
            if let Some(at) = self.tasks.remove(&task)
                && let Some(timer) = self.timers.get_mut(at)
                && let TimerState::InFlight(running) = &timer.state
            {
                timer.is_requested |= running.start.is_hurried;
                timer.pace = Pace::Slow;
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

    /// Logs once when panic begins and once when it ends.
    fn note_panic(&mut self) {
        let now = self.active.panicking();
        let is_of = |list: &[Panic], p: &Panic| list.iter().any(|q| q.protocol == p.protocol);
        let begun = now.iter().filter(|p| !is_of(&self.panicking, p));
        let ended = self.panicking.iter().filter(|p| !is_of(&now, p));
        for (panic, has_begun) in begun.map(|p| (p, true)).chain(ended.map(|p| (p, false))) {
            let (name, from, to) = if has_begun {
                ("panic_begins", "", "panic")
            } else {
                ("panic_ends", "panic", "")
            };
            let mut line = Line::new(Level::Warning, name).with("protocol", panic.protocol);
            if has_begun {
                line = line.with("alive", panic.alive).with("of", panic.of);
            }
            self.log.write(line);
            let what = panic.protocol.name();
            let event = Event::new(EventKind::Panic, what).change(from, to);
            self.active.table.add_event(&event);
        }
        self.panicking = now;
    }

    fn make_ready(&mut self, at: usize) {
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
            Ok(Begun::Ended(outcome)) | Err(outcome) => self.settle(at, &outcome, start),
            Ok(Begun::Underway(probe)) => {
                let (prober, target) = (self.prober.clone(), timer.target.clone());
                let lingering = self.lingering.clone();
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
                self.set_in_flight(at, task, start);
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

    fn set_in_flight(&mut self, at: usize, task: AbortHandle, start: ProbeStart) {
        if let Some(timer) = self.timers.get_mut(at) {
            let pace = timer.pace;
            timer.state = TimerState::InFlight(RunningProbe { task, start, pace });
        }
    }

    /// Handles the completion of a probe in flight.
    pub(super) fn complete(&mut self, completed: Result<(Id, Outcome), JoinError>) {
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
            self.slow_tasks -= usize::from(running.pace == Pace::Slow);
            self.settle(at, &outcome, running.start);
        }
    }

    /// Publishes an outcome and sets when the next probe is due. It is due at once if the probe was
    /// requested and its outcome does not agree with the verdict yet, for example after one failure
    /// of the two that make a target dead.
    fn settle(&mut self, at: usize, outcome: &Outcome, start: ProbeStart) {
        let Some(timer) = self.timers.get(at) else {
            return;
        };
        let applied = panics::caught(|| timer.apply(&self.active, outcome, &self.log));
        if applied.as_ref().is_ok_and(|effect| !effect.is_published) {
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
        timer.refusals = backoff::refusals_after(timer.refusals, outcome);
        let (due, gathered) = timer.next_due(&record);
        if let (Ok(effect), Some(saver)) = (&applied, &mut self.saver)
            && effect.turned
        {
            saver.note_turn();
        }
        if applied.as_ref().is_ok_and(|effect| effect.turned) {
            self.note_panic();
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

impl Drop for Scheduler {
    fn drop(&mut self) {
        for timer in &self.timers {
            self.cancel(timer);
        }
    }
}

/// The pace that an outcome shows; None if the outcome is inconclusive.
fn pace_of(outcome: &Outcome) -> Option<Pace> {
    let is_slow = outcome.elapsed > SLOW_AFTER;
    let pace = if is_slow { Pace::Slow } else { Pace::Prompt };
    outcome.is_conclusive().then_some(pace)
}

/// The timers of a configuration: one or two per target.
fn timers(active: &ActiveConfig) -> impl Iterator<Item = (Slot, TimerKind, &Arc<Target>)> {
    let pairs = active.slots.iter().zip(&active.config.targets);
    pairs.flat_map(|(slot, target)| {
        let deep = target
            .has_deep_timer()
            .then_some((*slot, TimerKind::Deep, target));
        std::iter::once((*slot, TimerKind::Connect, target)).chain(deep)
    })
}
