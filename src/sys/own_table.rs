//! Work that opens descriptors which cannot be checked before each use, since the C library has them.

use std::panic::resume_unwind;
use std::thread::scope;

use super::relay::halt_if_lost;
use super::thread::builder;

/// The stack size for a thread that looks up names, in bytes. The C library runs modules of its name service (NSS) on
/// it, some of which need hundreds of kilobytes.
pub const LOOKUP_STACK: usize = 512 * 1024;

/// Runs `work` on a thread that has a table of descriptors of its own, and waits for it. What a host closes is closed in
/// the table of all other threads, and what `work` opens is not in that table: neither can meet the other's files.
///
/// Linux has the call since version 5.9. Before, and where there is no thread to be had, `work` runs all the same, with
/// the descriptors of the process.
///
/// `work` must not use descriptors that were opened before: they are not in its table. It must not create an
/// `OwnDescriptor` either: those are registered by number for the whole process, so a number from this table would
/// invalidate the engine's descriptor that has the same number. A library that stores a descriptor in a global variable
/// would store a number that other threads cannot use. The C library's resolver and the usual modules of its name
/// service store none.
///
/// The caller is a thread of the module's, with all signals blocked, and so is the new one.
pub fn with_own_descriptors<T: Send>(work: impl Fn() -> T + Sync) -> T {
    let apart = || {
        leave_table();
        work()
    };
    scope(
        |scope| match builder("nb-apart", LOOKUP_STACK).spawn_scoped(scope, apart) {
            Ok(running) => running.join().unwrap_or_else(|panic| {
                // No hook runs for this: see `halt_if_lost_in_panics`.
                halt_if_lost();
                resume_unwind(panic)
            }),
            Err(_) => work(),
        },
    )
}

/// Gives the calling thread a table that has nothing but `/dev/null` in the place of the standard streams: a copy would
/// keep the host's open, and without any the next socket would be taken for one of them.
fn leave_table() {
    // Linux makes a copy of the table for this thread. It leaves out the numbers from 64 on, and closes numbers 3 to 63
    // in the copy.
    const IN_A_COPY: libc::c_uint = libc::CLOSE_RANGE_UNSHARE;
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: the only pointer is that of a constant string. With this flag `close_range` closes nothing in the table
    // that the other threads use; a kernel without `close_range` returns an error and changes nothing. `dup2` and
    // `close` are called only after it has succeeded, so they change the table of this thread alone.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, IN_A_COPY) != 0 {
            return;
        }
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if null < 0 {
            return;
        }
        for stream in 0..3 {
            libc::dup2(null, stream);
        }
        if null > 2 {
            libc::close(null);
        }
    }
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
