//! Checks on demand: the natives of `check_backend_connection` and `start_check`.

use std::sync::Arc;

use mlua::prelude::*;

use super::convert;
use super::monitor::to_duration;
use crate::engine::config::{Value, parse_host};
use crate::engine::process::check::Check;
use crate::engine::process::current;

/// The option of a check that is no key of a target: whether an equal one under way will do.
const COALESCE: &str = "coalesce";

pub(super) struct Handle(Check);

impl Handle {
    pub(super) fn check(&self) -> &Check {
        &self.0
    }
}

impl LuaUserData for Handle {}

pub(super) fn register(lua: &Lua, native: &LuaTable) -> LuaResult<()> {
    native.raw_set("check_start", lua.create_function(start)?)?;
    native.raw_set("check_start_at", lua.create_function(start_at)?)?;
    native.raw_set("host_problem", lua.create_function(host_problem)?)?;
    native.raw_set("check_result", lua.create_function(result)?)?;
    native.raw_set("check_wait", lua.create_function(wait)?)?;
    native.raw_set("check_fd", lua.create_function(fd)?)?;
    native.raw_set("check_cancel", lua.create_function(cancel)?)?;
    Ok(())
}

/// `host_problem(text)`: nil for an address or a host name, else what was expected.
fn host_problem(_: &Lua, host: LuaString) -> LuaResult<Option<String>> {
    Ok(match host.to_str() {
        Ok(host) => parse_host(&host).err(),
        Err(_) => Some("a host name or an IP address expected".to_owned()),
    })
}

/// `check_start(table)`: a handle, or nil and what is wrong with the table.
fn start(_: &Lua, table: LuaTable) -> LuaResult<(Option<Handle>, Option<String>)> {
    Ok(handle(begin(described(table))))
}

/// `check_start_at(host, port, haproxy_v2, tls)`: the same for a table of these.
fn start_at(_: &Lua, place: Place) -> LuaResult<(Option<Handle>, Option<String>)> {
    Ok(handle(begin(described_at(place))))
}

fn handle(started: Result<Check, String>) -> (Option<Handle>, Option<String>) {
    match started {
        Ok(check) => (Some(Handle(check)), None),
        Err(reason) => (None, Some(reason)),
    }
}

/// `host, port, haproxy_v2, tls`
pub(super) type Place = (LuaString, f64, bool, bool);

pub(super) fn described(table: LuaTable) -> Result<Value<'static>, String> {
    convert::to_config(&LuaValue::Table(table)).map_err(|issue| issue.to_string())
}

pub(super) fn described_at((host, port, haproxy_v2, tls): Place) -> Result<Value<'static>, String> {
    let Ok(host) = host.to_str() else {
        return Err("host: text in UTF-8 expected".to_owned());
    };
    Ok(Value::Map(vec![
        ("host".to_owned(), Value::Str(host.to_owned())),
        ("port".to_owned(), convert::number(port)),
        ("haproxy_v2".to_owned(), Value::Bool(haproxy_v2)),
        ("tls".to_owned(), Value::Bool(tls)),
    ]))
}

/// Starts the check that is described, or says what is wrong with the description.
pub(super) fn begin(described: Result<Value, String>) -> Result<Check, String> {
    let process = current();
    let value = described?;
    let target = process.target_for_check(&value, &[COALESCE])?;
    Ok(process.check(Arc::new(target), may_coalesce(&value)))
}

fn may_coalesce(described: &Value) -> bool {
    let Value::Map(entries) = described else {
        return true;
    };
    !entries
        .iter()
        .any(|(key, value)| key == COALESCE && *value == Value::Bool(false))
}

/// `check_result(handle)`: whether it is done, and the reason of a failure.
fn result(_: &Lua, handle: LuaUserDataRef<Handle>) -> LuaResult<(bool, Option<String>)> {
    Ok(answer(handle.0.result()))
}

/// `check_wait(handle, seconds or nil)`: the same, waited for. Blocks.
fn wait(
    _: &Lua,
    (handle, seconds): (LuaUserDataRef<Handle>, Option<f64>),
) -> LuaResult<(bool, Option<String>)> {
    Ok(answer(handle.0.wait(seconds.and_then(to_duration))))
}

/// Whether it is done, and the reason of a failure.
pub(super) fn answer(result: Option<Result<(), String>>) -> (bool, Option<String>) {
    match result {
        None => (false, None),
        Some(result) => (true, result.err()),
    }
}

/// `check_fd(handle)`: a descriptor, or nil and why there is none.
fn fd(_: &Lua, handle: LuaUserDataRef<Handle>) -> LuaResult<(Option<i32>, Option<String>)> {
    Ok(match handle.0.descriptor() {
        Ok(fd) => (Some(fd), None),
        Err(e) => (None, Some(format!("no descriptor to wait on: {e}"))),
    })
}

fn cancel(_: &Lua, handle: LuaUserDataRef<Handle>) -> LuaResult<()> {
    handle.0.cancel();
    Ok(())
}
