-- The names scripts reach the module by: three globals and two names for `require`. What a host
-- already has under such a name is left alone. Returns the function that defines them.

local _, parts = ...
local type, rawget, rawset = type, rawget, rawset
local globals = _G
local package = rawget(globals, "package")
local wrong_type = parts.errors.wrong_type

local offered = {
  nauthilus_backend = parts.init,
  nauthilus_backend_result = parts.result and parts.result.class,
}

local function preload(name)
  local preloaded = type(package) == "table" and package.preload
  if type(preloaded) == "table" and rawget(preloaded, name) == nil then
    local value = offered[name]
    rawset(preloaded, name, function()
      return value
    end)
  end
end

-- Scripts written for Nauthilus call this before `require`.
local function dynamic_loader(name)
  if type(name) ~= "string" then
    wrong_type(1, "dynamic_loader", "string", name)
  end
  if offered[name] ~= nil then
    preload(name)
  end
end

-- `rawset`: a host may guard its globals with a metatable. The true table of globals is the one
-- `package.loaded` has; a request handler may run with one of its own.
local function define(name, value)
  local loaded = type(package) == "table" and package.loaded
  local target = type(loaded) == "table" and rawget(loaded, "_G") or globals
  if rawget(target, name) == nil then
    rawset(target, name, value)
  end
end

return function()
  preload("nauthilus_backend_result")
  define("dynamic_loader", dynamic_loader)
  define("nauthilus_backend", offered.nauthilus_backend)
  define("nauthilus_backend_result", offered.nauthilus_backend_result)
end
