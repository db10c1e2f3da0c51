-- host.c and host.lua run this script: it selects the first server that is alive.

local nb = require("nauthilus_backend")

local server = nb.get_backend_servers()[1]
if not server then
  error("no server is alive")
end
nb.select_backend_server(server.ip, server.port)

local result = nauthilus_backend_result.new()
result:attributes({ hostip = server.ip, ["Proxy-Port"] = server.port })
nb.apply_backend_result(result)
return result
