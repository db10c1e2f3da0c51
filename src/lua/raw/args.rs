//! The arguments of a native.

use std::ffi::{CStr, c_int};
use std::slice;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::class::{
    CHECK_METATABLE, CONFIG_METATABLE, CONTEXT_METATABLE, PER_STATE, RESULT_METATABLE,
    ROUTES_METATABLE, UPVALUES, content, owned,
};
use crate::engine::active::ActiveConfig;
use crate::engine::process::Routes;
use crate::engine::process::check::Check;
use crate::engine::request::attribute_name::AttributeName;
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::{
    AttributeValue, Attributes, BackendResult, Bytes, PairList, Scalar, Text,
};
use crate::lua::own_or_shared::OwnOrShared;
use crate::lua::per_state::PerState;

/// Further upvalues of natives that stand for a Lua function: that function, and the extra value that
/// `push_stand_in` was called with.
pub(super) const STANDS_FOR: c_int = ffi::lua_upvalueindex(UPVALUES + 1);
const EXTRA: c_int = ffi::lua_upvalueindex(UPVALUES + 2);

/// The arguments of a running native. Reading them never raises a Lua error, allocates no Lua memory
/// and leaves Lua's stack unchanged, except for [`Args::current_context`].
pub(in crate::lua) struct Args {
    pub(super) state: *mut lua_State,
}

/// The error to raise: an argument has a type that the glue never passes, or was already finalised.
pub(in crate::lua) type Refused = &'static str;

/// A Lua value as natives distinguish it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::lua) enum ArgView<'a> {
    Nil,
    Bool(bool),
    /// Only from Lua 5.3 and later, which have integers.
    #[cfg_attr(
        not(any(feature = "lua53", feature = "lua54", feature = "lua55")),
        expect(dead_code)
    )]
    Integer(i64),
    Float(f64),
    Bytes(&'a [u8]),
    Table,
    /// Any other type, by its name.
    Other(&'a str),
}

impl ArgView<'_> {
    /// The name Lua gives the type.
    pub(in crate::lua) fn type_name(&self) -> &str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "boolean",
            Self::Integer(_) | Self::Float(_) => "number",
            Self::Bytes(_) => "string",
            Self::Table => "table",
            Self::Other(name) => name,
        }
    }

    /// The value as a value of an attribute.
    #[inline]
    fn scalar(self) -> Option<Scalar> {
        match self {
            Self::Bool(value) => Some(Scalar::Bool(value)),
            Self::Integer(number) => Some(Scalar::Integer(number)),
            Self::Float(number) => Some(Scalar::Float(number)),
            Self::Bytes(bytes) => Some(Scalar::Bytes(Text::from_slice(bytes))),
            Self::Nil | Self::Table | Self::Other(_) => None,
        }
    }

    /// The value as an index of an array.
    #[inline]
    pub(super) fn index(self) -> Option<usize> {
        match self {
            Self::Integer(number) => number.try_into().ok().filter(|index| *index > 0),
            // Every integer below 1e15 is exact in a float.
            Self::Float(number) if (1.0..1e15).contains(&number) && number.fract() == 0.0 => {
                Some(number as usize)
            }
            _ => None,
        }
    }
}

