//! Natives (Rust functions that Lua calls) on Lua's own C API, through `mlua`'s raw bindings. `mlua`'s
//! safe layer is not used: it keeps state in userdata that a closing Lua state may finalise before a
//! native's last call, and it aborts the process where Lua refuses memory.
//!
//! All `unsafe` of these natives is here and in `raw/`. A native is a safe function from [`Args`] to
//! an [`Answer`]. A Lua error is a `longjmp`, which runs no Rust destructor, so [`run`] separates two
//! phases:
//!
//! 1. The native runs. It owns Rust values, so [`Args`] only calls functions of Lua that cannot raise:
//!    none that allocates, runs a metamethod or converts a value.
//! 2. The answer is pushed. That allocates and may raise (out of memory, or an error from a finaliser
//!    in Lua 5.1). The answer is the only Rust value alive, in a `ManuallyDrop`, which needs no
//!    destructor. An answer that owns memory is pushed inside a protected call and dropped, and only
//!    then is a caught error raised again; otherwise the memory would leak.
//!
//! | file | what it is |
//! |---|---|
//! | `raw/args.rs` | the arguments of a native |
//! | `raw/config.rs` | reads an argument that is a table as a configuration |
//! | `raw/answer.rs` | the return values of a native |
//! | `raw/class.rs` | userdata: creation, type check, finalisers |
//! | `raw/fields.rs` | fields of tables by name |
//! | `raw/register.rs` | how natives become functions of a Lua state |

mod answer;
mod args;
mod class;
mod config;
mod fields;
pub(super) mod handed;
mod register;

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::ffi::{self, lua_State};

use crate::sys::cancellation::uncancelled;

pub(super) use answer::{Answer, LuaValue};
pub(super) use args::{ArgView, Args, Refused, cut};
#[cfg(feature = "luajit")]
pub(super) use class::{
    Content, content_of, fill_contexts, fill_results, owned_of, push_lasting_context,
};
pub(super) use class::{push_context, push_result};
pub(super) use config::number_value;
pub(super) use fields::{get_field, make_room, set_field};
pub(super) use register::{Item, Items, Natives};

/// Makes a `lua_CFunction` of a native. `run` is [`run`] or a function like it.
macro_rules! entry {
    ($native:path) => {
        $crate::lua::raw::entry!(run, $native)
    };
    ($run:ident, $native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state, and `push_native` made the closure with all
            // upvalues.
            unsafe { $crate::lua::raw::$run(state, $native) }
        }
        entry as mlua::ffi::lua_CFunction
    }};
}
pub(super) use entry;

/// A native as an entry of a table of [`Items`].
macro_rules! native {
    ($native:path) => {
        $crate::lua::raw::Item::Native($crate::lua::raw::entry!($native))
    };
}
pub(super) use native;

/// Like `native!`, for a native of the request path that works on memory alone: see [`run_in_memory`].
macro_rules! memory_native {
    ($native:path) => {
        $crate::lua::raw::Item::Native($crate::lua::raw::entry!(run_in_memory, $native))
    };
}
pub(super) use memory_native;

/// Like `native!`, for a native that calls [`Args::config`], which needs more stack slots.
macro_rules! config_native {
    ($native:path) => {
        $crate::lua::raw::Item::Native($crate::lua::raw::entry!(run_with_room, $native))
    };
}
pub(super) use config_native;

/// Makes a `lua_CFunction` that takes a Lua function and an extra value and returns the native as a
/// function. That function calls the Lua function, with the same arguments, wherever the native
/// returns `None`.
macro_rules! stand_in {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state, and `push_stand_in` made the closure with all
            // upvalues.
            unsafe { $crate::lua::raw::run_or_else(state, $native) }
        }
        unsafe extern "C-unwind" fn make(state: *mut mlua::ffi::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state, and `push_native` made the closure.
            unsafe { $crate::lua::raw::push_stand_in(state, entry) }
        }
        $crate::lua::raw::Item::Native(make)
    }};
}
pub(super) use stand_in;

/// Runs a native, during which the thread is not cancelled, and pushes its answer; returns the number of
/// values.
///
/// # Safety
///
/// `state` is running a C function made by [`push_native`].
pub(super) unsafe fn run(state: *mut lua_State, native: impl FnOnce(&Args) -> Answer) -> c_int {
    // Not around the whole function: an error of Lua's would skip what restores the thread's state.
    // SAFETY: the caller's obligations are the same.
    unsafe { run_in_memory(state, |args| uncancelled(|| native(args))) }
}

