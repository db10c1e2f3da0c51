//! Whether another process exists; the root directory of this one.

use std::os::unix::fs::MetadataExt;

/// The root directory of this process, by device and inode. After a change of it a path means
/// another place, where a file that was opened before must be neither looked for nor created.
pub fn root_directory() -> Option<(u64, u64)> {
    let root = std::fs::metadata("/").ok()?;
    Some((root.dev(), root.ino()))
}

/// Whether a process with this id exists, of whichever user. One that has ended exists until its
/// parent has waited for it.
pub fn exists(pid: u64) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    if pid <= 0 {
        return false;
    }
    // SAFETY: with signal 0 the call sends nothing and only checks that the process exists.
    let asked = unsafe { libc::kill(pid, 0) };
    asked == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_exists_and_none_does_not() {
        assert!(exists(u64::from(std::process::id())));
        assert!(exists(1));
        assert!(!exists(0) && !exists(u64::MAX));
    }
}
