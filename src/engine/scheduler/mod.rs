//! The prober's role: a seat for each timer of each target, and which of them probes when.
//!
//! One task sees to all of them. A probe that ends at once is made here and now; one that
//! has to wait goes on in a task of its own, of which there are at most as many as may be
//! under way at the same time.

pub(in crate::engine) mod follower;
mod notifier;
mod outcome;
mod saver;
pub(in crate::engine) mod schedule;
mod timer;
mod wakeup;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::{Id, JoinError, JoinSet};

use super::active::Service;
use super::config::Config;
use super::log::{Level, Line, Log};
use super::probe::panics;
use super::probe::{Begun, Farewells, Outcome, Prober, Resumption, Spares};
use super::target::Target;
use super::verdicts::Slot;
use crate::sys::{clock, gate};
use follower::Followed;
use notifier::Waker;
use outcome::Timer;
use saver::Saving;
use schedule::{Grid, phase};
use timer::{Flight, Seat, State, sessions};
use wakeup::Alarm;

/// Probes that are begun in a row before others of this thread have their turn.
const BATCH: usize = 64;

/// The share of the connections that may be open which may wait for nothing but their end.
const FAREWELL_SHARE: usize = 8;

/// The prober's role and what comes with it, also where others see to some of the targets.
pub(super) struct Lead {
    pub service: Arc<Service>,
    log: Arc<Log>,
    prober: Arc<Prober>,
    /// The targets that others see to; here they are only probed when somebody asks.
    followed: Followed,
    grid: Grid,
    seats: Vec<Seat>,
    /// When which seat is due, in `CLOCK_MONOTONIC` nanoseconds, the soonest first.
    due: BTreeSet<(u64, usize)>,
    alarm: Alarm,
    /// Seats whose time has come, in their order.
    ready: VecDeque<usize>,
    /// Probes that have to wait for something, and whose they are.
    flights: JoinSet<Outcome>,
    flying: HashMap<Id, usize>,
    /// How many may be under way at the same time, with those that are put aside.
    limit: usize,
    farewells: Arc<Farewells>,
    waker: Waker,
    /// [`super::verdicts::VerdictTable::wakes`] when reports were last looked for.
    heeded: Option<u32>,
    /// Where this process keeps the state file.
    saving: Option<Saving>,
}

/// Something that a prober waits for.
pub(super) enum Event {
    /// A probe is due.
    Due,
    /// Somebody woke the prober.
    Bell,
    /// A probe has ended.
    Landed(Result<(Id, Outcome), JoinError>),
}

impl Lead {
    pub(super) fn begin(
        service: &Arc<Service>,
        log: &Arc<Log>,
        prober: &Arc<Prober>,
        grid: Grid,
    ) -> Self {
        Self {
            service: service.clone(),
            log: log.clone(),
            prober: prober.clone(),
            followed: Followed::default(),
            grid,
            seats: Vec::new(),
            due: BTreeSet::new(),
            alarm: Alarm::new(),
            ready: VecDeque::new(),
            flights: JoinSet::new(),
            flying: HashMap::new(),
            limit: 0,
            farewells: Arc::default(),
            waker: Waker::start(service.table.clone()),
            heeded: None,
            saving: None,
        }
    }

