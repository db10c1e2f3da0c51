//! The functions between C and Lua, in a library built without Lua. Each of them refuses.
//!
//! The Lua modules and the C library export the same symbols, so that a host which loads the C library
//! where it needs a Lua module gets a status and a reason instead of an error of the dynamic linker.

use std::ffi::c_int;

use super::handle::{ContextHandle, ResultHandle};
use super::status::{Done, Failure, Status, exported};

/// `lua_State`, an opaque type here.
enum LuaState {}

fn refuse() -> Done {
    Err(Failure::new(
        Status::NoLua,
        "this library was built without Lua: use the functions of the module that the Lua state has \
         loaded",
    ))
}

exported!(
    fn nauthilus_backend_result_from_lua(
        _state: *mut LuaState,
        _index: c_int,
        _result: *mut *mut ResultHandle,
    ) -> Done {
        refuse()
    }
);

exported!(
    fn nauthilus_backend_result_push_lua(
        _state: *mut LuaState,
        _result: *const ResultHandle,
    ) -> Done {
        refuse()
    }
);

exported!(
    fn nauthilus_backend_context_bind_lua(
        _state: *mut LuaState,
        _context: *const ContextHandle,
    ) -> Done {
        refuse()
    }
);

exported!(
    fn nauthilus_backend_context_from_lua(
        _state: *mut LuaState,
        _index: c_int,
        _context: *mut *mut ContextHandle,
    ) -> Done {
        refuse()
    }
);
