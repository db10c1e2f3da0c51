//! Reference-counted handles.
//!
//! A handle is an `Arc` that C holds as a pointer; each reference of C's is one of its counts.

use std::sync::Arc;

use super::status::{Done, Failure, guard_release, out};
use crate::engine::request::context::SharedContext;
use crate::engine::request::result::SharedResult;

/// `nauthilus_backend_result`: one of possibly several handles of a result.
pub(crate) struct ResultHandle(pub(crate) SharedResult);

/// `nauthilus_backend_context`: one of possibly several handles of a context.
pub(crate) struct ContextHandle(pub(crate) SharedContext);

/// Writes a new handle with one reference.
///
/// # Errors
///
/// Where `parameter` is null.
///
/// # Safety
///
/// As `abi` says.
pub(crate) unsafe fn give<T>(name: &str, parameter: *mut *mut T, content: T) -> Done {
    let parameter = out(name, parameter)?;
    // SAFETY: as of this function.
    unsafe { parameter.write(Arc::into_raw(Arc::new(content)).cast_mut()) };
    Ok(())
}

/// What a handle stands for.
///
/// # Errors
///
/// Where it is null.
///
/// # Safety
///
/// As `abi` says; the caller chooses a lifetime within the call.
pub(crate) unsafe fn get<'a, T>(name: &str, handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: as of this function.
    unsafe { handle.as_ref() }
        .ok_or_else(|| Failure::invalid(format!("{name}: a handle expected, got null")))
}

/// One reference more.
///
/// # Errors
///
/// Where the handle is null.
///
/// # Safety
///
/// As `abi` says.
pub(crate) unsafe fn retain<T>(name: &str, handle: *const T) -> Done {
    // SAFETY: as of this function; `give` made the pointer from an `Arc`.
    unsafe {
        get(name, handle)?;
        Arc::increment_strong_count(handle);
    }
    Ok(())
}

/// One reference less; nothing for null.
///
/// # Safety
///
/// As `abi` says.
pub(crate) unsafe fn release<T>(handle: *const T) {
    if !handle.is_null() {
        guard_release(|| {
            // SAFETY: as of this function; `give` made the pointer from an `Arc`.
            unsafe { Arc::decrement_strong_count(handle) };
        });
    }
}
