//! The classes of userdata: results and request contexts, and userdata that own a Rust value.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::ffi::{self, lua_State};

use super::fields::set_field;
use super::handed;
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::BackendResult;
use crate::engine::request::shared::Shared;
use crate::lua::own_or_shared::OwnOrShared;
use crate::sys::cancellation::uncancelled;

/// Upvalues of each native: the metatables that identify the classes, the list of servers that this
/// Lua state got last, and the function that pushes an answer in a protected call.
pub(super) const RESULT_METATABLE: c_int = ffi::lua_upvalueindex(1);
pub(super) const CONTEXT_METATABLE: c_int = ffi::lua_upvalueindex(2);
pub(super) const CHECK_METATABLE: c_int = ffi::lua_upvalueindex(3);
pub(super) const CONFIG_METATABLE: c_int = ffi::lua_upvalueindex(4);
pub(super) const PER_STATE: c_int = ffi::lua_upvalueindex(5);
pub(super) const ROUTES_METATABLE: c_int = ffi::lua_upvalueindex(6);
/// The number of these upvalues. The last is the pushing function, which itself has all the others.
pub(super) const UPVALUES: c_int = 7;
pub(super) const PUSHER: c_int = ffi::lua_upvalueindex(UPVALUES);

/// The index at which the metatable of a class holds the metatable of its holders (LuaJIT only).
const HOLDER_METATABLE: c_int = 1;

/// The content of a userdata; `None` once finalised, since other finalisers may still use the userdata.
///
/// While finalisers are pending, LuaJIT leaves compiled code at each allocation, so with LuaJIT few
/// userdata have one: several share a *holder*, another userdata that stores their contents and alone
/// has a finaliser. Each of the several stores the address of its content, and its environment table
/// references the holder, which therefore lives as long as any of them is reachable. A content may
/// also be in memory that is never freed; its userdata needs no holder.
pub(in crate::lua) type Content<T> = Option<OwnOrShared<T>>;

/// The alignment in bytes that every Lua guarantees for the block of a userdata.
const ALIGNMENT: usize = 8;
const _: () = assert!(align_of::<Content<BackendResult>>() <= ALIGNMENT);
const _: () = assert!(align_of::<Content<RequestContext>>() <= ALIGNMENT);

/// Pushes a userdata with the content that `make` returns. `make` must not panic.
///
/// # Safety
///
/// `state` is running a C function with four free slots, and `metatable` is that of the class whose
/// content is `T`. May raise: the frames between this and Lua have no destructor to run.
pub(super) unsafe fn push_userdata<T>(
    state: *mut lua_State,
    metatable: c_int,
    make: impl FnOnce() -> OwnOrShared<T>,
) {
    // SAFETY: the caller provides slots and metatable. `make` is called after the last call that can
    // raise, so its value is not lost.
    unsafe {
        let contents = Contents::<T>::new(state, metatable, 1);
        contents.push_userdata(state, 0).write(Some(make()));
        contents.finish(state);
    }
}

/// Makes userdata of a class with empty contents and returns the addresses of the contents.
#[cfg(feature = "luajit")]
struct Contents<T> {
    first: *mut Content<T>,
    metatable: c_int,
    /// Stack index of the environment table.
    environment: c_int,
}

#[cfg(feature = "luajit")]
impl<T> Contents<T> {
    /// Makes the holder of `count` contents; leaves the environment table on the stack.
    ///
    /// # Safety
    ///
    /// `state` is running a C function with three free slots, and `metatable` is that of the class
    /// whose content is `T`. May raise.
    unsafe fn new(state: *mut lua_State, metatable: c_int, count: usize) -> Self {
        // SAFETY: the contents are initialised before `lua_setmetatable` gives the holder a finaliser
        // that reads them, and nothing in between can raise or collect.
        unsafe {
            ffi::lua_createtable(state, 1, 0);
            let environment = ffi::lua_gettop(state);
            let first = ffi::lua_newuserdata(state, size_of::<Content<T>>() * count);
            let first = first.cast::<Content<T>>();
            for index in 0..count {
                first.add(index).write(None);
            }
            ffi::lua_rawgeti(state, metatable, HOLDER_METATABLE.into());
            ffi::lua_setmetatable(state, -2);
            ffi::lua_rawseti(state, environment, 1);
            Self {
                first,
                metatable,
                environment,
            }
        }
    }

