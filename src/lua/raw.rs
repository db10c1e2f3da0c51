//! Natives on Lua's own C API: the request path, where `mlua` costs too much (it protects each
//! allocation by itself and gives each userdata of Lua 5.1 an environment table).
//!
//! All `unsafe` of these natives is here and in `raw/`. A native is a safe function from [`Args`] to
//! an [`Answer`], and [`run`] keeps two things apart that must not meet, because a Lua error is
//! a jump that runs no destructor of Rust:
//!
//! 1. the native runs: it owns Rust values, so [`Args`] calls only what can raise no error: no
//!    allocation of Lua's, no metamethod, no conversion;
//! 2. the answer is pushed: that allocates and may raise (out of memory, or what a finaliser of
//!    Lua 5.1 raises), so the only Rust value alive is the answer, and it is in a
//!    `ManuallyDrop`: the jump leaks it and skips no destructor.
//!
//! | file | what it is |
//! |---|---|
//! | `raw/args.rs` | what natives are called with |
//! | `raw/answer.rs` | what they answer |
//! | `raw/class.rs` | the userdata: how they are made, told apart and finalised |

mod answer;
mod args;
mod class;

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::ffi::{self, lua_State};
use mlua::prelude::*;

use crate::engine::request::context::RequestContext;
use crate::engine::request::result::BackendResult;

pub(super) use answer::Answer;
pub(super) use args::{Args, View};
#[cfg(feature = "luajit")]
pub(super) use class::{Content, content_of, fill_contexts, fill_results, push_lasting_context};
pub(super) use class::{push_context, push_result};

/// Makes a `lua_CFunction` of a native.
macro_rules! native {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; `Natives::add` gave it the upvalues.
            unsafe { $crate::lua::raw::run(state, $native) }
        }
        entry
    }};
}
pub(super) use native;

/// Makes a `lua_CFunction`, for [`Natives::function`], that takes a Lua function and an extra value
/// and gives the function of a native that leaves to the former what is not plain.
macro_rules! stand_in {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; `make` gave it the upvalues.
            unsafe { $crate::lua::raw::run_or_else(state, $native) }
        }
        unsafe extern "C-unwind" fn make(state: *mut mlua::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; made by `Natives::function`.
            unsafe { $crate::lua::raw::push_stand_in(state, entry) }
        }
        make
    }};
}
pub(super) use stand_in;

/// Runs a native and pushes its answer; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function made by [`Natives::add`].
pub(super) unsafe fn run(state: *mut lua_State, native: impl FnOnce(&Args) -> Answer) -> c_int {
    let mut answer = ManuallyDrop::new(contained(|| native(&Args { state })));
    // SAFETY: a C function has room for 20 values above its arguments. When an error jumps,
    // this frame has no destructor to run: see the module's documentation.
    let count = unsafe { answer::push(state, &mut answer) };
    drop(ManuallyDrop::into_inner(answer));
    count
}

/// Runs a native that answers where all is plain, and otherwise, or where it panics, the Lua
/// function that it stands for, with the same arguments.
///
/// # Safety
///
/// `state` is running a C function made by [`push_stand_in`].
pub(super) unsafe fn run_or_else(
    state: *mut lua_State,
    native: impl FnOnce(&Args) -> Option<Answer>,
) -> c_int {
    // SAFETY: as of this function. A native leaves the stack as it was, or with a value more on
    // it. As in `run`, no frame has a destructor to run when an error jumps.
    unsafe {
        let given = ffi::lua_gettop(state);
        let answer = catch_unwind(AssertUnwindSafe(|| native(&Args { state })));
        match answer {
            Ok(Some(answer)) => {
                let mut answer = ManuallyDrop::new(answer);
                let count = answer::push(state, &mut answer);
                drop(ManuallyDrop::into_inner(answer));
                return count;
            }
            Ok(None) => {}
            // Dropping a payload could panic again.
            Err(panic) => std::mem::forget(panic),
        }
        ffi::lua_settop(state, given);
        ffi::lua_pushvalue(state, args::STANDS_FOR);
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, given, ffi::LUA_MULTRET);
        ffi::lua_gettop(state)
    }
}

/// Pushes the function of an entry that calls [`run_or_else`]: it stands for the function that is
/// argument 1, with argument 2 as its extra value.
///
/// # Safety
///
/// `state` is running a C function made by [`Natives::function`].
pub(super) unsafe fn push_stand_in(state: *mut lua_State, entry: mlua::lua_CFunction) -> c_int {
    // SAFETY: as of this function; there is room for the four that become upvalues, and where
    // there is no memory no frame owns anything.
    unsafe {
        ffi::lua_settop(state, 2);
        ffi::lua_pushvalue(state, class::RESULT_METATABLE);
        ffi::lua_insert(state, 1);
        ffi::lua_pushvalue(state, class::CONTEXT_METATABLE);
        ffi::lua_insert(state, 2);
        ffi::lua_pushcclosure(state, entry, 4);
    }
    1
}

/// Runs `work`; a panic becomes an answer.
fn contained(work: impl FnOnce() -> Answer) -> Answer {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        // Dropping a payload could panic again.
        std::mem::forget(panic);
        Answer::Panicked
    })
}
/// The classes of a Lua state, and what natives are made with.
pub(super) struct Natives<'l> {
    lua: &'l Lua,
    table: LuaTable,
    result: LuaTable,
    context: LuaTable,
}

impl<'l> Natives<'l> {
    /// Makes the metatables, with finaliser and nothing else: the glue adds the rest.
    pub(super) fn new(lua: &'l Lua) -> LuaResult<Self> {
        let natives = Self {
            lua,
            table: lua.create_table()?,
            result: class::metatable::<BackendResult>(lua)?,
            context: class::metatable::<RequestContext>(lua)?,
        };
        natives.table.raw_set("result_metatable", &natives.result)?;
        natives
            .table
            .raw_set("context_metatable", &natives.context)?;
        Ok(natives)
    }

    /// The table of natives, as the glue sees it.
    pub(super) fn table(&self) -> &LuaTable {
        &self.table
    }

    /// Adds a function made by [`native!`].
    pub(super) fn add(&self, name: &str, entry: mlua::lua_CFunction) -> LuaResult<()> {
        self.table.raw_set(name, self.function(entry)?)
    }

    /// The Lua function of an entry made by [`native!`], or of one that needs no more than
    /// the upvalues.
    pub(super) fn function(&self, entry: mlua::lua_CFunction) -> LuaResult<LuaFunction> {
        // SAFETY: the two arguments on the stack become the upvalues all natives have.
        unsafe {
            self.lua.exec_raw((&self.result, &self.context), |state| {
                ffi::lua_pushcclosure(state, entry, 2);
            })
        }
    }

    /// The Lua that the natives are for.
    pub(super) fn lua(&self) -> &Lua {
        self.lua
    }
}
