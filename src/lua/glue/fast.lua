-- The request path through LuaJIT's FFI (see `fast.rs`). A call of Lua's C API would end the trace; this
-- way LuaJIT compiles the calls together with the script around them. The rows of `make bench` that need it:
-- "whole request sequence, LuaJIT" and "access phase in nginx". The functions handle the common
-- argument types and return whether they did; false leaves the call to the natives, which also return
-- the error texts.
--
-- A garbage collection runs finalisers, which may call any function here; a hook may do so between any two
-- instructions. So no code relies on shared state staying the same: see "Interruptions" in `docs/architecture.md`.
-- No loop that runs after loading uses `for ... in next` or `pairs`. Once LuaJIT has compiled such a loop
-- on its own, the end of the loop exits the trace at the instruction that enters the loop again, until a
-- side trace is recorded. In a finaliser nothing is recorded, so the loop would never end.

local native, parts = ...
local next, type, new_table = next, type, parts.ffi.new_table
local ffi, fast, debug = parts.ffi.library, native.fast, parts.globals.loaded.debug
if not ffi or not fast or type(debug) ~= "table" or type(debug.getmetatable) ~= "function" then
  return nil
end

local getmetatable = debug.getmetatable
local result_metatable = native.result_metatable
local fill_results, fill_contexts = fast.fill_results, fast.fill_contexts

-- The number of the field that is a table of attributes.
local ATTRIBUTES
for number, name in next, native.result_fields do
  if name == "attributes" then
    ATTRIBUTES = number
  end
end

local function entry(name, signature)
  return ffi.cast(signature, fast[name])
end

-- The FFI passes a userdata as the address of its block, and a string as the address of its bytes.
local set_flag = entry("set_flag", "int (*)(void *, int, bool)")
local set_text = entry("set_text", "int (*)(void *, int, const char *, size_t)")
local stage = entry("stage", "int (*)(void)")
local add_text = entry("add_text", "int (*)(int, const char *, size_t, const char *, size_t)")
local add_number = entry("add_number", "int (*)(int, const char *, size_t, double)")
local add_flag = entry("add_flag", "int (*)(int, const char *, size_t, bool)")
local add_name = entry("add_name", "int (*)(int, const char *, size_t)")
local set_attribute = entry("set_attribute", "int (*)(void *, const char *, size_t, const char *, size_t)")
local set_attributes = entry("set_attributes", "int (*)(int, void *)")
local select_server = entry("select", "int (*)(void *, void *, void *, const char *, size_t, int)")
local apply_result = entry("apply", "int (*)(void *, void *, void *, void *)")
local remove_names = entry("remove", "int (*)(void *, void *, void *, int)")
local route_user = entry("route", "int (*)(void *, const char *, size_t)")

-- All light userdata share one metatable, which a script can set to that of results. `light` is one of them:
-- then none is taken for a result here, since the FFI would pass it as the address of a block. LuaJIT compiles
-- the metatable of a light userdata as a constant.
local light = fast.apply

local function is_result(value)
  return type(value) == "userdata" and getmetatable(value) == result_metatable
    and getmetatable(light) ~= result_metatable
end

local api = {}

-- Making a userdata takes a call of the C API, which ends the trace. So several are made in one call, each
-- time twice as many, up to this limit. The limit bounds memory: the contents of userdata made together are
-- freed together, once none of them is reachable. The rows that need this are those named at the head of
-- this file.
local MOST_SPARE = 64

-- A counter of the objects that are left in an array.
local counter = ffi.typeof("int[1]")
local take = entry("take", "int (*)(int *)")

