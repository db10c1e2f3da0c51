//! Other processes.

/// Whether a process of this id exists, also one that has ended and was not waited for. A
/// process of another user does.
pub fn exists(pid: u64) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 is never sent; the call only asks.
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
