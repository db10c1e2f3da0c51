//! The active configuration: its targets, and the slots of the shared table that hold their
//! verdicts.
//!
//! `assignment` chooses the slots, `succession` replaces one configuration by the next, `following` takes
//! verdicts over from a state file, `listing` makes the list of alive servers, `lookup` finds targets by address, `operators` and `routing` apply what operators set and where users belong,
//! and `names` keeps the addresses of host names.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::config::{Config, InitialState};
use super::routing::Nodes;
use super::state_file::file::{SharedStateFile, WriteRight};
use super::state_file::saved::Saved;
use super::target::Target;
use super::verdicts::health::{Thresholds, Verdict};
use super::verdicts::{
    Claim, Counter, Event, EventKind, NodePlace, Record, Sample, Slot, Standby, VerdictTable,
};
use crate::sys::clock;
pub use cluster::{Move, NodeUsers};
use event_notes::EventNotes;
pub use following::Covered;
pub use listing::{BackendServer, Panic, Snapshot, TargetStatus, shown_ip};
pub use names::KnownNames;
pub use operators::{OperatorRequest, OperatorSettings};

mod assignment;
mod cluster;
mod event_notes;
mod events;
mod following;
mod listing;
mod lookup;
mod names;
mod operators;
mod routing;
mod succession;

pub use routing::{NodeStatus, StoredStanding, TimedPlan};

/// The state file keeps start times in whole milliseconds of the wall clock, which NTP may slew:
/// two times that differ by no more than this count as equal.
const SAME_TIME: Duration = Duration::from_millis(10);

/// The active configuration.
pub struct ActiveConfig {
    pub config: Arc<Config>,
    pub table: Arc<VerdictTable>,
    /// The slots of the configuration's targets, in their order. Equal targets share a slot.
    pub slots: Vec<Slot>,
    /// The table's epoch while this configuration is in force; a prober stops when they differ.
    pub epoch: u64,
    /// When this configuration was given to `configure`, in milliseconds since 1970.
    pub since_ms: u64,
    /// The process that owns the table: it alone assigns slots.
    owner: u64,
    /// The index of the first target of each identity, sorted by the identity's hash.
    by_identity: Vec<u32>,
    nodes: Nodes,
    /// The sorted indices of targets whose key an earlier target has, too. Usually empty.
    repeated: Vec<usize>,
    /// The same targets, each behind the index of the first target with its key; sorted.
    namesakes: Vec<(usize, usize)>,
    agreement: String,
    event_notes: EventNotes,
    names: ArcSwap<KnownNames>,
    pub state_file: Option<Arc<SharedStateFile>>,
    /// The places of `nodes` in the table.
    node_places: Vec<NodePlace>,
    cluster_warnings: ArcSwap<Vec<String>>,
    /// For each target whose password a `configure` has changed: its slot, and the time of the change in
    /// `CLOCK_MONOTONIC` nanoseconds. A record in the state file that is older comes from probes with the old
    /// password, and is not used.
    password_changes: HashMap<Slot, u64>,
    /// How many open Lua states have called `configure` with this configuration, in the process from which the
    /// others are forked (nginx's master). It is not counted in other processes.
    pub given: AtomicUsize,
    /// `None` once this process knows that the configuration has come into force.
    pending: ArcSwapOption<Pending>,
}

/// What is to be done when a configuration comes into force.
struct Pending {
    /// The configuration that is in force until then.
    before: Arc<ActiveConfig>,
    /// The tables that are not used any more then.
    retires: Vec<Arc<VerdictTable>>,
    saved: Option<Saved>,
}

/// The role of a process among those that serve the same configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It probes and publishes the outcomes.
    Prober,
    /// The prober uses another table and writes the state file. This process publishes in its own
    /// table what the file says, and probes the targets that the file does not cover.
    Reader,
    /// Another process that shares the table has one of the two other roles.
    Waiting,
}

/// The process that probes the targets of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbingProcess {
    /// Its process id; 0: it has none that this process can see, as in another container.
    pub pid: u64,
    /// It shares no table with this process: its verdicts come through the state file.
    pub is_elsewhere: bool,
}

/// The data that a configuration starts with: its state file, the file's content, and the addresses of its
/// host names.
#[derive(Default)]
pub struct StartState {
    pub state_file: Option<Arc<SharedStateFile>>,
    pub saved: Option<Saved>,
    /// The addresses of the configuration's host names.
    pub names: KnownNames,
}

impl ActiveConfig {
    /// Whether this is the configuration that was put in force last. An old worker of nginx goes on with another one.
    pub fn is_latest(&self) -> bool {
        self.table.epoch() == self.epoch
    }

