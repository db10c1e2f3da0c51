//! What natives are called with.

use std::ffi::{CStr, c_int, c_void};
use std::slice;

use mlua::ffi::{self, lua_State};

use super::class::{
    CHECK_METATABLE, CONTEXT_METATABLE, LISTS, RESULT_METATABLE, UPVALUES, content, owned,
};
use crate::engine::process::check::Check;
use crate::engine::request::attribute_name::AttributeName;
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::{
    AttributeValue, Attributes, BackendResult, Bytes, PairList, Scalar, Text,
};
use crate::lua::given_lists::Lists;
use crate::lua::held::Held;

/// Further upvalues of natives that stand for a Lua function: that, and what is theirs.
pub(super) const STANDS_FOR: c_int = ffi::lua_upvalueindex(UPVALUES + 1);
const EXTRA: c_int = ffi::lua_upvalueindex(UPVALUES + 2);

/// The arguments of a running native. Reading them raises no error and allocates nothing of
/// Lua's, and leaves Lua's stack as it was.
pub(in crate::lua) struct Args {
    pub(super) state: *mut lua_State,
}

/// What is raised where an argument is none that the glue passes, or was finalised.
pub(in crate::lua) type Refused = &'static str;

/// A Lua value, as far as natives look at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::lua) enum ArgView<'a> {
    Nil,
    Bool(bool),
    /// Only from interpreters that tell integers from floats.
    #[cfg_attr(not(any(feature = "lua53", feature = "lua54")), expect(dead_code))]
    Integer(i64),
    Float(f64),
    Bytes(&'a [u8]),
    Table,
    /// Anything else, by the name of its type.
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

    /// The value as one of an attribute.
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
    pub(super) fn index(self) -> Option<usize> {
        match self {
            Self::Integer(number) => number.try_into().ok().filter(|index| *index > 0),
            // An index has few digits: a float holds it exactly.
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
        // SAFETY: `state` is running a C function with these arguments. A string lives as long
        // as its place on the stack, which outlives `self`.
        unsafe { view(self.state, index) }
    }

    /// Argument `index` as a number that counts something; 0 for anything else.
    pub(in crate::lua) fn count(&self, index: c_int) -> u64 {
        // SAFETY: as in `view`; no argument is changed, which a number need not be.
        let number = unsafe { ffi::lua_tonumber(self.state, index) };
        // No number that counts anything is beyond what a float holds; a negative one is 0.
        number as u64
    }

    /// The result that is argument `index`.
    pub(in crate::lua) fn result(&self, index: c_int) -> Option<&Held<BackendResult>> {
        // SAFETY: `RESULT_METATABLE` is an upvalue of each native, and userdata with it hold a
        // `Content<BackendResult>`. The argument keeps it alive, and only its finaliser puts
        // something else in its place, or of a context `replace_context`, and nginx's requests as
        // they begin and end: none of that runs while a native does, which calls no Lua and does
        // not return to nginx's event loop.
        unsafe { (*content(self.state, index, RESULT_METATABLE)?).as_ref() }
    }

    /// The context that is argument `index`.
    pub(in crate::lua) fn context(&self, index: c_int) -> Option<&Held<RequestContext>> {
        // SAFETY: as in `result`, for `CONTEXT_METATABLE`.
        unsafe { (*content(self.state, index, CONTEXT_METATABLE)?).as_ref() }
    }

    /// The check that is argument `index`; what is raised where it is none any more.
    pub(in crate::lua) fn check(&self, index: c_int) -> Result<&Check, Refused> {
        // SAFETY: as in `result`: only its finaliser takes it.
        let check = unsafe { owned::<Check>(self.state, index, CHECK_METATABLE) }
            .ok_or("nauthilus_backend: internal error: no check")?;
        // SAFETY: as above.
        unsafe { (*check).as_ref() }
            .ok_or("nauthilus_backend: the check is gone: it was finalised before the caller")
    }

    /// What this Lua state was told of servers; nothing where that is finalised already.
    pub(in crate::lua) fn lists(&self) -> Option<&Lists> {
        // SAFETY: an upvalue of each native, which `Natives::push` made of this type; only its
        // finaliser takes what it owns.
        unsafe {
            let lists = ffi::lua_touserdata(self.state, LISTS).cast::<Option<Lists>>();
            lists.as_ref()?.as_ref()
        }
    }

    /// Whether argument `index` is true; nil is false.
    pub(in crate::lua) fn flag(&self, index: c_int) -> Result<bool, Refused> {
        match self.view(index) {
            ArgView::Bool(value) => Ok(value),
            ArgView::Nil => Ok(false),
            _ => Err("nauthilus_backend: internal error: a boolean expected"),
        }
    }

    /// Argument `index` as a number.
    pub(in crate::lua) fn number(&self, index: c_int) -> Result<f64, Refused> {
        match self.view(index) {
            ArgView::Float(number) => Ok(number),
            #[allow(clippy::cast_precision_loss)] // None of ours is beyond what a float holds.
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

    /// Puts `held` in the place of the context that is argument `index`; false where it is none. The
    /// caller holds no reference to that one.
    pub(in crate::lua) fn replace_context(&self, index: c_int, held: Held<RequestContext>) -> bool {
        // SAFETY: as in `context`. What borrowed the old content from `self` has given it back: this
        // is called where nothing of it is used any more.
        unsafe {
            match content::<RequestContext>(self.state, index, CONTEXT_METATABLE) {
                Some(content) if (*content).is_some() => {
                    *content = Some(held);
                    true
                }
                _ => false,
            }
        }
    }

    /// The current context, of a native whose upvalue [`EXTRA`] is the table that has it, if it is
    /// the same for all who ask. Leaves it on the stack.
    pub(in crate::lua) fn current_context(&self) -> Option<&Held<RequestContext>> {
        // SAFETY: that is a table; a C function has room for more values, and this is called once.
        unsafe {
            ffi::lua_rawgeti(self.state, EXTRA, 1);
            self.context(ffi::lua_gettop(self.state))
        }
    }

    /// The number that upvalue [`EXTRA`] is.
    pub(in crate::lua) fn extra_number(&self) -> Option<usize> {
        // SAFETY: as in `view`.
        unsafe { view(self.state, EXTRA) }.index()
    }

    /// The address that argument `index` is, or null.
    pub(in crate::lua) fn address(&self, index: c_int) -> *mut c_void {
        // SAFETY: as in `view`; neither raises.
        unsafe {
            match ffi::lua_type(self.state, index) {
                ffi::LUA_TLIGHTUSERDATA => ffi::lua_touserdata(self.state, index),
                _ => std::ptr::null_mut(),
            }
        }
    }

    /// The array of strings that is argument `index`.
    ///
    /// # Errors
    ///
    /// What was expected and what was found.
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

    /// The table of attributes that is argument `index`. Those whose values are tables in tables are left
    /// out, and `left_out` is told of their names.
    ///
    /// # Errors
    ///
    /// What was expected and what was found.
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
/// A string is borrowed from its place on the stack: the caller chooses a lifetime within it.
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
    // SAFETY: it is a number; none of these raises.
    unsafe {
        #[cfg(any(feature = "lua53", feature = "lua54"))]
        if ffi::lua_isinteger(state, index) != 0 {
            return ArgView::Integer(ffi::lua_tointeger(state, index));
        }
        ArgView::Float(ffi::lua_tonumber(state, index))
    }
}

/// Calls `work` with the stack indices of key and value of each pair, until it says false.
///
/// # Safety
///
/// `table` is the absolute index of a table, there is room for two values and what `work`
/// needs, and `work` changes neither the table nor the stack: so `lua_next` cannot raise.
pub(super) unsafe fn each(
    state: *mut lua_State,
    table: c_int,
    mut work: impl FnMut(c_int, c_int) -> bool,
) {
    // SAFETY: as of this function.
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

/// A pair of a table of attributes.
enum Pair<'a> {
    Attribute(AttributeName, AttributeValue),
    /// The name of one whose value is a table with a table in it.
    Nested(&'a [u8]),
}

/// Reads one pair of a table of attributes.
///
/// # Safety
///
/// `key` and `value` are absolute stack indices, with room for two more values.
unsafe fn attribute<'a>(
    state: *mut lua_State,
    key: c_int,
    value: c_int,
) -> Result<Pair<'a>, String> {
    // SAFETY: as of this function; the views do not leave it.
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
/// As of [`array`].
unsafe fn holds_table(state: *mut lua_State, table: c_int) -> bool {
    let mut found = false;
    // SAFETY: as of this function, and nothing here changes the table.
    unsafe {
        each(state, table, |_, value| {
            found = ffi::lua_type(state, value) == ffi::LUA_TTABLE;
            !found
        });
    }
    found
}

/// A name as an error shows it.
fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 64;
    match name.get(..LONGEST) {
        Some(start) if name.len() > LONGEST => format!("\"{}...\"", start.escape_ascii()),
        _ => format!("\"{}\"", name.escape_ascii()),
    }
}

/// The array at `table`, in order: its keys are exactly 1..n, and `read` takes each value.
///
/// # Safety
///
/// `table` is the absolute index of a table, with room for two more values.
unsafe fn array<T>(
    state: *mut lua_State,
    table: c_int,
    read: impl Fn(ArgView<'_>) -> Option<T>,
) -> Result<Vec<T>, String> {
    let mut found: Vec<T> = Vec::new();
    // Where they do not come in order: the index of each.
    let mut order: Vec<usize> = Vec::new();
    let mut refused = None;
    // SAFETY: as of this function, and nothing here changes the table.
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
    placed.sort_by_key(|(index, _)| *index);
    if let Some((expected, _)) = (1..).zip(&placed).find(|(at, (index, _))| at != index) {
        return Err(format!("an array with nothing at index {expected}"));
    }
    Ok(placed.into_iter().map(|(_, item)| item).collect())
}
