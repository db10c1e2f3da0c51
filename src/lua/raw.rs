//! Natives on Lua's own C API, by the plain bindings of `mlua`: nothing of them needs anything that
//! Lua may have finalised before them, nor memory that Lua could refuse where Rust would abort.
//!
//! All `unsafe` of these natives is here and in `raw/`. A native is a safe function from [`Args`] to
//! an [`Answer`], and [`run`] keeps two things apart that must not meet, because a Lua error is
//! a jump that runs no destructor of Rust:
//!
//! 1. the native runs: it owns Rust values, so [`Args`] calls only what can raise no error: no
//!    allocation of Lua's, no metamethod, no conversion;
//! 2. the answer is pushed: that allocates and may raise (out of memory, or what a finaliser of
//!    Lua 5.1 raises), so the only Rust value alive is the answer, and it is in a
//!    `ManuallyDrop`, which a jump skips. An answer that owns something is pushed in a protected
//!    call, dropped, and the error raised again.
//!
//! | file | what it is |
//! |---|---|
//! | `raw/args.rs` | what natives are called with |
//! | `raw/config.rs` | a table that natives are called with, as a configuration |
//! | `raw/answer.rs` | what they answer |
//! | `raw/class.rs` | the userdata: how they are made, told apart and finalised |
//! | `raw/fields.rs` | fields of tables by name |
//! | `raw/register.rs` | how natives become functions of a Lua state |

mod answer;
mod args;
mod class;
mod config;
mod fields;
mod register;

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::ffi::{self, lua_State};

pub(super) use answer::{Answer, LuaValue};
pub(super) use args::{ArgView, Args, Refused};
#[cfg(feature = "luajit")]
pub(super) use class::{Content, content_of, fill_contexts, fill_results, push_lasting_context};
pub(super) use class::{push_context, push_result};
pub(super) use config::number_value;
pub(super) use fields::{get_field, set_field};
pub(super) use register::{Item, Items, Natives};

/// Makes a `lua_CFunction` of a native.
macro_rules! entry {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; `push_native` gave it the upvalues.
            unsafe { $crate::lua::raw::run(state, $native) }
        }
        entry as mlua::ffi::lua_CFunction
    }};
}
pub(super) use entry;

/// The entry of a native in a table.
macro_rules! native {
    ($native:path) => {
        $crate::lua::raw::Item::Native($crate::lua::raw::entry!($native))
    };
}
pub(super) use native;

/// The same of one that reads a table as a configuration (see [`Args::config`]).
macro_rules! config_native {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; `push_native` gave it the upvalues.
            unsafe { $crate::lua::raw::run_with_room(state, $native) }
        }
        $crate::lua::raw::Item::Native(entry)
    }};
}
pub(super) use config_native;

/// Makes a `lua_CFunction` that takes a Lua function and an extra value and gives the function of a
/// native that leaves to the former what is not plain.
macro_rules! stand_in {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; `make` gave it the upvalues.
            unsafe { $crate::lua::raw::run_or_else(state, $native) }
        }
        unsafe extern "C-unwind" fn make(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; made by `push_native`.
            unsafe { $crate::lua::raw::push_stand_in(state, entry) }
        }
        $crate::lua::raw::Item::Native(make)
    }};
}
pub(super) use stand_in;

/// Runs a native and pushes its answer; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function made by [`push_native`].
pub(super) unsafe fn run(state: *mut lua_State, native: impl FnOnce(&Args) -> Answer) -> c_int {
    let answer = ManuallyDrop::new(contained(|| native(&Args { state })));
    // SAFETY: as of this function, and this frame has no destructor to run.
    unsafe { push_answer(state, answer) }
}

/// The same, with room on Lua's stack for what [`Args::config`] needs.
///
/// # Safety
///
/// As of [`run`].
pub(super) unsafe fn run_with_room(
    state: *mut lua_State,
    native: impl FnOnce(&Args) -> Answer,
) -> c_int {
    // SAFETY: as of this function. Nothing of ours is alive where this raises.
    unsafe {
        config::make_room(state);
        run(state, native)
    }
}

/// Pushes an answer and drops it; returns the number of values.
///
/// # Safety
///
/// As of [`run`]; the frames between this and Lua have no destructor to run.
unsafe fn push_answer(state: *mut lua_State, mut answer: ManuallyDrop<Answer>) -> c_int {
    // SAFETY: as of this function. A C function has room for 20 values above its arguments, or
    // `make_room` made room for more than it uses itself.
    unsafe {
        if !answer.owns() {
            return answer::push(state, &mut answer);
        }
        let top = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, class::PUSHER);
        ffi::lua_pushlightuserdata(state, (&raw mut answer).cast());
        if top < 2 {
            ffi::lua_pushnil(state);
        } else {
            ffi::lua_pushvalue(state, 2);
        }
        let status = ffi::lua_pcall(state, 2, ffi::LUA_MULTRET, 0);
        drop(ManuallyDrop::into_inner(answer));
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_gettop(state) - top
    }
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
            Ok(Some(answer)) => return push_answer(state, ManuallyDrop::new(answer)),
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
/// `state` is running a C function made by [`push_native`].
pub(super) unsafe fn push_stand_in(state: *mut lua_State, entry: ffi::lua_CFunction) -> c_int {
    // SAFETY: as of this function; there is room for all that become upvalues, and where
    // there is no memory no frame owns anything.
    unsafe {
        ffi::lua_settop(state, 2);
        for number in 1..=class::UPVALUES {
            ffi::lua_pushvalue(state, ffi::lua_upvalueindex(number));
        }
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, 2);
        ffi::lua_pushcclosure(state, entry, class::UPVALUES + 2);
    }
    1
}

/// Runs `work`; a panic becomes an answer.
fn contained(work: impl FnOnce() -> Answer) -> Answer {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        // Dropping a payload could panic again.
        std::mem::forget(panic);
        Answer::Raised("nauthilus_backend: internal error")
    })
}
