//! Descriptors in the host's process that are checked before each use, and locks on their files.
//!
//! A host may close descriptors that it does not know (a daemon does when it starts), and the
//! number may then mean a file of the host's. So each use first checks that the descriptor is
//! still ours. We mark the open file with a signal number (`F_SETSIG`), which the kernel keeps
//! with the open file, not with the number. The mark has no other effect: the kernel sends the
//! signal only with `O_ASYNC`, which we do not set, and hosts do not use this signal. If the
//! system refuses the mark, device and inode are compared instead; that is weaker, since all
//! timers of a machine have the same ones.
//!
//! The number may also mean a later descriptor of ours. So each gets an id, and a table holds for
//! each number the id of the last descriptor that had it.
//!
//! The locks are POSIX record locks. Such a lock belongs to the process: a forked child does not
//! inherit it, and the kernel releases it when the process dies. The kernel also releases it when
//! the process closes any other descriptor of the same file. So the holder takes it again from
//! time to time; taking a lock that it still has changes nothing.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The signal that marks our open files: the last but one of Linux's 64. Programs that use
/// `F_SETSIG` themselves choose the first real-time signals, which begin at 34 with glibc.
const MARK: libc::c_int = 63;

// Commands of `fcntl` on Linux that the `libc` crate does not define.
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;

/// Whether the host has closed descriptors of this module's.
static HOST_CLOSES: AtomicBool = AtomicBool::new(false);

/// Says that the host has closed descriptors of this module's.
pub fn note_that_host_closes() {
    HOST_CLOSES.store(true, Ordering::Release);
}

pub(super) fn host_closes() -> bool {
    HOST_CLOSES.load(Ordering::Acquire)
}

/// The owner of a descriptor, for example a socket, which is used and finally closed only if the
/// descriptor is still ours.
#[derive(Debug)]
pub struct Guarded<T> {
    inner: ManuallyDrop<T>,
    descriptor: OwnDescriptor,
}

impl<T: AsRawFd> Guarded<T> {
    /// # Errors
    /// The descriptor is not open.
    pub fn new(inner: T) -> io::Result<Self> {
        // Never dropped: `descriptor` closes the descriptor, after the check.
        let inner = ManuallyDrop::new(inner);
        let descriptor = OwnDescriptor::adopt(inner.as_raw_fd())?;
        Ok(Self { inner, descriptor })
    }

    /// # Errors
    /// `NotConnected` if the host has closed the descriptor.
    pub fn get(&self) -> io::Result<&T> {
        self.descriptor.check()?;
        Ok(&self.inner)
    }

    pub(super) fn descriptor(&self) -> &OwnDescriptor {
        &self.descriptor
    }
}

/// An open descriptor. Dropping it closes the descriptor if it is still ours.
#[derive(Debug)]
pub(super) struct OwnDescriptor {
    fd: RawFd,
    id: u64,
    identity: Identity,
}

/// How an open file of ours is recognised: by the mark, or by its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Marked,
    File(libc::dev_t, libc::ino_t),
}

impl OwnDescriptor {
    /// Takes over a descriptor that the caller has just opened and that nothing else will close.
    pub(super) fn adopt(fd: RawFd) -> io::Result<Self> {
        // SAFETY: the call takes no pointers and changes an open file that belongs to the caller; a
        // bad descriptor is an error.
        let marked = unsafe { libc::fcntl(fd, F_SETSIG, MARK) } == 0 && is_marked(fd);
        let identity = if marked {
            Ok(Identity::Marked)
        } else {
            file_of(fd)
        };
        // On an error no value is made, so a descriptor that is not open is not closed.
        Ok(Self {
            fd,
            id: registry::enter(fd),
            identity: identity?,
        })
    }

