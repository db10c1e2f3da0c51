//! The classes of userdata: results and request contexts.

use std::ffi::{c_int, c_void};

use mlua::ffi::{self, lua_State};
use mlua::prelude::*;

use crate::engine::context::SharedContext;
use crate::engine::result::SharedResult;

/// Upvalues of each native.
pub(super) const RESULT_METATABLE: c_int = ffi::lua_upvalueindex(1);
pub(super) const CONTEXT_METATABLE: c_int = ffi::lua_upvalueindex(2);

/// A userdata's content. Empty once finalised: other finalisers may still reach it then.
pub(in crate::lua) type Content<T> = Option<T>;

/// Pushes a userdata that holds `handle`.
pub(super) unsafe fn push_userdata<T: Clone>(state: *mut lua_State, handle: &T, metatable: c_int) {
    // SAFETY: as of `push`. Lua's userdata are aligned for any type of ours. It has content
    // before it has the metatable that makes it one of ours and gives it a finaliser; between
    // the two nothing can raise. Cloning a handle counts a reference and cannot panic.
    unsafe {
        let block = new_userdata(state, size_of::<Content<T>>());
        block.cast::<Content<T>>().write(Some(handle.clone()));
        ffi::lua_pushvalue(state, metatable);
        ffi::lua_setmetatable(state, -2);
    }
}

/// `push_result(address of a SharedResult)` → result. For `bridge`: owns nothing, so that nothing
/// is lost where Lua has no memory.
///
/// # Safety
///
/// Called by Lua, with an address that is valid during the call.
pub(in crate::lua) unsafe extern "C-unwind" fn push_result(state: *mut lua_State) -> c_int {
    // SAFETY: as of this function; made by `Natives::function`, it has the upvalues.
    unsafe { push_borrowed::<SharedResult>(state, RESULT_METATABLE) }
}

/// `push_context(address of a SharedContext)` → context; as `push_result`.
///
/// # Safety
///
/// As of `push_result`.
pub(in crate::lua) unsafe extern "C-unwind" fn push_context(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { push_borrowed::<SharedContext>(state, CONTEXT_METATABLE) }
}

unsafe fn push_borrowed<T: Clone>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: as of the callers.
    unsafe {
        match ffi::lua_touserdata(state, 1).cast::<T>().as_ref() {
            Some(handle) => push_userdata(state, handle, metatable),
            None => ffi::lua_pushnil(state),
        }
    }
    1
}

/// `fill_results(array, count)`: puts `count` new results into `array`, from its index 1. For
/// what takes results from there without a call, see `fast`.
///
/// # Safety
///
/// As of `push_result`.
pub(in crate::lua) unsafe extern "C-unwind" fn fill_results(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { fill::<SharedResult>(state, RESULT_METATABLE) }
}

/// `fill_contexts(array, count)`: the same with new contexts.
///
/// # Safety
///
/// As of `push_result`.
pub(in crate::lua) unsafe extern "C-unwind" fn fill_contexts(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { fill::<SharedContext>(state, CONTEXT_METATABLE) }
}

unsafe fn fill<T: Default>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: as of the callers. The array is a table, so that nothing but want of memory
    // raises; no frame owns anything then: what is made belongs to its userdata at once. Making
    // it cannot panic.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            // The glue asks for few: any number it can mean is exact.
            for index in 1..=ffi::lua_tonumber(state, 2) as c_int {
                let block = new_userdata(state, size_of::<Content<T>>()).cast::<Content<T>>();
                block.write(None);
                ffi::lua_pushvalue(state, metatable);
                ffi::lua_setmetatable(state, -2);
                block.write(Some(T::default()));
                ffi::lua_rawseti(state, 1, index.into());
            }
        }
    }
    0
}

unsafe fn new_userdata(state: *mut lua_State, size: usize) -> *mut c_void {
    // SAFETY: as of `push`.
    unsafe {
        #[cfg(feature = "lua54")]
        return ffi::lua_newuserdatauv(state, size, 0);
        #[cfg(not(feature = "lua54"))]
        return ffi::lua_newuserdata(state, size);
    }
}
/// The finaliser of a class: drops the content. A second call finds none.
///
/// # Safety
///
/// Called by Lua. Upvalue 1 is the metatable of the class whose userdata hold `Content<T>`.
unsafe extern "C-unwind" fn finalise<T>(state: *mut lua_State) -> c_int {
    // SAFETY: `content` checks that argument 1 is of the class.
    unsafe {
        if let Some(content) = content::<T>(state, 1, ffi::lua_upvalueindex(1)) {
            drop((*content).take());
        }
    }
    0
}

/// The content of the userdata at `index`, if it is of the class with this metatable.
///
/// # Safety
///
/// `index` is an argument of the running C function, `metatable` an upvalue of it: the
/// metatable that only userdata holding `Content<T>` have.
pub(super) unsafe fn content<T>(
    state: *mut lua_State,
    index: c_int,
    metatable: c_int,
) -> Option<*mut Content<T>> {
    // SAFETY: none of these allocates or raises; the stack is left as it was.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TUSERDATA
            || ffi::lua_getmetatable(state, index) == 0
        {
            return None;
        }
        let same = ffi::lua_rawequal(state, -1, metatable) != 0;
        ffi::lua_pop(state, 1);
        same.then(|| ffi::lua_touserdata(state, index).cast())
    }
}
/// A metatable whose userdata hold a `Content<T>`.
pub(super) fn metatable<T>(lua: &Lua) -> LuaResult<LuaTable> {
    let metatable = lua.create_table()?;
    // SAFETY: the argument on the stack becomes the upvalue `finalise` needs; only
    // `push_userdata` gives userdata this metatable, with the content it says.
    let finaliser: LuaFunction = unsafe {
        lua.exec_raw(&metatable, |state| {
            ffi::lua_pushcclosure(state, finalise::<T>, 1);
        })?
    };
    metatable.raw_set("__gc", finaliser)?;
    Ok(metatable)
}
