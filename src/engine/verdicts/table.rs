//! The verdict table: what the prober knows of each target, in memory that a process shares with
//! those that it forks.
//!
//! A target has one slot, which is found by the hash of its identity and kept for the table's life,
//! so that a target may move within the configuration. One process writes the slots: the holder of
//! the lease (see `lease`). Readers take no lock: they read a sequence number, the words, and the
//! sequence number again. A writer that dies in between leaves an odd number: readers then read the
//! words anyway after about 10 ms (see `sequence`), and the next prober takes the record over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::digest;
use super::health::Verdict;
use super::latencies::Sample;
use super::layout::*;
use super::memory::{Slot, VerdictTable};
use super::record::Record;
use super::routable::Routable;
use super::sequence::WriteTicket;
use crate::sys::clock;

/// The first 16 bytes of the SHA-256 of a target's identity, as two big-endian numbers.
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
    // The first word is never 0, which marks a free slot.
    [word(0) | 1, word(8)]
}

/// The epoch of a table that was replaced by another one: no process probes for it any more.
pub const RETIRED: u64 = u64::MAX;

impl VerdictTable {
    /// Copies counters, events, operators' settings, remembered bindings, what belongs to nodes and the
    /// generation from the table that this one replaces; [`VerdictTable::inherit_slot`] copies what belongs to a target.
    /// Called again, it copies what has changed in the other table since.
    pub fn inherit(&self, before: &Self) {
        self.inherit_counters(before);
        self.inherit_events(before);
        self.inherit_operators(before);
        self.inherit_bindings(before);
        self.inherit_nodes(before);
        self.set_generation(before.generation().max(self.generation()));
    }

    // === The header ===

    /// Changes whenever the list of alive targets does.
    pub fn generation(&self) -> u64 {
        self.header(GENERATION).load(Acquire)
    }

    /// The word that holds the generation, for readers that load it themselves without a call.
    pub fn generation_word(&self) -> &AtomicU64 {
        self.header(GENERATION)
    }

    pub fn set_generation(&self, generation: u64) {
        self.header(GENERATION).store(generation, Release);
    }

    pub fn bump_generation(&self) {
        self.header(GENERATION).fetch_add(1, AcqRel);
    }

    /// The number of the configuration in force, or [`RETIRED`]. A prober of another configuration
    /// stops.
    pub fn epoch(&self) -> u64 {
        self.header(EPOCH).load(Acquire)
    }

    /// Puts the configuration with this number in force, unless a later one is, and wakes the prober: one of
    /// an earlier configuration stops. Returns whether this call has put it in force.
    pub fn raise_epoch(&self, epoch: u64) -> bool {
        let is_raised = self.header(EPOCH).fetch_max(epoch, AcqRel) < epoch;
        if is_raised {
            self.wake_prober();
        }
        is_raised
    }

