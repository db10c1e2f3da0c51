//! Connections from a given address without a port of their own.

use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};

/// Has a socket that is bound to an address alone get its port when it connects: then the port
/// need only be free towards that peer, as with a socket that is not bound at all. Where the
/// system refuses (Linux before 4.2), ports are used up sooner, no more.
pub fn choose_on_connect(socket: &impl AsFd) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the option is read from
    // `on`, whose size is given.
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
