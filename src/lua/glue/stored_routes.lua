-- Routes that wait for the store of bindings, and the objects of start_route.

local native, parts = ...
local errors, host, new_server = parts.errors, parts.host, parts.servers.new
local setmetatable, type = setmetatable, type
local route_result, check_wait = native.route_result, native.check_wait

local stored = { api = {} }

-- The values of `route` from those of a native: a server object, how it was chosen, and details; or nil and
-- a reason.
local function values(fields, how, detail)
  if not fields then
    return nil, how
  end
  return new_server(fields), how, detail
end

-- Waits until a route is done, at most `timeout` seconds. Returns the native's values, or nothing.
local function finish(name, handle, timeout)
  local fields, how, detail
  local function poll()
    fields, how, detail = route_result(handle)
    return how ~= nil
  end
  local function block(seconds)
    check_wait(handle, seconds)
    return poll()
  end
  if not poll() then
    host.await(name, poll, block, timeout, handle)
  end
  return fields, how, detail
end

-- Begins a route; raises where the filter is wrong. `up` is the number of functions between this one and
-- the API's function `name`.
local function begin(name, user, filter, up)
  local handle, timeout, problem = native.route_begin(user, filter, host.may_probe())
  if problem then
    errors.bad_argument(2, name, problem, up)
  end
  return handle, timeout
end

-- What `route` returns where there is a store. It waits no longer than the store's timeout, whatever the
-- engine does.
function stored.route(user, filter)
  host.require_wait("route", 1)
  local handle, timeout = begin("route", user, filter, 2)
  if not handle then
    return nil, timeout
  end
  local fields, how, detail = finish("route", handle, timeout)
  if not how then
    fields, how, detail = native.route_give_up(handle)
  end
  return values(fields, how, detail)
end

local methods = {}
local class = { __index = methods, __name = "route", __metatable = false }

local function handle_of(route, name)
  local handle = type(route) == "table" and route.handle
  if not handle then
    errors.bad_self(name, "route", route, 1)
  end
  return handle
end

function methods:done()
  local _, how = route_result(handle_of(self, "done"))
  return how ~= nil
end

-- What `route` returns; nothing while it is not known.
function methods:result()
  local fields, how, detail = route_result(handle_of(self, "result"))
  if how then
    return values(fields, how, detail)
  end
end

function methods:fd()
  return native.check_fd(handle_of(self, "fd"))
end

function methods:wait(timeout)
  local handle = handle_of(self, "wait")
  parts.monitor.check_timeout(1, "wait", timeout)
  local _, how = route_result(handle)
  if not how then
    host.require_wait("wait")
    _, how = finish("wait", handle, timeout)
  end
  if how then
    return true
  end
  return nil, "timeout"
end

function methods:cancel()
  native.check_cancel(handle_of(self, "cancel"))
end

-- Begins a route and does not wait. Without a store it is done at once.
function stored.api.start_route(user, filter)
  parts.routing.check_arguments("start_route", user, filter)
  local handle, why = begin("start_route", user, filter, 1)
  if not handle then
    return nil, why
  end
  return setmetatable({ handle = handle }, class)
end

return stored
