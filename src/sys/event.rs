//! An event that any poll loop can wait for: a descriptor that becomes readable.
//!
//! It is a timer (`timerfd`) that goes off at once, not an eventfd. To set an eventfd one writes eight
//! bytes to its descriptor. The host may close that descriptor and open a file of its own with the same
//! number after we have checked it and before we write: the bytes would go into that file. Setting a
//! timer fails on every other kind of file and leaves it unchanged.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::fork_mark::incarnation;
use super::own_descriptor::OwnDescriptor;

/// An event. Dropping it closes the descriptor, unless the host has closed it and the number may
/// mean another file.
///
/// A forked child shares the timer with the process that made the event. So the child neither
/// sets nor clears it: that would wake the parent, or take its wake-up away.
#[derive(Debug)]
pub struct EventFd {
    descriptor: OwnDescriptor,
    owner: u64,
}

impl EventFd {
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers and only opens a new descriptor.
        let fd = unsafe {
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            libc::timerfd_create(libc::CLOCK_MONOTONIC, flags)
        };
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

    /// Whether this process made the event, not one that it was forked from.
    pub fn is_of_this_process(&self) -> bool {
        self.owner == incarnation()
    }

    /// Whether the number still means this event's descriptor. The host may have closed it and
    /// opened a file of its own with that number.
    pub fn is_ours(&self) -> bool {
        self.descriptor.is_ours()
    }

    /// Makes the descriptor readable until it is cleared. The timer's interrupt does that, usually within
    /// a microsecond. Does nothing in a forked child of the process that made the event, or if the host
    /// has closed the descriptor.
    pub fn set(&self) {
        let Some(fd) = self.usable() else {
            return;
        };
        // A time that has passed: the first nanosecond of the clock.
        set_timer(fd, 1);
    }

    /// Makes the descriptor unreadable again. Does nothing where [`EventFd::set`] does nothing.
    pub fn clear(&self) {
        let Some(fd) = self.usable() else {
            return;
        };
        // Setting a timer also forgets that it has gone off.
        set_timer(fd, 0);
    }

    fn usable(&self) -> Option<RawFd> {
        let fd = self.descriptor.check().ok()?;
        self.is_of_this_process().then_some(fd)
    }
}

/// Sets a timer to this time of its clock; 0 stops it. Does nothing to a file of another kind.
fn set_timer(fd: RawFd, nanosecond: libc::c_long) {
    // SAFETY: an `itimerspec` holds only integers; all-zero means that it does not repeat.
    let mut once: libc::itimerspec = unsafe { std::mem::zeroed() };
    once.it_value.tv_nsec = nanosecond;
    // SAFETY: the call reads `once`, which is initialised; null means that the former value is not
    // wanted. A descriptor that is no timer is an error.
    unsafe {
        libc::timerfd_settime(
            fd,
            libc::TFD_TIMER_ABSTIME,
            &raw const once,
            std::ptr::null_mut(),
        )
    };
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
        is_readable_within(fd, 0)
    }

    fn is_readable_within(fd: RawFd, milliseconds: libc::c_int) -> bool {
        let mut wanted = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `wanted` is one valid pollfd, and the count is 1.
        unsafe { libc::poll(&raw mut wanted, 1, milliseconds) == 1 }
    }

    #[test]
    fn it_is_readable_from_set_to_clear() {
        let event = EventFd::new().unwrap();
        assert!(!is_readable(event.descriptor()));
        event.set();
        event.set();
        assert!(is_readable_within(event.descriptor(), 30_000));
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
        // Nor where the host takes the number between the check and the call.
        set_timer(event.descriptor(), 1);
        set_timer(event.descriptor(), 0);
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"");
        // The host's own file may be an event, too.
        // SAFETY: the call takes no pointers and only opens a new descriptor.
        let hosts = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        // SAFETY: both are open. `other` owns the second, and must notice that it was replaced.
        unsafe { libc::dup2(hosts, other.descriptor()) };
        other.set();
        assert!(!is_readable(hosts));
        for fd in [event.descriptor(), other.descriptor(), hosts] {
            // SAFETY: the test opened these, and nothing else closes them.
            unsafe { libc::close(fd) };
        }
    }
}
