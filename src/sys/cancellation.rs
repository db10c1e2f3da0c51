//! Keeps `pthread_cancel` from ending a thread of the host while it is inside the library.
//!
//! glibc cancels a thread at its next cancellation point (`nanosleep`, `open`, `write` and most other
//! functions that may block) by unwinding its stack. Rust's `catch_unwind` does not let that pass, and glibc
//! then aborts the process. musl runs no destructors, so the thread's locks would stay locked. A thread that
//! is not cancellable inside the library ends at its next cancellation point after the call instead.
//!
//! Some functions of the request path do without, for their speed: they work on memory alone and so reach no
//! cancellation point. These are the functions for LuaJIT's FFI, natives made by `memory_native!` and
//! `stand_in!`, and the finalisers of results and contexts. What they rarely do beyond that (write to the log, make
//! the engine of a forked process) has [`uncancelled`] of its own. nginx cancels no thread, so its callbacks
//! do without as well.

use std::ffi::c_int;

/// `PTHREAD_CANCEL_DISABLE` of glibc and musl.
const DISABLED: c_int = 1;

unsafe extern "C" {
    // POSIX; the `libc` crate does not have it for Linux.
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// Restores the thread's former state when it is dropped.
struct Uncancelled {
    before: c_int,
}

impl Uncancelled {
    fn new() -> Self {
        let mut before = DISABLED;
        // SAFETY: `before` has room for what the call writes. Only the calling thread's state changes.
        unsafe { pthread_setcancelstate(DISABLED, &raw mut before) };
        Self { before }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        let mut inside = DISABLED;
        // SAFETY: `before` is a state that the first call returned, and `inside` has room for what the call
        // writes. The call is no cancellation point: a thread that was cancelled meanwhile goes on.
        unsafe { pthread_setcancelstate(self.before, &raw mut inside) };
    }
}

/// Runs work during which the calling thread is not cancelled. Makes no system call.
#[inline]
pub fn uncancelled<T>(work: impl FnOnce() -> T) -> T {
    let _uncancelled = Uncancelled::new();
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calling thread's state.
    fn state() -> c_int {
        Uncancelled::new().before
    }

    #[test]
    fn the_former_state_is_restored() {
        const ENABLED: c_int = 0;
        assert_eq!(state(), ENABLED);
        assert_eq!(uncancelled(state), DISABLED);
        uncancelled(|| {
            assert_eq!(uncancelled(state), DISABLED);
            assert_eq!(state(), DISABLED);
            // A new thread begins with the default, whatever the state of the one that starts it.
            assert_eq!(std::thread::spawn(state).join().unwrap(), ENABLED);
        });
        assert!(std::panic::catch_unwind(|| uncancelled(|| panic!("on purpose"))).is_err());
        assert_eq!(state(), ENABLED);
    }
}
