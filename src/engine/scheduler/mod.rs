//! The scheduler: one timer per target and kind of probe, and which of them probes when.
//!
//! One task sees to all of them. A probe that ends at once is made here and now; one that
//! has to wait goes on in a task of its own, of which there are at most as many as may be
//! under way at the same time.

mod backoff;
pub(in crate::engine) mod follower;
mod notifier;
mod outcome;
mod queue;
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
use saver::Saver;
use schedule::offset;
use timer::{ProbeTimer, RunningProbe, TimerKind, TimerState, sessions};
use wakeup::WakeupTimer;

/// Probes that are begun in a row before others of this thread have their turn.
const BATCH: usize = 64;

/// A probe that takes longer is slow: see `queue`.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// The share of the connections that may be open which may wait for nothing but their end.
const LINGERING_SHARE: usize = 8;

/// The prober's role and what comes with it, also where others see to some of the targets.
pub(super) struct Scheduler {
    pub active: Arc<ActiveConfig>,
    log: Arc<Log>,
    prober: Arc<Prober>,
    /// The targets that others see to; here they are only probed when somebody asks.
    followed: Followed,
    timers: Vec<ProbeTimer>,
    /// When which timer is due, in `CLOCK_MONOTONIC` nanoseconds, the soonest first.
    due: BTreeSet<(u64, usize)>,
    wakeup: WakeupTimer,
    /// Timers whose time has come.
    ready: ReadyQueue,
    /// Probes that have to wait for something, and whose they are.
    in_flight: JoinSet<Outcome>,
    tasks: HashMap<Id, usize>,
    /// How many of them are of slow targets.
    slow_tasks: usize,
    /// Those of prompt targets in the order of their start, and when that was, in
    /// `CLOCK_MONOTONIC` nanoseconds; some have ended.
    prompt_tasks: VecDeque<(u64, Id)>,
    /// How many may be under way at the same time, with those that are put aside.
    limit: usize,
    lingering: Arc<LingeringConnections>,
    notifier: Notifier,
    /// The protocols in panic, as the log was last told.
    panicking: Vec<Panic>,
    /// [`super::verdicts::VerdictTable::wakes`] when reports were last handled.
    wakes_seen: Option<u32>,
    /// Where this process keeps the state file.
    saver: Option<Saver>,
}

/// Something that a prober waits for.
pub(super) enum SchedulerEvent {
    /// A probe is due.
    Due,
    /// Another thread or process notified the scheduler.
    Notified,
    /// A probe has ended.
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

