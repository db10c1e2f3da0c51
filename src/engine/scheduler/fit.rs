//! Makes the probe timers of a configuration, and keeps those of targets that have not changed.

use std::collections::HashMap;
use std::sync::Arc;

use super::Scheduler;
use super::follower::Followed;
use super::queue::Pace;
use super::reports::ReportsOfTimer;
use super::schedule::offset;
use super::timer::{ProbeTimer, TimerKind, TimerState, sessions};
use crate::engine::active::ActiveConfig;
use crate::engine::log::Log;
use crate::engine::target::{Host, Target};
use crate::engine::verdicts::Slot;

/// One in this many of the connections that may be open at once may be a lingering connection.
const LINGERING_SHARE: usize = 8;

impl Scheduler {
    /// Discards all TLS sessions, so that the next handshake of every target is a full one. A
    /// resumed session would skip the check against CA files that have changed.
    pub(in crate::engine) fn forget_sessions(&mut self) {
        for timer in &mut self.timers {
            timer.sessions = sessions(&timer.target);
        }
    }

    /// Makes the timers for a configuration. A target that has not changed keeps its timer with
    /// its probe in flight, and its due time unless it is probed elsewhere from now on, or no longer.
    /// `limit` turns a wanted number of connections into one that this process has descriptors for.
    pub(in crate::engine) fn fit(
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
        // Not `self.limit`: an operator who wants few probes at once still wants an address that answers
        // found soon behind one that does not.
        self.prober.limit_connections(limit(usize::MAX));
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
            let is_followed = followed.contains(&slot);
            let timer = match earlier {
                Some(mut timer) if timer.target == *target => {
                    timer.target = target.clone();
                    match (followed_before.contains(&slot), is_followed) {
                        (false, true) => timer.follow_elsewhere(),
                        (true, false) => timer.probe_again(active, count),
                        _ => timer.hasten_first(active, count),
                    }
                    timer
                }
                earlier => {
                    let mut timer = ProbeTimer::new(slot, kind, target, offset(position, count));
                    let answered = active.table.answered(slot);
                    let before = earlier.as_ref().map(|timer| timer.reports);
                    timer.reports = ReportsOfTimer::after(answered, before);
                    if let Some(earlier) = earlier {
                        self.cancel(&earlier);
                    }
                    if !is_followed {
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
        self.configure_names();
        self.rebuild_queues();
    }

    /// Gives the resolver the host names with the address of each one's last good probe, or those found
    /// when the configuration was read, for use if a look-up fails.
    fn configure_names(&self) {
        let names = self.active.names();
        let of_targets = self.timers.iter().filter_map(|timer| {
            let Host::Name(name) = &timer.target.host else {
                return None;
            };
            let (_, address) = self.active.table.read_brief(timer.slot);
            let known = || names.addresses_of(&timer.target).to_vec();
            Some((name, address.map_or_else(known, |address| vec![address])))
        });
        self.prober.configure_names(of_targets);
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
    pub(super) fn rebuild_queues(&mut self) {
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
