//! Fields of Lua tables by name, without metamethods.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

/// Pushes a text.
///
/// # Safety
///
/// As of [`set_field`].
pub(super) unsafe fn push_text(state: *mut lua_State, text: &str) {
    // SAFETY: as of `set_field`; Lua copies the bytes.
    unsafe {
        ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
    }
}

/// Takes the value on top as the field of the table at `table`, without metamethods.
///
/// # Safety
///
/// Within a function that Lua called, with two stack slots left; may raise.
pub(in crate::lua) unsafe fn set_field(state: *mut lua_State, table: c_int, name: &str) {
    // SAFETY: as of this function.
    unsafe {
        let table = ffi::lua_absindex(state, table);
        push_text(state, name);
        ffi::lua_insert(state, -2);
        ffi::lua_rawset(state, table);
    }
}

/// Pushes the field of the table at `table`, without metamethods.
///
/// # Safety
///
/// As of [`set_field`].
pub(in crate::lua) unsafe fn get_field(state: *mut lua_State, table: c_int, name: &str) {
    // SAFETY: as of this function.
    unsafe {
        let table = ffi::lua_absindex(state, table);
        push_text(state, name);
        ffi::lua_rawget(state, table);
    }
}
