//! Sequence numbers: how readers without a lock see whole records, and writers do not mix them.
//!
//! An even number says that nobody writes. A writer makes it odd and, when it is done, even
//! again. A writer may die or be stopped in between, so that another one takes its record over:
//! both changes are made from the very number that was seen, so that of two writers one learns
//! that the record is no longer its own.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::machine::{AtomicU64, fence, hint, thread};
use super::memory::VerdictTable;

/// How often a reader retries: a running writer is done within nanoseconds.
const READ_SPINS: usize = 1000;

/// How often it then lets others run, since the writer may have lost its processor.
const READ_YIELDS: usize = 2000;

/// How often it then sleeps, where others have so much to do that yielding is not enough: 10 ms
/// in all, before it takes what it sees. A dead writer is never done.
const READ_SLEEPS: usize = 50;
const SLEEP: Duration = Duration::from_micros(200);

const TRIES: usize = READ_SPINS + READ_YIELDS + READ_SLEEPS;

/// The right to write what a sequence number guards: the odd number that this writer set.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteTicket(u64);

impl VerdictTable {
    /// Makes the number odd, for one writer at a time. A writer that holds it for 10 ms is dead
    /// or stopped: its odd number, which must not have changed all that time, is taken over.
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
                // Another writer's turn: it gets its time, too.
                stuck = seen;
                tries = 0;
            }
            pause(tries);
            tries += 1;
        }
    }

    /// Makes the number odd if it still is `seen`; where that was odd, its writer was given up.
    pub(super) fn claim(&self, sequence: &AtomicU64, seen: u64) -> Option<WriteTicket> {
        let odd = seen.wrapping_add(1) | 1;
        sequence
            .compare_exchange(seen, odd, Acquire, Relaxed)
            .ok()?;
        fence(Release);
        Some(WriteTicket(odd))
    }

    /// Makes the number even again. False where another writer has taken the record over: what
    /// this one wrote may be mixed with what that one did.
    pub(super) fn end(&self, sequence: &AtomicU64, ticket: WriteTicket) -> bool {
        sequence
            .compare_exchange(ticket.0, ticket.0.wrapping_add(1), Release, Relaxed)
            .is_ok()
    }

    /// Takes the record from whoever writes it or is about to: a number that was read before is
    /// no longer one to claim. Says whether a writer was at work.
    pub(super) fn revoke(&self, sequence: &AtomicU64) -> bool {
        loop {
            let seen = sequence.load(Relaxed);
            let even = (seen.wrapping_add(1) | 1).wrapping_add(1);
            // Where it changes meanwhile, a writer is at work that the next round sees.
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

    /// The same, with the number at which it was read; odd where its writer does not end.
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

/// Between two reads of a sequence number.
fn pause(tries: usize) {
    if tries < READ_SPINS {
        hint::spin_loop();
    } else if tries < READ_SPINS + READ_YIELDS {
        thread::yield_now();
    } else {
        thread::sleep(SLEEP);
    }
}
