//! Reads an argument of a native, a Lua table, as a configuration.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::args::{ArgView, Args, each, view};
use super::fields::make_room;
use crate::engine::config::{Issue, ServerItems, Step, Value, is_server_list};

/// The limit of tables within tables. The deepest valid configuration has five; the limit bounds
/// recursion for a table that contains itself.
const DEEPEST: usize = 16;

/// What is wrong with a table that has items, but not of all indices from 1 on.
const GAPS: &str = "an array without gaps expected";

/// Stack slots for each table on the way down: key and value, or an item of an array.
const SLOTS_OF_A_TABLE: c_int = 3;

/// Stack slots left for the native itself and for pushing its answer: as many as every C function has.
const SPARE: c_int = 20;

/// Makes room on the stack for [`Args::config`], or raises.
///
/// # Safety
///
/// `state` is running a C function, and no frame between it and Lua owns a Rust value yet.
pub(super) unsafe fn make_room_for_config(state: *mut lua_State) {
    let slots = SLOTS_OF_A_TABLE * DEEPEST as c_int + SPARE;
    // SAFETY: this may raise, and no frame has a destructor to run.
    unsafe { make_room(state, slots) }
}

impl Args {
    /// Runs `work` on argument `index` as a configuration, or on an issue that says what is wrong with
    /// it and where (`backend_servers[1].port: …`). Only for natives made by `config_native!`, which
    /// have the stack slots.
    pub(in crate::lua) fn config<T>(
        &self,
        index: c_int,
        work: impl FnOnce(Result<Value, Issue>) -> T,
    ) -> T {
        let reader = Reader { state: self.state };
        // SAFETY: `run_with_room` made room for `DEEPEST` tables. The index of an argument is absolute.
        work(unsafe { reader.convert(index, DEEPEST, Servers::Converted) })
    }

    /// Like [`Self::config`], but the list of servers is not converted with the rest: `work` also gets an
    /// object that converts its items one at a time, to bound peak memory.
    pub(in crate::lua) fn config_with_servers<T>(
        &self,
        index: c_int,
        work: impl FnOnce(Result<Value, Issue>, &dyn ServerItems) -> T,
    ) -> T {
        let reader = Reader { state: self.state };
        // SAFETY: `run_with_room` made room for `DEEPEST` tables. The index of an argument is absolute.
        let value = unsafe { reader.convert(index, DEEPEST, Servers::DeferredBelow) };
        work(value, &Items { reader, index })
    }
}

/// Whether the list of servers in a table is converted, or deferred until its items are read.
#[derive(Clone, Copy, PartialEq)]
enum Servers {
    Converted,
    /// A table below this one may hold the list: it is deferred there.
    DeferredBelow,
    /// This value is the list, if it is an array: it is deferred.
    DeferredHere,
}

/// Converts items of lists in the table at a stack index. Valid during one call of a native.
struct Items {
    reader: Reader,
    /// The absolute index of an argument.
    index: c_int,
}

impl ServerItems for Items {
    fn each(&self, path: &[Step], take: &mut dyn FnMut(Result<Value, Issue>) -> bool) {
        let state = self.reader.state;
        // The list is `path.len()` tables down, an item one more.
        let Some(depth) = DEEPEST.checked_sub(path.len() + 1) else {
            return;
        };
        // SAFETY: only `config_with_servers` makes this, for a native with slots for `DEEPEST` tables, and the
        // native's argument stays where it is. The walk needs the slot of the list, and two more while it
        // looks for a key. `take` runs no Lua.
        unsafe {
            let top = ffi::lua_gettop(state);
            ffi::lua_pushvalue(state, self.index);
            let list = top + 1;
            if path.iter().all(|step| descend(state, list, step)) {
                for index in 0..ffi::lua_rawlen(state, list) {
                    if !take(self.reader.item(list, index, depth)) {
                        break;
                    }
                }
            }
            ffi::lua_settop(state, top);
        }
    }
}

/// Replaces the table in `slot` by the table that it has under a name; false if there is none.
///
/// # Safety
///
/// `slot` is the topmost slot, and three more are free.
unsafe fn descend(state: *mut lua_State, slot: c_int, step: &Step) -> bool {
    let Step::Key(name) = step else {
        return false;
    };
    let mut found = false;
    // SAFETY: the slot holds a table, `each` and the copy have their slots. The slot is changed last: `each`
    // reads the table no more once the closure has returned false.
    unsafe {
        if ffi::lua_type(state, slot) != ffi::LUA_TTABLE {
            return false;
        }
        each(state, slot, |key, value| {
            found = view(state, key) == ArgView::Bytes(name.as_bytes());
            if found {
                ffi::lua_pushvalue(state, value);
                ffi::lua_replace(state, slot);
            }
            !found
        });
        found && ffi::lua_type(state, slot) == ffi::LUA_TTABLE
    }
}

