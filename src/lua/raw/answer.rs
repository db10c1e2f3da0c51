//! The return values of natives, and how they are pushed as Lua values.

use std::borrow::Cow;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::class::{
    CHECK_METATABLE, CONFIG_METATABLE, CONTEXT_METATABLE, RESULT_METATABLE, ROUTES_METATABLE,
    push_owner, push_userdata,
};
use crate::engine::active::ActiveConfig;
use crate::engine::process::Routes;
use crate::engine::process::check::Check;
use crate::engine::request::context::{
    ChangeList, HeadersCopy, RequestContext, Selection, SharedContext,
};
use crate::engine::request::result::{AttributeValue, Attributes, BackendResult, Bytes, Scalar};
use crate::lua::own_or_shared::OwnOrShared;

/// What a native returns. Pushed as one Lua value unless a variant says otherwise.
pub(in crate::lua) enum Answer {
    /// No value.
    Nothing,
    Nil,
    Bool(bool),
    Integer(i64),
    /// A string, mostly why something was refused.
    Text(String),
    Bytes(Bytes),
    /// An array of strings.
    List(Vec<Bytes>),
    /// A new array with the first `count` items of the array that is argument `table`.
    Copy {
        table: c_int,
        count: c_int,
    },
    /// A table attribute name → value.
    Attributes(Attributes),
    /// A table header name → value.
    HeaderTable(HeadersCopy),
    /// An array name, value, name, value, …
    HeaderList(HeadersCopy),
    /// Fills the table that is argument 2 with name, value, name, value, … (false for a header to
    /// clear); pushes its new length.
    Changes(ChangeList),
    /// Address and port, or two nils.
    Selection(Option<Selection>),
    /// A new result.
    NewResult,
    /// A result with this content.
    Result(BackendResult),
    /// A new request context.
    Context,
    /// A request context that shares this data with other handles.
    SharedContext(SharedContext),
    /// Several values, one per item.
    Values(Vec<LuaValue>),
    /// Raised as a Lua error: a mistake in the glue, or use of a finalised object in a finaliser. No
    /// other call of a script can cause it.
    Raised(&'static str),
    /// Two values, nil and true: argument 1 is not of the class that the native works on.
    BadSelf,
}

/// One value of [`Answer::Values`].
pub(in crate::lua) enum LuaValue {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'static, str>),
    /// An array.
    List(Vec<Self>),
    /// A table with named fields.
    Table(Vec<(&'static str, Self)>),
    /// A light userdata.
    Address(*mut c_void),
    /// A userdata that owns the check and cancels it when it is collected. `None` once pushed.
    Check(Option<Check>),
    /// A userdata that owns prepared routes. `None` once pushed.
    Routes(Option<Box<Routes>>),
    /// A userdata that retains the active configuration, and so keeps its shared table mapped.
    ActiveConfig(Arc<ActiveConfig>),
}

impl From<bool> for LuaValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for LuaValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u16> for LuaValue {
    fn from(number: u16) -> Self {
        Self::Integer(number.into())
    }
}

/// For counters, which stay below 2^63.
impl From<u64> for LuaValue {
    fn from(number: u64) -> Self {
        Self::Integer(number.try_into().unwrap_or(i64::MAX))
    }
}

impl From<f64> for LuaValue {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<String> for LuaValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&'static str> for LuaValue {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Check> for LuaValue {
    fn from(check: Check) -> Self {
        Self::Check(Some(check))
    }
}

impl<T: Into<Self>> From<Option<T>> for LuaValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nil, Into::into)
    }
}

impl Answer {
    /// nil, or the text of the error.
    pub(in crate::lua) fn problem(done: Result<(), String>) -> Self {
        done.map_or_else(Self::Text, |()| Self::Nil)
    }

    /// Whether it owns memory that would leak if pushing it raised.
    pub(super) fn owns(&self) -> bool {
        !matches!(
            self,
            Self::Nothing
                | Self::Nil
                | Self::Bool(_)
                | Self::Integer(_)
                | Self::Copy { .. }
                | Self::Selection(None)
                | Self::NewResult
                | Self::Context
                | Self::Raised(_)
                | Self::BadSelf
        )
    }
}

/// The stack slots that an answer needs at most. Each table on the way down takes one for itself and one
/// for a key, each list one, and the innermost value one. The deepest is the list of names of a
/// certificate in `status()`: table, `targets`, target, `tls`, `chain`, certificate, `names`.
const SLOTS: c_int = 4 * 2 + 3 + 1;
// A native leaves at most one value above its arguments, and `push_protected` none.
const _: () = assert!(SLOTS < ffi::LUA_MINSTACK);

