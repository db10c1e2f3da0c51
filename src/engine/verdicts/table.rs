//! The verdict table: what the prober knows of each target, in memory that every process
//! of the host's family reads.
//!
//! A target has a slot, found once by the hash of its identity and kept for the table's
//! life, so that a position in a configuration means nothing. One process writes the slots,
//! the elected prober. Readers take no lock: they read a sequence number, the words, and
//! the sequence number again. A writer that dies in between leaves an odd number; readers
//! give up waiting after some tries, and the next prober repairs it.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::digest;
use super::health::Verdict;
use super::layout::*;
use super::record::Record;
use crate::sys::shared::SharedWords;

/// The first bytes of SHA-256 over a target's identity.
pub type IdentityHash = [u64; 2];

pub fn hash_identity(identity: &str) -> IdentityHash {
    let digest = digest::sha256(identity.as_bytes());
    let word = |at: usize| {
        digest
            .iter()
            .skip(at)
            .take(8)
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    // Zero marks a free slot.
    [word(0) | 1, word(8)]
}

/// The epoch of a table that another one has replaced: nobody probes for it.
pub const RETIRED: u64 = u64::MAX;

/// Where a target's slot is. Only [`VerdictTable::assign`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(usize);

pub struct VerdictTable {
    shared: SharedWords,
    capacity: usize,
}

impl VerdictTable {
    /// A table with room for `capacity` targets over its life.
    ///
    /// # Errors
    /// What the system says where it gives no shared memory.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let words = capacity
            .checked_mul(SLOT + ERROR_WORDS)
            .and_then(|slots| slots.checked_add(HEADER))
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            shared: SharedWords::new(words)?,
            capacity,
        })
    }

    // === The header ===

    /// Changes whenever the list of alive targets does.
    pub fn generation(&self) -> u64 {
        self.header(GENERATION).load(Acquire)
    }

    /// The word that holds the generation, for readers without a call.
    pub fn generation_word(&self) -> &AtomicU64 {
        self.header(GENERATION)
    }

    pub fn set_generation(&self, generation: u64) {
        self.header(GENERATION).store(generation, Release);
    }

    pub fn bump_generation(&self) {
        self.header(GENERATION).fetch_add(1, AcqRel);
    }

    /// The number of the configuration that is to be probed, or [`RETIRED`].
    pub fn epoch(&self) -> u64 {
        self.header(EPOCH).load(Acquire)
    }

    /// Makes probers of earlier configurations stop.
    pub fn set_epoch(&self, epoch: u64) {
        self.header(EPOCH).store(epoch, Release);
        self.wake_prober();
    }

    /// Takes the lock that the prober holds, or makes sure that this process still has it.
    ///
    /// # Errors
    /// See [`SharedWords::try_lock`].
    pub fn try_lock(&self) -> io::Result<bool> {
        self.shared.try_lock()
    }

    /// Says that this process, which holds the lock, is the prober.
    pub fn announce(&self, pid: u64) {
        if self.header(PROBER).swap(pid, AcqRel) != pid {
            self.repair();
        }
    }

    /// Takes back what [`VerdictTable::announce`] said, if this process said it.
    pub fn silence(&self, pid: u64) {
        // Another's id stays.
        let _ = self
            .header(PROBER)
            .compare_exchange(pid, 0, AcqRel, Relaxed);
    }

    pub fn unlock(&self) {
        self.shared.unlock();
    }

    /// The process that probes, as far as is known; 0: none.
    pub fn prober(&self) -> u64 {
        self.header(PROBER).load(Acquire)
    }

    /// A dead writer may have left sequence numbers odd. Only for the holder of the lock.
    pub fn repair(&self) {
        let made_even = |word: &AtomicU64| {
            let value = word.load(Acquire);
            let odd = !value.is_multiple_of(2);
            if odd {
                word.store(value.wrapping_add(1), Release);
            }
            odd
        };
        let mut repaired = made_even(self.header(SEQUENCE));
        for index in 0..self.used() {
            repaired |= made_even(self.word(Slot(index), SLOT_SEQUENCE));
        }
        if repaired {
            // What the dead prober was about to publish is read anew.
            self.bump_generation();
        }
    }

    /// Wakes the prober, in whatever process it is.
    pub fn wake_prober(&self) {
        self.header(WAKE).fetch_add(1, AcqRel);
        self.shared.wake(WAKE);
    }

    /// What `wait_for_wake` compares.
    pub fn wakes(&self) -> u32 {
        // The low half is what a futex sees.
        u32::try_from(self.header(WAKE).load(Acquire) & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Blocks until [`VerdictTable::wake_prober`] was called after `seen` was read, or the
    /// time is over.
    pub fn wait_for_wake(&self, seen: u32, at_most: Duration) {
        self.shared.wait(WAKE, seen, at_most);
    }

    fn used(&self) -> usize {
        usize::try_from(self.header(USED).load(Acquire))
            .unwrap_or(self.capacity)
            .min(self.capacity)
    }

    // === Slots ===

    /// A slot for each identity, that of an earlier call where it had one; `None` where the
    /// table has no room. Only the process that made the table may call this.
    pub fn assign(&self, identities: &[IdentityHash]) -> Option<Vec<Slot>> {
        let mut known: std::collections::HashMap<IdentityHash, Slot> = (0..self.used())
            .map(|index| (self.hash(Slot(index)), Slot(index)))
            .collect();
        let mut used = self.used();
        let mut slots = Vec::with_capacity(identities.len());
        for hash in identities {
            let slot = match known.get(hash) {
                Some(slot) => *slot,
                None if used < self.capacity => {
                    let slot = Slot(used);
                    self.word(slot, HASH).store(hash[0], Relaxed);
                    self.word(slot, HASH + 1).store(hash[1], Relaxed);
                    used += 1;
                    known.insert(*hash, slot);
                    slot
                }
                None => return None,
            };
            slots.push(slot);
        }
        self.header(USED)
            .store(u64::try_from(used).unwrap_or(u64::MAX), Release);
        Some(slots)
    }

    pub fn hash(&self, slot: Slot) -> IdentityHash {
        [
            self.word(slot, HASH).load(Relaxed),
            self.word(slot, HASH + 1).load(Relaxed),
        ]
    }

    /// What the slot says now, all of one moment.
    pub fn read(&self, slot: Slot) -> Record {
        self.consistent(self.word(slot, SLOT_SEQUENCE), || self.read_words(slot))
    }

    /// Applies `reading` to the table as it stands between two published changes, and says
    /// at which generation that was.
    pub fn view<T>(&self, mut reading: impl FnMut(&Self) -> T) -> (u64, T) {
        self.consistent(self.header(SEQUENCE), || (self.generation(), reading(self)))
    }

    /// The verdict and address alone: what a list of alive targets needs.
    pub fn read_brief(&self, slot: Slot) -> (Verdict, Option<IpAddr>) {
        self.consistent(self.word(slot, SLOT_SEQUENCE), || {
            (self.read_verdict(slot), self.read_address(slot))
        })
    }

    /// Stores a record. Where it `changes` the list of alive targets, readers get a new
    /// generation. Only the prober calls this, and `assign`'s caller for fresh slots.
    pub fn write(&self, slot: Slot, record: &Record, changes: bool) {
        if changes {
            self.begin(self.header(SEQUENCE));
        }
        self.begin(self.word(slot, SLOT_SEQUENCE));
        self.write_words(slot, record);
        self.end(self.word(slot, SLOT_SEQUENCE));
        if changes {
            self.bump_generation();
            self.end(self.header(SEQUENCE));
        }
    }

    /// A connect probe starts now.
    pub fn note_connect_start(&self, slot: Slot, now_ns: u64) {
        self.note(slot, CONNECT_STARTED, now_ns);
    }

    /// A deep probe starts now.
    pub fn note_deep_start(&self, slot: Slot, now_ns: u64) {
        self.note(slot, DEEP_STARTED, now_ns);
    }

    fn note(&self, slot: Slot, index: usize, value: u64) {
        self.begin(self.word(slot, SLOT_SEQUENCE));
        self.word(slot, index).store(value, Relaxed);
        self.end(self.word(slot, SLOT_SEQUENCE));
    }

    /// Counts a report of trouble from any process; false where one came within `at_least`.
    pub fn report(&self, slot: Slot, now_ns: u64, at_least: Duration) -> bool {
        let last = self.word(slot, REPORTED_AT);
        let seen = last.load(Acquire);
        let gap = crate::sys::clock::ns(at_least);
        if seen != 0 && now_ns.saturating_sub(seen) < gap {
            return false;
        }
        if last
            .compare_exchange(seen, now_ns.max(1), AcqRel, Relaxed)
            .is_err()
        {
            return false;
        }
        self.word(slot, REPORTS).fetch_add(1, AcqRel);
        self.wake_prober();
        true
    }

    /// Whether reports came that no prober has heeded yet; they are heeded now.
    pub fn take_reports(&self, slot: Slot) -> bool {
        let reports = self.word(slot, REPORTS).load(Acquire);
        let heeded = self.word(slot, HEEDED);
        heeded.load(Acquire) != reports && heeded.swap(reports, AcqRel) != reports
    }

    pub(super) fn header(&self, index: usize) -> &AtomicU64 {
        self.at(index)
    }

    pub(super) fn word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(HEADER + slot.0 * SLOT + index)
    }

    /// A word of the text of the slot's error.
    pub(super) fn error_word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(HEADER + self.capacity * SLOT + slot.0 * ERROR_WORDS + index)
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        // Slots come from `assign` alone and so lie within the table; the fallback keeps
        // even a wrong one of another table from ending the host.
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.shared.words().get(index).unwrap_or(&NOWHERE)
    }
}
