-- The host has used up its descriptors: calls say so, nothing crashes, no server is judged dead
-- for it, and all is well once there are some again.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(128)
nb.configure(tap.config({ port }))
assert(nb.wait_ready(60))

tap.in_child("a process without descriptors", 20, function()
  host.limit_files(0)
  tap.check("can list servers", #nb.get_backend_servers() == 1)
  local reason = nb.check_backend_connection("127.0.0.1", port, false, false)
  tap.check("is told why a check cannot be made", type(reason) == "string" and reason:find("^internal: "), reason)
  host.limit_files(1024)
  return tap.eventually(function()
    return nb.check_backend_connection("127.0.0.1", port, false, false) == nil
  end)
end)

-- The prober itself runs out of them.
local before = nb.status().targets[1].probes
host.limit_files(0)
tap.eventually(function() return false end, 0.3)
local target = nb.status().targets[1]
tap.check("the prober without descriptors judges nobody", target.verdict == "alive", target.last_error)
host.limit_files(1024)
tap.check("and goes on when it has some", tap.eventually(function()
  return nb.status().targets[1].probes > before + 2
end))
tap.check("with the server alive all the time", #nb.get_backend_servers() == 1)

-- And runs out of them where a name has to be looked up.
host.limit_files(0)
nb.configure(tap.config({ port }, { backend_servers = { { protocol = "imap", host = "localhost", port = port } } }))
tap.check("a look-up without descriptors is ours to answer for", tap.eventually(function()
  return nb.status().targets[1].probes > 2
end) and nb.status().targets[1].verdict == "unknown", nb.status().targets[1].last_error)
host.limit_files(1024)
tap.check("a name is found when there are some again", tap.eventually(function()
  return nb.status().targets[1].verdict == "alive"
end), nb.status().targets[1].last_error)