-- Returns a function that returns a new object. No two calls return the same one, even if one runs in the middle of the
-- other: each gets its index from C, and array and counter are replaced by one store.
local function maker(fill, make_one)
  local spare = { left = counter(0) }
  -- The number of objects to make next. A call that runs in between can at most keep it from growing.
  local size = 1
  return function()
    local from = spare
    local index = take(from.left)
    local object = from[index]
    if object then
      from[index] = nil
      return object
    end
    local count = size
    local made = new_table(count, 1)
    fill(made, count)
    if count < MOST_SPARE then
      size = count * 2
    end
    object = made[count]
    made[count] = nil
    made.left = counter(count - 1)
    spare = made
    return object or make_one()
  end
end

api.new_result = maker(fill_results, native.result_new)
api.new_context = maker(fill_contexts, native.context_new)

-- Results.

-- Stages one attribute; false for a type that is not handled here. What stays staged after a false is
-- dropped by the next `stage`.
local function add_pair(staged, name, value)
  if type(name) ~= "string" then
    return false
  end
  local kind = type(value)
  if kind == "string" then
    return add_text(staged, name, #name, value, #value) == 0
  elseif kind == "number" then
    return add_number(staged, name, #name, value) == 0
  end
  return kind == "boolean" and add_flag(staged, name, #name, value) == 0
end

-- The first three attributes are added without a loop: LuaJIT does not compile a trace through an inner
-- loop of few iterations. Row: "whole request sequence, LuaJIT", which has two attributes.
local function add_all(staged, attributes)
  local name, value = next(attributes)
  if name == nil then
    return true
  elseif not add_pair(staged, name, value) then
    return false
  end
  name, value = next(attributes, name)
  if name == nil then
    return true
  elseif not add_pair(staged, name, value) then
    return false
  end
  name, value = next(attributes, name)
  if name == nil then
    return true
  elseif not add_pair(staged, name, value) then
    return false
  end
  name, value = next(attributes, name)
  while name ~= nil do
    if not add_pair(staged, name, value) then
      return false
    end
    name, value = next(attributes, name)
  end
  return true
end

-- Most tables have one string, which needs no staging. Row: "access phase in nginx".
local function set_table(result, attributes)
  local name, value = next(attributes)
  if type(name) == "string" and type(value) == "string" and next(attributes, name) == nil then
    return set_attribute(result, name, #name, value, #value) == 0
  end
  local staged = stage()
  return add_all(staged, attributes) and set_attributes(staged, result) == 0
end

-- Sets the attributes.
function api.set_attributes(result, value)
  return type(value) == "table" and is_result(result) and set_table(result, value)
end

-- Sets the field with this number.
function api.set(result, number, value)
  if not is_result(result) then
    return false
  end
  local kind = type(value)
  if kind == "table" then
    return number == ATTRIBUTES and set_table(result, value)
  elseif kind == "string" then
    return set_text(result, number, value, #value) == 0
  elseif kind == "boolean" then
    return set_flag(result, number, value) == 0
  end
  return false
end

-- Request contexts. Host adapters call these with a setter (see `nginx/setter.rs`) and nginx's current
-- request, or with nil for both and the context that they keep. They return whether the call was done; if
-- not, it can be done again by the native.

function api.select(context, setter, request, ip, port)
  return select_server(context, setter, request, ip, #ip, port) == 0
end

function api.apply(context, setter, request, result)
  return is_result(result) and apply_result(context, setter, request, result) == 0
end

-- Stages an array of strings; false unless `next` gives the keys 1..n in order. An array that was filled
-- in another order is left to the native.
local function add_names(staged, names)
  local count = 1
  local index, name = next(names)
  while index ~= nil do
    if index ~= count or type(name) ~= "string" or add_name(staged, name, #name) ~= 0 then
      return false
    end
    index, name = next(names, index)
    count = count + 1
  end
  return true
end

function api.remove(context, setter, request, names)
  if type(names) ~= "table" then
    return false
  end
  local staged = stage()
  return add_names(staged, names) and remove_names(context, setter, request, staged) == 0
end

-- For a handle that `prepare_routes` returned; see `target_of` in `routing.rs`.
function api.route(handle, user)
  return route_user(handle, user, #user)
end

return api
