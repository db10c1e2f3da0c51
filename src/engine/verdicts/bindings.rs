//! The bindings of users to nodes that this machine has last read from the store or made there.
//!
//! They are used while the store does not answer, and to fill a store again that has lost its data.
//! The section is a cache: a set of eight places for each value of a part of the user's hash. Where
//! all eight are taken, the binding that was written longest ago is replaced. A binding never
//! replaces one of the same user with a higher generation.
//!
//! A checksum tells a binding that two writers have mixed: one that was stopped in the middle, and
//! the one that took the place over. It counts as free.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use super::layout::*;
use super::memory::VerdictTable;
use crate::sys::clock;

/// A binding as it is remembered. Times are in microseconds since 1970 of the store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownBinding {
    /// The digest of the node's name (see `digest::name_digest`); 0: the user is not bound.
    pub node: u64,
    /// The same of the node before; 0: none.
    pub from: u64,
    pub since: u64,
    /// When it ends unless it is renewed; 0: never.
    pub until: u64,
    /// Until when the user is held; 0: the user is not.
    pub held: u64,
    /// Until when another machine may remember a record that this one has replaced.
    pub remains: u64,
    pub generation: u64,
}

/// Whether the store is reachable from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    Unknown,
    Up,
    Down,
}

impl StoreState {
    fn code(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Up => 1,
            Self::Down => 2,
        }
    }

    fn of(code: u64) -> Self {
        match code {
            1 => Self::Up,
            2 => Self::Down,
            _ => Self::Unknown,
        }
    }
}

/// How long it counts that a process has found the store out of reach. The process says so again at least
/// every 3 s, with each attempt to connect.
const STORE_DOWN_LASTS_MS: u64 = 5_000;

/// The first word of a user's hash, which is 0 in a free place.
fn mark(user: [u64; 2]) -> u64 {
    user[0] | 1
}

