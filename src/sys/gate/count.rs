//! The count behind a gate: one word that threads, forks and the exit change.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::fork_mark::pid;

/// Who is inside and who keeps others out, in one word: the process in the upper half, then
/// whether it exits, the forks under way, the threads inside. What a parent left is another
/// process's, and counts as nothing: its threads are not here.
pub(super) struct Count<W>(pub(super) W);

pub(super) const EXITING: u64 = 1 << 31;
pub(super) const FORK: u64 = 1 << 16;
pub(super) const FORKS: u64 = EXITING - FORK;
pub(super) const INSIDE: u64 = FORK - 1;

/// A word that threads share: the processor's own, or in tests that of a model of threads.
pub(super) trait Word {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    /// # Errors
    /// The value that `next` did not want to change.
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

/// The state that `seen` means to this process.
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

    /// One thread more is inside.
    ///
    /// # Errors
    /// The state, where it has any of `bits`, or more are inside than can be counted.
    pub(super) fn come_in(&self, bits: u64) -> Result<(), u64> {
        self.change(|state| {
            let is_open = state & bits == 0 && state & INSIDE != INSIDE;
            is_open.then(|| state + 1)
        })
    }

    /// One thread less is inside; one that a fork has reset to nobody inside stays so.
    pub(super) fn go_out(&self) {
        let _ = self.change(|state| (state & INSIDE != 0).then(|| state - 1));
    }

    /// Lets nobody in until [`Count::release`].
    pub(super) fn hold(&self) {
        // More forks at a time than can be counted are not waited for.
        let _ = self.change(|state| (state & FORKS != FORKS).then_some(state + FORK));
    }

    pub(super) fn release(&self) {
        let _ = self.change(|state| (state & FORKS != 0).then_some(state.wrapping_sub(FORK)));
    }

    /// Forks that do not end keep nobody out any more.
    pub(super) fn forget_forks(&self) {
        // Always done.
        let _ = self.change(|state| Some(state & !FORKS));
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        // Always done.
        let _ = self.change(|state| Some(state | EXITING));
    }

    /// The count of a new process, whose one thread is inside or not.
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

/// All orders in which threads can run and see each other's stores.
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
        /// What a thread changes inside, and a fork copies. The model fails where one of them
        /// could meet the other at it.
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
        // All orders of three threads are too many.
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
