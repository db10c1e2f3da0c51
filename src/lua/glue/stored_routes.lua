-- Routes that wait for the store of bindings, and the objects of start_route.

local native, parts = ...
local errors, host, new_server = parts.errors, parts.host, parts.servers.new
local waiting, route_result = parts.waiting, native.route_result

local stored = { api = {} }

-- The values of `route` from those of a native: a server object, how it was chosen, and details; or nil and
-- a reason.
local function values(fields, how, detail)
  if not fields then
    return nil, how
  end
  return new_server(fields), how, detail
end

local function is_done(handle)
  local _, how = route_result(handle)
  return how ~= nil
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
  local function poll()
    return is_done(handle)
  end
  if waiting.until_done("route", handle, poll, timeout) then
    return values(route_result(handle))
  end
  return values(native.route_give_up(handle))
end

local new_route, methods, handle_of = waiting.class("route", is_done)

-- What `route` returns; nothing while it is not known.
function methods:result()
  local fields, how, detail = route_result(handle_of(self, "result"))
  if how then
    return values(fields, how, detail)
  end
end

-- Begins a route and does not wait. Without a store it is done at once.
function stored.api.start_route(user, filter)
  parts.routing.check_arguments("start_route", user, filter)
  local handle, why = begin("start_route", user, filter, 1)
  if not handle then
    return nil, why
  end
  return new_route(handle)
end

return stored
