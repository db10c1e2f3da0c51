//! Being told when a socket can be read from or written to, or a timer's time has come.

use std::io;
use std::sync::Arc;

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::event::EventFd;
use super::timer::Timer;

/// Registers a socket with the runtime that this is called in.
///
/// # Errors
/// Where the runtime or the kernel has no room for one more.
pub fn of(socket: Socket, interest: Interest) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the descriptor must stay the same open one for as long as it is registered: a
    // `Socket` owns its own, and can neither change nor close it while it is borrowed.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}

/// Registers a timer likewise.
///
/// # Errors
/// As [`of`].
pub fn of_timer(timer: Timer) -> io::Result<AsyncFd<Timer>> {
    // SAFETY: the descriptor must stay the same open one for as long as it is registered: a
    // `Timer` owns its own, and can neither change nor close it while it is borrowed.
    unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }.map_err(io::Error::from)
}

/// Registers an event likewise; it is readable while it is set.
///
/// # Errors
/// As [`of`].
pub fn of_event(event: Arc<EventFd>) -> io::Result<AsyncFd<Arc<EventFd>>> {
    // SAFETY: the descriptor must stay the same open one for as long as it is registered: an
    // `EventFd` owns its own and closes it when dropped, which the `Arc` held here prevents.
    unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }.map_err(io::Error::from)
}
