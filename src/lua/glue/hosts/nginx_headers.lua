-- Sets response headers in nginx: through `ngx.header`, and with LuaJIT by the C function behind it, which
-- needs no Lua strings.

local native, parts = ...
if not parts.nginx_wait then
  return nil
end

local type = type
local loaded = parts.globals.loaded
local ngx = loaded.ngx
local header = ngx.header

local headers = {}

function headers.publish(name, value)
  -- `false` clears: nginx wants nil for that.
  header[name] = value or nil
end

local base, ffi = loaded["resty.core.base"], parts.ffi.library
local setter, version = native.nginx_setter, ngx.config.ngx_lua_version
if not setter or not parts.fast or type(base) ~= "table" or not base.get_request then
  return headers
end
-- Another version may declare the C functions differently: see `nginx/response.rs`.
if type(version) ~= "number" or version < setter.FIRST_VERSION or version > setter.LAST_VERSION then
  return headers
end
-- A pointer: LuaJIT embeds its value in a trace.
local address = ffi.cast("void *", setter.address)
if address ~= nil then
  headers.get_request, headers.setter = base.get_request, address
end

return headers
