//! Lua tables as configurations.

use mlua::prelude::*;

use crate::engine::config::{Issue, Items, Source, Step, Value};

/// Tables within tables; the deepest configuration has five.
const DEEPEST: usize = 16;

/// The configuration that a Lua value holds, or what is wrong with it and where:
/// `backend_servers[1].port: function`.
pub(super) fn to_config(value: &LuaValue) -> Result<Value<'static>, Issue> {
    convert(value, DEEPEST)
}

/// The paths of errors begin at the value.
fn convert(value: &LuaValue, depth: usize) -> Result<Value<'static>, Issue> {
    match value {
        LuaValue::Nil => Ok(Value::Nil),
        LuaValue::Boolean(value) => Ok(Value::Bool(*value)),
        LuaValue::Integer(value) => Ok(Value::Int(*value)),
        LuaValue::Number(value) => Ok(number(*value)),
        LuaValue::String(text) => match text.to_str() {
            Ok(text) => Ok(Value::Str(text.to_owned())),
            Err(_) => Err(Issue::new("text in UTF-8 expected")),
        },
        LuaValue::Table(_) if depth == 0 => Err(Issue::new("tables are nested too deeply")),
        LuaValue::Table(table) => convert_table(table, depth - 1),
        other => Err(Issue::new(format!(
            "a {} is no configuration value",
            other.type_name()
        ))),
    }
}

/// Lua 5.1 and 5.2 have no integers: 993 arrives as a float.
pub(super) fn number(value: f64) -> Value<'static> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation)] // Whole and within 2^53.
        return Value::Int(value as i64);
    }
    Value::Float(value)
}

fn convert_table(table: &LuaTable, depth: usize) -> Result<Value<'static>, Issue> {
    let length = table.raw_len();
    let mut items = 0;
    let mut entries = Vec::new();
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, value) = pair.map_err(|_| Issue::new("a table that can be read expected"))?;
        match key {
            LuaValue::String(key) => {
                let key = key
                    .to_str()
                    .map_err(|_| Issue::new("keys in UTF-8 expected"))?
                    .to_owned();
                let value = convert(&value, depth);
                let value = value.map_err(|issue| issue.under(Step::Key(key.clone())))?;
                entries.push((key, value));
            }
            LuaValue::Integer(_) | LuaValue::Number(_) => {
                if !is_index(&key, length) {
                    return Err(Issue::new("an array without gaps expected"));
                }
                items += 1;
            }
            other => {
                return Err(Issue::new(format!(
                    "keys that are names expected, got a {}",
                    other.type_name()
                )));
            }
        }
    }
    match (items, entries.is_empty()) {
        (0, _) => {
            // Lua keeps no order; an error should not depend on the run.
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Value::Map(entries))
        }
        (items, true) if items == length => convert_array(table, length, depth),
        _ => Err(Issue::new(
            "an array or a table of named keys expected, got both in one",
        )),
    }
}

fn is_index(key: &LuaValue, length: usize) -> bool {
    let index = match key {
        LuaValue::Integer(index) => *index,
        LuaValue::Number(index) => match number(*index) {
            Value::Int(index) => index,
            _ => return false,
        },
        _ => return false,
    };
    usize::try_from(index).is_ok_and(|index| (1..=length).contains(&index))
}

/// An array of tables or arrays, none of which is a value yet.
struct Rest {
    table: LuaTable,
    length: usize,
    depth: usize,
}

impl Source for Rest {
    fn count(&self) -> usize {
        self.length
    }

    fn item(&self, index: usize) -> Result<Value<'_>, Issue> {
        convert(&raw_item(&self.table, index)?, self.depth)
    }
}

/// `index` counts from 0.
fn raw_item(table: &LuaTable, index: usize) -> Result<LuaValue, Issue> {
    table
        .raw_get(index + 1)
        .map_err(|_| Issue::new("cannot be read"))
}

fn convert_array(table: &LuaTable, length: usize, depth: usize) -> Result<Value<'static>, Issue> {
    if raw_item(table, 0).is_ok_and(|first| first.is_table()) {
        return Ok(Value::Items(Items::new(Rest {
            table: table.clone(),
            length,
            depth,
        })));
    }
    (0..length)
        .map(|index| {
            let value = raw_item(table, index).and_then(|item| convert(&item, depth));
            value.map_err(|issue| issue.under(Step::item(index)))
        })
        .collect::<Result<_, _>>()
        .map(Value::List)
}
