-- Many logins of one engine with a table of its own: logins.lua FOLDER CONFIGURATION RECORD LOGINS USERS SECONDS SEED
--
-- Waits for a line of standard input, then routes random users, no faster than so many logins in so many seconds.
-- Writes a line for each to RECORD: time, user, node or "-", how or the reason, since when in milliseconds.
-- Afterwards it answers each line of standard input with the nodes of all users.

package.cpath = arg[1] .. "/?.so;" .. package.cpath
local nb = require("nauthilus_backend")
local socket = require("socket")
local logins, users, seconds = tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6])
math.randomseed(tonumber(arg[7]))

local function tell(line)
  io.write(line, "\n")
  io.flush()
end

nb.configure(dofile(arg[2]))
assert(nb.wait_ready(60))
tell("ready")
io.read()

local record = assert(io.open(arg[3], "w"))
local started = socket.gettime()
for index = 1, logins do
  local user = math.random(users)
  local server, how, detail = nb.route("user" .. user)
  local since = detail and detail.since or 0
  local node = server and server.node or "-"
  record:write(("%.3f\t%d\t%s\t%s\t%.0f\n"):format(socket.gettime(), user, node, how, since * 1000))
  if index % 20 == 0 then
    tell(index)
  end
  local early = started + index * seconds / logins - socket.gettime()
  if early > 0 then
    socket.sleep(early)
  elseif how == "remembered" or how == "fallback" then
    -- Logins while the store is away cost nothing; without this they would be most of all.
    socket.sleep(seconds / logins)
  end
end
record:close()
tell("done")

for _ in io.lines() do
  local nodes = {}
  for user = 1, users do
    local server, how = nb.route("user" .. user)
    nodes[user] = (server and server.node or "-") .. ":" .. how
  end
  tell(table.concat(nodes, " "))
end
