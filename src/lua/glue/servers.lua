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

local new_table = parts.ffi.new_table or function()
  return {}
end

-- Reads the list, for the API's function `name`. `before` is the list that was read last, and `before_number` the
-- number by which the native knows it. Returns the new list, its number, the epoch for which it may be kept (0: it must
-- not be), the generation, and how many servers are in it.
local function read(name, before, before_number)
  local epoch, generation, number, fields = read_servers(host.may_probe(), before_number)
  if not epoch then
    errors.raise(name, generation, 1)
  end
  local count = #fields
  local list = new_table(count, 1)
  for index = 1, count do
    local known = fields[index]
    list[index] = type(known) == "number" and before[known] or server(known)
  end
  return list, number, epoch, generation, count
end

local servers = { api = {}, fields_of = fields_of, new = server }

-- The list that was read last, with its number at index 0. One store replaces it with all that belongs to it, since
-- another call may run in between any two: of a finaliser, or of a hook or coroutine that interrupts this one. The
-- native only takes it for current if it is the list that the native gave last.
local current = { [0] = 0 }

-- A table that Lua fills grows in steps; the native allocates the copy with its final size.
function servers.api.get_backend_servers()
  local known = current
  local copy = current_list(known)
  if copy then
    return copy
  end
  local list, number, _, _, count = read("get_backend_servers", known, known[0])
  list[0] = number
  current = list
  copy = {}
  for index = 1, count do
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
local low = ffi.abi("le") and 0 or 1
-- What tells whether a list is still current, in one object that compiled code reads without looking for fields. It is
-- at index 0 of the list, in place of the number.
local new_check = ffi.typeof([[struct {
  const volatile uint32_t *epoch_word, *generation_word;
  double epoch, generation, number;
  int32_t count;
}]])

-- A list that must not be kept has an epoch that no process ever has. Not 0: a process reads 0 right after it was
-- forked, and would take the list for a current one.
local NEVER = -1
local no_word = ffi.cast(word, none)
current = { [0] = new_check(no_word, no_word, NEVER, 0, 0, 0) }

-- Never called. The closure keeps the memory of `no_word`.
function servers.none()
  return none
end

local function refresh(name)
  local before = current
  local list, number, epoch, generation, count = read(name, before, before[0].number)
  local epoch_at, generation_at, anchor = native.words()
  if not epoch_at or not anchor or epoch == 0 then
    list[0] = new_check(no_word, no_word, NEVER, generation, number, count)
  else
    local epoch_word, generation_word = ffi.cast(word, epoch_at) + low, ffi.cast(word, generation_at) + low
    list[0] = new_check(epoch_word, generation_word, epoch, generation, number, count)
    -- A pointer of the FFI keeps nothing alive: this keeps the memory mapped while the pointers are in use, which they
    -- are only together with this list.
    list.anchor = anchor
  end
  current = list
  return list
end

function servers.api.get_backend_servers()
  local list = current
  local check = list[0]
  if check.epoch_word[0] ~= check.epoch or check.generation_word[0] ~= check.generation then
    list = refresh("get_backend_servers")
    check = list[0]
  end
  local count = check.count
  local copy = new_table(count, 0)
  for index = 1, count do
    copy[index] = list[index]
  end
  return copy
end

return servers
