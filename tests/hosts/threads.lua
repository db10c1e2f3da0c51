-- Many threads, each with Lua states of its own, over one engine; and states that are opened
-- and closed on threads that end.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(1024)
nb.configure(tap.config({ port }))
assert(nb.wait_ready(60))

local chunk = [[
  local nb = require("nauthilus_backend")
  local port = tonumber(argument)
  for _ = 1, 20 do
    local server = nb.get_backend_servers()[1]
    assert(server.port == port and server.ip == "127.0.0.1")
    nb.select_backend_server(server.ip, server.port)
    local result = nauthilus_backend_result.new()
    result:attributes({ hostip = server.ip })
    nb.apply_backend_result(result)
    nb.report_failure(server.ip, server.port)
  end
  assert(nb.context():headers()["X-Nauthilus-Hostip"] == "127.0.0.1")
  assert(nb.check_backend_connection("127.0.0.1", port, false, false) == nil)
]]
host.threads(8, 5, chunk, tostring(port))
local before = tap.resources()
host.threads(8, 40, chunk, tostring(port))
tap.check("8 threads use 40 states each", true)
tap.no_growth("320 states on threads that ended", before, 2048)

local one_configuration = [[
  local nb = require("nauthilus_backend")
  for turn = 1, 10 do
    nb.configure({
      connect_interval = turn * 10 .. "ms", log = "none",
      backend_servers = { { protocol = "imap", host = "127.0.0.1", port = tonumber(argument) } },
    })
    -- Another thread may stop the engine meanwhile.
    local ready, why = nb.wait_ready(60)
    assert(ready or why == "stopped", why)
    if turn % 5 == 0 then nb.stop() end
  end
]]
host.threads(8, 2, one_configuration, tostring(port))
tap.check("8 threads configure, start and stop at the same time", nb.wait_ready(60))
