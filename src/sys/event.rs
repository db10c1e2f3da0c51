//! A descriptor that becomes readable: what any poll loop can wait for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::fork_mark::incarnation;
use super::own_descriptor::OwnDescriptor;

/// An eventfd, closed when dropped if it is still ours then.
///
/// A child of the process that made it shares its counter, and leaves it as it is.
#[derive(Debug)]
pub struct EventFd {
    descriptor: OwnDescriptor,
    owner: u64,
}

impl EventFd {
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: makes a new descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            descriptor: OwnDescriptor::adopt(fd)?,
            owner: incarnation(),
        })
    }

    pub fn descriptor(&self) -> i32 {
        self.descriptor.raw()
    }

    /// Whether this process made it, not a parent.
    pub fn is_of_this_process(&self) -> bool {
        self.owner == incarnation()
    }

    /// Whether the descriptor is still this one: the host may have closed it, and have a file of
    /// its own under the number.
    pub fn is_ours(&self) -> bool {
        self.descriptor.is_ours()
    }

    /// Makes the descriptor readable until it is cleared. Nothing happens in a child of the
    /// process that made it, or where the host has closed it.
    pub fn set(&self) {
        let Some(fd) = self.usable() else {
            return;
        };
        let one = 1_u64.to_ne_bytes();
        // SAFETY: writes the eight bytes of `one` to an eventfd of ours, which does not block:
        // a counter that is full stays readable.
        unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
    }

    /// Makes the descriptor silent again, where [`Event::set`] would make it readable.
    pub fn clear(&self) {
        let Some(fd) = self.usable() else {
            return;
        };
        let mut count = [0_u8; 8];
        // SAFETY: reads at most eight bytes into `count` from an eventfd of ours, which does not
        // block.
        unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
    }

    fn usable(&self) -> Option<RawFd> {
        let fd = self.descriptor.check().ok()?;
        self.is_of_this_process().then_some(fd)
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.raw()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::sys::own_descriptor::testing::replace;

    fn is_readable(fd: RawFd) -> bool {
        let mut wanted = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut wanted, 1, 0) == 1 }
    }

    #[test]
    fn it_is_readable_from_set_to_clear() {
        let event = EventFd::new().unwrap();
        assert!(!is_readable(event.descriptor()));
        event.set();
        event.set();
        assert!(is_readable(event.descriptor()));
        event.clear();
        assert!(!is_readable(event.descriptor()));
    }

    #[test]
    fn nothing_is_written_to_what_the_host_has_under_the_number() {
        let path = std::env::temp_dir().join(format!("nb-event-{}", std::process::id()));
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let event = EventFd::new().unwrap();
        let other = EventFd::new().unwrap();
        replace(event.descriptor(), &file);
        event.set();
        event.clear();
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"");
        // Another eventfd is not this one either.
        // SAFETY: a new eventfd, which the test closes.
        let hosts = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        // SAFETY: both are open; what becomes of the second is what the test is about.
        unsafe { libc::dup2(hosts, other.descriptor()) };
        other.set();
        assert!(!is_readable(hosts));
        for fd in [event.descriptor(), other.descriptor(), hosts] {
            // SAFETY: the test made these, and closes them.
            unsafe { libc::close(fd) };
        }
    }
}
