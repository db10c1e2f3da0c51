-- LuaJIT's FFI, where it is there and pays: with the compiler off a call through it costs
-- twice what one of the C API does. NAUTHILUS_BACKEND_FFI=0 does without.

local type, pcall, require, rawget = type, pcall, require, rawget
-- Raw: a host may guard its globals against reads of what is not there.
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
    -- Where LuaJIT has no memory in the middle of this, it crashes when it closes the state, unless
    -- it comes to the end of this later.
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
