//! The running configuration: its targets, and where their verdicts are.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, InitialState};
use super::routing::Nodes;
use super::state_file::file::{Lead, Store};
use super::state_file::format::{Saved, SavedTarget};
use super::state_file::text::settings as settings_of;
use super::target::{Host, Target};
use super::verdicts::health::{Thresholds, Verdict};
use super::verdicts::{
    Claim, Counter, Event, EventKind, IdentityHash, RETIRED, Record, Routable, Sample, Slot,
    Standby, VerdictTable, hash_identity,
};
use crate::sys::clock;

mod lookup;
mod routing;

/// A file keeps times in whole milliseconds of a clock that is slowly set right: two that
/// differ by no more than this may be one.
const SAME_TIME: Duration = Duration::from_millis(10);

/// Room that a new table has for targets of later configurations.
const SPARE_SLOTS: usize = 256;

/// A configuration in force.
pub struct ActiveConfig {
    pub config: Arc<Config>,
    pub table: Arc<VerdictTable>,
    /// Of the configuration's targets, in their order. Equal targets share a slot.
    pub slots: Vec<Slot>,
    /// What the table's epoch is while this configuration is the one to be probed.
    pub epoch: u64,
    /// The process whose table this is: it alone gives out slots.
    owner: u64,
    /// The first target of each identity, by its hash.
    by_identity: Vec<u32>,
    nodes: Nodes,
    pub store: Option<Arc<Store>>,
}

/// What a process is to the others that serve the same configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It probes, and publishes what it finds.
    Prober,
    /// The prober is of another family and writes the state file; this process publishes
    /// for its own family what it reads there, and probes what it does not find there.
    Reader,
    /// Another process of the family does either.
    Waiting,
}

/// The state file of a configuration, and what it said.
#[derive(Default)]
pub struct State {
    pub store: Option<Arc<Store>>,
    pub saved: Option<Saved>,
}

/// A server as one snapshot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendServer {
    pub target: Arc<Target>,
    /// The address the last good probe used, or what is configured.
    pub ip: String,
}

/// The alive targets at one generation, in configured order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub generation: u64,
    pub servers: Vec<BackendServer>,
}

/// One target as `status()` shows it.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    pub target: Arc<Target>,
    pub record: Record,
}

impl TargetStatus {
    /// What a server object of this target shows as `ip`.
    pub fn ip(&self) -> String {
        shown_ip(&self.target, self.record.address)
    }
}

impl ActiveConfig {
    /// Puts `config` in force after `before`: targets that both have keep what is known of
    /// them. `head`: this process is the one that the others are forked from, even where
    /// the table was made by a process before it.
    ///
    /// # Errors
    /// Where the system gives no shared memory.
    pub fn succeed(
        before: Option<&Self>,
        config: Arc<Config>,
        pid: u64,
        head: bool,
        state: State,
    ) -> std::io::Result<Self> {
        let own = before.filter(|before| head || before.owner == pid);
        let Some(own) = own else {
            return Self::in_new_table(before, config, pid, state);
        };
        let identities = identities_of(&config);
        if let Some(slots) = own.table.assign(&identities) {
            let next = Self {
                epoch: own.epoch + 1,
                table: own.table.clone(),
                owner: pid,
                by_identity: firsts(&identities),
                nodes: Nodes::of(&config.targets),
                store: state.store,
                slots,
                config,
            };
            next.reset_newcomers(own);
            next.recall(state.saved);
            next.fit_gates();
            next.follow_list_of(own);
            next.table.set_epoch(next.epoch);
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

    /// The same configuration in a table of this process's own.
    ///
    /// # Errors
    /// Where the system gives no shared memory.
    pub fn detached(&self, pid: u64) -> std::io::Result<Self> {
        let state = State {
            store: self.store.clone(),
            saved: None,
        };
        Self::in_new_table(Some(self), self.config.clone(), pid, state)
    }

    fn in_new_table(
        before: Option<&Self>,
        config: Arc<Config>,
        pid: u64,
        state: State,
    ) -> std::io::Result<Self> {
        let identities = identities_of(&config);
        let table = VerdictTable::new(identities.len() * 2 + SPARE_SLOTS)?;
        let slots = table
            .assign(&identities)
            .ok_or_else(|| std::io::Error::other("the verdict table is too small"))?;
        let next = Self {
            table: Arc::new(table),
            epoch: 1,
            owner: pid,
            by_identity: firsts(&identities),
            nodes: Nodes::of(&config.targets),
            store: state.store,
            slots,
            config,
        };
        if let Some(before) = before {
            next.inherit(before);
        }
        next.recall(state.saved);
        next.fit_gates();
        if let Some(before) = before {
            next.follow_list_of(before);
        }
        next.table.set_epoch(next.epoch);
        Ok(next)
    }

    /// In a table used again, a slot may hold what was known of a target that was removed
    /// in between, or that logs in with another password now.
    fn reset_newcomers(&self, before: &Self) {
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            if before.slot_of(&self.table.hash(*slot), target) != Some(*slot) {
                self.table.reset(*slot);
            }
        }
    }

    fn inherit(&self, before: &Self) {
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            if let Some(known) = before.slot_of(&self.table.hash(*slot), target) {
                self.table.inherit_slot(*slot, &before.table, known);
            }
        }
        self.table.inherit(&before.table);
    }

