//! How one active configuration replaces another: targets that both have keep their records.
//!
//! This happens in two steps. A process that configures prepares the configuration; the first process that
//! runs its engine with it puts it in force. nginx's master configures and then may refuse the reload, so
//! that no process ever serves the configuration: until it is in force, everything that is done for it
//! leaves alone what processes with the configuration before it read and write.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::assignment::{Assigned, firsts, identities_of, namesakes};
use super::event_notes::EventNotes;
use super::{ActiveConfig, BackendServer, KnownNames, Pending, SAME_TIME, StartState};
use crate::engine::config::Config;
use crate::engine::routing::agreement;
use crate::engine::state_file::saved::Saved;
use crate::engine::target::{Secret, Target};
use crate::engine::verdicts::{
    Event, EventKind, IdentityHash, RETIRED, Record, Routable, Slot, Standby, VerdictTable,
};
use crate::sys::clock;

/// A new table has this many free slots for targets of later configurations, and further as many as there
/// are targets now.
const SPARE_SLOTS: usize = 256;

impl ActiveConfig {
    /// Prepares `config` as the configuration after `before`. Targets that both have keep their records.
    /// It is in force at once if no other process can know its table; else
    /// [`ActiveConfig::come_into_force`] makes it so. `head`: the other processes are forked from this one,
    /// so it may go on with the table even where a process before it made the table, as a daemon's parent
    /// does.
    ///
    /// # Errors
    /// Where the system gives no shared memory.
    pub fn succeed(
        before: Option<&Arc<Self>>,
        config: Arc<Config>,
        pid: u64,
        head: bool,
        mut state: StartState,
    ) -> std::io::Result<Self> {
        let Some(last) = before else {
            return Self::in_own_table(None, config, pid, state);
        };
        let before = last.pending_for().map_or_else(
            || {
                // Not needed any more, and would retain all earlier configurations.
                last.pending.store(None);
                last.clone()
            },
            |pending| pending.before.clone(),
        );
        if !head && last.owner != pid {
            return Self::in_own_table(Some(&before), config, pid, state);
        }
        let identities = identities_of(&config);
        let saved = state.saved.take();
        let assigned = Assigned::after(last, &before, &identities, &config);
        let mut next = match assigned {
            Some(assigned) => Self::new(
                last.table.clone(),
                assigned,
                &identities,
                config,
                pid,
                state,
            ),
            None => Self::in_new_table(&identities, config, pid, state)?,
        };
        next.password_changes = next.password_changes_since(&before);
        if !Arc::ptr_eq(&next.table, &before.table) {
            next.inherit(&before);
        }
        let pending = last.pending_for();
        let mut retires = pending.map_or_else(Vec::new, |pending| pending.retires.clone());
        retires.extend([before.table.clone(), last.table.clone()]);
        retires.retain(|table| !Arc::ptr_eq(table, &next.table));
        let pending = Pending {
            before,
            retires,
            saved: saved.map(|saved| next.still_wanted(saved)),
        };
        next.pending.store(Some(Arc::new(pending)));
        Ok(next)
    }

    /// Whether a process runs its engine, or has run it, with this configuration or a later one.
    pub fn is_in_force(&self) -> bool {
        self.pending_for().is_none()
    }

    /// Whether another process than this one probes with the configuration that this one is to replace.
    pub fn replaces_served(&self, pid: u64) -> bool {
        let pending = self.pending_for();
        pending.is_some_and(|pending| pending.before.table.is_led_by_other(pid))
    }

    /// What is to be done before this configuration is in force; `None` where it is in force, or was
    /// replaced.
    fn pending_for(&self) -> Option<Arc<Pending>> {
        let pending = self.pending.load_full();
        pending.filter(|_| self.table.epoch() < self.epoch)
    }

    /// Puts the configuration in force, if it is not yet: the prober of the one before stops. Called by a
    /// process that runs its engine with this configuration, or is about to. Several processes may do so at the
    /// same time.
    pub fn come_into_force(&self, pid: u64, standby: Option<&mut Standby<'_>>) {
        if self.pending.load().is_none() {
            return;
        }
        if let Some(pending) = self.pending_for()
            && !self.replace(&pending, pid, standby)
        {
            return;
        }
        self.pending.store(None);
    }

