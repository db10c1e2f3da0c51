//! The functions between C and Lua, in the library without Lua: so that both kinds of file
//! export the same, and a host that links to the wrong one is told.

use std::ffi::c_int;

use super::handle::{ContextHandle, ResultHandle};
use super::status::{Failure, Status, guard};
use super::text::OwnedString;

/// `lua_State`, of which nothing is known here.
enum LuaState {}

/// # Safety
///
/// As `abi` says.
unsafe fn refuse(reason: *mut OwnedString) -> Status {
    // SAFETY: as of this function.
    unsafe {
        guard(reason, || {
            Err(Failure::new(
                Status::NoLua,
                "this library was built without Lua: use the functions of the module that the \
                 Lua state has loaded",
            ))
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_result_from_lua(
    _state: *mut LuaState,
    _index: c_int,
    _result: *mut *mut ResultHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: as `abi` says.
    unsafe { refuse(reason) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_result_push_lua(
    _state: *mut LuaState,
    _result: *const ResultHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: as `abi` says.
    unsafe { refuse(reason) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_context_bind_lua(
    _state: *mut LuaState,
    _context: *const ContextHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: as `abi` says.
    unsafe { refuse(reason) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_context_from_lua(
    _state: *mut LuaState,
    _index: c_int,
    _context: *mut *mut ContextHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: as `abi` says.
    unsafe { refuse(reason) }
}
