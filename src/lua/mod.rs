//! The Lua surface: natives (functions in Rust), and argument checks and error texts in embedded Lua,
//! the *glue*.
//!
//! A native does not raise an error for a script's mistake. It returns values, and the glue in `glue/`
//! raises a string with the position of the script's line.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the entry points; one module table per Lua state |
//! | `raw.rs`, `raw/` | how natives are made: functions from arguments to an answer |
//! | `per_state.rs` | what belongs to one Lua state |
//! | `own_or_shared.rs` | the content of the userdata of results and contexts |
//! | `fast.rs`, `glue/fast.lua` | the request path again, for LuaJIT's FFI |
//! | `result.rs`, `context.rs`, `check.rs` | natives: results, contexts, checks on demand |
//! | `with_context.rs` | natives: which context is the current one |
//! | `servers.rs`, `given_lists.rs`, `routing.rs`, `bindings.rs` | natives: servers, routes and bindings |
//! | `engine.rs`, `start.rs`, `operators.rs`, `maintenance.rs` | natives: the engine, for operators |
//! | `plainly.rs` | functions of the API that are natives without glue around them |
//! | `stack.rs` | room on the stack of a Lua state |
//! | `bridge.rs` | the functions of the C header that take a Lua state |
//! | `glue.rs` | loads the embedded Lua, part by part |
//! | `glue/errors.lua`, `glue/waiting.lua` | the errors for wrong arguments; waiting for the engine thread |
//! | `nginx.rs`, `nginx/` | the use of nginx's symbols: process state, event loop, requests |
//! | `glue/servers.lua` | the list of alive servers, which LuaJIT copies without a call of Rust |
//! | `glue/host.lua`, `glue/hosts/` | the selection of the host adapter, and one adapter per host |
//! | `glue/init.lua`, `glue/names.lua` | the module table; the names scripts reach it by |

mod bindings;
mod bridge;
mod check;
mod context;
mod engine;
#[cfg(feature = "luajit")]
mod fast;
mod given_lists;
mod glue;
mod maintenance;
mod nginx;
mod operators;
mod own_or_shared;
mod per_state;
mod plainly;
mod raw;
mod result;
mod routing;
mod servers;
mod stack;
mod start;
mod with_context;

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::engine::config::nearest;
use raw::{Answer, ArgView, Args, Item, Items, Natives, get_field, make_room, native, set_field};

/// The registry key of the glue's parts in this Lua state. A second load finds them and returns the same
/// module table, so that results and contexts of both loads have the same metatables.
const PARTS_KEY: &str = "nauthilus_backend.parts";

/// Stack slots for loading the module: more than natives, glue and their upvalues need (about 20).
const SLOTS: c_int = 40;

/// Entry point of `require "nauthilus_backend"`.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_nauthilus_backend(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this function with `state`, and this frame owns nothing that an error would
    // leak. `push_parts` makes room on the stack.
    unsafe {
        push_parts(state);
        get_field(state, -1, "init");
    }
    1
}

/// Entry point of `require "nauthilus_backend.result"`, which returns the class
/// `nauthilus_backend_result`. Lua's all-in-one searcher finds it in the same library.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_nauthilus_backend_result(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this function with `state`, and this frame owns nothing that an error would
    // leak. `push_parts` makes room on the stack.
    unsafe {
        push_parts(state);
        get_field(state, -1, "result");
        get_field(state, -1, "class");
    }
    1
}

/// Pushes the table of the glue's parts, which the first call in a Lua state makes. If Lua has no memory
/// this raises Lua's own error, and the next call starts from the beginning.
///
/// # Safety
///
/// `state` is running a C function, and the frames between it and Lua have no destructor to run.
unsafe fn push_parts(state: *mut lua_State) {
    // SAFETY: `make_room` makes room for all that follows, and this frame owns nothing.
    unsafe {
        make_room(state, SLOTS);
        get_field(state, ffi::LUA_REGISTRYINDEX, PARTS_KEY);
        if ffi::lua_type(state, -1) != ffi::LUA_TTABLE {
            let natives = push_natives(state);
            bridge::register(state, natives);
            natives.finish();
            glue::load(state);
            get_field(state, ffi::LUA_REGISTRYINDEX, PARTS_KEY);
            if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
                // A finaliser or hook has loaded the module meanwhile, and objects of that copy may be in use. It also
                // has the functions of the bridge, since it registered them later.
                ffi::lua_remove(state, -2);
            } else {
                ffi::lua_pop(state, 1);
                get_field(state, -1, "host");
                get_field(state, -1, "bind");
                bridge::register_bind(state);
                ffi::lua_pop(state, 1);
                ffi::lua_pushvalue(state, -1);
                set_field(state, ffi::LUA_REGISTRYINDEX, PARTS_KEY);
            }
        }
        // On each load, since the host may have removed the global names after an earlier one.
        get_field(state, -1, "names");
        ffi::lua_call(state, 0, 0);
    }
}

/// Pushes the table of natives that the glue uses, and the natives' upvalues above it.
///
/// # Safety
///
/// `state` is running a C function with 25 free slots. May raise: the frames between this and Lua have no
/// destructor to run.
unsafe fn push_natives(state: *mut lua_State) -> Natives {
    const COMMON: Items = &[
        (
            "version",
            Item::Text(concat!("nauthilus_backend ", env!("CARGO_PKG_VERSION"))),
        ),
        ("nearest", native!(nearest_name)),
        ("loaded", Item::Native(loaded)),
    ];
    // SAFETY: the caller provides the slots, and all calls are in the same C function.
    unsafe {
        let natives = Natives::push(state);
        natives.add(COMMON);
        natives.add(result::NATIVES);
        natives.add(context::NATIVES);
        natives.add(with_context::NATIVES);
        natives.add(plainly::NATIVES);
        natives.add(servers::NATIVES);
        natives.add(routing::NATIVES);
        natives.add(bindings::NATIVES);
        natives.add(engine::NATIVES);
        natives.add(operators::NATIVES);
        natives.add(maintenance::NATIVES);
        natives.add(check::NATIVES);
        #[cfg(feature = "luajit")]
        natives.add(fast::NATIVES);
        nginx::register(natives);
        natives
    }
}

/// `loaded()`: the table in which `require` looks for modules, `package.loaded` at first; nil if there is none.
///
/// # Safety
///
/// Called by Lua with a valid state, as any `lua_CFunction`.
unsafe extern "C-unwind" fn loaded(state: *mut lua_State) -> c_int {
    // SAFETY: a C function has the slots. This frame owns nothing that an error would leak.
    unsafe {
        get_field(state, ffi::LUA_REGISTRYINDEX, "_LOADED");
        c_int::from(ffi::lua_type(state, -1) == ffi::LUA_TTABLE)
    }
}

/// `nearest(name, known)`: the name of `known` that a misspelt `name` is likely to mean, or nil.
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
