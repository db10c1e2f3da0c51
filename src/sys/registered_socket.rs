//! Registers sockets with the runtime, which then reports when they are ready.

use std::io;

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::relay::halt_if_lost;

/// Registers a socket with the current runtime.
///
/// # Errors
/// The runtime or the kernel cannot register another descriptor. The socket is closed then.
pub fn register(socket: Socket, interest: Interest) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the descriptor must stay open, and the same, while it is registered. The `AsyncFd`
    // owns the `Socket`, which owns the descriptor and closes it only when dropped.
    let registered = unsafe { AsyncFd::register_with_interest(socket, interest) };
    registered.map_err(|refused| {
        // Dropping `refused` closes the socket's number. If the host has closed the socket, the number may be that of a
        // file of the host's, so this thread must not go on.
        halt_if_lost();
        refused.into()
    })
}