    /// Stores the record `after`, which was computed from `before` as read at sequence number
    /// `seen`. Readers get a new generation where it changes the list. Returns false and stores
    /// nothing where the slot was written since, another process has taken the lease, or another
    /// configuration is in force, which may have changed the target.
    pub fn publish(
        &self,
        target: &Target,
        slot: Slot,
        (seen, before): (u64, &Record),
        after: &Record,
        sample: Option<Sample>,
    ) -> bool {
        if !self.is_latest() {
            return false;
        }
        let shows = |record: &Record| self.shown(target, record.verdict(), record.address);
        let turns = before.verdict() != after.verdict();
        let same = !turns && before.address == after.address;
        // With a panic threshold, each verdict may also change which other targets are listed.
        let may_panic = self.config.panic_threshold > 0;
        let changes = !same && (turns && may_panic || shows(before) != shows(after));
        let is_published = self.table.write_seen(slot, seen, after, changes, sample);
        if is_published && before.verdict() != after.verdict() {
            self.table.count(Counter::StateChanges, 1);
            self.note_verdict(target, before, after);
        }
        if is_published {
            self.note_routable(slot, after.verdict());
            if before.address != after.address {
                // A route may lead to a target that is not listed, whose address the generation does
                // not cover.
                self.table.bump_routing();
            }
        }
        is_published
    }

    /// Whether both use the same table and state file, so that a role in one of them is also the
    /// role in the other.
    pub fn shares_with(&self, other: &Self) -> bool {
        let same_file = match (&self.state_file, &other.state_file) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        };
        same_file && Arc::ptr_eq(&self.table, &other.table)
    }

    /// Takes a role for this process, or verifies that it still has it. With a `standby` a waiting
    /// process takes the lease over from a holder that counts as stopped.
    ///
    /// # Errors
    /// `NotConnected` if the host has closed a descriptor of ours; else the system's error.
    pub fn take_role(&self, pid: u64, standby: Option<&mut Standby<'_>>) -> std::io::Result<Role> {
        let claim = self.table.claim_lease(pid, standby)?;
        if claim == Claim::Refused {
            if let Some(file) = &self.state_file {
                file.step_down();
            }
            return Ok(Role::Waiting);
        }
        let was_writer = self
            .state_file
            .as_ref()
            .is_some_and(|file| file.is_writer());
        let right = self
            .state_file
            .as_ref()
            .map(|file| file.try_take_right(self.table.displaced()));
        let role = match right {
            Some(WriteRight::Theirs) => Role::Reader,
            _ => Role::Prober,
        };
        match claim {
            Claim::Taken(from) if role == Role::Prober => self.note_prober(from, pid),
            // This process was a follower until now: another process wrote the file.
            Claim::Kept if right == Some(WriteRight::Ours) && !was_writer => {
                self.note_prober(0, pid)
            }
            _ => {}
        }
        if role == Role::Prober {
            self.table.set_probing(pid, true);
        }
        Ok(role)
    }

    /// The process that probes: one of those that share the table, else the one that writes the state
    /// file. `None` where there is none.
    pub fn prober(&self) -> Option<ProbingProcess> {
        if let pid @ 1.. = self.table.prober() {
            return Some(ProbingProcess {
                pid,
                is_elsewhere: false,
            });
        }
        let pid = self.state_file.as_ref()?.other_writer()?;
        Some(ProbingProcess {
            pid,
            is_elsewhere: true,
        })
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

    /// Gives back the lease and the right to write the state file, as far as this process has them.
    pub fn leave_role(&self, pid: u64) {
        self.table.give_up_lease(pid);
        if let Some(file) = &self.state_file {
            file.step_down();
        }
    }

    pub fn thresholds(&self, target: &Target) -> Thresholds {
        Thresholds {
            failure: target.policy.failure_threshold,
            recovery: target.policy.recovery_threshold,
            initially_alive: self.config.initial_state == InitialState::Alive,
        }
    }

    /// How long a target's certificate is still valid, where that is at most `cert_warn`; zero once
    /// it has expired.
    pub fn certificate_ends_within(&self, record: &Record) -> Option<Duration> {
        let warn = self.config.cert_warn;
        certificate_left(record.not_after).filter(|&left| !warn.is_zero() && left <= warn)
    }

    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// Whether every target has had a first verdict, and list and routing have it.
    pub fn is_ready(&self) -> bool {
        self.slots.iter().all(|slot| {
            // This word is written last: see `publish`.
            self.table.routable(*slot).probed() != Verdict::Unknown
        })
    }
}

/// How long a certificate is still valid; zero once it has expired.
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
