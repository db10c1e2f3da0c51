//! The embedded Lua of the module.
//!
//! Each part is a chunk called with two tables, `native` (the functions of Rust) and `parts`
//! (what the parts before it returned, by name); what it returns becomes `parts[name]`. A part
//! whose table has a field `api` adds those functions to the module.

use mlua::ffi::{self, lua_State};

use super::raw::set_field;

/// Name, name as an error message shows it (with a NUL), and source of a part.
type Part = (&'static str, &'static str, &'static str);

macro_rules! part {
    ($name:literal, $file:literal) => {
        (
            $name,
            concat!("=nauthilus_backend.", $name, "\0"),
            include_str!(concat!("glue/", $file)),
        )
    };
}

/// The parts in the order in which they run: each may use those before it.
const PARTS: &[Part] = &[
    part!("globals", "globals.lua"),
    part!("errors", "errors.lua"),
    part!("ffi", "ffi.lua"),
    part!("fast", "fast.lua"),
    part!("plain", "hosts/plain.lua"),
    part!("haproxy", "hosts/haproxy.lua"),
    part!("nginx_wait", "hosts/nginx_wait.lua"),
    part!("nginx_contexts", "hosts/nginx_contexts.lua"),
    part!("nginx_headers", "hosts/nginx_headers.lua"),
    part!("nginx", "hosts/nginx.lua"),
    part!("host", "host.lua"),
    part!("servers", "servers.lua"),
    part!("waiting", "waiting.lua"),
    part!("stored_routes", "stored_routes.lua"),
    part!("bindings", "bindings.lua"),
    part!("routing", "routing.lua"),
    part!("engine", "engine.lua"),
    part!("operators", "operators.lua"),
    part!("maintenance", "maintenance.lua"),
    part!("check", "check.lua"),
    part!("result", "result.lua"),
    part!("context", "context.lua"),
    part!("init", "init.lua"),
    part!("names", "names.lua"),
];

/// Runs all parts with the table of natives that is on top of the stack, and replaces that table by a
/// table of what the parts returned, by name.
///
/// # Safety
///
/// `state` is running a C function with 10 free slots. Raises errors of a part and Lua's memory error:
/// the frames between this and Lua have no destructor to run.
pub(super) unsafe fn load(state: *mut lua_State) {
    // SAFETY: five slots are used. The names end with a NUL, and this frame owns nothing.
    unsafe {
        let native = ffi::lua_gettop(state);
        ffi::lua_createtable(state, 0, 32);
        let parts = native + 1;
        for (name, shown, source) in PARTS {
            let status = ffi::luaL_loadbufferx(
                state,
                source.as_ptr().cast(),
                source.len(),
                shown.as_ptr().cast(),
                c"t".as_ptr(),
            );
            if status != ffi::LUA_OK {
                ffi::lua_error(state);
            }
            ffi::lua_pushvalue(state, native);
            ffi::lua_pushvalue(state, parts);
            ffi::lua_call(state, 2, 1);
            set_field(state, parts, name);
        }
        ffi::lua_remove(state, native);
    }
}
