//! A descriptor that becomes readable at a given time.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::own_descriptor::OwnDescriptor;

/// A timerfd of `CLOCK_MONOTONIC`. Dropping it closes the descriptor, unless the host has closed it
/// and the number may mean another file.
#[derive(Debug)]
pub struct Timer(OwnDescriptor);

impl Timer {
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: the call takes no pointers and only opens a new descriptor.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnDescriptor::adopt(fd).map(Self)
    }

    /// Makes the descriptor readable from the time `monotonic_ns` on (nanoseconds of
    /// `CLOCK_MONOTONIC`), and not before.
    ///
    /// # Errors
    /// The descriptor is no timer any more, because the host has closed it.
    pub fn set(&self, monotonic_ns: u64) -> io::Result<()> {
        // A time of 0 would turn the timer off.
        self.set_raw(monotonic_ns.max(1))
    }

    /// Turns the timer off. The descriptor is no longer readable.
    ///
    /// # Errors
    /// As for [`Timer::set`].
    pub fn stop(&self) -> io::Result<()> {
        self.set_raw(0)
    }

    /// Whether the number still means the timer's descriptor.
    pub fn is_ours(&self) -> bool {
        self.0.is_ours()
    }

    pub(super) fn descriptor(&self) -> &OwnDescriptor {
        &self.0
    }

    /// Does nothing to a file of another kind.
    fn set_raw(&self, at: u64) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let most = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        // SAFETY: every field of an `itimerspec` is an integer, so all zeros are a valid value. A zero
        // `it_interval` means that the timer does not repeat.
        let mut once: libc::itimerspec = unsafe { std::mem::zeroed() };
        once.it_value.tv_sec = most(at / SECOND) as libc::time_t;
        once.it_value.tv_nsec = most(at % SECOND) as libc::c_long;
        // SAFETY: the call reads `once`, which is initialised; null means that the former value is
        // not wanted. A descriptor that is no timer is an error.
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

    /// Acts as a host that closes a descriptor of ours and then opens a file of its own, which
    /// gets the same number.
    pub fn replace(fd: RawFd, by: &impl AsRawFd) {
        crate::sys::own_descriptor::testing::replace(fd, by);
    }
}
