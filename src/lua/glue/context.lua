-- The functions that select a server, apply a result and remove attributes for a request, and the class
-- of the request context.

local native, parts = ...
local error, setmetatable, type = error, setmetatable, type
local format = string.format
local errors, host, result_class = parts.errors, parts.host, parts.result.name
local bad_argument, bad_self, show = errors.bad_argument, errors.bad_self, errors.show
local wrong_type, wrong_value = errors.wrong_type, errors.wrong_value
local current_context, keep_context = host.current_context, host.keep_context
local context_select, port_of = native.context_select, parts.engine.port_of
local context_apply, context_remove = native.context_apply, native.context_remove
local context_changes, is_context = native.context_changes, native.is_context
local context_set_base, context_selected = native.context_set_base, native.context_selected
local context_result, context_removed = native.context_result, native.context_removed
local context_header_list = native.context_header_list

local api = {}
local shared = host.shared or {}

-- Passes the changed headers to `publish`, for hosts that set response headers at once. The table is not
-- reused for other calls: filling it may run finalisers, which may call this function.
local function report(context, publish)
  local changes = {}
  for index = 1, context_changes(context, changes), 2 do
    publish(changes[index], changes[index + 1])
  end
end

-- Each function has one way for common arguments, and the natives below for the rest, which also word the
-- errors. With LuaJIT's FFI that way is the adapter's function, which stays in compiled code. Without it each
-- function of the API is itself a native, which calls the function here for the rest. `up` counts that
-- native between the function and the script, for the position of errors.
local fast = parts.fast
local select_at_once, apply_at_once = host.select_at_once, host.apply_at_once
local remove_at_once = host.remove_at_once
local is_native = not fast and host.shared ~= nil
local up = is_native and 1 or 0

local function offer(name, kind, fn)
  api[name] = is_native and native.plainly[kind](fn, host.shared) or fn
end

offer("select_backend_server", "select", function(ip, port)
  if type(ip) ~= "string" then
    wrong_type(1, "select_backend_server", "string", ip, up)
  end
  local number = port_of(port)
  if not number then
    wrong_value(2, "select_backend_server", "integer 1..65535", port, up)
  end
  if select_at_once and select_at_once(ip, number) then
    return
  end
  local context, publish = current_context("select_backend_server")
  local why = context_select(context, ip, number)
  if why then
    bad_argument(1, "select_backend_server", why .. ", got " .. show(ip), up)
  end
  if publish then
    report(context, publish)
  end
end)

offer("apply_backend_result", "apply", function(result)
  if apply_at_once and apply_at_once(result) then
    return
  end
  local context, publish = current_context("apply_backend_result")
  local why = context_apply(context, result)
  if why == false then
    wrong_type(1, "apply_backend_result", result_class, result, up)
  elseif why then
    bad_argument(1, "apply_backend_result", why, up)
  end
  if publish then
    report(context, publish)
  end
end)

offer("remove_from_backend_result", "remove", function(names)
  if remove_at_once and remove_at_once(names) then
    return
  end
  local context, publish = current_context("remove_from_backend_result")
  local why = context_remove(context, names)
  if why then
    bad_argument(1, "remove_from_backend_result", why, up)
  end
  if publish then
    report(context, publish)
  end
end)

function api.get_current_backend_result()
  return (context_result(shared[1] or current_context()))
end

function api.get_selected_backend_server()
  local ip, port = context_selected(shared[1] or current_context())
  return ip, port
end

function api.get_removed_backend_attributes()
  return (context_removed(shared[1] or current_context()))
end

function api.context()
  local context = shared[1] or current_context(nil, true)
  return keep_context and keep_context(context) or context
end

api.new_context = fast and fast.new_context or native.context_new

function api.with_context(context, fn, ...)
  if not is_context(context) then
    wrong_type(1, "with_context", "request context", context)
  elseif type(fn) ~= "function" then
    wrong_type(2, "with_context", "function", fn)
  end
  return host.with_context(context, fn, ...)
end

-- The class of the request context.

local CLASS = "request context"
local methods = {}

-- A method without arguments. The native returns nil, true if `self` is no context.
local function getter(name)
  local get = native["context_" .. name]
  methods[name] = function(self)
    local value, bad = get(self)
    if bad then
      bad_self(name, CLASS, self)
    end
    return value
  end
end

getter("attributes")
getter("groups")
getter("removed")
getter("headers")
getter("reset")

function methods.selected(self)
  local ip, port = context_selected(self)
  if port == true then
    bad_self("selected", CLASS, self)
  end
  return ip, port
end

function methods.set_base(self, result)
  local why, bad = context_set_base(self, result)
  if bad then
    bad_self("set_base", CLASS, self)
  elseif why == false then
    wrong_type(1, "set_base", result_class, result)
  elseif why then
    bad_argument(1, "set_base", why)
  end
end

-- Iterates over a copy of the headers, so that the loop may change the context.
function methods.each_header(self)
  local list, bad = context_header_list(self)
  if bad then
    bad_self("each_header", CLASS, self)
  end
  local index = -1
  return function()
    index = index + 2
    return list[index], list[index + 1]
  end
end

local names = {
  "set_base", "attributes", "groups", "selected", "removed", "headers", "each_header", "reset",
}

setmetatable(methods, {
  __index = function(_, key)
    local known = type(key) == "string" and native.nearest(key, names)
    local hint = known and format("; did you mean '%s'?", known) or ""
    error(format("%s has no method %s%s", CLASS, show(key), hint), 2)
  end,
})

local metatable = native.context_metatable
metatable.__index = methods
metatable.__name = "nauthilus_backend_context"
metatable.__metatable = false

function metatable.__newindex(_, key)
  error(format("%s has no field %s to set", CLASS, show(key)), 2)
end

function metatable.__tostring()
  return metatable.__name
end

return { api = api, report = report }
