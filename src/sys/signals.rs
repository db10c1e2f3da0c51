//! Suppresses the signals that a write may raise, on a thread of the host's.

use std::mem::MaybeUninit;
use std::ptr;

/// Runs `write` with SIGPIPE (a pipe or socket without a reader) and SIGXFSZ (a file larger than
/// `RLIMIT_FSIZE`) suppressed: each ends a process that has no handler for it. The write fails with
/// `EPIPE` or `EFBIG` instead. A signal that was pending before stays pending. The only thing that
/// changes meanwhile is the calling thread's signal mask.
pub fn without_write_signals<T>(write: impl FnOnce() -> T) -> T {
    let Some(blocked) = Blocked::new() else {
        return write();
    };
    let done = write();
    drop(blocked);
    done
}

const RAISED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Blocks both signals on this thread until it is dropped.
struct Blocked {
    before: libc::sigset_t,
    /// The signals that were not pending at the start. If one is pending at the end, the write
    /// raised it, and it is discarded.
    ours: libc::sigset_t,
}

impl Blocked {
    fn new() -> Option<Self> {
        let mut both = MaybeUninit::<libc::sigset_t>::uninit();
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        let mut ours = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the first call that gets a set initialises it: `sigemptyset` always succeeds on
        // a valid pointer, and `pending` and `before` are read only where `sigpending` and
        // `pthread_sigmask` succeeded. Only the calling thread's mask changes.
        unsafe {
            libc::sigemptyset(both.as_mut_ptr());
            libc::sigemptyset(ours.as_mut_ptr());
            for signal in RAISED {
                libc::sigaddset(both.as_mut_ptr(), signal);
            }
            if libc::sigpending(pending.as_mut_ptr()) != 0
                || libc::pthread_sigmask(libc::SIG_BLOCK, both.as_ptr(), before.as_mut_ptr()) != 0
            {
                return None;
            }
            for signal in RAISED {
                if libc::sigismember(pending.as_ptr(), signal) == 0 {
                    libc::sigaddset(ours.as_mut_ptr(), signal);
                }
            }
            Some(Self {
                before: before.assume_init(),
                ours: ours.assume_init(),
            })
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `ours`, `before` and `at_once` are initialised and outlive the calls; null for
        // the signal's information is allowed. With a timeout of 0 the call does not block.
        unsafe {
            while libc::sigtimedwait(&raw const self.ours, ptr::null_mut(), &raw const at_once) > 0
            {
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    /// Whether `check` is true in a child process in which both signals have their default action.
    fn in_child(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs `check`, which takes no lock that a thread of the parent may hold
        // at the fork, and ends with `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            for signal in RAISED {
                // Rust's runtime ignores SIGPIPE; a host may leave its default action.
                // SAFETY: the call takes no pointers, and the child has no other thread whose
                // signals it would affect.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            let fine = check();
            // SAFETY: `_exit` takes no pointers and runs no handlers.
            unsafe { libc::_exit(i32::from(!fine)) };
        }
        let mut status = 1;
        // SAFETY: `status` has room for what the call writes.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status == 0
    }

    fn write_to_nobody() -> std::io::ErrorKind {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors that the call writes.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: `pipe` has just opened both, and nothing else closes them.
        let [reads, writes] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        drop(reads);
        let error = std::fs::File::from(writes).write_all(b"x").unwrap_err();
        error.kind()
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_death() {
        assert!(in_child(|| {
            let kind = without_write_signals(write_to_nobody);
            kind == std::io::ErrorKind::BrokenPipe
        }));
        assert!(!in_child(|| {
            write_to_nobody();
            true
        }));
    }

    #[test]
    fn what_was_pending_stays_pending() {
        assert!(in_child(|| {
            let is_pending = || {
                let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
                // SAFETY: `sigpending` initialises the set before it is read.
                unsafe {
                    libc::sigpending(pending.as_mut_ptr());
                    libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
                }
            };
            without_write_signals(|| {
                write_to_nobody();
                without_write_signals(write_to_nobody);
                is_pending()
            }) && !is_pending()
        }));
    }
}
