//! Standard error, without the lock that Rust keeps for it: a thread of the parent may have
//! held that when this process was forked.
//!
//! A host may close descriptor 2 and get the number for a file of its own, which no line must go
//! to. What was there when the module was first configured is standard error; what is there now
//! is, too, if it is what a log goes to: a terminal or `/dev/null`, a file opened for appending
//! (nginx does so), or what standard output goes to as well.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const STDERR: libc::c_int = libc::STDERR_FILENO;

/// Device and inode of what was there first, and whether there was anything.
static FIRST: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static KNOWN: AtomicBool = AtomicBool::new(false);

/// Whether the host is one that closes descriptors it does not know.
static CLOSES: AtomicBool = AtomicBool::new(false);

/// Takes what descriptor 2 is now for standard error, the first time that this is called in a
/// process or its parents.
pub fn remember() {
    if !KNOWN.swap(true, Ordering::AcqRel)
        && let Some(stat) = stat_of(STDERR)
    {
        let (device, inode) = identity(&stat);
        FIRST[0].store(device, Ordering::Release);
        FIRST[1].store(inode, Ordering::Release);
    }
}

/// The host has closed descriptors of ours: a file that is only opened for appending may be one
/// of its own from now on.
pub fn host_closes_descriptors() {
    CLOSES.store(true, Ordering::Release);
}

/// Whether a line of so many bytes can be written now without waiting for a reader.
pub fn has_room_for(bytes: usize) -> bool {
    let is_at_once = || {
        // A pipe that is ready has room for so much, and may have for no more.
        let is_pipe = stat_of(STDERR).is_some_and(|stat| is_kind(&stat, libc::S_IFIFO));
        !is_pipe || bytes <= libc::PIPE_BUF
    };
    is_standard_error() && is_at_once() && is_writable_within(0)
}

/// Writes all of it. Waits for a reader, also where the host has made the descriptor one that
/// does not wait.
///
/// # Errors
/// What the system says: nobody reads, a full disk. `NotConnected` where descriptor 2 is a file of
/// the host's by now.
pub fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    if !is_standard_error() {
        return Err(io::ErrorKind::NotConnected.into());
    }
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

fn is_standard_error() -> bool {
    remember();
    let Some(stat) = stat_of(STDERR) else {
        return false;
    };
    let first = (
        FIRST[0].load(Ordering::Acquire),
        FIRST[1].load(Ordering::Acquire),
    );
    // SAFETY: only reads the flags of the open file; a bad descriptor is an error.
    let flags = unsafe { libc::fcntl(STDERR, libc::F_GETFL) };
    let appends = flags >= 0 && flags & libc::O_APPEND != 0;
    identity(&stat) == first
        || is_kind(&stat, libc::S_IFCHR)
        || appends && !CLOSES.load(Ordering::Acquire)
        || stat_of(libc::STDOUT_FILENO).is_some_and(|out| identity(&out) == identity(&stat))
}

fn identity(stat: &libc::stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_kind(stat: &libc::stat, kind: libc::mode_t) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

fn stat_of(fd: libc::c_int) -> Option<libc::stat> {
    // SAFETY: all-zero is a valid stat to be filled in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for the call to fill in; a bad descriptor is an error.
    (unsafe { libc::fstat(fd, &raw mut stat) } == 0).then_some(stat)
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
