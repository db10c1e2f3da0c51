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
use super::timer::Timer;

/// An event. Dropping it closes the descriptor, unless the host has closed it and the number may
/// mean another file.
///
/// A forked child shares the timer with the process that made the event. So the child neither
/// sets nor clears it: that would wake the parent, or take its wake-up away.
#[derive(Debug)]
pub struct WakeEvent {
    timer: Timer,
    owner: u64,
}

impl WakeEvent {
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            timer: Timer::new()?,
            owner: incarnation(),
        })
    }

    pub fn descriptor(&self) -> i32 {
        self.timer.as_raw_fd()
    }

    /// Whether this process made the event, not one that it was forked from.
    pub fn is_of_this_process(&self) -> bool {
        self.owner == incarnation()
    }

    /// Whether the number still means this event's descriptor. The host may have closed it and
    /// opened a file of its own with that number.
    pub fn is_ours(&self) -> bool {
        self.timer.is_ours()
    }

    pub(super) fn own_descriptor(&self) -> &OwnDescriptor {
        self.timer.descriptor()
    }

    /// Makes the descriptor readable until it is cleared. The timer's interrupt does that, usually within
    /// a microsecond. Does nothing in a forked child of the process that made the event, or if the host
    /// has closed the descriptor.
    pub fn set(&self) {
        if self.is_usable() {
            // The time 1 ns of `CLOCK_MONOTONIC` has passed on every machine, so the timer expires
            // at once. An error means that the host has closed the descriptor meanwhile.
            let _ = self.timer.set(1);
        }
    }

    /// Makes the descriptor unreadable again. Does nothing where [`WakeEvent::set`] does nothing.
    pub fn clear(&self) {
        if self.is_usable() {
            // An error means that the host has closed the descriptor meanwhile.
            let _ = self.timer.stop();
        }
    }

    fn is_usable(&self) -> bool {
        self.is_ours() && self.is_of_this_process()
    }
}

impl AsRawFd for WakeEvent {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
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
        let event = WakeEvent::new().unwrap();
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
        let event = WakeEvent::new().unwrap();
        let other = WakeEvent::new().unwrap();
        replace(event.descriptor(), &file);
        event.set();
        event.clear();
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"");
        // The host may also get the number after `set` and `clear` have checked it: then the calls
        // that follow the check must fail and leave the file unchanged.
        assert!(event.timer.set(1).is_err() && event.timer.stop().is_err());
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"");
        // The host's file may be an eventfd: `set` must not make it readable.
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
