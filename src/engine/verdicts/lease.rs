//! The lease: which process writes the slots.
//!
//! A lock that the kernel releases when its holder dies decides in general. It says nothing of
//! a holder that is stopped (`SIGSTOP`, a debugger, a frozen control group). So the holder of the
//! lease also says in the table that it runs, and another process takes the lease over where it
//! has not done so for too long. The one that was stopped finds out when it runs again, since
//! whatever it writes then is bound to the lease that it had.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::layout::*;
use super::memory::VerdictTable;
use crate::sys::{clock, process};

/// A holder may be silent for at most this many of its probes' shortest interval, and at least
const FAST_INTERVALS: u32 = 3;
/// this long, before another process has taken over.
const SHORTEST: Duration = Duration::from_secs(1);

/// The process id, in the low half of the word.
const PID: u64 = 0xffff_ffff;
/// Whether its holder probes, or only publishes what others found out.
const PROBING: u64 = 1 << 32;
/// Whether its holder had the lock.
const LOCKED: u64 = 1 << 33;
const TERM: u64 = 1 << 34;

/// The lease as one word says it.
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

    /// The number that each taking of the lease raises.
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

/// How long another process may take to take over from one that is stopped.
pub fn takeover_time(fast_interval: Duration) -> Duration {
    (fast_interval * FAST_INTERVALS).max(SHORTEST)
}

/// What a process in waiting has seen of the holder of the lease.
#[derive(Debug, Default)]
pub struct Patience {
    seen: (Lease, u64),
    looked_ns: u64,
    /// How long nothing of it has changed while this process itself had its turns.
    silent: Duration,
}

impl Patience {
    /// Notes what the table says now. Where this process comes late itself the machine has much
    /// to do: that time says nothing of the holder, so that load alone is no reason.
    fn look(&mut self, table: &VerdictTable, now_ns: u64, pause: Duration) {
        let seen = (table.lease(), table.heartbeat());
        if self.seen == seen && self.looked_ns != 0 {
            let passed = Duration::from_nanos(now_ns.saturating_sub(self.looked_ns));
            self.silent += passed.min(pause + pause / 2);
        } else {
            self.silent = Duration::ZERO;
        }
        self.seen = seen;
        self.looked_ns = now_ns;
    }

    /// Two thirds of the time there is: the rest is for the prober to begin.
    fn is_over(&self, within: Duration) -> bool {
        self.silent >= within * 2 / 3
    }
}

/// What came of a try for the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Kept,
    /// From this process; 0: it was free.
    Taken(u64),
    /// It is another process's.
    Refused,
}

impl Claim {
    pub fn is_ours(self) -> bool {
        self != Self::Refused
    }
}

/// How a process in waiting waits.
#[derive(Debug)]
pub struct Standby<'a> {
    pub patience: &'a mut Patience,
    /// How often it looks.
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

    /// Says that the holder of the lease runs.
    pub fn beat(&self) {
        self.header(HEARTBEAT)
            .store(clock::monotonic_ns().max(1), Release);
    }

    /// Takes the lease for this process, or makes sure that it still has it.
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
            self.keep(seen.with(LOCKED, has_lock), seen);
            self.beat();
            return Ok(Claim::Kept);
        }
        let is_gone = seen.pid() == 0 || !process::exists(seen.pid());
        let is_stopped = standby.is_some_and(|standby| {
            let Standby {
                patience,
                pause,
                within,
            } = standby;
            patience.look(self, clock::monotonic_ns(), *pause);
            patience.is_over(*within)
        });
        // Whoever had the lock when it took the lease has lost it with its life.
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
            // The holder took over from a process that was stopped and has ended since.
            self.shared.unlock();
        }
        Ok(Claim::Refused)
    }

    fn take(&self, seen: Lease, pid: u64, has_lock: bool) -> bool {
        let next = seen.next(pid, has_lock);
        // A fresh heartbeat first: whoever sees the new lease must not find it silent.
        self.beat();
        if !self.keep(next, seen) {
            return false;
        }
        self.revoke_all();
        true
    }

    /// Changes the lease from what was seen, and remembers it as this process's own.
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

    /// By the whole word: a process id may be used again, a term is not.
    fn is_mine(&self, lease: Lease, pid: u64) -> bool {
        lease.pid() == pid && lease.0 == self.mine.load(Acquire)
    }

    /// Whether this process has the lease: it costs a load of shared memory.
    pub fn has_lease(&self, pid: u64) -> bool {
        self.is_mine(self.lease(), pid)
    }

    /// Says whether the holder of the lease, if it is this process, probes.
    pub fn set_probing(&self, pid: u64, probes: bool) {
        let seen = self.lease();
        if self.is_mine(seen, pid) {
            self.keep(seen.with(PROBING, probes), seen);
        }
    }

    /// Gives lease and lock back, whichever this process has.
    pub fn give_up_lease(&self, pid: u64) {
        let seen = self.lease();
        if self.is_mine(seen, pid) {
            let free = seen
                .with(PID, false)
                .with(PROBING, false)
                .with(LOCKED, false);
            // Another's stays.
            self.keep(free, seen);
        }
        self.displaced.store(0, Release);
        self.shared.unlock();
    }

    /// The process that probes, as far as is known; 0: none.
    pub fn prober(&self) -> u64 {
        let lease = self.lease();
        if lease.is_probing() { lease.pid() } else { 0 }
    }

    /// The process that was stopped when this one took the lease from it, and that may still
    /// have its locks.
    pub fn displaced(&self) -> Option<u64> {
        Some(self.displaced.load(Acquire)).filter(|&pid| pid != 0)
    }

    /// A writer that was stopped or died may be within a record or about to write one.
    fn revoke_all(&self) {
        let mut at_work = self.revoke(self.header(SEQUENCE));
        for index in 0..self.used() {
            at_work |= self.revoke(self.word(super::Slot(index), SLOT_SEQUENCE));
        }
        if at_work {
            // What it was about to publish is read anew.
            self.bump_generation();
        }
    }
}
