//! Natives on Lua's own C API: the request path, where `mlua` costs too much (it protects each
//! allocation by itself and gives each userdata of Lua 5.1 an environment table).
//!
//! All `unsafe` of these natives is in this file. A native is a safe function from [`Args`] to
//! an [`Answer`], and [`run`] keeps two things apart that must not meet, because a Lua error is
//! a jump that runs no destructor of Rust:
//!
//! 1. the native runs: it owns Rust values, so [`Args`] calls only what can raise no error: no
//!    allocation of Lua's, no metamethod, no conversion;
//! 2. the answer is pushed: that allocates and may raise (out of memory, or what a finaliser of
//!    Lua 5.1 raises), so the only Rust value alive is the answer, and it is in a
//!    `ManuallyDrop`: the jump leaks it and skips no destructor.

use std::ffi::{CStr, c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use mlua::ffi::{self, lua_State};
use mlua::prelude::*;

use crate::engine::context::{Changes, Headers, Selection, SharedContext};
use crate::engine::result::{AttributeValue, Attributes, Bytes, Scalar, SharedResult};

/// Upvalues of each native.
const RESULT_METATABLE: c_int = ffi::lua_upvalueindex(1);
const CONTEXT_METATABLE: c_int = ffi::lua_upvalueindex(2);

/// What a native answers. Pushed as one value unless it says otherwise.
pub(super) enum Answer {
    /// No value.
    Nothing,
    Nil,
    Bool(bool),
    /// Why something was refused.
    Text(String),
    Bytes(Bytes),
    /// An array of strings.
    List(Vec<Bytes>),
    /// A table name → value.
    Attributes(Attributes),
    /// A table name → value.
    HeaderTable(Headers),
    /// An array name, value, name, value, …
    HeaderList(Headers),
    /// Fills the table that is argument 2 with name, value or false, …; pushes its new length.
    Changes(Changes),
    /// Address and port, or two nils.
    Selection(Option<Selection>),
    Result(SharedResult),
    Context(SharedContext),
    /// A bug of ours: raised, as text.
    Panicked,
    /// nil and true: argument 1 is not what the native works on.
    BadSelf,
}

/// A userdata's content. Empty once finalised: other finalisers may still reach it then.
type Content<T> = Option<T>;

/// Makes a `lua_CFunction` of a native.
macro_rules! native {
    ($native:path) => {{
        unsafe extern "C-unwind" fn entry(state: *mut mlua::lua_State) -> std::ffi::c_int {
            // SAFETY: Lua calls this with its state; `Natives::add` gave it the upvalues.
            unsafe { $crate::lua::raw::run(state, $native) }
        }
        entry
    }};
}
pub(super) use native;

/// Runs a native and pushes its answer; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function made by [`Natives::add`].
pub(super) unsafe fn run(state: *mut lua_State, native: impl FnOnce(&Args) -> Answer) -> c_int {
    let answer = ManuallyDrop::new(contained(|| native(&Args { state })));
    // SAFETY: a C function has room for 20 values above its arguments. When an error jumps,
    // this frame has no destructor to run: see the module's documentation.
    let count = unsafe { push(state, &answer) };
    drop(ManuallyDrop::into_inner(answer));
    count
}

/// Runs `work`; a panic becomes an answer.
fn contained(work: impl FnOnce() -> Answer) -> Answer {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        // Dropping a payload could panic again.
        std::mem::forget(panic);
        Answer::Panicked
    })
}

