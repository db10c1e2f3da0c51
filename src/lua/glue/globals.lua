-- The globals and the loaded modules of the whole Lua state. A request handler that loads the module may run with
-- globals of its own, and the host may have removed libraries: only `string` and `table` are needed,
-- and in nginx, which always has it, `math`.

local native = ...
local rawget, type = rawget, type

local loaded = native.loaded() or {}
local of_state = rawget(loaded, "_G")

local globals = { loaded = loaded, table = type(of_state) == "table" and of_state or _G }

-- The global with this name. `rawget`: a host may have a metatable on its globals that raises for undefined names.
function globals.get(name)
  return rawget(globals.table, name)
end

-- The library with this name, or nil.
function globals.library(name)
  local found = globals.get(name)
  return type(found) == "table" and found or nil
end

return globals
