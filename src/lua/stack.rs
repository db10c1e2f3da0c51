//! Room on the stack of a Lua state.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

/// Makes room for `SLOTS` values on the stack; returns whether there is. Raises no error, which `lua_checkstack` of
/// Lua 5.1 and of older versions of LuaJIT does if it has no memory, in LuaJIT also if the stack is full. May use one
/// slot that Lua keeps in reserve, and run a step of the garbage collector.
///
/// # Safety
///
/// `state` is a valid state that this thread may use.
pub(super) unsafe fn has_room<const SLOTS: c_int>(state: *mut lua_State) -> bool {
    const { assert!(SLOTS < ffi::LUA_MINSTACK) };
    // SAFETY: the caller guarantees a valid state.
    unsafe { has_reserved(state) && ffi::lua_checkstack(state, SLOTS) != 0 }
}

/// Makes room in a protected call: a call of a C function reserves `LUA_MINSTACK` slots above its arguments, and the
/// stack keeps that size.
///
/// # Safety
///
/// `state` is a valid state that this thread may use.
#[cfg(any(feature = "lua51", feature = "luajit"))]
unsafe fn has_reserved(state: *mut lua_State) -> bool {
    unsafe extern "C-unwind" fn nothing(_: *mut lua_State) -> c_int {
        0
    }
    // SAFETY: the caller guarantees a valid state. The call raises no error, and uses slots that Lua keeps in reserve;
    // an error leaves its message on the stack.
    unsafe {
        if ffi::lua_cpcall(state, nothing, std::ptr::null_mut()) == ffi::LUA_OK {
            return true;
        }
        ffi::lua_pop(state, 1);
        false
    }
}

/// `lua_checkstack` of the other Luas raises no error.
///
/// # Safety
///
/// None. It is unsafe as the one above is.
#[cfg(not(any(feature = "lua51", feature = "luajit")))]
unsafe fn has_reserved(_: *mut lua_State) -> bool {
    true
}
