-- How response headers are set in nginx: through `ngx.header`, and in LuaJIT from the bytes of a
-- report, without making strings of them.

local _, parts = ...
if not parts.nginx_wait then
  return nil
end

local find, pcall, tostring, type = string.find, pcall, tostring, type
local loaded = package.loaded
local ffi = parts.ffi.library
local header = loaded.ngx.header

local headers = {}

function headers.publish(name, value)
  -- `false` clears: nginx wants nil for that.
  header[name] = value or nil
end

-- What `ngx.header` calls itself. Whether this is the function known here is asked of its
-- declaration, which nginx's Lua library made: a table is neither a pointer nor a number, so it
-- is refused before anything is called, by the parameter's number and type; so is one too many.
local function find_setter()
  local set = ffi.C.ngx_http_lua_ffi_set_resp_header
  local taken, why = pcall(set, nil, "", 0, 0, nil, 0, nil, 0, 1, {})
  if taken or not find(tostring(why), "#10 .*'table' to 'char %*%*'") then
    return nil
  end
  taken, why = pcall(set, nil, "", 0, 0, nil, 0, nil, 0, 1, nil, {})
  if taken or not find(tostring(why), "wrong number of arguments", 1, true) then
    return nil
  end
  return set
end

local base = loaded["resty.core.base"]
if not ffi or not parts.fast or type(base) ~= "table" then
  return headers
end
local found, set_header = pcall(find_setter)
local get_request, get_problem = base.get_request, base.get_errmsg_ptr
if not found or not set_header or not get_request or not get_problem then
  return headers
end

local problem = get_problem()
local string_of = ffi.string
local NO_VALUES = 0
local OVERRIDE = 1
-- What it answers where it did so, or where nginx sets this header itself.
local DONE, DECLINED = 0, -5

-- Sets the header to the value of this length; a negative one clears it.
function headers.publish_bytes(name, name_length, value, length)
  local request = get_request()
  local clears = length < 0
  -- C would follow a null pointer.
  local done = request and set_header(
    request, name, name_length, clears, value, clears and 0 or length, nil, NO_VALUES, OVERRIDE, problem
  )
  if done ~= DONE and done ~= DECLINED then
    -- The other way says what is wrong.
    headers.publish(string_of(name, name_length), not clears and string_of(value, length))
  end
end

return headers
