//! Lua tables as configurations.

use mlua::prelude::*;

use crate::engine::config::Value;

/// Tables within tables; the deepest configuration has five.
const DEEPEST: usize = 16;

/// The configuration that a Lua value holds, or what is wrong with it and where:
/// `backend_servers[1].port: function`.
pub(super) fn to_config(value: &LuaValue) -> Result<Value, String> {
    convert(value, "", DEEPEST)
}

fn convert(value: &LuaValue, path: &str, depth: usize) -> Result<Value, String> {
    match value {
        LuaValue::Nil => Ok(Value::Nil),
        LuaValue::Boolean(value) => Ok(Value::Bool(*value)),
        LuaValue::Integer(value) => Ok(Value::Int(*value)),
        LuaValue::Number(value) => Ok(number(*value)),
        LuaValue::String(text) => match text.to_str() {
            Ok(text) => Ok(Value::Str(text.to_owned())),
            Err(_) => Err(format!("{}text in UTF-8 expected", prefix(path))),
        },
        LuaValue::Table(_) if depth == 0 => {
            Err(format!("{}tables are nested too deeply", prefix(path)))
        }
        LuaValue::Table(table) => convert_table(table, path, depth - 1),
        other => Err(format!(
            "{}a {} is no configuration value",
            prefix(path),
            other.type_name()
        )),
    }
}

/// Lua 5.1 and 5.2 have no integers: 993 arrives as a float.
pub(super) fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation)] // Whole and within 2^53.
        return Value::Int(value as i64);
    }
    Value::Float(value)
}

fn convert_table(table: &LuaTable, path: &str, depth: usize) -> Result<Value, String> {
    let length = table.raw_len();
    let mut items = Vec::new();
    let mut entries = Vec::new();
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, value) =
            pair.map_err(|_| format!("{}a table that can be read expected", prefix(path)))?;
        match key {
            LuaValue::String(key) => {
                let key = key
                    .to_str()
                    .map_err(|_| format!("{}keys in UTF-8 expected", prefix(path)))?
                    .to_owned();
                let inner = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                entries.push((key, convert(&value, &inner, depth)?));
            }
            LuaValue::Integer(_) | LuaValue::Number(_) => {
                items
                    .push(array_index(&key, length).ok_or_else(|| {
                        format!("{}an array without gaps expected", prefix(path))
                    })?);
            }
            other => {
                return Err(format!(
                    "{}keys that are names expected, got a {}",
                    prefix(path),
                    other.type_name()
                ));
            }
        }
    }
    match (items.is_empty(), entries.is_empty()) {
        (true, _) => {
            // Lua keeps no order; an error should not depend on the run.
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Value::Map(entries))
        }
        (false, true) if items.len() == length => convert_array(table, length, path, depth),
        _ => Err(format!(
            "{}an array or a table of named keys expected, got both in one",
            prefix(path)
        )),
    }
}

fn array_index(key: &LuaValue, length: usize) -> Option<usize> {
    let index = match key {
        LuaValue::Integer(index) => usize::try_from(*index).ok()?,
        LuaValue::Number(index) => match number(*index) {
            Value::Int(index) => usize::try_from(index).ok()?,
            _ => return None,
        },
        _ => return None,
    };
    (1..=length).contains(&index).then_some(index)
}

fn convert_array(
    table: &LuaTable,
    length: usize,
    path: &str,
    depth: usize,
) -> Result<Value, String> {
    let mut items = Vec::with_capacity(length);
    for index in 1..=length {
        let inner = format!("{path}[{index}]");
        let value = table
            .raw_get::<LuaValue>(index)
            .map_err(|_| format!("{}cannot be read", prefix(&inner)))?;
        items.push(convert(&value, &inner, depth)?);
    }
    Ok(Value::List(items))
}

fn prefix(path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!("{path}: "),
    }
}
