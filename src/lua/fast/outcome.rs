//! The return values of functions for the FFI.

use std::ffi::c_int;

pub(in crate::lua) const DONE: c_int = 0;
/// Nothing was changed; the glue calls the native for the same purpose.
pub(in crate::lua) const NOT_HERE: c_int = -1;
/// Done, but not all response headers could be set: the glue sets those that changed.
pub(in crate::lua) const UNREPORTED: c_int = -2;
/// Nothing was changed: the request has no context yet, and it is not known that it may begin one.
pub(in crate::lua) const NOT_BEGUN: c_int = -3;
