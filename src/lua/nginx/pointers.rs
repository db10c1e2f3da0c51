//! Pointers of nginx that are passed on and never looked into, and where its symbols are.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

/// `ngx_cycle_t`, `ngx_event_t` and other things that are only passed on.
pub(super) type Opaque = c_void;

/// A request: `ngx_http_request_t`. Its address is its own for as long as it is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request(pub(super) NonNull<Opaque>);

impl Request {
    /// From what LuaJIT's FFI shows as the address.
    pub(super) fn at(address: usize) -> Option<Self> {
        at(address).map(Self)
    }

    /// The one that a handler given to [`EndSymbols::at_end`] is called with, or that nginx's Lua
    /// module gives.
    pub(super) fn of_pointer(request: *mut Opaque) -> Option<Self> {
        NonNull::new(request).map(Self)
    }
}

// SAFETY: an address, given to nginx on its own thread only.
unsafe impl Send for Request {}

/// The pointer with this address, which was exposed before; none where it is null.
pub(super) fn at(address: usize) -> Option<NonNull<Opaque>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address))
}

/// The address of a symbol that this process has.
pub(super) fn address(name: &CStr) -> Option<NonNull<Opaque>> {
    let name: *const c_char = name.as_ptr();
    // SAFETY: `name` is NUL-terminated; looking a name up changes nothing.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name) })
}
