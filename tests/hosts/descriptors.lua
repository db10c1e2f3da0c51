-- The host has used up its descriptors: calls say so, nothing crashes, no server is judged dead
-- for it, and all is well once there are some again.

local tap = require("tap")
local nb = require("nauthilus_backend")

-- The system's authority has signed the certificate of the server at this port.
local tls_port = tonumber(arg[1])
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

-- Authorities that cannot be read now are not taken for none: configure refuses, and later checks find them.
local verified = { protocol = "imap", host = "127.0.0.1", port = tls_port, tls = true, tls_timeout = "10s" }
host.limit_files(0)
local accepted, problem = pcall(nb.configure, tap.config({}, { backend_servers = { verified } }))
tap.check("configure is refused if it cannot read the system's CAs", not accepted
  and problem:find("backend_servers[1].tls: the system's CAs: ", 1, true) ~= nil, problem)
-- The engine thread needs some for the connection, and then some more for the files.
local distrusted
for limit = 0, 100 do
  host.limit_files(limit)
  problem = nb.check_backend_connection(verified)
  if problem and not problem:find("^internal: ") then
    distrusted = distrusted or problem
  end
end
tap.check("a check that cannot read them blames nobody", distrusted == nil, distrusted)
host.limit_files(1024)
tap.check("and they are found when there are some again", tap.eventually(function()
  problem = nb.check_backend_connection(verified)
  return problem == nil
end), problem)
nb.configure(tap.config({}, { backend_servers = { verified } }))
tap.check("for a target as well", tap.eventually(function()
  return nb.status().targets[1].verdict == "alive"
end), nb.status().targets[1].last_error)
