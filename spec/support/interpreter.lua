-- Another interpreter of the kind that runs the specs, with the module they test.

local interpreter = {
  abi = jit and "luajit" or "lua" .. _VERSION:match("%d%.%d"),
}

-- The file the module was loaded from, as the kernel sees it.
function interpreter.module_path()
  require("nauthilus_backend")
  local found = {}
  for line in io.lines("/proc/self/maps") do
    local path = line:match("(/%S*nauthilus_backend%.so.*)$")
    if path and not found[path] then
      found[path] = true
      found[#found + 1] = path
    end
  end
  assert(#found == 1, #found .. " copies of the module are loaded")
  return found[1]
end

-- Runs a script; returns all it printed and whether it ended well. `environment`: NAME=value.
function interpreter.run(script, options, environment)
  local cpath = interpreter.module_path():gsub("nauthilus_backend%.so$", "?.so")
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(script)
  file:close()
  local pipe = assert(io.popen(string.format(
    "LUA_INIT= LUA_CPATH='%s' %s %s %s '%s' 2>&1; echo \"rc=$?\"",
    cpath, environment or "", interpreter.abi, options or "", path)))
  local output = pipe:read("*a")
  pipe:close()
  os.remove(path)
  local printed, code = output:match("^(.*)rc=(%d+)\n$")
  return printed, code == "0"
end

-- Starts a script that runs until `stop` is called on what this returns, or until this process ends.
function interpreter.start(script)
  local cpath = interpreter.module_path():gsub("nauthilus_backend%.so$", "?.so")
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(script, "\nio.read()\nos.exit(0)\n")
  file:close()
  local pipe = assert(io.popen(("LUA_INIT= LUA_CPATH='%s' exec %s '%s'"):format(cpath, interpreter.abi, path), "w"))
  return {
    stop = function()
      pipe:close()
      os.remove(path)
    end,
  }
end

return interpreter