    /// Pushes the userdata of the content at `index`, which is below the count.
    ///
    /// # Safety
    ///
    /// In the function that called [`Self::new`], with two free slots. May raise.
    #[inline]
    unsafe fn push_userdata(&self, state: *mut lua_State, index: usize) -> *mut Content<T> {
        // SAFETY: address and environment are set before the metatable, with which natives accept the
        // userdata. The environment keeps the holder, and so the address, valid. None of the calls
        // after `push_address` raises or collects.
        unsafe {
            let content = self.first.add(index);
            push_address(state, content);
            ffi::lua_pushvalue(state, self.environment);
            ffi::lua_setfenv(state, -2);
            ffi::lua_pushvalue(state, self.metatable);
            ffi::lua_setmetatable(state, -2);
            content
        }
    }

    /// Removes the environment table from the stack; a userdata above it moves down.
    unsafe fn finish(self, state: *mut lua_State) {
        // SAFETY: `new` left the table at this index.
        unsafe { ffi::lua_remove(state, self.environment) }
    }
}

#[cfg(not(feature = "luajit"))]
struct Contents<T> {
    metatable: c_int,
    content: std::marker::PhantomData<T>,
}

#[cfg(not(feature = "luajit"))]
impl<T> Contents<T> {
    unsafe fn new(_: *mut lua_State, metatable: c_int, _: usize) -> Self {
        Self {
            metatable,
            content: std::marker::PhantomData,
        }
    }

    /// Pushes a userdata.
    #[inline]
    unsafe fn push_userdata(&self, state: *mut lua_State, _: usize) -> *mut Content<T> {
        // SAFETY: the block is large enough and aligned. It is initialised before `lua_setmetatable`
        // gives it a finaliser that reads it, and nothing in between can raise or collect.
        unsafe {
            let block = new_userdata(state, size_of::<Content<T>>()).cast::<Content<T>>();
            block.write(None);
            ffi::lua_pushvalue(state, self.metatable);
            ffi::lua_setmetatable(state, -2);
            block
        }
    }

    unsafe fn finish(self, _: *mut lua_State) {}
}

/// `push_result()` → a result that shares the `SharedResult` whose address is handed to it; nil where
/// none is. For `bridge`. An address, not ownership: nothing leaks when Lua has no memory.
///
/// # Safety
///
/// Called by Lua, as a closure of `Natives::push_native`, with an address valid during the call.
pub(in crate::lua) unsafe extern "C-unwind" fn push_result(state: *mut lua_State) -> c_int {
    // SAFETY: the closure has this upvalue, and the caller passes such an address.
    unsafe { push_borrowed::<BackendResult>(state, RESULT_METATABLE) }
}

/// `push_context()` → context; see `push_result`.
///
/// # Safety
///
/// Called by Lua, as a closure of `Natives::push_native`, with an address valid during the call.
pub(in crate::lua) unsafe extern "C-unwind" fn push_context(state: *mut lua_State) -> c_int {
    // SAFETY: the closure has this upvalue, and the caller passes such an address.
    unsafe { push_borrowed::<RequestContext>(state, CONTEXT_METATABLE) }
}

unsafe fn push_borrowed<T: Default>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: `bridge` hands only such addresses, or null, to both callers, which pass the metatable of
    // the same `T`. A clone is only made where nothing can raise any more.
    unsafe {
        match handed::take().cast::<Shared<T>>().as_ref() {
            Some(handle) => push_userdata(state, metatable, || handle.clone().into()),
            None => ffi::lua_pushnil(state),
        }
    }
    1
}

/// `fill_results(array, count)`: puts `count` new results into `array`, from its index 1.
/// `glue/fast.lua` keeps them ready, since compiled code cannot make a userdata.
///
/// # Safety
///
/// Called by Lua, as a closure of `Natives::push_native`.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe extern "C-unwind" fn fill_results(state: *mut lua_State) -> c_int {
    // SAFETY: the closure has this upvalue, the metatable of the same class.
    unsafe { fill::<BackendResult>(state, RESULT_METATABLE) }
}

