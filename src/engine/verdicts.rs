//! The verdict table: what the prober knows of each target, in memory that every process
//! of the host's family reads.
//!
//! A target has a slot, found once by the hash of its identity and kept for the table's
//! life, so that a position in a configuration means nothing. One process writes the slots,
//! the elected prober. Readers take no lock: they read a sequence number, the words, and
//! the sequence number again. A writer that dies in between leaves an odd number; readers
//! give up waiting after some tries, and the next prober repairs it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::time::Duration;
use std::{hint, io};

use super::digest;
use super::health::{Gate, Verdict, both};
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

// The header's words.
const GENERATION: usize = 0;
const SEQUENCE: usize = 1;
const EPOCH: usize = 2;
const WAKE: usize = 3;
const PROBER: usize = 4;
const USED: usize = 5;
const HEADER: usize = 16;

// A slot's words.
const HASH: usize = 0;
const SLOT_SEQUENCE: usize = 2;
const CONNECT_GATE: usize = 3;
const DEEP_GATE: usize = 4;
const HAS_DEEP_GATE: usize = 5;
const SINCE: usize = 6;
const PROBES: usize = 7;
const FAILURES: usize = 8;
const CONNECT_STARTED: usize = 9;
const DEEP_STARTED: usize = 10;
const LATENCY: usize = 11;
const FAMILY: usize = 12;
const ADDRESS: usize = 13;
const NOT_AFTER: usize = 15;
const REPORTS: usize = 16;
const REPORTED_AT: usize = 17;
const HEEDED: usize = 18;
const CERTIFICATE_LOGGED: usize = 19;
const ERROR_LENGTH: usize = 20;
const ERROR: usize = 21;
const SLOT: usize = 64;
const ERROR_WORDS: usize = SLOT - ERROR;

/// The longest error text that is kept, in bytes.
pub const ERROR_MAX: usize = ERROR_WORDS * 8;

/// The epoch of a table that another one has replaced: nobody probes for it.
pub const RETIRED: u64 = u64::MAX;

/// How often a reader retries: a running writer is done within nanoseconds.
const READ_SPINS: usize = 1000;

/// How often it then lets others run, since the writer may have lost its processor, before
/// it takes what it sees: a dead writer is never done.
const READ_YIELDS: usize = 2000;

/// Everything a slot says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub connect: Gate,
    /// The gate of deep probes, where they have a timer of their own.
    pub deep: Option<Gate>,
    /// Milliseconds since 1970 at which the verdict last changed; 0 before the first.
    pub since_ms: u64,
    pub probes: u64,
    pub failures: u64,
    /// When the last probe of each kind started, in `CLOCK_MONOTONIC` nanoseconds; 0: never.
    pub connect_started_ns: u64,
    pub deep_started_ns: u64,
    /// How long the last probe took.
    pub latency: Option<Duration>,
    /// The address that the last good probe used.
    pub address: Option<IpAddr>,
    /// Seconds since 1970 at which the certificate ends.
    pub not_after: Option<i64>,
    /// Milliseconds since 1970 at which a log last said that the certificate ends soon; 0: never.
    pub certificate_logged_ms: u64,
    /// Why the target's last probe failed; none after a good one. A good connect probe says
    /// nothing of a failed deep one, whose reason stays. One line, at most [`ERROR_MAX`] bytes.
    pub error: Option<String>,
}

