-- Where the system gives no memory for a thread, status() says so, and all is well once it does.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(4096)

tap.in_child("a thread that the system refuses is an error in status()", 20, function()
  nb.configure(tap.config({ port }))
  -- Less than the stack of the engine thread needs.
  host.limit_memory(600)
  local listed = #nb.get_backend_servers()
  local status = nb.status()
  local ready, why = nb.wait_ready()
  host.unlimit_memory()
  assert(listed == 1, "the initial state counts")
  assert(not ready and why:find("cannot start", 1, true), why)
  assert(not status.running and not status.probing)
  assert(status.error and status.error:find("cannot start", 1, true), status.error)
  assert(tap.eventually(function()
    return nb.status().running and nb.status().error == nil
  end), nb.status().error)
  return nb.wait_ready(30)
end)

-- Two copies of the library share no engine: one whose start failed leaves it to the other.
tap.in_child("a start that fails gives the engine of the process back", 20, function()
  local file = os.getenv("LUA_CPATH"):gsub(";.*", ""):gsub("%?", "nauthilus_backend")
  assert(not host.holds_engine(file))
  host.limit_memory(600)
  local started, reason = nb.start()
  host.unlimit_memory()
  assert(not started and reason:find("cannot start", 1, true), reason)
  assert(not host.holds_engine(file), "it keeps its claim")
  nb.start()
  return host.holds_engine(file)
end)

-- The table of verdicts needs several megabytes of address space, which is not there.
local function many(count)
  local ports = {}
  for index = 1, count do
    ports[index] = 20000 + index
  end
  return tap.config(ports)
end
tap.in_child("a configuration that the system gives no memory for leaves the old one in force", 60, function()
  nb.configure(tap.config({ port }))
  assert(nb.wait_ready(30))
  host.limit_memory(3000)
  local ok, problem = pcall(nb.configure, many(300))
  host.unlimit_memory()
  assert(not ok and problem:find("cannot share memory with forked processes: ", 1, true), problem)
  assert(#nb.status().targets == 1 and nb.get_backend_servers()[1].port == port)
  local before = nb.status().targets[1].probes
  assert(tap.eventually(function() return nb.status().targets[1].probes > before end), "it probes no more")
  nb.configure(many(300))
  return #nb.status().targets == 300
end)
tap.in_child("and so does the first one", 60, function()
  host.limit_memory(3000)
  local ok, problem = pcall(nb.configure, tap.config({ port }))
  local status = nb.status()
  host.unlimit_memory()
  assert(not ok and problem:find("cannot share memory with forked processes: ", 1, true), problem)
  assert(status.error and status.error:find("not configured", 1, true), status.error)
  nb.configure(tap.config({ port }))
  return nb.wait_ready(30)
end)
-- The host has closed the descriptor of the lock with all others: a new table is needed.
tap.in_child("a new table that the system refuses is an error in status() until there is one", 60, function()
  nb.configure(tap.config({ port }))
  nb.start()
  assert(nb.wait_ready(30))
  host.limit_memory(3000)
  host.close_all()
  local told = tap.eventually(function()
    nb.get_backend_servers()
    local problem = nb.status().error
    return problem and problem:find("cannot get memory for verdicts", 1, true) and problem
  end)
  host.unlimit_memory()
  assert(told, nb.status().error)
  assert(tap.eventually(function() return nb.status().error == nil end), nb.status().error)
  local before = nb.status().targets[1].probes
  return tap.eventually(function() return nb.status().targets[1].probes > before end)
end)
