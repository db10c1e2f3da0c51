//! Which request context is the current one: `with_context`, and the default context of a Lua state.
//!
//! A hook may interrupt Lua code between any two instructions, to raise an error or to let other coroutines run;
//! HAProxy has such a hook. No hook runs while a native runs. The natives here also create no Lua objects while they
//! change a binding, so the garbage collector does not run and calls no finaliser. Therefore only these natives change
//! what is bound. It is in one table, which is argument 1 of each of them:
//!
//! | index | what it holds |
//! |---|---|
//! | 1 | the current context if it is the same for all coroutines, else nil; most calls read nothing else |
//! | 2 | the default context; false if there is none |
//! | 3 | the context that the main thread has bound, else false |
//! | 4 | by coroutine, weak: the context that it has bound |
//! | 5 | by coroutine, weak: the turn in which it last bound or used a context |
//! | 6 | how many coroutines are in table 4, or more: a coroutine that is collected is not subtracted |
//! | 7 | the last turn |
//! | 8 | LuaJIT: the Lua function `with_context` |
//! | 9 | how many calls found index 1 nil and had bound nothing, since table 4 was counted |

use std::ffi::c_int;

use mlua::ffi::{self, lua_Integer, lua_State};

use super::raw::{Item, Items};
use super::stack::has_room;

pub(super) const NATIVES: Items = &[
    ("with_context", Item::Native(with_context)),
    ("current_context", Item::Native(current_context)),
    ("default_context", Item::Native(default_context)),
    ("own_context", Item::Native(own_context)),
    #[cfg(feature = "luajit")]
    ("bound_context", Item::Native(bound_context)),
    #[cfg(feature = "luajit")]
    ("bind_context", Item::Native(bind_context)),
    #[cfg(feature = "luajit")]
    ("unbind_context", Item::Native(unbind_context)),
];

const CURRENT: lua_Integer = 1;
const DEFAULT: lua_Integer = 2;
const OF_MAIN: lua_Integer = 3;
const OF_COROUTINE: lua_Integer = 4;
const TURN_OF: lua_Integer = 5;
const BOUND: lua_Integer = 6;
const TURN: lua_Integer = 7;
const FUNCTION: lua_Integer = 8;
const CALLS: lua_Integer = 9;

/// Every so many calls that table 4 slows in vain, its coroutines are counted again: this heals what coroutines that
/// were collected have left, and costs a call little more even where ten thousand are bound.
const CALLS_PER_COUNT: f64 = 1024.0;

/// Stack slots that each method of [`Bindings`] needs.
const SLOTS: c_int = 10;
const _: () = assert!(SLOTS < ffi::LUA_MINSTACK);

/// The table of bindings, at index 1 of the running native.
///
/// Each method leaves the stack as it was, but for what its comment says. Only storing a new key in a table can
/// raise, if Lua has no memory; a method does that before it changes anything else. None of them owns a Rust value
/// then.
#[derive(Clone, Copy)]
struct Bindings {
    state: *mut lua_State,
}

/// What a coroutine does that has bound a context.
#[derive(PartialEq)]
enum Activity {
    /// It has yielded.
    Waits,
    /// It runs another coroutine.
    Runs,
    /// It has ended. One that its host uses again for something else runs or waits: see [`Bindings::is_inside`].
    Ended,
}

