//! Turns natives into functions of a Lua state.
//!
//! All of this runs while the module is loaded and may raise at any allocation, so no frame owns a
//! Rust value that a Lua error would leak.

use std::ffi::c_int;
#[cfg(feature = "luajit")]
use std::ffi::c_void;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::answer::push_protected;
use super::class::{self, UPVALUES};
use super::fields::{push_text, set_field};
use crate::engine::active::ActiveConfig;
use crate::engine::process::Routes;
use crate::engine::process::check::Check;
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::BackendResult;
use crate::lua::per_state::PerState;

/// The number of the upvalue `PER_STATE`.
const PER_STATE_NUMBER: c_int = 5;

/// An entry of the table of natives, which the glue reads by name.
pub(in crate::lua) enum Item {
    /// A function made by one of the macros of `raw`, or a plain `lua_CFunction`; either gets the
    /// upvalues of natives.
    Native(ffi::lua_CFunction),
    /// The address of a function that LuaJIT's FFI calls.
    #[cfg(feature = "luajit")]
    Address(*const c_void),
    /// An address that is only known at run time.
    #[cfg(feature = "luajit")]
    AddressOf(fn() -> *mut c_void),
    Number(c_int),
    Text(&'static str),
    /// An array.
    Texts(&'static [&'static str]),
    Table(Items),
}

/// The entries of a table.
pub(in crate::lua) type Items = &'static [(&'static str, Item)];

/// The natives of a Lua state that is loading the module. The table of natives is on the Lua stack, and
/// above it are the values that become the upvalues of each native.
#[derive(Clone, Copy)]
pub(in crate::lua) struct Natives {
    state: *mut lua_State,
    table: c_int,
}

impl Natives {
    /// Pushes the table of natives and the upvalues. The table only has the fields `result_metatable`
    /// and `context_metatable`, to which the glue adds methods.
    ///
    /// # Safety
    ///
    /// `state` is running a C function with 20 free slots. May raise: the frames between this and Lua
    /// have no destructor to run.
    pub(in crate::lua) unsafe fn push(state: *mut lua_State) -> Self {
        // The table, the upvalues but for the last, and a copy of those.
        const _: () = assert!(2 * (UPVALUES - 1) < 20);
        // SAFETY: so many slots are used at most. The metatable of `PerState` is replaced on the stack by
        // its only userdata, so no other userdata can get it.
        unsafe {
            ffi::lua_createtable(state, 0, 64);
            let table = ffi::lua_gettop(state);
            class::push_metatable::<BackendResult>(state);
            class::push_metatable::<RequestContext>(state);
            class::push_owner_metatable::<Check>(state);
            class::push_owner_metatable::<Arc<ActiveConfig>>(state);
            class::push_owner_metatable::<PerState>(state);
            class::push_owner(
                state,
                table + PER_STATE_NUMBER,
                || Some(PerState::default()),
            );
            ffi::lua_replace(state, table + PER_STATE_NUMBER);
            class::push_owner_metatable::<Routes>(state);
            for number in 1..UPVALUES {
                ffi::lua_pushvalue(state, table + number);
            }
            ffi::lua_pushcclosure(state, push_protected, UPVALUES - 1);
            ffi::lua_pushvalue(state, table + 1);
            set_field(state, table, "result_metatable");
            ffi::lua_pushvalue(state, table + 2);
            set_field(state, table, "context_metatable");
            Self { state, table }
        }
    }

    /// Adds entries to the table.
    ///
    /// # Safety
    ///
    /// In the C function that called [`Self::push`], with 12 free slots. May raise.
    pub(in crate::lua) unsafe fn add(self, items: Items) {
        // SAFETY: `push` left the table at this index, and the caller provides the slots.
        unsafe { self.add_to(self.table, items) }
    }

    /// Pushes a native: a closure with all upvalues.
    ///
    /// # Safety
    ///
    /// In the C function that called [`Self::push`], with `UPVALUES` free slots. May raise.
    pub(in crate::lua) unsafe fn push_native(self, entry: ffi::lua_CFunction) {
        // SAFETY: `push` left the upvalues above the table, and the caller provides the slots.
        unsafe {
            for number in 1..=UPVALUES {
                ffi::lua_pushvalue(self.state, self.table + number);
            }
            ffi::lua_pushcclosure(self.state, entry, UPVALUES);
        }
    }

    /// Removes everything above the table from the stack.
    ///
    /// # Safety
    ///
    /// In the C function that called [`Self::push`].
    pub(in crate::lua) unsafe fn finish(self) {
        // SAFETY: `push` left the table at this index.
        unsafe { ffi::lua_settop(self.state, self.table) }
    }

    unsafe fn add_to(self, table: c_int, items: Items) {
        let state = self.state;
        // A native in a nested table.
        const _: () = assert!(UPVALUES < 12);
        // SAFETY: `table` is the index of a table. A nested table uses one slot more; they are nested
        // once at most, within the 12 slots that `add` asks for.
        unsafe {
            for (name, item) in items {
                match item {
                    Item::Native(entry) => self.push_native(*entry),
                    #[cfg(feature = "luajit")]
                    Item::Address(address) => {
                        ffi::lua_pushlightuserdata(state, address.cast_mut());
                    }
                    #[cfg(feature = "luajit")]
                    Item::AddressOf(find) => ffi::lua_pushlightuserdata(state, find()),
                    Item::Number(number) => ffi::lua_pushinteger(state, (*number).into()),
                    Item::Text(text) => push_text(state, text),
                    Item::Texts(texts) => {
                        ffi::lua_createtable(state, 0, 0);
                        for (index, text) in (1..).zip(*texts) {
                            push_text(state, text);
                            ffi::lua_rawseti(state, -2, index);
                        }
                    }
                    Item::Table(items) => {
                        ffi::lua_createtable(state, 0, 0);
                        self.add_to(ffi::lua_gettop(state), items);
                    }
                }
                set_field(state, table, name);
            }
        }
    }
}
