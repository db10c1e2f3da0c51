//! The C surface: the functions of `include/nauthilus_backend.h`, which documents them.
//!
//! Each function checks its pointers, calls one function of the engine and converts the answer.
//! A mistake of the caller's, or a panic in this library, becomes a [`Status`] and a reason.
//!
//! | file | what it is |
//! |---|---|
//! | `status.rs` | the statuses, and `exported!`, which defines a function of the header |
//! | `text.rs` | strings and arrays of strings, from C and to C |
//! | `handle.rs` | reference-counted handles |
//! | `result.rs`, `attribute.rs`, `context.rs` | results and request contexts |
//! | `servers.rs`, `check.rs` | configuration, the list of alive servers, checks |
//! | `routing.rs` | which server a user belongs on |
//! | `bindings.rs` | changes of users' bindings in the store, by hosts and operators |
//! | `no_lua.rs` | the functions of `lua::bridge` in a library built without Lua: each refuses |
//!
//! # Safety
//!
//! The header asks the same of the caller of every function, and `exported!` relies on it: a pointer to a
//! handle is null or was returned by this copy of the library and has a reference left; an out parameter is
//! null or may be written; a pointer with a size is null or has that many bytes, or elements (whose own
//! pointers are null or have their sizes), which nobody changes during the call. A comment that ends in
//! "(header)" relies on it as well.

mod attribute;
mod bindings;
mod check;
mod context;
pub(crate) mod handle;
#[cfg(not(feature = "_lua"))]
mod no_lua;
mod owned_string;
mod result;
mod routing;
mod servers;
pub(crate) mod status;
pub(crate) mod text;

use crate::sys::copies;

/// `NAUTHILUS_BACKEND_ABI_VERSION`, which the build script reads from the header.
const ABI_VERSION: u32 = parse(env!("NAUTHILUS_BACKEND_ABI_VERSION"));

const fn parse(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nauthilus_backend_abi_version() -> u32 {
    ABI_VERSION
}

#[unsafe(no_mangle)]
extern "C" fn nauthilus_backend_holds_engine() -> i32 {
    i32::from(copies::holds_engine())
}
