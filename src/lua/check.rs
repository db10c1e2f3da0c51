//! Checks on demand: the natives of `check_backend_connection` and `start_check`.

use std::sync::Arc;

use mlua::prelude::*;

use super::convert;
use super::monitor::to_duration;
use crate::engine::check::Check;
use crate::engine::config::parse_host;
use crate::engine::process::current;

/// Keys of a check's options that are not a target's.
const OWN_OPTIONS: &[&str] = &["coalesce"];

pub(super) struct Handle(Check);

impl Handle {
    pub(super) fn check(&self) -> &Check {
        &self.0
    }
}

impl LuaUserData for Handle {}

pub(super) fn register(lua: &Lua, native: &LuaTable) -> LuaResult<()> {
    native.raw_set("host_problem", lua.create_function(host_problem)?)?;
    native.raw_set("check_start", lua.create_function(start)?)?;
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
fn start(lua: &Lua, table: LuaTable) -> LuaResult<LuaMultiValue> {
    let coalesce = table.raw_get::<Option<bool>>("coalesce").ok().flatten();
    let process = current();
    let parsed = convert::to_config(&LuaValue::Table(table))
        .and_then(|value| process.target_for_check(&value, OWN_OPTIONS));
    match parsed {
        Ok(target) => {
            let check = process.check(Arc::new(target), coalesce.unwrap_or(true));
            lua.create_userdata(Handle(check))?.into_lua_multi(lua)
        }
        Err(reason) => (LuaNil, reason).into_lua_multi(lua),
    }
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

fn answer(result: Option<Result<(), String>>) -> (bool, Option<String>) {
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
