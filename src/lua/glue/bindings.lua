-- Functions that change users' bindings in the store, for operators and for hosts with live sessions.

local native, parts = ...
local errors, host = parts.errors, parts.host
local find, next, type = string.find, next, type
local store_result, until_done = native.store_result, parts.waiting.until_done

local bindings = { api = {} }
local api = bindings.api

local UNAVAILABLE = "store unavailable"

-- Waits for a call of the store that was begun. Returns what `result` returns, or nil and a reason.
local function wait_for(name, handle, longest, result)
  local first, second
  local function poll()
    first, second = result(handle)
    return first ~= nil or second ~= nil
  end
  if until_done(name, handle, poll, longest) then
    return first, second
  end
  return nil, UNAVAILABLE
end
bindings.wait_for = wait_for

local function finish(name, handle, longest)
  if not handle then
    return nil, longest
  end
  return wait_for(name, handle, longest, store_result)
end

-- Functions of the API call the functions below, so errors that these raise have an `up` of 1: see `errors`.

local function check_text(index, name, value)
  if type(value) ~= "string" then
    errors.wrong_type(index, name, "string", value, 1)
  end
end

-- A text option. Events and the store keep it, so its length is limited; a control character could forge
-- a line of the log.
local function text_of(index, name, options, key)
  local value = options[key]
  if value ~= nil and (type(value) ~= "string" or #value > 100 or find(value, "%c")) then
    errors.wrong_value(index, name, key .. ": text of at most 100 bytes without control characters", value, 2)
  end
  return value
end

-- Checks the table of options, which is argument `index` of the API's function `name`. Its keys are
-- `reason`, `by`, and `known` (nil: no third key). Returns the three values.
local function read_options(index, name, options, known)
  if options == nil then
    return
  end
  if type(options) ~= "table" then
    errors.wrong_type(index, name, "table or nil", options, 1)
  end
  -- Not a `for` over `next`: in a finaliser, LuaJIT's trace of such a loop never ends (see `fast.lua`).
  local key = next(options)
  while key ~= nil do
    if key ~= "reason" and key ~= "by" and (key ~= known or known == nil) then
      errors.wrong_value(index, name, known and "reason, by or " .. known or "reason or by", key, 1)
    end
    key = next(options, key)
  end
  return text_of(index, name, options, "reason"), text_of(index, name, options, "by"), known and options[known]
end

-- Renews the bindings of users with live sessions on a node. Returns how many are bound to it.
function api.touch_users(users, node)
  if type(users) ~= "table" then
    errors.wrong_type(1, "touch_users", "array of strings", users)
  end
  -- A copy: the native takes no table with other keys than 1..n, such as one of `table.pack`.
  local names = {}
  for index = 1, #users do
    local name = users[index]
    if type(name) ~= "string" then
      errors.bad_argument(1, "touch_users", "string expected at index " .. index .. ", got " .. type(name))
    end
    names[index] = name
  end
  check_text(2, "touch_users", node)
  host.require_wait("touch_users")
  local count, why = finish("touch_users", native.store_touch(host.may_probe(), names, node))
  return count, why
end

-- Binds a user to a node. Returns true and the binding.
function api.move_user(user, node, options)
  check_text(1, "move_user", user)
  check_text(2, "move_user", node)
  local reason, by, keep = read_options(3, "move_user", options, "keep")
  if keep ~= nil and type(keep) ~= "boolean" then
    errors.wrong_value(3, "move_user", "keep: boolean", keep)
  end
  host.require_wait("move_user")
  local done, detail = finish("move_user",
    native.store_move(host.may_probe(), user, reason, by, node, keep or false))
  return done, detail
end

-- Unbinds a user. Returns true, and what is known of the user now.
function api.forget_user(user, options)
  check_text(1, "forget_user", user)
  local reason, by = read_options(2, "forget_user", options)
  host.require_wait("forget_user")
  local done, detail = finish("forget_user", native.store_forget(host.may_probe(), user, reason, by))
  return done, detail
end

-- Gives a user no server for some time; 0 ends that. Returns true, and what is known of the user now.
function api.hold_user(user, duration, options)
  check_text(1, "hold_user", user)
  local seconds = duration
  if type(seconds) == "string" then
    seconds = native.duration(seconds)
  end
  if not (type(seconds) == "number" and seconds >= 0 and seconds < 1e9) then
    errors.wrong_value(2, "hold_user", "duration from 0", duration)
  end
  local reason, by = read_options(3, "hold_user", options)
  host.require_wait("hold_user")
  local done, detail = finish("hold_user", native.store_hold(host.may_probe(), user, reason, by, seconds))
  return done, detail
end

-- Begins to release the bindings of a node, or without one those that differ from rendezvous hashing. Returns
-- true once it has begun; it goes on in this process.
function api.flush_node(node, options)
  if node ~= nil then
    check_text(1, "flush_node", node)
  end
  local reason, by, rate = read_options(2, "flush_node", options, "rate")
  if rate == nil then
    rate = 100
  elseif type(rate) ~= "number" or rate < 1 or rate > 1e6 or rate % 1 ~= 0 then
    errors.wrong_value(2, "flush_node", "rate: integer 1..1000000", rate)
  end
  host.require_wait("flush_node")
  local done, why = finish("flush_node", native.store_flush(host.may_probe(), node, reason, by, rate))
  return done, why
end

return bindings