impl Args {
    /// The argument at `index`, from 1; nil where there is none.
    pub(in crate::lua) fn view(&self, index: c_int) -> ArgView<'_> {
        // SAFETY: `state` is running a C function with these arguments. A string lives at least as
        // long as its stack slot, and natives leave the argument slots alone as long as `self` lives.
        unsafe { view(self.state, index) }
    }

    /// Argument `index` as a non-negative count; 0 for anything else.
    pub(in crate::lua) fn count(&self, index: c_int) -> u64 {
        // SAFETY: `state` is running a C function. `lua_tonumber` never raises and, unlike
        // `lua_tolstring`, does not convert the argument in place.
        let number = unsafe { ffi::lua_tonumber(self.state, index) };
        // Counts stay below 2^53, where a float is exact. The cast saturates: negative becomes 0.
        number as u64
    }

    /// The number at index 0 of the table that is argument `index`; 0 if there is none.
    pub(in crate::lua) fn number_at_0(&self, index: c_int) -> u64 {
        if self.view(index) != ArgView::Table {
            return 0;
        }
        // SAFETY: the argument is a table, and a native leaves at most one value above its arguments. Reading raises
        // nothing.
        unsafe {
            ffi::lua_rawgeti(self.state, index, 0);
            let number = ffi::lua_tonumber(self.state, -1);
            ffi::lua_pop(self.state, 1);
            number as u64
        }
    }

    /// The result that is argument `index`.
    #[inline]
    pub(in crate::lua) fn result(&self, index: c_int) -> Option<&OwnOrShared<BackendResult>> {
        // SAFETY: `RESULT_METATABLE` is an upvalue of each native, and only userdata that hold a
        // `Content<BackendResult>` have that metatable. The argument keeps the userdata alive. Its
        // content is only replaced by its finaliser, which cannot run: a native calls no Lua.
        unsafe { (*content(self.state, index, RESULT_METATABLE)?).as_ref() }
    }

    /// The context that is argument `index`.
    pub(in crate::lua) fn context(&self, index: c_int) -> Option<&OwnOrShared<RequestContext>> {
        // SAFETY: `CONTEXT_METATABLE` is an upvalue of each native, and only userdata that hold a
        // `Content<RequestContext>` have that metatable. The argument keeps the userdata alive. Its
        // content is replaced by its finaliser, by `replace_context` (see there), and when an nginx
        // request begins or ends: a native calls no Lua and does not return to nginx's event loop.
        unsafe { (*content(self.state, index, CONTEXT_METATABLE)?).as_ref() }
    }

    /// The check that is argument `index`; an error to raise if its userdata was finalised.
    pub(in crate::lua) fn check(&self, index: c_int) -> Result<&Check, Refused> {
        // SAFETY: `CHECK_METATABLE` is an upvalue of each native, and only `push_owner::<Check>` gives
        // userdata that metatable.
        let check = unsafe { owned::<Check>(self.state, index, CHECK_METATABLE) }
            .ok_or("nauthilus_backend: internal error: no check")?;
        // SAFETY: the argument keeps the userdata alive, and only its finaliser takes the check, which
        // cannot run while a native does.
        unsafe { (*check).as_ref() }
            .ok_or("nauthilus_backend: the check is gone: it was finalised before the caller")
    }

    /// The active configuration whose handle is argument `index`; `None` for nil, and where the
    /// handle was finalised.
    pub(in crate::lua) fn active_config(
        &self,
        index: c_int,
    ) -> Result<Option<&Arc<ActiveConfig>>, Refused> {
        if self.view(index) == ArgView::Nil {
            return Ok(None);
        }
        // SAFETY: `CONFIG_METATABLE` is an upvalue of each native, and only
        // `push_owner::<Arc<ActiveConfig>>` gives userdata that metatable.
        let config = unsafe { owned::<Arc<ActiveConfig>>(self.state, index, CONFIG_METATABLE) }
            .ok_or("nauthilus_backend: internal error: no configuration")?;
        // SAFETY: the argument keeps the userdata alive, and only its finaliser takes the handle, which
        // cannot run while a native does.
        Ok(unsafe { (*config).as_ref() })
    }

    /// The prepared routes that are argument `index`; `None` once that userdata is finalised.
    pub(in crate::lua) fn routes(&self, index: c_int) -> Option<&Routes> {
        // SAFETY: `ROUTES_METATABLE` is an upvalue of each native, and only `push_owner::<Routes>`
        // gives userdata that metatable. The argument keeps the userdata alive, and only its finaliser
        // takes the content, which cannot run while a native does.
        unsafe { (*owned::<Routes>(self.state, index, ROUTES_METATABLE)?).as_ref() }
    }

    /// What belongs to this Lua state; none once that userdata is finalised.
    pub(in crate::lua) fn per_state(&self) -> Option<&PerState> {
        // SAFETY: `PER_STATE` is an upvalue of each native, a userdata that `Natives::push` made of this
        // type. The upvalue keeps it alive, and only its finaliser takes the content.
        unsafe {
            let own = ffi::lua_touserdata(self.state, PER_STATE).cast::<Option<PerState>>();
            own.as_ref()?.as_ref()
        }
    }

    /// Argument `index` as a boolean, or nil.
    pub(in crate::lua) fn optional_flag(&self, index: c_int) -> Result<Option<bool>, Refused> {
        match self.view(index) {
            ArgView::Bool(value) => Ok(Some(value)),
            ArgView::Nil => Ok(None),
            _ => Err("nauthilus_backend: internal error: a boolean expected"),
        }
    }

    /// Argument `index` as a number.
    pub(in crate::lua) fn number(&self, index: c_int) -> Result<f64, Refused> {
        match self.view(index) {
            ArgView::Float(number) => Ok(number),
            #[allow(clippy::cast_precision_loss)] // The glue only passes numbers below 2^53.
            ArgView::Integer(number) => Ok(number as f64),
            _ => Err("nauthilus_backend: internal error: a number expected"),
        }
    }

    /// Argument `index` as a number, or nil.
    pub(in crate::lua) fn optional_number(&self, index: c_int) -> Result<Option<f64>, Refused> {
        match self.view(index) {
            ArgView::Nil => Ok(None),
            _ => self.number(index).map(Some),
        }
    }

    /// Argument `index` as a string.
    pub(in crate::lua) fn bytes(&self, index: c_int) -> Result<&[u8], Refused> {
        match self.view(index) {
            ArgView::Bytes(bytes) => Ok(bytes),
            _ => Err("nauthilus_backend: internal error: a string expected"),
        }
    }

    /// Replaces the content of the context userdata that is argument `index` by `new`; false where
    /// the argument is no context. The caller must not use a reference it got from
    /// [`Self::context`] for the same userdata any more: its target is dropped here.
    pub(in crate::lua) fn replace_context(
        &self,
        index: c_int,
        new: OwnOrShared<RequestContext>,
    ) -> bool {
        // SAFETY: only userdata that hold a `Content<RequestContext>` have the metatable. The caller
        // uses no reference to the old content any more.
        unsafe {
            match content::<RequestContext>(self.state, index, CONTEXT_METATABLE) {
                Some(content) if (*content).is_some() => {
                    *content = Some(new);
                    true
                }
                _ => false,
            }
        }
    }

    /// The current context if it is the same for all coroutines: index 1 of the table that is upvalue
    /// [`EXTRA`]. Leaves that value on the stack, which keeps the context alive.
    pub(in crate::lua) fn current_context(&self) -> Option<&OwnOrShared<RequestContext>> {
        // SAFETY: `EXTRA` is a table in each native that calls this. A native calls it once, and a C
        // function has 20 slots above its arguments.
        unsafe {
            ffi::lua_rawgeti(self.state, EXTRA, 1);
            self.context(ffi::lua_gettop(self.state))
        }
    }

    /// Upvalue [`EXTRA`] as an index.
    pub(in crate::lua) fn extra_number(&self) -> Option<usize> {
        // SAFETY: `state` is running a closure with this upvalue, and the view does not leave this
        // function.
        unsafe { view(self.state, EXTRA) }.index()
    }

    /// The array of strings that is argument `index`.
    ///
    /// # Errors
    ///
    /// A text that says what was expected and what was found.
    pub(in crate::lua) fn strings(&self, index: c_int) -> Result<Vec<Bytes>, String> {
        let table = self.table(index, "array of strings")?;
        let text = |value: ArgView<'_>| match value {
            ArgView::Bytes(bytes) => Some(bytes.into()),
            _ => None,
        };
        // SAFETY: `index` is a table.
        unsafe { array(self.state, table, text) }
            .map_err(|why| format!("array of strings expected, got {why}"))
    }

    /// The table of attributes that is argument `index`. An attribute whose value is a table with a
    /// table in it is left out, and `left_out` is called with its name.
    ///
    /// # Errors
    ///
    /// A text that says what was expected and what was found.
    pub(in crate::lua) fn attributes(
        &self,
        index: c_int,
        mut left_out: impl FnMut(&[u8]),
    ) -> Result<Attributes, String> {
        let table = self.table(index, "table")?;
        let mut pairs = PairList::new();
        let mut refused = None;
        // SAFETY: `index` is a table, and nothing here changes it.
        unsafe {
            each(self.state, table, |key, value| {
                match attribute(self.state, key, value) {
                    Ok(Pair::Attribute(name, value)) => pairs.push((name, value)),
                    Ok(Pair::Nested(name)) => left_out(name),
                    Err(why) => refused = Some(why),
                }
                refused.is_none()
            });
        }
        match refused {
            None => Ok(Attributes::take_pairs(&mut pairs)),
            Some(why) => Err(why),
        }
    }

    #[inline]
    fn table(&self, index: c_int, wanted: &str) -> Result<c_int, String> {
        match self.view(index) {
            ArgView::Table => Ok(index),
            other => Err(format!("{wanted} expected, got {}", other.type_name())),
        }
    }
}

