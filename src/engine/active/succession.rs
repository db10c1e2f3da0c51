//! How one active configuration replaces another: targets that both have keep their records.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::event_notes::EventNotes;
use super::{ActiveConfig, BackendServer, KnownNames, SAME_TIME, StartState};
use crate::engine::config::Config;
use crate::engine::routing::{Node, Nodes, agreement};
use crate::engine::state_file::saved::Saved;
use crate::engine::target::Target;
use crate::engine::verdicts::{
    Event, EventKind, IdentityHash, NodePlace, RETIRED, Record, Routable, Slot, VerdictTable,
    hash_identity,
};
use crate::sys::clock;

/// A new table has this many free slots for targets of later configurations, and further as many as there
/// are targets now.
const SPARE_SLOTS: usize = 256;

impl ActiveConfig {
    /// Puts `config` in force after `before`. Targets that both have keep their records. `head`:
    /// the other processes are forked from this one, so it may go on with the table even where a
    /// process before it made the table, as a daemon's parent does.
    ///
    /// # Errors
    /// Where the system gives no shared memory.
    pub fn succeed(
        before: Option<&Self>,
        config: Arc<Config>,
        pid: u64,
        head: bool,
        mut state: StartState,
    ) -> std::io::Result<Self> {
        let own = before.filter(|before| head || before.owner == pid);
        let Some(own) = own else {
            return Self::in_new_table(before, config, pid, state);
        };
        let identities = identities_of(&config);
        if let Some(assigned) = Assigned::of(&own.table, &identities, &config) {
            let saved = state.saved.take();
            let mut next = Self {
                epoch: own.epoch + 1,
                ..Self::new(own.table.clone(), assigned, &identities, config, pid, state)
            };
            next.password_changes = next.password_changes_since(own);
            // Read before the table changes, since both configurations read the same table.
            let listed = own.snapshot().servers;
            next.reset_newcomers(own);
            next.restore(saved);
            next.fit_health_states();
            next.follow_list(&listed);
            next.table.set_epoch(next.epoch);
            if next.reset_changed_passwords(own) {
                next.fit_health_states();
                next.follow_list(&listed);
            }
            next.note_reload();
            return Ok(next);
        }
        let next = Self::in_new_table(Some(own), config, pid, state)?;
        own.table.set_epoch(RETIRED);
        next.note_reload();
        Ok(next)
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
        Self::in_new_table(Some(self), self.config.clone(), pid, state)
    }

    /// The configuration in a table that has a slot for each target. Its epoch is 1, and it is in force
    /// since now.
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
            table,
            epoch: 1,
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
            slots,
            config,
        }
    }

    fn in_new_table(
        before: Option<&Self>,
        config: Arc<Config>,
        pid: u64,
        mut state: StartState,
    ) -> std::io::Result<Self> {
        let too_small = || std::io::Error::other("the verdict table is too small");
        let identities = identities_of(&config);
        let table = VerdictTable::new(identities.len() * 2 + SPARE_SLOTS)?;
        let assigned = Assigned::of(&table, &identities, &config).ok_or_else(too_small)?;
        let same = before.filter(|before| Arc::ptr_eq(&before.config, &config));
        let since_ms = same.map_or_else(clock::unix_ms, |before| before.since_ms);
        let saved = state.saved.take();
        let mut next = Self {
            since_ms,
            ..Self::new(Arc::new(table), assigned, &identities, config, pid, state)
        };
        if let Some(before) = before {
            next.password_changes = next.password_changes_since(before);
            next.inherit(before);
        }
        next.restore(saved);
        next.fit_health_states();
        if let Some(before) = before {
            next.follow_list(&before.snapshot().servers);
        }
        next.table.set_epoch(next.epoch);
        Ok(next)
    }

    /// Empties the slots of targets that `before` lacks. When a table stays in use, such a slot may hold
    /// the record of a target that an earlier configuration had removed and that has come back.
    fn reset_newcomers(&self, before: &Self) {
        for (_, slot) in self.distinct() {
            if before.known(&self.table.hash(slot)).is_none() {
                self.table.reset(slot);
            }
        }
    }

    /// Empties the slots of targets that log in with another password than in `before`. Returns whether
    /// there are any. To be called when this configuration is in force: the prober of `before` goes on
    /// until then, and its next outcome would be the first one in the emptied slot.
    fn reset_changed_passwords(&self, before: &Self) -> bool {
        let mut is_any = false;
        for (target, slot) in self.distinct() {
            let known = before.known(&self.table.hash(slot));
            if known.is_some_and(|(earlier, _)| earlier.test_password != target.test_password) {
                self.table.reset(slot);
                is_any = true;
            }
        }
        is_any
    }

    fn inherit(&self, before: &Self) {
        for (target, slot) in self.distinct() {
            if let Some(known) = before.slot_of(&self.table.hash(slot), target) {
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
    fn restore(&self, saved: Option<Saved>) {
        let Some(saved) = saved else {
            return;
        };
        self.restore_operators(&saved);
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
    fn slot_of(&self, identity: &IdentityHash, target: &Target) -> Option<Slot> {
        let (mine, slot) = self.known(identity)?;
        (mine.test_password == target.test_password).then_some(slot)
    }

    /// Gives each target as many health states as it has probe timers: changed intervals may add or
    /// remove the timer of its deep probes. The target's verdict stays as it was.
    fn fit_health_states(&self) {
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            self.change(*slot, |known| {
                let mut record = known.clone();
                match (target.has_deep_timer(), record.deep) {
                    (true, None) => {
                        record.deep = Some(record.connect);
                        // Connect probes do not log in any more.
                        record.connect.refusals = 0;
                    }
                    (false, Some(deep)) => {
                        record.connect.verdict = record.verdict();
                        record.connect.refusals = deep.refusals;
                        record.deep = None;
                    }
                    _ => return None,
                }
                Some(record)
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
    /// `None` where the table is full.
    fn of(table: &VerdictTable, identities: &[IdentityHash], config: &Config) -> Option<Self> {
        let nodes = Nodes::of(&config.targets);
        let names: Vec<u64> = nodes.list.iter().map(Node::name_hash).collect();
        Some(Self {
            slots: table.assign(identities)?,
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
    use crate::engine::state_file::saved::SavedTarget;
    use crate::engine::state_file::text::settings as settings_of;
    use crate::engine::verdicts::health::{HealthState, Verdict};

    fn config(text: &str) -> Arc<Config> {
        let text = format!("backend_server_monitoring: {{log: none, {text}}}");
        Arc::new(Config::from_yaml(&text, &|_| None).unwrap())
    }

    fn active(text: &str, before: Option<&ActiveConfig>) -> ActiveConfig {
        ActiveConfig::succeed(before, config(text), 1, true, StartState::default()).unwrap()
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
        let probed_ns = clock::monotonic_ns();
        let succeed = |before: Option<&ActiveConfig>, password: &str, interval: &str, pid: u64| {
            let state = StartState {
                saved: Some(saved_refusal(&first, probed_ns)),
                ..StartState::default()
            };
            let config = with_password(password, interval);
            ActiveConfig::succeed(before, config, pid, pid == 1, state).unwrap()
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
        let is_restored = |active: ActiveConfig| record(&active).verdict() == Verdict::Dead;
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
                is_over.store(true, Relaxed);
                second.unwrap()
            });
            assert!(!publish());
            assert_eq!(second.table.read(second.slots[0]).probes, 0);
        }
    }
}