    /// Another descriptor of the same open file, with the lowest free number that is not below `least`.
    ///
    /// # Errors
    /// There is no such number, or the host has closed this descriptor.
    pub(super) fn copy_at(&self, least: RawFd) -> io::Result<Self> {
        let fd = self.check()?;
        // SAFETY: the call takes no pointers and only opens a new descriptor; `fd` is ours.
        match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) } {
            copy if copy >= 0 => Self::adopt(copy),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The number, unchecked: it may mean another file. See [`OwnDescriptor::check`].
    pub(super) fn raw(&self) -> RawFd {
        self.fd
    }

    pub(super) fn is_ours(&self) -> bool {
        registry::is_of(self.fd, self.id)
            && match self.identity {
                Identity::Marked => is_marked(self.fd),
                identity @ Identity::File(..) => file_of(self.fd).is_ok_and(|now| now == identity),
            }
    }

    /// # Errors
    /// `NotConnected` if the host has closed the descriptor.
    pub(super) fn check(&self) -> io::Result<RawFd> {
        if self.is_ours() {
            Ok(self.fd)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    /// Takes the lock on the whole file for this process, or confirms that the process still has
    /// it. `Ok(false)` if another process has it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        self.try_lock_range(0, 0)
    }

    /// Releases the lock on the whole file, if this process has it.
    pub(super) fn unlock(&self) {
        // If the host has closed the descriptor, the kernel has released the lock.
        let _ = self.set_lock(libc::F_UNLCK, 0, 0);
    }

    /// [`OwnDescriptor::try_lock`] for one byte, which may lie behind the end of the file.
    pub(super) fn try_lock_byte(&self, byte: libc::off_t) -> io::Result<bool> {
        self.try_lock_range(byte, 1)
    }

    pub(super) fn unlock_byte(&self, byte: libc::off_t) {
        let _ = self.set_lock(libc::F_UNLCK, byte, 1);
    }

    /// The id of the other process that has the lock on a byte; 0 if it has no id in this PID
    /// namespace. None if no other process has it.
    pub(super) fn holder_of_byte(&self, byte: libc::off_t) -> Option<u64> {
        let fd = self.check().ok()?;
        let mut lock = flock(libc::F_WRLCK, byte, 1);
        // SAFETY: `lock` is an initialised `flock` that the call may write, and `fd` is ours.
        let done = unsafe { libc::fcntl(fd, libc::F_GETLK, &raw mut lock) };
        let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
        (done == 0 && !is_free).then(|| u64::try_from(lock.l_pid).unwrap_or(0))
    }

    fn try_lock_range(&self, start: libc::off_t, length: libc::off_t) -> io::Result<bool> {
        match self.set_lock(libc::F_WRLCK, start, length) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn set_lock(
        &self,
        kind: libc::c_int,
        start: libc::off_t,
        length: libc::off_t,
    ) -> io::Result<()> {
        let fd = self.check()?;
        let lock = flock(kind, start, length);
        // SAFETY: `lock` is an initialised `flock` that the call only reads, and `fd` is ours.
        match unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const lock) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A lock on `length` bytes from `start` on. A length of 0 means all bytes from `start` on.
fn flock(kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> libc::flock {
    // SAFETY: a `flock` holds only integers, for which all-zero is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = start;
    lock.l_len = length;
    lock
}

impl Drop for OwnDescriptor {
    fn drop(&mut self) {
        if let Ok(fd) = self.check() {
            // SAFETY: the check says that `fd` is still the descriptor that `adopt` took over, and
            // `self` is not used after this.
            unsafe { libc::close(fd) };
        }
    }
}

/// For each descriptor number, the id of the last descriptor of ours that had it.
mod registry {
    use std::os::fd::RawFd;
    use std::sync::atomic::{AtomicU64, Ordering};

    use once_cell::race::OnceBox;

    const SEGMENT: usize = 1024;

    type Segment = [AtomicU64; SEGMENT];

    /// 1024 segments of 1024 numbers: Linux allows a process that many descriptors by default
    /// (`fs.nr_open`). A segment is allocated when it is first needed. Without a lock: a child that
    /// is forked while a thread holds one would block for ever.
    static SEGMENTS: [OnceBox<Segment>; SEGMENT] = [const { OnceBox::new() }; SEGMENT];

    fn owner_of(fd: RawFd) -> Option<&'static AtomicU64> {
        let fd = usize::try_from(fd).ok()?;
        let segment = SEGMENTS.get(fd / SEGMENT)?;
        let segment = segment.get_or_init(|| Box::new([const { AtomicU64::new(0) }; SEGMENT]));
        segment.get(fd % SEGMENT)
    }

    /// Records that a new descriptor has this number, and returns the new descriptor's id.
    pub(super) fn enter(fd: RawFd) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(owner) = owner_of(fd) {
            owner.store(id, Ordering::Release);
        }
        id
    }

    /// Whether no later descriptor of ours has had this number. Always true for a number beyond the
    /// table.
    pub(super) fn is_of(fd: RawFd, id: u64) -> bool {
        owner_of(fd).is_none_or(|owner| owner.load(Ordering::Acquire) == id)
    }
}

fn is_marked(fd: RawFd) -> bool {
    // SAFETY: the call takes no pointers and only reads; a bad descriptor is an error.
    unsafe { libc::fcntl(fd, F_GETSIG) == MARK }
}

fn file_of(fd: RawFd) -> io::Result<Identity> {
    // SAFETY: a `stat` holds only integers, for which all-zero is a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` has room for what the call writes; a bad descriptor is an error.
    match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => Ok(Identity::File(stat.st_dev, stat.st_ino)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::os::fd::{AsRawFd, RawFd};

    /// Acts as a host that closes a descriptor of ours and then opens a file of its own, which
    /// gets the same number.
    pub(in crate::sys) fn replace(fd: RawFd, by: &impl AsRawFd) {
        // SAFETY: both are open. The owner of `fd` must notice that it was replaced.
        let number = unsafe { libc::dup2(by.as_raw_fd(), fd) };
        assert_eq!(number, fd);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::testing::replace;
    use super::*;

    #[test]
    fn another_open_file_at_the_same_number_is_not_ours() {
        let null = || File::open("/dev/null").unwrap();
        let own = OwnDescriptor::adopt(null().into_raw_fd()).unwrap();
        assert!(own.is_ours());
        // The same file, opened once more by the host.
        let hosts = null();
        replace(own.raw(), &hosts);
        assert!(!own.is_ours());
        let number = own.raw();
        drop(own);
        // SAFETY: the call takes no pointers and only reads; a bad descriptor is an error.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        assert!(flags >= 0, "the host's was closed");
        // SAFETY: the test made this copy, and nothing else closes it.
        unsafe { libc::close(number) };
        assert!(hosts.as_raw_fd() >= 0);
    }

    #[test]
    fn a_later_descriptor_of_ours_at_the_same_number_is_another() {
        let null = || File::open("/dev/null").unwrap();
        let first = OwnDescriptor::adopt(null().into_raw_fd()).unwrap();
        // The host closes the descriptor, and its number is used again.
        replace(first.raw(), &null());
        let second = OwnDescriptor::adopt(first.raw()).unwrap();
        assert!(second.is_ours() && !first.is_ours());
        drop(first);
        assert!(second.is_ours());
    }

    #[test]
    fn without_a_mark_the_inode_tells() {
        let fd = File::open("/dev/null").unwrap().into_raw_fd();
        let own = OwnDescriptor {
            fd,
            id: registry::enter(fd),
            identity: file_of(fd).unwrap(),
        };
        assert!(own.is_ours());
        replace(fd, &File::open("/dev/zero").unwrap());
        assert!(!own.is_ours());
        // SAFETY: the test made this copy, and nothing else closes it.
        unsafe { libc::close(fd) };
    }
}
