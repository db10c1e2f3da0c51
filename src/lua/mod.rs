//! The Lua surface: natives in Rust, argument checks and error texts in embedded Lua.
//!
//! A native never raises for what its caller can cause; it returns values, and the glue in
//! `glue/` raises a string positioned at the script's line. So no error of `mlua` (a userdata,
//! which scripts cannot concatenate or match) ever reaches a user.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the entry points; one module table per Lua state |
//! | `raw.rs`, `raw/` | natives on Lua's own C API: the request path |
//! | `held.rs` | what results and contexts are in their userdata |
//! | `fast.rs`, `fast/setter.rs`, `glue/fast.lua` | the same for LuaJIT's FFI |
//! | `result.rs`, `context.rs` | natives of results and request contexts |
//! | `plainly.rs` | functions of the API that are natives themselves |
//! | `bridge.rs` | C's way into a Lua state: the functions of the header that take one |
//! | `glue.rs` | loads the embedded Lua, part by part |
//! | `glue/errors.lua`, `glue/contain.lua` | how misuse is reported, and a failure of ours |
//! | `nginx.rs`, `nginx/` | what nginx offers to a module: its signs, its event loop |
//! | `glue/host.lua`, `glue/hosts/` | which host runs us, one adapter per host |
//! | `glue/init.lua`, `glue/names.lua` | the module table; the names scripts reach it by |

mod bridge;
mod check;
mod context;
mod convert;
#[cfg(feature = "luajit")]
mod fast;
mod glue;
mod held;
mod monitor;
mod nginx;
mod plainly;
mod raw;
mod result;
mod servers;

use std::ffi::c_int;

use mlua::prelude::*;

use crate::engine::config::nearest;
use crate::engine::process::Start;
use raw::Natives;

/// The parts of the glue in this Lua state, by name. A second load finds them and gives the same
/// module table, so that results and contexts made through either are of one class.
const PARTS_KEY: &str = "nauthilus_backend.parts";
/// The thread that loaded the module first.
const LOADER_THREAD_KEY: &str = "nauthilus_backend.loader_thread";

/// The name and version scripts read as `_VERSION`.
const VERSION: &str = concat!("nauthilus_backend ", env!("CARGO_PKG_VERSION"));

/// Entry point of `require "nauthilus_backend"`.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_nauthilus_backend(state: *mut mlua::lua_State) -> c_int {
    // SAFETY: `state` is the valid state Lua called us with.
    unsafe { open(state, |lua| parts(lua)?.raw_get("init")) }
}

/// Entry point of `require "nauthilus_backend.result"`, which Lua's all-in-one searcher finds
/// in the same file: the class `nauthilus_backend_result`.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_nauthilus_backend_result(state: *mut mlua::lua_State) -> c_int {
    // SAFETY: `state` is the valid state Lua called us with.
    unsafe {
        open(state, |lua| {
            parts(lua)?.raw_get::<LuaTable>("result")?.raw_get("class")
        })
    }
}

/// Runs `load` as an entry point that returns one table, and raises its failure as a string.
///
/// # Safety
///
/// `state` is the valid state of a running C function.
unsafe fn open(
    state: *mut mlua::lua_State,
    load: impl FnOnce(&Lua) -> LuaResult<LuaValue>,
) -> c_int {
    // SAFETY: the state is valid. The closure catches its own failures, so that what `mlua`
    // could raise as a userdata here is at most "out of memory".
    let count = unsafe {
        Lua::entrypoint1(state, |lua| {
            load(lua).or_else(|error| {
                let text = format!("{VERSION} cannot be loaded: {error}");
                lua.create_string(text).map(LuaValue::String)
            })
        })
    };
    // SAFETY: the entry point left one value on the stack, and no value of this frame or of the
    // one above needs dropping when `lua_error` jumps.
    unsafe {
        if mlua::ffi::lua_type(state, -1) == mlua::ffi::LUA_TSTRING {
            mlua::ffi::lua_error(state);
        }
    }
    count
}

/// The parts of the glue in this Lua state, made on the first call.
fn parts(lua: &Lua) -> LuaResult<LuaTable> {
    let parts = match lua.named_registry_value::<Option<LuaTable>>(PARTS_KEY)? {
        Some(parts) => parts,
        None => {
            // In Lua 5.1 and LuaJIT, mlua keeps the calling thread as its way into the state.
            // Where the first `require` runs in a coroutine (every OpenResty handler is one)
            // that thread would be collected under it.
            lua.set_named_registry_value(LOADER_THREAD_KEY, lua.current_thread())?;
            let parts = glue::load(lua, natives(lua)?)?;
            bridge::register_bind(lua, parts.raw_get::<LuaTable>("host")?.raw_get("bind")?)?;
            lua.set_named_registry_value(PARTS_KEY, &parts)?;
            parts
        }
    };
    // On each load: a host may have cleared the names since the last one.
    parts.raw_get::<LuaFunction>("names")?.call::<()>(())?;
    Ok(parts)
}

/// Whether a call may start the monitor, as the host adapter says.
fn start_if(allowed: bool) -> Start {
    if allowed {
        Start::Allowed
    } else {
        Start::Forbidden
    }
}

/// The functions of Rust, as the glue sees them.
fn natives(lua: &Lua) -> LuaResult<LuaTable> {
    let natives = Natives::new(lua)?;
    result::register(&natives)?;
    context::register(&natives)?;
    bridge::register(&natives)?;
    plainly::register(&natives)?;
    #[cfg(feature = "luajit")]
    fast::register(&natives)?;
    let native = natives.table();
    native.raw_set("version", VERSION)?;
    native.raw_set("nearest", lua.create_function(nearest_name)?)?;
    let cold = lua.create_table()?;
    servers::register(&natives)?;
    monitor::register(lua, &cold)?;
    check::register(lua, &cold)?;
    let names = lua.create_table()?;
    for pair in cold.pairs::<LuaString, LuaFunction>() {
        let (name, function) = pair?;
        native.raw_set(&name, function)?;
        names.raw_push(name)?;
    }
    for name in servers::COLD {
        names.raw_push(*name)?;
    }
    native.raw_set("cold", names)?;
    nginx::register(&natives)?;
    Ok(native.clone())
}

/// `nearest(name, known)`: the known name a caller may have meant, or nil.
fn nearest_name(_: &Lua, (name, known): (LuaString, Vec<String>)) -> LuaResult<Option<String>> {
    let known = known.iter().map(String::as_str);
    Ok(nearest(&name.to_string_lossy(), known).map(str::to_owned))
}
