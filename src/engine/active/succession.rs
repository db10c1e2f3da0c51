//! How one active configuration replaces another: targets that both have keep their records.
//!
//! This happens in two steps. A process that configures prepares the configuration; the first process that
//! runs its engine with it puts it in force. nginx's master configures and then may refuse the reload, so
//! that no process ever serves the configuration: until it is in force, everything that is done for it
//! leaves alone what processes with the configuration before it read and write.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::event_notes::EventNotes;
use super::{ActiveConfig, BackendServer, KnownNames, Pending, SAME_TIME, StartState};
use crate::engine::config::Config;
use crate::engine::routing::{Node, Nodes, agreement};
use crate::engine::state_file::saved::Saved;
use crate::engine::target::{Secret, Target};
use crate::engine::verdicts::{
    Event, EventKind, IdentityHash, NodePlace, RETIRED, Record, Routable, Slot, Standby,
    VerdictTable, hash_identity,
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
                // The table before was in use since it was copied.
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
    fn slot_of(&self, identity: &IdentityHash, password: &Option<Secret>) -> Option<Slot> {
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

/// The password of the first target of each identity, which does not contain it.
fn passwords_of<'a>(
    identities: &'a [IdentityHash],
    config: &'a Config,
) -> HashMap<&'a IdentityHash, &'a Option<Secret>> {
    let passwords = config.targets.iter().map(|target| &target.test_password);
    // Of equal identities the first one is inserted last.
    identities.iter().zip(passwords).rev().collect()
}

fn identities_of(config: &Config) -> Vec<IdentityHash> {
    let targets = config.targets.iter();
    targets
        .map(|target| hash_identity(&target.identity()))
        .collect()
}

/// The slots and node places of a configuration in a table.
struct Assigned {
    slots: Vec<Slot>,
    nodes: Nodes,
    node_places: Vec<NodePlace>,
}

impl Assigned {
    /// In the table of `last`. Targets with the password that they had keep their slots: those of `before`, the
    /// configuration in force, and those of `last`, which may have been prepared after it. `None` where the table
    /// is full.
    fn after(
        last: &ActiveConfig,
        before: &ActiveConfig,
        identities: &[IdentityHash],
        config: &Config,
    ) -> Option<Self> {
        let passwords = passwords_of(identities, config);
        let kept = |identity: &IdentityHash| {
            let password = *passwords.get(identity)?;
            let known = [before, last].into_iter();
            let mut of_table = known.filter(|known| Arc::ptr_eq(&known.table, &last.table));
            of_table.find_map(|known| known.slot_of(identity, password))
        };
        Self::of(&last.table, identities, config, kept)
    }

    /// `None` where the table is full.
    fn of(
        table: &VerdictTable,
        identities: &[IdentityHash],
        config: &Config,
        kept: impl Fn(&IdentityHash) -> Option<Slot>,
    ) -> Option<Self> {
        let nodes = Nodes::of(&config.targets);
        let names: Vec<u64> = nodes.list.iter().map(Node::name_hash).collect();
        Some(Self {
            slots: table.assign(identities, kept)?,
            node_places: table.assign_nodes(&names)?,
            nodes,
        })
    }
}

/// The index of each target with a key that an earlier one has, behind that of the first with this key;
/// in the order of the targets.
fn namesakes(targets: &[Arc<Target>]) -> Vec<(usize, usize)> {
    let mut firsts = HashMap::with_capacity(targets.len());
    let keys = targets.iter().map(|target| target.key()).enumerate();
    keys.filter_map(|(index, key)| match firsts.entry(key) {
        Entry::Occupied(first) => Some((*first.get(), index)),
        Entry::Vacant(place) => {
            place.insert(index);
            None
        }
    })
    .collect()
}

/// The indices of the first target of each identity, sorted by hash.
fn firsts(identities: &[IdentityHash]) -> Vec<u32> {
    let mut firsts: Vec<u32> = (0..).take(identities.len()).collect();
    let hash = |at: &u32| usize::try_from(*at).ok().and_then(|at| identities.get(at));
    // By index as well: of equal identities the first one is in front and is kept.
    firsts.sort_unstable_by_key(|at| (hash(at), *at));
    firsts.dedup_by_key(|at| hash(at));
    firsts.shrink_to_fit();
    firsts
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::engine::active::OperatorRequest;
    use crate::engine::state_file::saved::SavedTarget;
    use crate::engine::state_file::text::settings as settings_of;
    use crate::engine::verdicts::health::{HealthState, Verdict};
    use crate::engine::verdicts::{Counter, OperatorState, Setting};

    fn config(text: &str) -> Arc<Config> {
        let text = format!("backend_server_monitoring: {{log: none, {text}}}");
        Arc::new(Config::from_yaml(&text, &|_| None).unwrap())
    }

    fn prepared(text: &str, before: Option<&Arc<ActiveConfig>>) -> Arc<ActiveConfig> {
        let state = StartState::default();
        Arc::new(ActiveConfig::succeed(before, config(text), 1, true, state).unwrap())
    }

    fn active(text: &str, before: Option<&Arc<ActiveConfig>>) -> Arc<ActiveConfig> {
        let active = prepared(text, before);
        active.come_into_force(1, None);
        active
    }

    const TARGET: &str = "{protocol: imap, host: 127.0.0.1, port: 1, deep_check: true}";

    /// The prober publishes while a configuration is put in force: neither change is lost.
    #[test]
    fn a_record_that_was_published_in_between_is_changed_and_not_overwritten() {
        let active = active(&format!("backend_servers: [{TARGET}]"), None);
        let slot = active.slots[0];
        let tries = Cell::new(0);
        let is_changed = active.change(slot, |known| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                let published = Record {
                    probes: 7,
                    ..known.clone()
                };
                active.table.write(slot, &published, false);
            }
            Some(Record {
                failures: 3,
                ..known.clone()
            })
        });
        assert!(is_changed);
        assert_eq!(tries.get(), 2);
        let record = active.table.read(slot);
        assert_eq!((record.probes, record.failures), (7, 3));
        assert!(!active.change(slot, |_| None));
    }

    #[test]
    fn a_second_health_state_comes_and_goes_with_its_interval_and_keeps_the_verdict() {
        let one = active(&format!("backend_servers: [{TARGET}]"), None);
        let slot = one.slots[0];
        one.change(slot, |known| {
            let mut record = known.clone();
            record.connect.verdict = Verdict::Dead;
            record.connect.failures = 5;
            record.connect.refusals = 4;
            Some(record)
        });
        let own_interval = format!("deep_interval: 1h, backend_servers: [{TARGET}]");
        let two = active(&own_interval, Some(&one));
        let record = two.table.read(two.slots[0]);
        // Only the deep probes log in.
        assert_eq!(record.connect.refusals, 0);
        let of_both = HealthState {
            refusals: 4,
            ..record.connect
        };
        assert_eq!(record.deep, Some(of_both));
        assert_eq!(record.verdict(), Verdict::Dead);
        let three = active(&format!("backend_servers: [{TARGET}]"), Some(&two));
        let record = three.table.read(three.slots[0]);
        assert_eq!(record.deep, None);
        assert_eq!(record.verdict(), Verdict::Dead);
        assert_eq!((record.connect.failures, record.connect.refusals), (5, 4));
    }

    fn target(port: u16, keys: &str) -> String {
        format!("{{protocol: imap, host: 127.0.0.1, port: {port}, deep_check: true{keys}}}")
    }

    fn targets(targets: &[String]) -> String {
        format!("backend_servers: [{}]", targets.join(", "))
    }

    /// Publishes a record with these numbers, as a prober does.
    fn publish(active: &ActiveConfig, at: usize, verdict: Verdict, probes: u64) {
        let slot = active.slots[at];
        active.change(slot, |known| {
            let mut record = known.clone();
            record.connect.verdict = verdict;
            record.probes = probes;
            Some(record)
        });
    }

    fn known(active: &ActiveConfig, at: usize) -> (Verdict, u64) {
        let record = active.table.read(active.slots[at]);
        (record.verdict(), record.probes)
    }

    /// What nginx does where it refuses a reload after `init_by_lua`.
    #[test]
    fn a_configuration_that_never_comes_into_force_changes_nothing_for_others() {
        let password = ", test_username: u, test_password: ";
        let first = [
            target(1, &format!("{password}a")),
            target(2, ""),
            target(3, ""),
        ];
        let one = active(&targets(&first), None);
        publish(&one, 0, Verdict::Dead, 3);
        publish(&one, 1, Verdict::Dead, 4);
        let mut saved = SavedTarget::default();
        saved.record.probes = 7;
        let saved = Saved {
            saved_ms: clock::unix_ms(),
            targets: HashMap::from([(one.table.hash(one.slots[2]), saved)]),
            ..Saved::default()
        };
        let words = |active: &ActiveConfig| {
            let records = active.slots.iter().map(|slot| active.table.read(*slot));
            let (epoch, events) = (active.table.epoch(), active.table.events_after(0).events);
            let generation = active.generation();
            (records.collect::<Vec<_>>(), epoch, events.len(), generation)
        };
        let before = words(&one);
        let second = [
            target(9, ""),
            target(1, &format!("{password}b")),
            first[1].clone(),
        ];
        let second = format!("deep_interval: 1h, {}", targets(&second));
        let state = StartState {
            saved: Some(saved),
            ..StartState::default()
        };
        let two = ActiveConfig::succeed(Some(&one), config(&second), 1, true, state).unwrap();
        let two = Arc::new(two);
        assert!(Arc::ptr_eq(&one.table, &two.table));
        assert_eq!(words(&one), before);
        assert!(one.is_in_force() && !two.is_in_force());

        // Verdicts change before the next reload, which is not refused.
        publish(&one, 1, Verdict::Alive, 8);
        publish(&one, 2, Verdict::Dead, 9);
        let three = prepared(&targets(&first), Some(&two));
        let expected = [(Verdict::Dead, 3), (Verdict::Alive, 8), (Verdict::Dead, 9)];
        for _ in 0..2 {
            three.come_into_force(1, None);
            assert_eq!([0, 1, 2].map(|at| known(&three, at)), expected);
        }
        assert_eq!(three.table.epoch(), three.epoch);
        // A process that was late with the one before does not put it in force.
        two.come_into_force(1, None);
        assert_eq!(three.table.epoch(), three.epoch);
        let reloads = three.table.events_after(0).events;
        let is_reload = |event: &&Event| event.kind == EventKind::Reload;
        assert_eq!(reloads.iter().filter(is_reload).count(), 1);
        assert_eq!(known(&two, 1), (Verdict::Unknown, 0), "another password");
    }

    #[test]
    fn a_full_table_stays_in_use_until_its_replacement_is_in_force() {
        let few = targets(&[target(1, ""), target(2, "")]);
        let ports = 1..=u16::try_from(2 * SPARE_SLOTS).unwrap();
        let many = targets(&ports.map(|port| target(port, "")).collect::<Vec<_>>());
        let one = active(&few, None);
        publish(&one, 0, Verdict::Alive, 3);
        one.table.count(Counter::Takeovers, 2);
        let two = prepared(&many, Some(&one));
        assert!(!Arc::ptr_eq(&one.table, &two.table));
        assert_eq!(one.table.epoch(), one.epoch);
        assert_eq!(known(&two, 0), (Verdict::Alive, 3));

        let drain = |active: &ActiveConfig| {
            let wanted = OperatorRequest {
                what: "imap://127.0.0.1:2".to_owned(),
                setting: Setting::State(OperatorState::Drain),
                reason: String::new(),
                by: String::new(),
                lasting: None,
            };
            active.operate(wanted).unwrap();
        };
        publish(&one, 0, Verdict::Dead, 4);
        one.table.count(Counter::Takeovers, 1);
        drain(&one);
        // The next configuration is made from the one in force, in the table that nobody used.
        let three = prepared(&format!("connect_interval: 7s, {many}"), Some(&two));
        assert_eq!(known(&three, 0), (Verdict::Dead, 4));
        publish(&one, 0, Verdict::Alive, 5);
        one.table.count(Counter::Takeovers, 1);
        let generation = three.generation();
        for _ in 0..2 {
            three.come_into_force(1, None);
            assert_eq!(known(&three, 0), (Verdict::Alive, 5));
            assert_eq!(three.table.count_of(Counter::Takeovers), 4);
            assert_eq!(three.operators_in_force().len(), 1);
        }
        assert!(three.generation() > generation);
        assert_eq!(
            (one.table.epoch(), three.table.epoch()),
            (RETIRED, three.epoch)
        );
        // What was found out since is not replaced by another process that starts.
        publish(&three, 0, Verdict::Dead, 6);
        three.come_into_force(1, None);
        assert_eq!(known(&three, 0), (Verdict::Dead, 6));
        assert!(two.is_in_force(), "it was replaced");
    }

    /// Several workers start at the same time: each finds the work to be done.
    #[test]
    fn a_replacement_is_copied_by_one_process_alone() {
        let few = targets(&[target(1, "")]);
        let ports = 1..=u16::try_from(2 * SPARE_SLOTS).unwrap();
        let many = targets(&ports.map(|port| target(port, "")).collect::<Vec<_>>());
        let one = active(&few, None);
        let two = prepared(&many, Some(&one));
        publish(&one, 0, Verdict::Dead, 4);
        // Process 1 exists, and has begun to copy.
        two.table.lend_lease(1);
        let own_pid = u64::from(std::process::id());
        two.come_into_force(own_pid, None);
        assert_eq!((two.table.epoch(), known(&two, 0).0), (0, Verdict::Unknown));
        assert!(!two.is_in_force());
        // It ends before it has finished.
        two.table.lend_lease(0);
        two.come_into_force(own_pid, None);
        assert_eq!(two.table.epoch(), two.epoch);
        assert_eq!(known(&two, 0), (Verdict::Dead, 4));
    }

    const WITH_PASSWORD: &str =
        "protocol: imap, host: 127.0.0.1, port: 1, deep_check: true, test_username: u";

    fn with_password(password: &str, interval: &str) -> Arc<Config> {
        config(&format!(
            "connect_interval: {interval}, backend_servers: [{{{WITH_PASSWORD}, test_password: {password}}}]"
        ))
    }

    /// What a state file says after a probe that started at this time, in `CLOCK_MONOTONIC`
    /// nanoseconds, and was refused.
    fn saved_refusal(active: &ActiveConfig, started_ns: u64) -> Saved {
        let mut target = SavedTarget {
            settings: settings_of(&active.config, &active.config.targets[0]).into(),
            ..SavedTarget::default()
        };
        target.record.probes = 4;
        target.record.connect.verdict = Verdict::Dead;
        target.record.connect_started_ns = started_ns;
        target.record.error = Some("auth: refused: no".to_owned());
        Saved {
            saved_ms: clock::unix_ms(),
            targets: HashMap::from([(active.table.hash(active.slots[0]), target)]),
            ..Saved::default()
        }
    }

    #[test]
    fn another_password_takes_no_verdict_of_the_one_before_from_the_state_file() {
        let first = with_password("a", "10s");
        let first = ActiveConfig::succeed(None, first, 1, true, StartState::default()).unwrap();
        let first = Arc::new(first);
        let probed_ns = clock::monotonic_ns();
        let succeed =
            |before: Option<&Arc<ActiveConfig>>, password: &str, interval: &str, pid: u64| {
                let state = StartState {
                    saved: Some(saved_refusal(&first, probed_ns)),
                    ..StartState::default()
                };
                let config = with_password(password, interval);
                let next = ActiveConfig::succeed(before, config, pid, pid == 1, state).unwrap();
                next.come_into_force(pid, None);
                Arc::new(next)
            };
        let record = |active: &ActiveConfig| active.table.read(active.slots[0]);
        let changed = succeed(Some(&first), "b", "10s", 1);
        assert_eq!(record(&changed), Record::default());
        // Before the first probe with the new password, the configuration is changed again.
        let again = succeed(Some(&changed), "b", "20s", 1);
        assert_eq!(record(&again), Record::default());
        // In another process, which makes a table of its own.
        let elsewhere = succeed(Some(&first), "b", "10s", 2);
        assert_eq!(record(&elsewhere), Record::default());
        // The password that the process has had all along, and a process that has had none.
        let is_restored = |active: Arc<ActiveConfig>| record(&active).verdict() == Verdict::Dead;
        assert!(is_restored(succeed(Some(&first), "a", "20s", 2)));
        assert!(is_restored(succeed(None, "b", "10s", 1)));

        let served = again.follow(&saved_refusal(&again, probed_ns));
        assert!(served.is_empty());
        assert_eq!(record(&again), Record::default());
        let later_ns = clock::monotonic_ns() + 1_000_000_000;
        let served = again.follow(&saved_refusal(&again, later_ns));
        assert_eq!(served.len(), 1);
        assert_eq!(record(&again).verdict(), Verdict::Dead);
    }

    /// The prober of the configuration before runs until another one is in force, here on another
    /// thread.
    #[test]
    fn another_password_takes_no_outcome_of_the_one_before() {
        // Many targets, so that there is time for outcomes while the configuration changes.
        let others: String = (2..100)
            .map(|port| format!(", {{protocol: imap, host: 127.0.0.1, port: {port}}}"))
            .collect();
        let [old, new] = ["a", "b"].map(|password| {
            let target = format!("{{{WITH_PASSWORD}, test_password: {password}}}");
            config(&format!("backend_servers: [{target}{others}]"))
        });
        for _ in 0..5 {
            let state = StartState::default();
            let first = ActiveConfig::succeed(None, old.clone(), 1, true, state).unwrap();
            let first = Arc::new(first);
            let (slot, target) = (first.slots[0], &first.config.targets[0]);
            let publish = || {
                let (seen, before) = first.table.read_seen(slot);
                let mut after = before.clone();
                after.probes += 1;
                first.publish(target, slot, (seen, &before), &after, None)
            };
            assert!(publish());
            let is_over = AtomicBool::new(false);
            let second = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Relaxed) {
                        publish();
                    }
                });
                while first.table.read(slot).probes < 2 {
                    std::thread::yield_now();
                }
                let state = StartState::default();
                let second = ActiveConfig::succeed(Some(&first), new.clone(), 1, true, state);
                let second = second.unwrap();
                second.come_into_force(1, None);
                is_over.store(true, Relaxed);
                second
            });
            assert!(!publish());
            assert_eq!(second.table.read(second.slots[0]).probes, 0);
        }
    }
}
