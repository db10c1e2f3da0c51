//! Sequence numbers: with them readers see whole records without a lock, and two writers do not mix
//! their words.
//!
//! An even number: nobody writes. A writer makes it odd, and even again when it is done. A writer
//! may die or be stopped in between, and another one then takes its record over. So both changes
//! are a compare-and-swap from the number that the writer saw: a writer whose record was taken over
//! learns it when its second change fails.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::machine::{AtomicU64, fence, hint, thread};
use super::memory::VerdictTable;

/// How often a reader retries in a spin loop: a writer that has a processor is done within
/// nanoseconds.
const READ_SPINS: usize = 1000;

/// How often it then yields: the writer may have lost its processor.
const READ_YIELDS: usize = 2000;

/// How often it then sleeps for [`SLEEP`], 10 ms in all: on a loaded machine yielding is not enough
/// for the writer to get a processor. After that the writer counts as dead.
const READ_SLEEPS: usize = 50;
const SLEEP: Duration = Duration::from_micros(200);

const TRIES: usize = READ_SPINS + READ_YIELDS + READ_SLEEPS;

/// The right to write the words that a sequence number guards: the odd number that this writer set.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteTicket(u64);

impl VerdictTable {
    /// Waits until no other writer is at work and makes the number odd. A number that stays odd and
    /// unchanged for 10 ms belongs to a writer that is dead or stopped: it is taken over.
    pub(super) fn begin(&self, sequence: &AtomicU64) -> WriteTicket {
        let mut stuck = 0;
        let mut tries = 0;
        loop {
            let seen = sequence.load(Relaxed);
            if seen.is_multiple_of(2) || (seen == stuck && tries >= TRIES) {
                if let Some(ticket) = self.claim(sequence, seen) {
                    return ticket;
                }
            } else if seen != stuck {
                // Another writer has begun: its 10 ms start anew.
                stuck = seen;
                tries = 0;
            }
            pause(tries);
            tries += 1;
        }
    }

    /// Makes the number odd if it still is `seen`. An odd `seen` takes the record over from a
    /// writer that counts as dead.
    pub(super) fn claim(&self, sequence: &AtomicU64, seen: u64) -> Option<WriteTicket> {
        let odd = seen.wrapping_add(1) | 1;
        sequence
            .compare_exchange(seen, odd, Acquire, Relaxed)
            .ok()?;
        fence(Release);
        Some(WriteTicket(odd))
    }

    /// Makes the number even again. False where another writer has taken the record over; the words
    /// of both may then be mixed.
    pub(super) fn end(&self, sequence: &AtomicU64, ticket: WriteTicket) -> bool {
        sequence
            .compare_exchange(ticket.0, ticket.0.wrapping_add(1), Release, Relaxed)
            .is_ok()
    }

    /// Moves the number to the next even one. A writer that is at work fails in `end`, and one that
    /// read the number before fails in `claim`. Returns whether a writer was at work.
    pub(super) fn revoke(&self, sequence: &AtomicU64) -> bool {
        loop {
            let seen = sequence.load(Relaxed);
            let even = (seen.wrapping_add(1) | 1).wrapping_add(1);
            // Where this fails, a writer has changed the number: the next round starts from its
            // value.
            if sequence
                .compare_exchange(seen, even, AcqRel, Relaxed)
                .is_ok()
            {
                return !seen.is_multiple_of(2);
            }
        }
    }

    pub(super) fn consistent<T>(&self, sequence: &AtomicU64, mut reading: impl FnMut() -> T) -> T {
        self.seen(sequence, |_| reading())
    }

    /// Runs `reading` until no writer was at work meanwhile; it is given the sequence number. After
    /// the last retry it runs once more on whatever the words are, with a number that may be odd.
    pub(super) fn seen<T>(&self, sequence: &AtomicU64, mut reading: impl FnMut(u64) -> T) -> T {
        for tries in 0..TRIES {
            let before = sequence.load(Acquire);
            if before.is_multiple_of(2) {
                let seen = reading(before);
                fence(Acquire);
                if sequence.load(Relaxed) == before {
                    return seen;
                }
            }
            pause(tries);
        }
        reading(sequence.load(Acquire))
    }
}

/// Waits between two reads of a sequence number: spins first, then yields, then sleeps.
fn pause(tries: usize) {
    if tries < READ_SPINS {
        hint::spin_loop();
    } else if tries < READ_SPINS + READ_YIELDS {
        thread::yield_now();
    } else {
        thread::sleep(SLEEP);
    }
}
