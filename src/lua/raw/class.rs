//! The classes of userdata: results and request contexts.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::ffi::{self, lua_State};

use super::fields::set_field;
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::BackendResult;
use crate::engine::request::shared::Shared;
use crate::lua::held::Held;

/// Upvalues of each native: what tells the classes apart, and the function that pushes an answer.
pub(super) const RESULT_METATABLE: c_int = ffi::lua_upvalueindex(1);
pub(super) const CONTEXT_METATABLE: c_int = ffi::lua_upvalueindex(2);
pub(super) const CHECK_METATABLE: c_int = ffi::lua_upvalueindex(3);
pub(super) const SERVICE_METATABLE: c_int = ffi::lua_upvalueindex(4);
pub(super) const LISTS: c_int = ffi::lua_upvalueindex(5);
/// How many they are. The last is the function that pushes; that one has all but itself.
pub(super) const UPVALUES: c_int = 6;
pub(super) const PUSHER: c_int = ffi::lua_upvalueindex(UPVALUES);

/// Where a class's metatable in LuaJIT has that of its holders.
const HOLDER_METATABLE: c_int = 1;

/// A userdata's content. Empty once finalised: other finalisers may still reach it then.
///
/// While finalisers wait to be run, LuaJIT leaves compiled code at each allocation, so there they
/// are few: the contents of several userdata are in one other, their holder, which alone has a
/// finaliser. Each of them has the address of its content, and an environment table with the
/// holder in it, so that this lives as long as one of them can be reached. A content may also be
/// in memory that is never freed: then its userdata needs no holder.
pub(in crate::lua) type Content<T> = Option<Held<T>>;

/// To what the blocks of userdata are aligned at least, in every Lua.
const ALIGNMENT: usize = 8;
const _: () = assert!(align_of::<Content<BackendResult>>() <= ALIGNMENT);
const _: () = assert!(align_of::<Content<RequestContext>>() <= ALIGNMENT);

/// Pushes a userdata that holds what `make` gives, which must not panic.
pub(super) unsafe fn push_userdata<T>(
    state: *mut lua_State,
    metatable: c_int,
    make: impl FnOnce() -> Held<T>,
) {
    // SAFETY: as of `push`. Nothing raises once it has content.
    unsafe {
        let contents = Contents::<T>::new(state, metatable, 1);
        contents.push_userdata(state, 0).write(Some(make()));
        contents.finish(state);
    }
}

/// Makes userdata of a class, empty ones, and says where their contents are.
#[cfg(feature = "luajit")]
struct Contents<T> {
    first: *mut Content<T>,
    metatable: c_int,
    /// Stack index of the environment table.
    environment: c_int,
}

