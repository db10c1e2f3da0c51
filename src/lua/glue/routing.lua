-- route, explain_route and nodes: which server a user is assigned to. Also the functions for bindings of
-- users, which need a store.

local native, parts = ...
local errors, host, new_server = parts.errors, parts.host, parts.servers.new
local type = type
local native_route, native_explain = native.route, native.explain_route

local stored = parts.stored_routes

local routing = { api = {} }
local api = routing.api

-- The server objects returned so far, by the address that identifies their target. An object is made
-- again when its target has another IP address; all are when another configuration becomes active.
local objects, objects_epoch = {}, nil

local function check_arguments(name, user, filter)
  if type(user) ~= "string" then
    errors.wrong_type(1, name, "string", user, 1)
  end
  if filter ~= nil and type(filter) ~= "table" then
    errors.wrong_type(2, name, "table or nil", filter, 1)
  end
end
routing.check_arguments = check_arguments

-- Returns a server object, how it was chosen, and details; or nil and a reason.
function api.route(user, filter)
  check_arguments("route", user, filter)
  local may_probe = host.may_probe()
  local epoch, address, ip, node, pool, degraded = native_route(user, filter, may_probe, true)
  if not epoch then
    if epoch == false then
      local server, how, detail = stored.route(user, filter)
      return server, how, detail
    elseif ip then
      errors.bad_argument(2, "route", ip)
    end
    return nil, address
  end
  if epoch ~= objects_epoch then
    objects, objects_epoch = {}, epoch
  end
  local object = objects[address]
  if not object or object.ip ~= ip then
    local fields, _
    epoch, address, _, node, pool, degraded, fields = native_route(user, filter, may_probe, false)
    if not epoch then
      return nil, address
    end
    object = new_server(fields)
    if epoch == objects_epoch then
      objects[address] = object
    end
  end
  return object, "hash", { node = node, pool = pool, degraded = degraded }
end

function api.explain_route(user, filter)
  check_arguments("explain_route", user, filter)
  local explained, why, problem = native_explain(user, filter, host.may_probe())
  if problem then
    errors.bad_argument(2, "explain_route", problem)
  end
  if not explained then
    return nil, why
  end
  return explained
end

function api.nodes()
  return native.nodes(host.may_probe())
end

-- Bindings of users to servers are kept in a store; this version has none.
local function without_store()
  return nil, "no store"
end

api.touch_users = without_store
api.move_user = without_store
api.forget_user = without_store
api.hold_user = without_store
api.flush_node = without_store

return routing
