//! A descriptor of ours in somebody else's process, and the lock on its file.
//!
//! A host may close descriptors it does not know (a daemon that starts does), and the number
//! may then mean a file of its own: each use first makes sure that it is still ours.
//!
//! The lock is a POSIX record lock. It belongs to the process: a fork does not inherit it,
//! and the kernel releases it when the process dies. It is also released when the process
//! closes any other descriptor of the same file; so its holder takes it again from time to
//! time, which costs nothing where it still has it.

use std::io;
use std::os::fd::RawFd;

/// An open descriptor that is closed when dropped, if it is still ours then.
pub(super) struct OwnDescriptor {
    fd: RawFd,
    identity: (libc::dev_t, libc::ino_t),
}

impl OwnDescriptor {
    /// Takes over a descriptor that was just opened and that nobody else closes.
    pub(super) fn adopt(fd: RawFd) -> io::Result<Self> {
        match identity_of(fd) {
            Ok(identity) => Ok(Self { fd, identity }),
            Err(e) => {
                // SAFETY: the caller gave the descriptor to us.
                unsafe { libc::close(fd) };
                Err(e)
            }
        }
    }

    /// The number; whether it is still ours is for `check` to say.
    pub(super) fn raw(&self) -> RawFd {
        self.fd
    }

    /// # Errors
    /// `NotConnected` where the host has closed the descriptor.
    pub(super) fn check(&self) -> io::Result<RawFd> {
        if identity_of(self.fd).is_ok_and(|now| now == self.identity) {
            Ok(self.fd)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    /// Takes the lock for this process, or makes sure that it still has it.
    ///
    /// `Ok(false)`: another process has it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        match self.set_lock(libc::F_WRLCK) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives the lock back, if this process has it.
    pub(super) fn unlock(&self) {
        // Where the descriptor is gone the kernel has released the lock with it.
        let _ = self.set_lock(libc::F_UNLCK);
    }

    fn set_lock(&self, kind: libc::c_int) -> io::Result<()> {
        let fd = self.check()?;
        // SAFETY: all-zero is a valid flock: the whole file, from its start.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
        lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
        // SAFETY: `lock` is a valid flock, the descriptor is ours.
        match unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const lock) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for OwnDescriptor {
    fn drop(&mut self) {
        if let Ok(fd) = self.check() {
            // SAFETY: the descriptor is still the one that was given to us.
            unsafe { libc::close(fd) };
        }
    }
}

fn identity_of(fd: RawFd) -> io::Result<(libc::dev_t, libc::ino_t)> {
    // SAFETY: all-zero is a valid stat to be filled in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for the call to fill in; a bad descriptor is an error.
    match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => Ok((stat.st_dev, stat.st_ino)),
        _ => Err(io::Error::last_os_error()),
    }
}