/// The value at `index`.
///
/// # Safety
///
/// `state` is running a C function. A string is borrowed from its stack slot: the caller must not use
/// the view after that slot changes.
#[inline]
pub(super) unsafe fn view<'a>(state: *mut lua_State, index: c_int) -> ArgView<'a> {
    // SAFETY: none of these raises. `lua_tolstring` is asked for strings only: a number would
    // be converted, which allocates.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNIL | ffi::LUA_TNONE => ArgView::Nil,
            ffi::LUA_TBOOLEAN => ArgView::Bool(ffi::lua_toboolean(state, index) != 0),
            ffi::LUA_TNUMBER => number(state, index),
            ffi::LUA_TSTRING => {
                let mut length = 0;
                let bytes = ffi::lua_tolstring(state, index, &raw mut length);
                ArgView::Bytes(slice::from_raw_parts(bytes.cast(), length))
            }
            ffi::LUA_TTABLE => ArgView::Table,
            other => {
                let name = CStr::from_ptr(ffi::lua_typename(state, other));
                ArgView::Other(name.to_str().unwrap_or("value"))
            }
        }
    }
}

/// The number at `index`: an integer where the interpreter has such a type and it is one.
unsafe fn number<'a>(state: *mut lua_State, index: c_int) -> ArgView<'a> {
    // SAFETY: the caller has checked that it is a number; none of these calls raises.
    unsafe {
        #[cfg(any(feature = "lua53", feature = "lua54", feature = "lua55"))]
        if ffi::lua_isinteger(state, index) != 0 {
            return ArgView::Integer(ffi::lua_tointeger(state, index));
        }
        ArgView::Float(ffi::lua_tonumber(state, index))
    }
}