/// Like [`run`], for a native that reaches no cancellation point: see [`uncancelled`], which takes a
/// noticeable share of a short call's time.
///
/// # Safety
///
/// `state` is running a C function made by [`push_native`].
pub(super) unsafe fn run_in_memory(
    state: *mut lua_State,
    native: impl FnOnce(&Args) -> Answer,
) -> c_int {
    let answer = ManuallyDrop::new(contained(|| native(&Args { state })));
    // SAFETY: `state` is running a native's closure, and this frame has no destructor that an error
    // could skip: the answer is in a `ManuallyDrop`.
    unsafe { push_answer(state, answer) }
}

/// Like [`run`], with the stack slots that [`Args::config`] needs.
///
/// # Safety
///
/// `state` is running a C function made by [`push_native`].
pub(super) unsafe fn run_with_room(
    state: *mut lua_State,
    native: impl FnOnce(&Args) -> Answer,
) -> c_int {
    // SAFETY: `state` is running a native's closure. `make_room_for_config` may raise, while no Rust value is
    // alive yet.
    unsafe {
        config::make_room_for_config(state);
        run(state, native)
    }
}

/// Pushes an answer and drops it; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function made by [`push_native`] or [`push_stand_in`]. This may raise: the
/// frames between it and Lua have no destructor to run.
unsafe fn push_answer(state: *mut lua_State, mut answer: ManuallyDrop<Answer>) -> c_int {
    // SAFETY: the closure has upvalue `PUSHER`. The three values pushed here have room: Lua gives a C
    // function 20 slots above its arguments, of which a native leaves at most one in use. The answer
    // outlives the protected call, and is dropped before `lua_error` jumps over this frame.
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
        uncancelled(|| class::contain_drop(ManuallyDrop::into_inner(answer)));
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_gettop(state) - top
    }
}

/// Runs a native that returns `None` for what it does not handle. Then, or if it panics, calls the Lua
/// function that it stands for with the same arguments. The native reaches no cancellation point, as one of
/// [`run_in_memory`].
///
/// # Safety
///
/// `state` is running a C function made by [`push_stand_in`].
pub(super) unsafe fn run_or_else(
    state: *mut lua_State,
    native: impl FnOnce(&Args) -> Option<Answer>,
) -> c_int {
    // SAFETY: the closure has upvalue `STANDS_FOR`. A native leaves at most one value above its
    // arguments, which `lua_settop` removes. When an error jumps over this frame, `answer` has been
    // moved out or is `None`: there is no destructor to run.
    unsafe {
        let given = ffi::lua_gettop(state);
        let answer = catch_unwind(AssertUnwindSafe(|| native(&Args { state })));
        match answer {
            Ok(Some(answer)) => return push_answer(state, ManuallyDrop::new(answer)),
            Ok(None) => {}
            // Not dropped: the destructor of a panic's payload may panic again.
            Err(panic) => std::mem::forget(panic),
        }
        ffi::lua_settop(state, given);
        ffi::lua_pushvalue(state, args::STANDS_FOR);
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, given, ffi::LUA_MULTRET);
        ffi::lua_gettop(state)
    }
}

/// Pushes `entry`, which calls [`run_or_else`], as a closure that stands for the function in argument 1
/// and has argument 2 as its extra value.
///
/// # Safety
///
/// `state` is running a C function made by [`push_native`].
pub(super) unsafe fn push_stand_in(state: *mut lua_State, entry: ffi::lua_CFunction) -> c_int {
    // The two arguments, all upvalues, and the arguments once more.
    const _: () = assert!(2 + class::UPVALUES + 2 <= ffi::LUA_MINSTACK);
    // SAFETY: `state` is running a native's closure, which has the upvalues copied here. A C function
    // has the slots that are used. No frame owns a Rust value when an allocation raises.
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

/// Runs `work`; a panic becomes an answer that raises a Lua error.
fn contained(work: impl FnOnce() -> Answer) -> Answer {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        // Not dropped: the destructor of a panic's payload may panic again.
        std::mem::forget(panic);
        Answer::Raised("nauthilus_backend: internal error")
    })
}