/// Pushes an answer; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function that has the upvalues of natives (all but `PUSHER`), with `SLOTS`
/// free slots. Arguments 2 and those of [`Answer::Copy`] are tables where the answer uses them. May raise:
/// the frames between it and Lua have no destructor to run.
pub(super) unsafe fn push(state: *mut lua_State, answer: &mut Answer) -> c_int {
    // SAFETY: the caller provides upvalues, slots and tables. This frame only borrows from the answer,
    // so an error that jumps over it skips no destructor.
    unsafe {
        match answer {
            Answer::Nothing => return 0,
            Answer::Nil => ffi::lua_pushnil(state),
            Answer::Bool(value) => ffi::lua_pushboolean(state, (*value).into()),
            Answer::Integer(number) => ffi::lua_pushinteger(state, *number as ffi::lua_Integer),
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
            Answer::NewResult => {
                push_userdata::<BackendResult>(state, RESULT_METATABLE, OwnOrShared::default);
            }
            Answer::Result(result) => {
                push_userdata(state, RESULT_METATABLE, || {
                    OwnOrShared::new(std::mem::take(result))
                });
            }
            Answer::Context => {
                push_userdata::<RequestContext>(state, CONTEXT_METATABLE, OwnOrShared::default);
            }
            Answer::SharedContext(shared) => {
                push_userdata(state, CONTEXT_METATABLE, || shared.clone().into());
            }
            Answer::Values(values) => {
                for value in &mut *values {
                    push_one(state, value);
                }
                return size(values.len());
            }
            Answer::Raised(why) => {
                push_bytes(state, why.as_bytes());
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

/// Pushes one value. A check or routes are moved out of `value` into their userdata.
unsafe fn push_one(state: *mut lua_State, value: &mut LuaValue) {
    // SAFETY: called by `push`, whose caller provides upvalues and `SLOTS`. This frame only borrows from
    // the answer.
    unsafe {
        match value {
            LuaValue::Nil | LuaValue::Check(None) | LuaValue::Routes(None) => {
                ffi::lua_pushnil(state)
            }
            LuaValue::Bool(value) => ffi::lua_pushboolean(state, (*value).into()),
            LuaValue::Integer(number) => ffi::lua_pushinteger(state, *number as ffi::lua_Integer),
            LuaValue::Float(number) => ffi::lua_pushnumber(state, *number),
            LuaValue::Text(text) => push_bytes(state, text.as_bytes()),
            LuaValue::List(values) => {
                ffi::lua_createtable(state, size(values.len()), 0);
                for (index, value) in (1..).zip(values) {
                    push_one(state, value);
                    ffi::lua_rawseti(state, -2, index);
                }
            }
            LuaValue::Table(entries) => {
                ffi::lua_createtable(state, 0, size(entries.len()));
                for (key, value) in entries {
                    push_bytes(state, key.as_bytes());
                    push_one(state, value);
                    ffi::lua_rawset(state, -3);
                }
            }
            LuaValue::Address(address) => ffi::lua_pushlightuserdata(state, *address),
            LuaValue::Check(check) => push_owner(state, CHECK_METATABLE, || check.take()),
            LuaValue::Routes(routes) => {
                push_owner(state, ROUTES_METATABLE, || {
                    routes.take().map(|routes| *routes)
                });
            }
            LuaValue::ActiveConfig(config) => {
                push_owner(state, CONFIG_METATABLE, || Some(config.clone()));
            }
        }
    }
}

#[inline]
unsafe fn push_bytes(state: *mut lua_State, bytes: &[u8]) {
    // SAFETY: Lua copies the bytes. The callers provide a slot and own nothing if this raises.
    unsafe {
        ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len());
    }
}

unsafe fn push_value(state: *mut lua_State, value: &AttributeValue) {
    // SAFETY: called by `push`, which has two slots left. This frame only borrows from the answer.
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
    // SAFETY: `push_value` has a slot left. This frame only borrows from the answer.
    unsafe {
        match scalar {
            Scalar::Bytes(bytes) => push_bytes(state, bytes),
            Scalar::Integer(number) => ffi::lua_pushinteger(state, *number as ffi::lua_Integer),
            Scalar::Float(number) => ffi::lua_pushnumber(state, *number),
            Scalar::Bool(value) => ffi::lua_pushboolean(state, (*value).into()),
        }
    }
}
/// A number of items as a size hint for a new table, or as a number of return values.
fn size(length: usize) -> c_int {
    length.try_into().unwrap_or(c_int::MAX)
}

/// `push(address of an Answer, argument 2 of the native)` → its values
///
/// # Safety
///
/// Called by `push_answer` in a protected call, with the upvalues of natives except `PUSHER`.
pub(super) unsafe extern "C-unwind" fn push_protected(state: *mut lua_State) -> c_int {
    // SAFETY: argument 1 is the address of an answer in the frame of `push_answer`, which outlives this
    // call. No frame here has a destructor that an error would skip.
    unsafe {
        match ffi::lua_touserdata(state, 1).cast::<Answer>().as_mut() {
            Some(answer) => push(state, answer),
            None => 0,
        }
    }
}
