-- A thousand servers that answer nothing, in a process that may have 1,024 descriptors: a healthy
-- one among them keeps its turns.

local tap = require("tap")
local nb = require("nauthilus_backend")

local silent = host.listen(0)
host.fill(silent)
local port = host.listen(4096)
host.limit_files(1024)

local servers = {}
for index = 1, 1000 do
  local name = "silent" .. index .. ".test"
  servers[index] = { protocol = "imap", host = "127.0.0.1", port = silent, tls_server_name = name }
end
servers[500] = { protocol = "imap", host = "127.0.0.1", port = port }
nb.configure({ log = "none", connect_interval = "1s", connect_timeout = "5s", backend_servers = servers })
nb.start()

local function healthy()
  return nb.status().targets[500]
end

tap.check("the healthy one has its first verdict", tap.eventually(function()
  return healthy().verdict == "alive"
end, 30), healthy().verdict)
local before, started = healthy().probes, host.now()
-- How long the machine stood still meanwhile: then nothing is probed, whoever is to do it.
local standing, last = 0, started
tap.eventually(function()
  local now = host.now()
  standing = standing + (now - last > 0.1 and now - last or 0)
  last = now
  return false
end, 20)
local probes, seconds = healthy().probes - before, host.now() - started - standing
tap.check("it is probed once a second", probes >= 0.9 * seconds - 1, probes .. " probes in " .. seconds .. " s")

-- The silent servers are found dead all the same, and the healthy one alive.
local dead = 0
tap.check("the silent ones are found dead", tap.eventually(function()
  dead = 0
  for _, target in ipairs(nb.status().targets) do
    if target.verdict == "dead" then
      dead = dead + 1
    end
  end
  return dead == 999
end, 60), dead .. " dead")
nb.stop()
