//! A descriptor that becomes readable at a given time.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::own_descriptor::OwnDescriptor;

/// A timerfd of `CLOCK_MONOTONIC`, closed when dropped if it is still ours then.
#[derive(Debug)]
pub struct Timer(OwnDescriptor);

impl Timer {
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: makes a new descriptor.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnDescriptor::adopt(fd).map(Self)
    }

    /// Makes it readable once that time has come, and not before.
    ///
    /// # Errors
    /// Where the descriptor is no timer of ours any more: a host may close what it does not know.
    pub fn set(&self, monotonic_ns: u64) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        // All zero would be never.
        let at = monotonic_ns.max(1);
        let most = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        // SAFETY: all-zero is a valid itimerspec: no interval.
        let mut once: libc::itimerspec = unsafe { std::mem::zeroed() };
        once.it_value.tv_sec = most(at / SECOND) as libc::time_t;
        once.it_value.tv_nsec = most(at % SECOND) as libc::c_long;
        // SAFETY: `once` is valid to be read, and no former value is asked for. A descriptor that
        // is no timer is an error.
        let set = unsafe {
            libc::timerfd_settime(
                self.0.raw(),
                libc::TFD_TIMER_ABSTIME,
                &raw const once,
                std::ptr::null_mut(),
            )
        };
        if set == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.raw()
    }
}

#[cfg(test)]
pub mod testing {
    use std::os::fd::{AsRawFd, RawFd};

    /// As a host does that closes what it does not know, and then opens something of its own.
    pub fn replace(fd: RawFd, by: &impl AsRawFd) {
        crate::sys::own_descriptor::testing::replace(fd, by);
    }
}
