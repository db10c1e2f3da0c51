-- The documented examples, unchanged, in a fresh interpreter that was given nothing but the
-- preloaded module and a configuration in the environment.

local built = require("spec.support.built")
local peers = require("spec.support.peers")

local INTERPRETER = built.abi

local BASE = [[
dynamic_loader("nauthilus_backend")
local nauthilus_backend = require("nauthilus_backend")
local valid_servers = {}
for _, server in ipairs(nauthilus_backend.get_backend_servers()) do
  table.insert(valid_servers, server)
end
local server = valid_servers[1]
]]

-- Each is a documented use; what follows it prints what came of it.
local EXAMPLES = {
  {
    "get_backend_servers",
    BASE,
    [[print(#valid_servers, server.ip, server.port)]],
    function(port) return "2\t127.0.0.1\t" .. port end,
  },
  {
    "select_backend_server",
    BASE .. [[
nauthilus_backend.select_backend_server(server.ip, server.port)
]],
    [[
local headers = nauthilus_backend.context():headers()
print(headers["Auth-Server"], headers["Auth-Port"])]],
    function(port) return "127.0.0.1\t" .. port end,
  },
  {
    "apply_backend_result",
    BASE .. [[
local b = nauthilus_backend_result:new()
local attributes = {}
attributes["hostip"] = server.ip
b:attributes(attributes)
nauthilus_backend.apply_backend_result(b)
]],
    [[print(nauthilus_backend.context():headers()["X-Nauthilus-Hostip"])]],
    function() return "127.0.0.1" end,
  },
  {
    "remove_from_backend_result",
    BASE .. [[
nauthilus_backend.remove_from_backend_result({ "Proxy-Host" })
]],
    [[print(nauthilus_backend.get_removed_backend_attributes()[1])]],
    function() return "Proxy-Host" end,
  },
  {
    "check_backend_connection",
    BASE .. [[
local error = nauthilus_backend.check_backend_connection(server.ip, server.port, true, true)
]],
    [[print(error)]],
    function() return "tls: " end,
  },
}

describe("the documented example of", function()
  local world, port, configuration

  lazy_setup(function()
    world = peers.new()
    port = world:open().port
    local other = world:open().port
    configuration = world:folder() .. "/nauthilus.yml"
    local file = assert(io.open(configuration, "w"))
    file:write("backend_server_monitoring:\n  tls_timeout: 500ms\n  log: none\n  backend_servers:\n")
    for _, number in ipairs({ port, other }) do
      file:write("    - { protocol: imap, host: 127.0.0.1, port: ", number, " }\n")
    end
    file:close()
  end)

  lazy_teardown(function()
    world:stop()
  end)

  -- What the interpreter prints when it runs a file with the module preloaded.
  local function run(path)
    local command = string.format(
      "NAUTHILUS_BACKEND_CONFIG='%s' LUA_INIT= LUA_CPATH='%s' %s -l nauthilus_backend '%s' 2>&1",
      configuration, (built.path:gsub("nauthilus_backend%.so$", "?.so")), INTERPRETER, path)
    local pipe = assert(io.popen(command))
    local output = pipe:read("*a")
    pipe:close()
    return output
  end

  for _, example in ipairs(EXAMPLES) do
    it(example[1], function()
      local path = world:folder() .. "/" .. example[1] .. ".lua"
      local file = assert(io.open(path, "w"))
      file:write(example[2], example[3], "\n")
      file:close()
      assert.matches(example[4](port), run(path), 1, true)
    end)
  end

  it("all of them, as examples/documented.lua has them", function()
    local output = run("examples/documented.lua")
    assert.matches("Auth-Server: 127.0.0.1\n", output, 1, true)
    assert.matches("Auth-Port: " .. port .. "\n", output, 1, true)
    assert.matches("X-Nauthilus-Hostip: 127.0.0.1\n", output, 1, true)
    assert.matches("check: nil\n", output, 1, true)
  end)

  it("a script in the older style, which assigns fields and requires the class", function()
    local path = world:folder() .. "/older.lua"
    local file = assert(io.open(path, "w"))
    file:write([[
      dynamic_loader("nauthilus_backend_result")
      local result_class = require("nauthilus_backend_result")
      dynamic_loader("nauthilus_backend")
      local nb = require("nauthilus_backend")
      dynamic_loader("something_else")
      assert(not pcall(require, "something_else"))
      local b = result_class.new()
      b.authenticated = true
      b.attributes = { ["Proxy-Host"] = nb.get_backend_servers()[1].ip }
      b:attributes({ ["Proxy-Host"] = "10.0.0.1", count = 3, yes = true, list = { "a", "b" } })
      nb.apply_backend_result(b)
      b:attributes({})
      for name, value in nb.context():each_header() do print(name .. ": " .. value) end
    ]])
    file:close()
    local output = run(path)
    assert.matches("X-Nauthilus-Proxy-Host: 10.0.0.1\n", output, 1, true)
    assert.matches("X-Nauthilus-Count: 3\n", output, 1, true)
    assert.matches("X-Nauthilus-Yes: true\n", output, 1, true)
    assert.matches("X-Nauthilus-List: a,b\n", output, 1, true)
  end)
end)
