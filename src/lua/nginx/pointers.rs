//! Opaque pointers of nginx, which are passed on and never dereferenced, and the lookup of its symbols.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

/// `ngx_cycle_t`, `ngx_event_t` and other types of nginx that are only passed on.
pub(super) type Opaque = c_void;

/// A request: `ngx_http_request_t`. Its address identifies it as long as it is processed; nginx may then
/// use the address for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request(pub(super) NonNull<Opaque>);

impl Request {
    /// The request at an address that the glue got from LuaJIT's FFI.
    pub(super) fn at(address: usize) -> Option<Self> {
        at(address).map(Self)
    }

    /// The request that a handler of [`EndSymbols::at_end`] is called with, or that nginx's Lua module
    /// returns.
    pub(super) fn of_pointer(request: *mut Opaque) -> Option<Self> {
        NonNull::new(request).map(Self)
    }
}

// SAFETY: it is only an address, and is passed to nginx on nginx's thread alone.
unsafe impl Send for Request {}

/// The pointer with this address, whose provenance C code has exposed; `None` for null.
pub(super) fn at(address: usize) -> Option<NonNull<Opaque>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address))
}

/// The address of a symbol in this process.
pub(super) fn address(name: &CStr) -> Option<NonNull<Opaque>> {
    let name: *const c_char = name.as_ptr();
    // SAFETY: `name` is NUL-terminated, and `dlsym` with `RTLD_DEFAULT` loads nothing.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name) })
}
