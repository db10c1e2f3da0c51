//! A file that several processes and threads append to, and its lock: who has it may cut off what it
//! has just written without taking lines of others with it.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fork_mark::incarnation;
use super::own_descriptor::Guarded;

/// The byte that is locked. It lies behind the end of any file, so that the lock meets none that a
/// host has on a range of the content.
const BYTE: libc::off_t = libc::off_t::MAX;

/// How long to sleep between attempts: an append takes microseconds.
const PAUSE: Duration = Duration::from_millis(1);

/// The [`incarnation`] of the process in which a thread has the lock; 0 if no thread has it. The
/// record lock excludes other processes, but not other threads of the same process. One word for all
/// files: a process has one log, except while a configuration is replaced. Not a mutex: a child that
/// is forked while a thread has the lock could never take it. This word then holds the parent's
/// incarnation, which the child ignores.
static THREAD: AtomicU64 = AtomicU64::new(0);

/// An open file that is appended to. The kernel releases a process's record lock when that process
/// closes any of its descriptors of the file, so closing this one, perhaps that of a configuration
/// that was replaced, waits until no other thread of the process has the lock.
#[derive(Debug)]
pub struct AppendFile {
    /// None only while it is being dropped.
    file: Option<Guarded<File>>,
    patience: Duration,
}

impl AppendFile {
    /// `patience`: the longest wait for another thread before the file is closed all the same.
    ///
    /// # Errors
    /// The file is not open.
    pub fn new(file: File, patience: Duration) -> io::Result<Self> {
        Ok(Self {
            file: Some(Guarded::new(file)?),
            patience,
        })
    }

    fn guarded(&self) -> io::Result<&Guarded<File>> {
        self.file
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// # Errors
    /// `NotConnected` if the host has closed the descriptor.
    pub fn get(&self) -> io::Result<&File> {
        self.guarded()?.get()
    }
}

impl Drop for AppendFile {
    fn drop(&mut self) {
        let _turn = attempt_for(self.patience, || Ok(ThreadTurn::take()));
        drop(self.file.take());
    }
}

/// The lock, released when this is dropped.
pub struct AppendLock<'f> {
    file: &'f Guarded<File>,
    _turn: ThreadTurn,
}

impl<'f> AppendLock<'f> {
    /// Takes the lock of `file`, which must be open for writing. Waits up to `patience` for others: a
    /// process that was stopped while it had the lock keeps it until it goes on or dies.
    ///
    /// # Errors
    /// `WouldBlock` where others had it all that time. `NotConnected` if the host has closed the
    /// descriptor. The system's error where the file system has no locks.
    pub fn take(file: &'f AppendFile, patience: Duration) -> io::Result<Self> {
        let file = file.guarded()?;
        attempt_for(patience, || {
            // Given up again where another process has the lock: threads that close a file of theirs
            // wait for an append alone.
            let Some(turn) = ThreadTurn::take() else {
                return Ok(None);
            };
            let is_locked = file.descriptor().try_lock_byte(BYTE)?;
            Ok(is_locked.then(|| Self { file, _turn: turn }))
        })
    }
}

impl Drop for AppendLock<'_> {
    fn drop(&mut self) {
        self.file.descriptor().unlock_byte(BYTE);
    }
}

