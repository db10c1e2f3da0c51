//! Registers timers and events with the runtime, which then reports when they are ready.

use std::io;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::event::WakeEvent;
use super::timer::Timer;

/// Registers a timer with the current runtime. It is readable once its time has come.
///
/// # Errors
/// The runtime or the kernel cannot register another descriptor.
pub fn of_timer(timer: Timer) -> io::Result<AsyncFd<Timer>> {
    // SAFETY: the descriptor must stay open, and the same, while it is registered. The `AsyncFd`
    // owns the `Timer`, which owns the descriptor and closes it only when dropped.
    unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }.map_err(io::Error::from)
}

/// Registers an event with the current runtime. It is readable while it is set.
///
/// # Errors
/// The runtime or the kernel cannot register another descriptor.
pub fn of_event(event: Arc<WakeEvent>) -> io::Result<AsyncFd<Arc<WakeEvent>>> {
    // SAFETY: the descriptor must stay open, and the same, while it is registered. The `AsyncFd`
    // owns an `Arc` of the `WakeEvent`, which owns the descriptor and closes it only when dropped.
    unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }.map_err(io::Error::from)
}
