-- set_target_state, set_node_weight and events, for operators.

local native, parts = ...
local errors = parts.errors
local find, next, type = string.find, next, type

local maintenance = { api = {} }
local api = maintenance.api

local STATES = { auto = true, drain = true, maintenance = true }
local OPTIONS = { reason = true, by = true, ["for"] = true }

-- A text option. Log and state file write it into one line, so it must have no line break, and its
-- length is limited.
local function text_of(name, options, key)
  local value = options[key]
  if value ~= nil and (type(value) ~= "string" or #value > 100 or find(value, "%c")) then
    errors.wrong_value(3, name, key .. ": text of at most 100 bytes without control characters", value, 2)
  end
  return value
end

-- Checks the options, the third argument of function `name`; returns reason, author and seconds.
local function read_options(name, options)
  if options == nil then
    return
  end
  if type(options) ~= "table" then
    errors.wrong_type(3, name, "table or nil", options, 1)
  end
  -- Not a `for` over `next`: in a finaliser, LuaJIT's trace of such a loop never ends (see `fast.lua`).
  local key = next(options)
  while key ~= nil do
    if not OPTIONS[key] then
      errors.wrong_value(3, name, "reason, by or for", key, 1)
    end
    key = next(options, key)
  end
  local seconds = options["for"]
  if type(seconds) == "string" then
    seconds = native.duration(seconds)
  end
  if options["for"] ~= nil and not (type(seconds) == "number" and seconds > 0 and seconds < 1e10) then
    errors.wrong_value(3, name, "for: duration above 0", options["for"], 1)
  end
  return text_of(name, options, "reason"), text_of(name, options, "by"), seconds
end

function api.set_target_state(what, state, options)
  if type(what) ~= "string" then
    errors.wrong_type(1, "set_target_state", "string", what)
  end
  if not STATES[state] then
    errors.wrong_value(2, "set_target_state", "auto, drain or maintenance", state)
  end
  local reason, by, seconds = read_options("set_target_state", options)
  local problem = native.set_state(what, state, reason, by, seconds)
  if problem then
    errors.bad_argument(1, "set_target_state", problem)
  end
end

function api.set_node_weight(node, weight, options)
  if type(node) ~= "string" then
    errors.wrong_type(1, "set_node_weight", "string", node)
  end
  if weight ~= nil and (type(weight) ~= "number" or weight < 0 or weight > 1000 or weight % 1 ~= 0) then
    errors.wrong_value(2, "set_node_weight", "integer 0..1000 or nil", weight)
  end
  local reason, by, seconds = read_options("set_node_weight", options)
  local problem = native.set_weight("node:" .. node, weight, reason, by, seconds)
  if problem then
    errors.bad_argument(1, "set_node_weight", problem)
  end
end

function api.events(since)
  if since ~= nil and (type(since) ~= "number" or since < 0 or since % 1 ~= 0) then
    errors.wrong_value(1, "events", "integer from 0 or nil", since)
  end
  local list, lost = native.events(since)
  if lost then
    return list, true
  end
  return list
end

return maintenance
