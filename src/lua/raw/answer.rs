//! What natives answer, and how that becomes Lua's values.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::class::{CONTEXT_METATABLE, RESULT_METATABLE, push_userdata};
use crate::engine::request::context::{
    ChangeList, HeadersCopy, RequestContext, Selection, SharedContext,
};
use crate::engine::request::result::{AttributeValue, Attributes, BackendResult, Bytes, Scalar};
use crate::lua::held::Held;

/// What a native answers. Pushed as one value unless it says otherwise.
pub(in crate::lua) enum Answer {
    /// No value.
    Nothing,
    Nil,
    Bool(bool),
    /// Why something was refused.
    Text(String),
    Bytes(Bytes),
    /// An array of strings.
    List(Vec<Bytes>),
    /// A new array: the first `count` items of the one that is argument `table`.
    Copy {
        table: c_int,
        count: c_int,
    },
    /// A table name → value.
    Attributes(Attributes),
    /// A table name → value.
    HeaderTable(HeadersCopy),
    /// An array name, value, name, value, …
    HeaderList(HeadersCopy),
    /// Fills the table that is argument 2 with name, value or false, …; pushes its new length.
    Changes(ChangeList),
    /// Address and port, or two nils.
    Selection(Option<Selection>),
    /// A new result, with this content.
    Result(BackendResult),
    /// A new request context.
    Context,
    /// A request context that has this data with others.
    SharedContext(SharedContext),
    /// A bug of ours: raised, as text.
    Panicked,
    /// nil and true: argument 1 is not what the native works on.
    BadSelf,
}
/// Pushes an answer; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function made by [`Natives::add`], with room for 5 values. May raise:
/// the frames between it and Lua have no destructor to run.
pub(super) unsafe fn push(state: *mut lua_State, answer: &mut Answer) -> c_int {
    // SAFETY: as of this function; no frame below it owns anything.
    unsafe {
        match answer {
            Answer::Nothing => return 0,
            Answer::Nil => ffi::lua_pushnil(state),
            Answer::Bool(value) => ffi::lua_pushboolean(state, (*value).into()),
            Answer::Text(text) => push_bytes(state, text.as_bytes()),
            Answer::Bytes(bytes) => push_bytes(state, bytes),
            Answer::List(list) => {
                ffi::lua_createtable(state, size(list.len()), 0);
                for (index, bytes) in (1..).zip(&*list) {
                    push_bytes(state, bytes);
                    ffi::lua_rawseti(state, -2, index);
                }
            }
            Answer::Copy { table, count } => {
                ffi::lua_createtable(state, *count, 0);
                for index in 1..=(*count).into() {
                    ffi::lua_rawgeti(state, *table, index);
                    ffi::lua_rawseti(state, -2, index);
                }
            }
            Answer::Attributes(attributes) => {
                ffi::lua_createtable(state, 0, size(attributes.len()));
                for (name, value) in attributes.iter() {
                    push_bytes(state, name);
                    push_value(state, value);
                    ffi::lua_rawset(state, -3);
                }
            }
            Answer::HeaderTable(copy) => {
                let headers = copy.headers();
                ffi::lua_createtable(state, 0, size(headers.len()));
                headers.for_each(|name, value| {
                    push_bytes(state, name.as_bytes());
                    push_bytes(state, value);
                    ffi::lua_rawset(state, -3);
                });
            }
            Answer::HeaderList(copy) => {
                let headers = copy.headers();
                ffi::lua_createtable(state, size(headers.len() * 2), 0);
                let mut index = 1;
                headers.for_each(|name, value| {
                    push_bytes(state, name.as_bytes());
                    ffi::lua_rawseti(state, -2, index);
                    push_bytes(state, value);
                    ffi::lua_rawseti(state, -2, index + 1);
                    index += 2;
                });
            }
            Answer::Changes(changes) => {
                let mut length = 0;
                changes.for_each(|name, value| {
                    push_bytes(state, name.as_bytes());
                    ffi::lua_rawseti(state, 2, length + 1);
                    match value {
                        Some(value) => push_bytes(state, value),
                        None => ffi::lua_pushboolean(state, 0),
                    }
                    ffi::lua_rawseti(state, 2, length + 2);
                    length += 2;
                });
                ffi::lua_pushinteger(state, length);
            }
            Answer::Selection(None) => {
                ffi::lua_pushnil(state);
                ffi::lua_pushnil(state);
                return 2;
            }
            Answer::Selection(Some(selection)) => {
                push_bytes(state, &selection.ip);
                ffi::lua_pushinteger(state, selection.port.into());
                return 2;
            }
            Answer::Result(result) => {
                push_userdata(state, RESULT_METATABLE, || {
                    Held::new(std::mem::take(result))
                });
            }
            Answer::Context => {
                push_userdata::<RequestContext>(state, CONTEXT_METATABLE, Held::default);
            }
            Answer::SharedContext(shared) => {
                push_userdata(state, CONTEXT_METATABLE, || shared.clone().into());
            }
            Answer::Panicked => {
                push_bytes(state, b"nauthilus_backend: internal error");
                ffi::lua_error(state);
            }
            Answer::BadSelf => {
                ffi::lua_pushnil(state);
                ffi::lua_pushboolean(state, 1);
                return 2;
            }
        }
    }
    1
}

unsafe fn push_bytes(state: *mut lua_State, bytes: &[u8]) {
    // SAFETY: as of `push`; Lua copies the bytes.
    unsafe {
        ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len());
    }
}

unsafe fn push_value(state: *mut lua_State, value: &AttributeValue) {
    // SAFETY: as of `push`.
    unsafe {
        match value {
            AttributeValue::One(scalar) => push_scalar(state, scalar),
            AttributeValue::Many(scalars) => {
                ffi::lua_createtable(state, size(scalars.len()), 0);
                for (index, scalar) in (1..).zip(scalars) {
                    push_scalar(state, scalar);
                    ffi::lua_rawseti(state, -2, index);
                }
            }
        }
    }
}

unsafe fn push_scalar(state: *mut lua_State, scalar: &Scalar) {
    // SAFETY: as of `push`.
    unsafe {
        match scalar {
            Scalar::Bytes(bytes) => push_bytes(state, bytes),
            Scalar::Integer(number) => ffi::lua_pushinteger(state, *number as ffi::lua_Integer),
            Scalar::Float(number) => ffi::lua_pushnumber(state, *number),
            Scalar::Bool(value) => ffi::lua_pushboolean(state, (*value).into()),
        }
    }
}
/// A hint for the size of a table.
fn size(length: usize) -> c_int {
    length.try_into().unwrap_or(c_int::MAX)
}