impl Bindings {
    /// The table that is argument 1. A script that takes natives from the glue with the library `debug` may pass
    /// anything.
    ///
    /// # Safety
    ///
    /// `state` is running a C function with [`SLOTS`] free slots whenever a method is called.
    unsafe fn of(state: *mut lua_State) -> Option<Self> {
        let bindings = Self { state };
        // SAFETY: two slots are used, and reading raises nothing.
        unsafe {
            if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
                return None;
            }
            bindings.push(OF_COROUTINE);
            bindings.push(TURN_OF);
            let are_tables = ffi::lua_type(state, -1) == ffi::LUA_TTABLE
                && ffi::lua_type(state, -2) == ffi::LUA_TTABLE;
            ffi::lua_pop(state, 2);
            are_tables.then_some(bindings)
        }
    }

    /// Pushes the field at an index.
    unsafe fn push(self, index: lua_Integer) {
        // SAFETY: argument 1 is a table.
        unsafe { ffi::lua_rawgeti(self.state, 1, index) };
    }

    /// Pops the value of a field. Its slot exists since the table was made.
    unsafe fn pop_to(self, index: lua_Integer) {
        // SAFETY: argument 1 is a table, and the caller has pushed a value.
        unsafe { ffi::lua_rawseti(self.state, 1, index) }
    }

    /// A number stays below 2^53, where a float is exact; integers of Lua 5.1 may have 32 bits.
    unsafe fn number(self, index: lua_Integer) -> f64 {
        // SAFETY: one slot is used.
        unsafe {
            self.push(index);
            let number = ffi::lua_tonumber(self.state, -1);
            ffi::lua_pop(self.state, 1);
            number
        }
    }

    unsafe fn set_number(self, index: lua_Integer, number: f64) {
        // SAFETY: one slot is used.
        unsafe {
            ffi::lua_pushnumber(self.state, number);
            self.pop_to(index);
        }
    }

    /// Pushes the context that the running coroutine or the main thread has bound; nil or false if none. Returns
    /// whether this is the main thread.
    unsafe fn push_bound(self) -> bool {
        // SAFETY: two slots are used, and reading raises nothing.
        unsafe {
            if ffi::lua_pushthread(self.state) != 0 {
                ffi::lua_pop(self.state, 1);
                self.push(OF_MAIN);
                return true;
            }
            self.push(OF_COROUTINE);
            ffi::lua_insert(self.state, -2);
            ffi::lua_rawget(self.state, -2);
            ffi::lua_remove(self.state, -2);
            false
        }
    }

    /// Binds the value at stack index `context` for the running coroutine or the main thread; nil or false: nothing.
    unsafe fn bind(self, context: c_int) {
        let state = self.state;
        // SAFETY: six slots are used.
        unsafe {
            let is_bound = ffi::lua_toboolean(state, context) != 0;
            let was_bound = {
                let is_main = self.push_bound();
                let was_bound = ffi::lua_toboolean(state, -1) != 0;
                ffi::lua_pop(state, 1);
                if is_main {
                    ffi::lua_pushvalue(state, context);
                    self.pop_to(OF_MAIN);
                    return self.settle();
                }
                was_bound
            };
            if is_bound {
                self.note_use();
            }
            self.push(OF_COROUTINE);
            ffi::lua_pushthread(state);
            if is_bound {
                ffi::lua_pushvalue(state, context);
            } else {
                ffi::lua_pushnil(state);
            }
            ffi::lua_rawset(state, -3);
            ffi::lua_pop(state, 1);
            let bound = self.number(BOUND) + f64::from(is_bound) - f64::from(was_bound);
            self.set_number(BOUND, bound);
            self.settle();
        }
    }

    /// Notes that the running coroutine runs now: of the coroutines that wait for the running one to yield, one that
    /// ran later is further inside.
    unsafe fn note_use(self) {
        let state = self.state;
        // SAFETY: four slots are used.
        unsafe {
            let last = self.number(TURN);
            self.push(TURN_OF);
            ffi::lua_pushthread(state);
            ffi::lua_rawget(state, -2);
            let own = ffi::lua_tonumber(state, -1);
            ffi::lua_pop(state, 1);
            // It mostly is: no other coroutine has bound or used a context since. Turns begin with 1.
            if own > 0.0 && own >= last {
                ffi::lua_pop(state, 1);
                return;
            }
            ffi::lua_pushthread(state);
            ffi::lua_pushnumber(state, last + 1.0);
            ffi::lua_rawset(state, -3);
            ffi::lua_pop(state, 1);
            self.set_number(TURN, last + 1.0);
        }
    }

    /// Sets the context that is the same for all coroutines.
    unsafe fn settle(self) {
        // SAFETY: one slot is used.
        unsafe {
            if self.number(BOUND) <= 0.0 {
                self.push_of_main();
            } else {
                ffi::lua_pushnil(self.state);
            }
            self.pop_to(CURRENT);
        }
    }

    /// Pushes the context of the main thread, its own or the default one.
    unsafe fn push_of_main(self) {
        // SAFETY: one slot is used.
        unsafe {
            self.push(OF_MAIN);
            if ffi::lua_toboolean(self.state, -1) == 0 {
                ffi::lua_pop(self.state, 1);
                self.push(DEFAULT);
            }
        }
    }

    /// Pushes the context of the innermost coroutine that has bound one and runs the running coroutine, directly or
    /// through others; nil if there is none. Forgets the coroutines that have ended.
    unsafe fn push_inherited(self) {
        let state = self.state;
        // SAFETY: seven slots are used. The traversal only clears fields, which Lua allows.
        unsafe {
            ffi::lua_pushnil(state);
            let found = ffi::lua_gettop(state);
            self.push(OF_COROUTINE);
            self.push(TURN_OF);
            let (mut bound, mut latest) = (0.0, 0.0);
            ffi::lua_pushnil(state);
            while ffi::lua_next(state, found + 1) != 0 {
                let thread = found + 3;
                let activity = activity(ffi::lua_tothread(state, thread));
                if activity == Activity::Ended {
                    ffi::lua_pushvalue(state, thread);
                    ffi::lua_pushnil(state);
                    ffi::lua_rawset(state, found + 1);
                } else {
                    bound += 1.0;
                }
                if activity == Activity::Runs {
                    ffi::lua_pushvalue(state, thread);
                    ffi::lua_rawget(state, found + 2);
                    let turn = ffi::lua_tonumber(state, -1);
                    ffi::lua_pop(state, 1);
                    if turn > latest {
                        latest = turn;
                        ffi::lua_pushvalue(state, thread + 1);
                        ffi::lua_replace(state, found);
                    }
                }
                ffi::lua_pop(state, 1);
            }
            ffi::lua_settop(state, found);
            self.set_number(BOUND, bound);
            self.set_number(CALLS, 0.0);
            self.settle();
        }
    }

    /// Notes a call that needs no other coroutine's context, but finds index 1 nil because of them; sometimes counts
    /// them.
    unsafe fn note_call(self) {
        // SAFETY: as many slots are used as by `push_inherited`.
        unsafe {
            let calls = self.number(CALLS) + 1.0;
            self.set_number(CALLS, calls);
            if calls >= CALLS_PER_COUNT {
                self.push_inherited();
                ffi::lua_pop(self.state, 1);
            }
        }
    }
}

