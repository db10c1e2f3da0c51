//! Configuration, start and stop, status: the natives of the monitor.

use std::path::Path;
use std::time::Duration;

use mlua::prelude::*;

use super::convert;
use crate::engine::active::TargetStatus;
use crate::engine::config::{Config, ConfigError};
use crate::engine::process::current;

pub(super) fn register(lua: &Lua, native: &LuaTable) -> LuaResult<()> {
    native.raw_set("configure", lua.create_function(configure)?)?;
    native.raw_set("start", lua.create_function(start)?)?;
    native.raw_set("stop", lua.create_function(stop)?)?;
    native.raw_set("is_ready", lua.create_function(is_ready)?)?;
    native.raw_set("wait_ready", lua.create_function(wait_ready)?)?;
    native.raw_set("status", lua.create_function(status)?)?;
    native.raw_set("report_failure", lua.create_function(report_failure)?)?;
    native.raw_set("is_health_check", lua.create_function(is_health_check)?)?;
    Ok(())
}

/// `configure(table or path, head)`: nil, or why it was refused.
fn configure(_: &Lua, (source, head): (LuaValue, bool)) -> LuaResult<Option<String>> {
    let read = || -> Result<Config, String> {
        match &source {
            LuaValue::String(path) => {
                let path = path
                    .to_str()
                    .map_err(|_| "a path in UTF-8 expected".to_owned())?;
                Config::from_file(Path::new(&*path), &|name| std::env::var(name).ok())
                    .map_err(|e| e.to_string())
            }
            table => convert::to_config(table)
                .map_err(ConfigError::from)
                .and_then(|value| Config::from_value(&value))
                .map_err(|e| e.to_string()),
        }
    };
    Ok(read()
        .and_then(|config| current().configure(config, head))
        .err())
}

/// `start()`: nil, or why it cannot start.
fn start(_: &Lua, (): ()) -> LuaResult<Option<String>> {
    let process = current();
    Ok(process
        .configure_from_environment()
        .and_then(|()| process.start())
        .err())
}

fn stop(_: &Lua, (): ()) -> LuaResult<()> {
    current().stop();
    Ok(())
}

/// `is_ready(may_start)`: whether every target has had a verdict, or nil and why there are
/// no targets.
fn is_ready(_: &Lua, may_start: bool) -> LuaResult<(Option<bool>, Option<String>)> {
    let process = current();
    if let Err(reason) = process.configure_from_environment() {
        return Ok((None, Some(reason)));
    }
    let active = process.active(super::start_if(may_start));
    Ok((Some(active.is_none_or(|s| s.is_ready())), None))
}

/// `wait_ready(seconds or nil)`: the same, waited for. Blocks.
fn wait_ready(_: &Lua, seconds: Option<f64>) -> LuaResult<bool> {
    Ok(current().wait_ready(seconds.and_then(to_duration)))
}

/// A time that does not fit is for ever.
pub(super) fn to_duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// `status(may_start)`
fn status(lua: &Lua, may_start: bool) -> LuaResult<LuaTable> {
    let process = current();
    let failed = process.configure_from_environment().err();
    let active = process.active(super::start_if(may_start));
    let table = lua.create_table()?;
    table.raw_set("pid", std::process::id())?;
    table.raw_set("configured", active.is_some())?;
    table.raw_set("running", process.is_running())?;
    table.raw_set("probing", process.is_prober())?;
    table.raw_set("error", failed.or_else(|| process.last_start_error()))?;
    table.raw_set("generation", active.as_ref().map_or(0, |s| s.generation()))?;
    let targets = lua.create_table()?;
    if let Some(active) = active {
        for (index, target) in active.targets().iter().enumerate() {
            let soon = active.certificate_ends_within(&target.record).is_some();
            targets.raw_set(index + 1, target_status(lua, target, soon)?)?;
        }
    }
    table.raw_set("targets", targets)?;
    Ok(table)
}

fn target_status(lua: &Lua, status: &TargetStatus, expires_soon: bool) -> LuaResult<LuaTable> {
    let TargetStatus { target, record } = status;
    let table = lua.create_table()?;
    table.raw_set("key", target.key())?;
    table.raw_set("ip", status.ip())?;
    table.raw_set("host", target.host.to_string())?;
    table.raw_set("port", target.port)?;
    table.raw_set("protocol", target.protocol.name())?;
    table.raw_set("tls_mode", target.tls_mode.name())?;
    table.raw_set("deep_check", target.deep_check)?;
    table.raw_set("verdict", record.verdict().name())?;
    if record.since_ms > 0 {
        table.raw_set("since", seconds(Duration::from_millis(record.since_ms)))?;
    }
    table.raw_set("probes", record.probes)?;
    table.raw_set("failures", record.failures)?;
    table.raw_set("last_error", record.error.as_deref())?;
    table.raw_set("last_latency", record.latency.map(seconds))?;
    table.raw_set("certificate_expiry", record.not_after)?;
    if record.not_after.is_some() {
        table.raw_set("certificate_expires_soon", expires_soon)?;
    }
    Ok(table)
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// `report_failure(host, port, may_start)`: whether a target is there.
fn report_failure(_: &Lua, (host, port, may_start): (LuaString, u16, bool)) -> LuaResult<bool> {
    let process = current();
    let Ok(host) = host.to_str() else {
        return Ok(false);
    };
    let active = process.active(super::start_if(may_start));
    Ok(active.is_some_and(|active| active.report_failure(&host, port)))
}

/// `is_health_check(username)`
fn is_health_check(_: &Lua, username: LuaString) -> LuaResult<bool> {
    let process = current();
    // Where the file is bad, other calls say so.
    let _ = process.configure_from_environment();
    let active = process.active(super::start_if(false));
    Ok(active.is_some_and(|active| active.is_health_check(&username.as_bytes())))
}
