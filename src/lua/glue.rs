//! The embedded Lua of the module.
//!
//! Each part is a chunk called with two tables, `native` (the functions of Rust) and `parts`
//! (what the parts before it returned, by name); what it returns becomes `parts[name]`. A part
//! whose table has a field `api` adds those functions to the module.

use mlua::prelude::*;

/// The parts in the order they run: each may use the ones before it.
const PARTS: &[(&str, &str)] = &[
    ("contain", include_str!("glue/contain.lua")),
    ("errors", include_str!("glue/errors.lua")),
    ("ffi", include_str!("glue/ffi.lua")),
    ("fast", include_str!("glue/fast.lua")),
    ("plain", include_str!("glue/hosts/plain.lua")),
    ("haproxy", include_str!("glue/hosts/haproxy.lua")),
    ("nginx_wait", include_str!("glue/hosts/nginx_wait.lua")),
    (
        "nginx_contexts",
        include_str!("glue/hosts/nginx_contexts.lua"),
    ),
    (
        "nginx_headers",
        include_str!("glue/hosts/nginx_headers.lua"),
    ),
    ("nginx", include_str!("glue/hosts/nginx.lua")),
    ("host", include_str!("glue/host.lua")),
    ("copies", include_str!("glue/copies.lua")),
    ("servers", include_str!("glue/servers.lua")),
    ("monitor", include_str!("glue/monitor.lua")),
    ("check", include_str!("glue/check.lua")),
    ("result", include_str!("glue/result.lua")),
    ("context", include_str!("glue/context.lua")),
    ("init", include_str!("glue/init.lua")),
    ("names", include_str!("glue/names.lua")),
];

/// Runs all parts and returns what they returned, by name.
pub(super) fn load(lua: &Lua, native: LuaTable) -> LuaResult<LuaTable> {
    let parts = lua.create_table()?;
    for (name, source) in PARTS {
        let part: LuaValue = lua
            .load(*source)
            .set_name(format!("=nauthilus_backend.{name}"))
            .set_mode(mlua::chunk::ChunkMode::Text)
            .call((&native, &parts))?;
        parts.raw_set(*name, part)?;
    }
    Ok(parts)
}
