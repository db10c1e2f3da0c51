-- A Lua state is closed while the module works: nothing crashes, nothing is left behind, and
-- the next state finds the one engine of the process.

local tap = require("tap")

local function mapped()
  for line in io.lines("/proc/self/maps") do
    if line:find("nauthilus_backend.so", 1, true) then
      return true
    end
  end
  return false
end

-- No thread of the module runs yet that could keep the library mapped: only its link flag does.
host.states(1, [[ require("nauthilus_backend") ]])
tap.check("the library stays mapped after lua_close", mapped())

local port = host.listen(128)
local silent = host.listen(0)
host.fill(silent)

-- Each state configures a little differently, so that the engine has something to do, and
-- leaves a check in flight.
local chunk = [[
  local port, silent = argument:match("(%d+) (%d+)")
  local nb = require("nauthilus_backend")
  nb.configure({
    connect_interval = "20ms", log = "none",
    backend_servers = {
      { protocol = "imap", host = "127.0.0.1", port = tonumber(port) },
      { protocol = "imap", host = "127.0.0.1", port = tonumber(silent), connect_timeout = "1m" },
    },
  })
  nb.get_backend_servers()
  nb.select_backend_server("127.0.0.1", 993)
  nb.start_check("127.0.0.1", tonumber(silent), false, false, { connect_timeout = "1m", coalesce = false })
]]
local argument = port .. " " .. silent
host.states(200, chunk, argument)
local before = tap.resources()
host.states(1000, chunk, argument)
tap.no_growth("1000 states", before, 1024)

-- The states are closed, the engine is not: a new state finds that it probes.
host.states(1, [[
  local nb = require("nauthilus_backend")
  assert(#nb.status().targets == 2, "the configuration is gone")
  nb.stop()
]])
tap.check("after stop no thread is left", tap.eventually(function()
  return host.count("/proc/self/task") == 1
end), host.count("/proc/self/task") .. " threads")

-- A module table that outlives package.loaded, and a second require in one state.
host.states(1, [[
  local first = require("nauthilus_backend")
  package.loaded["nauthilus_backend"] = nil
  collectgarbage()
  local second = require("nauthilus_backend")
  assert(first._VERSION == second._VERSION)
  assert(#first.get_backend_servers() == #second.get_backend_servers())
]])
tap.check("a second require in one state works", true)
