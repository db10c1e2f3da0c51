//! Connections from a given source address whose port the kernel chooses late.

use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};

/// Makes the kernel choose the port of a socket that is then bound to port 0 when it connects, not
/// when it is bound (`IP_BIND_ADDRESS_NO_PORT`). The port then needs to be free only for that peer,
/// as with an unbound socket. Where the system refuses the option (Linux before 4.2), connections
/// use up the local ports sooner; nothing else changes.
pub fn choose_on_connect(socket: &impl AsFd) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the call reads `on`, and
    // the length given is its size.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
}
