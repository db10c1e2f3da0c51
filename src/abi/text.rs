//! Strings, and arrays of them, across the boundary.

use std::ffi::c_char;
use std::{ptr, slice};

use super::status::{Failure, guard_release};
use crate::engine::request::result::Bytes;

/// `nauthilus_backend_view`: bytes that somebody else owns.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct View {
    data: *const c_char,
    size: usize,
}

/// `nauthilus_backend_string`: bytes that the caller owns, with a NUL behind them, in a block of
/// `size + 1` bytes; or nothing, where `data` is null.
#[repr(C)]
pub(crate) struct OwnedString {
    data: *const c_char,
    size: usize,
}

/// `nauthilus_backend_setting`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Setting {
    pub(crate) key: View,
    pub(crate) value: View,
}

impl OwnedString {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_null()
    }
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

/// A copy of `text` with a NUL behind it.
pub(crate) fn terminated(text: &[u8]) -> Box<[u8]> {
    let mut copy = Vec::with_capacity(text.len() + 1);
    copy.extend_from_slice(text);
    copy.push(0);
    copy.into_boxed_slice()
}

/// A copy of `text` for the caller.
pub(crate) fn give(text: &[u8]) -> OwnedString {
    let block = Box::into_raw(terminated(text));
    OwnedString {
        data: block.cast(),
        size: text.len(),
    }
}

/// Frees what [`give`] made, and empties it.
pub(crate) fn release(string: &mut OwnedString) {
    let data = std::mem::replace(&mut string.data, ptr::null());
    let size = std::mem::replace(&mut string.size, 0);
    if !data.is_null() {
        let block = ptr::slice_from_raw_parts_mut(data.cast_mut().cast::<u8>(), size + 1);
        // SAFETY: `give` made the block with this size and gave it away, and nobody else frees
        // it: a string is released once, and is empty afterwards.
        drop(unsafe { Box::from_raw(block) });
    }
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
    use super::*;

    #[test]
    fn a_string_given_is_what_was_asked_for_and_a_nul() {
        for text in [&b""[..], b"a", b"a\0b"] {
            let mut given = give(text);
            // SAFETY: `give` says so.
            let with_nul = unsafe { bytes("given", given.data, given.size + 1) };
            assert_eq!(with_nul.ok(), Some(&[text, b"\0"].concat()[..]));
            release(&mut given);
            release(&mut given);
        }
    }

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
