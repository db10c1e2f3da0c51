//! The C surface: the functions of `include/nauthilus_backend.h`, which documents them.
//!
//! Thin: each checks its pointers, calls one function of the engine and converts the answer.
//! What a C caller can do wrong becomes a [`Status`] and a reason; a panic does too.
//!
//! | file | what it is |
//! |---|---|
//! | `status.rs` | the statuses, and [`guard`](status::guard), through which every function goes |
//! | `text.rs` | strings and arrays of strings, going in and coming out |
//! | `handle.rs` | reference-counted handles |
//! | `result.rs`, `attribute.rs`, `context.rs` | results and request contexts |
//! | `servers.rs`, `check.rs` | configuration, the list of alive servers, checks |
//! | `no_lua.rs` | what answers for `lua::bridge` in the library without Lua |
//!
//! # Safety
//!
//! Every function relies on the same promises of its caller, which the header makes: a pointer
//! to a handle is null or one that this copy of the library gave out and that has a reference
//! left; an out parameter is null or may be written; a pointer with a length is null or has
//! that many bytes, or elements, which nobody changes during the call.

mod attribute;
mod check;
mod context;
pub(crate) mod handle;
#[cfg(not(feature = "_lua"))]
mod no_lua;
mod owned_string;
mod result;
mod servers;
pub(crate) mod status;
pub(crate) mod text;

use crate::sys::copies;

/// What the header calls `NAUTHILUS_BACKEND_ABI_VERSION`, read from there by the build script.
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
