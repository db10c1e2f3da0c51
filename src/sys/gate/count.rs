//! The state of a gate: one atomic word that threads, forks and the exit of the process change.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::fork_mark::pid;

/// The state of a gate in one word: the process id in bits 32 to 63, whether the process exits in
/// bit 31, the number of forks in progress in bits 16 to 30, the number of threads inside in bits
/// 0 to 15. A word with the id of another process counts as 0: after a fork it describes threads
/// of the parent, which do not exist in the child.
pub(super) struct Count<W>(pub(super) W);

pub(super) const EXITING: u64 = 1 << 31;
pub(super) const FORK: u64 = 1 << 16;
pub(super) const FORKS: u64 = EXITING - FORK;
pub(super) const INSIDE: u64 = FORK - 1;

/// An atomic word: the standard library's, or loom's in tests that model threads.
pub(super) trait Word {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    /// # Errors
    /// The current value, where `next` returned `None` for it.
    fn update(&self, next: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        Self::load(self, Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        Self::store(self, value, Ordering::Release);
    }

    fn update(&self, next: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
    }
}

pub(super) fn this_process() -> u64 {
    pid() << 32
}

/// `seen` if this process wrote it; else the initial state, with nobody inside.
fn own(seen: u64) -> u64 {
    let process = this_process();
    if seen >> 32 == process >> 32 {
        seen
    } else {
        process
    }
}

impl<W: Word> Count<W> {
    pub(super) fn is_closed(&self) -> bool {
        own(self.0.load()) & (EXITING | FORKS) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        own(self.0.load()) & INSIDE == 0
    }

    /// Counts one more thread as inside.
    ///
    /// # Errors
    /// The state, where it has any of `bits`, or the number of threads has reached its maximum.
    pub(super) fn come_in(&self, bits: u64) -> Result<(), u64> {
        self.change(|state| {
            let is_open = state & bits == 0 && state & INSIDE != INSIDE;
            is_open.then(|| state + 1)
        })
    }

    /// Counts one thread less as inside. A count that a fork has reset to 0 stays 0.
    pub(super) fn go_out(&self) {
        let _ = self.change(|state| (state & INSIDE != 0).then(|| state - 1));
    }

    /// Counts a fork in progress: nobody comes in until [`Count::release`].
    pub(super) fn hold(&self) {
        // At the maximum of 32767 forks in progress a further one is not counted.
        let _ = self.change(|state| (state & FORKS != FORKS).then_some(state + FORK));
    }

    pub(super) fn release(&self) {
        let _ = self.change(|state| (state & FORKS != 0).then_some(state.wrapping_sub(FORK)));
    }

    /// Sets the number of forks in progress to 0, for forks that do not end.
    pub(super) fn forget_forks(&self) {
        // Cannot fail: the closure never returns `None`.
        let _ = self.change(|state| Some(state & !FORKS));
    }

    /// Marks the process as exiting: nobody comes in any more.
    pub(super) fn close(&self) {
        // Cannot fail: the closure never returns `None`.
        let _ = self.change(|state| Some(state | EXITING));
    }

    /// Sets the state of a new process. `inside`: whether its only thread is inside.
    pub(super) fn reset(&self, inside: bool) {
        self.0.store(this_process() | u64::from(inside));
    }

    fn change(&self, next: impl Fn(u64) -> Option<u64>) -> Result<(), u64> {
        self.0
            .update(|seen| next(own(seen)))
            .map(|_| ())
            .map_err(own)
    }
}

/// Runs the count through every order in which threads can run and see each other's stores.
#[cfg(test)]
mod model {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    impl Word for loom::sync::atomic::AtomicU64 {
        fn load(&self) -> u64 {
            Self::load(self, Ordering::Acquire)
        }

        fn store(&self, value: u64) {
            Self::store(self, value, Ordering::Release);
        }

        fn update(&self, next: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
            self.fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
        }
    }

    struct Process {
        gate: Count<loom::sync::atomic::AtomicU64>,
        /// Stands for a library's state, which a thread inside changes and a fork reads. The model
        /// fails where both could happen at the same time.
        library: UnsafeCell<u32>,
    }

    fn process() -> Arc<Process> {
        Arc::new(Process {
            gate: Count(loom::sync::atomic::AtomicU64::new(0)),
            library: UnsafeCell::new(0),
        })
    }

    fn use_library(process: &Process) {
        if process.gate.come_in(EXITING | FORKS).is_ok() {
            process.library.with_mut(|_| ());
            process.gate.go_out();
        }
    }

    #[test]
    fn a_fork_that_found_nobody_inside_copies_what_nobody_changes() {
        loom::model(|| {
            let process = process();
            let other = process.clone();
            let engine = thread::spawn(move || {
                use_library(&other);
                use_library(&other);
            });
            process.gate.hold();
            if process.gate.is_empty() {
                process.library.with(|_| ());
            }
            process.gate.release();
            engine.join().unwrap();
            assert!(process.gate.is_empty() && !process.gate.is_closed());
        });
    }

    #[test]
    fn two_forks_at_a_time_keep_others_out_until_both_have_ended() {
        // All orders of three threads take too long: at most two preemptions are modelled.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let process = process();
            let forks = [(); 2].map(|()| {
                let process = process.clone();
                thread::spawn(move || {
                    process.gate.hold();
                    if process.gate.is_empty() {
                        process.library.with(|_| ());
                    }
                    process.gate.release();
                })
            });
            use_library(&process);
            for fork in forks {
                fork.join().unwrap();
            }
            assert!(process.gate.is_empty() && !process.gate.is_closed());
        });
    }
}
