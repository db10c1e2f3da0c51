//! Writes to standard error without the lock of Rust's `std::io::stderr`: a thread of the parent
//! may have held that lock during the fork, and a child that took it would then block for ever.
//!
//! A host may close descriptor 2 and later open a file of its own that gets this number. No log
//! line may go to such a file. Descriptor 2 counts as standard error if it is the file that it
//! was when the module was first configured, a character device (a terminal, `/dev/null`), a file
//! opened for appending (nginx's error log is), or the file that standard output goes to.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::own_descriptor::host_closes;

const STDERR: libc::c_int = libc::STDERR_FILENO;

/// Device and inode of the file that descriptor 2 was first; 0 and 0 where it was closed.
static FIRST: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// Whether `FIRST` has been determined.
static KNOWN: AtomicBool = AtomicBool::new(false);

/// Records the file that descriptor 2 is now as standard error. Only the first call in a process
/// and those it was forked from has an effect.
pub fn remember() {
    if !KNOWN.swap(true, Ordering::AcqRel)
        && let Some(stat) = stat_of(STDERR)
    {
        let (device, inode) = identity(&stat);
        FIRST[0].store(device, Ordering::Release);
        FIRST[1].store(inode, Ordering::Release);
    }
}

/// Whether a line of `bytes` bytes can be written now without waiting for a reader.
pub fn has_room_for(bytes: usize) -> bool {
    let is_at_once = || {
        // `poll` says that a pipe is writable when it has room for `PIPE_BUF` bytes; it may not
        // have room for more.
        let is_pipe = stat_of(STDERR).is_some_and(|stat| is_kind(&stat, libc::S_IFIFO));
        !is_pipe || bytes <= libc::PIPE_BUF
    };
    is_standard_error() && is_at_once() && is_writable_within(0)
}

/// Writes all bytes. Waits for a reader, even if the host has set `O_NONBLOCK` on the descriptor.
///
/// # Errors
/// The system's error, for example a pipe without a reader or a full disk. `NotConnected` where
/// descriptor 2 is closed or may be a file of the host's.
pub fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    if !is_standard_error() {
        return Err(io::ErrorKind::NotConnected.into());
    }
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length are those of `bytes`, which the call only reads.
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

fn is_standard_error() -> bool {
    remember();
    let Some(stat) = stat_of(STDERR) else {
        return false;
    };
    let first = (
        FIRST[0].load(Ordering::Acquire),
        FIRST[1].load(Ordering::Acquire),
    );
    // SAFETY: the call only reads the flags of the open file; a bad descriptor is an error.
    let flags = unsafe { libc::fcntl(STDERR, libc::F_GETFL) };
    let appends = flags >= 0 && flags & libc::O_APPEND != 0;
    identity(&stat) == first
        || is_kind(&stat, libc::S_IFCHR)
        // A host that closes descriptors may have closed this one, and log to another file with its number.
        || appends && !host_closes()
        || stat_of(libc::STDOUT_FILENO).is_some_and(|out| identity(&out) == identity(&stat))
}

fn identity(stat: &libc::stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_kind(stat: &libc::stat, kind: libc::mode_t) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

fn stat_of(fd: libc::c_int) -> Option<libc::stat> {
    // SAFETY: a `stat` holds only integers, for which all-zero is a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` has room for what the call writes; a bad descriptor is an error.
    (unsafe { libc::fstat(fd, &raw mut stat) } == 0).then_some(stat)
}

fn is_writable_within(milliseconds: libc::c_int) -> bool {
    let mut wanted = libc::pollfd {
        fd: STDERR,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: `wanted` is one valid pollfd, and the count is 1.
    unsafe { libc::poll(&raw mut wanted, 1, milliseconds) > 0 }
}
