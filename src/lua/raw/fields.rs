//! Fields of Lua tables by name, without metamethods.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

/// Pushes a string.
///
/// # Safety
///
/// `state` is running a C function with a free slot. May raise: the frames between this and Lua have no
/// destructor to run.
pub(super) unsafe fn push_text(state: *mut lua_State, text: &str) {
    // SAFETY: Lua copies the bytes, and the caller provides the slot.
    unsafe {
        ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
    }
}

/// Pops the value on top and assigns it to a field of the table at `table`, without metamethods.
///
/// # Safety
///
/// `state` is running a C function with two free slots; `table` is the index of a table. May raise: the
/// frames between this and Lua have no destructor to run.
pub(in crate::lua) unsafe fn set_field(state: *mut lua_State, table: c_int, name: &str) {
    // SAFETY: the caller provides table and slots, and this frame owns nothing.
    unsafe {
        let table = ffi::lua_absindex(state, table);
        push_text(state, name);
        ffi::lua_insert(state, -2);
        ffi::lua_rawset(state, table);
    }
}

/// Pushes the value of a field of the table at `table`, without metamethods.
///
/// # Safety
///
/// `state` is running a C function with two free slots; `table` is the index of a table. May raise: the
/// frames between this and Lua have no destructor to run.
pub(in crate::lua) unsafe fn get_field(state: *mut lua_State, table: c_int, name: &str) {
    // SAFETY: the caller provides table and slots, and this frame owns nothing.
    unsafe {
        let table = ffi::lua_absindex(state, table);
        push_text(state, name);
        ffi::lua_rawget(state, table);
    }
}

/// Makes room for `slots` values on the stack, or raises Lua's memory error. `luaL_checkstack` would
/// report a stack overflow also where memory is what is missing. A real overflow is not expected: Lua's
/// limit is a million slots.
///
/// # Safety
///
/// `state` is running a C function with a free slot, and the frames between it and Lua have no
/// destructor to run.
pub(in crate::lua) unsafe fn make_room(state: *mut lua_State, slots: c_int) {
    // SAFETY: `lua_checkstack` leaves the stack as it was. Lua keeps the text of its memory error in
    // every state, so that pushing it allocates nothing.
    unsafe {
        if ffi::lua_checkstack(state, slots) == 0 {
            ffi::lua_pushstring(state, c"not enough memory".as_ptr());
            ffi::lua_error(state);
        }
    }
}
