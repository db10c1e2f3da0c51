//! Strings that a C caller gets and must release.

use std::ffi::c_char;
use std::ptr;

/// `nauthilus_backend_string`: a block of `size + 1` bytes that the caller owns, the last one a
/// NUL; or no string, where `data` is null.
#[repr(C)]
pub(crate) struct OwnedString {
    data: *const c_char,
    size: usize,
}

impl OwnedString {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_null()
    }
}

/// A copy of `text`, followed by a NUL.
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

/// Frees a string that [`give`] made, and sets `data` to null, so that a second call does nothing.
pub(crate) fn release(string: &mut OwnedString) {
    let data = std::mem::replace(&mut string.data, ptr::null());
    let size = std::mem::replace(&mut string.size, 0);
    if !data.is_null() {
        let block = ptr::slice_from_raw_parts_mut(data.cast_mut().cast::<u8>(), size + 1);
        // SAFETY: `give` made the block with this size and gave up its ownership. Nobody else
        // frees it: `data` was set to null before.
        drop(unsafe { Box::from_raw(block) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_has_the_given_bytes_and_a_nul() {
        for text in [&b""[..], b"a", b"a\0b"] {
            let mut given = give(text);
            let data: *const u8 = given.data.cast();
            // SAFETY: `give` made a block of `size + 1` bytes, which is released below.
            let with_nul = unsafe { std::slice::from_raw_parts(data, given.size + 1) };
            assert_eq!(with_nul, &[text, b"\0"].concat()[..]);
            release(&mut given);
            release(&mut given);
        }
    }
}