/// `fill_contexts(array, count)`: the same with new contexts.
///
/// # Safety
///
/// Called by Lua, as a closure of `Natives::push_native`.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe extern "C-unwind" fn fill_contexts(state: *mut lua_State) -> c_int {
    // SAFETY: the closure has this upvalue, the metatable of the same class.
    unsafe { fill::<RequestContext>(state, CONTEXT_METATABLE) }
}

#[cfg(feature = "luajit")]
unsafe fn fill<T: Default>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: the callers pass the metatable of the class of `T`. Lack of memory or stack, finalisers
    // and hooks may raise, and no frame owns a Rust value then: each content belongs to its holder.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            // The glue asks for at most 64 (`MOST_SPARE`), so the cast is exact.
            let count = ffi::lua_tonumber(state, 2) as c_int;
            let contents = Contents::<T>::new(state, metatable, count.unsigned_abs() as usize);
            // A new userdata gets the environment of the running C function, which saves a
            // `lua_setfenv` for each. So each call makes a closure of its own: a closure shared by all
            // calls could get another environment while it runs, from a finaliser that calls `fill`.
            ffi::lua_pushvalue(state, metatable);
            ffi::lua_pushcclosure(state, fill_here::<T>, 1);
            ffi::lua_pushvalue(state, contents.environment);
            ffi::lua_setfenv(state, -2);
            ffi::lua_pushvalue(state, 1);
            ffi::lua_call(state, 1, 0);
            contents.finish(state);
        }
    }
    0
}

/// `fill_here(array)`: puts a userdata for each content of a holder into the array.
///
/// # Safety
///
/// Called by `fill`: its environment is the environment table of a `Contents` that no other function
/// uses, and upvalue 1 is the metatable of the class of `T`.
#[cfg(feature = "luajit")]
unsafe extern "C-unwind" fn fill_here<T: Default>(state: *mut lua_State) -> c_int {
    // SAFETY: index 1 of the environment is the holder, whose size gives the number of contents. The
    // userdata's environment, which is this function's, keeps the holder alive. A content is written
    // once its userdata is complete, and making it cannot panic.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_ENVIRONINDEX, 1);
        let first = ffi::lua_touserdata(state, -1).cast::<Content<T>>();
        let count = ffi::lua_objlen(state, -1) / size_of::<Content<T>>();
        for index in 0..count {
            let content = first.add(index);
            push_address(state, content);
            ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
            ffi::lua_setmetatable(state, -2);
            content.write(Some(OwnOrShared::default()));
            ffi::lua_rawseti(state, 1, (index as c_int + 1).into());
        }
    }
    0
}

/// Pushes a userdata that holds the address of a content, still without metatable.
///
/// # Safety
///
/// `state` is running a C function with a free slot. May raise. A caller that gives the userdata a
/// metatable keeps the content valid as long as the userdata: through its environment, or for ever.
#[cfg(feature = "luajit")]
unsafe fn push_address<T>(state: *mut lua_State, content: *mut Content<T>) {
    // SAFETY: the block has the size of the pointer that is written to it.
    unsafe {
        let block = ffi::lua_newuserdata(state, size_of_val(&content));
        block.cast::<*mut Content<T>>().write(content);
    }
}

/// Pushes a userdata of the context that `find` returns for the number in argument 1; nil where it
/// returns none.
///
/// # Safety
///
/// `state` is running a closure of `Natives::push_native`. The content that `find` returns is never
/// freed. `find` must not panic. May raise.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe fn push_lasting_context(
    state: *mut lua_State,
    find: impl FnOnce(i64) -> Option<*mut Content<RequestContext>>,
) -> c_int {
    // SAFETY: the closure has upvalue `CONTEXT_METATABLE`. The userdata has the address before it has
    // the metatable. No frame owns a Rust value when `push_address` raises.
    unsafe {
        // The number of a place is a `c_int`: the cast is exact.
        match find(ffi::lua_tonumber(state, 1) as i64) {
            Some(content) => {
                push_address(state, content);
                ffi::lua_pushvalue(state, CONTEXT_METATABLE);
                ffi::lua_setmetatable(state, -2);
            }
            None => ffi::lua_pushnil(state),
        }
    }
    1
}

