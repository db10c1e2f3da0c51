//! The user who runs this process.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

/// The most bytes that an entry of the system's users may take.
const ENTRY_MAX: usize = 1024 * 1024;

/// The number of the user.
pub fn id() -> u32 {
    // SAFETY: the call takes nothing, and cannot fail.
    unsafe { libc::getuid() }
}

/// The name of the user. None if the system knows none, or if it is not UTF-8.
pub fn name() -> Option<String> {
    let mut buffer: Vec<u8> = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = ptr::null_mut();
        // SAFETY: all three pointers are to memory of this function that the call may write, and the
        // length is that of the buffer.
        let failed = unsafe {
            libc::getpwuid_r(
                id(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        match failed {
            libc::ERANGE if buffer.len() < ENTRY_MAX => buffer.resize(buffer.len() * 2, 0),
            0 if !found.is_null() => {
                // SAFETY: the call has found an entry, so it has filled `entry` and pointed `found` to
                // it. Its name ends with a NUL within the buffer, which lives until the name is copied.
                let name = unsafe { CStr::from_ptr((*found).pw_name) };
                return name.to_str().ok().map(str::to_owned);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_user_that_the_system_knows() {
        let run = |option: &str| {
            let done = std::process::Command::new("id")
                .arg(option)
                .output()
                .unwrap();
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(id().to_string(), run("-u"));
        // Without an entry `id -un` prints the number.
        let expected = Some(run("-un")).filter(|name| *name != run("-u"));
        assert_eq!(name(), expected);
    }
}
