//! The Lua surface: natives in Rust, argument checks and error texts in embedded Lua.
//!
//! A native never raises for what its caller can cause; it returns values, and the glue in
//! `glue/` raises a string positioned at the script's line.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the entry points; one module table per Lua state |
//! | `raw.rs`, `raw/` | how natives are made: functions from arguments to an answer |
//! | `held.rs` | what results and contexts are in their userdata |
//! | `fast.rs`, `fast/setter.rs`, `glue/fast.lua` | the same for LuaJIT's FFI |
//! | `result.rs`, `context.rs`, `servers.rs`, `monitor.rs`, `check.rs` | the natives |
//! | `plainly.rs` | functions of the API that are natives themselves |
//! | `bridge.rs` | C's way into a Lua state: the functions of the header that take one |
//! | `glue.rs` | loads the embedded Lua, part by part |
//! | `glue/errors.lua` | how misuse is reported |
//! | `nginx.rs`, `nginx/` | what nginx offers to a module: its signs, its event loop |
//! | `glue/host.lua`, `glue/hosts/` | which host runs us, one adapter per host |
//! | `glue/init.lua`, `glue/names.lua` | the module table; the names scripts reach it by |

mod bridge;
mod check;
mod context;
#[cfg(feature = "luajit")]
mod fast;
mod given_lists;
mod glue;
mod held;
mod maintenance;
mod monitor;
mod nginx;
mod operators;
mod plainly;
mod raw;
mod result;
mod routing;
mod servers;
mod start;

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::engine::config::nearest;
use raw::{Answer, ArgView, Args, Item, Items, Natives, get_field, native, set_field};

/// The parts of the glue in this Lua state, by name. A second load finds them and gives the same
/// module table, so that results and contexts made through either are of one class.
const PARTS_KEY: &str = "nauthilus_backend.parts";

/// Stack slots for loading the module.
const SLOTS: c_int = 40;

/// Entry point of `require "nauthilus_backend"`.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_nauthilus_backend(state: *mut lua_State) -> c_int {
    // SAFETY: `state` is the valid state Lua called us with, and this frame owns nothing.
    unsafe {
        push_parts(state);
        get_field(state, -1, "init");
    }
    1
}

/// Entry point of `require "nauthilus_backend.result"`, which Lua's all-in-one searcher finds
/// in the same file: the class `nauthilus_backend_result`.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_nauthilus_backend_result(state: *mut lua_State) -> c_int {
    // SAFETY: `state` is the valid state Lua called us with, and this frame owns nothing.
    unsafe {
        push_parts(state);
        get_field(state, -1, "result");
        get_field(state, -1, "class");
    }
    1
}

/// Pushes the parts of the glue in this Lua state, made on the first call. Where an allocation is
/// refused this raises Lua's own error, and the next call begins anew.
///
/// # Safety
///
/// `state` is running a C function, and no frame between it and Lua owns anything.
unsafe fn push_parts(state: *mut lua_State) {
    // SAFETY: as of this function.
    unsafe {
        ffi::luaL_checkstack(state, SLOTS, c"nauthilus_backend".as_ptr());
        get_field(state, ffi::LUA_REGISTRYINDEX, PARTS_KEY);
        if ffi::lua_type(state, -1) != ffi::LUA_TTABLE {
            let natives = push_natives(state);
            bridge::register(state, natives);
            natives.finish();
            glue::load(state);
            get_field(state, -1, "host");
            get_field(state, -1, "bind");
            bridge::register_bind(state);
            ffi::lua_pop(state, 1);
            ffi::lua_pushvalue(state, -1);
            set_field(state, ffi::LUA_REGISTRYINDEX, PARTS_KEY);
        }
        // On each load: a host may have cleared the names since the last one.
        get_field(state, -1, "names");
        ffi::lua_call(state, 0, 0);
    }
}

/// Pushes the functions of Rust, as the glue sees them.
///
/// # Safety
///
/// As of [`Natives::push`].
unsafe fn push_natives(state: *mut lua_State) -> Natives {
    const COMMON: Items = &[
        (
            "version",
            Item::Text(concat!("nauthilus_backend ", env!("CARGO_PKG_VERSION"))),
        ),
        ("nearest", native!(nearest_name)),
    ];
    // SAFETY: as of this function.
    unsafe {
        let natives = Natives::push(state);
        natives.add(COMMON);
        natives.add(result::NATIVES);
        natives.add(context::NATIVES);
        natives.add(plainly::NATIVES);
        natives.add(servers::NATIVES);
        natives.add(routing::NATIVES);
        natives.add(monitor::NATIVES);
        natives.add(operators::NATIVES);
        natives.add(maintenance::NATIVES);
        natives.add(check::NATIVES);
        #[cfg(feature = "luajit")]
        natives.add(fast::NATIVES);
        nginx::register(natives);
        natives
    }
}

/// `nearest(name, known)`: the known name a caller may have meant, or nil.
fn nearest_name(args: &Args) -> Answer {
    let (ArgView::Bytes(name), Ok(known)) = (args.view(1), args.strings(2)) else {
        return Answer::Nil;
    };
    let known: Vec<_> = known
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    nearest(
        &String::from_utf8_lossy(name),
        known.iter().map(|name| &**name),
    )
    .map_or(Answer::Nil, |name| Answer::Text(name.to_owned()))
}
