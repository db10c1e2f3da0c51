-- check_backend_connection with its three kinds of arguments, and start_check.

local native, parts = ...
local errors, host = parts.errors, parts.host
local fields_of = parts.servers.fields_of
local port_of, waiting = parts.engine.port_of, parts.waiting
local next, select, type = next, select, type
local check_start, check_start_at = native.check_start, native.check_start_at
local check_result = native.check_result

local function check_flag(index, name, value)
  if value ~= nil and type(value) ~= "boolean" then
    errors.wrong_type(index, name, "boolean or nil", value, 3)
  end
end

-- Checks the first four arguments; returns the port as a number.
local function check_arguments(name, ip, port, haproxy_v2, tls)
  if type(ip) ~= "string" then
    errors.wrong_type(1, name, "string", ip, 2)
  end
  local number = port_of(port)
  if not number then
    errors.wrong_value(2, name, "integer 1..65535", port, 2)
  end
  check_flag(3, name, haproxy_v2)
  check_flag(4, name, tls)
  return number
end

-- Options that are refused, since the arguments say the same.
local ADDRESS = { host = true, ip = true, ip_address = true, port = true }

-- Adds an argument to the options. One that is nil leaves the option as it is. If there is no option either, `tls` is
-- that of the configured server, and `haproxy_v2` is false.
local function add_flag(name, target, key, index, value)
  if value == nil then
    return
  end
  local option = target[key]
  if option ~= nil and option ~= value then
    errors.bad_argument(5, name, key .. ": contradicts argument #" .. index, 3)
  end
  target[key] = value
end

-- The table that describes a check, from the four arguments and the options.
local function from_arguments(name, options, ip, port, haproxy_v2, tls)
  if type(options) ~= "table" then
    errors.wrong_type(5, name, "table or nil", options, 2)
  end
  local target = {}
  -- Not a `for` over `next`: in a finaliser, LuaJIT's trace of such a loop never ends (see `fast.lua`).
  local key, value = next(options)
  while key ~= nil do
    if ADDRESS[key] then
      errors.bad_argument(5, name, key .. ": host and port are arguments of their own", 2)
    end
    target[key] = value
    key, value = next(options, key)
  end
  target.host, target.port = ip, port
  add_flag(name, target, "haproxy_v2", 3, haproxy_v2)
  -- The native refuses a `tls_mode` that contradicts this.
  add_flag(name, target, "tls", 4, tls)
  return target
end

-- The table that describes a check of a server object.
local function from_server(server)
  return {
    host = server.host,
    port = server.port,
    protocol = server.protocol,
    haproxy_v2 = server.haproxy_v2,
    tls_mode = server.tls_mode,
    tls_skip_verify = server.tls_skip_verify,
  }
end

-- The functions that start a check, from a table and from the four arguments. Both return a handle, or
-- nil and what is wrong.
local shared = { start = check_start, start_at = check_start_at }
-- The same for a check whose handle no script gets. The host's functions return nil alone where the host
-- cannot do it; then those of `shared` are used.
local own = host.own or shared

-- Starts a check with the functions of `ways` and returns its handle. `name` is the function of the API
-- that calls this with its own arguments.
local function begin(name, ways, first, port, haproxy_v2, tls, options)
  if not host.may_probe() then
    errors.raise(name, "this process starts no thread; check in one that it forks", 1)
  end
  local handle, problem, number
  local index, target = 1, first
  if type(first) == "userdata" and fields_of[first] then
    target = from_server(fields_of[first])
  elseif type(first) ~= "table" then
    index = 5
    number = check_arguments(name, first, port, haproxy_v2, tls)
    target = options ~= nil and from_arguments(name, options, first, number, haproxy_v2, tls)
  end
  repeat
    if target then
      handle, problem = ways.start(target)
    else
      handle, problem = ways.start_at(first, number, haproxy_v2, tls)
    end
    local last = ways == shared
    ways = shared
  until handle or problem or last
  if handle then
    return handle
  end
  local host_problem = index == 5 and native.host_problem(first)
  if host_problem then
    index, problem = 1, host_problem
  end
  errors.bad_argument(index, name, problem, 1)
end

-- Waits until a check whose handle no script has is done; returns the reason if it failed, or nil.
local function finish_own(name, handle)
  if own ~= shared and type(handle) == "number" then
    return own.finish(handle)
  end
  local function is_done()
    return (check_result(handle))
  end
  waiting.until_done(name, handle, is_done)
  local _, reason = check_result(handle)
  return reason
end

local new_check, methods, handle_of = waiting.class("check", function(handle)
  return (check_result(handle))
end)

-- The reason if the check failed; nil if it succeeded or is not done.
function methods:result()
  local _, reason = check_result(handle_of(self, "result"))
  return reason
end

-- What the TLS handshake showed; nil where there was none or the check is not done.
function methods:tls()
  return native.check_tls(handle_of(self, "tls"))
end

-- For scripts that call `check_backend_connection()` without arguments and then `check` of the result.
local checker = {
  check = function(target)
    if type(target) ~= "table" and type(target) ~= "userdata" then
      errors.wrong_type(1, "check", "table", target)
    end
    host.require_wait("check")
    local handle = begin("check", own, target)
    local reason = finish_own("check", handle)
    if reason then
      return nil, reason
    end
    return true, nil
  end,
}

local check = { api = {} }

function check.api.check_backend_connection(...)
  if select("#", ...) == 0 then
    return { check = checker.check }
  end
  host.require_wait("check_backend_connection")
  local handle = begin("check_backend_connection", own, ...)
  local reason = finish_own("check_backend_connection", handle)
  return reason
end

function check.api.start_check(...)
  local handle = begin("start_check", shared, ...)
  return new_check(handle)
end

return check
