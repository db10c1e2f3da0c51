//! Strings, and arrays of strings, from C and to C.

use std::ffi::c_char;
use std::slice;

use super::owned_string::release;
pub(crate) use super::owned_string::{OwnedString, give, terminated};
use super::status::{Failure, guard_release};
use crate::engine::request::result::Bytes;

/// `nauthilus_backend_view`: bytes that the holder of the view does not own.
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
    /// A view of text that [`terminated`] made. Its size does not count the NUL.
    pub(crate) fn of(terminated: &[u8]) -> Self {
        Self {
            data: terminated.as_ptr().cast(),
            size: terminated.len().saturating_sub(1),
        }
    }

    /// # Errors
    ///
    /// See [`bytes`].
    ///
    /// # Safety
    ///
    /// `data` is null or has `size` bytes, which nobody changes or frees during `'a`.
    pub(crate) unsafe fn bytes<'a>(self, name: &str) -> Result<&'a [u8], Failure> {
        // SAFETY: `data` is null or has `size` bytes, by this function's contract.
        unsafe { bytes(name, self.data, self.size) }
    }
}

/// The bytes at `data`. `name` is the parameter's name, for errors.
///
/// # Errors
///
/// `data` is null and `size` is not 0, or `size` is larger than an object in memory can be.
///
/// # Safety
///
/// `data` is null or has `size` bytes, which nobody changes or frees during `'a`.
pub(crate) unsafe fn bytes<'a>(
    name: &str,
    data: *const c_char,
    size: usize,
) -> Result<&'a [u8], Failure> {
    // SAFETY: `data` is null or has `size` bytes, by this function's contract.
    unsafe { elements(name, data.cast(), size) }
}

/// Copies of the texts at `views`. `name` is the parameter's name, for errors.
///
/// # Errors
///
/// See [`bytes`]: the array, or one of the texts.
///
/// # Safety
///
/// `views` is null or has `count` elements; each element is null or has its number of bytes;
/// nobody changes or frees any of them during the call.
pub(crate) unsafe fn list(
    name: &str,
    views: *const View,
    count: usize,
) -> Result<Vec<Bytes>, Failure> {
    // SAFETY: `views` is null or has `count` elements, by this function's contract.
    let views = unsafe { elements(name, views, count) }?;
    let copy = |(index, view): (usize, &View)| {
        // SAFETY: each view is null or has its number of bytes, by this function's contract.
        let text = unsafe { view.bytes(&format!("{name}[{index}]")) }?;
        Ok(text.into())
    };
    views.iter().enumerate().map(copy).collect()
}

/// The array at `start`. `name` is the parameter's name, for errors.
///
/// # Errors
///
/// `count` is not 0, and `start` is null or misaligned, or the array would be larger than an
/// object in memory can be.
///
/// # Safety
///
/// `start` is null or misaligned, or has `count` elements, which nobody changes or frees during
/// `'a`.
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
            "{name}: an aligned array that fits into memory expected, got {count} elements"
        )));
    }
    // SAFETY: null, misaligned and oversized arrays are refused above, so `start` has `count`
    // elements that stay as they are during `'a`, by this function's contract.
    Ok(unsafe { slice::from_raw_parts(start, count) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_string_release(string: *mut OwnedString) {
    // SAFETY: null, or a string that the caller owns and that no other thread uses (header).
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
        // SAFETY: `elements` reads nothing; the array that it accepts is `one`, which lives.
        unsafe {
            assert!(elements("x", ptr::null::<u64>(), 1).is_err());
            assert!(elements("x", ptr::null::<u64>(), 0).is_ok());
            assert!(elements("x", one.as_ptr(), usize::MAX).is_err());
            assert!(elements("x", one.as_ptr().byte_add(1), 1).is_err());
            assert!(elements("x", one.as_ptr(), 1).is_ok());
        }
    }
}