    /// Waits for the next thing to do. May be called off at any time.
    pub(super) async fn event(&mut self) -> Event {
        if self.may_start() {
            // More are ready than one batch takes. A fork or an exit waits for none of them.
            gate::give_way();
            tokio::task::yield_now().await;
            return Event::Due;
        }
        let due = async {
            match self.due.first() {
                Some((due, _)) => self.alarm.until(*due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => Event::Due,
            () = self.waker.bell.notified() => Event::Bell,
            Some(landed) = self.flights.join_next_with_id() => Event::Landed(landed),
        }
    }

    /// When the next probe is due, in `CLOCK_MONOTONIC` nanoseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    fn may_start(&self) -> bool {
        !self.ready.is_empty() && self.flights.len() + self.farewells.count() < self.limit
    }

    /// Sees that the state file is written from now on, where there is one and it is ours
    /// to write.
    pub(super) fn keep_file(&mut self, is_ours: bool) {
        let store = self.service.store.as_ref().filter(|_| is_ours);
        let same = match (store, &self.saving) {
            (Some(store), Some(saving)) => saving.is_to(store),
            (store, saving) => store.is_none() && saving.is_none(),
        };
        if !same {
            self.saving = store.map(|store| Saving::begin(store, &self.log));
        }
    }

    /// Whether the state file waits to be written.
    pub(super) fn is_saving_pending(&self) -> bool {
        self.saving.as_ref().is_some_and(Saving::is_pending)
    }

    pub(super) fn save(&mut self) {
        if let Some(saving) = &mut self.saving {
            saving.save(&self.service);
        }
    }

    // === Seats ===

    /// Has every target's next handshake be a full one: a resumed session would go on trusting
    /// what the CA files no longer say.
    pub(super) fn forget_sessions(&mut self) {
        for seat in &mut self.seats {
            seat.sessions = sessions(&seat.target);
        }
    }

    /// Gives each timer that the configuration wants its seat. What is under way, or due,
    /// for a target that stays the same stays so. `limit` says how many probes may be under
    /// way where so many are wanted.
    pub(super) fn fit(
        &mut self,
        service: &Arc<Service>,
        log: &Arc<Log>,
        followed: &Followed,
        limit: fn(usize) -> usize,
    ) {
        let is_same = Arc::ptr_eq(&self.service, service);
        if is_same && Arc::ptr_eq(&self.followed, followed) && !self.seats.is_empty() {
            return;
        }
        let keeps_policy = same_policy(&self.service.config, &service.config);
        let followed_before = std::mem::replace(&mut self.followed, followed.clone());
        let mut before: HashMap<(Slot, Timer), Seat> = std::mem::take(&mut self.seats)
            .into_iter()
            .map(|seat| ((seat.slot, seat.timer), seat))
            .collect();
        self.service = service.clone();
        self.log = log.clone();
        self.limit = limit(service.config.max_concurrent_probes);
        self.farewells.set_room(self.limit / FAREWELL_SHARE);

        let count = timers(service).count();
        self.grid = self.grid.fitted(count);
        let mut seated: HashMap<(Slot, Timer), usize> = HashMap::with_capacity(count);
        self.seats.reserve_exact(count);
        for (position, (slot, timer, target)) in timers(service).enumerate() {
            // Equal targets share a slot.
            let at = self.seats.len();
            if seated.contains_key(&(slot, timer)) {
                continue;
            }
            let kept = before.remove(&(slot, timer)).filter(|seat| {
                keeps_policy
                    && seat.target == *target
                    && followed_before.contains(&slot) == followed.contains(&slot)
            });
            let seat = match kept {
                Some(seat) => Seat {
                    target: target.clone(),
                    ..seat
                },
                None => {
                    let mut seat = Seat::new(slot, timer, target, phase(position, count));
                    if !followed.contains(&slot) {
                        seat.take_first_turn(service, count, self.grid);
                    }
                    seat
                }
            };
            seated.insert((slot, timer), at);
            self.seats.push(seat);
        }
        self.link(&seated);
        drop(before);
        self.line_up();
    }

    /// The two timers of a target know each other.
    fn link(&mut self, seated: &HashMap<(Slot, Timer), usize>) {
        for seat in &mut self.seats {
            let other = match seat.timer {
                Timer::Connect => Timer::Deep,
                Timer::Deep => Timer::Connect,
            };
            seat.other = seated.get(&(seat.slot, other)).copied();
        }
    }

    /// Puts every seat where its state wants it.
    fn line_up(&mut self) {
        self.due.clear();
        self.ready.clear();
        self.flying.clear();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            match &seat.state {
                State::Resting(Some(due)) => {
                    self.due.insert((*due, at));
                }
                State::Resting(None) => {}
                State::Ready | State::Blocked => {
                    seat.state = State::Ready;
                    self.ready.push_back(at);
                }
                State::Flying(flight) => {
                    self.flying.insert(flight.task.id(), at);
                }
            }
        }
    }

    // === Probes ===

    /// Asks for probes of the targets that somebody reported since the last look.
    pub(super) fn heed_reports(&mut self) {
        let wakes = self.service.table.wakes();
        if self.heeded.replace(wakes) == Some(wakes) {
            return;
        }
        for at in 0..self.seats.len() {
            let Some(seat) = self.seats.get(at) else {
                continue;
            };
            if seat.timer == Timer::Connect && self.service.table.take_reports(seat.slot) {
                let other = seat.other;
                self.ring(at);
                other.into_iter().for_each(|at| self.ring(at));
            }
        }
    }

