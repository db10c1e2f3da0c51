//! The name this machine gives itself.

/// The longest name that is asked for, in bytes: Linux has none longer than 64.
const NAME_MAX: usize = 256;

/// The host name as the kernel has it, in this process's namespace; None where there is none, or
/// where it is no text.
pub fn host_name() -> Option<String> {
    let mut name = [0u8; NAME_MAX];
    // SAFETY: the pointer and the length are those of `name`, which is alive and not borrowed
    // otherwise during the call; bytes may be written to a `[u8]` as they come.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    // A name cut short need not be terminated.
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