    /// Targets that nothing is known of take what was known before the restart, if that is not
    /// too old; what operators have set never is.
    fn recall(&self, saved: Option<Saved>) {
        let Some(saved) = saved else {
            return;
        };
        self.recall_operators(&saved);
        if !saved.is_within(self.config.state_max_age) {
            return;
        }
        for slot in &self.slots {
            if let Some(target) = saved.targets.get(&self.table.hash(*slot))
                && self.table.read(*slot) == Record::default()
            {
                self.table.write(*slot, &target.record, false);
                self.table
                    .set_routable(*slot, Routable::settled(target.record.verdict()));
            }
        }
    }

    /// Takes over what operators have set, as far as it is later than what is known here.
    pub fn recall_operators(&self, saved: &Saved) {
        for operator in &saved.operators {
            self.table.set_operator(operator);
        }
    }

    /// Publishes what a prober of another family saved, where no later probe of ours says
    /// otherwise; the targets that it probes as this configuration would.
    pub fn follow(&self, saved: &Saved) -> HashSet<Slot> {
        let mut served = HashSet::new();
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            let Some(SavedTarget { record, settings }) = saved.targets.get(&self.table.hash(*slot))
            else {
                continue;
            };
            if **settings != *settings_of(&self.config, target) {
                continue;
            }
            served.insert(*slot);
            let (seen, known) = self.table.read_seen(*slot);
            if *record != known && is_as_recent(record, &known) {
                // Where a probe was published meanwhile, the next reading decides.
                self.publish(target, *slot, (seen, &known), record, None);
            }
        }
        served
    }

    /// Stores what is known of a target now, made from what was seen before; readers get a new
    /// generation where the list shows it. False where something else was stored since, or
    /// another process has taken this one's part over: then nothing is stored.
    pub fn publish(
        &self,
        target: &Target,
        slot: Slot,
        (seen, before): (u64, &Record),
        after: &Record,
        sample: Option<Sample>,
    ) -> bool {
        let shows = |record: &Record| {
            let listed = self.lists(record.verdict());
            listed.then(|| shown_ip(target, record.address))
        };
        let same = before.verdict() == after.verdict() && before.address == after.address;
        let changes = !same && shows(before) != shows(after);
        let is_published = self.table.write_seen(slot, seen, after, changes, sample);
        if is_published && before.verdict() != after.verdict() {
            self.table.count(Counter::StateChanges, 1);
            self.table.add_event(
                &Event::new(EventKind::Verdict, target.key())
                    .change(before.verdict().name(), after.verdict().name())
                    .reason(after.error.as_deref().unwrap_or_default()),
            );
            let routable = self.table.routable(slot).after(
                after.verdict(),
                clock::monotonic_ms(),
                self.delays(),
            );
            self.table.set_routable(slot, routable);
        }
        is_published
    }

    /// Whether a role in one of the two is the same role in the other.
    pub fn shares_with(&self, other: &Self) -> bool {
        let same_file = match (&self.store, &other.store) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        };
        same_file && Arc::ptr_eq(&self.table, &other.table)
    }

    /// Finds this process's role: takes it, or makes sure that it still has it. Who has to wait
    /// takes it over by its `standby` where the holder is stopped.
    ///
    /// # Errors
    /// `NotConnected` where the host has closed a descriptor of ours; else what the system
    /// says.
    pub fn take_role(&self, pid: u64, standby: Option<&mut Standby<'_>>) -> std::io::Result<Role> {
        let claim = self.table.claim_lease(pid, standby)?;
        if claim == Claim::Refused {
            if let Some(store) = &self.store {
                store.step_down();
            }
            return Ok(Role::Waiting);
        }
        let role = match &self.store {
            Some(store) if store.try_lead(self.table.displaced()) == Lead::Theirs => Role::Reader,
            _ => Role::Prober,
        };
        if let Claim::Taken(from) = claim
            && role == Role::Prober
        {
            self.note_prober(from, pid);
        }
        if role == Role::Prober {
            self.table.set_probing(pid, true);
        }
        Ok(role)
    }

    fn note_prober(&self, from: u64, pid: u64) {
        let was_stopped = from != 0 && self.table.displaced() == Some(from);
        let reason = if was_stopped {
            "the process before it is stopped"
        } else {
            ""
        };
        let before = if from == 0 {
            String::new()
        } else {
            from.to_string()
        };
        self.table.count(Counter::Takeovers, u64::from(from != 0));
        self.table.add_event(
            &Event::new(EventKind::Prober, "")
                .change(before, pid.to_string())
                .reason(reason),
        );
    }

    /// Gives back whatever role this process has.
    pub fn leave_role(&self, pid: u64) {
        self.table.give_up_lease(pid);
        if let Some(store) = &self.store {
            store.step_down();
        }
    }

    /// The generation moves where the list is another one.
    fn follow_list_of(&self, before: &Self) {
        if self.snapshot().servers != before.snapshot().servers {
            self.table.bump_generation();
        }
    }

    /// The slot of a target that is the same in everything, its password included.
    fn slot_of(&self, identity: &IdentityHash, target: &Target) -> Option<Slot> {
        let hash = |at: u32| {
            let slot = *self.slots.get(usize::try_from(at).ok()?)?;
            Some(self.table.hash(slot))
        };
        let found = self
            .by_identity
            .binary_search_by(|at| hash(*at).as_ref().cmp(&Some(identity)));
        let at = usize::try_from(*self.by_identity.get(found.ok()?)?).ok()?;
        let mine = self.config.targets.get(at)?;
        (mine.test_password == target.test_password)
            .then(|| self.slots.get(at).copied())
            .flatten()
    }

    /// A change of the intervals gives a target a second gate or takes it away; neither
    /// changes its verdict.
    fn fit_gates(&self) {
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            let mut record = self.table.read(*slot);
            match (target.has_deep_timer(), record.deep) {
                (true, None) => record.deep = Some(record.connect),
                (false, Some(_)) => {
                    record.connect.verdict = record.verdict();
                    record.deep = None;
                }
                _ => continue,
            }
            self.table.write(*slot, &record, false);
        }
    }

    pub fn thresholds(&self, target: &Target) -> Thresholds {
        Thresholds {
            failure: target.policy.failure_threshold,
            recovery: target.policy.recovery_threshold,
            initially_alive: self.config.initial_state == InitialState::Alive,
        }
    }

    /// How long a target's certificate still lasts, where `cert_warn` wants to hear of it;
    /// zero once it has ended.
    pub fn certificate_ends_within(&self, record: &Record) -> Option<Duration> {
        let warn = self.config.cert_warn;
        certificate_left(record.not_after).filter(|&left| !warn.is_zero() && left <= warn)
    }

    /// Whether a target with this verdict is in the list.
    pub fn lists(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Alive => true,
            Verdict::Dead => false,
            Verdict::Unknown => self.config.initial_state == InitialState::Alive,
        }
    }

    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// The list of alive targets as it stands.
    pub fn snapshot(&self) -> Snapshot {
        let (generation, servers) = self.table.view(|table| {
            let pairs = self.config.targets.iter().zip(&self.slots);
            pairs
                .filter_map(|(target, slot)| {
                    let (verdict, address) = table.read_brief(*slot);
                    self.lists(verdict).then(|| BackendServer {
                        target: target.clone(),
                        ip: shown_ip(target, address),
                    })
                })
                .collect()
        });
        Snapshot {
            generation,
            servers,
        }
    }

    /// All targets with what is known of them, in configured order.
    pub fn targets(&self) -> Vec<TargetStatus> {
        let pairs = self.config.targets.iter().zip(&self.slots);
        pairs
            .map(|(target, slot)| TargetStatus {
                target: target.clone(),
                record: self.table.read(*slot),
            })
            .collect()
    }

    /// Whether every target has had a first verdict.
    pub fn is_ready(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| self.table.read_brief(*slot).0 != Verdict::Unknown)
    }
}

