-- A thousand configurations with changing targets in one process.

local tap = require("tap")
local nb = require("nauthilus_backend")

local silent = host.listen(0)
host.fill(silent)
local ports = {}
for index = 1, 5 do
  ports[index] = host.listen(128)
end

local function configure(turn)
  local chosen = { ports[turn % #ports + 1], ports[(turn * 7) % #ports + 1], silent }
  local config = tap.config(chosen, { connect_timeout = "1m" })
  -- Each configuration has a target that was never seen before.
  config.backend_servers[1].tls_server_name = "host" .. turn .. ".example.org"
  config.failure_threshold = turn % 3 + 1
  nb.configure(config)
  nb.get_backend_servers()
  -- Configurations that the engine thread has not taken yet would count as memory in use.
  if turn % 20 == 0 then
    assert(tap.eventually(function() return nb.status().targets[1].probes > 0 end), "it is not probed")
  end
end

for turn = 1, 300 do
  configure(turn)
end
local function threads_are(count)
  return tap.eventually(function()
    return host.count("/proc/self/task") == count
  end)
end
-- Threads: the script's, the engine's, and the one that notifies it.
tap.check("a prober has three threads", threads_are(3), host.count("/proc/self/task") .. " threads")
collectgarbage()
collectgarbage()
local before = tap.resources()
-- The silent target may be tried, for a minute, at the later measurement and not at this one.
before.descriptors = before.descriptors + 1
for turn = 301, 1300 do
  configure(turn)
end
collectgarbage()
collectgarbage()
tap.no_growth("1000 configurations", before, 2048)

nb.configure(tap.config({ ports[1] }))
tap.check("the last one is probed", nb.wait_ready(60) and nb.status().targets[1].verdict == "alive")

nb.stop()
tap.check("stop ends every thread", threads_are(1), host.count("/proc/self/task") .. " threads")
local function starts_and_stops(count)
  for _ = 1, count do
    nb.start()
    nb.stop()
  end
  -- The engine thread takes the configurations one after the other, and starts and ends other threads for
  -- them.
  tap.check(count .. " starts and stops: every thread ends", threads_are(1),
    host.count("/proc/self/task") .. " threads")
end
-- Measured only after a while: each thread has a heap of its own in the C library, which grows at first.
starts_and_stops(500)
before = tap.resources()
starts_and_stops(500)
-- A real leak would be of one runtime per configuration, 10 MB and more.
tap.no_growth("500 starts and stops", before, 2048)