/// What a coroutine does that is not the running one.
///
/// # Safety
///
/// `coroutine` is null or a coroutine of a state that this thread may use.
unsafe fn activity(coroutine: *mut lua_State) -> Activity {
    if coroutine.is_null() {
        return Activity::Ended;
    }
    // SAFETY: neither call changes the coroutine or raises; `lua_getstack` only fills `info`.
    unsafe {
        match ffi::lua_status(coroutine) {
            ffi::LUA_YIELD => Activity::Waits,
            ffi::LUA_OK => {
                let mut info = std::mem::zeroed::<ffi::lua_Debug>();
                if ffi::lua_getstack(coroutine, 0, &raw mut info) != 0 {
                    Activity::Runs
                } else {
                    Activity::Ended
                }
            }
            _ => Activity::Ended,
        }
    }
}

/// `with_context(bindings, context, fn, …)`: what `fn(…)` returns, called with `context` as the current one. An error
/// of `fn` is raised again unchanged. In Lua 5.1 and LuaJIT `fn` cannot yield.
unsafe extern "C-unwind" fn with_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        let (Some(bindings), true) = (Bindings::of(state), ffi::lua_gettop(state) >= 3) else {
            return 0;
        };
        bindings.push_bound();
        bindings.bind(2);
        // Index 2 is now the binding of before, also for `resumed`.
        ffi::lua_replace(state, 2);
        let given = ffi::lua_gettop(state) - 3;
        #[cfg(any(feature = "lua51", feature = "luajit"))]
        let status = ffi::lua_pcall(state, given, ffi::LUA_MULTRET, 0);
        #[cfg(not(any(feature = "lua51", feature = "luajit")))]
        let status = ffi::lua_pcallk(state, given, ffi::LUA_MULTRET, 0, 0, Some(resumed));
        finish(state, status)
    }
}

