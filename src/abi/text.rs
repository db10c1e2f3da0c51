//! Strings, and arrays of them, across the boundary.

use std::ffi::c_char;
use std::slice;

use super::owned_string::release;
pub(crate) use super::owned_string::{OwnedString, give, terminated};
use super::status::{Failure, guard_release};
use crate::engine::request::result::Bytes;

/// `nauthilus_backend_view`: bytes that somebody else owns.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct View {
    data: *const c_char,
    size: usize,
}

/// `nauthilus_backend_setting`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct CheckSetting {
    pub(crate) key: View,
    pub(crate) value: View,
}

impl View {
    /// A view of text that [`terminated`] made: the NUL is not counted.
    pub(crate) fn of(terminated: &[u8]) -> Self {
        Self {
            data: terminated.as_ptr().cast(),
            size: terminated.len().saturating_sub(1),
        }
    }

    /// # Errors
    ///
    /// As of [`bytes`].
    ///
    /// # Safety
    ///
    /// As of [`bytes`].
    pub(crate) unsafe fn bytes<'a>(self, name: &str) -> Result<&'a [u8], Failure> {
        // SAFETY: as of this function.
        unsafe { bytes(name, self.data, self.size) }
    }
}

/// The bytes that `name` points to.
///
/// # Errors
///
/// Where the pointer is null and the size is not 0, or the size is none.
///
/// # Safety
///
/// As the module says; the caller chooses a lifetime within the call.
pub(crate) unsafe fn bytes<'a>(
    name: &str,
    data: *const c_char,
    size: usize,
) -> Result<&'a [u8], Failure> {
    // SAFETY: as of this function.
    unsafe { elements(name, data.cast(), size) }
}

/// The texts that `name` points to.
///
/// # Errors
///
/// As of [`bytes`], for the array and for each text.
///
/// # Safety
///
/// As of [`bytes`].
pub(crate) unsafe fn list(
    name: &str,
    views: *const View,
    count: usize,
) -> Result<Vec<Bytes>, Failure> {
    // SAFETY: as of this function.
    let views = unsafe { elements(name, views, count) }?;
    let copy = |(index, view): (usize, &View)| {
        // SAFETY: as of this function.
        let text = unsafe { view.bytes(&format!("{name}[{index}]")) }?;
        Ok(text.into())
    };
    views.iter().enumerate().map(copy).collect()
}

/// The array that `name` points to.
///
/// # Errors
///
/// Where the pointer is null and the count is not 0, or there can be no such array.
///
/// # Safety
///
/// As of [`bytes`].
pub(crate) unsafe fn elements<'a, T>(
    name: &str,
    start: *const T,
    count: usize,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if start.is_null() {
        return Err(Failure::invalid(format!(
            "{name}: a pointer to {count} expected, got null"
        )));
    }
    let fits = count
        .checked_mul(size_of::<T>())
        .is_some_and(|size| isize::try_from(size).is_ok());
    if !fits || !start.is_aligned() {
        return Err(Failure::invalid(format!(
            "{name}: an array in memory expected, got one of {count}"
        )));
    }
    // SAFETY: as of this function; null, too long and misaligned ones are refused above.
    Ok(unsafe { slice::from_raw_parts(start, count) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_string_release(string: *mut OwnedString) {
    // SAFETY: null, or a string of the caller's.
    if let Some(string) = unsafe { string.as_mut() } {
        guard_release(|| release(string));
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn what_cannot_be_an_array_is_refused() {
        let one = [0_u64];
        // SAFETY: nothing is read of what is refused.
        unsafe {
            assert!(elements("x", ptr::null::<u64>(), 1).is_err());
            assert!(elements("x", ptr::null::<u64>(), 0).is_ok());
            assert!(elements("x", one.as_ptr(), usize::MAX).is_err());
            assert!(elements("x", one.as_ptr().byte_add(1), 1).is_err());
            assert!(elements("x", one.as_ptr(), 1).is_ok());
        }
    }
}
