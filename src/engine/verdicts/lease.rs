//! The lease: which process writes the slots.
//!
//! Usually a lock decides, which the kernel releases when its holder dies. The kernel does not
//! release it when the holder is only stopped (`SIGSTOP`, a debugger, a frozen control group). So
//! the holder of the lease also writes a heartbeat into the table, and another process takes the
//! lease over when the heartbeat stands still for too long. The process that was stopped notices
//! when it runs again: the lease word is no longer the one that it wrote, and the sequence numbers
//! of all slots have moved, so that its outstanding writes are refused.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::layout::*;
use super::memory::VerdictTable;
use crate::sys::{clock, process};

/// The time limit for a takeover from a stopped holder, in `fast_interval`s.
const FAST_INTERVALS: u32 = 3;
/// The lower bound of that limit: in a shorter time a stopped process cannot be told from one that
/// waits for a processor.
const SHORTEST: Duration = Duration::from_secs(1);

/// The process id of the holder: the low half of the word. 0: nobody holds the lease.
const PID: u64 = 0xffff_ffff;
/// Whether the holder probes, or only publishes what the state file says.
const PROBING: u64 = 1 << 32;
/// Whether the holder also has the lock.
const LOCKED: u64 = 1 << 33;
const TERM: u64 = 1 << 34;

/// The lease: one word of the shared table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease(u64);

impl Lease {
    pub(super) fn pid(self) -> u64 {
        self.0 & PID
    }

    fn has_lock(self) -> bool {
        self.0 & LOCKED != 0
    }

    pub(super) fn is_probing(self) -> bool {
        self.0 & PROBING != 0
    }

    /// How often the lease was taken, modulo 2^30.
    fn term(self) -> u64 {
        self.0 / TERM
    }

    fn next(self, pid: u64, has_lock: bool) -> Self {
        let term = self.term().wrapping_add(1).wrapping_mul(TERM);
        Self(term | pid & PID | if has_lock { LOCKED } else { 0 })
    }

    fn with(self, bit: u64, is_set: bool) -> Self {
        Self(if is_set { self.0 | bit } else { self.0 & !bit })
    }
}

/// The longest time from the last heartbeat of a stopped holder until another process probes.
pub fn takeover_time(fast_interval: Duration) -> Duration {
    (fast_interval * FAST_INTERVALS).max(SHORTEST)
}

/// What a waiting process has observed of the holder of the lease.
#[derive(Debug, Default)]
pub struct Patience {
    seen: (Lease, u64),
    checked_ns: u64,
    /// How long lease and heartbeat have not changed, counting only time in which this process
    /// itself was scheduled on time.
    silent: Duration,
}

impl Patience {
    /// Compares lease and heartbeat with those of the last call. At most 1.5 times `pause` is
    /// counted per call: where this process itself runs later than that, the machine is loaded and
    /// the holder may be waiting for a processor too. Load alone must not cause a takeover.
    fn check(&mut self, table: &VerdictTable, now_ns: u64, pause: Duration) {
        let seen = (table.lease(), table.heartbeat());
        if self.seen == seen && self.checked_ns != 0 {
            let passed = Duration::from_nanos(now_ns.saturating_sub(self.checked_ns));
            self.silent += passed.min(pause + pause / 2);
        } else {
            self.silent = Duration::ZERO;
        }
        self.seen = seen;
        self.checked_ns = now_ns;
    }

    /// Whether the holder has been silent for two thirds of `within`. The last third is for the new
    /// prober to start and to publish its first outcomes.
    fn is_over(&self, within: Duration) -> bool {
        self.silent >= within * 2 / 3
    }
}

/// The result of a try for the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Kept,
    /// This process took it, from the process with this id; 0: it was free.
    Taken(u64),
    /// Another process holds it.
    Refused,
}

impl Claim {
    pub fn is_ours(self) -> bool {
        self != Self::Refused
    }
}

/// How a waiting process decides that the holder is stopped.
#[derive(Debug)]
pub struct Standby<'a> {
    pub patience: &'a mut Patience,
    /// The time between two tries for the lease.
    pub pause: Duration,
    /// See [`takeover_time`].
    pub within: Duration,
}

impl VerdictTable {
    pub(super) fn lease(&self) -> Lease {
        Lease(self.header(LEASE).load(Acquire))
    }

    pub(super) fn heartbeat(&self) -> u64 {
        self.header(HEARTBEAT).load(Acquire)
    }

    /// Writes the heartbeat. Only the holder of the lease calls this.
    pub fn beat(&self) {
        self.header(HEARTBEAT)
            .store(clock::monotonic_ns().max(1), Release);
    }

