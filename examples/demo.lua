-- The module in a plain Lua script: it configures the module, waits for verdicts, lists the servers that are
-- alive, routes a login, stops a server and starts it again. `make demo` starts the servers and runs
-- this; their ports, and the commands that stop and start one, come from the environment.

local nauthilus_backend = require("nauthilus_backend")
local route = dofile("examples/route.lua")

local function port(name)
  return tonumber(os.getenv(name)) or error("set " .. name .. "; `make demo` does")
end

local function heading(text)
  print("\n== " .. text)
end

-- 1. The servers to probe. In production this is a YAML file (see backends.yml) with intervals that are
-- ten times as long.
heading("Configure")
nauthilus_backend.configure({
  connect_interval = "500ms", -- between two probes of a server
  fast_interval = "200ms", -- while one is dead
  connect_timeout = "2s",
  log = "stderr", -- one line for each server that dies or comes back
  backend_servers = {
    -- Mail server one: IMAP in the clear, and IMAP under TLS whose certificate is verified.
    { protocol = "imap", host = "127.0.0.1", port = port("ONE_IMAP") },
    { protocol = "imap", host = "127.0.0.1", port = port("ONE_IMAPS"), tls = true,
      tls_ca_file = os.getenv("ONE_CA") },
    -- Mail server two: a listener that expects the PROXY protocol.
    { protocol = "imap", host = "127.0.0.1", port = port("TWO_IMAP_PROXY"), haproxy_v2 = true },
  },
})
print("a background thread probes three servers")

-- 2. Before its first probe every server counts as alive. `wait_ready` waits until each has a verdict.
heading("Wait for the first verdicts")
assert(nauthilus_backend.wait_ready(10))

local function list()
  local servers = nauthilus_backend.get_backend_servers()
  print(#servers .. " alive:")
  for _, server in ipairs(servers) do
    print(string.format("  %s %s:%d tls=%s haproxy_v2=%s",
      server.protocol, server.ip, server.port, tostring(server.tls), tostring(server.haproxy_v2)))
  end
  return #servers
end
list()

-- 3. Route a login. Each request has a context of its own; in OpenResty that is the current
-- request, here the host makes one and reads the headers from it.
local function login(username)
  local context = nauthilus_backend.new_context()
  local ok, reason = nauthilus_backend.with_context(context, route, { username = username, protocol = "imap" })
  print(username .. (ok and ":" or " cannot log in: " .. reason))
  for name, value in context:each_header() do
    print("  " .. name .. ": " .. value)
  end
end

heading("Route two logins")
login("alice@example.org")
login("bob@example.org")

heading("Check one connection by hand")
print("nothing listens on port 1: " .. nauthilus_backend.check_backend_connection("127.0.0.1", 1, false, false))

-- 4. Stop a server. A real script would go on with its work; this one polls until the list has changed.
local function wait_for(count)
  local started = os.time()
  while #nauthilus_backend.get_backend_servers() ~= count do
    assert(os.time() - started < 20, "the list did not change")
  end
end

heading("Stop mail server two")
assert(os.execute(os.getenv("TWO_STOP")))
wait_for(2)
list()
for _, target in ipairs(nauthilus_backend.status().targets) do
  print(string.format("  %s is %s%s", target.key, target.verdict,
    target.last_error and " (" .. target.last_error .. ")" or ""))
end
login("alice@example.org")
login("bob@example.org")

heading("Start it again")
assert(os.execute(os.getenv("TWO_START")))
wait_for(3)
list()

print("\nDone.")