    /// False where another process does it now.
    fn replace(&self, pending: &Pending, pid: u64, standby: Option<&mut Standby<'_>>) -> bool {
        for table in &pending.retires {
            table.raise_epoch(RETIRED);
        }
        let listed = pending.before.snapshot().servers;
        let is_first_use = self.table.epoch() == 0;
        if is_first_use {
            // The lease lets one process alone copy, and another one go on if that one ends. An error comes
            // from a host that closed our descriptors: `Process::detach` then makes a table for this process.
            let claim = self.table.claim_lease(pid, standby);
            if claim.is_ok_and(|claim| !claim.is_ours()) {
                return false;
            }
            if self.table.epoch() == 0 {
                // Processes with the configuration before went on writing their table after it was copied.
                self.inherit(&pending.before);
                self.table.bump_generation();
            }
        }
        if let Some(saved) = &pending.saved {
            self.restore(saved);
        }
        if self.table.raise_epoch(self.epoch) {
            // From now on the prober of the configuration before publishes nothing.
            self.fit_health_states();
            self.follow_list(&listed);
            self.note_reload();
        }
        if is_first_use {
            // The role is taken later, as by any process.
            self.table.give_up_lease(pid);
        }
        true
    }

    /// What the state file has for targets without a record. Usually this is nothing.
    fn still_wanted(&self, mut saved: Saved) -> Saved {
        let is_new = |slot: &&Slot| self.table.read(**slot) == Record::default();
        let new = self.slots.iter().filter(is_new);
        let wanted: HashSet<IdentityHash> = new.map(|slot| self.table.hash(*slot)).collect();
        saved
            .targets
            .retain(|identity, _| wanted.contains(identity));
        saved
    }

    fn note_reload(&self) {
        let count = self.config.targets.len();
        let event = Event::new(EventKind::Reload, "").change("", format!("{count} targets"));
        self.table.add_event(&event);
    }

    /// The same configuration in a new table that only this process uses.
    ///
    /// # Errors
    /// Where the system gives no shared memory.
    pub fn detached(&self, pid: u64) -> std::io::Result<Self> {
        let state = StartState {
            state_file: self.state_file.clone(),
            saved: None,
            names: KnownNames::clone(&self.names.load()),
        };
        Self::in_own_table(Some(self), self.config.clone(), pid, state)
    }

    /// The configuration in a table that has a slot for each target. It counts as configured now.
    fn new(
        table: Arc<VerdictTable>,
        assigned: Assigned,
        identities: &[IdentityHash],
        config: Arc<Config>,
        owner: u64,
        state: StartState,
    ) -> Self {
        let Assigned {
            slots,
            nodes,
            node_places,
        } = assigned;
        let event_notes = EventNotes::of(nodes.list.len());
        let mut namesakes = namesakes(&config.targets);
        let repeated = namesakes.iter().map(|&(_, later)| later).collect();
        namesakes.sort_unstable();
        Self {
            epoch: table.next_epoch(),
            table,
            since_ms: clock::unix_ms(),
            owner,
            by_identity: firsts(identities),
            nodes,
            repeated,
            namesakes,
            agreement: agreement(&config.targets, &config.routing),
            event_notes,
            names: ArcSwap::from_pointee(state.names),
            state_file: state.state_file,
            node_places,
            cluster_warnings: ArcSwap::default(),
            password_changes: HashMap::new(),
            given: AtomicUsize::new(0),
            pending: ArcSwapOption::empty(),
            slots,
            config,
        }
    }

    fn in_new_table(
        identities: &[IdentityHash],
        config: Arc<Config>,
        pid: u64,
        state: StartState,
    ) -> std::io::Result<Self> {
        let too_small = || std::io::Error::other("the verdict table is too small");
        let table = VerdictTable::new(identities.len() * 2 + SPARE_SLOTS)?;
        let assigned = Assigned::of(&table, identities, &config, |_| None).ok_or_else(too_small)?;
        let table = Arc::new(table);
        Ok(Self::new(table, assigned, identities, config, pid, state))
    }

    /// The configuration in a new table, in force.
    fn in_own_table(
        before: Option<&Self>,
        config: Arc<Config>,
        pid: u64,
        mut state: StartState,
    ) -> std::io::Result<Self> {
        let identities = identities_of(&config);
        let saved = state.saved.take();
        let mut next = Self::in_new_table(&identities, config, pid, state)?;
        if let Some(before) = before {
            if Arc::ptr_eq(&before.config, &next.config) {
                next.since_ms = before.since_ms;
            }
            next.password_changes = next.password_changes_since(before);
            next.inherit(before);
        }
        if let Some(saved) = &saved {
            next.restore(saved);
        }
        next.fit_health_states();
        if let Some(before) = before {
            next.follow_list(&before.snapshot().servers);
        }
        next.table.raise_epoch(next.epoch);
        Ok(next)
    }

