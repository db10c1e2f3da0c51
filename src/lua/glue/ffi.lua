-- LuaJIT's FFI, unless it is missing or LuaJIT's compiler is off: then a call through the FFI costs twice
-- as much as one through the C API. NAUTHILUS_BACKEND_FFI=0 disables its use.

local _, parts = ...
local pcall = pcall
local globals = parts.globals
local jit, os, require = globals.library("jit"), globals.library("os"), globals.get("require")

local ffi = {}

local function available()
  if not jit or not jit.status() then
    return false
  end
  return not (os and os.getenv and os.getenv("NAUTHILUS_BACKEND_FFI") == "0")
end

if available() then
  local found, library = pcall(require, "ffi")
  if not found then
    -- If LuaJIT runs out of memory while it loads the FFI, it later crashes when the state is closed,
    -- unless a second attempt completes the load.
    globals.loaded.ffi = nil
    found, library = pcall(require, "ffi")
  end
  if found then
    local sized, new_table = pcall(require, "table.new")
    ffi.jit = jit
    ffi.library = library
    ffi.new_table = sized and new_table or function()
      return {}
    end
  end
end

return ffi
