-- How response headers are set in nginx: through `ngx.header`, and in LuaJIT by what that calls,
-- without making strings for it.

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

-- What `ngx.header` calls itself: the types of its parameters, as LuaJIT shows them.
local POINTER, TEXT, SIZE, INT, TEXTS = "%*'", "'const char %*'", "'uint%d+_t'", "'int'", "'char %*%*'"
local PARAMETERS = { POINTER, TEXT, SIZE, INT, TEXT, SIZE, POINTER, SIZE, INT, TEXTS }

-- Whether this is the function known here is asked of its declaration, which nginx's Lua library
-- made: a table is neither a pointer nor a number, so it is refused before anything is called, by
-- the parameter's number and type; so is one too many.
local function is_known(set)
  local function refused(wanted, ...)
    local taken, why = pcall(set, ...)
    return not taken and find(tostring(why), wanted)
  end
  for number = 1, #PARAMETERS do
    local arguments = { nil, "", 0, 0, nil, 0, nil, 0, 1, nil }
    arguments[number] = {}
    local wanted = format("#%d .*'table' to .*%s", number, PARAMETERS[number])
    if not refused(wanted, unpack(arguments, 1, #PARAMETERS)) then
      return false
    end
  end
  return refused("wrong number of arguments", nil, "", 0, 0, nil, 0, nil, 0, 1, nil, {})
end

local function find_setter()
  local set = ffi.C.ngx_http_lua_ffi_set_resp_header
  return is_known(set) and set
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
headers.get_request = get_request
headers.setter = ffi.new(native.fast.setter, ffi.cast("void *", set_header), problem)
-- For nobody to read: a pointer keeps nothing alive.
headers.anchor = problem

return headers