/// Whether no probe that `known` tells of started after those that `record` tells of.
fn is_as_recent(record: &Record, known: &Record) -> bool {
    let leeway = clock::ns(SAME_TIME);
    record.connect_started_ns.saturating_add(leeway) >= known.connect_started_ns
        && record.deep_started_ns.saturating_add(leeway) >= known.deep_started_ns
}

fn identities_of(config: &Config) -> Vec<IdentityHash> {
    let targets = config.targets.iter();
    targets
        .map(|target| hash_identity(&target.identity()))
        .collect()
}

/// The positions of the first of each, in the order of their hashes.
fn firsts(identities: &[IdentityHash]) -> Vec<u32> {
    let mut firsts: Vec<u32> = (0..).take(identities.len()).collect();
    let hash = |at: &u32| usize::try_from(*at).ok().and_then(|at| identities.get(at));
    // Equal ones stay in their order.
    firsts.sort_by_key(hash);
    firsts.dedup_by_key(|at| hash(at));
    firsts.shrink_to_fit();
    firsts
}

/// What a server object shows as `ip`.
pub fn shown_ip(target: &Target, address: Option<IpAddr>) -> String {
    match (&target.host, address) {
        (Host::Ip(ip), _) => ip.to_string(),
        (Host::Name(_), Some(address)) => address.to_string(),
        (Host::Name(name), None) => name.to_string(),
    }
}

/// How long a certificate lasts; zero once it has ended.
fn certificate_left(not_after: Option<i64>) -> Option<Duration> {
    let now = i64::try_from(clock::unix_ms() / 1000).ok()?;
    let left = not_after?.saturating_sub(now);
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_rest_is_never_negative() {
        assert_eq!(certificate_left(None), None);
        assert_eq!(certificate_left(Some(5)), Some(Duration::ZERO));
    }
}