/// Lua calls this in place of what follows `lua_pcallk` in `with_context` if `fn` has yielded.
#[cfg(feature = "lua52")]
unsafe extern "C-unwind" fn resumed(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, on the stack that `with_context` left.
    unsafe {
        let status = ffi::lua_getctx(state, std::ptr::null_mut());
        finish(state, status)
    }
}

/// Lua calls this in place of what follows `lua_pcallk` in `with_context` if `fn` has yielded.
#[cfg(any(feature = "lua53", feature = "lua54", feature = "lua55"))]
unsafe extern "C-unwind" fn resumed(
    state: *mut lua_State,
    status: c_int,
    _: ffi::lua_KContext,
) -> c_int {
    // SAFETY: Lua called this with `state`, on the stack that `with_context` left.
    unsafe { finish(state, status) }
}

/// The end of `with_context`: binds what is at index 2. Above it are the results of `fn`, or its error.
///
/// # Safety
///
/// `state` is running `with_context`, which has called `fn`.
unsafe fn finish(state: *mut lua_State, status: c_int) -> c_int {
    let bindings = Bindings { state };
    // SAFETY: `with_context` has checked the bindings and left them at index 1. This frame owns nothing that an error
    // would leak. Nothing here raises before what was bound is bound again, since all keys of that are in the tables:
    // if `fn` returned so many results that there is no room above them, they are dropped.
    unsafe {
        if !has_room_above_results(state) {
            ffi::lua_settop(state, 2);
            bindings.bind(2);
            ffi::lua_pushstring(state, c"stack overflow".as_ptr());
            ffi::lua_error(state);
        }
        bindings.bind(2);
        if status != ffi::LUA_OK && status != ffi::LUA_YIELD {
            ffi::lua_error(state);
        }
        ffi::lua_gettop(state) - 2
    }
}

/// Whether there is room for [`SLOTS`] values above the results of `fn` or its error.
///
/// # Safety
///
/// `state` is running `with_context`, which has called `fn`.
unsafe fn has_room_above_results(state: *mut lua_State) -> bool {
    // `with_context` had three arguments or more, and Lua gave it `LUA_MINSTACK` slots above them. So there is room
    // for the bindings wherever `fn` raised an error or returned few values.
    // SAFETY: the caller guarantees a valid state.
    unsafe { ffi::lua_gettop(state) + SLOTS <= 3 + ffi::LUA_MINSTACK || has_room::<SLOTS>(state) }
}

/// `current_context(bindings)`: the context of the innermost `with_context` around the caller, or the default one. A
/// coroutine without a binding has that of the coroutine that runs it, or of the main thread.
unsafe extern "C-unwind" fn current_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        let Some(bindings) = Bindings::of(state) else {
            return 0;
        };
        let is_main = bindings.push_bound();
        if !is_main {
            if ffi::lua_toboolean(state, -1) != 0 {
                bindings.note_use();
                return 1;
            }
            bindings.push_inherited();
        } else {
            bindings.note_call();
        }
        if ffi::lua_toboolean(state, -1) == 0 {
            bindings.push_of_main();
        }
        1
    }
}

