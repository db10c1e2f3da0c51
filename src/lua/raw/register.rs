//! How natives become functions of a Lua state.
//!
//! All of this runs while the module is loaded, and may raise at any allocation: no frame owns
//! anything that a jump would leak.

use std::ffi::c_int;
#[cfg(feature = "luajit")]
use std::ffi::c_void;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::answer::push_protected;
use super::class::{self, UPVALUES};
use super::fields::{push_text, set_field};
use crate::engine::active::ActiveConfig;
use crate::engine::process::check::Check;
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::BackendResult;
use crate::lua::given_lists::Lists;

/// What the glue finds in the table of natives under a name.
pub(in crate::lua) enum Item {
    /// A function made by one of the macros of `raw`, or one that needs no more than its upvalues.
    Native(ffi::lua_CFunction),
    /// What LuaJIT's FFI calls.
    #[cfg(feature = "luajit")]
    Address(*const c_void),
    /// An address that is only known when the module is loaded.
    #[cfg(feature = "luajit")]
    AddressOf(fn() -> *mut c_void),
    #[cfg(feature = "luajit")]
    Number(c_int),
    Text(&'static str),
    /// An array.
    Texts(&'static [&'static str]),
    Table(Items),
}

/// The entries of a table.
pub(in crate::lua) type Items = &'static [(&'static str, Item)];

/// The natives of a Lua state that is loading the module: their table is on its stack, and above it
/// what becomes the upvalues of each native.
#[derive(Clone, Copy)]
pub(in crate::lua) struct Natives {
    state: *mut lua_State,
    table: c_int,
}

impl Natives {
    /// Pushes an empty table and the classes. The metatables are fields `result_metatable` and
    /// `context_metatable` of the table.
    ///
    /// # Safety
    ///
    /// `state` is running a C function with room for 20 values, which owns nothing: this may raise.
    pub(in crate::lua) unsafe fn push(state: *mut lua_State) -> Self {
        // SAFETY: as of this function. The lists' metatable is known to nobody else.
        unsafe {
            ffi::lua_createtable(state, 0, 64);
            let table = ffi::lua_gettop(state);
            class::push_metatable::<BackendResult>(state);
            class::push_metatable::<RequestContext>(state);
            class::push_owner_metatable::<Check>(state);
            class::push_owner_metatable::<Arc<ActiveConfig>>(state);
            class::push_owner_metatable::<Lists>(state);
            class::push_owner(state, table + UPVALUES - 1, || Some(Lists::default()));
            ffi::lua_replace(state, table + UPVALUES - 1);
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
    /// As of [`Self::push`], and in the same function.
    pub(in crate::lua) unsafe fn add(self, items: Items) {
        // SAFETY: as of this function.
        unsafe { self.add_to(self.table, items) }
    }

    /// Pushes a native.
    ///
    /// # Safety
    ///
    /// As of [`Self::add`].
    pub(in crate::lua) unsafe fn push_native(self, entry: ffi::lua_CFunction) {
        // SAFETY: as of this function.
        unsafe {
            for number in 1..=UPVALUES {
                ffi::lua_pushvalue(self.state, self.table + number);
            }
            ffi::lua_pushcclosure(self.state, entry, UPVALUES);
        }
    }

    /// Leaves nothing but the table on the stack.
    ///
    /// # Safety
    ///
    /// As of [`Self::add`].
    pub(in crate::lua) unsafe fn finish(self) {
        // SAFETY: as of this function.
        unsafe { ffi::lua_settop(self.state, self.table) }
    }

    unsafe fn add_to(self, table: c_int, items: Items) {
        let state = self.state;
        // SAFETY: as of `add`.
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
                    #[cfg(feature = "luajit")]
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