#[cfg(feature = "luajit")]
impl<T> Contents<T> {
    /// For `count` userdata; leaves the environment table on the stack.
    ///
    /// # Safety
    ///
    /// As of `push`; `metatable` is that of the class.
    unsafe fn new(state: *mut lua_State, metatable: c_int, count: usize) -> Self {
        // SAFETY: as of this function. The holder has contents before it has the metatable that
        // gives it a finaliser; between the two nothing can raise.
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

    /// Pushes the userdata of the content at `index`, below the count.
    unsafe fn push_userdata(&self, state: *mut lua_State, index: usize) -> *mut Content<T> {
        // SAFETY: as of `new`. It has the address before it has the metatable that makes it one
        // of ours, and from then on the environment that keeps the address valid: none of the
        // calls in between raises or collects.
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

    /// Takes the environment table off the stack, from below a userdata or from its top.
    unsafe fn finish(self, state: *mut lua_State) {
        // SAFETY: `new` left it there.
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
    unsafe fn push_userdata(&self, state: *mut lua_State, _: usize) -> *mut Content<T> {
        // SAFETY: as of `push`. It has content before it has the metatable that makes it one of
        // ours and gives it a finaliser; between the two nothing can raise.
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

/// `push_result(address of a SharedResult)` → result. For `bridge`: owns nothing, so that nothing
/// is lost where Lua has no memory.
///
/// # Safety
///
/// Called by Lua, with an address that is valid during the call.
pub(in crate::lua) unsafe extern "C-unwind" fn push_result(state: *mut lua_State) -> c_int {
    // SAFETY: as of this function; made by `Natives::function`, it has the upvalues.
    unsafe { push_borrowed::<BackendResult>(state, RESULT_METATABLE) }
}

/// `push_context(address of a SharedContext)` → context; as `push_result`.
///
/// # Safety
///
/// As of `push_result`.
pub(in crate::lua) unsafe extern "C-unwind" fn push_context(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { push_borrowed::<RequestContext>(state, CONTEXT_METATABLE) }
}

unsafe fn push_borrowed<T: Default>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: as of the callers.
    unsafe {
        match ffi::lua_touserdata(state, 1).cast::<Shared<T>>().as_ref() {
            // Counts a reference.
            Some(handle) => push_userdata(state, metatable, || handle.clone().into()),
            None => ffi::lua_pushnil(state),
        }
    }
    1
}

/// `fill_results(array, count)`: puts `count` new results into `array`, from its index 1. For
/// what takes results from there without a call, see `fast`.
///
/// # Safety
///
/// As of `push_result`.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe extern "C-unwind" fn fill_results(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { fill::<BackendResult>(state, RESULT_METATABLE) }
}

/// `fill_contexts(array, count)`: the same with new contexts.
///
/// # Safety
///
/// As of `push_result`.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe extern "C-unwind" fn fill_contexts(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { fill::<RequestContext>(state, CONTEXT_METATABLE) }
}

#[cfg(feature = "luajit")]
unsafe fn fill<T: Default>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: as of the callers. Want of memory or of stack, finalisers and hooks may raise; no frame
    // owns anything then: what is made belongs to its userdata at once.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            // The glue asks for few: any number it can mean is exact.
            let count = ffi::lua_tonumber(state, 2) as c_int;
            let contents = Contents::<T>::new(state, metatable, count.unsigned_abs() as usize);
            // A userdata begins with the environment of the function that makes it, for nothing: so
            // a function of these alone makes them. (One for all would have to be given theirs, and
            // finalisers may come here meanwhile and give it others.)
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

/// `fill_here(array)`: puts userdata of all contents of a holder into the array.
///
/// # Safety
///
/// Called by `fill`: its environment is that of a `Contents` which nobody else has, and upvalue 1 the
/// metatable of its class.
#[cfg(feature = "luajit")]
unsafe extern "C-unwind" fn fill_here<T: Default>(state: *mut lua_State) -> c_int {
    // SAFETY: as of this function; see `Contents::push_userdata`. Making a content cannot panic.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_ENVIRONINDEX, 1);
        let first = ffi::lua_touserdata(state, -1).cast::<Content<T>>();
        let count = ffi::lua_objlen(state, -1) / size_of::<Content<T>>();
        for index in 0..count {
            let content = first.add(index);
            push_address(state, content);
            ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
            ffi::lua_setmetatable(state, -2);
            content.write(Some(Held::default()));
            ffi::lua_rawseti(state, 1, (index as c_int + 1).into());
        }
    }
    0
}

/// Pushes a userdata with the address of its content, and without metatable.
///
/// # Safety
///
/// Within a function that Lua called, with a stack slot left. Who gives it a metatable sees to it that
/// the content is there as long as the userdata: by its environment, or for ever.
#[cfg(feature = "luajit")]
unsafe fn push_address<T>(state: *mut lua_State, content: *mut Content<T>) {
    // SAFETY: as of this function.
    unsafe {
        let block = ffi::lua_newuserdata(state, size_of_val(&content));
        block.cast::<*mut Content<T>>().write(content);
    }
}

/// Pushes a userdata of the context that is where `find` says, for the number that is argument 1;
/// nil where there is none.
///
/// # Safety
///
/// As of `push_result`; what `find` gives is never freed. `find` must not panic.
#[cfg(feature = "luajit")]
pub(in crate::lua) unsafe fn push_lasting_context(
    state: *mut lua_State,
    find: impl FnOnce(i64) -> Option<*mut Content<RequestContext>>,
) -> c_int {
    // SAFETY: as of this function. It has the address before it has the metatable that makes it
    // one of ours; no frame owns anything where a call raises.
    unsafe {
        // A number that counts something is exact.
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
    // SAFETY: as of `push`.
    unsafe {
        #[cfg(feature = "lua54")]
        return ffi::lua_newuserdatauv(state, size, 0);
        #[cfg(not(feature = "lua54"))]
        return ffi::lua_newuserdata(state, size);
    }
}
/// The finaliser of a class, in LuaJIT that of its holders: drops contents. A second call finds
/// none.
///
/// # Safety
///
/// Called by Lua. Upvalue 1 is the metatable of userdata that hold `Content<T>`, and nothing else.
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
/// `index` is an argument of the running C function, `metatable` an upvalue of it: the
/// metatable of the class whose content is `T`.
pub(super) unsafe fn content<T>(
    state: *mut lua_State,
    index: c_int,
    metatable: c_int,
) -> Option<*mut Content<T>> {
    // SAFETY: `is_of` checks what `content_of` asks for.
    unsafe { is_of(state, index, metatable).then(|| content_of(ffi::lua_touserdata(state, index))) }
}

/// The content of a userdata.
///
/// # Safety
///
/// `block` is that of a userdata of the class whose content is `T`.
pub(in crate::lua) unsafe fn content_of<T>(block: *const c_void) -> *mut Content<T> {
    #[cfg(feature = "luajit")]
    // SAFETY: as of this function: it has the address of its content.
    return unsafe { *block.cast::<*mut Content<T>>() };
    #[cfg(not(feature = "luajit"))]
    return block.cast::<Content<T>>().cast_mut();
}

/// Pushes the metatable of a class whose content is `T`: with a finaliser and nothing else, the glue
/// adds the rest.
///
/// # Safety
///
/// Within a function that Lua called, with four stack slots left; may raise. Only `Contents` gives
/// userdata this metatable, with the contents it says.
pub(super) unsafe fn push_metatable<T>(state: *mut lua_State) {
    // SAFETY: as of this function.
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

/// Pushes the metatable of userdata that are a `T` each, for [`push_owner`]; as of [`push_metatable`].
///
/// # Safety
///
/// As of [`push_metatable`]; only `push_owner` gives userdata this metatable, as many as are a `T`.
pub(super) unsafe fn push_owner_metatable<T>(state: *mut lua_State) {
    // SAFETY: as of this function.
    unsafe {
        push_finalised(state, finalise_owner::<T>);
        ffi::lua_pushboolean(state, 0);
        set_field(state, -2, "__metatable");
    }
}

unsafe fn push_finalised(state: *mut lua_State, finaliser: ffi::lua_CFunction) {
    // SAFETY: as of the callers.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        add_finaliser(state, finaliser);
    }
}

/// Gives the metatable on top a finaliser, which has it as its upvalue.
unsafe fn add_finaliser(state: *mut lua_State, finaliser: ffi::lua_CFunction) {
    // SAFETY: as of the callers.
    unsafe {
        ffi::lua_pushvalue(state, -1);
        ffi::lua_pushcclosure(state, finaliser, 1);
        set_field(state, -2, "__gc");
    }
}

/// Pushes a userdata that owns what `make` gives, which must not panic. It is `None` once the
/// userdata is finalised: other finalisers may still reach it then.
///
/// # Safety
///
/// As of `push`; `metatable` is one of [`push_owner_metatable`], of the same type.
pub(super) unsafe fn push_owner<T>(
    state: *mut lua_State,
    metatable: c_int,
    make: impl FnOnce() -> Option<T>,
) {
    const { assert!(align_of::<Option<T>>() <= ALIGNMENT) };
    // SAFETY: as of this function. It is empty before it has the metatable that gives it a finaliser,
    // and from then on nothing raises.
    unsafe {
        let block = new_userdata(state, size_of::<Option<T>>()).cast::<Option<T>>();
        block.write(None);
        ffi::lua_pushvalue(state, metatable);
        ffi::lua_setmetatable(state, -2);
        *block = make();
    }
}

/// What the userdata at `index` owns, if it is one with this metatable.
///
/// # Safety
///
/// As of `push_owner`; `index` and `metatable` as of [`content`].
pub(super) unsafe fn owned<T>(
    state: *mut lua_State,
    index: c_int,
    metatable: c_int,
) -> Option<*mut Option<T>> {
    // SAFETY: as of this function.
    unsafe { is_of(state, index, metatable).then(|| ffi::lua_touserdata(state, index).cast()) }
}

/// The finaliser of what owns a `T`. A second call finds nothing.
///
/// # Safety
///
/// Called by Lua. Upvalue 1 is the metatable of userdata made by `push_owner::<T>`, and nothing else.
unsafe extern "C-unwind" fn finalise_owner<T>(state: *mut lua_State) -> c_int {
    // SAFETY: as of this function.
    unsafe {
        if let Some(owned) = owned::<T>(state, 1, ffi::lua_upvalueindex(1)) {
            let owned = (*owned).take();
            contain_drop(owned);
        }
    }
    0
}

/// Drops what a finaliser took; a panic ends there.
fn contain_drop<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        std::mem::forget(panic);
    }
}