/// Attempts it once per [`PAUSE`], as often as fits into `patience`. The attempts are counted rather
/// than the time: if the whole machine was suspended, the time is over although who has the lock could
/// not go on meanwhile.
///
/// # Errors
/// `WouldBlock` after the last attempt; the error of an attempt.
fn attempt_for<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    let more = patience.as_nanos() / PAUSE.as_nanos();
    for number in 0..=more {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if number < more {
            std::thread::sleep(PAUSE);
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// While it lives, no other thread of this process has the lock.
struct ThreadTurn;

impl ThreadTurn {
    fn take() -> Option<Self> {
        let own = incarnation();
        let held = THREAD.load(Ordering::Relaxed);
        let is_free = held != own;
        let taken = || THREAD.compare_exchange(held, own, Ordering::Acquire, Ordering::Relaxed);
        // Not `then_some`: it would make a `ThreadTurn` even if another thread has the lock, and
        // dropping that one would set `THREAD` to 0 and end the other thread's turn.
        (is_free && taken().is_ok()).then(|| Self)
    }
}

impl Drop for ThreadTurn {
    fn drop(&mut self) {
        THREAD.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    fn scratch(name: &str) -> (std::path::PathBuf, AppendFile) {
        let path = std::env::temp_dir().join(format!("nb-append-{name}-{}", std::process::id()));
        let file = File::options().append(true).create(true).open(&path);
        let file = AppendFile::new(file.unwrap(), Duration::from_secs(60)).unwrap();
        (path, file)
    }

    #[test]
    fn a_machine_that_was_suspended_uses_up_one_attempt() {
        let patience = 5 * PAUSE;
        let mut attempts = 0;
        let third = attempt_for(patience, || {
            attempts += 1;
            std::thread::sleep(2 * patience);
            Ok((attempts == 3).then_some("third"))
        });
        assert_eq!(third.unwrap(), "third");
        let mut attempts = 0;
        let none = attempt_for(patience, || {
            attempts += 1;
            Ok(None::<()>)
        });
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(attempts, 6);
    }

    /// The tests share `THREAD`, so they must not run at the same time.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[test]
    fn one_thread_at_a_time_has_it() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let (path, file) = scratch("threads");
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = AppendLock::take(&file, Duration::from_secs(60)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn another_process_keeps_it_until_it_dies_and_a_child_takes_over_none() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let (path, file) = scratch("processes");
        // The parent has the lock at the fork. The child must wait for the parent's record lock, not
        // for the parent's thread: that thread does not exist in the child and never ends its turn.
        let parents = AppendLock::take(&file, Duration::ZERO).unwrap();
        let (mut from_child, mut to_parent) = io::pipe().unwrap();
        // SAFETY: the child takes a lock, writes to a pipe and sleeps, none of which needs a lock that a
        // thread of the parent may have.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let lock = AppendLock::take(&file, Duration::from_secs(60));
            let told = [u8::from(lock.is_ok())];
            let _ = to_parent.write_all(&told);
            loop {
                // SAFETY: the call takes no pointers.
                unsafe { libc::pause() };
            }
        }
        drop(to_parent);
        drop(parents);
        let mut told = [0];
        from_child.read_exact(&mut told).unwrap();
        assert_eq!(told, [1]);
        let refused = AppendLock::take(&file, Duration::from_millis(20)).err();
        assert_eq!(
            refused.map(|e| e.kind()),
            Some(io::ErrorKind::WouldBlock),
            "the child has the lock"
        );
        // SAFETY: the child belongs to this test, which waits for its end.
        unsafe { libc::kill(child, libc::SIGKILL) };
        let mut status = 0;
        // SAFETY: `status` has room for what the call writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(AppendLock::take(&file, Duration::from_secs(60)).is_ok());
        std::fs::remove_file(path).unwrap();
    }

    /// Whether another process, a child of this one, gets the lock of the file at once.
    fn child_gets(file: &AppendFile) -> bool {
        // SAFETY: the child takes a lock and ends, neither of which needs a lock that a thread of the
        // parent may have.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let got = AppendLock::take(file, Duration::ZERO).is_ok();
            // SAFETY: the call takes no pointers; the child runs no destructor of the parent's.
            unsafe { libc::_exit(libc::c_int::from(got)) };
        }
        let mut status = 0;
        // SAFETY: `status` has room for what the call writes, and the child belongs to this test.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status));
        libc::WEXITSTATUS(status) == 1
    }

    /// This happens where a configuration with the same log file replaces another one: one log closes its
    /// descriptor of the file while a thread appends through the other's.
    #[test]
    fn another_descriptor_of_the_file_is_closed_only_after_the_append() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let (path, file) = scratch("replaced");
        let (_, other) = scratch("replaced");
        let lock = AppendLock::take(&file, Duration::ZERO).unwrap();
        let (closed, is_closed) = std::sync::mpsc::channel();
        let closing = std::thread::spawn(move || {
            drop(other);
            closed.send(()).unwrap();
        });
        // Long enough for a close that does not wait.
        let early = is_closed.recv_timeout(Duration::from_millis(200));
        assert!(!child_gets(&file), "the lock was lost; closed: {early:?}");
        assert!(early.is_err());
        drop(lock);
        is_closed.recv().unwrap();
        closing.join().unwrap();
        assert!(child_gets(&file));
        std::fs::remove_file(path).unwrap();
    }

    /// While another process has the lock no thread of this one appends, so a file is closed at once.
    #[test]
    fn who_waits_for_another_process_keeps_no_thread_from_closing() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let (path, file) = scratch("waiting");
        let (_, other) = scratch("waiting");
        let (mut from_child, mut to_parent) = io::pipe().unwrap();
        // SAFETY: the child takes a lock, writes to a pipe and sleeps, none of which needs a lock that a
        // thread of the parent may have.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let lock = AppendLock::take(&file, Duration::ZERO);
            let _ = to_parent.write_all(&[u8::from(lock.is_ok())]);
            loop {
                // SAFETY: the call takes no pointers.
                unsafe { libc::pause() };
            }
        }
        let mut told = [0];
        from_child.read_exact(&mut told).unwrap();
        assert_eq!(told, [1]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| AppendLock::take(&file, Duration::from_secs(60)).is_ok());
            // Ends before the wait does, which only the end of the child ends.
            drop(other);
            assert!(!waiting.is_finished());
            // SAFETY: the child belongs to this test, which waits for its end.
            unsafe { libc::kill(child, libc::SIGKILL) };
            let mut status = 0;
            // SAFETY: `status` has room for what the call writes.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert!(waiting.join().unwrap());
        });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_closed_descriptor_is_an_error_and_leaves_the_lock_of_other_files_free() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let (path, file) = scratch("closed");
        let number = file.get().unwrap().as_raw_fd();
        super::super::own_descriptor::testing::replace(number, &File::open("/dev/null").unwrap());
        let refused = AppendLock::take(&file, Duration::ZERO).err();
        assert_eq!(refused.map(|e| e.kind()), Some(io::ErrorKind::NotConnected));
        // SAFETY: the test made this copy, and nothing else closes it.
        unsafe { libc::close(number) };
        let (_, other) = scratch("closed");
        assert!(AppendLock::take(&other, Duration::ZERO).is_ok());
        std::fs::remove_file(path).unwrap();
    }
}
