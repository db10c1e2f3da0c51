--- Scripted backends; peers.py says what they can do.
--
--     local world = peers.new()
--     local server = world:open { tls = "good", script = "send * OK ready\\r\\n" }
--     server.port; server:stats().accepted; server:await("proxied", 1); server:close()
--     world:stop()

local control = require("spec.support.control")

local World = {}
World.__index = World

local Peer = {}
Peer.__index = Peer

local peers = {}

function peers.new()
  return setmetatable({ control = control.start("peers.py"), count = 0 }, World)
end

local function add(world, command, options)
  world.count = world.count + 1
  local values = { name = "peer" .. world.count }
  for key, value in pairs(options or {}) do
    values[key] = value
  end
  local port = tonumber(world.control:call(command, values).port)
  return setmetatable({ world = world, name = values.name, port = port, options = options }, Peer)
end

--- A listener; without options it accepts, says nothing and keeps the connection.
function World:open(options)
  return add(self, "open", options)
end

--- A listener whose backlog is full: connecting to it gets no answer at all.
function World:hole()
  return add(self, "hole")
end

--- A port on which nothing listens.
function World:closed_port()
  return tonumber(self.control:call("closed").port)
end

--- The path of a certificate file: `ca.crt`, `good.pem` (certificates.sh has the list).
function World:certificate(name)
  return self.control:call("certificates").folder .. "/" .. name
end

--- A folder that is removed at the end.
function World:folder()
  return self.control:call("folder").folder
end

function World:stop()
  self.control:stop()
end

--- Plays another script to later connections.
function Peer:play(script)
  self.world.control:call("play", { name = self.name, script = script })
end

function Peer:close()
  self.world.control:call("close", { name = self.name })
end

--- Listens again on the same port.
function Peer:reopen()
  local options = { name = self.name, port = self.port }
  for key, value in pairs(self.options or {}) do
    options[key] = value
  end
  self.world.control:call("open", options)
end

function Peer:stats()
  local stats = self.world.control:call("stats", { name = self.name })
  for key, value in pairs(stats) do
    stats[key] = tonumber(value) or value
  end
  return stats
end

--- Waits until a counter (accepted, proxied, handshakes, resumed, played) has reached a number.
function Peer:await(count, at_least, timeout)
  self.world.control:call("await", {
    name = self.name, count = count, at_least = at_least, timeout = timeout or 30,
  })
end

return peers
