-- /etc/haproxy/choose_server.lua: which server each connection and each HTTP request goes to.
-- haproxy.cfg loads it with `lua-load`, or with `lua-load-per-thread`, where each thread of HAProxy has its own
-- Lua state and does not wait for others. In both cases the process has one engine.
--
-- HAProxy's Lua searches /usr/local/lib/lua/5.3 for the module on Debian 12 (HAProxy 2.6), and
-- /usr/local/lib/lua/5.4 on Debian 13 (HAProxy 3.0). For another folder add a line such as:
-- package.cpath = "/opt/lua/?.so;" .. package.cpath

local nauthilus_backend = require("nauthilus_backend")

-- HAProxy runs this file as root, before it changes its root directory. So the module opens the files that the
-- configuration names, and the files that it needs to look names up, in the original root.
nauthilus_backend.configure("/etc/nauthilus_backend.yml")

-- Runs in each worker when it begins: probing starts with HAProxy and not with the first login.
core.register_task(nauthilus_backend.start)

-- Used as `tcp-request content lua.choose_server imap` or `http-request lua.choose_server http`: sets txn.server_ip
-- and txn.server_port, or leaves them unset if no server of that protocol is alive.
core.register_action("choose_server", { "tcp-req", "http-req" }, function(txn, protocol)
  local alive = {}
  for _, server in ipairs(nauthilus_backend.get_backend_servers()) do
    if server.protocol == protocol then
      alive[#alive + 1] = server
    end
  end
  if #alive > 0 then
    local server = alive[math.random(#alive)]
    txn:set_var("txn.server_ip", server.ip)
    txn:set_var("txn.server_port", server.port)
  end
end, 1)

-- A page with the verdict of each server.
core.register_service("server_status", "http", function(applet)
  local status = nauthilus_backend.status()
  local lines = { status.error }
  for _, target in ipairs(status.targets) do
    lines[#lines + 1] = target.key .. " " .. target.verdict .. " " .. (target.last_error or "")
  end
  local body = table.concat(lines, "\n") .. "\n"
  applet:set_status(200)
  applet:add_header("content-type", "text/plain")
  applet:add_header("content-length", #body)
  applet:start_response()
  applet:send(body)
end)