unsafe fn new_userdata(state: *mut lua_State, size: usize) -> *mut c_void {
    // SAFETY: the callers run in a C function with a free slot, and own no Rust value if this raises.
    unsafe {
        #[cfg(any(feature = "lua54", feature = "lua55"))]
        return ffi::lua_newuserdatauv(state, size, 0);
        #[cfg(not(any(feature = "lua54", feature = "lua55")))]
        return ffi::lua_newuserdata(state, size);
    }
}
/// The finaliser of a class (with LuaJIT of its holders): drops the contents. A second call finds
/// `None` and does nothing.
///
/// # Safety
///
/// Called by Lua. Upvalue 1 is a metatable that only userdata holding `Content<T>` have.
unsafe extern "C-unwind" fn finalise<T>(state: *mut lua_State) -> c_int {
    // SAFETY: `is_of` checks that argument 1 is such a userdata, whose size says how many
    // contents it holds.
    unsafe {
        if is_of(state, 1, ffi::lua_upvalueindex(1)) {
            let first = ffi::lua_touserdata(state, 1).cast::<Content<T>>();
            #[cfg(feature = "luajit")]
            let count = ffi::lua_objlen(state, 1) / size_of::<Content<T>>();
            #[cfg(not(feature = "luajit"))]
            let count = 1;
            for index in 0..count {
                contain_drop((*first.add(index)).take());
            }
        }
    }
    0
}

/// Whether the value at `index` is a userdata with this metatable.
///
/// # Safety
///
/// `index` is an argument of the running C function, `metatable` an upvalue of it.
#[inline]
unsafe fn is_of(state: *mut lua_State, index: c_int, metatable: c_int) -> bool {
    // SAFETY: none of these allocates or raises; the stack is left as it was.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TUSERDATA
            || ffi::lua_getmetatable(state, index) == 0
        {
            return false;
        }
        let same = ffi::lua_rawequal(state, -1, metatable) != 0;
        ffi::lua_pop(state, 1);
        same
    }
}

/// The content of the userdata at `index`, if it is of the class with this metatable.
///
/// # Safety
///
/// `index` is a stack slot of the running C function, and `metatable` an upvalue of it: the
/// metatable of the class whose content is `T`.
#[inline]
pub(super) unsafe fn content<T>(
    state: *mut lua_State,
    index: c_int,
    metatable: c_int,
) -> Option<*mut Content<T>> {
    // SAFETY: `is_of` checks the metatable, which only userdata of this class have.
    unsafe { is_of(state, index, metatable).then(|| content_of(ffi::lua_touserdata(state, index))) }
}

/// The content of a userdata.
///
/// # Safety
///
/// `block` is the block of a userdata of the class whose content is `T`.
pub(in crate::lua) unsafe fn content_of<T>(block: *const c_void) -> *mut Content<T> {
    #[cfg(feature = "luajit")]
    // SAFETY: with LuaJIT the block of such a userdata holds the address of its content.
    return unsafe { *block.cast::<*mut Content<T>>() };
    #[cfg(not(feature = "luajit"))]
    return block.cast::<Content<T>>().cast_mut();
}

/// Pushes the metatable of a class whose content is `T`. It has only the finaliser; the glue adds the
/// rest.
///
/// # Safety
///
/// `state` is running a C function with four free slots. May raise. Only `Contents` and
/// `push_lasting_context` give userdata this metatable, with contents of the same `T`.
pub(super) unsafe fn push_metatable<T>(state: *mut lua_State) {
    // SAFETY: the caller provides the slots, and this frame owns nothing that a jump would skip.
    unsafe {
        ffi::lua_createtable(state, 1, 4);
        if cfg!(feature = "luajit") {
            push_finalised(state, finalise::<T>);
            ffi::lua_rawseti(state, -2, HOLDER_METATABLE.into());
        } else {
            add_finaliser(state, finalise::<T>);
        }
    }
}