impl Record {
    pub fn verdict(&self) -> Verdict {
        match self.deep {
            Some(deep) => both(self.connect.verdict, deep.verdict),
            None => self.connect.verdict,
        }
    }
}

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
            .checked_mul(SLOT)
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

    fn read_words(&self, slot: Slot) -> Record {
        let get = |index| self.word(slot, index).load(Relaxed);
        Record {
            connect: Gate::unpack(get(CONNECT_GATE)),
            deep: (get(HAS_DEEP_GATE) == 1).then(|| Gate::unpack(get(DEEP_GATE))),
            since_ms: get(SINCE),
            probes: get(PROBES),
            failures: get(FAILURES),
            connect_started_ns: get(CONNECT_STARTED),
            deep_started_ns: get(DEEP_STARTED),
            latency: get(LATENCY).checked_sub(1).map(Duration::from_micros),
            address: self.read_address(slot),
            not_after: Some(get(NOT_AFTER).cast_signed()).filter(|&at| at != 0),
            certificate_logged_ms: get(CERTIFICATE_LOGGED),
            error: self.read_error(slot),
        }
    }

    fn write_words(&self, slot: Slot, record: &Record) {
        let put = |index, value| self.word(slot, index).store(value, Relaxed);
        put(CONNECT_GATE, record.connect.pack());
        put(DEEP_GATE, record.deep.unwrap_or_default().pack());
        put(HAS_DEEP_GATE, u64::from(record.deep.is_some()));
        put(SINCE, record.since_ms);
        put(PROBES, record.probes);
        put(FAILURES, record.failures);
        put(CONNECT_STARTED, record.connect_started_ns);
        put(DEEP_STARTED, record.deep_started_ns);
        put(
            LATENCY,
            record.latency.map_or(0, |latency| {
                u64::try_from(latency.as_micros()).map_or(u64::MAX, |us| us.saturating_add(1))
            }),
        );
        self.write_address(slot, record.address);
        put(NOT_AFTER, record.not_after.unwrap_or(0).cast_unsigned());
        put(CERTIFICATE_LOGGED, record.certificate_logged_ms);
        self.write_error(slot, record.error.as_deref());
    }

    fn read_verdict(&self, slot: Slot) -> Verdict {
        let gate = |index| Gate::unpack(self.word(slot, index).load(Relaxed)).verdict;
        if self.word(slot, HAS_DEEP_GATE).load(Relaxed) == 1 {
            both(gate(CONNECT_GATE), gate(DEEP_GATE))
        } else {
            gate(CONNECT_GATE)
        }
    }

    fn read_address(&self, slot: Slot) -> Option<IpAddr> {
        let get = |index| self.word(slot, index).load(Relaxed);
        let bits = u128::from(get(ADDRESS)) << 64 | u128::from(get(ADDRESS + 1));
        match get(FAMILY) {
            4 => Some(Ipv4Addr::from(u32::try_from(bits).ok()?).into()),
            6 => Some(Ipv6Addr::from(bits).into()),
            _ => None,
        }
    }

    fn write_address(&self, slot: Slot, address: Option<IpAddr>) {
        let (family, bits) = match address {
            None => (0, 0),
            Some(IpAddr::V4(ip)) => (4, u128::from(u32::from(ip))),
            Some(IpAddr::V6(ip)) => (6, u128::from(ip)),
        };
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
        self.word(slot, FAMILY).store(family, Relaxed);
        self.word(slot, ADDRESS).store(half(bits >> 64), Relaxed);
        self.word(slot, ADDRESS + 1).store(half(bits), Relaxed);
    }

    fn read_error(&self, slot: Slot) -> Option<String> {
        let length = self.word(slot, ERROR_LENGTH).load(Relaxed);
        let length = usize::try_from(length).ok()?.min(ERROR_MAX);
        if length == 0 {
            return None;
        }
        let mut bytes = Vec::with_capacity(ERROR_MAX);
        for index in 0..length.div_ceil(8) {
            bytes.extend(self.word(slot, ERROR + index).load(Relaxed).to_ne_bytes());
        }
        bytes.truncate(length);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn write_error(&self, slot: Slot, error: Option<&str>) {
        let text = error.unwrap_or_default();
        let cut = (0..=text.len().min(ERROR_MAX))
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        let bytes = text.as_bytes().get(..cut).unwrap_or_default();
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.word(slot, ERROR + index)
                .store(u64::from_ne_bytes(word), Relaxed);
        }
        self.word(slot, ERROR_LENGTH)
            .store(u64::try_from(cut).unwrap_or(0), Relaxed);
    }

    // === Sequence numbers ===

    /// Makes the number odd, for one writer at a time. There is one but for moments: where a
    /// role passes from one thread or process to another. One that died is not waited for.
    fn begin(&self, sequence: &AtomicU64) {
        for tries in 0..READ_SPINS + READ_YIELDS {
            let before = sequence.load(Relaxed);
            if before.is_multiple_of(2)
                && sequence
                    .compare_exchange_weak(before, before.wrapping_add(1), Acquire, Relaxed)
                    .is_ok()
            {
                fence(Release);
                return;
            }
            pause(tries);
        }
        // What a dead writer began is taken over, with its odd number.
        sequence.fetch_add(2, AcqRel);
        fence(Release);
    }

    fn end(&self, sequence: &AtomicU64) {
        sequence.fetch_add(1, Release);
    }

    fn consistent<T>(&self, sequence: &AtomicU64, mut reading: impl FnMut() -> T) -> T {
        for tries in 0..READ_SPINS + READ_YIELDS {
            let before = sequence.load(Acquire);
            if before.is_multiple_of(2) {
                let seen = reading();
                fence(Acquire);
                if sequence.load(Relaxed) == before {
                    return seen;
                }
            }
            pause(tries);
        }
        reading()
    }

    fn header(&self, index: usize) -> &AtomicU64 {
        self.at(index)
    }

    fn word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(HEADER + slot.0 * SLOT + index)
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        // Slots come from `assign` alone and so lie within the table; the fallback keeps
        // even a wrong one of another table from ending the host.
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.shared.words().get(index).unwrap_or(&NOWHERE)
    }
}

