//! A table that a native is called with, as a configuration.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::args::{ArgView, Args, each, view};
use crate::engine::config::{Issue, Step, Value};

/// Tables within tables; the deepest configuration has five.
const DEEPEST: usize = 16;

/// Stack slots for a table that is looked through: its key and value, and an item.
const SLOTS_OF_A_TABLE: c_int = 3;

/// Slots that are left for the native itself, and for what pushes its answer.
const SPARE: c_int = 20;

/// Makes room on the stack for [`Args::config`]; raises where there is none.
///
/// # Safety
///
/// `state` is running a C function, which owns nothing yet.
pub(super) unsafe fn make_room(state: *mut lua_State) {
    let slots = SLOTS_OF_A_TABLE * DEEPEST as c_int + SPARE;
    // SAFETY: as of this function.
    unsafe { ffi::luaL_checkstack(state, slots, c"a configuration".as_ptr()) }
}

impl Args {
    /// Runs `work` on the configuration that argument `index` holds, or on what is wrong with it
    /// and where: `backend_servers[1].port: function`. For natives made by `config_native!`.
    pub(in crate::lua) fn config<T>(
        &self,
        index: c_int,
        work: impl FnOnce(Result<Value, Issue>) -> T,
    ) -> T {
        let reader = Reader { state: self.state };
        // SAFETY: `make_room` made room. An argument's index is absolute.
        work(unsafe { reader.convert(index, DEEPEST) })
    }
}

/// Reads tables.
struct Reader {
    state: *mut lua_State,
}

impl Reader {
    /// The value at `index`. The paths of errors begin there.
    ///
    /// # Safety
    ///
    /// `index` is absolute, and there is room for as many tables as are below it. Leaves the stack
    /// as it was.
    unsafe fn convert(&self, index: c_int, depth: usize) -> Result<Value, Issue> {
        // SAFETY: as of this function; the view does not leave it.
        match unsafe { view(self.state, index) } {
            ArgView::Nil => Ok(Value::Nil),
            ArgView::Bool(value) => Ok(Value::Bool(value)),
            ArgView::Integer(number) => Ok(Value::Int(number)),
            ArgView::Float(number) => Ok(number_value(number)),
            ArgView::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Value::Str(text.to_owned())),
                Err(_) => Err(Issue::new("text in UTF-8 expected")),
            },
            ArgView::Table if depth == 0 => Err(Issue::new("tables are nested too deeply")),
            // SAFETY: it is a table; otherwise as of this function.
            ArgView::Table => unsafe { self.convert_table(index, depth - 1) },
            ArgView::Other(name) => Err(Issue::new(format!("a {name} is no configuration value"))),
        }
    }

    unsafe fn convert_table(&self, table: c_int, depth: usize) -> Result<Value, Issue> {
        // SAFETY: as of `convert`.
        let length = unsafe { ffi::lua_rawlen(self.state, table) };
        let mut items = 0;
        let mut entries = Vec::new();
        let mut refused = None;
        // SAFETY: as of `convert`, and nothing here changes the table.
        unsafe {
            each(self.state, table, |key, value| {
                match self.entry(key, value, length, depth) {
                    Ok(Some(entry)) => entries.push(entry),
                    Ok(None) => items += 1,
                    Err(issue) => refused = Some(issue),
                }
                refused.is_none()
            });
        }
        if let Some(issue) = refused {
            return Err(issue);
        }
        match (items, entries.is_empty()) {
            (0, _) => {
                // Lua keeps no order; an error should not depend on the run.
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                Ok(Value::Map(entries))
            }
            // SAFETY: as of `convert`.
            (items, true) if items == length => unsafe { self.convert_array(table, length, depth) },
            _ => Err(Issue::new(
                "an array or a table of named keys expected, got both in one",
            )),
        }
    }

    /// A pair of a table: name and value; none where it is an item of an array of this length.
    unsafe fn entry(
        &self,
        key: c_int,
        value: c_int,
        length: usize,
        depth: usize,
    ) -> Result<Option<(String, Value)>, Issue> {
        // SAFETY: as of `convert`; the view does not leave this function.
        let key = unsafe { view(self.state, key) };
        match key {
            ArgView::Bytes(key) => {
                let key = std::str::from_utf8(key)
                    .map_err(|_| Issue::new("keys in UTF-8 expected"))?
                    .to_owned();
                // SAFETY: as of `convert`.
                let value = unsafe { self.convert(value, depth) };
                let value = value.map_err(|issue| issue.under(Step::Key(key.clone())))?;
                Ok(Some((key, value)))
            }
            ArgView::Integer(_) | ArgView::Float(_) => match key.index() {
                Some(index) if index <= length => Ok(None),
                _ => Err(Issue::new("an array without gaps expected")),
            },
            other => Err(Issue::new(format!(
                "keys that are names expected, got a {}",
                other.type_name()
            ))),
        }
    }

    unsafe fn convert_array(
        &self,
        table: c_int,
        length: usize,
        depth: usize,
    ) -> Result<Value, Issue> {
        (0..length)
            .map(|index| {
                // SAFETY: as of `convert`.
                let value = unsafe { self.item(table, index, depth) };
                value.map_err(|issue| issue.under(Step::item(index)))
            })
            .collect::<Result<_, _>>()
            .map(Value::List)
    }

    /// The item at `index`, from 0, of the array at `table`.
    unsafe fn item(&self, table: c_int, index: usize, depth: usize) -> Result<Value, Issue> {
        // SAFETY: as of `convert`. An index of an array that is there fits any integer of Lua's.
        unsafe {
            ffi::lua_rawgeti(self.state, table, index as ffi::lua_Integer + 1);
            let value = self.convert(ffi::lua_gettop(self.state), depth);
            ffi::lua_pop(self.state, 1);
            value
        }
    }
}

/// Lua 5.1 and 5.2 have no integers: 993 arrives as a float.
pub(in crate::lua) fn number_value(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation)] // Whole and within 2^53.
        return Value::Int(value as i64);
    }
    Value::Float(value)
}