/// Pushes the metatable of userdata that own a `T` each, for [`push_owner`].
///
/// # Safety
///
/// `state` is running a C function with four free slots. May raise. Only `push_owner::<T>` gives
/// userdata this metatable.
pub(super) unsafe fn push_owner_metatable<T>(state: *mut lua_State) {
    // SAFETY: the caller provides the slots, and this frame owns nothing that a jump would skip.
    unsafe {
        push_finalised(state, finalise_owner::<T>);
        ffi::lua_pushboolean(state, 0);
        set_field(state, -2, "__metatable");
    }
}

/// Pushes a new metatable with a finaliser.
unsafe fn push_finalised(state: *mut lua_State, finaliser: ffi::lua_CFunction) {
    // SAFETY: the callers leave three free slots, and own nothing that a jump would skip.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        add_finaliser(state, finaliser);
    }
}

/// Gives the metatable on top of the stack a finaliser whose upvalue 1 is that metatable.
unsafe fn add_finaliser(state: *mut lua_State, finaliser: ffi::lua_CFunction) {
    // SAFETY: the callers leave two free slots above the metatable, and own nothing that a jump would
    // skip.
    unsafe {
        ffi::lua_pushvalue(state, -1);
        ffi::lua_pushcclosure(state, finaliser, 1);
        set_field(state, -2, "__gc");
    }
}

/// Pushes a userdata that owns the value that `make` returns. `make` must not panic. The value is
/// `None` once the userdata is finalised, since other finalisers may still use the userdata.
///
/// # Safety
///
/// `state` is running a C function with two free slots, and `metatable` is one that
/// [`push_owner_metatable`] made for the same `T`. May raise.
pub(super) unsafe fn push_owner<T>(
    state: *mut lua_State,
    metatable: c_int,
    make: impl FnOnce() -> Option<T>,
) {
    const { assert!(align_of::<Option<T>>() <= ALIGNMENT) };
    // SAFETY: the block is large enough and aligned. It is initialised before `lua_setmetatable` gives
    // it a finaliser that reads it, and `make` is called after the last call that can raise.
    unsafe {
        let block = new_userdata(state, size_of::<Option<T>>()).cast::<Option<T>>();
        block.write(None);
        ffi::lua_pushvalue(state, metatable);
        ffi::lua_setmetatable(state, -2);
        *block = make();
    }
}

/// The value that the userdata at `index` owns, if it has this metatable.
///
/// # Safety
///
/// `index` is an argument of the running C function, and `metatable` an upvalue of it that
/// [`push_owner_metatable`] made for the same `T`.
pub(super) unsafe fn owned<T>(
    state: *mut lua_State,
    index: c_int,
    metatable: c_int,
) -> Option<*mut Option<T>> {
    // SAFETY: `is_of` checks the metatable, which only userdata with an `Option<T>` have.
    unsafe { is_of(state, index, metatable).then(|| ffi::lua_touserdata(state, index).cast()) }
}

/// The value that a userdata owns.
///
/// # Safety
///
/// `block` is the block of a userdata that [`push_owner`] made for the same `T`.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe fn owned_of<T>(block: *const c_void) -> *const Option<T> {
    block.cast()
}

/// The finaliser of a userdata that owns a `T`. A second call finds `None` and does nothing.
///
/// # Safety
///
/// Called by Lua. Upvalue 1 is a metatable that only userdata made by `push_owner::<T>` have.
unsafe extern "C-unwind" fn finalise_owner<T>(state: *mut lua_State) -> c_int {
    // SAFETY: `owned` checks that argument 1 has the metatable in upvalue 1. The value is taken out
    // before its destructor runs, so that a second call cannot drop it again.
    unsafe {
        if let Some(owned) = owned::<T>(state, 1, ffi::lua_upvalueindex(1)) {
            let owned = (*owned).take();
            // It may close descriptors, which is a cancellation point.
            uncancelled(|| contain_drop(owned));
        }
    }
    0
}

/// Drops the value that a finaliser took. A panic must not unwind into Lua.
pub(super) fn contain_drop<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        std::mem::forget(panic);
    }
}
