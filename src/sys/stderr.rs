//! Standard error, without the lock that Rust keeps for it: a thread of the parent may have
//! held that when this process was forked.

use std::io;

const STDERR: libc::c_int = libc::STDERR_FILENO;

/// Whether a line can be written now without waiting for a reader.
pub fn has_room() -> bool {
    is_writable_within(0)
}

/// Writes all of it. Waits for a reader, also where the host has made the descriptor one that
/// does not wait.
///
/// # Errors
/// What the system says: nobody reads, a full disk.
pub fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: writes the bytes of the slice.
        let wrote = unsafe { libc::write(STDERR, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(wrote) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => bytes = bytes.get(wrote..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        is_writable_within(-1);
                    }
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}

fn is_writable_within(milliseconds: libc::c_int) -> bool {
    let mut wanted = libc::pollfd {
        fd: STDERR,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut wanted, 1, milliseconds) > 0 }
}
