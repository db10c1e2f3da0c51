//! Whether the writing thread of the state file is at work, which decides who releases the locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::fork_mark::pid;

/// Whether the writing thread is at work, and whether it has to release the locks afterwards. The
/// word holds the process id too: a child inherits the word but not the thread.
#[derive(Default)]
pub(super) struct Work(AtomicU64);

const IDLE: u64 = 0;
const WRITING: u64 = 1;
/// The process gave up the right to write while its thread was writing: the thread releases the locks
/// after that write.
const LEAVING: u64 = 2;
const STATES: u64 = 4;

impl Work {
    fn word(state: u64) -> u64 {
        pid() * STATES + state
    }

    fn change(&self, from: u64, to: u64) -> bool {
        let (from, to) = (Self::word(from), Self::word(to));
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The thread starts to write. False where another thread of this process still writes.
    pub(super) fn begin(&self) -> bool {
        let seen = self.0.load(Ordering::Acquire);
        if seen / STATES == pid() && seen % STATES != IDLE {
            return false;
        }
        self.0
            .compare_exchange(
                seen,
                Self::word(WRITING),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }

    /// The thread is done. True where it has to release the locks now.
    pub(super) fn end(&self) -> bool {
        if self.change(WRITING, IDLE) {
            return false;
        }
        self.0.store(Self::word(IDLE), Ordering::Release);
        true
    }

    /// True where the writing thread is at work and will release the locks; false where the caller
    /// has to.
    pub(super) fn leave_lock(&self) -> bool {
        self.change(WRITING, LEAVING) || self.0.load(Ordering::Acquire) == Self::word(LEAVING)
    }

    /// The process has the right to write again: the thread must not release the locks.
    pub(super) fn keep_lock(&self) {
        self.change(LEAVING, WRITING);
    }
}
