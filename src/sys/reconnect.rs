//! Ends a TCP connection so that its socket can be used for the next one.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Ends a TCP connection with a reset, as closing a socket with `SO_LINGER` of 0 s does. The
/// socket is then unconnected and keeps its options (connect(2), `AF_UNSPEC`).
///
/// # Errors
/// The system's error. The socket must then be closed: its state is unknown.
pub fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    // SAFETY: `nowhere` is an initialised sockaddr of the given length, and the call only reads
    // it; the descriptor is open for as long as `socket` is borrowed.
    let done = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const nowhere,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn a_connection_ends_with_a_reset_and_another_one_follows() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            socket.connect(&address.into()).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            disconnect(&socket).unwrap();
            let error = peer.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
