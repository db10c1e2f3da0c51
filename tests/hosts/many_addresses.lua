-- Servers given by names with eight addresses each, none of which answers: the host, which may have 1,024
-- descriptors, can open its own files all the time, and the servers are found dead.

local tap = require("tap")
local nb = require("nauthilus_backend")

-- At all addresses of loopback.
local silent = host.listen(0, "0.0.0.0")
host.fill(silent)
host.limit_files(1024)

local NAMES, limit = 160, 1024 / 4
local servers = {}
for index = 1, NAMES do
  servers[index] = { protocol = "imap", host = "m" .. index .. ".test", port = silent }
end
local before = host.count("/proc/self/fd")
nb.configure({ log = "none", connect_interval = "1s", connect_timeout = "3s", backend_servers = servers })
nb.start()

local most, refused, dead = 0, 0, 0
tap.check("all are found dead", tap.eventually(function()
  local file = io.open("/proc/self/status")
  if file then
    file:close()
    most = math.max(most, host.count("/proc/self/fd") - before)
  else
    refused = refused + 1
  end
  dead = 0
  for _, target in ipairs(nb.status().targets) do
    if target.verdict == "dead" then
      dead = dead + 1
    end
  end
  return dead == NAMES
end, 60), dead .. " dead")
tap.check("the host can open its own files all the time", refused == 0, refused .. " times it could not")
-- Beside the connections: the engine's own descriptors, and two of each of 32 look-ups.
tap.check("a quarter of its descriptors are connections", most <= limit + 100, most .. " descriptors")
nb.stop()