    /// A number for another configuration with this table, higher than all before it. Only the owner of the
    /// table may call this.
    pub fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, AcqRel) + 1
    }

    /// Wakes the prober, in whatever process it is.
    pub fn wake_prober(&self) {
        self.header(WAKE).fetch_add(1, AcqRel);
        self.shared.wake(WAKE);
    }

    /// How often the prober was woken, for [`VerdictTable::wait_for_wake`]; wraps at 2^32.
    pub fn wakes(&self) -> u32 {
        // A futex compares the low half of the word.
        u32::try_from(self.header(WAKE).load(Acquire) & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Blocks until [`VerdictTable::wake_prober`] was called after `seen` was read, or the
    /// time is over.
    pub fn wait_for_wake(&self, seen: u32, at_most: Duration) {
        self.shared.wait(WAKE, seen, at_most);
    }

    pub(super) fn used(&self) -> usize {
        usize::try_from(self.header(USED).load(Acquire))
            .unwrap_or(self.capacity)
            .min(self.capacity)
    }

    // === Slots ===

    /// A slot for each identity: the one that `kept` returns for it, or an empty one that no configuration
    /// has had. `None` where the table is full. Only one process may call this, the owner of the table,
    /// since slots are given out without a lock.
    pub fn assign(
        &self,
        identities: &[IdentityHash],
        kept: impl Fn(&IdentityHash) -> Option<Slot>,
    ) -> Option<Vec<Slot>> {
        let mut known = HashMap::with_capacity(identities.len());
        let mut used = self.used();
        let mut slots = Vec::with_capacity(identities.len());
        for hash in identities {
            let slot = match known.get(hash).copied().or_else(|| kept(hash)) {
                Some(slot) => slot,
                None if used < self.capacity => {
                    let slot = Slot(used);
                    self.word(slot, HASH).store(hash[0], Relaxed);
                    self.word(slot, HASH + 1).store(hash[1], Relaxed);
                    used += 1;
                    slot
                }
                None => return None,
            };
            known.insert(*hash, slot);
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

    /// A consistent copy of the slot.
    pub fn read(&self, slot: Slot) -> Record {
        self.read_seen(slot).1
    }

    /// A consistent copy of the slot and its sequence number, which [`VerdictTable::write_seen`]
    /// compares.
    pub fn read_seen(&self, slot: Slot) -> (u64, Record) {
        self.seen(self.word(slot, SLOT_SEQUENCE), |seen| {
            (seen, self.read_words(slot))
        })
    }

    /// Runs `reading` until no change of the list was published meanwhile, and returns its result
    /// with the generation at which it was read.
    pub fn view<T>(&self, mut reading: impl FnMut(&Self) -> T) -> (u64, T) {
        self.consistent(self.header(SEQUENCE), || (self.generation(), reading(self)))
    }

    /// The verdict and the address: all that the list of alive targets needs of a slot.
    pub fn read_brief(&self, slot: Slot) -> (Verdict, Option<IpAddr>) {
        self.consistent(self.word(slot, SLOT_SEQUENCE), || {
            (self.read_verdict(slot), self.read_address(slot))
        })
    }

    /// Stores a record, whatever the slot holds now. Where it `changes` the list of alive targets,
    /// readers get a new generation. Only for the process that puts a configuration in force. Probe
    /// outcomes and verdicts from the state file go through [`VerdictTable::write_seen`], which
    /// refuses to overwrite a later record.
    pub fn write(&self, slot: Slot, record: &Record, changes: bool) {
        let ticket = self.begin(self.word(slot, SLOT_SEQUENCE));
        self.write_begun(slot, ticket, record, changes, None);
    }

    /// Stores a record that was computed from the one read at sequence number `seen`, and a latency
    /// sample. Returns false and stores nothing where the slot was written since or another process
    /// took the lease, which moves all sequence numbers.
    #[must_use]
    pub fn write_seen(
        &self,
        slot: Slot,
        seen: u64,
        record: &Record,
        changes: bool,
        sample: Option<Sample>,
    ) -> bool {
        match self.claim(self.word(slot, SLOT_SEQUENCE), seen) {
            Some(ticket) => {
                self.write_begun(slot, ticket, record, changes, sample);
                true
            }
            None => false,
        }
    }

    pub(super) fn write_begun(
        &self,
        slot: Slot,
        ticket: WriteTicket,
        record: &Record,
        changes: bool,
        sample: Option<Sample>,
    ) {
        let list = changes.then(|| self.begin(self.header(SEQUENCE)));
        self.write_words(slot, record);
        if let Some(sample) = sample {
            self.add_latency(slot, sample);
        }
        let is_whole = self.end(self.word(slot, SLOT_SEQUENCE), ticket);
        if let Some(ticket) = list {
            self.bump_generation();
            // False where the number was taken over; whoever did that has also moved the
            // generation.
            self.end(self.header(SEQUENCE), ticket);
        }
        if !is_whole {
            // This process was stopped meanwhile and has now written into the record of the process
            // that took over. Its words may be mixed with the new ones until a probe replaces them,
            // so one is requested at once.
            self.bump_generation();
            self.report(slot, clock::monotonic_ns());
        }
    }

    /// Copies a target's slot from another table. Not for a slot that is probed: it replaces the record.
    pub fn inherit_slot(&self, slot: Slot, before: &Self, known: Slot) {
        self.inherit_latencies(slot, before, known);
        self.note_tls(slot, &before.tls(known).unwrap_or_default());
        self.write(slot, &before.read(known), false);
        self.set_routable(slot, before.routable(known));
        self.inherit_reports(slot, before, known);
    }

    /// When the last connect probe and the last deep one started; see [`Record`].
    pub fn starts(&self, slot: Slot) -> (u64, u64) {
        let get = |index| self.word(slot, index).load(Relaxed);
        (get(CONNECT_STARTED), get(DEEP_STARTED))
    }

    /// Records the start of a connect probe, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn note_connect_start(&self, slot: Slot, now_ns: u64) {
        self.note(slot, CONNECT_STARTED, now_ns);
    }

    /// Records the start of a deep probe, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn note_deep_start(&self, slot: Slot, now_ns: u64) {
        self.note(slot, DEEP_STARTED, now_ns);
    }

    fn note(&self, slot: Slot, index: usize, value: u64) {
        let sequence = self.word(slot, SLOT_SEQUENCE);
        let ticket = self.begin(sequence);
        self.word(slot, index).store(value, Relaxed);
        self.end(sequence, ticket);
    }

    /// The target's word for routing.
    pub fn routable(&self, slot: Slot) -> Routable {
        Routable::unpack(self.word(slot, ROUTABLE).load(Acquire))
    }

    /// Replaces the target's word for routing by another one; nothing happens if another process was
    /// first.
    pub fn change_routable(&self, slot: Slot, before: Routable, after: Routable) {
        let word = self.word(slot, ROUTABLE);
        let changed = word.compare_exchange(before.pack(), after.pack(), AcqRel, Relaxed);
        if before != after && changed.is_ok() {
            self.bump_routing();
        }
    }

    /// Stores the target's word for routing. No sequence number guards it: only the process that
    /// may write the slot calls this.
    pub fn set_routable(&self, slot: Slot, routable: Routable) {
        self.word(slot, ROUTABLE).store(routable.pack(), Release);
        self.bump_routing();
    }

    /// A number that changes with what routing reads of the targets and the generation does not
    /// cover.
    pub fn routing_version(&self) -> u64 {
        self.header(ROUTING).load(Acquire)
    }

    /// Raises [`VerdictTable::routing_version`]. To be called after the change itself: a reader that sees the
    /// new version must see the change too.
    pub fn bump_routing(&self) {
        self.header(ROUTING).fetch_add(1, AcqRel);
    }
}