/// `default_context(bindings, context)`: makes it the default context.
unsafe extern "C-unwind" fn default_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        if let Some(bindings) = Bindings::of(state) {
            ffi::lua_settop(state, 2);
            bindings.pop_to(DEFAULT);
            bindings.settle();
        }
    }
    0
}

/// `own_context(bindings)`: the same without what the coroutine inherits. For nginx, where a coroutine waits like any
/// other for those that it runs; there the default context is false.
unsafe extern "C-unwind" fn own_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        let Some(bindings) = Bindings::of(state) else {
            return 0;
        };
        let is_main = bindings.push_bound();
        if !is_main && ffi::lua_toboolean(state, -1) != 0 {
            if bindings.is_inside() {
                return 1;
            }
            ffi::lua_pushnil(state);
            bindings.bind(ffi::lua_gettop(state));
        }
        bindings.note_call();
        bindings.push_of_main();
        1
    }
}

impl Bindings {
    /// Whether the running coroutine, which has bound a context, is still inside `with_context`. nginx does not return
    /// from a function that calls `ngx.exit`, `ngx.exec` or `ngx.redirect`, nor from one whose thread is killed or
    /// whose client is gone; and it uses the coroutine again for another handler, mostly that of another request,
    /// which must not find the binding. It does so with LuaJIT only: in Lua 5.1 all of these fail within `with_context`,
    /// since they yield.
    unsafe fn is_inside(self) -> bool {
        if !cfg!(feature = "luajit") {
            return true;
        }
        let state = self.state;
        // SAFETY: two slots are used. `lua_getinfo` gets a level that exists, and pushes its function.
        unsafe {
            self.push(FUNCTION);
            let mut info = std::mem::zeroed::<ffi::lua_Debug>();
            let (mut level, mut is_inside) = (0, false);
            while !is_inside && ffi::lua_getstack(state, level, &raw mut info) != 0 {
                ffi::lua_getinfo(state, c"f".as_ptr(), &raw mut info);
                is_inside = ffi::lua_rawequal(state, -1, -2) != 0;
                ffi::lua_pop(state, 1);
                level += 1;
            }
            ffi::lua_pop(state, 1);
            is_inside
        }
    }
}

/// `bound_context(bindings)`: what the running coroutine or the main thread has bound, and whether it is the main
/// thread.
#[cfg(feature = "luajit")]
unsafe extern "C-unwind" fn bound_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        let Some(bindings) = Bindings::of(state) else {
            return 0;
        };
        let is_main = bindings.push_bound();
        ffi::lua_pushboolean(state, c_int::from(is_main));
        2
    }
}

/// `bind_context(bindings, context)`: binds it for the running coroutine; nil: nothing.
#[cfg(feature = "luajit")]
unsafe extern "C-unwind" fn bind_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        if let Some(bindings) = Bindings::of(state) {
            ffi::lua_settop(state, 2);
            bindings.bind(2);
        }
    }
    0
}

/// `unbind_context(bindings, before, ok, …)`: binds `before` for the running coroutine. Returns the further arguments,
/// or raises the first of them if `ok` is false.
#[cfg(feature = "luajit")]
unsafe extern "C-unwind" fn unbind_context(state: *mut lua_State) -> c_int {
    // SAFETY: Lua called this with `state`, and a C function has 20 slots above its arguments. This frame owns nothing
    // that an error would leak.
    unsafe {
        let (Some(bindings), true) = (Bindings::of(state), ffi::lua_gettop(state) >= 3) else {
            return 0;
        };
        bindings.bind(2);
        if ffi::lua_toboolean(state, 3) == 0 {
            ffi::lua_settop(state, 4);
            ffi::lua_error(state);
        }
        ffi::lua_gettop(state) - 3
    }
}
