-- Finalisers that raise in the middle of a call: the next one gives the right list all the same.

local collector = require("spec.support.collector")
local tap = require("tap")
local nb = require("nauthilus_backend")

local SERVERS, ROUNDS, TRIES = 30, 300, 4

local newproxy = rawget(_G, "newproxy")
local armed = false

local function raise()
  if armed then
    armed = false
    error("raised by a finaliser", 0)
  end
end

-- Leaves something that raises once it is collected.
local function leave_bomb()
  if newproxy then
    getmetatable(newproxy(true)).__gc = raise
  else
    setmetatable({}, { __gc = raise })
  end
end

-- The same ports one way round and the other: a server of the wrong list has the wrong port.
local lists = { {}, {} }
for index = 1, SERVERS do
  lists[1][index], lists[2][index] = 2000 + index, 2001 + SERVERS - index
end

local function is(servers, ports)
  for index = 1, SERVERS do
    if not servers[index] or servers[index].port ~= ports[index] then
      return false
    end
  end
  return #servers == SERVERS
end

collectgarbage("stop")
local wrong, raised, strange = 0, 0, nil
for round = 1, ROUNDS do
  local ports = lists[round % 2 + 1]
  nb.configure(tap.config(ports, { connect_interval = "1h", fast_interval = "1h", failure_threshold = 100 }))
  for try = 1, TRIES do
    for _ = 1, 3 do
      leave_bomb()
    end
    -- The collector comes to them somewhere within the call, each time elsewhere.
    collector.set("stepmul", 100 + (round * 977 + try * 331) % 4000)
    armed = try < TRIES
    collectgarbage("restart")
    local ok, servers = pcall(nb.get_backend_servers)
    -- First: in Lua 5.2 any call of a C function may collect.
    armed = false
    collectgarbage("stop")
    pcall(collectgarbage)
    collectgarbage("stop")
    if ok then
      wrong = wrong + (is(servers, ports) and 0 or 1)
    else
      raised = raised + 1
      strange = strange or (not tostring(servers):find("raised by a finaliser", 1, true) and servers)
    end
  end
end
collectgarbage("restart")
nb.stop()

tap.check("no call answered with servers of another list", wrong == 0, wrong .. " of " .. ROUNDS * TRIES)
tap.check("what was raised is what the finaliser said", not strange, strange)
print("# raised in " .. raised .. " of " .. ROUNDS * TRIES .. " calls")
