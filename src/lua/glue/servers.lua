-- get_backend_servers: one read-only object per server, which is replaced when a field of it changes.
-- Each call returns a new array, which the caller may change.

local native, parts = ...
local errors, host = parts.errors, parts.host
local error, next, setmetatable, tostring, type = error, next, setmetatable, tostring, type
local format = string.format
local current_list, read_servers, seal = native.current_list, native.servers, native.seal

-- The metamethod `__pairs`, which Lua 5.1 and LuaJIT without its 5.2 features ignore. It iterates with a
-- closure instead of returning `next, fields`: scripts must not get the table, which all callers share.
local function server_pairs(fields)
  return function()
    local key
    return function()
      local value
      key, value = next(fields, key)
      return key, value
    end
  end
end

local function refuse_write(_, name)
  error(format("a backend server is read-only: cannot set '%s'", tostring(name)), 2)
end

-- The fields of each server object, for functions that get one as an argument.
local fields_of = setmetatable({}, { __mode = "k" })

local function server(fields)
  local text = format("backend server %s://%s:%d", fields.protocol, fields.ip, fields.port)
  local object = seal({
    __index = fields,
    __newindex = refuse_write,
    __pairs = server_pairs(fields),
    __tostring = function()
      return text
    end,
    __name = "backend server",
    __metatable = false,
  })
  fields_of[object] = fields
  return object
end

-- The list that was read last, and the epoch and generation at which it was made. A list that must not be
-- kept has epoch -1, which no process ever has. Not 0: a process reads 0 right after it was forked, and
-- would take the list for a current one.
local NEVER = -1
local epoch, generation = NEVER, 0
local list, count = {}, 0
-- The number by which the native knows this list and the servers in it.
local list_number = 0

-- Reads the list again, for the API's function `name`.
local function refresh(name)
  -- Allocations may run finalisers that call this function and so replace `list` and `list_number`. The
  -- indices in `fields` refer to the list with the number that was passed, which is this one.
  local before = list
  local now, at, number, fields = read_servers(host.may_probe(), list_number)
  if not now then
    errors.raise(name, at, 1)
  end
  local fresh, length = {}, #fields
  for index = 1, length do
    local known = fields[index]
    fresh[index] = type(known) == "number" and before[known] or server(known)
  end
  epoch = now == 0 and NEVER or now
  generation, list, count, list_number = at, fresh, length, number
end

local servers = { api = {}, fields_of = fields_of, new = server }

-- A table that Lua fills grows in steps; the native allocates the copy with its final size.
function servers.api.get_backend_servers()
  local copy = current_list(epoch, generation, list, count)
  if copy then
    return copy
  end
  refresh("get_backend_servers")
  local from, length = list, count
  copy = {}
  for index = 1, length do
    copy[index] = from[index]
  end
  return copy
end

local jit, ffi = parts.ffi.jit, parts.ffi.library
if not jit then
  return servers
end

-- LuaJIT: the words with epoch and generation are read directly from memory, without a call, so that the
-- whole function is compiled. Row of `make bench`: "list 10 servers, LuaJIT". `volatile` prevents a compiled
-- loop from reading them only once. `anchor` keeps the memory mapped while the addresses are in use. Reading
-- both words allocates nothing, so no finaliser can replace the anchor in between.
local word = ffi.typeof("const volatile uint32_t *")
local none = ffi.new("uint32_t[1]", 1)
local low = ffi.abi("le") and 0 or 1
local epoch_word, generation_word = ffi.cast(word, none), ffi.cast(word, none)
-- Owns the memory that the two pointers refer to: a pointer of the FFI keeps nothing alive.
local anchor = none
-- The values of the words at which the list was made. In a struct of 16 bytes, whose address LuaJIT
-- embeds in a trace.
local known = ffi.new("struct { double epoch, generation; }", NEVER, 0)

local new_table = parts.ffi.new_table

local function refresh_words(name)
  refresh(name)
  local epoch_at, generation_at, keeper = native.words()
  if epoch_at and keeper then
    epoch_word = ffi.cast(word, epoch_at) + low
    generation_word = ffi.cast(word, generation_at) + low
    anchor = keeper
  end
  -- A finaliser or hook that replaced the list meanwhile has replaced `epoch` and `generation` with it,
  -- so these always belong to the present list.
  known.epoch, known.generation = epoch, generation
end

function servers.api.get_backend_servers()
  if epoch_word[0] ~= known.epoch or generation_word[0] ~= known.generation then
    refresh_words("get_backend_servers")
  end
  -- A finaliser that runs while the array is made may replace `list` and `count`.
  local from, length = list, count
  local copy = new_table(length, 0)
  for index = 1, length do
    copy[index] = from[index]
  end
  return copy
end

-- Never called. The closure makes `anchor` an upvalue that lives as long as this table.
function servers.anchor()
  return anchor
end

return servers