/// Calls `work` with the stack indices of key and value of each pair until it returns false.
///
/// # Safety
///
/// `table` is the absolute index of a table. The stack has two free slots and those that `work`
/// needs. `work` does not change the table and leaves the stack as it was: otherwise `lua_next` could
/// raise.
pub(super) unsafe fn each(
    state: *mut lua_State,
    table: c_int,
    mut work: impl FnMut(c_int, c_int) -> bool,
) {
    // SAFETY: the caller provides the table and the slots. `lua_next` only raises for a key that is
    // not in the table, and the table does not change.
    unsafe {
        let top = ffi::lua_gettop(state);
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, table) != 0 {
            if !work(top + 1, top + 2) {
                break;
            }
            ffi::lua_settop(state, top + 1);
        }
        ffi::lua_settop(state, top);
    }
}

/// An entry of a table of attributes.
enum Pair<'a> {
    Attribute(AttributeName, AttributeValue),
    /// The name of an attribute whose value is a table with a table in it.
    Nested(&'a [u8]),
}

/// Reads one entry of a table of attributes.
///
/// # Safety
///
/// `key` and `value` are absolute stack indices, with two free slots above. The key's slot does not
/// change while [`Pair::Nested`] borrows from it.
unsafe fn attribute<'a>(
    state: *mut lua_State,
    key: c_int,
    value: c_int,
) -> Result<Pair<'a>, String> {
    // SAFETY: both slots stay unchanged during this call; only a name in `Pair::Nested` leaves it.
    let (key, content) = unsafe { (view(state, key), view(state, value)) };
    let ArgView::Bytes(name) = key else {
        return Err(format!(
            "table of name = value expected, got a {} as a name",
            key.type_name()
        ));
    };
    let wanted = "string, number, boolean or an array of these";
    let content = match content {
        // SAFETY: `value` is a table.
        ArgView::Table if unsafe { holds_table(state, value) } => return Ok(Pair::Nested(name)),
        // SAFETY: `value` is a table.
        ArgView::Table => unsafe { array(state, value, |item| item.scalar()) }
            .map(AttributeValue::Many)
            .map_err(|why| format!("{wanted} expected for attribute {}, got {why}", shown(name)))?,
        other => AttributeValue::One(other.scalar().ok_or_else(|| {
            let kind = other.type_name();
            format!(
                "{wanted} expected for attribute {}, got {kind}",
                shown(name)
            )
        })?),
    };
    Ok(Pair::Attribute(name.into(), content))
}

