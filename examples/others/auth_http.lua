-- /etc/lighttpd/auth_http.lua: answers `auth_http` of nginx's mail proxy. lighttpd's mod_magnet runs this file for each
-- request, in one Lua state that it keeps, as the user of lighttpd.

local nauthilus_backend = require("nauthilus_backend")

-- The first request configures the module and starts the probes. wait_ready blocks lighttpd for at most half a second.
if not package.loaded["mail servers"] then
  nauthilus_backend.configure("/etc/nauthilus_backend.yml")
  package.loaded["mail servers"] = true
  nauthilus_backend.wait_ready(0.5)
end

local request, answer = lighty.r.req_header, lighty.r.resp_header
local server = nauthilus_backend.route(request["Auth-User"] or "", { protocol = request["Auth-Protocol"] })
if server then
  local context = nauthilus_backend.new_context()
  nauthilus_backend.with_context(context, nauthilus_backend.select_backend_server, server.ip, server.port)
  answer["Auth-Status"] = "OK"
  -- Sets Auth-Server and Auth-Port.
  for name, value in context:each_header() do
    answer[name] = value
  end
else
  answer["Auth-Status"] = "Temporary server problem, try again later"
end
return 204