    /// Waits for the next thing to do. May be called off at any time.
    pub(super) async fn event(&mut self) -> SchedulerEvent {
        if self.may_start() {
            // More are ready than one batch takes. A fork or an exit waits for none of them.
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

    /// When a probe in flight is to give its slot to one that waits, if none becomes free before.
    fn gives_way_at(&self) -> Option<u64> {
        if !self.ready.is_held_up(self.slots()) {
            return None;
        }
        let is_running = |(_, task): &&(u64, Id)| self.tasks.contains_key(task);
        let (started, _) = self.prompt_tasks.iter().find(is_running)?;
        Some(started + clock::ns(SLOW_AFTER))
    }

    /// Sees that the state file is written from now on, where there is one and it is ours
    /// to write.
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

    /// Has every target's next handshake be a full one: a resumed session would go on trusting
    /// what the CA files no longer say.
    pub(super) fn forget_sessions(&mut self) {
        for timer in &mut self.timers {
            timer.sessions = sessions(&timer.target);
        }
    }

    /// Makes the timers that the configuration wants. Where a target stays the same, its timer
    /// is kept with its due time and the probe that is in flight. `limit` turns the wanted
    /// number of concurrent probes into the number that this process may run.
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
            let kept = before.remove(&(slot, kind)).filter(|timer| {
                timer.target == *target
                    && followed_before.contains(&slot) == followed.contains(&slot)
            });
            let timer = match kept {
                Some(timer) => ProbeTimer {
                    target: target.clone(),
                    ..timer
                },
                None => {
                    let mut timer = ProbeTimer::new(slot, kind, target, offset(position, count));
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
        drop(before);
        self.suggest_addresses();
        self.rebuild_queues();
    }

    /// Where a name cannot be looked up any more, the address of the last good probe stands in.
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

    /// The two timers of a target know each other.
    fn link(&mut self, positions: &HashMap<(Slot, TimerKind), usize>) {
        for timer in &mut self.timers {
            let other = match timer.kind {
                TimerKind::Connect => TimerKind::Deep,
                TimerKind::Deep => TimerKind::Connect,
            };
            timer.other = positions.get(&(timer.slot, other)).copied();
        }
    }

    /// Fills the queues anew from the states of all timers.
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

    /// Asks for probes of the targets that somebody reported since the last call.
    pub(super) fn handle_reports(&mut self) {
        let wakes = self.active.table.wakes();
        if self.wakes_seen.replace(wakes) == Some(wakes) {
            return;
        }
        for at in 0..self.timers.len() {
            let Some(timer) = self.timers.get(at) else {
                continue;
            };
            if timer.kind == TimerKind::Connect && self.active.table.take_reports(timer.slot) {
                let other = timer.other;
                self.request(at);
                other.into_iter().for_each(|at| self.request(at));
            }
        }
    }

    fn request(&mut self, at: usize) {
        let Some(timer) = self.timers.get_mut(at) else {
            return;
        };
        timer.is_requested = true;
        if let TimerState::Waiting(due) = timer.state {
            timer.state = TimerState::Ready;
            due.into_iter().for_each(|due| {
                self.due.remove(&(due, at));
            });
            self.ready.push_first(at, timer.pace);
        }
    }

    /// Begins the probes that are due, as many as may be under way.
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

    /// Takes the slot of a probe that turns out to be slow, where a prompt one waits for it. It
    /// is made again in its turn; it judges nobody.
    fn make_way(&mut self) {
        let now = clock::monotonic_ns();
        while self.gives_way_at().is_some_and(|at| at <= now)
            && let Some((_, task)) = self.prompt_tasks.pop_front()
        {
            if let Some(at) = self.tasks.remove(&task)
                && let Some(timer) = self.timers.get_mut(at)
                && let TimerState::InFlight(running) = &timer.state
            {
                timer.is_requested |= running.is_hurried;
                timer.pace = Pace::Slow;
                // Dropping it calls it off.
                timer.state = TimerState::Ready;
                self.ready.push(at, Pace::Slow);
                self.release_other(at);
            }
        }
    }

    /// The target's other timer waits no longer for this one's probe.
    fn release_other(&mut self, at: usize) {
        let other = self.timers.get(at).and_then(|timer| timer.other);
        if let Some(other) = other
            && let Some(timer) = self.timers.get(other)
            && matches!(timer.state, TimerState::Blocked)
        {
            self.make_ready(other);
        }
    }

    /// Says once when panic begins and when it ends.
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
        let depth = timer.depth();
        let now = clock::monotonic_ns();
        if !is_blocked {
            timer.note_start(&self.active.table, now);
        }
        let Some(timer) = self.timers.get_mut(at) else {
            return;
        };
        if is_blocked {
            timer.state = TimerState::Blocked;
            return;
        }
        let is_hurried = std::mem::take(&mut timer.is_requested);
        match panics::caught(|| self.prober.begin(&timer.target, depth, reusable)) {
            Ok(Begun::Ended(outcome)) | Err(outcome) => self.settle(at, &outcome, is_hurried),
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
                self.set_in_flight(at, task, is_hurried);
            }
        }
    }

    fn note_task(&mut self, task: Id, at: usize, now_ns: u64) {
        self.tasks.insert(task, at);
        match self.timers.get(at).map(|timer| timer.pace) {
            Some(Pace::Slow) => self.slow_tasks += 1,
            _ => {
                // Those that have ended at the front are of no more use.
                while let Some((_, first)) = self.prompt_tasks.front()
                    && !self.tasks.contains_key(first)
                {
                    self.prompt_tasks.pop_front();
                }
                self.prompt_tasks.push_back((now_ns, task));
            }
        }
    }

    fn set_in_flight(&mut self, at: usize, task: AbortHandle, is_hurried: bool) {
        if let Some(timer) = self.timers.get_mut(at) {
            let pace = timer.pace;
            timer.state = TimerState::InFlight(RunningProbe {
                task,
                is_hurried,
                pace,
            });
        }
    }

    /// Takes in the outcome of a probe that was under way.
    pub(super) fn complete(&mut self, completed: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match completed {
            Ok(completed) => completed,
            Err(error) => (error.id(), panics::ended(error)),
        };
        // A probe of a target that is not here any more was called off.
        if let Some(at) = self.tasks.remove(&id)
            && let Some(timer) = self.timers.get(at)
            && let TimerState::InFlight(running) = &timer.state
        {
            self.slow_tasks -= usize::from(running.pace == Pace::Slow);
            self.settle(at, &outcome, running.is_hurried);
        }
    }

    /// Publishes an outcome and says when the next probe is due: at once where somebody
    /// reported trouble and one failure is not yet a verdict.
    fn settle(&mut self, at: usize, outcome: &Outcome, is_hurried: bool) {
        let Some(timer) = self.timers.get(at) else {
            return;
        };
        let applied = panics::caught(|| timer.apply(&self.active, outcome, &self.log));
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
        // What panicked once would do so again.
        let is_settled = applied.map_or(true, |effect| effect.settled);
        if let Some(timer) = self.timers.get_mut(at) {
            timer.is_requested |= is_hurried && !is_settled;
            timer.gathered = gathered;
            timer.pace = pace_of(outcome).unwrap_or(timer.pace);
            if timer.is_requested {
                // Behind all others: no target keeps the rest from their turn.
                self.make_ready(at);
            } else {
                let due = (!is_followed).then_some(due);
                timer.state = TimerState::Waiting(due);
                self.due.extend(due.map(|due| (due, at)));
            }
        }
    }
}

/// None where an outcome says nothing of the target.
fn pace_of(outcome: &Outcome) -> Option<Pace> {
    let is_slow = outcome.elapsed > SLOW_AFTER;
    let pace = if is_slow { Pace::Slow } else { Pace::Prompt };
    outcome.is_conclusive().then_some(pace)
}

/// The timers that a configuration wants, one or two for each slot.
fn timers(active: &ActiveConfig) -> impl Iterator<Item = (Slot, TimerKind, &Arc<Target>)> {
    let pairs = active.slots.iter().zip(&active.config.targets);
    pairs.flat_map(|(slot, target)| {
        let deep = target
            .has_deep_timer()
            .then_some((*slot, TimerKind::Deep, target));
        std::iter::once((*slot, TimerKind::Connect, target)).chain(deep)
    })
}
