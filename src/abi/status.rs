//! The status and the reason that a call returns.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::owned_string::{self, OwnedString};
use crate::sys::cancellation::uncancelled;

/// A status that C passes in: it may be any number.
type StatusCode = i32;

/// `nauthilus_backend_status`. A number keeps its meaning for ever: it is part of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Status {
    Ok = 0,
    InvalidArgument = 1,
    NotFound = 2,
    OutOfRange = 3,
    Refused = 4,
    Configuration = 5,
    NotConfigured = 6,
    CheckFailed = 7,
    Timeout = 8,
    System = 9,
    OtherCopy = 10,
    #[cfg_attr(feature = "_lua", expect(dead_code))]
    NoLua = 11,
    #[cfg_attr(not(feature = "_lua"), expect(dead_code))]
    NotLoaded = 12,
    #[cfg_attr(not(feature = "_lua"), expect(dead_code))]
    WrongLuaValue = 13,
    #[cfg_attr(not(feature = "_lua"), expect(dead_code))]
    LuaError = 14,
    Internal = 15,
    NoRoute = 16,
    Pending = 17,
    NoStore = 18,
    StoreUnavailable = 19,
}

/// Why a call failed: the status, and a reason of one line for a person.
pub(crate) struct Failure {
    status: Status,
    reason: String,
}

impl Failure {
    pub(crate) fn new(status: Status, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, reason)
    }

    /// There is no server for a user.
    pub(crate) fn no_route(reason: &str) -> Self {
        Self::new(Status::NoRoute, reason)
    }

    pub(crate) fn is(&self, status: Status) -> bool {
        self.status == status
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

/// The outcome of the work of an exported function.
pub(crate) type Done = Result<(), Failure>;

/// Runs the work of an exported function. A failure or a panic becomes a status and a reason: a
/// panic that unwound into C would abort the host. The thread is not cancelled meanwhile: see
/// [`uncancelled`].
///
/// # Safety
///
/// `reason` is null or may be written.
pub(crate) unsafe fn guard(reason: *mut OwnedString, work: impl FnOnce() -> Done) -> Status {
    let failure = match uncancelled(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            // Not dropped: the payload's destructor could panic again, outside `catch_unwind`.
            std::mem::forget(panic);
            Failure::new(Status::Internal, "internal error: a defect of this library")
        }
    };
    if !reason.is_null() {
        // SAFETY: not null, so it may be written, by this function's contract.
        unsafe { reason.write(owned_string::give(one_line(&failure.reason).as_bytes())) };
    }
    failure.status
}

/// Defines an exported function of the header. The macro adds the last parameter, `reason`, and the result,
/// a [`Status`]. The block is the body: it returns [`Done`] and runs under [`guard`], which stops panics.
///
/// The header obliges callers to pass valid pointers; the documentation of `abi` lists what that means.
/// Relying on it, the body may use the functions of `handle`, `text` and `status` on its parameters, and
/// write to each out parameter that `out` has checked.
macro_rules! exported {
    (fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) -> Done $work:block) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            $($parameter: $kind,)*
            reason: *mut $crate::abi::text::OwnedString,
        ) -> $crate::abi::status::Status {
            // SAFETY: the header asks of the caller that pointers to handles are null or have a reference
            // left, that pointers with a size are null or have it, and that out parameters and `reason` are
            // null or may be written.
            unsafe { $crate::abi::status::guard(reason, || -> $crate::abi::status::Done { $work }) }
        }
    };
}
pub(super) use exported;

/// `text` with its control characters escaped: a reason may quote the caller's input, for example
/// a path, and a line break in it would forge a line of the host's log.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Runs work that returns no status. A panic is caught and ignored, since C cannot be told of it.
pub(crate) fn guard_release(work: impl FnOnce()) {
    if let Err(panic) = uncancelled(|| catch_unwind(AssertUnwindSafe(work))) {
        std::mem::forget(panic);
    }
}

/// An out parameter that is not null.
///
/// # Errors
///
/// `parameter` is null; `name` is its name in the header.
pub(crate) fn out<T>(name: &str, parameter: *mut T) -> Result<*mut T, Failure> {
    if parameter.is_null() {
        return Err(Failure::invalid(format!(
            "{name}: a pointer to write to expected, got null"
        )));
    }
    Ok(parameter)
}

#[unsafe(no_mangle)]
extern "C" fn nauthilus_backend_status_text(status: StatusCode) -> *const c_char {
    let text: &'static CStr = match status {
        0 => c"success",
        1 => c"invalid argument",
        2 => c"not there",
        3 => c"index out of range",
        4 => c"neither an address nor a host name, or an attribute that cannot become a response header",
        5 => c"wrong configuration",
        6 => c"not configured",
        7 => c"the check failed",
        8 => c"timed out",
        9 => c"the system refused a thread, a descriptor, shared memory or access to a file",
        10 => c"another copy of this library has the engine of this process",
        11 => c"this library was built without Lua",
        12 => c"the Lua state has not loaded this module",
        13 => c"the Lua value is not of the class expected",
        14 => c"Lua raised an error",
        15 => c"internal error",
        16 => c"no server for this user",
        17 => c"not done yet",
        18 => c"no store for bindings is configured",
        19 => c"the store for bindings does not answer",
        _ => c"unknown status",
    };
    text.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    fn failing(reason: *mut OwnedString, work: impl FnOnce() -> Done) -> Status {
        // SAFETY: the tests pass null or a string of their own.
        unsafe { guard(reason, work) }
    }

    #[test]
    fn a_panic_becomes_a_status() {
        let status = failing(ptr::null_mut(), || panic!("on purpose"));
        assert_eq!(status, Status::Internal);
        guard_release(|| {
            std::panic::panic_any(());
        });
    }

    #[test]
    fn a_reason_is_given_on_failure_only() {
        let mut reason = owned_string::give(b"");
        owned_string::release(&mut reason);
        assert_eq!(failing(&raw mut reason, || Ok(())), Status::Ok);
        assert!(reason.is_empty());
        let status = failing(&raw mut reason, || Err(Failure::invalid("why")));
        assert_eq!(status, Status::InvalidArgument);
        assert!(!reason.is_empty());
        owned_string::release(&mut reason);
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(one_line("a\0b\nc\u{e4}"), "a\\u{0}b\\nc\u{e4}");
    }

    #[test]
    fn every_status_has_a_text_of_its_own() {
        let text = |status| {
            // SAFETY: the function returns a C string that lives for ever.
            unsafe { CStr::from_ptr(nauthilus_backend_status_text(status)) }
        };
        let last = Status::StoreUnavailable as i32;
        for status in 0..=last {
            assert_ne!(text(status), text(-1), "{status}");
        }
        assert_eq!(text(last + 1), text(-1));
    }
}