/// Pushes an answer; returns the number of values.
///
/// # Safety
///
/// `state` is running a C function made by [`Natives::add`], with room for 5 values. May raise:
/// the frames between it and Lua have no destructor to run.
unsafe fn push(state: *mut lua_State, answer: &Answer) -> c_int {
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
                for (index, bytes) in (1..).zip(list) {
                    push_bytes(state, bytes);
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
            Answer::HeaderTable(headers) => {
                ffi::lua_createtable(state, 0, size(headers.len()));
                headers.for_each(|name, value| {
                    push_bytes(state, name.as_bytes());
                    push_bytes(state, value);
                    ffi::lua_rawset(state, -3);
                });
            }
            Answer::HeaderList(headers) => {
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
                push_bytes(state, selection.ip.as_bytes());
                ffi::lua_pushinteger(state, selection.port.into());
                return 2;
            }
            Answer::Result(result) => push_userdata(state, result, RESULT_METATABLE),
            Answer::Context(context) => push_userdata(state, context, CONTEXT_METATABLE),
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

/// Pushes a userdata that holds `handle`.
unsafe fn push_userdata<T: Clone>(state: *mut lua_State, handle: &T, metatable: c_int) {
    // SAFETY: as of `push`. Lua's userdata are aligned for any type of ours. It has content
    // before it has the metatable that makes it one of ours and gives it a finaliser; between
    // the two nothing can raise. Cloning a handle counts a reference and cannot panic.
    unsafe {
        let block = new_userdata(state, size_of::<Content<T>>());
        block.cast::<Content<T>>().write(Some(handle.clone()));
        ffi::lua_pushvalue(state, metatable);
        ffi::lua_setmetatable(state, -2);
    }
}

/// `push_result(address of a SharedResult)` → result. For `bridge`: owns nothing, so that nothing
/// is lost where Lua has no memory.
///
/// # Safety
///
/// Called by Lua, with an address that is valid during the call.
pub(super) unsafe extern "C-unwind" fn push_result(state: *mut lua_State) -> c_int {
    // SAFETY: as of this function; made by `Natives::function`, it has the upvalues.
    unsafe { push_borrowed::<SharedResult>(state, RESULT_METATABLE) }
}

/// `push_context(address of a SharedContext)` → context; as `push_result`.
///
/// # Safety
///
/// As of `push_result`.
pub(super) unsafe extern "C-unwind" fn push_context(state: *mut lua_State) -> c_int {
    // SAFETY: as in `push_result`.
    unsafe { push_borrowed::<SharedContext>(state, CONTEXT_METATABLE) }
}

unsafe fn push_borrowed<T: Clone>(state: *mut lua_State, metatable: c_int) -> c_int {
    // SAFETY: as of the callers.
    unsafe {
        match ffi::lua_touserdata(state, 1).cast::<T>().as_ref() {
            Some(handle) => push_userdata(state, handle, metatable),
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

/// A hint for the size of a table.
fn size(length: usize) -> c_int {
    length.try_into().unwrap_or(c_int::MAX)
}

/// The finaliser of a class: drops the content. A second call finds none.
///
/// # Safety
///
/// Called by Lua. Upvalue 1 is the metatable of the class whose userdata hold `Content<T>`.
unsafe extern "C-unwind" fn finalise<T>(state: *mut lua_State) -> c_int {
    // SAFETY: `content` checks that argument 1 is of the class.
    unsafe {
        if let Some(content) = content::<T>(state, 1, ffi::lua_upvalueindex(1)) {
            drop((*content).take());
        }
    }
    0
}

/// The content of the userdata at `index`, if it is of the class with this metatable.
///
/// # Safety
///
/// `index` is an argument of the running C function, `metatable` an upvalue of it: the
/// metatable that only userdata holding `Content<T>` have.
unsafe fn content<T>(
    state: *mut lua_State,
    index: c_int,
    metatable: c_int,
) -> Option<*mut Content<T>> {
    // SAFETY: none of these allocates or raises; the stack is left as it was.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TUSERDATA
            || ffi::lua_getmetatable(state, index) == 0
        {
            return None;
        }
        let same = ffi::lua_rawequal(state, -1, metatable) != 0;
        ffi::lua_pop(state, 1);
        same.then(|| ffi::lua_touserdata(state, index).cast())
    }
}

/// The arguments of a running native. Reading them raises no error and allocates nothing of
/// Lua's, and leaves Lua's stack as it was.
pub(super) struct Args {
    state: *mut lua_State,
}

/// A Lua value, as far as natives look at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum View<'a> {
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

impl View<'_> {
    /// The name Lua gives the type.
    pub(super) fn type_name(&self) -> &str {
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
            Self::Bytes(bytes) => Some(Scalar::Bytes(bytes.into())),
            Self::Nil | Self::Table | Self::Other(_) => None,
        }
    }

    /// The value as an index of an array.
    fn index(self) -> Option<usize> {
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
    pub(super) fn view(&self, index: c_int) -> View<'_> {
        // SAFETY: `state` is running a C function with these arguments. A string lives as long
        // as its place on the stack, which outlives `self`.
        unsafe { view(self.state, index) }
    }

    /// The result that is argument `index`.
    pub(super) fn result(&self, index: c_int) -> Option<&SharedResult> {
        // SAFETY: `RESULT_METATABLE` is an upvalue of each native, and userdata with it hold a
        // `Content<SharedResult>`. The argument keeps it alive, and only its finaliser, which
        // cannot run while it is an argument, changes it.
        unsafe { (*content(self.state, index, RESULT_METATABLE)?).as_ref() }
    }

    /// The context that is argument `index`.
    pub(super) fn context(&self, index: c_int) -> Option<&SharedContext> {
        // SAFETY: as in `result`, for `CONTEXT_METATABLE`.
        unsafe { (*content(self.state, index, CONTEXT_METATABLE)?).as_ref() }
    }

    /// The address that argument `index` is, or null.
    pub(super) fn address(&self, index: c_int) -> *mut c_void {
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
    pub(super) fn strings(&self, index: c_int) -> Result<Vec<Bytes>, String> {
        let table = self.table(index, "array of strings")?;
        // SAFETY: `index` is a table.
        let found = unsafe { array(self.state, table) };
        let scalars = found.map_err(|why| format!("array of strings expected, got {why}"))?;
        (1..)
            .zip(scalars)
            .map(|(at, scalar)| match scalar {
                Scalar::Bytes(bytes) => Ok(bytes),
                Scalar::Bool(_) => Err(not_a_string(at, "boolean")),
                Scalar::Integer(_) | Scalar::Float(_) => Err(not_a_string(at, "number")),
            })
            .collect()
    }

    /// The table of attributes that is argument `index`.
    ///
    /// # Errors
    ///
    /// What was expected and what was found.
    pub(super) fn attributes(&self, index: c_int) -> Result<Attributes, String> {
        let table = self.table(index, "table")?;
        let mut pairs = Vec::new();
        let mut refused = None;
        // SAFETY: `index` is a table, and nothing here changes it.
        unsafe {
            each(self.state, table, |key, value| {
                match attribute(self.state, key, value) {
                    Ok(pair) => pairs.push(pair),
                    Err(why) => refused = Some(why),
                }
                refused.is_none()
            });
        }
        match refused {
            None => Ok(Attributes::from_pairs(pairs)),
            Some(why) => Err(why),
        }
    }

    fn table(&self, index: c_int, wanted: &str) -> Result<c_int, String> {
        match self.view(index) {
            View::Table => Ok(index),
            other => Err(format!("{wanted} expected, got {}", other.type_name())),
        }
    }
}

fn not_a_string(at: usize, kind: &str) -> String {
    format!("array of strings expected, got {kind} at index {at}")
}

/// The value at `index`.
///
/// # Safety
///
/// A string is borrowed from its place on the stack: the caller chooses a lifetime within it.
unsafe fn view<'a>(state: *mut lua_State, index: c_int) -> View<'a> {
    // SAFETY: none of these raises. `lua_tolstring` is asked for strings only: a number would
    // be converted, which allocates.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNIL | ffi::LUA_TNONE => View::Nil,
            ffi::LUA_TBOOLEAN => View::Bool(ffi::lua_toboolean(state, index) != 0),
            ffi::LUA_TNUMBER => number(state, index),
            ffi::LUA_TSTRING => {
                let mut length = 0;
                let bytes = ffi::lua_tolstring(state, index, &raw mut length);
                View::Bytes(slice::from_raw_parts(bytes.cast(), length))
            }
            ffi::LUA_TTABLE => View::Table,
            other => {
                let name = CStr::from_ptr(ffi::lua_typename(state, other));
                View::Other(name.to_str().unwrap_or("value"))
            }
        }
    }
}

/// The number at `index`: an integer where the interpreter has such a type and it is one.
unsafe fn number<'a>(state: *mut lua_State, index: c_int) -> View<'a> {
    // SAFETY: it is a number; none of these raises.
    unsafe {
        #[cfg(any(feature = "lua53", feature = "lua54"))]
        if ffi::lua_isinteger(state, index) != 0 {
            return View::Integer(ffi::lua_tointeger(state, index));
        }
        View::Float(ffi::lua_tonumber(state, index))
    }
}

/// Calls `work` with the stack indices of key and value of each pair, until it says false.
///
/// # Safety
///
/// `table` is the absolute index of a table, there is room for two values and what `work`
/// needs, and `work` changes neither the table nor the stack: so `lua_next` cannot raise.
unsafe fn each(state: *mut lua_State, table: c_int, mut work: impl FnMut(c_int, c_int) -> bool) {
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

/// Reads one pair of a table of attributes.
///
/// # Safety
///
/// `key` and `value` are absolute stack indices, with room for two more values.
unsafe fn attribute(
    state: *mut lua_State,
    key: c_int,
    value: c_int,
) -> Result<(Bytes, AttributeValue), String> {
    // SAFETY: as of this function; the views do not leave it.
    let (key, content) = unsafe { (view(state, key), view(state, value)) };
    let View::Bytes(name) = key else {
        return Err(format!(
            "table of name = value expected, got a {} as a name",
            key.type_name()
        ));
    };
    let wanted = "string, number, boolean or an array of these";
    let content = match content {
        // SAFETY: `value` is a table.
        View::Table => unsafe { array(state, value) }
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
    Ok((name.into(), content))
}

/// A name as an error shows it.
fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 64;
    match name.get(..LONGEST) {
        Some(start) if name.len() > LONGEST => format!("\"{}...\"", start.escape_ascii()),
        _ => format!("\"{}\"", name.escape_ascii()),
    }
}

/// The array at `table`, in order: its keys are exactly 1..n, and none of its values is a table.
///
/// # Safety
///
/// `table` is the absolute index of a table, with room for two more values.
unsafe fn array(state: *mut lua_State, table: c_int) -> Result<Vec<Scalar>, String> {
    let mut found: Vec<(usize, Scalar)> = Vec::new();
    let mut refused = None;
    // SAFETY: as of this function, and nothing here changes the table.
    unsafe {
        each(state, table, |key, value| {
            let (key, value) = (view(state, key), view(state, value));
            match (key.index(), value.scalar()) {
                (Some(index), Some(scalar)) => found.push((index, scalar)),
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
    // Mostly in order already: then this only looks.
    found.sort_by_key(|(index, _)| *index);
    if let Some((expected, _)) = (1..).zip(&found).find(|(at, (index, _))| at != index) {
        return Err(format!("an array with nothing at index {expected}"));
    }
    Ok(found.into_iter().map(|(_, scalar)| scalar).collect())
}

/// The classes of a Lua state, and what natives are made with.
pub(super) struct Natives<'l> {
    lua: &'l Lua,
    table: LuaTable,
    result: LuaTable,
    context: LuaTable,
}

impl<'l> Natives<'l> {
    /// Makes the metatables, with finaliser and nothing else: the glue adds the rest.
    pub(super) fn new(lua: &'l Lua) -> LuaResult<Self> {
        let natives = Self {
            lua,
            table: lua.create_table()?,
            result: class::<SharedResult>(lua)?,
            context: class::<SharedContext>(lua)?,
        };
        natives.table.raw_set("result_metatable", &natives.result)?;
        natives
            .table
            .raw_set("context_metatable", &natives.context)?;
        Ok(natives)
    }

    /// The table of natives, as the glue sees it.
    pub(super) fn table(&self) -> &LuaTable {
        &self.table
    }

    /// Adds a function made by [`native!`].
    pub(super) fn add(&self, name: &str, entry: mlua::lua_CFunction) -> LuaResult<()> {
        self.table.raw_set(name, self.function(entry)?)
    }

    /// The Lua function of an entry made by [`native!`], or of one that needs no more than
    /// the upvalues.
    pub(super) fn function(&self, entry: mlua::lua_CFunction) -> LuaResult<LuaFunction> {
        // SAFETY: the two arguments on the stack become the upvalues all natives have.
        unsafe {
            self.lua.exec_raw((&self.result, &self.context), |state| {
                ffi::lua_pushcclosure(state, entry, 2);
            })
        }
    }

    /// The Lua that the natives are for.
    pub(super) fn lua(&self) -> &Lua {
        self.lua
    }
}

/// A metatable whose userdata hold a `Content<T>`.
fn class<T>(lua: &Lua) -> LuaResult<LuaTable> {
    let metatable = lua.create_table()?;
    // SAFETY: the argument on the stack becomes the upvalue `finalise` needs; only
    // `push_userdata` gives userdata this metatable, with the content it says.
    let finaliser: LuaFunction = unsafe {
        lua.exec_raw(&metatable, |state| {
            ffi::lua_pushcclosure(state, finalise::<T>, 1);
        })?
    };
    metatable.raw_set("__gc", finaliser)?;
    Ok(metatable)
}
