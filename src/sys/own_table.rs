//! Work that opens descriptors which cannot be checked before each use, since the C library has them.

use std::panic::resume_unwind;
use std::thread::scope;

use super::thread::builder;

/// The stack of the thread, in bytes. Name service modules (NSS) need much of it.
const STACK: usize = 512 * 1024;

/// Runs `work` on a thread that has a table of descriptors of its own, and waits for it. What a host closes is closed in
/// the table of all other threads, and what `work` opens is not in that table: neither can meet the other's files.
///
/// Linux has the call since version 5.9. Before, and where there is no thread to be had, `work` runs all the same, with
/// the descriptors of the process. It must not use any descriptor that was opened before.
///
/// The caller is a thread of the module's, with all signals blocked, and so is the new one.
pub fn with_own_descriptors<T: Send>(work: impl Fn() -> T + Sync) -> T {
    let apart = || {
        leave_table();
        work()
    };
    scope(
        |scope| match builder("nb-apart", STACK).spawn_scoped(scope, apart) {
            Ok(running) => running.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => work(),
        },
    )
}

/// Gives the calling thread a table that has nothing but the standard streams.
fn leave_table() {
    /// `close_range(2)`: in a copy of the table, into which the range is not even copied.
    const IN_A_COPY: libc::c_uint = libc::CLOSE_RANGE_UNSHARE;
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: the call takes no pointers. With this flag it closes nothing in the table of other threads; a kernel that
    // does not know the call does nothing.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, IN_A_COPY) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    fn is_open(fd: i32) -> bool {
        // SAFETY: the call takes no pointers and only reads; a bad descriptor is an error.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    #[test]
    fn descriptors_of_the_process_are_out_of_reach_and_stay_open() {
        // Other tests of this process may have closed a standard stream.
        let mut files: Vec<_> = (0..4).map(|_| File::open("/dev/null").unwrap()).collect();
        let null = files.pop().unwrap();
        let is_there = with_own_descriptors(|| is_open(null.as_raw_fd()));
        assert!(is_open(null.as_raw_fd()));
        let is_known = || {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let mut numbers = release.split('.').map(|n| n.parse().unwrap_or(0));
            (numbers.next(), numbers.next()) >= (Some(5), Some(9))
        };
        if is_known() {
            assert!(!is_there, "still in the table of the process");
        }
    }
}
