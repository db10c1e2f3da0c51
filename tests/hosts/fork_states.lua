-- A process with many Lua states forks, and each state goes on in the child.

local tap = require("tap")
local nb = require("nauthilus_backend")

local STATES = 32

local port = host.listen(1024)
local other = host.listen(1024)
nb.configure(tap.config({ port }))
assert(nb.wait_ready(60))

host.keep(STATES)
-- Each Lua state has what a state can have of its own: a list that it has read, a request with some decisions
-- made, a result, a check in flight.
host.in_kept([[
  nb = require("nauthilus_backend")
  port = tonumber(argument)
  server = nb.get_backend_servers()[1]
  nb.select_backend_server(server.ip, server.port)
  result = nauthilus_backend_result.new()
  result:attributes({ number = number })
  nb.apply_backend_result(result)
  context = nb.new_context()
  check = nb.start_check("127.0.0.1", port, false, false, { coalesce = false })
]], tostring(port))

local goes_on = [[
  assert(server.ip == "127.0.0.1" and server.port == port)
  local headers = nb.context():headers()
  assert(headers["Auth-Port"] == tostring(port) and headers["X-Nauthilus-Number"] == tostring(number))
  local list = nb.get_backend_servers()
  assert(#list == 1 and list[1].port == tonumber(argument), "lists " .. #list)
  result:attributes({ number = number + 1 })
  nb.apply_backend_result(result)
  assert(nb.context():headers()["X-Nauthilus-Number"] == tostring(number + 1))
  nb.with_context(context, function() nb.select_backend_server("127.0.0.1", 993) end)
  assert(context:headers()["Auth-Port"] == "993")
  -- The check has ended before the fork, or the child is told that it cannot know; it never blocks.
  check:wait(5)
  assert(check:done())
  assert(nb.check_backend_connection("127.0.0.1", tonumber(argument), false, false) == nil)
  -- The same once more, later.
  result:attributes({ number = number })
  nb.apply_backend_result(result)
]]

local function in_child()
  host.alarm(30)
  host.in_kept(goes_on, tostring(port))
  assert(host.count("/proc/self/task") <= 8, "threads for each state")
  -- One state configures, and all states see it.
  nb.configure(tap.config({ other }))
  assert(nb.wait_ready(60))
  host.in_kept(goes_on, tostring(other))
  host.close_kept()
  return #nb.get_backend_servers() == 1
end

tap.in_child("each of " .. STATES .. " states goes on in a child", 40, in_child)
tap.in_child("and in the next one", 40, in_child)
tap.in_child("and in a grandchild", 60, function()
  host.in_kept(goes_on, tostring(port))
  local pid = host.fork()
  if pid == 0 then
    host.exit_now(pcall(in_child) and 0 or 1)
  end
  local how, code = host.wait(pid, 60)
  return how == "exit" and code == 0
end)
local ok, problem = pcall(host.in_kept, goes_on, tostring(port))
tap.check("and in the parent", ok, problem)
host.close_kept()
