//! The functions of the C header that take a Lua state.
//!
//! Whatever can raise a Lua error runs inside a protected call, so that no error jumps into the host. The
//! functions called there are in the registry, under addresses in this copy of the library. Another
//! copy of the library, whose userdata have a different content, does not find them. A light userdata
//! as the key needs no string, and so no memory, to look them up: LuaJIT has made room for its address
//! when the function was stored.

use std::ffi::{c_int, c_void};
use std::slice;

use mlua::ffi::{self, lua_State};

use super::own_or_shared::OwnOrShared;
use super::raw::{self, Answer, Args, Natives, entry, handed};
use super::stack::has_room;
use crate::abi::handle::{self, ContextHandle, ResultHandle};
use crate::abi::status::{Done, Failure, Status, guard, out};
use crate::abi::text::OwnedString;

/// The functions that the bridge keeps in the registry.
#[derive(Clone, Copy)]
enum Entry {
    TakeResult,
    TakeContext,
    PushResult,
    PushContext,
    Bind,
}

/// One byte per entry; only its address is used, as a registry key.
static KEYS: [u8; 5] = [0; 5];

/// Stack slots that the functions here need: `context_bind_lua` uses three, and one is spare.
const SLOTS: c_int = 4;

impl Entry {
    fn key(self) -> *const c_void {
        KEYS.as_ptr().wrapping_add(self as usize).cast()
    }
}

/// Puts the functions of the bridge into the registry.
///
/// # Safety
///
/// In the C function that called [`Natives::push`], with the slots that [`Natives::push_native`] asks
/// for. May raise.
pub(super) unsafe fn register(state: *mut lua_State, natives: Natives) {
    for (entry, function) in [
        (Entry::TakeResult, entry!(take_result)),
        (Entry::TakeContext, entry!(take_context)),
        (Entry::PushResult, raw::push_result as ffi::lua_CFunction),
        (Entry::PushContext, raw::push_context),
    ] {
        // SAFETY: the caller provides the slots. Nothing in this frame needs a destructor if this raises.
        unsafe {
            natives.push_native(function);
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, entry.key());
        }
    }
}

/// Pops the value on top, the host adapter's function `bind`, and puts it into the registry.
///
/// # Safety
///
/// `state` is running a C function with a free slot. May raise.
pub(super) unsafe fn register_bind(state: *mut lua_State) {
    // SAFETY: the caller has pushed the value. Nothing in this frame needs a destructor if this raises.
    unsafe { ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, Entry::Bind.key()) }
}

/// `take_result(value)` → whether it is one. It is stored in the `Option<SharedResult>` whose address is
/// handed to it.
fn take_result(args: &Args) -> Answer {
    // SAFETY: scripts cannot reach this function; `Visit::take` calls it with the address of such an
    // option, which outlives the call.
    unsafe { fill(handed::take(), args.result(1).map(OwnOrShared::share)) }
}

/// `take_context(value)` → whether it is one; see `take_result`.
fn take_context(args: &Args) -> Answer {
    // SAFETY: scripts cannot reach this function; `Visit::take` calls it with the address of such an
    // option, which outlives the call.
    unsafe { fill(handed::take(), args.context(1).map(OwnOrShared::share)) }
}

/// Stores `found` in the option at `place`; returns whether there is something.
///
/// # Safety
///
/// `place` is null or the address of an `Option<T>` that nothing else uses during this call.
unsafe fn fill<T>(place: *mut c_void, found: Option<T>) -> Answer {
    // SAFETY: the caller guarantees the type behind `place`.
    match (unsafe { place.cast::<Option<T>>().as_mut() }, found) {
        (Some(place), Some(found)) => {
            *place = Some(found);
            Answer::Bool(true)
        }
        _ => Answer::Bool(false),
    }
}

/// A Lua state with `SLOTS` free stack slots, during one call from C.
struct Visit(*mut lua_State);

impl Visit {
    /// The index as one that stays the same when values are pushed.
    fn absolute(&self, index: c_int) -> Result<c_int, Failure> {
        if index <= ffi::LUA_REGISTRYINDEX {
            return Ok(index);
        }
        // SAFETY: the state is valid, and this call cannot raise.
        let top = unsafe { ffi::lua_gettop(self.0) };
        let absolute = if index < 0 { top + index + 1 } else { index };
        if (1..=top).contains(&absolute) {
            return Ok(absolute);
        }
        Err(Failure::invalid(format!(
            "index: a place on the stack of {top} expected, got {index}"
        )))
    }

    /// Pushes the function of an entry.
    fn push(&self, entry: Entry) -> Done {
        // SAFETY: `visit` made room. Raw access to the registry runs no metamethod.
        unsafe {
            ffi::lua_rawgetp(self.0, ffi::LUA_REGISTRYINDEX, entry.key());
            if ffi::lua_type(self.0, -1) == ffi::LUA_TFUNCTION {
                return Ok(());
            }
            ffi::lua_pop(self.0, 1);
        }
        Err(Failure::new(
            Status::NotLoaded,
            "this Lua state has not loaded this copy of nauthilus_backend: require it first",
        ))
    }