    fn ring(&mut self, at: usize) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        seat.is_rung = true;
        if let State::Resting(due) = seat.state {
            seat.state = State::Ready;
            due.into_iter().for_each(|due| {
                self.due.remove(&(due, at));
            });
            self.ready.push_front(at);
        }
    }

    /// Begins the probes that are due, as many as may be under way.
    pub(super) fn probe_due(&mut self) {
        self.farewells.look();
        let now = clock::monotonic_ns();
        while let Some(&(due, at)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            self.make_ready(at);
        }
        let mut spares = Spares::default();
        for _ in 0..BATCH {
            if !self.may_start() {
                break;
            }
            if let Some(at) = self.ready.pop_front() {
                self.start(at, &mut spares);
            }
        }
    }

    fn make_ready(&mut self, at: usize) {
        if let Some(seat) = self.seats.get_mut(at) {
            seat.state = State::Ready;
            self.ready.push_back(at);
        }
    }

    fn start(&mut self, at: usize, spares: &mut Spares) {
        let Some(seat) = self.seats.get(at) else {
            return;
        };
        let other = seat.other.and_then(|other| self.seats.get(other));
        let is_blocked = other.is_some_and(|other| matches!(other.state, State::Flying(_)));
        let watch = seat.watch(&self.service);
        let depth = watch.depth();
        if !is_blocked {
            watch.note_start(clock::monotonic_ns());
        }
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        if is_blocked {
            seat.state = State::Blocked;
            return;
        }
        let is_hurried = std::mem::take(&mut seat.is_rung);
        match panics::caught(|| self.prober.begin(&seat.target, depth, spares)) {
            Ok(Begun::Ended(outcome)) | Err(outcome) => self.settle(at, &outcome, is_hurried),
            Ok(Begun::Underway(probe)) => {
                let (prober, target) = (self.prober.clone(), seat.target.clone());
                let farewells = self.farewells.clone();
                let resumption = seat.sessions.clone().map(|slot| Resumption {
                    slot,
                    full_every: self.service.config.tls_full_handshake_interval,
                });
                let task = self.flights.spawn(async move {
                    let kept = resumption.as_ref();
                    let probe = prober.finish(probe, &target, depth, kept, Some(&farewells));
                    panics::contained(Box::pin(probe)).await
                });
                self.flying.insert(task.id(), at);
                seat.state = State::Flying(Flight { task, is_hurried });
            }
        }
    }

    /// Takes in the outcome of a probe that was under way.
    pub(super) fn land(&mut self, landed: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match landed {
            Ok(landed) => landed,
            Err(error) => (error.id(), panics::ended(error)),
        };
        // A probe of a target that is not here any more was called off.
        if let Some(at) = self.flying.remove(&id)
            && let Some(seat) = self.seats.get(at)
            && let State::Flying(flight) = &seat.state
        {
            self.settle(at, &outcome, flight.is_hurried);
        }
    }

    /// Publishes an outcome and says when the next probe is due: at once where somebody
    /// reported trouble and one failure is not yet a verdict.
    fn settle(&mut self, at: usize, outcome: &Outcome, is_hurried: bool) {
        let Some(seat) = self.seats.get(at) else {
            return;
        };
        let watch = seat.watch(&self.service);
        let applied = panics::caught(|| watch.apply(outcome, &self.log));
        let is_followed = self.followed.contains(&seat.slot);
        let record = match &applied {
            Ok(effect) => effect.record.clone(),
            Err(panicked) => {
                let text = panicked.result.as_ref().err().map(ToString::to_string);
                self.log.write(
                    Line::new(Level::Error, "engine_panicked")
                        .quoted("reason", text.as_deref().unwrap_or_default()),
                );
                watch.record()
            }
        };
        let (due, gathered) = seat.next_due(&watch, &record, self.grid);
        let other = seat.other;
        if let (Ok(effect), Some(saving)) = (&applied, &mut self.saving)
            && effect.turned
        {
            saving.note_turn();
        }
        if let Some(other) = other
            && let Some(seat) = self.seats.get(other)
            && matches!(seat.state, State::Blocked)
        {
            self.make_ready(other);
        }
        // What panicked once would do so again.
        let is_settled = applied.map_or(true, |effect| effect.settled);
        if let Some(seat) = self.seats.get_mut(at) {
            seat.is_rung |= is_hurried && !is_settled;
            seat.gathered = gathered;
            if seat.is_rung {
                // Behind all others: no target keeps the rest from their turn.
                self.make_ready(at);
            } else {
                let due = (!is_followed).then_some(due);
                seat.state = State::Resting(due);
                self.due.extend(due.map(|due| (due, at)));
            }
        }
    }
}

/// Whether two configurations differ in nothing but their targets.
fn same_policy(a: &Config, b: &Config) -> bool {
    let policy = |config: &Config| Config {
        targets: Vec::new(),
        ..config.clone()
    };
    std::ptr::eq(a, b) || policy(a) == policy(b)
}

/// The timers that a configuration wants, one or two for each slot.
fn timers(service: &Service) -> impl Iterator<Item = (Slot, Timer, &Arc<Target>)> {
    let pairs = service.slots.iter().zip(&service.config.targets);
    pairs.flat_map(|(slot, target)| {
        let deep = service
            .has_deep_timer(target)
            .then_some((*slot, Timer::Deep, target));
        std::iter::once((*slot, Timer::Connect, target)).chain(deep)
    })
}
