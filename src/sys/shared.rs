//! Memory that this process shares with those forked from it: words that all of them read and write
//! atomically, a lock that the kernel releases when its holder dies, and a way to wake the others.
//!
//! The memory is anonymous. A file could be truncated while another process reads it, which would
//! end that process (SIGBUS), and would be subject to the limit `RLIMIT_FSIZE`. The lock is a
//! record lock on an empty `memfd`.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use super::own_descriptor::OwnDescriptor;

/// A block of shared words. Dropping it unmaps the block in this process only.
pub struct SharedWords {
    start: NonNull<AtomicU64>,
    count: usize,
    lock: OwnDescriptor,
}

// SAFETY: the mapping belongs to the process, not to a thread, its words are atomics, and the
// descriptor is only used through system calls.
unsafe impl Send for SharedWords {}
// SAFETY: through a shared reference threads only reach atomics, and a descriptor that is only used
// through system calls.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// `count` zeroed words.
    ///
    /// # Errors
    /// The system's error if it has no memory or descriptor; `InvalidInput` for a `count` of 0.
    pub fn new(count: usize) -> io::Result<Self> {
        let bytes = count
            .checked_mul(size_of::<AtomicU64>())
            .filter(|&bytes| bytes > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the name is a C string; the call only opens a new descriptor.
        let fd = unsafe { libc::memfd_create(c"nauthilus_backend".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let lock = OwnDescriptor::adopt(fd)?;
        // SAFETY: a new anonymous mapping, at an address that the kernel chooses, replaces no
        // mapping that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, count, lock })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `count` aligned words, lives as long as `self`, cannot shrink,
        // and every process only accesses it atomically.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }

    /// Takes the lock for this process, or confirms that the process still has it. False if another
    /// process has it.
    ///
    /// # Errors
    /// `NotConnected` if the host has closed the descriptor; else the system's error.
    pub fn try_lock(&self) -> io::Result<bool> {
        self.lock.try_lock()
    }

    /// Releases the lock, if this process has it.
    pub fn unlock(&self) {
        self.lock.unlock();
    }

    /// Wakes all threads, of all processes, that wait for a change of the word at `index`.
    pub fn wake(&self, index: usize) {
        let Some(word) = self.futex_word(index) else {
            return;
        };
        // Without FUTEX_PRIVATE_FLAG: the waiters are in other processes.
        // SAFETY: `word` is an aligned 32-bit word of the mapping, which lives as long as `self`.
        // FUTEX_WAKE does not access it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE,
                libc::c_int::MAX,
            )
        };
    }

    /// Blocks until [`SharedWords::wake`] is called for the word at `index`, or `at_most` has
    /// passed. Returns at once if the low 32 bits of the word are not `seen`. May return early, for
    /// example because of a signal.
    pub fn wait(&self, index: usize, seen: u32, at_most: Duration) {
        let Some(word) = self.futex_word(index) else {
            return;
        };
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        // SAFETY: `word` is an aligned 32-bit word of the mapping, which lives as long as `self`;
        // `timeout` is initialised (FUTEX_WAIT takes it as relative). The call reads both.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                seen,
                &raw const timeout,
            )
        };
    }

    /// The low 32 bits of a word: a futex compares no more than that.
    fn futex_word(&self, index: usize) -> Option<&AtomicU32> {
        let word = self.words().get(index)?;
        let low = if cfg!(target_endian = "little") { 0 } else { 1 };
        // SAFETY: an aligned 64-bit word consists of two aligned 32-bit ones, which live as long as
        // `self` and are only accessed atomically.
        Some(unsafe { AtomicU32::from_ptr(word.as_ptr().cast::<u32>().add(low)) })
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping with this length, and no reference to it can outlive
        // `self`.
        unsafe {
            libc::munmap(
                self.start.as_ptr().cast(),
                self.count * size_of::<AtomicU64>(),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_zero_and_kept() {
        let shared = SharedWords::new(100).unwrap();
        assert_eq!(shared.words().len(), 100);
        assert!(
            shared
                .words()
                .iter()
                .all(|w| w.load(Ordering::Relaxed) == 0)
        );
        shared.words()[99].store(5, Ordering::Relaxed);
        assert_eq!(shared.words()[99].load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_lock_is_this_process_own_and_can_be_taken_again() {
        let shared = SharedWords::new(1).unwrap();
        assert!(shared.try_lock().unwrap());
        assert!(shared.try_lock().unwrap());
        shared.unlock();
    }

    #[test]
    fn a_closed_descriptor_is_noticed_and_no_other_file_is_touched() {
        let shared = SharedWords::new(1).unwrap();
        let fd = shared.lock.raw();
        // Acts as a host that closes descriptors that it does not know.
        // SAFETY: `shared` owns the descriptor, and must notice that it was closed.
        unsafe { libc::close(fd) };
        let error = shared.try_lock().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        shared.words()[0].store(1, Ordering::Relaxed);
    }

    #[test]
    fn a_waiter_wakes() {
        let shared = std::sync::Arc::new(SharedWords::new(4).unwrap());
        let other = shared.clone();
        let waiter = std::thread::spawn(move || {
            while other.words()[2].load(Ordering::Acquire) == 0 {
                other.wait(2, 0, Duration::from_secs(10));
            }
        });
        shared.words()[2].store(1, Ordering::Release);
        shared.wake(2);
        waiter.join().unwrap();
    }

    #[test]
    fn a_wait_ends_by_itself() {
        let shared = SharedWords::new(1).unwrap();
        shared.wait(0, 0, Duration::from_millis(5));
        shared.wait(0, 1, Duration::from_secs(100));
        shared.wait(7, 0, Duration::from_secs(100));
    }
}
