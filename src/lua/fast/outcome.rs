//! What a function for the FFI answers; where it does not say otherwise, 0 is done.

use std::ffi::c_int;

pub(in crate::lua) const DONE: c_int = 0;
/// Nothing was changed: it is for the native of the same purpose.
pub(in crate::lua) const NOT_HERE: c_int = -1;
/// Done; the host still has to hear which response headers changed.
pub(in crate::lua) const UNREPORTED: c_int = -2;
/// Nothing was changed: the request has no context yet.
pub(in crate::lua) const NOT_BEGUN: c_int = -3;
