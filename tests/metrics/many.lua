-- Writes the metrics of many targets to a file: many.lua FOLDER COUNT FILE

local folder, count, file = arg[1], tonumber(arg[2]), arg[3]
package.cpath = folder .. "/?.so"
local nb = require("nauthilus_backend")

local targets = {}
for index = 1, count do
  targets[index] = {
    protocol = index % 2 == 0 and "pop3" or "imap",
    -- No target is probed meanwhile: the first probe would come within an hour.
    host = ("127.%d.%d.1"):format(math.floor(index / 200), index % 200),
    node = ('"node" \\%d'):format(index),
    pool = "ä {} =",
  }
end
nb.configure({
  log = "none",
  connect_interval = "24h",
  fast_interval = "24h",
  initial_state = "dead",
  backend_servers = targets,
})

local out = assert(io.open(file, "w"))
local largest = 0
nb.metrics(function(piece)
  largest = math.max(largest, #piece)
  out:write(piece)
end)
out:close()
assert(largest <= 65536, "a piece of " .. largest .. " bytes")
