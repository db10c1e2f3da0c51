-- The class nauthilus_backend_result: a method with an argument sets a field, without one it returns the
-- field, and an assignment calls the setter. An explicit nil is refused as a wrong argument, so that a
-- script that computed nil by mistake gets an error.

local native, parts = ...
local error, select, setmetatable, type = error, select, setmetatable, type
local format = string.format
local result_get, result_set = native.result_get, native.result_set
local nearest, result_fields = native.nearest, native.result_fields
local bad_argument, bad_self = parts.errors.bad_argument, parts.errors.bad_self
local show = parts.errors.show

-- With LuaJIT's FFI the common types are set without leaving compiled code.
local fast = parts.fast
if fast then
  local fast_set, slow_set = fast.set, result_set
  function result_set(self, number, value)
    if not fast_set(self, number, value) then
      return slow_set(self, number, value)
    end
  end
end

local CLASS = "nauthilus_backend_result"

local methods, numbers = {}, {}
-- The number of functions between a method and the script, for the position of errors.
local up = fast and 0 or 1

for number = 1, #result_fields do
  local name = result_fields[number]
  numbers[name] = number

  local function method(self, ...)
    local value = ...
    if value == nil and select("#", ...) == 0 then
      local content, bad = result_get(self, number)
      if bad then
        bad_self(name, CLASS, self, up)
      end
      return content
    end
    local why, bad = result_set(self, number, value)
    if bad then
      bad_self(name, CLASS, self, up)
    elseif why then
      bad_argument(1, name, why, up)
    end
  end

  methods[name] = fast and method or native.plainly.result_method(method, number)
end

-- The field that most scripts set has a function of its own: a trace through it knows the field, unlike
-- one through the function that all fields share.
if fast then
  local set_attributes, method = fast.set_attributes, methods.attributes
  function methods.attributes(self, ...)
    if set_attributes(self, (...)) then
      return nil
    end
    -- A tail call replaces this function's level, so that errors have the position of the script.
    return method(self, ...)
  end
end

-- Level 3 is the script: its expression calls a metamethod, which calls this.
local function unknown(what, key)
  local known = type(key) == "string" and nearest(key, result_fields)
  local hint = known and format("; did you mean '%s'?", known) or ""
  error(format("%s has no %s %s%s", CLASS, what, show(key), hint), 3)
end

setmetatable(methods, {
  __index = function(_, key)
    unknown("field or method", key)
  end,
})

-- Scripts for Nauthilus assign to these names; they are aliases of the fields.
numbers.unique_user_id = numbers.unique_user_id_field
numbers.display_name = numbers.display_name_field

local metatable = native.result_metatable
metatable.__index = methods
metatable.__name = CLASS
metatable.__metatable = false

function metatable.__newindex(self, key, value)
  local number = numbers[key]
  if not number then
    unknown("field", key)
  end
  local why = result_set(self, number, value)
  if why then
    error(format("bad value for field '%s' (%s)", key, why), 2)
  end
end

function metatable.__tostring()
  return CLASS
end

-- `new` ignores its arguments, since scripts call it both as .new() and as :new().
local class = setmetatable({ new = fast and fast.new_result or native.result_new }, {
  __index = function(_, key)
    error(format("%s has no function %s; there is 'new'", CLASS, show(key)), 2)
  end,
})

return { class = class, name = CLASS }
