//! An address that the C bridge hands to a native. Not a light userdata: LuaJIT may need memory to
//! push one, and raises where it has none, which outside a protected call ends the host.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

thread_local! {
    static HANDED: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

/// Runs `call`, a protected call of Lua, whose native takes the address with [`take`].
pub(in crate::lua) fn while_handed<T>(address: *mut c_void, call: impl FnOnce() -> T) -> T {
    HANDED.set(address);
    let result = call();
    HANDED.set(ptr::null_mut());
    result
}

/// The address that was handed to the native that runs; null where none was, or it was taken.
pub(in crate::lua) fn take() -> *mut c_void {
    HANDED.replace(ptr::null_mut())
}
