//! Descriptors of ours in somebody else's process, and the lock on a file.
//!
//! A host may close descriptors that it does not know (a daemon that starts does), and the number
//! may then mean a file of the host's: each use first makes sure that it is still ours. What
//! belongs to the open file itself tells: the signal number that `F_SETSIG` keeps with it. No
//! signal is ever sent for it (that takes `O_ASYNC`), and no host sets this one. Where the system
//! refuses it, the file's device and inode tell, which all eventfds have in common.
//!
//! The number may as well have gone to a later descriptor of ours. So each gets an id, and a
//! table by number says whose it is.
//!
//! The lock is a POSIX record lock. It belongs to the process: a fork does not inherit it,
//! and the kernel releases it when the process dies. It is also released when the process
//! closes any other descriptor of the same file; so its holder takes it again from time to
//! time, which costs nothing where it still has it.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};

/// The last but one of Linux's 64 signals: glibc counts real-time signals up from 34, and who
/// has asked for one by `F_SETSIG` has asked for the first ones.
const MARK: libc::c_int = 63;

// `fcntl` of Linux; the `libc` crate does not have them.
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;

/// Something that owns a descriptor, which is used, and closed in the end, only while it is
/// still ours.
#[derive(Debug)]
pub struct Guarded<T> {
    inner: ManuallyDrop<T>,
    descriptor: OwnDescriptor,
}

impl<T: AsRawFd> Guarded<T> {
    /// # Errors
    /// Where the descriptor is not open.
    pub fn new(inner: T) -> io::Result<Self> {
        // Never dropped: the descriptor is closed by the other field.
        let inner = ManuallyDrop::new(inner);
        let descriptor = OwnDescriptor::adopt(inner.as_raw_fd())?;
        Ok(Self { inner, descriptor })
    }

    /// # Errors
    /// `NotConnected` where the host has closed the descriptor.
    pub fn get(&self) -> io::Result<&T> {
        self.descriptor.check()?;
        Ok(&self.inner)
    }
}

/// An open descriptor that is closed when dropped, if it is still ours then.
#[derive(Debug)]
pub(super) struct OwnDescriptor {
    fd: RawFd,
    id: u64,
    identity: Identity,
}

/// What tells an open file from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Marked,
    File(libc::dev_t, libc::ino_t),
}

impl OwnDescriptor {
    /// Takes over a descriptor that was just opened and that nobody else closes.
    pub(super) fn adopt(fd: RawFd) -> io::Result<Self> {
        // SAFETY: changes what the open file keeps for `fd`, which the caller gave to us; a bad
        // descriptor is an error.
        let marked = unsafe { libc::fcntl(fd, F_SETSIG, MARK) } == 0 && is_marked(fd);
        let identity = if marked {
            Ok(Identity::Marked)
        } else {
            file_of(fd)
        };
        // One that is not open is none to close.
        Ok(Self {
            fd,
            id: registry::enter(fd),
            identity: identity?,
        })
    }

    /// The number; whether it is still ours is for `check` to say.
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
    /// `NotConnected` where the host has closed the descriptor.
    pub(super) fn check(&self) -> io::Result<RawFd> {
        if self.is_ours() {
            Ok(self.fd)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    /// Takes the lock on the whole file for this process, or makes sure that it still has it.
    ///
    /// `Ok(false)`: another process has it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        self.try_lock_range(0, 0)
    }

    /// Gives the lock back, if this process has it.
    pub(super) fn unlock(&self) {
        // Where the descriptor is gone the kernel has released the lock with it.
        let _ = self.set_lock(libc::F_UNLCK, 0, 0);
    }

    /// The same for a byte, which need not be there.
    pub(super) fn try_lock_byte(&self, byte: libc::off_t) -> io::Result<bool> {
        self.try_lock_range(byte, 1)
    }

    pub(super) fn unlock_byte(&self, byte: libc::off_t) {
        let _ = self.set_lock(libc::F_UNLCK, byte, 1);
    }

    /// The other process that has the lock on a byte; 0 where its id means nothing here.
    pub(super) fn holder_of_byte(&self, byte: libc::off_t) -> Option<u64> {
        let fd = self.check().ok()?;
        let mut lock = flock(libc::F_WRLCK, byte, 1);
        // SAFETY: `lock` is a valid flock for the call to fill in, the descriptor is ours.
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
        // SAFETY: `lock` is a valid flock that outlives the call, and `fd` is ours.
        match unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const lock) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// So many bytes from `start` on; 0: all there are.
fn flock(kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> libc::flock {
    // SAFETY: all-zero is a valid flock: the whole file, from its start.
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
            // SAFETY: the descriptor is still the one that was given to us, and `self` ends here.
            unsafe { libc::close(fd) };
        }
    }
}

/// Which of our descriptors each number was last given to.
mod registry {
    use std::os::fd::RawFd;
    use std::sync::atomic::{AtomicU64, Ordering};

    use once_cell::race::OnceBox;

    const SEGMENT: usize = 1024;

    type Segment = [AtomicU64; SEGMENT];

    /// More numbers than a process can have by default. They are filled in as they are needed.
    /// No lock: a child may be forked while a thread is here.
    static SEGMENTS: [OnceBox<Segment>; SEGMENT] = [const { OnceBox::new() }; SEGMENT];

    fn owner_of(fd: RawFd) -> Option<&'static AtomicU64> {
        let fd = usize::try_from(fd).ok()?;
        let segment = SEGMENTS.get(fd / SEGMENT)?;
        let segment = segment.get_or_init(|| Box::new([const { AtomicU64::new(0) }; SEGMENT]));
        segment.get(fd % SEGMENT)
    }

    /// Gives the number to a new descriptor, and returns that one's id.
    pub(super) fn enter(fd: RawFd) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(owner) = owner_of(fd) {
            owner.store(id, Ordering::Release);
        }
        id
    }

    /// Whether nobody was given the number after that one.
    pub(super) fn is_of(fd: RawFd, id: u64) -> bool {
        owner_of(fd).is_none_or(|owner| owner.load(Ordering::Acquire) == id)
    }
}

fn is_marked(fd: RawFd) -> bool {
    // SAFETY: only reads what the open file keeps; a bad descriptor is an error.
    unsafe { libc::fcntl(fd, F_GETSIG) == MARK }
}

fn file_of(fd: RawFd) -> io::Result<Identity> {
    // SAFETY: all-zero is a valid stat to be filled in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for the call to fill in; a bad descriptor is an error.
    match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => Ok(Identity::File(stat.st_dev, stat.st_ino)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::os::fd::{AsRawFd, RawFd};

    /// As a host does that closes what it does not know, and then opens something of its own.
    pub(in crate::sys) fn replace(fd: RawFd, by: &impl AsRawFd) {
        // SAFETY: both are open; what becomes of `fd` is what the test is about.
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
        // SAFETY: reads the flags of a number that may or may not be open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        assert!(flags >= 0, "the host's was closed");
        // SAFETY: the test made this copy, and closes it.
        unsafe { libc::close(number) };
        assert!(hosts.as_raw_fd() >= 0);
    }

    #[test]
    fn a_later_descriptor_of_ours_at_the_same_number_is_another() {
        let null = || File::open("/dev/null").unwrap();
        let first = OwnDescriptor::adopt(null().into_raw_fd()).unwrap();
        // Closed and opened again by the host's doing.
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
        // SAFETY: the test made this copy, and closes it.
        unsafe { libc::close(fd) };
    }
}
