//! Writing on the host's threads without the signals that a write may raise.

use std::mem::MaybeUninit;
use std::ptr;

/// Runs `write` so that it raises neither SIGPIPE (a pipe or socket that nobody reads) nor SIGXFSZ
/// (a file larger than `RLIMIT_FSIZE`), which end a process that has no handler for them. It gets
/// the error instead. What the host had pending before stays pending, and nothing but the calling
/// thread's mask changes, for as long as this takes.
pub fn without_write_signals<T>(write: impl FnOnce() -> T) -> T {
    let Some(blocked) = Blocked::new() else {
        return write();
    };
    let done = write();
    drop(blocked);
    done
}

const RAISED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Both signals blocked on this thread, until this is dropped.
struct Blocked {
    before: libc::sigset_t,
    /// Those that were not pending before: what is pending at the end was raised in between.
    ours: libc::sigset_t,
}

impl Blocked {
    fn new() -> Option<Self> {
        let mut both = MaybeUninit::<libc::sigset_t>::uninit();
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        let mut ours = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: each set is initialised by the call that it is first given to, `sigpending` and
        // `pthread_sigmask` among them where they succeed. Only the calling thread's mask changes.
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
        // SAFETY: `ours`, `before` and `at_once` are initialised and outlive the calls; what the
        // signal was of nobody asks for. The call takes a pending signal or fails at once.
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

    /// Whether `check` is true in a child process, where signals do what they do by default.
    fn in_child(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs `check`, which makes a few system calls, and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            for signal in RAISED {
                // SAFETY: Rust's runtime ignores SIGPIPE; a host's process need not.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            let fine = check();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!fine)) };
        }
        let mut status = 1;
        // SAFETY: waits for the child just made; `status` is valid to be filled in.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status == 0
    }

    fn write_to_nobody() -> std::io::ErrorKind {
        let mut ends = [0; 2];
        // SAFETY: `ends` is there to be filled with two new descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: both are open, just made, and nobody else's.
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
                // SAFETY: `sigpending` fills the set that is then read.
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
