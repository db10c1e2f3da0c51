-- route, explain_route and nodes: which server a user is assigned to.
--
-- The part of a route that is the same for all users is prepared once for each filter, as a handle.
-- `native.route` refuses a handle with STALE once something has changed. The handles are found again by the
-- content of the filter, since a script may make a new table for each call, or change one.

local native, parts = ...
local errors, host, new_server = parts.errors, parts.host, parts.servers.new
local next, type = next, type
local native_route, native_explain = native.route, native.explain_route
local prepare_routes, route_server = native.prepare_routes, native.route_server
local STALE, STORED = native.STALE_ROUTES, native.STORED_ROUTES

-- Why there is no server, by the number that `native.route` returns.
local reasons = {}
for index, reason in next, native.route_reasons do
  reasons[STORED - index] = reason
end

local stored = parts.stored_routes

local routing = { api = {} }
local api = routing.api

-- The prepared routes by the content of their filter: a branch for each key, in it one for each value,
-- and so on in the order of `next`. At a branch's index LEAF are the routes for the filter that ends there.
-- A handle keeps its configuration in memory: the number of leaves is bounded, and a new configuration
-- drops them all.
local LEAF, LIST = {}, {}
local MOST_LEAVES = 256

-- What holds for one configuration; when another one becomes active, one store replaces all of it. `root` is the
-- branch of no filter, `leaves` how many leaves there are. `objects`: the server objects returned so far, by the index
-- of their target. If a finaliser, hook or other coroutine calls `route` in the middle of another call, a branch or
-- object may be lost, which is then made again, or one leaf may not be counted.
local prepared = { root = {}, leaves = 0, objects = {}, epoch = nil }

-- The branch of the items of a list; nil if there is none.
local function branch_of_list(branch, list)
  branch = branch[LIST]
  local index, value = next(list)
  while index ~= nil do
    branch = branch and branch[index]
    branch = branch and branch[value]
    if not branch then
      return nil
    end
    index, value = next(list, index)
  end
  return branch
end

local function branch_of(branch, key, value)
  branch = branch[key]
  if not branch then
    return nil
  elseif type(value) == "table" then
    return branch_of_list(branch, value)
  end
  return branch[value]
end

-- The branch of a filter; nil if there is none. The first two keys without a loop: LuaJIT does not compile
-- a trace through an inner loop of few iterations.
local function find(filter)
  local root = prepared.root
  local key, value = next(filter)
  if key == nil then
    return root
  end
  local branch = branch_of(root, key, value)
  key, value = next(filter, key)
  if key == nil or not branch then
    return branch
  end
  branch = branch_of(branch, key, value)
  key, value = next(filter, key)
  while key ~= nil and branch do
    branch = branch_of(branch, key, value)
    key, value = next(filter, key)
  end
  return branch
end

local function grown(branch, index)
  local further = branch[index]
  if not further then
    further = {}
    branch[index] = further
  end
  return further
end

-- The branch of a filter under `branch`, made if it is missing. Only for a filter that `prepare_routes` has accepted:
-- its keys are strings, and only the value of `pool` may be a table.
local function grow(branch, filter)
  local key, value = next(filter)
  while key ~= nil do
    branch = grown(branch, key)
    if type(value) == "table" then
      branch = grown(branch, LIST)
      local index, item = next(value)
      while index ~= nil do
        branch = grown(grown(branch, index), item)
        index, item = next(value, index)
      end
    else
      branch = grown(branch, value)
    end
    key, value = next(filter, key)
  end
  return branch
end

local function check_arguments(name, user, filter)
  if type(user) ~= "string" then
    errors.wrong_type(1, name, "string", user, 1)
  end
  if filter ~= nil and type(filter) ~= "table" then
    errors.wrong_type(2, name, "table or nil", filter, 1)
  end
end
routing.check_arguments = check_arguments

-- Prepares the routes for a filter; nil and why there are none. `up`: see `errors`.
local function prepare(filter, up)
  local handle, now, is_degraded = prepare_routes(filter, host.may_probe())
  if not handle then
    if is_degraded then
      errors.bad_argument(2, "route", is_degraded, up)
    end
    return nil, now
  end
  local kept = prepared
  -- Epoch 0 identifies no configuration.
  if now ~= kept.epoch or now == 0 or kept.leaves >= MOST_LEAVES then
    kept = { root = {}, leaves = 0, objects = {}, epoch = now }
    prepared = kept
  end
  local routes = { handle = handle, degraded = is_degraded, objects = kept.objects, servers = {} }
  local branch = grow(kept.root, filter or {})
  if not branch[LEAF] then
    kept.leaves = kept.leaves + 1
  end
  branch[LEAF] = routes
  return routes
end

-- Whether two server objects show the same. Not a `for` over `next`: in a finaliser, LuaJIT's trace of such a loop
-- never ends (see `fast.lua`).
local function shows_same(fields, others)
  local name, value = next(fields)
  while name ~= nil do
    if others[name] ~= value then
      return false
    end
    name, value = next(fields, name)
  end
  return true
end

-- Adds the server object of a target to the routes; an existing object with the same fields is used again.
local function add_server(routes, target)
  local fields = route_server(routes.handle, target)
  local known = routes.objects[target]
  if not known or not shows_same(fields, known.fields) then
    known = { object = new_server(fields), fields = fields, node = fields.node, pool = fields.pool }
    routes.objects[target] = known
  end
  routes.servers[target] = known
  return known
end

-- `route` for a handle that is missing or stale. The new handle is used even if something changes after it
-- was made: its answer was right at some time during the call.
local function route_anew(user, filter)
  local routes, why = prepare(filter, 2)
  if not routes then
    return nil, why
  end
  return routes, native_route(routes.handle, user, true)
end

local call_route = native_route
local ffi, fast = parts.ffi.library, parts.fast
if ffi and fast then
  call_route = fast.route
end

-- Returns a server object, how it was chosen, and details; or nil and a reason.
function api.route(user, filter)
  if type(user) ~= "string" or (filter ~= nil and type(filter) ~= "table") then
    check_arguments("route", user, filter)
  end
  local branch = prepared.root
  if filter then
    branch = find(filter)
  end
  local routes = branch and branch[LEAF]
  local target = routes and call_route(routes.handle, user) or STALE
  if target == STALE then
    routes, target = route_anew(user, filter)
    if not routes then
      return nil, target
    end
  end
  if target < 0 then
    if target == STORED then
      local object, how, detail = stored.route(user, filter)
      return object, how, detail
    end
    return nil, reasons[target]
  end
  local server = routes.servers[target] or add_server(routes, target)
  return server.object, "hash", { node = server.node, pool = server.pool, degraded = routes.degraded }
end

function api.explain_route(user, filter)
  check_arguments("explain_route", user, filter)
  local explained, why, problem = native_explain(user, filter, host.may_probe())
  if explained == false then
    host.require_wait("explain_route")
    local handle, longest = native.explain_begin(user, filter, host.may_probe())
    if not handle then
      return nil, longest
    end
    local known
    known, why = parts.bindings.wait_for("explain_route", handle, longest, function(begun)
      return native.explain_result(user, filter, host.may_probe(), begun)
    end)
    return known, why
  elseif problem then
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

return routing
