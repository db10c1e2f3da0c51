-- Compares the module table with docs/api.md and library/nauthilus_backend.lua. Prints TAP.

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

local api = read("docs/api.md")
local library = read("library/nauthilus_backend.lua")

-- Every function has a row in a table of docs/api.md and a definition for editors.
local names = {}
for name in pairs(nb) do
  names[#names + 1] = name
end
table.sort(names)
for _, name in ipairs(names) do
  local row = type(nb[name]) == "function" and "\n| `" .. name .. "(" or "\n| `" .. name .. "`"
  check("docs/api.md documents " .. name, api:find(row, 1, true) ~= nil)
  local definition = type(nb[name]) == "function" and "\nfunction nauthilus_backend." .. name .. "("
    or "\n---@field " .. name .. " "
  check("the library documents " .. name, library:find(definition, 1, true) ~= nil)
end
check("a name that is not documented would be found", not api:find("\n| `no_such_function(", 1, true))

-- And the other way round.
for name in library:gmatch("\nfunction nauthilus_backend%.([%w_]+)%(") do
  check("the module has the library's " .. name, type(nb[name]) == "function")
end
for name in api:gmatch("\n| `([%w_]+)%(") do
  check("the module has docs/api.md's " .. name, type(nb[name]) == "function" or type(_G[name]) == "function")
end

-- The classes: every method of the library works, and every one is in docs/api.md.
local objects = {
  nauthilus_backend_result = nauthilus_backend_result.new(),
  Context = nb.new_context(),
  Check = nb.start_check("127.0.0.1", 1, false, false),
}
for class, object in pairs(objects) do
  for method in library:gmatch("\nfunction " .. class .. ":([%w_]+)%(") do
    check(class .. " has " .. method, pcall(function() return object[method] end))
    check("docs/api.md documents " .. class .. ":" .. method, api:find("[`%p]" .. method .. "[`(]") ~= nil)
  end
end

-- Every field of a server, and of the status, that a script can see is documented.
nb.configure({ log = "none", backend_servers = { { protocol = "imap", host = "127.0.0.1", port = 1 } } })
local function documented(what, fields)
  for field in pairs(fields) do
    check("docs/api.md documents " .. what .. "." .. field, api:find("`" .. field .. "`", 1, true) ~= nil)
    check("the library documents " .. what .. "." .. field, library:find("%-%-%-@field " .. field .. "%??%s") ~= nil)
  end
end
documented("server", nb.get_backend_servers()[1])
assert(nb.wait_ready(60))
local status = nb.status()
documented("status", status)
documented("target", status.targets[1])
nb.stop()
