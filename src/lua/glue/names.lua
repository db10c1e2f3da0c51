-- The names that give scripts access to the module: three globals, and two names for `require` (one of
-- them only after `dynamic_loader`). A name that the host already defines is left as it is. Returns the
-- function that defines them.

local _, parts = ...
local type, rawget, rawset = type, rawget, rawset
local globals, package = parts.globals.table, parts.globals.library("package")
local wrong_type = parts.errors.wrong_type

local offered = {
  nauthilus_backend = parts.init,
  nauthilus_backend_result = parts.result and parts.result.class,
}

local function preload(name)
  local preloaded = package and package.preload
  if type(preloaded) == "table" and rawget(preloaded, name) == nil then
    local value = offered[name]
    rawset(preloaded, name, function()
      return value
    end)
  end
end

-- Scripts that were written for Nauthilus call `dynamic_loader` before `require`.
local function dynamic_loader(name)
  if type(name) ~= "string" then
    wrong_type(1, "dynamic_loader", "string", name)
  end
  if offered[name] ~= nil then
    preload(name)
  end
end

-- `rawset`: a host may have a metatable on its globals.
local function define(name, value)
  if rawget(globals, name) == nil then
    rawset(globals, name, value)
  end
end

return function()
  preload("nauthilus_backend_result")
  define("dynamic_loader", dynamic_loader)
  define("nauthilus_backend", offered.nauthilus_backend)
  define("nauthilus_backend_result", offered.nauthilus_backend_result)
end