    /// Takes the lease for this process, or verifies that this process still has it and writes the
    /// heartbeat.
    ///
    /// # Errors
    /// See [`crate::sys::shared::SharedWords::try_lock`].
    pub fn claim_lease(
        &self,
        pid: u64,
        standby: Option<&mut Standby<'_>>,
    ) -> std::io::Result<Claim> {
        let has_lock = self.shared.try_lock()?;
        let seen = self.lease();
        if self.is_mine(seen, pid) {
            if self.keep(seen.with(LOCKED, has_lock), seen) {
                self.beat();
                return Ok(Claim::Kept);
            }
            // Another process took the lease over at this moment, because this one was stopped.
            if has_lock {
                self.shared.unlock();
            }
            return Ok(Claim::Refused);
        }
        let is_gone = seen.pid() == 0 || !process::exists(seen.pid());
        let is_stopped = standby.is_some_and(|standby| {
            let Standby {
                patience,
                pause,
                within,
            } = standby;
            patience.check(self, clock::monotonic_ns(), *pause);
            patience.is_over(*within)
        });
        // This process has the lock now, so a holder that had the lock when it took the lease is
        // dead.
        let is_free = if has_lock {
            is_gone || seen.has_lock() || is_stopped
        } else {
            (is_gone && !seen.has_lock()) || is_stopped
        };
        if is_free && self.take(seen, pid, has_lock) {
            if !has_lock {
                self.displaced.store(seen.pid(), Release);
            }
            return Ok(Claim::Taken(seen.pid()));
        }
        if has_lock {
            // The holder took the lease over without the lock, because a stopped process had it.
            // That process has died since, which freed the lock: it is the holder's to take.
            self.shared.unlock();
        }
        Ok(Claim::Refused)
    }

    fn take(&self, seen: Lease, pid: u64, has_lock: bool) -> bool {
        let next = seen.next(pid, has_lock);
        // The heartbeat comes first: a process that sees the new lease with the old heartbeat would
        // count the new holder as silent.
        self.beat();
        if !self.keep(next, seen) {
            return false;
        }
        self.revoke_all();
        true
    }

    /// Changes the lease word from `seen` to `next` and remembers it as this process's own. False
    /// where another process has changed it since.
    fn keep(&self, next: Lease, seen: Lease) -> bool {
        let word = self.header(LEASE);
        let done = next == seen
            || word
                .compare_exchange(seen.0, next.0, AcqRel, Relaxed)
                .is_ok();
        if done {
            self.mine.store(next.0, Release);
        }
        done
    }

    /// Compares the whole word with the term in it: a process id alone may be reused by another
    /// process.
    fn is_mine(&self, lease: Lease, pid: u64) -> bool {
        lease.pid() == pid && lease.0 == self.mine.load(Acquire)
    }

    /// Whether this process holds the lease; one load from shared memory, cheap enough for each
    /// probe.
    pub fn has_lease(&self, pid: u64) -> bool {
        self.is_mine(self.lease(), pid)
    }

    /// Records in the lease whether this process probes; does nothing where another process holds
    /// the lease.
    pub fn set_probing(&self, pid: u64, probes: bool) {
        let seen = self.lease();
        if self.is_mine(seen, pid) {
            self.keep(seen.with(PROBING, probes), seen);
        }
    }

    /// Gives back the lease and the lock, as far as this process has them.
    pub fn give_up_lease(&self, pid: u64) {
        let seen = self.lease();
        if self.is_mine(seen, pid) {
            let free = seen
                .with(PID, false)
                .with(PROBING, false)
                .with(LOCKED, false);
            // Fails where another process took the lease since, which then stays as it is.
            self.keep(free, seen);
        }
        self.displaced.store(0, Release);
        self.shared.unlock();
    }

    /// Whether another process, which exists, has the lease.
    pub fn is_led_by_other(&self, pid: u64) -> bool {
        let holder = self.lease().pid();
        holder != 0 && holder != pid && process::exists(holder)
    }

    /// Gives the lease to another process, as if that had taken it over from a stopped one.
    #[cfg(test)]
    pub fn lend_lease(&self, pid: u64) {
        let next = self.lease().next(pid, false);
        self.header(LEASE).store(next.0, Relaxed);
    }

    /// The process id of the prober as the lease has it; 0: none.
    pub fn prober(&self) -> u64 {
        let lease = self.lease();
        if lease.is_probing() { lease.pid() } else { 0 }
    }

    /// The process that was stopped when this one took the lease from it. It may still have the
    /// lock of the state file.
    pub fn displaced(&self) -> Option<u64> {
        Some(self.displaced.load(Acquire)).filter(|&pid| pid != 0)
    }

    /// Moves the sequence numbers of the list and of all slots: the previous holder may be stopped
    /// in the middle of a record or just before it, and must not be able to finish.
    fn revoke_all(&self) {
        let mut at_work = self.revoke(self.header(SEQUENCE));
        for index in 0..self.used() {
            at_work |= self.revoke(self.word(super::Slot(index), SLOT_SEQUENCE));
        }
        if at_work {
            // The writer may have changed a record without moving the generation: readers read the
            // list again.
            self.bump_generation();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u64 = 1;
    const THEIRS: u64 = 2;

    /// Between reading the lease and writing it, another process may have taken it over.
    #[test]
    fn a_lease_that_was_taken_in_between_is_not_written() {
        let table = VerdictTable::new(1).unwrap();
        assert!(table.claim_lease(OURS, None).unwrap().is_ours());
        let seen = table.lease();
        let taken = seen.next(THEIRS, false);
        table.header(LEASE).store(taken.0, Relaxed);
        assert!(!table.keep(seen.next(OURS, true), seen));
        assert_eq!(table.lease(), taken);
        assert!(!table.has_lease(OURS));
        table.set_probing(OURS, true);
        assert_eq!(table.lease(), taken);
    }
}
