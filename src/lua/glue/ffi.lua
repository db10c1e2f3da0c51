-- LuaJIT's FFI, unless it is missing or LuaJIT's compiler is off: then a call through the FFI costs twice
-- as much as one through the C API. NAUTHILUS_BACKEND_FFI=0 disables its use.

local type, pcall, require, rawget = type, pcall, require, rawget
-- `rawget`: a host may have a metatable on its globals that raises for undefined names.
local jit, os = rawget(_G, "jit"), rawget(_G, "os")

local ffi = {}

local function available()
  if type(jit) ~= "table" or not jit.status() then
    return false
  end
  return not (type(os) == "table" and os.getenv and os.getenv("NAUTHILUS_BACKEND_FFI") == "0")
end

if available() then
  local found, library = pcall(require, "ffi")
  local package = rawget(_G, "package")
  if not found and type(package) == "table" and type(package.loaded) == "table" then
    -- If LuaJIT runs out of memory while it loads the FFI, it later crashes when the state is closed,
    -- unless a second attempt completes the load.
    package.loaded.ffi = nil
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
