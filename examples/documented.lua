-- The documented calls, one after the other. Run it with the module preloaded and a
-- configuration named in the environment:
--
--   NAUTHILUS_BACKEND_CONFIG=examples/backends.yml lua -l nauthilus_backend examples/documented.lua

-- Make the module available, and load it.
dynamic_loader("nauthilus_backend")
local nauthilus_backend = require("nauthilus_backend")

-- The servers that are alive now.
local valid_servers = {}
for _, server in ipairs(nauthilus_backend.get_backend_servers()) do
  table.insert(valid_servers, server)
end

-- Select the server of this login: sets Auth-Server and Auth-Port.
local server = valid_servers[1]
nauthilus_backend.select_backend_server(server.ip, server.port)

-- Set a further response header: X-Nauthilus-Hostip.
local b = nauthilus_backend_result:new()
local attributes = {}
attributes["hostip"] = server.ip
b:attributes(attributes)
nauthilus_backend.apply_backend_result(b)

-- Attributes of the user's record that must not become headers.
nauthilus_backend.remove_from_backend_result({ "Proxy-Host" })

-- Make one probe now: nil, or the reason why it failed.
local reason = nauthilus_backend.check_backend_connection(server.ip, server.port, server.haproxy_v2, server.tls)

for name, value in nauthilus_backend.context():each_header() do
  print(name .. ": " .. value)
end
print("check: " .. tostring(reason))
