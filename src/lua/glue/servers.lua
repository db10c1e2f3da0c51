-- get_backend_servers: one read-only object per server, which is made anew when something of it
-- changes; each caller gets an array of its own.

local native, parts = ...
local errors, host = parts.errors, parts.host
local error, next, setmetatable, tostring, type = error, next, setmetatable, tostring, type
local format = string.format
local current_list, read_servers, seal = native.current_list, native.servers, native.seal

-- Lua 5.1 and LuaJIT without 5.2's features ignore the field.
-- The fields' table stays here: all callers share it.
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

-- The fields of each object, for those who are given one.
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

-- What the last look found. The epoch of a list that must not be kept is one that none ever is,
-- not even in a process that was just forked.
local NEVER = -1
local epoch, generation = NEVER, 0
local list, count = {}, 0
-- The list's number with the native, which then knows what is in it.
local list_number = 0

-- Called by a function of the API, `name`.
local function refresh(name)
  -- Making tables may run finalisers, which may come here and change both.
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

-- A copy in Lua grows step by step; the native makes one of the right size at once.
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

-- LuaJIT: the two words that say whether the list still holds are read where they are, without
-- a call, so that a trace compiles all of it. `volatile` keeps a compiled loop from reading
-- them once. The anchor keeps the memory mapped for as long as the addresses are used: from one
-- look to the next nothing is made, so that no finaliser comes in between.
local word = ffi.typeof("const volatile uint32_t *")
local none = ffi.new("uint32_t[1]", 1)
local low = ffi.abi("le") and 0 or 1
local epoch_word, generation_word = ffi.cast(word, none), ffi.cast(word, none)
-- What the two point into: a pointer keeps nothing alive.
local anchor = none
-- What they say as long as the list holds. Of a struct of up to 16 bytes a trace knows the address.
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
  -- What finalisers and hooks change here meanwhile changes `epoch` and `generation` as well: what is
  -- taken for known is what the list was made at.
  known.epoch, known.generation = epoch, generation
end

function servers.api.get_backend_servers()
  if epoch_word[0] ~= known.epoch or generation_word[0] ~= known.generation then
    refresh_words("get_backend_servers")
  end
  -- A finaliser that comes while the array is made may put another list in the place of this one.
  local from, length = list, count
  local copy = new_table(length, 0)
  for index = 1, length do
    copy[index] = from[index]
  end
  return copy
end

-- For nobody to read: it lives as long as this closure.
function servers.anchor()
  return anchor
end

return servers