/// Between two looks at a sequence number.
fn pause(tries: usize) {
    if tries < READ_SPINS {
        hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn record() -> Record {
        Record {
            connect: Gate {
                verdict: Verdict::Alive,
                failures: 1,
                successes: 2,
            },
            deep: Some(Gate {
                verdict: Verdict::Dead,
                failures: 9,
                successes: 0,
            }),
            since_ms: 1_700_000_000_000,
            probes: 10,
            failures: 3,
            connect_started_ns: 5,
            deep_started_ns: 6,
            latency: Some(Duration::ZERO),
            address: Some("2001:db8::1".parse().unwrap()),
            not_after: Some(-5),
            certificate_logged_ms: 1_700_000_000_001,
            error: Some("connect: timed out after 5s".into()),
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let table = VerdictTable::new(4).unwrap();
        let slots = table
            .assign(&[hash_identity("a"), hash_identity("b")])
            .unwrap();
        assert_eq!(table.read(slots[1]), Record::default());
        table.write(slots[1], &record(), false);
        assert_eq!(table.read(slots[1]), record());
        assert_eq!(table.read(slots[0]), Record::default());
        let v4 = Record {
            address: Some("192.0.2.7".parse().unwrap()),
            deep: None,
            error: None,
            ..record()
        };
        table.write(slots[1], &v4, false);
        assert_eq!(table.read(slots[1]), v4);
        assert_eq!(table.read_brief(slots[1]), (Verdict::Alive, v4.address));
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        let table = VerdictTable::new(1).unwrap();
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        let text = "é".repeat(ERROR_MAX);
        table.write(
            slot,
            &Record {
                error: Some(text.clone()),
                ..Record::default()
            },
            false,
        );
        let kept = table.read(slot).error.unwrap();
        assert_eq!(kept.len(), ERROR_MAX);
        assert!(text.starts_with(&kept));
    }

    #[test]
    fn only_changes_move_the_generation() {
        let table = VerdictTable::new(1).unwrap();
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        table.write(slot, &record(), false);
        assert_eq!(table.generation(), 0);
        table.write(slot, &record(), true);
        assert_eq!(table.generation(), 1);
    }

    #[test]
    fn slots_are_found_by_identity_and_run_out() {
        let table = VerdictTable::new(2).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(hash_identity);
        let first = table.assign(&[a, b]).unwrap();
        assert_eq!(table.assign(&[b, a]).unwrap(), [first[1], first[0]]);
        assert_eq!(table.assign(&[a, a]).unwrap(), [first[0], first[0]]);
        assert!(table.assign(&[a, c]).is_none());
    }

    #[test]
    fn reports_are_limited_in_rate() {
        let table = VerdictTable::new(1).unwrap();
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        let gap = Duration::from_millis(100);
        assert!(table.report(slot, 1_000, gap));
        assert!(!table.report(slot, 99_000_000, gap));
        assert!(table.report(slot, 101_000_000, gap));
        assert!(table.take_reports(slot));
        assert!(!table.take_reports(slot));
        assert_eq!(table.wakes(), 2);
    }

    #[test]
    fn a_reader_never_sees_half_a_record() {
        let table = Arc::new(VerdictTable::new(1).unwrap());
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (table, stop) = (table.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Relaxed) {
                    n += 1;
                    let record = Record {
                        probes: n,
                        failures: n,
                        since_ms: n,
                        ..Record::default()
                    };
                    table.write(slot, &record, n % 8 == 0);
                    // A prober that writes without a pause would starve every reader.
                    (0..2000).for_each(|_| hint::spin_loop());
                }
            })
        };
        for _ in 0..200_000 {
            let seen = table.read(slot);
            assert_eq!((seen.probes, seen.since_ms), (seen.failures, seen.failures));
        }
        stop.store(true, Relaxed);
        writer.join().unwrap();
    }

    #[test]
    fn two_writers_do_not_mix_their_records() {
        let table = Arc::new(VerdictTable::new(1).unwrap());
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        let together = Arc::new(std::sync::Barrier::new(3));
        let writers: Vec<_> = [1, 2]
            .into_iter()
            .map(|n| {
                let (table, together) = (table.clone(), together.clone());
                std::thread::spawn(move || {
                    let record = Record {
                        probes: n,
                        failures: n,
                        error: Some(n.to_string().repeat(ERROR_MAX)),
                        ..Record::default()
                    };
                    for _ in 0..1000 {
                        together.wait();
                        table.write(slot, &record, true);
                        together.wait();
                    }
                })
            })
            .collect();
        for round in 1..=1000 {
            together.wait();
            together.wait();
            let seen = table.read(slot);
            assert_eq!(seen.probes, seen.failures);
            assert_eq!(
                seen.error,
                Some(seen.probes.to_string().repeat(ERROR_MAX)[..ERROR_MAX].to_owned())
            );
            assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed), 4 * round);
        }
        for writer in writers {
            writer.join().unwrap();
        }
    }

    #[test]
    fn a_writer_takes_over_from_one_that_died() {
        let table = VerdictTable::new(1).unwrap();
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        table.begin(table.word(slot, SLOT_SEQUENCE));
        table.write(slot, &record(), true);
        assert_eq!(table.read(slot), record());
        assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed) % 2, 0);
    }

    #[test]
    fn a_writer_that_died_is_outlived_and_repaired() {
        let table = VerdictTable::new(1).unwrap();
        let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
        table.write(slot, &record(), true);
        table.begin(table.header(SEQUENCE));
        table.begin(table.word(slot, SLOT_SEQUENCE));
        assert_eq!(table.read(slot), record());
        let before = table.generation();
        assert!(table.try_lock().unwrap());
        table.announce(77);
        assert!(table.generation() > before);
        assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed) % 2, 0);
        assert_eq!(table.header(SEQUENCE).load(Relaxed) % 2, 0);
        table.silence(77);
        table.unlock();
        assert_eq!(table.prober(), 0);
    }
}