    /// Calls the function below `arguments` values of the stack.
    fn call(&self, arguments: c_int, results: c_int) -> Done {
        // SAFETY: function and arguments are on the stack. `lua_pcall` catches every error, and the text
        // is copied before it is popped.
        unsafe {
            if ffi::lua_pcall(self.0, arguments, results, 0) == ffi::LUA_OK {
                return Ok(());
            }
            let mut length = 0;
            let text = if ffi::lua_type(self.0, -1) == ffi::LUA_TSTRING {
                let bytes = ffi::lua_tolstring(self.0, -1, &raw mut length);
                String::from_utf8_lossy(slice::from_raw_parts(bytes.cast(), length)).into_owned()
            } else {
                "an error that is not a string".to_owned()
            };
            ffi::lua_pop(self.0, 1);
            Err(Failure::new(Status::LuaError, text))
        }
    }

    /// A shared handle of the data of the value at `index`, if that is of the class.
    fn take<T>(&self, entry: Entry, index: c_int, class: &str) -> Result<T, Failure> {
        let index = self.absolute(index)?;
        let mut place: Option<T> = None;
        self.push(entry)?;
        // SAFETY: `visit` made room for this value above the function.
        unsafe { ffi::lua_pushvalue(self.0, index) };
        // `place` outlives the call.
        handed::while_handed((&raw mut place).cast(), || self.call(1, 0))?;
        place.ok_or_else(|| {
            Failure::new(
                Status::WrongLuaValue,
                format!("index: a {class} of this copy of nauthilus_backend expected"),
            )
        })
    }

    /// Pushes a userdata that shares `content`.
    fn give<T>(&self, entry: Entry, content: &T) -> Done {
        self.push(entry)?;
        // `content` outlives the call, which only clones it.
        let address = std::ptr::from_ref(content).cast_mut();
        handed::while_handed(address.cast(), || self.call(0, 1))
    }
}

/// Runs the work of an exported function on a Lua state.
///
/// # Safety
///
/// `reason` is null or valid for a write. `state` is null or a valid state that this thread may use.
unsafe fn visit(
    state: *mut lua_State,
    reason: *mut OwnedString,
    work: impl FnOnce(&Visit) -> Done,
) -> Status {
    // Before any Rust value is alive.
    // SAFETY: the state is checked for null, and otherwise valid.
    let room = unsafe { !state.is_null() && has_room::<SLOTS>(state) };
    // SAFETY: the caller guarantees `reason`.
    unsafe {
        guard(reason, || {
            if state.is_null() {
                return Err(Failure::invalid("state: a lua_State expected, got null"));
            }
            if !room {
                return Err(Failure::new(
                    Status::LuaError,
                    "the stack of the Lua state is full, or there is no memory for it",
                ));
            }
            work(&Visit(state))
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn nauthilus_backend_result_from_lua(
    state: *mut lua_State,
    index: c_int,
    result: *mut *mut ResultHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: the header requires of the caller what `visit` and `out` ask for.
    unsafe {
        visit(state, reason, |visit| {
            out("result", result)?;
            let taken = visit.take(Entry::TakeResult, index, "result")?;
            handle::give("result", result, ResultHandle(taken))
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn nauthilus_backend_result_push_lua(
    state: *mut lua_State,
    result: *const ResultHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: the header requires of the caller a valid state and handle, or null.
    unsafe {
        visit(state, reason, |visit| {
            visit.give(Entry::PushResult, &handle::get("result", result)?.0)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn nauthilus_backend_context_bind_lua(
    state: *mut lua_State,
    context: *const ContextHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: the header requires of the caller a valid state and handle, or null. The function, its
    // argument and what `give` pushes fit into `SLOTS`.
    unsafe {
        visit(state, reason, |visit| {
            visit.push(Entry::Bind)?;
            let pushed = match context.as_ref() {
                Some(context) => visit.give(Entry::PushContext, &context.0),
                None => {
                    ffi::lua_pushnil(state);
                    Ok(())
                }
            };
            if let Err(failure) = pushed {
                ffi::lua_pop(state, 1);
                return Err(failure);
            }
            visit.call(1, 0)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn nauthilus_backend_context_from_lua(
    state: *mut lua_State,
    index: c_int,
    context: *mut *mut ContextHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: the header requires of the caller what `visit` and `out` ask for.
    unsafe {
        visit(state, reason, |visit| {
            out("context", context)?;
            let taken = visit.take(Entry::TakeContext, index, "request context")?;
            handle::give("context", context, ContextHandle(taken))
        })
    }
}