fn checksum(user: [u64; 2], binding: &KnownBinding) -> u64 {
    let words = [
        mark(user),
        user[1],
        binding.node,
        binding.from,
        binding.since,
        binding.until,
        binding.held,
        binding.remains,
        binding.generation,
    ];
    words.iter().fold(0, |sum: u64, word| {
        (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

impl VerdictTable {
    /// A number that tells this table from others. Processes that share the table share it.
    pub fn id(&self) -> u64 {
        self.header(TABLE_ID).load(Relaxed)
    }

    pub fn store_state(&self) -> StoreState {
        StoreState::of(self.header(STORE_STATE).load(Acquire))
    }

    /// Stores whether the store is reachable; returns what was stored before. Of several processes
    /// that find out the same, one is returned another state.
    pub fn set_store_state(&self, state: StoreState) -> StoreState {
        if state == StoreState::Down {
            let now_ms = clock::monotonic_ms();
            self.header(STORE_DOWN).store(now_ms, Relaxed);
        }
        StoreState::of(self.header(STORE_STATE).swap(state.code(), AcqRel))
    }

    /// Whether the store was out of reach of a process that no longer says so: it has ended.
    pub fn is_store_down_outdated(&self) -> bool {
        self.is_store_down_outdated_at(clock::monotonic_ms())
    }

    fn is_store_down_outdated_at(&self, now_ms: u64) -> bool {
        // Read first: a process that finds the store out of reach writes the time first.
        let is_down = self.store_state() == StoreState::Down;
        let since = self.header(STORE_DOWN).load(Relaxed);
        is_down && now_ms.saturating_sub(since) >= STORE_DOWN_LASTS_MS
    }

    /// Notes the time of the store's clock now, in microseconds since 1970.
    pub fn note_store_clock(&self, now_us: u64) {
        let offset = now_us.wrapping_sub(clock::boot_us());
        self.header(STORE_CLOCK).store(offset, Relaxed);
    }

    /// The time of the store's clock, in microseconds since 1970, also while the store does not answer; the time of
    /// this machine's clock if no process has measured the other.
    pub fn store_now_us(&self) -> u64 {
        match self.header(STORE_CLOCK).load(Relaxed) {
            0 => clock::unix_ms().saturating_mul(1000),
            offset => clock::boot_us().wrapping_add(offset),
        }
    }

    /// The highest generation of a binding that this machine has read.
    pub fn bindings_generation(&self) -> u64 {
        self.header(BINDINGS_GENERATION).load(Relaxed)
    }

    /// The binding of a user, by the first 16 bytes of the digest that names the user in the store.
    pub fn known_binding(&self, user: [u64; 2]) -> Option<KnownBinding> {
        self.set_of(user)
            .find_map(|at| self.read_binding(at, user).map(|(_, known)| known))
    }

    /// For how long the user's binding has been remembered as it is; zero where there is none.
    pub fn remembered_for(&self, user: [u64; 2]) -> Duration {
        let written = self.set_of(user).find_map(|at| {
            let written = self.binding_word(at, BINDING_USED).load(Relaxed);
            self.read_binding(at, user).map(|_| written)
        });
        let since = |written| clock::monotonic_ms().saturating_sub(written);
        Duration::from_millis(written.map_or(0, since))
    }

    /// Remembers a binding, unless a newer one of the user is remembered.
    pub fn remember_binding(&self, user: [u64; 2], binding: &KnownBinding) {
        self.header(BINDINGS_GENERATION)
            .fetch_max(binding.generation, Relaxed);
        let known = self.set_of(user).find_map(|at| {
            self.read_binding(at, user)
                .map(|(seen, known)| (at, seen, known))
        });
        let (at, seen) = match known {
            Some((_, _, known)) if known.generation > binding.generation => return,
            Some((at, seen, _)) => (at, seen),
            None => match self.oldest_of(user) {
                Some(oldest) => oldest,
                None => return,
            },
        };
        let sequence = self.binding_word(at, BINDING_SEQUENCE);
        // Where another process writes the place at this moment, this binding is not remembered:
        // the next login of the user reads it again. An odd number has been odd for 10 ms: its
        // writer counts as dead.
        let Some(ticket) = self.claim(sequence, seen) else {
            return;
        };
        let put = |index, value| self.binding_word(at, index).store(value, Relaxed);
        put(BINDING_USER, mark(user));
        put(BINDING_USER + 1, user[1]);
        put(BINDING_NODE, binding.node);
        put(BINDING_FROM, binding.from);
        put(BINDING_SINCE, binding.since);
        put(BINDING_UNTIL, binding.until);
        put(BINDING_HELD, binding.held);
        put(BINDING_REMAINS, binding.remains);
        put(BINDING_GENERATION, binding.generation);
        put(BINDING_USED, clock::monotonic_ms());
        put(BINDING_CHECKSUM, checksum(user, binding));
        self.end(sequence, ticket);
    }

    /// The places that a user's binding may have.
    fn set_of(&self, user: [u64; 2]) -> impl Iterator<Item = usize> + use<> {
        let sets = BINDINGS / BINDING_SET;
        // The second word: the first one has a fixed bit.
        let set = usize::try_from(user[1] % sets as u64).unwrap_or(0);
        (0..BINDING_SET).map(move |place| set * BINDING_SET + place)
    }

    /// A binding and the sequence number that it was read at, if it is that of the user.
    fn read_binding(&self, at: usize, user: [u64; 2]) -> Option<(u64, KnownBinding)> {
        let word = |index| self.binding_word(at, index).load(Relaxed);
        let is_users = || word(BINDING_USER) == mark(user) && word(BINDING_USER + 1) == user[1];
        // Most places belong to another user, so the user is compared before the rest is read.
        if !is_users() {
            return None;
        }
        let sequence = self.binding_word(at, BINDING_SEQUENCE);
        self.seen(sequence, |seen| {
            is_users().then(|| {
                let known = KnownBinding {
                    node: word(BINDING_NODE),
                    from: word(BINDING_FROM),
                    since: word(BINDING_SINCE),
                    until: word(BINDING_UNTIL),
                    held: word(BINDING_HELD),
                    remains: word(BINDING_REMAINS),
                    generation: word(BINDING_GENERATION),
                };
                (seen, known, word(BINDING_CHECKSUM))
            })
        })
        .filter(|(_, known, sum)| *sum == checksum(user, known))
        .map(|(seen, known, _)| (seen, known))
    }

    /// The place of a user's set that is free, or else was written longest ago, and its sequence
    /// number. `None` where all are being written.
    fn oldest_of(&self, user: [u64; 2]) -> Option<(usize, u64)> {
        let used = |at: usize| self.binding_word(at, BINDING_USED).load(Relaxed);
        self.set_of(user)
            .map(|at| (at, self.binding_word(at, BINDING_SEQUENCE).load(Acquire)))
            .filter(|(_, seen)| seen.is_multiple_of(2))
            .min_by_key(|(at, _)| used(*at))
    }

    fn binding_word(&self, at: usize, index: usize) -> &std::sync::atomic::AtomicU64 {
        self.at(self.places.bindings + at * BINDING + index)
    }

    pub(super) fn inherit_bindings(&self, before: &Self) {
        for word in [
            TABLE_ID,
            STORE_STATE,
            STORE_DOWN,
            STORE_CLOCK,
            BINDINGS_GENERATION,
        ] {
            let value = before.header(word).load(Relaxed);
            self.header(word).store(value, Relaxed);
        }
        // Reading the places would take memory for them, if none was ever used.
        if before.bindings_generation() == 0 {
            return;
        }
        for at in 0..BINDINGS {
            let word = |index| before.binding_word(at, index).load(Relaxed);
            let user = [word(BINDING_USER), word(BINDING_USER + 1)];
            if user[0] == 0 {
                continue;
            }
            if let Some((_, known)) = before.read_binding(at, user) {
                self.remember_binding(user, &known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(generation: u64) -> KnownBinding {
        KnownBinding {
            node: generation + 100,
            from: 1,
            since: 2,
            until: 3,
            held: 4,
            remains: 5,
            generation,
        }
    }

    #[test]
    fn the_newest_binding_of_a_user_is_remembered() {
        let table = VerdictTable::new(1).unwrap();
        let user = [8, 9];
        assert_eq!(table.known_binding(user), None);
        table.remember_binding(user, &binding(5));
        assert_eq!(table.known_binding(user), Some(binding(5)));
        table.remember_binding(user, &binding(4));
        assert_eq!(table.known_binding(user), Some(binding(5)));
        // A renewal keeps the generation.
        let renewed = KnownBinding {
            until: 30,
            ..binding(5)
        };
        table.remember_binding(user, &renewed);
        assert_eq!(table.known_binding(user), Some(renewed));
        assert_eq!(table.bindings_generation(), 5);
        assert_eq!(table.known_binding([10, 9]), None);
    }

    #[test]
    fn users_beyond_the_room_replace_others() {
        let table = VerdictTable::new(1).unwrap();
        let users = 0..BINDINGS as u64 * 2;
        let user = |number: u64| [number << 1, number];
        for number in users.clone() {
            table.remember_binding(user(number), &binding(number));
        }
        let known = users.filter(|&number| table.known_binding(user(number)).is_some());
        assert_eq!(known.count(), BINDINGS);
    }

    #[test]
    fn a_table_that_follows_another_remembers_the_same() {
        let before = VerdictTable::new(1).unwrap();
        before.remember_binding([2, 3], &binding(7));
        let table = VerdictTable::new(1).unwrap();
        assert_ne!(table.id(), before.id());
        table.inherit_bindings(&before);
        assert_eq!(table.known_binding([2, 3]), Some(binding(7)));
        assert_eq!(table.id(), before.id());
    }

    #[test]
    fn a_place_whose_writer_died_is_written_again() {
        let table = VerdictTable::new(1).unwrap();
        table.remember_binding([2, 3], &binding(7));
        let at = table.set_of([2, 3]).next().unwrap();
        table
            .binding_word(at, BINDING_SEQUENCE)
            .fetch_add(1, Relaxed);
        table.remember_binding([2, 3], &binding(8));
        assert_eq!(table.known_binding([2, 3]), Some(binding(8)));
    }

    #[test]
    fn one_process_learns_that_the_store_has_failed() {
        let table = VerdictTable::new(1).unwrap();
        assert_eq!(table.store_state(), StoreState::Unknown);
        assert_eq!(table.set_store_state(StoreState::Down), StoreState::Unknown);
        assert_eq!(table.set_store_state(StoreState::Down), StoreState::Down);
        assert_eq!(table.store_state(), StoreState::Down);
    }

    #[test]
    fn what_a_process_found_out_before_it_ended_is_outdated_after_some_seconds() {
        let table = VerdictTable::new(1).unwrap();
        let long_after = clock::monotonic_ms() + 1_000_000_000;
        assert!(!table.is_store_down_outdated_at(long_after));
        table.set_store_state(StoreState::Down);
        let last = table.header(STORE_DOWN).load(Relaxed) + STORE_DOWN_LASTS_MS;
        let other = VerdictTable::new(1).unwrap();
        other.inherit_bindings(&table);
        for table in [&table, &other] {
            assert!(!table.is_store_down_outdated_at(last - 1));
            assert!(table.is_store_down_outdated_at(last));
        }
        table.set_store_state(StoreState::Up);
        assert!(!table.is_store_down_outdated_at(long_after));
    }
}
