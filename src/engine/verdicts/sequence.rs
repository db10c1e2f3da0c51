//! Sequence numbers: how readers without a lock see whole records, and writers do not mix them.

use std::hint;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::thread;
use std::time::Duration;

use super::VerdictTable;

/// How often a reader retries: a running writer is done within nanoseconds.
const READ_SPINS: usize = 1000;

/// How often it then lets others run, since the writer may have lost its processor.
const READ_YIELDS: usize = 2000;

/// How often it then sleeps, where others have so much to do that yielding is not enough: 10 ms
/// in all, before it takes what it sees. A dead writer is never done.
const READ_SLEEPS: usize = 50;
const SLEEP: Duration = Duration::from_micros(200);

const TRIES: usize = READ_SPINS + READ_YIELDS + READ_SLEEPS;

impl VerdictTable {
    /// Makes the number odd, for one writer at a time. There is one but for moments: where a
    /// role passes from one thread or process to another. One that died is not waited for.
    pub(super) fn begin(&self, sequence: &AtomicU64) {
        for tries in 0..TRIES {
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

    pub(super) fn end(&self, sequence: &AtomicU64) {
        sequence.fetch_add(1, Release);
    }

    pub(super) fn consistent<T>(&self, sequence: &AtomicU64, mut reading: impl FnMut() -> T) -> T {
        for tries in 0..TRIES {
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
}

/// Between two looks at a sequence number.
fn pause(tries: usize) {
    if tries < READ_SPINS {
        hint::spin_loop();
    } else if tries < READ_SPINS + READ_YIELDS {
        thread::yield_now();
    } else {
        thread::sleep(SLEEP);
    }
}
