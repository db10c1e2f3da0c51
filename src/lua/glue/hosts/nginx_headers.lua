-- Sets response headers in nginx: through `ngx.header`, and with LuaJIT by calling the C function behind
-- it directly, which needs no Lua strings.

local native, parts = ...
if not parts.nginx_wait then
  return nil
end

local find, format, pcall, tostring, type = string.find, string.format, pcall, tostring, type
local unpack = rawget(_G, "unpack")
local loaded = package.loaded
local ffi = parts.ffi.library
local header = loaded.ngx.header

local headers = {}

function headers.publish(name, value)
  -- `false` clears: nginx wants nil for that.
  header[name] = value or nil
end

-- Patterns for the parameter types, as LuaJIT's errors show them, of the C functions that `ngx.header`,
-- `ngx.headers_sent` and `ngx.get_phase` call.
local POINTER, TEXT, SIZE, INT, TEXTS = "%*'", "'const char %*'", "'uint%d+_t'", "'int'", "'char %*%*'"
local SET_HEADER = { POINTER, TEXT, SIZE, INT, TEXT, SIZE, POINTER, SIZE, INT, TEXTS }
local HEADERS_SENT, GET_PHASE = { POINTER }, { POINTER, TEXTS }
-- A value of each type, which the FFI accepts; false stands for nil.
local VALUES = { [POINTER] = false, [TEXT] = "", [SIZE] = 0, [INT] = 0, [TEXTS] = false }

-- Whether the declaration that nginx's Lua library made of `fn` has these parameters. The FFI refuses a
-- table for each parameter before it calls anything, and its error names number and type of the
-- parameter. One argument too many is refused as well, which confirms the number of parameters.
local function is_known(fn, parameters)
  local count = #parameters
  local function refused(wanted, arguments, given)
    local taken, why = pcall(fn, unpack(arguments, 1, given))
    return not taken and find(tostring(why), wanted)
  end
  local function plain()
    local arguments = {}
    for number = 1, count do
      arguments[number] = VALUES[parameters[number]] or nil
    end
    return arguments
  end
  for number = 1, count do
    local arguments = plain()
    arguments[number] = {}
    local wanted = format("#%d .*'table' to .*%s", number, parameters[number])
    if not refused(wanted, arguments, count) then
      return false
    end
  end
  local arguments = plain()
  arguments[count + 1] = {}
  return refused("wrong number of arguments", arguments, count + 1)
end

local function known(name, parameters)
  local fn = ffi.C[name]
  return is_known(fn, parameters) and ffi.cast("void *", fn)
end

local base = loaded["resty.core.base"]
if not ffi or not parts.fast or type(base) ~= "table" then
  return headers
end
local found, set_header = pcall(known, "ngx_http_lua_ffi_set_resp_header", SET_HEADER)
local get_request, get_problem = base.get_request, base.get_errmsg_ptr
if not found or not set_header or not get_request or not get_problem then
  return headers
end

local problem = get_problem()
headers.get_request = get_request
local tells, headers_sent = pcall(known, "ngx_http_lua_ffi_headers_sent", HEADERS_SENT)
local tells_phase, phase = pcall(known, "ngx_http_lua_ffi_get_phase", GET_PHASE)
local requests = native.nginx_requests and native.nginx_requests.requests
local setter = ffi.new(native.fast.setter, requests, set_header, problem,
  tells and headers_sent or nil, tells_phase and phase or nil)
-- As a pointer: LuaJIT embeds the value of a pointer in a trace, but not the address of a struct of more
-- than 16 bytes.
headers.setter = ffi.cast("void *", setter)
-- Keeps both alive: a pointer of the FFI does not.
headers.anchor = { problem, setter }

return headers