/// Whether a value of the table at `table` is a table.
///
/// # Safety
///
/// `table` is the absolute index of a table, with two free slots above.
unsafe fn holds_table(state: *mut lua_State, table: c_int) -> bool {
    let mut found = false;
    // SAFETY: there is room for key and value, and the closure changes neither table nor stack.
    unsafe {
        each(state, table, |_, value| {
            found = ffi::lua_type(state, value) == ffi::LUA_TTABLE;
            !found
        });
    }
    found
}

/// As much of a name as errors and the log repeat, and "..." where that is not all.
pub(in crate::lua) fn cut(name: &[u8]) -> (&[u8], &'static str) {
    const LONGEST: usize = 64;
    match name.get(..LONGEST) {
        Some(start) if name.len() > LONGEST => (start, "..."),
        _ => (name, ""),
    }
}

/// A name as an error text shows it: escaped and cut.
fn shown(name: &[u8]) -> String {
    let (start, rest) = cut(name);
    format!("\"{}{rest}\"", start.escape_ascii())
}

/// The array at `table`, in order. Refuses a table whose keys are not exactly 1..n and a value for
/// which `read` returns `None`.
///
/// # Safety
///
/// `table` is the absolute index of a table, with two free slots above.
unsafe fn array<T>(
    state: *mut lua_State,
    table: c_int,
    read: impl Fn(ArgView<'_>) -> Option<T>,
) -> Result<Vec<T>, String> {
    let mut found: Vec<T> = Vec::new();
    // The index of each value, filled only once `lua_next` gives an index out of order.
    let mut order: Vec<usize> = Vec::new();
    let mut refused = None;
    // SAFETY: there is room for key and value, and the closure changes neither table nor stack.
    unsafe {
        each(state, table, |key, value| {
            let (key, value) = (view(state, key), view(state, value));
            match (key.index(), read(value)) {
                (Some(index), Some(item)) => {
                    found.push(item);
                    if index != found.len() || !order.is_empty() {
                        order.extend(order.len() + 1..found.len());
                        order.push(index);
                    }
                }
                (Some(index), None) => {
                    refused = Some(format!("{} at index {index}", value.type_name()));
                }
                (None, _) => refused = Some("a table with other keys than 1..n".to_owned()),
            }
            refused.is_none()
        });
    }
    if let Some(why) = refused {
        return Err(why);
    }
    if order.is_empty() {
        return Ok(found);
    }
    let mut placed: Vec<(usize, T)> = order.into_iter().zip(found).collect();
    placed.sort_unstable_by_key(|(index, _)| *index);
    if let Some((expected, _)) = (1..).zip(&placed).find(|(at, (index, _))| at != index) {
        return Err(format!("an array with nothing at index {expected}"));
    }
    Ok(placed.into_iter().map(|(_, item)| item).collect())
}
