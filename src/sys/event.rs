//! A descriptor that becomes readable: what any poll loop can wait for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use super::fork_mark::pid;

/// An eventfd, closed when dropped.
///
/// In a child of the process that made it it is left alone: the child may have closed its
/// descriptors, and the number may mean a file of its own.
pub struct Event {
    descriptor: Option<OwnedFd>,
    owner: u64,
}

impl Event {
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: makes a new descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, was just made, and nothing else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            descriptor: Some(descriptor),
            owner: pid(),
        })
    }

    pub fn descriptor(&self) -> i32 {
        self.descriptor.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Makes the descriptor readable until it is cleared.
    pub fn set(&self) {
        if self.owner != pid() {
            return;
        }
        let one = 1_u64.to_ne_bytes();
        // SAFETY: writes the eight bytes of `one` to a descriptor that `self` keeps open.
        // A counter that is full stays readable.
        unsafe { libc::write(self.descriptor(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes the descriptor silent again.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: reads at most eight bytes into `count` from a descriptor that `self` keeps
        // open and that does not block.
        unsafe { libc::read(self.descriptor(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.owner != pid()
            && let Some(descriptor) = self.descriptor.take()
        {
            // Given up without closing it.
            let _ = descriptor.into_raw_fd();
        }
    }
}
