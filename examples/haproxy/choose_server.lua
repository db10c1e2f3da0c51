-- /etc/haproxy/choose_server.lua: which server each connection and each HTTP request goes to.
-- haproxy.cfg loads it with `lua-load`, or with `lua-load-per-thread`: then each thread of HAProxy has a
-- Lua state of its own and none waits for another; the module has one engine for all of them.
--
-- The module is found where this HAProxy's Lua looks: in /usr/local/lib/lua/5.3 for the HAProxy 2.6 of
-- Debian 12, in /usr/local/lib/lua/5.4 for the 3.0 of Debian 13. Anywhere else, name the place:
-- package.cpath = "/opt/lua/?.so;" .. package.cpath

local nauthilus_backend = require("nauthilus_backend")

-- HAProxy runs this file as root, before it changes its root directory: every file that the configuration
-- names is opened here, and names are looked up with the files of this root.
nauthilus_backend.configure("/etc/nauthilus_backend.yml")

-- In each process that does the work, when it begins: probing starts with HAProxy, not with the first login.
core.register_task(nauthilus_backend.start)

-- `tcp-request content lua.choose_server imap` or `http-request lua.choose_server http`: sets txn.server_ip and
-- txn.server_port, or leaves them unset where no server of that protocol is alive.
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

-- The verdict on each server, as a page.
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
