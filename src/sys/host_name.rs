//! The host name of this machine.

/// Room for the name and its NUL, in bytes. Linux's names have at most 64 bytes.
const NAME_MAX: usize = 256;

/// The kernel's host name in this process's UTS namespace. None if there is none, or if it is not
/// UTF-8.
pub fn host_name() -> Option<String> {
    let mut name = [0u8; NAME_MAX];
    // SAFETY: the pointer and the length are those of `name`, which the call may write.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    // POSIX does not promise a NUL behind a name that was truncated.
    let end = name.iter().position(|&b| b == 0)?;
    let name = name.get(..end)?.to_vec();
    (!failed).then(|| String::from_utf8(name).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_kernels() {
        let kernels = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(host_name().as_deref(), Some(kernels.trim_end()));
    }
}
