-- Compares the module table with README.md and library/nauthilus_backend.lua, and compiles the
-- README's Lua. Prints TAP.

local nb = require("nauthilus_backend")

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("a")
  file:close()
  return text
end

local function check(name, condition)
  print((condition and "ok" or "not ok") .. " - " .. name)
end

local readme = read("README.md")
local library = read("library/nauthilus_backend.lua")

-- Every function has a row in a table of the README and a definition for editors.
local names = {}
for name in pairs(nb) do
  names[#names + 1] = name
end
table.sort(names)
for _, name in ipairs(names) do
  local row = type(nb[name]) == "function" and "\n| `" .. name .. "(" or "\n| `" .. name .. "`"
  check("README documents " .. name, readme:find(row, 1, true) ~= nil)
  local definition = type(nb[name]) == "function" and "\nfunction nauthilus_backend." .. name .. "("
    or "\n---@field " .. name .. " "
  check("the library documents " .. name, library:find(definition, 1, true) ~= nil)
end
check("a name that is not documented would be found", not readme:find("\n| `no_such_function(", 1, true))

-- And the other way round.
for name in library:gmatch("\nfunction nauthilus_backend%.([%w_]+)%(") do
  check("the module has the library's " .. name, type(nb[name]) == "function")
end
for name in readme:gmatch("\n| `([%w_]+)%(") do
  check("the module has the README's " .. name, type(nb[name]) == "function" or type(_G[name]) == "function")
end

-- The classes: every method of the library works, and every one is in the README.
local objects = {
  nauthilus_backend_result = nauthilus_backend_result.new(),
  Context = nb.new_context(),
  Check = nb.start_check("127.0.0.1", 1, false, false),
}
for class, object in pairs(objects) do
  for method in library:gmatch("\nfunction " .. class .. ":([%w_]+)%(") do
    check(class .. " has " .. method, pcall(function() return object[method] end))
    check("README documents " .. class .. ":" .. method, readme:find("[`%p]" .. method .. "[`(]") ~= nil)
  end
end

-- Every field of a server, and of the status, that a script can see is documented.
nb.configure({ log = "none", backend_servers = { { protocol = "imap", host = "127.0.0.1", port = 1 } } })
local function documented(what, fields)
  for field in pairs(fields) do
    check("README documents " .. what .. "." .. field, readme:find("`" .. field .. "`", 1, true) ~= nil)
    check("the library documents " .. what .. "." .. field, library:find("%-%-%-@field " .. field .. "%??%s") ~= nil)
  end
end
documented("server", nb.get_backend_servers()[1])
assert(nb.wait_ready(5))
local status = nb.status()
documented("status", status)
documented("target", status.targets[1])
nb.stop()

-- The README's Lua is Lua.
local blocks = 0
for block in readme:gmatch("\n```lua\n(.-)\n```") do
  blocks = blocks + 1
  check("README's Lua block " .. blocks .. " compiles", load(block) ~= nil)
end
check("README has Lua blocks", blocks > 0)
