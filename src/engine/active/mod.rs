//! The configuration in force: its targets, and where their verdicts are.
//!
//! `succession` is how one follows another, `listing` what the list shows, `names` what its host
//! names meant when it was configured.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::config::{Config, InitialState};
use super::routing::Nodes;
use super::state_file::file::{Lead, Store};
use super::state_file::saved::{Saved, SavedTarget};
use super::state_file::text::settings as settings_of;
use super::target::Target;
use super::verdicts::health::{Thresholds, Verdict};
use super::verdicts::{
    Claim, Counter, Event, EventKind, Record, Sample, Slot, Standby, VerdictTable,
};
use crate::sys::clock;
pub use listing::{BackendServer, Panic, Snapshot, TargetStatus, shown_ip};
pub use names::KnownNames;
pub use operators::{OperatorRequest, OperatorSettings};

mod listing;
mod lookup;
mod names;
mod operators;
mod routing;
mod succession;

pub use routing::NodeStatus;

/// A file keeps times in whole milliseconds of a clock that is slowly set right: two that
/// differ by no more than this may be one.
const SAME_TIME: Duration = Duration::from_millis(10);

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
    names: ArcSwap<KnownNames>,
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

/// What a configuration begins with: its state file, what that said, and its names.
#[derive(Default)]
pub struct State {
    pub store: Option<Arc<Store>>,
    pub saved: Option<Saved>,
    /// What the configuration's names are known to mean.
    pub names: KnownNames,
}

impl ActiveConfig {
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
        let shows = |record: &Record| self.shown(target, record.verdict(), record.address);
        let turns = before.verdict() != after.verdict();
        let same = !turns && before.address == after.address;
        // Where panic is possible, each verdict may change what is listed of others.
        let may_panic = self.config.panic_threshold > 0;
        let changes = !same && (turns && may_panic || shows(before) != shows(after));
        let is_published = self.table.write_seen(slot, seen, after, changes, sample);
        if is_published && before.verdict() != after.verdict() {
            self.table.count(Counter::StateChanges, 1);
            self.table.add_event(
                &Event::new(EventKind::Verdict, target.key())
                    .change(before.verdict().name(), after.verdict().name())
                    .reason(after.error.as_deref().unwrap_or_default()),
            );
        }
        if is_published {
            self.note_routable(slot, after.verdict());
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

    pub fn generation(&self) -> u64 {
        self.table.generation()
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