/// Converts Lua values to configuration values.
#[derive(Clone, Copy)]
struct Reader {
    state: *mut lua_State,
}

impl Reader {
    /// The value at `index`, with at most `depth` levels of tables. The path of an issue begins at this
    /// value. Leaves the stack as it was.
    ///
    /// # Safety
    ///
    /// `index` is absolute, and there are `SLOTS_OF_A_TABLE` free slots for each of `depth` tables.
    unsafe fn convert(&self, index: c_int, depth: usize, servers: Servers) -> Result<Value, Issue> {
        // SAFETY: the slot does not change during this call, and the view does not leave it.
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
            // SAFETY: it is a table, and the caller provides the slots for `depth` tables.
            ArgView::Table => unsafe { self.convert_table(index, depth - 1, servers) },
            ArgView::Other(name) => Err(Issue::new(format!("a {name} is no configuration value"))),
        }
    }

    unsafe fn convert_table(
        &self,
        table: c_int,
        depth: usize,
        servers: Servers,
    ) -> Result<Value, Issue> {
        // SAFETY: `convert` has checked that it is a table.
        let length = unsafe { ffi::lua_rawlen(self.state, table) };
        let mut items = 0;
        let mut entries = Vec::new();
        let mut refused = None;
        // SAFETY: `convert` has slots for key and value and for the tables below. The closure does not
        // change the table and leaves the stack as it was.
        unsafe {
            each(self.state, table, |key, value| {
                match self.entry(key, value, length, depth, servers) {
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
                // `next` has no defined order. Sorted, so that of several mistakes the same one is
                // reported on each run.
                entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                Ok(Value::Map(entries))
            }
            (items, true) if items == length && servers == Servers::DeferredHere => {
                Ok(Value::Deferred(length))
            }
            // SAFETY: `each` has freed its slots again; one of them is enough for an item.
            (items, true) if items == length => unsafe { self.convert_array(table, length, depth) },
            // Some indices up to the length have no value, as in `{ a, nil, c }`.
            (_, true) => Err(Issue::new(GAPS)),
            _ => Err(Issue::new(
                "an array or a table of named keys expected, got both in one",
            )),
        }
    }

    /// An entry of a table: name and value, or `None` for an item of an array of this length.
    unsafe fn entry(
        &self,
        key: c_int,
        value: c_int,
        length: usize,
        depth: usize,
        servers: Servers,
    ) -> Result<Option<(String, Value)>, Issue> {
        // SAFETY: `key` is a slot of `each` that does not change meanwhile; the view stays here.
        let key = unsafe { view(self.state, key) };
        match key {
            ArgView::Bytes(key) => {
                let key = std::str::from_utf8(key)
                    .map_err(|_| Issue::new("keys in UTF-8 expected"))?
                    .to_owned();
                let servers = match servers {
                    Servers::Converted => Servers::Converted,
                    _ if is_server_list(&key) => Servers::DeferredHere,
                    _ => Servers::DeferredBelow,
                };
                // SAFETY: `value` is absolute, and there are slots for `depth` more tables.
                let value = unsafe { self.convert(value, depth, servers) };
                let value = value.map_err(|issue| issue.under(Step::Key(key.clone())))?;
                Ok(Some((key, value)))
            }
            ArgView::Integer(_) | ArgView::Float(_) => match key.index() {
                Some(index) if index <= length => Ok(None),
                _ => Err(Issue::new(GAPS)),
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
                // SAFETY: `table` is a table, with slots for an item and `depth` more tables.
                let value = unsafe { self.item(table, index, depth) };
                value.map_err(|issue| issue.under(Step::item(index)))
            })
            .collect::<Result<_, _>>()
            .map(Value::List)
    }

    /// The item at `index`, from 0, of the array at `table`.
    unsafe fn item(&self, table: c_int, index: usize, depth: usize) -> Result<Value, Issue> {
        // SAFETY: the caller provides a slot for the item and those for `depth` tables. The index of an
        // existing item fits a Lua integer.
        unsafe {
            ffi::lua_rawgeti(self.state, table, index as ffi::lua_Integer + 1);
            let value = self.convert(ffi::lua_gettop(self.state), depth, Servers::Converted);
            ffi::lua_pop(self.state, 1);
            value
        }
    }
}

/// A float as an integer if it is whole: in Lua 5.1, 5.2 and LuaJIT, 993 is a float.
pub(in crate::lua) fn number_value(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation)] // Whole and within 2^53.
        return Value::Int(value as i64);
    }
    Value::Float(value)
}
