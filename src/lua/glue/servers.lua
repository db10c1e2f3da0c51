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

-- A list that must not be kept has this epoch, which no process ever has. Not 0: a process reads 0 right after it
-- was forked, and would take the list for a current one.
local NEVER = -1
-- The list that was read last: the epoch and generation at which it was made, its servers and how many they are, and
-- the number by which the native knows it. One store replaces all of it, since another call may run in between any
-- two: of a finaliser, or of a hook or coroutine that interrupts this one.
local current = { epoch = NEVER, generation = 0, list = {}, count = 0, number = 0 }

-- Reads the list again, for the API's function `name`. The caller makes it the current one.
local function read(name)
  -- The indices in `fields` refer to the list with the number that was passed, which is this one.
  local before = current
  local now, at, number, fields = read_servers(host.may_probe(), before.number)
  if not now then
    errors.raise(name, at, 1)
  end
  local known_servers, list, count = before.list, {}, #fields
  for index = 1, count do
    local known = fields[index]
    list[index] = type(known) == "number" and known_servers[known] or server(known)
  end
  return { epoch = now == 0 and NEVER or now, generation = at, list = list, count = count, number = number }
end

local servers = { api = {}, fields_of = fields_of, new = server }

-- A table that Lua fills grows in steps; the native allocates the copy with its final size.
function servers.api.get_backend_servers()
  local known = current
  local copy = current_list(known.epoch, known.generation, known.list, known.count)
  if copy then
    return copy
  end
  known = read("get_backend_servers")
  current = known
  local list = known.list
  copy = {}
  for index = 1, known.count do
    copy[index] = list[index]
  end
  return copy
end

local jit, ffi = parts.ffi.jit, parts.ffi.library
if not jit then
  return servers
end

-- LuaJIT: the words with epoch and generation are read directly from memory, without a call, so that the
-- whole function is compiled. Row of `make bench`: "list 10 servers, LuaJIT". `volatile` prevents a compiled
-- loop from reading them only once.
local word = ffi.typeof("const volatile uint32_t *")
local none = ffi.new("uint32_t[1]", 0)
local no_word = ffi.cast(word, none)
local low = ffi.abi("le") and 0 or 1
local new_table = parts.ffi.new_table

-- The current list with the pointers to the words that tell whether it is still current. A pointer of the FFI keeps
-- nothing alive: `anchor` keeps the memory mapped while the pointers are in use, which they are only together with
-- this table.
local function with_words(known, epoch_word, generation_word, anchor)
  return {
    epoch = known.epoch, generation = known.generation, list = known.list, count = known.count,
    number = known.number, epoch_word = epoch_word, generation_word = generation_word, anchor = anchor,
  }
end
current = with_words(current, no_word, no_word, none)

local function refresh(name)
  local known = read(name)
  local epoch_at, generation_at, anchor = native.words()
  if epoch_at and anchor then
    known = with_words(known, ffi.cast(word, epoch_at) + low, ffi.cast(word, generation_at) + low, anchor)
  else
    known = with_words(known, no_word, no_word, none)
    known.epoch = NEVER
  end
  current = known
  return known
end

function servers.api.get_backend_servers()
  local known = current
  if known.epoch_word[0] ~= known.epoch or known.generation_word[0] ~= known.generation then
    known = refresh("get_backend_servers")
  end
  local list, length = known.list, known.count
  local copy = new_table(length, 0)
  for index = 1, length do
    copy[index] = list[index]
  end
  return copy
end

return servers
