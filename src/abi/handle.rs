//! Reference-counted handles.
//!
//! C holds a handle as the raw pointer of an `Arc`; each reference that C has is one strong count.

use std::sync::Arc;

use super::status::{Done, Failure, guard_release, out};
use crate::engine::request::context::SharedContext;
use crate::engine::request::result::SharedResult;

/// `nauthilus_backend_result`. Several handles may stand for one result.
pub(crate) struct ResultHandle(pub(crate) SharedResult);

/// `nauthilus_backend_context`. Several handles may stand for one context.
pub(crate) struct ContextHandle(pub(crate) SharedContext);

/// Exports the two functions that add and remove a reference of a handle.
macro_rules! reference_counted {
    ($retain:ident, $release:ident, $handle:ident: $kind:ty) => {
        $crate::abi::status::exported!(
            fn $retain($handle: *mut $kind) -> Done {
                $crate::abi::handle::retain(stringify!($handle), $handle)
            }
        );

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $release($handle: *mut $kind) {
            // SAFETY: the header asks of the caller that the handle is null or has a reference left.
            unsafe { $crate::abi::handle::release($handle) }
        }
    };
}
pub(super) use reference_counted;

/// Writes a new handle with one reference to `parameter`.
///
/// # Errors
///
/// `parameter` is null; `name` is its name in the header.
///
/// # Safety
///
/// `parameter` is null or may be written.
pub(crate) unsafe fn give<T>(name: &str, parameter: *mut *mut T, content: T) -> Done {
    let parameter = out(name, parameter)?;
    // SAFETY: `out` refused null; otherwise the caller lets it be written.
    unsafe { parameter.write(Arc::into_raw(Arc::new(content)).cast_mut()) };
    Ok(())
}

/// The content of a handle.
///
/// # Errors
///
/// `handle` is null; `name` is its name in the header.
///
/// # Safety
///
/// `handle` is null or points to a `T` that lives for all of `'a`.
pub(crate) unsafe fn get<'a, T>(name: &str, handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: null, or a `T` that lives for all of `'a`, by this function's contract.
    unsafe { handle.as_ref() }
        .ok_or_else(|| Failure::invalid(format!("{name}: a handle expected, got null")))
}

/// Adds a reference.
///
/// # Errors
///
/// `handle` is null; `name` is its name in the header.
///
/// # Safety
///
/// `handle` is null or came from [`give`] and has a reference left.
pub(crate) unsafe fn retain<T>(name: &str, handle: *const T) -> Done {
    // SAFETY: `get` refuses null; otherwise `give` made the pointer from an `Arc` that has a
    // reference left, so the `Arc` lives.
    unsafe {
        get(name, handle)?;
        Arc::increment_strong_count(handle);
    }
    Ok(())
}

/// Removes a reference, and frees the content with the last one. Does nothing for null.
///
/// # Safety
///
/// `handle` is null or came from [`give`] and has a reference left, which the caller gives up.
pub(crate) unsafe fn release<T>(handle: *const T) {
    if !handle.is_null() {
        guard_release(|| {
            // SAFETY: `give` made the pointer from an `Arc`, and the caller gives up one of its
            // references.
            unsafe { Arc::decrement_strong_count(handle) };
        });
    }
}
