-- After a fork many threads call the module for the first time at the same moment: all get the
-- engine of their own process, of which there is one.

local tap = require("tap")
local nb = require("nauthilus_backend")

local forks = tonumber(os.getenv("FORKS")) or 60
local THREADS = 16

local port = host.listen(4096)
nb.configure(tap.config({ port }))
assert(nb.wait_ready(60))

local prepare = [[
  nb = require("nauthilus_backend")
]]
local chunk = [[
  local port = tonumber(argument)
  local check = nb.start_check("127.0.0.1", port, false, false, { coalesce = false })
  local listed = #nb.get_backend_servers()
  assert(listed == 1, "listed " .. listed)
  local done, reason = check:wait(30)
  assert(done, "a check that does not end: " .. tostring(reason))
  assert(check:result() == nil, check:result())
]]

local function engines()
  local count = 0
  local tasks = io.popen("cat /proc/" .. nb.status().pid .. "/task/*/comm")
  for line in tasks:lines() do
    count = count + (line == "nb-engine" and 1 or 0)
  end
  tasks:close()
  return count
end

local failed = {}
for turn = 1, forks do
  local pid = host.fork()
  if pid == 0 then
    local ok, reason = pcall(host.race, THREADS, prepare, chunk, tostring(port))
    if ok and turn % 10 == 0 and engines() ~= 1 then
      ok, reason = false, engines() .. " engines"
    end
    if not ok then
      io.write("# ", tostring(reason), "\n")
      io.flush()
    end
    host.exit_now(ok and 0 or 1)
  end
  local how, code = host.wait(pid, 60)
  if how ~= "exit" or code ~= 0 then
    failed[#failed + 1] = how .. " " .. code
  end
end
tap.check("each of " .. THREADS .. " threads has its process's engine, in each of " .. forks .. " children",
  #failed == 0, #failed .. ": " .. table.concat(failed, ", "))

-- A check begun before the fork is over in a child, and its descriptor says so there; the
-- parent's is not touched.
local silent = host.listen(0)
host.fill(silent)
local check = nb.start_check("127.0.0.1", silent, false, false, { connect_timeout = "1m" })
local late = nb.start_check("127.0.0.1", silent, false, false, { connect_timeout = "1m", coalesce = false })
local fd = check:fd()
tap.in_child("in a child a check of its parent is over, and readable", 10, function()
  local own, never = check:fd(), late:fd()
  return check:done() and late:done() and host.readable(own) and host.readable(never) and check:fd() == own
end)
tap.check("the parent's check goes on", not check:done() and not host.readable(fd) and not host.readable(late:fd()))
check:cancel()
tap.check("and its descriptor is the parent's", host.readable(fd))

-- A route is answered without the store there.
nb.configure(tap.config({ port }, { cluster = { redis = "redis://127.0.0.1:" .. silent, timeout = "10s" } }))
assert(nb.wait_ready(60))
local route = nb.start_route("alice")
tap.in_child("in a child a route of its parent has a server", 10, function()
  local server, how = route:result()
  return route:done() and server and server.port == port and how == "fallback"
end)