    fn inherit(&self, before: &Self) {
        for (target, slot) in self.distinct() {
            let identity = self.table.hash(slot);
            if let Some(known) = before.slot_of(&identity, &target.test_password) {
                self.table.inherit_slot(slot, &before.table, known);
            }
        }
        self.table.inherit(&before.table);
    }

    /// When the passwords of targets were changed: now for those that `before` has with another one,
    /// and for the others as `before` says.
    fn password_changes_since(&self, before: &Self) -> HashMap<Slot, u64> {
        let now = clock::monotonic_ns();
        let changes = self.distinct().filter_map(|(target, slot)| {
            let (earlier, known) = before.known(&self.table.hash(slot))?;
            let is_same = earlier.test_password == target.test_password;
            let changed_before = before.password_changes.get(&known).copied();
            Some((slot, if is_same { changed_before? } else { now }))
        });
        changes.collect()
    }

    /// Whether a record of the state file is of probes that were made before this process was
    /// configured with another password for the target. An identity does not contain the password, nor
    /// does the file, so nothing else tells them apart.
    pub fn is_of_earlier_password(&self, slot: Slot, record: &Record) -> bool {
        let started = match record.deep {
            Some(_) => record.deep_started_ns,
            None => record.connect_started_ns,
        };
        let changed = self.password_changes.get(&slot);
        changed.is_some_and(|at| started <= at.saturating_add(clock::ns(SAME_TIME)))
    }

    /// Targets without a record take the one from the state file, unless the file is older than
    /// `state_max_age`. Operators' settings are taken from it whatever their age.
    fn restore(&self, saved: &Saved) {
        self.restore_operators(saved);
        if !saved.is_within(self.config.state_max_age) {
            return;
        }
        for slot in &self.slots {
            let Some(target) = saved.targets.get(&self.table.hash(*slot)) else {
                continue;
            };
            if self.is_of_earlier_password(*slot, &target.record) {
                continue;
            }
            let is_taken = self.change(*slot, |known| {
                (*known == Record::default()).then(|| target.record.clone())
            });
            if is_taken {
                self.table.note_tls(*slot, &target.tls);
                self.table
                    .set_routable(*slot, Routable::settled(target.record.verdict()));
            }
        }
    }

    /// Takes over operators' settings from a state file, where they are later than those of the
    /// table.
    pub fn restore_operators(&self, saved: &Saved) {
        for operator in &saved.operators {
            self.table.set_operator(operator);
        }
    }

    /// Raises the generation where the list is another one than before.
    fn follow_list(&self, before: &[BackendServer]) {
        if self.snapshot().servers != before {
            self.table.bump_generation();
        }
    }

    /// The first target of each identity and its slot, which further ones with this identity share.
    fn distinct(&self) -> impl Iterator<Item = (&Target, Slot)> {
        self.by_identity.iter().filter_map(|at| self.target_at(*at))
    }

    fn target_at(&self, at: u32) -> Option<(&Target, Slot)> {
        let at = usize::try_from(at).ok()?;
        Some((self.config.targets.get(at)?, *self.slots.get(at)?))
    }

    /// The first target with this identity, and its slot.
    fn known(&self, identity: &IdentityHash) -> Option<(&Target, Slot)> {
        let hash = |at: u32| self.target_at(at).map(|(_, slot)| self.table.hash(slot));
        let found = self
            .by_identity
            .binary_search_by(|at| hash(*at).as_ref().cmp(&Some(identity)));
        self.target_at(*self.by_identity.get(found.ok()?)?)
    }

    /// The slot of the target with this identity, if its password is the same too: the identity
    /// does not contain it.
    pub(super) fn slot_of(
        &self,
        identity: &IdentityHash,
        password: &Option<Secret>,
    ) -> Option<Slot> {
        let (mine, slot) = self.known(identity)?;
        (mine.test_password == *password).then_some(slot)
    }

    /// See [`Record::fit`].
    fn fit_health_states(&self) {
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            self.change(*slot, |known| {
                let mut record = known.clone();
                record.fit(target.has_deep_timer()).then_some(record)
            });
        }
    }

    /// Replaces a record by what `next` makes of it. The prober, perhaps another process, still publishes
    /// outcomes: if one is stored after the record was read, `next` is called again with it. Returns
    /// whether `next` returned a record.
    fn change(&self, slot: Slot, next: impl Fn(&Record) -> Option<Record>) -> bool {
        loop {
            let (seen, known) = self.table.read_seen(slot);
            let Some(record) = next(&known) else {
                return false;
            };
            if self.table.write_seen(slot, seen, &record, false, None) {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
